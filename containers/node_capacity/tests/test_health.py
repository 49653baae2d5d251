"""The endpoints for kubelet and Prometheus."""

from __future__ import annotations

import asyncio

from peerpods_node_capacity import health


async def get(port: int, path: str) -> bytes:
    return await request(*await asyncio.open_connection("127.0.0.1", port), path)


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bytes:
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


def test_a_client_with_many_connections_does_not_replace_that_of_another(monkeypatch):
    """They are accepted together: kubelet's request is read only after all of them."""
    monkeypatch.setattr("peerpods_node_capacity.health.TIMEOUT", 600)

    async def scenario() -> None:
        server = await health.serve("127.0.0.1", 0, lambda: (True, "ok"), lambda: (True, "ok"))
        port = server.sockets[0].getsockname()[1]
        kubelet = await asyncio.open_connection("127.0.0.1", port)
        idle = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.7", 0))
            for _ in range(2 * health.MAX_CONNECTIONS)
        ]
        assert (await request(*kubelet, "/healthz")).startswith(b"HTTP/1.1 200 ")
        assert not idle[-1][0].at_eof()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
