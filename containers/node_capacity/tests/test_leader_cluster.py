"""Two replicas, one Lease, a real API server: who writes, and what becomes of a change meanwhile."""

from __future__ import annotations

import signal

import pytest
from agent_process import LEASE, Agent, Place, until

# Seconds; far longer than a test waits for anything.
FOR_EVER = "600"


@pytest.fixture
def lease(place: Place):
    """Writes the Lease as somebody else would: spec's fields."""

    def write(**spec: object) -> None:
        place.apply(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": LEASE, "namespace": place.id},
                "spec": spec,
            }
        )

    return write


def leader_and_other(place: Place, duration: str) -> tuple[Agent, Agent]:
    leader = place.start(LEASE_DURATION_SECONDS=duration)
    until(leader.leads, True)
    return leader, place.start(LEASE_DURATION_SECONDS=duration)


def test_one_writes_and_tells_of_the_nodes(place):
    node = place.node("a")
    place.config("c", "3")
    leader, other = leader_and_other(place, "15")
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    until(lambda: leader.patched(node), [3, 4])
    assert not other.leads()
    assert other.patched(node) == []
    of_node = [("peerpods_node_slots_desired", node)]
    assert [key for key in leader.metrics() if key in of_node] == of_node
    assert [key for key in other.metrics() if key in of_node] == []


def test_a_leader_that_ends_hands_over(place):
    """The Lease itself would last for ever."""
    node = place.node("a")
    place.config("c", "3")
    leader, other = leader_and_other(place, FOR_EVER)
    until(lambda: place.slots(node), ("3", "3"))
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(timeout=5) == 0
    until(other.leads, True)
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    assert other.log("warning") == []


def test_a_killed_leader_is_followed_in_the_middle_of_a_change(place):
    gone, *_rest = place.nodes(40)
    place.config("c", "3")
    leader, other = leader_and_other(place, "3")
    until(lambda: set(place.all_slots().values()), {("3", "3")})
    place.config("c", "4")
    until(lambda: leader.log("info")[-1].get("slots"), 4)
    leader.process.kill()
    place.relabel(gone, f"{place.label}-")
    until(lambda: place.slots(gone), (None, None))
    until(lambda: set(place.all_slots().values()), {("4", "4"), (None, None)})
    assert other.leads()


def test_a_leader_that_stood_still_writes_no_more(place):
    node = place.node("a")
    place.config("c", "3")
    leader, other = leader_and_other(place, "3")
    until(lambda: place.slots(node), ("3", "3"))
    leader.process.send_signal(signal.SIGSTOP)
    until(other.leads, True)
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    leader.process.send_signal(signal.SIGCONT)
    until(leader.leads, False)
    place.config("c", "5")
    until(lambda: place.slots(node), ("5", "5"))
    until(lambda: leader.patched(node), [3])
    until(lambda: other.patched(node), [4, 5])


def test_a_lease_that_is_deleted_is_made_again(place, cluster):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start(LEASE_DURATION_SECONDS="3")
    until(lambda: place.slots(node), ("3", "3"))
    holder = place.lease()["holderIdentity"]
    cluster.kubectl("delete", "lease", LEASE, "-n", place.id)
    until(
        lambda: cluster.kubectl("get", "lease", "-n", place.id, "-o", "name"),
        f"lease.coordination.k8s.io/{LEASE}\n",
    )
    assert place.lease()["holderIdentity"] == holder
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    assert agent.leads()


@pytest.mark.parametrize("year", [2001, 2099])
def test_the_clocks_of_others_do_not_count(place, lease, year):
    """A holder whose clock is years away is believed while it renews, and no longer."""
    node = place.node("a")
    place.config("c", "3")

    def renew(second: int) -> None:
        time = f"{year}-01-01T00:00:{second:02}.000000Z"
        lease(holderIdentity="other", leaseDurationSeconds=3, renewTime=time)

    renew(0)
    agent = place.start()
    for second in range(1, 5):
        renew(second)
        with pytest.raises(AssertionError, match="still False"):
            until(agent.leads, True, seconds=1)
    assert place.lease()["holderIdentity"] == "other"
    until(agent.leads, True)
    until(lambda: place.slots(node), ("3", "3"))


def test_the_lease_says_who_since_when_and_how_often(place, lease):
    lease(holderIdentity="", leaseDurationSeconds=1, leaseTransitions=7)
    agent = place.start(LEASE_DURATION_SECONDS="9")
    until(agent.leads, True)
    spec = place.lease()
    assert spec["holderIdentity"].count("_") == 1
    assert spec["leaseDurationSeconds"] == 9
    assert spec["leaseTransitions"] == 8
    assert spec["acquireTime"] <= spec["renewTime"]
    first = spec["renewTime"]
    until(lambda: place.lease()["renewTime"] > first, True)
