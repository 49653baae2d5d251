"""Requests and responses, and their server: HTTP/1.1 over TLS with persistent connections.

Not the server of werkzeug, which closes each connection after its response: clients of ARM send all requests over one
connection.
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

# The type of a dict and of the headers of a request.
Headers = Mapping[str, str] | Message

# Idle connections are closed after this many seconds.
IDLE = 120


@dataclass(frozen=True)
class Request:
    """`path` is unquoted and without the query, `query` has lower-case names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Headers
    content: bytes


@dataclass(frozen=True)
class Answer:
    """`length` is the Content-Length header, if it differs from the length of the content."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


def answered(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers)


def retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds as Retry-After, others as the header in milliseconds that azure-core reads.

    azure-mgmt-network accepts only integers for Retry-After.
    """
    if seconds == int(seconds):
        return {"Retry-After": str(int(seconds))}
    return {"x-ms-retry-after-ms": str(int(seconds * 1000))}


class Server(ThreadingHTTPServer):
    """Passes requests to `answer`, which may return None to close the connection."""

    daemon_threads = True
    # Each of many pods has a connection.
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.answer: Callable[[Request], Answer | None] = lambda request: None
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(IDLE)
        # The thread of the connection does the handshake, at its first read.
        secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect or do not trust the CA."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # The head and the body of a response are written separately; the second write must not wait for an ACK.
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
