# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: cloud_room
version_added: "0.1.0"
short_description: Add up how many peer pods the cloud has room for
description:
  - >-
    Computes the bounds that the role P(osc.peerpods.peerpodconfig_rollout#role) writes for the node capacity agent from
    the results of the modules for subnets and quotas, and a message for each bound.
  - A result may be that of a failed task. The bound is then unknown.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, provider, running, stored, own
options:
  _input:
    description:
      - >-
        A dictionary with C(subnet), the return of M(osc.peerpods.ec2_subnet_usage_info) or
        M(osc.peerpods.azure_subnet_usage_info), and C(quota), the return of M(osc.peerpods.ec2_vcpu_quota_info) or
        M(osc.peerpods.azure_vcpu_quota_info).
    type: dict
    required: true
  provider:
    description:
      - The cloud, C(CLOUD_PROVIDER) of C(peer-pods-cm). On any other than V(aws) and V(azure) no bound is known.
    type: str
    required: true
  running:
    description:
      - How many peer pods run, each with a VM that already takes an address and a part of the quota.
    type: int
    required: true
  stored:
    description:
      - The bounds that an earlier run stored. A bound that is unknown now keeps its stored number.
    type: dict
    default: {}
  own:
    description:
      - >-
        The names of the stored bounds that the role wrote, as P(osc.peerpods.own_cloud_bounds#filter) returns them.
        Another owner set the others, which are not replaced.
      - If not set, all.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Report how many peer pods the cloud has room for
  ansible.builtin.debug:
    msg: "{{ ({'subnet': subnet, 'quota': quota} | osc.peerpods.cloud_room('aws', 3)).messages }}"
"""

RETURN = r"""
_value:
  description: The bounds of the cloud.
  type: dict
  contains:
    bounds:
      description: How many peer pods each known bound allows in total, running ones included, as data of a ConfigMap.
      type: dict
      sample:
        subnet-addresses: "58"
        instance-quota: "28"
    messages:
      description: A sentence for each bound.
      type: list
      elements: str
      sample:
        - "subnet-addresses: room for 58 peer pods in total, 3 running and 55 more."
        - "instance-quota: room for 28 peer pods in total, 3 running and 25 more."
"""

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_room import cloud_room


class FilterModule:
    def filters(self) -> dict:
        return {"cloud_room": cloud_room}
