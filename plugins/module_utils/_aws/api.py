# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Calls to IAM, S3 and STS by their names, and IAM's eventual consistency (private to this collection)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
from ansible_collections.amazon.aws.plugins.module_utils.tagging import (
    ansible_dict_to_boto3_tag_list,
    boto3_tag_list_to_ansible_dict,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import AwsConnection, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.refusals import THROTTLING

# AnsibleAWSModule fails with a message about the missing library.
with contextlib.suppress(ImportError):
    from botocore import xform_name

ABSENT = "NoSuchEntity"

# A role has its policies for some seconds after they were deleted.
_WAITS_FOR_POLICIES = (0.5, 1, 2, 4, 8, 8)

# IAM is eventually consistent ("Changes that I make are not always immediately visible" in the IAM User Guide): for
# some seconds, a role that was just created does not exist for other requests.
_RETRY_ABSENT = AWSRetry.jittered_backoff(
    retries=7, delay=1, max_delay=10, catch_extra_error_codes=[ABSENT, "ConcurrentModification", *THROTTLING]
)


class Api(AwsConnection):
    """One of the APIs; create one per module run."""

    def __init__(self, module: AnsibleAWSModule, api: str, service: str):
        super().__init__(module, api)
        self._service = service

    def call(self, operation: str, **arguments: Any) -> dict:
        with self._calling(operation, self._service):
            return getattr(self._client, xform_name(operation))(**arguments, aws_retry=True)

    def find(self, operation: str, *absent: str, **arguments: Any) -> dict | None:
        """The answer; None if it is an error with one of the codes `absent`."""
        try:
            return self.call(operation, **arguments)
        except Ec2Error as error:
            if error.code not in absent:
                raise
            return None

    def settle(self, operation: str, **arguments: Any) -> dict:
        """The answer to a request about what was just written, repeated while IAM does not find it."""
        with self._calling(operation, self._service):
            return _RETRY_ABSENT(getattr(self._client, xform_name(operation)))(**arguments)

    def takes(self, shape: str, member: str) -> bool:
        """Whether the installed botocore has this member of a structure."""
        return member in self._client.meta.service_model.shape_for(shape).members

    def create_role(self, name: str, trust: Mapping[str, Any], description: str, tags: Mapping[str, str]) -> None:
        """Create the role with its tags.

        It may exist with these tags by then: botocore repeats a request whose answer was lost, and another run may
        have created it at the same time.
        """
        try:
            self.call(
                "CreateRole",
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(trust),
                Description=description,
                Tags=ansible_dict_to_boto3_tag_list(dict(tags)),
            )
        except Ec2Error as error:
            if error.code != "EntityAlreadyExists":
                raise
            role = self.settle("GetRole", RoleName=name)["Role"]
            if not tags.items() <= boto3_tag_list_to_ansible_dict(role.get("Tags") or []).items():
                raise

    def attached(self, role: str, policies: Iterable[str]) -> list[str]:
        """What IAM does not delete the role with, other than these inline policies of it."""
        inline = self.call("ListRolePolicies", RoleName=role)["PolicyNames"]
        attached = self.call("ListAttachedRolePolicies", RoleName=role)["AttachedPolicies"]
        profiles = self.call("ListInstanceProfilesForRole", RoleName=role)["InstanceProfiles"]
        return [
            *(f"the inline policy {each}" for each in inline if each not in policies),
            *(f"the policy {each['PolicyArn']}" for each in attached),
            *(f"the instance profile {each['InstanceProfileName']}" for each in profiles),
        ]

    def delete_role(self, role: str, policies: Iterable[str]) -> list[str]:
        """Delete the role, whose inline policies of these names were deleted.

        Returns what others have attached to it, for which IAM keeps it; nothing else is removed from it.
        """
        waits = iter(_WAITS_FOR_POLICIES)
        while True:
            try:
                self.find("DeleteRole", ABSENT, RoleName=role)
                return []
            except Ec2Error as conflict:
                if conflict.code != "DeleteConflict":
                    raise
                try:
                    attached = self.attached(role, policies)
                except Ec2Error as unread:
                    # Another run has deleted the role.
                    if unread.code == ABSENT:
                        return []
                    raise Ec2Error(
                        f"{conflict} What the role still has is unknown: {unread}", conflict.code
                    ) from unread
                if attached:
                    return attached
                wait = next(waits, None)
                if wait is None:
                    raise
            time.sleep(wait)

    def put_role_policy(self, role: str, policy: str, document: Mapping[str, Any]) -> None:
        """Write an inline policy, also of a role that was just created.

        It is read again, since the operator uses the role next. Whether all of AWS evaluates it by then cannot be read.
        """
        self.settle("PutRolePolicy", RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(document))
        self.settle("GetRolePolicy", RoleName=role, PolicyName=policy)


def policy_document(policy: Any) -> dict:
    """botocore decodes policy documents, unless they are not valid JSON."""
    return json.loads(unquote(policy)) if isinstance(policy, str) else policy
