#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_subnet_usage_info
version_added: "0.1.0"
short_description: Gather the number of available IP addresses of a subnet in Azure
description:
  - >-
    Every peer pod is a VM with an IP address of its own. The available IP addresses of the subnet therefore limit how
    many more peer pods can run.
  - Takes one request, for the usage of the subnet's virtual network, and one more with O(network_security_group).
options:
  subnet:
    description:
      - The ARM id of the subnet.
    type: str
    required: true
  network_security_group:
    description:
      - The ARM ID of the network security group of the VMs, which must exist.
    type: str
    default: ""
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
notes:
  - >-
    Needs C(Microsoft.Network/virtualNetworks/usages/read), and with O(network_security_group)
    C(Microsoft.Network/networkSecurityGroups/read), as in the role Reader.
seealso:
  - module: osc.peerpods.azure_vcpu_quota_info
  - name: Virtual Networks - List Usage
    link: https://learn.microsoft.com/rest/api/virtualnetwork/virtual-networks/list-usage
    description: The usage that Azure returns.
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the available IP addresses for peer pods
  osc.peerpods.azure_subnet_usage_info:
    subnet: "/subscriptions/{{ subscription }}/resourceGroups/demo-rg/providers/Microsoft.Network\
      /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
  register: usage

- name: Show the available IP addresses
  ansible.builtin.debug:
    msg: "{{ usage.subnet.free }} of {{ usage.subnet.limit }} IP addresses are available"
"""

RETURN = r"""
subnet:
  description: The subnet.
  returned: success
  type: dict
  contains:
    id:
      description: The ARM id of the subnet, in the spelling of Azure.
      type: str
      sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network\
        /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
    limit:
      description: The number of IP addresses of the subnet, without the five that Azure reserves in each subnet.
      type: int
      sample: 251
    used:
      description: The number of IP addresses in use.
      type: int
      sample: 6
    free:
      description: The number of available IP addresses, null if it is unknown.
      type: int
      sample: 245
    reason:
      description: The reason why the number is unknown, as a sentence; null if it is known.
      type: str
      sample: null
problems:
  description: Why VMs cannot be created in the subnet, as sentences; it or the network security group does not exist.
  returned: success
  type: list
  elements: str
  sample: []
"""

import re

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    NETWORK_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.quota import subnet_problems, subnet_usage

SUBNET = re.compile("(/subscriptions/.+/virtualNetworks/[^/]+)/subnets/[^/]+", re.IGNORECASE)
GROUP = re.compile("/subscriptions/.+/networkSecurityGroups/[^/]+", re.IGNORECASE)


def usages_of(arm: Arm, network_id: str) -> list[dict] | None:
    """The usages of the virtual network; None if it does not exist."""
    try:
        return list(arm.list(f"{network_id}/usages", NETWORK_API_VERSION))
    except ArmError as error:
        if error.status != 404:
            raise
        return None


def main() -> None:
    module = arm_module(
        {
            "subnet": {"type": "str", "required": True},
            "network_security_group": {"type": "str", "default": ""},
        }
    )
    subnet_id = module.params["subnet"].rstrip("/")
    match = SUBNET.fullmatch(subnet_id)
    if match is None:
        module.fail_json(
            msg=f"{subnet_id!r} is not the ARM id of a subnet: it must be /subscriptions/.../"
            "virtualNetworks/.../subnets/..., as `az network vnet subnet show --query id` prints it."
        )
        return
    group_id = module.params["network_security_group"].rstrip("/")
    if group_id and GROUP.fullmatch(group_id) is None:
        module.fail_json(
            msg=f"{group_id!r} is not the ARM id of a network security group: it must be /subscriptions/.../"
            "networkSecurityGroups/..., as `az network nsg show --query id` prints it."
        )
        return
    try:
        arm = Arm(module)
        usages = usages_of(arm, match[1])
        group = arm.get(group_id, NETWORK_API_VERSION) if group_id else None
    except ArmError as error:
        module.fail_json(msg=str(error))
        return
    problems = list(subnet_problems(subnet_id, usages, group_id, group))
    module.exit_json(changed=False, subnet=subnet_usage(subnet_id, usages), problems=problems)


if __name__ == "__main__":
    main()
