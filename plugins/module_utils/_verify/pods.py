# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pods of a verification: their manifest, and how far each has come (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE, PART_OF
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import is_accounted_for

NAME = "peerpods-verify"
LABELS = {"app.kubernetes.io/name": NAME, PART_OF[0]: PART_OF[1]}

# What the pod resolves: the Service that every cluster has.
SERVICE_NAME = "kubernetes.default.svc"

# How far a pod has come, in order, and what it waits for.
STATES = {
    "unscheduled": "waiting for a slot",
    "scheduled": "waiting for its VM",
    "booting": "VM created, waiting until it is reachable",
    "pulling": "VM reachable, pulling the image in it",
    "running": "container runs, waiting for its answer",
    "answered": "answered",
}

# The state of a pod that has passed a check, in the order of the checks.
PASSED = {
    "verify-slot": "scheduled",
    "verify-vm": "booting",
    "verify-agent": "pulling",
    "verify-pull": "running",
    "verify-answer": "answered",
}
_ORDER = list(STATES)


def manifest(name: str, node: Mapping[str, Any], options: Mapping[str, Any], script: str) -> dict:
    """A peer pod on the node, which the scheduler places: `spec.nodeName` would not need a slot."""
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "runtimeClassName": options["runtime_class"],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": HOSTNAME, "operator": "In", "values": [_hostname(node)]},
                                ]
                            }
                        ]
                    }
                }
            },
            "tolerations": list(options["tolerations"]),
            "imagePullSecrets": [{"name": secret} for secret in options["pull_secrets"]],
            # The VM gets no token of the cluster.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Always",
            **({"activeDeadlineSeconds": options["deadline"]} if options["deadline"] else {}),
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "verify",
                    "image": options["image"],
                    "command": ["python3", "-c", script, str(options["port"]), SERVICE_NAME, options["egress"]],
                    "ports": [{"containerPort": options["port"]}],
                    "resources": resources,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


HOSTNAME = "kubernetes.io/hostname"


def _hostname(node: Mapping[str, Any]) -> str:
    """The label of the node, which may differ from its name."""
    return node["metadata"].get("labels", {}).get(HOSTNAME, node["metadata"]["name"])


def slots(node: Mapping[str, Any]) -> str | None:
    """How many peer pods the node advertises."""
    return (node.get("status", {}).get("allocatable") or {}).get(EXTENDED_RESOURCE)


def instances_by_pod(peer_pods: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The instances of the PeerPods, by the uid of their pod."""
    found: dict[str, list[str]] = {}
    for peer_pod in peer_pods:
        for owner in peer_pod["metadata"].get("ownerReferences") or ():
            found.setdefault(owner["uid"], []).append(peer_pod.get("spec", {}).get("instanceID", ""))
    return found


def is_owned_by(peer_pod: Mapping[str, Any]) -> bool:
    """Whether a PeerPod is that of a verification's pod, which may be deleted already."""
    owners = peer_pod["metadata"].get("ownerReferences") or ()
    return any(owner["name"].startswith(f"{NAME}-") for owner in owners)


def state(pod: Mapping[str, Any], has_instance: bool, has_answered: bool) -> str:
    """How far a pod has come. `has_instance` is about its current PeerPod, not about those of failed attempts."""
    status = pod.get("status", {})
    if has_answered:
        return "answered"
    if not pod["spec"].get("nodeName"):
        return "unscheduled"
    containers = status.get("containerStatuses") or ()
    if any("running" in (container.get("state") or {}) for container in containers) or _ended(containers):
        return "running"
    # Kubelet sets the address when the runtime has created the sandbox, which includes the VM and its agent.
    if status.get("podIP"):
        return "pulling"
    return "booting" if has_instance else "scheduled"


# The reasons of a container that never ran (containerd's CRI, internal/cri/server/container_start.go).
_NOT_STARTED = ("StartError", "ContainerCannotRun")


def _ended(containers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """How the containers that ran have ended, the last time."""
    states = ((each.get("state") or {}, each.get("lastState") or {}) for each in containers)
    ended = (state.get("terminated") or last.get("terminated") for state, last in states)
    return [each for each in ended if each and each.get("reason") not in _NOT_STARTED]


def evidence(pod: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the API server returns about a pod, for the diagnosis."""
    status = pod.get("status", {})
    scheduled: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "PodScheduled"), {})
    waiting = [(container.get("state") or {}).get("waiting") for container in status.get("containerStatuses") or ()]
    return {
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
        "node": pod["spec"].get("nodeName"),
        "requests_slot": is_accounted_for(dict(pod)),
        "unscheduled": scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        "failed": _failure(status),
        "waiting": [{"reason": each.get("reason", ""), "message": each.get("message", "")} for each in waiting if each],
        "ended": [
            f"exit code {each.get('exitCode')} ({each.get('reason') or 'no reason'})"
            for each in _ended(status.get("containerStatuses") or ())
        ],
        "events": [
            {"type": event.get("type", ""), "reason": event.get("reason", ""), "message": event.get("message", "")}
            for event in events
        ],
    }


def _failure(status: Mapping[str, Any]) -> str:
    """Why kubelet has rejected, evicted or ended the pod; empty if it has not."""
    if status.get("phase") != "Failed":
        return ""
    return ": ".join(filter(None, (status.get("reason"), status.get("message")))) or "its phase is Failed"


def has_passed(reached: str, check: str) -> bool:
    """Whether a pod in the state `reached` has passed a check."""
    return _ORDER.index(reached) >= _ORDER.index(PASSED[check])


def next_check(reached: str) -> str:
    """The first check that a pod in this state has not passed."""
    return next((check for check in PASSED if not has_passed(reached, check)), "verify-answer")


def summary(pods: Sequence[Mapping[str, Any]], elapsed: Mapping[str, int]) -> tuple[str, str]:
    """The progress in one line: with and without durations. `elapsed` has seconds since the state, by pod."""
    lines, statuses = [], []
    for pod in pods:
        what = pod.get("cause_summary") or STATES[pod["state"]]
        seconds = elapsed.get(pod["name"], 0)
        duration = f" (for {seconds // 60} min)" if seconds >= 60 and pod["state"] != "answered" else ""
        lines.append(f"{pod['wanted_node']}: {what}{duration}")
        statuses.append(f"{pod['wanted_node']}: {what}")
    return "; ".join(lines), "; ".join(statuses)
