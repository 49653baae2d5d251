#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_token_identity_info
version_added: "0.1.0"
short_description: Gather whether a managed identity can create the VMs of peer pods
description:
  - >-
    Checks that cloud-api-adaptor can use the user-assigned managed identity with the tokens of its service account: a
    federated credential of the identity has the issuer of the cluster, the service account C(default) of the operator's
    namespace as its subject, and the audience C(openshift).
  - >-
    Reports which actions no role of the identity permits that is assigned in the resource group or above, or that a
    deny assignment denies. Custom roles count as well. The actions are those of the files in C(docs/policies).
  - >-
    Without O(identity_client_id), reports which actions the identity of the login may not take, such as that of a
    service principal. Deny assignments do not count then.
options:
  identity_client_id:
    description:
      - The client ID of the managed identity. When omitted, the identity of the login is checked.
    type: str
  resource_group:
    description:
      - The resource group of the VMs, and of the gallery with their image.
    type: str
    required: true
  nsg_resource_group:
    description:
      - The resource group of the network security group of the VMs. Defaults to O(resource_group).
    type: str
  network_resource_group:
    description:
      - The resource group of the virtual network of the VMs. Defaults to O(resource_group).
    type: str
  issuer:
    description:
      - The issuer of the cluster's tokens, C(spec.serviceAccountIssuer) of the Authentication C(cluster).
    type: str
    default: ""
  namespace:
    description:
      - The namespace of the operator.
    type: str
    default: openshift-sandboxed-containers-operator
  image:
    description:
      - Whether to check the actions that create and delete an image of the VMs.
    type: bool
    default: false
notes:
  - >-
    The login needs C(Microsoft.ManagedIdentity/userAssignedIdentities/read),
    C(Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/read),
    C(Microsoft.Authorization/roleAssignments/read), C(Microsoft.Authorization/roleDefinitions/read) and
    C(Microsoft.Authorization/denyAssignments/read); without O(identity_client_id)
    C(Microsoft.Authorization/permissions/read). The role C(Reader) has them.
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.azure_token_identity
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Check the managed identity
  osc.peerpods.azure_token_identity_info:
    identity_client_id: 7c9f2d1e-5b34-4f0a-8f67-0c2d1e3f4a5b
    resource_group: demo-7x2kq-rg
    issuer: https://demo7x2kqoidc.blob.core.windows.net/demo
  register: identity

- name: Require an identity that works
  ansible.builtin.assert:
    that: identity.problems | length == 0
    fail_msg: "{{ identity.problems | join(' ') }}"
"""

RETURN = r"""
problems:
  description: Why the identity cannot be used, each as a sentence with what to do.
  returned: success
  type: list
  elements: str
  sample: []
denied:
  description: The actions that the identity may not take, each with the resource group, and with a deny assignment.
  returned: success
  type: list
  elements: str
  sample: [Microsoft.Network/networkSecurityGroups/join/action in demo-7x2kq-rg]
tenant_id:
  description: The tenant of the identity, null if it was not found.
  returned: success
  type: str
  sample: 1d0f7a30-4b2c-4f5d-8a6e-9b3c2d1e0f4a
unknown:
  description: What could not be checked, as a sentence; empty if everything was.
  returned: success
  type: str
  sample: ""
"""

from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import Arm, ArmError, ArmLoginError, arm_module
from ansible_collections.osc.peerpods.plugins.module_utils._azure.identity_reads import read_access
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import PERMISSIONS_API_VERSION, granted
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import (
    IMAGE_ACTIONS,
    NSG_ACTIONS,
    SUBNET_ACTIONS,
    VM_ACTIONS,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import (
    CREDENTIALS,
    IDENTITIES,
    IDENTITY_API_VERSION,
    Cluster,
    credential_problems,
    issuer_problem,
    missing_actions,
)

CHECKED: dict[str, Any] = {"problems": [], "denied": [], "tenant_id": None, "unknown": ""}
PERMISSIONS = "providers/Microsoft.Authorization/permissions"


def actions_by_scope(arm: Arm, params: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    by_group = [
        (params["resource_group"], (*VM_ACTIONS, *(IMAGE_ACTIONS if params["image"] else ()))),
        (params["nsg_resource_group"] or params["resource_group"], NSG_ACTIONS),
        (params["network_resource_group"] or params["resource_group"], SUBNET_ACTIONS),
    ]
    return [(f"/subscriptions/{arm.subscription_id}/resourceGroups/{group}", actions) for group, actions in by_group]


def check_login(arm: Arm, params: dict[str, Any]) -> dict[str, Any]:
    denied = [
        f"{action} in {scope.rpartition('/')[2]}"
        for scope, actions in actions_by_scope(arm, params)
        for permissions in [list(arm.list(f"{scope}/{PERMISSIONS}", PERMISSIONS_API_VERSION))]
        for action in dict.fromkeys(actions)
        if not granted(action, permissions)
    ]
    return {**CHECKED, "denied": denied}


def check_identity(arm: Arm, params: dict[str, Any]) -> dict[str, Any]:
    cluster = Cluster("", "", params["issuer"], params["namespace"], "")
    subscription = f"/subscriptions/{arm.subscription_id}"
    result = dict(CHECKED)
    if problem := issuer_problem(cluster):
        return {**result, "problems": [problem]}
    client_id = params["identity_client_id"]
    identity = next(
        (
            each
            for each in arm.list(f"{subscription}/providers/{IDENTITIES}", IDENTITY_API_VERSION)
            if each["properties"]["clientId"].lower() == client_id.lower()
        ),
        None,
    )
    if identity is None:
        return {
            **result,
            "unknown": (
                f"Subscription {arm.subscription_id} has no user-assigned managed identity with the client ID "
                f"{client_id}. If the identity is in another subscription, it was not checked."
            ),
        }
    result["tenant_id"] = identity["properties"].get("tenantId")
    credentials = list(arm.list(f"{identity['id']}/{CREDENTIALS}", IDENTITY_API_VERSION))
    problems = [
        f"cloud-api-adaptor cannot use the managed identity {identity['name']}. {problem} Create it with az identity "
        "federated-credential create, as in the guide for Azure."
        for problem in credential_problems(credentials, cluster)
    ]
    access = read_access(arm, subscription, identity["properties"]["principalId"])
    return {**result, "problems": problems, "denied": missing_actions(access, actions_by_scope(arm, params))}


def main() -> None:
    module = arm_module(
        {
            "identity_client_id": {"type": "str"},
            "resource_group": {"type": "str", "required": True},
            "nsg_resource_group": {"type": "str"},
            "network_resource_group": {"type": "str"},
            "issuer": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "image": {"type": "bool", "default": False},
        }
    )
    try:
        check = check_identity if module.params["identity_client_id"] else check_login
        result = check(Arm(module), module.params)
    except ArmLoginError as error:
        if module.params["identity_client_id"]:
            module.fail_json(msg=str(error))
        result = {**CHECKED, "problems": [f"Azure rejects the login as this identity. {error}"]}
    except ArmError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
