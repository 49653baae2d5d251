"""The real process over real TLS, and how it starts and stops."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
LIMIT = 20_000


def write_pair(directory: Path) -> dict[str, str]:
    """A throw-away certificate for 127.0.0.1 and its key, as environment variables."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peerpods-webhook")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return {
        "TLS_CERT_FILE": str(directory / "tls.crt"),
        "TLS_KEY_FILE": str(directory / "tls.key"),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def start(env: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "peerpods_webhook"],
        env={"PYTHONPATH": str(PACKAGE_ROOT), "BIND_ADDRESS": "127.0.0.1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Webhook:
    """A running webhook: its URL, how to trust it, and what it has logged."""

    def __init__(self, directory: Path, **env: str):
        pair = write_pair(directory)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.trust = ssl.create_default_context(cafile=pair["TLS_CERT_FILE"])
        self.process = start({**pair, "PORT": str(self.port), **env})
        first = self.process.stdout.readline()
        assert first, self.process.stderr.read()
        assert json.loads(first)["outcome"] == "listening"
        with self.client() as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.get("/readyz")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline, "the webhook does not accept connections"
                    time.sleep(0.01)

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.trust, trust_env=False, **options)

    def connection(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port))
        return self.trust.wrap_socket(plain, server_hostname="127.0.0.1")

    def stop(self) -> list[dict]:
        """Stop it with SIGTERM and return its log lines."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=10)
        assert (self.process.returncode, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def webhook(tmp_path_factory):
    running = Webhook(tmp_path_factory.mktemp("tls"), MAX_BODY_BYTES=str(LIMIT))
    yield running
    running.stop()


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def client(webhook, request):
    with webhook.client(http1=request.param == "HTTP/1.1", http2=request.param == "HTTP/2") as it:
        assert it.get("/readyz").http_version == request.param
        yield it


def review(runtime_class: str = "kata-remote", cpu: str = "1", **pod_fields) -> dict:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5",
            "operation": "CREATE",
            "namespace": "team",
            "object": {
                "metadata": {"name": "demo"},
                "spec": {
                    "runtimeClassName": runtime_class,
                    "containers": [
                        {
                            "name": "app",
                            "env": [{"name": "TOKEN", "value": "s3cret"}],
                            "resources": {"requests": {"cpu": cpu}},
                        }
                    ],
                },
                **pod_fields,
            },
        },
    }


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


def test_a_client_that_leaves_halfway_disturbs_nobody(tmp_path):
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
        for asked in (review("runc"), review(), review(cpu="one")):
            client.post("/mutate-v1-pod", json=asked)
    lines = webhook.stop()
    assert [line["outcome"] for line in lines] == [
        *(["unchanged"] if log_unchanged else []),
        "mutated",
        "refused",
    ]
    assert {(line["namespace"], line["name"], line["uid"]) for line in lines} == {
        ("team", "demo", "705ab4f5")
    }
    assert all(datetime.datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert "s3cret" not in json.dumps(lines)


def test_stops_at_once_though_connections_are_open(tmp_path):
    webhook = Webhook(tmp_path)
    with webhook.client() as one, webhook.client(http1=False, http2=True) as two:
        assert one.get("/healthz").status_code == two.get("/healthz").status_code == 200
        # communicate() waits for 10 seconds at most, as a container runtime does before SIGKILL.
        webhook.stop()


def test_a_review_in_flight_is_answered_before_the_process_ends(tmp_path):
    webhook = Webhook(tmp_path)
    body = json.dumps(review()).encode()
    head = (
        f"POST /mutate-v1-pod HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    with webhook.connection() as tls:
        tls.sendall(head + body[:10])
        time.sleep(0.2)
        webhook.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        tls.sendall(body[10:])
        assert tls.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert webhook.process.wait(timeout=10) == 0


def swapped(directory: Path) -> dict[str, str]:
    (directory / "other").mkdir()
    return write_pair(directory) | {"TLS_KEY_FILE": write_pair(directory / "other")["TLS_KEY_FILE"]}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (lambda _: {}, "TLS_CERT_FILE cannot be read: /etc/peerpods-webhook/tls/tls.crt: No such"),
        (lambda d: write_pair(d) | {"TLS_KEY_FILE": str(d)}, "TLS_KEY_FILE cannot be read: "),
        (lambda d: write_pair(d) | {"TLS_KEY_FILE": os.devnull}, "are no PEM certificate with its"),
        (swapped, "KEY_VALUES_MISMATCH. Mount a pair that belongs together."),
        (lambda _: {"PORT": "0"}, "PORT is '0': set it to a whole number from 1 to 65535."),
        (lambda _: {"PORT": "https"}, "PORT is 'https': set it to a whole number"),
        (lambda _: {"MAX_BODY_BYTES": "3Mi"}, "MAX_BODY_BYTES is '3Mi': set it to a whole number"),
        (lambda _: {"BIND_ADDRESS": "localhost"}, "BIND_ADDRESS is no IP address: 'localhost'"),
        (lambda _: {"TARGET_RUNTIME_CLASS": ","}, "TARGET_RUNTIME_CLASS is ',', which names no"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_sentence(tmp_path, env, sentence):
    process = start(env(tmp_path))
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("The webhook does not run: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # With it, granian adds a stack trace to its message.
        process = start({**write_pair(tmp_path), "PORT": str(port), "RUST_BACKTRACE": "1"})
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    assert f"127.0.0.1 port {port} cannot be listened at: Address already in use" in err
    assert err.count("\n") == 1
