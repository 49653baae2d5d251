# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps nodes at what the plan says: mirrors the two collections, patches what differs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from .kube import ApiError, Kube, Metadata, WatchLostError
from .plan import Node, PeerPodConfig, desired_slots, peer_pod_config, status_patch

NODES = "/api/v1/nodes"
PEER_POD_CONFIGS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{namespace}/peerpodconfigs"

# Patches under way at a time, at most.
PATCHES_IN_FLIGHT = 16

log = logging.getLogger(__name__)


class HasMetadata(Protocol):
    metadata: Metadata


Raw = TypeVar("Raw", bound=HasMetadata)
Kept = TypeVar("Kept")


class Mirror(Generic[Raw, Kept]):
    """What we keep of every object of one collection, by name, always as the API server last told us.

    `keep` makes what we keep from an object and what we kept of it before (or None).
    `changed` is called with the name and what is kept from now on (None: the object is
    gone) whenever that is something else than before.
    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        kind: type[Raw],
        keep: Callable[[Raw, Kept | None], Kept],
        changed: Callable[[str, Kept | None], None],
    ):
        self._kube = kube
        self._path = path
        self._kind = kind
        self._keep = keep
        self._changed = changed
        self._version: str | None = None
        self.items: dict[str, Kept] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List once, then follow the changes, through every kind of failure, until cancelled."""
        failures = 0
        while True:
            try:
                if self._version is None:
                    await self._list()
                async for event, raw in self._kube.watch(self._path, self._kind, self._version):
                    failures = 0
                    self._version = raw.metadata.resource_version
                    if event == "DELETED":
                        self._put(raw.metadata.name, None)
                    elif event != "BOOKMARK":
                        self._put(raw.metadata.name, raw)
            except WatchLostError as error:
                log.info("Listing %s again. %s", self._path, error)
                self._version = None
            except ApiError as error:
                log.warning("Will try again: %s", error)
            # Also after a watch that just ended: one that ends at once, again and again, is a failure.
            await asyncio.sleep(backoff(failures))
            failures += 1

    async def _list(self) -> None:
        raws, self._version = await self._kube.list(self._path, self._kind)
        by_name = {raw.metadata.name: raw for raw in raws}
        for name in self.items.keys() - by_name.keys():
            self._put(name, None)
        for name, raw in by_name.items():
            self._put(name, raw)
        self.synced.set()

    def _put(self, name: str, raw: Raw | None) -> None:
        old = self.items.get(name)
        new = None if raw is None else self._keep(raw, old)
        if new == old:
            return
        if new is None:
            del self.items[name]
        else:
            self.items[name] = new
        self._changed(name, new)


class _NodeStatus(msgspec.Struct):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}


class _RawNode(msgspec.Struct):
    metadata: Metadata
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _PeerPodConfigSpec(msgspec.Struct, rename="camel"):
    limit: str | None = None
    node_selector: dict[str, str] | None = None


class _RawPeerPodConfig(msgspec.Struct):
    metadata: Metadata
    spec: _PeerPodConfigSpec = msgspec.field(default_factory=_PeerPodConfigSpec)


class Agent:
    """Makes the nodes of the cluster behind `kube` advertise `resource` as the PeerPodConfigs in
    `namespace` say."""

    def __init__(self, kube: Kube, *, namespace: str, resource: str):
        self._kube = kube
        self._resource = resource
        self._configs: Mirror[_RawPeerPodConfig, PeerPodConfig] = Mirror(
            kube,
            PEER_POD_CONFIGS.format(namespace=quote(namespace, safe="")),
            _RawPeerPodConfig,
            _keep_config,
            self._config_changed,
        )
        self._nodes: Mirror[_RawNode, Node] = Mirror(
            kube, NODES, _RawNode, self._keep_node, lambda name, _node: self._look_at(name)
        )
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._failures: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        """Whether both collections have been read whole."""
        return self._nodes.synced.is_set() and self._configs.synced.is_set()

    async def run(self) -> None:
        """Keep at it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._configs.run())
            # With one collection missing every node would look unselected.
            await self._nodes.synced.wait()
            await self._configs.synced.wait()
            log.info(
                "Ready with %d nodes and %d PeerPodConfigs.",
                len(self._nodes.items),
                len(self._configs.items),
            )
            for _ in range(PATCHES_IN_FLIGHT):
                tasks.create_task(self._work())

    def _keep_node(self, raw: _RawNode, _previous: Node | None) -> Node:
        return Node(
            raw.metadata.name,
            raw.metadata.labels,
            raw.status.capacity.get(self._resource),
            raw.status.allocatable.get(self._resource),
        )

    def _config_changed(self, name: str, config: PeerPodConfig | None) -> None:
        if config and config.bad_limit is not None:
            kept = "what each node has now" if config.limit is None else config.limit
            log.warning(
                "spec.limit of PeerPodConfig %s is %r, not a whole number from 0 on; "
                "%s stays in force until it is.",
                name,
                config.bad_limit,
                kept,
                extra={"data": {"peerpodconfig": name}},
            )
        for node in self._nodes.items:
            self._look_at(node)

    def _look_at(self, node: str) -> None:
        if node not in self._queued:
            self._queued.add(node)
            self._queue.put_nowait(node)

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._queued.discard(name)
            if node := self._nodes.items.get(name):
                await self._settle(node)
            else:
                self._failures.pop(name, None)

    async def _settle(self, node: Node) -> None:
        slots = desired_slots(node, self._configs.items.values())
        patch = status_patch(node, slots, self._resource)
        if patch is not None:
            try:
                await self._kube.patch(f"{NODES}/{quote(node.name, safe='')}/status", patch)
            except ApiError as error:
                # A node that is gone will be gone from the mirror, too, when we look again.
                failures = self._failures.get(node.name, 0)
                self._failures[node.name] = failures + 1
                log.warning("Will try again: %s", error, extra={"data": {"node": node.name}})
                asyncio.get_running_loop().call_later(backoff(failures), self._look_at, node.name)
                return
            log.info(
                "Node %s: %s %s, was %s.",
                node.name,
                self._resource,
                "removed" if slots is None else slots,
                node.capacity or "absent",
                extra={"data": {"node": node.name, "slots": slots}},
            )
        self._failures.pop(node.name, None)


def _keep_config(raw: _RawPeerPodConfig, previous: PeerPodConfig | None) -> PeerPodConfig:
    return peer_pod_config(
        raw.metadata.name,
        node_selector=raw.spec.node_selector,
        limit=raw.spec.limit,
        previous=previous,
    )


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures before this one: doubling from a quarter of a second
    to half a minute, with jitter so that many waiters do not come back together."""
    return min(30.0, 0.25 * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
