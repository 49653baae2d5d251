#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_subnet_usage_info
version_added: "0.1.0"
short_description: Gather the available IP addresses of a subnet in AWS, and which instance types its zone offers
description:
  - >-
    Every peer pod is an EC2 instance with an IP address of its own. The available IP addresses of the subnet therefore
    limit how many more peer pods can run.
  - >-
    A subnet is in one availability zone, and a zone does not offer all instance types of its region. An instance of
    another type cannot be started in the subnet.
  - Returns only these facts. M(amazon.aws.ec2_vpc_subnet_info) returns other properties of the subnet.
options:
  subnet:
    description:
      - The id of the subnet (V(subnet-0abc...)).
      - Required unless O(instance_ids) is set.
    type: str
  instance_ids:
    description:
      - >-
        The workers, as ids (V(i-0abc...)) or provider IDs (V(aws:///eu-central-1a/i-0abc...)). Without O(subnet), the
        first one of their subnets counts, as for the VMs of peer pods if no subnet is set for them.
    type: list
    elements: str
  instance_types:
    description:
      - The instance types to look for in the zone of the subnet.
    type: list
    elements: str
    default: []
  vpc:
    description:
      - The VPC that the subnet must be in.
    type: str
    default: ""
  security_groups:
    description:
      - The security groups of the VMs, which must exist in the VPC of the subnet.
    type: list
    elements: str
    default: []
notes:
  - >-
    The credentials need C(ec2:DescribeSubnets), with O(instance_types) C(ec2:DescribeInstanceTypeOfferings), with
    O(security_groups) C(ec2:DescribeSecurityGroups), and without O(subnet) C(ec2:DescribeInstances). The module sends
    one request for each.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.ec2_vcpu_quota_info
  - module: osc.peerpods.azure_subnet_usage_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the available IP addresses for peer pods
  osc.peerpods.ec2_subnet_usage_info:
    region: us-east-2
    subnet: subnet-0f3a5b1c2d4e6f708
    instance_types: [t3.medium]
  register: usage

- name: Show the available IP addresses
  ansible.builtin.debug:
    msg: "{{ usage.subnet.free }} IP addresses are available"
"""

RETURN = r"""
subnet:
  description: The subnet.
  returned: success
  type: dict
  contains:
    id:
      description: The id of the subnet, null if no instance of O(instance_ids) exists.
      type: str
      sample: subnet-0f3a5b1c2d4e6f708
    availability_zone:
      description: The zone of the subnet, null if the subnet does not exist.
      type: str
      sample: us-east-2a
    free:
      description: The number of available IPv4 addresses, null if the subnet does not exist.
      type: int
      sample: 245
    reason:
      description: The reason why the number is unknown, as a sentence; null if it is known.
      type: str
      sample: null
instance_types:
  description: Each of O(instance_types), in that order, without duplicates. Empty if the subnet does not exist.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The instance type.
      type: str
      sample: t3.medium
    offered:
      description: Whether the zone of the subnet offers it.
      type: bool
      sample: true
problems:
  description: >-
    Why instances cannot be started in the subnet with these security groups, as sentences: one of them does not exist
    or is in another VPC.
  returned: success
  type: list
  elements: str
  sample: []
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    SecurityGroupError,
    instance_ids,
    network_problems,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names


def run(ec2: Ec2, params: Mapping[str, Any]) -> dict:
    subnet_id = params["subnet"]
    result: dict = {"id": subnet_id, "availability_zone": None, "free": None, "reason": None}
    if subnet_id is None:
        ids = instance_ids(params["instance_ids"])
        # A terminated instance has no subnet.
        subnets = filter(None, (instance.get("SubnetId") for instance in ec2.instances(ids)))
        result["id"] = min(subnets, default=None)
        if result["id"] is None:
            result["reason"] = f"EC2 has no running instance {join_names(ids)} in {ec2.region}."
            return {"subnet": result, "instance_types": [], "problems": []}
    subnet = ec2.subnet(result["id"])
    if subnet is None:
        result["reason"] = f"EC2 has no subnet {result['id']} in {ec2.region}."
    groups = ec2.existing_groups(params["security_groups"])
    problems = [
        *([result["reason"]] if subnet is None else []),
        *network_problems(subnet, params["vpc"], params["security_groups"], groups, ec2.region),
    ]
    if subnet is None:
        return {"subnet": result, "instance_types": [], "problems": problems}
    zone, names = subnet["AvailabilityZone"], list(dict.fromkeys(params["instance_types"]))
    offered = ec2.offered_in(zone, names) if names else set()
    return {
        "subnet": {**result, "availability_zone": zone, "free": subnet["AvailableIpAddressCount"]},
        "instance_types": [{"name": name, "offered": name in offered} for name in names],
        "problems": problems,
    }


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "subnet": {"type": "str"},
            "instance_ids": {"type": "list", "elements": "str"},
            "instance_types": {"type": "list", "elements": "str", "default": []},
            "vpc": {"type": "str", "default": ""},
            "security_groups": {"type": "list", "elements": "str", "default": []},
        },
        required_one_of=[("subnet", "instance_ids")],
        supports_check_mode=True,
    )
    try:
        result = run(Ec2(module), module.params)
    except (Ec2Error, SecurityGroupError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
