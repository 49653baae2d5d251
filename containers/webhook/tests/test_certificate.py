"""The serving certificate: renewal, rejection of unusable pairs, and the TLS settings."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import json
import os
import resource
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from webhook_process import HOUR, SteadyClients, Webhook, free_port, review, start, wait_until, write_pair

from peerpods_webhook.certificate import check, read
from peerpods_webhook.settings import Settings

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
    lines = webhook.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def trust_context(*directories: Path) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    for directory in directories:
        trust.load_verify_locations(directory / "tls.crt")
    return trust


def test_a_renewed_certificate_is_served_and_no_review_is_lost(webhook, tmp_path):
    (tmp_path / "next").mkdir()
    write_pair(tmp_path / "next", until=2 * HOUR)
    trust = trust_context(tmp_path, tmp_path / "next")
    before = der(tmp_path)
    assert webhook.served_certificate() == before
    expiry = metric(webhook, "peerpods_webhook_certificate_not_after_timestamp_seconds")

    with SteadyClients(webhook, trust) as clients:
        wait_until(lambda: clients.successes > 20)
        # A second connection with the previous certificate, which stays idle.
        idle = webhook.connection()
        for name in ("tls.crt", "tls.key"):
            (tmp_path / "next" / name).replace(tmp_path / name)
        assert der(tmp_path) != before
        wait_until(lambda: 'reloads_total{result="success"} 1.0' in webhook.get("/metrics").text)
        # Existing connections stay open at first: they may be in the middle of a review.
        idle.settimeout(4)
        with pytest.raises(TimeoutError):
            idle.recv(1)
        # During the handover, both listeners accept connections. Afterwards, only the renewed one.
        idle.settimeout(20)
        assert idle.recv(1) == b""
        successes = clients.successes
        wait_until(lambda: clients.successes > successes + 20)
        assert {webhook.served_certificate() for _ in range(20)} == {der(tmp_path)}
    assert clients.errors == []
    later = metric(webhook, "peerpods_webhook_certificate_not_after_timestamp_seconds")
    assert later - expiry == pytest.approx(3600, abs=60)
    renewed = [line for line in webhook.stop() if line.get("message") == "Certificate renewed."]
    assert len(renewed) == 1


@pytest.mark.parametrize(
    ("break_pair", "sentence"),
    [
        (lambda d: (d / "tls.key").write_text("?"), "are not a PEM certificate and its unencrypted"),
        (lambda d: (d / "tls.crt").unlink(), "Reading TLS_CERT_FILE failed"),
        (lambda d: write_pair(d, ec.generate_private_key(ec.SECP521R1())), "The TLS library cannot use"),
        (
            lambda d: write_pair(d, rsa.generate_private_key(65537, 1024)),
            "that TLS accepts: EE_KEY_TOO_SMALL",
        ),
        (lambda d: write_pair(d, until=-SECOND), "tls.crt expired at "),
        (lambda d: write_pair(d, since=HOUR, until=2 * HOUR), "tls.crt is not valid before "),
    ],
    ids=["invalid key", "missing", "P-521", "RSA 1024", "expired", "not yet valid"],
)
def test_an_unusable_pair_does_not_replace_the_previous_pair(webhook, tmp_path, break_pair, sentence):
    before = der(tmp_path)
    break_pair(tmp_path)
    wait_until(lambda: 'reloads_total{result="failure"} 1.0' in webhook.get("/metrics").text)
    assert webhook.served_certificate() == before
    assert webhook.get("/readyz").status_code == 200
    (error,) = [line["message"] for line in webhook.stop() if line["level"] == "error"]
    assert sentence in error
    assert error.endswith("The previous certificate stays in use.")


def test_a_valid_pair_after_an_unusable_pair(webhook, tmp_path):
    (tmp_path / "tls.key").write_text("?")
    wait_until(lambda: 'reloads_total{result="failure"} 1.0' in webhook.get("/metrics").text)
    # The files are checked every second, but an error is logged once.
    time.sleep(3)
    write_pair(tmp_path)
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
    assert len([line for line in webhook.stop() if line["level"] == "error"]) == 1


def test_a_pair_replaces_the_previous_pair_when_it_becomes_valid(webhook, tmp_path):
    before = der(tmp_path)
    # Later than the first check, also on a busy machine.
    write_pair(tmp_path, since=8 * SECOND)
    wait_until(lambda: 'reloads_total{result="failure"} 1.0' in webhook.get("/metrics").text)
    assert webhook.served_certificate() == before
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
    messages = [line["message"] for line in webhook.stop() if "message" in line]
    assert [message for message in messages if "renewed" in message] == ["Certificate renewed."]


def test_a_pair_whose_check_was_killed_is_checked_again(webhook, tmp_path):
    """By the kernel, for want of memory."""
    children = Path(f"/proc/{webhook.process.pid}/task/{webhook.process.pid}/children")
    write_pair(tmp_path)
    pids: list[str] = []
    wait_until(lambda: pids.extend(children.read_text().split()) or pids)
    os.kill(int(pids[0]), signal.SIGKILL)
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
    (error,) = [line["message"] for line in webhook.stop() if line["level"] == "error"]
    assert error == "Loading the certificate failed: the process that checks it was killed. It is tried again."


def test_an_exception_in_the_process_that_checks_a_pair_says_nothing_about_the_pair(tmp_path, monkeypatch):
    """Such as for want of memory. Here, the process does not find the webhook."""
    settings = Settings.from_env(write_pair(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(OSError, match=r"the process that checks it failed: .*No module named"):
        asyncio.run(check(read(settings), settings))


def test_a_pair_that_could_not_be_checked_is_checked_again(webhook, tmp_path):
    """For want of file descriptors, as in a flood of connections."""
    soft, hard = resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE)
    before = der(tmp_path)
    opened = len(os.listdir(f"/proc/{webhook.process.pid}/fd"))
    # Enough to read the files, and too few to start the process that checks them.
    resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE, (opened + 3, hard))
    write_pair(tmp_path)
    wait_until(lambda: any("Loading the certificate failed" in line for line in webhook.lines()))
    assert webhook.process.poll() is None
    resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: webhook.served_certificate() == der(tmp_path) != before)
    errors = [line["message"] for line in webhook.stop() if line["level"] == "error"]
    assert set(errors) == {"Loading the certificate failed: Too many open files. It is tried again."}


def test_a_pair_that_is_not_valid_replaces_one_that_is_no_longer_valid(tmp_path):
    webhook = Webhook(tmp_path, write_pair(tmp_path, until=-SECOND))
    write_pair(tmp_path, since=HOUR, until=2 * HOUR)
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
    assert "is not valid before" in webhook.get("/readyz").text
    webhook.stop()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA 2048"],
)
def test_supported_keys(tmp_path, key):
    webhook = Webhook(tmp_path, write_pair(tmp_path, key))
    with webhook.client() as client:
        assert client.get("/readyz").status_code == 200
    webhook.stop()


def test_not_ready_with_an_expired_certificate_until_it_is_renewed(tmp_path):
    webhook = Webhook(tmp_path, write_pair(tmp_path, until=-SECOND))
    webhook.trust.check_hostname = False
    webhook.trust.verify_mode = ssl.CERT_NONE
    connected = webhook.connection()
    reply = webhook.get("/readyz")
    assert reply.status_code == 503
    assert reply.text.startswith("The serving certificate expired at ")
    assert webhook.get("/healthz").status_code == 200
    write_pair(tmp_path)
    wait_until(lambda: webhook.get("/readyz").status_code == 200)
    # There is no handover from an expired certificate.
    connected.settimeout(5)
    assert connected.recv(1) == b""
    assert webhook.served_certificate() == der(tmp_path)
    webhook.stop()


def test_not_ready_before_the_certificate_is_valid_and_after_it_expires(tmp_path):
    early = Webhook(tmp_path, write_pair(tmp_path, since=HOUR, until=2 * HOUR))
    assert "is not valid before" in early.get("/readyz").text
    early.stop()
    not_yet_valid = Webhook(tmp_path, write_pair(tmp_path, until=4 * SECOND))
    # Whether it was ready before this depends on the duration of its start.
    wait_until(lambda: "expired" in not_yet_valid.get("/readyz").text)
    not_yet_valid.stop()


@pytest.mark.parametrize(
    ("minimum", "offered", "accepted"),
    [
        ("VersionTLS12", ssl.TLSVersion.TLSv1_2, True),
        ("VersionTLS13", ssl.TLSVersion.TLSv1_2, False),
        ("VersionTLS13", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_tls_min_version(tmp_path, minimum, offered, accepted):
    webhook = Webhook(tmp_path, TLS_MIN_VERSION=minimum)
    webhook.trust.minimum_version = webhook.trust.maximum_version = offered
    with contextlib.nullcontext() if accepted else pytest.raises(ssl.SSLError):
        webhook.connection().close()
    webhook.stop()


def test_offered_cipher_suites(tmp_path):
    from peerpods_webhook.settings import TLS12_CIPHER_SUITES

    webhook = Webhook(tmp_path)
    webhook.trust.maximum_version = ssl.TLSVersion.TLSv1_2
    offered = set()
    # All suites of this OpenSSL, one at a time, for a certificate with an ECDSA key.
    for suite in ssl.create_default_context().get_ciphers():
        if suite["protocol"] == "TLSv1.3":
            continue
        webhook.trust.set_ciphers(suite["name"])
        try:
            webhook.connection().close()
            offered.add(suite["name"])
        except ssl.SSLError:
            pass
    assert offered == {name for name in TLS12_CIPHER_SUITES.values() if "ECDSA" in name}
    webhook.stop()


@pytest.fixture
def clients(tmp_path) -> tuple[Path, Path]:
    """Two directories with a client certificate each: only the first is trusted."""
    directories = tmp_path / "trusted", tmp_path / "untrusted"
    for directory in directories:
        directory.mkdir()
        write_pair(directory)
    return directories


def test_only_clients_of_the_ca_are_served(tmp_path, clients):
    trusted, untrusted = clients
    webhook = Webhook(tmp_path, TLS_CLIENT_CA_FILE=str(trusted / "tls.crt"))

    def status(directory: Path | None) -> int:
        trust = trust_context(tmp_path)
        if directory:
            trust.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        connection = http.client.HTTPSConnection("127.0.0.1", webhook.port, context=trust)
        connection.request("POST", "/mutate-v1-pod", REVIEW)
        return connection.getresponse().status

    assert status(trusted) == 200
    for directory in (untrusted, None):
        # In TLS 1.3 the client completes its handshake before the rejection, and may be writing then.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status(directory)
    # A kubelet presents no certificate.
    assert webhook.get("/readyz").status_code == 200

    # The CA is reloaded like the certificate.
    (untrusted / "tls.crt").replace(trusted / "tls.crt")
    wait_until(lambda: 'reloads_total{result="success"} 1.0' in webhook.get("/metrics").text)
    webhook.stop()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"TLS_MIN_VERSION": "1.3"}, "TLS_MIN_VERSION is '1.3'. Set it to VersionTLS12 or Version"),
        ({"TLS_CIPHER_SUITES": "TLS_RSA_WITH_AES_128_CBC_SHA"}, "TLS_CIPHER_SUITES does not contain TLS"),
        ({"TLS_CLIENT_CA_FILE": "/nowhere"}, "Reading TLS_CLIENT_CA_FILE failed: /nowhere: No suc"),
        ({"TLS_CLIENT_CA_FILE": os.devnull}, "or TLS_CLIENT_CA_FILE"),
    ],
)
def test_startup_errors(tmp_path, env, sentence):
    process = start({**write_pair(tmp_path), **env})
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    assert sentence in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "suites",
    [
        # OpenShift's profile Intermediate, as in its API.
        (
            "TLS_AES_128_GCM_SHA256,ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256,"
            "ECDHE-ECDSA-AES256-GCM-SHA384,ECDHE-RSA-AES256-GCM-SHA384,ECDHE-ECDSA-CHACHA20-POLY1305,"
            "ECDHE-RSA-CHACHA20-POLY1305,DHE-RSA-AES128-GCM-SHA256"
        ),
        "",
    ],
)
def test_cipher_suites_that_include_all_offered_ones(tmp_path, suites):
    webhook = Webhook(tmp_path, TLS_CIPHER_SUITES=suites)
    webhook.connection().close()
    webhook.stop()


def test_the_key_is_not_logged(tmp_path):
    pair = write_pair(tmp_path)
    key = Path(pair["TLS_KEY_FILE"]).read_text().splitlines()[1]
    (tmp_path / "tls.crt").write_bytes((tmp_path / "tls.key").read_bytes())
    process = start(pair)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert key not in output + errors


def test_startup_error_for_a_health_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        process = start({**write_pair(tmp_path), "PORT": str(free_port()), "HEALTH_PORT": str(port)})
        _, err = process.communicate(timeout=20)
    assert f"Listening on 127.0.0.1 port {port} failed: Address already in use" in err
