# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: kept_options
version_added: "0.1.0"
short_description: Keep the options of a role that a later run does not set
description:
  - >-
    Adds the options that this run sets to those of an earlier run, which the role has stored in an annotation. The
    roles P(osc.peerpods.webhook#role) and P(osc.peerpods.node_capacity#role) use it.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, role, names, specification, stored
options:
  _input:
    description:
      - The variables of this run that are options of the role, by name. Each is converted to the type of its option.
      - A variable without a value is not set, and neither is an empty text, unless the option is a free text.
    type: dict
    required: true
  role:
    description:
      - The name of the role, with which the names of its options begin.
    type: str
    required: true
  names:
    description:
      - The options that are kept, without the name of the role.
    type: list
    elements: str
    required: true
  specification:
    description:
      - The options of the role, as its argument specification has them, by their full names.
    type: dict
    required: true
  stored:
    description:
      - What an earlier run has stored, RV(_value.kept), as P(osc.peerpods.stored_options#filter) returns it.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Set the replicas, and keep the other options
  ansible.builtin.debug:
    msg: "{{ {'webhook_replicas': '3'} | osc.peerpods.kept_options('webhook', kept, specification, {'port': 9444}) }}"
  vars:
    kept: [replicas, port, health_port]
    specification:
      webhook_replicas: {type: int, default: 2}
      webhook_port: {type: int, default: 9443}
      webhook_health_port: {type: int, default: 8080}
"""

RETURN = r"""
_value:
  description: The options, by their names without that of the role.
  type: dict
  contains:
    options:
      description: All options, with their defaults.
      type: dict
      sample: {replicas: 3, port: 9444, health_port: 8080}
    kept:
      description: The options without those that have their defaults, to store them.
      type: dict
      sample: {replicas: 3, port: 9444}
"""

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.kept_options import kept_options


class FilterModule:
    def filters(self) -> dict:
        return {"kept_options": kept_options}
