from __future__ import annotations

import ast
from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook_role import (
    TLS12_CIPHER_SUITES,
    webhook_problems,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support import ROOT

OPTIONS = {
    "certificate": "auto",
    "cert_manager_issuer": {},
    "serves_cert_manager": None,
    "port": "9443",
    "health_port": 8080,
    "replicas": 2,
    "target_runtime_classes": ["kata-remote"],
    "extra_excluded_namespaces": ["cert-manager", "rook-*"],
    "has_service_ca": None,
    "has_cryptography": True,
    "client_ca": "",
    "tls_cipher_suites": [],
    "tls_min_version": "VersionTLS12",
}
WITHOUT_CRYPTOGRAPHY = {"has_cryptography": False}
ONE_SUITE = {"tls_cipher_suites": ["ECDHE-RSA-AES128-GCM-SHA256", "AES128-SHA"]}


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clients")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


ISSUER = {"kind": "ClusterIssuer", "name": "internal-ca"}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"certificate": "own", "serves_cert_manager": False}, []),
        ({"certificate": "cert_manager", "cert_manager_issuer": ISSUER}, []),
        ({"certificate": "cert_manager", "cert_manager_issuer": ISSUER, "serves_cert_manager": True}, []),
        (
            {"certificate": "cert_manager", "cert_manager_issuer": {"kind": "Issuer"}, "serves_cert_manager": False},
            ["webhook_cert_manager_issuer does not name an issuer", "does not serve cert-manager.io. Install"],
        ),
        ({"certificate": "service_ca"}, []),
        ({"certificate": "service_ca", "has_service_ca": True}, []),
        (
            {"certificate": "service_ca", "has_service_ca": False},
            ["webhook_certificate is service_ca, but the cluster has no service CA operator"],
        ),
        ({"certificate": "own", **WITHOUT_CRYPTOGRAPHY}, ["needs the package cryptography, and it is not installed"]),
        ({"has_service_ca": False, **WITHOUT_CRYPTOGRAPHY}, ["needs the package cryptography"]),
        ({"has_service_ca": True, **WITHOUT_CRYPTOGRAPHY}, []),
        (WITHOUT_CRYPTOGRAPHY, []),
        ({"client_ca": certificate() + certificate()}, []),
        ({"client_ca": "/etc/pki/ca.crt"}, ["webhook_client_ca has no PEM certificates that TLS accepts: "]),
        (
            {"client_ca": "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"},
            ["webhook_client_ca has no PEM certificates"],
        ),
        ({"client_ca": "ü"}, ["webhook_client_ca has no PEM certificates"]),
        (
            {"client_ca": f"{certificate()}-----BEGIN PRIVATE KEY-----\n"},
            ["webhook_client_ca has a private key"],
        ),
        ({"tls_cipher_suites": [*TLS12_CIPHER_SUITES]}, []),
        ({"tls_cipher_suites": [*TLS12_CIPHER_SUITES.values(), "TLS_AES_128_GCM_SHA256", " AES128-SHA"]}, []),
        (ONE_SUITE, ["leaves out TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]),
        ({"tls_cipher_suites": ["AES128-SHA"]}, ["which the webhook always offers with TLS 1.2: it would not start."]),
        ({**ONE_SUITE, "tls_min_version": "VersionTLS13"}, []),
        # What the APIServer decides, and could not be read.
        ({**ONE_SUITE, "tls_min_version": None}, []),
        (
            {"tls_cipher_suites": [*TLS12_CIPHER_SUITES, "HIGH:!aNULL", "tls_aes_128_gcm_sha256"]},
            ["has HIGH:!aNULL, tls_aes_128_gcm_sha256, which is not the name of a cipher suite at IANA or in OpenSSL"],
        ),
        ({"health_port": "9443"}, ["webhook_port and webhook_health_port are both 9443"]),
        ({"port": 0}, ["webhook_port must be from 1 to 65535; got 0"]),
        ({"health_port": 65536}, ["webhook_health_port must be from 1 to 65535; got 65536"]),
        ({"replicas": "0"}, ["webhook_replicas is 0"]),
        ({"target_runtime_classes": []}, ["webhook_target_runtime_classes is empty"]),
        (
            {"extra_excluded_namespaces": ["*"]},
            ["webhook_extra_excluded_namespaces is invalid: '*' is not a namespace"],
        ),
    ],
)
def test_options_that_cannot_be_deployed_are_reported(changes: dict, problems: list[str]):
    reported = webhook_problems({**OPTIONS, **changes})
    assert len(reported) == len(problems)
    for problem, sentence in zip(problems, reported, strict=True):
        assert problem in sentence


def test_the_cipher_suites_are_those_of_the_server():
    source = (ROOT / "containers/webhook/peerpods_webhook/settings.py").read_text()
    (suites,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TLS12_CIPHER_SUITES"
    ]
    assert suites == TLS12_CIPHER_SUITES
