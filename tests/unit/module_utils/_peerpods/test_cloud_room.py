"""The room in the cloud, from the results of the modules for subnets and quotas."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_room import cloud_room

SUBNET = {"subnet": {"id": "subnet-1", "free": 55, "reason": None}}
QUOTAS = {
    "aws": {"instance_types": [{"name": "t3.medium", "instances": 25, "reason": None}]},
    "azure": {"sizes": [{"name": "Standard_B2als_v2", "instances": 25, "reason": None}]},
}


@pytest.mark.parametrize("provider", ["aws", "azure"])
def test_running_peer_pods_count(provider: str):
    readings = {"subnet": SUBNET, "quota": QUOTAS[provider]}
    # Ansible's templates can turn a number into a string.
    for running in (3, "3"):
        assert cloud_room(readings, provider, running) == {
            "bounds": {"subnet-addresses": "58", "instance-quota": "28"},
            "messages": [
                "subnet-addresses: room for 58 peer pods in total, 3 running and 55 more.",
                "instance-quota: room for 28 peer pods in total, 3 running and 25 more.",
            ],
        }


def test_a_room_of_zero_is_a_bound():
    full = {"subnet": {"subnet": {"free": 0, "reason": None}}, "quota": QUOTAS["aws"]}
    assert cloud_room(full, "aws", 0)["bounds"]["subnet-addresses"] == "0"


def test_an_unknown_amount_has_its_reason():
    readings = {
        "subnet": {"subnet": {"free": None, "reason": "EC2 has no subnet subnet-1."}},
        "quota": {"sizes": [{"instances": None, "reason": None}]},
    }
    assert cloud_room(readings, "azure", 0, {"subnet-addresses": "59", "budget": "7"}) == {
        "bounds": {},
        "messages": [
            "subnet-addresses: unknown. EC2 has no subnet subnet-1. The 59 peer pods of an earlier run stay in force.",
            "instance-quota: unknown. The quota does not count VMs of this size.",
        ],
    }


def test_a_bound_of_another_owner_stays_in_force():
    readings = {"subnet": SUBNET, "quota": QUOTAS["aws"]}
    stored = {"subnet-addresses": "7", "instance-quota": "3", "budget": "2"}
    room = cloud_room(readings, "aws", 3, stored, own=["instance-quota"])
    assert room["bounds"] == {"instance-quota": "28"}
    assert room["messages"][0] == "subnet-addresses: 7, set by another owner of the ConfigMap. It stays in force."
    # A bound that is not stored yet is added.
    assert cloud_room(readings, "aws", 3, {"budget": "2"}, own=[])["bounds"].keys() == {
        "subnet-addresses",
        "instance-quota",
    }


@pytest.mark.parametrize(
    ("provider", "permissions"),
    [
        ("aws", ("ec2:DescribeSubnets.", "servicequotas:GetServiceQuota, ec2:DescribeInstances, ")),
        ("azure", ("Microsoft.Network/virtualNetworks/usages/read.", "Microsoft.Compute/skus/read and ")),
    ],
)
def test_a_failed_module_is_reported_with_its_permissions(provider: str, permissions: tuple[str, str]):
    failed = {"failed": False, "msg": "Access denied."}
    room = cloud_room({"subnet": failed, "quota": failed}, provider, 0)
    assert room["bounds"] == {}
    for message, permission in zip(room["messages"], permissions, strict=True):
        assert f"unknown. Access denied. Required permissions: {permission}" in message


@pytest.mark.parametrize("provider", ["libvirt", ""])
def test_another_cloud_has_no_bounds(provider: str):
    room = cloud_room({}, provider, 0)
    assert room["bounds"] == {}
    assert room["messages"] == [
        "The capacity of the cloud is unknown: CLOUD_PROVIDER in peer-pods-cm is neither aws nor azure."
    ]
