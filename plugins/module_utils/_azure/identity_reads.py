# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the roles of a managed identity (private to this collection)."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import Arm, ArmError
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import (
    ASSIGNMENTS,
    DEFINITIONS,
    IMAGE_ROLES,
    ROLES_API_VERSION,
    VM_ROLES,
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
