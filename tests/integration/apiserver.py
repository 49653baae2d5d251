"""The requests to an API server, and a proxy between a module and the API server."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import urllib3

from tests.cluster.launcher import Cluster


def requests_of(cluster: Cluster, user: str) -> list[tuple[str, str]]:
    """(verb, path with query) of each request `user` made, from the audit log, without discovery.

    kubernetes.core reads /version and /apis once per server and machine and caches the responses.
    """
    events = map(json.loads, cluster.audit_log.read_text().splitlines())
    return [
        (event["verb"], unquote(event["requestURI"]))
        for event in events
        if event["user"].get("username") == user  # A request with rejected credentials has no user.
        and event["stage"] == "ResponseComplete"
        and event["requestURI"] not in ("/version", "/apis")
    ]


class Break(enum.Enum):
    """Where a connection is reset instead of answered."""

    BEFORE = "before the request reaches the API server"
    AFTER = "after the API server has done what it was asked to"
    AMID = "in the middle of the API server's answer"


# A status and body, with headers or without.
Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


@contextlib.contextmanager
def between(
    cluster: Cluster, kubeconfig: Path, intervene: Callable[[str, str], Answer | Break | None]
) -> Iterator[str]:
    """The URL of a proxy to the API server, as the user of `kubeconfig`, while the block runs.

    `intervene(method, path)` runs before each request is passed on; what it returns is
    returned instead of the API server's response, or the point where the connection breaks.
    """
    upstream = urllib3.PoolManager(
        ca_certs=str(cluster.directory / "ca.crt"),
        cert_file=str(kubeconfig.with_suffix(".crt")),
        key_file=str(kubeconfig.with_suffix(".key")),
    )

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            own = intervene(self.command, self.path)
            if own is Break.BEFORE:
                return self.reset()
            if isinstance(own, tuple):
                return self.answer(*own)
            answer = upstream.request(
                self.command,
                cluster.server + self.path,
                body=body,
                headers={"Content-Type": self.headers.get("Content-Type", "application/json")},
            )
            if own is Break.AFTER:
                return self.reset()
            if own is Break.AMID:
                return self.answer(answer.status, answer.data, cut=len(answer.data) // 2)
            return self.answer(answer.status, answer.data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

        def answer(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str] | None = None,
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:cut])
            if cut is not None:
                self.reset()

        def reset(self) -> None:
            """Close the connection like a crashed peer: with RST, not FIN."""
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())

        def log_message(self, *_arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
