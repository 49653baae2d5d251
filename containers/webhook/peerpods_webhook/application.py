# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is answered to an HTTP request (RSGI applications)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, NoReturn

from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from .log import log
from .metrics import REVIEW_SECONDS, REVIEWS
from .mutate import Policy
from .review import answer
from .settings import Settings

REVIEW_PATH = "/mutate-v1-pod"

# Reviews of at most 10 seconds are what an API server waits for unless it is told otherwise.
BODY_SECONDS = 10

# How many of the largest bodies may be on their way in at once.
LARGEST_BODIES = 16

JSON = [("content-type", "application/json")]
TEXT = [("content-type", "text/plain; charset=utf-8")]
PROMETHEUS = [("content-type", CONTENT_TYPE_LATEST)]
CLOSE = ("connection", "close")

WhyNotReady = Callable[[], "str | None"]


class BodyError(Exception):
    """Why a body was not read to its end, as what is answered to it."""

    def __init__(self, outcome: str, status: int, sentence: str, *headers: tuple[str, str]):
        super().__init__(sentence)
        self.outcome = outcome
        self.status = status
        self.headers = [*TEXT, *headers]


class Bodies:
    """Those on their way in, of all listeners together: how much memory they may take, and when."""

    def __init__(self, settings: Settings):
        self._limit = settings.max_body_bytes
        self._free = settings.max_body_bytes * LARGEST_BODIES
        # Listeners have a thread each.
        self._lock = threading.Lock()
        # When the body began to come that something is awaited of.
        self._began: dict[Any, float] = {}

    async def read(self, scope: Scope, protocol: HTTPProtocol) -> bytes:
        """Raises BodyError where it is too large, takes too long or there is no room for it."""
        announced = scope.headers.get("content-length")
        size = self._limit if announced is None else int(announced)
        if size > self._limit:
            raise self._too_large()
        with self._lock:
            if size > self._free:
                busy = "Too many large reviews are on their way in: try again in a second."
                raise BodyError("busy", 503, busy, ("retry-after", "1"))
            self._free -= size
        try:
            began = monotonic()
            if announced is None:
                return await self._read_chunks(protocol, began)
            # The HTTP layer holds the client to the length that it announced.
            return await self._in_time(protocol(), began)
        finally:
            with self._lock:
                self._free += size

    async def _read_chunks(self, protocol: HTTPProtocol, began: float) -> bytes:
        body = bytearray()
        chunks = aiter(protocol)
        with contextlib.suppress(StopAsyncIteration):
            while len(body) <= self._limit:
                body += await self._in_time(anext(chunks), began)
            raise self._too_large()
        return bytes(body)

    async def _in_time(self, awaited: Any, began: float) -> bytes:
        self._began[awaited] = began
        try:
            return await awaited
        except asyncio.CancelledError:
            slow = f"The request body took longer than {BODY_SECONDS} seconds."
            raise BodyError("too_slow", 408, slow, CLOSE) from None
        finally:
            del self._began[awaited]

    def _too_large(self) -> BodyError:
        return BodyError("too_large", 413, f"The request body is larger than {self._limit} bytes.")

    async def expire(self) -> NoReturn:
        """Give up those that take longer than BODY_SECONDS.

        One look at them each second, instead of a timer for each: nearly all are there at once.
        """
        while True:
            await asyncio.sleep(1)
            self._give_up(monotonic() - BODY_SECONDS)

    # A function of its own: a name that still held one between two looks would hold its connection.
    def _give_up(self, latest: float) -> None:
        for awaited, began in list(self._began.items()):
            if began < latest:
                awaited.cancel()


class ReviewApplication:
    """Answers reviews, and probes, over one listener.

    `closing`, once set, asks clients of HTTP/1.1 to come back over a new connection.
    """

    def __init__(self, policy: Policy, settings: Settings, bodies: Bodies, why_not_ready: WhyNotReady):
        self.closing = False
        self._policy = policy
        self._log_unchanged = settings.log_unchanged
        self._bodies = bodies
        self._probe = ProbeApplication(why_not_ready, metrics=False)

    async def __call__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        if scope.path != REVIEW_PATH:
            await self._probe(scope, protocol)
        elif scope.method != "POST":
            _refuse_method(scope, protocol, "POST")
        else:
            began = perf_counter()
            try:
                body = await self._bodies.read(scope, protocol)
                status, headers, reply, outcome = self._answer(body)
            except BodyError as error:
                status, headers, outcome = error.status, error.headers, error.outcome
                reply = str(error).encode()
            # A client that leaves before it has sent everything gets no answer.
            except ProtocolClosed:
                return
            if self.closing:
                # HTTP/2 has no such header, and the HTTP layer leaves it out there.
                headers = [*headers, CLOSE]
            protocol.response_bytes(status, headers, reply)
            REVIEWS[outcome].inc()
            REVIEW_SECONDS.observe(perf_counter() - began)

    def _answer(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, str]:
        """Status, headers and body of the answer, and the outcome for the metrics."""
        status, reply, event = answer(body, self._policy)
        outcome = event["outcome"]
        if outcome != "unchanged" or self._log_unchanged:
            log(event)
        return status, JSON if status == 200 else TEXT, reply, outcome


class ProbeApplication:
    """Answers who asks whether the process lives, may get reviews, and how it is doing."""

    def __init__(self, why_not_ready: WhyNotReady, *, metrics: bool):
        self._answers = {
            "/healthz": lambda: (200, TEXT, b"ok"),
            "/readyz": lambda: _readiness(why_not_ready()),
        }
        if metrics:
            self._answers["/metrics"] = lambda: (200, PROMETHEUS, generate_latest(REGISTRY))

    async def __call__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        answer = self._answers.get(scope.path)
        if answer is None:
            protocol.response_bytes(404, TEXT, f"Nothing is served at {scope.path}.".encode())
        elif scope.method != "GET":
            _refuse_method(scope, protocol, "GET")
        else:
            protocol.response_bytes(*answer())


def _readiness(obstacle: str | None):
    return (503, TEXT, obstacle.encode()) if obstacle else (200, TEXT, b"ok")


def _refuse_method(scope: Scope, protocol: HTTPProtocol, method: str) -> None:
    headers = [*TEXT, ("allow", method)]
    protocol.response_bytes(405, headers, f"{scope.path} takes {method} only.".encode())
