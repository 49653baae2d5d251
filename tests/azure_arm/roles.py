"""The permissions of Azure's built-in roles, and whether they allow an action.

Source: learn.microsoft.com/azure/role-based-access-control/built-in-roles. Of the roles for resources, actions of
providers that are not emulated are left out.
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

VIRTUAL_MACHINE_CONTRIBUTOR = _role(
    [
        "Microsoft.Authorization/*/read",
        "Microsoft.Compute/availabilitySets/*",
        "Microsoft.Compute/locations/*",
        "Microsoft.Compute/virtualMachines/*",
        "Microsoft.Compute/virtualMachineScaleSets/*",
        "Microsoft.Compute/disks/write",
        "Microsoft.Compute/disks/read",
        "Microsoft.Compute/disks/delete",
        "Microsoft.Network/locations/*",
        "Microsoft.Network/networkInterfaces/*",
        "Microsoft.Network/networkSecurityGroups/join/action",
        "Microsoft.Network/networkSecurityGroups/read",
        "Microsoft.Network/publicIPAddresses/join/action",
        "Microsoft.Network/publicIPAddresses/read",
        "Microsoft.Network/virtualNetworks/read",
        "Microsoft.Network/virtualNetworks/subnets/join/action",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
        "Microsoft.Storage/storageAccounts/listKeys/action",
        "Microsoft.Storage/storageAccounts/read",
    ],
    [],
)
NETWORK_CONTRIBUTOR = _role(
    [
        "Microsoft.Authorization/*/read",
        "Microsoft.Network/*",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
    ],
    [],
)
STORAGE_ACCOUNT_CONTRIBUTOR = _role(
    [
        "Microsoft.Authorization/*/read",
        "Microsoft.Network/virtualNetworks/subnets/joinViaServiceEndpoint/action",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
        "Microsoft.Storage/storageAccounts/*",
    ],
    [],
)
GALLERY_PUBLISHER = _role(
    [
        "Microsoft.Authorization/*/read",
        "Microsoft.Compute/disks/write",
        "Microsoft.Compute/galleries/*",
        "Microsoft.Compute/images/*",
        "Microsoft.Compute/locations/capsOperations/read",
        "Microsoft.Compute/virtualMachines/write",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
    ],
    ["Microsoft.Compute/galleries/share/action"],
)


def allowed(action: str, permissions: list[dict]) -> bool:
    def among(patterns: list[str]) -> bool:
        return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

    return any(among(permission["actions"]) and not among(permission["notActions"]) for permission in permissions)
