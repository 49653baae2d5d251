# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a step of the operator's installation reports (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far something is.

    `summary` is one line for people, `status` the same without durations. `problem` is the reason why it cannot
    continue, `needs_approval` whether the InstallPlan must be approved, and `since` when the operator started to work on
    each node.
    """

    summary: str
    status: str = ""
    done: bool = False
    problem: str = ""
    needs_approval: bool = False
    since: Mapping[str, str] = field(default_factory=dict)


def condition_messages(conditions: list[dict] | None, status: str, *types: str) -> str:
    """The messages of the conditions with this status; with `types`, of these types alone."""
    return ", ".join(
        condition.get("message") or condition.get("reason") or ""
        for condition in conditions or []
        if condition.get("status") == status
        and (not types or condition["type"] in types)
        and (condition.get("message") or condition.get("reason"))
    )


def parse_time(text: Any) -> datetime | None:
    """A time of the API; None where it is not set."""
    return datetime.fromisoformat(text) if text else None
