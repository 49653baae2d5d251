#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: iam_token_role
version_added: "0.1.0"
short_description: Manage the IAM role that creates the VMs of peer pods
description:
  - >-
    Creates the role that cloud-api-adaptor assumes with the tokens of its service account, on clusters with short-lived
    credentials. The trust policy of the role admits the service account C(default) of the operator's namespace, with
    tokens of the cluster's issuer for the audience C(openshift). Other statements of the trust policy stay.
  - >-
    The permissions are inline policies of the role: C(peer-pod-vms) for cloud-api-adaptor, and C(peer-pod-image) for
    the job that creates the image of the VMs, only with O(image). They are those of the files in C(docs/policies).
  - >-
    The role has the tags C(osc.peerpods/managed=true) and C(osc.peerpods/cluster/ID=NAME). A role without them is not
    changed, and the module fails.
options:
  name:
    description:
      - The name of the role. Defaults to O(cluster_name) with C(-peer-pods).
      - >-
        With O(state=absent), defaults to every role that this module created for the cluster, by their descriptions and
        tags; see also O(others).
    type: str
  others:
    description:
      - >-
        With O(state=absent) and O(name), whether the other roles that this module created for the cluster are removed,
        too. Without C(iam:ListRoles), they are not looked for, with a warning, and RV(unread) has the reason.
    type: bool
    default: false
  cluster_name:
    description:
      - The infrastructure name of the cluster.
    type: str
    required: true
  cluster_id:
    description:
      - The ID of the cluster.
    type: str
    required: true
  issuer:
    description:
      - >-
        The issuer of the cluster's tokens, C(spec.serviceAccountIssuer) of the Authentication C(cluster). The account
        must have an identity provider for it. Required with O(state=present).
    type: str
    default: ""
  namespace:
    description:
      - The namespace of the operator.
    type: str
    default: openshift-sandboxed-containers-operator
  image:
    description:
      - >-
        Whether the role has the permissions to create an image of the VMs: an S3 bucket, the role C(vmimport) and the
        import of a snapshot. They are needed only while the operator creates an image.
    type: bool
    default: false
  state:
    description:
      - >-
        Whether the role exists. With V(absent), a role of another owner stays. A role with further policies, in an
        instance profile, or with a trust policy that admits other principals than the service account C(default) of
        O(namespace), is not changed, and the module fails. Without O(issuer), the trust policy may admit this service
        account of one identity provider.
    type: str
    choices: [present, absent]
    default: present
  dry_run:
    description:
      - >-
        With O(state=present), change nothing, but check by a simulation of IAM whether the credentials have the
        permissions for the changes, and return RV(denied). Needs C(iam:SimulatePrincipalPolicy), and with credentials
        of a role C(iam:GetRole).
    type: bool
    default: false
notes:
  - >-
    The credentials need C(iam:GetOpenIDConnectProvider), C(iam:GetRole), C(iam:GetRolePolicy), C(iam:CreateRole),
    C(iam:TagRole), C(iam:UpdateAssumeRolePolicy), C(iam:PutRolePolicy) and C(iam:DeleteRolePolicy); for
    O(state=absent) also C(iam:DeleteRole), C(iam:ListRolePolicies), C(iam:ListAttachedRolePolicies) and
    C(iam:ListInstanceProfilesForRole), and without O(name) or with O(others) C(iam:ListRoles).
attributes:
  check_mode:
    description: Can run in check mode and return the changes that it would make.
    support: full
  diff_mode:
    description: Returns the policies before and after the change.
    support: full
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
seealso:
  - module: osc.peerpods.iam_token_role_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Create the role
  osc.peerpods.iam_token_role:
    cluster_name: demo-7x2kq
    cluster_id: 0b5c8d2e-3a6f-4e21-9d4b-1f2a3b4c5d6e
    issuer: https://demo-7x2kq-oidc.s3.us-east-2.amazonaws.com
    region: us-east-2
    image: true
  register: identity

- name: Remove the permissions to create an image
  osc.peerpods.iam_token_role:
    cluster_name: demo-7x2kq
    cluster_id: 0b5c8d2e-3a6f-4e21-9d4b-1f2a3b4c5d6e
    issuer: https://demo-7x2kq-oidc.s3.us-east-2.amazonaws.com
    region: us-east-2
"""

RETURN = r"""
role:
  description:
    - The role, also if it will be created or was removed. With O(state=absent) and without O(name), null if no role of
      the cluster was found, and the first one of several. With O(name), the role with this name.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the role.
      type: str
      sample: demo-7x2kq-peer-pods
    arn:
      description: The ARN of the role.
      type: str
      sample: arn:aws:iam::123456789012:role/demo-7x2kq-peer-pods
    owned:
      description: Whether this collection created the role for this cluster, or will create it.
      type: bool
      sample: true
changes:
  description: The changes, in order.
  returned: success
  type: list
  elements: str
  sample: [create role, put policy peer-pod-vms, put policy peer-pod-image]
denied:
  description: >-
    The actions that the changes need and the policies of the credentials do not allow; null if that could not be
    simulated, for which RV(unknown) has the reason. The simulation does not know the conditions of requests.
  returned: with O(dry_run=true)
  type: list
  elements: str
  sample: []
unknown:
  description: Why it could not be simulated, as a sentence, else empty.
  returned: with O(dry_run=true)
  type: str
  sample: ""
removed:
  description: With O(state=absent), the ARNs of the roles that were removed, or would be removed.
  returned: with O(state=absent), also on failure
  type: list
  elements: str
unread:
  description: Why other roles were not looked for or not read, which may be of the cluster, as sentences.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
left:
  description: With O(state=absent), the ARNs of the roles of this cluster that were not removed.
  returned: failure
  type: list
  elements: str
in_use:
  description: Whether the reason is that others use one of them.
  returned: failure
  type: bool
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.iam import Iam
from ansible_collections.osc.peerpods.plugins.module_utils._aws.simulation import simulate_caller
from ansible_collections.osc.peerpods.plugins.module_utils._aws.token_role import (
    IMAGE_POLICY,
    VM_POLICY,
    Account,
    Change,
    Cluster,
    Role,
    other_principals,
    owner_problem,
    plan_removal,
    plan_role,
    provider_problem,
    removal_problem,
    required_actions,
    role_name,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after

POLICIES = (VM_POLICY, IMAGE_POLICY)
# The code of IAM's errors without the permission.
DENIED = "AccessDenied"
TRUST = "trust policy"


def diff_of(role: Role | None, changes: list[Change]) -> dict[str, str]:
    before: dict[str, Any] = {TRUST: role.trust, **role.policies} if role else {}
    after = dict(before)
    for change in changes:
        if change.action == "delete_role":
            after = {}
        elif change.action == "delete_policy":
            del after[change.policy]
        else:
            after[change.policy or TRUST] = change.document
    return {name: json.dumps(policies, indent=2) + "\n" for name, policies in (("before", before), ("after", after))}


class InUseError(Ec2Error):
    """Others use a role of the cluster."""


@dataclass(frozen=True)
class Plan:
    """A role, None if it does not exist, and its changes."""

    name: str
    role: Role | None
    changes: list[Change]


def plan_present(iam: Iam, account: Account, cluster: Cluster, params: dict[str, Any]) -> Plan:
    name = role_name(cluster, params["name"])
    role = iam.role(name, POLICIES)
    problem = provider_problem(account, cluster) or owner_problem(role, name, cluster)
    if problem:
        raise Ec2Error(problem)
    return Plan(name, role, plan_role(role, account, cluster, image=params["image"]))


def read_roles(module: AnsibleAWSModule, iam: Iam) -> tuple[dict[str, Role | None], list[str]]:
    """The role with the given name, None if it does not exist, and the roles that may be of the cluster; and why others
    were not looked for or not read, as sentences."""
    name = module.params["name"]
    is_searched, found, unread = not name or module.params["others"], [], []
    if is_searched:
        try:
            found = [*iam.role_names()]
        except Ec2Error as error:
            if not name or error.code != DENIED:
                raise
            is_searched = False
            unread.append(f"Other roles of the cluster than {name} were not looked for: {error}")
    roles = {}
    for each in dict.fromkeys([*([name] if name else []), *found]):
        try:
            roles[each] = iam.role(each, POLICIES)
        except Ec2Error as error:
            is_others = is_searched and each not in found
            if error.code != DENIED or (each == name and not is_others):
                raise
            if is_others:
                roles[each] = None
            else:
                unread.append(f"Whether the role {each} is of the cluster is unknown: {error}")
    return roles, unread


def plan_absent(
    iam: Iam, account: Account, cluster: Cluster, name: str | None, roles: dict[str, Role | None], left: list[str]
) -> list[Plan]:
    """The removal of those of the roles that are of the cluster, and the role with this name; `left` gets their
    ARNs."""
    own = {each: role for each, role in roles.items() if role is not None and role.is_of(cluster)}
    left += [role.arn for role in own.values()]
    planned = dict(roles)
    for each, role in own.items():
        trusted = other_principals(role.trust, account, cluster)
        role = replace(role, attached=iam.attached(each, POLICIES), trusted=trusted)
        if problem := removal_problem(role):
            raise InUseError(problem)
        planned[each] = role
    return [
        Plan(each, role, plan_removal(role, cluster)) for each, role in planned.items() if each == name or each in own
    ]


def run(module: AnsibleAWSModule, iam: Iam, left: list[str], removed: list[str]) -> dict[str, Any]:
    params = module.params
    cluster = Cluster(params["cluster_name"], params["cluster_id"], params["issuer"], params["namespace"])
    is_present = params["state"] == "present"
    is_dry_run = is_present and params["dry_run"]
    unread: list[str] = []
    account = iam.account(cluster.issuer if is_present else "")
    if is_present:
        plans = [plan_present(iam, account, cluster, params)]
    else:
        found, unread = read_roles(module, iam)
        plans = plan_absent(iam, account, cluster, params["name"], found, left)
        for reason in unread:
            module.warn(reason)
    for plan in [] if is_dry_run else plans:
        if not module.check_mode:
            for change in plan.changes:
                iam.apply(plan.name, change, cluster.tags, POLICIES)
        if plan.role and plan.role.arn in left:
            left.remove(plan.role.arn)
            removed.append(plan.role.arn)
    roles = [
        {
            "name": plan.name,
            "arn": plan.role.arn if plan.role else account.role_arn(plan.name),
            "owned": plan.role.is_of(cluster) if plan.role else is_present,
        }
        for plan in plans
    ]
    changes = [str(change) for plan in plans for change in plan.changes]
    simulated: dict[str, Any] = {}
    if is_dry_run:
        required = required_actions(plans[0].changes, account.role_arn(plans[0].name), image=params["image"])
        simulated = asdict(simulate_caller(module, iam.caller, required))
    return {
        **simulated,
        **({} if is_present else {"removed": removed, "unread": unread}),
        "changed": bool(changes) and (module.check_mode or not is_dry_run),
        "changes": changes,
        "role": roles[0] if roles else None,
        "diff": [diff_of(plan.role, plan.changes) for plan in plans],
    }


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str"},
            "others": {"type": "bool", "default": False},
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "issuer": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "image": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "dry_run": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    iam = None
    left: list[str] = []
    removed: list[str] = []
    try:
        iam = Iam(module)
        result = run(module, iam, left, removed)
    except Ec2Error as error:
        in_use = isinstance(error, InUseError)
        changes = iam.changes if iam else []
        module.fail_json(**failed_after(error, changes), left=left, removed=removed, in_use=in_use)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
