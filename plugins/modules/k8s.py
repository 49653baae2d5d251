#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s
version_added: "0.1.0"
short_description: Write and delete Kubernetes objects of this collection
description:
  - >-
    Takes the options of M(kubernetes.core.k8s) and returns its result, but never replaces or deletes an object of
    another owner. All objects of a task are read before the first one is changed. In check mode, the same objects are
    read, and the same tasks fail.
  - >-
    A definition with the label C(app.kubernetes.io/part-of=osc.peerpods) is that of an object of this collection. It
    creates the object, or changes one that also has the label. If an object of the name exists without the label, the
    module fails before any change, and returns which field managers wrote the object. To let this collection take the
    object over, set the label on it, or set O(take_over).
  - >-
    A definition without the label changes the object of any owner, as M(kubernetes.core.k8s) does. With
    O(state=absent), only objects with the label are deleted, and the object whose uid the task names in
    C(delete_options.preconditions).
  - >-
    The object that was read is the object that is changed. If another client creates a new object of its name, the API
    server rejects the change. With O(server_side_apply), an object that did not exist is created without
    O(server_side_apply.force_conflicts): fields that another client has written since the read are a conflict. An
    update of a client-side apply has no such guard.
  - >-
    On the controller, the module runs in a fork of the Ansible worker, which has imported the Kubernetes client
    already, instead of in a new Python process: a second run of this collection's C(site.yml) takes less than half of
    the CPU time. With another C(ansible_python_interpreter), another connection, C(become), C(async), C(environment) or
    C(ANSIBLE_KEEP_REMOTE_FILES), the module is started as usual.
  - >-
    A request is repeated after a transient failure: 429, 502, 503, 504, a 5xx with C(Retry-After) of up to 30 seconds,
    or a lost connection. After a write whose response was lost, the object is read: nothing is written twice, and the
    result is that of the write. An object with a generated name, of which this cannot be found out, is only sent again
    if it was not processed.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_name_options
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
  resource_definition:
    description:
      - >-
        A definition, a list of definitions, or YAML with one or several definitions. They take precedence over O(kind),
        O(api_version), O(name) and O(namespace).
    type: raw
    aliases: [definition, inline]
  src:
    description:
      - A file with definitions on the machine where the module runs. Mutually exclusive with O(resource_definition).
    type: path
  take_over:
    description:
      - >-
        Whether a definition with the label of this collection may change an object without it. The object then belongs
        to this collection, which deletes it in a teardown.
    type: bool
    default: false
  alternative:
    description:
      - >-
        What the user can do instead if an object of another owner has the name: a sentence for the error message, such
        as which option sets another name.
    type: str
    default: ""
  apply:
    description:
      - >-
        Whether to apply the definition. Fields of the previously applied definition that this one does not have are
        removed. Mutually exclusive with O(merge_type).
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
  merge_type:
    description:
      - The types of patches that change an existing object, in the order in which they are tried.
    type: list
    elements: str
    choices: [merge, strategic-merge]
  force:
    description:
      - Whether to replace an existing object instead of patching it.
    type: bool
    default: false
  template:
    description:
      - A template of definitions, or a list of templates. Mutually exclusive with O(resource_definition) and O(src).
    type: raw
  generate_name:
    description:
      - The prefix of a name that the API server generates. Mutually exclusive with O(name).
    type: str
  append_hash:
    description:
      - Whether to append a hash of the content to the name of a ConfigMap or a Secret.
    type: bool
    default: false
  label_selectors:
    description:
      - Only objects with these labels are deleted or changed.
    type: list
    elements: str
  delete_all:
    description:
      - Whether to delete all objects of a kind in a namespace, if O(state=absent) and no name is set.
    type: bool
    default: false
    aliases: [all]
  hidden_fields:
    description:
      - Fields that the result and the diff do not contain.
    type: list
    elements: str
  validate:
    description:
      - Validate the definitions against the schema of Kubernetes. Requires the Python package kubernetes-validate.
    type: dict
    suboptions:
      fail_on_error:
        description:
          - Whether to fail if a definition is not valid.
        type: bool
      version:
        description:
          - The version of Kubernetes to validate against. The default is that of the API server.
        type: str
      strict:
        description:
          - Whether to reject unknown fields.
        type: bool
        default: true
  continue_on_error:
    description:
      - Whether to continue with the other objects if one fails.
    type: bool
    default: false
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
  - PyYAML >= 3.11
  - jsonpatch
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

import functools
from collections.abc import Sequence
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import (
    AUTH_ARG_SPEC,
    DELETE_OPTS_ARG_SPEC,
    NAME_ARG_SPEC,
    WAIT_ARG_SPEC,
)
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.objects import write_objects
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import (
    refuse_changes,
    refuse_deletions,
)

ARGUMENT_SPEC = {
    **AUTH_ARG_SPEC,
    **NAME_ARG_SPEC,
    **WAIT_ARG_SPEC,
    "alternative": {"type": "str", "default": ""},
    "append_hash": {"type": "bool", "default": False},
    "apply": {"type": "bool", "default": False},
    "continue_on_error": {"type": "bool", "default": False},
    "delete_all": {"type": "bool", "default": False, "aliases": ["all"]},
    "delete_options": {"type": "dict", "options": DELETE_OPTS_ARG_SPEC},
    "force": {"type": "bool", "default": False},
    "generate_name": {"type": "str"},
    "hidden_fields": {"type": "list", "elements": "str"},
    "label_selectors": {"type": "list", "elements": "str"},
    "merge_type": {"type": "list", "elements": "str", "choices": ["merge", "strategic-merge"]},
    "resource_definition": {"type": "raw", "aliases": ["definition", "inline"]},
    "server_side_apply": {
        "type": "dict",
        "options": {
            "field_manager": {"type": "str", "required": True},
            "force_conflicts": {"type": "bool", "default": False},
        },
    },
    "src": {"type": "path"},
    "state": {"type": "str", "default": "present", "choices": ["present", "absent", "patched"]},
    "take_over": {"type": "bool", "default": False},
    "template": {"type": "raw"},
    "validate": {
        "type": "dict",
        "options": {
            "fail_on_error": {"type": "bool"},
            "version": {"type": "str"},
            "strict": {"type": "bool", "default": True},
        },
    },
}


def judge(params: dict[str, Any], read: Sequence[tuple[dict, list[dict]]]) -> str:
    """Why the definitions cannot be written or deleted; empty if they can be."""
    if params["state"] == "absent":
        preconditions = (params["delete_options"] or {}).get("preconditions") or {}
        existing = [item for dummy, items in read for item in items]
        return refuse_deletions(existing, preconditions.get("uid"), params["alternative"])
    if params["take_over"]:
        return ""
    changes = [(definition, item) for definition, items in read for item in items]
    return refuse_changes(changes, params["alternative"])


def main() -> None:
    module = AnsibleK8SModule(
        argument_spec=ARGUMENT_SPEC,
        mutually_exclusive=[
            ("resource_definition", "src"),
            ("merge_type", "apply"),
            ("template", "resource_definition"),
            ("template", "src"),
            ("name", "generate_name"),
        ],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**write_objects(module, functools.partial(judge, module.params)))
    except CoreException as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
