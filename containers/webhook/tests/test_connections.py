"""Clients that keep connections open do not keep other clients out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest
from webhook_process import SteadyClients, Webhook, review, wait_until

from peerpods_webhook import client
from peerpods_webhook.client import NewClient
from peerpods_webhook.connections import ALL, CLIENT, bounds
from peerpods_webhook.settings import Settings
from tests.cluster.processes import free_ports

REVIEW = json.dumps(review()).encode()

# Few file descriptors, so that few connections reach a bound.
FILES = 256
SMALL = bounds(FILES - 16, 120)

# The addresses of the clients on this machine.
HOLDER, OTHER_HOLDERS, API_SERVER = "127.0.0.7", "127.0.1.{}", "127.0.0.2"


# A webhook with small bounds.


@pytest.fixture
def webhook(tmp_path):
    running = Webhook(tmp_path, files=FILES)
    yield running
    if running.process.poll() is None:
        running.stop()


class ApiServer:
    """Sends reviews, each on a new connection, from an address of its own."""

    def __init__(self, webhook: Webhook):
        self._webhook = webhook
        self.answered, self.failures = 0, []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.03):
            try:
                self._review()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            else:
                self.answered += 1

    def _review(self) -> None:
        # The default timeout of an API server for a webhook.
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._webhook.port, context=self._webhook.trust, timeout=10, source_address=(API_SERVER, 0)
        )
        with contextlib.closing(connection):
            connection.request("POST", "/mutate-v1-pod", REVIEW)
            response = connection.getresponse()
            assert response.status == 200
            response.read()

    def continues(self) -> None:
        target = self.answered + 10
        wait_until(lambda: self.failures or self.answered >= target)
        assert self.failures == []


def hold_tcp(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def hold_tls(port: int, source: str, sent: bytes = b"", *protocols: str) -> ssl.SSLSocket:
    unverified = ssl._create_unverified_context()
    if protocols:
        unverified.set_alpn_protocols(protocols)
    tls = unverified.wrap_socket(hold_tcp(port, source))
    tls.sendall(sent)
    return tls


# HTTP/2: kinds of frames, and a flag.
SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """A frame of HTTP/2 without a stream."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 0]) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS)
PINGED = PREFACE + frame(PING, b"01234567")
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"

# By name: opens a connection that a client can keep open for a long time.
KEEPERS = {
    "TCP": hold_tcp,
    "TLS": hold_tls,
    "HTTP/1.1 after a request": lambda port, source: hold_tls(port, source, REQUEST),
    "HTTP/1.1 with slow headers": lambda port, source: hold_tls(port, source, REQUEST[:-2]),
    "HTTP/2 with pings": lambda port, source: hold_tls(port, source, PINGED, "h2"),
}


def hold_many(hold, port: int, source: str, count: int, held: contextlib.ExitStack) -> None:
    for _ in range(count):
        # The server may close it already.
        with contextlib.suppress(OSError):
            held.enter_context(hold(port, source))


def open_connections(webhook: Webhook) -> float:
    # They are counted each second, for the first time a second after the start.
    return webhook.metrics().get(f'peerpods_webhook_connections{{port="{webhook.port}"}}', 0)


@pytest.mark.parametrize("name", KEEPERS)
def test_one_client_that_keeps_connections_does_not_keep_another_out(webhook, name):
    with ApiServer(webhook) as api_server, contextlib.ExitStack() as held:
        api_server.continues()
        hold_many(KEEPERS[name], webhook.port, HOLDER, 4 * SMALL.per_client, held)
        # The other connection may be that of the API server, or of the webhook to itself.
        wait_until(lambda: SMALL.per_client <= open_connections(webhook) <= SMALL.per_client + 2)
        api_server.continues()
        assert webhook.get("/readyz").status_code == 200
    lines = [line for line in webhook.stop() if line.get("message") == "Connections beyond a bound were closed."]
    # At first, the connections may be those of a burst.
    assert {line["reason"] for line in lines} <= {CLIENT, ALL}
    assert {client for line in lines for client in line["clients"]} == {HOLDER}


def test_many_clients_that_keep_connections_do_not_keep_another_out(webhook):
    with ApiServer(webhook) as api_server, contextlib.ExitStack() as held:
        for number in range(2, 12):
            hold_many(hold_tls, webhook.port, OTHER_HOLDERS.format(number), SMALL.per_client // 2, held)
        api_server.continues()
        wait_until(lambda: open_connections(webhook) <= SMALL.total)
        assert webhook.metrics()['peerpods_webhook_connections_closed_total{reason="all"}'] > 0


# The largest body, announced and not sent.
ANNOUNCED = b"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\ncontent-length: 3145728\r\n\r\n"


@pytest.mark.parametrize("holders", [[HOLDER], [OTHER_HOLDERS.format(number) for number in range(2, 22)]])
def test_clients_that_announce_bodies_do_not_keep_another_out(webhook, holders):
    with ApiServer(webhook) as api_server, contextlib.ExitStack() as held:
        # More than may be read concurrently.
        for _ in range(20 // len(holders)):
            for holder in holders:
                hold_many(lambda port, source: hold_tls(port, source, ANNOUNCED), webhook.port, holder, 1, held)
        api_server.continues()
    busy = webhook.metrics()['peerpods_webhook_reviews_total{outcome="busy"}']
    # Those that made room, and only they.
    assert busy > 0


def test_kubelet_gets_an_answer_from_a_health_port_with_many_connections(webhook):
    with contextlib.ExitStack() as held:
        hold_many(hold_tcp, webhook.health_port, HOLDER, 4 * SMALL.per_client, held)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert webhook.get(path).status_code == 200


def test_it_recovers_when_no_file_descriptor_is_left_and_refuses_no_other_client(webhook):
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as later:
        # They wait to be accepted, all at the same time, before the guard can close any. The review waits among them.
        webhook.process.send_signal(signal.SIGSTOP)
        hold_many(hold_tcp, webhook.port, HOLDER, 3 * FILES, held)
        waiting = held.enter_context(hold_tcp(webhook.port, API_SERVER))
        hold_many(hold_tcp, webhook.port, HOLDER, FILES, held)
        webhook.process.send_signal(signal.SIGCONT)
        answered = later.submit(answer_of, webhook, waiting)
        with ApiServer(webhook) as api_server:
            api_server.continues()
        assert answered.result(timeout=20).startswith(b"HTTP/1.1 200 ")
        assert webhook.metrics()['peerpods_webhook_connections_closed_total{reason="files"}'] > 0
        # Its own attempt to connect, every 2 s, may have failed.
        wait_until(lambda: webhook.get("/readyz").status_code == 200)


def answer_of(webhook: Webhook, connected: socket.socket) -> bytes:
    """The first line of the answer to a request on a connection that exists."""
    with webhook.trust.wrap_socket(connected, server_hostname="127.0.0.1") as tls:
        tls.sendall(REQUEST)
        return tls.makefile("rb").readline()


def test_it_is_not_ready_while_a_new_client_gets_no_answer(webhook):
    """Without a free file descriptor. The probe uses a connection that is open already."""
    limits = resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE)
    readiness = webhook.readiness()
    resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    wait_until(lambda: readiness()[0] == 503)
    assert f"A new connection to port {webhook.port} failed" in readiness()[1]
    webhook.wait_with_files(limits, lambda: readiness() == (200, "ok"))


# A new client.


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)

    async def connect(settings: Settings) -> tuple[str | None, str | None, str | None]:
        new_client = NewClient(settings)
        await new_client.connect()
        reason, live = new_client.why_not_ready(), new_client.why_not_live()
        monkeypatch.setattr(client, "RESTART_SECONDS", 0)
        return reason, live, new_client.why_not_live()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reason, live, later = asyncio.run(connect(Settings(address="127.0.0.1", port=port)))
    assert reason == f"A new connection to port {port} failed: no answer within 0 seconds."
    # A restart is what helps, but not immediately.
    assert (live, later) == (None, reason)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_refused_connection(address):
    async def connect() -> str | None:
        new_client = NewClient(Settings(address=address, port=free_ports(1)[0]))
        await new_client.connect()
        return new_client.why_not_ready()

    reason = asyncio.run(connect())
    assert reason.startswith("A new connection to port ")
    assert "refused" in reason or "Connect call failed" in reason


# Connections that end after some time.


@pytest.fixture(scope="module", autouse=True)
def aging(tmp_path_factory) -> Iterator[Webhook]:
    """A webhook whose connections are old soon. It takes ten seconds to replace them, during the other tests."""
    running = Webhook(tmp_path_factory.mktemp("aging"), CONNECTION_SECONDS="1")
    yield running
    running.stop()


@pytest.fixture(scope="module", autouse=True)
def old_connection(aging: Webhook) -> Iterator[ssl.SSLSocket]:
    with hold_tls(aging.port, HOLDER, PREFACE, "h2") as tls:
        yield tls


@pytest.fixture(scope="module", autouse=True)
def steady_clients(aging: Webhook) -> Iterator[SteadyClients]:
    with SteadyClients(aging, aging.trust) as clients:
        yield clients


def test_an_old_connection_is_replaced_and_no_review_is_lost(aging, old_connection, steady_clients):
    old_connection.settimeout(30)
    kinds = [kind for kind, _payload in frames(old_connection)]
    assert GOAWAY in kinds
    successes = steady_clients.successes
    wait_until(lambda: steady_clients.successes > successes + 50)
    assert steady_clients.errors == []
    assert aging.get("/readyz").status_code == 200


def frames(tls: ssl.SSLSocket) -> Iterator[tuple[int, bytes]]:
    """The frames of HTTP/2 until the server closes the connection. Pings are answered."""
    with tls.makefile("rb") as received:
        while header := received.read(9):
            kind, flags = header[3:5]
            payload = received.read(int.from_bytes(header[:3], "big"))
            if kind == PING and not flags & ACK:
                tls.sendall(frame(PING, payload, ACK))
            yield kind, payload


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_a_client_that_answers_pings_is_closed_after_its_last_request(tmp_path, address):
    """A socket for both versions of IP has the addresses of IPv4 in another form."""
    webhook = Webhook(tmp_path, IDLE_SECONDS="2", BIND_ADDRESS=address)
    used = webhook.client(http2=True, http1=False)
    with hold_tls(webhook.port, HOLDER, PREFACE, "h2") as tls, used:
        tls.settimeout(0.2)

        def is_closed() -> bool:
            # Another client's connection with requests stays.
            assert used.get("/healthz").status_code == 200
            try:
                tls.sendall(frame(PING, b"01234567"))
                return tls.recv(1000) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_closed)
        # One connection, which was not closed in between.
        (kept,) = used._transport._pool.connections
        assert "Request Count: 1]" not in repr(kept)
    assert webhook.metrics()['peerpods_webhook_connections_closed_total{reason="idle"}'] == 1
    assert [line for line in webhook.stop() if line.get("level") == "warning"] == []
