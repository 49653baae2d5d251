"""The endpoints for kubelet and Prometheus."""

from __future__ import annotations

import asyncio

from peerpods_node_capacity import health


async def get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    response = await reader.read()
    writer.close()
    return response


def test_clients_that_hold_connections_open_do_not_keep_others_out(monkeypatch):
    """Each further connection takes the place of the oldest."""
    monkeypatch.setattr("peerpods_node_capacity.health.TIMEOUT", 600)

    async def scenario() -> None:
        server = await health.serve("127.0.0.1", 0, lambda: (True, "ok"), lambda: (False, "not following nodes"))
        port = server.sockets[0].getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * health.MAX_CONNECTIONS)]
        response = await get(port, "/readyz")
        assert response.startswith(b"HTTP/1.1 503 ")
        assert response.endswith(b"\r\n\r\nnot following nodes")
        assert (await get(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
        closed = 0
        for reader, _writer in idle[: 2 * health.MAX_CONNECTIONS]:
            try:
                closed += await reader.read(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 2 * health.MAX_CONNECTIONS
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
