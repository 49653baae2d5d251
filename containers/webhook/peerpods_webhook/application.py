# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is answered to an HTTP request (RSGI applications)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import perf_counter

from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from .log import log
from .metrics import REVIEW_SECONDS, REVIEWS
from .mutate import Policy
from .review import answer
from .settings import Settings

REVIEW_PATH = "/mutate-v1-pod"

# Reviews of at most 10 seconds are what an API server waits for unless it is told otherwise.
BODY_SECONDS = 10.0

# How many of the largest bodies may be on their way in at once.
LARGEST_BODIES = 16

JSON = [("content-type", "application/json")]
TEXT = [("content-type", "text/plain; charset=utf-8")]
PROMETHEUS = [("content-type", CONTENT_TYPE_LATEST)]
CLOSE = ("connection", "close")

WhyNotReady = Callable[[], "str | None"]


class Bodies:
    """The memory that bodies on their way in may take, of all listeners together."""

    def __init__(self, settings: Settings):
        self.limit = settings.max_body_bytes
        self._free = settings.max_body_bytes * LARGEST_BODIES

    @contextlib.contextmanager
    def reserved(self, size: int):
        """Raises BusyError where there is no room for `size` bytes."""
        if size > self._free:
            raise BusyError
        self._free -= size
        try:
            yield
        finally:
            self._free += size


class BusyError(Exception):
    """Too much is on its way in."""


class TooLargeError(Exception):
    """A body is longer than MAX_BODY_BYTES."""


class ReviewApplication:
    """Answers reviews, and probes, over one listener.

    `closing`, once set, asks clients of HTTP/1.1 to come back over a new connection.
    """

    def __init__(
        self, policy: Policy, settings: Settings, bodies: Bodies, why_not_ready: WhyNotReady
    ):
        self.closing = False
        self._policy = policy
        self._log_unchanged = settings.log_unchanged
        self._bodies = bodies
        self._probe = ProbeApplication(why_not_ready, metrics=False)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        if scope.path != REVIEW_PATH:
            await self._probe(scope, protocol)
        elif scope.method != "POST":
            _refuse_method(scope, protocol, "POST")
        else:
            began = perf_counter()
            # A client that leaves before it has sent everything gets no answer.
            with contextlib.suppress(ProtocolClosed):
                status, headers, reply, outcome = await self._answer(scope, protocol)
                if self.closing:
                    # HTTP/2 has no such header, and the HTTP layer leaves it out there.
                    headers = [*headers, CLOSE]
                protocol.response_bytes(status, headers, reply)
                REVIEWS.labels(outcome).inc()
                REVIEW_SECONDS.observe(perf_counter() - began)

    async def _answer(
        self, scope: Scope, protocol: HTTPProtocol
    ) -> tuple[int, list[tuple[str, str]], bytes, str]:
        """Status, headers and body of the answer, and the outcome for the metrics."""
        limit = self._bodies.limit
        try:
            body = await self._read(scope, protocol)
        except TooLargeError:
            return (
                413,
                TEXT,
                f"The request body is larger than {limit} bytes.".encode(),
                "too_large",
            )
        except TimeoutError:
            slow = f"The request body took longer than {BODY_SECONDS:.0f} seconds.".encode()
            return 408, [*TEXT, CLOSE], slow, "too_slow"
        except BusyError:
            busy = b"Too many large reviews are on their way in: try again in a second."
            return 503, [*TEXT, ("retry-after", "1")], busy, "busy"
        status, reply, event = answer(body, self._policy)
        if event["outcome"] != "unchanged" or self._log_unchanged:
            log(event)
        return status, JSON if status == 200 else TEXT, reply, event["outcome"]

    async def _read(self, scope: Scope, protocol: HTTPProtocol) -> bytes:
        limit = self._bodies.limit
        announced = scope.headers.get("content-length")
        size = limit if announced is None else int(announced)
        if size > limit:
            raise TooLargeError
        with self._bodies.reserved(size):
            async with asyncio.timeout(BODY_SECONDS):
                if announced is not None:
                    # The HTTP layer holds the client to the length that it announced.
                    return await protocol()
                body = bytearray()
                async for chunk in protocol:
                    body += chunk
                    if len(body) > limit:
                        raise TooLargeError
                return bytes(body)


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
