#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_subnet_network_info
version_added: "0.1.0"
short_description: Gather how the VMs of peer pods reach the internet on Azure
description:
  - >-
    The VM of a peer pod pulls images itself. It has no public IP address, and is not in the load balancer of the
    cluster, so its subnet needs a NAT gateway, a route to a firewall, or the default outbound access of Azure, which
    new virtual networks no longer have.
  - >-
    Returns which of these the subnet has, and the rules of network security groups that deny HTTPS to the internet.
  - >-
    What is beyond the next hop of a route is not evaluated. Not read are routes that a gateway learns by BGP, and NAT
    gateways of the SKU StandardV2 that are attached to the whole virtual network.
options:
  subnet:
    description:
      - The ARM id of the subnet of the VMs.
    type: str
    required: true
  vm_network_security_group:
    description:
      - The ARM id of the network security group of the VMs' network interfaces, in addition to that of the subnet.
    type: str
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
notes:
  - >-
    Takes one request for the virtual network, and one for each network security group and for the route table of the
    subnet.
  - >-
    Needs C(Microsoft.Network/virtualNetworks/read), C(Microsoft.Network/networkSecurityGroups/read) and
    C(Microsoft.Network/routeTables/read), as in the role Reader.
seealso:
  - module: osc.peerpods.azure_nat_gateway
  - module: osc.peerpods.azure_subnet_usage_info
  - module: osc.peerpods.ec2_subnet_network_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather how the VMs of peer pods reach the internet
  osc.peerpods.azure_subnet_network_info:
    subnet: "/subscriptions/{{ subscription }}/resourceGroups/demo-rg/providers/Microsoft.Network\
      /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
  register: network

- name: Show the way to the internet
  ansible.builtin.debug:
    msg: "{{ network.way_out }}"
"""

RETURN = r"""
subnet:
  description: The ARM id of the subnet, in the spelling of Azure, null if the subnet does not exist.
  returned: success
  type: str
  sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network\
    /virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
way_out:
  description:
    - >-
      How the VMs reach the internet. V(route) by RV(route), V(nat_gateway) by RV(nat_gateway), V(default) by the
      default outbound access of Azure, V(none) if they do not.
    - Null if the subnet does not exist.
  returned: success
  type: str
  sample: nat_gateway
nat_gateway:
  description: The ARM id of the NAT gateway of the subnet, or null.
  returned: success
  type: str
route_table:
  description: The ARM id of the route table of the subnet, or null.
  returned: success
  type: str
route:
  description: The route of the route table for C(0.0.0.0/0), null if the table has none that leads elsewhere.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the route.
      type: str
      sample: to-firewall
    next_hop_type:
      description: The type of the next hop. V(None) drops the traffic.
      type: str
      sample: VirtualAppliance
    next_hop:
      description: The address of a virtual appliance, or null.
      type: str
      sample: 10.0.0.4
https_denied_by:
  description: The rules of network security groups that deny HTTPS to the internet.
  returned: success
  type: list
  elements: str
  sample: [deny-internet (4000) of demo-nsg]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    NETWORK_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.egress import (
    default_route,
    https_denied_by,
    reference,
    way_out,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nat_gateway import NatGatewayError, network_of_subnet
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import unique


def run(module: AnsibleModule, arm: Arm) -> dict:
    subnet_id = module.params["subnet"].rstrip("/")
    network_id = network_of_subnet(subnet_id)
    network = arm.get(network_id, NETWORK_API_VERSION)
    subnet = next(
        (s for s in network["properties"]["subnets"] if s["id"].lower() == subnet_id.lower()) if network else iter(()),
        None,
    )
    result: dict = {
        "subnet": None,
        "way_out": None,
        "nat_gateway": None,
        "route_table": None,
        "route": None,
        "https_denied_by": [],
    }
    if network is None or subnet is None:
        return result
    table_id = reference(subnet, "routeTable")
    route = default_route(arm.get(table_id, NETWORK_API_VERSION) if table_id else None)
    group_ids = unique(
        filter(None, [reference(subnet, "networkSecurityGroup"), module.params["vm_network_security_group"]])
    )
    groups = filter(None, [arm.get(group_id, NETWORK_API_VERSION) for group_id in group_ids])
    return {
        **result,
        "subnet": subnet["id"],
        "way_out": way_out(subnet, route),
        "nat_gateway": reference(subnet, "natGateway"),
        "route_table": table_id,
        "route": route,
        "https_denied_by": https_denied_by(subnet, network, groups),
    }


def main() -> None:
    module = arm_module(
        {"subnet": {"type": "str", "required": True}, "vm_network_security_group": {"type": "str"}},
    )
    try:
        result = run(module, Arm(module))
    except (ArmError, NatGatewayError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
