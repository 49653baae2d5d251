# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: stored_options
version_added: "0.1.0"
short_description: Read the options of a role that an earlier run stored
description:
  - >-
    Returns the options in the annotation C(osc.peerpods.io/options) of an object that a role created, which the filter
    P(osc.peerpods.kept_options#filter) made. Fails if the annotation is not a JSON object.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - The object, or an empty dictionary where it does not exist.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the options of the webhook
  ansible.builtin.debug:
    msg: "{{ registration.resources | map('osc.peerpods.stored_options') }}"
"""

RETURN = r"""
_value:
  description: The options, by their names without that of the role; empty without the annotation.
  type: dict
  sample: {replicas: 3, port: 9444}
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.kept_options import DamagedOptionsError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.kept_options import stored_options as read


def stored_options(value: dict) -> dict:
    try:
        return read(value)
    except DamagedOptionsError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict:
        return {"stored_options": stored_options}
