from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook_role import webhook_problems

OPTIONS = {
    "certificate": "auto",
    "cert_manager_issuer": {},
    "serves_cert_manager": None,
    "port": "9443",
    "health_port": 8080,
    "replicas": 2,
    "target_runtime_classes": ["kata-remote"],
    "extra_excluded_namespaces": ["cert-manager", "rook-*"],
}
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
