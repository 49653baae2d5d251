#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: security_group_ports
version_added: "0.1.0"
short_description: Open the ports of peer pods between the workers and the VMs of peer pods on AWS
description:
  - >-
    Allows traffic between the workers of a cluster and the VMs of its peer pods on the given ports, with rules of EC2
    security groups for each other.
  - Workers connect to the kata-agent of their peer pods on port 15150, and both ends tunnel
    the traffic of the pods through port 9000. These two ports are the default.
  - >-
    The tunnel is VXLAN over UDP, so port 9000 is opened for UDP. The documented procedure opens it for TCP, which is
    opened as well.
  - The workers' groups are those that all workers share, and by default the VMs have the same groups. O(group_ids) and
    O(vm_group_ids) set others.
  - >-
    An instance with several groups may do what one of them allows. So nothing changes if one group of the receiver and
    one group of the sender allow the traffic, also by a wider range of ports, a rule for all traffic, or CIDR blocks or
    prefix lists that contain all IPv4 CIDR blocks of the VPC. Otherwise the narrowest group gets the missing rule: a
    group of the VMs alone, then a group of the cluster, by the tag C(kubernetes.io/cluster/...) or its name, before
    others, then the one with the fewest network interfaces that are not the workers'. The default group of the VPC
    comes last.
  - >-
    Rules that this module adds have the tags C(osc.peerpods/managed=true) and C(osc.peerpods/cluster/ID=NAME) with
    O(cluster_id) and O(cluster_name). If the traffic depends on a rule that this module added for another cluster, that
    rule gets the tag of this cluster as well, and no other change. If another cluster is removing the rule, the module
    waits up to 30 seconds for the end of the removal, and fails if it does not end. Rules without these tags are never
    changed or removed.
  - Network ACLs are not evaluated; see M(osc.peerpods.ec2_subnet_network_info).
options:
  cluster_name:
    description:
      - >-
        The infrastructure name of the cluster, as M(osc.peerpods.cluster_info) returns it. It is a part of the tag
        C(Name) of new rules.
    type: str
    required: true
  cluster_id:
    description:
      - The ID of the cluster, as M(osc.peerpods.cluster_info) returns it. It marks the rules of the cluster.
    type: str
    required: true
  instance_ids:
    description:
      - The workers, each as an EC2 instance id (V(i-0abc...)) or as the
        C(spec.providerID) of its node (V(aws:///us-east-2a/i-0abc...)).
      - >-
        One of O(instance_ids), O(nodes) and O(group_ids) is required to open ports. O(instance_ids) and O(nodes) are
        mutually exclusive.
    type: list
    elements: str
  group_ids:
    description:
      - >-
        The security groups of the workers that may get rules, by id (V(sg-0abc...)), instead of those that all workers
        share.
      - >-
        Every worker must have at least one of them. Without O(instance_ids) or O(nodes), the ports are opened for each
        of these groups.
    type: list
    elements: str
  vm_group_ids:
    description:
      - >-
        The security groups of the VMs of peer pods, all of which each VM has, as C(AWS_SG_IDS) of C(peer-pods-cm) lists
        them.
      - Defaults to the groups of the workers, those of O(group_ids) or those that all workers share.
    type: list
    elements: str
  ports:
    description:
      - The ports to open.
    type: list
    elements: dict
    default:
      - port: 15150
        protocols: [tcp]
        to: [vms]
      - port: 9000
        protocols: [tcp, udp]
        to: [vms, workers]
    suboptions:
      port:
        description:
          - The port, from 1 to 65535.
        type: int
        required: true
      protocols:
        description:
          - The protocols of the port.
        type: list
        elements: str
        choices: [tcp, udp]
        default: [tcp]
      to:
        description:
          - Where the port is. V(vms) opens it from the workers to the VMs, V(workers) from the VMs to the workers.
          - If workers and VMs have the same groups, one rule opens both directions.
        type: list
        elements: str
        choices: [vms, workers]
        default: [vms, workers]
  state:
    description:
      - V(present) opens the ports.
      - >-
        V(absent) removes all rules of the region that have the tag of the cluster, whatever their port or group. From
        rules that also have the tag of another cluster, only the tag of this cluster is removed. The options that name
        workers, groups and ports are ignored.
      - >-
        Before a removal, the value of the tag is set to C(leaving:NAME), and the rules are read again, so that no
        cluster relies on a rule that another one removes at the same time.
    type: str
    choices: [present, absent]
    default: present
  tags:
    description:
      - Tags of the rules that this module adds, in addition to its own. They may include C(Name), which is
        C(NAME-peer-pods) with O(cluster_name) by default.
      - >-
        If a rule of the cluster exists already, missing tags and tags with another value are set, those of all rules in
        one request. Other tags stay, and so do the tags of rules that other clusters use and of rules that this module
        did not add.
    type: dict
    default: {}
  purge_rules:
    description:
      - >-
        Whether O(state=present) removes rules of the cluster in these groups that no port of O(ports) needs, such as
        those of a port that was an option before. Peer pods that still use such a port would lose their network.
      - If V(false), such rules are returned, with a warning.
    type: bool
    default: false
  dry_run:
    description:
      - Change nothing, but check with the C(DryRun) of the EC2 API whether the credentials have the
        permission for each change, and fail if they do not.
      - The check is also made in check mode, which otherwise sends no write requests.
    type: bool
    default: false
notes:
  - >-
    The credentials need C(ec2:DescribeInstances), C(ec2:DescribeSecurityGroups) and C(ec2:DescribeSecurityGroupRules);
    to open ports C(ec2:AuthorizeSecurityGroupIngress), C(ec2:AuthorizeSecurityGroupEgress) and C(ec2:CreateTags); to
    remove rules C(ec2:RevokeSecurityGroupIngress), C(ec2:RevokeSecurityGroupEgress), C(ec2:CreateTags) and
    C(ec2:DeleteTags). If a group has CIDR rules for one of the ports, also C(ec2:DescribeVpcs); if it has rules with
    prefix lists, also C(ec2:GetManagedPrefixListEntries); to choose between several groups
    C(ec2:DescribeNetworkInterfaces).
  - With O(dry_run=true) and outside of check mode, C(changed) is V(false), because nothing is changed.
  - >-
    If the module fails after it changed something, C(changed) is V(true), and RV(groups) has the changes that were
    made. It reads the rules again to find out what a request changed whose response was lost.
  - >-
    A cluster that is deleted without C(state=absent) leaves its tag on rules of security groups that still exist.
    Remove the rule, or the tag C(osc.peerpods/cluster/ID) if other clusters use the rule.
extends_documentation_fragment:
  - osc.peerpods.worker_nodes
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
seealso:
  - module: amazon.aws.ec2_security_group
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the workers of the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Open 15150 and 9000 between the workers and the VMs of peer pods
  osc.peerpods.security_group_ports:
    region: "{{ cluster.region }}"
    cluster_name: "{{ cluster.infrastructure_name }}"
    cluster_id: "{{ cluster.cluster_id }}"
    instance_ids: "{{ cluster.workers | map(attribute='provider_id') }}"

- name: Open the ports for VMs that have a security group of their own
  osc.peerpods.security_group_ports:
    region: us-east-2
    cluster_name: demo-x7k2p
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
    nodes:
      kubeconfig: ~/.kube/config
    vm_group_ids: [sg-0f3a5b1c2d4e6f708]

- name: Open the tunnel for UDP only on a given group
  osc.peerpods.security_group_ports:
    region: us-east-2
    cluster_name: demo-x7k2p
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
    group_ids: [sg-0f3a5b1c2d4e6f708]
    ports:
      - port: 15150
        to: [vms]
      - port: 9000
        protocols: [udp]
    tags:
      cluster: production

- name: Check whether these credentials have the permission to open the ports
  osc.peerpods.security_group_ports:
    region: us-east-2
    cluster_name: demo-x7k2p
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
    instance_ids: [i-0a1b2c3d4e5f60718]
    dry_run: true

- name: Remove the rules that the module added for the cluster
  osc.peerpods.security_group_ports:
    region: us-east-2
    cluster_name: demo-x7k2p
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
    state: absent
"""

RETURN = r"""
groups:
  description:
    - >-
      The security groups of the workers and the VMs, with the changes and the state of their ports; with
      O(state=absent) those that have rules of the cluster. In check mode and with O(dry_run=true), the changes that
      would be made.
    - If the module fails after it changed something, the changes that were made.
  returned: success, or if something was changed
  type: list
  elements: dict
  contains:
    group_id:
      description: The id of the group.
      type: str
      sample: sg-f451f7b0118021613
    group_name:
      description: The name of the group.
      type: str
      sample: node
    vpc_id:
      description: The id of the VPC of the workers that have the group, or else of the group.
      type: str
      sample: vpc-5eb5f62eeb5e2c05c
    opened:
      description: The rules that were added to the group, V(ingress) from its peer or V(egress) to its peer.
      type: list
      elements: dict
      sample:
        - port: 15150
          protocol: tcp
          direction: ingress
          peer: sg-f451f7b0118021613
    already_open:
      description:
        - >-
          The ports on which a rule of the group admitted the traffic already, each with the rules that cover it. Empty
          with O(state=absent).
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          covered_by: the group itself (tcp 9000)
    revoked:
      description: The ports whose rules were removed, each with the id of the removed rule.
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          rule_id: sgr-e44f6f6a4d13d416b
    retagged:
      description:
        - >-
          The ports whose existing rules got tags of O(tags) or the tag of the cluster, each with the tags that were
          set.
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          rule_id: sgr-e44f6f6a4d13d416b
          tags:
            cluster: production
    kept:
      description:
        - >-
          With O(state=absent), the rules of this module that stay, each with the reason: other clusters use them, or
          they have no tag of a cluster. Rules with the tags of other clusters only are not listed.
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          rule_id: sgr-e44f6f6a4d13d416b
          reason: It is also used by demo-b (6f0c8d5e-3c1b-4d2a-8e9f-0a1b2c3d4e5f).
    unused:
      description:
        - >-
          With O(state=present), the rules of the cluster in the group that stay although no port of O(ports) needs
          them, see O(purge_rules).
      type: list
      elements: dict
      sample:
        - port: 9001
          protocol: udp
          rule_id: sgr-e44f6f6a4d13d416b
reason:
  description: Which security groups were selected, and why.
  returned: success
  type: str
  sample: sg-f451f7b0118021613 (node) is on all 3 instances.
vm_group_ids:
  description: The security groups of the VMs of peer pods; empty with O(state=absent).
  returned: success
  type: list
  elements: str
  sample: [sg-f451f7b0118021613]
instances:
  description:
    - >-
      The instances of O(instance_ids) or O(nodes), in that order; empty if only O(group_ids) is set, and with
      O(state=absent).
  returned: success
  type: list
  elements: dict
  contains:
    instance_id:
      description: The id of the instance.
      type: str
      sample: i-512823a968c8dd8ca
    vpc_id:
      description: The id of the VPC of the instance.
      type: str
      sample: vpc-5eb5f62eeb5e2c05c
    subnet_id:
      description: The subnet of its primary network interface.
      type: str
      sample: subnet-83cbd55a2e0aebcc2
    availability_zone:
      description: The availability zone of the instance.
      type: str
      sample: us-east-2a
    group_ids:
      description: All security groups of the instance.
      type: list
      elements: str
      sample: [sg-f451f7b0118021613]
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import (
    MANAGED_TAG,
    Changes,
    Cluster,
    Port,
    Rule,
    Tagging,
    abandoned,
    describe_changes,
    diff_of,
    explain_abandoned,
    kept_rules,
    plan_absent,
    plan_tags,
    removals_in_force,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    DEFAULT_PORTS,
    PORTS_OPTION,
    Addresses,
    Ends,
    Flow,
    Group,
    SecurityGroupError,
    check_instances,
    describe_rules,
    ends_of,
    facts_needed,
    groups_of,
    instance_ids,
    other_members,
    plan_rules,
    ranks_of,
    undecided,
    unused_rules,
    wanted_flows,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import (
    NODES_OPTION,
    WorkerNodesError,
    worker_provider_ids,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# How often a run plans again because another client changed the same rules at the same time.
ATTEMPTS = 3

# The pauses until another cluster has completed the removal of a rule that this one has begun to use, and until EC2
# returns what this run has written. Seconds.
WAITS = (0.5, 1, 2, 4, 8, 15)


@dataclass(frozen=True)
class Plan:
    """The changes, and what needs none: open ports with the rules that open them, and rules that a removal leaves.

    The `abandoned` rules are in use, but another cluster may be removing them. The `unused` ones are of the cluster,
    and stay although no requested port needs them.
    """

    changes: Changes
    already_open: tuple[tuple[Port, tuple[Rule, ...]], ...] = ()
    kept: tuple[tuple[Rule, str], ...] = ()
    abandoned: tuple[Rule, ...] = ()
    unused: tuple[Rule, ...] = ()


class InterruptionError(Exception):
    """A request failed. `changes` are those that were made; without `is_known`, the last request may have made more."""

    def __init__(self, error: Ec2Error, changes: Changes, is_known: bool):
        super().__init__(str(error))
        self.changes = changes
        self.is_known = is_known


@dataclass(frozen=True)
class Task:
    """What the options request."""

    cluster: Cluster
    tags: dict[str, str]
    dry_run: bool
    check_mode: bool
    purge: bool = False


def converge(
    ec2: Ec2, task: Task, read: Callable[[], tuple[Rule, ...]], plan_of: Callable[[tuple[Rule, ...]], Plan]
) -> Plan:
    """Carry out the plan, and plan again as long as other clients change the same rules.

    The changes of the returned plan are those that this run made. If a request failed, or EC2 had what it requested
    already, only the rules themselves show what this run changed: a request may have been applied although its response
    was lost.
    """
    plan = plan_of(read())
    if task.check_mode and not task.dry_run:
        return plan
    done = Changes()
    marked: dict[str, Rule] = {}

    def marks_in_force(rules: tuple[Rule, ...]) -> Changes:
        marks = Changes(tagged=tuple(Tagging(rule, task.cluster.mark) for rule in marked.values()))
        return marks.in_force(rules, task.cluster)

    attempts, waits = ATTEMPTS, iter(WAITS)
    while attempts:
        answered, error = send(ec2, task, plan.changes, marked)
        if task.dry_run:
            if error:
                raise error
            return plan
        # The other cluster of a rule may have removed it before it got the tag of this one: read it again.
        if error or len(answered) < len(plan.changes) or plan.changes.joins(task.cluster):
            attempts -= 1
        elif not plan.abandoned:
            already_open = tuple((port, rules) for port, rules in plan.already_open if rules[0] not in done.opened)
            return replace(plan, changes=done + answered, already_open=already_open)
        elif (wait := next(waits, None)) is not None:
            time.sleep(wait)
        else:
            raise InterruptionError(
                Ec2Error(explain_abandoned(plan.abandoned, task.cluster)), done + answered, is_known=True
            )
        try:
            rules = read_until(read, answered, task.cluster)
        except Ec2Error as unread:
            # EC2 does not carry out a request that it rejects.
            is_known = bool(error and error.code) and not marked
            raise InterruptionError(error or unread, done + answered, is_known) from unread
        done += plan.changes.in_force(rules, task.cluster)
        try:
            if error:
                raise error
            plan = plan_of(rules)
        except Ec2Error as failed:
            raise InterruptionError(failed, done + marks_in_force(rules), is_known=True) from failed
    raise InterruptionError(
        Ec2Error("Other clients change the same security group rules at the same time. Run the task again later."),
        done + marks_in_force(rules),
        is_known=True,
    )


def read_until(read: Callable[[], tuple[Rule, ...]], written: Changes, cluster: Cluster) -> tuple[Rule, ...]:
    """Read the rules, again for some seconds until they have what this run has written.

    EC2 is eventually consistent ("Eventual consistency in the Amazon EC2 API" in the Amazon EC2 Developer Guide).
    """
    waits = iter(WAITS)
    while not written.is_visible(rules := read(), cluster) and (wait := next(waits, None)) is not None:
        time.sleep(wait)
    return rules


def send(ec2: Ec2, task: Task, changes: Changes, marked: dict[str, Rule]) -> tuple[Changes, Ec2Error | None]:
    """Request the changes, and return those that these requests made, until the first error.

    `marked` gets the rules whose reference of this cluster is marked before their removal.
    """
    done, dry_run = Changes(), task.dry_run
    reference = task.cluster.reference
    try:
        for rules in by_request(changes.opened):
            tags = task.cluster.tags_of_new_rules(task.tags)
            done += Changes(opened=tuple(ec2.authorize(rules, tags, dry_run)))
        for tags in (reference, task.tags):
            taggings = {t.rule: t for t in changes.tagged if (t.tags == reference) == (tags is reference)}
            if taggings:
                done += Changes(tagged=tuple(taggings[rule] for rule in ec2.tag(list(taggings), tags, dry_run)))
        if leaving := (*changes.revoked, *changes.released):
            if unmarked := [rule for rule in leaving if task.cluster.id not in rule.leaving]:
                marked |= {rule.rule_id: rule for rule in unmarked}
                ec2.tag(unmarked, task.cluster.mark, dry_run)
            if not dry_run:
                marks = Changes(tagged=tuple(Tagging(rule, task.cluster.mark) for rule in leaving))
                now = read_until(ec2.managed_rules, marks, task.cluster)
                changes = removals_in_force(now, changes, task.cluster)
        for rules in by_request(changes.revoked):
            done += Changes(revoked=tuple(ec2.revoke(rules, dry_run)))
        if changes.released:
            done += Changes(released=tuple(ec2.untag(changes.released, list(reference), dry_run)))
    except Ec2Error as error:
        return done, error
    return done, None


def by_request(rules: Iterable[Rule]) -> list[list[Rule]]:
    """The rules of each group and direction, which one request changes."""
    batches: dict[tuple[str, bool], list[Rule]] = {}
    for rule in rules:
        batches.setdefault((rule.group_id, rule.is_egress), []).append(rule)
    return list(batches.values())


def plan_present(
    module: AnsibleAWSModule,
    ec2: Ec2,
    task: Task,
    flows: tuple[Flow, ...],
    ends: Ends,
    vpc_ids: Sequence[str],
    workers: Sequence[str],
    rules: tuple[Rule, ...],
) -> Plan:
    needs_vpcs, prefix_list_ids = facts_needed(flows, ends, rules)
    prefix_lists = {}
    for prefix_list_id in prefix_list_ids:
        try:
            prefix_lists[prefix_list_id] = ec2.prefix_list_cidrs(prefix_list_id)
        except Ec2Error as error:
            module.warn(f"{prefix_list_id} cannot be read and is ignored: {error}")
    addresses = Addresses(tuple(ec2.vpc_cidrs(vpc_ids)) if needs_vpcs else (), prefix_lists)
    plan = plan_rules(flows, ends, rules, addresses, task.cluster.id)
    if plan.opened and max(len(ends.worker_groups), len(ends.vm_groups)) > 1:
        ranks = read_ranks(module, ec2, task.cluster, ends, workers)
        plan = plan_rules(flows, ends, rules, addresses, task.cluster.id, ranks)
    unused = unused_rules(rules, flows, ends, task.cluster.id)
    purged = unused if task.purge else ()
    tagged = plan_tags([rule for rule in rules if rule not in purged], plan.used, task.cluster, task.tags)
    return Plan(
        Changes(opened=plan.opened) + tagged + plan_absent(purged, task.cluster),
        plan.already_open,
        abandoned=abandoned(plan.used, task.cluster),
        unused=() if task.purge else unused,
    )


def read_ranks(
    module: AnsibleAWSModule, ec2: Ec2, cluster: Cluster, ends: Ends, workers: Sequence[str]
) -> dict[str, tuple]:
    """How narrow each group is that may get rules."""
    groups = ec2.groups(tuple(dict.fromkeys((*ends.worker_groups, *ends.vm_groups))))
    ranks: dict[str, tuple] = dict(ranks_of(groups, cluster.name))
    tied = undecided(ends, ranks)
    if tied:
        try:
            members = other_members(tied, ec2.network_interfaces(tied), workers)
        except Ec2Error as error:
            module.warn(
                f"The members of {', '.join(tied)} cannot be read, so the first of them may get the rules: {error}"
            )
        else:
            ranks |= {group_id: (*ranks[group_id], members[group_id]) for group_id in tied}
    return ranks


def run(module: AnsibleAWSModule) -> dict:
    params = module.params
    for option in ("cluster_name", "cluster_id"):
        if not params[option]:
            raise SecurityGroupError(f"{option} is empty. Set it to the value that osc.peerpods.cluster_info returns.")
    task = Task(
        Cluster(params["cluster_name"], params["cluster_id"]),
        {str(key): str(value) for key, value in params["tags"].items()} | {MANAGED_TAG: "true"},
        params["dry_run"],
        module.check_mode,
        params["purge_rules"],
    )
    return (close_ports if params["state"] == "absent" else open_ports)(module, task)


def close_ports(module: AnsibleAWSModule, task: Task) -> dict:
    ec2 = Ec2(module)
    groups: dict[str, Group] = {}

    def plan_of(rules: tuple[Rule, ...]) -> Plan:
        plan = Plan(plan_absent(rules, task.cluster), kept=kept_rules(rules, task.cluster))
        group_ids = dict.fromkeys(rule.group_id for rule in (*plan.changes.revoked, *dict(plan.kept)))
        groups.update((group.group_id, group) for group in ec2.groups([id_ for id_ in group_ids if id_ not in groups]))
        return plan

    def describe(plan: Plan) -> dict:
        return result_of(task, plan, groups, list(groups))

    try:
        plan = converge(ec2, task, ec2.managed_rules, plan_of)
    except InterruptionError as error:
        return failure(error, describe)
    reason = f"The rules in {ec2.region} with the tag of the cluster {task.cluster.name}."
    return {**describe(plan), "reason": reason, "instances": [], "vm_group_ids": []}


def open_ports(module: AnsibleAWSModule, task: Task) -> dict:
    params = module.params
    if params["nodes"] is None and not (params["instance_ids"] or params["group_ids"]):
        raise SecurityGroupError(
            "No worker and no security group is given: the list is empty. Set instance_ids to all workers of the "
            "cluster, or group_ids to the groups of the workers."
        )
    flows = wanted_flows(params["ports"])
    workers = instance_ids(
        params["instance_ids"] or () if params["nodes"] is None else worker_provider_ids(module, instead="instance_ids")
    )
    ec2 = Ec2(module)
    instances = ec2.instances(workers)
    check_instances(workers, instances, ec2.region)
    ends, reason = ends_of(instances, params["group_ids"] or (), params["vm_group_ids"] or ())
    groups = groups_of(instances)
    groups |= {group.group_id: group for group in ec2.groups([id_ for id_ in ends.group_ids if id_ not in groups])}
    vpc_ids = sorted(
        {instance["VpcId"] for instance in instances}
        | {groups[group_id].vpc_id for group_id in (*ends.worker_groups, *ends.vm_groups)}
    )

    def describe(plan: Plan) -> dict:
        involved = {rules[0].group_id for dummy, rules in plan.already_open}
        involved |= {rule.group_id for rule in (*plan.unused, *plan.changes.revoked, *plan.changes.released)}
        shown = (*ends.worker_groups, *ends.vm_groups)
        group_ids = [group_id for group_id in ends.group_ids if group_id in shown or group_id in involved]
        return result_of(task, plan, groups, group_ids)

    def plan_of(rules: tuple[Rule, ...]) -> Plan:
        return plan_present(module, ec2, task, flows, ends, vpc_ids, workers, rules)

    try:
        plan = converge(ec2, task, lambda: ec2.rules(ends.group_ids), plan_of)
    except InterruptionError as error:
        return failure(error, describe)
    if plan.unused and not task.dry_run:
        listed = join_names([f"{rule.port} of {rule.group_id} ({rule.rule_id})" for rule in plan.unused])
        module.warn(
            f"Rules of this cluster stay although no requested port needs them: {listed}. If no running peer pod uses "
            "them any more, set purge_rules to true."
        )
    return {
        **describe(plan),
        "reason": reason,
        "vm_group_ids": list(ends.vm_groups),
        "instances": [
            {
                "instance_id": instance["InstanceId"],
                "vpc_id": instance["VpcId"],
                "subnet_id": instance["SubnetId"],
                "availability_zone": instance["Placement"]["AvailabilityZone"],
                "group_ids": [group["GroupId"] for group in instance["SecurityGroups"]],
            }
            for instance in instances
        ],
    }


def result_of(task: Task, plan: Plan, groups: Mapping[str, Group], group_ids: Iterable[str]) -> dict:
    """The plan as the return value of the module, by group."""
    shown = []
    diffs = []
    for group_id in group_ids:
        changes = plan.changes.of_group(group_id)
        already_open = [
            (port, describe_rules(rules)) for port, rules in plan.already_open if rules[0].group_id == group_id
        ]
        shown.append(
            {
                "group_id": group_id,
                "group_name": groups[group_id].group_name,
                "vpc_id": groups[group_id].vpc_id,
                "opened": [as_dict(rule, direction=rule.direction, peer=rule.peer) for rule in changes.opened],
                "already_open": [
                    {"port": port.port, "protocol": port.protocol, "covered_by": covered_by}
                    for port, covered_by in already_open
                ],
                "revoked": [as_dict(rule, rule_id=rule.rule_id) for rule in changes.revoked],
                "retagged": [
                    as_dict(tagging.rule, rule_id=tagging.rule.rule_id, tags=dict(tagging.tags))
                    for tagging in changes.tagged
                ],
                "kept": [
                    as_dict(rule, rule_id=rule.rule_id, reason=reason)
                    for rule, reason in plan.kept
                    if rule.group_id == group_id
                ],
                "unused": [as_dict(rule, rule_id=rule.rule_id) for rule in plan.unused if rule.group_id == group_id],
            }
        )
        diffs.append(diff_of(str(groups[group_id]), changes, already_open, task.cluster))
    return {
        "changed": len(plan.changes) > 0 and (task.check_mode or not task.dry_run),
        "groups": shown,
        "diff": diffs,
    }


def as_dict(rule: Rule, **details: str | dict) -> dict:
    return {"port": rule.from_port, "protocol": rule.protocol, **details}


def failure(error: InterruptionError, describe: Callable[[Plan], dict]) -> dict:
    """The result of a failed run, with what it changed before."""
    message = [str(error)]
    result: dict = {}
    if error.changes:
        result = describe(Plan(error.changes))
        message.append(f"Before, this run {describe_changes(error.changes)}.")
    if not error.is_known:
        result["changed"] = True
        message.append(
            "The request may have been applied: no response was received, and the rules could not be read afterwards."
        )
    return {**result, "failed": True, "msg": " ".join(message)}


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "instance_ids": {"type": "list", "elements": "str"},
            "nodes": NODES_OPTION,
            "group_ids": {"type": "list", "elements": "str"},
            "vm_group_ids": {"type": "list", "elements": "str"},
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "dict", "default": DEFAULT_PORTS, "options": PORTS_OPTION},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "tags": {"type": "dict", "default": {}},
            "purge_rules": {"type": "bool", "default": False},
            "dry_run": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ("instance_ids", "nodes", "group_ids"), True)],
        mutually_exclusive=[("instance_ids", "nodes")],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (Ec2Error, SecurityGroupError, WorkerNodesError) as error:
        module.fail_json(msg=str(error))
    (module.fail_json if result.get("failed") else module.exit_json)(**result)


if __name__ == "__main__":
    main()
