"""Requests and answers, and the server that carries them: HTTP/1.1 by TLS, kept alive.

Not werkzeug's server, which ends each connection with its answer: a client of
ARM's sends all of its requests through one.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# What both a dict and the headers of a request are.
Headers = Mapping[str, str] | Message

# A client that has gone quiet is let go. Seconds.
IDLE = 120


@dataclass(frozen=True)
class Request:
    """`path` is without query and unquoted, `query` has lower-cased names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Headers
    content: bytes


@dataclass(frozen=True)
class Answer:
    """`length` is the Content-Length that is told, where that is not the content's."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


def answered(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers)


def retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds as Retry-After, others as the header in milliseconds that azure-core reads.

    azure-mgmt-network takes nothing but an integer for Retry-After.
    """
    if seconds == int(seconds):
        return {"Retry-After": str(int(seconds))}
    return {"x-ms-retry-after-ms": str(int(seconds * 1000))}


class Server(ThreadingHTTPServer):
    """Passes requests to `answer`, which may return None to have the connection dropped."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.answer: Callable[[Request], Answer | None] = lambda request: None
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(IDLE)
        # The handshake is the connection's own thread's, at its first read.
        secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away, or do not trust our authority, are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # Head and body of an answer go out in two writes; the second must not wait for an ACK.
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        query = {k.lower(): v for k, v in parse_qsl(target.query, keep_blank_values=True)}
        answer = self.server.answer(Request(self.command, unquote(target.path), query, self.headers, content))
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.content:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        length = len(answer.content) if answer.length is None else answer.length
        if answer.status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)
        self.close_connection |= answer.length is not None

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass
