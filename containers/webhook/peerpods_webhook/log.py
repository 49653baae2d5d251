# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The log: one line of JSON per event, on standard output."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from select import PIPE_BUF
from typing import Any

import msgspec

from .metrics import LOG_LINES_LOST

STANDARD_OUTPUT = 1

# Shortened strings fit into PIPE_BUF together: JSON takes up to six bytes for a character.
MAX_LONG_LINE_CHARACTERS = 90

_encode = msgspec.json.Encoder().encode


def never_block() -> None:
    """Make standard output non-blocking, so that no review waits for the reader of the log.

    Only a pipe: a container has a pipe of its own, while a terminal shares this setting with
    other processes.
    """
    if stat.S_ISFIFO(os.fstat(STANDARD_OUTPUT).st_mode):
        os.set_blocking(STANDARD_OUTPUT, False)


def log(event: dict[str, Any]) -> None:
    """Write one line. A line that cannot be written immediately is lost."""
    event = {"time": datetime.now(timezone.utc), **event}
    line = _encode(event)
    if len(line) >= PIPE_BUF:
        # A longer line might be written in part.
        line = _encode({key: _shorten(value) for key, value in event.items()})
    try:
        os.write(STANDARD_OUTPUT, line + b"\n")
    except OSError:
        LOG_LINES_LOST.inc()


def _shorten(value: Any) -> Any:
    return value[:MAX_LONG_LINE_CHARACTERS] if isinstance(value, str) else value
