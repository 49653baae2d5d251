# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: own_cloud_bounds
version_added: "0.1.0"
short_description: Find the bounds of the cloud that this collection wrote into a ConfigMap
description:
  - >-
    The role P(osc.peerpods.peerpodconfig_rollout#role) writes bounds into the ConfigMap of the node capacity agent, and
    removes only those that it wrote. In a ConfigMap with the label C(app.kubernetes.io/part-of=osc.peerpods) these are
    C(subnet-addresses) and C(instance-quota). In a ConfigMap of another owner, an annotation for each bound has the
    value that was written, such as C(osc.peerpods.io/instance-quota); a bound with another value is that of the other
    owner.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - The ConfigMap.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the bounds of this collection
  ansible.builtin.debug:
    msg: "{{ configmaps.resources | map('osc.peerpods.own_cloud_bounds') }}"
"""

RETURN = r"""
_value:
  description: The names of the bounds.
  type: list
  elements: str
  sample: [subnet-addresses, instance-quota]
"""

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import own_bounds


class FilterModule:
    def filters(self) -> dict:
        return {"own_cloud_bounds": own_bounds}
