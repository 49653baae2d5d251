# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Leader election through a Lease, by the rules of client-go's leaderelection package.

No clock is compared with another's: a Lease has expired once this process has seen it unchanged
for as long as it lasts. Unlike client-go, who waits for a Lease watches it instead of reading it
every two seconds, and so learns immediately that it was released.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from .kube import ApiError, Kube, Metadata, segment
from .metrics import LEADER
from .mirror import Mirror, backoff

# A holder renews after this share of the duration, and lets go after that one without a renewal:
# before another replica may take it.
RENEW, GIVE_UP = 1 / 3, 2 / 3

log = logging.getLogger(__name__)


class _LeaseSpec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _RawLease(msgspec.Struct):
    metadata: Metadata
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


@dataclass(frozen=True)
class _Record:
    version: str
    holder: str
    duration: int
    transitions: int


class Lease:
    """The Lease `name` in `namespace`, as the replica `identity` competes for it."""

    def __init__(self, kube: Kube, *, namespace: str, name: str, identity: str, duration_seconds: int):
        self._kube = kube
        self._name = name
        self._identity = identity
        self._duration = duration_seconds
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{segment(namespace)}/leases"
        self._path = f"{self._collection}/{segment(name)}"
        self.mirror: Mirror[_RawLease, _Record] = Mirror(
            kube,
            self._collection,
            _RawLease,
            self._keep,
            self._seen,
            {"fieldSelector": f"metadata.name={name}"},
        )
        self._news = asyncio.Event()
        self._seen_at = 0.0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` whenever and for as long as this replica holds the Lease, until cancelled;
        then release it. `work` has a second to end when it is cancelled.
        """
        await self.mirror.synced.wait()
        while True:
            renewed_at = await self._acquire()
            log.info("Leading: %s holds the Lease %s.", self._identity, self._name)
            LEADER.set(1)
            working = asyncio.ensure_future(work())
            renewing = asyncio.ensure_future(self._renew(renewed_at))
            try:
                await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await _ended(working, renewing)
                await self._release()
                raise
            finally:
                LEADER.set(0)
            await _ended(working, renewing)
            if not working.cancelled():
                working.result()
            log.warning("No longer leading: the Lease %s was not renewed in time.", self._name)

    async def _acquire(self) -> float:
        """Wait until the Lease is ours; returns since when, on this process' clock."""
        failures = 0
        while True:
            record = self._record
            now = asyncio.get_running_loop().time()
            if record and record.holder not in ("", self._identity):
                left = self._seen_at + record.duration - now
                if left > 0:
                    await self._wait_for_news(left)
                    continue
            try:
                if record is None:
                    await self._create()
                else:
                    taken = int(record.holder != self._identity)
                    await self._write(record, record.transitions + taken, acquired=True)
            except ApiError as error:
                # The other replica was faster, which the watch is about to tell.
                if error.status != 409:
                    log.warning("Will try again: %s", error)
                await self._wait_for_news(backoff(failures))
                failures += 1
            else:
                return now

    async def _renew(self, renewed_at: float) -> None:
        """Renew for as long as that succeeds in time."""
        failures = 0
        loop = asyncio.get_running_loop()
        try:
            while True:
                wait = backoff(failures) if failures else self._duration * RENEW
                async with asyncio.timeout_at(renewed_at + self._duration * GIVE_UP):
                    await asyncio.sleep(wait)
                    began_at, record = loop.time(), self._record
                    if record is None or record.holder != self._identity:
                        # Deleted or taken, or not yet known to be ours.
                        failures += 1
                        continue
                    try:
                        await self._write(record, record.transitions)
                    except ApiError as error:
                        log.warning("Will try again: %s", error)
                        failures += 1
                    else:
                        renewed_at, failures = began_at, 0
        except TimeoutError:
            pass

    async def _release(self) -> None:
        record = self._record
        if record is None or record.holder != self._identity:
            return
        try:
            async with asyncio.timeout(self._duration * RENEW):
                await self._kube.patch(
                    self._path,
                    {
                        "metadata": {"resourceVersion": record.version},
                        "spec": {"holderIdentity": "", "renewTime": _now()},
                    },
                )
            log.info("The Lease %s is released.", self._name)
        except (ApiError, TimeoutError) as error:
            log.warning("The Lease %s will expire instead: %s", self._name, error)

    async def _create(self) -> None:
        created = await self._kube.create(
            self._collection,
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": {**self._held(acquired=True), "leaseTransitions": 0},
            },
            _RawLease,
        )
        self.mirror.put(created)

    async def _write(self, record: _Record, transitions: int, acquired: bool = False) -> None:
        spec = {**self._held(acquired), "leaseTransitions": transitions}
        written = await self._kube.patch(
            self._path,
            {"metadata": {"resourceVersion": record.version}, "spec": spec},
            _RawLease,
        )
        self.mirror.put(written)

    def _held(self, acquired: bool) -> dict[str, Any]:
        now = _now()
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration,
            "renewTime": now,
            **({"acquireTime": now} if acquired else {}),
        }

    @property
    def _record(self) -> _Record | None:
        return self.mirror.items.get(self._name)

    def _keep(self, raw: _RawLease, _previous: _Record | None) -> _Record:
        return _Record(
            raw.metadata.resource_version,
            raw.spec.holder_identity or "",
            raw.spec.lease_duration_seconds or self._duration,
            raw.spec.lease_transitions or 0,
        )

    def _seen(self, _name: str, _old: _Record | None, _new: _Record | None) -> None:
        self._seen_at = asyncio.get_running_loop().time()
        self._news.set()

    async def _wait_for_news(self, seconds: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass


async def _ended(*tasks: asyncio.Future) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
