#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_podvm_image_info
version_added: "0.1.0"
short_description: Gather whether the VMs of peer pods can be started from an image in AWS
description:
  - >-
    Every peer pod is an EC2 instance, started from the AMI in C(PODVM_AMI_ID) of C(peer-pods-cm). Returns the AMI, and
    why instances of the given types cannot be started from it: it does not exist in the region, it is not available, or
    its architecture, its boot mode or its NitroTPM is not that of an instance type.
options:
  image_id:
    description:
      - The ID of the AMI (V(ami-0abc...)).
    type: str
    required: true
  instance_types:
    description:
      - The instance types of the VMs.
    type: list
    elements: str
    default: []
notes:
  - The credentials need C(ec2:DescribeImages), and with O(instance_types) C(ec2:DescribeInstanceTypes).
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.azure_podvm_image_info
  - module: osc.peerpods.ec2_vcpu_quota_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather whether the VMs can be started from the image
  osc.peerpods.ec2_podvm_image_info:
    region: us-east-2
    image_id: ami-0f3a5b1c2d4e6f708
    instance_types: [t3.medium]
  register: image

- name: Show why not
  ansible.builtin.debug:
    msg: "{{ image.problems }}"
"""

RETURN = r"""
image:
  description: The AMI, null if these credentials see no such AMI in the region.
  returned: success
  type: dict
  contains:
    id:
      description: The ID.
      type: str
    name:
      description: The name. The operator names its image after the first eight digits of the ID of the cluster.
      type: str
    state:
      description: The state, V(available) if instances can be started from it.
      type: str
    architecture:
      description: The architecture of the processor, null if EC2 does not return it.
      type: str
    boot_mode:
      description: The boot mode, null if the instance type decides about it.
      type: str
    tpm:
      description: The version of NitroTPM that it requires, null if none.
      type: str
    owner:
      description: The account that owns it.
      type: str
    created:
      description: When it was created.
      type: str
    snapshots:
      description: The IDs of its snapshots.
      type: list
      elements: str
  sample:
    id: ami-0f3a5b1c2d4e6f708
    name: podvm-image-262093934.0.1
    state: available
    architecture: x86_64
    boot_mode: uefi
    tpm: v2.0
    owner: "123456789012"
    created: "2026-03-01T10:12:00.000Z"
    snapshots: [snap-0123456789abcdef0]
problems:
  description: Why instances of O(instance_types) cannot be started from the AMI, each as a sentence with what to do.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.image import image_of, image_problems


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "image_id": {"type": "str", "required": True},
            "instance_types": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    image_id, instance_types = module.params["image_id"], module.params["instance_types"]
    try:
        ec2 = Ec2(module)
        image = ec2.image(image_id)
        offered = ec2.instance_types(instance_types) if image and instance_types else {}
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        image=image and image_of(image),
        problems=image_problems(image_id, image, instance_types, offered, ec2.region),
    )


if __name__ == "__main__":
    main()
