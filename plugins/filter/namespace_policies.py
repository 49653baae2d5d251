# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: namespace_policies
version_added: "0.1.0"
short_description: Build the admission policies that restrict peer pods to chosen namespaces
description:
  - >-
    Returns the ValidatingAdmissionPolicies and their bindings, as the role P(osc.peerpods.policy#role) applies them.
    The options are those of that role.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input
options:
  _input:
    description:
      - The RuntimeClasses whose pods are peer pods.
    type: list
    elements: str
    required: true
  namespaces:
    description:
      - The names of the namespaces in which peer pods may be created.
    type: list
    elements: str
    default: []
  selector:
    description:
      - A label selector. Peer pods may be created in the namespaces that it selects, except in system namespaces.
    type: dict
    default: {}
  actions:
    description:
      - What the API server does with a peer pod in another namespace.
    type: list
    elements: str
    default: [Deny]
  failure_policy:
    description:
      - What the API server does if it cannot evaluate the policy.
    type: str
    default: Fail
  warn_workloads:
    description:
      - Whether to warn users who apply a workload whose pods would be peer pods in another namespace.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show the policies that restrict peer pods to one namespace
  ansible.builtin.debug:
    msg: "{{ (['kata-remote'] | osc.peerpods.namespace_policies(namespaces=['team-a'])).objects }}"
"""

RETURN = r"""
_value:
  description: The policies.
  type: dict
  contains:
    objects:
      description: Each policy and its binding, with the C(state) that it must have and its C(definition).
      type: list
      elements: dict
    label_selector:
      description: The selector as C(kubectl get --selector) takes it, empty if it selects no namespace.
      type: str
      sample: osc.peerpods.io/peer-pods=allowed
    system_namespaces:
      description: A regular expression that matches the names of system namespaces.
      type: str
    rejection:
      description: The text of a rejection before the name of the namespace.
      type: str
    explanation:
      description: The text after that name.
      type: str
"""

from ansible_collections.osc.peerpods.plugins.module_utils._admission.namespaces import namespace_policies


class FilterModule:
    def filters(self) -> dict:
        return {"namespace_policies": namespace_policies}
