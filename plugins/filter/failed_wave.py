# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: failed_wave
version_added: "0.1.0"
short_description: Plan and describe the roll-back after a failed wave
description:
  - >-
    Decides which pools the role P(osc.peerpods.peerpodconfig_rollout#role) rolls back after a wave failed, and
    describes the outcome.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, passed, failed
options:
  _input:
    description:
      - The waves, each with its C(name).
    type: list
    elements: dict
    required: true
  passed:
    description:
      - The returns of M(osc.peerpods.peerpod_limit) of the waves that passed.
    type: list
    elements: dict
    required: true
  failed:
    description:
      - >-
        The last return of M(osc.peerpods.peerpod_limit). It is that of the failed wave, unless that failed before the
        module ran.
    type: dict
    required: true
  reason:
    description:
      - The message of the task that failed.
    type: str
    default: ""
  results:
    description:
      - The results of the roll-back, each with its C(item).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Report which pools would be rolled back
  ansible.builtin.debug:
    msg: "{{ (waves | osc.peerpods.failed_wave(passed, failed)).roll_back }}"
  vars:
    waves: [{name: canary}, {name: general}]
    passed: [{pool: canary, changed: true, before: 10, after: 4}]
    failed: {pool: general, changed: true, before: 10, after: 4}
"""

RETURN = r"""
_value:
  description: The roll-back.
  type: dict
  contains:
    roll_back:
      description: >-
        The pools to roll back, the failed wave's first, each with its C(name), the C(limit) that it had, and whether to
        C(wait) until that is in force. The failed wave is not waited for, because its nodes may not advertise any
        limit.
      type: list
      elements: dict
      sample:
        - name: general
          limit: 10
          wait: false
    message:
      description: Which wave failed, why, what was rolled back, and which waves were not started.
      type: str
      sample: >-
        Wave 2 of 3 (general) failed: After 300 s the limit of 5 is not in force. Rolled back: general to 10. Not
        started: memory.
"""

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.failed_wave import failed_wave


class FilterModule:
    def filters(self) -> dict:
        return {"failed_wave": failed_wave}
