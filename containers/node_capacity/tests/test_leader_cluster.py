"""Leader election between two replicas, with a real API server."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta

import pytest
from agent_process import LEASE, LONG_DURATION, Agent, Workspace, until

# The seconds of a Lease. A third of it is enough for a renewal on a busy machine, and a test waits for its end.
SHORT_DURATION = "9"


@pytest.fixture
def lease(workspace: Workspace):
    """Returns a function that writes the fields of the Lease's spec as another holder."""

    def write(**spec: object) -> None:
        workspace.apply(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": LEASE, "namespace": workspace.id},
                "spec": spec,
            }
        )

    return write


def leader_and_follower(workspace: Workspace, duration: str) -> tuple[Agent, Agent]:
    leader = workspace.start(LEASE_DURATION_SECONDS=duration)
    until(leader.leads, True)
    return leader, workspace.start(LEASE_DURATION_SECONDS=duration)


def test_only_the_leader_writes_and_reports_nodes(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    leader, follower = leader_and_follower(workspace, "15")
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"))
    until(lambda: leader.patched(node), [3, 4])
    assert not follower.leads()
    assert follower.patched(node) == []
    of_node = [("peerpods_node_slots_desired", node)]
    assert [key for key in leader.metrics() if key in of_node] == of_node
    assert [key for key in follower.metrics() if key in of_node] == []


def test_a_leader_that_stops_releases_the_lease(workspace):
    """Without the release, the Lease would last longer than the test."""
    node = workspace.node("a")
    workspace.config("c", "3")
    leader, follower = leader_and_follower(workspace, LONG_DURATION)
    until(lambda: workspace.slots(node), ("3", "3"))
    leader.stop()
    until(follower.leads, True)
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"))
    assert follower.warnings() == []


def test_a_killed_leader_is_replaced_during_a_limit_change(workspace):
    deselected, *_rest = workspace.nodes(40)
    workspace.config("c", "3")
    leader, follower = leader_and_follower(workspace, SHORT_DURATION)
    until(lambda: set(workspace.all_slots().values()), {("3", "3")})
    workspace.config("c", "4")
    until(lambda: leader.log("info")[-1].get("slots"), 4)
    leader.process.kill()
    workspace.relabel(deselected, f"{workspace.label}-")
    until(lambda: workspace.slots(deselected), (None, None))
    until(lambda: set(workspace.all_slots().values()), {("4", "4"), (None, None)})
    assert follower.leads()


def test_a_suspended_leader_stops_writing(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    leader, follower = leader_and_follower(workspace, SHORT_DURATION)
    until(lambda: workspace.slots(node), ("3", "3"))
    leader.process.send_signal(signal.SIGSTOP)
    until(follower.leads, True)
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"))
    leader.process.send_signal(signal.SIGCONT)
    until(leader.leads, False)
    workspace.config("c", "5")
    until(lambda: workspace.slots(node), ("5", "5"))
    until(lambda: leader.patched(node), [3])
    until(lambda: follower.patched(node), [4, 5])


def test_a_deleted_lease_is_created_again(workspace, cluster):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start(LEASE_DURATION_SECONDS="3")
    until(lambda: workspace.slots(node), ("3", "3"))
    holder = workspace.lease()["holderIdentity"]
    cluster.delete("lease", LEASE, "-n", workspace.id)
    until(
        lambda: cluster.kubectl("get", "lease", "-n", workspace.id, "-o", "name"),
        f"lease.coordination.k8s.io/{LEASE}\n",
    )
    assert workspace.lease()["holderIdentity"] == holder
    # A teardown removes only a Lease with the labels of the agent.
    labels = "app.kubernetes.io/part-of=osc.peerpods,app.kubernetes.io/name=peerpods-node-capacity"
    assert cluster.kubectl("get", "lease", "-n", workspace.id, "-o", "name", "-l", labels)
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"))
    assert agent.leads()


@pytest.mark.parametrize("year", [2001, 2099])
def test_the_clocks_of_other_machines_are_not_compared(workspace, lease, year):
    """A holder whose clock differs by years keeps the Lease while it renews it, and no longer."""
    node = workspace.node("a")

    def renew(second: int, duration: int) -> None:
        time = f"{year}-01-01T00:00:{second:02}.000000Z"
        lease(holderIdentity="other", leaseDurationSeconds=duration, renewTime=time)

    renew(0, int(LONG_DURATION))
    agent = workspace.start()
    workspace.config("c", "3")
    # The agent has read the Lease before, and would have acquired it by now.
    until(lambda: any(record["message"].startswith("Limits found") for record in agent.log("info")), True)
    assert workspace.lease()["holderIdentity"] == "other"
    renewed_at = datetime.now(UTC)
    renew(1, 2)
    until(agent.leads, True)
    until(lambda: workspace.slots(node), ("3", "3"))
    assert datetime.fromisoformat(workspace.lease()["acquireTime"]) - renewed_at >= timedelta(seconds=2)


def test_the_fields_of_the_lease(workspace, lease):
    lease(holderIdentity="", leaseDurationSeconds=1, leaseTransitions=7)
    agent = workspace.start(LEASE_DURATION_SECONDS="9")
    until(agent.leads, True)
    spec = workspace.lease()
    assert spec["holderIdentity"].count("_") == 1
    assert spec["leaseDurationSeconds"] == 9
    assert spec["leaseTransitions"] == 8
    assert spec["acquireTime"] <= spec["renewTime"]
    first = spec["renewTime"]
    until(lambda: workspace.lease()["renewTime"] > first, True)
