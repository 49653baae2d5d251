"""Sends mutated reviews to the process over HTTPS, and connects clients that violate protocols."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import httpx
from webhook_process import Webhook

from peerpods_webhook.review import answer

from .invariants import POLICY, InvariantError, require
from .reviews import RAW, TARGET, VM_RESOURCE, cases, corpus

PATH = "/mutate-v1-pod"

# The maximum growth of the process's memory after its first reviews.
MAX_GROWTH = 64 * 2**20


def check(seed: int, count: int) -> None:
    """Send `count` requests: half over HTTP/1.1, a third over HTTP/2, the others from misbehaving clients.

    The process must answer as `review.answer` does, keep running, keep its memory, and stop on
    SIGTERM. Raises InvariantError.
    """
    originals = corpus()
    valid_body = originals[0].encode()
    misbehaving = count // 6
    by_http2 = count // 3
    with tempfile.TemporaryDirectory() as directory, _running(Path(directory)) as webhook:
        with contextlib.closing(_Http1(webhook)) as send:
            _compare(send, seed, range(min(count, 500)), originals)
            before = resident_bytes(webhook.process.pid)
            _compare(send, seed, range(count - misbehaving - by_http2), originals)
        with webhook.client(http1=False, http2=True, timeout=20) as client:

            def send_http2(body: bytes) -> tuple[int, bytes]:
                reply = client.post(PATH, content=body)
                return reply.status_code, reply.content

            _compare(send_http2, seed, range(count - misbehaving - by_http2, count - misbehaving), originals)
        for index in range(count - misbehaving, count):
            random = Random(seed << 40 | index)
            misbehave(random, webhook, random.choice(originals).encode())
            alive = webhook.process.poll() is None
            require(alive, f"the process ended at misbehaving client {index}")
            if index % 50 == 0:
                with contextlib.closing(_Http1(webhook)) as send:
                    _compare_one(send, valid_body, f"after misbehaving client {index}")
        with contextlib.closing(_Http1(webhook)) as send:
            _compare_one(send, valid_body, "at the end")
        growth = resident_bytes(webhook.process.pid) - before
        require(growth <= MAX_GROWTH, f"the process took {growth / 2**20:.0f} MiB more memory")


@contextlib.contextmanager
def _running(directory: Path) -> Iterator[Webhook]:
    webhook = Webhook(directory, TARGET_RUNTIME_CLASS=TARGET, POD_VM_EXTENDED_RESOURCE=VM_RESOURCE)
    try:
        yield webhook
        try:
            webhook.stop()
        except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
            raise InvariantError(f"the process did not shut down cleanly: {error}") from error
    finally:
        webhook.process.kill()


class _Http1:
    """Sends POST requests over one persistent connection, which the server must not close."""

    def __init__(self, webhook: Webhook):
        self._connection = http.client.HTTPSConnection("127.0.0.1", webhook.port, context=webhook.trust, timeout=20)

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", PATH, body)
        reply = self._connection.getresponse()
        return reply.status, reply.read()

    def close(self) -> None:
        self._connection.close()


Send = Callable[[bytes], tuple[int, bytes]]


def _compare(send: Send, seed: int, indices: range, originals: tuple[str, ...]) -> None:
    for index, body in cases(seed, indices, originals):
        _compare_one(send, body, f"review {index}")


def _compare_one(send: Send, body: bytes, case: str) -> None:
    status, reply = answer(body, POLICY)[:2]
    try:
        response = send(body)
    except (OSError, http.client.HTTPException, httpx.HTTPError) as error:
        response = repr(error)
    require(response == (status, reply), f"{case}: {str(response)[:200]} instead of {status}")


def resident_bytes(pid: int | str) -> int:
    """The resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


# --- clients that violate protocols ------------------------------------------------------------


def misbehave(random: Random, webhook: Webhook, body: bytes) -> None:
    """Open a connection that violates a protocol. The response is ignored."""
    violate = random.choice((_invalid_http1, _invalid_http1, _invalid_http2, _invalid_tls))
    # The server may close or reset the connection at any time.
    with contextlib.suppress(OSError):
        violate(random, webhook, body)


def _invalid_http1(random: Random, webhook: Webhook, body: bytes) -> None:
    head = b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: x\r\n"
    part = body[: random.randrange(len(body))]
    length = b"content-length: %d\r\n\r\n"
    chunked = b"transfer-encoding: chunked\r\n\r\n"
    request = random.choice(
        (
            head + length % len(body) + part,
            head + length % len(part) + body,
            head + length % 10**30 + part,
            head + length % (3 * 2**20) + part,
            head + length % -1 + body,
            head + b"content-length: 5\r\n" + length % len(body) + body,
            head + b"content-length: 0x10\r\n\r\n" + body,
            head + b"content-length: 10\r\n" + chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
            head + chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
            head + chunked + b"%x\r\n%b" % (len(body), part),
            head + chunked + b"%x\r\n%b\r\nzz\r\n" % (len(part), body),
            head + chunked + b"f" * 20 + b"\r\n" + part,
            head + chunked + b"1\r\n{\r\n" * 500,
            head + b"expect: 100-continue\r\n" + length % len(body) + part,
            head + b"x: " + b"y" * 100_000 + b"\r\n" + length % len(body) + body,
            head + b"x: y\r\n" * 1000 + length % len(body) + body,
            head + b"x\0: y\xff\r\n" + length % len(body) + body,
            b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.randbytes(100),
            b"GET " + PATH.encode() + b" HTTP/9.9\r\n\r\n",
            (head + length % 0) * 50,
            random.choice(RAW)[:5000],
            random.randbytes(random.choice((1, 100, 20_000))),
        )
    )
    with _tls(webhook) as connection:
        connection.sendall(request)
        if random.random() < 0.5:
            _read_some(connection)


def _invalid_http2(random: Random, webhook: Webhook, body: bytes) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
    frames = b"".join(
        payload[: length if random.random() < 0.9 else None]
        for length in (random.choice((0, 4, 5, 8, 100, 16_384)) for _ in range(random.randrange(1, 20)))
        for payload in [
            length.to_bytes(3, "big")
            + bytes((random.randrange(11), random.randrange(256)))
            + random.choice((0, 1, 3, 5, 2**31 - 1)).to_bytes(4, "big")
            + random.randbytes(length)
        ]
    )
    with _tls(webhook, "h2") as connection:
        connection.sendall(preface + frames)
        if random.random() < 0.5:
            _read_some(connection)


def _invalid_tls(random: Random, webhook: Webhook, body: bytes) -> None:
    """Invalid or incomplete TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        webhook.trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    hello = outgoing.read()
    position = random.randrange(len(hello))
    corrupted = hello[:position] + random.randbytes(3) + hello[position + 3 :]
    sent = random.choice(
        (
            corrupted,
            corrupted,
            hello[:position],
            hello + random.randbytes(200),
            b"\x16\x03\x01\xff\xff" + random.randbytes(1000),
            b"\x17\x03\x03\x00\x20" + random.randbytes(32),
            random.randbytes(random.choice((1, 6, 3000))),
            b"POST " + PATH.encode() + b" HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
            b"",
        )
    )
    with socket.create_connection(("127.0.0.1", webhook.port), timeout=5) as plain:
        plain.sendall(sent)
        if random.random() < 0.5:
            _read_some(plain)


@contextlib.contextmanager
def _tls(webhook: Webhook, protocol: str = "http/1.1") -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    with (
        socket.create_connection(("127.0.0.1", webhook.port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        yield connection


def _read_some(connection: socket.socket) -> None:
    connection.settimeout(0.02)
    connection.recv(1000)
