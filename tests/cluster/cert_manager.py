"""The real cert-manager: the controllers of certificates, and the injector of CAs."""

from __future__ import annotations

from pathlib import Path

from .binaries import built, source
from .launcher import Cluster

MODULE = Path(__file__).parents[1] / "cert_manager"
NAMESPACE = "cert-manager"


def cert_manager() -> Path:
    """The program, which is built if the cache does not have it."""
    return built(MODULE, ["cert-manager"], "-ldflags=-s -w", minutes=2) / "cert-manager"


def start_cert_manager(cluster: Cluster) -> None:
    """Start cert-manager, without its validating webhook. `internal-ca` is a ClusterIssuer with a CA that cert-manager
    issued itself."""
    cluster.define(source(MODULE, "github.com/cert-manager/cert-manager") / "deploy" / "crds")
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        _cluster_issuer("bootstrap", {"selfSigned": {}}),
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": "internal-ca", "namespace": NAMESPACE},
            "spec": {
                "isCA": True,
                "commonName": "internal-ca",
                "secretName": "internal-ca",
                "privateKey": {"algorithm": "ECDSA", "size": 256},
                "issuerRef": {"kind": "ClusterIssuer", "name": "bootstrap"},
            },
        },
        _cluster_issuer("internal-ca", {"ca": {"secretName": "internal-ca"}}),
    )
    cluster.processes.start(
        "cert-manager",
        [
            str(cert_manager()),
            str(cluster.user_kubeconfig("cert-manager", "system:masters")),
            NAMESPACE,
        ],
    )


def _cluster_issuer(name: str, spec: dict) -> dict:
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "ClusterIssuer",
        "metadata": {"name": name},
        "spec": spec,
    }
