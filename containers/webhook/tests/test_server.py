"""The process over TLS: requests, startup, shutdown, log and metrics."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from webhook_process import Webhook, review, start, wait_until, write_pair

from tests.cluster.processes import free_ports

LIMIT = 20_000


@pytest.fixture(scope="module")
def webhook(tmp_path_factory):
    running = Webhook(tmp_path_factory.mktemp("tls"), MAX_BODY_BYTES=str(LIMIT))
    yield running
    running.stop()


# By name: how the body is framed, and what the client sends while it waits.
UNENDING_BODIES = {
    "length": (b"content-length: 100\r\n\r\n{", b""),
    "chunks": (b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b""),
    "always-one-more-chunk": (b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"),
}


@pytest.fixture(scope="module")
def slow_clients_webhook(tmp_path_factory):
    running = Webhook(tmp_path_factory.mktemp("slow"))
    yield running
    running.stop()


@pytest.fixture(scope="module", autouse=True)
def slow_clients(slow_clients_webhook) -> Iterator[dict[str, Future]]:
    """The outcome of each slow client, by name. The clients wait while the other tests of this file run."""
    with ThreadPoolExecutor() as threads:
        yield {
            "idle": threads.submit(idle, slow_clients_webhook),
            **{
                name: threads.submit(send_an_unending_body, slow_clients_webhook, *body)
                for name, body in UNENDING_BODIES.items()
            },
        }


def idle(webhook: Webhook) -> str:
    """Keep a connection open without a request; returns how it ends."""
    with webhook.connection() as tls:
        tls.settimeout(32)
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert tls.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        try:
            return f"received {tls.recv(1)!r}"
        except TimeoutError:
            return "open after 32 seconds"


def send_an_unending_body(webhook: Webhook, framing: bytes, continuation: bytes) -> bytes:
    """Returns what the server sends until it closes the connection."""
    reply = b""
    with webhook.connection() as tls:
        tls.settimeout(0.5)
        tls.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\n" + framing)
        # The server closes the connection, which resets it if the client is still sending.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for _ in range(60):
                try:
                    received = tls.recv(1000)
                except TimeoutError:
                    tls.sendall(continuation)
                    continue
                reply += received
                if not received:
                    return reply
            raise AssertionError(f"The connection is open after 30 seconds: {reply!r}")
    return reply


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def client(webhook, request):
    with webhook.client(http1=request.param == "HTTP/1.1", http2=request.param == "HTTP/2") as client:
        assert client.get("/readyz").http_version == request.param
        yield client


def test_reviews(client):
    reply = client.post("/mutate-v1-pod?timeout=10s", json=review())
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    response = reply.json()["response"]
    assert response["uid"] == "705ab4f5"
    assert response["patchType"] == "JSONPatch"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes(client, path):
    reply = client.get(path)
    assert (reply.status_code, reply.text) == (200, "ok")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/", 404, None),
        ("GET", "/mutate-v1-pod/", 404, None),
        ("GET", "/mutate-v1-pod", 405, "POST"),
        ("PUT", "/mutate-v1-pod", 405, "POST"),
        ("POST", "/healthz", 405, "GET"),
    ],
)
def test_other_paths_and_methods(client, method, path, status, allow):
    reply = client.request(method, path)
    assert (reply.status_code, reply.headers.get("allow")) == (status, allow)
    assert path in reply.text


def test_malformed_body(client):
    reply = client.post("/mutate-v1-pod", content=b"{")
    assert reply.status_code == 400
    assert reply.headers["content-type"].startswith("text/plain")
    assert "is not JSON" in reply.text


def padded(size: int) -> bytes:
    """A review of a peer pod of exactly `size` bytes."""
    empty = len(json.dumps(review(status={"message": ""})))
    return json.dumps(review(status={"message": "x" * (size - empty)})).encode()


@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit(client, chunked):
    def send(size: int) -> httpx.Response:
        body = padded(size)
        # httpx announces no length for an iterator: HTTP/1.1 sends chunks, HTTP/2 bare frames.
        return client.post("/mutate-v1-pod", content=iter([body]) if chunked else body)

    assert send(LIMIT).status_code == 200
    reply = send(LIMIT + 1)
    assert (reply.status_code, reply.text) == (
        413,
        f"The request body is larger than {LIMIT} bytes.",
    )
    assert client.get("/readyz").status_code == 200


def test_a_client_that_disconnects_during_a_request_does_not_affect_other_clients(tmp_path):
    webhook = Webhook(tmp_path)
    with webhook.connection() as tls:
        tls.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    with webhook.client() as client:
        assert client.post("/mutate-v1-pod", json=review()).status_code == 200
    assert [line["outcome"] for line in webhook.stop()] == ["mutated"]


@pytest.mark.parametrize("log_unchanged", [False, True])
def test_log_lines(tmp_path, log_unchanged):
    webhook = Webhook(tmp_path, LOG_UNCHANGED=str(log_unchanged).lower())
    with webhook.client() as client:
        for body in (review("runc"), review(), review(cpu="one")):
            client.post("/mutate-v1-pod", json=body)
    lines = webhook.stop()
    assert [line["outcome"] for line in lines] == [
        *(["unchanged"] if log_unchanged else []),
        "mutated",
        "rejected",
    ]
    assert {(line["namespace"], line["name"], line["uid"]) for line in lines} == {("team", "demo", "705ab4f5")}
    assert all(datetime.datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert "s3cret" not in json.dumps(lines)


def test_a_log_line_is_written_whole_or_not_at_all(tmp_path):
    webhook = Webhook(tmp_path)
    body = review()
    body["request"]["namespace"] = "n" * 10_000
    with webhook.client() as client:
        client.post("/mutate-v1-pod", json=body)
    (line,) = webhook.stop()
    # A pipe may accept only part of a write that is longer than PIPE_BUF.
    assert len(json.dumps(line)) < 4096
    assert line["namespace"].startswith("nnn")


def test_stops_immediately_while_connections_are_open(tmp_path):
    webhook = Webhook(tmp_path)
    with webhook.client() as http1, webhook.client(http1=False, http2=True) as http2:
        assert http1.get("/healthz").status_code == http2.get("/healthz").status_code == 200
        webhook.stop()


def test_a_review_in_flight_is_answered_before_the_process_ends(tmp_path):
    webhook = Webhook(tmp_path)
    body = json.dumps(review()).encode()
    head = f"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    with webhook.connection() as tls:
        tls.sendall(head.encode())
        assert tls.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        readiness = webhook.readiness()
        webhook.process.send_signal(signal.SIGTERM)
        # On a connection that exists: from now on, the webhook waits for the body for a second only.
        wait_until(lambda: readiness()[0] == 503, seconds=10, every=0.01)
        tls.sendall(body)
        assert tls.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert webhook.process.wait(timeout=10) == 0


def mismatched_pair(directory: Path) -> dict[str, str]:
    (directory / "other").mkdir()
    return write_pair(directory) | {"TLS_KEY_FILE": write_pair(directory / "other")["TLS_KEY_FILE"]}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (lambda _: {}, "Reading TLS_CERT_FILE failed: /etc/peerpods-webhook/tls/tls.crt: No such"),
        (lambda d: write_pair(d) | {"TLS_KEY_FILE": str(d)}, "Reading TLS_KEY_FILE failed: "),
        (lambda d: write_pair(d) | {"TLS_KEY_FILE": os.devnull}, "are not a PEM certificate and its"),
        (mismatched_pair, "KEY_VALUES_MISMATCH. Mount a matching pair."),
        (lambda _: {"PORT": "0"}, "PORT is '0'. Set it to a whole number from 1 to 65535."),
        (lambda _: {"PORT": "https"}, "PORT is 'https'. Set it to a whole number"),
        (lambda _: {"MAX_BODY_BYTES": "3Mi"}, "MAX_BODY_BYTES is '3Mi'. Set it to a whole number"),
        (lambda _: {"BIND_ADDRESS": "localhost"}, "BIND_ADDRESS is not an IP address: 'localhost'"),
        (lambda _: {"TARGET_RUNTIME_CLASS": ","}, "TARGET_RUNTIME_CLASS is ',', which contains no"),
    ],
)
def test_startup_errors_are_one_sentence(tmp_path, env, sentence):
    process = start(env(tmp_path))
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("The webhook cannot start: ")
    assert sentence in errors
    assert errors.count("\n") == 1


def test_startup_error_for_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        # With RUST_BACKTRACE, granian adds a stack trace to its message.
        process = start({**write_pair(tmp_path), "PORT": str(port), "RUST_BACKTRACE": "1"})
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, "")
    assert f"Listening on 127.0.0.1 port {port} failed: Address already in use" in errors
    assert errors.count("\n") == 1


def test_after_sigterm_it_serves_during_the_shutdown_delay_and_closes_connections(tmp_path):
    webhook = Webhook(tmp_path, SHUTDOWN_DELAY_SECONDS="5")
    body = json.dumps(review())
    kept_alive = http.client.HTTPSConnection("127.0.0.1", webhook.port, context=webhook.trust)

    def post() -> http.client.HTTPResponse:
        kept_alive.request("POST", "/mutate-v1-pod", body)
        reply = kept_alive.getresponse()
        reply.read()
        return reply

    assert post().getheader("connection") is None
    webhook.process.send_signal(signal.SIGTERM)
    wait_until(lambda: webhook.get("/readyz").status_code == 503)
    assert webhook.get("/readyz").text == "The webhook is stopping."
    assert webhook.get("/healthz").status_code == 200
    # On the existing connection, then on new ones.
    for _ in range(3):
        reply = post()
        assert (reply.status, reply.getheader("connection")) == (200, "close")
    with webhook.client(http1=False, http2=True) as client:
        reply = client.post("/mutate-v1-pod", content=body)
        assert (reply.status_code, reply.headers.get("connection")) == (200, None)
    assert len(webhook.wait()) == 5


def test_a_second_sigterm_ends_the_shutdown_delay(tmp_path):
    webhook = Webhook(tmp_path, SHUTDOWN_DELAY_SECONDS="60")
    webhook.process.send_signal(signal.SIGTERM)
    wait_until(lambda: webhook.get("/readyz").status_code == 503)
    webhook.stop()


def test_bodies_being_read_take_bounded_memory(tmp_path):
    webhook = Webhook(tmp_path, MAX_BODY_BYTES=str(LIMIT))
    framings = b"content-length: 20000\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n9\r\n{"

    def send_review() -> httpx.Response:
        return client.post("/mutate-v1-pod", json=review())

    def rejected() -> httpx.Response | None:
        """The answer to a review while bodies that have been announced occupy the memory.

        After half a second, the review would replace one of them.
        """
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(webhook.connection()) for _ in framings * 8]
            for tls, framing in zip(connections, framings * 8, strict=True):
                tls.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\n" + framing)
            reply = send_review()
            assert webhook.get("/healthz").status_code == 200
        return reply if reply.status_code == 503 else None

    with webhook.client() as client:
        assert send_review().status_code == 200
        reply = wait_until(rejected)
        assert reply.headers["retry-after"] == "1"
        assert reply.text.startswith("Too many large reviews are being read")
        # The connections that occupied the memory are closed.
        wait_until(lambda: send_review().status_code == 200)
    webhook.stop()


def test_metrics(tmp_path):
    webhook = Webhook(tmp_path, MAX_BODY_BYTES=str(LIMIT))
    with webhook.client() as client:
        for body in (review("runc"), review(), review(), review(cpu="one")):
            client.post("/mutate-v1-pod", json=body)
        for body in (b"{", padded(LIMIT + 1)):
            client.post("/mutate-v1-pod", content=body)
        # The port for probes serves metrics, but no reviews.
        assert client.get("/metrics").status_code == 404
    reply = webhook.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
        if sample.name in ("peerpods_webhook_reviews_total", "peerpods_webhook_review_duration_seconds_count")
    } == {
        ("peerpods_webhook_review_duration_seconds_count",): 6,
        ("peerpods_webhook_reviews_total", "busy"): 0,
        ("peerpods_webhook_reviews_total", "malformed"): 1,
        ("peerpods_webhook_reviews_total", "mutated"): 2,
        ("peerpods_webhook_reviews_total", "rejected"): 1,
        ("peerpods_webhook_reviews_total", "too_large"): 1,
        ("peerpods_webhook_reviews_total", "too_slow"): 0,
        ("peerpods_webhook_reviews_total", "unchanged"): 1,
    }
    plain = f"http://127.0.0.1:{webhook.health_port}/mutate-v1-pod"
    assert httpx.post(plain, json=review(), trust_env=False).status_code == 404
    webhook.stop()


def test_reviews_do_not_wait_for_the_reader_of_the_log(tmp_path):
    pair = write_pair(tmp_path)
    port, health_port = free_ports(2)
    process = start({**pair, "PORT": str(port), "HEALTH_PORT": str(health_port)})
    process.stdout.readline()
    trust = ssl.create_default_context(cafile=pair["TLS_CERT_FILE"])
    # A pipe has room for 64 KiB.
    with httpx.Client(verify=trust, trust_env=False) as client:
        for _ in range(1000):
            reply = client.post(f"https://127.0.0.1:{port}/mutate-v1-pod", json=review())
            assert reply.status_code == 200
    metrics = httpx.get(f"http://127.0.0.1:{health_port}/metrics", trust_env=False).text
    assert "peerpods_webhook_log_lines_lost_total 0.0" not in metrics
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert all(json.loads(line) for line in output.splitlines())


def test_idle_connections_stay_open_for_the_client_to_close(slow_clients):
    # granian's default timeout is 30 seconds; Go's clients close idle connections after 90.
    assert slow_clients["idle"].result() == "open after 32 seconds"


@pytest.mark.parametrize("name", UNENDING_BODIES)
def test_a_body_that_does_not_end_times_out(slow_clients, name):
    reply = slow_clients[name].result()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert reply.endswith(b"\r\n\r\nThe request body took longer than 10 seconds.")


def test_other_clients_are_served_after_slow_clients(slow_clients, slow_clients_webhook):
    for name in UNENDING_BODIES:
        slow_clients[name].result()
    with slow_clients_webhook.client() as client:
        assert client.post("/mutate-v1-pod", json=review()).status_code == 200
    too_slow = f'reviews_total{{outcome="too_slow"}} {len(UNENDING_BODIES)}.0'
    assert too_slow in slow_clients_webhook.get("/metrics").text
