# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The S3 bucket and the role with which EC2 imports the image of the pod VMs (private to this collection; no I/O here).

The image job uploads a disk to the bucket, and VM Import reads it as the role `vmimport`, of which an account has one
("Required permissions for VM Import/Export" in the VM Import/Export User Guide). Each cluster therefore has an inline
policy of its own in this role. Only a role without other policies is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from posixpath import basename
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import is_same_policy
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import MANAGED_TAG, own_tags

ROLE = "vmimport"
SERVICE = "vmie.amazonaws.com"

# What VM Import does with the bucket, by whether the resource is the bucket or an object in it.
BUCKET_ACTIONS = ("s3:GetBucketLocation", "s3:ListBucket")
OBJECT_ACTIONS = ("s3:GetObject",)
SNAPSHOT_ACTIONS = ("ec2:CopySnapshot", "ec2:Describe*", "ec2:ModifySnapshotAttribute", "ec2:RegisterImage")

# Where the image job finds the disk in an OCI image, unless its URI has the path after a second "::"
# (get_image_type_url_and_path in config/peerpods/podvm/lib.sh of openshift/sandboxed-containers-operator).
DISK_PATH = "/image/podvm.qcow2"

# The key of the disk of a bootc image: UploadAndRegister in bib/internal/uploader/aws.go of
# osbuild/bootc-image-builder, which deletes it after the import.
BOOTC_DISK = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-disk[.]raw"

# How EC2 describes a snapshot that VM Import has made ("Importing a disk as a snapshot using VM Import/Export" in the
# VM Import/Export User Guide). import_snapshot_n_wait in config/peerpods/podvm/aws-podvm-image-handler.sh of
# openshift/sandboxed-containers-operator gives it no tags.
IMPORTED = "Created by AWS-VMImport service for "

OTHER_BUCKET = (
    "Name another bucket: in operator_install_image_bucket, or without operator_install_image_resources as BUCKET_NAME "
    "in operator_install_image_config."
)


@dataclass(frozen=True)
class Target:
    """What a cluster needs, and where."""

    cluster_id: str
    cluster_name: str
    bucket: str
    region: str
    partition: str = "aws"

    @property
    def tags(self) -> dict[str, str]:
        return own_tags(self.cluster_id, self.cluster_name)

    @property
    def names_cluster(self) -> bool:
        """Whether the name of the bucket ends as that which the role operator_install chooses."""
        return self.bucket.endswith(f"-{self.cluster_id[:8]}")

    @property
    def policy(self) -> str:
        """The name of the inline policy."""
        return f"osc.peerpods-{self.cluster_id}"

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self.partition}:s3:::{self.bucket}"

    @property
    def document(self) -> dict:
        return {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": list(BUCKET_ACTIONS), "Resource": [self.bucket_arn]},
                {"Effect": "Allow", "Action": list(OBJECT_ACTIONS), "Resource": [f"{self.bucket_arn}/*"]},
                {"Effect": "Allow", "Action": list(SNAPSHOT_ACTIONS), "Resource": ["*"]},
            ],
        }


TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": SERVICE},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:Externalid": ROLE}},
        }
    ],
}


@dataclass(frozen=True)
class Bucket:
    region: str
    tags: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False

    def is_of(self, target: Target) -> bool:
        return target.tags.items() <= self.tags.items()

    def is_unfinished(self, target: Target) -> bool:
        """Whether a run with an older botocore, which tags the bucket in a second request, ended before that: it is
        named after this cluster, and has neither tags nor content."""
        return target.names_cluster and self.is_empty and not self.tags


@dataclass(frozen=True)
class Role:
    """The role, the documents of its inline policies by their names, and those of the policies attached to it."""

    trust: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    inline: Mapping[str, Mapping] = field(default_factory=dict)
    attached: Mapping[str, Mapping] = field(default_factory=dict)

    @property
    def is_managed(self) -> bool:
        return self.tags.get(MANAGED_TAG) == "true"

    def allows(self, action: str, resource: str) -> bool:
        """A denial with a condition is not counted: most require encrypted connections, which VM Import uses."""
        statements = [
            statement
            for document in (*self.inline.values(), *self.attached.values())
            for statement in _as_list(document.get("Statement"))
            if _is_about(statement, "Action", action) and _is_about(statement, "Resource", resource)
        ]
        return any(each.get("Effect") == "Allow" for each in statements) and not any(
            each.get("Effect") == "Deny" and not each.get("Condition") for each in statements
        )


@dataclass(frozen=True)
class Version:
    """A version of an object, or the marker of a deletion. Without versioning, S3 names the only version "null"."""

    key: str
    id: str


def is_disk_of_job(key: str, image_uri: str) -> bool:
    """Whether an image job with this PODVM_IMAGE_URI, or with none, uploads its disk with this key (upload_image_to_s3
    in config/peerpods/podvm/aws-podvm-image-handler.sh): the name of the disk, which ends with raw if it was qcow2."""
    paths = [DISK_PATH, *image_uri.split("::")[2:]]
    names = {name for path in paths for name in (basename(path), f"{basename(path).removesuffix('qcow2')}raw")}
    return key in names or re.fullmatch(BOOTC_DISK, key) is not None


@dataclass(frozen=True)
class Imports:
    """What VM Import has made from objects of a bucket, and the imports that still run, by their IDs."""

    snapshots: tuple[str, ...] = ()
    running: tuple[str, ...] = ()


def imports_from(bucket: str, tasks: Iterable[Mapping[str, Any]]) -> Imports:
    """The imports from the bucket in the answer of DescribeImportSnapshotTasks."""
    details = {
        task["ImportTaskId"]: task["SnapshotTaskDetail"]
        for task in tasks
        if (task["SnapshotTaskDetail"].get("UserBucket") or {}).get("S3Bucket") == bucket
    }
    return Imports(
        tuple(each["SnapshotId"] for each in details.values() if each.get("SnapshotId")),
        tuple(task for task, each in details.items() if not each.get("SnapshotId") and each.get("Status") == "active"),
    )


def of_forgotten_imports(snapshots: Iterable[Mapping[str, Any]], tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Those of the snapshots that VM Import has made in a task that EC2 no longer lists, so that their bucket is
    unknown."""
    listed = {f"{IMPORTED}{task['ImportTaskId']}" for task in tasks}
    return [
        snapshot["SnapshotId"]
        for snapshot in snapshots
        if (description := snapshot.get("Description") or "").startswith(IMPORTED) and description not in listed
    ]


@dataclass(frozen=True)
class Change:
    action: str
    name: str

    def __str__(self) -> str:
        return f"{self.action.replace('_', ' ')} {self.name}"


def plan_import(target: Target, bucket: Bucket | None, role: Role | None) -> list[Change]:
    """What is missing. A role of another owner is not changed: see `import_problems`."""
    changes = []
    if bucket is None:
        changes.append(Change("create_bucket", target.bucket))
    elif bucket.is_unfinished(target):
        changes.append(Change("tag_bucket", target.bucket))
    if role is None:
        changes.append(Change("create_role", ROLE))
    if (role is None or role.is_managed) and (
        role is None or not is_same_policy(role.inline.get(target.policy), target.document)
    ):
        changes.append(Change("put_policy", target.policy))
    return changes


# The actions of each change, of the bucket and of the role. What is created gets tags, and a policy is read again.
BUCKET_CHANGES = {"create_bucket": ("s3:CreateBucket", "s3:TagResource"), "tag_bucket": ("s3:PutBucketTagging",)}
ROLE_CHANGES = {
    "create_role": ("iam:CreateRole", "iam:TagRole"),
    "put_policy": ("iam:GetRolePolicy", "iam:PutRolePolicy"),
}


def required_actions(changes: Sequence[Change], target: Target, account: str) -> dict[str, list[str]]:
    """The actions that the changes of `plan_import` need, by their resource."""
    role_arn = f"arn:{target.partition}:iam::{account}:role/{ROLE}"
    required = {
        resource: [action for change in changes for action in actions.get(change.action, ())]
        for resource, actions in ((target.bucket_arn, BUCKET_CHANGES), (role_arn, ROLE_CHANGES))
    }
    return {resource: actions for resource, actions in required.items() if actions}


def import_problems(target: Target, bucket: Bucket | None, role: Role | None) -> Iterator[str]:
    """Why what exists cannot be used, and is not changed either."""
    if bucket and bucket.region != target.region:
        yield (
            f"The S3 bucket {target.bucket} is in {bucket.region}, and EC2 in {target.region} imports images only from "
            f"buckets there. {OTHER_BUCKET}"
        )
    if role is None:
        return
    if not any(
        statement.get("Effect") == "Allow" and SERVICE in _as_list(_service(statement.get("Principal")))
        for statement in _as_list(role.trust.get("Statement"))
    ):
        yield f"The trust policy of the IAM role {ROLE} does not admit {SERVICE}. Correct it, or delete the role."
    if role.is_managed:
        return
    denied = [
        action
        for actions, resource in ((BUCKET_ACTIONS, target.bucket_arn), (OBJECT_ACTIONS, f"{target.bucket_arn}/podvm"))
        for action in actions
        if not role.allows(action, resource)
    ]
    if denied:
        yield (
            f"The IAM role {ROLE} exists, and osc.peerpods did not create it: it is not changed. Its policies do not "
            f"allow {', '.join(denied)} on {target.bucket_arn}. Allow it, or "
            "name a bucket that the role may read: in operator_install_image_bucket, or without "
            "operator_install_image_resources as BUCKET_NAME in operator_install_image_config."
        )


def is_ours(target: Target, bucket: Bucket | None) -> bool:
    return bucket is not None and (bucket.is_of(target) or bucket.is_unfinished(target))


def plan_removal(target: Target, bucket: Bucket | None, role: Role | None, *, kept: Sequence[str] = ()) -> list[Change]:
    """Only what this collection created; the role, if no other cluster has a policy in it, and the bucket, if it does
    not have to keep objects."""
    changes = []
    if role and target.policy in role.inline:
        changes.append(Change("delete_policy", target.policy))
    if role and role.is_managed and not role.attached and not role.inline.keys() - {target.policy}:
        changes.append(Change("delete_role", ROLE))
    if is_ours(target, bucket) and not kept:
        changes.append(Change("delete_bucket", target.bucket))
    return changes


def _is_about(statement: Mapping[str, Any], element: str, value: str) -> bool:
    """Whether the statement has this action or resource, or does not exclude it with NotAction or NotResource."""
    if element in statement:
        return _matches(value, statement[element])
    return f"Not{element}" in statement and not _matches(value, statement[f"Not{element}"])


def _matches(value: str, patterns: Any) -> bool:
    return any(fnmatchcase(value.lower(), pattern.lower()) for pattern in _as_list(patterns))


def _service(principal: Any) -> Any:
    return principal.get("Service") if isinstance(principal, Mapping) else None


def _as_list(value: Any) -> Sequence[Any]:
    """The elements of policies with one element need not be lists."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
