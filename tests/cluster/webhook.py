"""The webhook of containers/webhook as a process on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from .pki import CertificateAuthority
from .processes import Processes, free_ports

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "containers" / "webhook"


def start_webhook(
    processes: Processes,
    directory: Path,
    environment: dict[str, str],
    module: str = "peerpods_webhook",
) -> tuple[str, Path]:
    """Start the webhook with its own certificate, in `directory`, and with `environment`.

    `module` is the module that Python runs; another program must accept the same environment. Returns the URL and the
    file with the certificate to trust. The webhook may not answer yet.
    """
    authority = CertificateAuthority("webhook")
    pair = authority.server("webhook", "127.0.0.1")
    ca, certificate, key = (directory / f"webhook-{name}" for name in ("ca.crt", "tls.crt", "tls.key"))
    key.touch(mode=0o600)
    ca.write_bytes(authority.pair.certificate)
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    port, health_port = free_ports(2)
    processes.start(
        "webhook",
        [sys.executable, "-m", module],
        environment={
            "PYTHONPATH": f"{SOURCE}:{ROOT}",
            "BIND_ADDRESS": "127.0.0.1",
            "PORT": str(port),
            "HEALTH_PORT": str(health_port),
            "TLS_CERT_FILE": str(certificate),
            "TLS_KEY_FILE": str(key),
            **environment,
        },
    )
    return f"https://127.0.0.1:{port}/mutate-v1-pod", ca
