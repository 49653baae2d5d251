# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each node should advertise, and the patch that gets it there: plain data in, plain data out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# What spec.limit means where it is not written: the default of OpenShift sandboxed containers.
DEFAULT_LIMIT = "10"

# What spec.nodeSelector means where it is not written, as upstream's peerpodconfig-ctrl has it.
# An empty selector that is written selects every node, as anywhere in Kubernetes.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# Kubernetes counts in int64: a larger quantity is kept, but no scheduler can count with it.
LARGEST_LIMIT = 2**63 - 1

_LIMIT = re.compile("[0-9]{1,19}")

# The forms in which Kubernetes writes a whole number: what was sent as "1000" is read back as "1k".
_WHOLE_QUANTITY = re.compile("([0-9]+)(?:e([0-9]{1,2})|(k|[MGTPE]|[KMGTPE]i)?)")
_MULTIPLIERS = {
    None: 1,
    "k": 10**3,
    **{suffix: 10 ** (3 * power) for power, suffix in enumerate("MGTPE", start=2)},
    **{suffix + "i": 2 ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True)
class PeerPodConfig:
    """What counts of a PeerPodConfig.

    `limit` is the last good value of spec.limit, None where none was ever seen.
    `bad_limit` is spec.limit as it is now, where that is not a limit.
    """

    name: str
    node_selector: Mapping[str, str]
    limit: int | None
    bad_limit: str | None = None


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
) -> PeerPodConfig:
    """The PeerPodConfig `name` with its defaults filled in.

    A limit that is not one leaves the limit of `previous`, the same PeerPodConfig
    as it was known before, in force.
    """
    selector = DEFAULT_NODE_SELECTOR if node_selector is None else node_selector
    text = DEFAULT_LIMIT if limit is None else limit
    if _LIMIT.fullmatch(text) and int(text) <= LARGEST_LIMIT:
        return PeerPodConfig(name, selector, int(text))
    return PeerPodConfig(name, selector, previous.limit if previous else None, bad_limit=text)


def desired_slots(node: Node, configs: Iterable[PeerPodConfig]) -> int | None:
    """How many peer-pod VMs `node` should advertise; None: it should not have the resource.

    Where several PeerPodConfigs select the node, the smallest limit wins: never more
    than any of them allows. One whose limit was never good allows what the node has now.
    """
    now = whole_quantity(node.capacity)
    limits = [
        now if config.limit is None else config.limit
        for config in configs
        if _selects(config, node)
    ]
    if None in limits:
        return None
    return min(limits, default=None)


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


def _selects(config: PeerPodConfig, node: Node) -> bool:
    return config.node_selector.items() <= node.labels.items()
