"""User-assigned managed identities, their federated credentials, and role assignments.

Sources: learn.microsoft.com/rest/api/managedidentity (user-assigned-identities, federated-identity-credentials) and
rest/api/authorization (role-assignments, role-definitions, deny-assignments), "Troubleshoot Azure RBAC", and the error
codes that ccoctl handles (pkg/cmd/provisioning/azure/create_managed_identities.go of
openshift/cloud-credential-operator).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable

from . import roles
from .errors import ArmError
from .wire import Answer, Request, answered

_IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
_CREDENTIALS = f"{_IDENTITIES}/federatedIdentityCredentials"
_ASSIGNMENTS = "Microsoft.Authorization/roleAssignments"
_DEFINITIONS = "Microsoft.Authorization/roleDefinitions"
_DENIALS = "Microsoft.Authorization/denyAssignments"

_IDENTITY = re.compile(
    rf"(?P<group>/subscriptions/[^/]+/resourceGroups/[^/]+)/providers/{_IDENTITIES.replace('.', '[.]')}"
    r"(?:/(?P<name>[^/]+)(?:/federatedIdentityCredentials(?:/(?P<credential>[^/]+))?)?)?",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"/subscriptions/[^/]+/providers/{_IDENTITIES.replace('.', '[.]')}", re.IGNORECASE)
_ROLE = re.compile(
    r"(?P<scope>/subscriptions/[^/]+(?:/.+)?)/providers/Microsoft[.]Authorization/"
    r"(?P<kind>roleAssignments|roleDefinitions|denyAssignments)(?:/(?P<name>[^/]+))?",
    re.IGNORECASE,
)
VERSIONS = {
    "identity": ("2022-01-31-preview", "2023-01-31", "2024-11-30", "2025-01-31-preview", "2025-05-31-preview"),
    "role": ("2020-04-01-preview", "2022-04-01", "2022-05-01-preview"),
}

# The IDs in "Azure built-in roles", with the names and the permissions of the roles.
ROLES = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": ("Owner", roles.OWNER),
    "b24988ac-6180-42a0-ab88-20f7382dd24c": ("Contributor", roles.CONTRIBUTOR),
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": ("Reader", roles.READER),
    "9980e02c-c2be-4d73-94e8-173b1dc7cf3c": ("Virtual Machine Contributor", roles.VIRTUAL_MACHINE_CONTRIBUTOR),
    "4d97b98b-1d4f-4787-a291-c67834d212e7": ("Network Contributor", roles.NETWORK_CONTRIBUTOR),
    "17d1049b-9a84-46fb-8f53-869881c3d3ab": ("Storage Account Contributor", roles.STORAGE_ACCOUNT_CONTRIBUTOR),
    "85a2d0d9-2eba-4c9c-b355-11c2cc0788ab": ("Compute Gallery Artifacts Publisher", roles.GALLERY_PUBLISHER),
}

# "The maximum number of federated identity credentials per user-assigned managed identity".
MOST_CREDENTIALS = 20


class Identities:
    """The resources by lower-case ID. `exists` is whether a resource group exists, `permit` raises for an action that
    the caller may not take."""

    def __init__(self, tenant_id: str, exists: Callable[[str], bool], permit: Callable[[str, str], None]):
        self.stored: dict[str, dict] = {}
        # Custom roles as those of ROLES, and deny assignments, which only Azure itself creates.
        self.custom_roles: dict[str, tuple[str, dict]] = {}
        self.denials: list[dict] = []
        self._tenant_id = tenant_id
        self._exists = exists
        self._permit = permit

    def of_type(self, kind: str) -> list[dict]:
        return [body for body in self.stored.values() if body["type"] == kind]

    def federated_credentials(self, client_id: str) -> list[dict] | None:
        """The properties of those of the identity with this client ID; None if none has it."""
        identity = self._with_client_id(client_id)
        if identity is None:
            return None
        prefix = f"{identity['id'].lower()}/"
        return [body["properties"] for key, body in self.stored.items() if key.startswith(prefix)]

    def permissions_of(self, client_id: str, scope: str) -> list[dict] | None:
        """What the roles that are assigned at the scope or above it permit; None if no identity has this client ID."""
        identity = self._with_client_id(client_id)
        if identity is None:
            return None
        known = {**ROLES, **self.custom_roles}
        return [
            known[each["roleDefinitionId"].rpartition("/")[2]][1]
            for each in (body["properties"] for body in self.of_type(_ASSIGNMENTS))
            if each["principalId"] == identity["properties"]["principalId"]
            and f"{scope.lower()}/".startswith(f"{each['scope'].lower()}/")
        ]

    def _with_client_id(self, client_id: str) -> dict | None:
        of_client = (body for body in self.of_type(_IDENTITIES) if body["properties"]["clientId"] == client_id)
        return next(of_client, None)

    def answer(self, request: Request, path: str) -> Answer | None:
        """None if the path is that of another resource."""
        if match := _IDENTITY.fullmatch(path):
            self._require_version(request, "identity", _IDENTITIES)
            if not self._exists(match["group"]):
                name = match["group"].rpartition("/")[2]
                raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
            nested = "/federatedidentitycredentials" in path.lower()
            return self._identity(request, path, match["credential"] if nested else match["name"], nested=nested)
        if match := _LISTED.fullmatch(path):
            self._require_version(request, "identity", _IDENTITIES)
            self._permit(f"{_IDENTITIES}/read", path)
            return answered({"value": self.of_type(_IDENTITIES)})
        if match := _ROLE.fullmatch(path):
            self._require_version(request, "role", match["kind"])
            if match["kind"].lower() == "roledefinitions":
                return self._definitions(request, match["scope"], match["name"])
            if match["kind"].lower() == "denyassignments":
                self._permit(f"{_DENIALS}/read", match["scope"])
                return answered({"value": self.denials})
            return self._assignment(request, match["scope"], match["name"])
        return None

    # -- Identities ----------------------------------------------------------------------------

    def _identity(self, request: Request, path: str, name: str | None, *, nested: bool) -> Answer:
        kind = _CREDENTIALS if nested else _IDENTITIES
        verb = {"PUT": "write", "DELETE": "delete"}.get(request.method, "read")
        self._permit(f"{kind}/{verb}", path)
        before = self.stored.get(path.lower())
        match request.method:
            case "GET" if name is None:
                return answered(
                    {
                        "value": [
                            b for k, b in self.stored.items() if k.startswith(f"{path.lower()}/") and b["type"] == kind
                        ]
                    }
                )
            case "GET":
                if before is None:
                    raise self._missing(path, name, nested=nested)
                return answered(before)
            case "PUT":
                body = self._credential(path, request) if nested else self._new_identity(path, request, before)
                self.stored[path.lower()] = {"id": path, "name": name, "type": kind, **body}
                return answered(self.stored[path.lower()], 200 if before else 201)
            case "DELETE":
                for key in [key for key in self.stored if f"{key}/".startswith(f"{path.lower()}/")]:
                    del self.stored[key]
                return Answer(200 if before else 204)
        raise ArmError(405, "MethodNotAllowed", f"{kind} does not support {request.method}.")

    def _new_identity(self, path: str, request: Request, before: dict | None) -> dict:
        body = json.loads(request.content)
        location = body.get("location")
        if not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        if before and before["location"] != location:
            raise ArmError(409, "InvalidResourceLocation", f"The resource '{path}' already exists in another location.")
        created = {"tenantId": self._tenant_id, "principalId": str(uuid.uuid4()), "clientId": str(uuid.uuid4())}
        return {
            "location": location,
            "tags": body.get("tags") or {},
            "properties": before["properties"] if before else created,
        }

    def _credential(self, path: str, request: Request) -> dict:
        parent = path.lower().rpartition("/federatedidentitycredentials/")[0]
        if parent not in self.stored:
            raise ArmError(404, "ParentResourceNotFound", f"The parent resource of '{path}' was not found.")
        properties = (json.loads(request.content) or {}).get("properties") or {}
        if not all(map(properties.get, ("issuer", "subject", "audiences"))):
            # zioproto/istio-aks-example#6.
            message = "Federated Identity Credential must specify 'issuer', 'subject' and 'audience'."
            raise ArmError(400, "BadRequest", f"The request format was unexpected. {message}")
        siblings = {k: b for k, b in self.stored.items() if k.startswith(f"{parent}/") and k != path.lower()}
        if len(siblings) >= MOST_CREDENTIALS:
            raise ArmError(400, "BadRequest", "Too many Federated Identity Credentials.")
        pair = (properties["issuer"], properties["subject"])
        if pair in [(b["properties"]["issuer"], b["properties"]["subject"]) for b in siblings.values()]:
            # Azure/bicep-types-az#2029.
            raise ArmError(409, "Conflict", "Issuer and subject combination already exists for this Managed Identity.")
        return {"properties": {key: properties[key] for key in ("issuer", "subject", "audiences")}}

    def _missing(self, path: str, name: str | None, *, nested: bool) -> ArmError:
        if not nested:
            group = path.split("/")[4]
            return ArmError(
                404,
                "ResourceNotFound",
                f"The Resource '{_IDENTITIES}/{name}' under resource group '{group}' was not found.",
            )
        return ArmError(404, "NotFound", f"The federated identity credential '{name}' was not found.")

    # -- Roles ---------------------------------------------------------------------------------

    def _definitions(self, request: Request, scope: str, name: str | None) -> Answer:
        self._permit(f"{_DEFINITIONS}/read", scope)
        subscription = f"/subscriptions/{scope.split('/')[2]}"
        listed: list[dict] = [
            {
                "id": f"{subscription}/providers/{_DEFINITIONS}/{number}",
                "name": number,
                "type": _DEFINITIONS,
                "properties": {
                    "roleName": role,
                    "type": "BuiltInRole" if number in ROLES else "CustomRole",
                    "assignableScopes": ["/"] if number in ROLES else [subscription],
                    "permissions": [permissions],
                },
            }
            for number, (role, permissions) in {**ROLES, **self.custom_roles}.items()
        ]
        if name:
            found = next((body for body in listed if body["name"] == name.lower()), None)
            if found is None:
                raise _no_definition(name)
            return answered(found)
        requested = re.fullmatch(r"roleName eq '(.*)'", request.query.get("$filter", ""))
        return answered(
            {"value": [body for body in listed if requested is None or requested[1] == body["properties"]["roleName"]]}
        )

    def _assignment(self, request: Request, scope: str, name: str | None) -> Answer:
        verb = {"PUT": "write", "DELETE": "delete"}.get(request.method, "read")
        self._permit(f"{_ASSIGNMENTS}/{verb}", scope)
        path = f"{scope}/providers/{_ASSIGNMENTS}/{name}"
        before = self.stored.get(path.lower())
        match request.method:
            case "GET" if name is None:
                return answered({"value": self._listed(scope, request.query.get("$filter", ""))})
            case "GET":
                if before is None:
                    raise ArmError(404, "RoleAssignmentNotFound", f"The role assignment '{name}' is not found.")
                return answered(before)
            case "PUT":
                new = self._new_assignment(scope, str(name), json.loads(request.content))
                if before and before["properties"] != new["properties"]:
                    # Azure/Azure-Landing-Zones#2040.
                    message = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
                    raise ArmError(400, "RoleAssignmentUpdateNotPermitted", message)
                self.stored[path.lower()] = {"id": path, **new}
                return answered(self.stored[path.lower()], 200 if before else 201)
            case "DELETE":
                self.stored.pop(path.lower(), None)
                return answered(before) if before else Answer(204)
        raise ArmError(405, "MethodNotAllowed", f"{_ASSIGNMENTS} does not support {request.method}.")

    def _listed(self, scope: str, condition: str) -> list[dict]:
        """The assignments at the scope, above it and below it, of the principal in the filter."""
        principal = re.fullmatch(r"(?:principalId eq |assignedTo\()'([^']+)'\)?", condition)
        return [
            body
            for body in self.of_type(_ASSIGNMENTS)
            if principal is None or body["properties"]["principalId"] == principal[1]
            if _is_related(body["properties"]["scope"].lower(), scope.lower())
        ]

    def _new_assignment(self, scope: str, name: str, body: dict) -> dict:
        try:
            uuid.UUID(name)
        except ValueError:
            message = f"The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID."
            raise ArmError(400, "InvalidRoleAssignmentId", message) from None
        given = body.get("properties") or {}
        principals = {identity["properties"]["principalId"] for identity in self.of_type(_IDENTITIES)}
        principal, definition = given.get("principalId"), str(given.get("roleDefinitionId"))
        # A principal that was just created is not replicated, unless the request names its type.
        if principal not in principals or given.get("principalType") != "ServicePrincipal":
            raise ArmError(
                400,
                "PrincipalNotFound",
                f"Principal {principal} does not exist in the directory {self._tenant_id}. Check that you have the "
                "correct principal ID. If you are creating this principal and then immediately assigning a role, this "
                "error might be related to a replication delay. In this case, set the role assignment principalType "
                "property to a value, such as ServicePrincipal, User, or Group.",
            )
        if definition.rpartition("/")[2] not in {**ROLES, **self.custom_roles}:
            raise _no_definition(definition)
        properties = {
            "roleDefinitionId": definition,
            "principalId": principal,
            "principalType": "ServicePrincipal",
            "scope": scope,
            "description": given.get("description"),
        }
        same = ("roleDefinitionId", "principalId", "scope")
        for other in self.of_type(_ASSIGNMENTS):
            if other["name"] != name and all(other["properties"][key] == properties[key] for key in same):
                raise ArmError(409, "RoleAssignmentExists", "The role assignment already exists.")
        return {"name": name, "type": _ASSIGNMENTS, "properties": properties}

    def _require_version(self, request: Request, kind: str, name: str) -> None:
        version = request.query.get("api-version")
        if version not in VERSIONS[kind]:
            raise ArmError(
                400,
                "NoRegisteredProviderFound",
                f"No registered resource provider found for API version '{version}' for type '{name}'. The supported "
                f"api-versions are '{', '.join(VERSIONS[kind])}'.",
            )


def _no_definition(definition: str) -> ArmError:
    message = f"The specified role definition with ID '{definition}' does not exist."
    return ArmError(404, "RoleDefinitionDoesNotExist", message)


def _is_related(assigned: str, scope: str) -> bool:
    return f"{scope}/".startswith(f"{assigned}/") or f"{assigned}/".startswith(f"{scope}/")
