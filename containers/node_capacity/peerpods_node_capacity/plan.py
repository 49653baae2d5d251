# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure functions: what each node should advertise, and the patch for its status."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from .pools import OPERATORS_CONFIG, Pool, whole_number

# What limits a node's slots, besides the bounds of the cloud.
LIMIT, ADAPTOR = "limit", "adaptor"

# The forms in which the API server returns a whole number: "1000" is returned as "1k". Its largest has 19 digits.
_WHOLE_QUANTITY = re.compile("([0-9]{1,19})(?:e([0-9]{1,2})|(k|[MGTPE]|[KMGTPE]i)?)")
_MULTIPLIERS: dict[str | None, int] = {
    None: 1,
    "k": 10**3,
    **{suffix: 10 ** (3 * power) for power, suffix in enumerate("MGTPE", start=2)},
    **{suffix + "i": 2 ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True, slots=True)
class Node:
    """The relevant fields of a Node. `capacity` and `allocatable` are the resource's quantities in its status, as the
    API server returns them; None: absent. A node `is_available` if it is Ready and not cordoned."""

    name: str
    labels: Mapping[str, str]
    capacity: str | None = None
    allocatable: str | None = None
    is_available: bool = True


class Target(NamedTuple):
    """The `slots` that a node should advertise (None: leave it unchanged), the `bound` that limits them (LIMIT, ADAPTOR
    or a bound of the cloud), and the `limit` that applies while its cloud-api-adaptor is ready."""

    slots: int | None
    bound: str = LIMIT
    limit: int | None = None


UNCHANGED = Target(None)


def applicable_pools(node: Node, pools: Iterable[Pool]) -> list[Pool]:
    """Return the pools that apply to `node`. Vanished pools and the fallback pool apply only if no other pool does."""
    selected = [pool for pool in pools if pool.selects(node)]
    selected = [pool for pool in selected if not pool.has_vanished] or selected
    return [pool for pool in selected if not pool.is_fallback] or selected


def limit_of(node: Node, pools: Iterable[Pool]) -> int | None:
    """Return the smallest limit of `pools`, those that apply to `node`; None: not known.

    A pool without a known limit counts with the current capacity of the node.
    """
    limits = []
    for pool in pools:
        limit = whole_quantity(node.capacity) if pool.limit is None else pool.limit
        if limit is None:
            return None
        limits.append(limit)
    return min(limits, default=None)


def target(node: Node, pools: Collection[Pool], ceiling: Ceiling | None, *, is_ready: bool, used: int) -> Target:
    """Return what `node` should advertise, by the `pools` that apply to it.

    While its cloud-api-adaptor is not ready, no peer pod can start there: only the `used` slots are advertised, so
    that the running peer pods stay counted. Vanished pools do not lower a node otherwise, and do not add the resource
    to a node.
    """
    limit, current = limit_of(node, pools), whole_quantity(node.capacity)
    if limit is None or all(pool.limit is None for pool in pools):
        return UNCHANGED
    has_vanished = any(pool.has_vanished for pool in pools)
    if has_vanished and current is None:
        return UNCHANGED
    bound = LIMIT
    if ceiling and limit >= ceiling.slots:
        limit, bound = ceiling.slots, ceiling.bound
    if is_ready:
        slots = max(limit, current) if has_vanished and current is not None else limit
        return Target(slots, bound, limit)
    if any(pool.limit is None for pool in pools):
        # The current capacity is all that is known of the limit: overwritten, it could not be restored.
        return UNCHANGED
    return Target(min(limit, used), ADAPTOR, limit)


def is_deselected(node: Node, last: Collection[str], pools: Mapping[str, Pool], operators_pool: str) -> bool:
    """Return whether no pool selects `node` because its labels have changed or its pool was deleted, and not because
    sources of limits are missing, as in an upgrade of the operator.

    The sources are complete if the operator's own pool exists, unless it has replaced that of the first generation.
    Without it, the labels have changed if all pools still exist that selected the node last (`last`). A pool without
    a valid node selector may select any node.
    """
    if any(pool.node_selector is None or pool.selects(node) for pool in pools.values()):
        return False
    removed = [name for name in last if name not in pools]
    if operators_pool in pools:
        return OPERATORS_CONFIG not in removed
    return bool(last) and not removed


def is_only_writer(managed_fields: Iterable[Mapping[str, Any]], resource: str, manager: str) -> bool:
    """Return whether `manager` is the only writer of `resource` in a node's status.

    The writers of capacity count, because kubelets derive allocatable from it. A program that has written the same
    number later is a writer as well.
    """
    owners: dict[str, set[str]] = {"f:capacity": set(), "f:allocatable": set()}
    for entry in managed_fields:
        status = (entry.get("fieldsV1") or {}).get("f:status") or {}
        for part, names in owners.items():
            if f"f:{resource}" in (status.get(part) or {}):
                names.add(entry.get("manager", ""))
    return (owners["f:capacity"] or owners["f:allocatable"]) == {manager}


@dataclass(frozen=True)
class CloudCapacity:
    """How many peer pods the cloud has room for in total: the last valid value of each bound, by its name.

    `invalid` has the values that are not valid, as they are written.
    """

    bounds: Mapping[str, int]
    invalid: Mapping[str, str]


def cloud_capacity(written: Mapping[str, str], previous: CloudCapacity | None = None) -> CloudCapacity:
    """Parse the ConfigMap's data; for an invalid value, that of `previous` stays in force."""
    numbers = {name: whole_number(text) for name, text in written.items()}
    invalid = {name: written[name] for name, number in numbers.items() if number is None}
    valid = {name: number for name, number in numbers.items() if number is not None}
    before = previous.bounds if previous else {}
    return CloudCapacity({**{name: before[name] for name in invalid if name in before}, **valid}, invalid)


@dataclass(frozen=True)
class Ceiling:
    """The most `slots` that a node may advertise, because the cloud has room for `total` peer pods by its `bound`."""

    bound: str
    total: int
    slots: int


def ceiling(limits: Iterable[int], bounds: Mapping[str, int]) -> Ceiling | None:
    """Return the ceiling for the smallest of the cloud's bounds; None if the sum of `limits`, those of all nodes, does
    not exceed it.

    It is the highest ceiling with which the sum fits: slots that nodes with a low limit leave go to the others.
    """
    if not bounds:
        return None
    total, bound = min((total, bound) for bound, total in bounds.items())
    left = total
    ascending = sorted(limits)
    for index, limit in enumerate(ascending):
        share = left // (len(ascending) - index)
        if limit > share:
            return Ceiling(bound, total, share)
        left -= limit
    return None


def status_patch(node: Node, slots: int | None, resource: str) -> dict[str, Any] | None:
    """Return the merge patch that makes `node` advertise `slots` of `resource` (None: removes the resource), or
    None if nothing differs.

    The patch has capacity and allocatable: a kubelet derives allocatable only at its next heartbeat, and the
    scheduler should not wait for that.
    """
    quantities = (node.capacity, node.allocatable)
    if slots is None:
        is_current = quantities == (None, None)
    else:
        is_current = all(whole_quantity(quantity) == slots for quantity in quantities)
    if is_current:
        return None
    value = None if slots is None else str(slots)
    return {"status": {"capacity": {resource: value}, "allocatable": {resource: value}}}


@lru_cache(maxsize=1024)  # Thousands of nodes have few different quantities.
def whole_quantity(text: str | None) -> int | None:
    """Return the value of a Kubernetes quantity if it is a whole number, else None."""
    match = _WHOLE_QUANTITY.fullmatch(text or "")
    if match is None:
        return None
    digits, exponent, suffix = match.groups()
    multiplier: int = 10 ** int(exponent) if exponent else _MULTIPLIERS[suffix]
    return int(digits) * multiplier
