# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The findings of a verification, from the evidence about its pods and their VMs (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names
from ansible_collections.osc.peerpods.plugins.module_utils._verify.causes import ENDED, Cause, diagnose
from ansible_collections.osc.peerpods.plugins.module_utils._verify.kinds import KINDS
from ansible_collections.osc.peerpods.plugins.module_utils._verify.pods import PASSED, STATES, has_passed, next_check

TITLES = {
    "verify-pods": "Pods of the verification",
    "verify-slot": "Scheduled by slot",
    "verify-vm": "VM in the cloud",
    "verify-agent": "VM reachable from its node",
    "verify-pull": "Image pulled in the VM",
    "verify-answer": "Pod network to the pod",
    "verify-service": "Pod network from the pod",
    "verify-dns": "DNS in the pod",
    "verify-egress": "Egress from the pod",
    "verify-deleted": "Pod and VM deleted",
    "verify-nodes": "Nodes that were not verified",
    "verify-leftovers": "Leftovers of an earlier run",
}

WHY = {
    "verify-pods": "Without a peer pod, nothing can be verified.",
    "verify-slot": "Without slots, more peer pods are placed on a node than the cloud has room for.",
    "verify-vm": "Every peer pod is a VM of its own.",
    "verify-agent": "The node starts the containers by the agent in the VM, at port 15150 of the VM.",
    "verify-pull": "The agent pulls the images of a peer pod in its VM, not on the node.",
    "verify-answer": "All traffic of a peer pod passes a VXLAN tunnel (9000/udp) between its node and its VM.",
    "verify-service": "All traffic of a peer pod passes a VXLAN tunnel (9000/udp) between its node and its VM.",
    "verify-dns": "A pod without DNS finds no Service.",
    "verify-egress": "The pod was to reach this target.",
    "verify-deleted": "A VM that stays costs money, and counts against the quota.",
    "verify-nodes": "They may not run peer pods.",
    "verify-leftovers": "",
}

_FROM_POD = {"verify-service": "service", "verify-dns": "dns", "verify-egress": "egress"}

# The end of a console for a message.
CONSOLE_LINES = 5

Status = tuple[str, str, str, str]


def findings(readings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings of the checks, in the order in which a pod passes them.

    `readings` has the results `pods` of verification_pods, `instances` of the module for the cloud, `deleted` of
    verification_pods with state=absent, `remaining` of the module for the cloud after it, `egress`, the target, and
    `unverified`, the nodes that were to be verified and have no free slot.
    """
    created = readings["pods"]
    pods = created.get("pods") or []
    found = []
    # A request may also fail after pods were created.
    if created.get("msg") or not pods:
        reason = created.get("msg") or "No pod was created."
        found.append(_finding("verify-pods", "error", reason, "Fix the cause, then run the verification again.", ""))
    if pods:
        found += _of_pods(pods, readings)
    if readings.get("deleted") is not None:
        found.append(_of_deletion(pods, readings["deleted"], readings.get("remaining")))
    if readings.get("unverified"):
        text = f"Without a free slot: {join_names(readings['unverified'])}."
        fix = "Delete peer pods there, raise the limit (playbook osc.peerpods.limit), or name nodes with verify_nodes."
        found.append(_finding("verify-nodes", "warning", text, fix, ""))
    if created.get("leftovers"):
        names = join_names(created["leftovers"])
        text = f"An earlier run was interrupted or kept its pods: {names}. They were deleted."
        found.append(_finding("verify-leftovers", "warning", text, "", ""))
    return found


def _of_pods(pods: Sequence[Mapping[str, Any]], readings: Mapping[str, Any]) -> list[dict[str, Any]]:
    instances = (readings.get("instances") or {}).get("instances") or []
    unread = _unread(readings.get("instances"))
    causes = {pod["name"]: _cause(pod, instances) for pod in pods}
    return [
        _of_slots(pods, causes),
        *(_of_state(check, pods, causes, instances, unread) for check in _ORDER if check != "verify-slot"),
        *(_of_test(check, pods) for check in _FROM_POD if check != "verify-egress" or readings.get("egress")),
    ]


def _cause(pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> Cause | None:
    if pod["state"] == "answered":
        return None
    return diagnose(pod, [instance for instance in instances if instance["id"] in pod["instances"]])


def _finding(check: str, status: str, found: str, fix: str, cause: str) -> dict[str, Any]:
    why = WHY[check] if status != "ok" else ""
    return {
        "check": check,
        "title": TITLES[check],
        "status": status,
        "found": found,
        "why": why,
        "fix": fix,
        "cause": cause,
    }


def _merged(check: str, statuses: Iterable[tuple[str, Status]]) -> dict[str, Any]:
    """One finding for all nodes: the worst status, with the sentences of the nodes that have it."""
    by_node = list(statuses)
    worst = next(status for status in ("error", "unknown", "warning", "ok") if any(s[0] == status for _n, s in by_node))
    chosen = [(node, status) for node, status in by_node if status[0] == worst]
    found = " ".join(f"{node}: {status[1]}" for node, status in chosen)
    fixes = list(dict.fromkeys(status[2] for _node, status in chosen if status[2]))
    causes = list(dict.fromkeys(status[3] for _node, status in chosen if status[3]))
    return _finding(check, worst, found, " ".join(fixes), ", ".join(causes))


def _of_slots(pods: Sequence[Mapping[str, Any]], causes: Mapping[str, Cause | None]) -> dict[str, Any]:
    def one(pod: Mapping[str, Any]) -> Status:
        cause = causes[pod["name"]]
        if not pod["requests_slot"]:
            kind = KINDS["mutation"]
            return "error", f"{kind.what}: no {EXTENDED_RESOURCE} in its requests.", kind.fix, "mutation"
        if pod["state"] == "unscheduled":
            if cause is None:
                return "error", "The scheduler has not placed it.", KINDS["unknown"].fix, "unknown"
            kind = KINDS[cause.kind]
            return "error", f"{kind.what}. {_sentence(cause.quote)}", kind.fix, cause.kind
        return "ok", f"1 of {pod['slots']} slots.", "", ""

    return _merged("verify-slot", ((pod["wanted_node"], one(pod)) for pod in pods))


# The checks in the order in which a pod passes them.
_ORDER = list(PASSED)


def _of_state(
    check: str,
    pods: Sequence[Mapping[str, Any]],
    causes: Mapping[str, Cause | None],
    instances: Sequence[Mapping[str, Any]],
    unread: str,
) -> dict[str, Any]:
    def one(pod: Mapping[str, Any]) -> Status:
        if pod["state"] == "answered":
            return _reached(check, pod, instances, unread, "")
        cause = causes[pod["name"]]
        # The cause may show that the pod has come further than its state: a VM was deleted because of its agent.
        failed = (cause and KINDS[cause.kind].check) or next_check(pod["state"])
        if _ORDER.index(check) < _ORDER.index(failed):
            return _reached(check, pod, instances, unread, failed)
        if check != failed:
            return "unknown", "Not reached, because an earlier step failed.", "", ""
        if cause is None:
            return "error", f"Not within the time: {STATES[pod['state']]}.", KINDS["unknown"].fix, "unknown"
        console = _console(pod, instances) if cause.kind in ("agent", "port") else ""
        kind = KINDS[cause.kind]
        found = f"{cause.kind}: {kind.what}. From {cause.source}: {_sentence(cause.quote)}{console}"
        return "error", found, kind.fix, cause.kind

    return _merged(check, ((pod["wanted_node"], one(pod)) for pod in pods))


def _reached(
    check: str, pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]], unread: str, failed: str
) -> Status:
    if check == "verify-vm":
        return _of_instances(pod, instances, unread, failed)
    if check == "verify-agent":
        return "ok", "The runtime has created the sandbox by the agent in the VM.", "", ""
    if check == "verify-pull":
        return "ok", "The container runs." if pod["state"] != "pulling" else "The image was pulled.", "", ""
    answer = pod["answer"]
    if answer.get("boot_id") and answer["boot_id"] == pod.get("node_boot_id"):
        found = "The pod answered, but runs on the kernel of its node, not in a VM."
        return "error", found, "Check that its RuntimeClass is the one of peer pods.", "unknown"
    return "ok", "The pod answered the API server, from a kernel of its own.", "", ""


def _of_instances(pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]], unread: str, failed: str) -> Status:
    """Whether the instance that the PeerPod names runs in the cloud."""
    if not pod["instances"]:
        found = "The pod has a VM, but no PeerPod names it."
        return (
            "warning",
            f"{found} Its VM may stay if its node fails.",
            "Check the permissions of cloud-api-adaptor.",
            "",
        )
    latest = pod["instances"][-1]
    if unread:
        return "unknown", f"PeerPod names {latest}, which could not be read: {unread}", "", ""
    instance = next((each for each in instances if each["id"] == latest), None)
    state = instance["state"] if instance else "missing"
    if failed == "verify-agent" and state in ("missing", "deleting", *ENDED):
        return "ok", f"{latest} was created. cloud-api-adaptor deletes a VM that it does not reach.", "", ""
    if instance is None or state == "missing":
        found = f"PeerPod names {latest}, which does not exist in this account and region."
        return "error", found, "Use the credentials of the account of peer-pods-secret.", "settings"
    if state in ENDED:
        kind = KINDS["vm"]
        reason = f": {instance['state_reason']}" if instance["state_reason"] else ""
        return "error", _sentence(f"vm: {kind.what}. {latest} is {state}{reason}"), kind.fix, "vm"
    return "ok", f"{latest} is {state}.", "", ""


def _of_test(check: str, pods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    key = _FROM_POD[check]

    def one(pod: Mapping[str, Any]) -> Status:
        result = (pod.get("answer") or pod.get("output") or {}).get(key)
        if result is None:
            return "unknown", "Not reached, because an earlier step failed.", "", ""
        found = result["found"]
        text = join_names(found) if isinstance(found, list) else str(found)
        if result["ok"]:
            return "ok", f"{text}.", "", ""
        # Without the tunnel, no test succeeds.
        return "error", _sentence(text), _FIX_OF_TEST[check], "network" if pod["answer"] else "tunnel"

    return _merged(check, ((pod["wanted_node"], one(pod)) for pod in pods))


_FIX_OF_TEST = {
    "verify-service": (
        "If the pod does not answer either, see there. Otherwise check the NetworkPolicies of the namespace, and that "
        "9000/udp is open in both directions."
    ),
    "verify-dns": (
        "Check the pods of the namespace openshift-dns, the NetworkPolicies of the namespace, and that 9000/udp is "
        "open in both directions."
    ),
    "verify-egress": (
        "The traffic of the pod leaves through its node, not through its VM: check the NetworkPolicies, "
        "EgressFirewalls and the proxy of the cluster. Set verify_egress to a target that pods may "
        "reach, or to an empty text."
    ),
}


def _of_deletion(
    pods: Sequence[Mapping[str, Any]], deleted: Mapping[str, Any], remaining: Mapping[str, Any] | None
) -> dict[str, Any]:
    fix = (
        "See the log of cloud-api-adaptor. It deletes the VM before the PeerPod; as soon as the VM is gone, remove the "
        "finalizer of the PeerPod."
    )
    if "remaining_pods" not in deleted:
        return _finding("verify-deleted", "error", str(deleted.get("msg", "")), "Delete the pods.", "")
    stays = [*(deleted.get("remaining_pods") or []), *(deleted.get("remaining_peer_pods") or [])]
    if stays:
        return _finding("verify-deleted", "error", f"Not deleted within the time: {join_names(stays)}.", fix, "")
    ids = [instance for pod in pods for instance in pod["instances"]]
    # A VM may run without a PeerPod that names it.
    has_vm = bool(ids) or any(has_passed(pod["state"], "verify-vm") for pod in pods)
    if not has_vm and remaining is None:
        found = (
            "The pods are deleted. No VM was created." if pods else "No pod and no PeerPod of a verification exists."
        )
        return _finding("verify-deleted", "ok", found, "", "")
    unread = _unread(remaining)
    if unread:
        return _finding("verify-deleted", "unknown", f"The pods are deleted. Their VMs: {unread}", "", "")
    reading = remaining or {}
    live = [f"{each['id']} ({each['state']})" for each in reading["instances"] if not is_gone(each)]
    if live:
        found = f"The pods are deleted, but VMs stay: {join_names(live)}."
        return _finding("verify-deleted", "error", found, f"Delete them. {fix}", "")
    orphaned = [
        f"{each['id']} ({': '.join(filter(None, (each['state'], each['state_reason'])))})"
        for each in reading.get("orphaned") or []
    ]
    if orphaned:
        found = f"The pods are deleted, but VMs without a PeerPod stay: {join_names(orphaned)}."
        fix = "Delete them: without a PeerPod, no controller does."
        return _finding("verify-deleted", "error", found, fix, "")
    if not has_vm:
        return _finding("verify-deleted", "ok", "The pods are deleted. No VM was created.", "", "")
    return _finding(
        "verify-deleted", "ok", f"{len(ids)} VMs are deleted." if len(ids) > 1 else "The VM is deleted.", "", ""
    )


def is_gone(instance: Mapping[str, Any]) -> bool:
    return instance["state"] in ("missing", "terminated")


def _console(pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> str:
    """The state and the end of the console of the VMs."""
    return "".join(
        f" {instance['id']} is {instance['state']}"
        + (f"; the end of its console: {_end(instance['console'])}" if instance.get("console") else "; no console")
        + "."
        for instance in instances
        if instance["id"] in pod["instances"]
    )


def _end(console: str) -> str:
    lines: Iterator[str] = filter(None, (line.strip() for line in console.splitlines()))
    return " / ".join(list(lines)[-CONSOLE_LINES:]).rstrip(".")


def _unread(reading: Mapping[str, Any] | None) -> str:
    """Why the cloud was not read; empty if it was."""
    if reading is None:
        return "the cloud was not read."
    return "" if "instances" in reading else str(reading.get("msg") or "the cloud was not read.")


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
