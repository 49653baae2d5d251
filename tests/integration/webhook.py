"""Helpers for the certificates of the role's webhook."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509

from tests.cluster.launcher import Cluster

NAME = "peerpods-webhook"
REGISTRATION = f"mutatingwebhookconfiguration/{NAME}"
RESOURCE = "kata.peerpods.io/vm"

PEER_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "peer-"},
    "spec": {
        "runtimeClassName": "kata-remote",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
    },
}


def trusted(cluster: Cluster) -> list[x509.Certificate]:
    """The CAs with which the API server verifies the webhook, the newest first."""
    (webhook,) = cluster.get(REGISTRATION)["webhooks"]
    return x509.load_pem_x509_certificates(base64.b64decode(webhook["clientConfig"]["caBundle"]))


@contextmanager
def tls(address: str, port: int) -> Iterator[ssl.SSLSocket]:
    """A connection without a client certificate that does not verify the server."""
    unverified = ssl._create_unverified_context()
    with (
        socket.create_connection((address, port), timeout=30) as plain,
        unverified.wrap_socket(plain) as connection,
    ):
        yield connection


def presented(address: str, port: int) -> x509.Certificate:
    """The certificate that new connections get."""
    with tls(address, port) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


def presented_at(port: int) -> x509.Certificate | None:
    """The same on this machine; None if no server listens."""
    try:
        return presented("127.0.0.1", port)
    except OSError:
        return None


def tls_secret(namespace: str, name: str, data: dict[str, bytes]) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": name},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
