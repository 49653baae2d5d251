"""The serving certificate: renewal, and rejection of unusable pairs."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import resource
import signal
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from webhook_process import HOUR, SteadyClients, Webhook, replace_pair, trust_context, wait_until, write_pair

from peerpods_webhook.certificate import check, read
from peerpods_webhook.settings import Settings

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture
def webhook(tmp_path):
    running = Webhook(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop()


def der(directory: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((directory / "tls.crt").read_text())


def test_a_renewed_certificate_is_served_and_no_review_is_lost(webhook, tmp_path):
    (tmp_path / "next").mkdir()
    write_pair(tmp_path / "next", until=2 * HOUR)
    trust = trust_context(tmp_path, tmp_path / "next")
    before = der(tmp_path)
    assert webhook.served_certificate() == before
    expiry = webhook.metrics()["peerpods_webhook_certificate_not_after_timestamp_seconds"]

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
    later = webhook.metrics()["peerpods_webhook_certificate_not_after_timestamp_seconds"]
    assert later - expiry == pytest.approx(3600, abs=60)
    renewed = [line for line in webhook.stop() if line.get("message") == "Certificate renewed."]
    assert len(renewed) == 1


def write_version_2(directory: Path) -> None:
    """A certificate of X.509 v2, which OpenSSL loads."""
    version_3, version_2 = (bytes.fromhex(f"a00302010{number}") for number in (2, 1))
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    write_pair(elsewhere)
    encoded = der(elsewhere).replace(version_3, version_2, 1)
    replace_pair(directory, ssl.DER_cert_to_PEM_cert(encoded).encode(), (elsewhere / "tls.key").read_bytes())


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
        (write_version_2, "is not a valid X509 version"),
        (lambda d: write_pair(d, until=-SECOND), "tls.crt expired at "),
        (lambda d: write_pair(d, since=HOUR, until=2 * HOUR), "tls.crt is not valid before "),
    ],
    ids=["invalid key", "missing", "P-521", "RSA 1024", "X.509 v2", "expired", "not yet valid"],
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


def bytes_read(webhook: Webhook) -> int:
    """The bytes that the process has read: of files only, unless it receives a request."""
    counters = Path(f"/proc/{webhook.process.pid}/io").read_text()
    return int(re.match(r"rchar: (\d+)", counters)[1])


def test_a_valid_pair_after_an_unusable_pair(webhook, tmp_path):
    (tmp_path / "tls.key").write_text("?")
    wait_until(lambda: 'reloads_total{result="failure"} 1.0' in webhook.get("/metrics").text)
    # The files are read every second, but an error is logged once.
    size, before = (tmp_path / "tls.crt").stat().st_size, bytes_read(webhook)
    wait_until(lambda: bytes_read(webhook) >= before + 2 * size)
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
    limits = resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE)
    before = der(tmp_path)
    opened = len(os.listdir(f"/proc/{webhook.process.pid}/fd"))
    # Enough to read the files, and too few to start the process that checks them.
    resource.prlimit(webhook.process.pid, resource.RLIMIT_NOFILE, (opened + 3, limits[1]))
    write_pair(tmp_path)
    wait_until(lambda: any("Loading the certificate failed" in line for line in webhook.lines()))
    assert webhook.process.poll() is None
    webhook.wait_with_files(limits, lambda: webhook.served_certificate() == der(tmp_path) != before)
    errors = [line["message"] for line in webhook.stop() if line["level"] == "error"]
    assert set(errors) == {"Loading the certificate failed: Too many open files. It is tried again."}


def test_a_pair_that_is_not_valid_replaces_one_that_is_no_longer_valid(tmp_path):
    webhook = Webhook(tmp_path, write_pair(tmp_path, until=-SECOND))
    write_pair(tmp_path, since=HOUR, until=2 * HOUR)
    # There is no handover from an expired certificate: the previous listener may accept a last connection.
    wait_until(lambda: "is not valid before" in webhook.get("/readyz").text)
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
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
    wait_until(lambda: webhook.served_certificate() == der(tmp_path))
    webhook.stop()


def test_not_ready_before_the_certificate_is_valid_and_after_it_expires(tmp_path):
    early = Webhook(tmp_path, write_pair(tmp_path, since=HOUR, until=2 * HOUR))
    assert "is not valid before" in early.get("/readyz").text
    early.stop()
    not_yet_valid = Webhook(tmp_path, write_pair(tmp_path, until=4 * SECOND))
    # Whether it was ready before this depends on the duration of its start.
    wait_until(lambda: "expired" in not_yet_valid.get("/readyz").text)
    not_yet_valid.stop()
