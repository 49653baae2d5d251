"""Limits of the second generation, and cloud-api-adaptor, with an agent and a real API server."""

from __future__ import annotations

import pytest
from agent_process import LONG_DURATION, until

# Seconds within which the value of cloud-api-adaptor is corrected, including the time of kubectl.
CORRECTION_TIME = 10


@pytest.fixture
def second(workspace):
    """A cluster of the second generation: one node of the operator's pool, with a limit of 20."""
    workspace.peer_pods_cm("20")
    workspace.daemon_set()
    return workspace


def wait_for_slots(workspace, nodes: dict[str, str]) -> None:
    until(lambda: {n: workspace.slots(n) for n in nodes}, {n: (v, v) for n, v in nodes.items()})


def test_the_limit_of_peer_pods_cm(second):
    node, unselected = second.node("a"), second.node("other", selected=False)
    agent = second.start()
    wait_for_slots(second, {node: "20"})
    metrics = agent.metrics()
    assert metrics[("peerpods_pool_limit", "default", "peer-pods-cm")] == 20
    assert metrics[("peerpods_operator_generation",)] == 2
    second.peer_pods_cm(None)
    wait_for_slots(second, {node: "10"})
    assert second.slots(unselected) == (None, None)


def test_peerpods_limits_takes_precedence_and_has_its_own_pools(second):
    node, memory = second.node("a"), second.node("memory")
    second.relabel(memory, "pool=memory")
    agent = second.start()
    wait_for_slots(second, {node: "20", memory: "20"})
    own = {"limit": 4, "nodeSelector": {"pool": "memory", second.label: ""}}
    second.limits(default={"limit": 30}, memory=own)
    wait_for_slots(second, {node: "30", memory: "4"})
    second.limits(default={"limit": 2}, memory=own)
    wait_for_slots(second, {node: "2", memory: "4"})
    second.limits(memory=own | {"limit": 40})
    wait_for_slots(second, {node: "20", memory: "40"})
    second.delete("configmap", "peerpods-limits")
    wait_for_slots(second, {node: "20", memory: "20"})
    assert agent.warnings() == []


def test_an_invalid_entry(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    agent = second.start()
    wait_for_slots(second, {node: "30"})
    second.limits(default='{"limit":')
    problem = ("peerpods_pool_problem", "default", "InvalidLimit")
    until(lambda: agent.metrics().get(problem), 1)
    new_node = second.node("late")
    wait_for_slots(second, {node: "30", new_node: "30"})
    (warning,) = agent.warnings()
    assert (warning["pool"], warning["reason"]) == ("default", "InvalidLimit")
    assert "PeerPodConfig" not in warning["message"]
    assert second.events() == []


@pytest.mark.parametrize("written", ["-1", "ten"])
def test_a_setting_without_a_limit_leaves_nodes_unchanged(workspace, written):
    node, without_resource = workspace.node("a"), workspace.node("bare")
    workspace.peer_pods_cm(written)
    workspace.daemon_set()
    workspace.set_status(node, "7")
    agent = workspace.start()
    workspace.limits(other={"limit": 1, "nodeSelector": {"no": "node"}})
    until(lambda: agent.metrics().get(("peerpods_pool_limit", "other", "peerpods-limits")), 1)
    assert workspace.slots(node) == ("7", "7")
    assert workspace.slots(without_resource) == (None, None)
    workspace.limits(default={"limit": 5})
    wait_for_slots(workspace, {node: "5", without_resource: "5"})


def test_a_node_deselected_by_the_operators_pool_loses_the_resource(second):
    """The agent removes it while it runs, and after a restart, because the operator's own pool exists."""
    deselected, deselected_later, foreign = (second.node(name) for name in ("leaving", "later", "foreign"))
    agent = second.start()
    wait_for_slots(second, dict.fromkeys((deselected, deselected_later, foreign), "20"))
    second.relabel(deselected, f"{second.label}-")
    until(lambda: second.slots(deselected), (None, None))
    agent.process.kill()
    second.advertise(foreign, None)
    second.advertise(foreign, 20)
    for node in (deselected_later, foreign):
        second.relabel(node, f"{second.label}-")
    agent = second.start()
    until(lambda: second.slots(deselected_later), (None, None))
    until(lambda: [r.get("node") for r in agent.log("info") if "stays" in r["message"]], [foreign])
    assert second.slots(foreign) == ("20", "20")


def test_an_upgrade_from_the_first_generation(workspace):
    """The operator copies the limit, deletes the PeerPodConfig, and then creates osc-caa-ds. In between no limit is
    known; the PeerPodConfig of another pool stays."""
    node, memory = workspace.node("a"), workspace.node("memory", selected=False)
    workspace.relabel(memory, f"{workspace.label}-memory=")
    workspace.peer_pods_cm(None)
    workspace.daemon_set("peerpodconfig-ctrl-caa-daemon")
    workspace.config("peerpodconfig-openshift", "12")
    workspace.config("memory", "4", selector={f"{workspace.label}-memory": ""})
    agents = [workspace.start(), workspace.start()]
    wait_for_slots(workspace, {node: "12", memory: "4"})
    until(lambda: sum(agent.leads() for agent in agents), 1)
    (leader,) = (agent for agent in agents if agent.leads())
    generation = ("peerpods_operator_generation",)
    assert leader.metrics()[generation] == 1

    workspace.peer_pods_cm("12")
    workspace.delete_config("peerpodconfig-openshift")
    workspace.delete("daemonset", "peerpodconfig-ctrl-caa-daemon")
    until(lambda: leader.metrics().get(generation), 0)
    # An agent that starts in between does not know the pool.
    for agent in agents:
        agent.stop()
    agent = workspace.start()
    until(agent.leads, True)
    workspace.config("memory", "5", selector={f"{workspace.label}-memory": ""})
    wait_for_slots(workspace, {node: "12", memory: "5"})

    workspace.daemon_set()
    until(lambda: agent.metrics().get(generation), 2)
    workspace.advertise(node, 10)
    wait_for_slots(workspace, {node: "12"})
    # The first limit that the agent reads after the upgrade is the limit from before it.
    until(lambda: agent.patched(node), [12])
    workspace.limits(default={"limit": 15})
    wait_for_slots(workspace, {node: "15", memory: "5"})
    assert None not in [*leader.patched(node), *agent.patched(node)]


def test_no_free_slots_without_an_adaptor_during_an_upgrade(workspace):
    """The operator deletes peerpodconfig-openshift and its DaemonSet, builds the image of the pod VMs, and then creates
    osc-caa-ds: there is no cloud-api-adaptor for up to an hour."""
    node, bare = workspace.node("a"), workspace.node("bare", selected=False)
    workspace.peer_pods_cm(None)
    workspace.daemon_set("peerpodconfig-ctrl-caa-daemon")
    workspace.config("peerpodconfig-openshift", "12")
    pod = workspace.adaptor(node, daemon_set="peerpodconfig-ctrl-caa-daemon")
    for number in range(2):
        workspace.peer_pod(f"runs-{number}", node)
    # The leader stays the leader until it stops, also on a busy machine.
    options = {"REQUIRE_READY_ADAPTOR": "true", "LEASE_DURATION_SECONDS": LONG_DURATION}
    agents = [workspace.start(**options) for _ in "ab"]
    wait_for_slots(workspace, {node: "12"})
    until(lambda: sum(agent.leads() for agent in agents), 1)
    leader, follower = sorted(agents, key=lambda agent: not agent.leads())

    workspace.peer_pods_cm("12")
    workspace.delete_config("peerpodconfig-openshift")
    workspace.delete("daemonset", "peerpodconfig-ctrl-caa-daemon")
    until(lambda: leader.metrics().get(("peerpods_limits_found",)), 0)
    assert leader.get("/readyz") == 200
    assert "while cloud-api-adaptor is ready" in leader.body("/readyz")
    assert workspace.slots(node) == ("12", "12")
    workspace.relabel(bare, f"{workspace.label}=")
    workspace.remove_pod(pod)
    wait_for_slots(workspace, {node: "2"})
    assert leader.metrics()[("peerpods_node_adaptor_ready", node)] == 0
    # The other replica has the same state, and peer pods that end are no longer counted.
    leader.stop()
    until(follower.leads, True)
    workspace.remove_pod("runs-0")
    wait_for_slots(workspace, {node: "1"})
    assert workspace.slots(bare) == (None, None)

    # An agent that starts now does not know the pool, and writes nothing.
    follower.stop()
    workspace.set_status(node, "9")
    newcomer = workspace.start(**options)
    until(newcomer.leads, True)
    assert "nodes are not changed" in newcomer.body("/readyz")
    workspace.remove_pod("runs-1")
    until(lambda: newcomer.metrics().get(("peerpods_node_slots_used", node)), 0)
    workspace.daemon_set()
    wait_for_slots(workspace, {node: "0"})
    until(lambda: newcomer.patched(node), [0])
    workspace.adaptor(node)
    wait_for_slots(workspace, {node: "12"})


def test_an_adaptor_that_becomes_ready_again_during_an_upgrade(workspace):
    """The last known limit is restored, but a higher number of another program is not lowered."""
    node = workspace.node("a")
    workspace.config("peerpodconfig-openshift", "12")
    pod = workspace.adaptor(node)
    agent = workspace.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(workspace, {node: "12"})
    workspace.delete_config("peerpodconfig-openshift")
    until(lambda: agent.metrics().get(("peerpods_limits_found",)), 0)
    workspace.set_ready(pod, False)
    wait_for_slots(workspace, {node: "0"})
    workspace.set_ready(pod, True)
    wait_for_slots(workspace, {node: "12"})
    workspace.set_status(node, "20")
    workspace.relabel(node, "unrelated=label")
    until(lambda: agent.metrics().get(("peerpods_node_slots_advertised", node)), 20)
    assert workspace.slots(node) == ("20", "20")
    until(lambda: agent.patched(node), [12, 0, 12])


def test_nodes_of_an_entry_without_a_valid_limit_keep_their_slots(second):
    """Neither the limit of the default pool nor a bound of the cloud applies: it could not be undone."""
    node, memory = second.node("a"), second.node("memory")
    second.relabel(memory, "pool=memory")
    second.set_status(memory, "9")
    own = {"limit": "4", "nodeSelector": {"pool": "memory", second.label: ""}}
    second.limits(memory=own)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    second.adaptor(node)
    second.adaptor(memory)
    wait_for_slots(second, {node: "20", memory: "9"})
    second.cloud_capacity(quota="2")
    wait_for_slots(second, {node: "1", memory: "9"})
    second.delete("configmap", "peerpods-cloud-capacity")
    wait_for_slots(second, {node: "20", memory: "9"})
    assert agent.patched(memory) == []
    second.limits(memory=own | {"limit": 4})
    wait_for_slots(second, {node: "20", memory: "4"})


def test_a_node_advertises_its_limit_only_while_its_adaptor_is_ready(second):
    node = second.node("a")
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(second, {node: "0"})
    adaptor_ready = ("peerpods_node_adaptor_ready", node)
    assert agent.metrics()[adaptor_ready] == 0
    assert agent.metrics()[("peerpods_node_slots_bound_info", "adaptor", node)] == 1
    pod = second.adaptor(node, ready=False)
    second.set_ready(pod, True)
    wait_for_slots(second, {node: "20"})
    assert agent.metrics()[adaptor_ready] == 1

    # The adaptor is not ready: running peer pods stay counted, those that end do not.
    for number in range(2):
        second.peer_pod(f"runs-{number}", node)
    until(lambda: agent.metrics().get(("peerpods_node_slots_used", node)), 2)
    assert second.slots(node) == ("20", "20")
    second.set_ready(pod, False)
    wait_for_slots(second, {node: "2"})
    second.remove_pod("runs-0")
    wait_for_slots(second, {node: "1"})
    second.limits(default={"limit": 30})
    until(lambda: agent.metrics().get(("peerpods_pool_limit", "default", "peerpods-limits")), 30)
    wait_for_slots(second, {node: "1"})
    second.set_ready(pod, True)
    wait_for_slots(second, {node: "30"})

    # A pod that is being deleted is not ready, whatever its condition.
    second.stop_pod(pod)
    wait_for_slots(second, {node: "1"})
    # When it removes the capacity, no free slots are added.
    second.advertise(node, None)
    wait_for_slots(second, {node: "1"})
    second.remove_pod(pod)
    second.adaptor(node)
    wait_for_slots(second, {node: "30"})
    assert agent.warnings() == []


def test_an_adaptor_of_the_first_generation_counts_as_well(workspace):
    node = workspace.node("a")
    workspace.config("peerpodconfig-openshift", "3")
    workspace.daemon_set("peerpodconfig-ctrl-caa-daemon")
    workspace.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(workspace, {node: "0"})
    assert workspace.status("peerpodconfig-openshift") == {}
    workspace.adaptor(node, daemon_set="peerpodconfig-ctrl-caa-daemon")
    wait_for_slots(workspace, {node: "3"})
    until(lambda: workspace.status("peerpodconfig-openshift"), {"setupCompleted": True})


def test_the_value_that_a_starting_adaptor_advertises_is_corrected(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    pod = second.adaptor(node)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(second, {node: "30"})

    def restart_adaptor() -> None:
        second.set_ready(pod, False)
        second.advertise(node, None)
        second.set_ready(pod, True)
        second.advertise(node, 20)
        until(lambda: second.slots(node), ("30", "30"), seconds=CORRECTION_TIME)

    restart_adaptor()
    assert agent.warnings() == []
    # It may need so many corrections again that the agent warns.
    restart_adaptor()


def test_an_adaptor_in_a_crash_loop_causes_backoff(second):
    node = second.node("a")
    second.limits(default={"limit": 30})
    pod = second.adaptor(node)
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(second, {node: "30"})
    for _ in range(40):
        second.set_ready(pod, False)
        second.advertise(node, None)
        second.set_ready(pod, True)
        second.advertise(node, 20)
    until(lambda: [record.get("node") for record in agent.warnings()], [node])
    # Each of the 40 rounds would cause one. A node whose adaptor is not ready is lowered at any time.
    assert agent.patched(node).count(30) < 20
    # A change of the limit ends the backoff.
    second.limits(default={"limit": 40})
    until(lambda: second.slots(node), ("40", "40"), seconds=CORRECTION_TIME)


def test_a_cordoned_or_deleted_node_is_not_an_error(second, cluster):
    node, deleted = second.node("a"), second.node("gone")
    agent = second.start(REQUIRE_READY_ADAPTOR="true")
    wait_for_slots(second, {node: "0", deleted: "0"})
    adaptor_ready = ("peerpods_node_adaptor_ready", node)
    assert agent.metrics()[adaptor_ready] == 0
    cluster.kubectl("cordon", node)
    cluster.delete("node", deleted)
    until(lambda: adaptor_ready in agent.metrics(), False)
    wait_for_slots(second, {node: "0"})
    assert agent.warnings() == []


def test_without_the_requirement_adaptors_are_not_watched(second, cluster):
    """The agent does not need the permission to read them either."""
    node = second.node("a")
    agent = second.start(REQUIRE_READY_ADAPTOR="false", COUNT_PEER_PODS="false")
    wait_for_slots(second, {node: "20"})
    listed = agent.metrics()[("peerpods_node_capacity_requests_total", "200", "list")]
    # Lease, PeerPodConfigs, peerpods-limits, peer-pods-cm, DaemonSets, nodes, cloud capacity.
    assert listed == 7
