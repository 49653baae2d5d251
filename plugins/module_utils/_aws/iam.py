# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and writes the IAM role of cloud-api-adaptor (private to this collection)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.tagging import boto3_tag_list_to_ansible_dict
from ansible_collections.osc.peerpods.plugins.module_utils._aws.api import ABSENT, Api, policy_document
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.token_role import DESCRIPTION, Account, Change, Role
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names


class Iam(Api):
    """A connection to IAM, which has no region; create one per module run. `changes` has what was written, and `caller`
    the ARN of the credentials once `account` has read it."""

    def __init__(self, module: AnsibleAWSModule):
        super().__init__(module, "iam", "IAM")
        self.changes: list[str] = []
        self.caller = ""

    def account(self, issuer: str) -> Account:
        """The account of the credentials, and its identity provider for this issuer, if there is one."""
        caller = Api(self._module, "sts", "STS").call("GetCallerIdentity")
        self.caller = caller["Arn"]
        account = Account(caller["Account"], self.caller.split(":")[1])
        if not issuer:
            return account
        provider = self.find("GetOpenIDConnectProvider", ABSENT, OpenIDConnectProviderArn=account.provider_arn(issuer))
        return Account(account.id, account.partition, provider)

    def role_names(self) -> Iterator[str]:
        """The names of the roles that may be of this collection, by their description."""
        start: dict[str, str] = {}
        while True:
            page = self.call("ListRoles", MaxItems=1000, **start)
            yield from (role["RoleName"] for role in page["Roles"] if role.get("Description") == DESCRIPTION)
            if not page.get("IsTruncated"):
                return
            start = {"Marker": page["Marker"]}

    def role(self, name: str, policies: Iterable[str]) -> Role | None:
        """The role with its inline policies of these names; None if it does not exist."""
        answer = self.find("GetRole", ABSENT, RoleName=name)
        if answer is None:
            return None
        found = answer["Role"]
        documents = {
            policy: self.find("GetRolePolicy", ABSENT, RoleName=name, PolicyName=policy) for policy in policies
        }
        return Role(
            found["Arn"],
            boto3_tag_list_to_ansible_dict(found.get("Tags") or []),
            policy_document(found["AssumeRolePolicyDocument"]),
            {policy: policy_document(each["PolicyDocument"]) for policy, each in documents.items() if each},
        )

    def apply(self, name: str, change: Change, tags: Mapping[str, str], policies: Iterable[str]) -> None:
        if change.action == "create_role":
            self.create_role(name, change.document or {}, DESCRIPTION, tags)
        elif change.action == "update_trust":
            self.call("UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=json.dumps(change.document))
        elif change.action == "put_policy":
            self.put_role_policy(name, change.policy, change.document or {})
        elif change.action == "delete_policy":
            self.find("DeleteRolePolicy", ABSENT, RoleName=name, PolicyName=change.policy)
        elif attached := self.delete_role(name, policies):
            raise Ec2Error(
                f"IAM does not delete the role {name}: it has {join_names(attached)}, which this collection did not "
                "add. Remove them from the role, then run this again."
            )
        self.changes.append(str(change))
