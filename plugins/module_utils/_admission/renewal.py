# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When the certificates of the webhook are renewed (no I/O here)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

TIME = "%Y%m%d%H%M%SZ"


def certificate_renewal_due(info: dict, days: int | str, now: str | None = None) -> bool:
    current = _parse(now) if now else datetime.now(timezone.utc)
    # On the command line all values are strings.
    return _parse(info["not_after"]) - current <= timedelta(days=int(days)) / 3


def _parse(text: str) -> datetime:
    return datetime.strptime(text, TIME).replace(tzinfo=timezone.utc)
