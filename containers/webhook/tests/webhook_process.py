"""Runs the webhook as a process, with a temporary certificate."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import samples
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.cluster.processes import free_ports, wait_for

PACKAGE_ROOT = Path(__file__).resolve().parent.parent

HOUR = datetime.timedelta(hours=1)


def write_pair(directory: Path, key=None, since=-HOUR, until=HOUR) -> dict[str, str]:
    """Write a certificate for 127.0.0.1 and its key; returns the environment variables for them.

    The validity is from `since` until `until`, relative to now.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    serial_number = x509.random_serial_number()
    # A unique name: a client that trusts two certificates finds the issuer by name.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{serial_number:x}")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial_number)
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    return replace_pair(
        directory,
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def replace_pair(directory: Path, certificate: bytes, key: bytes) -> dict[str, str]:
    """As write_pair. No webhook reads a part of a file, or one file long before the other."""
    contents = {"tls.crt": certificate, "tls.key": key}
    for name, content in contents.items():
        (directory / f"{name}.new").write_bytes(content)
    for name in contents:
        (directory / f"{name}.new").replace(directory / name)
    return {
        "TLS_CERT_FILE": str(directory / "tls.crt"),
        "TLS_KEY_FILE": str(directory / "tls.key"),
    }


def trust_context(*directories: Path) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    for directory in directories:
        trust.load_verify_locations(directory / "tls.crt")
    return trust


def start(env: dict[str, str], files: int | None = None) -> subprocess.Popen:
    """Start the webhook, with at most `files` open files if that is set."""
    limit = ["prlimit", f"--nofile={files}"] if files else []
    return subprocess.Popen(
        [*limit, sys.executable, "-m", "peerpods_webhook"],
        env={
            "PYTHONPATH": str(PACKAGE_ROOT),
            "BIND_ADDRESS": "127.0.0.1",
            "HEALTH_PORT": str(free_ports(1)[0]),
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, seconds: float = 20, every: float = 0.1):
    return wait_for("the condition", condition, seconds=seconds, every=every)


class Webhook:
    """A running webhook: its URL, its certificate, and its log."""

    def __init__(self, directory: Path, pair: dict[str, str] | None = None, files: int | None = None, **env: str):
        pair = pair or write_pair(directory)
        self.port, self.health_port = free_ports(2)
        self.url = f"https://127.0.0.1:{self.port}"
        self.trust = ssl.create_default_context(cafile=pair["TLS_CERT_FILE"])
        self.process = start({**pair, "PORT": str(self.port), "HEALTH_PORT": str(self.health_port), **env}, files)
        first = self.process.stdout.readline()
        assert first, self.process.stderr.read()
        assert json.loads(first)["message"] == "Listening for admission reviews."
        self._lines: list[str] = []
        # A daemon: pytest must end even if a test fails before it stops the process.
        self._reader = threading.Thread(target=self._lines.extend, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.trust, trust_env=False, **options)

    def get(self, path: str) -> httpx.Response:
        """GET from the port for probes and metrics."""
        # Without verification, httpx does not load all CA certificates first, which is slow.
        return httpx.get(f"http://127.0.0.1:{self.health_port}{path}", trust_env=False, verify=False)

    def readiness(self) -> Callable[[], tuple[int, str]]:
        """A function that returns the status and text of /readyz, on one connection, which it has used already."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=10)

        def ask() -> tuple[int, str]:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            return response.status, response.read().decode()

        assert ask() == (200, "ok")
        return ask

    def metrics(self) -> dict[str, float]:
        """The value of each sample, by its name with the labels."""
        lines = (line for line in self.get("/metrics").text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _space, value in (line.rpartition(" ") for line in lines)}

    def wait_with_files(self, limits: tuple[int, int], condition) -> None:
        """Wait until the condition is met with these limits of open files.

        The webhook changes its limit as well, and restores what it has found: they are set until then.
        """

        def is_met() -> bool:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, limits)
            return condition()

        wait_until(is_met)

    def served_certificate(self) -> bytes:
        """The certificate on a new connection, as DER."""
        unverified = ssl._create_unverified_context()
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            unverified.wrap_socket(plain) as tls,
        ):
            return tls.getpeercert(binary_form=True)

    def connection(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port))
        return self.trust.wrap_socket(plain, server_hostname="127.0.0.1")

    def lines(self) -> list[str]:
        """The log lines so far."""
        return list(self._lines)

    def stop(self) -> list[dict]:
        """Stop it with SIGTERM and return its log lines."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> list[dict]:
        """Wait until it ends with status 0, and return its log lines."""
        status = self.process.wait(timeout=15)
        self._reader.join()
        assert (status, self.process.stderr.read()) == (0, "")
        return [json.loads(line) for line in self._lines]


def review(runtime_class: str = "kata-remote", cpu: str = "1", **pod_fields) -> dict:
    """A review of the pod `demo`; `pod_fields` replace its fields."""
    demo = {**samples.pod(cpu, runtime_class), "metadata": {"name": "demo"}, **pod_fields}
    return samples.review(uid="705ab4f5", object=demo)


class SteadyClients:
    """Clients that send one review after the other on persistent connections, as API servers do."""

    def __init__(self, webhook: Webhook, trust: ssl.SSLContext):
        self._webhook, self._trust = webhook, trust
        self.successes, self.errors = 0, []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        # API servers use HTTP/1.1 for webhooks.
        with httpx.Client(base_url=self._webhook.url, verify=self._trust, trust_env=False) as client:
            while not self._end.is_set():
                try:
                    reply = client.post("/mutate-v1-pod", json=review())
                except httpx.HTTPError as error:
                    self.errors.append(error)
                else:
                    self.successes += reply.json()["response"]["patchType"] == "JSONPatch"
                # The connection is sometimes idle, as with most API servers.
                time.sleep(0.02)
