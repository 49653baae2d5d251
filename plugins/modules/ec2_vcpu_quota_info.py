#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_vcpu_quota_info
version_added: "0.1.0"
short_description: Gather how many more EC2 instances of a type the vCPU quota allows
description:
  - >-
    Every peer pod is an EC2 instance of its own. AWS counts the vCPUs of On-Demand Instances against quotas of an
    account in a region, each for a group of instance families. A quota limits how many peer pods can run, whatever
    limit the nodes advertise.
  - >-
    Takes one request to Service Quotas for each quota, and requests to EC2, one for every 1000 running instances, one
    for every 1000 Capacity Reservations and one for every 100 instance types.
options:
  instance_types:
    description:
      - The instance types, such as V(t3.medium).
    type: list
    elements: str
    required: true
notes:
  - The credentials need C(servicequotas:GetServiceQuota), C(ec2:DescribeInstances), C(ec2:DescribeCapacityReservations)
    and C(ec2:DescribeInstanceTypes).
  - >-
    Running and pending instances and the unused part of Capacity Reservations are counted. Spot Instances and instances
    in Capacity Blocks or on Dedicated Hosts are not, because they have quotas of their own.
  - >-
    An instance counts with the default vCPUs of its type. The returned number is a lower bound. The quota may have room
    for more if CPU options or shared Capacity Reservations of other accounts are in use.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.azure_vcpu_quota_info
  - name: Amazon EC2 instance type quotas
    link: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
    description: How AWS counts vCPUs, and how to request more.
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the room for instances of peer pods
  osc.peerpods.ec2_vcpu_quota_info:
    region: us-east-2
    instance_types: [t3.medium]
  register: quota

- name: Show the room of each instance type
  ansible.builtin.debug:
    msg: "{{ item.instances }} more of {{ item.name }} ({{ item.used }} of {{ item.quota }} vCPUs used)"
  loop: "{{ quota.instance_types }}"
"""

RETURN = r"""
instance_types:
  description: The quota of each of O(instance_types), in that order, without duplicates.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The instance type.
      type: str
      sample: t3.medium
    vcpus:
      description: The vCPUs of one instance, null if the region does not offer the type.
      type: int
      sample: 2
    quota_code:
      description: The code of the quota in Service Quotas that the type counts against, null if it is unknown.
      type: str
      sample: L-1216C47A
    quota:
      description: The value of the quota, in vCPUs.
      type: int
      sample: 64
    used:
      description: How many vCPUs of the quota are in use.
      type: int
      sample: 24
    instances:
      description: For how many more instances of this type the quota has room, null if that is unknown.
      type: int
      sample: 20
    reason:
      description: The reason why the number is unknown, as a sentence; null if it is known.
      type: str
      sample: null
"""

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.quota import counted, quota_code, vcpu_quota


def run(ec2: Ec2, instance_types: list[str]) -> list[dict]:
    codes = {code for name in instance_types if (code := quota_code(name))}
    quotas = {code: ec2.quota(code) for code in sorted(codes)}
    count = counted(ec2.live_instances(), ec2.capacity_reservations())
    counting = {name for name in count if quota_code(name) in quotas}
    vcpus = ec2.vcpus(sorted({*instance_types, *counting}))
    missing = sorted(counting - vcpus.keys())
    if missing:
        raise Ec2Error(
            f"EC2 in {ec2.region} returns no vCPUs for {', '.join(missing)}, of which instances run. The usage of the "
            "quota is therefore unknown. Check the quota in the AWS console."
        )
    return vcpu_quota(instance_types, vcpus, count, quotas, ec2.region)


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={"instance_types": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    try:
        instance_types = run(Ec2(module), module.params["instance_types"])
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, instance_types=instance_types)


if __name__ == "__main__":
    main()
