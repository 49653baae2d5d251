#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: peerpod_limit
version_added: "0.1.0"
short_description: Read or set the limit of peer pods per node
description:
  - >-
    Sets the limit of a pool of nodes, which each of its nodes advertises as the extended resource
    C(kata.peerpods.io/vm). The scheduler places no more peer pods than that on a node. Can also create and remove
    pools.
  - >-
    On operators up to 1.8 a pool is a PeerPodConfig, and the limit its C(spec.limit). On operators from 1.9 on, the
    operator has one pool, C(default): its limit is C(PEERPODS_LIMIT_PER_NODE) in the ConfigMap C(peer-pods-cm), which
    cloud-api-adaptor reads only when it starts.
  - >-
    If the node capacity agent of the role P(osc.peerpods.node_capacity#role) is deployed on operators from 1.9 on,
    limits are stored in the ConfigMap C(peerpods-limits) in O(agent_namespace) instead. A change then restarts no
    cloud-api-adaptor pod and takes effect within seconds, and there can be further pools. PeerPodConfigs that an
    upgrade left behind stay pools.
  - >-
    Without the agent, on operators from 1.9 on, a change of the limit takes effect only with a restart of the
    cloud-api-adaptor pods, which loses the peer pods of their nodes. O(disruption) decides about these nodes. Only pods
    that started before the change, and pods of nodes that advertise another number, are restarted.
  - >-
    Writes only the fields that are set, and only if the object has not changed since it was read: after a conflict, the
    module reads and plans again. All other fields of the object stay.
  - >-
    Rejects a pool that overlaps with another pool, because the limit of a node in both would be ambiguous. Pools
    overlap if a node exists that both select, or if one selector has all labels of the other. Selectors of different
    labels are accepted as long as no node matches both. The operator's own pool C(default) has the nodes that no other
    pool selects.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  name:
    description:
      - >-
        The name of the pool. The default is the operator's own pool: on operators up to 1.8 the PeerPodConfig that the
        operator creates when a KataConfig enables peer pods, on newer operators the pool C(default), which accepts both
        names.
    type: str
    default: peerpodconfig-openshift
  namespace:
    description:
      - The namespace of the operator. Must exist.
    type: str
    default: openshift-sandboxed-containers-operator
  state:
    description:
      - >-
        With V(present) the pool has the limit and the fields that are set. A pool that does not exist is created if
        O(node_selector) is set.
      - >-
        With V(absent) the pool does not exist. Its nodes get the limit of the operator's own pool if that selects them,
        else none.
      - >-
        On operators from 1.9 on, V(absent) for the operator's own pool removes its entry in C(peerpods-limits), so that
        the limit of C(peer-pods-cm) applies again.
    type: str
    choices: [present, absent]
    default: present
  limit:
    description:
      - The number of peer pod VMs per node, a whole number of 0 or more.
      - If not set, the pool keeps its limit, and a new pool gets 10.
    type: str
  node_selector:
    description:
      - >-
        The labels of the nodes of the pool, all of which a node must have. Replaces the selector that the pool has.
        Write a label without a value as C(label: "").
      - An empty selector is rejected, because it selects every node, the control plane's included.
      - >-
        Rejected on operators from 1.9 on for the operator's own pool, and for any pool if the agent is not deployed.
    type: dict
  cloud_secret_name:
    description:
      - The Secret with the cloud's credentials. A new PeerPodConfig gets C(peer-pods-secret) if not set.
      - Rejected on operators from 1.9 on, which always read C(peer-pods-secret).
    type: str
  config_map_name:
    description:
      - The ConfigMap with the cloud's settings. A new PeerPodConfig gets C(peer-pods-cm) if not set.
      - Rejected on operators from 1.9 on, which always read C(peer-pods-cm).
    type: str
  instance_type:
    description:
      - The instance type of the VMs, as the cloud names it.
      - >-
        Rejected on operators from 1.9 on, which read it from C(peer-pods-cm). The role
        P(osc.peerpods.operator_install#role) writes it.
    type: str
  protect:
    description:
      - >-
        Reject a limit below the number of peer pods that run on a node now, and a change that takes nodes out of every
        pool while peer pods run there. If V(false), only a warning is issued: the pods keep running, and no new peer
        pod is placed on the node until it has fewer than the limit.
    type: bool
    default: false
  disruption:
    description:
      - >-
        What to do if cloud-api-adaptor pods must be restarted for the limit to take effect, on operators from 1.9 on
        without the agent. Nodes without peer pods are restarted first.
      - >-
        Also what to do on operators up to 1.8 if nodes would lose cloud-api-adaptor: 1.7 and 1.8 run it only on the
        nodes of the PeerPodConfig that was written last, and removing the PeerPodConfig that owns its DaemonSet removes
        it.
      - V(refuse) changes nothing if peer pods would be lost, and lists them, or if nodes would lose cloud-api-adaptor.
      - V(wait) waits up to O(wait_timeout) seconds for the peer pods of a node to end.
      - V(allow) restarts the pods, and loses the peer pods of their nodes.
    type: str
    choices: [wait, refuse, allow]
    default: refuse
  wait:
    description:
      - >-
        Wait until each node of the pool advertises the limit in its C(status.allocatable), and until the nodes that the
        change removes from every pool advertise no peer pods. Nodes are watched, not polled. Check mode does not wait.
      - Nodes that are not Ready are not waited for, unless all are. A warning names them.
      - >-
        If the cloud has no room for that many peer pods, each node must advertise its share of O(cloud_capacity)
        instead.
      - >-
        With the agent, a node whose cloud-api-adaptor pod is not Ready advertises less than its limit. The message
        names these nodes if the limit is not in force in time.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait.
    type: int
    default: 300
  runtime_classes:
    description:
      - Pods of these RuntimeClasses are peer pods, and so are pods that request C(kata.peerpods.io/vm).
    type: list
    elements: str
    default: [kata-remote]
  agent_namespace:
    description:
      - >-
        The namespace of the node capacity agent. If the role P(osc.peerpods.node_capacity#role) deployed it, the module
        finds it by its ClusterRoleBinding C(osc-peerpods-node-capacity), and fails if this option is another namespace.
      - Defaults to the namespace that was found, or to V(osc-peerpods).
    type: str
  agent_deployed:
    description:
      - >-
        Whether the node capacity agent is deployed. If not set, it is deployed if its Deployment exists in
        O(agent_namespace). Set it in a play that deploys or removes the agent, because check mode does not.
    type: bool
  cloud_capacity:
    description:
      - >-
        The ConfigMap with the number of peer pods that the cloud has room for. The role
        P(osc.peerpods.peerpodconfig_rollout#role) writes it, and the node capacity agent limits the nodes to it. Its
        smallest bound is shared evenly among the nodes of the pools of O(namespace). The part that a node with a low
        limit does not use goes to the other nodes.
      - >-
        It is read with O(wait) only. If it does not exist, only the limits apply. The same is true, with a warning, if
        the user may not read it.
    type: dict
    suboptions:
      namespace:
        description:
          - The namespace of the ConfigMap. Defaults to O(agent_namespace).
        type: str
      name:
        description:
          - The name of the ConfigMap.
        type: str
        default: peerpods-cloud-capacity
      data:
        description:
          - Use these bounds, each with the number of peer pods it allows, instead of reading the ConfigMap.
          - If it is empty, only the limits apply.
        type: dict
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it writes nothing.
    support: full
  diff_mode:
    description: Shows what is stored before and after in diff mode.
    support: full
notes:
  - >-
    Reading takes five requests on operators up to 1.8: the ClusterRoleBinding of the agent, the PeerPodConfigs, the
    operator's ClusterServiceVersions and DaemonSets, and the nodes. On newer operators it takes up to three more: the
    agent's Deployment, C(peerpods-limits) if the agent is deployed, and C(peer-pods-cm) if C(peerpods-limits) has no
    entry for the operator's own pool. A change takes one more request, and so does a watch.
  - >-
    A user without write permissions can read a limit. A user who may not list ClusterServiceVersions or DaemonSets gets
    what the other objects show. A user who may not read the ClusterRoleBinding of the agent must set
    O(agent_namespace), unless it is V(osc-peerpods).
  - >-
    Counting the peer pods takes a list of the cluster's running pods, which is the only expensive request of this
    module. It is sent only if the change could lower what a node advertises.
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

- name: Prevent the start of new peer pods
  osc.peerpods.peerpod_limit:
    limit: 0

- name: Read the limit and how many nodes advertise it
  osc.peerpods.peerpod_limit:
  register: peer_pods

- name: Set the limits of two pools of nodes
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

- name: Use larger VMs in the pool peerpods-memory (operators up to 1.8)
  osc.peerpods.peerpod_limit:
    name: peerpods-memory
    instance_type: r6i.2xlarge

- name: Remove the pool peerpods-memory once no peer pod runs there
  osc.peerpods.peerpod_limit:
    name: peerpods-memory
    state: absent
    protect: true
    wait: true
"""

RETURN = r"""
pool:
  description: The name of the pool; null with O(state=absent) if it did not exist.
  returned: success, and when waiting failed
  type: str
  sample: default
store:
  description: Where the limit is stored, with O(state=absent) where it was; null if the pool did not exist.
  returned: success, and when waiting failed
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
  sample:
    kind: ConfigMap
    namespace: osc-peerpods
    name: peerpods-limits
    key: default
operator:
  description: The operator, null if none of its objects can be read.
  returned: success, and when waiting failed
  type: dict
  contains:
    version:
      description: Its version, null if it cannot be read.
      type: str
    known:
      description: >-
        Whether the collection was tested with this version. If V(false), it is treated as the newest known version.
      type: bool
    limit_in:
      description: Where it stores the limit of its own pool, V(PeerPodConfig) or V(peer-pods-cm).
      type: str
    advertiser:
      description: The program of the product that advertises the limit.
      type: str
  sample:
    version: 1.13.0
    known: true
    limit_in: peer-pods-cm
    advertiser: cloud-api-adaptor
before:
  description: >-
    The limit before the change; null if the stored value is not a valid limit, or if the pool did not exist. If no
    limit was stored, it is the default of the product: 1 for a PeerPodConfig, 10 for C(peer-pods-cm).
  returned: success, and when waiting failed
  type: int
  sample: 10
after:
  description: >-
    The limit after the change, or as it would be without check mode; null if it is not valid, or with O(state=absent)
    if the pool no longer exists.
  returned: success, and when waiting failed
  type: int
  sample: 20
nodes:
  description: >-
    The nodes of the pool, with O(state=absent) those that it had, as they were when the module ended.
  returned: success, and when waiting failed
  type: list
  elements: dict
  contains:
    name:
      description: The node's name.
      type: str
    allocatable:
      description: How many peer pods the node advertises, null if it does not advertise any number.
      type: int
    used:
      description: >-
        How many peer pods ran on the node before the change, null if the change cannot lower what a node
        advertises.
      type: int
  sample:
    - name: ip-10-0-1-23.eu-central-1.compute.internal
      allocatable: 20
      used: null
cloud:
  description: >-
    The smallest bound of O(cloud_capacity) and its effect on the nodes; null if there are no bounds or they were not
    read.
  returned: success, and when waiting failed
  type: dict
  contains:
    bound:
      description: The name of the bound.
      type: str
    total:
      description: How many peer pods it allows in total, running ones included.
      type: int
    nodes:
      description: How many nodes the pools of O(namespace) have.
      type: int
    limits:
      description: The sum of the limits of these nodes.
      type: int
    slots:
      description: The largest number that a node can advertise within the bound, null if all limits fit.
      type: int
  sample:
    bound: instance-quota
    total: 64
    nodes: 3
    limits: 90
    slots: 21
advertised_nodes:
  description: >-
    How many of the nodes advertise the limit, or their share of RV(cloud); 0 if the limit is not valid. If the pool no
    longer exists, how many nodes that no pool selects still advertise peer pods.
  returned: success, and when waiting failed
  type: int
  sample: 3
adaptor:
  description: >-
    What was done to the cloud-api-adaptor pods, as RV(osc.peerpods.adaptor_config#module:adaptor); null if the limit
    needs no restart.
  returned: success, and when waiting failed or peer pods would be lost
  type: dict
  sample: null
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._adaptor.apply import AdaptorError, apply_settings, is_held
from ansible_collections.osc.peerpods.plugins.module_utils._adaptor.apply import peer_pods_by_node as names_of_peer_pods
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NODES_PATH, PODS_PATH, label_selector
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    Collection,
    TaskError,
    cluster_module,
    reporting_writes,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import (
    CloudShare,
    cloud_bounds,
    cloud_share,
    read_cloud_bounds,
    slots_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_plan import (
    Change,
    LimitError,
    Plan,
    adaptor_moves,
    explain_adaptor_moves,
    parse_limit,
    plan_config,
    plan_config_absent,
    plan_entry,
    plan_entry_absent,
    plan_settings,
    refuse_bad_fields,
    refuse_overlap,
    refuse_second_generation_fields,
    refuse_without_agent,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_reads import (
    Limits,
    explain_no_operator,
    name_of_pool,
    read_agent,
    read_limits,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    DEFAULT_POOL,
    LIMIT_KEY,
    LIMITS,
    RUNTIME_CLASS,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.node_slots import (
    allowed,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    in_force,
    is_down,
    lagging,
    node_rows,
    nodes_without_adaptor,
    released,
    still_advertising,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import (
    AGENT_BINDING,
    read_agent_placement,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import RUNNING_PODS, peer_pods_by_node
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    CONFIG_MAP,
    Pool,
    Store,
    deciding,
    find_config,
    others_than,
    pools_of_second,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The interval of polling while peer pods run. Seconds.
POLL_SECONDS = 2.0

# The fields in the spec of a PeerPodConfig, by the option that sets them.
FIELDS = {
    "limit": "limit",
    "node_selector": "nodeSelector",
    "cloud_secret_name": "cloudSecretName",
    "config_map_name": "configMapName",
    "instance_type": "instanceType",
}


@dataclass(frozen=True)
class Target:
    """A change, and the nodes to watch after it.

    `pools` are the pools of the cluster after the change, `nodes` the nodes that the pool then selects, and `left` the
    nodes that it selected before: those that no pool selects must stop to advertise. `nodes` and `left` are None if
    there is nothing to wait for. The cloud's `bounds` are shared with the nodes of the other pools, whose limits are
    `elsewhere`.
    """

    limits: Limits
    change: Change
    pools: list[Pool]
    nodes: Collection | None = None
    left: Collection | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)
    elsewhere: tuple[int, ...] = ()

    @property
    def limit(self) -> int | None:
        return self.change.after.limit if self.change.after else None

    def members(self, nodes: Iterable[dict]) -> list[dict]:
        """The `nodes` whose limit the pool decides."""
        return [node for node in nodes if self.change.after in deciding(node, self.pools)]

    def expected(self, nodes: Iterable[dict]) -> list[dict]:
        """The members that must advertise the limit now. A node that is down advertises it after it has recovered."""
        members = self.members(nodes)
        return [node for node in members if not is_down(node)] or members

    @property
    def lagging(self) -> frozenset[str]:
        """The names of the pool's nodes that do not advertise its limit."""
        if self.nodes is None or self.limit is None:
            return frozenset()
        return frozenset(lagging(self.members(self.nodes.objects), self.limit))

    def fallen(self, nodes: Iterable[dict]) -> tuple[Pool | None, list[dict]]:
        """The fallback pool and the `nodes` that it has again; no nodes if the pool does not exist or has no limit."""
        fallback = next((pool for pool in self.pools if pool.is_fallback), None)
        if fallback is None or fallback.limit is None:
            return None, []
        return fallback, [node for node in nodes if deciding(node, self.pools) == [fallback]]

    def share(self, nodes: Sequence[dict]) -> CloudShare | None:
        """The share of the cloud's capacity for each of `nodes`, the nodes of the pool."""
        own = [] if self.limit is None else [self.limit] * len(nodes)
        return cloud_share([*own, *self.elsewhere], self.bounds)


def nodes_of(cluster: Cluster, pool: Pool) -> Collection:
    return cluster.follow(NODES_PATH, labelSelector=label_selector(pool.selector or {}))


def read_bounds(module: AnsibleModule, cluster: Cluster) -> dict[str, int]:
    """The bounds of the cloud that matter for this run."""
    option = module.params["cloud_capacity"]
    if option["data"] is not None:
        return cloud_bounds(option["data"])
    if not module.params["wait"]:
        return {}
    namespace = option["namespace"] or module.params["agent_namespace"]
    return read_cloud_bounds(module, cluster, namespace, option["name"])


def limits_elsewhere(cluster: Cluster, pools: list[Pool], pool: Pool | None) -> tuple[int, ...]:
    """The limit of each node that the other `pools` select and `pool` does not."""
    limits = {}
    for other_pool in pools if pool is None else others_than(pools, pool):
        if other_pool.selector is None:
            continue
        for node in nodes_of(cluster, other_pool).objects:
            if pool not in deciding(node, pools):
                limits[node["metadata"]["uid"]] = allowed(node, pools)
    return tuple(limits.values())


def refuse_unread_agent(limits: Limits, namespace: str) -> None:
    if limits.has_agent is None:
        raise LimitError(
            f"Cannot read whether the node capacity agent is deployed in namespace {namespace}, "
            "which decides where the limit is stored. Grant get on its Deployment and on the ClusterRoleBinding "
            f"{AGENT_BINDING}."
        )


def plan_present(params: dict[str, Any], limits: Limits, name: str, fields: dict[str, Any]) -> Change:
    namespace, agent_namespace = params["namespace"], params["agent_namespace"]
    if not limits.is_second:
        config = find_config(limits.configs or (), namespace, name)
        return plan_config(config, namespace, name, fields)
    refuse_second_generation_fields(params, name)
    if not limits.has_place:
        raise LimitError(explain_no_operator(namespace))
    pool = limits.pool(f"{namespace}/{name}")
    selector = fields.get("nodeSelector")
    limit = int(fields["limit"]) if "limit" in fields else None
    reads_only = limit is None and selector is None and pool is not None
    if not reads_only:
        refuse_unread_agent(limits, agent_namespace)
    if limits.has_agent or reads_only:
        return plan_entry(
            pool,
            limits.limits,
            name=name,
            namespace=namespace,
            agent_namespace=agent_namespace,
            limit=limit,
            selector=selector,
        )
    refuse_without_agent(name, selector)
    if pool is None:
        raise LimitError(explain_no_operator(namespace))
    return plan_settings(pool, limit)


def plan_absent(params: dict[str, Any], limits: Limits, name: str) -> Change:
    namespace, agent_namespace = params["namespace"], params["agent_namespace"]
    config = find_config(limits.configs or (), namespace, name)
    if not limits.is_second:
        return plan_config_absent(config)
    if not limits.has_place:
        return Change(None, None)
    refuse_unread_agent(limits, agent_namespace)
    other_entries = {
        key: text for key, text in ((limits.limits or {}).get("data") or {}).items() if key != DEFAULT_POOL
    }
    fallback = pools_of_second(
        limits.configs or (),
        other_entries,
        limits.settings,
        namespace=namespace,
        agent_namespace=agent_namespace,
        adaptor_selector=limits.operator.node_selector if limits.operator else None,
    )[0]
    store = Store(CONFIG_MAP, agent_namespace, LIMITS, name)
    pool = limits.pool(f"{namespace}/{name}")
    return plan_entry_absent(pool, limits.limits, config, fallback, store)


def plan_target(
    params: dict[str, Any], cluster: Cluster, fields: dict[str, Any], read_the_bounds: Callable[[], dict[str, int]]
) -> Target:
    namespace = params["namespace"]
    is_removal = params["state"] == "absent"
    limits = read_limits(
        cluster,
        namespace,
        params["agent_namespace"],
        for_removal=is_removal,
        agent_deployed=params["agent_deployed"],
        agent_is_located=params["agent_is_located"],
    )
    name = name_of_pool(params["name"], limits.is_second)
    change = plan_absent(params, limits, name) if is_removal else plan_present(params, limits, name, fields)
    other_pools = [pool for pool in limits.pools if pool.label != f"{namespace}/{name}"]
    pools = [*other_pools, change.after] if change.after else other_pools
    nodes = left = None
    bounds = read_the_bounds() if change.after or limits.is_second else {}
    if change.after and change.after.selector is not None:
        nodes = nodes_of(cluster, change.after)
        refuse_overlap(change.after, other_pools, nodes.objects)
    if change.before and change.before.selector and (change.moves or not change.after):
        left = nodes_of(cluster, change.before)
    # The agent reads the pools of one namespace only.
    sharing = [pool for pool in pools if pool.namespace == namespace]
    elsewhere = limits_elsewhere(cluster, sharing, change.after) if bounds else ()
    return Target(limits, change, pools, nodes, left, bounds, elsewhere)


def explain_loss(target: Target, used: Mapping[str, int]) -> str | None:
    """A sentence if nodes would allow fewer peer pods than run there, else None."""
    sentences: list[str | None] = []
    if target.nodes and target.limit is not None:
        sentences.append(explain_overfull(target.limit, used, target.members(target.nodes.objects)))
    if target.left:
        left = target.left.objects
        fallback, fallen = target.fallen(left)
        sentences.append(explain_left_over(used, released(left, target.pools)))
        if fallback and fallback.limit is not None:
            sentences.append(explain_overfull(fallback.limit, used, fallen))
    return " ".join(filter(None, sentences)) or None


def write(cluster: Cluster, plan: Plan) -> None:
    store = plan.store
    if plan.after is None:
        cluster.delete(store.path, plan.resource_version, uid=plan.uid)
    elif plan.resource_version is None:
        cluster.create(store.collection, plan.body)
    else:
        cluster.patch(store.path, plan.patch)


def lagging_without_agent(module: AnsibleModule, cluster: Cluster, target: Target) -> frozenset[str]:
    """The nodes whose cloud-api-adaptor must advertise again.

    Empty while an agent still runs that a role is about to remove: the agent would overwrite the advertised limit.
    """
    names, params = target.lagging, module.params
    if names and params["agent_deployed"] is False and not module.check_mode:
        return frozenset() if read_agent(cluster, params["agent_namespace"]) else names
    return names


def write_settings(module: AnsibleModule, cluster: Cluster, target: Target) -> dict:
    """Write the limit to the operator's settings and replace the pods that read them; in check mode, only plan this."""
    params, operator = module.params, target.limits.operator
    if operator is None:
        raise LimitError(
            f"Cannot read which operator is installed in namespace {params['namespace']}, which "
            "decides how its settings may be changed. Grant list on clusterserviceversions and daemonsets."
        )
    return apply_settings(
        module,
        cluster,
        operator,
        params["namespace"],
        config_map={LIMIT_KEY: str(target.limit)} if target.change.changed else {},
        disruption=params["disruption"],
        timeout=params["wait_timeout"],
        # An interrupted run may have written the limit without replacing all pods. After the agent was removed, nodes
        # have its limit until cloud-api-adaptor advertises again.
        resume=True,
        lagging=lagging_without_agent(module, cluster, target),
        runtime_classes=params["runtime_classes"],
    )


def nodes_that_adaptor_leaves(cluster: Cluster, target: Target) -> tuple[set[str], bool]:
    """The nodes that lose cloud-api-adaptor when a PeerPodConfig is written, and whether its DaemonSet is deleted."""
    operator = target.limits.operator
    if target.limits.is_second or operator is None or operator.daemon_set is None:
        return set(), False
    follows = operator.behaviour.moves_adaptor
    moves = adaptor_moves(operator.daemon_set, target.change, follows=follows)
    if moves is None:
        return set(), False
    selector, new_selector = moves
    nodes = {
        node["metadata"]["name"]
        for node in cluster.list(NODES_PATH, labelSelector=label_selector(selector))
        if new_selector is None or not new_selector.items() <= node["metadata"].get("labels", {}).items()
    }
    return nodes, new_selector is None


def prepare_adaptor_move(module: AnsibleModule, cluster: Cluster, target: Target) -> str | None:
    """Apply the option disruption to a write that removes cloud-api-adaptor from nodes: fail, wait or allow.

    Returns the warning, None if no node loses cloud-api-adaptor. Raises LimitError.
    """
    nodes, is_deleted = nodes_that_adaptor_leaves(cluster, target)
    if not nodes or target.change.store is None:
        return None
    params = module.params
    disruption = params["disruption"]

    def peer_pods() -> list[str]:
        by_node = names_of_peer_pods(cluster, params["runtime_classes"])
        return [pod for node in nodes for pod in by_node.get(node, [])]

    lost = peer_pods()
    deadline = time.monotonic() + params["wait_timeout"]
    while lost and disruption == "wait" and not module.check_mode and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        lost = peer_pods()
    sentence = explain_adaptor_moves(target.change.store, nodes, lost, is_deleted=is_deleted)
    if disruption == "refuse" or (disruption == "wait" and lost and not module.check_mode):
        raise LimitError(
            f"{sentence} Nothing was changed. Set disruption (of a role, the variable that ends in _disruption) to "
            "wait to continue when no peer pod runs there, or to allow. Operators from 1.9 on run cloud-api-adaptor "
            "on all nodes of the KataConfig, and the node capacity agent gives pools their limits there."
        )
    return sentence


def without_adaptor(params: dict[str, Any], cluster: Cluster, target: Target, nodes: list[dict]) -> list[str]:
    """The names of the `nodes` that advertise less than their limit because cloud-api-adaptor is not Ready there."""
    operator = target.limits.operator
    has_agent = target.limits.has_agent
    if operator and not operator.behaviour.is_second:
        # In the first generation, the operator's controller advertises without cloud-api-adaptor.
        has_agent = read_agent(cluster, params["agent_namespace"])
    if operator is None or not (has_agent or operator.behaviour.is_second):
        return []
    path = f"/api/v1/namespaces/{params['namespace']}/pods"
    try:
        pods = list(cluster.list(path, labelSelector=f"name={operator.behaviour.daemon_set}"))
    except ClusterError as error:
        if error.status != 403:
            raise
        return []
    return nodes_without_adaptor((node["metadata"]["name"] for node in nodes), pods)


def wait(params: dict[str, Any], cluster: Cluster, target: Target, deadline: float) -> str | None:
    """Wait until the limit is in force; returns the reason if it is not by the `deadline`, else None."""
    seconds = params["wait_timeout"]

    def explain(nodes: list[dict], pool: Pool, limit: int, share: CloudShare | None) -> str:
        not_ready = without_adaptor(params, cluster, target, nodes)
        return explain_lagging(nodes, limit, label_selector(pool.selector or {}), seconds, share, not_ready)

    pool, limit = target.change.after, target.limit
    if target.nodes and pool and limit is not None:

        def is_in_force(nodes: list[dict]) -> bool:
            return in_force(target.expected(nodes), slots_of(limit, target.share(target.members(nodes))))

        if not target.nodes.wait(is_in_force, deadline - time.monotonic()):
            nodes = target.nodes.objects
            return explain(target.expected(nodes), pool, limit, target.share(target.members(nodes)))
    if target.left is None:
        return None
    if not target.left.wait(lambda nodes: not still_advertising(nodes, target.pools), deadline - time.monotonic()):
        return explain_still_advertising(still_advertising(target.left.objects, target.pools), seconds)
    share = target.share([])

    def has_fallen(nodes: list[dict]) -> bool:
        fallback, fallen = target.fallen(nodes)
        return fallback is None or not fallen or in_force(fallen, slots_of(fallback.limit or 0, share))

    if pool is None and not target.left.wait(has_fallen, deadline - time.monotonic()):
        fallback, fallen = target.fallen(target.left.objects)
        return explain(fallen, fallback, fallback.limit or 0, share) if fallback else None
    return None


def result_of(target: Target, used: Mapping[str, int] | None, adaptor: dict | None) -> dict[str, Any]:
    change = target.change
    nodes = target.left.objects if target.left and not target.nodes else []
    if target.nodes:
        nodes = target.members(target.nodes.objects)
    share = target.share(nodes) if change.after else None
    if change.after is None:
        advertised_nodes = len(still_advertising(nodes, target.pools))
    elif target.limit is None:
        advertised_nodes = 0
    else:
        advertised_nodes = len(nodes) - len(lagging(nodes, slots_of(target.limit, share)))
    diff: dict[str, dict] = {"before": {}, "after": {}}
    for plan in change.plans:
        diff = {side: {**diff[side], **plan.diff[side]} for side in diff}
    pool, operator = change.after or change.before, target.limits.operator
    return {
        "changed": change.changed if adaptor is None else adaptor["changed"],
        "pool": pool and pool.name,
        "store": change.store and asdict(change.store),
        "operator": operator and operator.summary,
        "before": change.before and change.before.limit,
        "after": target.limit,
        "nodes": node_rows(nodes, used),
        "cloud": share and asdict(share),
        "advertised_nodes": advertised_nodes,
        "adaptor": adaptor and adaptor["adaptor"],
        "diff": diff,
    }


def warn_of_problems(module: AnsibleModule, target: Target) -> None:
    change = target.change
    for sentence in target.limits.unread:
        module.warn(sentence)
    after = change.after and change.after.problem
    before = change.before and change.before.problem
    if after:
        module.warn(after)
    # With the agent, the limit in the operator's settings is not changed.
    elif before and change.before and change.before.store != change.store:
        module.warn(before)


def warn_of_nodes_that_are_down(module: AnsibleModule, target: Target) -> None:
    if not target.nodes or target.limit is None:
        return
    members = target.members(target.nodes.objects)
    slots = slots_of(target.limit, target.share(members))
    down = lagging(filter(is_down, members), slots)
    if down:
        module.warn(f"These nodes are not Ready and do not advertise the limit yet: {join_names(sorted(down))}.")


def run(module: AnsibleModule, cluster: Cluster) -> None:
    params = module.params
    refuse_bad_fields(params)
    fields = {FIELDS[option]: params[option] for option in FIELDS if params[option] is not None}
    if "limit" in fields:
        fields["limit"] = str(parse_limit(fields["limit"]))
    deadline = time.monotonic() + params["wait_timeout"]
    agent = read_agent_placement(cluster, params["agent_namespace"])
    params |= {"agent_namespace": agent.namespace, "agent_is_located": agent.is_known}
    cached: list[dict[str, int]] = []

    def read_the_bounds() -> dict[str, int]:
        if not cached:
            cached.append(read_bounds(module, cluster))
        return cached[0]

    def attempt() -> tuple[Target, Mapping[str, int] | None, str | None, dict | None, str | None]:
        target = plan_target(params, cluster, fields, read_the_bounds)
        used = loss = adaptor = move = None
        if target.change.lowers:
            running = cluster.list(PODS_PATH, fieldSelector=RUNNING_PODS)
            used = peer_pods_by_node(running, params["runtime_classes"])
            loss = explain_loss(target, used)
            if loss and params["protect"]:
                raise LimitError(
                    f"{loss} Nothing was changed, because protect is set: stop peer pods first or choose a higher "
                    "limit."
                )
        if needs_settings(params, cluster, target):
            try:
                adaptor = write_settings(module, cluster, target)
            except AdaptorError as error:
                done = dict(error.result)
                # The limit of the target is in force only if it was written.
                described = result_of(target, used, done) if done.get("changed") else {"adaptor": done.get("adaptor")}
                raise TaskError(str(error), described) from error
            return target, used, loss, adaptor, None
        move = prepare_adaptor_move(module, cluster, target)
        if not module.check_mode:
            for plan in target.change.plans:
                if plan.changed:
                    write(cluster, plan)
        return target, used, loss, adaptor, move

    target, used, loss, adaptor, move = retry_conflicts(attempt)

    def result() -> dict[str, Any]:
        described = result_of(target, used, adaptor)
        # After a conflict, the last plan does not have what an earlier attempt wrote.
        return {**described, "changed": described["changed"] or bool(cluster.writes)}

    warn_of_problems(module, target)
    if move:
        module.warn(move)
    if loss:
        module.warn(f"{loss} These pods keep running. The nodes get no new peer pod until they have room.")
    if params["wait"] and not module.check_mode:
        try:
            failure = target.change.after and target.change.after.problem
            failure = failure or wait(params, cluster, target, deadline)
        except ClusterError as error:
            failure = str(error)
        if failure:
            raise TaskError(failure, result())
        warn_of_nodes_that_are_down(module, target)
    module.exit_json(**result())


def needs_settings(params: dict[str, Any], cluster: Cluster, target: Target) -> bool:
    """Whether cloud-api-adaptor gets its limit from the operator's settings and does not have this task's limit yet."""
    if not target.limits.is_second or target.limits.has_agent or params["limit"] is None:
        return False
    if params["state"] == "absent":
        return False
    if target.change.changed or target.lagging:
        return True
    operator = target.limits.operator
    # An interrupted run may have replaced every pod and not restored caaUpdateStrategy.
    return bool(operator and operator.behaviour.has_update_strategy and is_held(cluster, params["namespace"]))


def main() -> None:
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
            "disruption": {
                "type": "str",
                "choices": ["wait", "refuse", "allow"],
                "default": "refuse",
            },
            "wait": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
            "runtime_classes": {"type": "list", "elements": "str", "default": [RUNTIME_CLASS]},
            "agent_namespace": {"type": "str"},
            "agent_deployed": {"type": "bool"},
            "cloud_capacity": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "namespace": {"type": "str"},
                    "name": {"type": "str", "default": "peerpods-cloud-capacity"},
                    "data": {"type": "dict"},
                },
            },
        }
    )
    with reporting_writes(module, LimitError) as cluster:
        run(module, cluster)


if __name__ == "__main__":
    main()
