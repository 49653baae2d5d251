"""What the permissions that Azure lists amount to, as a table."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import granted

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


def role(*actions: str, but: tuple[str, ...] = ()) -> dict:
    return {"actions": list(actions), "notActions": list(but)}


@pytest.mark.parametrize(
    ("permissions", "action", "allowed"),
    [
        ([], WRITE, False),
        ([READER], WRITE, False),
        ([READER], f"{NSG}/read", True),
        ([NETWORK_CONTRIBUTOR], RULE_WRITE, True),
        ([role("*")], WRITE, True),
        # As it is written, and nothing that only begins or ends so.
        ([role(WRITE)], WRITE, True),
        ([role(WRITE)], RULE_WRITE, False),
        ([role(RULE_WRITE)], WRITE, False),
        ([role("securityRules/write")], RULE_WRITE, False),
        ([role(NSG)], WRITE, False),
        ([role(f"{NSG}/*/write")], RULE_WRITE, True),
        ([role(f"{NSG}/*/write")], WRITE, False),
        # A dot is a dot.
        ([role("MicrosoftxNetwork/*")], WRITE, False),
        ([role("Microsoft.Network/networkSecurityGroup./write")], WRITE, False),
        # `*` spans slashes, in the middle and more than once.
        ([role("*/networkSecurityGroups/*")], RULE_WRITE, True),
        ([role("Microsoft.*/write")], RULE_WRITE, True),
        ([role("*/delete")], RULE_WRITE, False),
        # Case does not count.
        ([role("microsoft.network/NETWORKsecuritygroups/*")], RULE_WRITE, True),
        ([role("*", but=("MICROSOFT.NETWORK/*/WRITE",))], RULE_WRITE, False),
        # What a role takes away of what it gives.
        ([role("*", but=("Microsoft.Authorization/*/Write",))], WRITE, True),
        ([role("*", but=(WRITE,))], WRITE, False),
        ([role("*", but=(WRITE,))], RULE_WRITE, True),
        ([role("*", but=("Microsoft.Network/*",))], RULE_WRITE, False),
        # It is not taken away of what another one gives.
        ([role("*", but=("Microsoft.Network/*",)), NETWORK_CONTRIBUTOR], WRITE, True),
        ([NETWORK_CONTRIBUTOR, role("*", but=("Microsoft.Network/*",))], WRITE, True),
        ([READER, role("*", but=(WRITE,))], WRITE, False),
        # Data actions are other things.
        ([{"actions": [], "dataActions": ["*"]}], WRITE, False),
        ([{"actions": ["*"], "notActions": [], "notDataActions": ["*"]}], WRITE, True),
        # Lists that are not there are empty.
        ([{"actions": None, "notActions": None}], WRITE, False),
        ([{"actions": ["*"]}], WRITE, True),
    ],
)
def test_granted_actions(permissions, action, allowed):
    assert granted(action, permissions) is allowed
