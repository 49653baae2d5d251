# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans of security rules: which required rules a network security group lacks (private).

Pure functions of options and of groups in the format of ARM, which return plans. Source: REST reference "Security Rules
- Create Or Update".
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    DIRECTIONS,
    ENDS,
    WORKERS,
    End,
    Flow,
    ParsedRule,
    Path,
    Verdict,
    decide_parsed,
    is_port_range,
    is_same_rule,
    is_within,
    network_of,
    parsed_rules,
    port_range,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The first and the last priority of a security rule; the default rules come after.
PRIORITIES = (100, 4096)

# The beginning of the description of every rule that this collection adds. Those of versions before 0.1.0 have no id.
_MARK = re.compile(r"osc\.peerpods(?: (\S+))?: ")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

_PROTOCOLS = ("Tcp", "Udp", "Icmp", "Esp", "Ah")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_TAG = re.compile(r"\*|[A-Za-z][A-Za-z0-9.]*")
_DESCRIPTION_LENGTH = 140
_AS_GIVEN = ("access", "protocol", "description")
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


# The source, the destination and the virtual network of a part of a rule's traffic.
Part = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


class SecurityRuleError(Exception):
    """The reason why no plan can be made, as a sentence."""


@dataclass(frozen=True)
class Owner:
    """The cluster that owns rules: the infrastructure name is in their names, the id in their descriptions."""

    name: str
    id: str

    def __post_init__(self) -> None:
        for option, value in (("cluster_name", self.name), ("cluster_id", self.id)):
            if not _ID.fullmatch(value):
                raise SecurityRuleError(
                    f"{option} is {value!r}. Set it to what osc.peerpods.cluster_info returns: at most 64 letters, "
                    "digits and '-'."
                )

    @property
    def mark(self) -> str:
        return f"osc.peerpods {self.id}: "

    def owns(self, rule: Mapping) -> bool:
        return (rule["properties"].get("description") or "").startswith(self.mark)

    def is_of_another(self, rule: Mapping) -> bool:
        """Whether the rule is of this collection, but not of this cluster."""
        return bool(_MARK.match(rule["properties"].get("description") or "")) and not self.owns(rule)


@dataclass(frozen=True)
class DesiredRule:
    """A desired security rule; it gets another priority if another rule has its priority already.

    `option` is the name of its entry in the module's option `rules`. An entry may result in several rules: for the
    other traffic, the other direction and the other address family. The first has the requested `priority`; the others
    have None and get the next free one from `start`. `is_listed` is false for the other direction, where a rule is
    added only if it is needed. `flows` are all of its traffic.
    """

    name: str
    option: str
    priority: int | None
    start: int
    direction: str
    access: str
    protocol: str
    source: End
    destination: End
    flows: tuple[Part, ...]
    owner: Owner
    is_listed: bool = True
    description: str | None = None

    @property
    def full_description(self) -> str:
        if self.description:
            return self.owner.mark + self.description
        ports = "-".join(self.destination.port_ranges)
        traffic = f"port {ports}/{self.protocol.lower()}" if ports.isdigit() else "traffic"
        return f"{self.owner.mark}{traffic} between workers and peer pods"


def desired_rules(
    options: Iterable[Mapping], paths: Sequence[Path], virtual_networks: Sequence[tuple[str, ...]], owner: Owner
) -> tuple[DesiredRule, ...]:
    """The rules of the option `rules` for one group, with the addresses of `paths` as defaults.

    If workers and pod VMs have different addresses, traffic in both ways requires two rules. An allowed port also
    requires a rule in the other direction, if that is filtered. Azure does not allow prefixes of both IP families in
    one rule, so a rule for both becomes two rules.
    """
    rules: list[DesiredRule] = []
    for option in options:
        if not option["to"]:
            raise SecurityRuleError(f"The rule {option['name']} has an empty list as to. Set vms, workers, or both.")
        of_option = _rules_of(option, paths, virtual_networks, owner)
        if of_option and of_option[0].is_listed:
            of_option[0] = replace(of_option[0], priority=option["priority"])
        rules += of_option
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
                f"The rules {first.option} and {second.option} both have the priority {first.priority} "
                f"and the direction {first.direction}. Give one of them another priority."
            )
    return tuple(rules)


def _rules_of(
    option: Mapping, paths: Sequence[Path], virtual_networks: Sequence[tuple[str, ...]], owner: Owner
) -> list[DesiredRule]:
    """The rules of one entry, those in its own direction first."""
    rules: list[DesiredRule] = []
    for direction, suffixes, parts in _traffic_of(option, paths, virtual_networks):
        source, destination = (
            _end(option, side, _outermost(prefix for part in parts for prefix in part[number]))
            for number, side in enumerate(("source", "destination"))
        )
        rule = DesiredRule(
            **{key: option[key] for key in _AS_GIVEN},
            name="-".join([option["name"], *suffixes, owner.name]),
            option=option["name"],
            priority=None,
            start=option["priority"],
            direction=direction,
            source=source,
            destination=destination,
            flows=tuple(
                (_end(option, "source", from_).prefixes, _end(option, "destination", to).prefixes, network)
                for from_, to, network in parts
            ),
            owner=owner,
            is_listed=direction == option["direction"],
        )
        rules += _by_family(rule)
    return rules


def _traffic_of(
    option: Mapping, paths: Sequence[Path], virtual_networks: Sequence[tuple[str, ...]]
) -> Iterator[tuple[str, list[str], list[Part]]]:
    """The traffic of each rule of an entry: its direction, suffixes for the name, and its parts.

    An entry with addresses of its own is one rule. Such an entry, and one that denies traffic, is in its own direction
    only.
    """
    ends = [to for to in ENDS if to in option["to"]]
    is_given = any(
        option.get(f"{side}_{kind}")
        for side in ("source", "destination")
        for kind in ("address_prefixes", "application_security_groups")
    )
    if not paths:
        yield option["direction"], [], [((), (), network) for network in virtual_networks or [()]]
        return
    for direction in sorted(DIRECTIONS, key=lambda direction: direction != option["direction"]):
        is_listed = direction == option["direction"]
        if not is_listed and (is_given or option["access"] == "Deny"):
            continue
        by_end = {
            to: list(
                dict.fromkeys(
                    (path.source, path.destination, path.virtual_network)
                    for path in paths
                    if (path.direction, path.to) == (direction, to)
                )
            )
            for to in ends
        }
        if is_given:
            by_end = {ends[0]: list(dict.fromkeys(part for parts in by_end.values() for part in parts))}
        yielded: list[list[Part]] = []
        for to, parts in by_end.items():
            # If workers and VMs have the same addresses, one rule applies to both.
            if parts and parts not in yielded:
                yielded.append(parts)
                suffixes = ["To-Workers"] if to == WORKERS != ends[0] else []
                yield direction, [*suffixes, *([] if is_listed else [direction])], parts


def _outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The prefixes without those that another prefix contains, because Azure rejects rules with both."""
    networks = {prefix: network for prefix in prefixes if (network := network_of(prefix))}
    return tuple(
        prefix
        for prefix, network in networks.items()
        if not any(
            network != other and network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
            for other in networks.values()
        )
    )


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


def _end(option: Mapping, side: str, prefixes_of_traffic: Iterable[str]) -> End:
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
    return End(prefixes or tuple(prefixes_of_traffic) or network_tag, groups, port_ranges)


def _by_family(rule: DesiredRule) -> Iterator[DesiredRule]:
    """The rule, or its two halves; tags, `*` and application security groups apply to both halves."""

    def of_version(prefixes: Iterable[str], version: int) -> tuple[str, ...]:
        return tuple(p for p in prefixes if getattr(network_of(p), "version", version) == version)

    def half(end: End, version: int) -> End:
        return end if end.groups else replace(end, prefixes=of_version(end.prefixes, version))

    halves = [
        replace(
            rule,
            source=source,
            destination=destination,
            flows=tuple(
                (sources, destinations, network)
                for from_, to, network in rule.flows
                if (sources := of_version(from_, version)) and (destinations := of_version(to, version))
            ),
        )
        for version in (4, 6)
        if (source := half(rule.source, version)).prefixes and (destination := half(rule.destination, version)).prefixes
    ]
    if not halves:
        raise SecurityRuleError(
            f"The rule {rule.option} matches nothing: no IP family is in both its source "
            f"({', '.join(rule.source.prefixes) or 'none'}) and its destination "
            f"({', '.join(rule.destination.prefixes) or 'none'}). Give source_address_prefixes "
            "and destination_address_prefixes of the same family."
        )
    if (halves[0].source, halves[0].destination) == (halves[-1].source, halves[-1].destination):
        yield replace(halves[0], flows=rule.flows)
    else:
        yield halves[0]
        yield replace(halves[1], name=f"{rule.name.removesuffix(rule.owner.name)}IPv6-{rule.owner.name}")


def _check(rule: DesiredRule) -> None:
    problem = None
    if not _NAME.fullmatch(rule.name):
        problem = (
            "has a name that Azure does not take. Give one of letters, digits, '_', '.' and '-' that begins with a "
            "letter or digit, and with the name of the cluster has at most 80 characters."
        )
    elif not PRIORITIES[0] <= rule.start <= PRIORITIES[1]:
        problem = f"has the priority {rule.start}. Give one from 100 to 4096."
    elif len(rule.full_description) > _DESCRIPTION_LENGTH:
        problem = (
            f"has a description of {len(rule.description or '')} characters. Give at most "
            f"{_DESCRIPTION_LENGTH - len(rule.owner.mark)}: Azure takes {_DESCRIPTION_LENGTH}, and it begins "
            f"with {rule.owner.mark!r}."
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

    `updated` pairs the current rule with the desired rule. `covered`, `shadowed` and `kept` pair the name of a rule
    with the reason, `renamed` the name that another rule has with the one that is used instead. `unused` has the rules
    of the cluster that stay although their traffic is not required.
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
    renamed: tuple[tuple[str, str], ...] = ()
    unused: tuple[dict, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.created or self.updated or self.removed)


def plan_present(
    nsg: Mapping,
    desired: Sequence[DesiredRule],
    owner: Owner,
    *,
    on_priority_conflict: str = "move",
    priority_range: tuple[int, int] = PRIORITIES,
    on_covered: str = "skip",
    on_shadowed: str = "fail",
    purge_rules: bool = False,
) -> Plan:
    """Plan the required rules of a group, without those that other rules cover already.

    A rule with the name of a required rule is managed if its description marks it as one of this cluster. Other rules
    stay as they are: if such a rule has the name, the required rule gets another name. Rules of the cluster that are
    not required are removed with `purge_rules`, and do not count then. Without it, the required rule also gets another
    name if the rule of the cluster allows traffic that would no longer be allowed: running peer pods may need it.

    A required rule that does not exist yet is covered if unmanaged rules decide all of its traffic in the same way, and
    no other required rule decides any of it differently. Rules of other clusters do not count, because their teardown
    removes them.

    Raises SecurityRuleError if an unmanaged rule has a priority (`on_priority_conflict` is `fail`), if no priority in
    `priority_range` (both ends included) is free, and if an unmanaged rule with a smaller priority number decides
    differently (`on_shadowed` is `fail`).
    """
    existing = {rule["name"].lower(): rule for rule in nsg["properties"].get("securityRules") or ()}
    requested_names = [rule.name for rule in desired]
    allowed = [security_rule(rule, 0)["properties"] for rule in desired if rule.access == "Allow"]
    own = {key: rule for key, rule in existing.items() if owner.owns(rule)}
    allowing = {key: rule["properties"] for key, rule in own.items() if rule["properties"]["access"].lower() == "allow"}
    # The traffic of these is requested, if under another name.
    requested = {key for key, rule in allowing.items() if any(is_within(rule, properties) for properties in allowed)}
    kept_open = set() if purge_rules else allowing.keys() - requested
    desired = [_with_own_name(rule, existing, kept_open, purge_rules=purge_rules) for rule in desired]
    managed_names = {rule.name.lower() for rule in desired}
    surplus = {key: rule for key, rule in own.items() if key not in managed_names}
    if purge_rules:
        managed_names |= surplus.keys()
    unmanaged = [rule for rule in rules_of(nsg) if rule["name"].lower() not in managed_names]
    covered = {}
    for rule in desired:
        if rule.name.lower() in existing or (rule.is_listed and on_covered == "ensure"):
            continue
        by = _covered_by(rule, desired, unmanaged)
        if by:
            covered[rule.name] = by
    needed = [rule for rule in desired if rule.name not in covered]
    priorities = _priorities(needed, desired, existing, unmanaged, priority_range)
    by_slot = _names_by_slot(unmanaged)
    moved = tuple(
        Move(rule.name, rule.priority, priorities[rule.name], taken_by)
        for rule in needed
        if rule.priority and (taken_by := by_slot.get(_slot(rule, rule.priority)))
    )
    conflicts = [move for move in moved if not owner.owns(existing[move.taken_by.lower()])]
    if conflicts and on_priority_conflict == "fail":
        raise SecurityRuleError(
            " ".join(
                f"Priority conflict in {nsg['id']}: {move.name} is set to the priority {move.requested}, which "
                f"{move.taken_by} has. Set another priority (such as {move.assigned}), or set "
                "on_priority_conflict=move."
                for move in conflicts
            )
        )
    created, updated, unchanged, after = [], [], [], []
    for rule in needed:
        before = existing.get(rule.name.lower())
        body = _merge_rule(before, security_rule(rule, priorities[rule.name]))
        after.append(body)
        if before is None:
            created.append(body)
        elif is_same_rule(before["properties"], body["properties"]) and _is_provisioned(before):
            unchanged.append(rule.name)
        else:
            updated.append((before, body))
    shadowed = _shadowed(needed, priorities, unmanaged, after)
    if shadowed and on_shadowed == "fail":
        raise SecurityRuleError(_explain_shadowed(nsg, shadowed, needed, desired, priorities, unmanaged))
    needed_names = {rule.name for rule in needed}
    options = {rule.option.lower() for rule in desired}
    return Plan(
        nsg["id"],
        created=tuple(created),
        updated=tuple(updated),
        removed=tuple(surplus.values()) if purge_rules else (),
        unchanged=tuple(unchanged),
        covered=tuple((rule.name, covered[rule.name]) for rule in desired if rule.is_listed and rule.name in covered),
        moved=moved,
        shadowed=tuple(
            (name, "; ".join(_describe_decision(verdict, flow) for flow, verdict in by))
            for name, by in shadowed.items()
        ),
        kept=_kept(existing.values(), owner, {*options, *(name.lower() for name in requested_names)}),
        renamed=tuple(
            (name, rule.name)
            for name, rule in zip(requested_names, desired, strict=True)
            if name != rule.name and rule.name in needed_names
        ),
        unused=() if purge_rules else tuple(rule for key, rule in surplus.items() if key not in requested),
    )


def plan_absent(nsg: Mapping, names: Iterable[str], owner: Owner) -> Plan:
    """Plan the removal of all rules of this cluster, whatever their names.

    `names` are those of the module's `rules` option: other rules with such a name stay, with a reason.
    """
    rules = nsg["properties"].get("securityRules") or ()
    removed = tuple(rule for rule in rules if owner.owns(rule))
    with_cluster = {f"{name}-{owner.name}".lower() for name in names}
    kept = _kept(rules, owner, with_cluster | ({name.lower() for name in names} if removed else set()))
    return Plan(nsg["id"], removed=removed, kept=kept)


def changes_between(plan: Plan, before: Mapping, after: Mapping, owner: Owner) -> Plan:
    """The plan with the changes of its cluster's rules between two states of the group."""
    old, new = (
        {rule["name"].lower(): rule for rule in nsg["properties"].get("securityRules") or () if owner.owns(rule)}
        for nsg in (before, after)
    )
    updated = {
        name: (old[name], new[name])
        for name in new
        if name in old and not is_same_rule(old[name]["properties"], new[name]["properties"])
    }
    changed = {*updated, *(new.keys() ^ old.keys())}
    return replace(
        plan,
        created=tuple(rule for name, rule in new.items() if name not in old),
        updated=tuple(updated.values()),
        removed=tuple(rule for name, rule in old.items() if name not in new),
        unchanged=tuple(name for name in plan.unchanged if name.lower() not in changed),
    )


def _is_provisioned(rule: Mapping) -> bool:
    """False for a rule that a failed operation left behind: it is not in force until it is written again."""
    return rule["properties"].get("provisioningState") not in ("Failed", "Canceled")


def _with_own_name(
    rule: DesiredRule, existing: Mapping[str, Mapping], kept_open: Container[str], *, purge_rules: bool
) -> DesiredRule:
    """The rule with the name that it has in this group, or else with a name that is free.

    A rule of `kept_open` keeps its name and its traffic, unless `rule` denies this traffic.
    """
    names = [rule.name, *(f"{rule.name}-{number}" for number in range(2, len(existing) + 3))]
    properties = security_rule(rule, 0)["properties"]
    own = [name for name in names if name.lower() in existing and rule.owner.owns(existing[name.lower()])]
    if not purge_rules:
        within = [name for name in own if is_within(existing[name.lower()]["properties"], properties)]
        equal = [name for name in within if is_within(properties, existing[name.lower()]["properties"])]
        own = [*equal, *within, *(name for name in own if name.lower() not in kept_open)]
    free = (name for name in names if name.lower() not in existing)
    named = replace(rule, name=next(chain(own, free)))
    _check(named)
    return named


def _kept(rules: Iterable[Mapping], owner: Owner, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The rules with these names (in lower case) that are not of this cluster, and so are never changed."""
    kept = []
    for rule in rules:
        if rule["name"].lower() in names and not owner.owns(rule):
            description = rule["properties"].get("description")
            actual = f"is {description!r}" if description else "is empty"
            kept.append((rule["name"], f"its description {actual} and does not begin with {owner.mark.strip()!r}"))
    return tuple(kept)


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
    described = [new["name"] for old, new in plan.updated if describe_rule(old) == describe_rule(new)]
    return {
        "before_header": plan.nsg_id,
        "after_header": plan.nsg_id,
        "before": _describe_rules(before, described),
        "after": _describe_rules(after, described),
    }


def _covered_by(rule: DesiredRule, desired: Sequence[DesiredRule], unmanaged: Sequence[Mapping]) -> str | None:
    # Required rules that decide differently count as if they came first, because their priorities may still change.
    opposite = [security_rule(desired_rule, 0) for desired_rule in desired if desired_rule.access != rule.access]
    verdicts = [verdict for dummy, verdict in _decide_rule(rule, [*_lasting(rule, unmanaged), *opposite])]
    if not verdicts or any(verdict.access != rule.access for verdict in verdicts):
        return None
    deciding = sorted({(verdict.priority, verdict.by) for verdict in verdicts})
    return " and ".join(by for dummy, by in deciding)


def _lasting(rule: DesiredRule, unmanaged: Iterable[Mapping]) -> list[Mapping]:
    """The rules without those of other clusters that decide in the same way, because the teardown of those clusters
    removes them."""
    return [
        other
        for other in unmanaged
        if other["properties"]["access"].lower() != rule.access.lower() or not rule.owner.is_of_another(other)
    ]


def _decide_rule(rule: DesiredRule, rules: Sequence[Mapping]) -> Iterator[tuple[Flow, Verdict]]:
    """All flows of a rule with their verdicts; one port represents all ports that are treated alike."""
    for source, destination, network in rule.flows:
        parsed = parsed_rules(rules, network)
        for port in _distinct_ports(rule, parsed):
            for protocol in _PROTOCOLS if rule.protocol == "*" else (rule.protocol,):
                flow = Flow(rule.direction, protocol, port, source, destination, network)
                for verdict in decide_parsed(flow, parsed):
                    yield flow, verdict


def _distinct_ports(rule: DesiredRule, rules: Sequence[ParsedRule]) -> Iterator[int]:
    edges = {edge for deciding_rule in rules for low, high in deciding_rule.ports for edge in (low, high + 1)}
    for low, high in map(port_range, rule.destination.port_ranges):
        yield from sorted({low, *(edge for edge in edges if low < edge <= high)})


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

    All rules of an option except the first always get the next free priority, so that they follow the option to a
    smaller priority.
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
    first_of = {(rule.option, rule.direction): rule.name for rule in desired if rule.priority}
    for rule in needed:
        if rule.name not in priorities:
            start = priorities.get(first_of.get((rule.option, rule.direction), ""), rule.start)
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


def _merge_rule(before: Mapping | None, body: dict) -> dict:
    """The rule with its unmanaged fields unchanged."""
    if before is None:
        return body
    unmanaged = {k: v for k, v in before["properties"].items() if not _END.match(k)}
    return {**before, "properties": unmanaged | body["properties"]}


def _shadowed(
    needed: Iterable[DesiredRule],
    priorities: Mapping[str, int],
    unmanaged: Sequence[Mapping],
    managed: Sequence[Mapping],
) -> dict[str, list[tuple[Flow, Verdict]]]:
    """By name of a managed rule: the unmanaged rules before it that decide its traffic differently, each with the first
    such flow."""
    names = {rule["name"] for rule in unmanaged}
    shadowed: dict[str, list[tuple[Flow, Verdict]]] = {}
    for rule in needed:
        by: dict[str, tuple[Flow, Verdict]] = {}
        for flow, verdict in _decide_rule(rule, [*_lasting(rule, unmanaged), *managed]):
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
    desired: Sequence[DesiredRule],
    priorities: Mapping[str, int],
    unmanaged: Iterable[Mapping],
) -> str:
    sentences = []
    used = {*_names_by_slot(unmanaged), *(_slot(rule, priorities[rule.name]) for rule in needed)}
    entries = dict.fromkeys((rule.option, rule.direction) for rule in needed if rule.name in shadowed)
    for option, direction in entries:
        of_entry = [rule for rule in desired if (rule.option, rule.direction) == (option, direction)]
        shadowed_rules = [rule.name for rule in of_entry if rule.name in shadowed]
        decisions = [pair for name in shadowed_rules for pair in shadowed[name]]
        first = min(verdict.priority for dummy, verdict in decisions)
        # The other rules come after the first rule of the option, also if that rule is not needed.
        room = len(of_entry)
        for smaller in range(first - room, PRIORITIES[0] - 1, -1):
            slots = {_slot(of_entry[0], smaller + after) for after in range(room)}
            if not slots & used:
                used |= slots
                advice = f"set a smaller one for {option} (such as {smaller})"
                break
        else:
            advice = f"free a priority number below {first}"
        sentences.append(
            f"{' and '.join(f'{name} ({priorities[name]})' for name in shadowed_rules)} would be shadowed "
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


def describe_rule(rule: Mapping) -> str:
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
        describe_rule(rule)
        + (f" {rule['properties'].get('description')!r}" if rule["name"] in described else "")
        + "\n"
        for rule in in_order
    )


def names_of(resource_ids: Iterable[str]) -> list[str]:
    """The last segments of ARM ids."""
    return [resource_id.rpartition("/")[2] for resource_id in resource_ids]
