# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: wave_problems
version_added: "0.1.0"
short_description: Report why waves of limits cannot be rolled out
description:
  - Validates O(osc.peerpods.peerpodconfig_rollout#role:main:peerpodconfig_rollout_waves) before anything is changed.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, limit_in, pools
options:
  _input:
    description:
      - The waves, each with its C(name) and C(limit).
    type: list
    elements: dict
    required: true
  limit_in:
    description:
      - RV(osc.peerpods.cluster_features_info#module:operator.limit_in), empty if it is not known.
    type: str
    default: ""
  pools:
    description:
      - The names of the existing pools besides that of the operator. If not set, their existence is not checked.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Validate the waves
  ansible.builtin.assert:
    that: peerpodconfig_rollout_waves | osc.peerpods.wave_problems | length == 0
"""

RETURN = r"""
_value:
  description: The problems, each as a sentence with what to do.
  type: list
  elements: str
  sample: [peerpodconfig_rollout_waves names a pool twice (canary, canary). Remove one of the two waves.]
"""

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.waves import wave_problems


class FilterModule:
    def filters(self) -> dict:
        return {"wave_problems": wave_problems}
