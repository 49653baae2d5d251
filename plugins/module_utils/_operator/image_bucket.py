# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The S3 bucket of the job that creates the image of the pod VMs on AWS, and why the job fails on it (no I/O here).

With credentials that are given, the job requires that the bucket exists. Otherwise it creates the bucket, and at its
end deletes it with all of its content (prepare_for_prebuilt_artifact and cleanup_prebuilt_intermediate_resources in
aws-podvm-image-handler.sh, create_bucket and delete_bucket in ami-helper.sh, of config/peerpods/podvm in
openshift/sandboxed-containers-operator).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    image_job_needs_bucket,
    secret_source,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PEER_PODS_SECRET
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

IMAGE_SETTINGS = "aws-podvm-image-cm"

# The first release whose jobs make the image of an OCI image on AWS and Azure. Older ones need no bucket.
OCI_SINCE = (1, 10)

# There, S3 accepts that its owner creates a bucket a second time (CreateBucket in the API reference of S3).
CREATES_AGAIN = "us-east-1"

CREATE_MISSING = (
    "Set operator_install_image_resources to true, which creates a bucket and the role. Or create both as in the guide "
    f"for AWS, and set BUCKET_NAME in operator_install_image_config, or in {IMAGE_SETTINGS}. Or let the cloud "
    "credential operator grant the credentials, with which the job creates both."
)


@dataclass(frozen=True)
class JobBuckets:
    """The bucket that the job creates, the one that must exist, of which at least one is empty, and the name that the
    job gives its bucket by default."""

    created: str = ""
    needed: str = ""
    default: str = ""


def buckets_of(settings: Mapping[str, str], credentials_way: str, csv: str) -> JobBuckets:
    """The buckets of the next job. `settings` is the data of aws-podvm-image-cm, `csv` the ClusterServiceVersion of the
    operator, empty if it is not known."""
    default = f"{settings.get('AMI_BASE_NAME', '')}-{settings.get('AMI_VERSION', '')}"
    bucket = settings.get("BUCKET_NAME") or default
    if image_job_needs_bucket(credentials_way, csv):
        return JobBuckets(needed=bucket, default=default)
    if csv and csv_version(csv) < OCI_SINCE:
        return JobBuckets()
    return JobBuckets(created=bucket, default=default)


def buckets_in_cluster(objects: Iterable[Mapping[str, Any]], csv: str) -> dict[str, str]:
    """The buckets of the next job with the settings that the cluster has. `objects` are those of `describe_object`. On
    Azure, and without settings, the names are empty."""
    by_name = {entry["name"]: entry for entry in objects if entry["kind"] in ("ConfigMap", "Secret")}
    settings, secret = by_name.get(IMAGE_SETTINGS), by_name.get(PEER_PODS_SECRET)
    if settings is None or secret is None:
        return asdict(JobBuckets())
    way = secret_source(secret["labels"], secret["content"] or {})
    return asdict(buckets_of(settings["content"] or {}, way, csv))


def bucket_problem(buckets: Mapping[str, str], reading: Mapping[str, Any], region: str) -> dict[str, str]:
    """What was found, and how to fix it, as sentences, if the next job would fail; empty if not, or if that is not
    known. `reading` is the result of ec2_podvm_import for a bucket that must exist, and of ec2_podvm_cleanup for one
    that the job creates."""
    if buckets["needed"]:
        found = _unusable(buckets["needed"], reading)
        return {"found": found, "fix": CREATE_MISSING} if found else {}
    exists_in = reading.get("bucket_region") or region
    if region == CREATES_AGAIN and exists_in != region:
        return {
            "found": (
                f"The image job creates the S3 bucket {buckets['created']} itself, which exists in {exists_in}: it "
                f"fails, since EC2 in {region} imports images only from buckets there."
            ),
            "fix": "Set BUCKET_NAME in operator_install_image_config to the name of a new bucket.",
        }
    if reading.get("unreadable"):
        return _unreadable(buckets, region)
    bucket = reading.get("bucket")
    if not bucket or bucket != buckets["created"]:
        return {}
    remedy = (
        f"If nothing else uses it, delete it: aws s3 rb s3://{bucket} --force. Or set BUCKET_NAME in "
        "operator_install_image_config to the name of a new bucket."
    )
    if region != CREATES_AGAIN:
        return {
            "found": (
                f"The image job creates the S3 bucket {bucket} itself, and fails because it exists. An earlier job "
                "that failed leaves it, and one for credentials that were given stays."
            ),
            "fix": remedy,
        }
    if bucket != buckets["default"]:
        return {
            "found": (
                f"The image job uses the S3 bucket {bucket}, which exists, and at its end deletes the bucket with all "
                "of its content, as if it had created it."
            ),
            "fix": remedy,
        }
    return {}


def _unreadable(buckets: Mapping[str, str], region: str) -> dict[str, str]:
    """The job fails on a bucket of another account everywhere. There, it uses its own of an earlier job."""
    bucket = buckets["created"]
    if region == CREATES_AGAIN and bucket == buckets["default"]:
        return {}
    otherwise = "deletes it at its end with all of its content" if region == CREATES_AGAIN else "fails as well"
    return {
        "found": (
            f"The image job creates the S3 bucket {bucket} itself, which exists, and which these credentials may not "
            f"read (403). If it belongs to another AWS account, the job fails; if to this one, the job {otherwise}."
        ),
        "fix": "Set BUCKET_NAME in operator_install_image_config to the name of a new bucket.",
    }


def _unusable(bucket: str, reading: Mapping[str, Any]) -> str:
    job = "The credentials are given, with which the image job creates no bucket and no role"
    if reading.get("unusable"):
        return f"{job}, and it fails without. {reading['msg']}"
    changes = reading.get("changes") or ()
    missing = [
        f"{'S3 ' if change.startswith('create bucket') else 'IAM '}{change.removeprefix('create ')}"
        for change in changes
        if change.startswith("create ")
    ]
    if missing:
        return f"{job}, and it fails without what does not exist: {join_names(missing)}."
    if any(change.startswith("put policy ") for change in changes):
        return f"{job}, and it fails because the IAM role vmimport may not read the S3 bucket {bucket}."
    return ""
