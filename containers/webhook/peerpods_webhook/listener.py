# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One granian server, on a socket and with a certificate that are held here.

By itself granian binds a port and reads files by their names. But a certificate is renewed by a
second server beside the first: both take connections from one queue, so that none that waits in it
is lost with the one that stops. And what was checked must not have been replaced before it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from granian._granian import SocketHolder
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from .log import log

# Connections that wait to be accepted, and those that are open at once.
BACKLOG = 1024

# A server that closes an idle connection just as a review comes in on it loses that review, since
# the API server does not repeat it. Go's client closes what was idle for 90 seconds: it is to be
# the one that does.
IDLE_SECONDS = 120


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
        listening = socket.create_server(
            (address, port), family=family, backlog=BACKLOG, dualstack_ipv6=any_version
        )
    except OSError as error:
        raise OSError(
            f"{address} port {port} cannot be listened at: {error.strerror}. "
            "Set BIND_ADDRESS and the port to what is this host's and free."
        ) from error
    # Accepted connections inherit it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Listener(Server):
    """Serves an RSGI application; over TLS where `files` are given."""

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        files: Files | None = None,
        tls_min_version: str = "",
    ):
        super().__init__(
            application,
            websockets=False,
            backlog=BACKLOG,
            http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000),
            # The ping finds clients that are gone without a word.
            http2_settings=HTTP2Settings(max_headers_size=2**16, keep_alive_interval=60_000),
            # Its one warning says at each start that the embedded server is experimental.
            log_level=LogLevels.error,
            log_dictconfig={
                "handlers": {"json": {"class": f"{__name__}.JSONHandler"}},
                "loggers": {"_granian": {"handlers": ["json"], "propagate": False}},
            },
        )
        self._listening = listening
        self._files = files
        self._tls_min_version = tls_min_version
        self._started = asyncio.Event()

    async def started(self) -> None:
        """Wait until connections are accepted."""
        await self._started.wait()

    async def serve(self) -> None:
        """Until `stop`. Raises RuntimeError where the server ended by itself."""
        with contextlib.ExitStack() as stack:
            if self._files:
                certificate, key, client_ca = stack.enter_context(self._files.in_memory()).names
                self.ssl_ctx = (
                    True, certificate, key, None, self._tls_min_version,
                    client_ca, [], client_ca is not None,
                )  # fmt: skip
            # After this hook granian makes the task that serves: who waits for the event wakes later.
            self.on_startup(lambda: asyncio.get_running_loop().call_soon(self._started.set))
            await super().serve()
        if not self.interrupt_signal:
            raise RuntimeError("The server ended by itself.")

    def _init_shared_socket(self) -> None:
        # granian closes what it is given.
        self._ssp = None
        self._shd = SocketHolder(os.dup(self._listening.fileno()), False, BACKLOG)


def end_at_once() -> NoReturn:
    """End the process with status 0, as the last thing that is done after a listener has served.

    granian's threads may outlive it for a moment, and the process aborts where one of them calls
    into an interpreter that is being taken down.
    """
    os._exit(0)


class JSONHandler(logging.Handler):
    """The server's own complaints, in the form of our log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log({"level": record.levelname.lower(), "message": self.format(record)})
