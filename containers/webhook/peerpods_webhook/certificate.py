# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The serving certificate: its files, a check before it is served, and its validity.

The TLS library of the server aborts the process without a message if it cannot use a key or a
certificate (for example an RSA key of 1024 bits, the curve P-521 or a certificate of X.509 v1). A
child process therefore loads each pair first. It also keeps the memory for parsing certificates
out of the server.
"""

from __future__ import annotations

import asyncio
import errno
import json
import resource
import signal
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from .listener import Files, Listener, exit_immediately, listening_socket
from .settings import Settings

CHECK_SECONDS = 30

# The exit code of the child process for an unusable pair. That of an exception, such as of a lack of memory, is 1.
UNUSABLE = 3


@dataclass(frozen=True)
class Certificate:
    """A certificate that the server can use, with its key and the CA of its clients, if that is set."""

    files: Files = field(repr=False)
    not_before: datetime
    not_after: datetime

    def why_invalid(self, now: datetime) -> str | None:
        """The reason if the certificate is not valid at `now`, without the subject of the sentence."""
        if now < self.not_before:
            return f"is not valid before {self.not_before.isoformat()}."
        if now > self.not_after:
            return f"expired at {self.not_after.isoformat()}. Check why its issuer has not renewed it."
        return None


def read(settings: Settings) -> Files:
    """Raises ValueError with a sentence if a file cannot be read."""

    def content(variable: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"Reading {variable} failed: {path}: {error.strerror}. Mount the Secret or ConfigMap with it there."
            ) from error

    return Files(
        certificate=content("TLS_CERT_FILE", settings.certificate),
        key=content("TLS_KEY_FILE", settings.key),
        client_ca=content("TLS_CLIENT_CA_FILE", settings.client_ca) if settings.client_ca else None,
    )


async def check(files: Files, settings: Settings) -> Certificate:
    """Load the files in a child process.

    Raises ValueError with a sentence if the server cannot use them, and OSError if that cannot be found out now.
    """
    with files.in_memory() as paths:
        child = await asyncio.create_subprocess_exec(
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
            out, err = await asyncio.wait_for(child.communicate(), CHECK_SECONDS)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise TimeoutError(f"it took longer than {CHECK_SECONDS} seconds") from None
    if child.returncode == -signal.SIGKILL:
        # By the kernel, if the container has no memory left. The files may be usable.
        raise OSError(errno.ENOMEM, "the process that checks it was killed")
    if child.returncode == 1:
        last_line = err.decode().strip().rpartition("\n")[2]
        raise OSError(errno.EIO, f"the process that checks it failed: {last_line}")
    if child.returncode == UNUSABLE:
        raise ValueError(f"{settings.certificate} and {settings.key} {err.decode().strip()}")
    if child.returncode:
        raise ValueError(
            f"The TLS library cannot use {settings.certificate} and {settings.key}, or TLS_CLIENT_CA_FILE. "
            "Issue an X.509 v3 certificate with an ECDSA key on P-256 or P-384, an RSA key of 2048 to "
            "8192 bits, or an Ed25519 key, and check that the CA file contains certificates."
        )
    not_before, not_after = (datetime.fromtimestamp(at, timezone.utc) for at in json.loads(out))
    return Certificate(files, not_before, not_after)


def _validity(certificate: str, key: str) -> tuple[float, float]:
    """The start and end of the validity of a certificate, in seconds since the epoch."""
    # Only the child process needs this large package.
    from cryptography import x509

    try:
        # Without a password, OpenSSL would prompt for that of an encrypted key. The empty one fails.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        leaf = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
        return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    except (ssl.SSLError, ValueError, x509.InvalidVersion) as error:
        print(
            "are not a PEM certificate and its unencrypted private key that TLS accepts: "
            f"{getattr(error, 'reason', None) or error}. Mount a matching pair.",
            file=sys.stderr,
        )
        sys.exit(UNUSABLE)


async def _check_in_child(certificate: str, key: str, client_ca: str, tls_min_version: str) -> NoReturn:
    """Print the validity of the certificate after a listener has loaded it."""
    validity = _validity(certificate, key)
    files = Files(
        Path(certificate).read_bytes(),
        Path(key).read_bytes(),
        Path(client_ca).read_bytes() if client_ca else None,
    )

    async def application(_scope: object, _protocol: object) -> None:
        """This listener receives no requests."""

    Listener(application, listening_socket("127.0.0.1", 0), files, tls_min_version=tls_min_version)
    print(json.dumps(validity), flush=True)
    exit_immediately()


if __name__ == "__main__":
    # A core file would contain the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(_check_in_child(*sys.argv[1:]))
