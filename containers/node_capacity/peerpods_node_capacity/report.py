# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is to be said of each PeerPodConfig, as conditions and Events: plain data in, plain data out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Ceiling, Node, Observed, PeerPodConfig, whole_quantity

INVALID_LIMIT = "InvalidLimit"
OVERLAPPING = "OverlappingNodeSelectors"
BELOW_RUNNING = "LimitBelowRunning"
CLOUD_BOUND = "CloudBound"
PROBLEMS = (INVALID_LIMIT, OVERLAPPING, BELOW_RUNNING, CLOUD_BOUND)

# The reason of a condition that is as it should be, by OpenShift's convention.
AS_EXPECTED = "AsExpected"


@dataclass
class Report:
    """One PeerPodConfig and its nodes: how many it selects, which of them do not advertise what they
    should, and its problems, each with a sentence, by the names in PROBLEMS."""

    selected: int = 0
    missing: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.selected > 0 and not self.missing


def reports(
    configs: Collection[PeerPodConfig],
    nodes: Iterable[Node],
    desired: Mapping[str, int | None],
    used: Mapping[str, int],
    ceiling: Ceiling | None,
) -> dict[str, Report]:
    """The report on each of `configs`, by name.

    `desired` has the slots that each node should advertise (None: none of the resource), `used`
    the peer pods on it, where they are known.
    """
    found = {config.name: Report() for config in configs}
    overlaps: dict[str, dict[str, None]] = {config.name: {} for config in configs}
    shared, crowded, bound = ({config.name: [] for config in configs} for _ in range(3))
    for node in nodes:
        selecting = [config for config in configs if config.selects(node)]
        slots = desired[node.name]
        advertises = slots is not None and slots == whole_quantity(node.allocatable)
        for config in selecting:
            name = config.name
            found[name].selected += 1
            if not advertises:
                found[name].missing.append(node.name)
            if len(selecting) > 1:
                shared[name].append(node.name)
                overlaps[name].update({other.name: None for other in selecting if other != config})
            if slots is not None and used.get(node.name, 0) > slots:
                crowded[name].append(node.name)
            if ceiling and slots == ceiling.slots and config.limit and config.limit > slots:
                bound[name].append(node.name)
    for config in configs:
        problems = found[config.name].problems
        if config.bad_limit is not None:
            kept = "what each node has now" if config.limit is None else config.limit
            problems[INVALID_LIMIT] = (
                f"spec.limit is {_quoted(config.bad_limit)}, not a whole number from 0 on; "
                f"{kept} stays in force until it is."
            )
        if names := shared[config.name]:
            problems[OVERLAPPING] = (
                f"Nodes also selected by PeerPodConfig {', '.join(sorted(overlaps[config.name]))}, "
                f"where the smallest limit holds: {_some(names)}."
            )
        if names := crowded[config.name]:
            problems[BELOW_RUNNING] = (
                f"Nodes that run more peer pods than they have slots: {_some(names)}. None is "
                "evicted; no more are scheduled there until enough of them are gone."
            )
        if ceiling and (names := bound[config.name]):
            problems[CLOUD_BOUND] = (
                f"Nodes held to {ceiling.slots} instead of the limit {config.limit}, since by "
                f"{ceiling.bound} the cloud can hold {ceiling.total} peer pods in all: "
                f"{_some(names)}."
            )
    return found


def conditions(
    report: Report, observed: Observed, resource: str, now: str
) -> tuple[Mapping[str, Any], ...]:
    """status.conditions as they should be, those of other writers included.

    `now` (RFC 3339) is when those changed whose status is another than that observed.
    """
    if report.complete:
        ready = ("True", AS_EXPECTED, f"All {report.selected} selected nodes advertise {resource}.")
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


def event(
    config: PeerPodConfig, namespace: str, problem: str, sentence: str, reporter: str, now: str
) -> dict[str, Any]:
    """The Event that tells of a problem.

    It has the same name whoever reports it how often: once for each version of the spec.
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
