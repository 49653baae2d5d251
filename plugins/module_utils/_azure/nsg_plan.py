# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans of security rules: which required rules a network security group lacks (private).

Pure functions of options and of groups in the format of ARM, which return plans. Source: REST reference "Security Rules
- Create Or Update".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    End,
    Flow,
    ParsedRule,
    Verdict,
    decide_parsed,
    is_port_range,
    is_same_rule,
    network_of,
    parsed_rules,
    port_range,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

"""The prefix of the description of every rule that this collection adds; `state: absent` removes only these rules."""
"""The first and the last that a security rule may have; the default rules come after."""


OURS = "osc.peerpods: "

PRIORITIES = (100, 4096)

_PROTOCOLS = ("Tcp", "Udp", "Icmp", "Esp", "Ah")
_IPV6_SUFFIX = "-IPv6"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_TAG = re.compile(r"\*|[A-Za-z][A-Za-z0-9.]*")
_DESCRIPTION_LENGTH = 140
_AS_GIVEN = ("name", "priority", "direction", "access", "protocol", "description")
_END = re.compile(r"(source|destination)(AddressPrefix|ApplicationSecurityGroups|PortRange)")

_NSG_TYPE = "Microsoft.Network/networkSecurityGroups"

_READ_ONLY = ("etag", "id", "type")
_READ_ONLY_PROPERTIES = (
    "provisioningState",
    "resourceGuid",
    "defaultSecurityRules",
    "flowLogs",
    "networkInterfaces",
    "subnets",
)


class SecurityRuleError(Exception):
    """The reason why no plan can be made, as a sentence."""


@dataclass(frozen=True)
class DesiredRule:
    """A desired security rule; it gets another priority if another rule has its priority already.

    The IPv6 half of a rule for both address families has no priority of its own; it comes after the rule that
    `ipv4_half` names.
    """

    name: str
    priority: int | None
    direction: str
    access: str
    protocol: str
    source: End
    destination: End
    description: str | None = None
    ipv4_half: str | None = None

    @property
    def full_description(self) -> str:
        if self.description:
            return OURS + self.description
        ports = "-".join(self.destination.port_ranges)
        traffic = f"port {ports}/{self.protocol.lower()}" if ports.isdigit() else "traffic"
        return f"{OURS}{traffic} between workers and peer pods"


def desired_rules(
    options: Iterable[Mapping], sources: Sequence[str], destinations: Sequence[str]
) -> tuple[DesiredRule, ...]:
    """The rules of the option `rules`, with the prefixes of the workers as defaults.

    Azure does not allow prefixes of both IP families in one rule. A rule for both becomes two rules; the name of the
    IPv6 rule ends in `-IPv6`.
    """
    rules: list[DesiredRule] = []
    for option in options:
        rule = DesiredRule(
            **{key: option[key] for key in _AS_GIVEN},
            source=_end(option, "source", sources),
            destination=_end(option, "destination", destinations),
        )
        rules += _by_family(rule)
    for rule in rules:
        _check(rule)
    for first, second in combinations(rules, 2):
        if first.name.lower() == second.name.lower():
            raise SecurityRuleError(
                f"Two rules are called {second.name}. Names are unique within a network security "
                "group, whatever their case: rename one of them."
            )
        is_same_slot = (first.priority, first.direction) == (second.priority, second.direction)
        if is_same_slot and first.priority is not None:
            raise SecurityRuleError(
                f"The rules {first.name} and {second.name} both have the priority {first.priority} "
                f"and the direction {first.direction}. Give one of them another priority."
            )
    return tuple(rules)


def security_rule(rule: DesiredRule, priority: int) -> dict:
    """The rule in the format of ARM."""
    return {
        "name": rule.name,
        "properties": {
            "description": rule.full_description,
            "protocol": rule.protocol,
            **rule.source.properties("source"),
            **rule.destination.properties("destination"),
            "access": rule.access,
            "priority": priority,
            "direction": rule.direction,
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
    # Members of application security groups are always in the virtual network.
    network_tag = ("VirtualNetwork",) if groups else ()
    return End(prefixes or tuple(workers) or network_tag, groups, port_ranges)


def _by_family(rule: DesiredRule) -> Iterator[DesiredRule]:
    """The rule, or its two halves; tags, `*` and application security groups apply to both halves."""

    def half(end: End, version: int) -> End:
        if end.groups:
            return end
        of_version = (p for p in end.prefixes if getattr(network_of(p), "version", version) == version)
        return replace(end, prefixes=tuple(of_version))

    halves = [
        replace(rule, source=source, destination=destination)
        for version in (4, 6)
        if (source := half(rule.source, version)).prefixes and (destination := half(rule.destination, version)).prefixes
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
        yield replace(halves[1], name=rule.name + _IPV6_SUFFIX, priority=None, ipv4_half=rule.name)


def _check(rule: DesiredRule) -> None:
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
            f"has a description of {len(rule.description or '')} characters. Give at most "
            f"{_DESCRIPTION_LENGTH - len(OURS)}: Azure takes {_DESCRIPTION_LENGTH}, and ours begin "
            f"with {OURS!r}."
        )
    for end in (rule.source, rule.destination):
        problem = problem or _wrong_ports(end.port_ranges) or _wrong_prefixes(end.prefixes)
    if problem:
        raise SecurityRuleError(f"The rule {rule.name} {problem}")


def _wrong_ports(port_ranges: Sequence[str]) -> str | None:
    are_valid = all(is_port_range(text) for text in port_ranges)
    if port_ranges and are_valid and ("*" not in port_ranges or len(port_ranges) == 1):
        return None
    return (
        f"has the ports {', '.join(port_ranges) or 'none'}. Give ports from 0 to 65535 (9000), "
        "ranges of them (9000-9010), or '*' alone."
    )


def _wrong_prefixes(prefixes: Sequence[str]) -> str | None:
    for prefix in prefixes:
        network = network_of(prefix)
        if network and not network_of(prefix, strict=True):
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
                f"has {prefix} and other address prefixes. Azure accepts a service tag or '*' "
                "only alone: add a separate rule for it."
            )
    return None


@dataclass(frozen=True)
class Move:
    """A rule that was assigned another priority than requested, and the rule that has the requested one."""

    name: str
    requested: int
    assigned: int
    taken_by: str


@dataclass(frozen=True)
class Plan:
    """The changes of one network security group; rules have the shape of the ARM API.

    `updated` pairs the current rule with the desired rule. `covered`, `shadowed` and `kept` (by `state: absent`) pair the
    name of a rule with the reason.
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
    desired: Sequence[DesiredRule],
    virtual_network: Sequence[str],
    *,
    on_priority_conflict: str = "move",
    priority_range: tuple[int, int] = PRIORITIES,
    on_covered: str = "skip",
    on_shadowed: str = "fail",
) -> Plan:
    """Plan the required rules of a group, without those that other rules cover already.

    A required rule that does not exist yet is covered if unmanaged rules decide all of its traffic in the same way, and no
    other required rule decides any of it differently. An existing rule with the name of a required rule is managed: it gets the
    content of the required rule, but keeps a description that this collection did not write.

    Raises SecurityRuleError if a priority is taken (`on_priority_conflict` is `fail`), if no priority in `priority_range`
    (both ends included) is free, and if an unmanaged rule with a smaller priority number decides differently
    (`on_shadowed` is `fail`).
    """
    existing = {rule["name"].lower(): rule for rule in nsg["properties"].get("securityRules", ())}
    managed_names = {rule.name.lower() for rule in desired}
    unmanaged = [rule for rule in rules_of(nsg) if rule["name"].lower() not in managed_names]
    unmanaged_parsed = parsed_rules(unmanaged, virtual_network)
    covered = {}
    if on_covered == "skip":
        for rule in desired:
            by = _covered_by(rule, desired, unmanaged_parsed, virtual_network)
            if by and rule.name.lower() not in existing:
                covered[rule.name] = by
    needed = [rule for rule in desired if rule.name not in covered]
    priorities = _priorities(needed, desired, existing, unmanaged, priority_range)
    by_slot = _names_by_slot(unmanaged)
    moved = tuple(
        Move(rule.name, rule.priority, priorities[rule.name], taken_by)
        for rule in needed
        if rule.priority and (taken_by := by_slot.get(_slot(rule, rule.priority)))
    )
    if moved and on_priority_conflict == "fail":
        raise SecurityRuleError(
            " ".join(
                f"Priority conflict in {nsg['id']}: {move.name} is set to the priority {move.requested}, which "
                f"{move.taken_by} has. Set another priority (such as {move.assigned}), or set "
                "on_priority_conflict=move."
                for move in moved
            )
        )
    created, updated, unchanged, after = [], [], [], []
    for rule in needed:
        before = existing.get(rule.name.lower())
        body = _merge_rule(before, rule, security_rule(rule, priorities[rule.name]))
        after.append(body)
        if before is None:
            created.append(body)
        elif is_same_rule(before["properties"], body["properties"]):
            unchanged.append(rule.name)
        else:
            updated.append((before, body))
    shadowed = _shadowed(needed, priorities, unmanaged_parsed, parsed_rules(after, virtual_network), virtual_network)
    if shadowed and on_shadowed == "fail":
        raise SecurityRuleError(_explain_shadowed(nsg, shadowed, needed, priorities, unmanaged))
    return Plan(
        nsg["id"],
        created=tuple(created),
        updated=tuple(updated),
        unchanged=tuple(unchanged),
        covered=tuple(covered.items()),
        moved=moved,
        shadowed=tuple(
            (name, "; ".join(_describe_decision(verdict, flow) for flow, verdict in by))
            for name, by in shadowed.items()
        ),
    )


def plan_absent(nsg: Mapping, names: Iterable[str]) -> Plan:
    """Plan the removal of the rules with these names and their IPv6 halves, if their description marks them as managed."""
    removable = {suffixed.lower() for name in names for suffixed in (name, name + _IPV6_SUFFIX)}
    removed, kept = [], []
    for rule in nsg["properties"].get("securityRules", ()):
        if rule["name"].lower() in removable:
            description = rule["properties"].get("description")
            if _is_managed(description):
                removed.append(rule)
            else:
                actual = f"is {description!r}" if description else "is empty"
                kept.append((rule["name"], f"its description {actual} and does not begin with {OURS.strip()!r}"))
    return Plan(nsg["id"], removed=tuple(removed), kept=tuple(kept))


def apply_to(nsg: Mapping, plan: Plan) -> dict:
    """The whole group for the PUT request, with unknown fields and unmanaged rules as they are."""
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
    """The name of the rule and the body to PUT (None to DELETE it), if the plan changes only one rule.

    The request then goes to `securityRules/{name}` instead of the whole group.
    """
    changes = [
        *((rule["name"], _writable(rule)) for rule in plan.created),
        *((before["name"], _writable(after)) for before, after in plan.updated),
        *((rule["name"], None) for rule in plan.removed),
    ]
    return changes[0] if len(changes) == 1 else None


def needed_action(plan: Plan) -> str:
    """The action in Azure's roles that the write of the plan requires."""
    change = single_change(plan)
    if change is None:
        return f"{_NSG_TYPE}/write"
    dummy, body = change
    return f"{_NSG_TYPE}/securityRules/{'delete' if body is None else 'write'}"


def diff_of(plan: Plan) -> dict:
    """The plan as Ansible's before and after: a line for each changed rule."""
    before, after = list(plan.removed), list(plan.created)
    for old, new in plan.updated:
        before.append(old)
        after.append(new)
    # The description is shown only if nothing else changes.
    described = [new["name"] for old, new in plan.updated if _describe_rule(old) == _describe_rule(new)]
    return {
        "before_header": plan.nsg_id,
        "after_header": plan.nsg_id,
        "before": _describe_rules(before, described),
        "after": _describe_rules(after, described),
    }


def _covered_by(
    rule: DesiredRule,
    desired: Sequence[DesiredRule],
    unmanaged: Sequence[ParsedRule],
    virtual_network: Sequence[str],
) -> str | None:
    # Required rules that decide differently count as if they came first, because their priorities may still change.
    opposite = [security_rule(desired_rule, 0) for desired_rule in desired if desired_rule.access != rule.access]
    rules = [*unmanaged, *parsed_rules(opposite, virtual_network)]
    verdicts = [verdict for dummy, verdict in _decide_rule(rule, rules, virtual_network)]
    if not verdicts or any(verdict.access != rule.access for verdict in verdicts):
        return None
    deciding = sorted({(verdict.priority, verdict.by) for verdict in verdicts})
    return " and ".join(by for dummy, by in deciding)


def _decide_rule(
    rule: DesiredRule, rules: Sequence[ParsedRule], virtual_network: Sequence[str]
) -> Iterator[tuple[Flow, Verdict]]:
    """All flows of a rule with their verdicts; one port represents all ports that are treated alike."""
    edges = {edge for deciding_rule in rules for low, high in deciding_rule.ports for edge in (low, high + 1)}
    for low, high in map(port_range, rule.destination.port_ranges):
        for port in sorted({low, *(edge for edge in edges if low < edge <= high)}):
            for protocol in _PROTOCOLS if rule.protocol == "*" else (rule.protocol,):
                flow = Flow(
                    rule.direction,
                    protocol,
                    port,
                    rule.source.prefixes,
                    rule.destination.prefixes,
                )
                for verdict in decide_parsed(flow, rules, virtual_network):
                    yield flow, verdict


def _names_by_slot(rules: Iterable[Mapping]) -> dict[tuple[str, int], str]:
    """Names of rules by direction and priority."""
    return {(rule["properties"]["direction"].lower(), rule["properties"]["priority"]): rule["name"] for rule in rules}


def _priorities(
    needed: Sequence[DesiredRule],
    desired: Sequence[DesiredRule],
    existing: Mapping[str, Mapping],
    unmanaged: Iterable[Mapping],
    priority_range: tuple[int, int],
) -> dict[str, int]:
    """The priority of each needed rule, by name: the requested priority, the current one, or the next free one.

    An IPv6 half always gets the next free priority, so that it follows its rule to a smaller priority.
    """
    priorities: dict[str, int] = {}
    used = set(_names_by_slot(unmanaged))
    free = [rule for rule in needed if rule.priority and _slot(rule, rule.priority) not in used]
    priorities |= {rule.name: rule.priority for rule in free if rule.priority}
    used |= {_slot(rule, rule.priority) for rule in desired if rule.priority}
    for rule in needed:
        before = existing.get(rule.name.lower())
        if rule.priority and rule.name not in priorities and before:
            current = next(iter(_names_by_slot([before])))
            if current not in used and current[0] == rule.direction.lower():
                priorities[rule.name] = current[1]
                used.add(current)
    low, high = priority_range
    starts = {rule.name: rule.priority for rule in desired if rule.priority}
    for rule in needed:
        if rule.name not in priorities:
            base = rule.ipv4_half or rule.name
            start = priorities.get(base) or starts[base]
            upward = (*range(max(start, low), high + 1), *range(low, min(start, high + 1)))
            priority = next((p for p in upward if _slot(rule, p) not in used), None)
            if priority is None:
                raise SecurityRuleError(
                    f"No priority from {low} to {high} is free for {rule.name}: other "
                    f"{rule.direction} rules have all of them. Set a wider priority_range, or "
                    "remove rules."
                )
            priorities[rule.name] = priority
            used.add(_slot(rule, priority))
    return priorities


def _slot(rule: DesiredRule, priority: int) -> tuple[str, int]:
    return rule.direction.lower(), priority


def _merge_rule(before: Mapping | None, rule: DesiredRule, body: dict) -> dict:
    """The rule with its unmanaged fields as they are, and with a description that this collection did not write."""
    if before is None:
        return body
    unmanaged = {k: v for k, v in before["properties"].items() if not _END.match(k)}
    managed = dict(body["properties"])
    if not rule.description and not _is_managed(unmanaged.get("description")):
        del managed["description"]
    return {**before, "properties": unmanaged | managed}


def _is_managed(description: str | None) -> bool:
    return (description or "").startswith(OURS)


def _shadowed(
    needed: Iterable[DesiredRule],
    priorities: Mapping[str, int],
    unmanaged: Sequence[ParsedRule],
    managed: Sequence[ParsedRule],
    virtual_network: Sequence[str],
) -> dict[str, list[tuple[Flow, Verdict]]]:
    """By name of a managed rule: the unmanaged rules before it that decide its traffic differently, each with the first
    such flow."""
    names = {rule.name for rule in unmanaged}
    shadowed: dict[str, list[tuple[Flow, Verdict]]] = {}
    for rule in needed:
        by: dict[str, tuple[Flow, Verdict]] = {}
        for flow, verdict in _decide_rule(rule, [*unmanaged, *managed], virtual_network):
            before = verdict.rule in names and verdict.priority < priorities[rule.name]
            if before and verdict.access != rule.access:
                by.setdefault(verdict.rule, (flow, verdict))
        if by:
            shadowed[rule.name] = list(by.values())
    return shadowed


def _explain_shadowed(
    nsg: Mapping,
    shadowed: Mapping[str, Sequence[tuple[Flow, Verdict]]],
    needed: Iterable[DesiredRule],
    priorities: Mapping[str, int],
    unmanaged: Iterable[Mapping],
) -> str:
    sentences = []
    used = {*_names_by_slot(unmanaged), *(_slot(rule, priorities[rule.name]) for rule in needed)}
    for name in dict.fromkeys(rule.ipv4_half or rule.name for rule in needed if rule.name in shadowed):
        halves = [rule for rule in needed if name in (rule.name, rule.ipv4_half)]
        shadowed_halves = [half.name for half in halves if half.name in shadowed]
        decisions = [pair for half in shadowed_halves for pair in shadowed[half]]
        first = min(verdict.priority for dummy, verdict in decisions)
        # The IPv6 half comes after the priority of its rule, also if the rule itself is not needed.
        room = 2 if any(half.ipv4_half for half in halves) else 1
        for smaller in range(first - room, PRIORITIES[0] - 1, -1):
            slots = {_slot(halves[0], smaller + after) for after in range(room)}
            if not slots & used:
                used |= slots
                advice = f"set a smaller one for {name} (such as {smaller})"
                break
        else:
            advice = f"free a priority number below {first}"
        sentences.append(
            f"{' and '.join(f'{half} ({priorities[half]})' for half in shadowed_halves)} would be shadowed "
            f"in {nsg['id']}: "
            f"{'; '.join(_describe_decision(verdict, flow) for flow, verdict in decisions)}. Move "
            f"{' and '.join(dict.fromkeys(verdict.rule for dummy, verdict in decisions))} to a larger "
            f"priority number, or {advice}."
        )
    return " ".join([*sentences, "With on_shadowed=warn the rules are written anyway."])


def _describe_decision(verdict: Verdict, flow: Flow) -> str:
    return (
        f"{verdict.by} {'allows' if verdict.access == 'Allow' else 'denies'} "
        f"{'some of ' if verdict.partly else ''}{join_names(verdict.source)} → "
        f"{join_names(verdict.destination)} on {flow.port}/{flow.protocol.lower()}"
    )


def _writable(resource: Mapping) -> dict:
    """A copy without the fields that only ARM writes."""
    body = {key: value for key, value in resource.items() if key not in _READ_ONLY}
    body["properties"] = {
        key: value for key, value in resource["properties"].items() if key not in _READ_ONLY_PROPERTIES
    }
    return body


def _describe_rule(rule: Mapping) -> str:
    """A rule in short: `Allow-SSH 300 Inbound Allow Tcp 10.0.0.0/16:* → *:22`."""
    properties = rule["properties"]
    ends = [
        f"{','.join(names_of(end.groups) or end.prefixes)}:{','.join(end.port_ranges)}"
        for end in (End.of(properties, side) for side in ("source", "destination"))
    ]
    fields = (properties[key] for key in ("priority", "direction", "access", "protocol"))
    return " ".join([rule["name"], *map(str, fields), " → ".join(ends)])


def _describe_rules(rules: Iterable[Mapping], described: Sequence[str]) -> str:
    in_order = sorted(rules, key=lambda rule: (rule["properties"]["direction"], rule["properties"]["priority"]))
    return "".join(
        _describe_rule(rule)
        + (f" {rule['properties'].get('description')!r}" if rule["name"] in described else "")
        + "\n"
        for rule in in_order
    )


def names_of(resource_ids: Iterable[str]) -> list[str]:
    """The last segments of ARM ids."""
    return [resource_id.rpartition("/")[2] for resource_id in resource_ids]
