# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_findings
version_added: "0.1.0"
short_description: Report what prevents peer pods in a cluster and its cloud
description:
  - Turns what was read of a cluster and its cloud into a list of findings, as the role P(osc.peerpods.cluster_prerequisites#role) does.
  - Asks nobody.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        A dictionary with C(cluster), the return of M(osc.peerpods.cluster_info) with its C(details); with C(settings); and
        where they were asked for with C(caller), C(ports), C(port_rights), C(sizes) and C(subnet), the returns of the modules
        that tell who we are to the cloud, what filters the workers' traffic, whether we may change that, what VMs there is
        room for, and how many addresses are free.
      - A return may be that of a task that failed or was skipped.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See what stands in the way
  ansible.builtin.debug:
    msg: "{{ readings | osc.peerpods.preflight_findings | selectattr('status', 'eq', 'error') | map(attribute='found') }}"
"""

RETURN = r"""
_value:
  description: The findings, in the order in which they are best mended.
  type: list
  elements: dict
  contains:
    check:
      description: What was looked at, as a name for programs.
      type: str
      sample: version
    title:
      description: The same for people.
      type: str
      sample: Cluster version
    status:
      description: V(ok), V(warning), V(error), or V(unknown) where it could not be asked.
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
