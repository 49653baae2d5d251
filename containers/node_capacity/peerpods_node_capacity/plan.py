# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each node should advertise, and the patch that gets it there: plain data in, plain data out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .pools import OPERATORS_CONFIG, Pool, whole_number

# What limits a node's slots, besides the bounds of the cloud.
LIMIT, ADAPTOR = "limit", "adaptor"

# The forms in which Kubernetes writes a whole number: what was sent as "1000" is read back as "1k".
_WHOLE_QUANTITY = re.compile("([0-9]+)(?:e([0-9]{1,2})|(k|[MGTPE]|[KMGTPE]i)?)")
_MULTIPLIERS = {
    None: 1,
    "k": 10**3,
    **{suffix: 10 ** (3 * power) for power, suffix in enumerate("MGTPE", start=2)},
    **{suffix + "i": 2 ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True, slots=True)
class Node:
    """What counts of a Node: `capacity` and `allocatable` are the one resource's quantities in
    status, as the API server writes them; None where it is not there. It `is_available` where it
    is Ready and not cordoned."""

    name: str
    labels: Mapping[str, str]
    capacity: str | None = None
    allocatable: str | None = None
    is_available: bool = True


class Target(NamedTuple):
    """The `slots` that a node should advertise, None: write nothing; what limits them (`limit`,
    `adaptor` or a bound of the cloud), and the slots that it has while its adaptor is ready."""

    slots: int | None
    bound: str = LIMIT
    limit: int | None = None


LEAVE = Target(None)


def selecting(node: Node, pools: Iterable[Pool]) -> list[Pool]:
    """The pools that decide about `node`: those that have vanished, and the fallback, only where no
    other one does."""
    selected = [pool for pool in pools if pool.selects(node)]
    selected = [pool for pool in selected if not pool.has_vanished] or selected
    return [pool for pool in selected if not pool.is_fallback] or selected


def limit_of(node: Node, pools: Iterable[Pool]) -> int | None:
    """How many peer-pod VMs `pools`, those that decide about `node`, allow there; None: not known.

    Of several, the smallest limit wins: never more than any of them allows. One whose limit is
    not known allows what the node has now.
    """
    now = whole_quantity(node.capacity)
    limits = [now if pool.limit is None else pool.limit for pool in pools]
    if None in limits:
        return None
    return min(limits, default=None)


def target(node: Node, pools: Collection[Pool], ceiling: Ceiling | None, *, is_ready: bool, used: int) -> Target:
    """What `node` should advertise by `pools`, those that decide about it.

    While its cloud-api-adaptor is not ready no peer pod can start there: it offers no slots but
    those that are `used`, so that the peer pods there stay counted. Pools that have vanished take
    nothing else away from a node, and give nothing to one that advertises nothing.
    """
    limit, now = limit_of(node, pools), whole_quantity(node.capacity)
    if limit is None or all(pool.limit is None for pool in pools):
        return LEAVE
    has_vanished = any(pool.has_vanished for pool in pools)
    if has_vanished and now is None:
        return LEAVE
    bound = LIMIT
    if ceiling and limit >= ceiling.slots:
        limit, bound = ceiling.slots, ceiling.bound
    if is_ready:
        return Target(max(limit, now) if has_vanished else limit, bound, limit)
    if any(pool.limit is None for pool in pools):
        # What the node has now is all that is known of its limit: keep it for later.
        return LEAVE
    return Target(min(limit, used), ADAPTOR, limit)


def has_left(node: Node, last: Collection[str], pools: Mapping[str, Pool], operators_pool: str) -> bool:
    """Whether no pool has `node` any more because its labels changed or its pool was deleted, and
    not because the sources of limits have vanished, as in an upgrade of the operator.

    The operator's own pool shows that the sources are complete, unless it has replaced that of the
    first generation. Without it, `last`, the pools that selected the node last, show that its labels
    changed if all of them still exist. A pool whose node selector cannot be read may have any node.
    """
    if any(pool.node_selector is None or pool.selects(node) for pool in pools.values()):
        return False
    gone = [name for name in last if name not in pools]
    if operators_pool in pools:
        return OPERATORS_CONFIG not in gone
    return bool(last) and not gone


def is_ours(managed_fields: Iterable[Mapping[str, Any]], resource: str, manager: str) -> bool:
    """Whether `manager` is the only writer of `resource` in a node's status.

    Capacity decides: a kubelet derives allocatable from it. Another program that has written the
    same number since owns it as well.
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
    """How many peer pods the cloud can hold in all: the last good value of each bound, by its name.

    `bad` are the values that are none, as they are written.
    """

    bounds: Mapping[str, int]
    bad: Mapping[str, str]


def cloud_capacity(written: Mapping[str, str], previous: CloudCapacity | None = None) -> CloudCapacity:
    """What the ConfigMap's data says; an invalid value leaves that of `previous` in force."""
    numbers = {name: whole_number(text) for name, text in written.items()}
    bad = {name: written[name] for name, number in numbers.items() if number is None}
    before = previous.bounds if previous else {}
    good = {name: number for name, number in numbers.items() if number is not None}
    return CloudCapacity({**{name: before[name] for name in bad if name in before}, **good}, bad)


@dataclass(frozen=True)
class Ceiling:
    """What no node may exceed, because all of them together have no more than `total` slots: the
    `bound` of the cloud says so."""

    bound: str
    total: int
    slots: int


def ceiling(limits: Iterable[int], bounds: Mapping[str, int]) -> Ceiling | None:
    """The ceiling that the smallest of the cloud's bounds sets; None where `limits`, what each node
    may have anyway, keep within it by themselves.

    It is as high as can be: what a node with a low limit leaves goes to the others.
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


def status_patch(node: Node, slots: int | None, resource: str) -> dict | None:
    """The JSON merge patch for `node`'s status that makes it advertise `slots` of `resource`, or
    none of it where `slots` is None; None where it does already.

    Both maps are patched: a kubelet derives allocatable from capacity at its next
    heartbeat, and a scheduler should not have to wait for it.
    """
    found = (node.capacity, node.allocatable)
    settled = found == (None, None) if slots is None else all(whole_quantity(quantity) == slots for quantity in found)
    if settled:
        return None
    value = None if slots is None else str(slots)
    return {"status": {"capacity": {resource: value}, "allocatable": {resource: value}}}


def whole_quantity(text: str | None) -> int | None:
    """The whole number that a Kubernetes quantity stands for; None where it is not one."""
    match = _WHOLE_QUANTITY.fullmatch(text or "")
    if match is None:
        return None
    digits, exponent, suffix = match.groups()
    return int(digits) * (10 ** int(exponent) if exponent else _MULTIPLIERS[suffix])
