"""What nodes should advertise, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods_node_capacity.plan import (
    Ceiling,
    CloudCapacity,
    Node,
    PeerPodConfig,
    ceiling,
    cloud_capacity,
    limit_of,
    peer_pod_config,
    status_patch,
    whole_quantity,
)

VM = "kata.peerpods.io/vm"
KATA = {"node-role.kubernetes.io/kata-oc": ""}
WORKER = {"node.kubernetes.io/worker": ""}


def node(capacity=None, allocatable=None, labels=KATA):
    return Node("worker-1", labels, capacity, allocatable)


def config(limit, selector=KATA, name="peerpodconfig-openshift"):
    return PeerPodConfig(name, selector, limit)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10", 10),
        ("0", 0),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        (None, 10),  # the default
    ],
)
def test_a_limit(text, limit):
    read = peer_pod_config("c", node_selector=KATA, limit=text, previous=None)
    assert read == PeerPodConfig("c", KATA, limit)


@pytest.mark.parametrize(
    "text",
    [
        *("", "ten", "-1", "+1", "1.5", "1e3", "1k", "0x10", " 10", "10\n", "1_0", "٣"),
        "9223372036854775808",
        "9" * 5000,
    ],
)
def test_a_bad_limit_leaves_the_last_good_one(text):
    fresh = peer_pod_config("c", node_selector=KATA, limit=text, previous=None)
    assert fresh == PeerPodConfig("c", KATA, None, bad_limit=text)
    good = config(7, name="c")
    once = peer_pod_config("c", node_selector=KATA, limit=text, previous=good)
    assert once == PeerPodConfig("c", KATA, 7, bad_limit=text)
    twice = peer_pod_config("c", node_selector=KATA, limit="still bad", previous=once)
    assert twice.limit == 7


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        (KATA, KATA, True),
        (KATA, KATA | WORKER, True),
        (KATA, WORKER, False),
        (KATA, {}, False),
        (KATA | WORKER, KATA, False),
        ({"zone": "a"}, {"zone": "b"}, False),
        ({}, {}, True),  # written and empty: every node
        (None, WORKER, True),  # not written: the workers
        (None, KATA, False),
    ],
)
def test_selection(selector, labels, selected):
    read = peer_pod_config("c", node_selector=selector, limit="5", previous=None)
    assert limit_of(node(labels=labels), [read]) == (5 if selected else None)


@pytest.mark.parametrize(
    ("configs", "now", "slots"),
    [
        ([], "10", None),
        ([config(10)], None, 10),
        ([config(10)], "3", 10),
        ([config(0)], "10", 0),
        # Several: the smallest, in whatever order, and only of those that select the node.
        ([config(10), config(4)], None, 4),
        ([config(4), config(10)], None, 4),
        ([config(10), config(4, selector=WORKER)], None, 10),
        # None was ever good: what the node has now.
        ([config(None)], "6", 6),
        ([config(None)], "1k", 1000),
        ([config(None)], None, None),
        ([config(None), config(10)], "6", 6),
        ([config(None), config(4)], "6", 4),
        ([config(None), config(4)], None, None),
    ],
)
def test_limit_of(configs, now, slots):
    assert limit_of(node(now, now), configs) == slots


@pytest.mark.parametrize(
    ("capacity", "allocatable", "slots", "value"),
    [
        (None, None, 10, "10"),
        ("4", "4", 10, "10"),
        ("0", "0", 10, "10"),
        ("10", None, 10, "10"),
        ("10", "9", 10, "10"),
        (None, "10", 10, "10"),
        ("10", "10", 0, "0"),
        ("1k", "1k", 1001, "1001"),
        ("10", "10", None, None),
        ("10", None, None, None),
        (None, "10", None, None),
        ("0", "0", None, None),
    ],
)
def test_what_differs_is_patched(capacity, allocatable, slots, value):
    assert status_patch(node(capacity, allocatable), slots, VM) == {
        "status": {"capacity": {VM: value}, "allocatable": {VM: value}}
    }


@pytest.mark.parametrize(
    ("found", "slots"), [(None, None), ("10", 10), ("0", 0), ("1k", 1000), ("10k", 10_000)]
)
def test_what_is_as_it_should_be_is_left_alone(found, slots):
    assert status_patch(node(found, found), slots, VM) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("12", 12),
        ("1k", 1000),
        ("3M", 3_000_000),
        ("2E", 2 * 10**18),
        ("1Ki", 1024),
        ("1Ei", 2**60),
        ("1e3", 1000),
        ("1500m", None),
        ("", None),
        (None, None),
    ],
)
def test_quantities(text, number):
    assert whole_quantity(text) == number


def test_the_clouds_bounds_are_whole_numbers():
    first = cloud_capacity({"a": "7", "b": "-1", "c": "0"})
    assert first == CloudCapacity({"a": 7, "c": 0}, {"b": "-1"})
    # A bad one leaves the last good one; one that is gone is gone.
    assert cloud_capacity({"a": "many"}, first) == CloudCapacity({"a": 7}, {"a": "many"})
    assert cloud_capacity({}, first) == CloudCapacity({}, {})


@pytest.mark.parametrize(
    ("limits", "bounds", "found"),
    [
        ([10, 10, 10], {}, None),
        ([10, 10, 10], {"quota": 30}, None),
        ([10, 10, 10], {"quota": 29}, Ceiling("quota", 29, 9)),
        ([10, 10, 10], {"quota": 29, "addresses": 20}, Ceiling("addresses", 20, 6)),
        ([2, 10, 10], {"quota": 20}, Ceiling("quota", 20, 9)),
        ([10, 10, 10], {"quota": 2}, Ceiling("quota", 2, 0)),
        ([10], {"quota": 0}, Ceiling("quota", 0, 0)),
        ([0, 0], {"quota": 0}, None),
        ([], {"quota": 0}, None),
        # Of two alike, always the same.
        ([10], {"quota": 1, "addresses": 1}, Ceiling("addresses", 1, 1)),
    ],
)
def test_the_ceiling(limits, bounds, found):
    assert ceiling(limits, bounds) == found


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 100))
def test_the_ceiling_is_the_highest_that_fits(limits, total):
    def together(slots):
        return sum(min(limit, slots) for limit in limits)

    found = ceiling(limits, {"quota": total})
    if found is None:
        assert sum(limits) <= total
    else:
        assert together(found.slots) <= total < together(found.slots + 1)
