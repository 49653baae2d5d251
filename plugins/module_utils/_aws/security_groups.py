# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans of security group rules: the groups to open, the rules that already cover a port, and the missing rules (private).

Pure functions of plain data: the arguments are dicts in the shape of the EC2 API, the results are plans. No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

MANAGED_TAG = "osc.peerpods/managed"

ALL_PROTOCOLS = "-1"

_INSTANCE_ID = re.compile(r"(?:aws://.*/)?(i-[0-9a-f]{8,17})")
_GONE = ("shutting-down", "terminated")


class SecurityGroupError(Exception):
    """Input that no plan can be made of, as a sentence."""


@dataclass(frozen=True, order=True)
class Port:
    """One port of one protocol (`tcp` or `udp`)."""

    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"

    @property
    def description(self) -> str:
        """The description of the rule for this port; `state: absent` also identifies the rule by it."""
        return f"osc.peerpods: port {self} between workers and peer pods"


@dataclass(frozen=True)
class Rule:
    """One ingress rule with one source: a group (`sg-…`), a prefix list (`pl-…`) or a CIDR.

    The ports mean nothing where the protocol is not one with ports; for
    `-1` EC2 leaves them out and they are None.
    """

    protocol: str
    from_port: int | None
    to_port: int | None
    source: str

    def admits(self, port: Port) -> bool:
        if self.protocol == ALL_PROTOCOLS:
            return True
        return (
            self.protocol == port.protocol
            and self.from_port is not None
            and self.to_port is not None
            and self.from_port <= port.port <= self.to_port
        )

    @property
    def is_cidr(self) -> bool:
        return "/" in self.source

    @property
    def is_prefix_list(self) -> bool:
        return self.source.startswith("pl-")


@dataclass(frozen=True)
class Group:
    """A security group from DescribeSecurityGroups, with its ingress flattened to single rules."""

    group_id: str
    group_name: str
    vpc_id: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, order=True)
class Retagging:
    """A managed rule with missing or different tags: the current and the desired values of these tags."""

    port: Port
    rule_id: str
    before: tuple[tuple[str, str], ...]
    after: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """The changes of one security group.

    `already_open` pairs a port with a description of the rules that cover it; `revoked` pairs a port with the id of the
    rule of this collection (`sgr-…`).
    """

    group: Group
    opened: tuple[Port, ...] = ()
    already_open: tuple[tuple[Port, str], ...] = ()
    revoked: tuple[tuple[Port, str], ...] = ()
    retagged: tuple[Retagging, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.opened or self.revoked or self.retagged)


def wanted_ports(ports: Iterable[Mapping]) -> tuple[Port, ...]:
    """The module's `ports` option as Ports, in order, each once."""
    unique_ports: dict[Port, None] = {}
    for entry in ports:
        if not 1 <= entry["port"] <= 65535:
            raise SecurityGroupError(f"{entry['port']} is not a port. Set ports from 1 to 65535.")
        for protocol in entry["protocols"]:
            unique_ports[Port(entry["port"], protocol)] = None
    return tuple(unique_ports)


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


def shared_groups(instances: Sequence[Mapping]) -> tuple[tuple[str, ...], str]:
    """The ids of the groups that all instances have, and a sentence with the reason for this selection.

    Only with a shared group does a rule from the group to itself let each worker connect to each other worker, and only
    a shared group can be attached to the VMs of peer pods of every worker.
    """
    groups_by_instance = {
        instance["InstanceId"]: {group["GroupId"]: group["GroupName"] for group in instance["SecurityGroups"]}
        for instance in instances
    }
    names = {group_id: name for groups in groups_by_instance.values() for group_id, name in groups.items()}
    shared = sorted(set(names).intersection(*groups_by_instance.values()))
    if not shared:
        raise SecurityGroupError(
            f"The {len(groups_by_instance)} instances share no security group: {_describe_instances(groups_by_instance)}. "
            "Set group_ids to the groups to open."
        )
    reason = f"{_group_names(shared, names)} {'is' if len(shared) == 1 else 'are'} on " + (
        f"all {len(groups_by_instance)} instances" if len(groups_by_instance) > 1 else "the only instance"
    )
    unshared = sorted(set(names).difference(shared))
    if unshared:
        reason += f"; {_group_names(unshared, names)} {'is' if len(unshared) == 1 else 'are'} not"
    return tuple(shared), reason + "."


def rules_of(ip_permissions: Iterable[Mapping]) -> tuple[Rule, ...]:
    """IpPermissions of DescribeSecurityGroups, one Rule for each source."""
    rules = []
    for permission in ip_permissions:
        sources = [
            *(pair["GroupId"] for pair in permission.get("UserIdGroupPairs", ())),
            *(block["CidrIp"] for block in permission.get("IpRanges", ())),
            *(block["CidrIpv6"] for block in permission.get("Ipv6Ranges", ())),
            *(prefixes["PrefixListId"] for prefixes in permission.get("PrefixListIds", ())),
        ]
        rules += [
            Rule(
                permission["IpProtocol"],
                permission.get("FromPort"),
                permission.get("ToPort"),
                source,
            )
            for source in sources
        ]
    return tuple(rules)


def facts_needed(groups: Iterable[Group], ports: Sequence[Port]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The VPCs and prefix lists that must be read before these groups can be planned.

    Empty if the groups' own rules decide, which is the usual case.
    """
    vpc_ids, prefix_list_ids = set(), set()
    for group in groups:
        for port in ports:
            admitting = [rule for rule in group.rules if rule.admits(port)]
            if any(rule.source == group.group_id for rule in admitting):
                continue
            prefix_list_ids |= {rule.source for rule in admitting if rule.is_prefix_list}
            if any(rule.is_cidr or rule.is_prefix_list for rule in admitting):
                vpc_ids.add(group.vpc_id)
    return tuple(sorted(vpc_ids)), tuple(sorted(prefix_list_ids))


def plan_present(
    group: Group,
    ports: Sequence[Port],
    vpc_cidrs: Mapping[str, Sequence[str]],
    prefix_lists: Mapping[str, Sequence[str]],
) -> Plan:
    """Open what is not open yet from the group to itself.

    `vpc_cidrs` are the CIDR blocks (IPv4 and IPv6) by VPC id, `prefix_lists`
    those by prefix list id, for what facts_needed named. A block or list that
    is not known is taken to cover nothing.
    """
    opened, already_open = [], []
    for port in ports:
        covered_by = _covered_by(group, port, vpc_cidrs.get(group.vpc_id, ()), prefix_lists)
        if covered_by is None:
            opened.append(port)
        else:
            already_open.append((port, covered_by))
    return Plan(group, opened=tuple(opened), already_open=tuple(already_open))


def plan_absent(group: Group, ports: Sequence[Port], security_group_rules: Iterable[Mapping]) -> Plan:
    """Revoke the rules for these ports that this collection added, which have its tag or its description.

    `security_group_rules` as DescribeSecurityGroupRules gives them, of any groups.
    """
    managed_rules = _our_rules(group, ports, security_group_rules)
    return Plan(group, revoked=tuple(sorted((port, rule["SecurityGroupRuleId"]) for port, rule in managed_rules)))


def may_contain_our_rules(group: Group, ports: Sequence[Port]) -> bool:
    """Whether the group has rules that may be managed, whose tags must be read."""
    return any(Rule(port.protocol, port.port, port.port, group.group_id) in group.rules for port in ports)


def plan_tags(
    plan: Plan,
    ports: Sequence[Port],
    tags: Mapping[str, str],
    security_group_rules: Iterable[Mapping],
) -> Plan:
    """The plan with the tags that the collection's rules for these ports lack or have with another value.

    Further tags of these rules stay.
    """
    retagged = []
    for port, rule in _our_rules(plan.group, ports, security_group_rules):
        current = _tags_of(rule)
        missing = {key: value for key, value in tags.items() if current.get(key) != value}
        if missing:
            before = {key: current[key] for key in missing if key in current}
            retagged.append(
                Retagging(
                    port,
                    rule["SecurityGroupRuleId"],
                    before=tuple(sorted(before.items())),
                    after=tuple(sorted(missing.items())),
                )
            )
    return replace(plan, retagged=tuple(sorted(retagged)))


def ip_permission(group_id: str, port: Port) -> dict:
    """The IpPermissions entry that opens a port from a group to itself."""
    return {
        "IpProtocol": port.protocol,
        "FromPort": port.port,
        "ToPort": port.port,
        "UserIdGroupPairs": [{"GroupId": group_id, "Description": port.description}],
    }


def diff_of(plan: Plan) -> dict:
    """The plan as Ansible's before and after: a line for each port."""
    unchanged = {port: f"open to {covered_by}" for port, covered_by in plan.already_open}
    before = {
        **unchanged,
        **dict.fromkeys(plan.opened, "closed"),
        **{port: f"opened by osc.peerpods ({rule_id})" for port, rule_id in plan.revoked},
    }
    after = dict(unchanged)
    for port in plan.opened:
        for rule in rules_of([ip_permission(plan.group.group_id, port)]):
            after[port] = f"open to {_describe_rule(plan.group, rule)}"
    for retagging in plan.retagged:
        before[retagging.port] += f"; {retagging.rule_id} has {_describe_tags(retagging.before)}"
        after[retagging.port] += f"; {retagging.rule_id} has {_describe_tags(retagging.after)}"
    header = f"{plan.group.group_id} ({plan.group.group_name})"
    return {
        "before_header": header,
        "after_header": header,
        "before": _lines(before),
        "after": _lines(after),
    }


def _covered_by(
    group: Group,
    port: Port,
    vpc_cidrs: Sequence[str],
    prefix_lists: Mapping[str, Sequence[str]],
) -> str | None:
    admitting = [rule for rule in group.rules if rule.admits(port)]
    for rule in admitting:
        if rule.source == group.group_id:
            return _describe_rule(group, rule)
    by_address = [rule for rule in admitting if rule.is_cidr or rule.source in prefix_lists]
    blocks = [block for rule in by_address for block in ([rule.source] if rule.is_cidr else prefix_lists[rule.source])]
    if vpc_cidrs and _contain(blocks, vpc_cidrs):
        return " and ".join(_describe_rule(group, rule) for rule in by_address)
    return None


def _contain(blocks: Iterable[str], cidrs: Iterable[str]) -> bool:
    """Whether the union of `blocks` contains every address of all `cidrs`."""
    networks = [ip_network(block, strict=False) for block in blocks]
    # If a union of blocks contains a CIDR, one block of the collapsed union contains it.
    ipv4 = list(collapse_addresses(network for network in networks if isinstance(network, IPv4Network)))
    ipv6 = list(collapse_addresses(network for network in networks if isinstance(network, IPv6Network)))
    return all(
        any(map(cidr.subnet_of, ipv4)) if isinstance(cidr, IPv4Network) else any(map(cidr.subnet_of, ipv6))
        for cidr in map(ip_network, cidrs)
    )


def _our_rules(
    group: Group, ports: Sequence[Port], security_group_rules: Iterable[Mapping]
) -> Iterator[tuple[Port, Mapping]]:
    """Our rules for these ports from the group to itself, out of those of any groups."""
    for rule in security_group_rules:
        port = Port(rule.get("FromPort", 0), rule["IpProtocol"])
        if (
            rule["GroupId"] == group.group_id
            and not rule["IsEgress"]
            and rule.get("ReferencedGroupInfo", {}).get("GroupId") == group.group_id
            and rule.get("FromPort") == rule.get("ToPort")
            and port in ports
            and _is_managed(rule, port)
        ):
            yield port, rule


def _is_managed(rule: Mapping, port: Port) -> bool:
    return _tags_of(rule).get(MANAGED_TAG) == "true" or rule.get("Description") == port.description


def _tags_of(rule: Mapping) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in rule.get("Tags", ())}


def _describe_tags(tags: Sequence[tuple[str, str]]) -> str:
    return f"the tags {', '.join(f'{key}={value}' for key, value in tags)}" if tags else "no such tag"


def _describe_rule(group: Group, rule: Rule) -> str:
    source = "the group itself" if rule.source == group.group_id else rule.source
    if rule.protocol == ALL_PROTOCOLS:
        return f"{source} (all traffic)"
    ports = str(rule.from_port)
    if rule.to_port != rule.from_port:
        ports += f"-{rule.to_port}"
    return f"{source} ({rule.protocol} {ports})"


def _describe_instances(groups_by_instance: Mapping[str, Mapping[str, str]]) -> str:
    """Instances by the set of groups they have: a few lines even for hundreds of workers."""
    by_groups: dict[tuple[str, ...], list[str]] = {}
    for instance_id, groups in groups_by_instance.items():
        by_groups.setdefault(tuple(sorted(groups)), []).append(instance_id)
    return "; ".join(
        f"{join_names(holders)} {'has' if len(holders) == 1 else 'have'} {', '.join(groups) or 'none'}"
        for groups, holders in by_groups.items()
    )


def _group_names(group_ids: Iterable[str], names: Mapping[str, str]) -> str:
    return ", ".join(f"{group_id} ({names[group_id]})" for group_id in group_ids)


def _lines(states: Mapping[Port, str]) -> str:
    return "".join(f"{port} {state}\n" for port, state in sorted(states.items()))
