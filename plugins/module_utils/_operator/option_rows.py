# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the role operator_install as rows: a key, the option, its value, and what a new object gets without it
(no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# The values of an option that is not set: those of an empty answer in a survey as well.
UNSET: tuple[Any, ...] = (None, "", [], {})


def is_set(row: Mapping[str, Any]) -> bool:
    return row.get("value") not in UNSET


def value_of(row: Mapping[str, Any]) -> Any:
    """The value of an option, or what a new object gets without it."""
    return row["value"] if is_set(row) else row.get("initial", "")


def as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def missing(row: Mapping[str, Any]) -> Iterator[str]:
    if row.get("remedy") and value_of(row) in UNSET:
        yield f"{row['option']} is empty. {row['remedy']}"


def malformed(row: Mapping[str, Any]) -> Iterator[str]:
    """Each element of a list must match."""
    if "pattern" not in row:
        return
    value = value_of(row)
    values = value if isinstance(value, (list, tuple)) else [value]
    invalid = [str(element) for element in values if str(element) and not re.fullmatch(row["pattern"], str(element))]
    if invalid:
        yield f"{row['option']} must be {row['expected']}; got '{as_text(invalid)}'."
