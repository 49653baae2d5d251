"""Errors of ARM: a status, a code, a message, and sometimes details."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

# The code, and the status of the operation, if a later operation replaced it.
CANCELED = "Canceled"


@dataclass(eq=False)
class ArmError(Exception):
    """The contents of a response `{"error": {"code", "message", "details"}}`, some with a `target`."""

    status: int
    code: str
    message: str
    details: list[dict] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    target: str = ""

    @property
    def error(self) -> dict:
        error = {"code": self.code, "message": self.message, "details": self.details}
        return {**error, "target": self.target} if self.target else error

    @property
    def content(self) -> bytes:
        return json.dumps({"error": self.error}).encode()


def unparsable(detail: str) -> ArmError:
    """The error of Microsoft.Network for a body with values of the wrong type."""
    return ArmError(
        400,
        "InvalidRequestFormat",
        "Cannot parse the request.",
        [{"code": "InvalidJson", "message": detail}],
    )


def superseded() -> ArmError:
    """The error of an operation that a later one replaced, as logs of azurerm_network_security_rule quote it.

    Kubernetes' own provider knows it too (k8s.io/legacy-cloud-providers, azure/azure_backoff.go).
    """
    return ArmError(
        200,
        CANCELED,
        "Operation was canceled.",
        [
            {
                "code": "CanceledAndSupersededDueToAnotherOperation",
                "message": "Operation PutSecurityRuleOperation (2f130ac5-5e21-455a-a4b1-f2009bca24cc) was canceled and "
                "superseded by operation PutSecurityRuleOperation (8da7af9d-879b-4a30-9839-7fa094257a3a).",
            }
        ],
    )


def authorization_failed(action: str, scope: str) -> ArmError:
    return ArmError(
        403,
        "AuthorizationFailed",
        "The client 'emulated' with object id 'emulated' does not have authorization to "
        f"perform action '{action}' over scope '{scope}' or the scope is invalid. If access was "
        "recently granted, please refresh your credentials.",
    )


def linked_authorization_failed(action: str, scope: str, linked_action: str, linked: str) -> ArmError:
    """The error of a write that refers to another resource, without the permission to join that."""
    return ArmError(
        403,
        "LinkedAuthorizationFailed",
        f"The client 'emulated' with object id 'emulated' has permission to perform action '{action}' on scope "
        f"'{scope}'; however, it does not have permission to perform action(s) '{linked_action}' on the linked "
        f"scope(s) '{linked}' (respectively) or the linked scope(s) are invalid.",
    )
