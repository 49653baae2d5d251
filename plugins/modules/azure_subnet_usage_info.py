#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_subnet_usage_info
version_added: "0.1.0"
short_description: Tell how many addresses of a subnet are free in Azure
description:
  - Every peer pod is a VM of its own with an address of its own, so that the free addresses of their subnet bound how
    many more can run.
  - Takes one request, for what Azure counts of the subnet's virtual network.
options:
  subnet:
    description:
      - The subnet, by ARM id.
    type: str
    required: true
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
notes:
  - Needs C(Microsoft.Network/virtualNetworks/usages/read), as in the role Reader.
seealso:
  - module: osc.peerpods.azure_vcpu_quota_info
  - name: Virtual Networks - List Usage
    link: https://learn.microsoft.com/rest/api/virtualnetwork/virtual-networks/list-usage
    description: What Azure counts.
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: See how many addresses are left for peer pods
  osc.peerpods.azure_subnet_usage_info:
    subnet: "/subscriptions/{{ subscription }}/resourceGroups/demo-rg/providers/Microsoft.Network\
      /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
  register: usage

- name: Say it
  ansible.builtin.debug:
    msg: "{{ usage.subnet.free }} of {{ usage.subnet.limit }} addresses are free"
"""

RETURN = r"""
subnet:
  description: What was found.
  returned: success
  type: dict
  contains:
    id:
      description: The subnet, as Azure spells it.
      type: str
      sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network\
        /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
    limit:
      description: How many addresses it has, without the five that Azure keeps of each subnet.
      type: int
      sample: 251
    used:
      description: How many are taken.
      type: int
      sample: 6
    free:
      description: How many are not, null where that is not known.
      type: int
      sample: 245
    reason:
      description: Why it is not known, as a sentence, else null.
      type: str
      sample: null
"""

import re

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    NETWORK_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.quota import subnet_usage

SUBNET = re.compile("(/subscriptions/.+/virtualNetworks/[^/]+)/subnets/[^/]+", re.IGNORECASE)


def main() -> None:
    module = arm_module({"subnet": {"type": "str", "required": True}})
    subnet_id = module.params["subnet"].rstrip("/")
    match = SUBNET.fullmatch(subnet_id)
    if match is None:
        module.fail_json(
            msg=f"{subnet_id!r} is not the ARM id of a subnet: it must be /subscriptions/.../"
            "virtualNetworks/.../subnets/..., as `az network vnet subnet show --query id` prints it."
        )
        return
    try:
        usages = list(Arm(module).list(f"{match[1]}/usages", NETWORK_API_VERSION))
    except ArmError as error:
        if error.status != 404:
            module.fail_json(msg=str(error))
        usages = None
    module.exit_json(changed=False, subnet=subnet_usage(subnet_id, usages))


if __name__ == "__main__":
    main()
