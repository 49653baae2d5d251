"""Errors of ARM: a status, a code, a message, and sometimes details."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(eq=False)
class ArmError(Exception):
    """The contents of a response `{"error": {"code", "message", "details"}}`."""

    status: int
    code: str
    message: str
    details: list[dict] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> dict:
        return {"code": self.code, "message": self.message, "details": self.details}

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


def authorization_failed(action: str, scope: str) -> ArmError:
    return ArmError(
        403,
        "AuthorizationFailed",
        "The client 'emulated' with object id 'emulated' does not have authorization to "
        f"perform action '{action}' over scope '{scope}' or the scope is invalid. If access was "
        "recently granted, please refresh your credentials.",
    )
