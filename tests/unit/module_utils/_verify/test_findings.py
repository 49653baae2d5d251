"""What a verification reports, check by check."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify.findings import TITLES, WHY, findings
from ansible_collections.osc.peerpods.plugins.module_utils._verify.kinds import KINDS

from .objects import INSTANCE, NODE, answered, event, pod, sandbox_event


def vm(state: str, reason: str = "", console: str = "") -> dict:
    return {"id": INSTANCE, "state": state, "state_reason": reason, "console": console, "console_error": ""}


RUNNING = {"instances": [vm("running")]}
# What EC2 returns about an instance that cloud-api-adaptor terminated.
DELETED_BY_USER = "Client.UserInitiatedShutdown: User initiated shutdown"
GONE = {"instances": [vm("terminated", DELETED_BY_USER)]}
DELETED = {"remaining_pods": [], "remaining_peer_pods": []}
QUOTA = "creating an instance : creating instance v (<nil>): api error VcpuLimitExceeded: You have requested more"


def readings(*pods: dict, **changed: object) -> dict:
    return {
        "pods": {"pods": list(pods), "leftovers": []},
        "instances": RUNNING,
        "deleted": DELETED,
        "remaining": GONE,
        "egress": "quay.io:443",
        **changed,
    }


def by_check(*pods: dict, **changed: object) -> dict[str, dict]:
    return {finding["check"]: finding for finding in findings(readings(*pods, **changed))}


def statuses(*pods: dict, **changed: object) -> dict[str, str]:
    return {check: finding["status"] for check, finding in by_check(*pods, **changed).items()}


def test_a_pod_that_answered_passes_every_check_in_order():
    found = findings(readings(answered()))
    assert [finding["check"] for finding in found] == [
        "verify-slot",
        "verify-vm",
        "verify-agent",
        "verify-pull",
        "verify-answer",
        "verify-service",
        "verify-dns",
        "verify-egress",
        "verify-deleted",
    ]
    assert {finding["status"] for finding in found} == {"ok"}
    assert {finding["fix"] + finding["why"] + finding["cause"] for finding in found} == {""}
    assert found[1]["found"] == f"{NODE}: {INSTANCE} is running."


def test_egress_is_not_reported_without_a_target():
    assert "verify-egress" not in statuses(answered(), egress="")


# By state of a pod: the first check that it does not pass, and the later ones.
@pytest.mark.parametrize(
    ("changed", "failed", "cause"),
    [
        ({"state": "unscheduled", "unscheduled": "Insufficient kata.peerpods.io/vm"}, "verify-slot", "slot"),
        # The module does not wait for a pod that was not mutated.
        ({"state": "scheduled", "requests_slot": False}, "verify-slot", "mutation"),
        ({"state": "scheduled", "events": [sandbox_event(QUOTA)]}, "verify-vm", "quota"),
        ({"state": "booting"}, "verify-agent", "port"),
        ({"state": "pulling", "events": [event("Failed", "Image Pull error: denied")]}, "verify-pull", "pull"),
        ({"state": "running", "answer_error": "dial tcp 10.1.2.3:8080: i/o timeout"}, "verify-answer", "tunnel"),
        # Without any message, a check fails because the time is over.
        ({"state": "scheduled"}, "verify-vm", "unknown"),
        ({"state": "pulling"}, "verify-pull", "unknown"),
        # The cloud created a VM, whose agent was not reached, and then refused the next one.
        ({"state": "scheduled", "events": [sandbox_event(QUOTA)], "instances": [INSTANCE]}, "verify-vm", "quota"),
        # An error without a rule is reported by the check that did not pass.
        ({"state": "scheduled", "events": [event("FailedCreatePodSandBox", "no CNI")]}, "verify-vm", "unknown"),
    ],
)
def test_one_check_reports_the_cause_and_the_later_ones_are_unknown(changed: dict, failed: str, cause: str):
    found = by_check(pod(changed.pop("state"), **changed))
    order = [check for check in TITLES if check in found]
    assert (found[failed]["status"], found[failed]["cause"]) == ("error", cause)
    assert found[failed]["fix"] == KINDS[cause].fix
    assert [check for check in order if found[check]["status"] == "error"] == [failed]
    later = order[order.index(failed) + 1 : -1]
    assert {found[check]["status"] for check in later} == {"unknown"}


def test_an_image_without_the_program_was_pulled():
    found = by_check(pod("pulling", events=[event("Failed", "Error: the file python3 was not found: unknown")]))
    assert (found["verify-pull"]["status"], found["verify-answer"]["cause"]) == ("ok", "program")
    assert found["verify-pull"]["found"] == f"{NODE}: The image was pulled."


def test_a_cause_is_quoted_with_its_source():
    found = by_check(pod(events=[sandbox_event(QUOTA)]))["verify-vm"]["found"]
    assert found.startswith(
        f"{NODE}: quota: {KINDS['quota'].what}. From event FailedCreatePodSandBox: Failed to create pod"
    )
    assert "VcpuLimitExceeded" in found


def test_an_unreachable_vm_is_reported_with_the_end_of_its_console():
    console = "\n".join(f"line {number}" for number in range(9))
    instances = {"instances": [vm("running", console=console)]}
    found = by_check(pod("booting"), instances=instances)["verify-agent"]["found"]
    assert found.endswith(f"{INSTANCE} is running; the end of its console: line 4 / line 5 / line 6 / line 7 / line 8.")
    found = by_check(pod("booting"))["verify-agent"]["found"]
    assert found.endswith(f"{INSTANCE} is running; no console.")


def test_a_pod_without_a_slot_was_not_mutated():
    found = by_check(answered() | {"requests_slot": False})["verify-slot"]
    assert (found["status"], found["cause"]) == ("error", "mutation")


def test_a_pod_on_the_kernel_of_its_node_is_not_a_peer_pod():
    unboxed = answered()
    unboxed["answer"]["boot_id"] = unboxed["node_boot_id"]
    assert "on the kernel of its node" in by_check(unboxed)["verify-answer"]["found"]


@pytest.mark.parametrize(
    ("changed", "instances", "status", "said"),
    [
        ({"instances": []}, RUNNING, "warning", "no PeerPod names it"),
        ({}, GONE, "error", f"is terminated: {DELETED_BY_USER}."),
        ({}, {"instances": [{"id": INSTANCE, "state": "missing"}]}, "error", "does not exist in this account"),
        ({}, {"failed": True, "msg": "EC2 rejected DescribeInstances."}, "unknown", "EC2 rejected DescribeInstances."),
        ({}, None, "unknown", "the cloud was not read"),
    ],
)
def test_the_vm_that_the_peer_pod_names_must_exist(changed: dict, instances: dict, status: str, said: str):
    found = by_check(answered() | changed, instances=instances)["verify-vm"]
    assert found["status"] == status
    assert said in found["found"]


# Sources: the reasons of EC2 in docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html and in
# repost.aws/knowledge-center/kms-iam-ec2-permission, those of Azure in
# learn.microsoft.com/troubleshoot/azure/virtual-machines/allocation-failure.
@pytest.mark.parametrize(
    ("state", "reason", "cause"),
    [
        ("terminated", "Client.InternalError: Client error on launch", "vm"),
        ("shutting-down", "Server.InternalError: Internal error on launch", "vm"),
        ("terminated", "Client.VolumeLimitExceeded: Volume limit exceeded", "quota"),
        ("terminated", "Server.InsufficientInstanceCapacity: There was insufficient capacity available", "capacity"),
        ("failed", "AllocationFailed: Allocation failed. We do not have sufficient capacity", "capacity"),
        ("deallocated", "", "vm"),
    ],
)
@pytest.mark.parametrize("reached", ["booting", "pulling", "running"])
def test_a_vm_that_ended_is_the_cause(reached: str, state: str, reason: str, cause: str):
    """No packet reaches it, either."""
    timeout = sandbox_event("failed to establish agent proxy connection to 10.0.1.5:15150: context deadline exceeded")
    given = pod(
        reached, events=[timeout], answer_error="error trying to reach service: dial tcp 10.1.2.3:8080: i/o timeout"
    )
    found = by_check(given, instances={"instances": [vm(state, reason)]})
    assert (found["verify-vm"]["status"], found["verify-vm"]["cause"]) == ("error", cause)
    assert f"{INSTANCE} is {state}: {reason or 'no reason'}" in found["verify-vm"]["found"]
    assert {found[check]["status"] for check in ("verify-agent", "verify-pull", "verify-answer")} == {"unknown"}


@pytest.mark.parametrize("instances", [GONE, {"instances": [vm("missing")]}, {"instances": [vm("deleting")]}])
@pytest.mark.parametrize("state", ["booting", "scheduled"])
def test_cloud_api_adaptor_deletes_a_vm_that_it_does_not_reach(state: str, instances: dict):
    timeout = sandbox_event("failed to establish agent proxy connection to 10.0.1.5:15150: context deadline exceeded")
    found = by_check(pod(state, events=[timeout], instances=[INSTANCE]), instances=instances)
    assert (found["verify-vm"]["status"], found["verify-agent"]["cause"]) == ("ok", "port")
    assert found["verify-vm"]["found"].startswith(f"{NODE}: {INSTANCE} was created.")


def test_the_cloud_rejected_a_later_vm():
    instances = {"instances": [vm("terminated", "Client.InternalError: Client error on launch")]}
    given = pod("scheduled", events=[sandbox_event(QUOTA)], instances=[INSTANCE])
    assert by_check(given, instances=instances)["verify-vm"]["cause"] == "quota"


@pytest.mark.parametrize("check", ["service", "dns", "egress"])
def test_a_test_in_the_pod_that_failed(check: str):
    failed = {"ok": False, "found": "TimeoutError: timed out"}
    found = by_check(answered(**{check: failed}))
    assert {each: f["status"] for each, f in found.items() if f["status"] != "ok"} == {f"verify-{check}": "error"}
    assert "TimeoutError: timed out" in found[f"verify-{check}"]["found"]
    assert found[f"verify-{check}"]["cause"] == "network"


def test_the_log_of_the_pod_has_the_results_if_it_does_not_answer():
    """The tunnel carries the traffic in both directions, but not the log."""
    failed = {"ok": False, "found": "gaierror: [Errno -3] Temporary failure in name resolution"}
    output = {"boot_id": "b", "dns": failed, "service": failed, "egress": failed}
    found = by_check(pod("running", answer_error="i/o timeout", output=output))
    assert [found[check]["cause"] for check in ("verify-answer", "verify-service", "verify-dns")] == ["tunnel"] * 3


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({}, "ok", "The VM is deleted."),
        ({"remaining": RUNNING}, "error", f"{INSTANCE} (running)"),
        ({"remaining": {"failed": True, "msg": "No credentials."}}, "unknown", "No credentials."),
        ({"deleted": {"failed": True, "msg": "forbidden"}}, "error", "forbidden"),
        (
            {"deleted": {"remaining_pods": ["p"], "remaining_peer_pods": ["p-resource-1"]}},
            "error",
            "Not deleted within the time: p, p-resource-1.",
        ),
    ],
)
def test_what_stays_after_the_deletion(changed: dict, status: str, said: str):
    found = by_check(answered(), **changed)["verify-deleted"]
    assert found["status"] == status
    assert said in found["found"]


def test_without_a_vm_only_the_pod_is_deleted():
    found = by_check(pod(events=[sandbox_event(QUOTA)]), remaining=None)["verify-deleted"]
    assert (found["status"], found["found"]) == ("ok", "The pods are deleted. No VM was created.")


ORPHAN = {
    "id": "/subscriptions/s/…/podvm-p-1",
    "state": "failed",
    "state_reason": "AllocationFailed: Allocation failed.",
}


@pytest.mark.parametrize("instances", [[], [INSTANCE]])
def test_a_vm_whose_creation_failed_stays_in_azure(instances: list[str]):
    remaining = {"instances": [vm("missing")] if instances else [], "orphaned": [ORPHAN]}
    found = by_check(pod(instances=instances), remaining=remaining)["verify-deleted"]
    assert found["status"] == "error"
    assert f"{ORPHAN['id']} (failed: AllocationFailed: Allocation failed.)" in found["found"]


def test_a_vm_without_a_peer_pod_was_created():
    """cloud-api-adaptor may not create PeerPods, and continues."""
    given = answered() | {"instances": []}
    assert statuses(given, remaining={"instances": [], "orphaned": []})["verify-deleted"] == "ok"
    assert (
        by_check(given, remaining={"instances": [], "orphaned": []})["verify-deleted"]["found"] == "The VM is deleted."
    )
    assert statuses(given, remaining=None)["verify-deleted"] == "unknown"


def test_in_azure_no_vm_is_reported_only_if_it_was_looked_for():
    given = pod(instances=[])
    assert by_check(given, remaining={"instances": [], "orphaned": []})["verify-deleted"]["found"].endswith(
        "was created."
    )
    assert by_check(given, remaining={"msg": "No credentials."})["verify-deleted"]["status"] == "unknown"


def test_pods_that_are_kept_are_not_reported_as_deleted():
    assert "verify-deleted" not in statuses(answered(), deleted=None)


def test_nodes_are_merged_by_the_worst_status():
    other = answered() | {"wanted_node": "worker-2", "name": "peerpods-verify-00000"}
    found = by_check(pod(events=[sandbox_event(QUOTA)]), other)
    assert found["verify-vm"]["status"] == "error"
    assert NODE in found["verify-vm"]["found"]
    assert "worker-2" not in found["verify-vm"]["found"]
    assert found["verify-slot"]["found"] == f"{NODE}: 1 of 10 slots. worker-2: 1 of 10 slots."


def test_pods_that_were_not_created():
    (found,) = findings({"pods": {"failed": True, "msg": "The cluster has no node x. Check nodes."}})
    assert (found["check"], found["status"]) == ("verify-pods", "error")
    assert found["found"] == "The cluster has no node x. Check nodes."


def test_what_stays_is_reported_also_if_the_wait_failed():
    deleted = {"remaining_pods": [], "remaining_peer_pods": ["peerpods-verify-4f7q2-resource-1a2b3"]}
    created = {"msg": "The API server did not answer.", "leftovers": ["peerpods-verify-aaaaa"]}
    found = findings({"pods": created, "deleted": deleted, "remaining": None, "egress": ""})
    assert [(each["check"], each["status"]) for each in found] == [
        ("verify-pods", "error"),
        ("verify-deleted", "error"),
        ("verify-leftovers", "warning"),
    ]
    assert "peerpods-verify-4f7q2-resource-1a2b3" in found[1]["found"]
    # An earlier step of the wait returned its pods.
    found = findings(readings(pod(), pods={**created, "pods": [pod()]}))
    assert [each["check"] for each in found[:3]] == ["verify-pods", "verify-slot", "verify-vm"]
    assert found[0]["found"] == "The API server did not answer."


def test_no_pod_was_created_and_none_is_left():
    found = findings({"pods": {"msg": "forbidden"}, "deleted": DELETED, "remaining": None, "egress": ""})
    assert found[1]["found"] == "No pod and no PeerPod of a verification exists."


def test_nodes_without_a_free_slot_are_named():
    found = by_check(answered(), unverified=["worker-2", "worker-3"])["verify-nodes"]
    assert (found["status"], found["found"]) == ("warning", "Without a free slot: worker-2, worker-3.")
    assert "verify-nodes" not in by_check(answered(), unverified=[])


def test_leftovers_of_an_earlier_run_are_named():
    given = readings(answered())
    given["pods"]["leftovers"] = ["peerpods-verify-aaaaa"]
    (found,) = [each for each in findings(given) if each["status"] != "ok"]
    assert (found["check"], found["status"]) == ("verify-leftovers", "warning")
    assert "peerpods-verify-aaaaa" in found["found"]


def test_every_check_has_its_texts():
    assert TITLES.keys() == WHY.keys()
