# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What there is to say of a cluster's peer pods, read out of its own objects (no I/O here)."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

with contextlib.suppress(ImportError):  # The Kubernetes client says what to install.
    from kubernetes.utils.quantity import parse_quantity

from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    DEFAULT_LIMIT,
    EXTENDED_RESOURCE,
    CloudShare,
    cloud_share,
    is_accounted_for,
    is_peer_pod,
    limit_at,
    node_selector,
    selects,
    slots_of,
    whole_number,
)

# Pods that hold a VM or want one.
LIVE_PODS = "status.phase!=Succeeded,status.phase!=Failed"


def describe(
    configs: list[dict],
    nodes: Iterable[dict],
    pods: Iterable[dict],
    runtime_classes: Collection[str],
    bounds: Mapping[str, int],
) -> dict:
    """The module's answer; `pods` are looked at one by one, and only what counts is kept.

    `bounds` are what the cloud can hold, each shared among the nodes of a namespace's configs.
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
    selected_by: dict[str, list[dict]] = {_name(config): [] for config in configs}
    limits: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        name = node["metadata"]["name"]
        selecting = [config for config in configs if selects(config, node)]
        row = {
            "name": name,
            "configs": [_name(config) for config in selecting],
            "capacity": _quantity(node, "capacity"),
            "allocatable": _quantity(node, "allocatable"),
            "used": used[name],
            "unaccounted": unaccounted[name],
        }
        row["free"] = max(0, (row["allocatable"] or 0) - requested[name])
        # Every other node has nothing to do with peer pods.
        if row["configs"] or row["capacity"] is not None or row["used"]:
            rows.append(row)
        for config in row["configs"]:
            selected_by[config].append(row)
        for namespace, limit in _limits(node, selecting).items():
            limits[namespace].append(limit)
    shares = {namespace: cloud_share(those, bounds) for namespace, those in limits.items()}
    return {
        "configs": [
            _config(config, selected_by[_name(config)], shares.get(config["metadata"]["namespace"]))
            for config in configs
        ],
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


def _limits(node: dict, selecting: list[dict]) -> dict[str, int]:
    """What the configs of each namespace allow on a node, the smallest where there are several."""
    found: dict[str, list[int]] = defaultdict(list)
    for config in selecting:
        found[config["metadata"]["namespace"]].append(limit_at(node, config))
    return {namespace: min(limits) for namespace, limits in found.items()}


def _config(config: dict, rows: list[dict], share: CloudShare | None) -> dict:
    spec = config.get("spec", {})
    text = spec.get("limit")
    limit = DEFAULT_LIMIT if text is None else whole_number(text)
    slots = None if limit is None else slots_of(limit, share)
    return {
        "name": config["metadata"]["name"],
        "namespace": config["metadata"]["namespace"],
        "limit": limit,
        "slots": slots,
        "cloud_bound": share.bound if share and slots != limit else None,
        "node_selector": node_selector(config),
        "cloud_secret_name": spec.get("cloudSecretName"),
        "config_map_name": spec.get("configMapName"),
        "instance_type": spec.get("instanceType"),
        "setup_completed": bool(config.get("status", {}).get("setupCompleted")),
        "selected_nodes": len(rows),
        "advertised_nodes": sum((row["allocatable"] or 0) == slots for row in rows),
    }


def _pending(pod: dict) -> dict:
    """A peer pod that does not run yet, and why as far as its status says."""
    status = pod.get("status", {})
    # Without a node it is the scheduler that knows, with one the node's kubelet.
    whys = [
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
    why = whys[0] if whys else {}
    return {
        "name": pod["metadata"]["name"],
        "namespace": pod["metadata"]["namespace"],
        "node": pod["spec"].get("nodeName"),
        "reason": why.get("reason"),
        "message": why.get("message"),
    }


def _requested(pod: dict) -> int:
    """How many VMs the scheduler takes off the node for a pod."""
    return sum(
        int(
            parse_quantity(
                container.get("resources", {}).get("requests", {}).get(EXTENDED_RESOURCE, 0)
            )
        )
        for container in pod["spec"]["containers"]
    )


def _quantity(node: dict, of: str) -> int | None:
    """What the node's status says of the extended resource, or None where it does not."""
    quantity = node.get("status", {}).get(of, {}).get(EXTENDED_RESOURCE)
    return None if quantity is None else int(parse_quantity(quantity))


def _name(config: dict) -> str:
    return f"{config['metadata']['namespace']}/{config['metadata']['name']}"
