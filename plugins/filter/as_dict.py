# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: as_dict
version_added: "0.1.0"
short_description: Convert an option of a role to a dictionary
description:
  - >-
    Converts what Ansible accepts when it validates an option of a role that is a dictionary: a dictionary, one in JSON,
    or V(a=1,b=2). Ansible does not use the result: a value given as C(-e option=a=1) or by a survey stays a string.
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
- name: Report the tags
  ansible.builtin.debug:
    msg: "{{ operator_install_tags | osc.peerpods.as_dict | dict2items | map(attribute='key') | join(', ') }}"
  vars:
    operator_install_tags: team=a,stage=test
"""

RETURN = r"""
_value:
  description: The same value as a dictionary.
  type: dict
  sample: {team: a, stage: test}
"""

from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_dict


class FilterModule:
    def filters(self) -> dict:
        return {"as_dict": as_dict}
