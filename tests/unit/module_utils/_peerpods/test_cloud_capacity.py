"""How the cloud's bounds limit the nodes, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import (
    CloudShare,
    cloud_bounds,
    cloud_share,
    own_bounds,
    slots_of,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("owner", "data", "written", "own"),
    [
        ("osc.peerpods", {"instance-quota": "3", "budget": "7"}, {}, ["instance-quota"]),
        ("osc.peerpods", {}, {}, []),
        # Without the label, only a bound that still has the value that was written.
        ("another", {"instance-quota": "3"}, {}, []),
        (None, {"instance-quota": "3"}, {}, []),
        (None, {"instance-quota": "3", "subnet-addresses": "9"}, {"instance-quota": "3"}, ["instance-quota"]),
        (None, {"instance-quota": "4"}, {"instance-quota": "3"}, []),
        (None, {}, {"instance-quota": "3"}, []),
        (None, {"budget": "3"}, {"budget": "3"}, []),
    ],
)
def test_the_bounds_of_this_collection_are_known_by_their_mark(owner, data, written, own):
    metadata = {
        "labels": {"app.kubernetes.io/part-of": owner} if owner else None,
        "annotations": {f"osc.peerpods.io/{name}": value for name, value in written.items()} or None,
    }
    assert own_bounds({"metadata": metadata, "data": data}) == own


@pytest.mark.parametrize(
    ("limits", "total", "slots"),
    [
        ([30, 30, 30], 64, 21),
        ([30, 30, 30], 90, None),
        ([30, 30, 30], 89, 29),
        ([30, 30, 30], 2, 0),
        ([30, 30, 30], 0, 0),
        # The unused share of a node with a low limit goes to the other nodes, in any order.
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
def test_the_share_is_the_largest_number_within_the_bound(limits, total):
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


def test_the_slots_that_a_node_must_advertise():
    share = CloudShare("b", 20, 2, 60, 10)
    assert [slots_of(limit, share) for limit in (30, 10, 9)] == [10, 10, 9]
    assert slots_of(30, CloudShare("b", 60, 2, 60, None)) == 30
    assert slots_of(30, None) == 30


def test_bounds_are_whole_numbers():
    data = {"a": "64", "b": "many", "c": "-1", "d": 7, "e": "", "f": "1.5"}
    assert cloud_bounds(data) == {"a": 64, "d": 7}
