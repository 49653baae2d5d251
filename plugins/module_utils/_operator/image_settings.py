# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of the job that creates the image of the pod VMs, in aws-podvm-image-cm or azure-podvm-image-cm (no I/O
here).

The operator creates this ConfigMap with its own settings unless it exists, and adds only the OCI image of its release.
One that is created for it must therefore have everything that the scripts of any release require
(createImageConfigMapFromFile in controllers/image_generator.go, and config/peerpods/podvm, of
openshift/sandboxed-containers-operator).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_bucket import (
    OCI_SINCE,
    JobBuckets,
    buckets_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    GIVEN,
    TOKEN,
    image_job_needs_bucket,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_names import (
    BUCKET_PREFIX,
    image_version,
    short_id,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_uri import uri_problem, uri_type

NAMES = {"aws": "aws-podvm-image-cm", "azure": "azure-podvm-image-cm"}
URI_KEY = "PODVM_IMAGE_URI"

# The keys that the scripts compare with "yes", and those that they compare with "true".
YES_NO = (
    "CONFIDENTIAL_COMPUTE_ENABLED",
    "DOWNLOAD_SOURCES",
    "ENABLE_NVIDIA_GPU",
    "INSTALL_PACKAGES",
    "UPDATE_PEERPODS_CM",
)
TRUE_FALSE = ("BOOT_FIPS", "DISABLE_CLOUD_CONFIG")

# The known values of settings, and what is expected.
_VERSION = (r"\d+\.\d+\.\d+", "MAJOR.MINOR.PATCH")
_NUMBER = (r"[1-9]\d*", "a whole number of GiB")
PATTERNS = {
    **dict.fromkeys(YES_NO, ("yes|no", "yes or no")),
    "DISABLE_CLOUD_CONFIG": ("true|false", "true or false"),
    "BOOT_FIPS": ("true|yes|no|false", "true or no"),
    "AMI_VERSION": _VERSION,
    "IMAGE_VERSION": _VERSION,
    "AMI_VOLUME_SIZE": _NUMBER,
    "BUCKET_NAME": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket: 3 to 63 of a-z, 0-9, . and -"),
    "IMAGE_DEFINITION_VM_GENERATION": ("V1|V2", "V1 or V2"),
    "IMAGE_DEFINITION_ARCHITECTURE": ("x64|Arm64", "x64 or Arm64"),
    "IMAGE_GALLERY_NAME": (
        r"[A-Za-z0-9]([A-Za-z0-9_.]{0,78}[A-Za-z0-9])?",
        "at most 80 letters, digits, underscores and periods, without hyphens",
    ),
}

_COMMON = {
    "PODVM_DISTRO": "rhel",
    # Read only with DOWNLOAD_SOURCES, and required by the scripts of 1.10 nevertheless.
    "CAA_SRC": "https://github.com/confidential-containers/cloud-api-adaptor",
    "CAA_REF": "main",
    "INSTALL_PACKAGES": "no",
    "DOWNLOAD_SOURCES": "no",
    "CONFIDENTIAL_COMPUTE_ENABLED": "no",
    "DISABLE_CLOUD_CONFIG": "true",
    "ENABLE_NVIDIA_GPU": "no",
    "UPDATE_PEERPODS_CM": "yes",
    "BOOT_FIPS": "no",
}
_INITIAL = {
    "aws": {
        **_COMMON,
        "AMI_BASE_NAME": "podvm-image",
        "AMI_VOLUME_SIZE": "30",
        "INSTANCE_TYPE": "c4.xlarge",
    },
    "azure": {
        **_COMMON,
        "IMAGE_DEFINITION_NAME": "podvm-image",
        "IMAGE_DEFINITION_PUBLISHER": "RedHat",
        "IMAGE_DEFINITION_OFFER": "OSC-PodVM",
        "IMAGE_DEFINITION_SKU": "OSC-PodVM",
        "IMAGE_DEFINITION_OS_TYPE": "Linux",
        "IMAGE_DEFINITION_OS_STATE": "Generalized",
        "IMAGE_DEFINITION_VM_GENERATION": "V2",
        "IMAGE_DEFINITION_ARCHITECTURE": "x64",
        "IMAGE_BASE_NAME": "podvm-image",
        "VM_SIZE": "Standard_D2as_v5",
    },
}


@dataclass(frozen=True)
class ImageSettings:
    """The ConfigMap `name`, the keys to write to it, why they cannot be used, and the S3 buckets of its job."""

    name: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    buckets: JobBuckets = field(default_factory=JobBuckets)


def image_settings(
    platform: str, options: Mapping[str, Any], credentials_way: str, csv: str, *, keys_are_temporary: bool = False
) -> ImageSettings:
    """The settings that the user gives.

    `options` has the `cluster_id`, the `uri` and `config` of the user, the given `image_id`, the `bucket` that the role
    creates (empty if none), whether it creates the identity (`creates_identity`), the data of the `existing` ConfigMaps
    by name, and whether the operator `has_image`. `csv` is the ClusterServiceVersion of the operator, empty if it is
    not known. `keys_are_temporary` is whether the credentials are an access key of AWS with a session token.
    """
    platform, uri, bucket = platform.lower(), options["uri"], options["bucket"]
    if platform not in NAMES:
        return ImageSettings()
    name = NAMES[platform]
    own = {key: _text(key, value) for key, value in options["config"].items()} | ({URI_KEY: uri} if uri else {})
    own |= {"BUCKET_NAME": bucket} if bucket else {}
    existing = options["existing"].get(name)
    problems = tuple(_problems(platform, options, own, credentials_way, csv)) if own else ()
    is_created = not (options["image_id"] or options["has_image"])
    # Without an option, the job has the image of an existing ConfigMap, if it runs at all.
    if platform == "aws" and (uri or is_created):
        problems += tuple(
            _bootc_problems(uri or (existing or {}).get(URI_KEY, ""), credentials_way, keys_are_temporary)
        )
    initial = _initial(platform, options["cluster_id"])
    buckets = JobBuckets()
    if platform == "aws" and is_created:
        buckets = buckets_of({**initial, **(existing or {}), **own}, credentials_way, csv)
        if credentials_way == TOKEN and options["creates_identity"] and not buckets.created.startswith(BUCKET_PREFIX):
            problems += (_outside_policy(buckets.created),)
        if bucket:
            # The role creates it before the job.
            buckets = replace(buckets, needed="")
    if not own:
        return ImageSettings(name, problems=problems, buckets=buckets)
    if existing is None:
        return ImageSettings(name, {**initial, **own}, problems, buckets)
    changed = {key: value for key, value in own.items() if existing.get(key) != value}
    return ImageSettings(name, changed, problems, buckets)


def _outside_policy(bucket: str) -> str:
    return (
        f"The image job creates the S3 bucket {bucket}, after BUCKET_NAME or AMI_BASE_NAME of {NAMES['aws']}, and "
        f"the IAM role of operator_install_create_identity may only use buckets named {BUCKET_PREFIX}…. Set "
        "BUCKET_NAME in operator_install_image_config to such a name."
    )


def _initial(platform: str, cluster_id: str) -> dict[str, str]:
    version = image_version(cluster_id)
    if platform == "aws":
        return {**_INITIAL["aws"], "AMI_VERSION": version}
    gallery = f"PodVMGallery_{short_id(cluster_id)}"
    return {**_INITIAL["azure"], "IMAGE_VERSION": version, "IMAGE_GALLERY_NAME": gallery}


def _text(key: str, value: Any) -> str:
    """The value as the scripts read it."""
    text = str(value)
    if text.lower() in ("true", "false"):
        is_true = text.lower() == "true"
        if key in YES_NO:
            return "yes" if is_true else "no"
        if key in TRUE_FALSE:
            return "true" if is_true else "false"
    return text


def _problems(
    platform: str, options: Mapping[str, Any], own: Mapping[str, str], credentials_way: str, csv: str
) -> Iterator[str]:
    if options["image_id"]:
        yield (
            "An image is given by its ID, and operator_install_image_uri or operator_install_image_config describe one "
            "to create. Set one of them."
        )
    yield from _uri_problems(options["uri"], csv)
    if options["bucket"]:
        yield from _bucket_problems(options["bucket"], credentials_way, csv)
    for key, value in options["config"].items():
        where = f"{key} in operator_install_image_config"
        if not re.fullmatch("[A-Z][A-Z0-9_]*", key):
            yield f"{where} is not a key of {NAMES[platform]}: keys are written with A-Z, 0-9 and _."
        elif key == URI_KEY:
            yield f"{where} is set by operator_install_image_uri. Use that option."
        elif key == "BUCKET_NAME" and options["bucket"]:
            yield f"{where} is set by operator_install_image_bucket. Use that option."
        elif isinstance(value, (list, dict)):
            yield f"{where} is not a single value."
        elif key in PATTERNS and not re.fullmatch(PATTERNS[key][0], own[key]):
            yield f"{where} must be {PATTERNS[key][1]}; got '{own[key]}'."
        elif key == "UPDATE_PEERPODS_CM" and own[key] == "no":
            yield f"{where} is no: the job would not write the ID of its image to peer-pods-cm. Leave it out."


def _uri_problems(uri: str, csv: str) -> Iterator[str]:
    if not uri:
        return
    if problem := uri_problem(uri):
        yield problem
        return
    if csv and csv_version(csv) < OCI_SINCE:
        yield (
            f"{csv} creates its image without an OCI image; release {'.'.join(map(str, OCI_SINCE))} is the first that "
            "takes one. Leave operator_install_image_uri out, or upgrade."
        )


def _bootc_problems(uri: str, credentials_way: str, keys_are_temporary: bool) -> Iterator[str]:
    """The job on AWS passes an access key to bootc-image-builder, and nothing else (bootc_to_ami in
    config/peerpods/podvm/aws-podvm-image-handler.sh of openshift/sandboxed-containers-operator)."""
    if uri_type(uri) != "bootc":
        return
    if credentials_way == TOKEN:
        yield (
            "The image job on AWS does not take a bootc image with credentials of a role (bootc-image-builder has no "
            "support for them). Use an image of type oci, or other credentials."
        )
    elif keys_are_temporary:
        yield (
            "The image job on AWS does not take a bootc image with a temporary access key, since it passes no session "
            "token to bootc-image-builder. Use an image of type oci, or a permanent key."
        )


def _bucket_problems(bucket: str, credentials_way: str, csv: str) -> Iterator[str]:
    pattern, expected = PATTERNS["BUCKET_NAME"]
    if not re.fullmatch(pattern, bucket):
        yield f"operator_install_image_bucket must be {expected}; got '{bucket}'."
    if image_job_needs_bucket(credentials_way, csv):
        return
    if credentials_way != GIVEN:
        yield (
            "operator_install_image_resources is for credentials that are given. With operator_install_credentials "
            f"{credentials_way}, the image job creates the bucket and the role itself: leave the option out."
        )
    else:
        yield (
            f"operator_install_image_resources has no use with {csv}, whose image job requests credentials that create "
            "the bucket and the role: leave the option out."
        )
