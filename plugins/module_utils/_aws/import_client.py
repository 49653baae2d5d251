# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and writes the S3 bucket and the IAM role of VM Import (private to this collection)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.tagging import (
    ansible_dict_to_boto3_tag_list,
    boto3_tag_list_to_ansible_dict,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import AwsConnection, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import MANAGED_TAG
from ansible_collections.osc.peerpods.plugins.module_utils._aws.vm_import import (
    OTHER_BUCKET,
    ROLE,
    TRUST,
    Bucket,
    Change,
    Role,
    Target,
)

# AnsibleAWSModule fails with a message about the missing library.
with contextlib.suppress(ImportError):
    from botocore import xform_name

# S3 takes no location for this region.
DEFAULT_REGION = "us-east-1"


class _Api(AwsConnection):
    """One of the APIs; create one per module run."""

    def __init__(self, module: AnsibleAWSModule, api: str, service: str):
        super().__init__(module, api)
        self._service = service

    def find(self, operation: str, *absent: str, **arguments: Any) -> dict | None:
        """The answer; None if it is an error with one of the codes `absent`."""
        try:
            return self.call(operation, **arguments)
        except Ec2Error as error:
            if error.code not in absent:
                raise
            return None

    def call(self, operation: str, **arguments: Any) -> dict:
        with self._calling(operation, self._service):
            return getattr(self._client, xform_name(operation))(**arguments, aws_retry=True)


class VmImport:
    """`changes` has what was written."""

    def __init__(self, module: AnsibleAWSModule):
        self._s3 = _Api(module, "s3", "S3")
        self._iam = _Api(module, "iam", "IAM")
        caller = _Api(module, "sts", "STS").call("GetCallerIdentity")
        self._account = caller["Account"]
        self.partition = caller["Arn"].split(":")[1]
        self.changes: list[str] = []

    def bucket(self, name: str) -> Bucket | None:
        """The bucket; None if it does not exist."""
        owned = {"Bucket": name, "ExpectedBucketOwner": self._account}
        try:
            answer = self._s3.find("HeadBucket", "404", "NoSuchBucket", **owned)
        except Ec2Error as error:
            if error.code != "403":
                raise
            raise Ec2Error(
                f"The S3 bucket {name} belongs to another AWS account, or these credentials lack s3:ListBucket for it "
                f"(403). {OTHER_BUCKET}",
                error.code,
            ) from error
        if answer is None:
            return None
        tags = self._s3.find("GetBucketTagging", "NoSuchTagSet", **owned)
        return Bucket(
            answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"],
            boto3_tag_list_to_ansible_dict((tags or {}).get("TagSet", [])),
        )

    def role(self, policy: str) -> Role | None:
        """The role; None if it does not exist. Of a role of this collection, only this inline policy has its
        document."""
        answer = self._iam.find("GetRole", "NoSuchEntity", RoleName=ROLE)
        if answer is None:
            return None
        found = answer["Role"]
        tags = boto3_tag_list_to_ansible_dict(found.get("Tags") or [])
        role = Role(_document(found["AssumeRolePolicyDocument"]), tags)
        names = self._iam.call("ListRolePolicies", RoleName=ROLE)["PolicyNames"]
        attached = self._iam.call("ListAttachedRolePolicies", RoleName=ROLE)["AttachedPolicies"]
        return Role(
            role.trust,
            tags,
            {name: self._inline(name) if name == policy or not role.is_managed else {} for name in names},
            {each["PolicyName"]: {} if role.is_managed else self._attached(each["PolicyArn"]) for each in attached},
        )

    def _inline(self, name: str) -> Mapping:
        return _document(self._iam.call("GetRolePolicy", RoleName=ROLE, PolicyName=name)["PolicyDocument"])

    def _attached(self, arn: str) -> Mapping:
        version = self._iam.call("GetPolicy", PolicyArn=arn)["Policy"]["DefaultVersionId"]
        answer = self._iam.call("GetPolicyVersion", PolicyArn=arn, VersionId=version)
        return _document(answer["PolicyVersion"]["Document"])

    def apply(self, change: Change, target: Target) -> None:
        owned = {"Bucket": target.bucket, "ExpectedBucketOwner": self._account}
        if change.action == "create_bucket":
            location = {} if target.region == DEFAULT_REGION else {"LocationConstraint": target.region}
            self._s3.call(
                "CreateBucket",
                Bucket=target.bucket,
                **({"CreateBucketConfiguration": location} if location else {}),
            )
            self._s3.call("PutBucketTagging", **owned, Tagging={"TagSet": ansible_dict_to_boto3_tag_list(target.tags)})
        elif change.action == "create_role":
            self._iam.call(
                "CreateRole",
                RoleName=ROLE,
                AssumeRolePolicyDocument=json.dumps(TRUST),
                Description="Imports the image of peer pods' VMs (osc.peerpods)",
                # Clusters share the role: their inline policies show which.
                Tags=ansible_dict_to_boto3_tag_list({MANAGED_TAG: "true"}),
            )
        elif change.action == "put_policy":
            document = json.dumps(target.document)
            self._iam.call("PutRolePolicy", RoleName=ROLE, PolicyName=change.name, PolicyDocument=document)
        elif change.action == "delete_policy":
            self._iam.find("DeleteRolePolicy", "NoSuchEntity", RoleName=ROLE, PolicyName=change.name)
        elif change.action == "delete_role":
            self._iam.find("DeleteRole", "NoSuchEntity", RoleName=ROLE)
        else:
            self._empty(owned)
            self._s3.find("DeleteBucket", "NoSuchBucket", **owned)
        self.changes.append(str(change))

    def _empty(self, owned: Mapping[str, str]) -> None:
        """A job that failed leaves its disk in the bucket."""
        while keys := self._s3.call("ListObjectsV2", **owned).get("Contents"):
            self._s3.call("DeleteObjects", **owned, Delete={"Objects": [{"Key": each["Key"]} for each in keys]})


def _document(policy: Any) -> dict:
    """botocore decodes policy documents, unless they are not valid JSON."""
    return json.loads(unquote(policy)) if isinstance(policy, str) else policy
