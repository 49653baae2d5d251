# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The IAM role that cloud-api-adaptor assumes with tokens of its service account (private; no I/O here)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import (
    AUDIENCE,
    SERVICE_ACCOUNT,
    image_policy,
    is_same_policy,
    trust_policy,
    vm_policy,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import REFERENCE_TAG, own_tags

# The names of the role's inline policies.
VM_POLICY, IMAGE_POLICY = "peer-pod-vms", "peer-pod-image"

# IAM lists roles without their tags: this tells which of them may be ours.
DESCRIPTION = "Creates the VMs of peer pods (osc.peerpods)"

MAX_NAME = 64

# What a token is exchanged with for credentials of the role.
ACTION = "sts:AssumeRoleWithWebIdentity"

ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/\S+")


@dataclass(frozen=True)
class Cluster:
    """The cluster whose service account assumes the role."""

    name: str
    id: str
    issuer: str
    namespace: str

    @property
    def subject(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{SERVICE_ACCOUNT}"

    @property
    def tags(self) -> dict[str, str]:
        return own_tags(self.id, self.name)


@dataclass(frozen=True)
class Account:
    """The account and the partition of the credentials, and its identity provider for the issuer, None if it has
    none."""

    id: str
    partition: str
    provider: Mapping[str, Any] | None = None

    def provider_arn(self, issuer: str) -> str:
        return f"arn:{self.partition}:iam::{self.id}:oidc-provider/{issuer.removeprefix('https://')}"

    def role_arn(self, name: str) -> str:
        return f"arn:{self.partition}:iam::{self.id}:role/{name}"


@dataclass(frozen=True)
class Role:
    """An existing role: its ARN, its tags, its trust policy, and the documents of its inline policies by name. For a
    removal also `attached`, what else IAM does not delete a role with: other policies, and instance profiles; and
    `trusted`, whom its trust policy admits other than cloud-api-adaptor."""

    arn: str
    tags: Mapping[str, str]
    trust: Mapping[str, Any]
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attached: Sequence[str] = ()
    trusted: Sequence[str] = ()

    def is_of(self, cluster: Cluster) -> bool:
        return cluster.tags.items() <= self.tags.items()


@dataclass(frozen=True)
class Change:
    """One request: create_role, update_trust, put_policy, delete_policy or delete_role; its policy and document."""

    action: str
    policy: str = ""
    document: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.action} {self.policy}".strip().replace("_", " ")


def role_name(cluster: Cluster, name: str) -> str:
    return (name or f"{cluster.name}-peer-pods")[:MAX_NAME]


def provider_problem(account: Account, cluster: Cluster) -> str:
    """Why AWS would not accept the tokens of the cluster, as a sentence; empty if it would."""
    if not cluster.issuer.startswith("https://"):
        return (
            "The service account tokens of the cluster have no public issuer (spec.serviceAccountIssuer of the "
            "Authentication cluster), so AWS cannot verify them. Only a cluster that was installed with short-lived "
            "credentials has one."
        )
    arn = account.provider_arn(cluster.issuer)
    if account.provider is None:
        return (
            f"Account {account.id} has no identity provider {arn}, so AWS does not accept the tokens of the cluster. "
            "Check that the credentials are of the account of the cluster, or create the provider with ccoctl aws "
            "create-identity-provider."
        )
    if AUDIENCE not in account.provider.get("ClientIDList", ()):
        return (
            f"The identity provider {arn} does not accept tokens for the audience {AUDIENCE}. Add it with aws iam "
            f"add-client-id-to-open-id-connect-provider --client-id {AUDIENCE} --open-id-connect-provider-arn {arn}."
        )
    return ""


def owner_problem(role: Role | None, name: str, cluster: Cluster) -> str:
    if role is None or role.is_of(cluster):
        return ""
    return (
        f"The role {name} exists, and this collection did not create it for this cluster: it has no tag "
        f"{REFERENCE_TAG}{cluster.id}. To use it, set operator_install_aws_role_arn to {role.arn}; or choose another "
        "name with operator_install_identity_name."
    )


def plan_role(role: Role | None, account: Account, cluster: Cluster, *, image: bool) -> list[Change]:
    """The changes that give the role its trust policy and its permissions, those for images only with `image`.

    Other statements of the trust policy stay: another cluster, or a person, may assume the role by them.
    """
    trust = trust_policy(account.provider_arn(cluster.issuer), cluster.issuer, [cluster.subject])
    policies: dict[str, Mapping[str, Any]] = {VM_POLICY: vm_policy()}
    if image:
        policies[IMAGE_POLICY] = image_policy(account.partition, account.id)
    changes = []
    if role is None:
        changes.append(Change("create_role", document=trust))
    elif not any(is_same_policy(each, trust["Statement"][0]) for each in _as_list(role.trust.get("Statement"))):
        statements = [*_as_list(role.trust.get("Statement")), *trust["Statement"]]
        changes.append(Change("update_trust", document={**trust, **role.trust, "Statement": statements}))
    current = role.policies if role else {}
    changes += [
        Change("put_policy", name, document)
        for name, document in policies.items()
        if not is_same_policy(current.get(name), document)
    ]
    return [*changes, *(Change("delete_policy", name) for name in (IMAGE_POLICY,) if name in current and not image)]


# The actions of each change. A policy is read again after it was written, and CreateRole has tags.
ACTIONS = {
    "create_role": ("iam:CreateRole", "iam:TagRole"),
    "update_trust": ("iam:UpdateAssumeRolePolicy",),
    "put_policy": ("iam:GetRolePolicy", "iam:PutRolePolicy"),
    "delete_policy": ("iam:DeleteRolePolicy",),
}


def required_actions(changes: Sequence[Change], role_arn: str, *, image: bool) -> dict[str, list[str]]:
    """The actions that the changes of `plan_role` need, by their resource; with `image`, also the removal of that
    policy when the image exists."""
    actions = {action for change in changes for action in ACTIONS[change.action]}
    actions |= set(ACTIONS["delete_policy"] if image else ())
    return {role_arn: sorted(actions)} if actions else {}


def plan_removal(role: Role | None, cluster: Cluster) -> list[Change]:
    """The changes that remove the role of this cluster; none if it does not exist or belongs to another owner."""
    if role is None or not role.is_of(cluster):
        return []
    return [*(Change("delete_policy", name) for name in role.policies), Change("delete_role")]


def other_principals(trust: Mapping[str, Any], account: Account, cluster: Cluster) -> list[str]:
    """Whom the trust policy admits other than the service account of cloud-api-adaptor: each principal with its
    condition, which names another service account of the same identity provider.

    Without the issuer of the cluster, its provider is that of the only such service account.
    """
    allowing = [each for each in _as_list(trust.get("Statement")) if each.get("Effect") == "Allow"]
    providers = {_provider_of_adaptor(each, cluster) for each in allowing} - {None}
    if cluster.issuer or len(providers) > 1:
        providers = {account.provider_arn(cluster.issuer)} if cluster.issuer else set()
    others = (each for each in allowing if _provider_of_adaptor(each, cluster) not in providers)
    return [*dict.fromkeys(map(_describe_principal, others))]


def _provider_of_adaptor(statement: Mapping[str, Any], cluster: Cluster) -> str | None:
    """The identity provider whose tokens the statement admits; None if these may be other tokens than those of the
    service account of cloud-api-adaptor."""
    principal = statement.get("Principal")
    providers = _federated(statement)
    if not isinstance(principal, dict) or principal.keys() != {"Federated"} or len(providers) != 1:
        return None
    subject_key = f"{providers[0].partition(':oidc-provider/')[2]}:sub".lower()
    conditions = (statement.get("Condition") or {}).get("StringEquals") or {}
    # All conditions must be met, so that others only restrict it further.
    if [cluster.subject] in (_as_list(value) for key, value in conditions.items() if key.lower() == subject_key):
        return providers[0]
    return None


def _describe_principal(statement: Mapping[str, Any]) -> str:
    principal = json.dumps(statement.get("Principal", {"NotPrincipal": statement.get("NotPrincipal")}))
    condition = statement.get("Condition")
    return f"{principal} with the condition {json.dumps(condition)}" if condition else principal


def removal_problem(role: Role) -> str:
    """Why IAM would not delete the role, or who would lose its access, as a sentence; empty without a problem."""
    name = role.arn.rpartition("/")[2]
    if role.trusted:
        return (
            f"The trust policy of the role {name} admits {', '.join(role.trusted)}, and not only the service account "
            "of cloud-api-adaptor. If nothing else uses the role, remove them from the trust policy (aws iam "
            "update-assume-role-policy), then run this again. The role was not changed."
        )
    if not role.attached:
        return ""
    return (
        f"The role {name} has {', '.join(role.attached)}, which this collection did not add, and IAM deletes no role "
        "with them. Remove them from the role (aws iam delete-role-policy, detach-role-policy or "
        "remove-role-from-instance-profile), then run this again. The role was not changed."
    )


@dataclass(frozen=True)
class Trust:
    """Whether a trust policy admits cloud-api-adaptor: what it lacks, and why that cannot be decided; both empty if it
    does."""

    problem: str = ""
    unknown: str = ""


def check_trust(trust: Mapping[str, Any], account: Account, cluster: Cluster) -> Trust:
    """Evaluate the trust policy of a role that was given for a token of the cluster."""
    arn = account.provider_arn(cluster.issuer)
    statements = [statement for statement in _as_list(trust.get("Statement")) if _has_action(statement)]
    allowing = [each for each in statements if each.get("Effect") == "Allow" and arn in _federated(each)]
    if not allowing:
        return Trust(f"Its trust policy does not allow tokens of {arn} to assume it.")
    answers = [_admits(statement, cluster) for statement in allowing]
    if True not in answers and None not in answers:
        return Trust(
            f"Its trust policy does not allow the service account {cluster.subject} with the audience {AUDIENCE} to "
            "assume it."
        )
    if True not in answers:
        return Trust(unknown="The conditions of its trust policy have operators that are not evaluated here.")
    denying = (each for each in statements if each.get("Effect") == "Deny" and _may_be(each, arn))
    if any(_admits(statement, cluster) is not False for statement in denying):
        return Trust(unknown="Its trust policy has a statement with the effect Deny, which is not evaluated here.")
    return Trust()


def _has_action(statement: Mapping[str, Any]) -> bool:
    """IAM compares the names of actions without case, and they may have wildcards."""
    patterns = statement.get("Action", statement.get("NotAction"))
    is_named = any(_is_like(ACTION.lower(), str(pattern).lower()) for pattern in _as_list(patterns))
    return is_named == ("Action" in statement)


def _admits(statement: Mapping[str, Any], cluster: Cluster) -> bool | None:
    """Whether the conditions on the token are met; None if they have unknown operators. A condition that is not about
    the subject or the audience is assumed to be met."""
    host = cluster.issuer.removeprefix("https://")
    # The names of condition keys are compared without case.
    token = {f"{host}:sub".lower(): cluster.subject, f"{host}:aud".lower(): AUDIENCE}
    answers = [
        _is_met(operator, token[key.lower()], _as_list(values))
        for operator, conditions in (statement.get("Condition") or {}).items()
        for key, values in conditions.items()
        if key.lower() in token
    ]
    if False in answers:
        return False
    return None if None in answers else True


def _is_met(operator: str, value: str, patterns: Sequence[Any]) -> bool | None:
    """Whether the operator is true for the value, which each token has; None if the operator is not known."""
    name = operator.removeprefix("ForAnyValue:").removeprefix("ForAllValues:").removesuffix("IfExists")
    is_negated = name in ("StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike")
    matches = _MATCHES.get(name.replace("Not", ""))
    if matches is None:
        return None
    return any(matches(value, str(pattern)) for pattern in patterns) != is_negated


def _is_like(value: str, pattern: str) -> bool:
    """Whether the pattern of IAM, which has * and ? only, matches."""
    parts = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(parts.get(letter) or re.escape(letter) for letter in pattern), value))


_MATCHES = {
    "StringEquals": lambda value, pattern: value == pattern,
    "StringEqualsIgnoreCase": lambda value, pattern: value.lower() == pattern.lower(),
    "StringLike": _is_like,
}


def _federated(statement: Mapping[str, Any]) -> Sequence[Any]:
    """The identity providers of the principal, which may also be the text "*"."""
    principal = statement.get("Principal")
    return _as_list(principal.get("Federated")) if isinstance(principal, dict) else []


def _may_be(statement: Mapping[str, Any], provider: str) -> bool:
    """Whether the principal of a statement that denies may be a token of the provider."""
    return statement.get("Principal") == "*" or "NotPrincipal" in statement or provider in _federated(statement)


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
