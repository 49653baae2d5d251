#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_token_identity
version_added: "0.1.0"
short_description: Manage the managed identity that creates the VMs of peer pods
description:
  - >-
    Creates the user-assigned managed identity for which cloud-api-adaptor exchanges the tokens of its service account,
    on clusters with short-lived credentials: the identity, a federated credential for the service account C(default) of
    the operator's namespace with the issuer of the cluster and the audience C(openshift), and role assignments in
    O(scopes).
  - >-
    The roles are C(Reader), C(Virtual Machine Contributor) and C(Network Contributor), and with O(image)
    C(Storage Account Contributor) and C(Compute Gallery Artifacts Publisher).
  - >-
    The identity has the tags C(osc.peerpods.managed=true) and C(osc.peerpods.cluster.ID=NAME). An identity without them
    is not changed, and the module fails. Role assignments of another owner stay, and so does a federated credential
    of another issuer or subject: the one of this cluster then gets another name, such as C(default-2).
options:
  name:
    description:
      - >-
        The name of the identity. Defaults to that of the identity in the subscription with the tags of this cluster,
        and without one to O(cluster_name) with C(-peer-pods).
    type: str
  resource_group:
    description:
      - The resource group of a new identity, and of the one with O(name).
    type: str
    required: true
  location:
    description:
      - The location of the identity.
    type: str
    required: true
  scopes:
    description:
      - The names of the resource groups in which the roles are assigned. Defaults to O(resource_group).
    type: list
    elements: str
  cluster_name:
    description:
      - The infrastructure name of the cluster.
    type: str
    required: true
  cluster_id:
    description:
      - The ID of the cluster.
    type: str
    required: true
  issuer:
    description:
      - >-
        The issuer of the cluster's tokens, C(spec.serviceAccountIssuer) of the Authentication C(cluster). Required with
        O(state=present). With O(state=absent), a credential with another issuer counts as that of another owner.
    type: str
    default: ""
  namespace:
    description:
      - The namespace of the operator. A credential for another service account counts as that of another owner.
    type: str
    default: openshift-sandboxed-containers-operator
  image:
    description:
      - >-
        Whether the identity has the roles to create or delete an image of the VMs. They are needed only while the
        operator does this.
    type: bool
    default: false
  state:
    description:
      - >-
        Whether the identity exists. With V(absent), every identity in the subscription with the tags of this cluster is
        removed, or that of O(name) in O(resource_group), with the role assignments of this module. An identity of
        another owner stays.
      - >-
        An identity with role assignments or federated credentials of other owners, or that a resource of the
        subscription has, such as a VM or a scale set, is not changed, and the module fails. So does it if it may not
        list the resources. Resources and role assignments in other subscriptions, and groups of Entra, are not looked
        for.
    type: str
    choices: [present, absent]
    default: present
  wait_timeout:
    description:
      - The number of seconds that each change may take.
    type: int
    default: 300
notes:
  - >-
    The login needs the actions C(Microsoft.ManagedIdentity/userAssignedIdentities/read),
    C(Microsoft.ManagedIdentity/userAssignedIdentities/write),
    C(Microsoft.ManagedIdentity/userAssignedIdentities/delete),
    C(Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/read),
    C(Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/write),
    C(Microsoft.Authorization/roleAssignments/read), C(Microsoft.Authorization/roleAssignments/write),
    C(Microsoft.Authorization/roleAssignments/delete) and C(Microsoft.Authorization/roleDefinitions/read), as the roles
    C(Managed Identity Contributor) and C(Role Based Access Control Administrator) have them. With O(state=absent), it
    also needs C(Microsoft.Resources/subscriptions/resources/read) for the subscription, as C(Reader) has it.
attributes:
  check_mode:
    description: Can run in check mode and return the changes that it would make.
    support: full
  diff_mode:
    description: Returns the changes.
    support: full
extends_documentation_fragment:
  - osc.peerpods.azure
seealso:
  - module: osc.peerpods.azure_token_identity_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Create the managed identity
  osc.peerpods.azure_token_identity:
    cluster_name: demo-7x2kq
    cluster_id: 0b5c8d2e-3a6f-4e21-9d4b-1f2a3b4c5d6e
    resource_group: demo-7x2kq-rg
    location: westeurope
    issuer: https://demo7x2kqoidc.blob.core.windows.net/demo
    image: true
  register: identity
"""

RETURN = r"""
identity:
  description: The identity, also if it will be created or was removed.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the identity.
      type: str
      sample: demo-7x2kq-peer-pods
    client_id:
      description: The client ID, null before the identity exists.
      type: str
      sample: 7c9f2d1e-5b34-4f0a-8f67-0c2d1e3f4a5b
    principal_id:
      description: The ID of the service principal, null before the identity exists.
      type: str
    tenant_id:
      description: The tenant, null before the identity exists.
      type: str
    owned:
      description: Whether this collection created the identity for this cluster, or will create it.
      type: bool
      sample: true
changes:
  description: The changes, in order.
  returned: success
  type: list
  elements: str
  sample: [create identity, create federated credential default, assign Reader in demo-7x2kq-rg]
left:
  description: With O(state=absent), the ARM IDs of the identities of this cluster that were not removed.
  returned: failure
  type: list
  elements: str
in_use:
  description: Whether the reason is that others use one of them.
  returned: failure
  type: bool
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import Arm, ArmError, arm_module
from ansible_collections.osc.peerpods.plugins.module_utils._azure.identity_reads import (
    read_assignments,
    read_definitions,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import (
    CREDENTIALS,
    IDENTITIES,
    IDENTITY_API_VERSION,
    RESOURCES_API_VERSION,
    Change,
    Cluster,
    Existing,
    identity_path,
    issuer_problem,
    own_identities,
    owner_problem,
    plan_identity,
    plan_removal,
    plan_roles,
    removal_problem,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after

# The principal of an identity that does not exist yet, in a plan.
UNKNOWN = "(known after its creation)"


class InUseError(ArmError):
    """Others use an identity of the cluster."""


class Run:
    """One run of the module, which adds its changes to `made`."""

    def __init__(self, module: AnsibleModule, arm: Arm, made: list[str]):
        params = module.params
        self.module, self.arm = module, arm
        self.cluster = Cluster(
            params["cluster_name"], params["cluster_id"], params["issuer"], params["namespace"], params["location"]
        )
        self.subscription = f"/subscriptions/{arm.subscription_id}"
        # That of a new identity.
        self.path = identity_path(
            arm.subscription_id or "", params["resource_group"], self.cluster, params["name"] or ""
        )
        groups = params["scopes"] or [params["resource_group"]]
        self.scopes = [f"{self.subscription}/resourceGroups/{name}" for name in dict.fromkeys(groups)]
        self.made = made
        # With state=absent, the identities of this cluster that exist.
        self.left: list[str] = []

    def own(self) -> list[Mapping[str, Any]]:
        """The identities of this cluster by their tags: in the resource group, else, to remove them, in any other."""
        owned = own_identities(self.listed(self.path.rpartition("/")[0]), self.path, self.cluster)
        if owned or self.module.params["state"] == "present":
            return owned
        return own_identities(self.listed(f"{self.subscription}/providers/{IDENTITIES}"), self.path, self.cluster)

    def listed(self, path: str) -> list[Mapping[str, Any]]:
        try:
            return list(self.arm.list(path, IDENTITY_API_VERSION))
        except ArmError as error:
            # The resource group was removed.
            if error.status == 404:
                return []
            raise

    def read(self, path: str) -> Existing:
        identity = self.arm.get(path, IDENTITY_API_VERSION)
        return Existing() if identity is None else self.complete(identity)

    def complete(self, identity: Mapping[str, Any]) -> Existing:
        return Existing(
            identity,
            list(self.arm.list(f"{identity['id']}/{CREDENTIALS}", IDENTITY_API_VERSION)),
            read_assignments(self.arm, self.subscription, identity["properties"]["principalId"]),
        )

    def present(self) -> tuple[Existing, list[Change]]:
        own = [] if self.module.params["name"] else self.own()
        if own:
            self.path = own[0]["id"]
        existing = self.complete(own[0]) if own else self.read(self.path)
        problem = issuer_problem(self.cluster) or owner_problem(existing, self.cluster)
        if problem:
            raise ArmError(problem)
        definitions = read_definitions(self.arm, self.subscription)
        planned = plan_identity(self.path, existing, self.cluster)
        changes = []
        if existing.identity is None:
            changes, planned = self.carry_out(planned[:1]), planned[1:]
            # Identities have no etags (REST reference of Microsoft.ManagedIdentity), so that two clients which create
            # the same one overwrite each other's.
            if not self.module.check_mode:
                existing = self.read(self.path)
                if problem := owner_problem(existing, self.cluster):
                    raise ArmError(problem)
        changes += self.carry_out(planned)
        roles = plan_roles(
            existing,
            self.cluster,
            self.scopes,
            definitions,
            image=self.module.params["image"],
            principal_id=existing.principal_id or UNKNOWN,
        )
        return existing, [*changes, *self.carry_out(roles)]

    def absent(self) -> tuple[Existing, list[Change]]:
        found: list[Mapping[str, Any]]
        if self.module.params["name"]:
            identity = self.arm.get(self.path, IDENTITY_API_VERSION)
            found = [identity] if identity else []
        else:
            found = self.own()
        self.left = [each["id"] for each in found if self.cluster.owns(each)]
        removed = [self.removable(each) if self.cluster.owns(each) else Existing(each) for each in found]
        changes = []
        for existing in removed:
            changes += self.carry_out(plan_removal(existing, self.cluster))
            self.left = [each for each in self.left if each != (existing.identity or {}).get("id")]
        return (removed or [Existing()])[0], changes

    def removable(self, identity: Mapping[str, Any]) -> Existing:
        """The identity with what belongs to it; ArmError if others use it."""
        existing = self.complete(identity)
        # They have their identities (`az resource list`).
        resources = self.arm.list(f"{self.subscription}/resources", RESOURCES_API_VERSION)
        if problem := removal_problem(existing, self.cluster, resources):
            raise InUseError(problem)
        return existing

    def carry_out(self, changes: list[Change]) -> list[Change]:
        if self.module.check_mode:
            return changes
        made = []
        for change in changes:
            timeout = self.module.params["wait_timeout"]
            try:
                if change.body is None:
                    self.arm.delete(change.path, change.api_version, None, timeout)
                else:
                    self.arm.put(change.path, change.api_version, change.body, None, timeout)
            except ArmError as error:
                # Another client has assigned the role at the same time, under another name.
                if "RoleAssignmentExists" not in error.codes:
                    raise
            else:
                made.append(change)
                self.made.append(str(change))
        return made

    def result(self, existing: Existing, changes: list[Change]) -> dict[str, Any]:
        properties = (existing.identity or {}).get("properties") or {}
        is_present = self.module.params["state"] == "present"
        summaries = [str(change) for change in changes]
        return {
            "changed": bool(changes),
            "changes": summaries,
            "identity": {
                "name": (existing.identity or {}).get("name") or self.path.rpartition("/")[2],
                "client_id": properties.get("clientId"),
                "principal_id": properties.get("principalId"),
                "tenant_id": properties.get("tenantId"),
                "owned": self.cluster.owns(existing.identity) if existing.identity else is_present,
            },
            "diff": {"before": "", "after": "".join(f"{summary}\n" for summary in summaries)},
        }


def main() -> None:
    module = arm_module(
        {
            "name": {"type": "str"},
            "resource_group": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "scopes": {"type": "list", "elements": "str"},
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "issuer": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "image": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait_timeout": {"type": "int", "default": 300},
        }
    )
    made: list[str] = []
    run = None
    try:
        run = Run(module, Arm(module), made)
        result = run.result(*(run.present() if module.params["state"] == "present" else run.absent()))
    except ArmError as error:
        in_use = isinstance(error, InUseError)
        module.fail_json(**failed_after(error, made), left=run.left if run else [], in_use=in_use)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
