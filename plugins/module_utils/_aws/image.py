# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether instances of the VMs' types can be started from an AMI (private to this collection; no I/O here).

EC2 documentation: "Amazon EC2 AMI boot modes" and "Enable a Linux AMI for NitroTPM", and DescribeInstanceTypes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The boot modes of an AMI of which an instance type must support one. An AMI without a boot mode starts in the default
# one of the instance type.
BOOT_MODES = {"uefi": ("uefi",), "legacy-bios": ("legacy-bios",), "uefi-preferred": ("uefi", "legacy-bios")}


def image_of(image: Mapping[str, Any]) -> dict:
    """The value `image` of ec2_podvm_image_info."""
    return {
        "id": image["ImageId"],
        "name": image.get("Name"),
        "state": image["State"],
        "architecture": image.get("Architecture"),
        "boot_mode": image.get("BootMode"),
        "tpm": image.get("TpmSupport"),
        "owner": image.get("OwnerId"),
        "created": image.get("CreationDate"),
        "snapshots": [
            device["Ebs"]["SnapshotId"]
            for device in image.get("BlockDeviceMappings", ())
            if (device.get("Ebs") or {}).get("SnapshotId")
        ],
    }


def snapshots_of(images: Iterable[Mapping[str, Any]], except_images: Container[str] = ()) -> set[str]:
    """The snapshots of the images other than `except_images`."""
    values = map(image_of, images)
    return {snapshot for image in values if image["id"] not in except_images for snapshot in image["snapshots"]}


def image_problems(
    image_id: str,
    image: Mapping[str, Any] | None,
    instance_types: Iterable[str],
    offered: Mapping[str, Mapping[str, Any]],
    region: str,
) -> list[str]:
    """Why instances of these types cannot be started from the image, each as a sentence with what to do.

    `image` and `offered` are from DescribeImages and DescribeInstanceTypes, None or without an entry for what EC2 does
    not have.
    """
    if image is None:
        missing = f"EC2 has no AMI {image_id} in {region} that these credentials may see."
        return [f"{missing} An AMI belongs to one region: copy it to this one, or share it with this account."]
    return [
        *_state_problem(image),
        *(
            problem
            for name in dict.fromkeys(instance_types)
            for problem in _type_problems(image, name, offered, region)
        ),
    ]


def _state_problem(image: Mapping[str, Any]) -> Iterator[str]:
    if image["State"] != "available":
        reason = (image.get("StateReason") or {}).get("Message")
        advice = "Wait until it is available." if image["State"] == "pending" else "Use another AMI."
        yield (
            f"The state of AMI {image['ImageId']} is {image['State']}, not available"
            f"{f': {reason.rstrip(chr(46))}' if reason else ''}. {advice}"
        )


def _type_problems(
    image: Mapping[str, Any], name: str, offered: Mapping[str, Mapping[str, Any]], region: str
) -> Iterator[str]:
    instance_type = offered.get(name)
    if instance_type is None:
        yield f"EC2 has no instance type {name} in {region}. Set another one for the VMs of peer pods."
        return
    image_id, architecture = image["ImageId"], image.get("Architecture")
    supported = (instance_type.get("ProcessorInfo") or {}).get("SupportedArchitectures") or ()
    if architecture and supported and architecture not in supported:
        yield (
            f"AMI {image_id} has the architecture {architecture}, and instance type {name} supports "
            f"{join_names(supported)}. Use an image or an instance type of the other architecture."
        )
        return
    modes = BOOT_MODES.get(image.get("BootMode") or "", ())
    supported = instance_type.get("SupportedBootModes") or ()
    if modes and supported and not set(modes) & set(supported):
        yield (
            f"AMI {image_id} boots with {image['BootMode']}, and instance type {name} supports "
            f"{join_names(supported)}. Set another instance type for the VMs of peer pods."
        )
    if image.get("TpmSupport") and instance_type.get("NitroTpmSupport") == "unsupported":
        yield (
            f"AMI {image_id} requires NitroTPM, which instance type {name} does not have. Set another instance type "
            "for the VMs of peer pods."
        )


# The description of an AMI that the operator's job has created (config/peerpods/podvm/aws-podvm-image-handler.sh of
# openshift/sandboxed-containers-operator). It has no tags.
MADE_BY_JOB = "Peer-pod image"


def made_by_job(images: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [image for image in images if image.get("Description") == MADE_BY_JOB or _is_of_bootc(image)]


def _is_of_bootc(image: Mapping[str, Any]) -> bool:
    """Whether bootc-image-builder, which the job runs for a bootc image, has registered the AMI: without a description,
    and with its name as a tag (Register in pkg/cloud/awscloud/awscloud.go of osbuild/images)."""
    tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags") or ()}
    return not image.get("Description") and "Name" in tags and tags["Name"] == image.get("Name")
