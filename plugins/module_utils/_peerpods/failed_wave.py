# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The roll-back after a failed wave (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What ansible-core puts before the message of a module.
PREFIX = re.compile(r"^Task failed: ((Module|Action) failed: )?")


def failed_wave(
    waves: Sequence[dict],
    passed: Sequence[dict],
    failed: dict,
    reason: str = "",
    results: Sequence[dict] = (),
) -> dict:
    names = [wave["name"] for wave in waves]
    number = len(passed) + 1
    reports = [*passed, {} if failed in passed else failed]
    changed = [
        (name, report["before"], report is not reports[-1])
        for name, report in zip(names, reports, strict=False)
        if report.get("changed") and "before" in report
    ][::-1]
    rolled_back = [f"{result['item']['name']} to {result['after']}" for result in results if "after" in result]
    sentences = [
        f"Wave {number} of {len(names)} ({names[number - 1]}) failed: {PREFIX.sub('', reason)}",
        f"Rolled back: {', '.join(rolled_back)}." if rolled_back else "Nothing was rolled back.",
        *(f"Rolling back {result['item']['name']} failed: {result['msg']}" for result in results if result.get("msg")),
        *(
            f"{name} had no valid limit before and keeps the new one."
            for name, before, dummy in changed
            if before is None
        ),
        f"Not started: {', '.join(names[number:])}." if names[number:] else "",
    ]
    return {
        "roll_back": [
            {"name": name, "limit": before, "wait": wait} for name, before, wait in changed if before is not None
        ],
        "message": " ".join(filter(None, sentences)),
    }
