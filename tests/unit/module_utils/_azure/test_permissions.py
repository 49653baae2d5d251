"""The evaluation of the permissions that Azure lists, as a table."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import EVERYONE, NO_ROLE, Access, granted

NSG = "Microsoft.Network/networkSecurityGroups"
WRITE, RULE_WRITE = f"{NSG}/write", f"{NSG}/securityRules/write"

READER = {"actions": ["*/read"], "notActions": [], "dataActions": [], "notDataActions": []}
NETWORK_CONTRIBUTOR = {
    "actions": [
        "Microsoft.Authorization/*/read",
        "Microsoft.Network/*",
        "Microsoft.Resources/deployments/*",
    ],
    "notActions": [],
}


def role(*actions: str, not_actions: tuple[str, ...] = ()) -> dict:
    return {"actions": list(actions), "notActions": list(not_actions)}


@pytest.mark.parametrize(
    ("permissions", "action", "allowed"),
    [
        ([], WRITE, False),
        ([READER], WRITE, False),
        ([READER], f"{NSG}/read", True),
        ([NETWORK_CONTRIBUTOR], RULE_WRITE, True),
        ([role("*")], WRITE, True),
        # A literal action matches only itself.
        ([role(WRITE)], WRITE, True),
        ([role(WRITE)], RULE_WRITE, False),
        ([role(RULE_WRITE)], WRITE, False),
        ([role("securityRules/write")], RULE_WRITE, False),
        ([role(NSG)], WRITE, False),
        ([role(f"{NSG}/*/write")], RULE_WRITE, True),
        ([role(f"{NSG}/*/write")], WRITE, False),
        # A dot matches only a dot.
        ([role("MicrosoftxNetwork/*")], WRITE, False),
        ([role("Microsoft.Network/networkSecurityGroup./write")], WRITE, False),
        # `*` spans slashes, in the middle and more than once.
        ([role("*/networkSecurityGroups/*")], RULE_WRITE, True),
        ([role("Microsoft.*/write")], RULE_WRITE, True),
        ([role("*/delete")], RULE_WRITE, False),
        # Case is ignored.
        ([role("microsoft.network/NETWORKsecuritygroups/*")], RULE_WRITE, True),
        ([role("*", not_actions=("MICROSOFT.NETWORK/*/WRITE",))], RULE_WRITE, False),
        # notActions reduce the actions of the same role.
        ([role("*", not_actions=("Microsoft.Authorization/*/Write",))], WRITE, True),
        ([role("*", not_actions=(WRITE,))], WRITE, False),
        ([role("*", not_actions=(WRITE,))], RULE_WRITE, True),
        ([role("*", not_actions=("Microsoft.Network/*",))], RULE_WRITE, False),
        # They do not reduce the actions of another role.
        ([role("*", not_actions=("Microsoft.Network/*",)), NETWORK_CONTRIBUTOR], WRITE, True),
        ([NETWORK_CONTRIBUTOR, role("*", not_actions=("Microsoft.Network/*",))], WRITE, True),
        ([READER, role("*", not_actions=(WRITE,))], WRITE, False),
        # Data actions do not count.
        ([{"actions": [], "dataActions": ["*"]}], WRITE, False),
        ([{"actions": ["*"], "notActions": [], "notDataActions": ["*"]}], WRITE, True),
        # Missing lists are empty.
        ([{"actions": None, "notActions": None}], WRITE, False),
        ([{"actions": ["*"]}], WRITE, True),
    ],
)
def test_granted_actions(permissions, action, allowed):
    assert granted(action, permissions) is allowed


GROUP = "/subscriptions/s/resourceGroups/g"
ROLE = "/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/R1"


def access(*, scope: str = GROUP, denials: tuple[dict, ...] = (), **permissions: list) -> Access:
    assignment = {"properties": {"roleDefinitionId": ROLE, "scope": scope}}
    return Access("P1", [assignment], {ROLE.lower(): [{"actions": ["*"], **permissions}]}, denials)


@pytest.mark.parametrize(
    ("scope", "is_allowed"),
    [
        (GROUP, True),
        ("/Subscriptions/S/resourcegroups/G", True),
        ("/subscriptions/s", True),
        ("/", True),
        (f"{GROUP}-2", False),
        ("/subscriptions/s2", False),
        # Not for other resources of the group.
        (f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v", False),
    ],
)
def test_a_role_is_assigned_at_the_scope_or_above(scope: str, is_allowed: bool):
    assert access(scope=scope).obstacle(WRITE, GROUP) == (None if is_allowed else NO_ROLE)


def test_the_actions_of_each_role_count():
    assert access(actions=["Microsoft.Network/*"]).obstacle(WRITE, GROUP) is None
    assert access(notActions=["*/write"]).obstacle(WRITE, GROUP) == NO_ROLE
    # The role was deleted.
    assert Access("P1", access().assignments, {ROLE.lower(): ()}).obstacle(WRITE, GROUP) == NO_ROLE


@pytest.mark.parametrize(
    ("changed", "is_denied"),
    [
        ({}, True),
        ({"scope": "/subscriptions/s"}, True),
        ({"scope": f"{GROUP}-2"}, False),
        ({"doNotApplyToChildScopes": True}, False),
        ({"principals": [{"id": "p1"}]}, True),
        ({"principals": [{"id": "p2"}]}, False),
        ({"principals": []}, False),
        ({"excludePrincipals": [{"id": "p2"}]}, True),
        ({"excludePrincipals": [{"id": "p1"}]}, False),
        ({"permissions": [{"actions": ["*"], "notActions": ["*/write"]}]}, False),
        ({"permissions": [{"actions": ["*/delete"]}]}, False),
        ({"permissions": [{"actions": [], "dataActions": ["*"]}]}, False),
    ],
)
def test_a_deny_assignment_takes_precedence(changed: dict, is_denied: bool):
    denial = {"scope": GROUP, "principals": [{"id": EVERYONE}], "permissions": [{"actions": ["*"]}], **changed}
    obstacle = access(denials=({"name": "d1", "properties": denial},)).obstacle(WRITE, GROUP)
    assert obstacle == ("deny assignment d1" if is_denied else None)


VNET = f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v"
SUBNET = f"{VNET}/subnets/s"
JOIN = "Microsoft.Network/virtualNetworks/subnets/join/action"


@pytest.mark.parametrize(
    ("scope", "is_allowed"),
    [
        (SUBNET, True),
        (VNET, True),
        (GROUP, True),
        (f"{VNET}/subnets/s2", False),
        (f"{GROUP}/providers/Microsoft.Network/networkSecurityGroups/n", False),
    ],
)
def test_a_role_on_the_resource_itself_counts(scope: str, is_allowed: bool):
    assert access(scope=scope).obstacle(JOIN, SUBNET) == (None if is_allowed else NO_ROLE)


def test_a_denial_for_the_resource_itself():
    denial = {"principals": [{"id": EVERYONE}], "permissions": [{"actions": ["*"]}], "doNotApplyToChildScopes": True}
    for scope, expected in ((SUBNET, "deny assignment d1"), (VNET, None)):
        denials = ({"name": "d1", "properties": {**denial, "scope": scope}},)
        assert access(denials=denials).obstacle(JOIN, SUBNET) == expected


GALLERY = f"{GROUP}/providers/Microsoft.Compute/galleries/g"


@pytest.mark.parametrize(
    ("scope", "action", "counts"),
    [
        (VNET, JOIN, True),
        (SUBNET, JOIN, True),
        (f"{GROUP}/providers/Microsoft.Network/networkSecurityGroups/n", f"{NSG}/join/action", True),
        (GALLERY, "Microsoft.Compute/galleries/images/versions/write", True),
        (f"{GALLERY}/images/i", "microsoft.compute/galleries/images/versions/write", True),
        # Another resource.
        (f"{GALLERY}/images/i", "Microsoft.Compute/galleries/write", False),
        (GALLERY, JOIN, False),
        # A VM of a peer pod does not exist yet.
        (f"{GROUP}/providers/Microsoft.Compute/virtualMachines/vm", "Microsoft.Compute/virtualMachines/write", False),
        ("/subscriptions/s/resourceGroups/g2/providers/Microsoft.Network/virtualNetworks/v", JOIN, False),
    ],
)
def test_a_role_on_a_single_resource_of_the_group(scope: str, action: str, counts: bool):
    assert access(scope=scope).resources_in(action, GROUP) == ([scope] if counts else [])
    assert access(scope=scope, notActions=["*"]).resources_in(action, GROUP) == []
