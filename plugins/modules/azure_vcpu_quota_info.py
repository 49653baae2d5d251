#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_vcpu_quota_info
version_added: "0.1.0"
short_description: Gather how many more VMs of a size the vCPU quotas in Azure allow
description:
  - >-
    Every peer pod is a VM of its own. Azure counts the vCPUs of VMs against a quota for the family of their size and
    against a quota for all vCPUs in the region. The smaller room of the two limits how many peer pods can run, whatever
    limit the nodes advertise.
  - Takes two requests for any number of sizes, one for the VM sizes of the location and one for its vCPU usage.
options:
  location:
    description:
      - The Azure region, such as V(westeurope).
    type: str
    required: true
  sizes:
    description:
      - The VM sizes, such as V(Standard_B2als_v2).
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
notes:
  - O(subscription_id) or E(AZURE_SUBSCRIPTION_ID) must be set.
  - Needs the permission to read, as in the role Reader.
seealso:
  - module: osc.peerpods.nsg_rules
  - name: Check vCPU quotas
    link: https://learn.microsoft.com/azure/virtual-machines/quotas
    description: How Azure counts vCPUs, and how to request more.
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the room for VMs of peer pods
  osc.peerpods.azure_vcpu_quota_info:
    location: westeurope
    sizes: [Standard_B2als_v2]
  register: quota

- name: Show the room of each VM size
  ansible.builtin.debug:
    msg: "{{ item.instances }} more of {{ item.name }} ({{ item.family_used }} of {{ item.family_limit }} vCPUs used)"
  loop: "{{ quota.sizes }}"
"""

RETURN = r"""
sizes:
  description: The quotas of each of O(sizes), in that order, without duplicates.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The VM size, in the spelling of Azure.
      type: str
      sample: Standard_B2als_v2
    family:
      description: The family whose quota the size counts against, null if the size does not exist.
      type: str
      sample: standardBalsv2Family
    vcpus:
      description: The vCPUs of one VM of this size.
      type: int
      sample: 2
    family_limit:
      description: The quota of the family in the region, in vCPUs.
      type: int
      sample: 20
    family_used:
      description: How many vCPUs of the family are in use.
      type: int
      sample: 4
    regional_limit:
      description: The quota of all families in the region, in vCPUs.
      type: int
      sample: 100
    regional_used:
      description: How many vCPUs of all families are in use.
      type: int
      sample: 30
    instances:
      description: For how many more VMs of this size both quotas have room, null if Azure returns neither quota.
      type: int
      sample: 8
    available:
      description: Whether the location offers this size to the subscription.
      type: bool
      sample: true
    reason:
      description: The reason why the size is not available, as a sentence; null if it is available.
      type: str
      sample: null
"""

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    COMPUTE_SKUS_API_VERSION,
    COMPUTE_USAGES_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.quota import vcpu_quota


def main() -> None:
    module = arm_module(
        {
            "location": {"type": "str", "required": True},
            "sizes": {"type": "list", "elements": "str", "required": True},
        }
    )
    location = module.params["location"].replace(" ", "").lower()
    try:
        arm = Arm(module)
        if not arm.subscription_id:
            module.fail_json(msg="No subscription is set. Set subscription_id or AZURE_SUBSCRIPTION_ID.")
        compute = f"/subscriptions/{arm.subscription_id}/providers/Microsoft.Compute"
        skus = arm.list(f"{compute}/skus", COMPUTE_SKUS_API_VERSION, **{"$filter": f"location eq '{location}'"})
        usages = arm.list(f"{compute}/locations/{location}/usages", COMPUTE_USAGES_API_VERSION)
        sizes = vcpu_quota(module.params["sizes"], skus, usages, location)
    except ArmError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, sizes=sizes)


if __name__ == "__main__":
    main()
