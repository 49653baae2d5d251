"""What the cloud's bounds leave the nodes, and what Azure tells of a subnet, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure_quota import subnet_usage
from ansible_collections.osc.peerpods.plugins.module_utils._cloud_bounds import cloud_bounds
from ansible_collections.osc.peerpods.plugins.module_utils._limits import (
    EXTENDED_RESOURCE,
    CloudShare,
    cloud_share,
    explain_lagging,
    limit_at,
    pool_of_config,
    slots_of,
)
from hypothesis import given
from hypothesis import strategies as st

SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a"


@pytest.mark.parametrize(
    ("limits", "total", "slots"),
    [
        ([30, 30, 30], 64, 21),
        ([30, 30, 30], 90, None),
        ([30, 30, 30], 89, 29),
        ([30, 30, 30], 2, 0),
        ([30, 30, 30], 0, 0),
        # What a node with a low limit leaves goes to the others, whatever their order.
        ([30, 5, 30], 64, 29),
        ([5, 4, 60], 40, 31),
        ([5, 4, 60], 10, 3),
        ([5, 4, 60], 13, 4),
        ([10], 4, 4),
        ([0, 0], 0, None),
        ([], 5, None),
    ],
)
def test_a_bound_is_shared_evenly(limits, total, slots):
    share = cloud_share(limits, {"instance-quota": total})
    assert share == CloudShare("instance-quota", total, len(limits), sum(limits), slots)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_it_is_the_largest_number_that_stays_within_the_bound(limits, total):
    share = cloud_share(limits, {"b": total})

    def taken(slots: int) -> int:
        return sum(min(limit, slots) for limit in limits)

    if share.slots is None:
        assert sum(limits) <= total
    else:
        assert taken(share.slots) <= total < taken(share.slots + 1)


def test_the_smallest_bound_counts():
    bounds = {"subnet-addresses": 251, "instance-quota": 64, "ours": 65}
    assert cloud_share([30, 30, 30], bounds).bound == "instance-quota"
    assert cloud_share([30], {}) is None


def test_what_a_node_is_to_advertise():
    held = CloudShare("b", 20, 2, 60, 10)
    assert [slots_of(limit, held) for limit in (30, 10, 9)] == [10, 10, 9]
    assert slots_of(30, CloudShare("b", 60, 2, 60, None)) == 30
    assert slots_of(30, None) == 30


def test_bounds_are_whole_numbers():
    data = {"a": "64", "b": "many", "c": "-1", "d": 7, "e": "", "f": "1.5"}
    assert cloud_bounds(data) == {"a": 64, "d": 7}


@pytest.mark.parametrize(
    ("spec", "limit"),
    [({"limit": "4"}, 4), ({}, 1), ({"limit": "many"}, 3)],
)
def test_what_another_config_allows_on_a_node(spec, limit):
    node = {"status": {"allocatable": {EXTENDED_RESOURCE: "3"}}}
    pool = pool_of_config({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})
    assert limit_at(node, pool) == limit


def test_waiting_in_vain_says_what_the_cloud_leaves():
    def node(name: str, count: str) -> dict:
        return {
            "metadata": {"name": name},
            "status": {"allocatable": {EXTENDED_RESOURCE: count}},
        }

    share = CloudShare("instance-quota", 20, 2, 60, 10)
    said = explain_lagging([node("a", "30"), node("b", "10")], 30, "kata=", 5, share)
    assert said.startswith(
        "After 5 s the limit of 30, of which the cloud's instance-quota leaves 10, is not in force "
        "on every selected node: a shows 30. "
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"limit": 251.0, "currentValue": 6.0}, {"limit": 251, "used": 6, "free": 245, "reason": None}),
        ({"limit": 3.0, "currentValue": 3.0}, {"limit": 3, "used": 3, "free": 0, "reason": None}),
        (
            {"limit": -1.0, "currentValue": -1.0},
            {
                "limit": None,
                "used": None,
                "free": None,
                "reason": f"Azure does not count the addresses of {SUBNET.upper()}.",
            },
        ),
        (
            {"id": f"{SUBNET}b", "limit": 251.0, "currentValue": 6.0},
            {"limit": None, "used": None, "free": None, "reason": f"Azure has no subnet {SUBNET.upper()}."},
        ),
    ],
)
def test_what_azure_counts_of_a_subnet(usage, expected):
    found = subnet_usage(SUBNET.upper(), [{"id": SUBNET, **usage}])
    known = expected["reason"] is None
    assert found == {"id": SUBNET if known else SUBNET.upper(), **expected}


def test_a_network_that_azure_has_not():
    assert subnet_usage(SUBNET, None)["reason"] == f"Azure has no subnet {SUBNET}."
