# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a network security group decides on traffic, over whole ranges of addresses (private).

Pure functions of dicts in the format of ARM. Sources on Microsoft Learn: "Network security groups", "How network
security groups filter network traffic", "Application security groups", "Virtual network service tags".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

# The priority of the verdict on traffic that no rule decides.
PRIORITY_AFTER_ALL = 65536

# The receivers of the traffic of peer pods: the VMs of peer pods, from workers; and workers, from these VMs.
ENDS = VMS, WORKERS = "vms", "workers"
DIRECTIONS = ("Inbound", "Outbound")

# Sets of addresses are sorted ranges that include both ends. On the number line, the IPv6 addresses follow the IPv4
# addresses.
_Ranges = tuple[tuple[int, int], ...]
_IPV6 = 1 << 32
_EVERYWHERE: _Ranges = ((0, _IPV6 - 1), (_IPV6, _IPV6 + (1 << 128) - 1))

# "Virtual network service tags": the virtual address of the host, the source of health probes.
_AZURE_LOAD_BALANCER = IPv4Network("168.63.129.16/32")
_ALL_PORTS = (0, 65535)
_GROUPS = "ApplicationSecurityGroups"


@dataclass(frozen=True)
class Flow:
    """Traffic from source addresses to one port of destination addresses.

    `protocol` is that of a rule (`Tcp`, `Udp`, `Icmp`, `Esp`, `Ah`) or `*`, of which a rule for one protocol decides
    only a part. The meaning of a rule's ports for a protocol without ports is not documented; they are taken literally.
    `source` and `destination` are CIDRs, or other values that a rule allows there. `virtual_network` has the prefixes
    of the tag VirtualNetwork: at least those of the virtual network and of its peers.
    """

    direction: str
    protocol: str
    port: int
    source: tuple[str, ...]
    destination: tuple[str, ...]
    virtual_network: tuple[str, ...] = ()


@dataclass(frozen=True)
class Path:
    """The traffic of peer pods that passes a group in one virtual network: `to` is one of ENDS.

    The group filters the destination of traffic that is Inbound, and the source of traffic that is Outbound.
    `virtual_network` is that of a Flow.
    """

    to: str
    direction: str
    source: tuple[str, ...]
    destination: tuple[str, ...]
    virtual_network: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The decision about the traffic from each address of `source` to each address of `destination`.

    With `partly`, the rule decides only an unknown part of the traffic, because it has application security groups, a
    service tag, source ports, or one of several protocols. Further verdicts then apply to the same addresses.
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
    """The source or the destination of a security rule: its addresses and its ports.

    `groups` are ids of application security groups. A rule has either groups or prefixes (CIDRs, addresses, a service
    tag, `*`). A desired rule may have both here: its prefixes are then the assumed addresses of the members of the
    groups.
    """

    prefixes: tuple[str, ...]
    groups: tuple[str, ...]
    port_ranges: tuple[str, ...]

    @classmethod
    def of(cls, properties: Mapping, side: str) -> End:
        """The end of a rule's `properties`; `side` is `source` or `destination`."""

        def values(key: str, plural: str) -> tuple[str, ...]:
            single = properties.get(key)
            return tuple(properties.get(key + plural) or ((single,) if single else ()))

        return cls(
            values(f"{side}AddressPrefix", "es"),
            tuple(group["id"] for group in properties.get(f"{side}{_GROUPS}") or ()),
            values(f"{side}PortRange", "s"),
        )

    def properties(self, side: str) -> dict[str, Any]:
        """The properties for ARM: a single prefix or range as a string, several as a list, as az sends them."""

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
class ParsedRule:
    """The matching part of a security rule, with resolved tags and parsed ranges."""

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
    """All rules of a network security group, including the default rules."""
    properties = nsg["properties"]
    return [*properties.get("securityRules", ()), *properties.get("defaultSecurityRules", ())]


def decide(flow: Flow, security_rules: Iterable[Mapping]) -> tuple[Verdict, ...]:
    """Which rules decide which parts of a flow, in order of priority, with as few verdicts as possible.

    `security_rules` are those of rules_of. The tag Internet has all addresses outside of the virtual network of the
    flow, which contain those of other service tags. IPv4 and IPv6 addresses do not communicate.
    """
    return decide_parsed(flow, parsed_rules(security_rules, flow.virtual_network))


def passes(verdicts: Sequence[Verdict]) -> bool:
    """Whether all traffic of the flow is certainly allowed."""
    return bool(verdicts) and all(verdict.access == "Allow" for verdict in verdicts)


def is_same_rule(existing: Mapping, desired: Mapping) -> bool:
    """Whether the `properties` of two rules are equivalent; the description matters only if `desired` has one.

    A list with one element equals the element. The order, the letter case, and the notation of a CIDR or a range do not
    matter.
    """
    return _normalized(existing) == _normalized(desired) and (
        "description" not in desired or existing.get("description") == desired["description"]
    )


def is_within(existing: Mapping, desired: Mapping) -> bool:
    """Whether a rule matches all traffic that `existing` matches, whatever both decide; both are properties of ARM.

    False if that is unknown, as for a service tag in another one.
    """
    protocols = {"*", existing["protocol"].lower()}
    return (
        existing["direction"].lower() == desired["direction"].lower()
        and desired["protocol"].lower() in protocols
        and all(_is_end_within(End.of(existing, side), End.of(desired, side)) for side in ("source", "destination"))
    )


def _is_end_within(existing: End, desired: End) -> bool:
    groups = {group.lower() for group in desired.groups}
    ranges = [port_range(text) for text in desired.port_ranges]
    return (
        all(group.lower() in groups or "*" in desired.prefixes for group in existing.groups)
        and all(any(_is_prefix_within(prefix, other) for other in desired.prefixes) for prefix in existing.prefixes)
        and all(
            any(from_ <= low and high <= to for from_, to in ranges)
            for low, high in map(port_range, existing.port_ranges)
        )
    )


def _is_prefix_within(prefix: str, other: str) -> bool:
    if other == "*" or prefix.lower() == other.lower():
        return True
    network, outer = network_of(prefix), network_of(other)
    return bool(
        network and outer and network.version == outer.version and network.subnet_of(outer)  # type: ignore[arg-type]
    )


def decide_parsed(flow: Flow, rules: Iterable[ParsedRule]) -> tuple[Verdict, ...]:
    """The same with rules that were parsed for the virtual network of the flow."""
    source, dummy = _addresses(flow.source, flow.virtual_network)
    destination, dummy = _addresses(flow.destination, flow.virtual_network)
    undecided = [(_common(source, (all_,)), _common(destination, (all_,))) for all_ in _EVERYWHERE]
    verdicts: list[Verdict] = []
    meeting = (rule for rule in rules if rule.meets(flow))
    for rule in sorted(meeting, key=lambda rule: rule.priority):
        partly = rule.partly or (flow.protocol == "*" and rule.protocol != "*")
        hits, remaining = [], []
        for source, destination in undecided:
            hit = _common(source, rule.source), _common(destination, rule.destination)
            hits.append(hit)
            if partly:
                remaining.append((source, destination))
            else:
                remaining.append((_without(source, hit[0]), destination))
                remaining.append((hit[0], _without(destination, hit[1])))
        undecided = [box for box in remaining if all(box)]
        verdicts += _verdicts(hits, rule.access, rule.name, rule.priority, partly)
    # The default rules decide all traffic; a group without default rules allows none.
    return (*verdicts, *_verdicts(undecided, "Deny", "no rule", PRIORITY_AFTER_ALL, False))


def _verdicts(boxes: Iterable[tuple[_Ranges, _Ranges]], *decision: Any) -> Iterator[Verdict]:
    for source, destination in _merged([box for box in boxes if all(box)]):
        yield Verdict(_cidrs(source), _cidrs(destination), *decision)


def _merged(boxes: list[tuple[_Ranges, _Ranges]]) -> list[tuple[_Ranges, _Ranges]]:
    """Merge boxes with the same source or the same destination until none remain."""
    for box1, box2 in combinations(boxes, 2):
        if box1[0] == box2[0] or box1[1] == box2[1]:
            remaining = [box for box in boxes if box not in (box1, box2)]
            return _merged([(_union(box1[0] + box2[0]), _union(box1[1] + box2[1])), *remaining])
    return boxes


def parsed_rules(rules: Iterable[Mapping], virtual_network: Sequence[str]) -> list[ParsedRule]:
    parsed = []
    for rule in rules:
        properties = rule["properties"]
        ends = [End.of(properties, side) for side in ("source", "destination")]
        (source, all_of_source), (destination, all_of_destination) = (
            (_EVERYWHERE, False) if end.groups else _addresses(end.prefixes, virtual_network) for end in ends
        )
        parsed.append(
            ParsedRule(
                rule["name"],
                properties["priority"],
                properties["direction"].lower(),
                properties["access"].capitalize(),
                properties["protocol"].lower(),
                tuple(map(port_range, ends[1].port_ranges)),
                source,
                destination,
                partly=not (all_of_source and all_of_destination)
                or _ALL_PORTS not in map(port_range, ends[0].port_ranges),
            )
        )
    return parsed


def _addresses(prefixes: Iterable[str], virtual_network: Sequence[str]) -> tuple[_Ranges, bool]:
    """The addresses of the prefixes, and whether the prefixes cover all of them."""
    ranges: list[tuple[int, int]] = []
    is_exact = True
    inside = _union(_range(ip_network(prefix, strict=False)) for prefix in virtual_network)
    for prefix in prefixes:
        tag, network = prefix.lower(), network_of(prefix)
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
            is_exact = is_exact and tag == "internet"
    return _union(ranges), is_exact


def network_of(prefix: str, strict: bool = False) -> IPv4Network | IPv6Network | None:
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


def _common(ranges1: _Ranges, ranges2: _Ranges) -> _Ranges:
    return tuple(
        (max(low, from_), min(high, to))
        for low, high in ranges1
        for from_, to in ranges2
        if low <= to and from_ <= high
    )


def _without(ranges: _Ranges, excluded: _Ranges) -> _Ranges:
    for from_, to in excluded:
        ranges = tuple(
            (low, high)
            for low_, high_ in ranges
            for low, high in ((low_, min(high_, from_ - 1)), (max(low_, to + 1), high_))
            if low <= high
        )
    return ranges


def is_port_range(text: str) -> bool:
    if not re.fullmatch(r"\*|\d{1,5}(-\d{1,5})?", text):
        return False
    low, high = port_range(text)
    return low <= high <= _ALL_PORTS[1]


def port_range(text: str) -> tuple[int, int]:
    if text == "*":
        return _ALL_PORTS
    low, dummy, high = text.partition("-")
    return int(low), int(high or low)


def _normalized(properties: Mapping) -> list[Any]:
    meaning = [properties["priority"]]
    meaning += [properties[key].lower() for key in ("protocol", "access", "direction")]
    for side in ("source", "destination"):
        end = End.of(properties, side)
        meaning += [
            {network_of(prefix) or prefix.lower() for prefix in end.prefixes},
            {group.lower() for group in end.groups},
            set(map(port_range, end.port_ranges)),
        ]
    return meaning
