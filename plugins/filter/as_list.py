# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: as_list
version_added: "0.1.0"
short_description: Convert an option of a role to a list
description:
  - >-
    Converts what Ansible accepts when it validates an option of a role that is a list: a list, or a text with commas.
    Ansible does not use the result: a value given as C(-e option=a,b) or by a survey stays a string.
  - >-
    Also converts a list in JSON or YAML and a text with one element per line. An empty text is an empty list, and so is
    a variable without a value.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, elements
options:
  _input:
    description:
      - The value of the option.
    type: raw
    required: true
  elements:
    description:
      - The type of the elements. With V(dict), each is converted as P(osc.peerpods.as_dict#filter) does.
    type: str
    choices: [str, dict]
    default: str
"""

EXAMPLES = r"""
- name: Report the RuntimeClasses of peer pods
  ansible.builtin.debug:
    msg: "{{ webhook_target_runtime_classes | osc.peerpods.as_list | join(' and ') }}"
  vars:
    webhook_target_runtime_classes: kata-remote,kata-cc
"""

RETURN = r"""
_value:
  description: The same value as a list.
  type: list
  elements: raw
  sample: [kata-remote, kata-cc]
"""

from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_list


class FilterModule:
    def filters(self) -> dict:
        return {"as_list": as_list}
