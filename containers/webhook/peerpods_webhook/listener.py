# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One granian worker, on a socket and with a certificate that are held here.

Its server, around the worker, binds a port and reads files by their names. But a certificate is
renewed by a second listener beside the first: both take connections from one queue, so that none
that waits in it is lost with the one that stops. And what was checked must not have been replaced
before it is read.

The server also hands each request to an event loop and its answer back, twice over where a body is
read. An answer that takes microseconds is given where the worker stands: in its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

from granian._granian import CallbackScheduler, RSGIWorker, SocketHolder, WorkerSignal
from granian.constants import HTTPModes
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import HTTPProtocol, Scope

from .log import log

# Connections that wait to be accepted, and those that are open at once.
BACKLOG = 1024

# A server that closes an idle connection just as a review comes in on it loses that review, since
# the API server does not repeat it. Go's client closes what was idle for 90 seconds: it is to be
# the one that does.
IDLE_SECONDS = 120

Application = Callable[[Scope, HTTPProtocol], Coroutine[Any, Any, None]]


class Files(NamedTuple):
    """The bytes of PEM files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    @contextlib.contextmanager
    def in_memory(self) -> Iterator[MemoryFiles]:
        """As files that have a name for this process and its children, but are on no disk."""
        with contextlib.ExitStack() as stack:
            names: list[str | None] = []
            descriptors = []
            for content in self:
                if content is None:
                    names.append(None)
                    continue
                file = stack.enter_context(os.fdopen(os.memfd_create("pem"), "wb"))
                file.write(content)
                file.flush()
                names.append(f"/proc/self/fd/{file.fileno()}")
                descriptors.append(file.fileno())
            yield MemoryFiles(names, descriptors)


class MemoryFiles(NamedTuple):
    names: list[str | None]
    descriptors: list[int]


def listening_socket(address: str, port: int) -> socket.socket:
    """Raises OSError, as a sentence, where the port cannot be listened at."""
    any_version = ipaddress.ip_address(address) == ipaddress.IPv6Address("::")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=any_version)
    except OSError as error:
        raise OSError(
            f"{address} port {port} cannot be listened at: {error.strerror}. "
            "Set BIND_ADDRESS and the port to what is this host's and free."
        ) from error
    # Accepted connections inherit it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Listener:
    """Serves an RSGI application, from a thread of its own; over TLS where `files` are given.

    The application awaits nothing but what it gets from its protocol. It is called in one thread,
    and goes on in another only where what it awaits is cancelled there.

    The process is aborted where the TLS library cannot use the files.
    """

    def __init__(
        self,
        application: Application,
        listening: socket.socket,
        files: Files | None = None,
        tls_min_version: str = "",
    ):
        self._stopped = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, self._stopped.set)
        self._signal = WorkerSignal()
        self._signal.add_cb(wake)
        scheduler = CallbackScheduler(AtOnce, None, None, None, None)
        scheduler._schedule_fn = partial(_begin, application)
        # granian closes what it is given.
        holder = SocketHolder(os.dup(listening.fileno()), False, BACKLOG)
        with contextlib.ExitStack() as stack:
            tls = {}
            if files:
                certificate, key, client_ca = stack.enter_context(files.in_memory()).names
                tls = {
                    "ssl_enabled": True,
                    "ssl_cert": certificate,
                    "ssl_key": key,
                    "ssl_protocol_min": tls_min_version,
                    "ssl_ca": client_ca,
                    "ssl_client_verify": client_ca is not None,
                }
            worker = RSGIWorker(
                worker_id=1,
                sock=(None, holder),
                ipc=None,
                blocking_threads=1,
                backpressure=BACKLOG,
                http_mode=HTTPModes.auto,
                http1_opts=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000),
                # The ping finds clients that are gone without a word.
                http2_opts=HTTP2Settings(max_headers_size=2**16, keep_alive_interval=60_000),
                **tls,
            )
            # It has read the files by the time that this returns.
            worker.serve_async(scheduler, AtOnce, self._signal)

    def stop(self) -> None:
        """Take no more connections, and end once what is in flight is answered."""
        self._signal.set()

    async def stopped(self) -> None:
        await self._stopped.wait()


class AtOnce:
    """Where granian expects an event loop: a call is made here and now."""

    @staticmethod
    def call_soon(call: Callable[[Awaitable], None], awaited: Awaitable, **_context: Any) -> None:
        call(awaited)

    call_soon_threadsafe = call_soon


def _begin(application: Application, request: Any) -> None:
    _go_on(request, application(request.scope, request.proto), None)


def _go_on(request: Any, answering: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Run the application until it awaits something again, or is done. Never raises."""
    try:
        if awaited is not None and awaited.cancelled():
            awaited = answering.throw(asyncio.CancelledError())
        else:
            awaited = answering.send(None)
        awaited.add_done_callback(partial(_go_on, request, answering))
    except StopIteration:
        request.done()
    except BaseException as error:  # noqa: BLE001
        request.err(error)


def end_at_once() -> NoReturn:
    """End the process with status 0, as the last thing that is done after a listener has served.

    granian's threads may outlive it for a moment, and the process aborts where one of them calls
    into an interpreter that is being taken down.
    """
    os._exit(0)


class JSONHandler(logging.Handler):
    """The worker's own complaints, in the form of our log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log({"level": record.levelname.lower(), "message": self.format(record)})


_complaints = logging.getLogger("_granian")
_complaints.addHandler(JSONHandler(logging.ERROR))
_complaints.propagate = False
