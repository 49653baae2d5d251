#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: peerpod_limit
version_added: "0.1.0"
short_description: Read or set how many peer pod VMs each worker node may have
description:
  - >-
    Sets C(spec.limit) of a PeerPodConfig, which the nodes that it selects advertise as the extended resource
    C(kata.peerpods.io/vm) and the scheduler keeps to.
  - >-
    Writes that one field and nothing else, and only if the PeerPodConfig is still as it was read: when somebody else
    wrote in between, it reads and decides again. What others set beside the limit stays.
  - >-
    Refuses to set a limit where another PeerPodConfig selects one of the same nodes, since the limit of such a node is
    whatever was written last.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  name:
    description:
      - The name of the PeerPodConfig. The operator makes it when a KataConfig enables peer pods.
    type: str
    default: peerpodconfig-openshift
  namespace:
    description:
      - The namespace of the PeerPodConfig.
    type: str
    default: openshift-sandboxed-containers-operator
  limit:
    description:
      - The number of peer pod VMs per node, a whole number of 0 or more.
      - When left out, the PeerPodConfig keeps the one it has; with O(wait) that one is waited for.
    type: str
  protect:
    description:
      - >-
        Refuse to lower the limit below the number of peer pods that run on a node now. Without it that is a warning:
        the pods keep running, and the node gets no new ones until it has fewer than the limit.
    type: bool
    default: false
  wait:
    description:
      - >-
        Wait until each selected node advertises the limit in its C(status.allocatable). Nodes are watched, not polled.
        Check mode does not wait.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait.
    type: int
    default: 300
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it writes nothing.
    support: full
  diff_mode:
    description: Shows the limit before and after in diff mode.
    support: full
notes:
  - >-
    Counting the peer pods takes a list of the cluster's running pods, the only costly request here. It is made only
    when the limit is lowered, for that is when it can fall below them.
seealso:
  - module: osc.peerpods.cluster_info
"""

EXAMPLES = r"""
- name: Allow 20 peer pods on each node
  osc.peerpods.peerpod_limit:
    limit: 20

- name: Allow 5 peer pods on each node, but not fewer than run there, and wait until it is in force
  osc.peerpods.peerpod_limit:
    limit: 5
    protect: true
    wait: true
    wait_timeout: 120

- name: Let no new peer pod start
  osc.peerpods.peerpod_limit:
    limit: 0

- name: Read the limit and how many nodes advertise it
  osc.peerpods.peerpod_limit:
  register: peer_pods
"""

RETURN = r"""
before:
  description: The limit as it was, null where none was set or what was set is not a whole number.
  returned: when the PeerPodConfig was found
  type: int
  sample: 10
after:
  description: The limit as it is now, or would be without check mode.
  returned: when the PeerPodConfig was found
  type: int
  sample: 20
nodes:
  description: The nodes that the PeerPodConfig selects, as they were when the module ended.
  returned: when the PeerPodConfig was found
  type: list
  elements: dict
  contains:
    name:
      description: The node's name.
      type: str
    allocatable:
      description: How many peer pods the node advertises to allow, null where it does not advertise any number.
      type: int
    used:
      description: How many peer pods ran on the node before the change, null where the limit was not lowered.
      type: int
  sample:
    - name: ip-10-0-1-23.eu-central-1.compute.internal
      allocatable: 20
      used: null
advertised_nodes:
  description: How many of the nodes advertise the limit.
  returned: when the PeerPodConfig was found
  type: int
  sample: 3
"""

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    cluster_module,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    CONFIGS_PATH,
    NODES_PATH,
    PODS_PATH,
    RUNNING_PODS,
    LimitError,
    current_limit,
    explain_lagging,
    explain_overfull,
    find_config,
    in_force,
    label_selector,
    lagging,
    node_rows,
    node_selector,
    parse_limit,
    peer_pods_by_node,
    plan_limit,
    refuse_overlap,
    whole_number,
)


def peerpodconfigs(cluster):
    try:
        return list(cluster.list(CONFIGS_PATH))
    except ClusterError as error:
        if error.status != 404:
            raise
        raise LimitError(
            "This cluster does not know PeerPodConfigs (confidentialcontainers.org/v1alpha1). The operator for "
            "OpenShift sandboxed containers brings them: run the role osc.peerpods.operator_install first."
        ) from error


def run(module):
    params = module.params
    wanted = None if params["limit"] is None else parse_limit(params["limit"])
    cluster = Cluster(module)

    def attempt():
        configs = peerpodconfigs(cluster)
        config = find_config(configs, params["namespace"], params["name"])
        selector = label_selector(node_selector(config))
        nodes = cluster.follow(NODES_PATH, labelSelector=selector)
        refuse_overlap(config, configs, nodes.objects)
        limit = current_limit(config) if wanted is None else wanted
        plan = plan_limit(config, wanted)
        used = overfull = None
        if plan.lowers:
            used = peer_pods_by_node(cluster.list(PODS_PATH, fieldSelector=RUNNING_PODS))
            overfull = explain_overfull(limit, used, nodes.objects)
            if overfull and params["protect"]:
                raise LimitError(
                    f"{overfull} Nothing was changed, as protect asks: stop peer pods first or choose a higher limit."
                )
        if plan.changed and not module.check_mode:
            cluster.patch(plan.path, plan.patch)
        return limit, plan, nodes, selector, used, overfull

    limit, plan, nodes, selector, used, overfull = retry_conflicts(attempt)
    if overfull:
        module.warn(f"{overfull} They keep running; such a node gets no new one until it has room.")
    arrived = (
        module.check_mode
        or not params["wait"]
        or nodes.wait(lambda seen: in_force(seen, limit), params["wait_timeout"])
    )
    result = {
        "changed": plan.changed,
        "before": whole_number(plan.before),
        "after": limit,
        "nodes": node_rows(nodes.objects, used),
        "advertised_nodes": len(nodes.objects) - len(lagging(nodes.objects, limit)),
        "diff": plan.diff,
    }
    if not arrived:
        why = explain_lagging(nodes.objects, limit, selector, params["wait_timeout"])
        module.fail_json(msg=why, **result)
    module.exit_json(**result)


def main():
    module = cluster_module(
        {
            "name": {"type": "str", "default": "peerpodconfig-openshift"},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "limit": {"type": "str"},
            "protect": {"type": "bool", "default": False},
            "wait": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
        }
    )
    try:
        run(module)
    except (ClusterError, LimitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
