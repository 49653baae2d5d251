# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of the server, from environment variables (listed in README.md)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from granian.constants import SSLProtocols

# The names of Kubernetes' --tls-min-version and of OpenShift's TLS profiles.
TLS_VERSIONS = {"VersionTLS12": SSLProtocols.tls12, "VersionTLS13": SSLProtocols.tls13}

# The cipher suites that the server offers with TLS 1.2, by their names at IANA and in OpenSSL (which
# OpenShift's TLS profiles use). The worker cannot be configured to offer fewer.
TLS12_CIPHER_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}


@dataclass(frozen=True)
class Settings:
    address: str = "0.0.0.0"
    port: int = 9443
    health_port: int = 8080
    certificate: Path = Path("/etc/peerpods-webhook/tls/tls.crt")
    key: Path = Path("/etc/peerpods-webhook/tls/tls.key")
    client_ca: Path | None = None
    tls_min_version: SSLProtocols = SSLProtocols.tls12
    # etcd stores objects of up to 1.5 MiB, and a review can contain two (object and oldObject).
    max_body_bytes: int = 3 * 2**20
    # The API server does not retry a review that it sends while the server closes the connection. Go's
    # client closes connections after 90 idle seconds: with a longer timeout here, the client closes first.
    idle_seconds: int = 120
    connection_seconds: int = 3600
    log_unchanged: bool = False
    shutdown_delay_seconds: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Raises ValueError with a sentence if a value is invalid."""
        address = env.get("BIND_ADDRESS") or cls.address
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ValueError(f"BIND_ADDRESS is not an IP address: {error}.") from error
        client_ca = env.get("TLS_CLIENT_CA_FILE")
        settings = cls(
            address=address,
            port=_number(env, "PORT", cls.port, 1, 65535),
            health_port=_number(env, "HEALTH_PORT", cls.health_port, 1, 65535),
            certificate=Path(env.get("TLS_CERT_FILE") or cls.certificate),
            key=Path(env.get("TLS_KEY_FILE") or cls.key),
            client_ca=Path(client_ca) if client_ca else None,
            tls_min_version=_tls_min_version(env),
            max_body_bytes=_number(env, "MAX_BODY_BYTES", cls.max_body_bytes, 1, 2**31 - 1),
            idle_seconds=_number(env, "IDLE_SECONDS", cls.idle_seconds, 1, 3600),
            connection_seconds=_number(env, "CONNECTION_SECONDS", cls.connection_seconds, 1, 86400),
            log_unchanged=env.get("LOG_UNCHANGED", "").lower() in ("1", "true", "yes"),
            shutdown_delay_seconds=_number(env, "SHUTDOWN_DELAY_SECONDS", cls.shutdown_delay_seconds, 0, 3600),
        )
        if settings.port == settings.health_port:
            raise ValueError(f"PORT and HEALTH_PORT are both {settings.port}. Set one of them to another port.")
        return settings


def _number(env: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and lowest <= int(text) <= highest):
        raise ValueError(f"{name} is {text!r}. Set it to a whole number from {lowest} to {highest}.")
    return int(text)


def _tls_min_version(env: Mapping[str, str]) -> SSLProtocols:
    """The minimum TLS version, which must be compatible with the allowed cipher suites.

    As in Kubernetes' own servers, the three suites of TLS 1.3 are not configurable.
    """
    name = env.get("TLS_MIN_VERSION") or "VersionTLS12"
    version = TLS_VERSIONS.get(name)
    if version is None:
        raise ValueError(f"TLS_MIN_VERSION is {name!r}. Set it to {' or '.join(TLS_VERSIONS)}.")
    allowed = {suite.strip() for suite in env.get("TLS_CIPHER_SUITES", "").split(",")} - {""}
    missing = [suite for suite, openssl in TLS12_CIPHER_SUITES.items() if not allowed & {suite, openssl}]
    if allowed and missing and version is SSLProtocols.tls12:
        raise ValueError(
            f"TLS_CIPHER_SUITES does not contain {', '.join(missing)}, which this server always offers "
            "with TLS 1.2. Add them, or set TLS_MIN_VERSION to VersionTLS13."
        )
    return version
