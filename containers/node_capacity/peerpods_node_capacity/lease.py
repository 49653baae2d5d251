# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Leader election through a Lease, by the rules of client-go's leaderelection package.

Clocks of different machines are never compared: a Lease has expired once this process has observed it unchanged
for its duration. client-go reads the Lease every two seconds; here a watch follows it, so that a replica notices
a release immediately.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec

from .kube import ApiError, Kube, Metadata, OnlyMetadata, segment
from .metrics import LEADER
from .mirror import LONGEST_PAUSE_WITHOUT_ANSWER, Mirror, backoff

# The leader renews the Lease after the first share of its duration. Without a renewal it stops leading after
# the second one, before another replica may acquire the Lease.
RENEW_AFTER, GIVE_UP_AFTER = 1 / 3, 2 / 3

# A teardown removes the Lease by these labels. One that another owner created does not get them.
LABELS = {"app.kubernetes.io/name": "peerpods-node-capacity", "app.kubernetes.io/part-of": "osc.peerpods"}

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
    """The Lease `name` in `namespace`, for which the replica `identity` competes."""

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
            self._to_record,
            self._observe,
            {"fieldSelector": f"metadata.name={name}"},
        )
        self._changed = asyncio.Event()
        self._observed_at = 0.0
        # The first failure to acquire the Lease while it was free, with its time.
        self._failed_at = 0.0
        self._failure: ApiError | None = None

    def why_not_held(self) -> str | None:
        """Return why this replica cannot acquire the Lease while it is free; None if a replica leads."""
        seconds = time.monotonic() - self._failed_at
        if self._failure is None or seconds < self._duration:
            return None
        return f"no replica leads for {seconds:.0f} seconds: {self._failure}"

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` while this replica holds the Lease, and again whenever it acquires it, until cancelled;
        then release the Lease. `work` must end within a second when it is cancelled.
        """
        await self.mirror.synced.wait()
        while True:
            renewed_at = await self._acquire()
            log.info("Became the leader: %s holds the Lease %s.", self._identity, self._name)
            LEADER.set(1)
            working = asyncio.ensure_future(work())
            renewing = asyncio.ensure_future(self._renew(renewed_at))
            try:
                await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await _cancel(working, renewing)
                await self._release()
                raise
            finally:
                LEADER.set(0)
            await _cancel(working, renewing)
            if not working.cancelled():
                working.result()
            log.warning("Lost leadership: the Lease %s was not renewed in time.", self._name)

    async def _acquire(self) -> float:
        """Wait until this replica holds the Lease; return the time of the acquisition on this process' clock."""
        failures = 0
        while True:
            record = self._record
            now = asyncio.get_running_loop().time()
            if record and record.holder not in ("", self._identity):
                left = self._observed_at + record.duration - now
                if left > 0:
                    self._failure = None
                    await self._wait_for_change(left)
                    continue
            try:
                if record is None:
                    await self._create()
                else:
                    is_takeover = int(record.holder != self._identity)
                    await self._write(record, record.transitions + is_takeover, acquired=True)
            except ApiError as error:
                if self._failure is None:
                    self._failed_at = time.monotonic()
                self._failure = error
                if not await self._read_again(error):
                    log.warning("Retrying: %s", error)
                await self._wait_for_change(backoff(failures, LONGEST_PAUSE_WITHOUT_ANSWER))
                failures += 1
            else:
                self._failure = None
                return now

    async def _renew(self, renewed_at: float) -> None:
        """Renew the Lease until a renewal does not succeed in time."""
        failures = 0
        loop = asyncio.get_running_loop()
        try:
            while True:
                wait = backoff(failures) if failures else self._duration * RENEW_AFTER
                async with asyncio.timeout_at(renewed_at + self._duration * GIVE_UP_AFTER):
                    await asyncio.sleep(wait)
                    began_at, record = loop.time(), self._record
                    if record is None or record.holder != self._identity:
                        # Deleted, acquired by another replica, or this replica's write is not in the mirror yet.
                        failures += 1
                        continue
                    try:
                        await self._write(record, record.transitions)
                    except ApiError as error:
                        log.warning("Retrying: %s", error)
                        await self._read_again(error)
                        failures += 1
                    else:
                        renewed_at, failures = began_at, 0
        except TimeoutError:
            pass

    async def _read_again(self, error: ApiError) -> bool:
        """Read the Lease again if `error` shows that it is not as in the mirror.

        Mostly, the watch delivers its new state soon. After a restore of etcd from a backup, the watch waits for a
        resourceVersion that is in the future.
        """
        if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            return False
        with contextlib.suppress(ApiError):
            await self.mirror.read()
        return True

    async def _release(self) -> None:
        record = self._record
        if record is None or record.holder != self._identity:
            return
        try:
            async with asyncio.timeout(self._duration * RENEW_AFTER):
                await self._kube.patch(
                    self._path,
                    {
                        "metadata": {"resourceVersion": record.version},
                        "spec": {"holderIdentity": "", "renewTime": _now()},
                    },
                    OnlyMetadata,
                )
            log.info("Released the Lease %s.", self._name)
        except (ApiError, TimeoutError) as error:
            log.warning("The Lease %s was not released and will expire: %s", self._name, str(error) or "timeout")

    async def _create(self) -> None:
        created = await self._kube.create(
            self._collection,
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "labels": LABELS},
                "spec": {**self._holder(acquired=True), "leaseTransitions": 0},
            },
            _RawLease,
        )
        self.mirror.put(created)

    async def _write(self, record: _Record, transitions: int, acquired: bool = False) -> None:
        spec = {**self._holder(acquired), "leaseTransitions": transitions}
        written = await self._kube.patch(
            self._path,
            {"metadata": {"resourceVersion": record.version}, "spec": spec},
            _RawLease,
        )
        self.mirror.put(written)

    def _holder(self, acquired: bool) -> dict[str, Any]:
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

    def _to_record(self, raw: _RawLease, _previous: _Record | None) -> _Record:
        return _Record(
            raw.metadata.resource_version,
            raw.spec.holder_identity or "",
            raw.spec.lease_duration_seconds or self._duration,
            raw.spec.lease_transitions or 0,
        )

    def _observe(self, _name: str, _old: _Record | None, _new: _Record | None) -> None:
        self._observed_at = asyncio.get_running_loop().time()
        self._changed.set()

    async def _wait_for_change(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


async def _cancel(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
