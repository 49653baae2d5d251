# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and writes the S3 bucket and the IAM role of VM Import (private to this collection)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.tagging import (
    ansible_dict_to_boto3_tag_list,
    boto3_tag_list_to_ansible_dict,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.api import ABSENT, Api, policy_document
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.refusals import advise_code
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import MANAGED_TAG
from ansible_collections.osc.peerpods.plugins.module_utils._aws.vm_import import (
    OTHER_BUCKET,
    ROLE,
    TRUST,
    Bucket,
    Change,
    Role,
    Target,
    Version,
    is_disk_of_job,
)

# S3 takes no location for this region.
DEFAULT_REGION = "us-east-1"


class UnusableError(Ec2Error):
    """What exists cannot be used, and is not changed either."""


class VmImport:
    """`changes` has what was written, `attached` for what the role stays, and `caller` the ARN of the credentials."""

    def __init__(self, module: AnsibleAWSModule):
        self._image_uri = module.params["image_uri"] or ""
        self._s3 = Api(module, "s3", "S3")
        self._iam = Api(module, "iam", "IAM")
        caller = Api(module, "sts", "STS").call("GetCallerIdentity")
        self.account = caller["Account"]
        self.caller = caller["Arn"]
        self.partition = self.caller.split(":")[1]
        self.changes: list[str] = []
        self.attached: list[str] = []

    def bucket(self, target: Target) -> Bucket | None:
        """The bucket; None if it does not exist."""
        owned = self._owned(target)
        try:
            answer = self._s3.find("HeadBucket", "404", "NoSuchBucket", **owned)
        except Ec2Error as error:
            if error.code != "403":
                raise
            raise UnusableError(
                f"The S3 bucket {target.bucket} belongs to another AWS account, or these credentials lack "
                f"s3:ListBucket for it (403). Grant s3:ListBucket if it is of this account. {OTHER_BUCKET}",
                error.code,
            ) from error
        if answer is None:
            return None
        tags = self._s3.find("GetBucketTagging", "NoSuchTagSet", **owned)
        region = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"]
        if tags is not None or not target.names_cluster:
            return Bucket(region, boto3_tag_list_to_ansible_dict((tags or {}).get("TagSet", [])))
        return Bucket(region, is_empty=not self._s3.call("ListObjectsV2", **owned, MaxKeys=1).get("Contents"))

    def kept(self, target: Target) -> list[str]:
        """The keys of objects that no image job has written, and of their old versions: those that S3 returns first."""
        for page in self._content(target):
            if kept := sorted({each.key for each in page if not is_disk_of_job(each.key, self._image_uri)}):
                return kept
        return []

    def role(self, policy: str) -> Role | None:
        """The role; None if it does not exist. Of a role of this collection, only this inline policy has its
        document."""
        answer = self._iam.find("GetRole", ABSENT, RoleName=ROLE)
        if answer is None:
            return None
        found = answer["Role"]
        tags = boto3_tag_list_to_ansible_dict(found.get("Tags") or [])
        role = Role(policy_document(found["AssumeRolePolicyDocument"]), tags)
        names = self._iam.call("ListRolePolicies", RoleName=ROLE)["PolicyNames"]
        attached = self._iam.call("ListAttachedRolePolicies", RoleName=ROLE)["AttachedPolicies"]
        return Role(
            role.trust,
            tags,
            {name: self._inline(name) if name == policy or not role.is_managed else {} for name in names},
            {each["PolicyName"]: {} if role.is_managed else self._attached(each["PolicyArn"]) for each in attached},
        )

    def _inline(self, name: str) -> Mapping:
        return policy_document(self._iam.call("GetRolePolicy", RoleName=ROLE, PolicyName=name)["PolicyDocument"])

    def _attached(self, arn: str) -> Mapping:
        version = self._iam.call("GetPolicy", PolicyArn=arn)["Policy"]["DefaultVersionId"]
        answer = self._iam.call("GetPolicyVersion", PolicyArn=arn, VersionId=version)
        return policy_document(answer["PolicyVersion"]["Document"])

    def apply(self, change: Change, target: Target) -> None:
        if change.action == "create_bucket":
            self._create_bucket(target)
        elif change.action == "tag_bucket":
            self._tag_bucket(target)
        elif change.action == "create_role":
            # Clusters share the role: their inline policies show which.
            tags = {MANAGED_TAG: "true"}
            self._iam.create_role(ROLE, TRUST, "Imports the image of peer pods' VMs (osc.peerpods)", tags)
        elif change.action == "put_policy":
            self._iam.put_role_policy(ROLE, change.name, target.document)
        elif change.action == "delete_policy":
            self._iam.find("DeleteRolePolicy", ABSENT, RoleName=ROLE, PolicyName=change.name)
        elif change.action == "delete_role":
            self.attached = self._iam.delete_role(ROLE, [target.policy])
            if self.attached:
                return
        else:
            self._empty(target)
            self._s3.find("DeleteBucket", "NoSuchBucket", **self._owned(target))
        self.changes.append(str(change))

    def _create_bucket(self, target: Target) -> None:
        """Create the bucket with its tags in one request, so that it is always known as ours."""
        configuration: dict[str, Any] = {}
        if target.region != DEFAULT_REGION:
            configuration["LocationConstraint"] = target.region
        with_tags = self._s3.takes("CreateBucketConfiguration", "Tags")
        if with_tags:
            configuration["Tags"] = _tag_set(target)
        arguments = {"CreateBucketConfiguration": configuration} if configuration else {}
        # botocore repeats a request whose answer was lost.
        self._s3.find("CreateBucket", "BucketAlreadyOwnedByYou", Bucket=target.bucket, **arguments)
        if not with_tags:
            self._tag_bucket(target)

    def _tag_bucket(self, target: Target) -> None:
        self._s3.call("PutBucketTagging", **self._owned(target), Tagging={"TagSet": _tag_set(target)})

    def _empty(self, target: Target) -> None:
        """A job that failed leaves its disk in the bucket, with versioning also in old versions. What others wrote
        since it was read stays, and S3 does not delete the bucket."""
        for page in self._content(target):
            disks = [
                {"Key": each.key, "VersionId": each.id} for each in page if is_disk_of_job(each.key, self._image_uri)
            ]
            if not disks:
                continue
            answer = self._s3.call("DeleteObjects", **self._owned(target), Delete={"Objects": disks})
            # S3 answers with 200 also if it has deleted nothing.
            for error in answer.get("Errors", ()):
                code, message = error["Code"], error.get("Message", "").rstrip(".") or "no reason was returned"
                found = f"S3 did not delete {error['Key']} in the bucket {target.bucket}: {code}, {message}."
                raise Ec2Error(f"{found} {advise_code(code, message, 's3:DeleteObjectVersion')}".rstrip(), code)

    def _content(self, target: Target) -> Iterator[list[Version]]:
        """All versions of all objects, by page."""
        after: dict[str, str] = {}
        while True:
            page = self._s3.call("ListObjectVersions", **self._owned(target), **after)
            yield [
                Version(each["Key"], each["VersionId"])
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if not page.get("IsTruncated"):
                return
            after = {
                marker: page[f"Next{marker}"] for marker in ("KeyMarker", "VersionIdMarker") if f"Next{marker}" in page
            }

    def _owned(self, target: Target) -> dict[str, str]:
        return {"Bucket": target.bucket, "ExpectedBucketOwner": self.account}


def _tag_set(target: Target) -> list[dict[str, str]]:
    return ansible_dict_to_boto3_tag_list(target.tags)
