from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_bucket import (
    CREATE_MISSING,
    bucket_problem,
    buckets_in_cluster,
)

CREATES = {"created": "b", "needed": "", "default": "podvm-image-1.0.1"}
CREATES_DEFAULT = {**CREATES, "default": "b"}
NEEDS = {"created": "", "needed": "b", "default": "podvm-image-1.0.1"}
CLOSED = {"bucket": None, "unreadable": True}
FOREIGN = {"failed": True, "unusable": True, "msg": "The S3 bucket b belongs to another AWS account."}


@pytest.mark.parametrize(
    ("buckets", "reading", "region", "found", "fix"),
    [
        (CREATES, {"bucket": "b"}, "us-east-2", "S3 bucket b itself, and fails because it exists.", "aws s3 rb s3://b"),
        (CREATES_DEFAULT, {"bucket": "b"}, "us-east-2", "and fails because it exists.", "name of a new bucket."),
        # There, the job takes a bucket that exists, and deletes it as if it had created it.
        (CREATES, {"bucket": "b"}, "us-east-1", "at its end deletes the bucket with all of its content", "aws s3 rb"),
        (CREATES, CLOSED, "us-east-2", "if to this one, the job fails as well.", "name of a new bucket."),
        (CREATES, CLOSED, "us-east-1", "the job deletes it at its end with all of its content.", "BUCKET_NAME"),
        (CREATES_DEFAULT, CLOSED, "us-east-2", "S3 bucket b itself, which exists, and which these", "BUCKET_NAME"),
        # The name that the job gives by default was used in another region.
        (CREATES_DEFAULT, {"bucket": "b", "bucket_region": "us-east-2"}, "us-east-1", "exists in us-east-2", "BUCKET_"),
        (CREATES_DEFAULT, {**CLOSED, "bucket_region": "us-east-2"}, "us-east-1", "exists in us-east-2", "BUCKET_NAME"),
        (NEEDS, {"changes": ["create bucket b"]}, "us-east-1", "what does not exist: S3 bucket b.", CREATE_MISSING),
        (
            NEEDS,
            {"changes": ["create bucket b", "create role vmimport", "put policy osc.peerpods-1"]},
            "us-east-2",
            "it fails without what does not exist: S3 bucket b, IAM role vmimport.",
            "Set operator_install_image_resources to true",
        ),
        # The role of another cluster.
        (NEEDS, {"changes": ["put policy p"]}, "us-east-2", "the IAM role vmimport may not read the S3 bucket b.", ""),
        (NEEDS, FOREIGN, "us-east-2", "belongs to another AWS account.", CREATE_MISSING),
    ],
)
def test_a_bucket_on_which_the_job_fails(buckets: dict, reading: dict, region: str, found: str, fix: str):
    problem = bucket_problem(buckets, reading, region)
    assert found in problem["found"]
    assert fix in problem["fix"]


@pytest.mark.parametrize(
    ("buckets", "reading", "region"),
    [
        (CREATES, {"bucket": None}, "us-east-2"),
        # What an earlier job has left there does not disturb the next one.
        (CREATES_DEFAULT, {"bucket": "b"}, "us-east-1"),
        (CREATES_DEFAULT, {"bucket": "b", "bucket_region": "us-east-1"}, "us-east-1"),
        (CREATES_DEFAULT, CLOSED, "us-east-1"),
        (CREATES_DEFAULT, {"bucket": None, "bucket_region": "", "unreadable": False}, "us-east-1"),
        (CREATES, {"msg": "Authenticating to AWS failed."}, "us-east-2"),
        (NEEDS, {"changes": []}, "us-east-2"),
        (NEEDS, {"changes": ["tag bucket b"]}, "us-east-2"),
        (NEEDS, {"msg": "IAM rejected GetRole.", "unusable": False}, "us-east-2"),
        (NEEDS, {"skipped": True}, "us-east-2"),
    ],
)
def test_a_job_that_does_not_fail_or_is_not_known_to(buckets: dict, reading: dict, region: str):
    assert bucket_problem(buckets, reading, region) == {}


def objects(*, settings: dict | None = None, labels: dict | None = None) -> list[dict]:
    return [
        *([{"kind": "ConfigMap", "name": "aws-podvm-image-cm", "content": settings}] if settings is not None else []),
        *(
            [{"kind": "Secret", "name": "peer-pods-secret", "labels": labels, "content": {}}]
            if labels is not None
            else []
        ),
    ]


NAMED = {"AMI_BASE_NAME": "podvm-image", "AMI_VERSION": "1.0.1"}
REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}


@pytest.mark.parametrize(
    ("found", "release", "created", "needed"),
    [
        (objects(settings=NAMED, labels=REQUESTED), "1.13.0", "podvm-image-1.0.1", ""),
        (objects(settings={**NAMED, "BUCKET_NAME": "b"}, labels=REQUESTED), "1.13.0", "b", ""),
        (objects(settings={**NAMED, "BUCKET_NAME": "b"}, labels={}), "1.13.0", "", "b"),
        (objects(settings=NAMED, labels={}), "1.12.0", "podvm-image-1.0.1", ""),
        # Packer needs no bucket.
        (objects(settings=NAMED, labels={}), "1.8.1", "", ""),
        (objects(labels={}), "1.13.0", "", ""),
        (objects(settings=NAMED), "1.13.0", "", ""),
    ],
)
def test_the_buckets_of_the_next_job(found: list[dict], release: str, created: str, needed: str):
    buckets = buckets_in_cluster(found, f"sandboxed-containers-operator.v{release}")
    assert (buckets["created"], buckets["needed"]) == (created, needed)
