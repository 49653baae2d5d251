# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The endpoints for kubelet and Prometheus. They run in the agent's event loop, so that a blocked agent fails its
liveness probe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

# Seconds within which a client must send its request and read the response.
TIMEOUT = 5


async def serve(address: str, port: int, ready: Callable[[], bool], status: Callable[[], str]) -> asyncio.Server:
    """Serve /healthz, /readyz (with `status`) and /metrics. Raises OSError if the port is in use."""

    def respond(path: bytes) -> tuple[str, str, bytes]:
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
        if path == b"/healthz":
            return "200 OK", "text/plain", b"ok"
        if path == b"/readyz":
            code = "200 OK" if ready() else "503 Service Unavailable"
            return code, "text/plain", status().encode()
        return "404 Not Found", "text/plain", b"not found; paths: /healthz, /readyz, /metrics"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
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

    return await asyncio.start_server(handle, address, port)
