# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A granian worker without granian's server around it.

That server binds the port itself and reads the certificate by file name. To renew a certificate,
this process starts a second listener on the same socket: both accept connections from one queue,
so that no connection in it is lost when the first listener stops. And the worker must load exactly
the bytes that were checked, which may have been replaced on disk since.

That server also passes each request to an event loop and the response back, twice if a body is
read. A review takes microseconds: it runs in the thread of the worker instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

from granian import _granian
from granian._granian import RSGIHTTPProtocol as HTTPProtocol
from granian.constants import HTTPModes
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import Scope

from .log import log

# The type stubs of granian's own module are incomplete.
_worker: Any = _granian

# The maximum number of connections that wait to be accepted. Linux permits 4096 by default, and drops further ones
# without an answer, so that their clients try again after a second.
BACKLOG = 4000

# More than the bounds in connections.py: granian stops accepting connections when so many are open.
MAX_CONNECTIONS = 4096

Application = Callable[[Scope, HTTPProtocol], Coroutine[Any, Any, None]]


class Files(NamedTuple):
    """The contents of PEM files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    @contextlib.contextmanager
    def in_memory(self) -> Iterator[MemoryFiles]:
        """Provide the contents as files in memory, which this process and its children can open."""
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
    """Raises OSError with a sentence if the process cannot listen on the port."""
    any_version = ipaddress.ip_address(address) == ipaddress.IPv6Address("::")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=any_version)
    except OSError as error:
        raise OSError(
            f"Listening on {address} port {port} failed: {error.strerror}. "
            "Set BIND_ADDRESS to an address of this host, and the port to a free one."
        ) from error
    # Accepted connections inherit this option.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Listener:
    """Serves an RSGI application in a thread of its own, over TLS if `files` is set.

    The application must await only what its protocol returns. It runs in the thread of the
    listener, and after a cancellation in the thread that cancelled.

    The process aborts if the TLS library cannot use the files.
    """

    def __init__(
        self,
        application: Application,
        listening: socket.socket,
        files: Files | None = None,
        *,
        tls_min_version: str = "",
        idle_seconds: int = 120,
    ):
        self._stopped = asyncio.Event()
        notify = partial(asyncio.get_running_loop().call_soon_threadsafe, self._stopped.set)
        self._signal = _worker.WorkerSignal()
        self._signal.add_cb(notify)
        scheduler = _worker.CallbackScheduler(InlineLoop, None, None, None, None)
        scheduler._schedule_fn = partial(_start, application)
        # granian closes its socket when it stops.
        holder = _worker.SocketHolder(os.dup(listening.fileno()), False, BACKLOG)
        with contextlib.ExitStack() as stack:
            tls: dict[str, Any] = {}
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
            worker = _worker.RSGIWorker(
                worker_id=1,
                sock=(None, holder),
                ipc=None,
                blocking_threads=1,
                backpressure=MAX_CONNECTIONS,
                http_mode=HTTPModes.auto,
                http1_opts=HTTP1Settings(header_read_timeout=idle_seconds * 1000),
                # The ping detects clients that disappeared without closing their connection.
                http2_opts=HTTP2Settings(max_headers_size=2**16, keep_alive_interval=60_000),
                **tls,
            )
            # The worker has read the files when this returns.
            worker.serve_async(scheduler, InlineLoop, self._signal)

    def stop(self) -> None:
        """Stop accepting connections, and end after the requests in flight."""
        self._signal.set()

    async def stopped(self) -> None:
        await self._stopped.wait()


class InlineLoop:
    """Takes the place of the event loop that granian expects, and runs each callback immediately."""

    @staticmethod
    def call_soon(callback: Callable[[Any], None], argument: Any, **_context: Any) -> None:
        callback(argument)

    call_soon_threadsafe = call_soon


def _start(application: Application, request: Any) -> None:
    _step(request, application(request.scope, request.proto), None)


def _step(request: Any, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Run the application until its next await or its end. Never raises."""
    try:
        if awaited is not None and awaited.cancelled():
            awaited = coroutine.throw(asyncio.CancelledError())
        else:
            awaited = coroutine.send(None)
        awaited.add_done_callback(partial(_step, request, coroutine))
    except StopIteration:
        request.done()
    except BaseException as error:  # noqa: BLE001
        request.err(error)


def exit_immediately() -> NoReturn:
    """End the process with status 0 without finalizing the interpreter.

    The threads of granian can outlive a listener for a moment. The process aborts if one of them
    calls into an interpreter that is being finalized.
    """
    os._exit(0)


class JSONHandler(logging.Handler):
    """Writes the errors of the worker in the format of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        log({"level": record.levelname.lower(), "message": self.format(record)})


_worker_logger = logging.getLogger("_granian")
_worker_logger.addHandler(JSONHandler(logging.ERROR))
_worker_logger.propagate = False
