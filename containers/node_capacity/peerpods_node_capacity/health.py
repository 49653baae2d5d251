# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The endpoints for kubelet and Prometheus. They run in the agent's event loop, so that a blocked agent fails its
liveness probe."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

# Seconds within which a client must send its request and read the response.
TIMEOUT = 5

# The maximum number of open connections. A further one takes the place of the oldest of the client that has the most,
# so that kubelet gets an answer and file descriptors remain for the API server.
MAX_CONNECTIONS = 64

# Whether the agent passes a probe, and the body of the response.
Probe = Callable[[], tuple[bool, str]]


async def serve(address: str, port: int, live: Probe, ready: Probe) -> asyncio.Server:
    """Serve /healthz, /readyz and /metrics. Raises OSError if the port is in use."""
    probes = {b"/healthz": live, b"/readyz": ready}
    # The address of the client of each connection, in the order in which they were opened.
    connections: dict[asyncio.StreamWriter, str] = {}

    def respond(path: bytes) -> tuple[str, str, bytes]:
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
        if probe := probes.get(path):
            is_ok, text = probe()
            return "200 OK" if is_ok else "503 Service Unavailable", "text/plain", text.encode()
        return "404 Not Found", "text/plain", b"not found; paths: /healthz, /readyz, /metrics"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that has disconnected already has no address.
        connections[writer] = (writer.get_extra_info("peername") or ("",))[0]
        if len(connections) > MAX_CONNECTIONS:
            ((most, _count),) = Counter(connections.values()).most_common(1)
            oldest = next(other for other, client in connections.items() if client == most)
            del connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(TIMEOUT):
                _method, path, *_rest = [*(await reader.readline()).split(), b"", b""]
                while (await reader.readline()).strip():
                    pass
                status, content_type, body = respond(path.partition(b"?")[0])
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nConnection: close\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, ValueError):
            # The client is too slow, has disconnected, or sends a line that is too long.
            pass
        finally:
            connections.pop(writer, None)
            writer.close()

    return await asyncio.start_server(handle, address, port)
