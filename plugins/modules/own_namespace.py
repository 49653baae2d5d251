#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: own_namespace
version_added: "0.1.0"
short_description: Remove a namespace of this collection that no other object needs
description:
  - >-
    Removes a namespace that has the label C(app.kubernetes.io/part-of=osc.peerpods), if all objects in it belong to
    this collection, to the operator or to the cluster. The module lists the objects of every kind that the API server
    serves in namespaces.
  - >-
    The namespace stays if it contains any other object, such as a ConfigMap, a PersistentVolumeClaim or a custom
    resource of a user, or if the objects of a kind cannot be listed. To remove it nevertheless, use C(oc delete
    namespace).
  - >-
    An object belongs to the collection or the operator by its label, its owner or its documented name, so that the
    module decides the same before and after these objects are deleted, and in check mode. A ConfigMap
    or Secret with a name of the operator, such as C(aws-podvm-image-cm), belongs to the user who created or edited it,
    and to an unknown user if it has no field managers.
  - >-
    The content is read directly before the deletion, which is valid only for the namespace that was read. The API
    server cannot make a deletion conditional on the content: an object that is created between the read of its kind and
    the deletion is deleted, too. These are milliseconds for the kinds of the core group, which are read last, and up to
    a few seconds for other kinds. Do not create objects in the namespace during a teardown.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  name:
    description:
      - The name of the namespace.
    type: str
    required: true
  state:
    description:
      - With V(absent) the namespace is removed.
    type: str
    choices: [absent]
    default: absent
  removed_names:
    description:
      - >-
        The values of the label C(app.kubernetes.io/name) of those objects of this collection that are removed. Other
        objects of this collection keep the namespace, except O(removed_objects).
      - If not set, all objects of this collection are removed.
    type: list
    elements: str
  removed_objects:
    description:
      - >-
        With O(removed_names), the objects of this collection without that label that are removed, each as kind/name,
        such as V(ConfigMap/peer-pods-cm).
    type: list
    elements: str
    default: []
  of_operator:
    description:
      - Whether the namespace is that of the operator, and the operator is removed.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait until the namespace is removed.
    type: int
    default: 300
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it removes nothing.
    support: full
  diff_mode:
    description: Shows the objects that are removed together with the namespace.
    support: full
notes:
  - Only the metadata of objects is read.
"""

EXAMPLES = r"""
- name: Remove the namespace of the webhook and the agent
  osc.peerpods.own_namespace:
    name: osc-peerpods
  register: namespace

- name: Report why it stays
  ansible.builtin.debug:
    var: namespace.reason
"""

RETURN = r"""
stays:
  description: Whether the namespace exists and is not removed.
  returned: success
  type: bool
  sample: true
reason:
  description: Why the namespace stays, empty if it does not.
  returned: success
  type: str
  sample: "Namespace osc-peerpods stays: it contains ConfigMap/settings, which this collection did not create."
others:
  description: The objects of other owners in the namespace, each as kind/name.
  returned: success
  type: list
  elements: str
  sample: [ConfigMap/settings]
own:
  description: >-
    The objects of this collection and of the operator that are removed together with the namespace, each as kind/name.
    Empty if the namespace stays.
  returned: success
  type: list
  elements: str
  sample: []
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NAMESPACES_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    TaskError,
    cluster_module,
    reporting_writes,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.namespace_content import read_content
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PART_OF
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import plan_removal
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The interval between two reads of a namespace that is being removed. Seconds.
INTERVAL = 1.0


def judge(cluster: Cluster, params: dict[str, Any], namespace: dict) -> dict[str, Any]:
    """Whether the namespace stays, why, and what it contains."""
    key, value = PART_OF
    name = params["name"]
    if (namespace["metadata"].get("labels") or {}).get(key) != value:
        reason = f"Namespace {name} stays: it does not have the label {key}={value} of this collection."
        return {"stays": True, "reason": reason, "others": [], "own": []}
    content = read_content(cluster, name)
    plan = plan_removal(
        content.objects,
        content.namespaced,
        removed_names=params["removed_names"],
        removed_objects=params["removed_objects"],
        of_operator=params["of_operator"],
    )
    reason = ""
    if plan.others:
        reason = (
            f"it contains {join_names(plan.others)}, which this collection did not create. To remove the namespace "
            f"with all of it: oc delete namespace {name}"
        )
    elif content.unread:
        reason = f"its content could not be read completely: {' '.join(content.unread)}".rstrip(".")
    elif plan.in_use:
        reason = f"this collection still uses {join_names(plan.in_use)}"
    return {
        "stays": bool(reason),
        "reason": reason and f"Namespace {name} stays: {reason}.",
        "others": plan.others,
        "own": [] if reason else plan.own,
    }


def wait_for_removal(cluster: Cluster, path: str, seconds: float) -> str:
    """The conditions that the API server reports if the namespace still exists after `seconds`, else ""."""
    deadline = time.monotonic() + seconds
    while namespace := cluster.get(path):
        if time.monotonic() > deadline:
            conditions = (namespace.get("status") or {}).get("conditions") or []
            messages = [condition["message"] for condition in conditions if condition["status"] == "True"]
            return " ".join(messages) or "The API server does not report why."
        time.sleep(INTERVAL)
    return ""


def remove(module: AnsibleModule, cluster: Cluster) -> dict[str, Any]:
    path = f"{NAMESPACES_PATH}/{module.params['name']}"

    def attempt() -> dict[str, Any]:
        namespace = cluster.get(path)
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return {"changed": False, "stays": False, "reason": "", "others": [], "own": []}
        judged = judge(cluster, module.params, namespace)
        if not judged["stays"] and not module.check_mode:
            # The deletion is valid only for the state that was read.
            cluster.delete(path, namespace["metadata"]["resourceVersion"])
        return {"changed": not judged["stays"], **judged}

    result = retry_conflicts(attempt)
    if not result["stays"]:
        before = {"namespace": module.params["name"], "objects": result["own"]} if result["changed"] else {}
        result["diff"] = {"before": before, "after": {}}
        remaining = "" if module.check_mode else wait_for_removal(cluster, path, module.params["wait_timeout"])
        if remaining:
            raise TaskError(
                f"Namespace {module.params['name']} is deleted, but still exists after "
                f"{module.params['wait_timeout']} s: {remaining} Remove what the message names, or wait, then run the "
                "playbook again.",
                result,
            )
    return result


def main() -> None:
    module = cluster_module(
        {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["absent"], "default": "absent"},
            "removed_names": {"type": "list", "elements": "str"},
            "removed_objects": {"type": "list", "elements": "str", "default": []},
            "of_operator": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
        }
    )
    with reporting_writes(module) as cluster:
        module.exit_json(**remove(module, cluster))


if __name__ == "__main__":
    main()
