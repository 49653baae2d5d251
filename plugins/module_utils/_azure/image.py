# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether VMs of the given sizes can be created from an image in Azure (private to this collection; no I/O here).

Azure documentation: Gallery Image Versions - Get, Gallery Images - Get, Images - Get, Resource Skus - List, and "Store
and share images in an Azure Compute Gallery".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_names import image_version, short_id

_PROVIDER = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute"
_GALLERY = re.compile(rf"({_PROVIDER}/galleries/[^/]+/images/[^/]+)(/versions/[^/]+)?", re.IGNORECASE)
_MANAGED = re.compile(rf"{_PROVIDER}/images/[^/]+", re.IGNORECASE)
_SHARED = re.compile(r"/(communityGalleries|sharedGalleries)/[^/]+/images/[^/]+(/versions/[^/]+)?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageId:
    """The ID of an image: `kind` is gallery, managed, shared, or empty if it is not the ID of an image.

    `definition` and `version` are the IDs of those of a gallery; without a version, Azure takes the latest one.
    """

    kind: str
    definition: str = ""
    version: str = ""


def parse_image_id(image_id: str) -> ImageId:
    if match := _GALLERY.fullmatch(image_id):
        return ImageId("gallery", match[1], image_id if match[2] else "")
    if _MANAGED.fullmatch(image_id):
        return ImageId("managed")
    return ImageId("shared" if _SHARED.fullmatch(image_id) else "")


def latest_version(versions: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The version that Azure takes if an ID names none."""
    candidates = [
        version
        for version in versions
        if not (version["properties"].get("publishingProfile") or {}).get("excludeFromLatest")
    ]
    return max(candidates, key=lambda version: [int(part) for part in version["name"].split(".")], default=None)


def image_of(image: Mapping[str, Any], definition: Mapping[str, Any] | None, kind: str) -> dict:
    """The value `image` of azure_podvm_image_info."""
    properties = image["properties"]
    described = (definition or image)["properties"]
    return {
        "id": image["id"],
        "kind": kind,
        "state": properties.get("provisioningState"),
        "generation": described.get("hyperVGeneration"),
        # Managed images are of this architecture only.
        "architecture": described.get("architecture") if definition else "x64",
        "regions": _regions(image, kind),
    }


def image_problems(
    image_id: str,
    kind: str,
    image: Mapping[str, Any] | None,
    described: Mapping[str, Any] | None,
    sizes: Iterable[str],
    skus: Iterable[Mapping[str, Any]],
    location: str,
) -> list[str]:
    """Why VMs of these sizes cannot be created from the image in the location, each as a sentence with what to do.

    `described` is the value of image_of.
    """
    if not kind:
        form = "…/galleries/GALLERY/images/DEFINITION/versions/VERSION"
        return [
            f"{image_id} is not the ID of an image. Use that of a version in a gallery, {form}, or a managed image."
        ]
    if image is None or described is None:
        return [f"Azure has no image {image_id}. Check the ID, and that these credentials may read its resource group."]
    by_name = {sku["name"].lower(): sku for sku in skus if sku["resourceType"] == "virtualMachines"}
    return [
        *_state_problems(image_id, image, described, location),
        *(
            problem
            for size in dict.fromkeys(sizes)
            for problem in _size_problems(image_id, described, size, by_name.get(size.lower()), location)
        ),
    ]


def _regions(image: Mapping[str, Any], kind: str) -> list[str]:
    if kind == "managed":
        return [_region(image["location"])]
    regions = (image["properties"].get("publishingProfile") or {}).get("targetRegions") or ()
    return [_region(region["name"]) for region in regions]


def _state_problems(
    image_id: str, image: Mapping[str, Any], described: Mapping[str, Any], location: str
) -> Iterator[str]:
    if described["state"] not in (None, "Succeeded"):
        yield f"The provisioning state of image {image_id} is {described['state']}, not Succeeded. Create it again."
        return
    if location not in described["regions"]:
        if described["kind"] == "managed":
            advice = (
                "A managed image belongs to one region: use an image of this one, or a version in a compute gallery."
            )
        else:
            advice = "Add the region to its target regions (`az sig image-version update --target-regions`)."
        yield f"Image {image_id} is in {', '.join(described['regions']) or 'no region'}, not in {location}. {advice}"
        return
    status = image["properties"].get("replicationStatus") or {}
    for region in status.get("summary") or ():
        if _region(region["region"]) == location and region.get("state") != "Completed":
            details = f" ({region['details'].rstrip('.')})" if region.get("details") else ""
            yield (
                f"Image {image_id} is not replicated to {location} yet: the state is {region.get('state')}{details}. "
                "Wait until it is Completed (`az sig image-version show --expand ReplicationStatus`)."
            )


def _size_problems(
    image_id: str, described: Mapping[str, Any], size: str, sku: Mapping[str, Any] | None, location: str
) -> Iterator[str]:
    if sku is None:
        yield f"Azure has no VM size {size} in {location}. Set another one for the VMs of peer pods."
        return
    capabilities = {entry["name"]: entry["value"] for entry in sku.get("capabilities") or ()}
    # Sizes without the capability are x64.
    architecture = capabilities.get("CpuArchitectureType", "x64")
    if described["architecture"] and described["architecture"].lower() != architecture.lower():
        yield (
            f"Image {image_id} has the architecture {described['architecture']}, and VM size {size} is {architecture}. "
            "Use an image or a VM size of the other architecture."
        )
        return
    generations = capabilities.get("HyperVGenerations", "V1").split(",")
    if described["generation"] and described["generation"] not in generations:
        yield (
            f"Image {image_id} is of generation {described['generation']}, and VM size {size} supports "
            f"{' and '.join(generations)}. Set another size for the VMs of peer pods."
        )


def _region(name: str) -> str:
    return name.replace(" ", "").lower()


def plan_gallery_removal(
    gallery: str, cluster_id: str, version: str, definition: str, definitions: Mapping[str, Iterable[str]]
) -> tuple[list[str], list[str]]:
    """The IDs to delete, in this order, and those that stay.

    `definitions` has the IDs of the versions by the ID of their definition. The images of a cluster are the versions
    with this number of the definition with this name, and the gallery is that of the cluster if its name ends with the
    ID of the cluster (config/peerpods/podvm/azure-podvm-image-handler.sh of openshift/sandboxed-containers-operator).
    Another gallery may have images of other owners with any name and number: of it, only a version with the number
    that the ID of the cluster gives is removed.
    """
    removed: list[str] = []
    kept: list[str] = []
    is_ours = gallery.rpartition("_")[2].lower() == short_id(cluster_id).lower()
    for path, versions in definitions.items():
        is_named = path.rpartition("/")[2].lower() == definition.lower()
        ours = [
            each
            for each in versions
            if is_named and each.rpartition("/")[2] == version and (is_ours or version == image_version(cluster_id))
        ]
        others = [each for each in versions if each not in ours]
        removed += ours
        if is_ours and is_named and not others:
            removed.append(path)
        else:
            kept += [path, *others]
    return (removed, kept) if kept or not is_ours else ([*removed, gallery], kept)
