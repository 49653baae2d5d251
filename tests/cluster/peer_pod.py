"""Runs the program of a peer pod's container as if it were in a VM of its own: with its network.

A pod with the command `python3 -c PROGRAM …` is run by `python -m tests.cluster.peer_pod NETWORK PROGRAM …`. NETWORK is
a JSON object: `ports` maps the ports at which the program listens to those of this machine; `names` has the addresses
that the cluster's DNS returns, and for `*` that of all other names; `routes` maps the addresses HOST:PORT that the pod
reaches to those of this machine. All other packets are dropped.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any


class Network:
    """Replaces the functions of `socket` that the network decides about."""

    def __init__(self, ports: dict[str, int], names: dict[str, str], routes: dict[str, int]):
        self._ports = ports
        self._names = names
        self._routes = routes
        self._bind, self._connect = socket.socket.bind, socket.socket.connect

    def install(self) -> None:
        network = self

        def bind(self: socket.socket, address: Any) -> None:
            local = network._ports[str(address[1])]
            # A socket for both families takes an address of IPv4 in this form.
            address = "127.0.0.1" if self.family == socket.AF_INET else "::ffff:127.0.0.1"
            network._bind(self, (address, local))

        def connect(self: socket.socket, address: Any) -> None:
            local = network._routes.get(f"{address[0]}:{address[1]}")
            if local is None:
                # The packets are dropped. The program need not wait for that.
                raise TimeoutError("timed out")
            network._connect(self, ("127.0.0.1", local))

        def getaddrinfo(host: str, port: Any, *_arguments: Any, **_options: Any) -> list:
            address = host if _is_address(host) else network._names.get(host) or network._names.get("*")
            if address is None:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, int(port or 0)))]

        # The classes of the standard library look these up when they use them.
        socket.socket.bind = bind  # type: ignore[method-assign, assignment]
        socket.socket.connect = connect  # type: ignore[method-assign, assignment]
        socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]


def _is_address(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


def main() -> None:
    network, program, *arguments = sys.argv[1:]
    Network(**json.loads(network)).install()
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the program of the pod.


if __name__ == "__main__":
    main()
