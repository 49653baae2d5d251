# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The agent's metrics. prometheus_client adds those of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

REQUESTS = Counter(
    "peerpods_node_capacity_requests",
    "Requests to the API server by verb (list, watch, get, patch, create) and HTTP status; none: no response.",
    ["verb", "code"],
)
LAG_SECONDS = Histogram(
    "peerpods_node_capacity_lag_seconds",
    "Time from queueing a node to the completion of its patch.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
LEADER = Gauge("peerpods_node_capacity_leader", "Whether this replica holds the Lease: 1 or 0.")


class NodeSlots(NamedTuple):
    """The slots of one node.

    `desired` is None if no limit of the node is known. `bound` is what limits it: "limit", "adaptor", or the name
    of a bound of the cloud. `adaptor_ready` is None for a node without a limit and for one that is not available.
    """

    node: str
    desired: int | None
    advertised: int
    used: int
    bound: str
    adaptor_ready: bool | None = None


class PoolLimit(NamedTuple):
    pool: str
    source: str
    limit: int


@dataclass(frozen=True)
class Slots:
    """The slots of all nodes at one moment.

    `used` and `pending` (slots of peer pods without a node) are valid only if peer pods are `counted`. `problems`
    are pairs of a pool's name and a reason. `generation` is the operator's, 0 if it is not known.
    """

    nodes: Sequence[NodeSlots]
    counted: bool
    pending: int
    problems: Sequence[tuple[str, str]]
    bounds: Mapping[str, int]
    generation: int
    limits: Sequence[PoolLimit]


class SlotsCollector(Collector):
    """Calls `slots` at every scrape; None results in no samples."""

    def __init__(self, slots: Callable[[], Slots | None]):
        self._slots = slots

    def collect(self) -> Iterator[GaugeMetricFamily]:
        slots = self._slots()
        if slots is None:
            return
        desired = GaugeMetricFamily(
            "peerpods_node_slots_desired",
            "Slots that the node should advertise.",
            labels=["node"],
        )
        advertised = GaugeMetricFamily(
            "peerpods_node_slots_advertised", "Slots that the node advertises.", labels=["node"]
        )
        used = GaugeMetricFamily("peerpods_node_slots_used", "Peer pods on the node.", labels=["node"])
        bound = GaugeMetricFamily(
            "peerpods_node_slots_bound_info",
            "What limits the node's slots: limit, adaptor, or a bound of the cloud.",
            labels=["node", "bound"],
        )
        adaptor = GaugeMetricFamily(
            "peerpods_node_adaptor_ready",
            "Whether a cloud-api-adaptor pod on the node is Ready: 1 or 0. Only available nodes with a limit.",
            labels=["node"],
        )
        for node in slots.nodes:
            if node.desired is not None:
                desired.add_metric([node.node], node.desired)
                bound.add_metric([node.node, node.bound], 1)
            advertised.add_metric([node.node], node.advertised)
            used.add_metric([node.node], node.used)
            if node.adaptor_ready is not None:
                adaptor.add_metric([node.node], node.adaptor_ready)
        yield from (desired, advertised, bound, adaptor)
        if slots.counted:
            yield used
            yield GaugeMetricFamily(
                "peerpods_pods_pending", "Peer pods that are not scheduled to a node.", slots.pending
            )
        problem = GaugeMetricFamily("peerpods_pool_problem", "Current problems of pools: 1.", labels=["pool", "reason"])
        for labels in slots.problems:
            problem.add_metric(labels, 1)
        yield problem
        bounds = GaugeMetricFamily(
            "peerpods_cloud_slots",
            "Peer pods that the cloud has room for in total, by bound.",
            labels=["bound"],
        )
        for name, total in slots.bounds.items():
            bounds.add_metric([name], total)
        yield bounds
        limits = GaugeMetricFamily(
            "peerpods_pool_limit",
            "The limit in force and its source.",
            labels=["pool", "source"],
        )
        for pool, source, limit in slots.limits:
            limits.add_metric([pool, source], limit)
        yield limits
        yield GaugeMetricFamily("peerpods_limits_found", "Pools with a known limit.", len(slots.limits))
        yield GaugeMetricFamily(
            "peerpods_operator_generation",
            "The operator's generation: 1 (up to 1.8), 2 (1.9 and newer), 0 (not known).",
            slots.generation,
        )
