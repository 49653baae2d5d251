# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The IAM role that cloud-api-adaptor assumes with tokens of its service account (private; no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._aws.policies import (
    AUDIENCE,
    SERVICE_ACCOUNT,
    image_policy,
    trust_policy,
    vm_policy,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import MANAGED_TAG, REFERENCE_TAG

# The names of the role's inline policies.
VM_POLICY, IMAGE_POLICY = "peer-pod-vms", "peer-pod-image"

MAX_NAME = 64


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
        return {MANAGED_TAG: "true", f"{REFERENCE_TAG}{self.id}": self.name}


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
    """An existing role: its ARN, its tags, its trust policy, and the documents of its inline policies by name."""

    arn: str
    tags: Mapping[str, str]
    trust: Mapping[str, Any]
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
    """The changes that give the role its trust policy and its permissions, those for images only with `image`."""
    trust = trust_policy(account.provider_arn(cluster.issuer), cluster.issuer, [cluster.subject])
    policies: dict[str, Mapping[str, Any]] = {VM_POLICY: vm_policy()}
    if image:
        policies[IMAGE_POLICY] = image_policy(account.partition, account.id)
    changes = []
    if role is None:
        changes.append(Change("create_role", document=trust))
    elif role.trust != trust:
        changes.append(Change("update_trust", document=trust))
    current = role.policies if role else {}
    changes += [
        Change("put_policy", name, document) for name, document in policies.items() if current.get(name) != document
    ]
    return [*changes, *(Change("delete_policy", name) for name in (IMAGE_POLICY,) if name in current and not image)]


def plan_removal(role: Role | None, cluster: Cluster) -> list[Change]:
    """The changes that remove the role of this cluster; none if it does not exist or belongs to another owner."""
    if role is None or not role.is_of(cluster):
        return []
    return [*(Change("delete_policy", name) for name in role.policies), Change("delete_role")]


def trust_problems(trust: Mapping[str, Any], account: Account, cluster: Cluster) -> Iterator[str]:
    """What the trust policy of a role that was given lacks, as sentences."""
    arn = account.provider_arn(cluster.issuer)
    statements = [
        statement
        for statement in _as_list(trust.get("Statement"))
        if statement.get("Effect") == "Allow"
        and "sts:AssumeRoleWithWebIdentity" in _as_list(statement.get("Action"))
        and arn in _federated(statement.get("Principal"))
    ]
    if not statements:
        yield f"Its trust policy does not allow tokens of {arn} to assume it."
    elif not any(_admits(statement, cluster) for statement in statements):
        yield (
            f"Its trust policy does not allow the service account {cluster.subject} with the audience {AUDIENCE} to "
            "assume it."
        )


def _admits(statement: Mapping[str, Any], cluster: Cluster) -> bool:
    """Whether the conditions on the token are met. A condition that is not about the subject or the audience is
    assumed to be met."""
    host = cluster.issuer.removeprefix("https://")
    token = {f"{host}:sub": cluster.subject, f"{host}:aud": AUDIENCE}
    for operator, conditions in (statement.get("Condition") or {}).items():
        for key, values in conditions.items():
            value = token.get(key)
            if value is None or operator not in _MATCHES:
                continue
            if not any(_MATCHES[operator](value, pattern) for pattern in _as_list(values)):
                return False
    return True


def _is_like(value: str, pattern: str) -> bool:
    """Whether the pattern of IAM, which has * and ? only, matches."""
    parts = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(parts.get(letter) or re.escape(letter) for letter in pattern), value))


_MATCHES = {
    "StringEquals": lambda value, pattern: value == pattern,
    "StringLike": _is_like,
    "ForAnyValue:StringEquals": lambda value, pattern: value == pattern,
    "ForAnyValue:StringLike": _is_like,
}


def _federated(principal: Any) -> Sequence[Any]:
    """The identity providers of a principal, which may also be the text "*"."""
    return _as_list(principal.get("Federated")) if isinstance(principal, dict) else []


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
