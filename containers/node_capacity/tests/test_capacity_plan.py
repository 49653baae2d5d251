"""What nodes should advertise, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods_node_capacity.plan import (
    Ceiling,
    CloudCapacity,
    Node,
    Target,
    ceiling,
    cloud_capacity,
    has_left,
    is_ours,
    limit_of,
    selecting,
    status_patch,
    target,
    whole_quantity,
)
from peerpods_node_capacity.pools import Pool, pool_of_config

VM = "kata.peerpods.io/vm"
KATA = {"node-role.kubernetes.io/kata-oc": ""}
WORKER = {"node.kubernetes.io/worker": ""}


def node(capacity=None, allocatable=None, labels=KATA):
    return Node("worker-1", labels, capacity, allocatable)


def config(limit, selector=KATA, name="peerpodconfig-openshift"):
    return Pool(name, selector, limit)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10", 10),
        ("0", 0),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        # White space around a number does not count, nor do leading zeros.
        (" 10", 10),
        ("10\n", 10),
        ("0" * 5000 + "5", 5),
    ],
)
def test_a_limit(text, limit):
    read = pool_of_config("c", node_selector=KATA, limit=text, previous=None)
    assert read == Pool("c", KATA, limit)


@pytest.mark.parametrize(
    "text",
    [
        *(" ", "ten", "-1", "+1", "1.5", "1e3", "1k", "0x10", "1 0", "1_0", "٣"),
        "9223372036854775808",
        "9" * 5000,
    ],
)
def test_a_bad_limit_leaves_the_last_good_one(text):
    fresh = pool_of_config("c", node_selector=KATA, limit=text, previous=None)
    assert fresh == Pool("c", KATA, None, bad_limit=text)
    good = config(7, name="c")
    once = pool_of_config("c", node_selector=KATA, limit=text, previous=good)
    assert once == Pool("c", KATA, 7, bad_limit=text)
    twice = pool_of_config("c", node_selector=KATA, limit="still bad", previous=once)
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
    read = pool_of_config("c", node_selector=selector, limit="5", previous=None)
    assert selecting(node(labels=labels), [read]) == ([read] if selected else [])


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
    found = node(now, now)
    assert limit_of(found, selecting(found, configs)) == slots


FALLBACK = Pool("default", KATA, 20, source="peer-pods-cm", is_fallback=True)
GONE = replace(config(10), has_vanished=True)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (KATA, ["default"]),
        (KATA | {"pool": "memory"}, ["memory"]),
        (KATA | {"pool": "memory", "zone": "a"}, ["memory", "zone"]),
        ({"pool": "memory"}, ["memory"]),
        ({}, []),
    ],
)
def test_a_fallback_pool_has_the_nodes_that_no_other_pool_selects(labels, names):
    pools = [FALLBACK, Pool("memory", {"pool": "memory"}, 40), Pool("zone", {"zone": "a"}, 3)]
    assert [pool.name for pool in selecting(node(labels=labels), pools)] == names


def test_a_pool_that_has_vanished_decides_only_where_no_other_one_does():
    memory = Pool("memory", {"pool": "memory"}, 40)
    assert selecting(node(), [memory, GONE]) == [GONE]
    assert selecting(node(labels=KATA | {"pool": "memory"}), [memory, GONE]) == [memory]
    assert selecting(node(labels={}), [memory, GONE]) == []
    assert selecting(node(), [FALLBACK, GONE]) == [FALLBACK]


CEILING = Ceiling("quota", 12, 6)
UNKNOWN = config(None)


@pytest.mark.parametrize(
    ("pools", "now", "bound", "is_ready", "used", "found"),
    [
        # Ready: the limit, or what the cloud has.
        ([config(10)], None, None, True, 3, Target(10, "limit", 10)),
        ([config(10)], None, CEILING, True, 3, Target(6, "quota", 6)),
        ([config(5)], None, CEILING, True, 3, Target(5, "limit", 5)),
        # Not ready: the slots in use, never more than the limit.
        ([config(10)], "10", None, False, 3, Target(3, "adaptor", 10)),
        ([config(10)], "10", None, False, 0, Target(0, "adaptor", 10)),
        ([config(2)], "10", None, False, 3, Target(2, "adaptor", 2)),
        ([config(10)], "10", CEILING, False, 7, Target(6, "adaptor", 6)),
        ([config(0)], None, None, False, 0, Target(0, "adaptor", 0)),
        # No pool, or no limit: write nothing.
        ([], "10", None, True, 3, Target(None)),
        ([], "10", None, False, 3, Target(None)),
        ([UNKNOWN], None, None, True, 3, Target(None)),
        # Where no limit is known, the node keeps what it has, whatever the adaptor and the cloud do:
        # what is overwritten could not be restored.
        ([UNKNOWN], "6", None, True, 3, Target(None)),
        ([UNKNOWN], "6", None, False, 3, Target(None)),
        ([UNKNOWN], "10", CEILING, True, 3, Target(None)),
        ([UNKNOWN, UNKNOWN], "10", CEILING, True, 3, Target(None)),
        ([UNKNOWN, config(4)], "6", None, True, 3, Target(4, "limit", 4)),
        ([UNKNOWN, config(4)], "6", None, False, 3, Target(None)),
        # A pool that has vanished: no free slots while the adaptor is not ready, and afterwards what
        # was there before, but never less than another program has written, nor anything new.
        ([GONE], "10", None, False, 3, Target(3, "adaptor", 10)),
        ([GONE], "10", None, False, 0, Target(0, "adaptor", 10)),
        ([GONE], "0", None, True, 0, Target(10, "limit", 10)),
        ([GONE], "10", None, True, 3, Target(10, "limit", 10)),
        ([GONE], "12", None, True, 3, Target(12, "limit", 10)),
        ([GONE], "0", CEILING, True, 3, Target(6, "quota", 6)),
        ([GONE], "10", CEILING, True, 3, Target(10, "quota", 6)),
        ([GONE], None, None, True, 3, Target(None)),
        ([GONE], None, None, False, 3, Target(None)),
        ([replace(UNKNOWN, has_vanished=True)], "10", None, False, 3, Target(None)),
    ],
)
def test_the_target(pools, now, bound, is_ready, used, found):
    assert target(node(now, now), pools, bound, is_ready=is_ready, used=used) == found


MEMORY = Pool("memory", {"pool": "memory"}, 4)
OPERATORS = config(10)


@pytest.mark.parametrize(
    ("last", "pools", "operators_pool", "left"),
    [
        # Its labels have changed while its pool still exists.
        (["default"], [FALLBACK], "default", True),
        (["memory"], [MEMORY], "default", True),
        (["memory"], [MEMORY], "peerpodconfig-openshift", True),
        (["memory", "default"], [MEMORY, FALLBACK], "default", True),
        # Its pool was deleted, while the operator's own shows that nothing else is missing.
        (["memory"], [FALLBACK], "default", True),
        (["memory", "default"], [FALLBACK], "default", True),
        (["memory"], [OPERATORS], "peerpodconfig-openshift", True),
        # Its pool has vanished in an upgrade.
        (["peerpodconfig-openshift"], [], "peerpodconfig-openshift", False),
        (["peerpodconfig-openshift"], [MEMORY], "peerpodconfig-openshift", False),
        (["peerpodconfig-openshift"], [FALLBACK], "default", False),
        # Not seen since the agent started: the operator's own pool shows that nothing is missing.
        ([], [], "peerpodconfig-openshift", False),
        ([], [MEMORY], "peerpodconfig-openshift", False),
        ([], [MEMORY], "default", False),
        ([], [OPERATORS], "peerpodconfig-openshift", True),
        ([], [FALLBACK], "default", True),
        # A pool whose node selector cannot be read may have it.
        ([], [FALLBACK, Pool("memory", None, None, bad_limit="{")], "default", False),
    ],
)
def test_a_node_has_left(last, pools, operators_pool, left):
    found = {pool.name: pool for pool in pools}
    assert has_left(node("10", "10", labels={}), last, found, operators_pool) is left


@pytest.mark.parametrize("last", [[], ["default"], ["memory"]])
def test_a_selected_node_has_not_left(last):
    pools = {"default": FALLBACK, "memory": MEMORY}
    assert not has_left(node(labels=KATA), last, pools, "default")


AGENT = "peerpods-node-capacity"


def fields(manager, *parts, resource=VM):
    status = {f"f:{part}": {f"f:{resource}": {}} for part in parts}
    return {"manager": manager, "subresource": "status", "fieldsV1": {"f:status": status}}


@pytest.mark.parametrize(
    ("managed", "ours"),
    [
        ([fields(AGENT, "capacity", "allocatable")], True),
        # A kubelet derives allocatable from capacity.
        ([fields(AGENT, "capacity"), fields("kubelet", "allocatable")], True),
        ([fields(AGENT, "capacity"), fields("kubelet", "capacity", resource="cpu")], True),
        # The capacity is gone already.
        ([fields(AGENT, "allocatable")], True),
        ([fields("cloud-api-adaptor", "capacity"), fields(AGENT, "allocatable")], False),
        # Both have written the same number.
        ([fields(AGENT, "capacity"), fields("cloud-api-adaptor", "capacity")], False),
        ([fields("manager", "capacity", "allocatable")], False),
        ([fields(AGENT, "capacity", resource="example.com/other")], False),
        ([{"manager": AGENT, "fieldsV1": {"f:metadata": {"f:labels": {}}}}], False),
        ([{"manager": AGENT}], False),
        ([], False),
    ],
)
def test_the_resource_is_ours(managed, ours):
    assert is_ours(managed, VM, AGENT) is ours


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


@pytest.mark.parametrize(("found", "slots"), [(None, None), ("10", 10), ("0", 0), ("1k", 1000), ("10k", 10_000)])
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
    assert cloud_capacity({"a": " 7\n"}) == CloudCapacity({"a": 7}, {})


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
