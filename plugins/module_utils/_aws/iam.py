# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The only client to IAM (private to this collection)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.tagging import (
    ansible_dict_to_boto3_tag_list,
    boto3_tag_list_to_ansible_dict,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import AwsConnection, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.token_role import Account, Change, Role

# AnsibleAWSModule fails with a message about the missing library.
with contextlib.suppress(ImportError):
    from botocore import xform_name

ABSENT = "NoSuchEntity"

# How many actions one simulation may have (maxItems is not documented; the console sends up to 100).
SIMULATED = 100


class Iam(AwsConnection):
    """A connection to IAM, which has no region; create one per module run. `changes` has what was written."""

    def __init__(self, module: AnsibleAWSModule):
        super().__init__(module, "iam")
        self.changes: list[str] = []

    def account(self, issuer: str) -> Account:
        """The account of the credentials, and its identity provider for this issuer."""
        with self._calling("GetCallerIdentity", "STS"):
            caller = self._module.client("sts").get_caller_identity()
        account = Account(caller["Account"], caller["Arn"].split(":")[1])
        provider = self._find("GetOpenIDConnectProvider", OpenIDConnectProviderArn=account.provider_arn(issuer))
        return Account(account.id, account.partition, provider)

    def role(self, name: str, policies: Iterable[str]) -> Role | None:
        """The role with its inline policies of these names; None if it does not exist."""
        answer = self._find("GetRole", RoleName=name)
        if answer is None:
            return None
        found = answer["Role"]
        documents = {policy: self._find("GetRolePolicy", RoleName=name, PolicyName=policy) for policy in policies}
        return Role(
            found["Arn"],
            boto3_tag_list_to_ansible_dict(found.get("Tags") or []),
            _document(found["AssumeRolePolicyDocument"]),
            {policy: _document(each["PolicyDocument"]) for policy, each in documents.items() if each},
        )

    def denied(self, role_arn: str, actions: Sequence[str], resource: str) -> list[str]:
        """The actions that the policies of the role do not allow on the resource."""
        denied: list[str] = []
        for start in range(0, len(actions), SIMULATED):
            results = self._call(
                "SimulatePrincipalPolicy",
                PolicySourceArn=role_arn,
                ActionNames=list(actions[start : start + SIMULATED]),
                ResourceArns=[resource],
            )["EvaluationResults"]
            denied += [each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"]
        return denied

    def apply(self, name: str, change: Change, tags: Mapping[str, str]) -> None:
        document = json.dumps(change.document)
        if change.action == "create_role":
            self._call(
                "CreateRole",
                RoleName=name,
                AssumeRolePolicyDocument=document,
                Description="Creates the VMs of peer pods (osc.peerpods)",
                Tags=ansible_dict_to_boto3_tag_list(dict(tags)),
            )
        elif change.action == "update_trust":
            self._call("UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=document)
        elif change.action == "put_policy":
            self._call("PutRolePolicy", RoleName=name, PolicyName=change.policy, PolicyDocument=document)
        elif change.action == "delete_policy":
            self._call("DeleteRolePolicy", RoleName=name, PolicyName=change.policy)
        else:
            self._call("DeleteRole", RoleName=name)
        self.changes.append(str(change))

    def _find(self, operation: str, **arguments: Any) -> dict | None:
        try:
            return self._call(operation, **arguments)
        except Ec2Error as error:
            if error.code != ABSENT:
                raise
            return None

    def _call(self, operation: str, **arguments: Any) -> dict:
        with self._calling(operation, "IAM"):
            return getattr(self._client, xform_name(operation))(**arguments, aws_retry=True)


def _document(policy: Any) -> dict:
    """botocore decodes policy documents, unless they are not valid JSON."""
    return json.loads(unquote(policy)) if isinstance(policy, str) else policy
