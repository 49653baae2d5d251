#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_subnet_network_info
version_added: "0.1.0"
short_description: Gather how the VMs of peer pods reach the internet and the workers on AWS
description:
  - >-
    The VM of a peer pod pulls images itself, so its subnet needs a route to a registry. Returns the route of the subnet
    to the internet, the VPC endpoints that it can use, and whether the security groups of the VMs and the network ACL
    of the subnet allow HTTPS.
  - >-
    Returns which traffic between the VMs and the workers network ACLs deny, replies included, if both are in different
    subnets.
  - Returns the availability zones of all subnets. All VMs are in the one subnet, and so in one zone.
  - >-
    What is beyond the target of a route is not evaluated, such as a transit gateway, a firewall or the network ACL of a
    NAT gateway's subnet.
options:
  subnet:
    description:
      - The id of the subnet of the VMs (V(subnet-0abc...)).
    type: str
    required: true
  worker_subnets:
    description:
      - The ids of the subnets of the workers.
    type: list
    elements: str
    default: []
  vm_group_ids:
    description:
      - The ids of the security groups of the VMs. Without any, RV(https_allowed_by) is not returned.
    type: list
    elements: str
    default: []
  ports:
    description:
      - The ports between workers and VMs, as in O(osc.peerpods.security_group_ports#module:ports).
    type: list
    elements: dict
    default:
      - port: 15150
        protocols: [tcp]
        to: [vms]
      - port: 9000
        protocols: [tcp, udp]
        to: [vms, workers]
    suboptions:
      port:
        description:
          - The port, from 1 to 65535.
        type: int
        required: true
      protocols:
        description:
          - The protocols of the port.
        type: list
        elements: str
        choices: [tcp, udp]
        default: [tcp]
      to:
        description:
          - Where the port is, on the VMs or on the workers.
        type: list
        elements: str
        choices: [vms, workers]
        default: [vms, workers]
notes:
  - >-
    The credentials need C(ec2:DescribeSubnets), C(ec2:DescribeRouteTables), C(ec2:DescribeNetworkAcls),
    C(ec2:DescribeVpcEndpoints) and, with O(vm_group_ids), C(ec2:DescribeSecurityGroupRules). The module sends one
    request for each.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.security_group_ports
  - module: osc.peerpods.ec2_subnet_usage_info
  - module: osc.peerpods.azure_subnet_network_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather how the VMs of peer pods reach the internet and the workers
  osc.peerpods.ec2_subnet_network_info:
    region: us-east-2
    subnet: subnet-0f3a5b1c2d4e6f708
    worker_subnets: [subnet-0f3a5b1c2d4e6f708, subnet-0a1b2c3d4e5f60718]
    vm_group_ids: [sg-0f3a5b1c2d4e6f708]
  register: network

- name: Show the route to the internet
  ansible.builtin.debug:
    msg: "{{ network.default_route.kind | default('There is no route to the internet.') }}"
"""

RETURN = r"""
subnets:
  description: The existing subnets, that of the VMs first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id of the subnet.
      type: str
      sample: subnet-0f3a5b1c2d4e6f708
    availability_zone:
      description: The zone of the subnet.
      type: str
      sample: us-east-2a
missing:
  description: The ids of the requested subnets that do not exist.
  returned: success
  type: list
  elements: str
route_table:
  description: The id of the route table of the VMs' subnet, null if the subnet does not exist.
  returned: success
  type: str
  sample: rtb-0a1b2c3d4e5f60718
default_route:
  description:
    - The route of the VMs' subnet for all IPv4 addresses, null if it has none.
    - Routes for parts of them count as well, if these are more than half of all addresses.
  returned: success
  type: dict
  contains:
    target:
      description: The id of the target.
      type: str
      sample: nat-0a1b2c3d4e5f60718
    kind:
      description: What the target is.
      type: str
      sample: NAT gateway
    active:
      description: Whether the target exists.
      type: bool
prefix_list_routes:
  description: The routes of the VMs' subnet for prefix lists, without those of gateway endpoints.
  returned: success
  type: list
  elements: dict
  contains:
    prefix_list:
      description: The id of the prefix list.
      type: str
      sample: pl-0a1b2c3d4e5f60718
    target:
      description: The id of the target.
      type: str
      sample: tgw-0a1b2c3d4e5f60718
public_addresses:
  description: Whether VMs in the subnet get a public IP address, without which an internet gateway does not help them.
  returned: success
  type: bool
endpoints:
  description: The AWS services with a VPC endpoint that the VMs' subnet can use.
  returned: success
  type: list
  elements: str
  sample: [ec2, s3]
https_allowed_by:
  description: The egress rules of the VMs' security groups that allow HTTPS to all IPv4 addresses, empty if none does.
  returned: if O(vm_group_ids) is not empty
  type: str
  sample: 0.0.0.0/0 (all protocols)
denied:
  description: The traffic between VMs and workers that network ACLs deny.
  returned: success
  type: list
  elements: dict
  contains: &denied
    network_acl:
      description: The id of the network ACL.
      type: str
      sample: acl-0a1b2c3d4e5f60718
    subnet:
      description: The subnet that has it.
      type: str
      sample: subnet-0f3a5b1c2d4e6f708
    direction:
      description: V(inbound) or V(outbound), from the viewpoint of the subnet.
      type: str
      sample: inbound
    peer:
      description: The addresses of the other side.
      type: str
      sample: 10.0.0.0/19
    ports:
      description: The destination ports and the protocol.
      type: str
      sample: 9000/udp
    rules:
      description: The numbers of the rules that deny it, V(*) for the last rule of every network ACL.
      type: str
      sample: '*'
denied_to_internet:
  description: HTTPS to the internet or its replies, if the network ACL of the VMs' subnet denies most of it.
  returned: success
  type: list
  elements: dict
  contains: *denied
"""

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.network_acls import (
    HTTPS,
    Subnet,
    denied_between,
    denied_to_internet,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.routes import (
    default_route,
    endpoints_of,
    prefix_list_routes,
    route_table_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    DEFAULT_PORTS,
    PORTS_OPTION,
    Addresses,
    SecurityGroupError,
    covering_rules,
    describe_rules,
    wanted_flows,
)


def run(module: AnsibleAWSModule) -> dict:
    params = module.params
    flows = wanted_flows(params["ports"])
    subnet_ids = list(dict.fromkeys([params["subnet"], *params["worker_subnets"]]))
    ec2 = Ec2(module)
    by_id = {subnet["SubnetId"]: subnet for subnet in ec2.subnets(subnet_ids)}
    result: dict = {
        "subnets": [
            {"id": subnet_id, "availability_zone": by_id[subnet_id]["AvailabilityZone"]}
            for subnet_id in subnet_ids
            if subnet_id in by_id
        ],
        "missing": [subnet_id for subnet_id in subnet_ids if subnet_id not in by_id],
        "route_table": None,
        "default_route": None,
        "prefix_list_routes": [],
        "public_addresses": False,
        "endpoints": [],
        "denied": [],
        "denied_to_internet": [],
    }
    vms = by_id.get(params["subnet"])
    if params["vm_group_ids"]:
        rules = ec2.rules(params["vm_group_ids"])
        groups = frozenset(params["vm_group_ids"])
        covering = covering_rules(rules, HTTPS, True, groups, frozenset(), Addresses(), "")
        result["https_allowed_by"] = describe_rules(covering) if covering else ""
    if vms is None:
        return result
    acls = {
        association["SubnetId"]: acl for acl in ec2.network_acls(list(by_id)) for association in acl["Associations"]
    }
    subnets = [
        Subnet(subnet_id, subnet["CidrBlock"], acls[subnet_id])
        for subnet_id, subnet in by_id.items()
        if subnet_id in acls
    ]
    table = route_table_of(vms, ec2.route_tables(vms["VpcId"]))
    of_vms = [subnet for subnet in subnets if subnet.subnet_id == params["subnet"]]
    return {
        **result,
        "route_table": table["RouteTableId"] if table else None,
        "default_route": default_route(table),
        "prefix_list_routes": prefix_list_routes(table),
        "public_addresses": vms["MapPublicIpOnLaunch"],
        "endpoints": endpoints_of(table, ec2.endpoints(vms["VpcId"]), ec2.region),
        "denied": [denial for subnet in of_vms for denial in denied_between(subnet, subnets, flows)],
        "denied_to_internet": [denial for subnet in of_vms for denial in denied_to_internet(subnet)],
    }


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "subnet": {"type": "str", "required": True},
            "worker_subnets": {"type": "list", "elements": "str", "default": []},
            "vm_group_ids": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "dict", "default": DEFAULT_PORTS, "options": PORTS_OPTION},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (Ec2Error, SecurityGroupError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
