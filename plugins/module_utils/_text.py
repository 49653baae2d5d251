# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Parts of messages (private to this collection)."""

from __future__ import annotations

from collections.abc import Sequence


def join_names(names: Sequence[str], at_most: int = 10) -> str:
    """Names for a message; if there are many, only the first names and the number of the others."""
    text = ", ".join(names[:at_most])
    return f"{text} and {len(names) - at_most} more" if len(names) > at_most else text
