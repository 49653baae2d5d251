"""The roles and actions, and the files that a user can give to those who administrate the cloud."""

from __future__ import annotations

import json

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import EVERYONE, Access
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import (
    IMAGE_ACTIONS,
    IMAGE_ROLES,
    NSG_ACTIONS,
    SUBNET_ACTIONS,
    VM_ACTIONS,
    VM_ROLES,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import missing_actions

from tests.azure_arm import roles as azure_roles
from tests.support import ROOT

SCOPE = "/subscriptions/s/resourceGroups/demo-rg"
BUILT_IN = (azure_roles.READER, azure_roles.VIRTUAL_MACHINE_CONTRIBUTOR, azure_roles.NETWORK_CONTRIBUTOR)
FOR_IMAGE = (azure_roles.STORAGE_ACCOUNT_CONTRIBUTOR, azure_roles.GALLERY_PUBLISHER)
FOR_VMS = (*VM_ACTIONS, *NSG_ACTIONS, *SUBNET_ACTIONS)


def of_file(name: str) -> dict:
    return {"actions": json.loads((ROOT / f"docs/policies/{name}.json").read_text())["Actions"], "notActions": []}


def test_the_file_has_the_roles():
    """And credentials_request_azure_wif.yaml of the operator has them, in this order."""
    stored = json.loads((ROOT / "docs/policies/azure-roles.json").read_text())
    assert stored == {"vms": list(VM_ROLES), "image": list(IMAGE_ROLES)}
    assert [*VM_ROLES, *IMAGE_ROLES] == [
        "Reader",
        "Virtual Machine Contributor",
        "Network Contributor",
        "Storage Account Contributor",
        "Compute Gallery Artifacts Publisher",
    ]


def access(*permissions: dict, scope: str = SCOPE, denials: tuple[dict, ...] = ()) -> Access:
    """Of a principal with a role of each of the permissions."""
    assignments = [
        {"properties": {"roleDefinitionId": f"/Roles/{number}", "scope": scope}} for number in range(len(permissions))
    ]
    return Access("p", assignments, {f"/roles/{n}": [each] for n, each in enumerate(permissions)}, denials)


@pytest.mark.parametrize(
    ("roles", "actions"),
    [
        (BUILT_IN, FOR_VMS),
        ((*BUILT_IN, *FOR_IMAGE), IMAGE_ACTIONS),
        ([azure_roles.CONTRIBUTOR], (*FOR_VMS, *IMAGE_ACTIONS)),
        ([of_file("azure-pod-vms")], FOR_VMS),
        ([of_file("azure-pod-vm-image")], IMAGE_ACTIONS),
    ],
)
def test_these_roles_have_what_is_needed(roles: list[dict], actions: tuple[str, ...]):
    assert missing_actions(access(*roles), [(SCOPE, actions)]) == []


def test_the_files_have_nothing_else():
    assert of_file("azure-pod-vms")["actions"] == sorted(FOR_VMS)
    assert of_file("azure-pod-vm-image")["actions"] == sorted(IMAGE_ACTIONS)


def test_the_actions_that_an_identity_that_was_given_lacks():
    excluding = {"actions": ["*"], "notActions": ["Microsoft.Compute/*/write"]}
    assert missing_actions(access(excluding), [(SCOPE, FOR_VMS)]) == [
        "Microsoft.Compute/virtualMachines/write in demo-rg"
    ]
    assert missing_actions(access(azure_roles.READER), [(f"{SCOPE}-2", NSG_ACTIONS), (SCOPE, SUBNET_ACTIONS)]) == [
        f"{NSG_ACTIONS[0]} in demo-rg-2",
        f"{SUBNET_ACTIONS[0]} in demo-rg",
    ]
    denial = {
        "name": "d1",
        "properties": {
            "denyAssignmentName": "managed by ARO",
            "scope": SCOPE,
            "principals": [{"id": EVERYONE, "type": "SystemDefined"}],
            "permissions": [{"actions": ["*/write"], "notActions": ["Microsoft.Network/*"]}],
        },
    }
    assert missing_actions(access(*BUILT_IN, denials=(denial,)), [(SCOPE, FOR_VMS)]) == [
        "Microsoft.Compute/virtualMachines/write in demo-rg (deny assignment managed by ARO)"
    ]
