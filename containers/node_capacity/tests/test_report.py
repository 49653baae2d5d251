"""The reports on pools."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods_node_capacity.plan import Ceiling, Node, Target
from peerpods_node_capacity.pools import Observed, Pool
from peerpods_node_capacity.report import PROBLEMS, Report, conditions, event, reports

VM = "kata.peerpods.io/vm"
KATA = {"kata": ""}
C = Pool("c", KATA, 10)


def node(name, slots="10", labels=KATA):
    return Node(name, labels, slots, slots)


def report(configs, nodes, desired, used=(), ceiling=None):
    targets = {
        name: slots
        if isinstance(slots, Target)
        else Target(slots, ceiling.bound if ceiling and slots == ceiling.slots else "limit", slots)
        for name, slots in desired.items()
    }
    return reports(configs, nodes, targets, dict(used), ceiling)


def test_a_report_is_of_one_version_of_what_was_written():
    """A problem of the next version of the spec is reported again."""
    first = replace(C, observed=Observed(generation=1))
    versions = [first, replace(first, observed=Observed(generation=2)), replace(first, invalid="three")]
    assert len({report([pool], [], {})["c"].version for pool in versions}) == 3


def test_a_pool_without_problems():
    nodes = [node("a"), node("b"), node("other", None, {})]
    reports = report([C], nodes, {"a": 10, "b": 10, "other": None}, {"a": 10})
    assert reports == {"c": Report(selected=2)}
    assert reports["c"].complete


@pytest.mark.parametrize(("allocatable", "desired"), [(None, 10), ("9", 10), ("10", None), ("0", None)])
def test_a_node_that_does_not_advertise_its_target_is_missing(allocatable, desired):
    reports = report([C], [Node("a", KATA, "10", allocatable)], {"a": desired})
    assert reports == {"c": Report(selected=1, missing=["a"])}
    assert not reports["c"].complete


def test_a_pool_without_nodes_is_not_complete():
    assert not report([C], [node("a", labels={})], {"a": None})["c"].complete


@pytest.mark.parametrize(
    ("last_valid", "invalid", "quoted", "in_force"),
    [
        (7, "ten", "'ten'", "The last valid limit, 7, stays in force"),
        (0, "", "''", "The last valid limit, 0, stays in force"),
        (None, "9" * 50, f"'{'9' * 40}…'", "Nodes keep what they advertise"),
    ],
)
def test_an_invalid_limit(last_valid, invalid, quoted, in_force):
    config = Pool("c", KATA, last_valid, invalid=invalid)
    assert report([config], [], {})["c"].problems == {
        "InvalidLimit": f"spec.limit must be a whole number of 0 or more; got {quoted}. "
        f"{in_force} until it is corrected."
    }


IN_FORCE = "The last valid limit, 7, stays in force until it is corrected."
MEMORY_INVALID = "Entry memory must be a JSON object with a limit of 0 or more and a nodeSelector of labels; got '{'."


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            Pool("default", KATA, 7, "ten", source="peer-pods-cm"),
            f"PEERPODS_LIMIT_PER_NODE must be a whole number; got 'ten'. {IN_FORCE}",
        ),
        (
            Pool("default", KATA, 7, "{", source="peerpods-limits"),
            f"Entry default must be a JSON object with a limit of 0 or more; got '{{'. {IN_FORCE}",
        ),
        (
            Pool("memory", KATA, 7, "{", source="peerpods-limits"),
            f"{MEMORY_INVALID} {IN_FORCE}",
        ),
        (
            Pool("memory", None, None, "{", source="peerpods-limits"),
            f"{MEMORY_INVALID} The entry has no effect until it is corrected.",
        ),
    ],
)
def test_an_invalid_limit_of_the_second_generation_names_no_peerpodconfig(pool, message):
    assert report([pool], [], {})[pool.name].problems == {"InvalidLimit": message}


def test_an_available_node_whose_adaptor_is_not_ready_is_waiting():
    waiting, cordoned = node("waiting", "2"), replace(node("cordoned", "0"), is_available=False)
    targets = {"waiting": Target(2, "adaptor", 10), "cordoned": Target(0, "adaptor", 10)}
    reports = report([C], [waiting, cordoned], targets, {"waiting": 2})
    assert reports == {"c": Report(selected=2, waiting=["waiting"])}
    assert not reports["c"].complete
    (ready,) = (c for c in conditions(reports["c"], Observed(), VM, NOW) if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "AdaptorNotReady")
    assert "waiting" in ready["message"]
    assert report([C], [cordoned], targets)["c"].complete


def test_entries_do_not_overlap_with_the_operators_own_pool():
    default = Pool("default", KATA, 20, source="peer-pods-cm", is_fallback=True)
    memory = Pool("memory", {"pool": "memory"}, 4, source="peerpods-limits")
    nodes = [node("a", "20"), node("m", "4", KATA | {"pool": "memory"})]
    reports = report([default, memory], nodes, {"a": 20, "m": 4})
    assert reports == {"default": Report(selected=1), "memory": Report(selected=1)}


def test_overlapping_node_selectors():
    zone = Pool("zone", {"zone": "1"}, 3)
    disjoint = Pool("apart", {"zone": "2"}, 3)
    shared, single = node("shared", "3", KATA | {"zone": "1"}), node("single")
    reports = report([C, zone, disjoint], [shared, single], {"shared": 3, "single": 10})
    assert reports["c"].problems == {
        "OverlappingNodeSelectors": "Nodes are also selected by zone, and the smallest limit applies to them: shared."
    }
    assert reports["zone"].problems.keys() == {"OverlappingNodeSelectors"}
    assert "selected by c, and" in reports["zone"].problems["OverlappingNodeSelectors"]
    assert reports["apart"].problems == {}


def test_a_limit_below_the_running_peer_pods():
    nodes = [node(name, "2") for name in "edcba"]
    desired = dict.fromkeys("abcde", 2)
    assert report([C], nodes, desired, dict.fromkeys("abcd", 3))["c"].problems == {
        "LimitBelowRunning": "Nodes run more peer pods than they have slots: a, b, c and 1 more. "
        "No peer pod is evicted, and no more are scheduled there until enough of them have ended."
    }


@pytest.mark.parametrize(
    ("limit", "slots", "bound"),
    [(10, 6, True), (6, 6, False), (5, 5, False), (10, 4, False)],
)
def test_a_limit_bounded_by_the_cloud(limit, slots, bound):
    config = replace(C, limit=limit)
    ceiling = Ceiling("instance-quota", 20, 6)
    problems = report([config], [node("a", str(slots))], {"a": slots}, ceiling=ceiling)["c"].problems
    assert problems == (
        {
            "CloudBound": "Nodes advertise 6 slots instead of the limit of 10, because the cloud has room for 20 "
            "peer pods in total (limited by instance-quota): a."
        }
        if bound
        else {}
    )


EARLIER, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_conditions_keep_the_time_at_which_they_changed():
    first = conditions(Report(selected=1), Observed(generation=1), VM, EARLIER)
    assert [(c["type"], c["status"], c["lastTransitionTime"]) for c in first] == [
        ("Ready", "True", EARLIER),
        ("InvalidLimit", "False", EARLIER),
        ("OverlappingNodeSelectors", "False", EARLIER),
        ("LimitBelowRunning", "False", EARLIER),
        ("CloudBound", "False", EARLIER),
    ]
    foreign = {"type": "Foreign", "status": "True"}
    observed = Observed(generation=2, conditions=(*first, foreign))
    assert conditions(Report(selected=1), replace(observed, generation=1), VM, NOW) == (
        foreign,
        *first,
    )

    second_report = Report(selected=2, missing=["a"], problems={"InvalidLimit": "why"})
    second = {c["type"]: c for c in conditions(second_report, observed, VM, NOW)}
    assert second["Foreign"] == foreign
    assert second["Ready"] == {
        "type": "Ready",
        "status": "False",
        "reason": "InvalidLimit",
        "message": f"1 of 2 selected nodes do not advertise the expected {VM}: a.",
        "observedGeneration": 2,
        "lastTransitionTime": NOW,
    }
    assert second["InvalidLimit"]["message"] == "why"
    assert second["InvalidLimit"]["lastTransitionTime"] == NOW
    assert second["CloudBound"]["lastTransitionTime"] == EARLIER
    assert second["CloudBound"]["observedGeneration"] == 2


# Conditions of any form.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["Ready", "True", "status", EARLIER]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "status", "lastTransitionTime", "reason"]), inner, max_size=4)
    ),
)


@given(st.lists(JSON, max_size=5))
def test_conditions_of_other_writers_are_kept_in_any_form(observed):
    """The conditions of the agent replace those of the same type."""
    written = conditions(Report(selected=1), Observed(conditions=tuple(observed)), VM, NOW)
    kept = [c for c in observed if not (isinstance(c, dict) and c.get("type") == "Ready")]
    assert list(written[: len(kept)]) == kept
    own = written[len(kept) :]
    assert [c["type"] for c in own] == ["Ready", *PROBLEMS]
    assert {c["lastTransitionTime"] for c in own} <= {"Ready", "True", "status", EARLIER, NOW}


@pytest.mark.parametrize(
    ("pool_report", "reason"),
    [
        (Report(), "NoNodesSelected"),
        (Report(selected=1), "AsExpected"),
        (Report(selected=1, missing=["a"]), "NodesNotAdvertising"),
    ],
)
def test_the_reason_of_ready(pool_report, reason):
    (ready,) = (c for c in conditions(pool_report, Observed(), VM, NOW) if c["type"] == "Ready")
    assert ready["reason"] == reason
    assert ready["message"]


def test_an_event_has_one_name_for_each_version_of_the_spec():
    def name(generation=1, problem="InvalidLimit", uid="u"):
        config = replace(C, observed=Observed(uid=uid, generation=generation))
        return event(config, "ns", problem, "why", "agent", NOW)["metadata"]["name"]

    assert name() == name()
    assert len({name(), name(generation=2), name(problem="CloudBound"), name(uid="v")}) == 4
    assert name().startswith("c.")


def test_an_event_is_not_longer_than_the_api_server_accepts():
    long = replace(C, name="c" * 253)
    created = event(long, "ns", "InvalidLimit", "why " * 1000, "agent", NOW)
    assert len(created["message"]) <= 1024
    assert len(created["metadata"]["name"]) <= 253
