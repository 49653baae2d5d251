"""Which changes give a role its policies, and what keeps cloud-api-adaptor from assuming one that was given."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import image_policy, trust_policy, vm_policy
from ansible_collections.osc.peerpods.plugins.module_utils._aws.token_role import (
    IMAGE_POLICY,
    VM_POLICY,
    Account,
    Cluster,
    Role,
    Trust,
    check_trust,
    other_principals,
    owner_problem,
    plan_removal,
    plan_role,
    provider_problem,
    removal_problem,
    required_actions,
    role_name,
)

CLUSTER = Cluster("demo-7x2kq", "uuid", "https://oidc.example.com/demo", "osc")
HOST = "oidc.example.com/demo"
SUBJECT = "system:serviceaccount:osc:default"
ACCOUNT = Account("123456789012", "aws", {"ClientIDList": ["openshift", "sts.amazonaws.com"]})
ARN = f"arn:aws:iam::123456789012:oidc-provider/{HOST}"
TRUST = trust_policy(ARN, CLUSTER.issuer, [SUBJECT])
VMS, IMAGE = vm_policy(), image_policy("aws", "123456789012")
TAGS = {"osc.peerpods/managed": "true", "osc.peerpods/cluster/uuid": "demo-7x2kq"}
SHUFFLED = {**VMS, "Statement": [{**each, "Action": each["Action"][::-1]} for each in VMS["Statement"][::-1]]}
ROLE = Role("arn:aws:iam::123456789012:role/r", {**TAGS, "team": "a"}, TRUST, {VM_POLICY: VMS})
WITH_IMAGE = replace(ROLE, policies={VM_POLICY: VMS, IMAGE_POLICY: IMAGE})


def test_the_marks_are_those_of_other_resources_of_the_collection():
    assert CLUSTER.tags == TAGS


@pytest.mark.parametrize(
    ("role", "image", "changes"),
    [
        (None, False, ["create role", "put policy peer-pod-vms"]),
        (None, True, ["create role", "put policy peer-pod-vms", "put policy peer-pod-image"]),
        (ROLE, False, []),
        (ROLE, True, ["put policy peer-pod-image"]),
        (WITH_IMAGE, True, []),
        # The image exists.
        (WITH_IMAGE, False, ["delete policy peer-pod-image"]),
        (replace(ROLE, trust={}), False, ["update trust"]),
        # IAM may return lists with one element as this element, and in another order.
        (replace(ROLE, trust={**TRUST, "Statement": TRUST["Statement"][0]}, policies={VM_POLICY: SHUFFLED}), False, []),
        (replace(ROLE, policies={VM_POLICY: {}}), False, ["put policy peer-pod-vms"]),
        # A run that was interrupted.
        (replace(ROLE, policies={}), False, ["put policy peer-pod-vms"]),
    ],
)
def test_the_changes_of_a_role(role: Role | None, image: bool, changes: list[str]):
    assert [str(change) for change in plan_role(role, ACCOUNT, CLUSTER, image=image)] == changes


OF_ANOTHER_CLUSTER = {"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity", "Principal": {"Federated": "arn:b"}}
OF_A_PERSON = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:p"}}


@pytest.mark.parametrize("others", [[OF_ANOTHER_CLUSTER], [OF_A_PERSON, OF_ANOTHER_CLUSTER], []])
def test_what_others_added_to_the_trust_policy_stays(others: list[dict]):
    added = replace(ROLE, trust={**TRUST, "Statement": [*others, *TRUST["Statement"]]})
    assert plan_role(added, ACCOUNT, CLUSTER, image=False) == []
    replaced = replace(ROLE, trust={"Version": "2008-10-17", "Id": "mine", "Statement": others})
    (update,) = plan_role(replaced, ACCOUNT, CLUSTER, image=False)
    assert update.document == {**replaced.trust, "Statement": [*others, *TRUST["Statement"]]}
    # Who would lose the access stops a removal.
    principals = [json.dumps(each["Principal"]) for each in others]
    assert other_principals(added.trust, ACCOUNT, CLUSTER) == principals
    assert bool(other_principals(added.trust, ACCOUNT, replace(CLUSTER, issuer=""))) is bool(others)
    problem = removal_problem(replace(ROLE, trusted=principals))
    assert (", ".join(principals) in problem, bool(problem)) == (True, bool(others))


def admits(subjects: object, provider: str = ARN, **more: str) -> dict:
    host = provider.partition("oidc-provider/")[2]
    condition = {"StringEquals": {f"{host}:sub": subjects, f"{host}:aud": "openshift", **more}}
    fields = {"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity"}
    return {**fields, "Principal": {"Federated": provider}, "Condition": condition}


OTHER_SUBJECT = "system:serviceaccount:payments:uploader"
OWN = admits(SUBJECT)
OF_B = admits(SUBJECT, "arn:aws:iam::123456789012:oidc-provider/b")


@pytest.mark.parametrize(
    ("statements", "others", "without_issuer"),
    [
        ([OWN], [], []),
        ([admits([SUBJECT])], [], []),
        # It differs only in the audience, or is restricted further.
        ([OWN, {**OWN, "Condition": {"StringEquals": {f"{HOST.upper()}:SUB": SUBJECT}}}], [], []),
        ([admits(SUBJECT, **{"aws:SourceIp": "10.0.0.1"})], [], []),
        # Another service account of the same cluster.
        ([OWN, admits(OTHER_SUBJECT)], [1], [1]),
        ([admits(OTHER_SUBJECT)], [0], [0]),
        ([admits([SUBJECT, OTHER_SUBJECT])], [0], [0]),
        ([OWN, {**OWN, "Condition": {"StringLike": {f"{HOST}:sub": "system:serviceaccount:osc:*"}}}], [1], [1]),
        ([OWN, {**OWN, "Condition": {}}], [1], [1]),
        ([OWN, {**admits(OTHER_SUBJECT), "Effect": "Deny"}], [], []),
        # The same service account of another cluster.
        ([OWN, OF_B], [1], [0, 1]),
        ([OF_B], [0], []),
        ([{**OWN, "Principal": {"Federated": [ARN], "AWS": "arn:p"}}], [0], [0]),
        ([{**OWN, "Principal": "*"}], [0], [0]),
    ],
)
def test_what_else_than_the_adaptor_uses_a_role(statements: list[dict], others: list[int], without_issuer: list[int]):
    for issuer, expected in ((CLUSTER.issuer, others), ("", without_issuer)):
        found = other_principals({"Statement": statements}, ACCOUNT, replace(CLUSTER, issuer=issuer))
        assert [each.partition(" with the condition ")[0] for each in found] == [
            json.dumps(statements[number]["Principal"]) for number in expected
        ]
        assert (OTHER_SUBJECT in str(found)) is (OTHER_SUBJECT in str([statements[number] for number in expected]))


def test_the_actions_that_the_changes_need():
    """With an image, its policy is removed later."""
    update = plan_role(replace(ROLE, trust={}), ACCOUNT, CLUSTER, image=False)
    assert required_actions(update, ROLE.arn, image=False) == {ROLE.arn: ["iam:UpdateAssumeRolePolicy"]}
    create = required_actions(plan_role(None, ACCOUNT, CLUSTER, image=True), ROLE.arn, image=True)
    names = ("CreateRole", "DeleteRolePolicy", "GetRolePolicy", "PutRolePolicy", "TagRole")
    assert create == {ROLE.arn: [f"iam:{name}" for name in names]}
    assert required_actions([], ROLE.arn, image=False) == {}


def test_a_role_is_removed_with_its_policies():
    assert [str(change) for change in plan_removal(WITH_IMAGE, CLUSTER)] == [
        "delete policy peer-pod-vms",
        "delete policy peer-pod-image",
        "delete role",
    ]


OF_OTHERS = [replace(ROLE, tags={}), replace(ROLE, tags={**TAGS, "osc.peerpods/cluster/uuid": None})]


@pytest.mark.parametrize("role", [None, *OF_OTHERS])
def test_a_role_of_another_owner_is_not_removed(role: Role | None):
    assert plan_removal(role, CLUSTER) == []


@pytest.mark.parametrize("role", OF_OTHERS)
def test_a_role_of_another_owner_is_not_changed(role: Role):
    problem = owner_problem(role, "r", CLUSTER)
    assert "this collection did not create it for this cluster" in problem
    assert f"set operator_install_aws_role_arn to {ROLE.arn}" in problem
    assert owner_problem(ROLE, "r", CLUSTER) == owner_problem(None, "r", CLUSTER) == ""


@pytest.mark.parametrize(
    ("account", "issuer", "problem"),
    [
        (ACCOUNT, CLUSTER.issuer, ""),
        (ACCOUNT, "", "have no public issuer"),
        (replace(ACCOUNT, provider=None), CLUSTER.issuer, f"Account 123456789012 has no identity provider {ARN}"),
        (replace(ACCOUNT, provider={"ClientIDList": ["x"]}), CLUSTER.issuer, "does not accept tokens for the audience"),
    ],
)
def test_an_account_that_does_not_accept_the_tokens(account: Account, issuer: str, problem: str):
    found = provider_problem(account, replace(CLUSTER, issuer=issuer))
    assert problem in found
    assert bool(found) is bool(problem)


def trust(condition: dict | None, **fields: object) -> dict:
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": ARN},
        "Action": "sts:AssumeRoleWithWebIdentity",
        **({"Condition": condition} if condition else {}),
    }
    return {"Statement": [statement | fields]}


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (TRUST, ""),
        # ccoctl has no condition of the audience, and a list of actions is valid.
        (trust({"StringEquals": {f"{HOST}:sub": [SUBJECT]}}), ""),
        (trust({"StringLike": {f"{HOST}:sub": "system:serviceaccount:osc:*"}}), ""),
        (trust({"StringLike": {f"{HOST}:sub": "system:serviceaccount:os?:default"}}), ""),
        (trust(None, Action=["sts:AssumeRoleWithWebIdentity", "sts:TagSession"]), ""),
        (trust({"Bool": {"aws:SecureTransport": "true"}}), ""),
        ({"Statement": trust(None)["Statement"][0]}, ""),
        (trust({"StringEquals": {f"{HOST}:sub": "system:serviceaccount:osc:other"}}), "the service account"),
        (trust({"StringEquals": {f"{HOST}:aud": "sts.amazonaws.com"}}), "with the audience openshift"),
        (trust({"StringLike": {f"{HOST}:sub": "system:serviceaccount:[o]sc:default"}}), "the service account"),
        (trust(None, Principal={"Federated": "arn:aws:iam::1:oidc-provider/x"}), "does not allow tokens of"),
        (trust(None, Principal="*"), "does not allow tokens of"),
        (trust(None, Action="sts:AssumeRole"), "does not allow tokens of"),
        (trust(None, Effect="Deny"), "does not allow tokens of"),
        ({}, "does not allow tokens of"),
        # IAM compares actions and keys without case, and takes wildcards.
        (trust(None, Action="sts:*"), ""),
        (trust(None, Action="STS:assumeRoleWithWebIdentit?"), ""),
        (trust({"StringEquals": {f"{HOST.upper()}:SUB": SUBJECT}}), ""),
        ({"Statement": [{**trust(None)["Statement"][0], "Action": "s3:*"}]}, "does not allow tokens of"),
        (trust({"StringEqualsIgnoreCase": {f"{HOST}:sub": SUBJECT.upper()}}), ""),
        (trust({"StringEqualsIgnoreCase": {f"{HOST}:sub": "other"}}), "the service account"),
        (trust({"StringEqualsIfExists": {f"{HOST}:aud": "sts.amazonaws.com"}}), "with the audience openshift"),
        (trust({"ForAllValues:StringLike": {f"{HOST}:aud": "sts.*"}}), "with the audience openshift"),
        (trust({"StringNotEquals": {f"{HOST}:sub": SUBJECT}}), "the service account"),
        (trust({"StringNotLike": {f"{HOST}:sub": "system:serviceaccount:other:*"}}), ""),
        (
            {
                "Statement": [
                    *trust(None)["Statement"],
                    *trust({"StringEquals": {f"{HOST}:sub": "x"}}, Effect="Deny")["Statement"],
                ]
            },
            "",
        ),
    ],
)
def test_what_a_trust_policy_admits(policy: dict, problem: str):
    result = check_trust(policy, ACCOUNT, CLUSTER)
    assert problem in result.problem
    assert (bool(result.problem), result.unknown) == (bool(problem), "")


@pytest.mark.parametrize(
    "policy",
    [
        trust({"BinaryEquals": {f"{HOST}:sub": SUBJECT}}),
        {"Statement": [*trust(None)["Statement"], *trust(None, Effect="Deny")["Statement"]]},
        {"Statement": [*trust(None)["Statement"], *trust(None, Effect="Deny", Principal="*", Action="*")["Statement"]]},
        {
            "Statement": [
                *trust(None)["Statement"],
                {"Effect": "Deny", "NotPrincipal": {"AWS": "x"}, "NotAction": "s3:*"},
            ]
        },
    ],
)
def test_a_trust_policy_that_is_not_evaluated(policy: dict):
    result = check_trust(policy, ACCOUNT, CLUSTER)
    assert (result.problem, bool(result.unknown)) == ("", True)
    assert check_trust(trust(None), ACCOUNT, CLUSTER) == Trust()


def test_names_of_roles_have_64_characters_at_most():
    assert role_name(CLUSTER, "") == "demo-7x2kq-peer-pods"
    assert role_name(CLUSTER, "mine") == "mine"
    assert len(role_name(replace(CLUSTER, name="x" * 70), "")) == 64


def test_a_role_that_iam_does_not_delete():
    assert removal_problem(ROLE) == ""
    problem = removal_problem(replace(ROLE, attached=["the inline policy p", "the instance profile i"]))
    assert problem.startswith("The role r has the inline policy p, the instance profile i, which this collection")
