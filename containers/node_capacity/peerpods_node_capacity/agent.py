# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The agent: mirrors the cluster and, while it is the leader, patches the nodes that differ from their target."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime
from itertools import chain
from sys import intern
from typing import Any, NamedTuple

import msgspec

from .kube import FIELD_MANAGER, STRATEGIC_MERGE_PATCH, ApiError, Kube, Metadata, OnlyMetadata, segment
from .lease import Lease
from .metrics import LAG_SECONDS, NodeSlots, PoolLimit, Slots
from .mirror import STUCK_AFTER, Mirror, backoff
from .plan import (
    ADAPTOR,
    UNCHANGED,
    Ceiling,
    CloudCapacity,
    Node,
    Target,
    applicable_pools,
    ceiling,
    cloud_capacity,
    is_deselected,
    is_only_writer,
    limit_of,
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
    merge,
    operators_pool,
    parse_limit_entries,
    parse_setting,
    pool_of_config,
    vanished,
)
from .report import Report, conditions, event, reports
from .settings import Settings

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
RUNNING_OR_PENDING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
NAMESPACE = "/api/v1/namespaces/{namespace}"
DAEMON_SETS = "/apis/apps/v1/namespaces/{namespace}/daemonsets"
PEER_POD_CONFIGS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{namespace}/peerpodconfigs"

# The maximum number of concurrent patches of nodes.
PATCHES_IN_FLIGHT = 16

# Seconds that patches in flight have to complete when this replica stops leading.
DRAIN_SECONDS = 0.8

# A patch of a node within RESET_WINDOW seconds of the last one, with the same limit, counts as a reset: a kubelet
# that restarts resets the node once, a cloud-api-adaptor that restarts a few times (it is not ready, removes the
# resource, is ready, and advertises its own number). After more than RESETS_BEFORE_BACKOFF in a row, the agent backs
# off from the node: another program writes the resource, or cloud-api-adaptor is in a crash loop.
RESET_WINDOW = 60.0
RESETS_BEFORE_BACKOFF = 8

# The minimum interval between two reports, in seconds.
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
    """A node with its managedFields, which are large: read only when needed."""

    metadata: _OwnedMetadata


class _PeerPodConfigSpec(msgspec.Struct, rename="camel"):
    limit: str | None = None
    node_selector: dict[str, str] | None = None


class _PeerPodConfigStatus(msgspec.Struct, rename="camel"):
    """Written by other programs, too, so that it may contain anything that the CRD permits."""

    setup_completed: Any = False
    conditions: Any = None


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
    """The slots that a peer pod takes, and its node; None: it is not scheduled."""

    node: str | None
    slots: int


class Written(NamedTuple):
    """The last patch of a node: its target, its time, and the number of resets in a row before it."""

    target: Target
    at: float
    resets: int

    def resets_by(self, target: Target, at: float) -> int:
        """Return the number of resets in a row, including a patch to `target` at the time `at`.

        A change of the limit is not a reset. Peer pods that end while the adaptor is not ready do not count either.
        """
        if target.limit != self.target.limit or at - self.at >= RESET_WINDOW:
            return 0
        if target.bound == self.target.bound == ADAPTOR and target.slots != self.target.slots:
            return self.resets
        return self.resets + 1


class Agent:
    """Makes the nodes of the cluster advertise the limits of their pools while the replica `identity` leads."""

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
        # Operators from 1.9 on do not install this API. It may be left over, and upgrades add or remove it.
        self._configs: Mirror[_RawPeerPodConfig, Pool] = Mirror(
            kube,
            self._configs_path,
            _RawPeerPodConfig,
            _to_pool,
            self._config_changed,
            may_be_absent=True,
        )
        own = NAMESPACE.format(namespace=segment(settings.namespace))
        operators = NAMESPACE.format(namespace=segment(self._configs_namespace))
        self._limits: Mirror[_RawConfigMap, dict[str, Entry]] = Mirror(
            kube,
            f"{own}/configmaps",
            _RawConfigMap,
            lambda raw, previous: parse_limit_entries(raw.data, previous),
            self._source_changed,
            {"fieldSelector": f"metadata.name={settings.limits_configmap}"},
        )
        self._peer_pods_cm: Mirror[_RawConfigMap, Setting] = Mirror(
            kube,
            f"{operators}/configmaps",
            _RawConfigMap,
            lambda raw, previous: parse_setting(raw.data, previous),
            self._source_changed,
            {"fieldSelector": f"metadata.name={PEER_PODS_CM}"},
        )
        self._daemon_sets: Mirror[_RawDaemonSet, dict[str, str]] = Mirror(
            kube,
            DAEMON_SETS.format(namespace=segment(self._configs_namespace)),
            _RawDaemonSet,
            _to_node_selector,
            self._source_changed,
        )
        self._adaptors: Mirror[_RawAdaptor, str] = Mirror(
            kube,
            f"{operators}/pods",
            _RawAdaptor,
            _to_ready_node,
            self._adaptor_changed,
            {"labelSelector": f"name in ({SECOND_DAEMON_SET},{FIRST_DAEMON_SET})"},
        )
        self._nodes: Mirror[_RawNode, Node] = Mirror(kube, NODES, _RawNode, self._to_node, self._node_changed)
        self._pods: Mirror[_RawPod, PeerPod] = Mirror(
            kube, PODS, _RawPod, self._to_peer_pod, self._pod_changed, RUNNING_OR_PENDING
        )
        self._cloud: Mirror[_RawConfigMap, CloudCapacity] = Mirror(
            kube,
            f"{own}/configmaps",
            _RawConfigMap,
            lambda raw, previous: cloud_capacity(raw.data, previous),
            self._cloud_changed,
            {"fieldSelector": f"metadata.name={settings.cloud_capacity_configmap}"},
        )
        self._mirrors: list[Mirror[Any, Any]] = [
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

        # The operator's generation and the pools by name, once all sources have been read.
        self._generation = 0
        self._pools: dict[str, Pool] = {}
        # Pools known before that have no source any more, while the operator's own pool is missing.
        self._vanished: dict[str, Pool] = {}
        self._are_limits_found: bool | None = None
        # By node: the pools that apply to it, and the names of the pools that selected it last.
        self._applicable: dict[str, list[Pool]] = {}
        self._selected_by: dict[str, tuple[str, ...]] = {}
        # The number of Ready cloud-api-adaptor pods by node.
        self._ready_adaptors: Counter[str] = Counter()
        # Nodes whose resource another program has written, with the (capacity, allocatable) of then.
        self._foreign: dict[str, tuple[str | None, str | None]] = {}

        # Slots in use by node; None: those of pending pods.
        self._used: Counter[str | None] = Counter()
        self._ceiling: Ceiling | None = None
        self._is_ceiling_outdated = True

        self._is_leading = False
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        # The time at which each node in the queue was added.
        self._queued_at: dict[str, float] = {}
        # Nodes that a worker has taken from the queue. One that changes meanwhile is queued again afterwards: two
        # patches of a node at the same time could arrive in either order.
        self._in_progress: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._written: dict[str, Written] = {}
        # Nodes in backoff, with the timer that queues them again.
        self._backoff_timers: dict[str, asyncio.TimerHandle] = {}

        self._to_report = asyncio.Event()
        self._reports: dict[str, Report] = {}
        # False after the API server has dropped conditions: not every CRD has them, and each attempt is a request.
        self._has_conditions = True

    def is_live(self) -> tuple[bool, str]:
        """Return whether the agent passes its liveness probe, and the reason.

        Not while the API server is away: a restart would not help, and would lose the last valid limits.
        """
        stuck = [mirror.path for mirror in self._mirrors if mirror.is_stuck()]
        if stuck:
            return False, f"no attempt to follow {', '.join(stuck)} for {STUCK_AFTER / 60:.0f} minutes"
        return True, "ok"

    def is_ready(self) -> tuple[bool, str]:
        """Return whether the agent does its work: it follows all collections, and some replica leads."""
        if not self._is_synced:
            return False, "the initial sync is not complete"
        problems = (*(mirror.why_lost() for mirror in self._mirrors), self._lease.why_not_held())
        if reason := next((problem for problem in problems if problem), None):
            return False, reason
        if self._are_limits_found:
            return True, "ok"
        if self._vanished:
            return True, (
                "ok; no limit found any more: nodes of pools known before have free slots only "
                "while cloud-api-adaptor is ready"
            )
        return True, "ok; no limit found, so nodes are not changed"

    @property
    def _is_synced(self) -> bool:
        """Whether all collections have been listed."""
        return all(mirror.synced.is_set() for mirror in self._mirrors)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in self._mirrors:
                tasks.create_task(mirror.run(), name=mirror.path)
            # Before all sources have been read, nodes would appear to be in no pool.
            for mirror in self._mirrors:
                await mirror.synced.wait()
            self._merge_sources()
            log.info("Synced: %d nodes, %d pools.", len(self._nodes.items), len(self._pools))
            await self._lease.lead(self._lead)

    async def _lead(self) -> None:
        self._is_leading = self._has_conditions = True
        self._enqueue_all()
        self._to_report.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(PATCHES_IN_FLIGHT):
                    tasks.create_task(self._work())
                tasks.create_task(self._report())
        finally:
            self._is_leading = False
            self._queue = asyncio.Queue()
            self._queued_at.clear()
            self._in_progress.clear()
            self._failures.clear()
            self._written.clear()
            self._end_backoff()
            self._reports.clear()

    # Changes in the mirrors.

    def _to_node(self, raw: _RawNode, _previous: Node | None) -> Node:
        return Node(
            raw.metadata.name,
            # Nodes have many labels in common.
            {intern(key): intern(value) for key, value in raw.metadata.labels.items()},
            raw.status.capacity.get(self._resource),
            raw.status.allocatable.get(self._resource),
            not raw.spec.unschedulable and all(c.status == "True" for c in raw.status.conditions if c.type == "Ready"),
        )

    def _node_changed(self, name: str, old: Node | None, new: Node | None) -> None:
        if new is None:
            self._is_ceiling_outdated = True
            self._applicable.pop(name, None)
            self._selected_by.pop(name, None)
            self._foreign.pop(name, None)
        elif old is None or old.labels != new.labels:
            self._is_ceiling_outdated = True
            self._select_pools(new)
        self._enqueue(name)
        self._to_report.set()

    def _config_changed(self, _name: str, old: Pool | None, new: Pool | None) -> None:
        # A CRD that is replaced by one with conditions loses its objects, which are then created again. One that is
        # changed in place shows conditions as soon as any program writes some.
        if new and (old is None or new.observed.conditions):
            self._has_conditions = True
        self._source_changed()

    def _source_changed(self, *_: Any) -> None:
        # A source that has not been listed yet is not a missing one.
        if self._is_synced:
            self._merge_sources()

    def _merge_sources(self) -> None:
        """Update the pools from all sources."""
        before = self._generation, self._pools
        last = {**self._vanished, **self._pools}
        self._generation, self._pools = merge(
            self._configs.items.values(),
            next(iter(self._limits.items.values()), None),
            next(iter(self._peer_pods_cm.items.values()), None),
            self._daemon_sets.items,
        )
        missing = {}
        if self._settings.require_ready_adaptor:
            missing = vanished(last, self._pools, self._generation)
        if new := missing.keys() - self._vanished.keys():
            log.info(
                "Pools no longer found, as in an upgrade of the operator: %s. Until the operator's own pool is found, "
                "their nodes keep what they advertise, with free slots only while cloud-api-adaptor is ready.",
                ", ".join(sorted(new)),
            )
        self._vanished = missing
        are_limits_found = any(pool.limit is not None for pool in self._pools.values())
        if are_limits_found != self._are_limits_found:
            self._are_limits_found = are_limits_found
            if not are_limits_found:
                log.warning(
                    "No valid limit found in ConfigMap %s of namespace %s, in ConfigMap %s and the PeerPodConfigs of "
                    "namespace %s. Until a limit is found, only nodes of pools known before are changed.",
                    self._settings.limits_configmap,
                    self._settings.namespace,
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
                self._select_pools(node)
            self._limits_changed()
        else:
            # The status of a PeerPodConfig may have changed.
            self._to_report.set()

    def _select_pools(self, node: Node) -> None:
        """Update which pools apply to the node and select it, after its labels or the pools have changed."""
        self._applicable[node.name] = applicable_pools(node, chain(self._pools.values(), self._vanished.values()))
        if names := tuple(pool.name for pool in self._pools.values() if pool.selects(node)):
            self._selected_by[node.name] = names

    def _adaptor_changed(self, _name: str, old: str | None, new: str | None) -> None:
        for node, change in ((old, -1), (new, 1)):
            if node is not None:
                self._ready_adaptors[node] += change
                self._enqueue(node, ignore_backoff=not self._has_ready_adaptor(node))
        self._to_report.set()

    def _to_peer_pod(self, raw: _RawPod, _previous: PeerPod | None) -> PeerPod | None:
        requests = (c.resources.requests.get(self._resource) for c in raw.spec.containers)
        slots = sum(whole_quantity(request) or 0 for request in requests)
        return PeerPod(raw.spec.node_name, slots) if slots else None

    def _pod_changed(self, _name: str, old: PeerPod | None, new: PeerPod | None) -> None:
        if old:
            self._used[old.node] -= old.slots
        if new:
            self._used[new.node] += new.slots
        for pod in (old, new):
            # Without a ready adaptor, the node advertises the slots in use.
            if pod and pod.node is not None and not self._has_ready_adaptor(pod.node):
                self._enqueue(pod.node, ignore_backoff=True)
        self._to_report.set()

    def _cloud_changed(self, _name: str, _old: CloudCapacity | None, new: CloudCapacity | None) -> None:
        for bound, text in new.invalid.items() if new else ():
            log.warning(
                "%s in ConfigMap %s must be a whole number of 0 or more; got %.40r. The last valid value stays in "
                "force.",
                bound,
                self._settings.cloud_capacity_configmap,
                text,
            )
        self._limits_changed()

    def _limits_changed(self) -> None:
        self._is_ceiling_outdated = True
        self._end_backoff()
        self._enqueue_all()
        self._to_report.set()

    # The targets of nodes.

    @property
    def _configs_namespace(self) -> str:
        return self._settings.peerpodconfig_namespace

    @property
    def _bounds(self) -> dict[str, int]:
        return {bound: total for capacity in self._cloud.items.values() for bound, total in capacity.bounds.items()}

    def _has_ready_adaptor(self, node: str) -> bool:
        return not self._settings.require_ready_adaptor or self._ready_adaptors[node] > 0

    def _target(self, node: Node) -> Target:
        self._update_ceiling()
        return target(
            node,
            self._applicable[node.name],
            self._ceiling,
            is_ready=self._has_ready_adaptor(node.name),
            used=self._used[node.name],
        )

    def _update_ceiling(self) -> None:
        """Update the ceiling if the limits, the nodes or the cloud's bounds have changed.

        Nodes whose adaptor is not ready keep their share: each restart of an adaptor would otherwise change all nodes
        twice.
        """
        if not self._is_ceiling_outdated:
            return
        self._is_ceiling_outdated = False
        before, bounds = self._ceiling, self._bounds
        limits = (limit_of(node, self._applicable[node.name]) for node in self._nodes.items.values())
        self._ceiling = ceiling((limit for limit in limits if limit is not None), bounds) if bounds else None
        if self._ceiling != before:
            self._enqueue_all()

    def _may_lose(self, node: Node) -> bool:
        """Return whether to remove the resource from `node` if the agent is its only writer."""
        quantities = (node.capacity, node.allocatable)
        return (
            quantities != (None, None)
            and self._foreign.get(node.name) != quantities
            and is_deselected(
                node,
                self._selected_by.get(node.name, ()),
                self._pools,
                operators_pool(self._generation),
            )
        )

    # Patching nodes.

    def _enqueue_all(self) -> None:
        for node in self._nodes.items:
            self._enqueue(node)

    def _enqueue(self, node: str, *, ignore_backoff: bool = False) -> None:
        if not self._is_leading or node in self._queued_at:
            return
        if ignore_backoff or not self._is_backing_off(node):
            self._queued_at[node] = asyncio.get_running_loop().time()
            if node not in self._in_progress:
                self._queue.put_nowait(node)

    def _is_backing_off(self, node: str) -> bool:
        """Return whether the node stays in backoff: not if its adaptor was ready at the last patch and is not now.

        If another program raises the node again, lowering it backs off like raising it. Then only a change of its pods
        ends the backoff, so that two writers that disagree slow down in both cases.
        """
        if node not in self._backoff_timers:
            return False
        written = self._written.get(node)
        return self._has_ready_adaptor(node) or written is None or written.target.bound == ADAPTOR

    def _requeue_after(self, node: str, seconds: float) -> None:
        """Put the node into backoff: until then it is queued only if its limit changes, or to lower it because its
        adaptor is not ready."""

        def requeue() -> None:
            del self._backoff_timers[node]
            self._enqueue(node)

        # The patch before may have been one that lowers the node.
        if timer := self._backoff_timers.get(node):
            timer.cancel()
        self._backoff_timers[node] = asyncio.get_running_loop().call_later(seconds, requeue)

    def _end_backoff(self) -> None:
        for timer in self._backoff_timers.values():
            timer.cancel()
        self._backoff_timers.clear()

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            queued_at = self._queued_at.pop(name)
            self._in_progress.add(name)
            if node := self._nodes.items.get(name):
                await self._reconcile(node, queued_at)
            else:
                self._failures.pop(name, None)
                self._written.pop(name, None)
            self._in_progress.remove(name)
            if name in self._queued_at:
                self._queue.put_nowait(name)

    async def _reconcile(self, node: Node, queued_at: float) -> None:
        """Patch the node if it does not advertise its target."""
        target, version = self._target(node), None
        if target == UNCHANGED:
            try:
                version = await self._version_to_remove_from(node)
            except ApiError as error:
                self._retry(node.name, error)
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
            # The API server rejects the removal if another program has written the node since.
            patch["metadata"] = {"resourceVersion": version}
        loop = asyncio.get_running_loop()
        before = self._written.get(node.name)
        resets = before.resets_by(target, loop.time()) if before else 0
        try:
            path = f"{NODES}/{segment(node.name)}/status"
            await _completed(self._kube.patch(path, patch, OnlyMetadata, STRATEGIC_MERGE_PATCH))
        except ApiError as error:
            # A node that was deleted is no longer in the mirror when it is next in the queue.
            self._retry(node.name, error)
            return
        self._failures.pop(node.name, None)
        self._foreign.pop(node.name, None)
        self._written[node.name] = Written(target, loop.time(), resets)
        LAG_SECONDS.observe(loop.time() - queued_at)
        log.info(
            "Node %s: changed %s from %s to %s.",
            node.name,
            self._resource,
            node.capacity or "absent",
            "absent" if slots is None else slots,
            extra={"data": {"node": node.name, "slots": slots}},
        )
        if resets > RESETS_BEFORE_BACKOFF:
            self._requeue_after(node.name, backoff(resets - RESETS_BEFORE_BACKOFF))
        if resets == RESETS_BEFORE_BACKOFF + 1:
            log.warning(
                "Node %s: %s keeps changing. Either cloud-api-adaptor restarts repeatedly, or another program writes "
                "the resource. The node's managedFields name the writers: "
                "oc get node %s --show-managed-fields -o yaml",
                node.name,
                self._resource,
                node.name,
                extra={"data": {"node": node.name}},
            )

    def _retry(self, node: str, error: ApiError) -> None:
        log.warning("Retrying: %s", error, extra={"data": {"node": node}})
        self._requeue_after(node, backoff(self._failures[node]))
        self._failures[node] += 1

    async def _version_to_remove_from(self, node: Node) -> str | None:
        """Return the resourceVersion of a node from which to remove the resource, None if the resource stays."""
        if not self._may_lose(node):
            return None
        current = await self._kube.get(f"{NODES}/{segment(node.name)}", _OwnedNode)
        if is_only_writer(current.metadata.managed_fields, self._resource, FIELD_MANAGER):
            return current.metadata.resource_version
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
        """Return the slots of all nodes for Prometheus; None if this replica is not the leader."""
        if not self._is_leading:
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
            before = self._reports
            self._reports = reports(
                list(self._pools.values()),
                nodes.values(),
                {name: self._target(node) for name, node in nodes.items()},
                self._used,
                self._ceiling,
            )
            failed = False
            for name, report in list(self._reports.items()):
                if pool := self._pools.get(name):
                    try:
                        await self._announce(pool, report, before.get(name, Report()))
                    except ApiError as error:
                        # The status, and the other pools, are reported all the same.
                        log.warning("Retrying: %s", error)
                        self._reports[name] = before.get(name, Report())
                        failed = True
                    try:
                        await self._write_status(pool, report)
                    except ApiError as error:
                        log.warning("Retrying: %s", error)
                        failed = True
            if failed:
                self._to_report.set()
            failures = failures + 1 if failed else 0
            await asyncio.sleep(REPORT_INTERVAL + (backoff(failures) if failures else 0))

    async def _announce(self, pool: Pool, report: Report, before: Report) -> None:
        """Log the new problems of a pool. For a PeerPodConfig, create Events as well.

        Problems of other pools are only in the log and the metrics: an Event about a ConfigMap is rarely noticed.
        """
        config = self._config_of(pool)
        for problem, message in report.problems.items():
            if problem in before.problems and report.version == before.version:
                continue
            log.warning(
                "%s %s: %s",
                "PeerPodConfig" if config else "Pool",
                pool.name,
                message,
                extra={"data": {"pool": pool.name, "reason": problem}},
            )
            if not config:
                continue
            namespace = self._configs_namespace
            try:
                await self._kube.create(
                    f"{NAMESPACE.format(namespace=segment(namespace))}/events",
                    event(config, namespace, problem, message, FIELD_MANAGER, _now()),
                    OnlyMetadata,
                )
            except ApiError as error:
                if error.status != 409:  # the Event exists
                    raise

    def _config_of(self, pool: Pool) -> Pool | None:
        """Return the PeerPodConfig of a pool as of now; None if the pool has another source."""
        return self._configs.items.get(pool.name) if pool.source == PEER_POD_CONFIG else None

    def _may_write_status(self) -> bool:
        """Return whether a write to the status of a PeerPodConfig does not cost any peer pod.

        Operators 1.7 and 1.8 move the DaemonSet of cloud-api-adaptor to the nodes of the PeerPodConfig that was
        written last, also if only its status was (CAA's
        src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go at 567287db). The other nodes lose their peer
        pods.
        """
        return self._generation != 1 or len(self._configs.items) < 2

    async def _write_status(self, pool: Pool, report: Report) -> None:
        """Write the fields that have changed in the status of the pool's PeerPodConfig, if it has one."""
        config = self._config_of(pool)
        if config is None or not self._may_write_status():
            return
        observed = config.observed
        status: dict[str, Any] = {}
        if report.complete and not observed.setup_completed:
            status["setupCompleted"] = True
        current = conditions(report, observed, self._resource, _now())
        if self._has_conditions and current != observed.conditions:
            status["conditions"] = current
        if status:
            written = await self._kube.patch(
                f"{self._configs_path}/{segment(config.name)}/status",
                {"metadata": {"resourceVersion": observed.version}, "status": status},
                _RawPeerPodConfig,
            )
            self._has_conditions = bool(written.status.conditions)
            self._configs.put(written)


def _to_pool(raw: _RawPeerPodConfig, previous: Pool | None) -> Pool:
    return pool_of_config(
        raw.metadata.name,
        node_selector=raw.spec.node_selector,
        limit=raw.spec.limit,
        previous=previous,
        observed=Observed(
            uid=raw.metadata.uid,
            generation=raw.metadata.generation,
            version=raw.metadata.resource_version,
            setup_completed=raw.status.setup_completed is True,
            conditions=tuple(raw.status.conditions) if isinstance(raw.status.conditions, list) else (),
        ),
    )


def _to_node_selector(raw: _RawDaemonSet, _previous: dict[str, str] | None) -> dict[str, str] | None:
    """Return the node selector of a DaemonSet of cloud-api-adaptor."""
    if raw.metadata.name not in (FIRST_DAEMON_SET, SECOND_DAEMON_SET):
        return None
    return raw.spec.template.spec.node_selector


def _to_ready_node(raw: _RawAdaptor, _previous: str | None) -> str | None:
    """Return the node of a cloud-api-adaptor pod if it is Ready and not being deleted."""
    is_ready = any(c.type == "Ready" and c.status == "True" for c in raw.status.conditions)
    return raw.spec.node_name if is_ready and raw.metadata.deletion_timestamp is None else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _completed(request: Awaitable[Any]) -> None:
    """Wait for `request`. If this is cancelled, `request` still has DRAIN_SECONDS to complete."""
    task = asyncio.ensure_future(request)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=DRAIN_SECONDS)
        if task.done():
            task.exception()
        task.cancel()
        raise
