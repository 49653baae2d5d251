"""Microsoft.Compute's images: compute galleries, their definitions and versions, and managed images.

Sources: learn.microsoft.com/rest/api/compute/galleries, gallery-images, gallery-image-versions and images, with their
examples (azure-rest-api-specs, specification/compute), and "Troubleshoot issues with shared images in Azure". The
errors of machines whose image does not exist are quoted in confidential-containers/cloud-api-adaptor#1709,
aztfmod/terraform-azurerm-caf#852 (a version of a gallery) and MicrosoftDocs/azure-docs#53728 (a managed image).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from . import ids
from .errors import ArmError

# A version in a community gallery, which is in another subscription, and its regions.
COMMUNITY_IMAGE = (
    "/CommunityGalleries/cocopodvm-d0e4f35f-5530-4b9c-8596-112487cdea85/Images/podvm_image0/Versions/1.0.0"
)
COMMUNITY_REGIONS = ("eastus", "westeurope")

# Without hyphens, unlike the names of other resources.
GALLERY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.]{0,78}[A-Za-z0-9])?")
LARGEST = 2**31 - 1

# The properties of a definition that cannot be changed after its creation.
FIXED = ("osType", "osState", "hyperVGeneration", "architecture", "identifier")


def complete(kind: str, name: str, properties: dict[str, Any], old: dict[str, Any], location: str) -> None:
    """Validate the properties of a write and complete them; `old` are those before it."""
    match kind:
        case ids.GALLERIES:
            if not GALLERY_NAME.fullmatch(name):
                raise _invalid(f"The gallery name '{name}' is not valid.", "galleryName")
            properties["identifier"] = old.get("identifier") or {"uniqueName": f"{uuid.uuid4()}-{name.upper()}"}
        case ids.GALLERY_IMAGES:
            _complete_definition(properties, old)
        case ids.GALLERY_VERSIONS:
            _complete_version(name, properties, location)
        case ids.IMAGES:
            if not (properties.get("storageProfile") or properties.get("sourceVirtualMachine")):
                raise _required("storageProfile")
            properties.setdefault("hyperVGeneration", "V1")


def _complete_definition(properties: dict[str, Any], old: dict[str, Any]) -> None:
    for key in ("osType", "osState", "identifier"):
        if not properties.get(key):
            raise _required(f"galleryImage.properties.{key}")
    properties.setdefault("hyperVGeneration", "V1")
    properties.setdefault("architecture", "x64")
    changed = next((key for key in FIXED if old and old.get(key) != properties[key]), None)
    if changed:
        # hashicorp/packer-plugin-azure#65.
        target = f"galleryImage.properties.{changed}"
        raise ArmError(409, "PropertyChangeNotAllowed", f"Changing property '{target}' is not allowed.", target=target)


def _complete_version(name: str, properties: dict[str, Any], location: str) -> None:
    numbers = name.split(".")
    if len(numbers) != 3 or not all(part.isdecimal() and int(part) <= LARGEST for part in numbers):
        # hashicorp/packer-plugin-azure#187.
        raise _invalid(
            "The image version name is invalid. The image version name should follow Major(int).Minor(int).Patch(int) "
            "format, where int is between 0 and 2,147,483,647 (inclusive). For e.g: 1.0.0, 2018.12.1 etc.",
            "galleryImageVersionName",
        )
    storage = properties.get("storageProfile") or {}
    if not (storage.get("source") or storage.get("osDiskImage")):
        raise _required("galleryImageVersion.properties.storageProfile")
    publishing = properties.setdefault("publishingProfile", {})
    regions = publishing.setdefault("targetRegions", [{"name": location}])
    if location not in [_region(region["name"]) for region in regions]:
        raise _invalid(
            f"The location '{location}' of the gallery image version must be one of its target regions.",
            "galleryImageVersion.properties.publishingProfile.targetRegions",
        )
    for region in regions:
        region.setdefault("regionalReplicaCount", 1)
        region.setdefault("storageAccountType", "Standard_LRS")


def expanded(body: dict[str, Any], expand: str) -> dict[str, Any]:
    """The version with what `$expand` names. A version is replicated as soon as its operation has ended."""
    if body["type"] != ids.GALLERY_VERSIONS or expand.lower() != "replicationstatus":
        return body
    properties = body["properties"]
    ended = properties["provisioningState"] == "Succeeded"
    regions = properties["publishingProfile"]["targetRegions"]
    status = {
        "aggregatedState": "Completed" if ended else "InProgress",
        "summary": [
            {
                "region": region["name"],
                # For tests: a region that this replication has not reached.
                "state": region.get("testsReplicationState") or ("Completed" if ended else "Replicating"),
                "details": "",
                "progress": 100 if ended else 0,
            }
            for region in regions
        ],
    }
    return {**body, "properties": {**properties, "replicationStatus": status}}


def require_image(storage_profile: Mapping[str, Any], location: str, stored: Mapping[str, dict]) -> None:
    """Reject a machine whose image does not exist in its region."""
    reference = storage_profile.get("imageReference") or {}
    if community := reference.get("communityGalleryImageId"):
        if community.lower() != COMMUNITY_IMAGE.lower() or location not in COMMUNITY_REGIONS:
            raise _not_in_region(community, location)
        return
    image_id = reference.get("id")
    if not image_id:
        return
    resource = ids.parse(image_id)
    if resource is None or resource.type not in (ids.GALLERY_IMAGES, ids.GALLERY_VERSIONS, ids.IMAGES):
        raise _invalid(f"Entity '{image_id}' is not the ID of an image.", "imageReference.id")
    if resource.type == ids.IMAGES:
        if (stored.get(resource.key) or {}).get("location") != location:
            message = f"The Image '{image_id}' cannot be found in '{location}' region."
            raise ArmError(404, "NotFound", message, target="imageReference")
        return
    # Without a version, Azure takes the latest one.
    versions = (
        body
        for key, body in stored.items()
        if body["type"] == ids.GALLERY_VERSIONS and f"{key}/".startswith(f"{resource.key}/")
    )
    if not any(location in _regions(version) for version in versions):
        raise _not_in_region(image_id, location)


def _not_in_region(image_id: str, location: str) -> ArmError:
    return ArmError(
        404,
        "GalleryImageNotFound",
        f'"The gallery image {image_id} is not available in {location} region. Please contact image owner to replicate '
        'to this region, or change your requested region."',
        target="imageReference",
    )


def _regions(version: dict) -> Iterable[str]:
    return (_region(region["name"]) for region in version["properties"]["publishingProfile"]["targetRegions"])


def require_empty(nested: list[str]) -> None:
    if nested:
        # gardenlinux/gardenlinux#2036 and jenkins-infra/azure#1544.
        names = ", ".join(each.partition("/providers/")[2] for each in nested)
        raise ArmError(
            409,
            "CannotDeleteResource",
            f"Cannot delete resource while nested resources exist. Some existing nested resource IDs include: "
            f"'{names}'. Please delete all nested resources before deleting this resource.",
        )


def _region(name: str) -> str:
    return name.replace(" ", "").lower()


def _required(target: str) -> ArmError:
    return _invalid(f"Required parameter '{target.rpartition('.')[2]}' is missing (null).", target)


def _invalid(message: str, target: str) -> ArmError:
    return ArmError(400, "InvalidParameter", message, target=target)
