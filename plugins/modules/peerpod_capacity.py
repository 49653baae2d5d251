#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: peerpod_capacity
version_added: "0.1.0"
short_description: Remove the slots of peer pods from nodes
description:
  - >-
    Removes the extended resource C(kata.peerpods.io/vm) from the status of nodes on which the node capacity agent
    advertised it. If another program has written the resource of a node since, the node is not changed.
  - >-
    A node on which a cloud-api-adaptor pod runs, according to its annotation C(kata.peerpods.io/caa-owner), is not
    changed either: that pod advertises only when it starts.
  - >-
    When its limits disappear, as in an upgrade of the operator, the agent does not change what nodes advertise. Use
    this module after the operator is removed.
  - >-
    Takes one request for each 500 nodes, one for each node that is changed, and one for each 500 pods if
    cloud-api-adaptor has annotated a node.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  state:
    description:
      - With V(absent) the resource is removed.
    type: str
    choices: [absent]
    default: absent
  resource:
    description:
      - The extended resource.
    type: str
    default: kata.peerpods.io/vm
  managers:
    description:
      - The field managers whose entries are removed.
    type: list
    elements: str
    default: [peerpods-node-capacity]
  operator_namespace:
    description:
      - >-
        The namespace of an operator that has been removed, or would have been without check mode. The pods of
        cloud-api-adaptor in it end with the operator: they keep no slots.
    type: str
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it writes nothing.
    support: full
  diff_mode:
    description: Shows the capacity of each changed node before and after in diff mode.
    support: full
seealso:
  - module: osc.peerpods.peerpod_limit
  - module: osc.peerpods.cluster_features_info
"""

EXAMPLES = r"""
- name: Remove the slots that the agent advertised
  osc.peerpods.peerpod_capacity:
    state: absent
"""

RETURN = r"""
nodes:
  description: The names of the nodes that were changed, or would be without check mode. Also returned on failure.
  returned: always
  type: list
  elements: str
  sample: [ip-10-0-1-23.eu-central-1.compute.internal]
kept:
  description:
    - >-
      The names of the nodes that still advertise the resource, because another program wrote it, or a cloud-api-adaptor
      pod that runs.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NODES_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    cluster_module,
    reporting_writes,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import (
    adaptor_of,
    capacity_managers,
    running_pods,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import AGENT, EXTENDED_RESOURCE


def slots_of(node: dict, resource: str) -> str | None:
    return node.get("status", {}).get("capacity", {}).get(resource)


def living_adaptors(cluster: Cluster, nodes: list[dict], operator_namespace: str | None) -> set[str]:
    """The uids of the pods of which one may advertise on `nodes`. Lists them only if a node has the annotation."""
    if not any(map(adaptor_of, nodes)):
        return set()
    return {uid for uid, namespace in running_pods(cluster).items() if namespace != operator_namespace}


def is_removable(node: dict, resource: str, managers: set[str], living: set[str]) -> bool:
    """Whether only `managers` wrote the slots of a node, and no running cloud-api-adaptor counts on them: it writes
    them only when it starts."""
    return capacity_managers(node, resource) <= managers and adaptor_of(node) not in living


def remove(
    cluster: Cluster, node: dict, resource: str, managers: set[str], living: set[str], *, check_mode: bool
) -> str | None:
    """Remove the slots that `managers` advertise on a node; returns their number, or None if they stay or are gone
    already.

    The patch is valid only for the node that was read, because another program may advertise on it meanwhile. Kubelets
    update their nodes often: after a conflict, the node is read again.
    """
    path = f"{NODES_PATH}/{node['metadata']['name']}"
    first_read = [node]

    def attempt() -> str | None:
        current = first_read.pop() if first_read else cluster.get(path)
        slots = slots_of(current, resource) if current else None
        if current is None or slots is None or not is_removable(current, resource, managers, living):
            return None
        if adaptor_of(current) not in (None, adaptor_of(node)):
            # A pod that started after the pods were listed.
            return None
        if not check_mode:
            cluster.patch(
                f"{path}/status",
                {
                    "metadata": {"resourceVersion": current["metadata"]["resourceVersion"]},
                    "status": {"capacity": {resource: None}, "allocatable": {resource: None}},
                },
            )
        return slots

    try:
        return retry_conflicts(attempt)
    except ClusterError as error:
        if error.status != 404:
            raise
        return None


def main() -> None:
    module = cluster_module(
        {
            "state": {"type": "str", "choices": ["absent"], "default": "absent"},
            "resource": {"type": "str", "default": EXTENDED_RESOURCE},
            "managers": {"type": "list", "elements": "str", "default": [AGENT]},
            "operator_namespace": {"type": "str"},
        }
    )
    resource, managers = module.params["resource"], set(module.params["managers"])
    changed, kept, before = [], [], {}
    with reporting_writes(module) as cluster:
        try:
            nodes = [node for node in cluster.list(NODES_PATH) if slots_of(node, resource) is not None]
            owned = [node for node in nodes if capacity_managers(node, resource) <= managers]
            living = living_adaptors(cluster, owned, module.params["operator_namespace"])
            for node in nodes:
                name = node["metadata"]["name"]
                if not is_removable(node, resource, managers, living):
                    kept.append(name)
                    continue
                slots = remove(cluster, node, resource, managers, living, check_mode=module.check_mode)
                if slots is not None:
                    changed.append(name)
                    before[name] = slots
        except ClusterError as error:
            raise TaskError(str(error), {"nodes": changed}) from error
    module.exit_json(changed=bool(changed), nodes=changed, kept=kept, diff={"before": before, "after": {}})


if __name__ == "__main__":
    main()
