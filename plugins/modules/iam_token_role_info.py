#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: iam_token_role_info
version_added: "0.1.0"
short_description: Gather whether an IAM role can create the VMs of peer pods
description:
  - >-
    Checks that cloud-api-adaptor can assume the role with the tokens of its service account: the account has an
    identity provider for the issuer of the cluster, which accepts the audience C(openshift), and the trust policy of
    the role admits the service account C(default) of the operator's namespace.
  - >-
    Checks by a simulation of IAM that the policies of the role allow what cloud-api-adaptor does, and with O(image)
    what the job does that creates the image of the VMs. The simulation does not know the resources and conditions of
    requests, so it may deny what policies allow on certain resources only.
  - >-
    Without O(role_arn), checks in the same way what the policies of the credentials allow of what cloud-api-adaptor
    does, such as those of an access key that it will have.
options:
  role_arn:
    description:
      - The ARN of the role. When omitted, the identity of the credentials is checked.
    type: str
  issuer:
    description:
      - The issuer of the cluster's tokens, C(spec.serviceAccountIssuer) of the Authentication C(cluster).
    type: str
    default: ""
  namespace:
    description:
      - The namespace of the operator.
    type: str
    default: openshift-sandboxed-containers-operator
  image:
    description:
      - Whether to check the permissions of O(role_arn) to create an image of the VMs.
    type: bool
    default: false
  bucket:
    description:
      - >-
        Without O(role_arn), the S3 bucket of the image job. If it is set, the permissions that the job needs with these
        credentials are checked as well. The job then creates neither the bucket nor the role C(vmimport).
    type: str
    default: ""
  account:
    description:
      - >-
        Without O(role_arn), the ID of the account of the cluster. If the credentials are of another one, RV(unknown)
        has that.
    type: str
    default: ""
notes:
  - >-
    The credentials need C(iam:GetOpenIDConnectProvider), C(iam:GetRole) and C(iam:SimulatePrincipalPolicy); without
    O(role_arn) only the last, and C(iam:GetRole) if they are those of a session of a role.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.iam_token_role
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Check the role
  osc.peerpods.iam_token_role_info:
    role_arn: arn:aws:iam::123456789012:role/demo-7x2kq-peer-pods
    issuer: https://demo-7x2kq-oidc.s3.us-east-2.amazonaws.com
    region: us-east-2
  register: role

- name: Require a role that works
  ansible.builtin.assert:
    that: role.problems | length == 0
    fail_msg: "{{ role.problems | join(' ') }}"
"""

RETURN = r"""
problems:
  description: Why the role cannot be used, each as a sentence with what to do.
  returned: success
  type: list
  elements: str
  sample: []
denied:
  description: >-
    The actions that the policies of the role do not allow; null if that could not be simulated, for which
    RV(unknown) has the reason.
  returned: success
  type: list
  elements: str
  sample: []
unknown:
  description: What could not be checked, as a sentence; empty if everything was.
  returned: success
  type: str
  sample: ""
"""

from dataclasses import asdict
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.api import Api
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.iam import Iam
from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import (
    actions_of,
    image_policy,
    import_policy,
    vm_policy,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.simulation import denied_actions, simulate_caller
from ansible_collections.osc.peerpods.plugins.module_utils._aws.token_role import (
    ROLE_ARN,
    Account,
    Cluster,
    Trust,
    check_trust,
    provider_problem,
)


def trust_of(iam: Iam, account: Account, cluster: Cluster, arn: str) -> Trust:
    if problem := provider_problem(account, cluster):
        return Trust(problem)
    role = iam.role(arn.rpartition("/")[2], ())
    if role is None or role.arn != arn:
        return Trust(f"The role {arn} does not exist. Check operator_install_aws_role_arn.")
    trust = check_trust(role.trust, account, cluster)
    if trust.problem:
        problem = f"cloud-api-adaptor cannot assume the role {arn}. {trust.problem} See docs/policies/aws-trust.json."
        return Trust(problem)
    if trust.unknown:
        return Trust(unknown=f"Whether cloud-api-adaptor can assume the role {arn} was not decided. {trust.unknown}")
    return trust


def denied_of(iam: Iam, account: Account, arn: str, *, image: bool) -> list[str]:
    policies = [vm_policy(), *([image_policy(account.partition, account.id)] if image else [])]
    return sorted(denied for policy in policies for denied in denied_actions(iam, arn, actions_of(policy)))


def check_credentials(module: AnsibleAWSModule) -> dict[str, Any]:
    """Whether AWS accepts the credentials, and what their policies do not allow."""
    try:
        identity = Api(module, "sts", "STS").call("GetCallerIdentity")
    except Ec2Error as error:
        return {"problems": [f"AWS rejects the credentials of cloud-api-adaptor. {error}"]}
    caller = identity["Arn"]
    required = actions_of(vm_policy())
    if module.params["bucket"]:
        for resource, actions in actions_of(import_policy(caller.split(":")[1], module.params["bucket"])).items():
            required[resource] = [*required.get(resource, ()), *actions]
    result = asdict(simulate_caller(module, caller, required))
    if module.params["account"] not in ("", identity["Account"]):
        foreign = (
            f"The credentials are of account {identity['Account']}, and the cluster is in account "
            f"{module.params['account']}: the VMs are created in the former, with which their subnet must be shared."
        )
        result["unknown"] = f"{foreign} {result['unknown']}".rstrip()
    return result


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "role_arn": {"type": "str"},
            "issuer": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "image": {"type": "bool", "default": False},
            "bucket": {"type": "str", "default": ""},
            "account": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    arn = module.params["role_arn"]
    cluster = Cluster("", "", module.params["issuer"], module.params["namespace"])
    result: dict[str, Any] = {"problems": [], "denied": None, "unknown": ""}
    if arn is None:
        module.exit_json(changed=False, **{**result, **check_credentials(module)})
    if not ROLE_ARN.fullmatch(arn):
        expected = "operator_install_aws_role_arn must be the ARN of an IAM role, arn:aws:iam::…:role/…"
        module.exit_json(changed=False, **{**result, "problems": [f"{expected}; got '{arn}'."]})
    try:
        iam = Iam(module)
        account = iam.account(cluster.issuer)
        if arn.split(":")[4] != account.id:
            result["unknown"] = f"The role {arn} is not of account {account.id}, whose credentials this run has."
            module.exit_json(changed=False, **result)
        trust = trust_of(iam, account, cluster, arn)
        result["problems"], result["unknown"] = [trust.problem] if trust.problem else [], trust.unknown
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    if not result["problems"]:
        try:
            result["denied"] = denied_of(iam, account, arn, image=module.params["image"])
        except Ec2Error as error:
            result["unknown"] = f"{result['unknown']} {error}".strip()
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
