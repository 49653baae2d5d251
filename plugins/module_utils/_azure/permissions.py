# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the permissions of an identity in Azure include an action (private).

Source: REST reference "Permissions - List For Resource".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

PERMISSIONS_API_VERSION = "2022-04-01"


def granted(action: str, permissions: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of the permissions has the action, and does not exclude it by its notActions.

    Each permission belongs to one assigned role. An action that one role excludes may be granted by another role.
    """
    return any(
        _is_among(action, permission.get("actions")) and not _is_among(action, permission.get("notActions"))
        for permission in permissions
    )


def _is_among(action: str, patterns: Iterable[str] | None) -> bool:
    """Whether a pattern matches: case is ignored, and `*` matches any text, including slashes."""
    return any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), action, re.IGNORECASE) for pattern in patterns or ()
    )
