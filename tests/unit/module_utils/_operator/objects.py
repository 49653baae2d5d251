"""Times and conditions of the API."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def ago(**since) -> str:
    return (NOW - timedelta(**since)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind, status="True", reason="", message="", **since) -> dict:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": ago(**since or {"minutes": 1}),
    }
