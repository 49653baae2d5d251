"""The serving certificate: renewed under way, refused where it cannot be served, and TLS itself."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Self

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from webhook_process import HOUR, Webhook, free_port, review, start, wait_until, write_pair

REVIEW = json.dumps(review()).encode()
SECOND = datetime.timedelta(seconds=1)


@pytest.fixture
def webhook(tmp_path):
    running = Webhook(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop()


def der(directory: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((directory / "tls.crt").read_text())


def metric(webhook: Webhook, name: str) -> float:
    lines = webhook.ask("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


class SteadyClients:
    """Reviews one after the other on kept-alive connections, as an API server sends them."""

    def __init__(self, webhook: Webhook, trust: ssl.SSLContext):
        self._webhook, self._trust = webhook, trust
        self.answered, self.failed = 0, []
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
        # HTTP/1.1 is what API servers speak to webhooks.
        with httpx.Client(base_url=self._webhook.url, verify=self._trust, trust_env=False) as client:
            while not self._end.is_set():
                try:
                    reply = client.post("/mutate-v1-pod", content=REVIEW)
                except httpx.HTTPError as error:
                    self.failed.append(error)
                else:
                    self.answered += reply.json()["response"]["patchType"] == "JSONPatch"
                # As with most API servers, the connection is idle now and then.
                time.sleep(0.005)


def trusting(*directories: Path) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    for directory in directories:
        trust.load_verify_locations(directory / "tls.crt")
    return trust


def test_a_renewed_certificate_is_taken_up_and_no_review_is_lost(webhook, tmp_path):
    (tmp_path / "next").mkdir()
    write_pair(tmp_path / "next", until=2 * HOUR)
    trust = trusting(tmp_path, tmp_path / "next")
    before = der(tmp_path)
    assert webhook.presented() == before
    expiry = metric(webhook, "peerpods_webhook_certificate_not_after_timestamp_seconds")

    with SteadyClients(webhook, trust) as clients:
        wait_until(lambda: clients.answered > 100)
        # A second connection of before, which says nothing all the while.
        silent = webhook.connection()
        for name in ("tls.crt", "tls.key"):
            (tmp_path / "next" / name).replace(tmp_path / name)
        assert der(tmp_path) != before
        wait_until(lambda: 'reloads_total{result="served"} 1.0' in webhook.ask("/metrics").text)
        # Who is connected to the one before is left alone for a while, lest a review is under way.
        silent.settimeout(4)
        with pytest.raises(TimeoutError):
            silent.recv(1)
        # Until the handover is over, either may answer; then only the renewed one.
        silent.settimeout(20)
        assert silent.recv(1) == b""
        so_far = clients.answered
        wait_until(lambda: clients.answered > so_far + 100)
        assert {webhook.presented() for _ in range(20)} == {der(tmp_path)}
    assert clients.failed == []
    later = metric(webhook, "peerpods_webhook_certificate_not_after_timestamp_seconds")
    assert later - expiry == pytest.approx(3600, abs=60)
    renewed = [line for line in webhook.stop() if line["outcome"] == "certificate renewed"]
    assert len(renewed) == 1


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "tls.key").write_text("?"), "are no PEM certificate with its unencrypted"),
        (lambda d: (d / "tls.crt").unlink(), "TLS_CERT_FILE cannot be read"),
        (lambda d: write_pair(d, ec.generate_private_key(ec.SECP521R1())), "cannot be served by"),
        (
            lambda d: write_pair(d, rsa.generate_private_key(65537, 1024)),
            "that TLS accepts: EE_KEY_TOO_SMALL",
        ),
    ],
    ids=["no key", "gone", "P-521", "RSA 1024"],
)
def test_what_cannot_be_served_leaves_the_one_before(webhook, tmp_path, spoil, sentence):
    before = der(tmp_path)
    spoil(tmp_path)
    wait_until(lambda: 'reloads_total{result="refused"} 1.0' in webhook.ask("/metrics").text)
    assert webhook.presented() == before
    assert webhook.ask("/readyz").status_code == 200
    # It is looked at every second, but complained of once.
    time.sleep(3)
    complaints = [line["message"] for line in webhook.stop()]
    assert len(complaints) == 1
    assert sentence in complaints[0]
    assert complaints[0].endswith("Until then the one before is served.")


def test_a_good_certificate_after_a_bad_one(webhook, tmp_path):
    (tmp_path / "tls.key").write_text("?")
    wait_until(lambda: 'reloads_total{result="refused"} 1.0' in webhook.ask("/metrics").text)
    write_pair(tmp_path)
    wait_until(lambda: webhook.presented() == der(tmp_path))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA 2048"],
)
def test_keys_that_are_served(tmp_path, key):
    webhook = Webhook(tmp_path, write_pair(tmp_path, key))
    with webhook.client() as client:
        assert client.get("/readyz").status_code == 200
    webhook.stop()


def test_not_ready_with_a_certificate_that_has_expired_until_it_is_renewed(tmp_path):
    webhook = Webhook(tmp_path, write_pair(tmp_path, until=-SECOND))
    webhook.trust.check_hostname = False
    webhook.trust.verify_mode = ssl.CERT_NONE
    connected = webhook.connection()
    reply = webhook.ask("/readyz")
    assert reply.status_code == 503
    assert reply.text.startswith("The serving certificate expired at ")
    assert webhook.ask("/healthz").status_code == 200
    write_pair(tmp_path)
    wait_until(lambda: webhook.ask("/readyz").status_code == 200)
    # Nothing is handed over from a certificate that nobody takes.
    connected.settimeout(5)
    assert connected.recv(1) == b""
    assert webhook.presented() == der(tmp_path)
    webhook.stop()


def test_not_ready_once_its_certificate_expires_nor_before_it_is_valid(tmp_path):
    early = Webhook(tmp_path, write_pair(tmp_path, since=HOUR, until=2 * HOUR))
    assert "is not valid before" in early.ask("/readyz").text
    early.stop()
    webhook = Webhook(tmp_path, write_pair(tmp_path, until=4 * SECOND))
    assert webhook.ask("/readyz").status_code == 200
    wait_until(lambda: webhook.ask("/readyz").status_code == 503)
    webhook.stop()


@pytest.mark.parametrize(
    ("minimum", "offered", "taken"),
    [
        ("VersionTLS12", ssl.TLSVersion.TLSv1_2, True),
        ("VersionTLS13", ssl.TLSVersion.TLSv1_2, False),
        ("VersionTLS13", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_tls_min_version(tmp_path, minimum, offered, taken):
    webhook = Webhook(tmp_path, TLS_MIN_VERSION=minimum)
    webhook.trust.minimum_version = webhook.trust.maximum_version = offered
    with contextlib.nullcontext() if taken else pytest.raises(ssl.SSLError):
        webhook.connection().close()
    webhook.stop()


def test_no_other_cipher_suite_is_offered_than_the_settings_know(tmp_path):
    from peerpods_webhook.settings import TLS12_CIPHER_SUITES

    webhook = Webhook(tmp_path)
    webhook.trust.maximum_version = ssl.TLSVersion.TLSv1_2
    taken = set()
    # All that this OpenSSL has, one at a time, for a certificate with an ECDSA key.
    for suite in ssl.create_default_context().get_ciphers():
        if suite["protocol"] == "TLSv1.3":
            continue
        webhook.trust.set_ciphers(suite["name"])
        try:
            webhook.connection().close()
            taken.add(suite["name"])
        except ssl.SSLError:
            pass
    assert taken == {name for name in TLS12_CIPHER_SUITES.values() if "ECDSA" in name}
    webhook.stop()


@pytest.fixture
def clients(tmp_path) -> tuple[Path, Path]:
    """Two directories with a client's certificate each: only the first one's is trusted."""
    directories = tmp_path / "known", tmp_path / "stranger"
    for directory in directories:
        directory.mkdir()
        write_pair(directory)
    return directories


def test_only_clients_of_the_ca_get_an_answer(tmp_path, clients):
    known, stranger = clients
    webhook = Webhook(tmp_path, TLS_CLIENT_CA_FILE=str(known / "tls.crt"))

    def status(directory: Path | None) -> int:
        trust = trusting(tmp_path)
        if directory:
            trust.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        connection = http.client.HTTPSConnection("127.0.0.1", webhook.port, context=trust)
        connection.request("POST", "/mutate-v1-pod", REVIEW)
        return connection.getresponse().status

    assert status(known) == 200
    for directory in (stranger, None):
        # By TLS 1.3 a client has shaken hands before it is refused: it may be writing by then.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status(directory)
    # A kubelet has no certificate to present.
    assert webhook.ask("/readyz").status_code == 200

    # The CA is renewed as the certificate is.
    (stranger / "tls.crt").replace(known / "tls.crt")
    wait_until(lambda: 'reloads_total{result="served"} 1.0' in webhook.ask("/metrics").text)
    webhook.stop()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"TLS_MIN_VERSION": "1.3"}, "TLS_MIN_VERSION is '1.3': set it to VersionTLS12 or Version"),
        ({"TLS_CIPHER_SUITES": "TLS_RSA_WITH_AES_128_CBC_SHA"}, "TLS_CIPHER_SUITES leaves out TLS"),
        ({"TLS_CLIENT_CA_FILE": "/nowhere"}, "TLS_CLIENT_CA_FILE cannot be read: /nowhere: No suc"),
        ({"TLS_CLIENT_CA_FILE": os.devnull}, "cannot be served by the TLS library"),
    ],
)
def test_settings_that_keep_it_from_starting(tmp_path, env, sentence):
    process = start({**write_pair(tmp_path), **env})
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "suites",
    [
        # OpenShift's profile Intermediate, as its API has it.
        (
            "TLS_AES_128_GCM_SHA256,ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256,"
            "ECDHE-ECDSA-AES256-GCM-SHA384,ECDHE-RSA-AES256-GCM-SHA384,ECDHE-ECDSA-CHACHA20-POLY1305,"
            "ECDHE-RSA-CHACHA20-POLY1305,DHE-RSA-AES128-GCM-SHA256"
        ),
        "",
    ],
)
def test_cipher_suites_that_allow_what_is_offered(tmp_path, suites):
    webhook = Webhook(tmp_path, TLS_CIPHER_SUITES=suites)
    webhook.connection().close()
    webhook.stop()


def test_the_key_is_nowhere_to_be_seen(tmp_path):
    pair = write_pair(tmp_path)
    key = Path(pair["TLS_KEY_FILE"]).read_text().splitlines()[1]
    (tmp_path / "tls.crt").write_bytes((tmp_path / "tls.key").read_bytes())
    process = start(pair)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert key not in out + err


def test_both_listeners_are_plain_about_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start({**write_pair(tmp_path), "PORT": str(free_port()), "HEALTH_PORT": str(port)})
        _, err = process.communicate(timeout=20)
    assert f"127.0.0.1 port {port} cannot be listened at: Address already in use" in err
