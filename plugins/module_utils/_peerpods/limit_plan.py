# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a task changes of the limits, and where it stores them (no I/O here).

The functions `plan_*` decide which store a limit is written to, and what must be written there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import label_selector
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    DEFAULT_POOL,
    LIMIT_KEY,
    LIMITS,
    PART_OF,
    PEER_POD_CONFIG,
    PEER_PODS_CM,
    PEER_PODS_SECRET,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    CONFIG_MAP,
    DEFAULT_LIMIT,
    DEFAULT_NODE_SELECTOR,
    Pool,
    Store,
    pool_of_config,
    whole_number,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

LIMITS_LABELS = dict([PART_OF])

# The fields of a new PeerPodConfig that a task does not set: the defaults of its CRD, and the operator's default limit
# (DEFAULT_PEER_PODS in controllers/openshift_controller.go of sandboxed-containers-operator).
DEFAULT_SPEC = {
    "cloudSecretName": PEER_PODS_SECRET,
    "configMapName": PEER_PODS_CM,
    "limit": str(DEFAULT_LIMIT),
}

# The valid names of objects, names of labels, and values of labels in Kubernetes.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class LimitError(Exception):
    """The reason why a limit must not be set, or cannot be stored, as a sentence."""


@dataclass(frozen=True)
class Plan:
    """One write to a store.

    `before` and `after` are the fields to change: in the spec of a PeerPodConfig, or in the data of a ConfigMap.
    `before` is None if the object must be created, `after` if it must be deleted; `resource_version` and `uid` are
    those of the object that was read.
    """

    store: Store
    resource_version: str | None
    before: dict | None
    after: dict | None
    uid: str | None = None

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
        """A merge patch of the fields that change, valid only for the object that was read.

        A ConfigMap without the label of this collection was created by another owner, and stays so.
        """
        before, after = self.before or {}, self.after or {}
        fields: dict = {
            key: after.get(key)
            for key in [*after, *(key for key in before if key not in after)]
            if after.get(key) != before.get(key)
        }
        metadata: dict = {"resourceVersion": self.resource_version}
        if self.store.kind == CONFIG_MAP:
            return {"metadata": metadata, "data": fields}
        if "nodeSelector" in fields:
            # A merge patch merges maps: labels to remove must be set to null.
            removed_labels = dict.fromkeys(before.get("nodeSelector") or {})
            fields["nodeSelector"] = {**removed_labels, **fields["nodeSelector"]}
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
    """The change of a pool: the pool `before` and `after` (None if it does not exist), and the writes."""

    before: Pool | None
    after: Pool | None
    plans: tuple[Plan, ...] = ()

    @property
    def changed(self) -> bool:
        return any(plan.changed for plan in self.plans)

    @property
    def moves(self) -> bool:
        """Whether the nodes of a remaining pool change."""
        return self.before is not None and self.after is not None and self.before.selector != self.after.selector

    @property
    def lowers(self) -> bool:
        """Whether the limit of nodes may become lower; True if a limit is invalid."""
        if not self.changed:
            return False
        if self.before is None or self.after is None or self.moves:
            return True
        before, after = self.before.limit, self.after.limit
        return before != after and (before is None or after is None or after < before)

    @property
    def store(self) -> Store | None:
        """The store of the limit after the change, or before it if the pool is removed."""
        pool = self.after or self.before
        return pool.store if pool else None


def parse_limit(text: str) -> int:
    limit = whole_number(text)
    if limit is None:
        raise LimitError(f"limit must be a whole number of peer pod VMs per node, 0 or more; got {text!r}.")
    return limit


def refuse_bad_fields(fields: dict) -> None:
    """Raise an error if Kubernetes cannot use a task's options.

    The CRD accepts any text, also an invalid name of a Secret and invalid labels.
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


def refuse_overlap(pool: Pool, other_pools: Collection[Pool], nodes: Iterable[dict]) -> None:
    """Raise an error if one of `other_pools` selects a node of `pool` too, or always will.

    The limit of such a node would be ambiguous. Pools always overlap if one selector has all labels of the other. Two
    selectors with different labels overlap only if a node has the labels of both (`nodes` are those that `pool`
    selects). A fallback pool has only the nodes that no other pool selects.
    """
    if pool.is_fallback or pool.selector is None:
        return
    labels = pool.selector.items()
    for other_pool in other_pools:
        if other_pool.is_fallback or other_pool.selector is None:
            continue
        pools = f"The pools {pool.label} and {other_pool.label}"
        other_labels = other_pool.selector.items()
        if labels <= other_labels or other_labels <= labels:
            raise LimitError(
                f"{pools} overlap: every node that matches {_shown(max(other_labels, labels))} "
                f"matches {_shown(min(labels, other_labels))}, so its limit would be ambiguous. "
                "Give them node selectors that no node matches twice."
            )
        node = next((node for node in nodes if other_pool.selects(node)), None)
        if node:
            raise LimitError(
                f"{pools} both select the node {node['metadata']['name']}, so its limit would "
                "be ambiguous. Give them node selectors that no node matches twice."
            )


def _shown(selector: Iterable[tuple[str, str]]) -> str:
    return repr(label_selector(dict(selector))) if selector else "the empty selector"


def plan_config(config: dict | None, namespace: str, name: str, fields: dict[str, str]) -> Change:
    """First generation: a PeerPodConfig with `fields`, the fields of its spec that a task sets.

    Other fields of an existing PeerPodConfig stay; a new PeerPodConfig gets the defaults.
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
    if config is None:
        return Change(None, None)
    if "deletionTimestamp" in config["metadata"]:
        return Change(pool_of_config(config), None)
    pool = pool_of_config(config)
    metadata = config["metadata"]
    plan = Plan(pool.store, metadata["resourceVersion"], config.get("spec", {}), None, metadata.get("uid"))
    return Change(pool, None, (plan,))


def adaptor_moves(
    daemon_set: dict, change: Change, *, follows: bool
) -> tuple[Mapping[str, str], Mapping[str, str] | None] | None:
    """First generation: the labels of the nodes that run cloud-api-adaptor, before and after a change.

    None if cloud-api-adaptor is not moved. The second element is None if the DaemonSet is deleted with the
    PeerPodConfig that owns it. With `follows`, the operator moves it to the nodes of the PeerPodConfig that is written.
    """
    if not change.changed or change.store is None:
        return None
    now = daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}
    if change.after is None:
        owners = daemon_set["metadata"].get("ownerReferences") or []
        owns = any((owner["kind"], owner["name"]) == (PEER_POD_CONFIG, change.store.name) for owner in owners)
        return (now, None) if owns else None
    selector = change.after.selector or DEFAULT_NODE_SELECTOR
    return (now, selector) if follows and selector != now else None


def explain_adaptor_moves(store: Store, nodes: Iterable[str], peer_pods: Collection[str], *, is_deleted: bool) -> str:
    """Why `nodes` lose cloud-api-adaptor by a change of the PeerPodConfig in `store`, and which peer pods are lost."""
    why = (
        f"{store} owns the DaemonSet of cloud-api-adaptor, which is deleted with it"
        if is_deleted
        else "This operator runs cloud-api-adaptor only on the nodes of the PeerPodConfig that was written last"
    )
    lost = f" These peer pods would be lost: {join_names(sorted(peer_pods), 20)}." if peer_pods else ""
    return f"{why}: without it no peer pod can start on {join_names(sorted(nodes))} any more.{lost}"


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

    `pool` is the existing pool, wherever its limit is stored; None if it does not exist.
    """
    if limit is None and selector is None and pool is not None:
        return Change(pool, pool)
    store = Store(CONFIG_MAP, agent_namespace, LIMITS, name)
    is_default = name == DEFAULT_POOL
    if not is_default:
        selector = selector or (pool.selector if pool else None)
        if selector is None:
            raise LimitError(
                f"Pool {name} does not exist. To create it, set the option node_selector to the labels of its nodes."
                if pool is None
                else f"{pool.store} has no valid nodeSelector. Set the option node_selector."
            )
    if limit is None and pool is not None and pool.limit is None:
        raise LimitError(pool.problem)
    if limit is None:
        limit = pool.limit if pool and pool.limit is not None else DEFAULT_LIMIT
    # The user may delete a left-over PeerPodConfig, so its limit is stored in peerpods-limits even if it is the same.
    if (
        pool
        and pool.store.kind != PEER_POD_CONFIG
        and (pool.limit, is_default or pool.selector) == (limit, is_default or selector)
    ):
        return Change(pool, pool)
    entry: dict = {"limit": limit}
    if is_default:
        selector = pool.selector if pool else None
    else:
        entry["nodeSelector"] = dict(selector or {})
    text = json.dumps(entry, separators=(",", ":"), sort_keys=True)
    after = Pool(name, namespace, selector, text, limit, store, is_default)
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
    return Plan(store, limits["metadata"]["resourceVersion"], before, after, limits["metadata"].get("uid"))


def plan_settings(pool: Pool, limit: int | None) -> Change:
    """Second generation without the agent: the limit of the operator's settings."""
    if limit is None:
        return Change(pool, pool)
    store = Store(CONFIG_MAP, pool.namespace, PEER_PODS_CM, LIMIT_KEY)
    written = pool.text if pool.store.is_settings else None
    before = {} if written is None else {LIMIT_KEY: written}
    after = Pool(pool.name, pool.namespace, pool.selector, str(limit), limit, store, pool.is_fallback)
    if pool.limit == limit:
        # Neither the default of 10 nor another spelling such as "010" needs a write.
        return Change(pool, pool)
    if pool.store.kind == PEER_POD_CONFIG:
        raise LimitError(
            f"{pool.store} is left over from an operator older than 1.9. The installed operator overwrites "
            f"{LIMIT_KEY} in {PEER_PODS_CM} with its limit when it next reconciles the KataConfig, so a limit that is "
            "set now would be lost. Nothing was changed. Check that a KataConfig exists and that the pod of the "
            "operator's Deployment controller-manager runs, then run the task again."
        )
    return Change(pool, after, (Plan(store, None, before, {LIMIT_KEY: str(limit)}),))


def refuse_without_agent(name: str, selector: Mapping[str, str] | None) -> None:
    """Raise an error if a task is for another pool than the operator's on the second generation, and no agent runs."""
    if name == DEFAULT_POOL and selector is None:
        return
    target = f"pool {name}" if name != DEFAULT_POOL else "node_selector"
    raise LimitError(
        f"Cannot set a limit for {target}: this operator has one limit for all nodes, and the node "
        "capacity agent that enforces limits by pool is not deployed. Deploy it with the role "
        "osc.peerpods.node_capacity and node_capacity_manager=collection."
    )


def refuse_second_generation_fields(fields: Mapping[str, object], name: str) -> None:
    """Raise an error if a task sets a field that the second generation does not store with the limit."""
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
