from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.image import (
    ImageId,
    image_of,
    image_problems,
    latest_version,
    parse_image_id,
    plan_gallery_removal,
)

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute"
DEFINITION_ID = f"{GROUP}/galleries/G_1/images/podvm-image"
VERSION_ID = f"{DEFINITION_ID}/versions/1.0.1"
DEFINITION = {"id": DEFINITION_ID, "properties": {"hyperVGeneration": "V2", "architecture": "x64"}}


def version(*regions: str, state="Succeeded", name="1.0.1", replication=(), **publishing) -> dict:
    return {
        "id": f"{DEFINITION_ID}/versions/{name}",
        "name": name,
        "location": "westeurope",
        "properties": {
            "provisioningState": state,
            "publishingProfile": {"targetRegions": [{"name": each} for each in regions], **publishing},
            "replicationStatus": {"summary": list(replication)},
        },
    }


def sku(**capabilities: str) -> dict:
    return {
        "resourceType": "virtualMachines",
        "name": "Standard_B2als_v2",
        "capabilities": [{"name": name, "value": value} for name, value in capabilities.items()],
    }


def problems(image: dict, definition: dict = DEFINITION, sizes=("standard_b2als_v2",), **capabilities) -> list[str]:
    described = image_of(image, definition, "gallery")
    skus = [sku(**{"HyperVGenerations": "V1,V2", **capabilities})]
    return image_problems(VERSION_ID, "gallery", image, described, sizes, skus, "westeurope")


@pytest.mark.parametrize(
    ("image_id", "expected"),
    [
        (VERSION_ID, ImageId("gallery", DEFINITION_ID, VERSION_ID)),
        (VERSION_ID.lower(), ImageId("gallery", DEFINITION_ID.lower(), VERSION_ID.lower())),
        (DEFINITION_ID, ImageId("gallery", DEFINITION_ID)),
        (f"{GROUP}/images/mine", ImageId("managed")),
        ("/communityGalleries/G/images/D/versions/1.0.0", ImageId("shared")),
        ("/SharedGalleries/G/images/D", ImageId("shared")),
        (f"{GROUP}/galleries/G", ImageId("")),
        (f"{GROUP}/virtualMachines/v", ImageId("")),
    ],
)
def test_the_kinds_of_ids(image_id: str, expected: ImageId):
    assert parse_image_id(image_id) == expected


def test_an_image_from_which_vms_are_created():
    replicated = {"region": "West Europe", "state": "Completed"}
    assert problems(version("West Europe", "northeurope", replication=[replicated])) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (version("westeurope", state="Failed"), "The provisioning state of image"),
        (version("northeurope"), f"Image {VERSION_ID} is in northeurope, not in westeurope. Add the region"),
        (
            version(
                "westeurope", replication=[{"region": "West Europe", "state": "Failed", "details": "No capacity."}]
            ),
            "is not replicated to westeurope yet: the state is Failed (No capacity). Wait",
        ),
    ],
)
def test_an_image_that_the_region_does_not_have(image: dict, expected: str):
    (problem,) = problems(image)
    assert expected in problem


@pytest.mark.parametrize(
    ("definition", "capabilities", "expected"),
    [
        ({"architecture": "Arm64"}, {}, "has the architecture Arm64, and VM size standard_b2als_v2 is x64"),
        ({}, {"CpuArchitectureType": "Arm64"}, "has the architecture x64, and VM size standard_b2als_v2 is Arm64"),
        ({}, {"HyperVGenerations": "V1"}, "is of generation V2, and VM size standard_b2als_v2 supports V1"),
    ],
)
def test_a_size_that_does_not_fit(definition: dict, capabilities: dict, expected: str):
    changed = {"id": DEFINITION_ID, "properties": {**DEFINITION["properties"], **definition}}
    (problem,) = problems(version("westeurope"), changed, **capabilities)
    assert expected in problem


def test_a_size_that_the_region_does_not_have():
    (problem,) = problems(version("westeurope"), sizes=["Standard_X1"])
    assert problem.startswith("Azure has no VM size Standard_X1 in westeurope.")


def test_a_managed_image():
    image = {"id": f"{GROUP}/images/mine", "location": "northeurope", "properties": {"hyperVGeneration": "V1"}}
    described = image_of(image, None, "managed")
    assert described["architecture"] == "x64"
    (problem,) = image_problems(image["id"], "managed", image, described, [], [], "westeurope")
    assert "A managed image belongs to one region" in problem


@pytest.mark.parametrize(
    ("kind", "expected"), [("", "x is not the ID of an image."), ("gallery", "Azure has no image x.")]
)
def test_an_image_that_does_not_exist(kind: str, expected: str):
    (problem,) = image_problems("x", kind, None, None, ["Standard_B2als_v2"], [], "westeurope")
    assert problem.startswith(expected)


def test_the_latest_version():
    versions = [version(name="1.9.0"), version(name="1.10.0"), version(name="2.0.0", excludeFromLatest=True)]
    latest = latest_version(versions)
    assert latest
    assert latest["name"] == "1.10.0"
    assert latest_version([]) is None


GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/PodVMGallery_0F9f3c6e"
SHARED = f"{GALLERY.rpartition('/')[0]}/Shared"
OURS, OTHER = "262093934.0.1", "1.0.0"


def definition(gallery: str, *versions: str, name: str = "podvm-image") -> dict[str, list[str]]:
    path = f"{gallery}/images/{name}"
    return {path: [f"{path}/versions/{version}" for version in versions]}


@pytest.mark.parametrize(
    ("gallery", "definitions", "removed", "kept"),
    [
        (
            GALLERY,
            definition(GALLERY, OURS),
            [f"{GALLERY}/images/podvm-image/versions/{OURS}", f"{GALLERY}/images/podvm-image", GALLERY],
            [],
        ),
        # Emptied by the operator, or by an interrupted run.
        (GALLERY, {}, [GALLERY], []),
        (GALLERY, definition(GALLERY), [f"{GALLERY}/images/podvm-image", GALLERY], []),
        (
            GALLERY,
            definition(GALLERY, OURS, OTHER),
            [f"{GALLERY}/images/podvm-image/versions/{OURS}"],
            [f"{GALLERY}/images/podvm-image", f"{GALLERY}/images/podvm-image/versions/{OTHER}"],
        ),
        # The operator creates no definition but its own.
        (
            GALLERY,
            {**definition(GALLERY, OURS), **definition(GALLERY, OURS, name="other")},
            [f"{GALLERY}/images/podvm-image/versions/{OURS}", f"{GALLERY}/images/podvm-image"],
            [f"{GALLERY}/images/other", f"{GALLERY}/images/other/versions/{OURS}"],
        ),
        # The gallery of another owner.
        (
            SHARED,
            {**definition(SHARED, OURS), **definition(SHARED, OURS, name="golden-rhel9")},
            [f"{SHARED}/images/podvm-image/versions/{OURS}"],
            [
                f"{SHARED}/images/podvm-image",
                f"{SHARED}/images/golden-rhel9",
                f"{SHARED}/images/golden-rhel9/versions/{OURS}",
            ],
        ),
        (SHARED, definition(SHARED), [], [*definition(SHARED)]),
        (SHARED, definition(SHARED, OTHER), [], [*definition(SHARED), *definition(SHARED, OTHER).popitem()[1]]),
    ],
)
def test_what_is_removed_of_a_gallery(gallery: str, definitions: dict, removed: list[str], kept: list[str]):
    assert plan_gallery_removal(gallery, "0f9f3c6e-6d1c", OURS, "podvm-image", definitions) == (removed, kept)


def test_a_version_without_the_id_of_the_cluster():
    """Images of any owner may have it in another gallery."""
    (version,) = definition(GALLERY, OTHER).popitem()[1]
    removed, kept = plan_gallery_removal(GALLERY, "0f9f3c6e-6d1c", OTHER, "PodVM-Image", definition(GALLERY, OTHER))
    assert (removed, kept) == ([version, f"{GALLERY}/images/podvm-image", GALLERY], [])
    definitions = definition(SHARED, OTHER)
    assert plan_gallery_removal(SHARED, "0f9f3c6e-6d1c", OTHER, "podvm-image", definitions) == (
        [],
        [*definitions, *definitions.popitem()[1]],
    )
