from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.image import (
    image_of,
    image_problems,
    made_by_job,
    snapshots_of,
)

IMAGE = {
    "ImageId": "ami-1",
    "Name": "podvm-image-1.0.1",
    "State": "available",
    "Architecture": "x86_64",
    "BootMode": "uefi",
    "TpmSupport": "v2.0",
    "OwnerId": "1",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1"}},
        {"VirtualName": "ephemeral0"},
    ],
}


def offered(architecture="x86_64", modes=("legacy-bios", "uefi"), tpm="supported") -> dict:
    return {
        "t3.medium": {
            "ProcessorInfo": {"SupportedArchitectures": [architecture]},
            "SupportedBootModes": list(modes),
            "NitroTpmSupport": tpm,
        }
    }


def problems(image: dict | None = None, types=("t3.medium",), of_region: dict | None = None) -> list[str]:
    return image_problems("ami-1", IMAGE if image is None else image, types, of_region or offered(), "eu-1")


def test_an_image_from_which_instances_start():
    assert problems() == []
    assert problems(types=()) == []


def test_an_image_that_does_not_exist():
    (problem,) = image_problems("ami-1", None, ["t3.medium"], {}, "eu-1")
    assert problem.startswith(
        "EC2 has no AMI ami-1 in eu-1 that these credentials may see. An AMI belongs to one region"
    )


@pytest.mark.parametrize(
    ("image", "of_region", "expected"),
    [
        ({"State": "pending"}, {}, "The state of AMI ami-1 is pending, not available. Wait until it is available."),
        (
            {"State": "failed", "StateReason": {"Message": "no disk."}},
            {},
            "The state of AMI ami-1 is failed, not available: no disk. Use another AMI.",
        ),
        (
            {"Architecture": "arm64"},
            {},
            "AMI ami-1 has the architecture arm64, and instance type t3.medium supports x86_64.",
        ),
        (
            {},
            {"modes": ["legacy-bios"]},
            "AMI ami-1 boots with uefi, and instance type t3.medium supports legacy-bios.",
        ),
        ({"BootMode": "legacy-bios"}, {"modes": ["uefi"]}, "boots with legacy-bios"),
        ({}, {"tpm": "unsupported"}, "requires NitroTPM, which instance type t3.medium does not have"),
    ],
)
def test_an_image_from_which_no_instance_starts(image: dict, of_region: dict, expected: str):
    (problem,) = problems({**IMAGE, **image}, of_region=offered(**of_region))
    assert expected in problem


@pytest.mark.parametrize(
    ("image", "modes"),
    [({"BootMode": "uefi-preferred"}, ["legacy-bios"]), ({"BootMode": None}, ["legacy-bios"]), ({}, [])],
)
def test_boot_modes_that_fit(image: dict, modes: list[str]):
    assert problems({**IMAGE, **image}, of_region=offered(modes=modes)) == []


def test_an_instance_type_that_the_region_does_not_have():
    (problem,) = problems(types=["t9.nano", "t9.nano"])
    assert problem.startswith("EC2 has no instance type t9.nano in eu-1.")


def test_an_architecture_that_is_not_returned():
    """moto returns none for registered images."""
    image = {key: value for key, value in IMAGE.items() if key != "Architecture"}
    assert problems(image) == []
    assert image_of(image)["architecture"] is None


def test_the_description_of_an_image():
    assert image_of(IMAGE) == {
        "id": "ami-1",
        "name": "podvm-image-1.0.1",
        "state": "available",
        "architecture": "x86_64",
        "boot_mode": "uefi",
        "tpm": "v2.0",
        "owner": "1",
        "created": None,
        "snapshots": ["snap-1"],
    }


def test_only_the_images_of_the_operators_job_are_removed():
    ours = {"ImageId": "ami-1", "Description": "Peer-pod image"}
    name = "podvm-image-1.0.1"
    of_bootc = {"ImageId": "ami-4", "Name": name, "Tags": [{"Key": "Name", "Value": name}]}
    others = [
        {"ImageId": "ami-2", "Description": "mine"},
        {"ImageId": "ami-3"},
        {**of_bootc, "Tags": [{"Key": "Name", "Value": "mine"}]},
        {**of_bootc, "Tags": [{"Key": "Owner", "Value": name}]},
        {**of_bootc, "Description": "mine"},
    ]
    assert made_by_job([ours, *others, of_bootc]) == [ours, of_bootc]


def test_the_snapshots_that_other_images_have():
    of_user = {**IMAGE, "ImageId": "ami-2"}
    without = {"ImageId": "ami-3", "State": "available"}
    assert snapshots_of([IMAGE, of_user, without], {"ami-1"}) == {"snap-1"}
    assert snapshots_of([IMAGE, without], {"ami-1"}) == set()
    assert snapshots_of([IMAGE]) == {"snap-1"}
