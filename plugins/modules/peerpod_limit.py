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
from ansible_collections.osc.peerpods.plugins.module_utils._limit_reads import (
    Limits,
    explain_no_operator,
    name_of_pool,
    read_agent,
    read_limits,
)
from ansible_collections.osc.peerpods.plugins.module_utils._limits import (
    CONFIG_MAP,
    DEFAULT_POOL,
    LIMIT_KEY,
    LIMITS,
    PODS_PATH,
    RUNNING_PODS,
    Change,
    LimitError,
    Pool,
    Store,
    allowed,
    cloud_share,
    deciding,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    find_config,
    in_force,
    label_selector,
    lagging,
    node_rows,
    nodes_without_adaptor,
    others_than,
    parse_limit,
    peer_pods_by_node,
    plan_config,
    plan_config_absent,
    plan_entry,
    plan_entry_absent,
    plan_settings,
    pools_of_second,
    refuse_bad_fields,
    refuse_overlap,
    refuse_second_generation_fields,
    refuse_without_agent,
    released,
    slots_of,
    still_advertising,
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
    """A change, and the nodes to watch once it is made.

    `pools` are those of the cluster afterwards. `nodes` are those that the pool selects then; of
    those in `left`, which it selected before, no node advertises any more that no pool selects.
    Either is None where there is nothing to wait for. The cloud's `bounds` are shared with the
    nodes of the other pools, whose limits are `elsewhere`.
    """

    found: Limits
    change: Change
    pools: list[Pool]
    nodes: Collection | None = None
    left: Collection | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)
    elsewhere: tuple[int, ...] = ()

    @property
    def limit(self):
        return self.change.after and self.change.after.limit

    def members(self, nodes):
        """Those of `nodes` whose limit the pool decides."""
        return [node for node in nodes if self.change.after in deciding(node, self.pools)]

    def fallen(self, nodes):
        """Those of `nodes` that the operator's own pool has again, with its limit; none of them where it has none."""
        fallback = next((pool for pool in self.pools if pool.is_fallback), None)
        if fallback is None or fallback.limit is None:
            return None, []
        return fallback, [node for node in nodes if deciding(node, self.pools) == [fallback]]

    def share(self, nodes):
        """What the cloud leaves each of `nodes`, as long as they are the pool's."""
        mine = [] if self.limit is None else [self.limit] * len(nodes)
        return cloud_share([*mine, *self.elsewhere], self.bounds)


def nodes_of(cluster, pool):
    return cluster.follow(NODES_PATH, labelSelector=label_selector(pool.selector))


def read_bounds(module, cluster):
    """What the cloud can hold, as far as it matters for this run."""
    given = module.params["cloud_capacity"]
    if given["data"] is not None:
        return cloud_bounds(given["data"])
    if not module.params["wait"]:
        return {}
    namespace = given["namespace"] or module.params["agent_namespace"]
    return read_cloud_bounds(module, cluster, namespace, given["name"])


def limits_elsewhere(cluster, pools, pool):
    """What each node is allowed that the other `pools` select and `pool` does not."""
    limits = {}
    for other in pools if pool is None else others_than(pools, pool):
        if other.selector is None:
            continue
        for node in nodes_of(cluster, other).objects:
            if pool not in deciding(node, pools):
                limits[node["metadata"]["uid"]] = allowed(node, pools)
    return tuple(limits.values())


def plan_present(params, found, name, fields):
    namespace, agent_namespace = params["namespace"], params["agent_namespace"]
    if not found.is_second:
        config = find_config(found.configs or (), namespace, name)
        return plan_config(config, namespace, name, fields)
    refuse_second_generation_fields(params, name)
    if not found.has_place:
        raise LimitError(explain_no_operator(namespace))
    pool = found.pool(f"{namespace}/{name}")
    selector = fields.get("nodeSelector")
    limit = int(fields["limit"]) if "limit" in fields else None
    reads_only = limit is None and selector is None and pool is not None
    if not reads_only and found.has_agent is None:
        raise LimitError(
            f"Cannot read whether the node capacity agent is deployed in namespace {agent_namespace}, "
            "which decides where the limit is stored. Grant get on its Deployment."
        )
    if found.has_agent or reads_only:
        return plan_entry(
            pool,
            found.limits,
            name=name,
            namespace=namespace,
            agent_namespace=agent_namespace,
            limit=limit,
            selector=selector,
        )
    refuse_without_agent(name, selector)
    return plan_settings(pool, limit)


def plan_absent(params, found, name):
    namespace, agent_namespace = params["namespace"], params["agent_namespace"]
    config = find_config(found.configs or (), namespace, name)
    if not found.is_second:
        return plan_config_absent(config)
    if not found.has_place:
        return Change(None, None)
    without = {
        key: text
        for key, text in ((found.limits or {}).get("data") or {}).items()
        if key != DEFAULT_POOL
    }
    fallback = pools_of_second(
        found.configs or (),
        without,
        found.settings,
        namespace=namespace,
        agent_namespace=agent_namespace,
        adaptor_selector=found.operator.node_selector if found.operator else None,
    )[0]
    store = Store(CONFIG_MAP, agent_namespace, LIMITS, name)
    limits = found.limits if found.has_agent else None
    return plan_entry_absent(found.pool(f"{namespace}/{name}"), limits, config, fallback, store)


def plan_target(params, cluster, fields, read_the_bounds):
    namespace = params["namespace"]
    found = read_limits(cluster, namespace, params["agent_namespace"])
    name = name_of_pool(params["name"], found.is_second)
    if params["state"] == "present":
        change = plan_present(params, found, name, fields)
    else:
        change = plan_absent(params, found, name)
    others = [pool for pool in found.pools if pool.label != f"{namespace}/{name}"]
    pools = [*others, change.after] if change.after else others
    nodes = left = None
    bounds = read_the_bounds() if change.after or found.is_second else {}
    if change.after and change.after.selector is not None:
        nodes = nodes_of(cluster, change.after)
        refuse_overlap(change.after, others, nodes.objects)
    if change.before and change.before.selector and (change.moves or not change.after):
        left = nodes_of(cluster, change.before)
    # The agent reads no other namespace.
    sharing = [pool for pool in pools if pool.namespace == namespace]
    elsewhere = limits_elsewhere(cluster, sharing, change.after) if bounds else ()
    return Target(found, change, pools, nodes, left, bounds, elsewhere)


def explain_loss(target, used):
    """A sentence where nodes would allow fewer peer pods than run there, else None."""
    sentences = [
        target.nodes
        and target.limit is not None
        and explain_overfull(target.limit, used, target.members(target.nodes.objects)),
    ]
    if target.left:
        left = target.left.objects
        fallback, fallen = target.fallen(left)
        sentences.append(explain_left_over(used, released(left, target.pools)))
        sentences.append(fallback and explain_overfull(fallback.limit, used, fallen))
    return " ".join(filter(None, sentences)) or None


def write(cluster, plan):
    store = plan.store
    if plan.after is None:
        cluster.delete(store.path, plan.resource_version)
    elif plan.resource_version is None:
        cluster.create(store.collection, plan.body)
    else:
        cluster.patch(store.path, plan.patch)


def write_settings(module, cluster, target):
    """Write the limit to the operator's settings, whose readers have to be restarted; in check mode, plan that."""
    params, operator = module.params, target.found.operator
    if operator is None:
        raise LimitError(
            f"Cannot read which operator is installed in namespace {params['namespace']}, which "
            "decides how its settings may be changed. Grant list on clusterserviceversions and daemonsets."
        )
    from ansible_collections.osc.peerpods.plugins.module_utils import _adaptor

    try:
        return _adaptor.apply_settings(
            module,
            cluster,
            operator,
            params["namespace"],
            config_map={LIMIT_KEY: str(target.limit)},
            disruption=params["disruption"],
            timeout=params["wait_timeout"],
        )
    except _adaptor.AdaptorError as error:
        raise LimitError(str(error)) from error


def without_adaptor(params, cluster, target, nodes):
    """Those of `nodes` that advertise less than their limit because cloud-api-adaptor is not Ready there."""
    operator = target.found.operator
    has_agent = target.found.has_agent
    if operator and not operator.behaviour.is_second:
        # The operator's own controller of that generation advertises all the same.
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


def wait(params, cluster, target, deadline):
    """Why the limit is not in force by the `deadline`, or None where it is."""
    seconds = params["wait_timeout"]

    def lags(nodes, limit, selector, share):
        not_ready = without_adaptor(params, cluster, target, nodes)
        return explain_lagging(nodes, limit, selector, seconds, share, not_ready)

    def holds(nodes):
        members = target.members(nodes)
        return in_force(members, slots_of(target.limit, target.share(members)))

    if target.nodes and not target.nodes.wait(holds, deadline - time.monotonic()):
        nodes = target.members(target.nodes.objects)
        selector = label_selector(target.change.after.selector)
        return lags(nodes, target.limit, selector, target.share(nodes))
    if target.left is None:
        return None
    if not target.left.wait(
        lambda nodes: not still_advertising(nodes, target.pools), deadline - time.monotonic()
    ):
        return explain_still_advertising(
            still_advertising(target.left.objects, target.pools), seconds
        )
    share = target.share([])

    def has_fallen(nodes):
        fallback, fallen = target.fallen(nodes)
        return not fallen or in_force(fallen, slots_of(fallback.limit, share))

    if target.change.after is None and not target.left.wait(
        has_fallen, deadline - time.monotonic()
    ):
        fallback, fallen = target.fallen(target.left.objects)
        return lags(fallen, fallback.limit, label_selector(fallback.selector), share)
    return None


def result_of(target, used, adaptor):
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
    diff = {"before": {}, "after": {}}
    for plan in change.plans:
        diff = {side: {**diff[side], **plan.diff[side]} for side in diff}
    pool, operator = change.after or change.before, target.found.operator
    return {
        "changed": change.changed or bool((adaptor or {}).get("changed")),
        "pool": pool and pool.name,
        "store": change.store and asdict(change.store),
        "operator": operator and operator.summary,
        "before": change.before and change.before.limit,
        "after": target.limit,
        "nodes": node_rows(nodes, used),
        "cloud": share and asdict(share),
        "advertised_nodes": advertised_nodes,
        "adaptor": adaptor,
        "diff": diff,
    }


def warn_of_problems(module, target):
    change = target.change
    for sentence in target.found.unread:
        module.warn(sentence)
    after = change.after and change.after.problem
    before = change.before and change.before.problem
    if after:
        module.warn(after)
    # With the agent the operator's settings keep what is written there.
    elif before and change.before.store != change.store:
        module.warn(before)


def run(module):
    params = module.params
    refuse_bad_fields(params)
    fields = {FIELDS[option]: params[option] for option in FIELDS if params[option] is not None}
    if "limit" in fields:
        fields["limit"] = str(parse_limit(fields["limit"]))
    cluster = Cluster(module)
    deadline = time.monotonic() + params["wait_timeout"]
    known = []

    def read_the_bounds():
        if not known:
            known.append(read_bounds(module, cluster))
        return known[0]

    def attempt():
        target = plan_target(params, cluster, fields, read_the_bounds)
        used = loss = adaptor = None
        if target.change.lowers:
            used = peer_pods_by_node(cluster.list(PODS_PATH, fieldSelector=RUNNING_PODS))
            loss = explain_loss(target, used)
            if loss and params["protect"]:
                raise LimitError(
                    f"{loss} Nothing was changed, because protect is set: stop peer pods first or choose a higher limit."
                )
        if needs_settings(params, target):
            adaptor = write_settings(module, cluster, target)
        elif not module.check_mode:
            for plan in target.change.plans:
                if plan.changed:
                    write(cluster, plan)
        return target, used, loss, adaptor

    target, used, loss, adaptor = retry_conflicts(attempt)
    warn_of_problems(module, target)
    if loss:
        module.warn(f"{loss} They keep running; such a node gets no new one until it has room.")
    if params["wait"] and not module.check_mode:
        try:
            failure = target.change.after and target.change.after.problem
            failure = failure or wait(params, cluster, target, deadline)
        except ClusterError as error:
            failure = str(error)
        if failure:
            module.fail_json(msg=failure, **result_of(target, used, adaptor))
    module.exit_json(**result_of(target, used, adaptor))


def needs_settings(params, target):
    """Whether cloud-api-adaptor gets its limit from the operator's settings and does not have the one of this task yet."""
    if not target.found.is_second or target.found.has_agent or params["limit"] is None:
        return False
    if params["state"] == "absent":
        return False
    # A run that was interrupted has written the limit already, and not restarted all pods.
    return target.change.changed or bool(
        lagging(target.members(target.nodes.objects), target.limit)
    )


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
            "disruption": {
                "type": "str",
                "choices": ["wait", "refuse", "allow"],
                "default": "refuse",
            },
            "wait": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
            "agent_namespace": {"type": "str", "default": "osc-peerpods"},
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
    try:
        run(module)
    except (ClusterError, LimitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
