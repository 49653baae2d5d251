"""What a PeerPodConfig says of its nodes: status, Events, metrics, against a real API server."""

from __future__ import annotations

import json
import signal
import time

import pytest
from agent_process import until

from peerpods_node_capacity.agent import REPORT_INTERVAL
from tests.alerts import METRICS

CRD = "crd/peerpodconfigs.confidentialcontainers.org"
CONDITIONS = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions"


@pytest.fixture
def crd_with_conditions(cluster, place):
    """A later CRD may keep conditions."""

    def patch(*operations: dict) -> None:
        cluster.kubectl("patch", CRD, "--type=json", "-p", json.dumps(operations))

    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    patch({"op": "add", "path": CONDITIONS, "value": {"type": "array", "items": anything}})
    place.config("probe", "1", selector={"no": "node"})

    def kept() -> bool:
        place.set_conditions("probe", {"type": "Probe", "status": "True"})
        return "conditions" in place.status("probe")

    until(kept, True)
    place.delete_config("probe")
    yield
    patch({"op": "remove", "path": CONDITIONS})


def said(place, config: str = "c") -> dict[str, tuple[str, str]]:
    """(status, reason) of each condition, by type."""
    return {
        condition["type"]: (condition["status"], condition.get("reason", ""))
        for condition in place.status(config).get("conditions", [])
    }


AS_EXPECTED = ("False", "AsExpected")
NO_PROBLEM = dict.fromkeys(["InvalidLimit", "OverlappingNodeSelectors", "LimitBelowRunning", "CloudBound"], AS_EXPECTED)
ALL_WELL = {"Ready": ("True", "AsExpected"), **NO_PROBLEM}


def test_the_setup_is_completed_once_every_node_advertises(place, cluster):
    place.config("c", "3")
    agent = place.start()
    until(agent.leads, True)
    assert place.status("c") == {}
    node = place.node("a")
    until(lambda: place.status("c"), {"setupCompleted": True})
    # As the field says: it was. What is now the conditions tell, where there are any.
    place.relabel(node, f"{place.label}-")
    until(lambda: place.slots(node), (None, None))
    assert place.status("c") == {"setupCompleted": True}
    assert place.events() == []


def test_of_several_peerpodconfigs_none_gets_a_status_that_would_move_cloud_api_adaptor(place):
    """As operators 1.7 and 1.8 do after every write to one."""
    operators = "peerpodconfig-openshift"
    node = place.node("a")
    place.config(operators, "3")
    place.config("other", "4", selector={"no": "node"})
    place.start()
    until(lambda: place.slots(node), ("3", "3"))
    time.sleep(2 * REPORT_INTERVAL)
    assert (place.status(operators), place.status("other")) == ({}, {})
    place.delete_config("other")
    until(lambda: place.status(operators), {"setupCompleted": True})


def test_an_invalid_limit_is_told_once(place):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.config("c", "three")
    until(place.events, [("c", "InvalidLimit", 1)])
    until(lambda: agent.metrics().get(("peerpods_pool_problem", "c", "InvalidLimit")), 1)

    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(timeout=5) == 0
    successor = place.start()
    until(lambda: [r["reason"] for r in successor.log("warning") if "pool" in r], ["InvalidLimit"])
    assert place.events() == [("c", "InvalidLimit", 1)]

    place.config("c", "4")
    until(
        lambda: ("peerpods_pool_problem", "c", "InvalidLimit") in successor.metrics(),
        False,
    )
    place.config("c", "four")
    until(place.events, [("c", "InvalidLimit", 1)] * 2)


def test_conditions_tell_how_it_is(place, crd_with_conditions):
    node = place.node("a")
    place.config("c", "3")
    place.set_conditions("c", {"type": "Foreign", "status": "True"})
    place.start()
    foreign = {"Foreign": ("True", "")}
    until(lambda: said(place), {**foreign, **ALL_WELL})

    place.config("other", "2")
    overlapping = {"OverlappingNodeSelectors": ("True", "OverlappingNodeSelectors")}
    until(lambda: said(place), {**foreign, **ALL_WELL, **overlapping})
    until(lambda: said(place, "other"), {**ALL_WELL, **overlapping})
    assert place.slots(node) == ("2", "2")

    place.delete_config("other")
    until(lambda: said(place), {**foreign, **ALL_WELL})
    before = place.condition("c", "Ready")["lastTransitionTime"]

    place.relabel(node, f"{place.label}-")
    until(lambda: said(place)["Ready"], ("False", "NoNodesSelected"))
    assert place.condition("c", "Ready")["lastTransitionTime"] >= before

    place.config("c", "-1")
    until(lambda: said(place)["InvalidLimit"], ("True", "InvalidLimit"))
    assert "'-1'" in place.condition("c", "InvalidLimit")["message"]
    until(
        place.events,
        [("c", "InvalidLimit", 1), ("c", "OverlappingNodeSelectors", 1), ("other", "OverlappingNodeSelectors", 1)],
    )


def test_a_limit_below_the_peer_pods_that_run_evicts_none_and_says_so(place, cluster):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    for number in range(2):
        place.peer_pod(f"runs-{number}", node)
    place.peer_pod("waits", None)
    until(lambda: agent.metrics().get(("peerpods_node_slots_used", node)), 2)
    assert agent.metrics()[("peerpods_pods_pending",)] == 1
    assert place.events() == []

    place.config("c", "1")
    until(lambda: place.slots(node), ("1", "1"))
    until(place.events, [("c", "LimitBelowRunning", 1)])
    pods = cluster.get("pods", "-n", place.id)["items"]
    assert len(pods) == 3
    assert not any("deletionTimestamp" in pod["metadata"] for pod in pods)

    cluster.kubectl("delete", "pod", "-n", place.id, "runs-0", "--grace-period=0", "--force")
    problem = ("peerpods_pool_problem", "c", "LimitBelowRunning")
    until(lambda: problem in agent.metrics(), False)


def test_the_cloud_holds_the_limit_down(place):
    nodes = place.nodes(3)
    place.config("c", "10")
    agent = place.start()
    until(lambda: set(place.all_slots().values()), {("10", "10")})
    place.cloud_capacity(**{"subnet-addresses": "251", "instance-quota": "20"})
    until(lambda: set(place.all_slots().values()), {("6", "6")})
    until(place.events, [("c", "CloudBound", 1)])
    metrics = agent.metrics()
    assert metrics[("peerpods_cloud_slots", "instance-quota")] == 20
    assert metrics[("peerpods_cloud_slots", "subnet-addresses")] == 251
    assert metrics[("peerpods_node_slots_bound_info", "instance-quota", nodes[0])] == 1

    # No number: the last good one stays.
    place.cloud_capacity(**{"subnet-addresses": "251", "instance-quota": "plenty"})
    until(lambda: len(agent.log("warning")), 2)
    assert "instance-quota" in agent.log("warning")[-1]["message"]
    assert set(place.all_slots().values()) == {("6", "6")}

    # A node that comes takes its share from the others.
    place.node("late")
    until(lambda: set(place.all_slots().values()), {("5", "5")})

    place.cloud_capacity(**{"subnet-addresses": "251"})
    until(lambda: set(place.all_slots().values()), {("10", "10")})
    assert agent.metrics()[("peerpods_node_slots_bound_info", "limit", nodes[0])] == 1


def test_prometheus_is_told_what_alerts_and_dashboard_ask_for(place):
    place.node("a")
    place.config("c", "3")
    place.config("other", "2")
    place.cloud_capacity(quota="1")
    agent = place.start()
    problem = ("peerpods_pool_problem", "c", "CloudBound")
    until(lambda: agent.metrics().get(problem), 1)
    told: dict[str, set[frozenset[str]]] = {}
    for sample in agent.samples():
        told.setdefault(sample.name, set()).add(frozenset(sample.labels))
    assert {name: told.get(name) for name in METRICS} == {name: {labels} for name, labels in METRICS.items()}


def test_without_counting_pods_nothing_is_said_of_them(place):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start(COUNT_PEER_PODS="false")
    until(lambda: agent.metrics().get(("peerpods_node_slots_advertised", node)), 3)
    names = {name for name, *_ in agent.metrics()}
    assert not {"peerpods_node_slots_used", "peerpods_pods_pending"} & names
    requests = {key[1:] for key in agent.metrics() if key[0] == "peerpods_node_capacity_requests_total"}
    assert requests == {("200", "list"), ("200", "watch"), ("200", "patch"), ("201", "create")}
