# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans of security group rules: open and missing traffic between workers and the VMs of peer pods (private).

Pure functions of plain data: the arguments are dicts in the shape of the EC2 API, the results are plans. No I/O here.

EC2 attaches groups to an instance as a set: traffic passes if one of the sender's groups has an egress rule for it, and
one of the receiver's groups an ingress rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, collapse_addresses, ip_network

from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import Port, Rule
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

WORKERS, VMS = "workers", "vms"

ANYWHERE = "0.0.0.0/0"

# The option `ports` of modules: the ports between workers and VMs.
DEFAULT_PORTS = [
    {"port": 15150, "protocols": ["tcp"], "to": [VMS]},
    {"port": 9000, "protocols": ["tcp", "udp"], "to": [VMS, WORKERS]},
]
PORTS_OPTION = {
    "port": {"type": "int", "required": True},
    "protocols": {"type": "list", "elements": "str", "choices": ["tcp", "udp"], "default": ["tcp"]},
    "to": {"type": "list", "elements": "str", "choices": [VMS, WORKERS], "default": [VMS, WORKERS]},
}

_INSTANCE_ID = re.compile(r"(?:aws://.*/)?(i-[0-9a-f]{8,17})")
_GONE = ("shutting-down", "terminated")


class SecurityGroupError(Exception):
    """The reason why no plan can be made, as a sentence."""


@dataclass(frozen=True, order=True)
class Flow:
    """Traffic to a port of the `receiver`, VMS or WORKERS, from the other side."""

    port: Port
    receiver: str


@dataclass(frozen=True)
class Group:
    """A security group, as the instances that have it or DescribeSecurityGroups return it."""

    group_id: str
    group_name: str
    vpc_id: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.group_id} ({self.group_name})"


@dataclass(frozen=True)
class Ends:
    """Both ends of the traffic, by their security groups.

    `workers` has each set of groups that a worker has; `worker_groups` those of them that may get rules.
    """

    workers: tuple[frozenset[str], ...]
    worker_groups: tuple[str, ...]
    vm_groups: tuple[str, ...]

    @property
    def group_ids(self) -> tuple[str, ...]:
        """The groups that decide, those that may get rules first."""
        others = sorted(set().union(*self.workers))
        return tuple(dict.fromkeys((*self.worker_groups, *self.vm_groups, *others)))

    def sides(self, flow: Flow, worker: Iterable[str]) -> tuple[tuple[bool, frozenset[str], frozenset[str]], ...]:
        """The verdicts about a flow, ingress of the receiver's groups and egress of the sender's, with their peers."""
        receiver, sender = frozenset(self.vm_groups), frozenset(worker)
        if flow.receiver == WORKERS:
            receiver, sender = sender, receiver
        return (False, receiver, sender), (True, sender, receiver)


@dataclass(frozen=True)
class Addresses:
    """The IPv4 blocks of the VPCs of both ends, and those of prefix lists; unknown blocks contain nothing."""

    vpc_cidrs: tuple[str, ...] = ()
    prefix_lists: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class NewRules:
    """The missing rules, and for each open port the rules that open it, by the group that has them."""

    opened: tuple[Rule, ...]
    already_open: tuple[tuple[Port, tuple[Rule, ...]], ...]
    # All rules of the collection that flows depend on, in both directions.
    used: tuple[Rule, ...]


def wanted_flows(ports: Iterable[Mapping]) -> tuple[Flow, ...]:
    """The module's `ports` option as flows, in order, each once."""
    flows: dict[Flow, None] = {}
    for entry in ports:
        if not 1 <= entry["port"] <= 65535:
            raise SecurityGroupError(f"{entry['port']} is not a port. Set ports from 1 to 65535.")
        for protocol in entry["protocols"]:
            for receiver in entry["to"]:
                flows[Flow(Port(entry["port"], protocol), receiver)] = None
    return tuple(flows)


def instance_ids(names: Iterable[str]) -> tuple[str, ...]:
    """EC2 instance ids of nodes, each once; a name is an instance id or a node's spec.providerID."""
    ids: dict[str, None] = {}
    for name in names:
        match = _INSTANCE_ID.fullmatch(name)
        if match is None:
            raise SecurityGroupError(
                f"{name!r} is not the id of an EC2 instance. Set instance ids (i-0abc…) or the "
                "spec.providerID of nodes (aws:///zone/i-0abc…)."
            )
        ids[match.group(1)] = None
    return tuple(ids)


def check_instances(requested: Sequence[str], instances: Iterable[Mapping], region: str) -> None:
    """Raise unless DescribeInstances returned every requested instance and none is terminated."""
    states = {instance["InstanceId"]: instance["State"]["Name"] for instance in instances}
    missing = [instance_id for instance_id in requested if instance_id not in states]
    terminated = [instance_id for instance_id in requested if states.get(instance_id) in _GONE]
    problems = []
    if missing:
        problems.append(f"EC2 has no instance {join_names(missing)} in {region}")
    if terminated:
        problems.append(f"{join_names(terminated)} {'is' if len(terminated) == 1 else 'are'} terminated")
    if problems:
        raise SecurityGroupError(
            f"{' and '.join(problems)}. Check that region and credentials are those of the "
            "cluster, and that every node still has its instance."
        )


def groups_of(instances: Iterable[Mapping]) -> dict[str, Group]:
    """The groups of the instances by id."""
    return {
        group["GroupId"]: Group(group["GroupId"], group["GroupName"], instance["VpcId"])
        for instance in instances
        for group in instance["SecurityGroups"]
    }


def ends_of(instances: Sequence[Mapping], group_ids: Sequence[str], vm_group_ids: Sequence[str]) -> tuple[Ends, str]:
    """The ends of the traffic, and a sentence with the reason for this selection.

    Without instances, each of `group_ids` counts as a worker that has only this group: then a rule is in force for
    every worker that has one of them. `vm_group_ids` default to the groups of the workers.
    """
    names = groups_of(instances)
    worker_sets = tuple(
        dict.fromkeys(frozenset(group["GroupId"] for group in instance["SecurityGroups"]) for instance in instances)
    ) or tuple(frozenset([group_id]) for group_id in group_ids)
    if group_ids:
        worker_groups, reason = tuple(dict.fromkeys(group_ids)), "Named by group_ids."
    else:
        worker_groups = tuple(sorted(frozenset.intersection(*worker_sets)))
        if worker_groups:
            reason = _shared(worker_groups, names, len(instances))
        elif vm_group_ids:
            worker_groups, reason = tuple(sorted(names)), f"The {len(instances)} instances share no security group."
        else:
            raise SecurityGroupError(
                f"The {len(instances)} instances share no security group: {_describe_instances(instances)}. "
                "Set group_ids to the groups of the workers to use, or vm_group_ids to those of the VMs."
            )
    vm_groups = tuple(dict.fromkeys(vm_group_ids)) or worker_groups
    if vm_group_ids:
        reason += f" The VMs have {', '.join(vm_groups)} (named by vm_group_ids)."
    return Ends(worker_sets, worker_groups, vm_groups), reason


def facts_needed(flows: Sequence[Flow], ends: Ends, rules: Sequence[Rule]) -> tuple[bool, tuple[str, ...]]:
    """Whether the blocks of the VPCs, and which prefix lists must be read before these flows can be judged.

    Nothing if rules for groups or for all addresses decide, which is the usual case.
    """
    needs_vpcs, prefix_list_ids = False, set()
    for flow in flows:
        for worker in ends.workers:
            for is_egress, groups, peers in ends.sides(flow, worker):
                if covering_rules(rules, flow.port, is_egress, groups, peers, Addresses(), ""):
                    continue
                admitting = _admitting(rules, flow.port, is_egress, groups)
                lists = {rule.peer for rule in admitting if rule.peer.startswith("pl-")}
                prefix_list_ids |= lists
                needs_vpcs |= bool(lists) or any("/" in rule.peer for rule in admitting)
    return needs_vpcs, tuple(sorted(prefix_list_ids))


def covering_rules(
    rules: Iterable[Rule],
    port: Port,
    is_egress: bool,
    groups: frozenset[str],
    peers: frozenset[str],
    addresses: Addresses,
    cluster_id: str,
) -> tuple[Rule, ...]:
    """The rules with which members of `groups` receive from members of `peers`, or send to them; empty if none does.

    Peer pods have IPv4 addresses only (cloud-api-adaptor takes the private IPv4 address of a VM), so the blocks of
    rules must contain those of the VPCs in IPv4. Of several rules for a group, one that is not the collection's is
    preferred, then one that the cluster references.
    """
    admitting = _admitting(rules, port, is_egress, groups)
    by_group = [rule for rule in admitting if rule.peer in peers]
    by_address = [rule for rule in admitting if addresses.prefix_lists.get(rule.peer) or "/" in rule.peer]
    blocks = [block for rule in by_address for block in addresses.prefix_lists.get(rule.peer, [rule.peer])]
    unmanaged = [rule for rule in by_group if not rule.is_managed]
    if unmanaged:
        return (unmanaged[0],)
    if _contain(blocks, addresses.vpc_cidrs):
        return tuple(rule for rule in by_address if ":" not in rule.peer)
    return tuple(sorted(by_group, key=lambda rule: cluster_id not in rule.references)[:1])


def plan_rules(
    flows: Sequence[Flow],
    ends: Ends,
    rules: Sequence[Rule],
    addresses: Addresses,
    cluster_id: str,
    ranks: Mapping[str, tuple] | None = None,
) -> NewRules:
    """Open the traffic that no rule of the groups allows, with as few rules as all workers require.

    Of several groups, those with the lowest of `ranks` get the rules.
    """

    def verdicts(flow: Flow, worker: frozenset[str], added: Sequence[Rule]) -> list[tuple[Rule, ...]]:
        sides = ends.sides(flow, worker)
        return [covering_rules([*rules, *added], flow.port, *side, addresses, cluster_id) for side in sides]

    opened: list[Rule] = []
    for flow in flows:
        while closed := [worker for worker in ends.workers if not all(verdicts(flow, worker, opened))]:
            opened += _open(flow, closed, ends, [*rules, *opened], addresses, ranks or {})
    for rule in tuple(opened):
        others = [other for other in opened if other is not rule]
        if all(all(verdicts(flow, worker, others)) for flow in flows for worker in ends.workers):
            opened = others
    decisive = [(flow.port, verdicts(flow, worker, opened)) for flow in flows for worker in ends.workers]
    return NewRules(
        tuple(opened),
        tuple(dict.fromkeys((port, ingress) for port, (ingress, dummy) in decisive if ingress[0] not in opened)),
        tuple({rule: None for dummy, sides in decisive for side in sides for rule in side if rule.is_managed}),
    )


def _open(
    flow: Flow,
    closed: Sequence[frozenset[str]],
    ends: Ends,
    rules: Sequence[Rule],
    addresses: Addresses,
    ranks: Mapping[str, tuple],
) -> list[Rule]:
    """The rules between one group of workers and one of the VMs, which serve some or all of the closed workers."""
    candidates = [group for group in ends.worker_groups if any(group in worker for worker in closed)]
    if not candidates:
        raise SecurityGroupError(
            f"Workers with the security groups {', '.join(sorted(closed[0]))} have none of "
            f"{', '.join(ends.worker_groups)}, so {flow.port} cannot be opened for them. Add one of their groups to "
            "group_ids."
        )

    def breadth(group: str) -> tuple:
        return (*ranks.get(group, ()), group)

    worker_group = min(candidates, key=lambda group: (-sum(group in worker for worker in closed), breadth(group)))
    # A group of the VMs alone is narrower than one that workers have as well.
    vm_group = min(ends.vm_groups, key=lambda group: (any(group in worker for worker in ends.workers), breadth(group)))
    if worker_group in ends.vm_groups and any(vm_group in worker for worker in ends.workers):
        vm_group = worker_group
    served = [worker for worker in closed if worker_group in worker]
    added = []
    for index, (group, peer) in enumerate(((vm_group, worker_group), (worker_group, vm_group))):
        # The receiver needs ingress rules, the sender egress rules.
        is_egress = (index == 1) == (flow.receiver == VMS)
        sides = [side for worker in served for side in ends.sides(flow, worker) if side[0] == is_egress]
        if not all(covering_rules(rules, flow.port, *side, addresses, "") for side in sides):
            added.append(Rule(group, is_egress, flow.port.protocol, flow.port.port, flow.port.port, peer))
    return sorted(added, key=lambda rule: rule.is_egress)


def unused_rules(rules: Iterable[Rule], flows: Sequence[Flow], ends: Ends, cluster_id: str) -> tuple[Rule, ...]:
    """The rules of the cluster for other traffic, such as that of a port that is no longer an option."""
    needed = {(flow.port, *side) for flow in flows for worker in ends.workers for side in ends.sides(flow, worker)}
    return tuple(
        rule
        for rule in rules
        if cluster_id in rule.references
        and not any(
            rule.admits(port) and rule.is_egress == is_egress and rule.group_id in groups and rule.peer in peers
            for port, is_egress, groups, peers in needed
        )
    )


def ranks_of(groups: Iterable[Group], cluster_name: str) -> dict[str, tuple[bool, bool, bool]]:
    """How narrow each group is by its name and tags: the cluster's own before others, that of its nodes before that of
    its load balancers, and the VPC's default group last."""
    return {
        group.group_id: (
            group.group_name == "default",
            f"kubernetes.io/cluster/{cluster_name}" not in group.tags
            and not group.group_name.startswith(f"{cluster_name}-"),
            group.group_name.rpartition("-")[2] == "lb",
        )
        for group in groups
    }


def undecided(ends: Ends, ranks: Mapping[str, tuple]) -> tuple[str, ...]:
    """The groups that have the lowest rank together with others, so that the number of their members decides."""
    tied: dict[str, None] = {}
    for group_ids in (ends.worker_groups, ends.vm_groups):
        lowest = min(ranks[group_id] for group_id in group_ids)
        first = [group_id for group_id in group_ids if ranks[group_id] == lowest]
        if len(first) > 1:
            tied |= dict.fromkeys(first)
    return tuple(tied)


def other_members(group_ids: Iterable[str], interfaces: Iterable[Mapping], workers: Iterable[str]) -> dict[str, int]:
    """How many network interfaces have each group that are not those of workers, from DescribeNetworkInterfaces."""
    counts, own = dict.fromkeys(group_ids, 0), set(workers)
    for interface in interfaces:
        if interface.get("Attachment", {}).get("InstanceId") in own:
            continue
        for group in interface["Groups"]:
            if group["GroupId"] in counts:
                counts[group["GroupId"]] += 1
    return counts


def network_problems(
    subnet: Mapping | None, vpc: str, named: Sequence[str], existing: Mapping[str, Mapping], region: str
) -> Iterator[str]:
    """Why no instance can be started in the subnet, of DescribeSubnets, with the security groups that are `named`.

    `existing` has those of DescribeSecurityGroups by their IDs. All must be in one VPC.
    """
    if missing := [group_id for group_id in named if group_id not in existing]:
        yield f"EC2 has no security group {join_names(missing)} in {region}."
    if subnet is None:
        return
    if vpc and subnet["VpcId"] != vpc:
        yield f"{subnet['SubnetId']} is in {subnet['VpcId']}, not in {vpc}."
    for group_id, group in existing.items():
        if group["VpcId"] != subnet["VpcId"]:
            yield f"{group_id} is in {group['VpcId']}, not in {subnet['VpcId']}, the VPC of {subnet['SubnetId']}."


def ip_permission(rule: Rule) -> dict:
    """The IpPermissions entry of a planned rule."""
    return {
        "IpProtocol": rule.protocol,
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
        "UserIdGroupPairs": [
            {"GroupId": rule.peer, "Description": f"osc.peerpods: port {rule.port} between workers and peer pods"}
        ],
    }


def describe_rules(rules: Sequence[Rule]) -> str:
    """What opens a port, for messages; rules of another group than the first one's with its name."""
    return " and ".join(
        f"{rule}{'' if rule.group_id == rules[0].group_id else f' of {rule.group_id}'}" for rule in rules
    )


def _admitting(rules: Iterable[Rule], port: Port, is_egress: bool, groups: frozenset[str]) -> list[Rule]:
    return [rule for rule in rules if rule.group_id in groups and rule.is_egress == is_egress and rule.admits(port)]


def _contain(blocks: Iterable[str], cidrs: Iterable[str]) -> bool:
    """Whether the union of `blocks` contains every IPv4 address of all `cidrs`, or without `cidrs` every IPv4
    address."""
    networks = [ip_network(block, strict=False) for block in blocks]
    # If a union of blocks contains a CIDR, one block of the collapsed union contains it.
    union = list(collapse_addresses(network for network in networks if isinstance(network, IPv4Network)))
    return all(any(map(IPv4Network(cidr).subnet_of, union)) for cidr in cidrs or (ANYWHERE,))


def _shared(worker_groups: Sequence[str], groups: Mapping[str, Group], count: int) -> str:
    reason = f"{_names(worker_groups, groups)} {'is' if len(worker_groups) == 1 else 'are'} on " + (
        f"all {count} instances" if count > 1 else "the only instance"
    )
    unshared = sorted(set(groups).difference(worker_groups))
    if unshared:
        reason += f"; {_names(unshared, groups)} {'is' if len(unshared) == 1 else 'are'} not"
    return reason + "."


def _describe_instances(instances: Iterable[Mapping]) -> str:
    """Instances by the set of groups they have: a few lines even for hundreds of workers."""
    by_groups: dict[tuple[str, ...], list[str]] = {}
    for instance in instances:
        group_ids = tuple(sorted(group["GroupId"] for group in instance["SecurityGroups"]))
        by_groups.setdefault(group_ids, []).append(instance["InstanceId"])
    return "; ".join(
        f"{join_names(holders)} {'has' if len(holders) == 1 else 'have'} {', '.join(group_ids) or 'none'}"
        for group_ids, holders in by_groups.items()
    )


def _names(group_ids: Iterable[str], groups: Mapping[str, Group]) -> str:
    return ", ".join(str(groups[group_id]) for group_id in group_ids)
