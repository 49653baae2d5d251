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
    C(kata.peerpods.io/vm) and the scheduler keeps to. Can also make such a PeerPodConfig for a pool of nodes, change
    the rest of its spec, and remove it.
  - >-
    Writes the fields that are given and nothing else, and only if the PeerPodConfig is still as it was read: when
    somebody else wrote in between, it reads and decides again. What others set beside them stays.
  - >-
    Refuses a PeerPodConfig whose nodes another one selects too, since the limit of such a node is whatever was written
    last: where there is a node that both select, and where one selector has all the labels of the other, so that each
    node that is ever to come would be selected twice. Selectors of different labels are fine as long as no node carries
    both; with each run that is looked at again.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  name:
    description:
      - The name of the PeerPodConfig. The operator makes this one when a KataConfig enables peer pods.
    type: str
    default: peerpodconfig-openshift
  namespace:
    description:
      - The namespace of the PeerPodConfig. It has to exist, and is the operator's, who looks nowhere else.
    type: str
    default: openshift-sandboxed-containers-operator
  state:
    description:
      - >-
        With V(present) the PeerPodConfig has what the other options say. One that does not exist is made if
        O(node_selector) is given; otherwise that is an error, since the operator makes its own.
      - With V(absent) there is none, and the nodes that only it selected may have no more peer pods.
    type: str
    choices: [present, absent]
    default: present
  limit:
    description:
      - The number of peer pod VMs per node, a whole number of 0 or more.
      - >-
        When left out, the PeerPodConfig keeps the one it has, a new one gets 10; with O(wait) that one is waited for.
    type: str
  node_selector:
    description:
      - >-
        The labels of the nodes that the PeerPodConfig is for, all of which a node must carry. Replaces the selector that
        is there. Write a label without a value as C(label: "").
      - An empty selector is refused. It would be for every node, the control plane's included.
    type: dict
  cloud_secret_name:
    description:
      - The Secret with the cloud's credentials. A new PeerPodConfig gets C(peer-pods-secret) where it is left out.
    type: str
  config_map_name:
    description:
      - The ConfigMap with the cloud's settings. A new PeerPodConfig gets C(peer-pods-cm) where it is left out.
    type: str
  instance_type:
    description:
      - The instance type of the VMs, as the cloud names it.
    type: str
  protect:
    description:
      - >-
        Refuse to lower the limit below the number of peer pods that run on a node now, and to take nodes out of every
        PeerPodConfig while peer pods run there. Without it that is a warning: the pods keep running, and the node gets
        no new ones until it has fewer than the limit.
    type: bool
    default: false
  wait:
    description:
      - >-
        Wait until each selected node advertises the limit in its C(status.allocatable), and until no node does any more
        that the PeerPodConfig selected before and none selects now. Nodes are watched, not polled. Check mode does not
        wait.
      - Where the cloud cannot hold as many peer pods, what O(cloud_capacity) leaves each node is waited for.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait.
    type: int
    default: 300
  cloud_capacity:
    description:
      - >-
        The ConfigMap by which the node capacity agent keeps the nodes to what the cloud can give, as the role
        P(osc.peerpods.peerpodconfig_rollout#role) fills it. The smallest bound that it names is shared evenly among the
        nodes that PeerPodConfigs of O(namespace) select, and what a node with a low limit leaves goes to the others.
      - >-
        It is read with O(wait) only, and where there is none the limits alone count. So they do, with a warning, where it
        may not be read.
    type: dict
    suboptions:
      namespace:
        description:
          - The namespace of the agent.
        type: str
        default: osc-peerpods
      name:
        description:
          - The name of the ConfigMap.
        type: str
        default: peerpods-cloud-capacity
      data:
        description:
          - Count on these bounds, each with the number of peer pods it is good for, instead of reading them.
          - Where it is empty, the limits alone count.
        type: dict
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it writes nothing.
    support: full
  diff_mode:
    description: Shows the limit and the other fields that are given before and after in diff mode.
    support: full
notes:
  - >-
    One task is for one PeerPodConfig. For several pools loop over them, as the examples do: each takes a list of the
    PeerPodConfigs, a list of its nodes and at most one write.
  - >-
    Counting the peer pods takes a list of the cluster's running pods, the only costly request here. It is made only
    when a node may end up with less than it has.
seealso:
  - module: osc.peerpods.peerpod_info
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

- name: Give two pools of nodes a limit each
  osc.peerpods.peerpod_limit:
    name: "peerpods-{{ item.pool }}"
    node_selector:
      example.com/pool: "{{ item.pool }}"
    limit: "{{ item.limit }}"
    wait: true
  loop:
    - pool: general
      limit: 10
    - pool: memory
      limit: 4
  loop_control:
    label: "{{ item.pool }}"

- name: Use larger VMs in one of them
  osc.peerpods.peerpod_limit:
    name: peerpods-memory
    instance_type: r6i.2xlarge

- name: Have no peer pods in that pool any more, once none runs there
  osc.peerpods.peerpod_limit:
    name: peerpods-memory
    state: absent
    protect: true
    wait: true
"""

RETURN = r"""
before:
  description: >-
    The limit as it was, null where none was set or what was set is not a whole number, and where there was no
    PeerPodConfig.
  returned: success, and when waiting failed
  type: int
  sample: 10
after:
  description: The limit as it is now, or would be without check mode; null with O(state=absent).
  returned: success, and when waiting failed
  type: int
  sample: 20
nodes:
  description: >-
    The nodes that the PeerPodConfig selects (with O(state=absent): selected), as they were when the module ended.
  returned: success, and when waiting failed
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
      description: >-
        How many peer pods ran on the node before the change, null where no node could end up with less than it had.
      type: int
  sample:
    - name: ip-10-0-1-23.eu-central-1.compute.internal
      allocatable: 20
      used: null
cloud:
  description: >-
    What the smallest bound of O(cloud_capacity) leaves the nodes; null where there is none or nobody looked.
  returned: success, and when waiting failed
  type: dict
  contains:
    bound:
      description: The name of the bound.
      type: str
    total:
      description: How many peer pods it is good for, those that run included.
      type: int
    nodes:
      description: How many nodes the PeerPodConfigs of O(namespace) select.
      type: int
    limits:
      description: What the limits of these nodes add up to.
      type: int
    slots:
      description: What no node is to advertise more than, null where all limits fit.
      type: int
  sample:
    bound: instance-quota
    total: 64
    nodes: 3
    limits: 90
    slots: 21
advertised_nodes:
  description: >-
    How many of the nodes advertise the limit, or what RV(cloud) leaves of it; with O(state=absent), how many that no PeerPodConfig selects any more
    still advertise peer pods.
  returned: success, and when waiting failed
  type: int
  sample: 3
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ansible_collections.osc.peerpods.plugins.module_utils._cloud_bounds import (
    cloud_bounds,
    read_cloud_bounds,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    Collection,
    cluster_module,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    CONFIGS_PATH,
    NOT_SERVED,
    PODS_PATH,
    RUNNING_PODS,
    LimitError,
    Plan,
    as_planned,
    cloud_share,
    collection_path,
    current_limit,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    find_config,
    in_force,
    label_selector,
    lagging,
    limit_at,
    node_rows,
    node_selector,
    others_than,
    parse_limit,
    peer_pods_by_node,
    plan_absent,
    plan_present,
    refuse_bad_fields,
    refuse_overlap,
    released,
    slots_of,
    still_advertising,
    whole_number,
)
from ansible_collections.osc.peerpods.plugins.module_utils._worker_nodes import NODES_PATH

# What a task's options are called in the spec of a PeerPodConfig.
FIELDS = {
    "limit": "limit",
    "node_selector": "nodeSelector",
    "cloud_secret_name": "cloudSecretName",
    "config_map_name": "configMapName",
    "instance_type": "instanceType",
}


@dataclass(frozen=True)
class Target:
    """A plan with what there is to watch once it has come true.

    `nodes` are to advertise `limit`, and of those in `left` (which the PeerPodConfig is to select
    no more) none that none of the other `configs` selects is to advertise any; either is None
    where there is nothing to wait for. The cloud's `bounds` are shared with the nodes of the other
    configs, whose limits are `elsewhere`.
    """

    plan: Plan
    configs: list[dict]
    limit: int | None = None
    nodes: Collection | None = None
    left: Collection | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)
    elsewhere: tuple[int, ...] = ()

    def share(self, nodes):
        """What the cloud leaves each of `nodes`, as long as these are those to advertise the limit."""
        return cloud_share([*[self.limit] * len(nodes), *self.elsewhere], self.bounds)


def peerpodconfigs(cluster):
    """All there are, or None where the cluster does not know what they are."""
    try:
        return list(cluster.list(CONFIGS_PATH))
    except ClusterError as error:
        if error.status != 404:
            raise
        return None


def nodes_of(cluster, config):
    return cluster.follow(NODES_PATH, labelSelector=label_selector(node_selector(config)))


def read_bounds(module, cluster):
    """What the cloud can hold, as far as it matters for this run."""
    given = module.params["cloud_capacity"]
    if given["data"] is not None:
        return cloud_bounds(given["data"])
    if not module.params["wait"]:
        return {}
    return read_cloud_bounds(module, cluster, given["namespace"], given["name"])


def limits_of(cluster, configs):
    """What `configs` allow on each node that they select, the smallest where there are several."""
    found = {}
    for config in configs:
        for node in nodes_of(cluster, config).objects:
            found.setdefault(node["metadata"]["uid"], []).append(limit_at(node, config))
    return tuple(map(min, found.values()))


def target_present(params, cluster, fields, bounds):
    namespace, name = params["namespace"], params["name"]
    configs = peerpodconfigs(cluster)
    if configs is None:
        raise LimitError(NOT_SERVED)
    config = find_config(configs, namespace, name)
    plan = plan_present(config, namespace, name, fields)
    wanted = as_planned(config, plan)
    others = others_than(configs, namespace, name)
    nodes = nodes_of(cluster, wanted)
    refuse_overlap(wanted, others, nodes.objects)
    # The agent looks at no other namespace.
    sharing = [other for other in others if other["metadata"]["namespace"] == namespace]
    return Target(
        plan,
        [*others, wanted],
        limit=current_limit(wanted),
        nodes=nodes,
        left=nodes_of(cluster, config) if plan.moves else None,
        bounds=bounds,
        elsewhere=limits_of(cluster, sharing) if bounds else (),
    )


def target_absent(params, cluster):
    namespace, name = params["namespace"], params["name"]
    configs = peerpodconfigs(cluster) or []
    config = find_config(configs, namespace, name)
    return Target(
        plan_absent(config, namespace, name),
        others_than(configs, namespace, name),
        left=nodes_of(cluster, config) if config else None,
    )


def explain_loss(target, used):
    """A sentence where nodes are to allow fewer peer pods than run there, else None."""
    said = [
        target.nodes and explain_overfull(target.limit, used, target.nodes.objects),
        target.left and explain_left_over(used, released(target.left.objects, target.configs)),
    ]
    return " ".join(filter(None, said)) or None


def write(cluster, plan):
    if plan.before is None:
        cluster.create(collection_path(plan.namespace), plan.body)
    elif plan.after is None:
        cluster.delete(plan.path, plan.resource_version)
    else:
        cluster.patch(plan.path, plan.patch)


def wait(target, seconds):
    """Why it did not come into force within `seconds`, or None where it did."""
    deadline = time.monotonic() + seconds
    if target.nodes and not target.nodes.wait(
        lambda seen: in_force(seen, slots_of(target.limit, target.share(seen))),
        deadline - time.monotonic(),
    ):
        selector = label_selector(node_selector(target.configs[-1]))
        nodes = target.nodes.objects
        return explain_lagging(nodes, target.limit, selector, seconds, target.share(nodes))
    if target.left and not target.left.wait(
        lambda seen: not still_advertising(seen, target.configs), deadline - time.monotonic()
    ):
        advertising = still_advertising(target.left.objects, target.configs)
        return explain_still_advertising(advertising, seconds)
    return None


def result_of(target, used):
    plan = target.plan
    followed = target.nodes or target.left
    nodes = followed.objects if followed else []
    share = target.share(nodes)
    if target.limit is None:
        advertised_nodes = len(still_advertising(nodes, target.configs))
    else:
        advertised_nodes = len(nodes) - len(lagging(nodes, slots_of(target.limit, share)))
    return {
        "changed": plan.changed,
        "before": whole_number((plan.before or {}).get("limit")),
        "after": target.limit,
        "nodes": node_rows(nodes, used),
        "cloud": share and asdict(share),
        "advertised_nodes": advertised_nodes,
        "diff": plan.diff,
    }


def run(module):
    params = module.params
    refuse_bad_fields(params)
    fields = {FIELDS[option]: params[option] for option in FIELDS if params[option] is not None}
    if "limit" in fields:
        fields["limit"] = str(parse_limit(fields["limit"]))
    cluster = Cluster(module)
    bounds = read_bounds(module, cluster) if params["state"] == "present" else {}

    def attempt():
        if params["state"] == "absent":
            target = target_absent(params, cluster)
        else:
            target = target_present(params, cluster, fields, bounds)
        used = loss = None
        if target.plan.lowers:
            used = peer_pods_by_node(cluster.list(PODS_PATH, fieldSelector=RUNNING_PODS))
            loss = explain_loss(target, used)
            if loss and params["protect"]:
                raise LimitError(
                    f"{loss} Nothing was changed, as protect asks: stop peer pods first or choose a higher limit."
                )
        if target.plan.changed and not module.check_mode:
            write(cluster, target.plan)
        return target, used, loss

    target, used, loss = retry_conflicts(attempt)
    if loss:
        module.warn(f"{loss} They keep running; such a node gets no new one until it has room.")
    if params["wait"] and not module.check_mode:
        try:
            failure = wait(target, params["wait_timeout"])
        except ClusterError as error:
            failure = str(error)
        if failure:
            module.fail_json(msg=failure, **result_of(target, used))
    module.exit_json(**result_of(target, used))


def main():
    module = cluster_module(
        {
            "name": {"type": "str", "default": "peerpodconfig-openshift"},
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "limit": {"type": "str"},
            "node_selector": {"type": "dict"},
            "cloud_secret_name": {"type": "str"},
            "config_map_name": {"type": "str"},
            "instance_type": {"type": "str"},
            "protect": {"type": "bool", "default": False},
            "wait": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
            "cloud_capacity": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "namespace": {"type": "str", "default": "osc-peerpods"},
                    "name": {"type": "str", "default": "peerpods-cloud-capacity"},
                    "data": {"type": "dict"},
                },
            },
        }
    )
    try:
        run(module)
    except (ClusterError, LimitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
