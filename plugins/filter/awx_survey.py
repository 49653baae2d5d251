# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: awx_survey
version_added: "0.1.0"
short_description: Make a survey of AWX from the argument specifications of roles
description:
  - What the role P(osc.peerpods.awx#role) asks before a job. Types, choices, defaults and descriptions are those of the options.
  - >-
    An option that is a list of any strings is asked for as text, one a line, in a variable with C(_lines) after its name, which the
    extra variables split. One that is a boolean is asked for as a choice of V(true) and V(false), in a variable with C(_answer) after
    its name, of which the extra variables make a boolean; it has to have a default.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, specs, name
options:
  _input:
    description:
      - >-
        What to ask, each with the C(role), its C(option), and the C(question) in a few words; with C(entry_point) where that is not
        C(main), and with C(required) where that differs from the option's. An option that no role has comes with C(spec), which says
        of it what an argument spec would.
    type: list
    elements: dict
    required: true
  specs:
    description:
      - The C(argument_specs) of the roles, by the roles' names.
    type: dict
    required: true
  name:
    description:
      - What the survey is called.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: See what is asked
  ansible.builtin.debug:
    msg: "{{ [{'role': 'policy', 'option': 'policy_state', 'question': 'Is there one?'}] | osc.peerpods.awx_survey({'policy': spec}) }}"
  vars:
    spec: "{{ (lookup('ansible.builtin.file', 'roles/policy/meta/argument_specs.yml') | from_yaml).argument_specs }}"
"""

RETURN = r"""
_value:
  description: What a job template has to be given.
  type: dict
  contains:
    survey_spec:
      description: As the option of that name of C(awx.awx.job_template) takes it.
      type: dict
    extra_vars:
      description: By which answers become options.
      type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.osc.peerpods.plugins.module_utils._report.awx_survey import SurveyError, survey


def awx_survey(asks: list[dict], specs: dict, name: str = "") -> dict:
    try:
        return survey(asks, specs, name)
    except SurveyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict:
        return {"awx_survey": awx_survey}
