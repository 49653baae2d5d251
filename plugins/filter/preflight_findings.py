# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_findings
version_added: "0.1.0"
short_description: Report what prevents peer pods in a cluster and its cloud
description:
  - Computes the findings of the role P(osc.peerpods.cluster_prerequisites#role) from module results.
  - Sends no requests.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        A dictionary of module results. Required are C(cluster), the result of M(osc.peerpods.cluster_info) with
        C(details=true), and C(settings), the settings of the roles. Optional are C(options), the results of
        M(ansible.builtin.validate_argument_spec) for each role; C(nulls), the options that are null; C(problems),
        sentences about the options of a role together, by role; C(caller), the identity that the cloud returns;
        C(ports), the rules that filter the workers' traffic; C(port_permissions), the dry run of a change of these
        rules; C(sizes), the quota of the VM sizes; C(subnet), the available IP addresses of the VMs' subnet; and
        C(peer_pods), the running peer pods, which the quota and the subnet count as used.
      - A result may be that of a task that failed or was skipped.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the errors
  ansible.builtin.debug:
    msg: >-
      {{ readings | osc.peerpods.preflight_findings | selectattr('status', 'eq', 'error') | map(attribute='found') }}
"""

RETURN = r"""
_value:
  description: The findings, in the order in which to resolve them.
  type: list
  elements: dict
  contains:
    check:
      description: The identifier of the check.
      type: str
      sample: version
    title:
      description: The title of the check.
      type: str
      sample: Cluster version
    status:
      description: V(ok), V(warning), V(error), or V(unknown) if the check could not be made.
      type: str
      sample: error
    found:
      description: What was found.
      type: str
      sample: The cluster is OpenShift 4.12.9; peer pods need 4.13 or newer.
    why:
      description: Why it matters.
      type: str
      sample: Older releases have no kata runtime with a remote hypervisor.
    fix:
      description: What to do.
      type: str
      sample: Upgrade the cluster first.
"""

from ansible_collections.osc.peerpods.plugins.module_utils._preflight.findings import findings


class FilterModule:
    def filters(self) -> dict:
        return {"preflight_findings": findings}
