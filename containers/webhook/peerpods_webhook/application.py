# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP interface: RSGI applications for reviews and for probes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, NoReturn

from granian._granian import RSGIHTTPProtocol as HTTPProtocol
from granian._granian import RSGIProtocolClosed as ProtocolClosed
from granian.rsgi import Scope
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from .connections import Requests
from .log import log
from .metrics import REVIEWS
from .mutate import Policy
from .review import answer
from .settings import Settings

REVIEW_PATH = "/mutate-v1-pod"

# The default timeout of an API server for a webhook.
BODY_SECONDS = 10

# How many bodies of the largest size may be read concurrently.
LARGEST_BODIES = 16

# What the shortest body counts, so that few enough are read concurrently to choose one quickly that makes room.
SHORTEST_BODY = 2**14

# API servers send a body together with its headers. A body that takes longer makes room for others, in seconds.
EVICTION_SECONDS = 0.5

Headers = list[tuple[str, str]]

JSON: Headers = [("content-type", "application/json")]
TEXT: Headers = [("content-type", "text/plain; charset=utf-8")]
PROMETHEUS: Headers = [("content-type", CONTENT_TYPE_LATEST)]
CLOSE = ("connection", "close")

# The reason why the process does not pass a probe, or None if it does.
Check = Callable[[], str | None]


class BodyError(Exception):
    """A body that was not read to its end, and the response to it. The message is the response's body."""

    def __init__(self, outcome: str, status: int, message: str, *headers: tuple[str, str]):
        super().__init__(message)
        self.outcome = outcome
        self.status = status
        self.headers = [*TEXT, *headers]


@dataclass(eq=False, slots=True)
class Reading:
    """A body that is being read: the address of its client, the memory reserved for it, the start of its request, and
    what is awaited."""

    client: str
    size: int
    began: float
    pending: Any = None
    is_evicted: bool = False


class BodyReader:
    """Reads the bodies of all listeners, within limits of memory and time.

    A client that announces bodies without sending them does not keep other clients out: its bodies make room.
    """

    def __init__(self, settings: Settings):
        self._limit = settings.max_body_bytes
        self._free_bytes = settings.max_body_bytes * LARGEST_BODIES
        # Each listener has a thread.
        self._lock = threading.Lock()
        self._readings: set[Reading] = set()

    async def read(self, scope: Scope, protocol: HTTPProtocol, began: float) -> bytes:
        """Raises BodyError if the body is too large, takes too long or exceeds the free memory."""
        content_length = scope.headers.get("content-length")
        size = self._limit if content_length is None else int(content_length)
        if size > self._limit:
            raise self._too_large()
        reading = Reading(scope.client.rpartition(":")[0], max(size, min(SHORTEST_BODY, self._limit)), began)
        self._reserve(reading)
        try:
            if content_length is None:
                return await self._read_chunks(protocol, reading)
            # The HTTP server enforces the announced length.
            return await self._within_deadline(protocol(), reading)
        finally:
            with self._lock:
                self._readings.remove(reading)
                self._free_bytes += reading.size

    def _reserve(self, reading: Reading) -> None:
        """Reserve memory; raises BodyError if other bodies need it all."""
        while True:
            with self._lock:
                if reading.size <= self._free_bytes:
                    self._free_bytes -= reading.size
                    self._readings.add(reading)
                    return
                victim = self._victim(reading)
                if victim is None:
                    raise _busy()
                victim.is_evicted = True
                pending = victim.pending
            # Runs the application of that request, in this thread, which releases its memory.
            pending.cancel()

    def _victim(self, reading: Reading) -> Reading | None:
        """The body that makes room for another: the oldest one that is overdue, or else one of the client that has
        reserved the most, and more than the client of the new body will have."""
        evictable = [other for other in self._readings if other.pending is not None and not other.is_evicted]
        if not evictable:
            return None
        oldest = min(evictable, key=_began)
        if reading.began - oldest.began > EVICTION_SECONDS:
            return oldest
        reserved: Counter[str] = Counter()
        for other in evictable:
            reserved[other.client] += other.size
        ((client, size),) = reserved.most_common(1)
        if size <= reserved[reading.client] + reading.size:
            return None
        return min((other for other in evictable if other.client == client), key=_began)

    async def _read_chunks(self, protocol: HTTPProtocol, reading: Reading) -> bytes:
        body = bytearray()
        chunks = aiter(protocol)
        with contextlib.suppress(StopAsyncIteration):
            while len(body) <= self._limit:
                body += await self._within_deadline(anext(chunks), reading)
            raise self._too_large()
        return bytes(body)

    async def _within_deadline(self, pending: Any, reading: Reading) -> bytes:
        reading.pending = pending
        try:
            content: bytes = await pending
            return content
        except asyncio.CancelledError:
            if reading.is_evicted:
                raise _busy() from None
            message = f"The request body took longer than {BODY_SECONDS} seconds."
            raise BodyError("too_slow", 408, message, CLOSE) from None
        finally:
            reading.pending = None

    def _too_large(self) -> BodyError:
        return BodyError("too_large", 413, f"The request body is larger than {self._limit} bytes.")

    async def enforce_deadlines(self) -> NoReturn:
        """Cancel reads that take longer than BODY_SECONDS.

        One check per second instead of a timer per body: most bodies arrive with their headers.
        """
        while True:
            await asyncio.sleep(1)
            self._cancel_overdue(monotonic() - BODY_SECONDS)

    # A separate function: a local variable that outlived the check would keep a connection open.
    def _cancel_overdue(self, latest_start: float) -> None:
        with self._lock:
            overdue = [reading.pending for reading in self._readings if reading.began < latest_start]
        for pending in filter(None, overdue):
            pending.cancel()


def _began(reading: Reading) -> float:
    return reading.began


def _busy() -> BodyError:
    message = "Too many large reviews are being read. Retry after a second."
    return BodyError("busy", 503, message, ("retry-after", "1"), CLOSE)


class ReviewApplication:
    """Serves reviews and probes on one listener.

    If `closing` is set, responses ask HTTP/1.1 clients to open a new connection.
    """

    def __init__(
        self, policy: Policy, settings: Settings, bodies: BodyReader, probes: ProbeApplication, requests: Requests
    ):
        self.closing = False
        self._policy = policy
        self._log_unchanged = settings.log_unchanged
        self._bodies = bodies
        self._probes = probes
        self._requests = requests

    async def __call__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        if scope.path != REVIEW_PATH:
            await self._probes(scope, protocol)
            return
        self._requests[scope.client] = monotonic()
        if scope.method != "POST":
            _reject_method(scope, protocol, "POST")
        else:
            await self._review(scope, protocol)

    async def _review(self, scope: Scope, protocol: HTTPProtocol) -> None:
        began = monotonic()
        try:
            body = await self._bodies.read(scope, protocol, began)
        except BodyError as error:
            status, headers, outcome, reply = error.status, error.headers, error.outcome, str(error).encode()
        except ProtocolClosed:
            # The client disconnected before the end of its request.
            return
        else:
            status, reply, event = answer(body, self._policy)
            headers = JSON if status == 200 else TEXT
            outcome = event["outcome"]
            if outcome != "unchanged" or self._log_unchanged:
                log(event)
        if self.closing:
            # The HTTP server omits this header from HTTP/2, which does not have it.
            headers = [*headers, CLOSE]
        protocol.response_bytes(status, headers, reply)
        REVIEWS.record(outcome, monotonic() - began)


class ProbeApplication:
    """Serves liveness and readiness probes, and optionally metrics."""

    def __init__(self, why_not_live: Check, why_not_ready: Check, requests: Requests, *, metrics: bool):
        self._requests = requests
        self._endpoints: dict[str, Callable[[], tuple[int, Headers, bytes]]] = {
            "/healthz": lambda: _state(why_not_live()),
            "/readyz": lambda: _state(why_not_ready()),
        }
        if metrics:
            self._endpoints["/metrics"] = lambda: (200, PROMETHEUS, generate_latest(REGISTRY))

    async def __call__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        self._requests[scope.client] = monotonic()
        endpoint = self._endpoints.get(scope.path)
        if endpoint is None:
            protocol.response_bytes(404, TEXT, f"Nothing is served at {scope.path}.".encode())
        elif scope.method != "GET":
            _reject_method(scope, protocol, "GET")
        else:
            protocol.response_bytes(*endpoint())


def _state(reason: str | None) -> tuple[int, Headers, bytes]:
    return (503, TEXT, reason.encode()) if reason else (200, TEXT, b"ok")


def _reject_method(scope: Scope, protocol: HTTPProtocol, allowed: str) -> None:
    headers = [*TEXT, ("allow", allowed)]
    protocol.response_bytes(405, headers, f"{scope.path} accepts {allowed} only.".encode())
