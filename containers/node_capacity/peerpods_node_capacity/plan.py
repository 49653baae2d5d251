# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each node should advertise, and the patch that gets it there: plain data in, plain data out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What spec.limit means where it is not written: the default of OpenShift sandboxed containers.
DEFAULT_LIMIT = "10"

# What spec.nodeSelector means where it is not written, as upstream's peerpodconfig-ctrl has it.
# An empty selector that is written selects every node, as anywhere in Kubernetes.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# Kubernetes counts in int64: a larger quantity is kept, but no scheduler can count with it.
LARGEST_LIMIT = 2**63 - 1

_WHOLE_NUMBER = re.compile("[0-9]{1,19}")

# The forms in which Kubernetes writes a whole number: what was sent as "1000" is read back as "1k".
_WHOLE_QUANTITY = re.compile("([0-9]+)(?:e([0-9]{1,2})|(k|[MGTPE]|[KMGTPE]i)?)")
_MULTIPLIERS = {
    None: 1,
    "k": 10**3,
    **{suffix: 10 ** (3 * power) for power, suffix in enumerate("MGTPE", start=2)},
    **{suffix + "i": 2 ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True)
class Observed:
    """What the API server has of a PeerPodConfig besides its spec; `conditions` as it has them."""

    uid: str = ""
    generation: int = 0
    version: str = ""
    setup_completed: bool = False
    conditions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PeerPodConfig:
    """What counts of a PeerPodConfig.

    `limit` is the last good value of spec.limit, None where none was ever seen.
    `bad_limit` is spec.limit as it is now, where that is not a limit. `observed` is what was
    reported of it last: two PeerPodConfigs that differ in that alone ask for the same.
    """

    name: str
    node_selector: Mapping[str, str]
    limit: int | None
    bad_limit: str | None = None
    observed: Observed = field(default=Observed(), compare=False)

    def selects(self, node: Node) -> bool:
        return self.node_selector.items() <= node.labels.items()


@dataclass(frozen=True, slots=True)
class Node:
    """What counts of a Node: `capacity` and `allocatable` are the one resource's quantities in
    status, as the API server writes them; None where it is not there."""

    name: str
    labels: Mapping[str, str]
    capacity: str | None = None
    allocatable: str | None = None


def peer_pod_config(
    name: str,
    *,
    node_selector: Mapping[str, str] | None,
    limit: str | None,
    previous: PeerPodConfig | None,
    observed: Observed = Observed(),
) -> PeerPodConfig:
    """The PeerPodConfig `name` with its defaults filled in.

    A limit that is not one leaves the limit of `previous`, the same PeerPodConfig
    as it was known before, in force.
    """
    selector = DEFAULT_NODE_SELECTOR if node_selector is None else node_selector
    text = DEFAULT_LIMIT if limit is None else limit
    number = _whole_number(text)
    if number is not None:
        return PeerPodConfig(name, selector, number, observed=observed)
    last_good = previous.limit if previous else None
    return PeerPodConfig(name, selector, last_good, bad_limit=text, observed=observed)


def limit_of(node: Node, configs: Iterable[PeerPodConfig]) -> int | None:
    """How many peer-pod VMs `configs` allow on `node`; None: it should not have the resource.

    Where several PeerPodConfigs select the node, the smallest limit wins: never more
    than any of them allows. One whose limit was never good allows what the node has now.
    """
    now = whole_quantity(node.capacity)
    limits = [
        now if config.limit is None else config.limit for config in configs if config.selects(node)
    ]
    if None in limits:
        return None
    return min(limits, default=None)


@dataclass(frozen=True)
class CloudCapacity:
    """How many peer pods the cloud can hold in all: the last good value of each bound, by its name.

    `bad` are the values that are none, as they are written.
    """

    bounds: Mapping[str, int]
    bad: Mapping[str, str]


def cloud_capacity(
    written: Mapping[str, str], previous: CloudCapacity | None = None
) -> CloudCapacity:
    """What the ConfigMap's data says; a value that is no number leaves that of `previous` in force."""
    bad = {name: text for name, text in written.items() if _whole_number(text) is None}
    before = previous.bounds if previous else {}
    good = {name: int(text) for name, text in written.items() if name not in bad}
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
    if slots is None:
        settled = found == (None, None)
    else:
        settled = all(whole_quantity(quantity) == slots for quantity in found)
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


def _whole_number(text: str) -> int | None:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) and int(text) <= LARGEST_LIMIT else None
