# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_findings
version_added: "0.1.0"
short_description: Report whether peer pods run, and otherwise why they do not
description:
  - Computes the findings of the role P(osc.peerpods.verify#role) from module results.
  - >-
    If a pod does not run, the cause is a kind from the events of the pod, the log of cloud-api-adaptor on its node and
    the console of its VM, such as V(quota) or V(port). The README.md of the role has all of them. If it runs and a test
    in it failed, the cause is V(network).
  - Sends no requests.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        A dictionary of module results. Required is C(pods), the result of M(osc.peerpods.verification_pods). Optional
        are C(instances), the result of M(osc.peerpods.ec2_instance_console_info) or
        M(osc.peerpods.azure_vm_console_info); C(deleted), the result of M(osc.peerpods.verification_pods) with
        C(state=absent); C(remaining), what the module for the cloud returned after that; C(egress), the target that the
        pods connected to; and C(unverified), the names of the nodes without a free slot that were left out.
      - A result may be that of a task that failed or was skipped.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the causes
  ansible.builtin.debug:
    msg: "{{ {'pods': created, 'instances': vms} | osc.peerpods.verify_findings | map(attribute='cause') | select }}"
"""

RETURN = r"""
_value:
  description: The findings, in the order in which a pod passes the checks.
  type: list
  elements: dict
  contains:
    check:
      description: The identifier of the check.
      type: str
      sample: verify-vm
    title:
      description: The title of the check.
      type: str
      sample: VM in the cloud
    status:
      description: V(ok), V(warning), V(error), or V(unknown) if the check could not be made.
      type: str
      sample: error
    found:
      description: What was found, by node.
      type: str
      sample: >-
        worker-1: quota: The quota of the cloud is used up. From event FailedCreatePodSandBox: Failed to create pod
        sandbox: … api error VcpuLimitExceeded: You have requested more vCPU capacity …
    why:
      description: Why it matters.
      type: str
      sample: Every peer pod is a VM of its own.
    fix:
      description: What to do.
      type: str
      sample: Request a higher quota, …
    cause:
      description: The kind of the cause; several, if nodes differ, separated by commas; empty if the check succeeded.
      type: str
      sample: quota
"""

from ansible_collections.osc.peerpods.plugins.module_utils._verify.findings import findings


class FilterModule:
    def filters(self) -> dict:
        return {"verify_findings": findings}
