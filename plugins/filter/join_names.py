# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: join_names
version_added: "0.1.0"
short_description: Join names for a message, and count those that are too many
description:
  - Joins the first names of a list with commas, and adds how many more there are.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, at_most
options:
  _input:
    description:
      - The names.
    type: list
    elements: str
    required: true
  at_most:
    description:
      - How many names to show.
    type: int
    default: 10
"""

EXAMPLES = r"""
- name: Report which nodes are not ready
  ansible.builtin.debug:
    msg: "Not ready: {{ nodes | osc.peerpods.join_names(3) }}"
  vars:
    nodes: [worker-0, worker-1, worker-2, worker-3]
"""

RETURN = r"""
_value:
  description: The names as text.
  type: str
  sample: worker-0, worker-1, worker-2 and 1 more
"""

from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names


class FilterModule:
    def filters(self) -> dict:
        return {"join_names": join_names}
