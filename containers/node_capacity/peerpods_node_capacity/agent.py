# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps nodes at what the plan says: mirrors what there is and, while it leads, patches what differs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from .kube import FIELD_MANAGER, ApiError, Kube, Metadata, segment
from .lease import Lease
from .metrics import LAG_SECONDS, NodeSlots, Slots
from .mirror import Mirror, backoff
from .plan import (
    Ceiling,
    CloudCapacity,
    Node,
    Observed,
    PeerPodConfig,
    ceiling,
    cloud_capacity,
    limit_of,
    peer_pod_config,
    status_patch,
    whole_quantity,
)
from .report import Report, conditions, event, reports
from .settings import Settings

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
PODS_THAT_RUN = "status.phase!=Succeeded,status.phase!=Failed"
NAMESPACE = "/api/v1/namespaces/{namespace}"
PEER_POD_CONFIGS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{namespace}/peerpodconfigs"

# Patches of nodes under way at a time, at most.
PATCHES_IN_FLIGHT = 16

# Seconds that those have to come to their end when this replica no longer leads.
DRAIN = 0.8

# A node that has to be given the same slots again within so many seconds was reset; a kubelet does
# that once. More often, it is left alone ever longer in between: another writer wants it otherwise.
RESET_WINDOW = 60.0
RESETS_IN_PEACE = 5

# Seconds between two looks at what is to be reported, at least.
REPORT_INTERVAL = 1.0

log = logging.getLogger(__name__)


class _NodeStatus(msgspec.Struct):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}


class _RawNode(msgspec.Struct):
    metadata: Metadata
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _PeerPodConfigSpec(msgspec.Struct, rename="camel"):
    limit: str | None = None
    node_selector: dict[str, str] | None = None


class _PeerPodConfigStatus(msgspec.Struct, rename="camel"):
    setup_completed: bool = False
    conditions: tuple[dict[str, Any], ...] = ()


class _RawPeerPodConfig(msgspec.Struct):
    metadata: Metadata
    spec: _PeerPodConfigSpec = msgspec.field(default_factory=_PeerPodConfigSpec)
    status: _PeerPodConfigStatus = msgspec.field(default_factory=_PeerPodConfigStatus)


class _Resources(msgspec.Struct):
    requests: dict[str, str] = {}


class _Container(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    containers: list[_Container] = []


class _RawPod(msgspec.Struct):
    metadata: Metadata
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)


class _RawConfigMap(msgspec.Struct):
    metadata: Metadata
    data: dict[str, str] = {}


class PeerPod(NamedTuple):
    """What counts of a pod: the slots it takes, and of which node; None: it has none yet."""

    node: str | None
    slots: int


class Written(NamedTuple):
    """The slots last given to a node, when, and how many times in a row it was reset since."""

    slots: int | None
    at: float
    resets: int


class Agent:
    """Makes the nodes of the cluster behind `kube` advertise what the PeerPodConfigs say, while the
    replica `identity` leads."""

    def __init__(self, kube: Kube, settings: Settings, identity: str):
        self._kube = kube
        self._settings = settings
        self._resource = settings.resource
        self._lease = Lease(
            kube,
            namespace=settings.namespace,
            name=settings.lease_name,
            identity=identity,
            duration_seconds=settings.lease_duration_seconds,
        )
        self._configs_path = PEER_POD_CONFIGS.format(namespace=segment(self._configs_namespace))
        self._configs: Mirror[_RawPeerPodConfig, PeerPodConfig] = Mirror(
            kube, self._configs_path, _RawPeerPodConfig, _keep_config, self._config_changed
        )
        self._nodes: Mirror[_RawNode, Node] = Mirror(
            kube, NODES, _RawNode, self._keep_node, self._node_changed
        )
        self._pods: Mirror[_RawPod, PeerPod] = Mirror(
            kube, PODS, _RawPod, self._keep_pod, self._pod_changed, PODS_THAT_RUN
        )
        self._cloud: Mirror[_RawConfigMap, CloudCapacity] = Mirror(
            kube,
            NAMESPACE.format(namespace=segment(settings.namespace)) + "/configmaps",
            _RawConfigMap,
            lambda raw, previous: cloud_capacity(raw.data, previous),
            self._cloud_changed,
            f"metadata.name={settings.cloud_capacity_configmap}",
        )
        self._mirrors = [self._lease.mirror, self._configs, self._nodes, self._cloud]
        if settings.count_peer_pods:
            self._mirrors.append(self._pods)

        # Slots in use by node; None has those of the pods that wait for one.
        self._used: Counter[str | None] = Counter()
        self._ceiling: Ceiling | None = None
        self._limits_changed = True

        self._leading = False
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        # When the agent learnt of it, for each node in the queue.
        self._learnt: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._written: dict[str, Written] = {}
        self._resting: set[str] = set()

        self._to_report = asyncio.Event()
        self._reports: dict[str, Report] = {}
        # Until the API server is seen to drop them: not every CRD has conditions.
        self._keeps_conditions = True

    @property
    def ready(self) -> bool:
        """Whether all collections have been read whole."""
        return all(mirror.synced.is_set() for mirror in self._mirrors)

    async def run(self) -> None:
        """Keep at it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in self._mirrors:
                tasks.create_task(mirror.run())
            # With one collection missing every node would look unselected.
            for mirror in self._mirrors:
                await mirror.synced.wait()
            log.info(
                "Ready with %d nodes and %d PeerPodConfigs.",
                len(self._nodes.items),
                len(self._configs.items),
            )
            await self._lease.lead(self._lead)

    async def _lead(self) -> None:
        self._leading = True
        self._look_at_all()
        self._to_report.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(PATCHES_IN_FLIGHT):
                    tasks.create_task(self._work())
                tasks.create_task(self._report())
        finally:
            self._leading = False
            self._queue = asyncio.Queue()
            self._learnt.clear()
            self._failures.clear()
            self._written.clear()
            self._resting.clear()
            self._reports.clear()

    # What the mirrors tell.

    def _keep_node(self, raw: _RawNode, _previous: Node | None) -> Node:
        return Node(
            raw.metadata.name,
            raw.metadata.labels,
            raw.status.capacity.get(self._resource),
            raw.status.allocatable.get(self._resource),
        )

    def _node_changed(self, name: str, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or old.labels != new.labels:
            self._limits_changed = True
        self._look_at(name)
        self._to_report.set()

    def _config_changed(self, *_: Any) -> None:
        self._every_limit_may_differ()

    def _keep_pod(self, raw: _RawPod, _previous: PeerPod | None) -> PeerPod | None:
        requests = (c.resources.requests.get(self._resource) for c in raw.spec.containers)
        slots = sum(whole_quantity(request) or 0 for request in requests)
        return PeerPod(raw.spec.node_name, slots) if slots else None

    def _pod_changed(self, _name: str, old: PeerPod | None, new: PeerPod | None) -> None:
        if old:
            self._used[old.node] -= old.slots
        if new:
            self._used[new.node] += new.slots
        self._to_report.set()

    def _cloud_changed(
        self, _name: str, _old: CloudCapacity | None, new: CloudCapacity | None
    ) -> None:
        for bound, text in new.bad.items() if new else ():
            log.warning(
                "%s in ConfigMap %s is %.40r, not a whole number from 0 on; what it was before "
                "stays in force.",
                bound,
                self._settings.cloud_capacity_configmap,
                text,
            )
        self._every_limit_may_differ()

    def _every_limit_may_differ(self) -> None:
        self._limits_changed = True
        self._look_at_all()
        self._to_report.set()

    # What nodes should have.

    @property
    def _configs_namespace(self) -> str:
        return self._settings.peerpodconfig_namespace

    @property
    def _bounds(self) -> dict[str, int]:
        return {
            bound: total
            for capacity in self._cloud.items.values()
            for bound, total in capacity.bounds.items()
        }

    def _desired(self, node: Node) -> int | None:
        limit = limit_of(node, self._configs.items.values())
        self._settle_ceiling()
        return limit if limit is None or self._ceiling is None else min(limit, self._ceiling.slots)

    def _settle_ceiling(self) -> None:
        """Have the ceiling that follows from the limits as they are."""
        if not self._limits_changed:
            return
        self._limits_changed = False
        before, configs = self._ceiling, self._configs.items.values()
        limits = (limit_of(node, configs) for node in self._nodes.items.values())
        self._ceiling = ceiling((n for n in limits if n is not None), self._bounds)
        if self._ceiling != before:
            self._look_at_all()

    # Patching nodes.

    def _look_at_all(self) -> None:
        for node in self._nodes.items:
            self._look_at(node)

    def _look_at(self, node: str) -> None:
        if self._leading and node not in self._learnt and node not in self._resting:
            self._learnt[node] = asyncio.get_running_loop().time()
            self._queue.put_nowait(node)

    def _look_later(self, node: str, seconds: float) -> None:
        """Let the node rest: not even what is learnt meanwhile makes us look at it before."""

        def look() -> None:
            self._resting.discard(node)
            self._look_at(node)

        self._resting.add(node)
        asyncio.get_running_loop().call_later(seconds, look)

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            learnt = self._learnt.pop(name)
            if node := self._nodes.items.get(name):
                await self._settle(node, learnt)
            else:
                self._failures.pop(name, None)
                self._written.pop(name, None)

    async def _settle(self, node: Node, learnt: float) -> None:
        slots = self._desired(node)
        patch = status_patch(node, slots, self._resource)
        if patch is None:
            self._failures.pop(node.name, None)
            return
        loop = asyncio.get_running_loop()
        before = self._written.get(node.name)
        resets = 0
        if before and before.slots == slots and loop.time() - before.at < RESET_WINDOW:
            resets = before.resets + 1
        try:
            await _finishing(self._kube.patch(f"{NODES}/{segment(node.name)}/status", patch))
        except ApiError as error:
            # A node that is gone will be gone from the mirror, too, when we look again.
            log.warning("Will try again: %s", error, extra={"data": {"node": node.name}})
            self._look_later(node.name, backoff(self._failures[node.name]))
            self._failures[node.name] += 1
            return
        self._failures.pop(node.name, None)
        self._written[node.name] = Written(slots, loop.time(), resets)
        LAG_SECONDS.observe(loop.time() - learnt)
        log.info(
            "Node %s: %s %s, was %s.",
            node.name,
            self._resource,
            "removed" if slots is None else slots,
            node.capacity or "absent",
            extra={"data": {"node": node.name, "slots": slots}},
        )
        if resets > RESETS_IN_PEACE:
            self._look_later(node.name, backoff(resets - RESETS_IN_PEACE))
        if resets == RESETS_IN_PEACE + 1:
            log.warning(
                "Another writer keeps changing %s of node %s. See who in its managedFields: "
                "oc get node %s --show-managed-fields -o yaml",
                self._resource,
                node.name,
                node.name,
                extra={"data": {"node": node.name}},
            )

    # Reporting.

    def slots(self) -> Slots | None:
        """What Prometheus is told of the nodes: by the one who leads."""
        if not self._leading:
            return None
        nodes = []
        for node in self._nodes.items.values():
            desired, advertised = self._desired(node), whole_quantity(node.allocatable)
            used = self._used[node.name]
            if desired is None and advertised is None and not used:
                continue
            held = self._ceiling and desired == self._ceiling.slots
            bound = self._ceiling.bound if held else "limit"
            nodes.append(NodeSlots(node.name, desired or 0, advertised or 0, used, bound))
        return Slots(
            nodes=nodes,
            counted=self._settings.count_peer_pods,
            pending=self._used[None],
            problems=[
                (name, problem)
                for name, report in self._reports.items()
                for problem in report.problems
            ],
            bounds=self._bounds,
        )

    async def _report(self) -> None:
        failures = 0
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            nodes = self._nodes.items
            before, self._reports = (
                self._reports,
                reports(
                    list(self._configs.items.values()),
                    nodes.values(),
                    {name: self._desired(node) for name, node in nodes.items()},
                    self._used,
                    self._ceiling,
                ),
            )
            try:
                for name, report in self._reports.items():
                    if config := self._configs.items.get(name):
                        await self._tell(config, report, before.get(name, Report()))
            except ApiError as error:
                log.warning("Will try again: %s", error)
                self._reports = before
                self._to_report.set()
                failures += 1
            else:
                failures = 0
            await asyncio.sleep(REPORT_INTERVAL + (backoff(failures) if failures else 0))

    async def _tell(self, config: PeerPodConfig, report: Report, before: Report) -> None:
        """Write status and Events of a PeerPodConfig, as far as they are news."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        observed, status = config.observed, {}
        if report.complete and not observed.setup_completed:
            status["setupCompleted"] = True
        wanted = conditions(report, observed, self._resource, now)
        if self._keeps_conditions and wanted != observed.conditions:
            status["conditions"] = wanted
        if status:
            written = await self._kube.patch(
                f"{self._configs_path}/{segment(config.name)}/status",
                {"metadata": {"resourceVersion": observed.version}, "status": status},
                _RawPeerPodConfig,
            )
            self._keeps_conditions = bool(written.status.conditions)
            self._configs.put(written)
        for problem, sentence in report.problems.items():
            if problem in before.problems:
                continue
            log.warning(
                "PeerPodConfig %s: %s",
                config.name,
                sentence,
                extra={"data": {"peerpodconfig": config.name, "reason": problem}},
            )
            namespace = self._configs_namespace
            try:
                await self._kube.create(
                    f"{NAMESPACE.format(namespace=segment(namespace))}/events",
                    event(config, namespace, problem, sentence, FIELD_MANAGER, now),
                )
            except ApiError as error:
                if error.status != 409:  # told before
                    raise


def _keep_config(raw: _RawPeerPodConfig, previous: PeerPodConfig | None) -> PeerPodConfig:
    return peer_pod_config(
        raw.metadata.name,
        node_selector=raw.spec.node_selector,
        limit=raw.spec.limit,
        previous=previous,
        observed=Observed(
            uid=raw.metadata.uid,
            generation=raw.metadata.generation,
            version=raw.metadata.resource_version,
            setup_completed=raw.status.setup_completed,
            conditions=raw.status.conditions,
        ),
    )


async def _finishing(request: Awaitable[Any]) -> None:
    """Wait for `request`, which has DRAIN seconds to come to its end when this is cancelled."""
    task = asyncio.ensure_future(request)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=DRAIN)
        if task.done():
            task.exception()
        task.cancel()
        raise
