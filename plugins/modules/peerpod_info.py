#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: peerpod_info
version_added: "0.1.0"
short_description: Gather the limits, slots and peer pods of a cluster
description:
  - >-
    Reads the limits of all pools of nodes from where the operator stores them, what the nodes advertise of the extended
    resource C(kata.peerpods.io/vm), where peer pods run, and which peer pods are pending and why.
  - >-
    Takes seven requests on operators up to 1.8, and up to three more on newer ones: the ClusterRoleBinding of the
    agent, the PeerPodConfigs, ClusterServiceVersions and DaemonSets of the operator, on newer ones the Deployment of
    the agent and the ConfigMaps C(peerpods-limits) and C(peer-pods-cm), the ConfigMap of O(cloud_capacity), the Nodes
    and the Pods. If a node has a taint of its own, O(runtime_classes) are read as well. Each list takes one more
    request for every further 500 objects.
  - >-
    If the operator is not installed, RV(pools) is empty and RV(msg) describes what to do. The other values are
    returned.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  namespace:
    description:
      - >-
        The namespace of the operator, which has the limits. If not set, C(openshift-sandboxed-containers-operator), and
        on operators up to 1.8 the PeerPodConfigs of every namespace. An operator in another namespace is then not
        found.
      - Nodes and pods are those of the whole cluster in any case.
    type: str
  runtime_classes:
    description:
      - >-
        The RuntimeClasses whose pods are peer pods. A pod that requests the extended resource is a peer pod, whatever
        its RuntimeClass.
    type: list
    elements: str
    default: [kata-remote]
  cloud_capacity:
    description:
      - >-
        The ConfigMap with the number of peer pods that the cloud has room for. The role
        P(osc.peerpods.peerpodconfig_rollout#role) writes it, and the node capacity agent limits the nodes to it. Its
        smallest value is shared among the nodes of the pools of a namespace, as by M(osc.peerpods.peerpod_limit).
      - If it does not exist, only the limits apply. The same is true, with a warning, if the user may not read it.
    type: dict
    suboptions:
      namespace:
        description:
          - >-
            The namespace of the ConfigMap, which is that of the agent. If the role P(osc.peerpods.node_capacity#role)
            deployed the agent, the module finds it by its ClusterRoleBinding C(osc-peerpods-node-capacity), and fails
            if this option is another namespace.
          - Defaults to the namespace that was found, or to V(osc-peerpods).
        type: str
      name:
        description:
          - The name of the ConfigMap.
        type: str
        default: peerpods-cloud-capacity
  details:
    description:
      - >-
        Whether to also return RV(agent_namespace), RV(agent_deployed), RV(cloud_capacity) and RV(peer_pods_cm), which
        the role P(osc.peerpods.peerpodconfig_rollout#role) uses. Takes up to two more requests.
    type: bool
    default: false
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
notes:
  - >-
    An API server cannot select pods by RuntimeClass, so all pods that have not ended are read, 500 at a time, and only
    the required fields of peer pods are kept. On a two-core machine that also ran the API server, 1,000 pods of 6 kB
    took 6.4 MB of transfer and a quarter of a second. The memory use is that of one page, about 100 MB in total.
seealso:
  - module: osc.peerpods.peerpod_limit
  - module: osc.peerpods.cluster_info
"""

EXAMPLES = r"""
- name: Gather the room for peer pods
  osc.peerpods.peerpod_info:
  register: peer_pods

- name: Show the number of running, possible and pending peer pods
  ansible.builtin.debug:
    msg: >-
      {{ peer_pods.totals.used }} peer pods are on {{ peer_pods.totals.nodes }} nodes,
      {{ peer_pods.totals.free }} more fit, {{ peer_pods.totals.unscheduled }} wait for room

- name: Show why peer pods are pending
  ansible.builtin.debug:
    msg: "{{ item.namespace }}/{{ item.name }}: {{ item.message }}"
  loop: "{{ peer_pods.pending }}"

- name: Gather the pools of one namespace, and the pods of two RuntimeClasses
  osc.peerpods.peerpod_info:
    namespace: openshift-sandboxed-containers-operator
    runtime_classes: [kata-remote, kata-remote-cc]
"""

RETURN = r"""
operator:
  description: >-
    The installed operator, as in RV(osc.peerpods.cluster_features_info#module:operator); null if it is not installed.
  returned: success
  type: dict
  sample:
    version: 1.13.0
    known: true
    limit_in: peer-pods-cm
    advertiser: cloud-api-adaptor
msg:
  description: What to do if the operator is not installed, else null.
  returned: always
  type: str
  sample: null
pools:
  description: >-
    The pools of nodes with a limit of their own. C(default) is the operator's own pool on operators from 1.9 on.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the pool.
      type: str
    namespace:
      description: The namespace of the operator, or of the PeerPodConfig.
      type: str
    store:
      description: The object that stores the limit.
      type: dict
      contains:
        kind:
          description: V(PeerPodConfig) or V(ConfigMap).
          type: str
        namespace:
          description: The namespace of that object.
          type: str
        name:
          description: The name of that object.
          type: str
        key:
          description: The key of the ConfigMap's data, null for a PeerPodConfig.
          type: str
    limit:
      description: >-
        The number of peer pods per node, null if the stored limit is not valid. If no limit is stored, it is the
        default of the product: 1 for a PeerPodConfig, 10 for C(peer-pods-cm).
      type: int
    slots:
      description: >-
        The number that each node of the pool should advertise: the limit, or less if the cloud has no room for it. Null
        if RV(pools[].limit) is null.
      type: int
    cloud_bound:
      description: >-
        The name of the cloud capacity bound that reduces RV(pools[].slots) below the limit, null if no bound does.
      type: str
    node_selector:
      description: The labels of the nodes of the pool. Those of the operator's default if the pool has no selector.
      type: dict
    cloud_secret_name:
      description: The Secret with the cloud's credentials.
      type: str
    config_map_name:
      description: The ConfigMap with the cloud's settings.
      type: str
    instance_type:
      description: The instance type of the VMs, null if it is not set.
      type: str
    setup_completed:
      description: Whether the operator reports that the pool is set up.
      type: bool
    selected_nodes:
      description: The number of nodes of the pool.
      type: int
    advertised_nodes:
      description: The number of nodes of the pool that advertise RV(pools[].slots).
      type: int
  sample:
    - name: peerpodconfig-openshift
      namespace: openshift-sandboxed-containers-operator
      store:
        kind: PeerPodConfig
        namespace: openshift-sandboxed-containers-operator
        name: peerpodconfig-openshift
        key: null
      limit: 2
      slots: 2
      cloud_bound: null
      node_selector:
        node-role.kubernetes.io/worker: ""
      cloud_secret_name: peer-pods-secret
      config_map_name: peer-pods-cm
      instance_type: null
      setup_completed: false
      selected_nodes: 3
      advertised_nodes: 3
cloud_bounds:
  description: >-
    For how many peer pods the cloud has room in total, running ones included, by the bounds in the ConfigMap of
    O(cloud_capacity).
  returned: success
  type: dict
  sample:
    instance-quota: 64
    subnet-addresses: 251
agent_namespace:
  description: The namespace of the node capacity agent and of the ConfigMap of O(cloud_capacity).
  returned: with O(details)
  type: str
  sample: osc-peerpods
agent_deployed:
  description: >-
    Whether the node capacity agent is deployed in RV(agent_namespace); null if the user may not read its Deployment, or
    in which namespace it is.
  returned: with O(details)
  type: bool
  sample: true
cloud_capacity:
  description: The ConfigMap of O(cloud_capacity); null if it does not exist or the user may not read it.
  returned: with O(details)
  type: dict
  contains:
    managed:
      description: Whether this collection created it, by its label C(app.kubernetes.io/part-of).
      type: bool
    own:
      description: >-
        The names in RV(cloud_capacity.data) that the role P(osc.peerpods.peerpodconfig_rollout#role) wrote.
      type: list
      elements: str
    data:
      description: The data of the ConfigMap, unchanged.
      type: dict
  sample:
    managed: true
    own: [instance-quota]
    data:
      instance-quota: "64"
peer_pods_cm:
  description: >-
    The data of the ConfigMap C(peer-pods-cm), with the operator's settings of the VMs; empty if it does not exist.
  returned: with O(details)
  type: dict
  sample:
    CLOUD_PROVIDER: aws
nodes:
  description: The nodes of a pool, and those that advertise the extended resource or have peer pods.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the node.
      type: str
    pools:
      description: >-
        The pools that select the node, each as namespace/name. With more than one, the limit of the node is ambiguous.
      type: list
      elements: str
    capacity:
      description: The peer pods in the C(status.capacity) of the node, null if it advertises none.
      type: int
    allocatable:
      description: The peer pods in the C(status.allocatable) of the node, which the scheduler uses.
      type: int
    used:
      description: The number of peer pods on the node, running or starting.
      type: int
    unaccounted:
      description: >-
        The number of peer pods on the node that do not request the extended resource, because they were not mutated.
        The scheduler does not count them.
      type: int
    blocked:
      description: >-
        Why the scheduler places no further peer pod on the node, although it advertises some: V(cordoned), V(not
        ready), or V(tainted) with its taints that no RuntimeClass of O(runtime_classes) tolerates. Tolerations of
        single pods do not count. Null if it can.
      type: str
    free:
      description: >-
        The number of further peer pods that the scheduler can place on the node, 0 if RV(nodes[].blocked) is set.
      type: int
  sample:
    - name: ip-10-0-0-10.eu-central-1.compute.internal
      pools: [openshift-sandboxed-containers-operator/peerpodconfig-openshift]
      capacity: 2
      allocatable: 2
      used: 2
      unaccounted: 0
      blocked: null
      free: 0
namespaces:
  description: The namespaces that have peer pods.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the namespace.
      type: str
    used:
      description: The number of its peer pods that are on a node.
      type: int
    unscheduled:
      description: The number of its peer pods that are not scheduled yet.
      type: int
  sample:
    - name: team-a
      used: 6
      unscheduled: 1
pending:
  description: The peer pods that do not run yet.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the pod.
      type: str
    namespace:
      description: The namespace of the pod.
      type: str
    node:
      description: The node of the pod, null if it is not scheduled yet.
      type: str
    reason:
      description: >-
        The reason in its condition C(PodScheduled) or, if it is scheduled, of its first waiting container. Null if its
        status has no reason (yet).
      type: str
    message:
      description: The message of this reason, if the status has one.
      type: str
  sample:
    - name: peer-006
      namespace: team-a
      node: null
      reason: Unschedulable
      message: >-
        0/3 nodes are available: 3 Insufficient kata.peerpods.io/vm. preemption: 0/3 nodes are available: 3 No
        preemption victims found for incoming pod.
totals:
  description: >-
    The number of RV(nodes), the sums of their values, and the number of peer pods that are not scheduled yet.
  returned: success
  type: dict
  sample:
    nodes: 3
    capacity: 6
    allocatable: 6
    used: 6
    unaccounted: 0
    free: 0
    unscheduled: 1
"""

import functools

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    NODES_PATH,
    PODS_PATH,
    RUNTIME_CLASSES_PATH,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    cluster_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import (
    cloud_bounds,
    own_bounds,
    read_cloud_capacity,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_reads import (
    Limits,
    explain_no_operator,
    read_agent,
    read_limits,
    read_settings,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import NAMESPACE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import has_mark
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import read_agent_placement
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import LIVE_PODS
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.usage import describe


def read_details(cluster: Cluster, namespace: str, agent_namespace: str, limits: Limits, capacity: dict | None) -> dict:
    """The further facts that the role peerpodconfig_rollout needs."""
    return {
        "agent_namespace": agent_namespace,
        "agent_deployed": limits.has_agent if limits.is_second else read_agent(cluster, agent_namespace),
        "cloud_capacity": capacity
        and {
            "managed": has_mark(capacity["metadata"]),
            "own": own_bounds(capacity),
            "data": capacity.get("data") or {},
        },
        "peer_pods_cm": (read_settings(cluster, namespace) if limits.settings is None else limits.settings) or {},
    }


def read_tolerations(module: AnsibleModule, cluster: Cluster) -> list[list[dict]]:
    """The tolerations that the API server adds to pods by RuntimeClass; none, with a warning, if unreadable."""
    try:
        existing = [cluster.get(f"{RUNTIME_CLASSES_PATH}/{name}") for name in module.params["runtime_classes"]]
    except ClusterError as error:
        if error.status != 403:
            raise
        module.warn(f"Which taints peer pods tolerate is unknown, so nodes with taints have no free slots: {error}")
        return []
    return [(item.get("scheduling") or {}).get("tolerations") or [] for item in existing if item]


def main() -> None:
    module = cluster_module(
        {
            "namespace": {"type": "str"},
            "runtime_classes": {"type": "list", "elements": "str", "default": ["kata-remote"]},
            "cloud_capacity": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "namespace": {"type": "str"},
                    "name": {"type": "str", "default": "peerpods-cloud-capacity"},
                },
            },
            "details": {"type": "bool", "default": False},
        }
    )
    params = module.params
    namespace = params["namespace"] or NAMESPACE
    try:
        cluster = Cluster(module)
        agent = read_agent_placement(cluster, params["cloud_capacity"]["namespace"])
        limits = read_limits(
            cluster,
            namespace,
            agent.namespace,
            everywhere=params["namespace"] is None,
            agent_is_located=agent.is_known,
        )
        capacity = read_cloud_capacity(module, cluster, agent.namespace, params["cloud_capacity"]["name"])
        facts = describe(
            limits.pools if limits.has_place else (),
            limits.configs or (),
            cluster.list(NODES_PATH),
            cluster.list(PODS_PATH, fieldSelector=LIVE_PODS),
            params["runtime_classes"],
            cloud_bounds((capacity or {}).get("data") or {}),
            functools.cache(lambda: read_tolerations(module, cluster)),
        )
        if params["details"]:
            facts |= read_details(cluster, namespace, agent.namespace, limits, capacity)
    except (ClusterError, TaskError) as error:
        module.fail_json(msg=str(error))
    for sentence in limits.unread:
        module.warn(sentence)
    module.exit_json(
        changed=False,
        operator=limits.operator and limits.operator.summary,
        msg=None if limits.has_place else explain_no_operator(namespace),
        **facts,
    )


if __name__ == "__main__":
    main()
