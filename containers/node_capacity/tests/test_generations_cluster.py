"""Limits of the second generation, and cloud-api-adaptor, by an agent against a real API server."""

from __future__ import annotations

import time

import pytest
from agent_process import until

# Seconds within which what cloud-api-adaptor wrote is corrected, with the time that kubectl takes.
SOON = 2


@pytest.fixture
def second(place):
    """A cluster of the second generation: one node of the operator's pool, with a limit of 20."""
    place.peer_pods_cm("20")
    place.daemon_set()
    return place


def settled(place, nodes: dict[str, str]) -> None:
    until(lambda: {n: place.slots(n) for n in nodes}, {n: (v, v) for n, v in nodes.items()})


def test_the_limit_of_peer_pods_cm(second):
    node, other = second.node("a"), second.node("other", selected=False)
    agent = second.start()
    settled(second, {node: "20"})
    metrics = agent.metrics()
    assert metrics[("peerpods_pool_limit", "default", "peer-pods-cm")] == 20
    assert metrics[("peerpods_operator_generation",)] == 2
    second.peer_pods_cm(None)
    settled(second, {node: "10"})
    assert second.slots(other) == (None, None)


def test_peerpods_limits_wins_and_has_pools_of_its_own(second):
    node, memory = second.node("a"), second.node("memory")
    second.relabel(memory, "pool=memory")
    agent = second.start()
    settled(second, {node: "20", memory: "20"})
    own = {"limit": 4, "nodeSelector": {"pool": "memory", second.label: ""}}
    second.limits(default={"limit": 30}, memory=own)
    settled(second, {node: "30", memory: "4"})
    second.limits(default={"limit": 2}, memory=own)
    settled(second, {node: "2", memory: "4"})
    second.limits(memory=own | {"limit": 40})
    settled(second, {node: "20", memory: "40"})
    second.delete("configmap", "peerpods-limits")
    settled(second, {node: "20", memory: "20"})
    assert agent.log("warning") == []


def test_an_entry_that_is_broken(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    agent = second.start()
    settled(second, {node: "30"})
    second.limits(default='{"limit":')
    problem = ("peerpods_pool_problem", "default", "InvalidLimit")
    until(lambda: agent.metrics().get(problem), 1)
    late = second.node("late")
    settled(second, {node: "30", late: "30"})
    (warning,) = agent.log("warning")
    assert (warning["pool"], warning["reason"]) == ("default", "InvalidLimit")
    assert "PeerPodConfig" not in warning["message"]
    assert second.events() == []


@pytest.mark.parametrize("written", ["-1", "ten"])
def test_a_product_without_a_limit_leaves_nodes_as_they_are(place, written):
    node, bare = place.node("a"), place.node("bare")
    place.peer_pods_cm(written)
    place.daemon_set()
    place.set_status(node, "7")
    agent = place.start()
    place.limits(other={"limit": 1, "nodeSelector": {"no": "node"}})
    until(lambda: agent.metrics().get(("peerpods_pool_limit", "other", "peerpods-limits")), 1)
    assert place.slots(node) == ("7", "7")
    assert place.slots(bare) == (None, None)
    place.limits(default={"limit": 5})
    settled(place, {node: "5", bare: "5"})


def test_a_node_that_leaves_the_operators_pool_loses_the_resource(second):
    """While the agent runs, and while it does not: the operator's own pool is still known."""
    leaving, later, foreign = (second.node(name) for name in ("leaving", "later", "foreign"))
    agent = second.start()
    settled(second, dict.fromkeys((leaving, later, foreign), "20"))
    second.relabel(leaving, f"{second.label}-")
    until(lambda: second.slots(leaving), (None, None))
    agent.process.kill()
    second.advertise(foreign, None)
    second.advertise(foreign, 20)
    for node in (later, foreign):
        second.relabel(node, f"{second.label}-")
    agent = second.start()
    until(lambda: second.slots(later), (None, None))
    until(lambda: [r.get("node") for r in agent.log("info") if "stays" in r["message"]], [foreign])
    assert second.slots(foreign) == ("20", "20")


def test_an_upgrade_from_the_first_generation(place):
    """As the operator does it: the limit is copied and the PeerPodConfig deleted, then osc-caa-ds is
    made. In between no limit is known, and another pool's PeerPodConfig stays."""
    node, memory = place.node("a"), place.node("memory", selected=False)
    place.relabel(memory, f"{place.label}-memory=")
    place.peer_pods_cm(None)
    place.daemon_set("peerpodconfig-ctrl-caa-daemon")
    place.config("peerpodconfig-openshift", "12")
    place.config("memory", "4", selector={f"{place.label}-memory": ""})
    agents = [place.start(), place.start()]
    settled(place, {node: "12", memory: "4"})
    until(lambda: sum(agent.leads() for agent in agents), 1)
    (leader,) = (agent for agent in agents if agent.leads())
    generation = ("peerpods_operator_generation",)
    assert leader.metrics()[generation] == 1

    place.peer_pods_cm("12")
    place.delete_config("peerpodconfig-openshift")
    place.delete("daemonset", "peerpodconfig-ctrl-caa-daemon")
    until(lambda: leader.metrics()[generation], 0)
    # Whoever starts in between knows no more.
    for agent in agents:
        agent.process.kill()
    agent = place.start(LEASE_DURATION_SECONDS="3")
    until(agent.leads, True)
    place.config("memory", "5", selector={f"{place.label}-memory": ""})
    settled(place, {node: "12", memory: "5"})

    place.daemon_set()
    until(lambda: agent.metrics()[generation], 2)
    place.advertise(node, 10)
    settled(place, {node: "12"})
    # The limit that was given before the upgrade is the first that the agent reads after it.
    until(lambda: agent.patched(node), [12])
    place.limits(default={"limit": 15})
    settled(place, {node: "15", memory: "5"})
    assert None not in [*leader.patched(node), *agent.patched(node)]


def test_no_free_slots_without_an_adaptor_in_the_middle_of_an_upgrade(place):
    """The operator deletes peerpodconfig-openshift and with it the DaemonSet, then a job builds the
    image of the pod VMs, and only then osc-caa-ds is made: an hour without cloud-api-adaptor."""
    node, bare = place.node("a"), place.node("bare", selected=False)
    place.peer_pods_cm(None)
    place.daemon_set("peerpodconfig-ctrl-caa-daemon")
    place.config("peerpodconfig-openshift", "12")
    pod = place.adaptor(node, daemon_set="peerpodconfig-ctrl-caa-daemon")
    for number in range(2):
        place.peer_pod(f"runs-{number}", node)
    agents = [place.start(REQUIRE_READY_ADAPTOR="true", LEASE_DURATION_SECONDS="3") for _ in "ab"]
    settled(place, {node: "12"})
    until(lambda: sum(agent.leads() for agent in agents), 1)
    leader, other = sorted(agents, key=lambda agent: not agent.leads())

    place.peer_pods_cm("12")
    place.delete_config("peerpodconfig-openshift")
    place.delete("daemonset", "peerpodconfig-ctrl-caa-daemon")
    until(lambda: leader.metrics()[("peerpods_limits_found",)], 0)
    assert leader.get("/readyz") == 200
    assert "while cloud-api-adaptor is ready" in leader.body("/readyz")
    assert place.slots(node) == ("12", "12")
    place.relabel(bare, f"{place.label}=")
    place.remove_pod(pod)
    settled(place, {node: "2"})
    assert leader.metrics()[("peerpods_node_adaptor_ready", node)] == 0
    # The other replica has seen the same, and what ends is no longer counted.
    leader.process.kill()
    until(other.leads, True)
    place.remove_pod("runs-0")
    settled(place, {node: "1"})
    assert place.slots(bare) == (None, None)

    # Who starts now knows nothing, and writes nothing.
    other.process.kill()
    place.set_status(node, "9")
    newcomer = place.start(REQUIRE_READY_ADAPTOR="true", LEASE_DURATION_SECONDS="3")
    until(newcomer.leads, True)
    assert "no node is changed" in newcomer.body("/readyz")
    place.remove_pod("runs-1")
    until(lambda: newcomer.metrics().get(("peerpods_node_slots_used", node)), 0)
    place.daemon_set()
    settled(place, {node: "0"})
    until(lambda: newcomer.patched(node), [0])
    place.adaptor(node)
    settled(place, {node: "12"})


def test_an_adaptor_that_is_ready_again_in_the_middle_of_an_upgrade(place):
    """The limit known before is back, but no number of another program is lowered."""
    node = place.node("a")
    place.config("peerpodconfig-openshift", "12")
    pod = place.adaptor(node)
    agent = place.start(REQUIRE_READY_ADAPTOR="true")
    settled(place, {node: "12"})
    place.delete_config("peerpodconfig-openshift")
    until(lambda: agent.metrics()[("peerpods_limits_found",)], 0)
    place.set_ready(pod, False)
    settled(place, {node: "0"})
    place.set_ready(pod, True)
    settled(place, {node: "12"})
    place.set_status(node, "20")
    place.relabel(node, "unrelated=label")
    until(lambda: agent.metrics()[("peerpods_node_slots_advertised", node)], 20)
    assert place.slots(node) == ("20", "20")
    until(lambda: agent.patched(node), [12, 0, 12])


def test_nodes_of_an_entry_without_a_valid_limit_keep_what_they_have(second):
    """They get neither the limit of the default nor what the cloud leaves, which could not be undone."""
    node, memory = second.node("a"), second.node("memory")
    second.relabel(memory, "pool=memory")
    second.set_status(memory, "9")
    own = {"limit": "4", "nodeSelector": {"pool": "memory", second.label: ""}}
    second.limits(memory=own)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    second.adaptor(node)
    second.adaptor(memory)
    settled(second, {node: "20", memory: "9"})
    second.cloud_capacity(quota="2")
    settled(second, {node: "1", memory: "9"})
    second.delete("configmap", "peerpods-cloud-capacity")
    settled(second, {node: "20", memory: "9"})
    assert agent.patched(memory) == []
    second.limits(memory=own | {"limit": 4})
    settled(second, {node: "20", memory: "4"})


def test_a_node_advertises_its_limit_only_while_its_adaptor_is_ready(second):
    node = second.node("a")
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    settled(second, {node: "0"})
    adaptor_ready = ("peerpods_node_adaptor_ready", node)
    assert agent.metrics()[adaptor_ready] == 0
    assert agent.metrics()[("peerpods_node_slots_bound_info", "adaptor", node)] == 1
    pod = second.adaptor(node, ready=False)
    second.set_ready(pod, True)
    settled(second, {node: "20"})
    assert agent.metrics()[adaptor_ready] == 1

    # It is down: what runs stays counted, and what ends is no longer.
    for number in range(2):
        second.peer_pod(f"runs-{number}", node)
    until(lambda: agent.metrics().get(("peerpods_node_slots_used", node)), 2)
    assert second.slots(node) == ("20", "20")
    second.set_ready(pod, False)
    settled(second, {node: "2"})
    second.remove_pod("runs-0")
    settled(second, {node: "1"})
    second.limits(default={"limit": 30})
    until(lambda: agent.metrics()[("peerpods_pool_limit", "default", "peerpods-limits")], 30)
    settled(second, {node: "1"})
    second.set_ready(pod, True)
    settled(second, {node: "30"})

    # It stops: not ready from its deletionTimestamp on, whatever its condition says.
    second.stop_pod(pod)
    settled(second, {node: "1"})
    # And its own removal of the capacity is not undone with free slots.
    second.advertise(node, None)
    settled(second, {node: "1"})
    second.remove_pod(pod)
    second.adaptor(node)
    settled(second, {node: "30"})
    assert agent.log("warning") == []


def test_an_adaptor_of_the_first_generation_counts_as_well(place):
    node = place.node("a")
    place.config("peerpodconfig-openshift", "3")
    place.daemon_set("peerpodconfig-ctrl-caa-daemon")
    place.start(REQUIRE_READY_ADAPTOR="true")
    settled(place, {node: "0"})
    assert place.status("peerpodconfig-openshift") == {}
    place.adaptor(node, daemon_set="peerpodconfig-ctrl-caa-daemon")
    settled(place, {node: "3"})
    until(lambda: place.status("peerpodconfig-openshift"), {"setupCompleted": True})


def test_what_an_adaptor_advertises_when_it_starts_is_corrected_soon(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    pod = second.adaptor(node)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    settled(second, {node: "30"})
    for _ in range(2):
        second.set_ready(pod, False)
        second.advertise(node, None)
        second.set_ready(pod, True)
        second.advertise(node, 20)
        began = time.monotonic()
        until(lambda: second.slots(node), ("30", "30"), seconds=SOON)
        assert time.monotonic() - began < SOON
        # Long enough for the next restart to be another one.
    assert agent.log("warning") == []


def test_an_adaptor_that_restarts_in_a_loop_makes_no_storm(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    pod = second.adaptor(node)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    settled(second, {node: "30"})
    for _ in range(15):
        second.set_ready(pod, False)
        second.advertise(node, None)
        second.set_ready(pod, True)
        second.advertise(node, 20)
    (warning,) = agent.log("warning")
    assert warning["node"] == node
    assert len(agent.patched(node)) < 25
    # Another limit is no part of the fight.
    second.limits(default={"limit": 40})
    until(lambda: second.slots(node), ("40", "40"), seconds=SOON)


def test_a_node_that_is_cordoned_or_gone_is_no_error(second, cluster):
    node, gone = second.node("a"), second.node("gone")
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    settled(second, {node: "0", gone: "0"})
    adaptor_ready = ("peerpods_node_adaptor_ready", node)
    assert agent.metrics()[adaptor_ready] == 0
    cluster.kubectl("cordon", node)
    cluster.kubectl("delete", "node", gone)
    until(lambda: adaptor_ready in agent.metrics(), False)
    settled(second, {node: "0"})
    assert agent.log("warning") == []


def test_without_the_requirement_adaptors_are_not_watched(second, cluster):
    """Nor is the permission needed."""
    node = second.node("a")
    agent = second.start(REQUIRE_READY_ADAPTOR="false", COUNT_PEER_PODS="false")
    settled(second, {node: "20"})
    listed = agent.metrics()[("peerpods_node_capacity_requests_total", "200", "list")]
    # Lease, PeerPodConfigs, peerpods-limits, peer-pods-cm, DaemonSets, nodes, cloud capacity.
    assert listed == 7
