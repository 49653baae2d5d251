# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: as_bool
version_added: "0.1.0"
short_description: Convert an option of a role to a boolean
description:
  - >-
    Converts what Ansible accepts when it validates a boolean option of a role. Ansible does not use the result: a value
    given as C(-e option=false), by a survey or in quotes stays a string, and each string but the empty one is true.
  - >-
    Unlike P(ansible.builtin.bool#filter), it converts V(y) and V(t) as the validation does, and fails if the value is
    not a boolean.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input
options:
  _input:
    description:
      - The value of the option.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Report whether reviews without a change are logged
  ansible.builtin.debug:
    msg: "{{ 'They are.' if webhook_log_unchanged | osc.peerpods.as_bool else 'They are not.' }}"
  vars:
    webhook_log_unchanged: "no"
"""

RETURN = r"""
_value:
  description: The same value as a boolean.
  type: bool
  sample: false
"""

from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_bool


class FilterModule:
    def filters(self) -> dict:
        return {"as_bool": as_bool}
