# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Prometheus is told, besides what its library says of the process by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

REQUESTS = Counter(
    "peerpods_node_capacity_requests",
    "Requests to the API server by verb (list, watch, patch, create) and HTTP status; none: no answer.",
    ["verb", "code"],
)
LAG_SECONDS = Histogram(
    "peerpods_node_capacity_lag_seconds",
    "From when the agent learnt that a node differs until the API server took the patch.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
LEADER = Gauge("peerpods_node_capacity_leader", "Whether this replica holds the Lease: 1 or 0.")


class NodeSlots(NamedTuple):
    """`bound` is what holds the node to `desired`: "limit", or the name of a bound of the cloud."""

    node: str
    desired: int
    advertised: int
    used: int
    bound: str


@dataclass(frozen=True)
class Slots:
    """The slots of all nodes at one moment.

    `used` and `pending` (of peer pods without a node) mean something only where peer pods are
    `counted`. `problems` are pairs of a PeerPodConfig's name and a reason.
    """

    nodes: Sequence[NodeSlots]
    counted: bool
    pending: int
    problems: Sequence[tuple[str, str]]
    bounds: Mapping[str, int]


class SlotsCollector(Collector):
    """Asks for the slots whenever Prometheus does; None says nothing."""

    def __init__(self, slots: Callable[[], Slots | None]):
        self._slots = slots

    def collect(self) -> Iterator[GaugeMetricFamily]:
        slots = self._slots()
        if slots is None:
            return
        desired = GaugeMetricFamily(
            "peerpods_node_slots_desired", "Peer pods that the node should have room for.",
            labels=["node"],
        )  # fmt: skip
        advertised = GaugeMetricFamily(
            "peerpods_node_slots_advertised", "Peer pods that the node says it has room for.",
            labels=["node"],
        )  # fmt: skip
        used = GaugeMetricFamily(
            "peerpods_node_slots_used", "Peer pods on the node.", labels=["node"]
        )
        bound = GaugeMetricFamily(
            "peerpods_node_slots_bound_info", "What holds the node's slots: its limit, or the cloud.",
            labels=["node", "bound"],
        )  # fmt: skip
        for node in slots.nodes:
            desired.add_metric([node.node], node.desired)
            advertised.add_metric([node.node], node.advertised)
            used.add_metric([node.node], node.used)
            bound.add_metric([node.node, node.bound], 1)
        yield from (desired, advertised, bound)
        if slots.counted:
            yield used
            yield GaugeMetricFamily(
                "peerpods_pods_pending", "Peer pods that no node has taken yet.", slots.pending
            )
        problem = GaugeMetricFamily(
            "peerpods_peerpodconfig_problem", "Problems of PeerPodConfigs that stand.",
            labels=["peerpodconfig", "reason"],
        )  # fmt: skip
        for labels in slots.problems:
            problem.add_metric(labels, 1)
        yield problem
        bounds = GaugeMetricFamily(
            "peerpods_cloud_slots", "Peer pods that the cloud can hold in all, by what bounds them.",
            labels=["bound"],
        )  # fmt: skip
        for name, total in slots.bounds.items():
            bounds.add_metric([name], total)
        yield bounds
