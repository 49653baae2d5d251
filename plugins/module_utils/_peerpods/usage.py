# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The usage of peer pods in a cluster, from its own objects (no I/O here)."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict

with contextlib.suppress(ImportError):  # The Kubernetes client reports the missing library.
    from kubernetes.utils.quantity import parse_quantity
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import (
    CloudShare,
    cloud_share,
    slots_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.node_slots import allowed, why_blocked
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import (
    is_accounted_for,
    is_peer_pod,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import Pool, deciding, find_config


def describe(
    pools: Collection[Pool],
    configs: Collection[dict],
    nodes: Iterable[dict],
    pods: Iterable[dict],
    runtime_classes: Collection[str],
    bounds: Mapping[str, int],
    tolerations: Callable[[], Iterable[Collection[dict]]] = tuple,
) -> dict:
    """The module's result; `pods` is an iterator, and only counts are kept of it.

    `configs` are the PeerPodConfigs in which some of `pools` are stored. `bounds` are the numbers of peer pods that the
    cloud has room for, each shared among the nodes of a namespace's pools. `tolerations` returns those of the
    RuntimeClasses.
    """
    used: Counter[str] = Counter()
    requested: Counter[str] = Counter()
    unaccounted: Counter[str] = Counter()
    by_namespace: Counter[str] = Counter()
    unscheduled: Counter[str] = Counter()
    pending = []
    for pod in pods:
        if not is_peer_pod(pod, runtime_classes):
            continue
        namespace, node = pod["metadata"]["namespace"], pod["spec"].get("nodeName")
        if node:
            by_namespace[namespace] += 1
            used[node] += 1
            requested[node] += _requested(pod)
            unaccounted[node] += not is_accounted_for(pod)
        else:
            unscheduled[namespace] += 1
        if pod.get("status", {}).get("phase") == "Pending":
            pending.append(_pending(pod))

    rows = []
    members: dict[str, list[dict]] = {pool.label: [] for pool in pools}
    limits: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        name = node["metadata"]["name"]
        decisive = deciding(node, pools)
        row = {
            "name": name,
            "pools": [pool.label for pool in decisive],
            "capacity": _quantity(node, "capacity"),
            "allocatable": _quantity(node, "allocatable"),
            "used": used[name],
            "unaccounted": unaccounted[name],
        }
        row["blocked"] = why_blocked(node, tolerations) if row["allocatable"] else None
        row["free"] = 0 if row["blocked"] else max(0, (row["allocatable"] or 0) - requested[name])
        # Other nodes do not run peer pods.
        if row["pools"] or row["capacity"] is not None or row["used"]:
            rows.append(row)
        for pool in decisive:
            members[pool.label].append(row)
        for namespace in {pool.namespace for pool in decisive}:
            in_namespace = [pool for pool in decisive if pool.namespace == namespace]
            limits[namespace].append(allowed(node, in_namespace))
    shares = {namespace: cloud_share(node_limits, bounds) for namespace, node_limits in limits.items()}
    return {
        "pools": [_pool(pool, configs, members[pool.label], shares.get(pool.namespace)) for pool in pools],
        "cloud_bounds": dict(bounds),
        "nodes": rows,
        "namespaces": [
            {"name": name, "used": by_namespace[name], "unscheduled": unscheduled[name]}
            for name in sorted(by_namespace.keys() | unscheduled.keys())
        ],
        "pending": pending,
        "totals": {
            "nodes": len(rows),
            **{
                key: sum(row[key] or 0 for row in rows)
                for key in ("capacity", "allocatable", "used", "unaccounted", "free")
            },
            "unscheduled": unscheduled.total(),
        },
    }


def _pool(pool: Pool, configs: Iterable[dict], rows: list[dict], share: CloudShare | None) -> dict:
    config = find_config(configs, pool.namespace, pool.name) or {}
    spec = config.get("spec", {}) if pool.store.name == pool.name else {}
    slots = None if pool.limit is None else slots_of(pool.limit, share)
    return {
        "name": pool.name,
        "namespace": pool.namespace,
        "store": asdict(pool.store),
        "limit": pool.limit,
        "slots": slots,
        "cloud_bound": share.bound if share and slots != pool.limit else None,
        "node_selector": pool.selector,
        "cloud_secret_name": spec.get("cloudSecretName"),
        "config_map_name": spec.get("configMapName"),
        "instance_type": spec.get("instanceType"),
        "setup_completed": bool(spec and config.get("status", {}).get("setupCompleted")),
        "selected_nodes": len(rows),
        "advertised_nodes": sum((row["allocatable"] or 0) == slots for row in rows),
    }


def _pending(pod: dict) -> dict:
    """A peer pod that does not run yet, with the reason in its status, if any."""
    status = pod.get("status", {})
    # The scheduler sets the reason of a pod without a node, the kubelet that of a pod with a node.
    reasons = [
        condition
        for condition in status.get("conditions") or []
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ] or [
        container["state"]["waiting"]
        for container in [
            *(status.get("initContainerStatuses") or []),
            *(status.get("containerStatuses") or []),
        ]
        if container.get("state", {}).get("waiting")
    ]
    reason = reasons[0] if reasons else {}
    return {
        "name": pod["metadata"]["name"],
        "namespace": pod["metadata"]["namespace"],
        "node": pod["spec"].get("nodeName"),
        "reason": reason.get("reason"),
        "message": reason.get("message"),
    }


def _requested(pod: dict) -> int:
    """How many slots of the node the scheduler reserves for a pod."""
    return sum(
        int(parse_quantity(container.get("resources", {}).get("requests", {}).get(EXTENDED_RESOURCE, 0)))
        for container in pod["spec"]["containers"]
    )


def _quantity(node: dict, field: str) -> int | None:
    """The number of the extended resource in the node's status, or None without it."""
    quantity = node.get("status", {}).get(field, {}).get(EXTENDED_RESOURCE)
    return None if quantity is None else int(parse_quantity(quantity))
