"""What nodes should advertise."""

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
    applicable_pools,
    ceiling,
    cloud_capacity,
    is_deselected,
    is_only_writer,
    limit_of,
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
        # White space and leading zeros are ignored.
        (" 10", 10),
        ("10\n", 10),
        ("0" * 5000 + "5", 5),
    ],
)
def test_valid_limits(text, limit):
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
def test_an_invalid_limit_keeps_the_last_valid_one(text):
    fresh = pool_of_config("c", node_selector=KATA, limit=text, previous=None)
    assert fresh == Pool("c", KATA, None, invalid=text)
    valid = config(7, name="c")
    invalid = pool_of_config("c", node_selector=KATA, limit=text, previous=valid)
    assert invalid == Pool("c", KATA, 7, invalid=text)
    invalid_again = pool_of_config("c", node_selector=KATA, limit="still invalid", previous=invalid)
    assert invalid_again.limit == 7


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        (KATA, KATA, True),
        (KATA, KATA | WORKER, True),
        (KATA, WORKER, False),
        (KATA, {}, False),
        (KATA | WORKER, KATA, False),
        ({"zone": "a"}, {"zone": "b"}, False),
        ({}, {}, True),  # an empty selector: every node
        (None, WORKER, True),  # not written: the workers
        (None, KATA, False),
    ],
)
def test_node_selectors(selector, labels, selected):
    read = pool_of_config("c", node_selector=selector, limit="5", previous=None)
    assert applicable_pools(node(labels=labels), [read]) == ([read] if selected else [])


@pytest.mark.parametrize(
    ("configs", "now", "slots"),
    [
        ([], "10", None),
        ([config(10)], None, 10),
        ([config(10)], "3", 10),
        ([config(0)], "10", 0),
        # Several pools: the smallest limit of those that select the node, in any order.
        ([config(10), config(4)], None, 4),
        ([config(4), config(10)], None, 4),
        ([config(10), config(4, selector=WORKER)], None, 10),
        # No valid limit has been read: the current capacity of the node.
        ([config(None)], "6", 6),
        ([config(None)], "1k", 1000),
        ([config(None)], None, None),
        ([config(None), config(10)], "6", 6),
        ([config(None), config(4)], "6", 4),
        ([config(None), config(4)], None, None),
    ],
)
def test_limit_of(configs, now, slots):
    selected_node = node(now, now)
    assert limit_of(selected_node, applicable_pools(selected_node, configs)) == slots


FALLBACK = Pool("default", KATA, 20, source="peer-pods-cm", is_fallback=True)
VANISHED = replace(config(10), has_vanished=True)


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
def test_a_fallback_pool_applies_to_nodes_that_no_other_pool_selects(labels, names):
    pools = [FALLBACK, Pool("memory", {"pool": "memory"}, 40), Pool("zone", {"zone": "a"}, 3)]
    assert [pool.name for pool in applicable_pools(node(labels=labels), pools)] == names


def test_a_vanished_pool_applies_only_without_another_pool():
    memory = Pool("memory", {"pool": "memory"}, 40)
    assert applicable_pools(node(), [memory, VANISHED]) == [VANISHED]
    assert applicable_pools(node(labels=KATA | {"pool": "memory"}), [memory, VANISHED]) == [memory]
    assert applicable_pools(node(labels={}), [memory, VANISHED]) == []
    assert applicable_pools(node(), [FALLBACK, VANISHED]) == [FALLBACK]


CEILING = Ceiling("quota", 12, 6)
UNKNOWN = config(None)


@pytest.mark.parametrize(
    ("pools", "now", "bound", "is_ready", "used", "expected"),
    [
        # Ready: the limit, or the ceiling.
        ([config(10)], None, None, True, 3, Target(10, "limit", 10)),
        ([config(10)], None, CEILING, True, 3, Target(6, "quota", 6)),
        ([config(5)], None, CEILING, True, 3, Target(5, "limit", 5)),
        # Not ready: the slots in use, at most the limit.
        ([config(10)], "10", None, False, 3, Target(3, "adaptor", 10)),
        ([config(10)], "10", None, False, 0, Target(0, "adaptor", 10)),
        ([config(2)], "10", None, False, 3, Target(2, "adaptor", 2)),
        ([config(10)], "10", CEILING, False, 7, Target(6, "adaptor", 6)),
        ([config(0)], None, None, False, 0, Target(0, "adaptor", 0)),
        # No pool, or no limit: unchanged.
        ([], "10", None, True, 3, Target(None)),
        ([], "10", None, False, 3, Target(None)),
        ([UNKNOWN], None, None, True, 3, Target(None)),
        # Without a known limit the node keeps its slots, whatever the state of the adaptor and the cloud: an
        # overwritten value could not be restored.
        ([UNKNOWN], "6", None, True, 3, Target(None)),
        ([UNKNOWN], "6", None, False, 3, Target(None)),
        ([UNKNOWN], "10", CEILING, True, 3, Target(None)),
        ([UNKNOWN, UNKNOWN], "10", CEILING, True, 3, Target(None)),
        ([UNKNOWN, config(4)], "6", None, True, 3, Target(4, "limit", 4)),
        ([UNKNOWN, config(4)], "6", None, False, 3, Target(None)),
        # A vanished pool: no free slots while the adaptor is not ready, and the last known limit afterwards. A higher
        # number of another program stays, and the resource is not added.
        ([VANISHED], "10", None, False, 3, Target(3, "adaptor", 10)),
        ([VANISHED], "10", None, False, 0, Target(0, "adaptor", 10)),
        ([VANISHED], "0", None, True, 0, Target(10, "limit", 10)),
        ([VANISHED], "10", None, True, 3, Target(10, "limit", 10)),
        ([VANISHED], "12", None, True, 3, Target(12, "limit", 10)),
        ([VANISHED], "0", CEILING, True, 3, Target(6, "quota", 6)),
        ([VANISHED], "10", CEILING, True, 3, Target(10, "quota", 6)),
        ([VANISHED], None, None, True, 3, Target(None)),
        ([VANISHED], None, None, False, 3, Target(None)),
        ([replace(UNKNOWN, has_vanished=True)], "10", None, False, 3, Target(None)),
    ],
)
def test_target(pools, now, bound, is_ready, used, expected):
    assert target(node(now, now), pools, bound, is_ready=is_ready, used=used) == expected


MEMORY = Pool("memory", {"pool": "memory"}, 4)
OPERATORS = config(10)


@pytest.mark.parametrize(
    ("last", "pools", "operators_pool", "deselected"),
    [
        # Its labels have changed; its pool still exists.
        (["default"], [FALLBACK], "default", True),
        (["memory"], [MEMORY], "default", True),
        (["memory"], [MEMORY], "peerpodconfig-openshift", True),
        (["memory", "default"], [MEMORY, FALLBACK], "default", True),
        # Its pool was deleted; the operator's own pool shows that no source is missing.
        (["memory"], [FALLBACK], "default", True),
        (["memory", "default"], [FALLBACK], "default", True),
        (["memory"], [OPERATORS], "peerpodconfig-openshift", True),
        # Its pool has vanished in an upgrade.
        (["peerpodconfig-openshift"], [], "peerpodconfig-openshift", False),
        (["peerpodconfig-openshift"], [MEMORY], "peerpodconfig-openshift", False),
        (["peerpodconfig-openshift"], [FALLBACK], "default", False),
        # No pool has selected the node since the agent started.
        ([], [], "peerpodconfig-openshift", False),
        ([], [MEMORY], "peerpodconfig-openshift", False),
        ([], [MEMORY], "default", False),
        ([], [OPERATORS], "peerpodconfig-openshift", True),
        ([], [FALLBACK], "default", True),
        # A pool without a valid node selector may select it.
        ([], [FALLBACK, Pool("memory", None, None, invalid="{")], "default", False),
    ],
)
def test_is_deselected(last, pools, operators_pool, deselected):
    pools_by_name = {pool.name: pool for pool in pools}
    assert is_deselected(node("10", "10", labels={}), last, pools_by_name, operators_pool) is deselected


@pytest.mark.parametrize("last", [[], ["default"], ["memory"]])
def test_a_selected_node_is_not_deselected(last):
    pools = {"default": FALLBACK, "memory": MEMORY}
    assert not is_deselected(node(labels=KATA), last, pools, "default")


AGENT = "peerpods-node-capacity"


def fields(manager, *parts, resource=VM):
    status = {f"f:{part}": {f"f:{resource}": {}} for part in parts}
    return {"manager": manager, "subresource": "status", "fieldsV1": {"f:status": status}}


@pytest.mark.parametrize(
    ("managed", "expected"),
    [
        ([fields(AGENT, "capacity", "allocatable")], True),
        # A kubelet derives allocatable from capacity.
        ([fields(AGENT, "capacity"), fields("kubelet", "allocatable")], True),
        ([fields(AGENT, "capacity"), fields("kubelet", "capacity", resource="cpu")], True),
        # The capacity has been removed.
        ([fields(AGENT, "allocatable")], True),
        ([fields("cloud-api-adaptor", "capacity"), fields(AGENT, "allocatable")], False),
        # Both programs have written the same number.
        ([fields(AGENT, "capacity"), fields("cloud-api-adaptor", "capacity")], False),
        ([fields("manager", "capacity", "allocatable")], False),
        ([fields(AGENT, "capacity", resource="example.com/other")], False),
        ([{"manager": AGENT, "fieldsV1": {"f:metadata": {"f:labels": {}}}}], False),
        ([{"manager": AGENT}], False),
        ([], False),
    ],
)
def test_is_only_writer(managed, expected):
    assert is_only_writer(managed, VM, AGENT) is expected


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
def test_a_node_that_differs_is_patched(capacity, allocatable, slots, value):
    assert status_patch(node(capacity, allocatable), slots, VM) == {
        "status": {"capacity": {VM: value}, "allocatable": {VM: value}}
    }


@pytest.mark.parametrize(("advertised", "slots"), [(None, None), ("10", 10), ("0", 0), ("1k", 1000), ("10k", 10_000)])
def test_a_node_that_does_not_differ_is_not_patched(advertised, slots):
    assert status_patch(node(advertised, advertised), slots, VM) is None


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
        # Python converts no more than 4300 digits.
        ("9" * 5000, None),
        ("", None),
        (None, None),
    ],
)
def test_quantities(text, number):
    assert whole_quantity(text) == number


def test_the_clouds_bounds_are_whole_numbers():
    first = cloud_capacity({"a": "7", "b": "-1", "c": "0"})
    assert first == CloudCapacity({"a": 7, "c": 0}, {"b": "-1"})
    # An invalid value leaves the last valid one; a deleted key is removed.
    assert cloud_capacity({"a": "many"}, first) == CloudCapacity({"a": 7}, {"a": "many"})
    assert cloud_capacity({}, first) == CloudCapacity({}, {})
    assert cloud_capacity({"a": " 7\n"}) == CloudCapacity({"a": 7}, {})


@pytest.mark.parametrize(
    ("limits", "bounds", "expected"),
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
        # The order of equal bounds is defined.
        ([10], {"quota": 1, "addresses": 1}, Ceiling("addresses", 1, 1)),
    ],
)
def test_ceiling(limits, bounds, expected):
    assert ceiling(limits, bounds) == expected


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 100))
def test_the_ceiling_is_the_highest_that_fits(limits, total):
    def together(slots):
        return sum(min(limit, slots) for limit in limits)

    highest = ceiling(limits, {"quota": total})
    if highest is None:
        assert sum(limits) <= total
    else:
        assert together(highest.slots) <= total < together(highest.slots + 1)
