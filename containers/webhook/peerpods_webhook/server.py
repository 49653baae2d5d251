# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The thin edge: reviews over HTTPS (HTTP/1.1 and HTTP/2), log lines to standard output.

One process, no child processes, no files written: fit for PID 1 in a container with a
read-only root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from granian.constants import SSLProtocols
from granian.log import LogLevels
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope
from granian.server.embed import Server

from .mutate import Policy
from .review import answer

REVIEW_PATH = "/mutate-v1-pod"
METHODS = {REVIEW_PATH: "POST", "/healthz": "GET", "/readyz": "GET"}

# A review takes milliseconds: what is not answered after this never will be.
DRAIN_SECONDS = 1.0

JSON = [("content-type", "application/json")]
TEXT = [("content-type", "text/plain; charset=utf-8")]


@dataclass(frozen=True)
class Settings:
    address: str = "0.0.0.0"
    port: int = 9443
    certificate: Path = Path("/etc/peerpods-webhook/tls/tls.crt")
    key: Path = Path("/etc/peerpods-webhook/tls/tls.key")
    # etcd takes objects of 1.5 MiB, and a review can carry two (object and oldObject).
    max_body_bytes: int = 3 * 2**20
    log_unchanged: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Raises ValueError, as a sentence, where a value makes no sense."""
        address = env.get("BIND_ADDRESS") or cls.address
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ValueError(f"BIND_ADDRESS is no IP address: {error}.") from error
        return cls(
            address=address,
            port=_number(env, "PORT", cls.port, 65535),
            certificate=Path(env.get("TLS_CERT_FILE") or cls.certificate),
            key=Path(env.get("TLS_KEY_FILE") or cls.key),
            max_body_bytes=_number(env, "MAX_BODY_BYTES", cls.max_body_bytes, 2**31 - 1),
            log_unchanged=env.get("LOG_UNCHANGED", "").lower() in ("1", "true", "yes"),
        )


def _number(env: Mapping[str, str], name: str, default: int, highest: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= highest):
        raise ValueError(f"{name} is {text!r}: set it to a whole number from 1 to {highest}.")
    return int(text)


def check_certificate(settings: Settings) -> None:
    """Raises ValueError, as a sentence, where the server could not present its certificate."""
    for variable, path in (("TLS_CERT_FILE", settings.certificate), ("TLS_KEY_FILE", settings.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"{variable} cannot be read: {path}: {error.strerror}. "
                "Mount the Secret with the serving certificate there."
            ) from error
    try:
        # An encrypted key would make OpenSSL ask on the terminal: the empty password fails instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.certificate, settings.key, password=""
        )
    except ssl.SSLError as error:
        raise ValueError(
            f"{settings.certificate} and {settings.key} are no PEM certificate with its unencrypted "
            f"private key: {error.reason or error}. Mount a pair that belongs together."
        ) from error


def application(
    policy: Policy, settings: Settings
) -> Callable[[Scope, HTTPProtocol], Awaitable[None]]:
    """The RSGI application."""
    too_large = f"The request body is larger than {settings.max_body_bytes} bytes.".encode()

    async def respond(scope: Scope, protocol: HTTPProtocol) -> None:
        method = METHODS.get(scope.path)
        if method is None:
            protocol.response_bytes(404, TEXT, f"Nothing is served at {scope.path}.".encode())
        elif scope.method != method:
            headers = [*TEXT, ("allow", method)]
            protocol.response_bytes(405, headers, f"{scope.path} takes {method} only.".encode())
        elif scope.path == REVIEW_PATH:
            # A client that leaves before it has sent everything gets no answer.
            with contextlib.suppress(ProtocolClosed):
                await review(scope, protocol)
        else:
            protocol.response_bytes(200, TEXT, b"ok")

    async def review(scope: Scope, protocol: HTTPProtocol) -> None:
        body = await _read(scope, protocol, settings.max_body_bytes)
        if body is None:
            protocol.response_bytes(413, TEXT, too_large)
            return
        status, reply, event = answer(body, policy)
        if event["outcome"] != "unchanged" or settings.log_unchanged:
            log(event)
        protocol.response_bytes(status, JSON if status == 200 else TEXT, reply)

    return respond


async def _read(scope: Scope, protocol: HTTPProtocol, limit: int) -> bytes | None:
    """The request's body, or None where it is longer than `limit` bytes."""
    if (length := scope.headers.get("content-length")) is not None:
        # The HTTP layer holds the client to the length that it announced.
        return await protocol() if int(length) <= limit else None
    body = bytearray()
    async for chunk in protocol:
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


async def serve(policy: Policy, settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Returns False where the server stopped by itself; raises OSError, as a sentence, where it
    could not listen.

    To take up a renewed certificate in place, call `Server.build_ssl_context` and then
    `Server.reload`: granian starts a second listener on the same port and lets the first one
    finish. (It resolves symbolic links when it builds the context, and a renewed Secret is
    mounted behind another link, so that a reload alone would look for the old files.)
    """
    server = Server(
        application(policy, settings),
        address=settings.address,
        port=settings.port,
        ssl_cert=settings.certificate,
        ssl_key=settings.key,
        ssl_protocol_min=SSLProtocols.tls13,
        websockets=False,
        backlog=1024,
        # Its one warning says at each start that the embedded server is experimental.
        log_level=LogLevels.error,
        log_dictconfig={
            "handlers": {"json": {"class": f"{__name__}.JSONHandler"}},
            "loggers": {"_granian": {"handlers": ["json"], "propagate": False}},
        },
    )
    listening = {
        "outcome": "listening",
        "address": settings.address,
        "port": settings.port,
        "runtimeClassNames": sorted(policy.runtime_classes),
        "extendedResource": policy.extended_resource,
    }
    server.on_startup(lambda: log(listening))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as drain:

            def stop() -> None:
                server.stop()
                drain.reschedule(loop.time() + DRAIN_SECONDS)

            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, stop)
            await server.serve()
    except TimeoutError:
        # Some client keeps an HTTP/2 connection open that was told to go away.
        pass
    except RuntimeError as error:
        # This is how granian reports the system's error: its first line, then a stack trace.
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"{settings.address} port {settings.port} cannot be listened at: {reason}. "
            "Set BIND_ADDRESS and PORT to what is this host's and free."
        ) from error
    return server.interrupt_signal


class JSONHandler(logging.Handler):
    """The server's own complaints, in the form of our log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log({"level": record.levelname.lower(), "message": self.format(record)})


def log(event: dict[str, Any]) -> None:
    """Write one JSON line to standard output."""
    line = msgspec.json.encode({"time": datetime.now(timezone.utc), **event})
    # A pod is not turned away because nobody reads the log any more.
    with contextlib.suppress(OSError):
        os.write(1, line + b"\n")
