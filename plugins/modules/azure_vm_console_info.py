#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_vm_console_info
version_added: "0.1.0"
short_description: Gather the states and consoles of the VMs of peer pods in Azure
description:
  - >-
    Every peer pod is a virtual machine. Its state shows whether it exists, and the log of its serial console, from the
    boot diagnostics that cloud-api-adaptor enables, why it does not boot.
  - >-
    A VM whose creation failed stays in Azure, and has no PeerPod: cloud-api-adaptor does not delete it. It has the name
    of its pod.
options:
  instance_ids:
    description:
      - The ARM ids of the virtual machines, as PeerPods have them.
    type: list
    elements: str
    required: true
  console:
    description:
      - Whether to read the consoles, with two requests for each VM that exists.
    type: bool
    default: true
  resource_group:
    description:
      - The resource group in which cloud-api-adaptor creates VMs. If set, RV(orphaned) has those of O(pods).
    type: str
    default: ""
  pods:
    description:
      - The names of the pods whose VMs to find in O(resource_group), also without a PeerPod.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
notes:
  - >-
    Needs C(Microsoft.Compute/virtualMachines/read) and C(Microsoft.Compute/virtualMachines/instanceView/read), and
    C(Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action) for the consoles.
seealso:
  - module: osc.peerpods.verification_pods
  - module: osc.peerpods.ec2_instance_console_info
  - name: Virtual Machines - Retrieve Boot Diagnostics Data
    link: https://learn.microsoft.com/rest/api/compute/virtual-machines/retrieve-boot-diagnostics-data
    description: The operation that returns the console.
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the state and the console of the VM of a peer pod
  osc.peerpods.azure_vm_console_info:
    instance_ids:
      - "/subscriptions/{{ subscription }}/resourceGroups/demo-rg/providers/Microsoft.Compute\
        /virtualMachines/podvm-peerpods-verify-4f7q2-1f0c8a6b"
  register: vms

- name: Show the console
  ansible.builtin.debug:
    msg: "{{ vms.instances[0].console }}"
"""

RETURN = r"""
instances:
  description: The VMs, in the order of O(instance_ids).
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The ARM id of the VM, as given.
      type: str
      sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Compute\
        /virtualMachines/podvm-peerpods-verify-4f7q2-1f0c8a6b"
    state:
      description: >-
        The power state of the VM, such as V(running), its provisioning state if it has none, or V(missing) if the VM
        does not exist.
      type: str
      sample: running
    state_reason:
      description: The error of the VM, such as that of its creation; empty without one.
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
  description: The VMs of O(pods) in O(resource_group) that O(instance_ids) does not have, without their consoles.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The ARM id of the VM.
      type: str
      sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Compute\
        /virtualMachines/podvm-peerpods-verify-4f7q2-1f0c8a6b"
    state:
      description: As in RV(instances[].state).
      type: str
      sample: failed
    state_reason:
      description: As in RV(instances[].state_reason).
      type: str
      sample: "AllocationFailed: Allocation failed. We do not have sufficient capacity for the requested VM size."
"""

from collections.abc import Iterator, Sequence

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    VMS_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.machines import (
    is_machine_id,
    power_state,
    state_reason,
)

# Characters of a console that are returned.
CONSOLE_LENGTH = 16_000


def describe(arm: Arm, instance_id: str, with_console: bool) -> dict:
    machine = arm.get(instance_id, VMS_API_VERSION, **{"$expand": "instanceView"})
    console, error = "", ""
    if machine is not None and with_console:
        try:
            data = arm.post(f"{instance_id}/retrieveBootDiagnosticsData", VMS_API_VERSION)
            # The address has a signature: it is a secret.
            console = arm.blob(data.get("serialConsoleLogBlobUri") or "")
        except ArmError as failure:
            error = str(failure)
    return {
        "id": instance_id,
        "state": power_state(machine),
        "state_reason": state_reason(machine),
        "console": console[-CONSOLE_LENGTH:],
        "console_error": error,
    }


def orphans(arm: Arm, resource_group: str, pods: Sequence[str], ids: Sequence[str]) -> Iterator[dict]:
    """The VMs of the pods without those of `ids`."""
    # GenerateInstanceName of cloud-api-adaptor (src/cloud-providers/util/instancename.go) adds the ID of the sandbox.
    prefixes = tuple(f"podvm-{pod}-" for pod in pods)
    known = {each.lower() for each in ids}
    group = f"/subscriptions/{arm.subscription_id}/resourceGroups/{resource_group}"
    for listed in arm.list(f"{group}/providers/Microsoft.Compute/virtualMachines", VMS_API_VERSION):
        if listed["name"].startswith(prefixes) and listed["id"].lower() not in known:
            described = describe(arm, listed["id"], with_console=False)
            yield {key: described[key] for key in ("id", "state", "state_reason")}


def main() -> None:
    module = arm_module(
        {
            "instance_ids": {"type": "list", "elements": "str", "required": True},
            "console": {"type": "bool", "default": True},
            "resource_group": {"type": "str", "default": ""},
            "pods": {"type": "list", "elements": "str", "default": []},
        }
    )
    ids = list(dict.fromkeys(module.params["instance_ids"]))
    wrong = [each for each in ids if not is_machine_id(each)]
    if wrong:
        module.fail_json(
            msg=f"{wrong[0]!r} is not the ARM id of a virtual machine: it must be /subscriptions/.../providers/"
            "Microsoft.Compute/virtualMachines/..., as the instanceID of a PeerPod."
        )
    try:
        arm = Arm(module)
        instances = [describe(arm, each, module.params["console"]) for each in ids]
        group, pods = module.params["resource_group"], module.params["pods"]
        orphaned = list(orphans(arm, group, pods, ids)) if group and pods else []
    except ArmError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, instances=instances, orphaned=orphaned)


if __name__ == "__main__":
    main()
