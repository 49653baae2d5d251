"""What TLS offers: keys, versions, cipher suites and clients; and settings with which the webhook does not start."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from webhook_process import Webhook, review, start, trust_context, wait_until, write_pair

from tests.cluster.processes import free_ports

REVIEW = json.dumps(review()).encode()


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
        process = start({**write_pair(tmp_path), "PORT": str(free_ports(1)[0]), "HEALTH_PORT": str(port)})
        _, err = process.communicate(timeout=20)
    assert f"Listening on 127.0.0.1 port {port} failed: Address already in use" in err
