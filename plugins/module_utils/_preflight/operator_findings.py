# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the settings of the operator, as the role operator_install computes them (no I/O here)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import finding

CHECK = "operator-settings"
WHY = "The role operator_install stops with these problems, after ports were opened."


def operator_findings(plan: Mapping, reported: Collection[str]) -> Iterator[dict]:
    """`plan` is the result of the filter operator_settings, or of the module that could not read its input; empty if it
    was not computed. What is in `reported`, and problems of the credentials, are findings of their own."""
    if not plan or plan.get("skipped"):
        return
    if "problems" not in plan:
        yield finding(CHECK, "unknown", plan["msg"], WHY, "Grant the permission, then run preflight again.")
        return
    of_credentials = plan["credentials"]["problems"]
    problems = [problem for problem in plan["problems"] if problem not in (*of_credentials, *reported)]
    if problems:
        yield finding(CHECK, "error", " ".join(problems), WHY, "Correct these settings, then run preflight again.")
    elif plan["problems"]:
        return
    elif plan["takes_over"]:
        yield finding(
            CHECK,
            "warning",
            f"With operator_install_take_over, a run changes objects of other owners: {'; '.join(plan['takes_over'])}.",
            "These objects stay changed after a teardown.",
            "To keep what they have, leave the options out.",
        )
    else:
        yield finding(CHECK, "ok", "The role operator_install can write its settings.")
