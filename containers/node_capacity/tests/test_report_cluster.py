"""The status and Events of PeerPodConfigs, and the metrics, with a real API server."""

from __future__ import annotations

import json

import pytest
from agent_process import until

from tests.alerts import METRICS

CRD = "crd/peerpodconfigs.confidentialcontainers.org"
CONDITIONS = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions"


@pytest.fixture
def crd_with_conditions(cluster, workspace):
    """A CRD that has status.conditions, which a later release may add."""

    def patch(*operations: dict) -> None:
        cluster.kubectl("patch", CRD, "--type=json", "-p", json.dumps(operations))

    any_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    patch({"op": "add", "path": CONDITIONS, "value": {"type": "array", "items": any_object}})
    workspace.config("probe", "1", selector={"no": "node"})

    def are_conditions_stored() -> bool:
        workspace.set_conditions("probe", {"type": "Probe", "status": "True"})
        return "conditions" in workspace.status("probe")

    until(are_conditions_stored, True)
    workspace.delete_config("probe")
    yield
    patch({"op": "remove", "path": CONDITIONS})


def conditions(workspace, config: str = "c") -> dict[str, tuple[str, str]]:
    """(status, reason) of each condition, by type."""
    return {
        condition["type"]: (condition["status"], condition.get("reason", ""))
        for condition in workspace.status(config).get("conditions", [])
    }


AS_EXPECTED = ("False", "AsExpected")
NO_PROBLEMS = dict.fromkeys(
    ["InvalidLimit", "OverlappingNodeSelectors", "LimitBelowRunning", "CloudBound"], AS_EXPECTED
)
READY = {"Ready": ("True", "AsExpected"), **NO_PROBLEMS}


def test_the_setup_is_completed_once_every_node_advertises(workspace, cluster):
    workspace.config("c", "3")
    agent = workspace.start()
    until(agent.leads, True)
    assert workspace.status("c") == {}
    node = workspace.node("a")
    until(lambda: workspace.status("c"), {"setupCompleted": True})
    # The field stays true; the current state is in the conditions, if the CRD has them.
    workspace.relabel(node, f"{workspace.label}-")
    until(lambda: workspace.slots(node), (None, None))
    assert workspace.status("c") == {"setupCompleted": True}
    assert workspace.events() == []


def test_no_status_is_written_if_there_are_several_peerpodconfigs(workspace):
    """Operators 1.7 and 1.8 move cloud-api-adaptor after every write to a PeerPodConfig."""
    operators = "peerpodconfig-openshift"
    node = workspace.node("a")
    workspace.config(operators, "3")
    workspace.config("other", "4", selector={"no": "node"})
    agent = workspace.start()
    until(lambda: agent.metrics().get(("peerpods_node_slots_advertised", node)), 3)
    # A report announces a problem after it has written the status of the other PeerPodConfigs.
    workspace.config("other", "four", selector={"no": "node"})
    until(workspace.events, [("other", "InvalidLimit", 1)])
    assert (workspace.status(operators), workspace.status("other")) == ({}, {})
    workspace.delete_config("other")
    until(lambda: workspace.status(operators), {"setupCompleted": True})


def test_an_invalid_limit_is_reported_once_for_each_version(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    workspace.config("c", "three")
    until(workspace.events, [("c", "InvalidLimit", 1)])
    until(lambda: agent.metrics().get(("peerpods_pool_problem", "c", "InvalidLimit")), 1)

    agent.stop()
    successor = workspace.start()
    until(lambda: [r["reason"] for r in successor.log("warning") if "pool" in r], ["InvalidLimit"])
    assert workspace.events() == [("c", "InvalidLimit", 1)]

    # Another version, with the same problem.
    workspace.config("c", "four")
    until(workspace.events, [("c", "InvalidLimit", 1)] * 2)

    workspace.config("c", "4")
    until(
        lambda: ("peerpods_pool_problem", "c", "InvalidLimit") in successor.metrics(),
        False,
    )
    workspace.config("c", "four")
    until(workspace.events, [("c", "InvalidLimit", 1)] * 3)


def test_conditions_follow_the_state(workspace, crd_with_conditions):
    node = workspace.node("a")
    workspace.config("c", "3")
    workspace.set_conditions("c", {"type": "Foreign", "status": "True"})
    workspace.start()
    foreign = {"Foreign": ("True", "")}
    until(lambda: conditions(workspace), {**foreign, **READY})

    workspace.config("other", "2")
    overlapping = {"OverlappingNodeSelectors": ("True", "OverlappingNodeSelectors")}
    until(lambda: conditions(workspace), {**foreign, **READY, **overlapping})
    until(lambda: conditions(workspace, "other"), {**READY, **overlapping})
    assert workspace.slots(node) == ("2", "2")

    workspace.delete_config("other")
    until(lambda: conditions(workspace), {**foreign, **READY})
    before = workspace.condition("c", "Ready")["lastTransitionTime"]

    workspace.relabel(node, f"{workspace.label}-")
    until(lambda: conditions(workspace)["Ready"], ("False", "NoNodesSelected"))
    assert workspace.condition("c", "Ready")["lastTransitionTime"] >= before

    workspace.config("c", "-1")
    until(lambda: conditions(workspace)["InvalidLimit"], ("True", "InvalidLimit"))
    assert "'-1'" in workspace.condition("c", "InvalidLimit")["message"]
    until(
        workspace.events,
        [("c", "InvalidLimit", 1), ("c", "OverlappingNodeSelectors", 1), ("other", "OverlappingNodeSelectors", 1)],
    )


def test_conditions_are_written_once_the_crd_has_them(workspace, request):
    """Also by an agent whose conditions the API server has dropped before."""
    workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.status("c"), {"setupCompleted": True})
    request.getfixturevalue("crd_with_conditions")
    # As if the CRD had been deleted, and its objects with it.
    workspace.delete_config("c")
    until(lambda: agent.metrics().get(("peerpods_limits_found",)), 0)
    workspace.config("c", "3")
    until(lambda: conditions(workspace), READY)


def test_a_limit_below_the_running_peer_pods_is_reported_and_evicts_none(workspace, cluster):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    # First, since the agent sees the pods in the order of their creation.
    workspace.peer_pod("pending", None)
    for number in range(2):
        workspace.peer_pod(f"runs-{number}", node)
    until(lambda: agent.metrics().get(("peerpods_node_slots_used", node)), 2)
    assert agent.metrics()[("peerpods_pods_pending",)] == 1
    assert workspace.events() == []

    workspace.config("c", "1")
    until(lambda: workspace.slots(node), ("1", "1"))
    until(workspace.events, [("c", "LimitBelowRunning", 1)])
    pods = cluster.get("pods", "-n", workspace.id)["items"]
    assert len(pods) == 3
    assert not any("deletionTimestamp" in pod["metadata"] for pod in pods)

    cluster.delete("pod", "-n", workspace.id, "runs-0", "--grace-period=0", "--force")
    problem = ("peerpods_pool_problem", "c", "LimitBelowRunning")
    until(lambda: problem in agent.metrics(), False)


def test_the_cloud_bounds_the_limit(workspace):
    nodes = workspace.nodes(3)
    workspace.config("c", "10")
    agent = workspace.start()
    until(lambda: set(workspace.all_slots().values()), {("10", "10")})
    workspace.cloud_capacity(**{"subnet-addresses": "251", "instance-quota": "20"})
    until(lambda: set(workspace.all_slots().values()), {("6", "6")})
    until(workspace.events, [("c", "CloudBound", 1)])
    metrics = agent.metrics()
    assert metrics[("peerpods_cloud_slots", "instance-quota")] == 20
    assert metrics[("peerpods_cloud_slots", "subnet-addresses")] == 251
    assert metrics[("peerpods_node_slots_bound_info", "instance-quota", nodes[0])] == 1

    # For an invalid value the last valid one stays in force.
    workspace.cloud_capacity(**{"subnet-addresses": "251", "instance-quota": "plenty"})
    until(lambda: any("instance-quota in ConfigMap" in record["message"] for record in agent.log("warning")), True)
    assert set(workspace.all_slots().values()) == {("6", "6")}

    # A new node takes its share from the others.
    workspace.node("late")
    until(lambda: set(workspace.all_slots().values()), {("5", "5")})

    workspace.cloud_capacity(**{"subnet-addresses": "251"})
    until(lambda: set(workspace.all_slots().values()), {("10", "10")})
    assert agent.metrics()[("peerpods_node_slots_bound_info", "limit", nodes[0])] == 1


def test_the_metrics_that_alerts_and_dashboard_use(workspace):
    workspace.node("a")
    workspace.config("c", "3")
    workspace.config("other", "2")
    workspace.cloud_capacity(quota="1")
    agent = workspace.start()
    problem = ("peerpods_pool_problem", "c", "CloudBound")
    until(lambda: agent.metrics().get(problem), 1)
    labels: dict[str, set[frozenset[str]]] = {}
    for sample in agent.samples():
        labels.setdefault(sample.name, set()).add(frozenset(sample.labels))
    assert {name: labels.get(name) for name in METRICS} == {name: {expected} for name, expected in METRICS.items()}


def test_without_counting_peer_pods_their_metrics_are_absent(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start(COUNT_PEER_PODS="false")
    until(lambda: agent.metrics().get(("peerpods_node_slots_advertised", node)), 3)
    names = {name for name, *_ in agent.metrics()}
    assert not {"peerpods_node_slots_used", "peerpods_pods_pending"} & names
    requests = {key[1:] for key in agent.metrics() if key[0] == "peerpods_node_capacity_requests_total"}
    assert requests == {("200", "list"), ("200", "watch"), ("200", "patch"), ("201", "create")}
