"""The real cert-manager: the controllers of certificates, and the injector of CAs."""

from __future__ import annotations

from pathlib import Path

from . import openshift
from .binaries import built
from .launcher import Cluster

MODULE = Path(__file__).parents[1] / "cert_manager"
NAMESPACE = "cert-manager"
KINDS = {
    "cert-manager.io": ("Issuer", "ClusterIssuer", "Certificate", "CertificateRequest"),
    "acme.cert-manager.io": ("Order", "Challenge"),
}


def start_cert_manager(cluster: Cluster) -> None:
    """Start it, without the webhook that checks what it is given. `internal-ca` is a ClusterIssuer
    whose CA cert-manager itself made."""
    program = built(MODULE, ["cert-manager"], "-ldflags=-s -w", minutes=3) / "cert-manager"
    for group, kinds in KINDS.items():
        for kind in kinds:
            scope = "Cluster" if kind == "ClusterIssuer" else "Namespaced"
            openshift.custom_resource(cluster, group, kind, scope=scope)
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
    cluster.processes.start("cert-manager", [
        str(program),
        str(cluster.user_kubeconfig("cert-manager", "system:masters")),
        NAMESPACE,
    ])  # fmt: skip


def _cluster_issuer(name: str, spec: dict) -> dict:
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "ClusterIssuer",
        "metadata": {"name": name},
        "spec": spec,
    }
