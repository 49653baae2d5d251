# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the roles of a managed identity, and what they permit (private to this collection)."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import Arm, ArmError
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import Access
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import IMAGE_ROLES, VM_ROLES
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import (
    ASSIGNMENTS,
    DEFINITIONS,
    DENIALS,
    ROLES_API_VERSION,
)


def read_assignments(arm: Arm, subscription: str, principal_id: str) -> list[dict]:
    """The role assignments of the principal in the subscription and in its resource groups."""
    query = {"$filter": f"principalId eq '{principal_id}'"}
    return list(arm.list(f"{subscription}/{ASSIGNMENTS}", ROLES_API_VERSION, **query))


def read_definitions(arm: Arm, subscription: str) -> dict[str, str]:
    """The IDs of the roles by name."""
    ids = {}
    for role in (*VM_ROLES, *IMAGE_ROLES):
        query = {"$filter": f"roleName eq '{role}'"}
        definition = next(arm.list(f"{subscription}/{DEFINITIONS}", ROLES_API_VERSION, **query), None)
        if definition is None:
            raise ArmError(f"Azure has no role {role}, or the identity of this run may not read role definitions.")
        ids[role] = definition["id"]
    return ids


def read_access(arm: Arm, subscription: str, principal_id: str) -> Access:
    """What the principal may do by its roles, and by those of groups that it belongs to."""
    query = {"$filter": f"assignedTo('{principal_id}')"}
    assignments = list(arm.list(f"{subscription}/{ASSIGNMENTS}", ROLES_API_VERSION, **query))
    permissions = {}
    for role in dict.fromkeys(each["properties"]["roleDefinitionId"] for each in assignments):
        definition = arm.get(role, ROLES_API_VERSION) or {"properties": {}}
        permissions[role.lower()] = definition["properties"].get("permissions") or ()
    denials = list(arm.list(f"{subscription}/{DENIALS}", ROLES_API_VERSION))
    return Access(principal_id, assignments, permissions, denials)
