"""How many more instances of a type fit, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.quota import counted, quota_code, vcpu_quota

STANDARD, G, X, INF, TRN, HPC, HIGH_MEMORY = (
    *("L-1216C47A", "L-DB2E81BA", "L-7295265B", "L-1945791B"),
    *("L-2C3B7624", "L-F7808C92", "L-43DA4232"),
)
VCPUS = {"t3.medium": 2, "m6i.2xlarge": 8, "c5n.large": 2, "g4dn.xlarge": 4, "mac1.metal": 12}


@pytest.mark.parametrize(
    ("instance_type", "code"),
    [
        *((f"{letter}9zn.large", STANDARD) for letter in "acdhimrtz"),
        ("im4gn.large", STANDARD),
        ("is4gen.large", STANDARD),
        ("m7i-flex.large", STANDARD),
        ("inf2.xlarge", INF),
        ("trn1.2xlarge", TRN),
        ("hpc6a.48xlarge", HPC),
        ("x2iedn.xlarge", X),
        ("g4dn.xlarge", G),
        ("gr6.4xlarge", G),
        ("vt1.3xlarge", G),
        ("u-6tb1.metal", HIGH_MEMORY),
        ("u7i-12tb.224xlarge", HIGH_MEMORY),
        # Dedicated Hosts only, an unknown family, and no family.
        ("mac1.metal", None),
        ("q1.large", None),
        ("", None),
    ],
)
def test_each_family_belongs_to_a_quota(instance_type, code):
    assert quota_code(instance_type) == code


def test_which_instances_count():
    instances = [
        {"InstanceType": "t3.medium"},
        {"InstanceType": "t3.medium", "Placement": {"Tenancy": "default"}},
        {"InstanceType": "t3.medium", "Placement": {"Tenancy": "dedicated"}},
        {"InstanceType": "t3.medium", "Placement": {"Tenancy": "host"}},
        {"InstanceType": "t3.medium", "InstanceLifecycle": "spot"},
        {"InstanceType": "m6i.2xlarge", "InstanceLifecycle": "capacity-block"},
    ]
    reservations = [
        {"InstanceType": "c5n.large", "AvailableInstanceCount": 4, "ReservationType": "default"},
        {"InstanceType": "t3.medium", "AvailableInstanceCount": 0},
        {"InstanceType": "p5.48xlarge", "AvailableInstanceCount": 1, "ReservationType": "capacity-block"},
    ]
    assert +counted(instances, reservations) == {"t3.medium": 3, "c5n.large": 4}


@pytest.mark.parametrize(
    ("quota", "count", "used", "instances"),
    [
        (64, {}, 0, 32),
        (64, {"m6i.2xlarge": 3}, 24, 20),
        (64, {"m6i.2xlarge": 3, "t3.medium": 2, "c5n.large": 1}, 30, 17),
        (5, {"c5n.large": 1}, 2, 1),
        (5, {"t3.medium": 2}, 4, 0),
        # A quota can be lower than the current usage.
        (8, {"m6i.2xlarge": 3}, 24, 0),
        # Other families have their own quotas; their vCPUs are not counted.
        (64, {"g5.xlarge": 10, "mac2.metal": 1}, 0, 32),
    ],
)
def test_the_available_amount_of_a_quota(quota, count, used, instances):
    (quota_of_type,) = vcpu_quota(["t3.medium"], VCPUS, count, {STANDARD: quota}, "eu-west-3")
    assert quota_of_type == {
        "name": "t3.medium",
        "vcpus": 2,
        "quota_code": STANDARD,
        "quota": quota,
        "used": used,
        "instances": instances,
        "reason": None,
    }


def test_each_type_has_the_quota_of_its_family():
    quotas = vcpu_quota(
        ["t3.medium", "g4dn.xlarge", "t3.medium"],
        VCPUS,
        {"g4dn.xlarge": 1},
        {STANDARD: 10, G: 16},
        "eu-west-3",
    )
    assert [(quota_of_type["name"], quota_of_type["instances"]) for quota_of_type in quotas] == [
        ("t3.medium", 5),
        ("g4dn.xlarge", 3),
    ]


@pytest.mark.parametrize(
    ("instance_type", "reason"),
    [
        ("t9.huge", "EC2 has no instance type t9.huge in eu-west-3."),
        ("mac1.metal", "No vCPU quota of On-Demand Instances is known for mac1.metal."),
    ],
)
def test_an_unknown_amount_is_null(instance_type, reason):
    (quota_of_type,) = vcpu_quota([instance_type], VCPUS, {}, {STANDARD: 64}, "eu-west-3")
    assert quota_of_type["instances"] is None
    assert quota_of_type["reason"] == reason
