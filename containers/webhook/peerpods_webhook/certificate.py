# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The serving certificate: read, checked before it is served, and for how long it is valid.

The server's TLS library ends the process at once, without a word, where it cannot use a key or a
certificate; what it refuses is its own affair (an RSA key of 1024 bits, the curve P-521, a
certificate of X.509 v1, …). So it is let try in a process of its own, which also leaves the memory
that looking into a certificate takes to a process that ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from .listener import Files, Listener, end_at_once, listening_socket
from .settings import Settings

TRIAL_SECONDS = 30


@dataclass(frozen=True)
class Certificate:
    """A certificate that can be served, with its key and, where set, the CA of its clients."""

    files: Files = field(repr=False)
    not_before: datetime
    not_after: datetime

    def why_invalid(self, now: datetime) -> str | None:
        """A sentence where the certificate is not valid at `now`."""
        if now < self.not_before:
            return f"The serving certificate is not valid before {self.not_before.isoformat()}."
        if now > self.not_after:
            return (
                f"The serving certificate expired at {self.not_after.isoformat()}: "
                "whoever issues it has not renewed it."
            )
        return None


def read(settings: Settings) -> Files:
    """Raises ValueError, as a sentence, where a file cannot be read."""

    def content(variable: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"{variable} cannot be read: {path}: {error.strerror}. Mount the Secret or ConfigMap that has it there."
            ) from error

    return Files(
        certificate=content("TLS_CERT_FILE", settings.certificate),
        key=content("TLS_KEY_FILE", settings.key),
        client_ca=settings.client_ca and content("TLS_CLIENT_CA_FILE", settings.client_ca),
    )


async def check(files: Files, settings: Settings) -> Certificate:
    """Raises ValueError, as a sentence, where the server could not present the certificate."""
    with files.in_memory() as paths:
        trial = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            *(path or "" for path in paths.names),
            settings.tls_min_version,
            pass_fds=paths.descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(trial.communicate(), TRIAL_SECONDS)
        except TimeoutError:
            trial.kill()
            await trial.wait()
            raise ValueError(f"{settings.certificate} could not be tried within {TRIAL_SECONDS} seconds.") from None
    if trial.returncode == 1:
        raise ValueError(f"{settings.certificate} and {settings.key} {err.decode().strip()}")
    if trial.returncode:
        raise ValueError(
            f"{settings.certificate} and {settings.key} cannot be served by the TLS library "
            "(nor TLS_CLIENT_CA_FILE be used, if that is what it stumbled over). Issue an X.509 v3 "
            "certificate with an ECDSA key on P-256 or P-384, an RSA key of 2048 to 8192 bits, "
            "or an Ed25519 key."
        )
    not_before, not_after = (datetime.fromtimestamp(at, timezone.utc) for at in json.loads(out))
    return Certificate(files, not_before, not_after)


def _validity(certificate: str, key: str) -> tuple[float, float]:
    """From when until when a certificate is valid, in seconds since the epoch."""
    # Only the process that tries a certificate needs this, and it is large.
    from cryptography import x509

    try:
        # An encrypted key would make OpenSSL ask on the terminal: the empty password fails instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        leaf = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    except (ssl.SSLError, ValueError) as error:
        sys.exit(
            "are no PEM certificate with its unencrypted private key that TLS accepts: "
            f"{getattr(error, 'reason', None) or error}. Mount a pair that is."
        )
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


async def _try(certificate: str, key: str, client_ca: str, tls_min_version: str) -> NoReturn:
    """Print from when until when the certificate is valid, once it could be served."""
    validity = _validity(certificate, key)
    files = Files(
        Path(certificate).read_bytes(),
        Path(key).read_bytes(),
        Path(client_ca).read_bytes() if client_ca else None,
    )

    async def nobody(scope: object, protocol: object) -> None:
        """Nothing is asked of a listener that only its TLS is tried of."""

    Listener(nobody, listening_socket("127.0.0.1", 0), files, tls_min_version)
    print(json.dumps(validity), flush=True)
    end_at_once()


if __name__ == "__main__":
    # An abort is not to leave a core file behind, with the key in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(_try(*sys.argv[1:]))
