# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A collection of the API server's as this process knows it: listed once, then followed by a watch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

from .kube import ApiError, Kube, Metadata, WatchLostError

# Seconds until a collection that the API server does not serve is looked for again.
NOT_SERVED_INTERVAL = 10.0

log = logging.getLogger(__name__)


class HasMetadata(Protocol):
    metadata: Metadata


Raw = TypeVar("Raw", bound=HasMetadata)
Kept = TypeVar("Kept")


class Mirror(Generic[Raw, Kept]):
    """What we keep of every object of one collection, as of the last answer of the API server.

    `keep` makes what we keep from an object and what we kept of it before (or None); None
    keeps nothing. `changed(name, old, new)` is called whenever `new` is something else than
    `old` (None: not there), and once both are in `items`, by name; objects of all namespaces
    are named namespace/name.

    `may_be_absent` is for a collection that the API server need not serve: while it answers 404,
    the mirror is empty and synced.
    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        kind: type[Raw],
        keep: Callable[[Raw, Kept | None], Kept | None],
        changed: Callable[[str, Kept | None, Kept | None], None],
        selectors: Mapping[str, str] | None = None,
        may_be_absent: bool = False,
    ):
        self._kube = kube
        self._path = path
        self._kind = kind
        self._keep = keep
        self._changed = changed
        self._selectors = selectors or {}
        self._may_be_absent = may_be_absent
        self._in_one_namespace = "/namespaces/" in path
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
                async for event, raw in self._kube.watch(self._path, self._kind, self._selectors, self._version):
                    failures = 0
                    self._version = raw.metadata.resource_version
                    if event == "DELETED":
                        self._put(self._name(raw), None)
                    elif event != "BOOKMARK":
                        self.put(raw)
            except WatchLostError as error:
                log.info("Listing %s again. %s", self._path, error)
                self._version = None
            except ApiError as error:
                if self._may_be_absent and error.status == HTTPStatus.NOT_FOUND:
                    self._set_absent()
                    await asyncio.sleep(NOT_SERVED_INTERVAL)
                    failures = 0
                    continue
                log.warning("Will try again: %s", error)
            # Also after a watch that just ended: one that ends immediately, again and again, is a failure.
            await asyncio.sleep(backoff(failures))
            failures += 1

    def put(self, raw: Raw) -> None:
        """Take in an object as the API server has just returned it."""
        name = self._name(raw)
        self._put(name, self._keep(raw, self.items.get(name)))

    async def _list(self) -> None:
        raws, self._version = await self._kube.list(self._path, self._kind, self._selectors)
        for name in self.items.keys() - {self._name(raw) for raw in raws}:
            self._put(name, None)
        for raw in raws:
            self.put(raw)
        self.synced.set()

    def _set_absent(self) -> None:
        if self._version is not None or not self.synced.is_set():
            log.info("The API server does not serve %s.", self._path)
        self._version = None
        for name in list(self.items):
            self._put(name, None)
        self.synced.set()

    def _name(self, raw: Raw) -> str:
        metadata = raw.metadata
        if metadata.namespace and not self._in_one_namespace:
            return f"{metadata.namespace}/{metadata.name}"
        return metadata.name

    def _put(self, name: str, new: Kept | None) -> None:
        old = self.items.pop(name, None)
        if new is not None:
            self.items[name] = new
        if new != old:
            self._changed(name, old, new)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures before this one: doubling from a quarter of a second
    to half a minute, with jitter so that many waiters do not come back together."""
    return min(30.0, 0.25 * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
