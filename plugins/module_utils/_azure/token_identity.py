# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The managed identity for which cloud-api-adaptor exchanges tokens of its service account (private; no I/O here).

Sources: openshift/sandboxed-containers-operator (SCO), openshift/cloud-credential-operator (CCO), and the REST
references of Microsoft.ManagedIdentity and Microsoft.Authorization.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import NO_ROLE, Access
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import IMAGE_ROLES, VM_ROLES
from ansible_collections.osc.peerpods.plugins.module_utils._azure.tags import MANAGED_TAG, REFERENCE_TAG
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

IDENTITY_API_VERSION = "2023-01-31"
ROLES_API_VERSION = "2022-04-01"
RESOURCES_API_VERSION = "2021-04-01"

IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
CREDENTIALS = "federatedIdentityCredentials"
ASSIGNMENTS = "providers/Microsoft.Authorization/roleAssignments"
DEFINITIONS = "providers/Microsoft.Authorization/roleDefinitions"
DENIALS = "providers/Microsoft.Authorization/denyAssignments"

# The audience of the tokens that the operator projects, and their service account. ccoctl names the credential after
# the service account (ensureFederatedIdentityCredential in pkg/cmd/provisioning/azure/create_managed_identities.go of
# CCO).
AUDIENCE = "openshift"
SERVICE_ACCOUNT = "default"

MAX_NAME = 128


@dataclass(frozen=True)
class Cluster:
    """The cluster whose service account uses the identity, and where the identity is created."""

    name: str
    id: str
    issuer: str
    namespace: str
    location: str

    @property
    def subject(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{SERVICE_ACCOUNT}"

    @property
    def tags(self) -> dict[str, str]:
        return {MANAGED_TAG: "true", f"{REFERENCE_TAG}{self.id}": self.name}

    def owns(self, identity: Mapping[str, Any]) -> bool:
        return self.tags.items() <= (identity.get("tags") or {}).items()


@dataclass(frozen=True)
class Existing:
    """What exists: the identity, its federated credentials, and the role assignments of its principal."""

    identity: Mapping[str, Any] | None = None
    credentials: Sequence[Mapping[str, Any]] = ()
    assignments: Sequence[Mapping[str, Any]] = ()

    @property
    def principal_id(self) -> str | None:
        return ((self.identity or {}).get("properties") or {}).get("principalId")


@dataclass(frozen=True)
class Change:
    """One request: a PUT with `body`, or a DELETE without."""

    summary: str
    path: str
    api_version: str
    body: Mapping[str, Any] | None = field(default=None)

    def __str__(self) -> str:
        return self.summary


def identity_path(subscription: str, resource_group: str, cluster: Cluster, name: str) -> str:
    named = (name or f"{cluster.name}-peer-pods")[:MAX_NAME]
    return f"/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{IDENTITIES}/{named}"


def own_identities(
    identities: Iterable[Mapping[str, Any]], default_path: str, cluster: Cluster
) -> list[Mapping[str, Any]]:
    """The identities that this collection created for this cluster, by any name, that of the default path first."""
    owned = [each for each in identities if cluster.owns(each)]
    return sorted(owned, key=lambda each: each["id"].lower() != default_path.lower())


def issuer_problem(cluster: Cluster) -> str:
    if cluster.issuer.startswith("https://"):
        return ""
    return (
        "The service account tokens of the cluster have no public issuer (spec.serviceAccountIssuer of the "
        "Authentication cluster), so Entra cannot verify them. Only a cluster that was installed with short-lived "
        "credentials has one."
    )


def owner_problem(existing: Existing, cluster: Cluster) -> str:
    if existing.identity is None or cluster.owns(existing.identity):
        return ""
    client_id = (existing.identity.get("properties") or {}).get("clientId")
    return (
        f"The managed identity {existing.identity['name']} exists, and this collection did not create it for this "
        f"cluster: it has no tag {REFERENCE_TAG}{cluster.id}. To use it, set operator_install_azure_identity_client_id "
        f"to {client_id}; or choose another name with operator_install_identity_name."
    )


def assignment_name(scope: str, principal_id: str, role: str) -> str:
    """The same name for the same assignment, so that it is recognized."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"osc.peerpods:{scope.lower()}:{principal_id}:{role}"))


def plan_identity(path: str, existing: Existing, cluster: Cluster) -> list[Change]:
    """The identity and its federated credential, which do not need its principal."""
    changes = []
    if existing.identity is None:
        changes.append(
            Change("create identity", path, IDENTITY_API_VERSION, {"location": cluster.location, "tags": cluster.tags})
        )
    if any(_trusts(each.get("properties") or {}, cluster) for each in existing.credentials):
        return changes
    # One of another issuer or subject is that of another cluster or service account, and stays. Azure allows one for
    # each issuer and subject ("Important considerations and restrictions for federated identity credentials").
    own = [each["name"] for each in existing.credentials if _is_own_credential(each, cluster)]
    taken = {each["name"].lower() for each in existing.credentials}
    numbered = (f"{SERVICE_ACCOUNT}-{number}" for number in range(2, len(taken) + 3))
    free = (name for name in (SERVICE_ACCOUNT, *numbered) if name not in taken)
    verb, name = ("update", own[0]) if own else ("create", next(free))
    properties = {"issuer": cluster.issuer, "subject": cluster.subject, "audiences": [AUDIENCE]}
    changes.append(
        Change(
            f"{verb} federated credential {name}",
            f"{path}/{CREDENTIALS}/{name}",
            IDENTITY_API_VERSION,
            {"properties": properties},
        )
    )
    return changes


def plan_roles(
    existing: Existing,
    cluster: Cluster,
    scopes: Sequence[str],
    definitions: Mapping[str, str],
    *,
    image: bool,
    principal_id: str,
) -> list[Change]:
    """The assignments of the roles in each scope; `definitions` are the IDs of the roles by name.

    An assignment of another owner is sufficient. Those for images are removed without `image`, if they are of this
    collection.
    """
    changes = []
    for scope in scopes:
        for role in (*VM_ROLES, *IMAGE_ROLES):
            name = assignment_name(scope, principal_id, role)
            found = _assigned(existing.assignments, scope, definitions[role])
            path = f"{scope}/{ASSIGNMENTS}/{name}"
            where = scope.rpartition("/")[2]
            if role in IMAGE_ROLES and not image:
                if any(each["name"].lower() == name for each in found):
                    changes.append(Change(f"unassign {role} in {where}", path, ROLES_API_VERSION))
            elif not found:
                properties = {
                    "roleDefinitionId": definitions[role],
                    "principalId": principal_id,
                    # Without it, Azure rejects a principal that was just created.
                    "principalType": "ServicePrincipal",
                    "description": f"osc.peerpods: cluster {cluster.name}",
                }
                changes.append(Change(f"assign {role} in {where}", path, ROLES_API_VERSION, {"properties": properties}))
    return changes


def plan_removal(existing: Existing, cluster: Cluster) -> list[Change]:
    """Remove the identity and the assignments of this collection, which would be left over without it; its federated
    credentials are removed with it. None if `removal_problem` has one."""
    if existing.identity is None or not cluster.owns(existing.identity):
        return []
    return [
        *(
            Change(f"unassign {each['name']}", each["id"], ROLES_API_VERSION)
            for each in existing.assignments
            if _is_own_assignment(each)
        ),
        Change(f"delete identity {existing.identity['name']}", existing.identity["id"], IDENTITY_API_VERSION),
    ]


def removal_problem(
    existing: Existing,
    cluster: Cluster,
    resources: Iterable[Mapping[str, Any]],
) -> str:
    """What others have added to an identity of this collection, as a sentence; empty without such.

    Azure would delete the identity together with its federated credentials, and whatever else uses it would lose its
    access. `resources` are those of its subscription.
    """
    if existing.identity is None:
        return ""
    identity_id = existing.identity["id"].lower()
    uses = [
        *(
            f"the role assignment {each['name']} in {each['properties']['scope']}"
            for each in existing.assignments
            if not _is_own_assignment(each)
        ),
        *(_describe_credential(each) for each in existing.credentials if not _is_own_credential(each, cluster)),
        *(
            f"{each['name']} ({each['type']})"
            for each in resources
            if identity_id in map(str.lower, (each.get("identity") or {}).get("userAssignedIdentities") or ())
        ),
    ]
    if not uses:
        return ""
    return (
        f"The managed identity {existing.identity['name']} has {join_names(uses)}, which this collection did not add. "
        "Remove them from the identity (az role assignment delete, az identity federated-credential delete, or az vm "
        "identity remove and its like for other resources), then run this again. The identity was not changed."
    )


def _describe_credential(credential: Mapping[str, Any]) -> str:
    properties = credential.get("properties") or {}
    return (
        f"the federated credential {credential['name']} of the issuer {properties.get('issuer')} for the subject "
        f"{properties.get('subject')}"
    )


def _is_own_credential(credential: Mapping[str, Any], cluster: Cluster) -> bool:
    """Whether the credential may be one of `plan_identity`: by its name, and for the service account of the operator.
    Without the issuer of the cluster, only the first name tells."""
    name, properties = credential["name"].lower(), credential.get("properties") or {}
    if properties.get("subject") != cluster.subject or not re.fullmatch(rf"{SERVICE_ACCOUNT}(-\d+)?", name):
        return False
    return properties.get("issuer") == cluster.issuer if cluster.issuer else name == SERVICE_ACCOUNT


def _is_own_assignment(assignment: Mapping[str, Any]) -> bool:
    scope, principal_id = assignment["properties"]["scope"], assignment["properties"]["principalId"]
    own = (assignment_name(scope, principal_id, role) for role in (*VM_ROLES, *IMAGE_ROLES))
    return assignment["name"].lower() in own


def credential_problems(credentials: Sequence[Mapping[str, Any]], cluster: Cluster) -> Iterator[str]:
    """What the federated credentials of an identity that was given lack."""
    if not any(_trusts(each.get("properties") or {}, cluster) for each in credentials):
        yield (
            f"It has no federated credential for the issuer {cluster.issuer}, the subject {cluster.subject} and the "
            f"audience {AUDIENCE}."
        )


def missing_actions(access: Access, actions_by_scope: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """The actions that an identity that was given may not take, each with its resource group or resource."""
    return [
        f"{action} in {scope.rpartition('/')[2]}{'' if obstacle == NO_ROLE else f' ({obstacle})'}"
        for scope, actions in actions_by_scope
        for action in dict.fromkeys(actions)
        if (obstacle := access.obstacle(action, scope))
        and not (obstacle == NO_ROLE and access.resources_in(action, scope))
    ]


def unclear_actions(access: Access, actions_by_scope: Iterable[tuple[str, Iterable[str]]]) -> str:
    """The actions that an identity that was given may take only on resources that were not given, as a sentence."""
    found = {
        action: access.resources_in(action, scope)
        for scope, actions in actions_by_scope
        for action in actions
        if access.obstacle(action, scope) == NO_ROLE
    }
    names = [
        f"{action} on {join_names([each.rpartition('/')[2] for each in resources])}"
        for action, resources in found.items()
        if resources
    ]
    if not names:
        return ""
    return (
        f"Roles of the identity permit only on single resources: {join_names(names)}. Whether the VMs and their image "
        "use these was not checked."
    )


def _trusts(credential: Mapping[str, Any], cluster: Cluster) -> bool:
    return (
        credential.get("issuer") == cluster.issuer
        and credential.get("subject") == cluster.subject
        and AUDIENCE in (credential.get("audiences") or ())
    )


def _assigned(assignments: Sequence[Mapping[str, Any]], scope: str, definition: str) -> list[Mapping[str, Any]]:
    return [
        each
        for each in assignments
        if each["properties"]["roleDefinitionId"].lower().rpartition("/")[2] == definition.lower().rpartition("/")[2]
        and each["properties"]["scope"].lower() == scope.lower()
    ]
