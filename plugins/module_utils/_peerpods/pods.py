# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which pods are peer pods (no I/O here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE, RUNTIME_CLASS

# Pods that have a VM or need one.
LIVE_PODS = "status.phase!=Succeeded,status.phase!=Failed"

# Pods that have a VM on a node or are about to get one: bound, and not ended.
RUNNING_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"


def is_accounted_for(pod: dict) -> bool:
    """Whether the scheduler counts a pod against its node's limit."""
    return any(
        EXTENDED_RESOURCE in container.get("resources", {}).get("requests", {})
        for container in pod["spec"]["containers"]
    )


def is_peer_pod(pod: dict, runtime_classes: Collection[str] = (RUNTIME_CLASS,)) -> bool:
    """Whether a pod has a VM. A pod in a system namespace has a VM, too, without a slot of its node."""
    return pod["spec"].get("runtimeClassName") in runtime_classes or is_accounted_for(pod)


def peer_pods_by_node(
    running_pods: Iterable[dict], runtime_classes: Collection[str] = (RUNTIME_CLASS,)
) -> Counter[str]:
    """How many peer pods have a VM on each node, with or without a slot."""
    return Counter(pod["spec"]["nodeName"] for pod in running_pods if is_peer_pod(pod, runtime_classes))
