# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pools of nodes, the limit of each, and where it is stored (no I/O here).

A limit is what each node of a pool advertises as the extended resource `kata.peerpods.io/vm`; the
scheduler does the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    DEFAULT_POOL,
    LIMIT_KEY,
    LIMITS,
    OPERATORS_CONFIG,
    PEER_POD_CONFIG,
    PEER_PODS_CM,
    configs_path,
)

# The default limit of peer-pods-cm (flag peerpods-limit-per-node in src/cloud-api-adaptor/cmd/cloud-api-adaptor/main.go
# of cloud-api-adaptor), and of a new pool.
DEFAULT_LIMIT = 10

# The limit of a PeerPodConfig without a limit or with an empty one
# (src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go of cloud-api-adaptor, removed by 059f6420).
DEFAULT_CONFIG_LIMIT = 1

# The largest number in a Kubernetes quantity, an int64.
LARGEST_LIMIT = 2**63 - 1

# The kind of object that stores limits in addition to PeerPodConfigs.
CONFIG_MAP = "ConfigMap"

# The node selector of a PeerPodConfig without a nodeSelector, in the operator's controller.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# The node selector of osc-caa-ds (controllers/peerpods.go of sandboxed-containers-operator), for a user who may not
# read it and while it does not exist.
ADAPTOR_NODE_SELECTOR = {"node-role.kubernetes.io/kata-oc": ""}

NEGATIVE_NUMBER = re.compile(r"-[0-9]*[1-9][0-9]*")


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
        return configs_path(self.namespace)

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def is_settings(self) -> bool:
        """Whether it is the operator's own ConfigMap, which takes effect only when its readers restart."""
        return (self.kind, self.name) == (CONFIG_MAP, PEER_PODS_CM)

    def __str__(self) -> str:
        named = f"{self.kind} {self.namespace}/{self.name}"
        return f"{self.key} of {named}" if self.key else named


@dataclass(frozen=True)
class Pool:
    """Nodes with a limit of their own.

    `text` is the literal limit, None if it is not set; `limit` is its number, None if it is invalid. `selector` is None
    if it is invalid: the pool has no nodes. A pool that `is_fallback` has only the nodes that no other pool selects.
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
        """The reason why the pool has no limit, as a sentence; None if it has a limit."""
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
                f"{written}, which is not a whole number. Depending on its release, cloud-api-adaptor does not start, "
                "or advertises another number. Correct that key."
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
    """The pool of one entry of peerpods-limits; an invalid limit or selector is None."""
    try:
        value = json.loads(text)
    # ValueError also for a number with thousands of digits; RecursionError for deeply nested text.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    limit, selector = value.get("limit"), value.get("nodeSelector")
    # In Python, True is a number.
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= LARGEST_LIMIT:
        limit = None
    if not isinstance(selector, dict) or not all(isinstance(v, str) for v in selector.values()):
        selector = None
    return Pool(name, namespace, selector, text, limit, store)


def problems_of_entries(entries: Mapping[str, str], namespace: str) -> list[str]:
    """A sentence for each entry of peerpods-limits in `namespace` that gives no node a limit, with the reason."""
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
    store = Store(CONFIG_MAP, namespace, PEER_PODS_CM, LIMIT_KEY)
    # The operator will overwrite the limit in peer-pods-cm with that of this PeerPodConfig, if it has a limit
    # (controllers/migrate.go of sandboxed-containers-operator).
    if operators and operators.text:
        return operators
    text = (settings or {}).get(LIMIT_KEY)
    # An empty limit means the default (IntWithEnv in src/cloud-providers/util.go of cloud-api-adaptor).
    if text:
        return Pool(DEFAULT_POOL, namespace, None, text, whole_number(text), store)
    limit = None if settings is None else DEFAULT_LIMIT
    return Pool(DEFAULT_POOL, namespace, None, None, limit, store)


def whole_number(text: str | None) -> int | None:
    """`text` as a whole number in the range of Kubernetes; None if it is not such a number."""
    text = (text or "").strip()
    digits = text.lstrip("0") or "0"
    # Python raises ValueError for thousands of digits.
    if not (text.isascii() and text.isdigit() and len(digits) < 20):
        return None
    return int(digits) if int(digits) <= LARGEST_LIMIT else None


def find_config(configs: Iterable[dict], namespace: str, name: str) -> dict | None:
    key = (namespace, name)
    return next(
        (config for config in configs if (config["metadata"]["namespace"], config["metadata"]["name"]) == key),
        None,
    )


def others_than(pools: Iterable[Pool], pool: Pool) -> list[Pool]:
    return [candidate for candidate in pools if candidate.label != pool.label]


def deciding(node: dict, pools: Iterable[Pool]) -> list[Pool]:
    """The pools that decide what `node` advertises: those that select it, or a fallback pool if no other pool does."""
    selecting = [pool for pool in pools if pool.selects(node)]
    return [pool for pool in selecting if not pool.is_fallback] or selecting
