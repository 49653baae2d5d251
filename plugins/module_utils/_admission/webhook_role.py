# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why the role webhook cannot deploy or register the webhook with its options (no I/O here)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError, namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

LAST_PORT = 65535

# What the server offers with TLS 1.2 and cannot leave out, by the names at IANA and in OpenSSL (TLS12_CIPHER_SUITES in
# containers/webhook/peerpods_webhook/settings.py).
TLS12_CIPHER_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}

# The names of cipher suites: at IANA, such as TLS_RSA_WITH_AES_128_CBC_SHA, and in OpenSSL, such as AES128-SHA.
CIPHER_SUITE = re.compile(r"TLS(_[A-Z0-9]+){3,}|[A-Z0-9]+(-[A-Z0-9]+)+")


def webhook_problems(options: Mapping[str, Any]) -> list[str]:
    """The problems, each as a sentence. `serves_cert_manager` and `has_service_ca` are None if they are not known, and
    so is `tls_min_version`."""
    return list(_problems(options))


def _problems(options: Mapping[str, Any]) -> Iterator[str]:
    if options["certificate"] == "cert_manager":
        yield from _cert_manager_problems(options["cert_manager_issuer"], options["serves_cert_manager"])
    yield from _certificate_problems(options["certificate"], options["has_service_ca"], options["has_cryptography"])
    yield from _client_ca_problems(options["client_ca"])
    yield from _cipher_suite_problems(options["tls_cipher_suites"], options["tls_min_version"])
    ports = {name: int(options[name]) for name in ("port", "health_port")}
    for name, port in ports.items():
        if not 1 <= port <= LAST_PORT:
            yield f"webhook_{name} must be from 1 to {LAST_PORT}; got {port}."
    if ports["port"] == ports["health_port"]:
        yield f"webhook_port and webhook_health_port are both {ports['port']}. Set one of them to another port."
    if int(options["replicas"]) < 1:
        yield (
            f"webhook_replicas is {options['replicas']}: the API server would reject every peer pod. Set it to 1 or "
            "more."
        )
    if not options["target_runtime_classes"]:
        yield "webhook_target_runtime_classes is empty. Set at least one RuntimeClass."
    try:
        namespaces(options["extra_excluded_namespaces"])
    except AdmissionError as error:
        yield f"webhook_extra_excluded_namespaces is invalid: {error}"


def _cert_manager_problems(issuer: Mapping[str, Any], is_served: bool | None) -> Iterator[str]:
    if not issuer.get("name"):
        yield (
            "webhook_cert_manager_issuer does not name an issuer. Set it to the issuerRef of the cert-manager Issuer "
            'or ClusterIssuer that signs the webhook\'s certificate, such as {"kind": "ClusterIssuer", "name": '
            '"internal-ca"}.'
        )
    if is_served is False:
        yield (
            "webhook_certificate is cert_manager, but the cluster does not serve cert-manager.io. Install "
            "cert-manager, or set webhook_certificate to service_ca or own."
        )


def _certificate_problems(certificate: str, has_service_ca: bool | None, has_cryptography: bool) -> Iterator[str]:
    if certificate == "service_ca" and has_service_ca is False:
        yield (
            "webhook_certificate is service_ca, but the cluster has no service CA operator (the namespace "
            "openshift-service-ca does not exist), which would issue the certificate. Set webhook_certificate to own "
            "or cert_manager."
        )
    is_own = certificate == "own" or (certificate == "auto" and has_service_ca is False)
    if is_own and not has_cryptography:
        yield (
            "The role issues the certificate of the webhook itself, for which Ansible's Python needs the package "
            "cryptography, and it is not installed. Install it, or set webhook_certificate to cert_manager."
        )


def _client_ca_problems(client_ca: str) -> Iterator[str]:
    if not client_ca:
        return
    expected = (
        "Set it to the content of a file with PEM certificates, such as {{ lookup('ansible.builtin.file', 'ca.crt') }}."
    )
    if "PRIVATE KEY-----" in client_ca:
        yield (
            "webhook_client_ca has a private key, which a ConfigMap would show to everybody who reads it. "
            "Remove the key from it."
        )
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=client_ca)
    except (ssl.SSLError, ValueError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        yield f"webhook_client_ca has no PEM certificates that TLS accepts: {reason}. {expected}"


def _cipher_suite_problems(suites: Sequence[str], tls_min_version: str | None) -> Iterator[str]:
    names = [suite.strip() for suite in suites if suite.strip()]
    unknown = [name for name in names if not CIPHER_SUITE.fullmatch(name)]
    if unknown:
        yield (
            f"webhook_tls_cipher_suites has {join_names(unknown)}, which is not the name of a cipher suite at IANA or "
            "in OpenSSL, such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256. Correct it."
        )
    missing = [iana for iana, openssl in TLS12_CIPHER_SUITES.items() if not {iana, openssl} & {*names}]
    if names and missing and tls_min_version == "VersionTLS12":
        yield (
            f"webhook_tls_cipher_suites leaves out {join_names(missing)}, which the webhook always offers with "
            "TLS 1.2: it would not start. Add them, or set webhook_tls_min_version to VersionTLS13."
        )
