"""The requests to an API server, and a proxy between a module and the API server."""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
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
        # The API server logs the end of a watch after it has noticed that the client has closed the connection.
        and event["stage"] == ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete")
        and event["requestURI"] not in ("/version", "/apis")
    ]


class Break(enum.Enum):
    """Where a connection is reset instead of answered."""

    BEFORE = "before the request reaches the API server"
    AFTER = "after the API server has done what it was asked to"
    AMID = "in the middle of the API server's answer"


# A status and body, with headers or without.
Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


def status(code: int, message: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """A Status of an API server for a failure."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return code, json.dumps({**body, "code": code}).encode(), headers


THROTTLED = status(429, "too many requests, please try again later", **{"Retry-After": "1"})
AWAY = status(503, "apiserver is shutting down")
# What the API server makes of a timeout of etcd, for reads and writes (NewServerTimeout in apimachinery's
# pkg/api/errors).
ETCD_TIMEOUT = status(500, "etcdserver: request timed out", **{"Retry-After": "1"})


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
            is_watch = "watch=true" in self.path
            answer = upstream.request(
                self.command,
                cluster.server + self.path,
                body=body,
                headers={
                    "Content-Type": self.headers.get("Content-Type", "application/json"),
                    "User-Agent": self.headers.get("User-Agent", ""),
                },
                preload_content=not is_watch,
            )
            if is_watch and answer.status == HTTPStatus.OK:
                return self.follow(answer)
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

        def follow(self, answer: urllib3.BaseHTTPResponse) -> None:
            """Pass the events of a watch on as they come."""
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            # The client closes the connection when it has seen enough.
            with answer, contextlib.suppress(OSError):
                for chunk in answer.stream():
                    self.wfile.write(chunk)

        def reset(self) -> None:
            """Close the connection like a crashed peer: with RST, not FIN."""
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())

        def log_message(self, *_arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # A watch without a reader lasts until its timeout.
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            # Otherwise the thread would keep the process of a failed test running.
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def bad_weather(cluster: Cluster, kubeconfig: Path, every: int) -> Iterator[Path]:
    """A kubeconfig of the same user during the block, with which one of `every` requests fails temporarily."""
    passing = itertools.cycle((Break.AFTER, AWAY, Break.AMID, THROTTLED, Break.BEFORE, ETCD_TIMEOUT))
    count = itertools.count(1)

    def intervene(_method: str, _path: str) -> Answer | Break | None:
        return next(passing) if next(count) % every == 0 else None

    with between(cluster, kubeconfig, intervene) as url:
        path = kubeconfig.with_suffix(".bad-weather")
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "clusters": [{"name": "proxy", "cluster": {"server": url}}],
            "users": [{"name": "proxy", "user": {"token": "not-a-secret"}}],
        }
        path.write_text(json.dumps(settings))
        yield path
        assert next(count) > every, "No request has failed."
