# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Parts of messages (private to this collection)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def join_names(names: Sequence[str], at_most: int = 10) -> str:
    """Names for a message; if there are many, only the first names and the number of the others."""
    text = ", ".join(names[:at_most])
    return f"{text} and {len(names) - at_most} more" if len(names) > at_most else text


def failed_after(error: Exception, done: Sequence[str], verb: str = "did:") -> dict[str, Any]:
    """The result of a module that failed after it had changed what `done` names."""
    before = f" Before, this run {verb} {join_names(done)}." if done else ""
    return {"msg": f"{error}{before}", "changed": bool(done)}
