"""What is said of PeerPodConfigs, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerpods_node_capacity.plan import Ceiling, Node, Observed, PeerPodConfig
from peerpods_node_capacity.report import Report, conditions, event, reports

VM = "kata.peerpods.io/vm"
KATA = {"kata": ""}
C = PeerPodConfig("c", KATA, 10)


def node(name, slots="10", labels=KATA):
    return Node(name, labels, slots, slots)


def report(configs, nodes, desired, used=(), ceiling=None):
    return reports(configs, nodes, desired, dict(used), ceiling)


def test_all_is_well():
    nodes = [node("a"), node("b"), node("other", None, {})]
    found = report([C], nodes, {"a": 10, "b": 10, "other": None}, {"a": 10})
    assert found == {"c": Report(selected=2)}
    assert found["c"].complete


@pytest.mark.parametrize(
    ("allocatable", "desired"), [(None, 10), ("9", 10), ("10", None), ("0", None)]
)
def test_a_node_that_does_not_advertise_what_it_should(allocatable, desired):
    found = report([C], [Node("a", KATA, "10", allocatable)], {"a": desired})
    assert found == {"c": Report(selected=1, missing=["a"])}
    assert not found["c"].complete


def test_no_node_is_no_setup():
    assert not report([C], [node("a", labels={})], {"a": None})["c"].complete


@pytest.mark.parametrize(
    ("last_good", "bad", "quoted", "kept"),
    [
        (7, "ten", "'ten'", "7"),
        (0, "", "''", "0"),
        (None, "9" * 50, f"'{'9' * 40}…'", "what each node has now"),
    ],
)
def test_an_invalid_limit(last_good, bad, quoted, kept):
    config = PeerPodConfig("c", KATA, last_good, bad_limit=bad)
    assert report([config], [], {})["c"].problems == {
        "InvalidLimit": f"spec.limit is {quoted}, not a whole number from 0 on; {kept} stays in "
        "force until it is."
    }


def test_overlapping_node_selectors():
    zone = PeerPodConfig("zone", {"zone": "1"}, 3)
    apart = PeerPodConfig("apart", {"zone": "2"}, 3)
    both, one = node("both", "3", KATA | {"zone": "1"}), node("one")
    found = report([C, zone, apart], [both, one], {"both": 3, "one": 10})
    assert found["c"].problems == {
        "OverlappingNodeSelectors": "Nodes also selected by PeerPodConfig zone, where the "
        "smallest limit holds: both."
    }
    assert found["zone"].problems.keys() == {"OverlappingNodeSelectors"}
    assert "PeerPodConfig c, where" in found["zone"].problems["OverlappingNodeSelectors"]
    assert found["apart"].problems == {}


def test_a_limit_below_what_runs():
    nodes = [node(name, "2") for name in "edcba"]
    desired = dict.fromkeys("abcde", 2)
    assert report([C], nodes, desired, dict.fromkeys("abcd", 3))["c"].problems == {
        "LimitBelowRunning": "Nodes that run more peer pods than they have slots: a, b, c and 1 "
        "more. None is evicted; no more are scheduled there until enough of them are gone."
    }


@pytest.mark.parametrize(
    ("limit", "slots", "bound"),
    [(10, 6, True), (6, 6, False), (5, 5, False), (10, 4, False)],
)
def test_what_the_cloud_holds_down(limit, slots, bound):
    config = replace(C, limit=limit)
    ceiling = Ceiling("instance-quota", 20, 6)
    problems = report([config], [node("a", str(slots))], {"a": slots}, ceiling=ceiling)[
        "c"
    ].problems
    assert problems == (
        {
            "CloudBound": "Nodes held to 6 instead of the limit 10, since by instance-quota the cloud "
            "can hold 20 peer pods in all: a."
        }
        if bound
        else {}
    )


THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_conditions_keep_the_time_at_which_they_changed():
    first = conditions(Report(selected=1), Observed(generation=1), VM, THEN)
    assert [(c["type"], c["status"], c["lastTransitionTime"]) for c in first] == [
        ("Ready", "True", THEN),
        ("InvalidLimit", "False", THEN),
        ("OverlappingNodeSelectors", "False", THEN),
        ("LimitBelowRunning", "False", THEN),
        ("CloudBound", "False", THEN),
    ]
    foreign = {"type": "Foreign", "status": "True"}
    observed = Observed(generation=2, conditions=(*first, foreign))
    assert conditions(Report(selected=1), replace(observed, generation=1), VM, NOW) == (
        foreign,
        *first,
    )

    worse = Report(selected=2, missing=["a"], problems={"InvalidLimit": "why"})
    second = {c["type"]: c for c in conditions(worse, observed, VM, NOW)}
    assert second["Foreign"] == foreign
    assert second["Ready"] == {
        "type": "Ready", "status": "False", "reason": "InvalidLimit",
        "message": f"1 of 2 selected nodes do not advertise {VM} as they should: a.",
        "observedGeneration": 2, "lastTransitionTime": NOW,
    }  # fmt: skip
    assert second["InvalidLimit"]["message"] == "why"
    assert second["InvalidLimit"]["lastTransitionTime"] == NOW
    assert second["CloudBound"]["lastTransitionTime"] == THEN
    assert second["CloudBound"]["observedGeneration"] == 2


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Report(), "NoNodesSelected"),
        (Report(selected=1), "AsExpected"),
        (Report(selected=1, missing=["a"]), "NodesNotAdvertising"),
    ],
)
def test_ready_has_a_reason(found, reason):
    (ready,) = (c for c in conditions(found, Observed(), VM, NOW) if c["type"] == "Ready")
    assert ready["reason"] == reason
    assert ready["message"]


def test_an_event_has_one_name_for_each_version_of_the_spec():
    def name(generation=1, problem="InvalidLimit", uid="u"):
        config = replace(C, observed=Observed(uid=uid, generation=generation))
        return event(config, "ns", problem, "why", "agent", NOW)["metadata"]["name"]

    assert name() == name()
    assert len({name(), name(generation=2), name(problem="CloudBound"), name(uid="v")}) == 4
    assert name().startswith("c.")


def test_an_event_is_as_long_as_the_api_server_takes():
    long = replace(C, name="c" * 253)
    made = event(long, "ns", "InvalidLimit", "why " * 1000, "agent", NOW)
    assert len(made["message"]) <= 1024
    assert len(made["metadata"]["name"]) <= 253
