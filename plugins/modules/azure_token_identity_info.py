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
    Reports which actions no role of the identity permits that is assigned in the resource group or above, or on
    O(subnet) or O(network_security_group), or that a deny assignment denies. Custom roles count as well. The actions
    are those of the files in C(docs/policies). An action on other resources, for which a role is assigned on a single
    one of them, such as a gallery, is in RV(unknown).
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
  subnet:
    description:
      - >-
        The ARM ID of the subnet of the VMs. Roles that are assigned there, or on its virtual network, then count as
        well as those in O(network_resource_group) or above.
    type: str
  network_security_group:
    description:
      - The ARM ID of the network security group of the VMs, as O(subnet) in place of O(nsg_resource_group).
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
  description: >-
    The actions that the identity may not take, each with the resource group or the resource, and with a deny
    assignment.
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
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import (
    PERMISSIONS_API_VERSION,
    contains,
    granted,
    is_resource,
)
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
    unclear_actions,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

CHECKED: dict[str, Any] = {"problems": [], "denied": [], "tenant_id": None, "unknown": ""}
PERMISSIONS = "providers/Microsoft.Authorization/permissions"


def actions_by_scope(arm: Arm, params: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    def group(name: str | None) -> str:
        return f"/subscriptions/{arm.subscription_id}/resourceGroups/{name or params['resource_group']}"

    return [
        (group(None), (*VM_ACTIONS, *(IMAGE_ACTIONS if params["image"] else ()))),
        (params["network_security_group"] or group(params["nsg_resource_group"]), NSG_ACTIONS),
        (params["subnet"] or group(params["network_resource_group"]), SUBNET_ACTIONS),
    ]


def read_permissions(arm: Arm, scope: str) -> list[dict[str, Any]]:
    """The permissions in the scope; without the resource, which is reported elsewhere, those in its group."""
    try:
        return list(arm.list(f"{scope}/{PERMISSIONS}", PERMISSIONS_API_VERSION))
    except ArmError as error:
        if error.status != 404 or not is_resource(scope):
            raise
        group = "/".join(scope.split("/")[:5])
        return list(arm.list(f"{group}/{PERMISSIONS}", PERMISSIONS_API_VERSION))


def check_login(arm: Arm, params: dict[str, Any]) -> dict[str, Any]:
    denied = [
        f"{action} in {scope.rpartition('/')[2]}"
        for scope, actions in actions_by_scope(arm, params)
        for permissions in [read_permissions(arm, scope)]
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
    required = actions_by_scope(arm, params)
    # The roles in other subscriptions were not read.
    elsewhere = [scope for scope, _actions in required if not contains(subscription, scope)]
    required = [(scope, actions) for scope, actions in required if scope not in elsewhere]
    not_read = [f"The roles of the identity on {join_names(elsewhere)}, in another subscription, were not checked."]
    return {
        **result,
        "problems": problems,
        "denied": missing_actions(access, required),
        "unknown": " ".join(filter(None, [unclear_actions(access, required), *(not_read if elsewhere else ())])),
    }


def main() -> None:
    module = arm_module(
        {
            "identity_client_id": {"type": "str"},
            "resource_group": {"type": "str", "required": True},
            "nsg_resource_group": {"type": "str"},
            "network_resource_group": {"type": "str"},
            "subnet": {"type": "str"},
            "network_security_group": {"type": "str"},
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
