"""The network between the API server and pods."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.cluster import pod_network
from tests.cluster.pod_network import SOCKET, PodNetwork


def test_a_connection_stays_open_while_it_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The API server keeps its connections to webhooks. If one is closed as it sends a review, the creation fails."""
    monkeypatch.setattr(pod_network, "CONNECT_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    PodNetwork(tmp_path, lambda _namespace, _pod: None)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(SOCKET)
        client.sendall(f"CONNECT 127.0.0.1:{server.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        with server.accept()[0] as accepted:
            time.sleep(0.5)
            client.sendall(b"review")
            assert accepted.recv(100) == b"review"
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"
