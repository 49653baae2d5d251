# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A local copy of a collection of the API server: listed once, then kept up to date by a watch."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

from .kube import ApiError, Kube, Metadata, OnlyMetadata, WatchLostError

# The longest pause between two attempts, in seconds.
LONGEST_PAUSE = 30.0

# The same for an API server that does not answer at all: a refused connection costs little, and changes must be
# followed soon after it is back.
LONGEST_PAUSE_WITHOUT_ANSWER = 2.0

# Seconds between two requests for a collection that the API server does not serve.
NOT_SERVED_INTERVAL = 10.0

# Seconds for which a mirror may fail to follow its collection before it counts as lost: an API server that restarts is
# away for a few seconds.
LOST_AFTER = 10.0

# Seconds without an attempt or an event after which a mirror is stuck: far longer than a watch without events and all
# pauses take.
STUCK_AFTER = 600.0

log = logging.getLogger(__name__)


class HasMetadata(Protocol):
    metadata: Metadata


Raw = TypeVar("Raw", bound=HasMetadata)
Item = TypeVar("Item")


class Mirror(Generic[Raw, Item]):
    """The objects of one collection, as of the last response of the API server.

    `convert` returns the item to store for an object, from the object and the item stored before (or None);
    objects for which it returns None are not stored. `changed(name, old, new)` is called after an item has
    changed in `items` (None: not there). Names are namespace/name if the collection has all namespaces.

    `may_be_absent` is for a collection that the API server need not serve: while it returns 404, the mirror is
    empty and synced.
    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        kind: type[Raw],
        convert: Callable[[Raw, Item | None], Item | None],
        changed: Callable[[str, Item | None, Item | None], None],
        selectors: Mapping[str, str] | None = None,
        may_be_absent: bool = False,
    ):
        self._kube = kube
        self.path = path
        self._kind = kind
        self._convert = convert
        self._changed = changed
        self._selectors = selectors or {}
        self._may_be_absent = may_be_absent
        self._in_one_namespace = "/namespaces/" in path
        self._version: str | None = None
        # The first failure since the collection was last followed, with its time.
        self._failed_at = 0.0
        self._failure: ApiError | None = None
        self.items: dict[str, Item] = {}
        self.synced = asyncio.Event()
        # The time of the last attempt or event, on this process' clock.
        self._active_at = time.monotonic()

    def why_lost(self) -> str | None:
        """Return why the mirror has not followed its collection for some time; None if it follows it."""
        seconds = time.monotonic() - self._failed_at
        if self._failure is None or seconds < LOST_AFTER:
            return None
        return f"not following {self.path} for {seconds:.0f} seconds: {self._failure}"

    def is_stuck(self) -> bool:
        """Return whether the mirror no longer even tries to follow its collection."""
        return time.monotonic() - self._active_at > STUCK_AFTER

    async def run(self) -> None:
        """List once, then follow the changes until cancelled; every failure is retried."""
        failures, is_away = 0, False
        while True:
            self._active_at = time.monotonic()
            try:
                version = self._version or await self.read()
                async for event, raw in self._kube.watch(
                    self.path, self._kind, self._selectors, version, self._follows
                ):
                    failures = 0
                    self._active_at = time.monotonic()
                    self._version = raw.metadata.resource_version
                    if isinstance(raw, OnlyMetadata):  # a bookmark
                        continue
                    if event == "DELETED":
                        self._put(self._name(raw), None)
                    else:
                        self.put(raw)
            except ApiError as error:
                if isinstance(error, WatchLostError):
                    self._version = None
                if self._may_be_absent and error.status == HTTPStatus.NOT_FOUND:
                    self._set_absent()
                    await asyncio.sleep(NOT_SERVED_INTERVAL)
                    failures = 0
                    continue
                if is_away != (error.status is None):
                    # An API server that is back may reject the first requests, for example while it reads its roles.
                    failures, is_away = 0, not is_away
                if error.status == HTTPStatus.GONE:
                    log.info("Listing %s again. %s", self.path, error)
                else:
                    self._fails(error)
                    # The first failure, and fewer and fewer of those that follow.
                    if failures & (failures - 1) == 0:
                        log.warning("Retrying: %s", error)
            # A watch that ends without an error is retried in the same way: it may end immediately every time.
            await asyncio.sleep(backoff(failures, LONGEST_PAUSE_WITHOUT_ANSWER if is_away else LONGEST_PAUSE))
            failures += 1

    def _fails(self, error: ApiError) -> None:
        if self._failure is None:
            self._failed_at = time.monotonic()
        self._failure = error

    def _follows(self) -> None:
        self._failure = None

    def put(self, raw: Raw) -> None:
        """Store an object that the API server has just returned."""
        name = self._name(raw)
        self._put(name, self._convert(raw, self.items.get(name)))

    async def read(self) -> str:
        """List the collection; return its resourceVersion. Raises ApiError."""
        names: set[str] = set()
        version = ""
        # Page by page, because objects as the API server returns them take much more memory than items.
        async for raws, listed_version in self._kube.pages(self.path, self._kind, self._selectors):
            version = listed_version
            for raw in raws:
                self.put(raw)
                names.add(self._name(raw))
        for name in self.items.keys() - names:
            self._put(name, None)
        self._version = version
        self.synced.set()
        return version

    def _set_absent(self) -> None:
        if self._version is not None or not self.synced.is_set():
            log.info("The API server does not serve %s.", self.path)
        self._version = None
        for name in list(self.items):
            self._put(name, None)
        self._follows()
        self.synced.set()

    def _name(self, raw: Raw) -> str:
        metadata = raw.metadata
        if metadata.namespace and not self._in_one_namespace:
            return f"{metadata.namespace}/{metadata.name}"
        return metadata.name

    def _put(self, name: str, new: Item | None) -> None:
        old = self.items.pop(name, None)
        if new is not None:
            self.items[name] = new
        if new != old:
            self._changed(name, old, new)


def backoff(failures: int, longest: float = LONGEST_PAUSE) -> float:
    """Return the seconds to wait after so many earlier failures: from a quarter of a second, doubled each time,
    to `longest`. With jitter, so that many clients do not retry together."""
    seconds: float = min(longest, 0.25 * 2 ** min(failures, 10))
    return seconds * random.uniform(0.5, 1)
