# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure functions: the report on each pool, as problems, conditions and Events."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import ADAPTOR, Ceiling, Node, Target, applicable_pools, whole_quantity
from .pools import DEFAULT, LIMIT_KEY, LIMITS, PEER_PODS_CM, Observed, Pool

INVALID_LIMIT = "InvalidLimit"
OVERLAPPING = "OverlappingNodeSelectors"
BELOW_RUNNING = "LimitBelowRunning"
CLOUD_BOUND = "CloudBound"
PROBLEMS = (INVALID_LIMIT, OVERLAPPING, BELOW_RUNNING, CLOUD_BOUND)

# The reason of a condition in its normal state, by OpenShift's convention.
AS_EXPECTED = "AsExpected"


@dataclass
class Report:
    """The state of one pool: the number of selected nodes, the nodes that do not advertise their target (`missing`),
    the available nodes whose cloud-api-adaptor is not ready (`waiting`), and a message for each problem, by its name
    in PROBLEMS. A problem is reported once for each `version` of what was written."""

    version: tuple[int, str | None] = (0, None)
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
    used: Mapping[str | None, int],
    ceiling: Ceiling | None,
) -> dict[str, Report]:
    """Return the report on each of `pools`, by name.

    `targets` has the target of each node, `used` the slots in use on it, if they are counted.
    """
    by_pool = {pool.name: Report((pool.observed.generation, pool.invalid)) for pool in pools}
    overlaps: dict[str, set[str]] = {pool.name: set() for pool in pools}
    shared: dict[str, list[str]] = {pool.name: [] for pool in pools}
    overcommitted: dict[str, list[str]] = {pool.name: [] for pool in pools}
    bound: dict[str, list[str]] = {pool.name: [] for pool in pools}
    for node in nodes:
        applicable = applicable_pools(node, pools)
        target = targets[node.name]
        advertises = target.slots is not None and target.slots == whole_quantity(node.allocatable)
        for pool in applicable:
            name = pool.name
            by_pool[name].selected += 1
            if not advertises:
                by_pool[name].missing.append(node.name)
            if target.bound == ADAPTOR and node.is_available:
                by_pool[name].waiting.append(node.name)
            if len(applicable) > 1:
                shared[name].append(node.name)
                overlaps[name].update(other_pool.name for other_pool in applicable if other_pool != pool)
            if target.limit is not None and used.get(node.name, 0) > target.limit:
                overcommitted[name].append(node.name)
            if ceiling and target.limit == ceiling.slots and (pool.limit or 0) > ceiling.slots:
                bound[name].append(node.name)
    for pool in pools:
        problems = by_pool[pool.name].problems
        if pool.invalid is not None:
            problems[INVALID_LIMIT] = _invalid_message(pool)
        if names := shared[pool.name]:
            problems[OVERLAPPING] = (
                f"Nodes are also selected by {', '.join(sorted(overlaps[pool.name]))}, and the smallest limit applies "
                f"to them: {_format_names(names)}."
            )
        if names := overcommitted[pool.name]:
            problems[BELOW_RUNNING] = (
                f"Nodes run more peer pods than they have slots: {_format_names(names)}. No peer pod is evicted, and "
                "no more are scheduled there until enough of them have ended."
            )
        if ceiling and (names := bound[pool.name]):
            problems[CLOUD_BOUND] = (
                f"Nodes advertise {ceiling.slots} slots instead of the limit of {pool.limit}, because the cloud has "
                f"room for {ceiling.total} peer pods in total (limited by {ceiling.bound}): {_format_names(names)}."
            )
    return by_pool


def _invalid_message(pool: Pool) -> str:
    written = _quote(pool.invalid or "")
    if pool.source == LIMITS and pool.node_selector is None:
        in_force = "The entry has no effect until it is corrected."
    elif pool.limit is None:
        in_force = "Nodes keep what they advertise until it is corrected."
    else:
        in_force = f"The last valid limit, {pool.limit}, stays in force until it is corrected."
    if pool.source == PEER_PODS_CM:
        return f"{LIMIT_KEY} must be a whole number; got {written}. {in_force}"
    if pool.source == LIMITS:
        selector = "" if pool.name == DEFAULT else " and a nodeSelector of labels"
        return f"Entry {pool.name} must be a JSON object with a limit of 0 or more{selector}; got {written}. {in_force}"
    return f"spec.limit must be a whole number of 0 or more; got {written}. {in_force}"


def conditions(report: Report, observed: Observed, resource: str, now: str) -> tuple[Any, ...]:
    """Return status.conditions for `report`, including the observed conditions of other writers.

    `now` (RFC 3339) becomes the lastTransitionTime of the conditions whose status has changed.
    """
    if report.complete:
        ready = ("True", AS_EXPECTED, f"All {report.selected} selected nodes advertise {resource}.")
    elif report.selected and not report.missing:
        message = (
            f"{len(report.waiting)} of {report.selected} selected nodes advertise no free slots, because no "
            f"cloud-api-adaptor pod on them is Ready: {_format_names(report.waiting)}."
        )
        ready = ("False", "AdaptorNotReady", message)
    elif report.selected:
        reason = INVALID_LIMIT if INVALID_LIMIT in report.problems else "NodesNotAdvertising"
        message = (
            f"{len(report.missing)} of {report.selected} selected nodes do not advertise the expected "
            f"{resource}: {_format_names(report.missing)}."
        )
        ready = ("False", reason, message)
    else:
        ready = ("False", "NoNodesSelected", "spec.nodeSelector does not select any node.")
    current = {"Ready": ready}
    for problem in PROBLEMS:
        message = report.problems.get(problem, "")
        current[problem] = ("True", problem, message) if message else ("False", AS_EXPECTED, "")
    before = {kind: condition for condition in observed.conditions if (kind := _type_of(condition)) in current}
    return (
        *(condition for condition in observed.conditions if _type_of(condition) not in current),
        *(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": observed.generation,
                "lastTransitionTime": _last_transition(before.get(kind, {}), status) or now,
            }
            for kind, (status, reason, message) in current.items()
        ),
    )


def _type_of(condition: Any) -> str | None:
    """Return the type of a condition, which another program may have written in any form."""
    kind = condition.get("type") if isinstance(condition, dict) else None
    return kind if isinstance(kind, str) else None


def _last_transition(before: Mapping[str, Any], status: str) -> str | None:
    """Return the time of the last change to `status`, if the condition has this status already and names a time."""
    at = before.get("lastTransitionTime")
    return at if before.get("status") == status and isinstance(at, str) else None


def event(config: Pool, namespace: str, problem: str, message: str, reporter: str, now: str) -> dict[str, Any]:
    """Return the Event that reports a problem of the PeerPodConfig `config`.

    Its name depends on the problem and on the version of the spec, so that each is reported once.
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
        "message": message[:1024],
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": reporter},
        "reportingComponent": reporter,
    }


def _format_names(names: list[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
