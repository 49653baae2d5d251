# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How network security groups decide, which rules they lack, and which groups to look at (private).

Pure functions over plain data: resources in the shape of the ARM API go in,
plans come out. Nothing here knows of a connection.

Sources, on Microsoft Learn: "Network security groups", "How network security
groups filter network traffic", "Application security groups", "Virtual network
service tags"; REST reference "Security Rules - Create Or Update".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)
from itertools import combinations
from typing import Any

OURS = "osc.peerpods: "
"""How the description of a rule of ours begins; `absent` knows it by this."""

PRIORITIES = (100, 4096)
"""The first and the last that a security rule may have; the default rules come after."""

PRIORITY_AFTER_ALL = 65536
"""Of the verdict on traffic that no rule decides."""

# Sets of addresses are sorted ranges, both ends included, on one number line on which the IPv6
# addresses come after the IPv4 ones.
_Ranges = tuple[tuple[int, int], ...]
_IPV6 = 1 << 32
_EVERYWHERE: _Ranges = ((0, _IPV6 - 1), (_IPV6, _IPV6 + (1 << 128) - 1))

# "Virtual network service tags": the host's virtual address, where health probes come from.
_AZURE_LOAD_BALANCER = IPv4Network("168.63.129.16/32")
_ALL_PORTS = (0, 65535)
_PROTOCOLS = ("Tcp", "Udp", "Icmp", "Esp", "Ah")
_TWIN = "-IPv6"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_TAG = re.compile(r"\*|[A-Za-z][A-Za-z0-9.]*")
_DESCRIPTION_LENGTH = 140
_GROUPS = "ApplicationSecurityGroups"
_AS_GIVEN = ("name", "priority", "direction", "access", "protocol", "description")
_END = re.compile(r"(source|destination)(AddressPrefix|ApplicationSecurityGroups|PortRange)")

_READ_ONLY = ("etag", "id", "type")
_READ_ONLY_PROPERTIES = (
    "provisioningState",
    "resourceGuid",
    "defaultSecurityRules",
    "flowLogs",
    "networkInterfaces",
    "subnets",
)
_VIRTUAL_MACHINE = re.compile(
    r"(?:azure://)?(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute"
    r"/virtualMachines/[^/]+)",
    re.IGNORECASE,
)
_SCALE_SET = re.compile(r".*/virtualMachineScaleSets/[^/]+/virtualMachines/[^/]+", re.IGNORECASE)
_NAMED_AT_MOST = 10


class SecurityRuleError(Exception):
    """Input that no plan can be made of, as a sentence."""


# -- How a group decides -----------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """Traffic from some addresses to one port of others.

    `protocol` is a rule's (`Tcp`, `Udp`, `Icmp`, `Esp`, `Ah`) or `*`, of which
    a rule for one protocol decides only a part. What a rule's ports mean for a
    protocol that has none is not documented; they are taken literally.
    `source` and `destination` are CIDRs, or whatever a rule may have there.
    """

    direction: str
    protocol: str
    port: int
    source: tuple[str, ...]
    destination: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What becomes of the traffic from each address of `source` to each of `destination`.

    `partly`: the rule decides only some of it, and we cannot tell which: it
    names application security groups, a service tag, source ports, or one of
    all protocols. Then there are further verdicts on the same addresses.
    """

    source: tuple[str, ...]
    destination: tuple[str, ...]
    access: str
    rule: str
    priority: int
    partly: bool = False

    @property
    def by(self) -> str:
        return f"{self.rule} ({self.priority})"


@dataclass(frozen=True)
class End:
    """The source or the destination of a security rule: who is there, and the ports.

    `groups` are ids of application security groups. A rule has these or
    prefixes (CIDRs, addresses, a service tag, `*`); a wanted one may have both
    here, then the prefixes are where the members of the groups are taken to be.
    """

    prefixes: tuple[str, ...]
    groups: tuple[str, ...]
    port_ranges: tuple[str, ...]

    @classmethod
    def of(cls, properties: Mapping, side: str) -> End:
        """The end of this side, `source` or `destination`, of a rule's `properties`."""

        def values(key: str, plural: str) -> tuple[str, ...]:
            one = properties.get(key)
            return tuple(properties.get(key + plural) or ((one,) if one else ()))

        return cls(
            values(f"{side}AddressPrefix", "es"),
            tuple(group["id"] for group in properties.get(f"{side}{_GROUPS}") or ()),
            values(f"{side}PortRange", "s"),
        )

    def properties(self, side: str) -> dict[str, Any]:
        """The same as ARM takes it: one prefix or range as such, several as a list, as az does."""

        def values(key: str, plural: str, texts: tuple[str, ...]) -> dict[str, Any]:
            return {key: texts[0]} if len(texts) == 1 else {key + plural: list(texts)}

        return {
            **(
                {f"{side}{_GROUPS}": [{"id": group} for group in self.groups]}
                if self.groups
                else values(f"{side}AddressPrefix", "es", self.prefixes)
            ),
            **values(f"{side}PortRange", "s", self.port_ranges),
        }


@dataclass(frozen=True)
class _Rule:
    """A security rule's matching half, its tags resolved and its ranges parsed."""

    name: str
    priority: int
    direction: str
    access: str
    protocol: str
    ports: tuple[tuple[int, int], ...]
    source: _Ranges
    destination: _Ranges
    partly: bool

    def meets(self, flow: Flow) -> bool:
        return (
            self.direction == flow.direction.lower()
            and (self.protocol == "*" or flow.protocol.lower() in ("*", self.protocol))
            and any(low <= flow.port <= high for low, high in self.ports)
        )


def rules_of(nsg: Mapping) -> list[Mapping]:
    """All rules of a network security group, its own and the default ones."""
    properties = nsg["properties"]
    return [*properties.get("securityRules", ()), *properties.get("defaultSecurityRules", ())]


def decide(
    flow: Flow, security_rules: Iterable[Mapping], virtual_network: Sequence[str]
) -> tuple[Verdict, ...]:
    """Who decides which part of a flow; in order of priority, as few verdicts as we can.

    `security_rules` are those of rules_of. `virtual_network` is what the tag
    VirtualNetwork stands for, at least: the address space of the virtual
    network and those peered with it. Internet is all else; other service tags
    are somewhere in that. IPv4 and IPv6 never meet.
    """
    return _decide(flow, _parsed(security_rules, virtual_network), virtual_network)


def passes(verdicts: Sequence[Verdict]) -> bool:
    """Whether all of the flow certainly gets through."""
    return bool(verdicts) and all(verdict.access == "Allow" for verdict in verdicts)


def same(existing: Mapping, wanted: Mapping) -> bool:
    """Whether two rules' `properties` mean the same; a description counts where wanted has one.

    A list of one is its only element, order and case do not matter, and
    neither does how a CIDR or a range is spelled.
    """
    return _meaning(existing) == _meaning(wanted) and (
        "description" not in wanted or existing.get("description") == wanted["description"]
    )


def _decide(
    flow: Flow, rules: Iterable[_Rule], virtual_network: Sequence[str]
) -> tuple[Verdict, ...]:
    source, _ = _addresses(flow.source, virtual_network)
    destination, _ = _addresses(flow.destination, virtual_network)
    undecided = [(_common(source, (all_,)), _common(destination, (all_,))) for all_ in _EVERYWHERE]
    verdicts = []
    meeting = (rule for rule in rules if rule.meets(flow))
    for rule in sorted(meeting, key=lambda rule: rule.priority):
        partly = rule.partly or (flow.protocol == "*" and rule.protocol != "*")
        hits, rest = [], []
        for source, destination in undecided:
            hit = _common(source, rule.source), _common(destination, rule.destination)
            hits.append(hit)
            if partly:
                rest.append((source, destination))
            else:
                rest.append((_without(source, hit[0]), destination))
                rest.append((hit[0], _without(destination, hit[1])))
        undecided = [box for box in rest if all(box)]
        verdicts += _verdicts(hits, rule.access, rule.name, rule.priority, partly)
    # The default rules leave nothing; a group without them lets nothing through.
    return (*verdicts, *_verdicts(undecided, "Deny", "no rule", PRIORITY_AFTER_ALL, False))


def _verdicts(boxes: Iterable[tuple[_Ranges, _Ranges]], *decision: Any) -> Iterator[Verdict]:
    for source, destination in _merged([box for box in boxes if all(box)]):
        yield Verdict(_cidrs(source), _cidrs(destination), *decision)


def _merged(boxes: list[tuple[_Ranges, _Ranges]]) -> list[tuple[_Ranges, _Ranges]]:
    """Boxes of the same source or the same destination made one, as long as there are any."""
    for one, other in combinations(boxes, 2):
        if one[0] == other[0] or one[1] == other[1]:
            rest = [box for box in boxes if box not in (one, other)]
            return _merged([(_union(one[0] + other[0]), _union(one[1] + other[1])), *rest])
    return boxes


def _parsed(rules: Iterable[Mapping], virtual_network: Sequence[str]) -> list[_Rule]:
    parsed = []
    for rule in rules:
        properties = rule["properties"]
        ends = [End.of(properties, side) for side in ("source", "destination")]
        (source, all_of_source), (destination, all_of_destination) = (
            (_EVERYWHERE, False) if end.groups else _addresses(end.prefixes, virtual_network)
            for end in ends
        )
        parsed.append(
            _Rule(
                rule["name"],
                properties["priority"],
                properties["direction"].lower(),
                properties["access"].capitalize(),
                properties["protocol"].lower(),
                tuple(map(_port_range, ends[1].port_ranges)),
                source,
                destination,
                partly=not (all_of_source and all_of_destination)
                or _ALL_PORTS not in map(_port_range, ends[0].port_ranges),
            )
        )
    return parsed


def _addresses(prefixes: Iterable[str], virtual_network: Sequence[str]) -> tuple[_Ranges, bool]:
    """Where prefixes are, and whether they mean all that is there."""
    ranges: list[tuple[int, int]] = []
    all_of_it = True
    inside = _union(_range(ip_network(prefix, strict=False)) for prefix in virtual_network)
    for prefix in prefixes:
        tag, network = prefix.lower(), _network(prefix)
        if network:
            ranges.append(_range(network))
        elif tag == "*":
            ranges += _EVERYWHERE
        elif tag == "virtualnetwork":
            ranges += inside
        elif tag == "azureloadbalancer":
            ranges.append(_range(_AZURE_LOAD_BALANCER))
        else:
            ranges += _without(_EVERYWHERE, inside)
            all_of_it = all_of_it and tag == "internet"
    return _union(ranges), all_of_it


def _network(prefix: str, strict: bool = False) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(prefix, strict)
    except ValueError:
        return None


def _range(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    begin = _IPV6 if network.version == 6 else 0
    return begin + int(network[0]), begin + int(network[-1])


def _cidrs(ranges: _Ranges) -> tuple[str, ...]:
    return tuple(
        str(network)
        for low, high in ranges
        for kind, begin in [(IPv6Address, _IPV6) if low >= _IPV6 else (IPv4Address, 0)]
        for network in summarize_address_range(kind(low - begin), kind(high - begin))
    )


def _union(ranges: Iterable[tuple[int, int]]) -> _Ranges:
    union: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if union and low <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(high, union[-1][1]))
        else:
            union.append((low, high))
    return tuple(union)


def _common(some: _Ranges, others: _Ranges) -> _Ranges:
    return tuple(
        (max(low, from_), min(high, to))
        for low, high in some
        for from_, to in others
        if low <= to and from_ <= high
    )


def _without(ranges: _Ranges, taken: _Ranges) -> _Ranges:
    for from_, to in taken:
        ranges = tuple(
            (low, high)
            for low_, high_ in ranges
            for low, high in ((low_, min(high_, from_ - 1)), (max(low_, to + 1), high_))
            if low <= high
        )
    return ranges


def _is_port_range(text: str) -> bool:
    if not re.fullmatch(r"\*|\d{1,5}(-\d{1,5})?", text):
        return False
    low, high = _port_range(text)
    return low <= high <= _ALL_PORTS[1]


def _port_range(text: str) -> tuple[int, int]:
    if text == "*":
        return _ALL_PORTS
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _meaning(properties: Mapping) -> list[Any]:
    meaning = [properties["priority"]]
    meaning += [properties[key].lower() for key in ("protocol", "access", "direction")]
    for side in ("source", "destination"):
        end = End.of(properties, side)
        meaning += [
            {_network(prefix) or prefix.lower() for prefix in end.prefixes},
            {group.lower() for group in end.groups},
            set(map(_port_range, end.port_ranges)),
        ]
    return meaning


# -- Which rules are wanted --------------------------------------------------------------------


@dataclass(frozen=True)
class WantedRule:
    """A security rule as it is to be, but for its priority where somebody has that already.

    The IPv6 half of a rule for both families has no priority of its own; it
    comes after the half it is `twin_of`.
    """

    name: str
    priority: int | None
    direction: str
    access: str
    protocol: str
    source: End
    destination: End
    description: str | None = None
    twin_of: str | None = None

    @property
    def full_description(self) -> str:
        if self.description:
            return OURS + self.description
        ports = "-".join(self.destination.port_ranges)
        what = f"port {ports}/{self.protocol.lower()}" if ports.isdigit() else "traffic"
        return f"{OURS}{what} between workers and peer pods"


def wanted_rules(
    options: Iterable[Mapping], sources: Sequence[str], destinations: Sequence[str]
) -> tuple[WantedRule, ...]:
    """The module's `rules` option as rules; prefixes that are not given are those of the workers.

    A rule may not have prefixes of both IP families, so one for both becomes
    two: the one for IPv6 has `-IPv6` after its name.
    """
    wanted = []
    for option in options:
        rule = WantedRule(
            **{key: option[key] for key in _AS_GIVEN},
            source=_end(option, "source", sources),
            destination=_end(option, "destination", destinations),
        )
        wanted += _by_family(rule)
    for rule in wanted:
        _check(rule)
    for one, other in combinations(wanted, 2):
        if one.name.lower() == other.name.lower():
            raise SecurityRuleError(
                f"Two rules are called {other.name}. Names are unique within a network security "
                "group, whatever their case: rename one of them."
            )
        if one.priority == other.priority is not None and one.direction == other.direction:
            raise SecurityRuleError(
                f"The rules {one.name} and {other.name} both have the priority {one.priority} "
                f"and the direction {one.direction}. Give one of them another priority."
            )
    return tuple(wanted)


def security_rule(wanted: WantedRule, priority: int) -> dict:
    """The rule as ARM takes it."""
    return {
        "name": wanted.name,
        "properties": {
            "description": wanted.full_description,
            "protocol": wanted.protocol,
            **wanted.source.properties("source"),
            **wanted.destination.properties("destination"),
            "access": wanted.access,
            "priority": priority,
            "direction": wanted.direction,
        },
    }


def _end(option: Mapping, side: str, workers: Sequence[str]) -> End:
    prefixes, groups, port_ranges = (
        tuple(dict.fromkeys(option.get(f"{side}_{key}") or ()))
        for key in ("address_prefixes", "application_security_groups", "port_ranges")
    )
    if prefixes and groups:
        raise SecurityRuleError(
            f"The rule {option['name']} has both {side}_address_prefixes and "
            f"{side}_application_security_groups. A security rule has one or the other: leave "
            "one out."
        )
    # Members of application security groups are in the virtual network in any case.
    somewhere = ("VirtualNetwork",) if groups else ()
    return End(prefixes or tuple(workers) or somewhere, groups, port_ranges)


def _by_family(rule: WantedRule) -> Iterator[WantedRule]:
    """The rule, or its two halves; tags, `*` and application security groups are for both."""

    def half(end: End, version: int) -> End:
        if end.groups:
            return end
        of_version = (
            p for p in end.prefixes if getattr(_network(p), "version", version) == version
        )
        return replace(end, prefixes=tuple(of_version))

    halves = [
        replace(rule, source=source, destination=destination)
        for version in (4, 6)
        if (source := half(rule.source, version)).prefixes
        and (destination := half(rule.destination, version)).prefixes
    ]
    if not halves:
        raise SecurityRuleError(
            f"The rule {rule.name} matches nothing: no IP family is in both its source "
            f"({', '.join(rule.source.prefixes) or 'none'}) and its destination "
            f"({', '.join(rule.destination.prefixes) or 'none'}). Give source_address_prefixes "
            "and destination_address_prefixes of the same family."
        )
    yield halves[0]
    if halves[0] != halves[-1]:
        yield replace(halves[1], name=rule.name + _TWIN, priority=None, twin_of=rule.name)


def _check(rule: WantedRule) -> None:
    problem = None
    if not _NAME.fullmatch(rule.name):
        problem = (
            "has a name that Azure does not take. Give one of at most 80 letters, digits, '_', '.' "
            "and '-' that begins with a letter or digit and ends with one or with '_'."
        )
    elif rule.priority and not PRIORITIES[0] <= rule.priority <= PRIORITIES[1]:
        problem = f"has the priority {rule.priority}. Give one from 100 to 4096."
    elif len(rule.full_description) > _DESCRIPTION_LENGTH:
        problem = (
            f"has a description of {len(rule.description)} characters. Give at most "
            f"{_DESCRIPTION_LENGTH - len(OURS)}: Azure takes {_DESCRIPTION_LENGTH}, and ours begin "
            f"with {OURS!r}."
        )
    for end in (rule.source, rule.destination):
        problem = problem or _wrong_ports(end.port_ranges) or _wrong_prefixes(end.prefixes)
    if problem:
        raise SecurityRuleError(f"The rule {rule.name} {problem}")


def _wrong_ports(port_ranges: Sequence[str]) -> str | None:
    right = all(_is_port_range(text) for text in port_ranges)
    if port_ranges and right and ("*" not in port_ranges or len(port_ranges) == 1):
        return None
    return (
        f"has the ports {', '.join(port_ranges) or 'none'}. Give ports from 0 to 65535 (9000), "
        "ranges of them (9000-9010), or '*' alone."
    )


def _wrong_prefixes(prefixes: Sequence[str]) -> str | None:
    for prefix in prefixes:
        network = _network(prefix)
        if network and not _network(prefix, strict=True):
            return (
                f"has the address prefix {prefix}, with bits set beyond its length, which Azure "
                f"does not take. Give {network}."
            )
        if not network and not _TAG.fullmatch(prefix):
            return (
                f"has the address prefix {prefix!r}. Give a CIDR (10.0.0.0/16), an address, a "
                "service tag (VirtualNetwork), or '*'."
            )
        if not network and len(prefixes) > 1:
            return (
                f"has {prefix} beside other address prefixes. Azure takes a service tag or '*' "
                "alone: make it a rule of its own."
            )
    return None


# -- What is left to do ------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A rule that has another priority than it was to have, and the rule that has that one."""

    name: str
    wanted: int
    given: int
    taken_by: str


@dataclass(frozen=True)
class Plan:
    """What is to be done to one network security group; rules are in the shape of the ARM API.

    `updated` pairs what a rule is with what it is to be. The others that come
    in pairs are names, each with the reason in words: `covered` by these
    rules, `shadowed` by that one, `kept` by `absent` since it is not ours.
    """

    nsg_id: str
    created: tuple[dict, ...] = ()
    updated: tuple[tuple[dict, dict], ...] = ()
    removed: tuple[dict, ...] = ()
    unchanged: tuple[str, ...] = ()
    covered: tuple[tuple[str, str], ...] = ()
    moved: tuple[Move, ...] = ()
    shadowed: tuple[tuple[str, str], ...] = ()
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.created or self.updated or self.removed)


def plan_present(
    nsg: Mapping,
    wanted: Sequence[WantedRule],
    virtual_network: Sequence[str],
    *,
    priority_taken: str = "move",
    priority_range: tuple[int, int] = PRIORITIES,
    when_covered: str = "skip",
    when_shadowed: str = "fail",
) -> Plan:
    """Make the group have the wanted rules, each where nothing else does its work already.

    A wanted rule that is not there yet is covered where the rules of others
    decide all of its traffic the same way, and no wanted rule decides any of
    it the other way. A rule's name makes it ours; what its content is to be
    says the wanted rule, except for a description of somebody else's.

    Raises SecurityRuleError where a priority is taken (`priority_taken` is
    `fail`) or none is free in `priority_range` (both ends included), and where
    a rule of another comes first and decides the other way (`when_shadowed`
    is `fail`).
    """
    existing = {rule["name"].lower(): rule for rule in nsg["properties"].get("securityRules", ())}
    ours = {rule.name.lower() for rule in wanted}
    others = [rule for rule in rules_of(nsg) if rule["name"].lower() not in ours]
    theirs = _parsed(others, virtual_network)
    covered = {}
    if when_covered == "skip":
        for rule in wanted:
            by = _covered_by(rule, wanted, theirs, virtual_network)
            if by and rule.name.lower() not in existing:
                covered[rule.name] = by
    needed = [rule for rule in wanted if rule.name not in covered]
    priorities = _priorities(needed, wanted, existing, others, priority_range)
    moved = tuple(
        Move(rule.name, rule.priority, priorities[rule.name], taken_by)
        for rule in needed
        if (taken_by := _taken(others).get((rule.direction.lower(), rule.priority)))
    )
    if moved and priority_taken == "fail":
        raise SecurityRuleError(
            " ".join(
                f"{move.name} is to have the priority {move.wanted} in {nsg['id']}, which "
                f"{move.taken_by} has. Give it another priority, {move.given} would do, or set "
                "priority_taken: move."
                for move in moved
            )
        )
    created, updated, unchanged, after = [], [], [], []
    for rule in needed:
        before = existing.get(rule.name.lower())
        body = _on_top_of(before, rule, security_rule(rule, priorities[rule.name]))
        after.append(body)
        if before is None:
            created.append(body)
        elif same(before["properties"], body["properties"]):
            unchanged.append(rule.name)
        else:
            updated.append((before, body))
    shadowed = _shadowed(
        needed, priorities, theirs, _parsed(after, virtual_network), virtual_network
    )
    if shadowed and when_shadowed == "fail":
        raise SecurityRuleError(_what_to_do(nsg, shadowed, needed, priorities, others))
    return Plan(
        nsg["id"],
        created=tuple(created),
        updated=tuple(updated),
        unchanged=tuple(unchanged),
        covered=tuple(covered.items()),
        moved=moved,
        shadowed=tuple(
            (name, "; ".join(_in_words(verdict, flow) for flow, verdict in by))
            for name, by in shadowed.items()
        ),
    )


def plan_absent(nsg: Mapping, names: Iterable[str]) -> Plan:
    """Remove our rules of these names and their IPv6 halves, and no others: ours by description."""
    wanted = {suffixed.lower() for name in names for suffixed in (name, name + _TWIN)}
    removed, kept = [], []
    for rule in nsg["properties"].get("securityRules", ()):
        if rule["name"].lower() in wanted:
            description = rule["properties"].get("description")
            if _is_ours(description):
                removed.append(rule)
            else:
                says = f"its description is {description!r}" if description else "it has none"
                kept.append(
                    (rule["name"], f"a description of ours begins with {OURS.strip()!r}, {says}")
                )
    return Plan(nsg["id"], removed=tuple(removed), kept=tuple(kept))


def apply_to(nsg: Mapping, plan: Plan) -> dict:
    """The whole group as it is to be PUT: what we do not know and rules of others stay."""
    updated = {before["name"]: after for before, after in plan.updated}
    removed = {rule["name"] for rule in plan.removed}
    rules = [
        updated.get(rule["name"], rule)
        for rule in nsg["properties"].get("securityRules", ())
        if rule["name"] not in removed
    ]
    body = _writable(nsg)
    del body["name"]
    body["properties"]["securityRules"] = [_writable(rule) for rule in [*rules, *plan.created]]
    return body


def single_change(plan: Plan) -> tuple[str, dict | None] | None:
    """The rule's name and the body to PUT, or None to DELETE it, where that is all of the plan.

    Then the group's `securityRules/{name}` does, and the rest stays out of it.
    """
    changes = [
        *((rule["name"], _writable(rule)) for rule in plan.created),
        *((before["name"], _writable(after)) for before, after in plan.updated),
        *((rule["name"], None) for rule in plan.removed),
    ]
    return changes[0] if len(changes) == 1 else None


def diff_of(plan: Plan) -> dict:
    """The plan as Ansible's before and after: a line for each rule that changes."""
    before, after = list(plan.removed), list(plan.created)
    for old, new in plan.updated:
        before.append(old)
        after.append(new)
    # A description only where it is all that changes.
    described = [new["name"] for old, new in plan.updated if _line(old) == _line(new)]
    return {
        "before_header": plan.nsg_id,
        "after_header": plan.nsg_id,
        "before": _lines(before, described),
        "after": _lines(after, described),
    }


def _covered_by(
    rule: WantedRule,
    wanted: Sequence[WantedRule],
    theirs: Sequence[_Rule],
    virtual_network: Sequence[str],
) -> str | None:
    # Those that decide the other way count as if they came first: where they go may yet change.
    against = [security_rule(other, 0) for other in wanted if other.access != rule.access]
    rules = [*theirs, *_parsed(against, virtual_network)]
    verdicts = [verdict for _, verdict in _decided(rule, rules, virtual_network)]
    if not verdicts or any(verdict.access != rule.access for verdict in verdicts):
        return None
    deciding = sorted({(verdict.priority, verdict.by) for verdict in verdicts})
    return " and ".join(by for _, by in deciding)


def _decided(
    rule: WantedRule, rules: Sequence[_Rule], virtual_network: Sequence[str]
) -> Iterator[tuple[Flow, Verdict]]:
    """All of a rule's traffic and what rules make of it; one port stands for all treated alike."""
    edges = {edge for other in rules for low, high in other.ports for edge in (low, high + 1)}
    for low, high in map(_port_range, rule.destination.port_ranges):
        for port in sorted({low, *(edge for edge in edges if low < edge <= high)}):
            for protocol in _PROTOCOLS if rule.protocol == "*" else (rule.protocol,):
                flow = Flow(
                    rule.direction,
                    protocol,
                    port,
                    rule.source.prefixes,
                    rule.destination.prefixes,
                )
                for verdict in _decide(flow, rules, virtual_network):
                    yield flow, verdict


def _taken(rules: Iterable[Mapping]) -> dict[tuple[str, int], str]:
    """Names of rules by direction and priority."""
    return {
        (rule["properties"]["direction"].lower(), rule["properties"]["priority"]): rule["name"]
        for rule in rules
    }


def _priorities(
    needed: Sequence[WantedRule],
    wanted: Sequence[WantedRule],
    existing: Mapping[str, Mapping],
    others: Iterable[Mapping],
    priority_range: tuple[int, int],
) -> dict[str, int]:
    """The priority of each needed rule, by name: the wanted one, the one it has, or the next free.

    An IPv6 half always has the next free one, lest it stay where a smaller
    priority of its rule is to take it away from.
    """
    given: dict[str, int] = {}
    used = set(_taken(others))
    free = [rule for rule in needed if rule.priority and _place(rule, rule.priority) not in used]
    given |= {rule.name: rule.priority for rule in free}
    used |= {_place(rule, rule.priority) for rule in wanted if rule.priority}
    for rule in needed:
        before = existing.get(rule.name.lower())
        if rule.priority and rule.name not in given and before:
            has = next(iter(_taken([before])))
            if has not in used and has[0] == rule.direction.lower():
                given[rule.name] = has[1]
                used.add(has)
    low, high = priority_range
    starts = {rule.name: rule.priority for rule in wanted}
    for rule in needed:
        if rule.name not in given:
            start = given.get(rule.twin_of) or starts[rule.twin_of or rule.name]
            upward = (*range(max(start, low), high + 1), *range(low, min(start, high + 1)))
            priority = next((p for p in upward if _place(rule, p) not in used), None)
            if priority is None:
                raise SecurityRuleError(
                    f"No priority from {low} to {high} is free for {rule.name}: other "
                    f"{rule.direction} rules have them all. Give a wider priority_range, or "
                    "remove rules."
                )
            given[rule.name] = priority
            used.add(_place(rule, priority))
    return given


def _place(rule: WantedRule, priority: int) -> tuple[str, int]:
    return rule.direction.lower(), priority


def _on_top_of(before: Mapping | None, rule: WantedRule, body: dict) -> dict:
    """The rule with all that we do not manage as it was, somebody else's description included."""
    if before is None:
        return body
    unmanaged = {k: v for k, v in before["properties"].items() if not _END.match(k)}
    managed = dict(body["properties"])
    if not rule.description and not _is_ours(unmanaged.get("description")):
        del managed["description"]
    return {**before, "properties": unmanaged | managed}


def _is_ours(description: str | None) -> bool:
    return (description or "").startswith(OURS)


def _shadowed(
    needed: Iterable[WantedRule],
    priorities: Mapping[str, int],
    theirs: Sequence[_Rule],
    ours: Sequence[_Rule],
    virtual_network: Sequence[str],
) -> dict[str, list[tuple[Flow, Verdict]]]:
    """By name of ours, the first flow that each rule of others decides the other way before it."""
    names = {rule.name for rule in theirs}
    shadowed: dict[str, list[tuple[Flow, Verdict]]] = {}
    for rule in needed:
        by: dict[str, tuple[Flow, Verdict]] = {}
        for flow, verdict in _decided(rule, [*theirs, *ours], virtual_network):
            before = verdict.rule in names and verdict.priority < priorities[rule.name]
            if before and verdict.access != rule.access:
                by.setdefault(verdict.rule, (flow, verdict))
        if by:
            shadowed[rule.name] = list(by.values())
    return shadowed


def _what_to_do(
    nsg: Mapping,
    shadowed: Mapping[str, Sequence[tuple[Flow, Verdict]]],
    needed: Iterable[WantedRule],
    priorities: Mapping[str, int],
    others: Iterable[Mapping],
) -> str:
    sentences = []
    used = {*_taken(others), *(_place(rule, priorities[rule.name]) for rule in needed)}
    for name in dict.fromkeys(
        rule.twin_of or rule.name for rule in needed if rule.name in shadowed
    ):
        halves = [rule for rule in needed if name in (rule.name, rule.twin_of)]
        late = [half.name for half in halves if half.name in shadowed]
        by = [pair for half in late for pair in shadowed[half]]
        first = min(verdict.priority for _, verdict in by)
        # The IPv6 half comes after the priority of its rule, whether that one is needed or not.
        room = 2 if any(half.twin_of for half in halves) else 1
        for smaller in range(first - room, PRIORITIES[0] - 1, -1):
            places = {_place(halves[0], smaller + after) for after in range(room)}
            if not places & used:
                used |= places
                advice = f"give {name} a smaller one ({smaller} would do)"
                break
        else:
            advice = f"make room below {first}, where no priority is free"
        sentences.append(
            f"{' and '.join(f'{half} ({priorities[half]})' for half in late)} would come too late "
            f"in {nsg['id']}: "
            f"{'; '.join(_in_words(verdict, flow) for flow, verdict in by)}. Move "
            f"{' and '.join(dict.fromkeys(verdict.rule for _, verdict in by))} to a larger "
            f"priority number, or {advice}."
        )
    return " ".join([*sentences, "With when_shadowed: warn the rules are written all the same."])


def _in_words(verdict: Verdict, flow: Flow) -> str:
    return (
        f"{verdict.by} {'allows' if verdict.access == 'Allow' else 'denies'} "
        f"{'some of ' if verdict.partly else ''}{_some(verdict.source)} → "
        f"{_some(verdict.destination)} on {flow.port}/{flow.protocol.lower()}"
    )


def _writable(resource: Mapping) -> dict:
    """A copy without what ARM alone writes."""
    body = {key: value for key, value in resource.items() if key not in _READ_ONLY}
    body["properties"] = {
        key: value
        for key, value in resource["properties"].items()
        if key not in _READ_ONLY_PROPERTIES
    }
    return body


def _line(rule: Mapping) -> str:
    """A rule in short: `Allow-SSH 300 Inbound Allow Tcp 10.0.0.0/16:* → *:22`."""
    properties = rule["properties"]
    ends = [
        f"{','.join(map(_last, end.groups)) or ','.join(end.prefixes)}:{','.join(end.port_ranges)}"
        for end in (End.of(properties, side) for side in ("source", "destination"))
    ]
    what = (properties[key] for key in ("priority", "direction", "access", "protocol"))
    return " ".join([rule["name"], *map(str, what), " → ".join(ends)])


def _lines(rules: Iterable[Mapping], described: Sequence[str]) -> str:
    in_order = sorted(
        rules, key=lambda rule: (rule["properties"]["direction"], rule["properties"]["priority"])
    )
    return "".join(
        _line(rule)
        + (f" {rule['properties'].get('description')!r}" if rule["name"] in described else "")
        + "\n"
        for rule in in_order
    )


# -- Which groups ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attachment:
    """A worker's network interface; ids as ARM first spells them."""

    virtual_machine_id: str
    network_interface_id: str
    subnet_ids: tuple[str, ...]
    network_security_group_id: str | None


@dataclass(frozen=True)
class Target:
    """A network security group between the workers, and what its rules are to be about.

    It filters all of `subnet_ids`, or the workers' `network_interface_ids`, or
    both. `source` are the prefixes of all worker subnets of its virtual
    networks, `destination` those of the subnets that it filters or where those
    interfaces are; `virtual_network` is what the tag VirtualNetwork stands for.
    """

    network_security_group_id: str
    subnet_ids: tuple[str, ...]
    network_interface_ids: tuple[str, ...]
    source: tuple[str, ...]
    destination: tuple[str, ...]
    virtual_network: tuple[str, ...]


def parse_virtual_machine_id(provider_id: str) -> str:
    """The ARM id of a virtual machine, from itself or from a node's spec.providerID."""
    match = _VIRTUAL_MACHINE.fullmatch(provider_id)
    if match:
        return match.group(1)
    if _SCALE_SET.fullmatch(provider_id):
        raise SecurityRuleError(
            f"{provider_id} is an instance of a uniform scale set, whose network interfaces are "
            "not listed with those of virtual machines. Name the workers' subnets instead."
        )
    raise SecurityRuleError(
        f"{provider_id!r} names no virtual machine of Azure. Give ARM ids "
        "(/subscriptions/…/providers/Microsoft.Compute/virtualMachines/worker-0) or the "
        "spec.providerID of nodes (azure:///subscriptions/…)."
    )


def attachments(
    network_interfaces: Iterable[Mapping], virtual_machine_ids: Sequence[str]
) -> tuple[Attachment, ...]:
    """The network interfaces of these virtual machines; of several of one machine the primary.

    That one has the node's address. `network_interfaces` may be of any machines.
    """
    found: dict[str, list[Mapping]] = {id_.lower(): [] for id_ in virtual_machine_ids}
    for interface in network_interfaces:
        owner = _id_in(interface["properties"], "virtualMachine")
        if owner and owner.lower() in found:
            found[owner.lower()].append(interface)
    missing = [_last(id_) for id_ in virtual_machine_ids if not found[id_.lower()]]
    if missing:
        raise SecurityRuleError(
            f"No network interface of {_some(missing)} was found. Check that the subscription is "
            "that of the cluster and that every node still has its virtual machine, or name the "
            "workers' subnets."
        )
    return tuple(
        Attachment(
            _id_in(interface["properties"], "virtualMachine"),
            interface["id"],
            _unique(
                _id_in(configuration["properties"], "subnet")
                for configuration in interface["properties"]["ipConfigurations"]
            ),
            _id_in(interface["properties"], "networkSecurityGroup"),
        )
        for interfaces in found.values()
        for interface in (
            [nic for nic in interfaces if nic["properties"].get("primary")] or interfaces
        )
    )


def subnet_ids(attached: Iterable[Attachment]) -> tuple[str, ...]:
    """The subnets that the workers are in, each once."""
    return _unique(id_ for attachment in attached for id_ in attachment.subnet_ids)


def virtual_network_id(subnet_id: str) -> str:
    return re.split("/subnets/", subnet_id, flags=re.IGNORECASE)[0]


def targets(
    subnets: Sequence[Mapping],
    virtual_networks: Iterable[Mapping],
    attached: Sequence[Attachment] = (),
) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The network security groups between the workers, and what none filters, as sentences.

    `subnets` are those of the workers, `virtual_networks` at least the ones
    that these are in, `attached` the workers' interfaces, which may have
    groups of their own.
    """
    groups = _unique(
        filter(
            None,
            [
                *(_group_of(subnet) for subnet in subnets),
                *(attachment.network_security_group_id for attachment in attached),
            ],
        )
    )
    networks = tuple(virtual_networks)
    return (
        tuple(_target(group, subnets, networks, attached) for group in groups),
        tuple(
            f"No network security group filters {what}: all traffic passes."
            for what in _unfiltered(subnets, attached)
        ),
    )


def _target(
    group: str,
    subnets: Sequence[Mapping],
    virtual_networks: Sequence[Mapping],
    attached: Sequence[Attachment],
) -> Target:
    filtered = tuple(subnet["id"] for subnet in subnets if _is(_group_of(subnet), group))
    on = [a for a in attached if _is(a.network_security_group_id, group)]
    at = {id_.lower() for id_ in (*filtered, *subnet_ids(on))}
    around = {virtual_network_id(id_) for id_ in at}
    return Target(
        group,
        filtered,
        tuple(attachment.network_interface_id for attachment in on),
        source=_unique(
            prefix
            for subnet in subnets
            if virtual_network_id(subnet["id"]).lower() in around
            for prefix in subnet_prefixes(subnet)
        ),
        destination=_unique(
            prefix
            for subnet in subnets
            if subnet["id"].lower() in at
            for prefix in subnet_prefixes(subnet)
        ),
        virtual_network=_unique(
            prefix
            for network in virtual_networks
            if network["id"].lower() in around
            for prefix in _address_space(network)
        ),
    )


def _unfiltered(subnets: Iterable[Mapping], attached: Iterable[Attachment]) -> Iterator[str]:
    """The subnets without a group, or which interfaces there have none of their own."""
    for subnet in subnets:
        inside = [a for a in attached if any(_is(id_, subnet["id"]) for id_ in a.subnet_ids)]
        bare = [_last(a.network_interface_id) for a in inside if not a.network_security_group_id]
        if not _group_of(subnet) and (bare or not inside):
            some = f"{_some(bare)} in " if len(bare) < len(inside) else ""
            yield f"{some}the subnet {subnet['id']}"


def _group_of(subnet: Mapping) -> str | None:
    return _id_in(subnet["properties"], "networkSecurityGroup")


def _is(one: str | None, other: str) -> bool:
    return one is not None and one.lower() == other.lower()


def _address_space(network: Mapping) -> list[str]:
    """The prefixes of a virtual network and of those peered with it.

    Not of one whose peering has allowVirtualNetworkAccess off: that takes it
    out of the tag VirtualNetwork ("Create, change, or delete a virtual network
    peering").
    """
    properties = network["properties"]
    prefixes = list(properties["addressSpace"]["addressPrefixes"])
    for peering in properties.get("virtualNetworkPeerings") or ():
        remote = peering["properties"]
        if (
            remote.get("peeringState") == "Connected"
            and remote.get("allowVirtualNetworkAccess") is not False
        ):
            prefixes += (remote.get("remoteAddressSpace") or {}).get("addressPrefixes", ())
    return prefixes


def subnet_prefixes(subnet: Mapping) -> Sequence[str]:
    properties = subnet["properties"]
    return properties.get("addressPrefixes") or [properties["addressPrefix"]]


def _id_in(properties: Mapping, key: str) -> str | None:
    return (properties.get(key) or {}).get("id")


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Each once whatever its case, as first spelled."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.lower(), text)
    return tuple(first.values())


def _last(resource_id: str) -> str:
    return resource_id.rsplit("/", 1)[-1]


def _some(names: Sequence[str]) -> str:
    text = ", ".join(names[:_NAMED_AT_MOST])
    if len(names) > _NAMED_AT_MOST:
        text += f" and {len(names) - _NAMED_AT_MOST} more"
    return text
