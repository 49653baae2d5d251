# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program of a verification's pod: it tests its network, prints the result, and returns it over HTTP.

The module passes this file to `python3 -c` in the pod, so it uses the standard library of any Python 3.8 only.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

# Seconds for each test. DNS and a connection take milliseconds, and a dropped packet no answer at all.
TIMEOUT = 10


def resolve(name: str) -> list[Any]:
    """The addresses of a name."""
    return sorted({entry[4][0] for entry in socket.getaddrinfo(name, None)})


def reach_service() -> str:
    """Whether the Service of the API server answers. The pod has no token, so any status is an answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    # No certificate is verified: nothing is sent that must stay secret.
    unverified = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(host, int(port), context=unverified, timeout=TIMEOUT)
    try:
        connection.request("GET", "/version")
        connection.getresponse()
    finally:
        connection.close()
    return f"{address}:{port}"


def reach_target(target: str) -> str:
    """Whether a TCP connection to HOST:PORT is possible."""
    host, _colon, port = target.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
    return target


def tested(test: Callable[..., Any], *arguments: str) -> dict[str, Any]:
    try:
        return {"ok": True, "found": test(*arguments)}
    except Exception as error:  # noqa: BLE001 - any error is a result.
        return {"ok": False, "found": f"{type(error).__name__}: {error}"}


def boot_id() -> str:
    """Identifies the boot of the kernel on which the pod runs."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def results(name: str, target: str) -> dict[str, Any]:
    """Every test, at the same time; without `target`, egress is not tested."""
    tests: dict[str, Any] = {"dns": (resolve, name), "service": (reach_service,)}
    if target:
        tests["egress"] = (reach_target, target)
    found: dict[str, Any] = {}

    def run(key: str, test: Any) -> None:
        found[key] = tested(*test)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in tests.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
    missing = {"ok": False, "found": f"no result within {2 * TIMEOUT} s"}
    return {"boot_id": boot_id(), **{key: found.get(key, missing) for key in tests}}


class Server(ThreadingHTTPServer):
    # The address of the pod may be one of IPv6.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        """Without the name of the host, which HTTPServer resolves: DNS may not answer."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)


def main(port: str, name: str, target: str = "") -> None:
    ready = threading.Event()
    answer: dict[str, Any] = {}

    def work() -> None:
        answer.update(results(name, target))
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
        ready.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready.wait(3 * TIMEOUT)
            content = json.dumps(answer).encode()
            self.send_response(200 if answer else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """The output has only the result."""

    # Listens before the result is printed.
    server = Server(("", int(port)), Handler)
    threading.Thread(target=work, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
