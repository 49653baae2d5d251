# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps nodes at their targets: mirrors the cluster and, while it leads, patches what differs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from .kube import FIELD_MANAGER, ApiError, Kube, Metadata, segment
from .lease import Lease
from .metrics import LAG_SECONDS, NodeSlots, PoolLimit, Slots
from .mirror import Mirror, backoff
from .plan import (
    ADAPTOR,
    LEAVE,
    Ceiling,
    CloudCapacity,
    Node,
    Target,
    ceiling,
    cloud_capacity,
    has_left,
    is_ours,
    limit_of,
    selecting,
    status_patch,
    target,
    whole_quantity,
)
from .pools import (
    FIRST_DAEMON_SET,
    PEER_POD_CONFIG,
    PEER_PODS_CM,
    SECOND_DAEMON_SET,
    Entry,
    Observed,
    Pool,
    Setting,
    limit_entries,
    merge,
    operators_pool,
    pool_of_config,
    setting,
    vanished,
)
from .report import Report, conditions, event, reports
from .settings import Settings

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
PODS_THAT_RUN = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
NAMESPACE = "/api/v1/namespaces/{namespace}"
DAEMON_SETS = "/apis/apps/v1/namespaces/{namespace}/daemonsets"
PEER_POD_CONFIGS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{namespace}/peerpodconfigs"

# Patches of nodes under way at a time, at most.
PATCHES_IN_FLIGHT = 16

# Seconds that those have to come to their end when this replica no longer leads.
DRAIN = 0.8

# A node that needs another patch within so many seconds, although its limit is the same, was reset:
# by a kubelet that restarts (once), or by a cloud-api-adaptor that restarts (it is not ready, removes
# the resource, is ready, and advertises its own number). More often, the node is left alone for
# longer and longer in between: another writer disagrees, or cloud-api-adaptor crashes again and again.
RESET_WINDOW = 60.0
RESETS_IN_PEACE = 8

# The shortest time between two reports, in seconds.
REPORT_INTERVAL = 1.0

log = logging.getLogger(__name__)


class _Condition(msgspec.Struct):
    type: str
    status: str = ""


class _NodeSpec(msgspec.Struct):
    unschedulable: bool = False


class _NodeStatus(msgspec.Struct):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    conditions: list[_Condition] = []


class _RawNode(msgspec.Struct):
    metadata: Metadata
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _OwnedMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    managed_fields: list[dict[str, Any]] = []


class _OwnedNode(msgspec.Struct):
    """A node with the writers of its fields, which are most of its size: read only when needed."""

    metadata: _OwnedMetadata


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


class _AdaptorStatus(msgspec.Struct):
    conditions: list[_Condition] = []


class _AdaptorSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None


class _RawAdaptor(msgspec.Struct):
    """A pod of cloud-api-adaptor."""

    metadata: Metadata
    spec: _AdaptorSpec = msgspec.field(default_factory=_AdaptorSpec)
    status: _AdaptorStatus = msgspec.field(default_factory=_AdaptorStatus)


class _TemplateSpec(msgspec.Struct, rename="camel"):
    node_selector: dict[str, str] = {}


class _Template(msgspec.Struct):
    spec: _TemplateSpec = msgspec.field(default_factory=_TemplateSpec)


class _DaemonSetSpec(msgspec.Struct):
    template: _Template = msgspec.field(default_factory=_Template)


class _RawDaemonSet(msgspec.Struct):
    metadata: Metadata
    spec: _DaemonSetSpec = msgspec.field(default_factory=_DaemonSetSpec)


class _RawConfigMap(msgspec.Struct):
    metadata: Metadata
    data: dict[str, str] = {}


class PeerPod(NamedTuple):
    """What counts of a pod: the slots it takes, and of which node; None: it has none yet."""

    node: str | None
    slots: int


class Written(NamedTuple):
    """What a node was last patched to, when, and how many times in a row it was reset since."""

    target: Target
    at: float
    resets: int

    def resets_by(self, target: Target, at: float) -> int:
        """The number of resets, a patch to `target` at the time `at` included.

        Another limit is no reset, nor are peer pods that end while no new one can start.
        """
        if target.limit != self.target.limit or at - self.at >= RESET_WINDOW:
            return 0
        if target.bound == self.target.bound == ADAPTOR and target.slots != self.target.slots:
            return self.resets
        return self.resets + 1


class Agent:
    """Makes the nodes of the cluster behind `kube` advertise the limits of their pools, while the
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
        # Operators from 1.9 on bring no such API; it may be left over, and it comes and goes with
        # upgrades.
        self._configs: Mirror[_RawPeerPodConfig, Pool] = Mirror(
            kube,
            self._configs_path,
            _RawPeerPodConfig,
            _keep_config,
            self._source_changed,
            may_be_absent=True,
        )
        own = NAMESPACE.format(namespace=segment(settings.namespace))
        operators = NAMESPACE.format(namespace=segment(self._configs_namespace))
        self._limits: Mirror[_RawConfigMap, dict[str, Entry]] = Mirror(
            kube,
            f"{own}/configmaps",
            _RawConfigMap,
            lambda raw, previous: limit_entries(raw.data, previous),
            self._source_changed,
            {"fieldSelector": f"metadata.name={settings.limits_configmap}"},
        )
        self._peer_pods_cm: Mirror[_RawConfigMap, Setting] = Mirror(
            kube,
            f"{operators}/configmaps",
            _RawConfigMap,
            lambda raw, previous: setting(raw.data, previous),
            self._source_changed,
            {"fieldSelector": f"metadata.name={PEER_PODS_CM}"},
        )
        self._daemon_sets: Mirror[_RawDaemonSet, dict[str, str]] = Mirror(
            kube,
            DAEMON_SETS.format(namespace=segment(self._configs_namespace)),
            _RawDaemonSet,
            _keep_daemon_set,
            self._source_changed,
        )
        self._adaptors: Mirror[_RawAdaptor, str] = Mirror(
            kube,
            f"{operators}/pods",
            _RawAdaptor,
            _keep_adaptor,
            self._adaptor_changed,
            {"labelSelector": f"name in ({SECOND_DAEMON_SET},{FIRST_DAEMON_SET})"},
        )
        self._nodes: Mirror[_RawNode, Node] = Mirror(kube, NODES, _RawNode, self._keep_node, self._node_changed)
        self._pods: Mirror[_RawPod, PeerPod] = Mirror(
            kube, PODS, _RawPod, self._keep_pod, self._pod_changed, PODS_THAT_RUN
        )
        self._cloud: Mirror[_RawConfigMap, CloudCapacity] = Mirror(
            kube,
            f"{own}/configmaps",
            _RawConfigMap,
            lambda raw, previous: cloud_capacity(raw.data, previous),
            self._cloud_changed,
            {"fieldSelector": f"metadata.name={settings.cloud_capacity_configmap}"},
        )
        self._mirrors = [
            self._lease.mirror,
            self._configs,
            self._limits,
            self._peer_pods_cm,
            self._daemon_sets,
            self._nodes,
            self._cloud,
        ]
        if settings.require_ready_adaptor:
            self._mirrors.append(self._adaptors)
        if settings.count_peer_pods:
            self._mirrors.append(self._pods)

        # The operator's generation and its pools by name, once all sources have been read.
        self._generation = 0
        self._pools: dict[str, Pool] = {}
        # The pools known before that no source has any more, while the operator's own is missing.
        self._vanished: dict[str, Pool] = {}
        self._are_limits_found: bool | None = None
        # The pools that selected each node last.
        self._members: dict[str, tuple[str, ...]] = {}
        # Pods of cloud-api-adaptor that are Ready, by node.
        self._ready_adaptors: Counter[str] = Counter()
        # Nodes with the resource of another writer, as (capacity, allocatable) then.
        self._foreign: dict[str, tuple[str | None, str | None]] = {}

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
        self._resting: dict[str, asyncio.TimerHandle] = {}

        self._to_report = asyncio.Event()
        self._reports: dict[str, Report] = {}
        # Until the API server is seen to drop them: not every CRD has conditions.
        self._keeps_conditions = True

    @property
    def ready(self) -> bool:
        """Whether all collections have been read whole."""
        return all(mirror.synced.is_set() for mirror in self._mirrors)

    @property
    def status(self) -> str:
        """In a few words, for people who look at /readyz."""
        if not self.ready:
            return "the first full sync is not done yet"
        if self._are_limits_found:
            return "ok"
        if self._vanished:
            return (
                "ok; no limit found any more: nodes of the pools known before have free slots only "
                "while cloud-api-adaptor is ready"
            )
        return "ok; no limit found, so no node is changed"

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in self._mirrors:
                tasks.create_task(mirror.run())
            # With one collection missing every node would look unselected.
            for mirror in self._mirrors:
                await mirror.synced.wait()
            self._merge_sources()
            log.info("Ready with %d nodes and %d pools.", len(self._nodes.items), len(self._pools))
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
            self._stop_resting()
            self._reports.clear()

    # What the mirrors tell.

    def _keep_node(self, raw: _RawNode, _previous: Node | None) -> Node:
        return Node(
            raw.metadata.name,
            raw.metadata.labels,
            raw.status.capacity.get(self._resource),
            raw.status.allocatable.get(self._resource),
            not raw.spec.unschedulable and all(c.status == "True" for c in raw.status.conditions if c.type == "Ready"),
        )

    def _node_changed(self, name: str, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or old.labels != new.labels:
            self._limits_changed = True
            if new is None:
                self._members.pop(name, None)
                self._foreign.pop(name, None)
            else:
                self._note_members(new)
        self._look_at(name)
        self._to_report.set()

    def _source_changed(self, *_: Any) -> None:
        # The first lists come one by one: what is missing then has not vanished.
        if self.ready:
            self._merge_sources()

    def _merge_sources(self) -> None:
        """Have the pools that follow from all sources as they are."""
        before = self._generation, self._pools
        last = {**self._vanished, **self._pools}
        self._generation, self._pools = merge(
            self._configs.items.values(),
            next(iter(self._limits.items.values()), None),
            next(iter(self._peer_pods_cm.items.values()), None),
            self._daemon_sets.items,
        )
        gone = {}
        if self._settings.require_ready_adaptor:
            gone = vanished(last, self._pools, self._generation)
        if new := gone.keys() - self._vanished.keys():
            log.info(
                "Pools that are gone, as in an upgrade of the operator: %s. Until the operator's own "
                "pool is found, their nodes keep what they advertise, with free slots only while "
                "cloud-api-adaptor is ready.",
                ", ".join(sorted(new)),
            )
        self._vanished = gone
        found = any(pool.limit is not None for pool in self._pools.values())
        if found != self._are_limits_found:
            self._are_limits_found = found
            if not found:
                log.warning(
                    "No valid limit found: neither in %s nor in %s of namespace %s, nor in a "
                    "PeerPodConfig. Until there is one, only nodes of pools known before are changed.",
                    self._settings.limits_configmap,
                    PEER_PODS_CM,
                    self._configs_namespace,
                )
            else:
                log.info(
                    "Limits found: %s.",
                    ", ".join(
                        f"{pool.name} {pool.limit} ({pool.source})"
                        for pool in self._pools.values()
                        if pool.limit is not None
                    ),
                )
        if (self._generation, self._pools) != before:
            for node in self._nodes.items.values():
                self._note_members(node)
            self._every_limit_may_differ()
        else:
            # What was reported of a PeerPodConfig is no part of the comparison.
            self._to_report.set()

    def _note_members(self, node: Node) -> None:
        if names := tuple(pool.name for pool in self._pools.values() if pool.selects(node)):
            self._members[node.name] = names

    def _adaptor_changed(self, _name: str, old: str | None, new: str | None) -> None:
        for node, change in ((old, -1), (new, 1)):
            if node is not None:
                self._ready_adaptors[node] += change
                self._look_at(node, even_if_resting=not self._has_ready_adaptor(node))
        self._to_report.set()

    def _keep_pod(self, raw: _RawPod, _previous: PeerPod | None) -> PeerPod | None:
        requests = (c.resources.requests.get(self._resource) for c in raw.spec.containers)
        slots = sum(whole_quantity(request) or 0 for request in requests)
        return PeerPod(raw.spec.node_name, slots) if slots else None

    def _pod_changed(self, _name: str, old: PeerPod | None, new: PeerPod | None) -> None:
        if old:
            self._used[old.node] -= old.slots
        if new:
            self._used[new.node] += new.slots
        for pod in (old, new):
            # Without a ready adaptor, the node advertises what is in use.
            if pod and pod.node is not None and not self._has_ready_adaptor(pod.node):
                self._look_at(pod.node, even_if_resting=True)
        self._to_report.set()

    def _cloud_changed(self, _name: str, _old: CloudCapacity | None, new: CloudCapacity | None) -> None:
        for bound, text in new.bad.items() if new else ():
            log.warning(
                "%s in ConfigMap %s is %.40r, not a whole number of 0 or more. The last valid value stays in force.",
                bound,
                self._settings.cloud_capacity_configmap,
                text,
            )
        self._every_limit_may_differ()

    def _every_limit_may_differ(self) -> None:
        self._limits_changed = True
        self._stop_resting()
        self._look_at_all()
        self._to_report.set()

    # What nodes should have.

    @property
    def _configs_namespace(self) -> str:
        return self._settings.peerpodconfig_namespace

    @property
    def _bounds(self) -> dict[str, int]:
        return {bound: total for capacity in self._cloud.items.values() for bound, total in capacity.bounds.items()}

    def _has_ready_adaptor(self, node: str) -> bool:
        return not self._settings.require_ready_adaptor or self._ready_adaptors[node] > 0

    def _selecting(self, node: Node) -> list[Pool]:
        return selecting(node, chain(self._pools.values(), self._vanished.values()))

    def _target(self, node: Node) -> Target:
        self._settle_ceiling()
        return target(
            node,
            self._selecting(node),
            self._ceiling,
            is_ready=self._has_ready_adaptor(node.name),
            used=self._used[node.name],
        )

    def _settle_ceiling(self) -> None:
        """Have the ceiling that follows from the limits as they are.

        Nodes whose adaptor is not ready have their part as well: each restart of one would
        otherwise change all nodes, twice.
        """
        if not self._limits_changed:
            return
        self._limits_changed = False
        before, bounds = self._ceiling, self._bounds
        limits = (limit_of(node, self._selecting(node)) for node in self._nodes.items.values())
        self._ceiling = ceiling((n for n in limits if n is not None), bounds) if bounds else None
        if self._ceiling != before:
            self._look_at_all()

    def _may_lose(self, node: Node) -> bool:
        """Whether to remove the resource from `node`, if this agent is its only writer."""
        quantities = (node.capacity, node.allocatable)
        return (
            quantities != (None, None)
            and self._foreign.get(node.name) != quantities
            and has_left(
                node,
                self._members.get(node.name, ()),
                self._pools,
                operators_pool(self._generation),
            )
        )

    # Patching nodes.

    def _look_at_all(self) -> None:
        for node in self._nodes.items:
            self._look_at(node)

    def _look_at(self, node: str, *, even_if_resting: bool = False) -> None:
        if not self._leading or node in self._learnt:
            return
        if even_if_resting or not self._rests(node):
            self._learnt[node] = asyncio.get_running_loop().time()
            self._queue.put_nowait(node)

    def _rests(self, node: str) -> bool:
        """Whether the node is left alone: not if its adaptor was ready at the last patch and is not now.

        Lowering the node again, because another writer has raised it, rests like raising it. Only a
        pod that changes ends that as well, so a fight slows down in either case.
        """
        if node not in self._resting:
            return False
        written = self._written.get(node)
        return self._has_ready_adaptor(node) or written is None or written.target.bound == ADAPTOR

    def _look_later(self, node: str, seconds: float) -> None:
        """Let the node rest: until then the agent looks at it only if its limit changes, or to lower it
        because its adaptor is not ready."""

        def look() -> None:
            del self._resting[node]
            self._look_at(node)

        # Two workers may have failed to patch the node at the same time.
        if timer := self._resting.get(node):
            timer.cancel()
        self._resting[node] = asyncio.get_running_loop().call_later(seconds, look)

    def _stop_resting(self) -> None:
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()

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
        target, version = self._target(node), None
        if target == LEAVE:
            try:
                version = await self._removable(node)
            except ApiError as error:
                self._try_later(node.name, error)
                return
            if version is None:
                self._failures.pop(node.name, None)
                return
        slots = target.slots
        patch = status_patch(node, slots, self._resource)
        if patch is None:
            self._failures.pop(node.name, None)
            return
        if version is not None:
            # Another writer since then has the last word.
            patch["metadata"] = {"resourceVersion": version}
        loop = asyncio.get_running_loop()
        before = self._written.get(node.name)
        resets = before.resets_by(target, loop.time()) if before else 0
        try:
            await _finishing(self._kube.patch(f"{NODES}/{segment(node.name)}/status", patch))
        except ApiError as error:
            # A node that is gone will be gone from the mirror, too, when we look again.
            self._try_later(node.name, error)
            return
        self._failures.pop(node.name, None)
        self._foreign.pop(node.name, None)
        self._written[node.name] = Written(target, loop.time(), resets)
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
                "%s of node %s keeps changing: cloud-api-adaptor restarts there again and again, or "
                "another program writes it. Its managedFields name the writers: "
                "oc get node %s --show-managed-fields -o yaml",
                self._resource,
                node.name,
                node.name,
                extra={"data": {"node": node.name}},
            )

    def _try_later(self, node: str, error: ApiError) -> None:
        log.warning("Will try again: %s", error, extra={"data": {"node": node}})
        self._look_later(node, backoff(self._failures[node]))
        self._failures[node] += 1

    async def _removable(self, node: Node) -> str | None:
        """The version of a node that must lose the resource, None where it stays."""
        if not self._may_lose(node):
            return None
        found = await self._kube.get(f"{NODES}/{segment(node.name)}", _OwnedNode)
        if is_ours(found.metadata.managed_fields, self._resource, FIELD_MANAGER):
            return found.metadata.resource_version
        self._foreign[node.name] = (node.capacity, node.allocatable)
        log.info(
            "Node %s: %s stays, because another program has written it.",
            node.name,
            self._resource,
            extra={"data": {"node": node.name}},
        )
        return None

    # Reporting.

    def slots(self) -> Slots | None:
        """The slots of the nodes for Prometheus, from the replica that leads alone."""
        if not self._leading:
            return None
        nodes = []
        for node in self._nodes.items.values():
            target, advertised = self._target(node), whole_quantity(node.allocatable)
            used, desired = self._used[node.name], target.slots
            if desired is None:
                if advertised is None and not used:
                    continue
                if self._may_lose(node):
                    desired = 0
            ready = None
            if target.limit is not None and node.is_available:
                ready = self._has_ready_adaptor(node.name)
            nodes.append(NodeSlots(node.name, desired, advertised or 0, used, target.bound, ready))
        return Slots(
            nodes=nodes,
            counted=self._settings.count_peer_pods,
            pending=self._used[None],
            problems=[(name, problem) for name, report in self._reports.items() for problem in report.problems],
            bounds=self._bounds,
            generation=self._generation,
            limits=[
                PoolLimit(pool.name, pool.source, pool.limit) for pool in self._pools.values() if pool.limit is not None
            ],
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
                    list(self._pools.values()),
                    nodes.values(),
                    {name: self._target(node) for name, node in nodes.items()},
                    self._used,
                    self._ceiling,
                ),
            )
            try:
                for name, report in self._reports.items():
                    if pool := self._pools.get(name):
                        await self._publish(pool, report, before.get(name, Report()))
            except ApiError as error:
                log.warning("Will try again: %s", error)
                self._reports = before
                self._to_report.set()
                failures += 1
            else:
                failures = 0
            await asyncio.sleep(REPORT_INTERVAL + (backoff(failures) if failures else 0))

    async def _publish(self, pool: Pool, report: Report, before: Report) -> None:
        """Log the problems of a pool that are new; where it is a PeerPodConfig, write its status
        and Events.

        Only the log and the metrics have the problems of other pools: an Event about a ConfigMap
        would be found by those alone who know which one to look at.
        """
        config = self._configs.items.get(pool.name) if pool.source == PEER_POD_CONFIG else None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if config and self._may_write_status():
            await self._write_status(config, report, now)
        for problem, sentence in report.problems.items():
            if problem in before.problems:
                continue
            log.warning(
                "%s %s: %s",
                "PeerPodConfig" if config else "Pool",
                pool.name,
                sentence,
                extra={"data": {"pool": pool.name, "reason": problem}},
            )
            if not config:
                continue
            namespace = self._configs_namespace
            try:
                await self._kube.create(
                    f"{NAMESPACE.format(namespace=segment(namespace))}/events",
                    event(config, namespace, problem, sentence, FIELD_MANAGER, now),
                )
            except ApiError as error:
                if error.status != 409:  # reported before
                    raise

    def _may_write_status(self) -> bool:
        """Whether a write to the status of a PeerPodConfig costs no peer pod.

        Operators 1.7 and 1.8 move the one DaemonSet of cloud-api-adaptor to the nodes of the
        PeerPodConfig that was written last, its status included (CAA's
        src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go at 567287db): the other nodes
        lose their peer pods.
        """
        return self._generation != 1 or len(self._configs.items) < 2

    async def _write_status(self, config: Pool, report: Report, now: str) -> None:
        """Write the status of a PeerPodConfig, as far as it has changed."""
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


def _keep_config(raw: _RawPeerPodConfig, previous: Pool | None) -> Pool:
    return pool_of_config(
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


def _keep_daemon_set(raw: _RawDaemonSet, _previous: dict[str, str] | None) -> dict[str, str] | None:
    """The node selector of one of cloud-api-adaptor's DaemonSets."""
    if raw.metadata.name not in (FIRST_DAEMON_SET, SECOND_DAEMON_SET):
        return None
    return raw.spec.template.spec.node_selector


def _keep_adaptor(raw: _RawAdaptor, _previous: str | None) -> str | None:
    """The node of a pod of cloud-api-adaptor that is Ready and not being deleted."""
    is_ready = any(c.type == "Ready" and c.status == "True" for c in raw.status.conditions)
    return raw.spec.node_name if is_ready and raw.metadata.deletion_timestamp is None else None


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
