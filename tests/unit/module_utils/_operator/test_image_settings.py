from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_settings import (
    ImageSettings,
    image_settings,
)

URI = "oci::quay.io/a/podvm:1.0"


def planned(
    platform: str = "AWS",
    *,
    existing: dict | None = None,
    way: str = "given",
    release: str = "1.13.0",
    temporary: bool = False,
    **options,
) -> ImageSettings:
    name = f"{platform.lower()}-podvm-image-cm"
    defaults = {
        "cluster_id": "0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11",
        "image_id": "",
        "uri": "",
        "config": {},
        "bucket": "",
        "creates_identity": False,
        "existing": {} if existing is None else {name: existing},
        "has_image": False,
    }
    csv = f"sandboxed-containers-operator.v{release}" if release else ""
    return image_settings(platform, {**defaults, **options}, way, csv, keys_are_temporary=temporary)


def test_the_operator_creates_the_config_map_without_an_option():
    assert planned(has_image=True) == ImageSettings("aws-podvm-image-cm")
    assert planned("None") == ImageSettings()


def test_a_new_config_map_has_what_the_scripts_of_all_releases_require():
    """The version and the gallery are those that the operator would set."""
    on_aws, on_azure = planned(uri=URI).data, planned("Azure", uri=URI).data
    # verify_vars of aws-podvm-image-handler.sh and azure-podvm-image-handler.sh, without those of peer-pods-cm.
    in_common = {"PODVM_DISTRO", "CAA_SRC", "CAA_REF", "INSTALL_PACKAGES", "DOWNLOAD_SOURCES", "DISABLE_CLOUD_CONFIG"}
    in_common |= {"CONFIDENTIAL_COMPUTE_ENABLED", "ENABLE_NVIDIA_GPU", "BOOT_FIPS", "UPDATE_PEERPODS_CM"}
    of_aws = {"INSTANCE_TYPE", "AMI_BASE_NAME", "AMI_VERSION", "AMI_VOLUME_SIZE"}
    of_azure = {"VM_SIZE", "IMAGE_GALLERY_NAME", "IMAGE_BASE_NAME", "IMAGE_VERSION"} | {
        f"IMAGE_DEFINITION_{name}"
        for name in ("NAME", "PUBLISHER", "OFFER", "SKU", "OS_TYPE", "OS_STATE", "ARCHITECTURE", "VM_GENERATION")
    }
    assert in_common | of_aws <= on_aws.keys()
    assert in_common | of_azure <= on_azure.keys()
    assert all(on_aws.values())
    assert all(on_azure.values())
    assert (on_aws["AMI_VERSION"], on_azure["IMAGE_VERSION"]) == ("262093934.0.1", "262093934.0.1")
    assert on_azure["IMAGE_GALLERY_NAME"] == "PodVMGallery_0f9f3c6e"
    assert on_aws["PODVM_IMAGE_URI"] == URI


def test_an_existing_config_map_keeps_its_other_keys():
    existing = {"AMI_BASE_NAME": "mine", "AMI_VOLUME_SIZE": "30"}
    changed = planned(existing=existing, uri=URI, config={"AMI_VOLUME_SIZE": 30, "INSTALL_PACKAGES": True})
    assert changed.data == {"PODVM_IMAGE_URI": URI, "INSTALL_PACKAGES": "yes"}
    assert planned(existing={**existing, "PODVM_IMAGE_URI": URI}, uri=URI).data == {}


def test_booleans_are_written_as_the_scripts_read_them():
    config = {"INSTALL_PACKAGES": False, "DISABLE_CLOUD_CONFIG": "True", "BOOT_FIPS": True, "OTHER": True}
    written = planned(existing={}, config=config)
    assert written.problems == ()
    assert written.data == {
        "INSTALL_PACKAGES": "no",
        "DISABLE_CLOUD_CONFIG": "true",
        "BOOT_FIPS": "true",
        "OTHER": "True",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"uri": URI, "image_id": "ami-1"}, "An image is given by its ID, and operator_install_image_uri"),
        ({"uri": "quay.io/a"}, "operator_install_image_uri must be TYPE::IMAGE[:TAG][::PATH]"),
        ({"uri": URI, "release": "1.9.1"}, "operator.v1.9.1 creates its image without an OCI image; release 1.10"),
        ({"uri": "bootc::quay.io/a", "way": "token"}, "does not take a bootc image with credentials of a"),
        ({"uri": "bootc::quay.io/a", "temporary": True}, "does not take a bootc image with a temporary access key"),
        (
            {"bucket": "b-1", "way": "token"},
            "With operator_install_credentials token, the image job creates the bucket",
        ),
        ({"bucket": "b-1", "release": "1.12.0"}, "has no use with sandboxed-containers-operator.v1.12.0"),
        ({"bucket": "B"}, "operator_install_image_bucket must be the name of an S3 bucket"),
        (
            {"bucket": "b-1", "config": {"BUCKET_NAME": "b-2"}},
            "BUCKET_NAME in operator_install_image_config is set by operator_install_image_bucket.",
        ),
        ({"config": {"ami_version": "1"}}, "ami_version in operator_install_image_config is not a key of aws-podvm-"),
        ({"config": {"PODVM_IMAGE_URI": URI}}, "is set by operator_install_image_uri. Use that option."),
        ({"config": {"A": ["b"]}}, "A in operator_install_image_config is not a single value."),
        ({"config": {"AMI_VERSION": "1.0"}}, "must be MAJOR.MINOR.PATCH; got '1.0'."),
        ({"config": {"AMI_VOLUME_SIZE": "big"}}, "must be a whole number of GiB; got 'big'."),
        ({"config": {"BUCKET_NAME": "A_b"}}, "must be the name of an S3 bucket"),
        ({"config": {"IMAGE_GALLERY_NAME": "a-b"}}, "without hyphens; got 'a-b'."),
        ({"config": {"INSTALL_PACKAGES": "maybe"}}, "must be yes or no; got 'maybe'."),
        ({"config": {"UPDATE_PEERPODS_CM": False}}, "the job would not write the ID of its image to peer-pods-cm"),
    ],
)
def test_settings_that_cannot_be_used(options: dict, expected: str):
    (problem,) = planned(**options).problems
    assert expected in problem


BOOTC = {"PODVM_IMAGE_URI": "bootc::quay.io/a"}


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        # The ConfigMap of a user, whose image the job would make.
        ({"existing": BOOTC, "way": "token"}, True),
        ({"existing": BOOTC, "temporary": True}, True),
        ({"existing": BOOTC, "temporary": True, "uri": URI}, False),
        # No job runs.
        ({"existing": BOOTC, "temporary": True, "has_image": True}, False),
        ({"existing": BOOTC, "way": "token", "image_id": "ami-1"}, False),
        # What the job takes.
        ({"existing": BOOTC}, False),
        ({"existing": BOOTC, "way": "credentials_request"}, False),
        ({"existing": BOOTC, "way": "token", "platform": "Azure"}, False),
        ({"uri": "bootc::quay.io/a", "way": "token", "platform": "Azure"}, False),
        ({"existing": {"PODVM_IMAGE_URI": URI}, "temporary": True}, False),
        ({"existing": {"PODVM_IMAGE_URI": ""}, "temporary": True}, False),
        ({"temporary": True}, False),
    ],
)
def test_a_bootc_image_on_aws_needs_a_permanent_key(options: dict, is_refused: bool):
    problems = planned(**options).problems
    assert [problem for problem in problems if "does not take a bootc image" in problem] == [*problems]
    assert bool(problems) is is_refused


@pytest.mark.parametrize("release", ["", "1.10.0"])
def test_releases_that_take_an_oci_image(release: str):
    assert planned(uri=URI, release=release).problems == ()


JOBS = {"way": "token"}


@pytest.mark.parametrize(
    ("options", "bucket"),
    [
        (JOBS, "podvm-image-262093934.0.1"),
        ({**JOBS, "existing": {"AMI_BASE_NAME": "mine", "AMI_VERSION": "1.0.1"}}, "mine-1.0.1"),
        ({**JOBS, "existing": {"BUCKET_NAME": "b-1"}, "config": {"AMI_VERSION": "2.0.1"}}, "b-1"),
        ({**JOBS, "existing": {"BUCKET_NAME": "b-1"}, "config": {"BUCKET_NAME": "b-2"}}, "b-2"),
        ({"way": "given", "release": "1.12.0"}, "podvm-image-262093934.0.1"),
        ({"way": "given"}, ""),
        ({**JOBS, "release": "1.9.1"}, ""),
        ({**JOBS, "image_id": "ami-1"}, ""),
        ({**JOBS, "has_image": True}, ""),
        ({**JOBS, "platform": "Azure"}, ""),
    ],
)
def test_the_bucket_that_the_job_creates(options: dict, bucket: str):
    assert planned(**options).buckets.created == bucket


@pytest.mark.parametrize(
    ("options", "bucket"),
    [
        ({"way": "given"}, "podvm-image-262093934.0.1"),
        ({"way": "given", "release": ""}, "podvm-image-262093934.0.1"),
        ({"way": "given", "existing": {"BUCKET_NAME": "b-1"}}, "b-1"),
        ({"way": "given", "existing": {"BUCKET_NAME": "b-1"}, "config": {"BUCKET_NAME": "b-2"}}, "b-2"),
        # The role creates it.
        ({"way": "given", "bucket": "b-1"}, ""),
        ({"way": "given", "release": "1.12.0"}, ""),
        ({"way": "given", "image_id": "ami-1"}, ""),
        ({"way": "given", "has_image": True}, ""),
        ({"way": "given", "platform": "Azure"}, ""),
        (JOBS, ""),
    ],
)
def test_the_bucket_that_must_exist(options: dict, bucket: str):
    assert planned(**options).buckets.needed == bucket


def test_a_bucket_that_the_created_role_may_not_use():
    options = {**JOBS, "existing": {"AMI_BASE_NAME": "mine", "AMI_VERSION": "1.0.1"}}
    assert planned(**options).problems == ()
    (problem,) = planned(**options, creates_identity=True).problems
    assert problem.startswith("The image job creates the S3 bucket mine-1.0.1")
    assert planned(**JOBS, creates_identity=True).problems == ()


def test_the_bucket_that_the_role_creates():
    assert planned(bucket="b-1").data["BUCKET_NAME"] == "b-1"
    assert planned(bucket="b-1", existing={"BUCKET_NAME": "b-2"}).data == {"BUCKET_NAME": "b-1"}
