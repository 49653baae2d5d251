# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Limits by pool of nodes: where each is stored, what a task changes, and the nodes and pods it affects (no I/O here).

A limit is what each node of a pool advertises as the extended resource `kata.peerpods.io/vm`; the
scheduler does the rest. `Store` is where a limit is stored, and the functions `plan_*` decide it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._words import in_words

with contextlib.suppress(ImportError):  # The module reports the missing Kubernetes client.
    from kubernetes.utils.quantity import parse_quantity

CONFIGS_PATH = "/apis/confidentialcontainers.org/v1alpha1/peerpodconfigs"
PODS_PATH = "/api/v1/pods"

EXTENDED_RESOURCE = "kata.peerpods.io/vm"
RUNTIME_CLASS = "kata-remote"

# The limit of peer-pods-cm where none is written (cloud-api-adaptor's
# src/cloud-api-adaptor/cmd/cloud-api-adaptor/main.go, flag peerpods-limit-per-node), and that of a new pool.
DEFAULT_LIMIT = 10

# That of a PeerPodConfig where none is written, or an empty one (cloud-api-adaptor's
# src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, removed by 059f6420).
DEFAULT_CONFIG_LIMIT = 1

# The largest number a Kubernetes quantity counts with, an int64.
LARGEST_LIMIT = 2**63 - 1

# The kinds of object that store limits.
PEER_POD_CONFIG = "PeerPodConfig"
CONFIG_MAP = "ConfigMap"

# The operator's own pool: this PeerPodConfig up to 1.8, `default` from 1.9 on.
OPERATORS_CONFIG = "peerpodconfig-openshift"
DEFAULT_POOL = "default"

# The operator's settings from 1.9 on, and the key of its limit.
SETTINGS = "peer-pods-cm"
LIMIT_KEY = "PEERPODS_LIMIT_PER_NODE"

# The limits that the node capacity agent enforces on the second generation, one key by pool.
LIMITS = "peerpods-limits"
LIMITS_LABELS = {"app.kubernetes.io/part-of": "osc.peerpods"}

# The spec of a new PeerPodConfig where a task does not name a field: the defaults of its CRD, and the limit that the
# operator gives its own (sandboxed-containers-operator's controllers/openshift_controller.go, DEFAULT_PEER_PODS).
DEFAULT_SPEC = {
    "cloudSecretName": "peer-pods-secret",
    "configMapName": SETTINGS,
    "limit": str(DEFAULT_LIMIT),
}

# Pods that have a VM on a node or are about to: bound, and not ended.
RUNNING_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

# What the operator's controller takes where a PeerPodConfig has no nodeSelector.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# The node selector of osc-caa-ds, for a user who may not read it and while it does not exist
# (sandboxed-containers-operator's controllers/peerpods.go).
ADAPTOR_NODE_SELECTOR = {"node-role.kubernetes.io/kata-oc": ""}

# What Kubernetes takes for the name of an object, for a label's name and for its value.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

NEGATIVE_NUMBER = re.compile(r"-[0-9]*[1-9][0-9]*")


class LimitError(Exception):
    """A limit that must not be set, or cannot be stored, as a sentence."""


@dataclass(frozen=True)
class Store:
    """Where a limit is stored: an object, and the key of its data if it is a ConfigMap."""

    kind: str
    namespace: str
    name: str
    key: str | None = None

    @property
    def collection(self) -> str:
        if self.kind == CONFIG_MAP:
            return f"/api/v1/namespaces/{self.namespace}/configmaps"
        return collection_path(self.namespace)

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def is_settings(self) -> bool:
        """Whether it is the operator's own ConfigMap, whose readers have to be restarted."""
        return (self.kind, self.name) == (CONFIG_MAP, SETTINGS)

    def __str__(self) -> str:
        named = f"{self.kind} {self.namespace}/{self.name}"
        return f"{self.key} of {named}" if self.key else named


@dataclass(frozen=True)
class Pool:
    """Nodes with a limit of their own.

    `text` is the limit as it is written, None where it is not; `limit` is the number that counts,
    None where there is no valid one. `selector` is None where it is not valid: the pool has no nodes.
    A pool that `is_fallback` has only the nodes that no other pool selects.
    """

    name: str
    namespace: str
    selector: Mapping[str, str] | None
    text: str | None
    limit: int | None
    store: Store
    is_fallback: bool = False

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    def selects(self, node: dict) -> bool:
        if self.selector is None:
            return False
        return self.selector.items() <= node["metadata"].get("labels", {}).items()

    @property
    def problem(self) -> str | None:
        """Why the pool has no limit, as a sentence; None where it has one."""
        if self.limit is not None:
            return None
        if self.text is None:
            return (
                f"ConfigMap {self.store.namespace}/{self.store.name} does not exist, so there is "
                "no limit and cloud-api-adaptor cannot start. The role osc.peerpods.operator_install "
                "creates it."
            )
        written = f"{self.store} is {self.text!r}"
        if self.store.is_settings and NEGATIVE_NUMBER.fullmatch(self.text.strip()):
            return f"{written}: cloud-api-adaptor advertises nothing, so there is no limit."
        if self.store.is_settings:
            return (
                f"{written}, which is not a whole number: cloud-api-adaptor does not start with it, or advertises "
                "another number, as its release does. Correct that key."
            )
        if self.store.kind == CONFIG_MAP:
            return f"{written}, which is not a valid limit. Set the option limit to replace it."
        return (
            f"The limit of the {self.store} is {self.text!r}, which is not a whole number, so no "
            "node can advertise it. Set the option limit to replace it."
        )


def pool_of_config(config: dict) -> Pool:
    """The pool of a PeerPodConfig, with the defaults of the operator's controller."""
    name, namespace = config["metadata"]["name"], config["metadata"]["namespace"]
    spec = config.get("spec", {})
    text, selector = spec.get("limit"), spec.get("nodeSelector")
    return Pool(
        name,
        namespace,
        DEFAULT_NODE_SELECTOR if selector is None else selector,
        text,
        whole_number(text) if text else DEFAULT_CONFIG_LIMIT,
        Store(PEER_POD_CONFIG, namespace, name),
    )


def pool_of_entry(name: str, text: str, namespace: str, store: Store) -> Pool:
    """The pool of one entry of peerpods-limits; its limit or its selector is None where it is not valid."""
    try:
        value = json.loads(text)
    # A number with thousands of digits is a ValueError, too; deeply nested text is the other one.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    limit, selector = value.get("limit"), value.get("nodeSelector")
    # To Python, true is a number.
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= LARGEST_LIMIT:
        limit = None
    if not isinstance(selector, dict) or not all(isinstance(v, str) for v in selector.values()):
        selector = None
    return Pool(name, namespace, selector, text, limit, store)


def problems_of_entries(entries: Mapping[str, str], namespace: str) -> list[str]:
    """Why entries of peerpods-limits in `namespace` give no node a limit, a sentence each."""
    problems = []
    for name, text in sorted(entries.items()):
        store = Store(CONFIG_MAP, namespace, LIMITS, name)
        pool = pool_of_entry(name, text, namespace, store)
        if pool.limit is None:
            problems.append(f"{store} is {text!r}, which is not a valid limit.")
        elif pool.selector is None and name != DEFAULT_POOL:
            problems.append(f"{store} is {text!r}: it has no valid nodeSelector.")
    return problems


def pools_of_second(
    configs: Iterable[dict],
    entries: Mapping[str, str] | None,
    settings: Mapping[str, str] | None,
    *,
    namespace: str,
    agent_namespace: str,
    adaptor_selector: Mapping[str, str] | None,
) -> list[Pool]:
    """The pools of the second generation, `default` first.

    `configs` are the PeerPodConfigs left over in the operator's `namespace`, `entries` the data of
    peerpods-limits (None: no agent enforces it), `settings` that of peer-pods-cm (None: it does not
    exist). The agent's pools.py merges them by the same rules.
    """
    left_over = {pool.name: pool for pool in map(pool_of_config, configs)}
    operators = left_over.pop(OPERATORS_CONFIG, None)
    left_over.pop(DEFAULT_POOL, None)
    named = {} if entries is None else left_over
    default = None
    for name, text in (entries or {}).items():
        store = Store(CONFIG_MAP, agent_namespace, LIMITS, name)
        pool = pool_of_entry(name, text, namespace, store)
        if name == DEFAULT_POOL:
            default = pool
        else:
            named[name] = pool
    if default is None:
        default = _pool_of_settings(settings, operators, namespace)
    selector = ADAPTOR_NODE_SELECTOR if adaptor_selector is None else adaptor_selector
    fallback = Pool(DEFAULT_POOL, namespace, selector, default.text, default.limit, default.store, True)
    return [fallback, *named.values()]


def _pool_of_settings(settings: Mapping[str, str] | None, operators: Pool | None, namespace: str) -> Pool:
    store = Store(CONFIG_MAP, namespace, SETTINGS, LIMIT_KEY)
    # Not yet migrated: its limit will overwrite that of the settings, unless it has none
    # (sandboxed-containers-operator's controllers/migrate.go).
    if operators and operators.text:
        return operators
    text = (settings or {}).get(LIMIT_KEY)
    # An empty one is the default (cloud-api-adaptor's src/cloud-providers/util.go, IntWithEnv).
    if text:
        return Pool(DEFAULT_POOL, namespace, None, text, whole_number(text), store)
    limit = None if settings is None else DEFAULT_LIMIT
    return Pool(DEFAULT_POOL, namespace, None, None, limit, store)


@dataclass(frozen=True)
class Plan:
    """One write to a store.

    `before` and `after` are the fields that the write is about: of the spec of a PeerPodConfig, or
    of the data of a ConfigMap. `before` is None where the object must be created, `after` where it
    must be deleted; `resource_version` is the one it was read at.
    """

    store: Store
    resource_version: str | None
    before: dict | None
    after: dict | None

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def body(self) -> dict:
        """The object to create."""
        metadata: dict = {"name": self.store.name, "namespace": self.store.namespace}
        if self.store.kind == CONFIG_MAP:
            metadata["labels"] = LIMITS_LABELS
            return {
                "apiVersion": "v1",
                "kind": CONFIG_MAP,
                "metadata": metadata,
                "data": self.after,
            }
        return {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": PEER_POD_CONFIG,
            "metadata": metadata,
            "spec": self.after,
        }

    @property
    def patch(self) -> dict:
        """A merge patch of the fields that change, valid only for the object that was read."""
        before, after = self.before or {}, self.after or {}
        fields = {
            key: after.get(key)
            for key in [*after, *(key for key in before if key not in after)]
            if after.get(key) != before.get(key)
        }
        metadata: dict = {"resourceVersion": self.resource_version}
        if self.store.kind == CONFIG_MAP:
            return {"metadata": {**metadata, "labels": LIMITS_LABELS}, "data": fields}
        if "nodeSelector" in fields:
            # A merge patch merges maps: labels that go have to be named.
            gone = dict.fromkeys(before.get("nodeSelector") or {})
            fields["nodeSelector"] = {**gone, **fields["nodeSelector"]}
        return {"metadata": metadata, "spec": fields}

    @property
    def diff(self) -> dict:
        part = "data" if self.store.kind == CONFIG_MAP else "spec"
        return {
            "before": {} if self.before is None else {part: self.before},
            "after": {} if self.after is None else {part: self.after},
        }


@dataclass(frozen=True)
class Change:
    """What a task does to a pool: the pool `before` and `after` (None where it does not exist), and the writes."""

    before: Pool | None
    after: Pool | None
    plans: tuple[Plan, ...] = ()

    @property
    def changed(self) -> bool:
        return any(plan.changed for plan in self.plans)

    @property
    def moves(self) -> bool:
        """Whether a pool that stays gets other nodes."""
        return bool(self.before and self.after) and self.before.selector != self.after.selector

    @property
    def lowers(self) -> bool:
        """Whether nodes may end up with less than they have (a limit that is not valid counts)."""
        if not self.changed:
            return False
        if self.before is None or self.after is None or self.moves:
            return True
        before, after = self.before.limit, self.after.limit
        return before != after and (before is None or after is None or after < before)

    @property
    def store(self) -> Store | None:
        """Where the limit is stored afterwards, or was."""
        pool = self.after or self.before
        return pool and pool.store


def collection_path(namespace: str) -> str:
    group_version, dummy, plural = CONFIGS_PATH.rpartition("/")
    return f"{group_version}/namespaces/{namespace}/{plural}"


def whole_number(text: str | None) -> int | None:
    """`text` as a whole number that Kubernetes can count with, or None where it is not one."""
    text = (text or "").strip()
    digits = text.lstrip("0") or "0"
    # Python refuses to convert thousands of digits.
    if not (text.isascii() and text.isdigit() and len(digits) < 20):
        return None
    return int(digits) if int(digits) <= LARGEST_LIMIT else None


def parse_limit(text: str) -> int:
    limit = whole_number(text)
    if limit is None:
        raise LimitError(f"limit must be a whole number of peer pod VMs per node, 0 or more; got {text!r}.")
    return limit


def refuse_bad_fields(fields: dict) -> None:
    """Raise where Kubernetes could not use a task's options.

    The CRD accepts any text, also for the name of a Secret that cannot exist and for labels that
    no node can carry.
    """
    for option in ("namespace", "agent_namespace", "name", "cloud_secret_name", "config_map_name"):
        name = fields.get(option)
        if name is not None and not _NAME.fullmatch(name):
            raise LimitError(
                f"{option} must be a Kubernetes name (lower-case letters, digits, '-' and '.', with "
                f"a letter or digit at both ends); got {name!r}."
            )
    instance_type = fields.get("instance_type")
    if instance_type is not None and not instance_type.strip():
        raise LimitError("instance_type is empty. Set an instance type, or omit the option.")
    selector = fields.get("node_selector")
    if selector is not None:
        _refuse_bad_selector(selector)


def _refuse_bad_selector(selector: dict) -> None:
    if not selector:
        raise LimitError(
            "node_selector is empty, which selects every node, the control plane's too. Name a "
            "label of the nodes that run peer pods."
        )
    for label, value in selector.items():
        if not isinstance(value, str):
            raise LimitError(
                f"The value of the label {label} in node_selector is {value!r}, which is not a "
                'string: put it in quotes ("" for a label without a value).'
            )
        prefix, slash, name = label.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _NAME.fullmatch(prefix)):
            raise LimitError(f"node_selector has {label!r}, which is not a valid label name.")
        if value and not _LABEL_NAME.fullmatch(value):
            raise LimitError(f"node_selector has {value!r} for the label {label}, which is not a valid label value.")


def find_config(configs: Iterable[dict], namespace: str, name: str) -> dict | None:
    wanted = (namespace, name)
    return next(
        (config for config in configs if (config["metadata"]["namespace"], config["metadata"]["name"]) == wanted),
        None,
    )


def label_selector(labels: Mapping[str, str]) -> str:
    """`labels` as the API's `labelSelector` takes them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def others_than(pools: Iterable[Pool], pool: Pool) -> list[Pool]:
    return [other for other in pools if other.label != pool.label]


def deciding(node: dict, pools: Iterable[Pool]) -> list[Pool]:
    """The pools that decide what `node` advertises: those that select it, a fallback only by itself."""
    selecting = [pool for pool in pools if pool.selects(node)]
    return [pool for pool in selecting if not pool.is_fallback] or selecting


def refuse_overlap(pool: Pool, others: Collection[Pool], nodes: Iterable[dict]) -> None:
    """Raise where one of `others` selects a node of `pool` too, or always will.

    The limit of such a node would not be well defined. It always will where one selector has all
    labels of the other. Any two selectors of different labels could meet on a node that carries
    both; they are refused only once such a node exists (in `nodes`, those that `pool` selects), or
    pools by labels of their own would be impossible. A fallback has only what the others leave.
    """
    if pool.is_fallback:
        return
    mine = pool.selector.items()
    for other in others:
        if other.is_fallback or other.selector is None:
            continue
        both = f"The pools {pool.label} and {other.label}"
        theirs = other.selector.items()
        if mine <= theirs or theirs <= mine:
            raise LimitError(
                f"{both} overlap: every node that matches {_shown(max(mine, theirs, key=len))} "
                f"matches {_shown(min(mine, theirs, key=len))}, so its limit is not well defined. "
                "Give them node selectors that no node matches twice."
            )
        node = next((node for node in nodes if other.selects(node)), None)
        if node:
            raise LimitError(
                f"{both} both select the node {node['metadata']['name']}, so its limit is not well "
                "defined. Give them node selectors that no node matches twice."
            )


def _shown(selector: Iterable[tuple[str, str]]) -> str:
    return repr(label_selector(dict(selector))) if selector else "the empty selector"


def plan_config(config: dict | None, namespace: str, name: str, fields: dict[str, str]) -> Change:
    """First generation: a PeerPodConfig with `fields`, those of its spec that a task sets.

    It keeps everything else; a new one gets the defaults.
    """
    store = Store(PEER_POD_CONFIG, namespace, name)
    if config is None:
        if "nodeSelector" not in fields:
            raise LimitError(
                f"PeerPodConfig {name} does not exist in namespace {namespace}. The operator creates "
                "it when a KataConfig enables peer pods: run the role osc.peerpods.operator_install "
                "first. To create one for a pool of nodes, set the option node_selector."
            )
        spec = {**DEFAULT_SPEC, **fields}
        return Change(None, _pool_with(store, spec), (Plan(store, None, None, spec),))
    spec = config.get("spec", {})
    before = {key: spec.get(key) for key in ("limit", *(key for key in fields if key != "limit"))}
    plan = Plan(store, config["metadata"]["resourceVersion"], before, {**before, **fields})
    return Change(pool_of_config(config), _pool_with(store, {**spec, **fields}), (plan,))


def _pool_with(store: Store, spec: dict) -> Pool:
    return pool_of_config({"metadata": {"name": store.name, "namespace": store.namespace}, "spec": spec})


def plan_config_absent(config: dict | None) -> Change:
    # An object that is being deleted needs no second request.
    if config is None or "deletionTimestamp" in config["metadata"]:
        return Change(config and pool_of_config(config), None)
    pool = pool_of_config(config)
    version = config["metadata"]["resourceVersion"]
    return Change(pool, None, (Plan(pool.store, version, config.get("spec", {}), None),))


def adaptor_moves(
    daemon_set: dict, change: Change, *, follows: bool
) -> tuple[Mapping[str, str], Mapping[str, str] | None] | None:
    """First generation: the labels of the nodes that cloud-api-adaptor is on, and those that it is on after a change.

    None where it stays; the second is None where its DaemonSet goes with the PeerPodConfig that owns it. `follows`
    tells whether it goes to the nodes of the PeerPodConfig that is written.
    """
    if not change.changed:
        return None
    now = daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}
    if change.after is None:
        owners = daemon_set["metadata"].get("ownerReferences") or []
        owns = any((one["kind"], one["name"]) == (PEER_POD_CONFIG, change.before.name) for one in owners)
        return (now, None) if owns else None
    selector = change.after.selector or DEFAULT_NODE_SELECTOR
    return (now, selector) if follows and selector != now else None


def explain_adaptor_moves(store: Store, nodes: Iterable[str], peer_pods: Collection[str], *, goes: bool) -> str:
    """What a change of the PeerPodConfig in `store` does to `nodes`, which lose their cloud-api-adaptor."""
    why = (
        f"{store} owns the DaemonSet of cloud-api-adaptor, which is deleted with it"
        if goes
        else "This operator runs cloud-api-adaptor on the nodes of one PeerPodConfig only, that which was written last"
    )
    lost = f" These peer pods would be lost: {in_words(sorted(peer_pods), 20)}." if peer_pods else ""
    return f"{why}: without it no peer pod can start on {in_words(sorted(nodes))} any more.{lost}"


def plan_entry(
    pool: Pool | None,
    limits: dict | None,
    *,
    name: str,
    namespace: str,
    agent_namespace: str,
    limit: int | None,
    selector: Mapping[str, str] | None,
) -> Change:
    """Second generation with the agent: an entry of peerpods-limits, the ConfigMap `limits`.

    `pool` is the pool as it is, wherever its limit is stored; None where it does not exist.
    """
    if limit is None and selector is None and pool is not None:
        return Change(pool, pool)
    store = Store(CONFIG_MAP, agent_namespace, LIMITS, name)
    is_default = name == DEFAULT_POOL
    if not is_default:
        selector = selector or (pool and pool.selector)
        if selector is None:
            raise LimitError(
                f"Pool {name} does not exist. To create it, set the option node_selector to the labels of its nodes."
                if pool is None
                else f"{pool.store} has no valid nodeSelector. Set the option node_selector."
            )
    if limit is None:
        limit = pool.limit if pool else DEFAULT_LIMIT
    if limit is None:
        raise LimitError(pool.problem)
    # The user may delete a left-over PeerPodConfig, so its limit is stored in peerpods-limits even if it is the same.
    if (
        pool
        and pool.store.kind != PEER_POD_CONFIG
        and (pool.limit, is_default or pool.selector) == (limit, is_default or selector)
    ):
        return Change(pool, pool)
    entry: dict = {"limit": limit}
    if not is_default:
        entry["nodeSelector"] = dict(selector)
    text = json.dumps(entry, separators=(",", ":"), sort_keys=True)
    after = Pool(name, namespace, pool.selector if is_default else selector, text, limit, store, is_default)
    return Change(pool, after, (_entry_plan(store, limits, text),))


def plan_entry_absent(
    pool: Pool | None, limits: dict | None, config: dict | None, fallback: Pool, store: Store
) -> Change:
    """Second generation: no entry of a pool, and no left-over PeerPodConfig of its name.

    The operator's own pool stays, with the limit of `fallback`.
    """
    plans = [plan for plan in [_entry_plan(store, limits, None)] if plan.changed]
    if store.key == DEFAULT_POOL:
        return Change(pool, fallback, tuple(plans))
    return Change(pool, None, (*plans, *plan_config_absent(config).plans))


def _entry_plan(store: Store, limits: dict | None, text: str | None) -> Plan:
    after = {} if text is None else {store.key: text}
    if limits is None:
        return Plan(store, None, None, after or None)
    written = (limits.get("data") or {}).get(store.key)
    before = {} if written is None else {store.key: written}
    return Plan(store, limits["metadata"]["resourceVersion"], before, after)


def plan_settings(pool: Pool, limit: int | None) -> Change:
    """Second generation without the agent: the limit of the operator's settings."""
    if limit is None:
        return Change(pool, pool)
    store = Store(CONFIG_MAP, pool.namespace, SETTINGS, LIMIT_KEY)
    written = pool.text if pool.store.is_settings else None
    before = {} if written is None else {LIMIT_KEY: written}
    after = Pool(pool.name, pool.namespace, pool.selector, str(limit), limit, store, pool.is_fallback)
    if pool.limit == limit:
        # 10 does not have to be written, nor "010" be rewritten.
        return Change(pool, pool)
    if pool.store.kind == PEER_POD_CONFIG:
        raise LimitError(
            f"{pool.store} is left over from an operator older than 1.9. The installed operator overwrites "
            f"{LIMIT_KEY} in {SETTINGS} with its limit when it next reconciles the KataConfig, so a limit that is "
            "set now would be lost. Nothing was changed. Check that a KataConfig exists and that the pod of the "
            "operator's Deployment controller-manager runs, then run the task again."
        )
    return Change(pool, after, (Plan(store, None, before, {LIMIT_KEY: str(limit)}),))


def refuse_without_agent(name: str, selector: Mapping[str, str] | None) -> None:
    """Raise where a task is for a pool of its own on the second generation, and no agent runs."""
    if name == DEFAULT_POOL and selector is None:
        return
    what = f"pool {name}" if name != DEFAULT_POOL else "node_selector"
    raise LimitError(
        f"Cannot set a limit for {what}: this operator has one limit for all nodes, and the node "
        "capacity agent that enforces limits by pool is not deployed. Deploy it with the role "
        "osc.peerpods.node_capacity and node_capacity_manager=collection."
    )


def refuse_second_generation_fields(fields: Mapping[str, object], name: str) -> None:
    """Raise where a task sets what the second generation stores elsewhere."""
    elsewhere = {
        "cloud_secret_name": (
            "the operator reads the Secret peer-pods-secret. The role osc.peerpods.operator_install writes it"
        ),
        "config_map_name": (
            "the operator reads the ConfigMap peer-pods-cm. The role osc.peerpods.operator_install writes it"
        ),
        "instance_type": (
            "it is a key of the ConfigMap peer-pods-cm for all pools. Set the options "
            "operator_install_podvm_instance_type (AWS) or operator_install_azure_instance_size "
            "(Azure) of the role osc.peerpods.operator_install"
        ),
    }
    for option, instead in elsewhere.items():
        if fields.get(option) is not None:
            raise LimitError(f"{option} does not apply to this version of the operator: {instead}.")
    if fields.get("node_selector") is not None and name == DEFAULT_POOL:
        raise LimitError(
            "node_selector does not apply to the operator's own pool: the operator selects its "
            "nodes. Set the option name to create another pool."
        )


@dataclass(frozen=True)
class CloudShare:
    """What the cloud's smallest bound leaves the nodes.

    `bound` is its name, `total` how many peer pods it allows, `limits` the sum of the limits of the
    `nodes`, and `slots` the most that any node advertises; None where all limits fit.
    """

    bound: str
    total: int
    nodes: int
    limits: int
    slots: int | None

    def of(self, limit: int) -> int:
        """What a node with that limit advertises."""
        return limit if self.slots is None else min(limit, self.slots)


def cloud_share(limits: Collection[int], bounds: Mapping[str, int]) -> CloudShare | None:
    """How the smallest of `bounds` is shared among nodes with these limits; None without bounds.

    Evenly, but what a node with a low limit leaves goes to the others: `slots` is the largest
    number for which sum(min(limit, slots)) stays within the bound. The node capacity agent follows
    the same rule.
    """
    if not bounds:
        return None
    total, bound = min((total, bound) for bound, total in bounds.items())
    slots, left = None, total
    for place, limit in enumerate(sorted(limits)):
        share = left // (len(limits) - place)
        if limit > share:
            slots = share
            break
        left -= limit
    return CloudShare(bound, total, len(limits), sum(limits), slots)


def slots_of(limit: int, share: CloudShare | None) -> int:
    """What a node with that limit advertises, with the cloud's share if there is one."""
    return share.of(limit) if share else limit


def limit_at(node: dict, pool: Pool) -> int:
    """What `pool` allows on a node that it selects; what the node has, where its limit is not valid."""
    return (advertised(node) or 0) if pool.limit is None else pool.limit


def allowed(node: dict, pools: Iterable[Pool]) -> int:
    """What `pools` together allow on a node, the smallest where several decide; 0 without any."""
    return min((limit_at(node, pool) for pool in deciding(node, pools)), default=0)


def advertised(node: dict) -> int | None:
    """How many peer pod VMs the node's status allows, or None where it does not advertise any number."""
    quantity = node.get("status", {}).get("allocatable", {}).get(EXTENDED_RESOURCE)
    return None if quantity is None else int(parse_quantity(quantity))


def in_force(nodes: list[dict], limit: int) -> bool:
    """Whether there are nodes and each of them allows exactly `limit` peer pods."""
    return bool(nodes) and not lagging(nodes, limit)


def lagging(nodes: Iterable[dict], limit: int) -> dict[str, int | None]:
    """The nodes that do not allow exactly `limit` peer pods, and what they advertise.

    A node that advertises nothing allows 0.
    """
    return {node["metadata"]["name"]: advertised(node) for node in nodes if (advertised(node) or 0) != limit}


def is_down(node: dict) -> bool:
    """Whether a node's kubelet does not answer, or says that the node cannot run pods."""
    conditions = node.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] != "True" for one in conditions)


def released(nodes: Iterable[dict], pools: Collection[Pool]) -> list[dict]:
    """Those of `nodes` that none of `pools` selects."""
    return [node for node in nodes if not any(pool.selects(node) for pool in pools)]


def still_advertising(nodes: Iterable[dict], pools: Collection[Pool]) -> dict[str, int]:
    """The nodes that none of `pools` selects and that still allow peer pods."""
    return {node["metadata"]["name"]: advertised(node) for node in released(nodes, pools) if advertised(node)}


def explain_still_advertising(advertising: dict[str, int], seconds: float) -> str:
    shown = ", ".join(f"{name} shows {count}" for name, count in advertising.items())
    return (
        f"After {seconds:g} s nodes that no pool selects any more still advertise peer pods: "
        f"{shown}. Check that the node capacity agent (or the operator's controller) runs."
    )


def explain_lagging(
    nodes: list[dict],
    limit: int,
    selector: str,
    seconds: float,
    share: CloudShare | None = None,
    not_ready: Collection[str] = (),
) -> str:
    """Why a limit is not in force; `not_ready` are the nodes without a Ready cloud-api-adaptor pod."""
    slots = slots_of(limit, share)
    bounded = f", of which the cloud's {share.bound} leaves {slots}," if slots != limit else ""
    waited = f"After {seconds:g} s the limit of {limit}{bounded} is not in force"
    if not nodes:
        return (
            f"{waited}: no node has the labels {selector!r} that the pool selects. The operator "
            "labels the nodes while it rolls out a KataConfig: see its status."
        )
    behind = lagging(nodes, slots)
    shown = ", ".join(f"{name} shows {'nothing' if count is None else count}" for name, count in behind.items())
    waited = f"{waited} on every selected node: {shown}."
    if all(is_down(node) for node in nodes):
        waited += " None of these nodes is Ready."
    without = sorted(name for name in behind if name in not_ready)
    if without:
        return (
            f"{waited} The cloud-api-adaptor pod is not Ready on {', '.join(without)}: such a node "
            "offers no free slot until it is. Check the pods of cloud-api-adaptor."
        )
    return (
        f"{waited} Check that the program that advertises the extended resource runs: the node "
        "capacity agent, the operator's controller or cloud-api-adaptor."
    )


def nodes_without_adaptor(nodes: Iterable[str], pods: Iterable[dict]) -> list[str]:
    """Those of `nodes` on which no pod of cloud-api-adaptor is Ready."""
    ready = {
        pod["spec"].get("nodeName")
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            (condition["type"], condition["status"]) == ("Ready", "True")
            for condition in pod.get("status", {}).get("conditions") or []
        )
    }
    return [name for name in nodes if name not in ready]


def is_accounted_for(pod: dict) -> bool:
    """Whether the scheduler counts a pod against its node's limit."""
    return any(
        EXTENDED_RESOURCE in container.get("resources", {}).get("requests", {})
        for container in pod["spec"]["containers"]
    )


def is_peer_pod(pod: dict, runtime_classes: Collection[str] = (RUNTIME_CLASS,)) -> bool:
    """Whether a pod has a VM: a pod in a system namespace has one without being accounted for."""
    return pod["spec"].get("runtimeClassName") in runtime_classes or is_accounted_for(pod)


def peer_pods_by_node(
    running_pods: Iterable[dict], runtime_classes: Collection[str] = (RUNTIME_CLASS,)
) -> Counter[str]:
    """How many peer pods have a VM on each node, accounted for by the scheduler or not."""
    return Counter(pod["spec"]["nodeName"] for pod in running_pods if is_peer_pod(pod, runtime_classes))


def explain_overfull(limit: int, used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence where `limit` is below what runs on a node already, else None."""
    overfull = _more_than(limit, used, nodes)
    return overfull and f"The limit of {limit} is below the peer pods that run now: {overfull}."


def explain_left_over(used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence where peer pods run on `nodes`, which no pool will select, else None."""
    left_over = _more_than(0, used, nodes)
    return left_over and (f"Peer pods run on nodes that no pool would select any more: {left_over}.")


def _more_than(limit: int, used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    names = (node["metadata"]["name"] for node in nodes)
    return ", ".join(f"{used[name]} on {name}" for name in names if used[name] > limit) or None


def node_rows(nodes: Iterable[dict], used: dict[str, int] | None) -> list[dict]:
    """What the module returns of each node; `used` is None where the pods were not counted."""
    return [
        {
            "name": node["metadata"]["name"],
            "allocatable": advertised(node),
            "used": None if used is None else used[node["metadata"]["name"]],
        }
        for node in nodes
    ]
