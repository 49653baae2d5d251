#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_instance_console_info
version_added: "0.1.0"
short_description: Gather the states and consoles of the VMs of peer pods in AWS
description:
  - >-
    Every peer pod is an EC2 instance. Its state shows whether it exists, and its console why it does not boot.
  - >-
    An instance may have no PeerPod, such as one whose creation was interrupted: cloud-api-adaptor does not delete it
    then. It has the name of its pod.
  - Returns only these. M(amazon.aws.ec2_instance_info) returns other properties of instances.
options:
  instance_ids:
    description:
      - The ids of the instances, as PeerPods have them.
    type: list
    elements: str
    required: true
  console:
    description:
      - Whether to read the consoles, with one request for each instance that exists.
    type: bool
    default: true
  pods:
    description:
      - The names of pods whose instances to find, also without a PeerPod. If set, RV(orphaned) has them.
    type: list
    elements: str
    default: []
notes:
  - The credentials need C(ec2:DescribeInstances), and C(ec2:GetConsoleOutput) for the consoles.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.verification_pods
  - module: osc.peerpods.azure_vm_console_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the state and the console of the VM of a peer pod
  osc.peerpods.ec2_instance_console_info:
    region: us-east-2
    instance_ids: [i-0abc5d1e2f3a4b5c6]
  register: vms

- name: Show the console
  ansible.builtin.debug:
    msg: "{{ vms.instances[0].console }}"
"""

RETURN = r"""
instances:
  description: The instances, in the order of O(instance_ids).
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id of the instance.
      type: str
      sample: i-0abc5d1e2f3a4b5c6
    state:
      description: The state of the instance, or V(missing) if it does not exist.
      type: str
      sample: running
    state_reason:
      description: The reason of the last change of the state; empty without one.
      type: str
      sample: ""
    console:
      description: The end of the console; empty if it has no output yet, or could not be read.
      type: str
      sample: ""
    console_error:
      description: The reason why the console could not be read; empty if it was read.
      type: str
      sample: ""
orphaned:
  description: >-
    The instances of O(pods) that O(instance_ids) does not have, without their consoles, and without those that are
    terminated.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id of the instance.
      type: str
      sample: i-0abc5d1e2f3a4b5c6
    state:
      description: As in RV(instances[].state).
      type: str
      sample: running
    state_reason:
      description: As in RV(instances[].state_reason).
      type: str
      sample: ""
"""

from collections.abc import Collection, Sequence

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error

# Characters of a console that are returned.
CONSOLE_LENGTH = 16_000

NO_CONSOLE = ("terminated", "missing", "pending")


def describe(ec2: Ec2, instance_id: str, instance: dict | None, with_console: bool) -> dict:
    console, error = "", ""
    state = instance["State"]["Name"] if instance else "missing"
    reason = ((instance or {}).get("StateReason") or {}).get("Message") or ""
    if with_console and state not in NO_CONSOLE:
        try:
            console = ec2.console(instance_id)
        except Ec2Error as failure:
            error = str(failure)
    return {
        "id": instance_id,
        "state": state,
        "state_reason": reason,
        "console": console[-CONSOLE_LENGTH:],
        "console_error": error,
    }


def orphans(ec2: Ec2, pods: Sequence[str], ids: Collection[str]) -> list[dict]:
    """The live instances of the pods without those of `ids`."""
    if not pods:
        return []
    # GenerateInstanceName of cloud-api-adaptor (src/cloud-providers/util/instancename.go) adds the ID of the sandbox.
    named = ec2.instances_named([f"podvm-{pod}-*" for pod in pods])
    described = [
        describe(ec2, each["InstanceId"], each, with_console=False) for each in named if each["InstanceId"] not in ids
    ]
    return [
        {key: each[key] for key in ("id", "state", "state_reason")}
        for each in described
        if each["state"] != "terminated"
    ]


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "instance_ids": {"type": "list", "elements": "str", "required": True},
            "console": {"type": "bool", "default": True},
            "pods": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    ids = list(dict.fromkeys(module.params["instance_ids"]))
    try:
        ec2 = Ec2(module)
        existing = {instance["InstanceId"]: instance for instance in ec2.instances(ids)}
        instances = [describe(ec2, each, existing.get(each), module.params["console"]) for each in ids]
        orphaned = orphans(ec2, module.params["pods"], ids)
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, instances=instances, orphaned=orphaned)


if __name__ == "__main__":
    main()
