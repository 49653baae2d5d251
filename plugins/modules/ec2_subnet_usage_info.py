#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_subnet_usage_info
version_added: "0.1.0"
short_description: Gather the number of available IP addresses of a subnet in AWS
description:
  - >-
    Every peer pod is an EC2 instance with an IP address of its own. The available IP addresses of the subnet therefore
    limit how many more peer pods can run.
  - Returns only that number. M(amazon.aws.ec2_vpc_subnet_info) returns other properties of the subnet.
options:
  subnet:
    description:
      - The id of the subnet (V(subnet-0abc...)).
    type: str
    required: true
notes:
  - The credentials need C(ec2:DescribeSubnets).
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
      description: The id of the subnet.
      type: str
      sample: subnet-0f3a5b1c2d4e6f708
    free:
      description: The number of available IPv4 addresses, null if the subnet does not exist.
      type: int
      sample: 245
    reason:
      description: The reason why the number is unknown, as a sentence; null if it is known.
      type: str
      sample: null
"""

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error


def main() -> None:
    module = AnsibleAWSModule(argument_spec={"subnet": {"type": "str", "required": True}}, supports_check_mode=True)
    subnet_id = module.params["subnet"]
    try:
        ec2 = Ec2(module)
        subnet = ec2.subnet(subnet_id)
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        subnet={
            "id": subnet_id,
            "free": subnet and subnet["AvailableIpAddressCount"],
            "reason": None if subnet else f"EC2 has no subnet {subnet_id} in {ec2.region}.",
        },
    )


if __name__ == "__main__":
    main()
