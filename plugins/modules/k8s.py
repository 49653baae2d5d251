#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s
version_added: "0.1.0"
short_description: Run kubernetes.core.k8s in the controller
description:
  - >-
    Runs M(kubernetes.core.k8s) with the same options and the same result. On the controller, it runs in a fork of the
    Ansible worker, which has imported the Kubernetes client already, instead of in a new Python process: a second run
    of this collection's C(site.yml) takes less than half of the CPU time.
  - >-
    With another C(ansible_python_interpreter), another connection, C(become), C(async), C(environment) or
    C(ANSIBLE_KEEP_REMOTE_FILES), the module is started as usual.
  - >-
    On the controller, a request is repeated after a transient failure: 429, 502, 503, 504, a 5xx with C(Retry-After) of
    up to 30 seconds, or a lost connection. After a write whose response was lost, the object is read: nothing is
    written twice, and the result is that of the write. An object with a generated name, of which this cannot be found
    out, is only sent again if it was not processed. A process that is started as usual has the retries of urllib3.
  - All options of M(kubernetes.core.k8s) can be set. The options below are those that the roles of this collection use.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_name_options
  - kubernetes.core.k8s_resource_options
  - kubernetes.core.k8s_auth_options
  - kubernetes.core.k8s_wait_options
  - kubernetes.core.k8s_delete_options
options:
  state:
    description:
      - >-
        V(present) creates the object, or changes it if it differs. V(patched) only changes an existing object.
        V(absent) deletes it.
    type: str
    default: present
    choices: [absent, present, patched]
  apply:
    description:
      - >-
        Whether to apply the definition. Fields of the previously applied definition that this one does not have are
        removed.
    type: bool
    default: false
  server_side_apply:
    description:
      - Use server-side apply, if O(apply=true).
    type: dict
    suboptions:
      field_manager:
        description:
          - The name of the field manager, which owns the applied fields.
        type: str
        required: true
      force_conflicts:
        description:
          - Whether to take over fields that another manager owns.
        type: bool
        default: false
  label_selectors:
    description:
      - Only objects with these labels are deleted or changed.
    type: list
    elements: str
  continue_on_error:
    description:
      - Whether to continue with the other objects if one fails.
    type: bool
    default: false
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: kubernetes.core.k8s
  - module: osc.peerpods.k8s_info
"""

EXAMPLES = r"""
- name: Create a namespace
  osc.peerpods.k8s:
    api_version: v1
    kind: Namespace
    name: team-a
"""

RETURN = r"""
result:
  description:
    - The object, or the objects if the definition has several, as M(kubernetes.core.k8s) returns them.
  returned: success
  type: dict
  sample: {apiVersion: v1, kind: Namespace, metadata: {name: team-a}}
"""
