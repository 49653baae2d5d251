"""The network between the API server and what kwok only simulates: the kubelets of nodes, and peer pods.

The API server sends the connections to nodes, pods and Services through a proxy
(kubernetes.io/docs/tasks/extend-kubernetes/setup-konnectivity): an HTTP CONNECT proxy at a Unix socket, in this file.
It connects to a pod's address if the pod has a VM whose tunnel is open, to kubelet's port of a simulated node, which
only serves logs, and otherwise to the given address, such as that of a webhook.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .pki import CertificateAuthority

KUBELET_PORT = 10250
CONNECT_SECONDS = 10

# The addresses of peer pods; those of OVN-Kubernetes on OpenShift are in this network as well.
POD_NETWORK = ipaddress.ip_network("10.128.0.0/14")

# The name of the socket in the directory of a cluster.
SOCKET = "pod-network.sock"


class PodNetwork:
    """A running proxy. `log_of` returns the log of a container, by namespace and pod; None if it does not exist."""

    def __init__(self, directory: Path, log_of: Callable[[str, str], str | None]):
        self._logs = _LogServer(directory, log_of)
        # The port on this machine at which a pod listens, by its address and port; None if no packet passes.
        self._pods: dict[tuple[str, int], Callable[[], int | None]] = {}
        self._numbers = itertools.count(3)
        path = directory / SOCKET
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        # The path of a Unix socket has 107 bytes at most (unix(7)), which that of the directory may exceed.
        opened = os.open(directory, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{opened}/{SOCKET}")
        os.close(opened)
        self._listener.listen(64)
        threading.Thread(target=self._logs.serve_forever, daemon=True).start()
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self) -> str:
        """A new address for a pod."""
        return str(POD_NETWORK[256 + next(self._numbers)])

    def publish(self, address: str, port: int, local: Callable[[], int | None]) -> None:
        """`local` is called for each connection: the port on this machine, or None if the packets are dropped."""
        self._pods[address, port] = local

    def withdraw(self, address: str) -> None:
        for key in [key for key in list(self._pods) if key[0] == address]:
            self._pods.pop(key, None)

    def _accept(self) -> None:
        while True:
            connection, _address = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(4096)
                if not received:
                    return
                head += received
            # CONNECT 10.128.0.3:8080 HTTP/1.1
            host, _colon, port = head.split(b" ")[1].decode().rpartition(":")
            try:
                upstream = self._connected(host.strip("[]"), int(port))
            except OSError as error:
                connection.sendall(f"HTTP/1.1 504 dial tcp {host}:{port}: {_reason(error)}\r\n\r\n".encode())
                return
            with upstream:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(connection, upstream)

    def _connected(self, host: str, port: int) -> socket.socket:
        if (host, port) in self._pods:
            local = self._pods[host, port]()
            if local is None:
                raise TimeoutError
            return _connection("127.0.0.1", local)
        if ipaddress.ip_address(host) in POD_NETWORK:
            # No pod, or no program at its port.
            exists = any(host == address for address, _port in list(self._pods))
            raise ConnectionRefusedError if exists else TimeoutError
        if port == KUBELET_PORT:
            return _connection("127.0.0.1", self._logs.server_port)
        return _connection(host, port)


def _connection(host: str, port: int) -> socket.socket:
    connected = socket.create_connection((host, port), CONNECT_SECONDS)
    # The API server keeps idle connections for its next request, and fails if one is closed as it sends that.
    connected.settimeout(None)
    return connected


def _reason(error: OSError) -> str:
    """As Go prints it."""
    return "connect: connection refused" if isinstance(error, ConnectionRefusedError) else "i/o timeout"


def _relay(one: socket.socket, other: socket.socket) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join()


class _LogServer(ThreadingHTTPServer):
    """Kubelet's /containerLogs/NAMESPACE/POD/CONTAINER, over TLS."""

    daemon_threads = True

    def __init__(self, directory: Path, log_of: Callable[[str, str], str | None]):
        super().__init__(("127.0.0.1", 0), _LogHandler)
        self.log_of = log_of
        # The API server does not verify the certificates of kubelets (no --kubelet-certificate-authority).
        pair = CertificateAuthority("kubelets").server("kubelet", "127.0.0.1")
        chain = directory / "kubelets.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _LogHandler(BaseHTTPRequestHandler):
    server: _LogServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        _empty, kind, namespace, pod, *_container = url.path.split("/")
        log = self.server.log_of(namespace, pod) if kind == "containerLogs" else None
        lines = (log or "").splitlines(keepends=True)
        tail = parse_qs(url.query).get("tailLines")
        content = "".join(lines[-int(tail[0]) :] if tail else lines).encode()
        self.send_response(404 if log is None else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass
