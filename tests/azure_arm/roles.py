"""The permissions of Azure's built-in roles, and whether they allow an action.

Source: learn.microsoft.com/azure/role-based-access-control/built-in-roles
"""

from __future__ import annotations

from fnmatch import fnmatchcase


def _role(actions: list[str], not_actions: list[str]) -> dict[str, list[str]]:
    return {
        "actions": actions,
        "notActions": not_actions,
        "dataActions": [],
        "notDataActions": [],
    }


OWNER = _role(["*"], [])
READER = _role(["*/read"], [])
CONTRIBUTOR = _role(
    ["*"],
    [
        "Microsoft.Authorization/*/Delete",
        "Microsoft.Authorization/*/Write",
        "Microsoft.Authorization/elevateAccess/Action",
        "Microsoft.Blueprint/blueprintAssignments/write",
        "Microsoft.Blueprint/blueprintAssignments/delete",
        "Microsoft.Compute/galleries/share/action",
        "Microsoft.Purview/consents/write",
        "Microsoft.Purview/consents/delete",
        "Microsoft.Resources/deploymentStacks/manageDenySetting/action",
        "Microsoft.Subscription/cancel/action",
        "Microsoft.Subscription/enable/action",
    ],
)


def allowed(action: str, permissions: list[dict]) -> bool:
    def among(patterns: list[str]) -> bool:
        return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

    return any(among(permission["actions"]) and not among(permission["notActions"]) for permission in permissions)
