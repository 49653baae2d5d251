"""The pods of a verification, and how far they have come."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify.pods import (
    STATES,
    evidence,
    instances_by_pod,
    is_owned_by,
    manifest,
    slots,
    state,
    summary,
)

OPTIONS = {
    "runtime_class": "kata-remote",
    "image": "quay.io/a/b:1",
    "port": 8080,
    "egress": "quay.io:443",
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "pull_secrets": ["registry"],
    "deadline": 0,
}


def node(name: str = "worker-1", **labels: str) -> dict:
    return {"metadata": {"name": name, "labels": labels}}


def test_the_scheduler_places_the_pod_on_the_node_by_its_label():
    """With spec.nodeName, the pod would need no slot."""
    body = manifest("p", node(**{"kubernetes.io/hostname": "ip-10-0-0-7"}), OPTIONS, "program")
    (term,) = body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (expression,) = term["matchExpressions"]
    assert expression == {"key": "kubernetes.io/hostname", "operator": "In", "values": ["ip-10-0-0-7"]}
    assert "nodeName" not in body["spec"]


def test_the_pod_requests_no_slot_itself_and_fits_the_restricted_pod_security_standard():
    """kubernetes.io/docs/concepts/security/pod-security-standards"""
    spec = manifest("p", node(), OPTIONS, "program")["spec"]
    (container,) = spec["containers"]
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}}
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False


def test_the_program_gets_its_port_and_targets():
    spec = manifest("p", node(), OPTIONS, "program")["spec"]
    command = spec["containers"][0]["command"]
    assert command == ["python3", "-c", "program", "8080", "kubernetes.default.svc", "quay.io:443"]
    assert (spec["imagePullSecrets"], spec["tolerations"]) == ([{"name": "registry"}], OPTIONS["tolerations"])


CRASHED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"reason": "Error", "exitCode": 1}},
}
NOT_STARTED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"reason": "StartError"}},
}
BOUND = {"spec": {"nodeName": "worker-1"}}
RUNNING = {"containerStatuses": [{"state": {"running": {}}}], "podIP": "10.1.2.3"}
WAITING = {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}


@pytest.mark.parametrize(
    ("pod", "has_instance", "has_answered", "expected"),
    [
        ({"spec": {}}, False, False, "unscheduled"),
        (BOUND, False, False, "scheduled"),
        ({**BOUND, "status": WAITING}, True, False, "booting"),
        ({**BOUND, "status": {**WAITING, "podIP": "10.1.2.3"}}, True, False, "pulling"),
        ({**BOUND, "status": RUNNING}, True, False, "running"),
        # The image was pulled, and its program ended.
        ({**BOUND, "status": {"containerStatuses": [CRASHED], "podIP": "10.1.2.3"}}, True, False, "running"),
        # The container was created, but never ran (containerd).
        ({**BOUND, "status": {"containerStatuses": [NOT_STARTED], "podIP": "10.1.2.3"}}, True, False, "pulling"),
        # A PeerPod that could not be created is reported, but is not the state of the pod.
        ({**BOUND, "status": RUNNING}, False, False, "running"),
        ({**BOUND, "status": RUNNING}, True, True, "answered"),
    ],
)
def test_the_state_of_a_pod(pod: dict, has_instance: bool, has_answered: bool, expected: str):
    assert state(pod, has_instance, has_answered) == expected
    assert expected in STATES


def test_the_instances_of_peer_pods_by_the_uid_of_their_pod():
    owned = {
        "metadata": {"ownerReferences": [{"kind": "Pod", "name": "peerpods-verify-aaaaa", "uid": "1"}]},
        "spec": {"instanceID": "i-1"},
    }
    other = {"metadata": {"ownerReferences": [{"kind": "Pod", "name": "app", "uid": "2"}]}, "spec": {}}
    assert instances_by_pod([owned, other, {"metadata": {}}]) == {"1": ["i-1"], "2": [""]}
    assert [is_owned_by(each) for each in (owned, other, {"metadata": {}})] == [True, False, False]


def test_the_slots_of_a_node():
    assert slots({"status": {"allocatable": {"kata.peerpods.io/vm": "10"}}}) == "10"
    assert slots({"status": {}}) is None


def test_the_evidence_about_a_pod():
    pod = {
        "metadata": {"name": "p", "uid": "1"},
        "spec": {"containers": [{"resources": {"requests": {"kata.peerpods.io/vm": "1"}}}]},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient"}],
            "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}],
        },
    }
    assert evidence(pod, [{"type": "Warning", "reason": "Failed", "message": "m", "count": 3}]) == {
        "name": "p",
        "uid": "1",
        "node": None,
        "requests_slot": True,
        "unscheduled": "Insufficient",
        "failed": "",
        "waiting": [{"reason": "ErrImagePull", "message": "denied"}],
        "ended": [],
        "events": [{"type": "Warning", "reason": "Failed", "message": "m"}],
    }


def test_how_the_containers_that_ran_have_ended():
    status = {"containerStatuses": [CRASHED, NOT_STARTED, {"state": {"terminated": {"exitCode": 0}}}]}
    found = evidence({"metadata": {"name": "p", "uid": "1"}, "spec": {"containers": []}, "status": status}, [])
    assert found["ended"] == ["exit code 1 (Error)", "exit code 0 (no reason)"]


def test_the_progress_has_durations_that_do_not_count_as_progress():
    pods = [
        {"name": "a", "wanted_node": "worker-1", "state": "booting"},
        {"name": "b", "wanted_node": "worker-2", "state": "answered"},
    ]
    shown, status = summary(pods, {"a": 150, "b": 600})
    assert shown == "worker-1: VM created, waiting until it is reachable (for 2 min); worker-2: answered"
    assert status == "worker-1: VM created, waiting until it is reachable; worker-2: answered"


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        ({"phase": "Running", "message": "m"}, ""),
        (
            {"phase": "Failed", "reason": "OutOfpods", "message": "Node didn't have enough resource"},
            "OutOfpods: Node didn't have enough resource",
        ),
        ({"phase": "Failed"}, "its phase is Failed"),
    ],
)
def test_why_kubelet_has_ended_a_pod(status: dict, failed: str):
    found = evidence({"metadata": {"name": "p", "uid": "1"}, "spec": {"containers": []}, "status": status}, [])
    assert found["failed"] == failed


def test_kubelet_ends_a_pod_that_no_run_deletes():
    spec = manifest("p", node(), {**OPTIONS, "deadline": 1800}, "program")["spec"]
    assert spec["activeDeadlineSeconds"] == 1800
    assert "activeDeadlineSeconds" not in manifest("p", node(), OPTIONS, "program")["spec"]
