# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report on each pool, as problems, conditions and Events: plain data in, plain data out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import ADAPTOR, Ceiling, Node, Target, selecting, whole_quantity
from .pools import DEFAULT, LIMIT_KEY, LIMITS, PEER_PODS_CM, Observed, Pool

INVALID_LIMIT = "InvalidLimit"
OVERLAPPING = "OverlappingNodeSelectors"
BELOW_RUNNING = "LimitBelowRunning"
CLOUD_BOUND = "CloudBound"
PROBLEMS = (INVALID_LIMIT, OVERLAPPING, BELOW_RUNNING, CLOUD_BOUND)

# The reason of a condition that is as it should be, by OpenShift's convention.
AS_EXPECTED = "AsExpected"


@dataclass
class Report:
    """One pool and its nodes: how many it has, which of them do not advertise what they should,
    which wait for their cloud-api-adaptor, and its problems, each with a sentence, by the names in
    PROBLEMS. Nodes that are not available are not waited for."""

    selected: int = 0
    missing: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.selected > 0 and not self.missing and not self.waiting


def reports(
    pools: Collection[Pool],
    nodes: Iterable[Node],
    targets: Mapping[str, Target],
    used: Mapping[str, int],
    ceiling: Ceiling | None,
) -> dict[str, Report]:
    """The report on each of `pools`, by name.

    `targets` has what each node should advertise, `used` the peer pods on it, where that is known.
    """
    by_pool = {pool.name: Report() for pool in pools}
    overlaps: dict[str, dict[str, None]] = {pool.name: {} for pool in pools}
    shared, crowded, bound = ({pool.name: [] for pool in pools} for _ in range(3))
    for node in nodes:
        deciding = selecting(node, pools)
        target = targets[node.name]
        advertises = target.slots is not None and target.slots == whole_quantity(node.allocatable)
        for pool in deciding:
            name = pool.name
            by_pool[name].selected += 1
            if not advertises:
                by_pool[name].missing.append(node.name)
            if target.bound == ADAPTOR and node.is_available:
                by_pool[name].waiting.append(node.name)
            if len(deciding) > 1:
                shared[name].append(node.name)
                overlaps[name].update({other.name: None for other in deciding if other != pool})
            if target.limit is not None and used.get(node.name, 0) > target.limit:
                crowded[name].append(node.name)
            if ceiling and target.limit == ceiling.slots and (pool.limit or 0) > ceiling.slots:
                bound[name].append(node.name)
    for pool in pools:
        problems = by_pool[pool.name].problems
        if pool.bad_limit is not None:
            problems[INVALID_LIMIT] = _invalid(pool)
        if names := shared[pool.name]:
            problems[OVERLAPPING] = (
                f"Nodes also selected by {', '.join(sorted(overlaps[pool.name]))}, where the "
                f"smallest limit applies: {_some(names)}."
            )
        if names := crowded[pool.name]:
            problems[BELOW_RUNNING] = (
                f"Nodes that run more peer pods than they have slots: {_some(names)}. None is "
                "evicted; no more are scheduled there until enough of them have ended."
            )
        if ceiling and (names := bound[pool.name]):
            problems[CLOUD_BOUND] = (
                f"Nodes with {ceiling.slots} slots instead of the limit of {pool.limit}, because "
                f"the cloud has room for {ceiling.total} peer pods in total (limited by "
                f"{ceiling.bound}): {_some(names)}."
            )
    return by_pool


def _invalid(pool: Pool) -> str:
    written = _quoted(pool.bad_limit or "")
    kept = "what each node has now" if pool.limit is None else pool.limit
    in_force = f"Until it is corrected, {kept} stays in force."
    if pool.source == PEER_PODS_CM:
        return f"{LIMIT_KEY} is {written}, not a whole number. {in_force}"
    if pool.source == LIMITS:
        if pool.node_selector is None:
            in_force = "Until it is corrected, it has no effect."
        selector = "" if pool.name == DEFAULT else " and a nodeSelector of labels"
        return f"The entry {pool.name} is {written}, not a JSON object with a limit of 0 or more{selector}. {in_force}"
    return f"spec.limit is {written}, not a whole number of 0 or more. {in_force}"


def conditions(report: Report, observed: Observed, resource: str, now: str) -> tuple[Mapping[str, Any], ...]:
    """status.conditions as they should be, those of other writers included.

    `now` (RFC 3339) is when those changed whose status is another than that observed.
    """
    if report.complete:
        ready = ("True", AS_EXPECTED, f"All {report.selected} selected nodes advertise {resource}.")
    elif report.selected and not report.missing:
        message = (
            f"{len(report.waiting)} of {report.selected} selected nodes advertise no free slots "
            f"because their cloud-api-adaptor pod is not Ready: {_some(report.waiting)}."
        )
        ready = ("False", "AdaptorNotReady", message)
    elif report.selected:
        reason = INVALID_LIMIT if INVALID_LIMIT in report.problems else "NodesNotAdvertising"
        message = (
            f"{len(report.missing)} of {report.selected} selected nodes do not advertise "
            f"{resource} as they should: {_some(report.missing)}."
        )
        ready = ("False", reason, message)
    else:
        ready = ("False", "NoNodesSelected", "spec.nodeSelector selects no node.")
    ours = {"Ready": ready}
    for problem in PROBLEMS:
        sentence = report.problems.get(problem)
        ours[problem] = ("True", problem, sentence) if sentence else ("False", AS_EXPECTED, "")
    before = {condition.get("type"): condition for condition in observed.conditions}
    return (
        *(condition for condition in observed.conditions if condition.get("type") not in ours),
        *(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": observed.generation,
                "lastTransitionTime": before[kind]["lastTransitionTime"]
                if before.get(kind, {}).get("status") == status
                else now,
            }
            for kind, (status, reason, message) in ours.items()
        ),
    )


def event(config: Pool, namespace: str, problem: str, sentence: str, reporter: str, now: str) -> dict[str, Any]:
    """The Event that reports a problem of the PeerPodConfig `config`.

    Its name is the same for every report of it: one for each version of the spec.
    """
    observed = config.observed
    key = f"{observed.uid} {observed.generation} {problem}".encode()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{config.name[:200]}.{hashlib.sha256(key).hexdigest()[:16]}",
            "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPodConfig",
            "namespace": namespace,
            "name": config.name,
            "uid": observed.uid,
        },
        "type": "Warning",
        "reason": problem,
        "message": sentence[:1024],
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": reporter},
        "reportingComponent": reporter,
    }


def _some(names: list[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
