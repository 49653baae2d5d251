# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: awx_survey
version_added: "0.1.0"
short_description: Generate an AWX survey from the argument specifications of roles
description:
  - >-
    Generates the survey that the role P(osc.peerpods.awx#role) attaches to a job template. Types, choices, defaults and
    descriptions are those of the options.
  - >-
    An option that is a list of strings without choices becomes a text question with one string per line, which the
    roles split. A boolean option becomes a choice of V(true) and V(false), in a variable whose name ends in C(_answer);
    the extra variables convert it to a boolean. A boolean option must have a default.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, specs, name
options:
  _input:
    description:
      - >-
        The questions. Each has the C(role), its C(option), and the text of the C(question); also C(entry_point) if it
        is not C(main), and C(required) and C(default) if they differ from the option's. For an option that no role has,
        C(spec) is its argument specification.
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
      - The name of the survey.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show the survey
  ansible.builtin.debug:
    msg: "{{ questions | osc.peerpods.awx_survey({'policy': spec}) }}"
  vars:
    questions:
      - role: policy
        option: policy_state
        question: State of the policy
    spec: "{{ (lookup('ansible.builtin.file', 'roles/policy/meta/argument_specs.yml') | from_yaml).argument_specs }}"
"""

RETURN = r"""
_value:
  description: Options of C(awx.awx.job_template).
  type: dict
  contains:
    survey_spec:
      description: The survey, for the option C(survey_spec).
      type: dict
    extra_vars:
      description: The variables that convert answers to role options, for the option C(extra_vars).
      type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.osc.peerpods.plugins.module_utils._report.awx_survey import SurveyError, survey


def awx_survey(entries: list[dict], specs: dict, name: str = "") -> dict:
    try:
        return survey(entries, specs, name)
    except SurveyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict:
        return {"awx_survey": awx_survey}
