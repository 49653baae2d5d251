"""How many more VMs of a size fit, and how many addresses of a subnet are free, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.quota import (
    subnet_problems,
    subnet_usage,
    vcpu_quota,
)


def sku(name="Standard_B2als_v2", family="standardBalsv2Family", vcpus="2", **fields) -> dict:
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "family": family,
        "capabilities": [{"name": "MemoryGB", "value": "4"}, {"name": "vCPUs", "value": vcpus}],
        "restrictions": [],
        **fields,
    }


def usage(name: str, used: int, limit: int) -> dict:
    return {"name": {"value": name}, "currentValue": used, "limit": limit, "unit": "Count"}


def quota(size: str, skus: list[dict], usages: list[dict]) -> dict:
    (quota_of_size,) = vcpu_quota([size], skus, usages, "westeurope")
    return quota_of_size


@pytest.mark.parametrize(
    ("family", "regional", "vcpus", "instances"),
    [
        ((0, 20), (0, 100), "2", 10),
        ((0, 100), (90, 100), "2", 5),
        ((1, 20), (0, 100), "2", 9),
        ((20, 20), (0, 100), "2", 0),
        ((30, 20), (0, 100), "2", 0),
        ((0, 20), (0, 100), "32", 0),
        (None, (0, 100), "4", 25),
        ((0, 20), None, "4", 5),
        (None, None, "4", None),
    ],
)
def test_the_smaller_of_family_and_region_counts(family, regional, vcpus, instances):
    usages = [usage("standardBalsv2Family", *family)] if family else []
    usages += [usage("cores", *regional)] if regional else []
    quota_of_size = quota("Standard_B2als_v2", [sku(vcpus=vcpus)], usages)
    assert (quota_of_size["instances"], quota_of_size["available"], quota_of_size["reason"]) == (instances, True, None)


def test_the_result_has_the_counted_amounts():
    usages = [usage("StandardBalsV2Family", 4, 20), usage("cores", 30, 100)]
    assert quota("standard_b2ALS_v2", [sku()], usages) == {
        "name": "Standard_B2als_v2",
        "family": "standardBalsv2Family",
        "vcpus": 2,
        "family_limit": 20,
        "family_used": 4,
        "regional_limit": 100,
        "regional_used": 30,
        "instances": 8,
        "available": True,
        "reason": None,
    }


def test_a_size_that_the_region_does_not_offer():
    disk = sku(resourceType="disks", name="Standard_X")
    quota_of_size = quota("Standard_X", [sku(), disk], [])
    assert quota_of_size["available"] is False
    assert quota_of_size["instances"] == 0
    assert quota_of_size["reason"] == "Azure has no VM size Standard_X in westeurope."


@pytest.mark.parametrize(("kind", "available"), [("Location", False), ("Zone", True)])
def test_a_size_that_this_subscription_may_not_have(kind, available):
    restricted = sku(restrictions=[{"type": kind, "reasonCode": "NotAvailableForSubscription"}])
    quota_of_size = quota("Standard_B2als_v2", [restricted], [usage("cores", 0, 10)])
    assert quota_of_size["available"] is available
    assert quota_of_size["instances"] == (5 if available else 0)
    assert ("NotAvailableForSubscription" in (quota_of_size["reason"] or "")) is not available


def test_a_size_that_is_named_twice_is_returned_once():
    names = [quota_of_size["name"] for quota_of_size in vcpu_quota(["A", "B", "A"], [], [], "westeurope")]
    assert names == ["A", "B"]


SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a"


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
def test_the_used_addresses_of_a_subnet(usage, expected):
    used_addresses = subnet_usage(SUBNET.upper(), [{"id": SUBNET, **usage}])
    known = expected["reason"] is None
    assert used_addresses == {"id": SUBNET if known else SUBNET.upper(), **expected}


@pytest.mark.parametrize(
    ("usages", "group_id", "group", "problems"),
    [
        ([{"id": SUBNET.upper()}], "", None, []),
        ([{"id": SUBNET}], "/nsg", {"id": "/nsg"}, []),
        ([{"id": f"{SUBNET}b"}], "", None, [f"Azure has no subnet {SUBNET}."]),
        (None, "/nsg", None, [f"Azure has no subnet {SUBNET}.", "Azure has no network security group /nsg."]),
    ],
)
def test_what_does_not_exist(usages: list[dict] | None, group_id: str, group: dict | None, problems: list[str]):
    assert list(subnet_problems(SUBNET, usages, group_id, group)) == problems


def test_a_missing_network_is_reported():
    assert subnet_usage(SUBNET, None)["reason"] == f"Azure has no subnet {SUBNET}."
