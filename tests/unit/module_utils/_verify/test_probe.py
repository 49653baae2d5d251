"""The program of a verification's pod, run as the pod runs it: `python3 -c PROGRAM PORT NAME TARGET`."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify import probe

from tests.cluster.processes import free_ports


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def result_of(target: str, service_port: int) -> tuple[dict, dict]:
    """What the program prints, and what it answers."""
    (port,) = free_ports(1)
    service = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(service_port)}
    with subprocess.Popen(
        [sys.executable, "-c", inspect.getsource(probe), str(port), "localhost", target],
        env={**os.environ, **service},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed = json.loads(process.stdout.readline())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
                return printed, json.loads(response.read())
        finally:
            process.kill()


def test_the_results_are_printed_and_answered(listening: int):
    (closed,) = free_ports(1)
    printed, answered = result_of(f"127.0.0.1:{listening}", closed)
    assert printed == answered
    assert answered["dns"]["ok"]
    assert "127.0.0.1" in answered["dns"]["found"]
    assert answered["egress"] == {"ok": True, "found": f"127.0.0.1:{listening}"}
    assert answered["service"]["ok"] is False
    assert "refused" in answered["service"]["found"]
    assert answered["boot_id"] == probe.boot_id()


def test_without_a_target_egress_is_not_tested():
    (closed,) = free_ports(1)
    assert "egress" not in result_of("", closed)[1]


def test_a_closed_target_is_reported():
    (closed,) = free_ports(1)
    assert result_of(f"127.0.0.1:{closed}", closed)[1]["egress"]["ok"] is False


class Forbidding(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_service_that_forbids_the_request_is_reachable(tmp_path, monkeypatch):
    """The pod has no token."""
    import ssl

    from tests.cluster.pki import CertificateAuthority

    pair = CertificateAuthority("test").server("service", "127.0.0.1")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
        assert probe.tested(probe.reach_service) == {"ok": True, "found": f"127.0.0.1:{server.server_port}"}
