"""The policies, and the files that a user can give to those who administrate the cloud."""

from __future__ import annotations

import json

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import (
    actions_of,
    image_policy,
    import_policy,
    trust_policy,
    vm_policy,
)

from tests.support import ROOT

ACCOUNT = "123456789012"
ISSUER = "https://demo-7x2kq-oidc.s3.us-east-2.amazonaws.com"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER.removeprefix('https://')}"
SUBJECT = "system:serviceaccount:openshift-sandboxed-containers-operator:default"

FILES = {
    "aws-pod-vms.json": vm_policy(),
    "aws-pod-vm-image.json": image_policy("aws", ACCOUNT),
    "aws-trust.json": trust_policy(PROVIDER, ISSUER, [SUBJECT]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_files_have_the_policies_of_the_role(name: str):
    assert json.loads((ROOT / "docs/policies" / name).read_text()) == FILES[name]


def test_the_policies_have_each_action_once_and_no_wildcard():
    actions = [
        action
        for policy in (vm_policy(), image_policy("aws", ACCOUNT))
        for each in actions_of(policy).values()
        for action in each
    ]
    assert sorted(actions) == sorted(set(actions))
    assert not any("*" in action for action in actions)


def test_the_image_policy_is_that_of_its_partition():
    resources = actions_of(image_policy("aws-us-gov", "1")).keys()
    assert resources == {
        "*",
        "arn:aws-us-gov:iam::1:role/vmimport",
        "arn:aws-us-gov:s3:::podvm-*",
        "arn:aws-us-gov:s3:::podvm-*/*",
    }


def test_given_credentials_create_neither_the_bucket_nor_the_role():
    actions = actions_of(import_policy("aws-us-gov", "mine"))
    assert actions.keys() == {"*", "arn:aws-us-gov:s3:::mine", "arn:aws-us-gov:s3:::mine/*"}
    of_image = {action for each in actions_of(image_policy("aws", "1")).values() for action in each}
    needed = {action for each in actions.values() for action in each}
    left_out = {each for each in of_image if each.startswith("iam:")}
    assert of_image - needed == {*left_out, "s3:CreateBucket", "s3:DeleteBucket", "s3:ListAllMyBuckets"}


# The statements of ccoctl for the CredentialsRequest of the operator (docs/token-based-credentials.md and
# config/peerpods/credentials-requests/ccoctl/credentials_request_aws_sts.yaml of SCO).
OF_CCOCTL = {
    "*": ["ec2:*", "s3:ListAllMyBuckets"],
    "arn:aws:iam::*:role/vmimport": ["CreateRole", "PutRolePolicy", "GetRole", "ListRolePolicies", "DeleteRole"],
    "arn:aws:s3:::podvm-*": ["CreateBucket", "DeleteBucket", "GetBucketLocation", "ListBucket", "GetBucketAcl"],
    "arn:aws:s3:::podvm-*/*": ["PutObject", "GetObject", "DeleteObject"],
}


def test_the_permissions_are_those_of_ccoctl_with_the_actions_of_ec2_that_are_used():
    ours: dict[str, set[str]] = {}
    for policy in (vm_policy(), image_policy("*", "*")):
        for resource, actions in actions_of(policy).items():
            key = resource.replace("arn:*:", "arn:aws:")
            ours.setdefault(key, set()).update(action.partition(":")[2] for action in actions)
    assert ours.keys() == OF_CCOCTL.keys()
    assert all({*actions} <= ours[resource] for resource, actions in OF_CCOCTL.items() if resource != "*")
    assert "ListAllMyBuckets" in ours["*"]
    # docs/credentials-handling.md has PassRole, and DeleteRolePolicy is in both.
    assert ours["arn:aws:iam::*:role/vmimport"] - {*OF_CCOCTL["arn:aws:iam::*:role/vmimport"]} == {
        "DeleteRolePolicy",
        "PassRole",
    }


def test_the_trust_policy_is_that_of_ccoctl_with_the_audience():
    """createRolePolicyDocument in pkg/cmd/provisioning/aws/create-iam-roles.go of openshift/cloud-credential-operator,
    and docs/credentials-handling.md of SCO, which has the audience."""
    host = ISSUER.removeprefix("https://")
    assert trust_policy(PROVIDER, ISSUER, [SUBJECT]) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Federated": PROVIDER},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {"StringEquals": {f"{host}:sub": [SUBJECT], f"{host}:aud": "openshift"}},
            }
        ],
    }
