# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Security group rules, the clusters that depend on them, and their changes (private; no I/O here).

The marks of a rule are its tags: MANAGED_TAG on every rule that this collection added, and a tag for each cluster that
depends on it. EC2 rejects a second rule for the same traffic, so clusters with a common security group share one; the
last cluster that gives up its reference removes the rule.

EC2 has no conditional removal, so clusters that join and leave at the same time take the steps of a mutual exclusion.
One that leaves marks its own reference first and reads again: it removes the rule only if all references have this
mark, and only its reference otherwise. One that joins adds its reference and reads again: if a reference has the mark,
the rule may be removed, and it waits until the rule or the mark is gone. Whoever writes later sees the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

MANAGED_TAG = "osc.peerpods/managed"
REFERENCE_TAG = "osc.peerpods/cluster/"

# Before the name in a reference of a cluster that gives it up.
LEAVING = "leaving:"

ALL_PROTOCOLS = "-1"


def own_tags(cluster_id: str, cluster_name: str) -> dict[str, str]:
    """The tags of what this collection created for a cluster."""
    return {MANAGED_TAG: "true", f"{REFERENCE_TAG}{cluster_id}": cluster_name}


@dataclass(frozen=True, order=True)
class Port:
    """One port of one protocol (`tcp` or `udp`)."""

    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True)
class Rule:
    """One rule of a group with one peer: a group (`sg-…`), a prefix list (`pl-…`) or a CIDR.

    The ports have no meaning for protocols without ports. `rule_id` is empty for a planned rule. Two rules for the same
    traffic are equal.
    """

    group_id: str
    is_egress: bool
    protocol: str
    from_port: int
    to_port: int
    peer: str
    rule_id: str = field(default="", compare=False)
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    def admits(self, port: Port) -> bool:
        if self.protocol == ALL_PROTOCOLS:
            return True
        return self.protocol == port.protocol and self.from_port <= port.port <= self.to_port

    @property
    def port(self) -> Port:
        """The port of a rule that this collection added, which has exactly one port."""
        return Port(self.from_port, self.protocol)

    @property
    def direction(self) -> str:
        return "egress" if self.is_egress else "ingress"

    @property
    def is_managed(self) -> bool:
        return self.tags.get(MANAGED_TAG) == "true"

    @property
    def references(self) -> dict[str, str]:
        """The names of the clusters that depend on a rule of this collection, by their ids."""
        return {id_: value.removeprefix(LEAVING) for id_, value in self._reference_tags.items()}

    @property
    def leaving(self) -> dict[str, str]:
        """Those of the clusters that give up their reference."""
        return {id_: name for id_, name in self.references.items() if self._reference_tags[id_].startswith(LEAVING)}

    @property
    def _reference_tags(self) -> dict[str, str]:
        if not self.is_managed:
            return {}
        return {
            key.removeprefix(REFERENCE_TAG): value for key, value in self.tags.items() if key.startswith(REFERENCE_TAG)
        }

    def __str__(self) -> str:
        peer = "the group itself" if self.peer == self.group_id else self.peer
        if self.protocol == ALL_PROTOCOLS:
            return f"{peer} (all traffic)"
        ports = str(self.from_port)
        if self.to_port != self.from_port:
            ports += f"-{self.to_port}"
        return f"{peer} ({self.protocol} {ports})"


@dataclass(frozen=True)
class Cluster:
    """The cluster whose rules are managed: its infrastructure name, and its id."""

    name: str
    id: str

    @property
    def reference(self) -> dict[str, str]:
        return {f"{REFERENCE_TAG}{self.id}": self.name}

    @property
    def mark(self) -> dict[str, str]:
        """The reference of this cluster while it gives it up."""
        return {f"{REFERENCE_TAG}{self.id}": f"{LEAVING}{self.name}"}

    def tags_of_new_rules(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {"Name": f"{self.name}-peer-pods", **tags, **own_tags(self.id, self.name)}


@dataclass(frozen=True)
class Tagging:
    """Tags that a rule lacks or has with another value."""

    rule: Rule
    tags: Mapping[str, str]

    @property
    def before(self) -> dict[str, str]:
        return {key: self.rule.tags[key] for key in self.tags if key in self.rule.tags}


@dataclass(frozen=True)
class Changes:
    """Rules that are added, get tags, are removed, or lose the reference of a cluster while others depend on them."""

    opened: tuple[Rule, ...] = ()
    tagged: tuple[Tagging, ...] = ()
    revoked: tuple[Rule, ...] = ()
    released: tuple[Rule, ...] = ()

    def __len__(self) -> int:
        return len(self.opened) + len(self.tagged) + len(self.revoked) + len(self.released)

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.opened + other.opened,
            self.tagged + other.tagged,
            self.revoked + other.revoked,
            self.released + other.released,
        )

    def joins(self, cluster: Cluster) -> bool:
        """Whether the cluster begins to depend on rules that another cluster may remove meanwhile."""
        return any(tagging.tags == cluster.reference for tagging in self.tagged)

    def of_group(self, group_id: str) -> Changes:
        return Changes(
            tuple(rule for rule in self.opened if rule.group_id == group_id),
            tuple(tagging for tagging in self.tagged if tagging.rule.group_id == group_id),
            tuple(rule for rule in self.revoked if rule.group_id == group_id),
            tuple(rule for rule in self.released if rule.group_id == group_id),
        )

    def is_visible(self, rules: Iterable[Rule], cluster: Cluster) -> bool:
        """Whether `rules`, which were read later, contain all of the changes. A rule that is gone has no tags."""
        rules = tuple(rules)
        existing = {rule.rule_id for rule in rules}
        expected = replace(self, tagged=tuple(each for each in self.tagged if each.rule.rule_id in existing))
        return len(expected.in_force(rules, cluster)) == len(expected)

    def in_force(self, rules: Iterable[Rule], cluster: Cluster) -> Changes:
        """The changes that `rules`, which were read later, contain, whether their requests were answered or not.

        A rule that another cluster added at the same time was not opened by this run.
        """
        rules = tuple(rules)
        by_id = {rule.rule_id: rule for rule in rules}
        return Changes(
            tuple(rule for rule in self.opened if any(rule == r and cluster.id in r.references for r in rules)),
            tuple(
                tagging
                for tagging in self.tagged
                if tagging.rule.rule_id in by_id and tagging.tags.items() <= by_id[tagging.rule.rule_id].tags.items()
            ),
            tuple(rule for rule in self.revoked if rule.rule_id not in by_id),
            tuple(
                rule
                for rule in self.released
                if rule.rule_id not in by_id or cluster.id not in by_id[rule.rule_id].references
            ),
        )


def rules_of(security_group_rules: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules of DescribeSecurityGroupRules."""
    return tuple(
        Rule(
            rule["GroupId"],
            rule["IsEgress"],
            rule["IpProtocol"],
            rule.get("FromPort", -1),
            rule.get("ToPort", -1),
            rule.get("ReferencedGroupInfo", {}).get("GroupId")
            or rule.get("CidrIpv4")
            or rule.get("CidrIpv6")
            or rule.get("PrefixListId")
            or "",
            rule["SecurityGroupRuleId"],
            {tag["Key"]: tag["Value"] for tag in rule.get("Tags", ())},
        )
        for rule in security_group_rules
    )


def plan_tags(rules: Sequence[Rule], used: Iterable[Rule], cluster: Cluster, tags: Mapping[str, str]) -> Changes:
    """The tags that rules of the collection lack.

    A rule of other clusters gets the reference of this one if its traffic depends on it (`used`), and nothing else: the
    other tags are those of the clusters that came before. So does each rule that an interrupted removal of this cluster
    has marked. A rule without a reference is of a version that set none, so its clusters are unknown, and it stays as
    it is.
    """
    joined = [rule for rule in used if rule.references and cluster.id not in rule.references]
    resumed = [rule for rule in rules if cluster.id in rule.leaving]
    taggings = [Tagging(rule, cluster.reference) for rule in (*joined, *resumed)]
    for rule in rules:
        if rule.references.keys() == {cluster.id}:
            missing = {key: value for key, value in tags.items() if rule.tags.get(key) != value}
            if missing:
                taggings.append(Tagging(rule, missing))
    return Changes(tagged=tuple(taggings))


def plan_absent(rules: Iterable[Rule], cluster: Cluster) -> Changes:
    """Remove the rules on which no other cluster depends, and the reference of this cluster from the others."""
    own = [rule for rule in rules if cluster.id in rule.references]
    shared = [rule for rule in own if _staying(rule, cluster)]
    return Changes(revoked=tuple(rule for rule in own if rule not in shared), released=tuple(shared))


def _staying(rule: Rule, cluster: Cluster) -> dict[str, str]:
    """The other clusters that depend on the rule, and do not give it up."""
    return {id_: name for id_, name in rule.references.items() if id_ != cluster.id and id_ not in rule.leaving}


def removals_in_force(rules: Iterable[Rule], planned: Changes, cluster: Cluster) -> Changes:
    """The planned removals that are still right in `rules`, which were read after the references were marked.

    A rule without the mark was read too early, or is gone. What changed since the plan is planned again.
    """
    now = plan_absent([rule for rule in rules if cluster.id in rule.leaving], cluster)
    revoked, released = ({rule.rule_id for rule in rules} for rules in (now.revoked, now.released))
    return Changes(
        revoked=tuple(rule for rule in planned.revoked if rule.rule_id in revoked),
        released=tuple(rule for rule in planned.released if rule.rule_id in released),
    )


def abandoned(rules: Iterable[Rule], cluster: Cluster) -> tuple[Rule, ...]:
    """The rules of this cluster that another cluster may be removing, because it did not see this one's reference."""
    return tuple(rule for rule in rules if cluster.id in rule.references and rule.leaving.keys() - {cluster.id})


def explain_abandoned(rules: Iterable[Rule], cluster: Cluster) -> str:
    parts, commands = [], []
    for rule in rules:
        others = {id_: name for id_, name in rule.leaving.items() if id_ != cluster.id}
        clusters = join_names([f"{name} ({id_})" for id_, name in others.items()])
        parts.append(f"{rule.rule_id} of {rule.group_id} ({rule.port}) by {clusters}")
        tags = " ".join(f"Key={REFERENCE_TAG}{id_}" for id_ in others)
        commands.append(f"aws ec2 delete-tags --resources {rule.rule_id} --tags {tags}")
    return (
        "A teardown has not completed the removal of rules on which this cluster depends: "
        f"{join_names(parts)}. If it does not run any more, run it again: it keeps these rules. If that cluster no "
        f"longer exists, remove its tags: {'; '.join(commands)}. Then run this again."
    )


def kept_rules(rules: Iterable[Rule], cluster: Cluster) -> tuple[tuple[Rule, str], ...]:
    """The rules that plan_absent leaves, each with the reason, without those that only other clusters reference."""
    kept = []
    for rule in rules:
        others = [f"{name} ({id_})" for id_, name in _staying(rule, cluster).items()]
        if cluster.id in rule.references and others:
            kept.append((rule, f"It is also used by {join_names(others)}."))
        elif rule.is_managed and not rule.references:
            kept.append(
                (
                    rule,
                    f"It has no tag {REFERENCE_TAG}…, so the clusters that use it are unknown.",
                )
            )
    return tuple(kept)


def describe_changes(changes: Changes) -> str:
    """The changes for a message, as in "opened 9000/tcp of sg-1"."""
    parts = [
        (verb, [f"{rule.port} of {rule.group_id}" for rule in rules])
        for verb, rules in (
            ("opened", changes.opened),
            ("tagged", [tagging.rule for tagging in changes.tagged]),
            ("removed", changes.revoked),
            ("gave up", changes.released),
        )
    ]
    return ", ".join(f"{verb} {join_names(names)}" for verb, names in parts if names)


def diff_of(
    header: str, changes: Changes, already_open: Iterable[tuple[Port, str]], cluster: Cluster
) -> dict[str, str]:
    """The changes of one group as Ansible's before and after: a line for each port and direction."""
    before = {str(port): f"open to {covered_by}" for port, covered_by in already_open}
    after = dict(before)
    for rule in changes.opened:
        before[_subject(rule)] = "closed"
        after[_subject(rule)] = f"open to {rule}"
    for rule in changes.revoked:
        before[_subject(rule)] = f"opened by osc.peerpods ({rule.rule_id})"
    for rule, old, new in (
        *((tagging.rule, tagging.before, tagging.tags) for tagging in changes.tagged),
        *((rule, cluster.reference, {}) for rule in changes.released),
    ):
        state = before.get(_subject(rule), f"open to {rule}")
        before[_subject(rule)] = f"{state}; {rule.rule_id} has {_tags(old)}"
        after[_subject(rule)] = f"{state}; {rule.rule_id} has {_tags(new)}"
    return {"before_header": header, "after_header": header, "before": _lines(before), "after": _lines(after)}


def _subject(rule: Rule) -> str:
    return f"{rule.port} egress" if rule.is_egress else str(rule.port)


def _tags(tags: Mapping[str, str]) -> str:
    if not tags:
        return "no such tag"
    return f"the tags {', '.join(f'{key}={value}' for key, value in sorted(tags.items()))}"


def _lines(states: Mapping[str, str]) -> str:
    def by_number(subject: str) -> tuple[int, str]:
        return int(subject.partition("/")[0]), subject

    return "".join(f"{subject} {states[subject]}\n" for subject in sorted(states, key=by_number))
