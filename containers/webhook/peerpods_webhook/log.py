# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One JSON line for each event, to standard output."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from select import PIPE_BUF
from typing import Any

import msgspec

from .metrics import LOG_LINES_LOST

STANDARD_OUTPUT = 1


def never_wait_for_readers() -> None:
    """No pod waits, nor is one turned away, because nobody reads the log any more.

    A container's standard output is a pipe of its own. Anything else, such as a terminal, shares
    this setting with others and is left as it is.
    """
    if stat.S_ISFIFO(os.fstat(STANDARD_OUTPUT).st_mode):
        os.set_blocking(STANDARD_OUTPUT, False)


def log(event: dict[str, Any]) -> None:
    """Write one line; it is lost where it cannot be written at once."""
    event = {"time": datetime.now(timezone.utc), **event}
    line = msgspec.json.encode(event)
    if len(line) >= PIPE_BUF:
        # Whatever is longer may be written in part. Six bytes are the most that a character takes.
        line = msgspec.json.encode({key: text[:90] if isinstance(text, str) else text for key, text in event.items()})
    try:
        os.write(STANDARD_OUTPUT, line + b"\n")
    except OSError:
        LOG_LINES_LOST.inc()
