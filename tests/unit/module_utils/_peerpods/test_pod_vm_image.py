from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import (
    kept_annotations,
    kept_data,
    names_cloud,
    pod_vm_image,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {"key": "PODVM_AMI_ID", "id": ""}),
        ({"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0"}, {"key": "PODVM_AMI_ID", "id": "ami-0"}),
        ({"CLOUD_PROVIDER": "azure", "AZURE_IMAGE_ID": "/i"}, {"key": "AZURE_IMAGE_ID", "id": "/i"}),
    ],
)
def test_the_image_of_the_pod_vms(data: dict | None, expected: dict):
    assert pod_vm_image(data and {"data": data}) == {**expected, "of_job": False, "kept": "", "gallery": ""}


@pytest.mark.parametrize(
    ("key", "image", "annotations", "of_job"),
    [
        ("PODVM_AMI_ID", "ami-0", {"LATEST_AMI_ID": "ami-0"}, True),
        ("AZURE_IMAGE_ID", "/g/i", {"LATEST_IMAGE_ID": "/G/I"}, True),
        # A user has set another image since, or no image is set.
        ("PODVM_AMI_ID", "ami-1", {"LATEST_AMI_ID": "ami-0"}, False),
        ("PODVM_AMI_ID", "", {"LATEST_AMI_ID": "ami-0"}, False),
        ("PODVM_AMI_ID", "", {"LATEST_AMI_ID": ""}, False),
        # No job has made one, or only one of the other cloud.
        ("PODVM_AMI_ID", "ami-0", {"LATEST_IMAGE_ID": "ami-0"}, False),
        ("PODVM_AMI_ID", "ami-0", {}, False),
        ("PODVM_AMI_ID", "ami-0", None, False),
    ],
)
def test_who_made_the_image(key: str, image: str, annotations: dict | None, of_job: bool):
    data = {"CLOUD_PROVIDER": "aws" if key == "PODVM_AMI_ID" else "azure", key: image}
    assert pod_vm_image({"metadata": {"annotations": annotations}, "data": data})["of_job"] is of_job


@pytest.mark.parametrize(
    ("image", "made", "kept", "restored"),
    [
        ("", "", "ami-mine", {"PODVM_AMI_ID": "ami-mine"}),
        # Of an image job that began meanwhile.
        ("ami-0", "ami-0", "ami-mine", {"PODVM_AMI_ID": "ami-mine"}),
        # A user has set another image since.
        ("ami-1", "ami-0", "ami-mine", {}),
        ("", "", "", {}),
    ],
)
def test_the_image_that_an_interrupted_teardown_keeps(image: str, made: str, kept: str, restored: dict):
    annotations = {"LATEST_AMI_ID": made, "osc.peerpods/pod-vm-image": kept}
    settings = {"metadata": {"annotations": annotations}, "data": {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": image}}
    assert pod_vm_image(settings)["kept"] == restored.get("PODVM_AMI_ID", "")
    assert kept_data(settings) == restored


@pytest.mark.parametrize(
    ("data", "platform", "key"),
    [
        (None, "Azure", "AZURE_IMAGE_ID"),
        ({"AZURE_IMAGE_ID": "/i"}, "Azure", "AZURE_IMAGE_ID"),
        (None, "AWS", "PODVM_AMI_ID"),
        # The VMs of a cluster may be in another cloud.
        ({"CLOUD_PROVIDER": "aws"}, "Azure", "PODVM_AMI_ID"),
    ],
)
def test_the_platform_counts_if_the_settings_do_not_name_the_cloud(data: dict | None, platform: str, key: str):
    settings = data and {"data": data}
    image = pod_vm_image(settings, None if names_cloud(settings) else platform)
    assert (image["key"], image["id"]) == (key, (data or {}).get(key, ""))


@pytest.mark.parametrize(
    ("annotations", "gallery", "restored"),
    [
        (None, "", {}),
        ({"IMAGE_GALLERY_NAME": "PodVMGallery_1"}, "PodVMGallery_1", {}),
        ({"osc.peerpods/image-gallery": "PodVMGallery_1"}, "", {"IMAGE_GALLERY_NAME": "PodVMGallery_1"}),
        # A job has created another one since.
        (
            {"osc.peerpods/image-gallery": "PodVMGallery_1", "IMAGE_GALLERY_NAME": "PodVMGallery_2"},
            "PodVMGallery_2",
            {"IMAGE_GALLERY_NAME": "PodVMGallery_2"},
        ),
    ],
)
def test_the_gallery_that_a_teardown_keeps(annotations: dict | None, gallery: str, restored: dict):
    settings = {"metadata": {"annotations": annotations}, "data": {"CLOUD_PROVIDER": "azure"}}
    assert pod_vm_image(settings)["gallery"] == gallery
    assert kept_annotations(settings) == restored
