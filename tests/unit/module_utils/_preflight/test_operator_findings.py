from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.operator_findings import operator_findings

NO_PROBLEMS = {"problems": [], "credentials": {"problems": []}, "takes_over": []}
TAKES_OVER = ["Subscription mine: channel from mirror to stable"]


@pytest.mark.parametrize(
    ("plan", "status", "found"),
    [
        (NO_PROBLEMS, "ok", "can write its settings"),
        (
            {**NO_PROBLEMS, "problems": ["A tag has a comma.", "A gate is unknown."]},
            "error",
            "A tag has a comma. A gate",
        ),
        # With operator_install_take_over, these are changes and no problems.
        ({**NO_PROBLEMS, "takes_over": TAKES_OVER}, "warning", TAKES_OVER[0]),
        (
            {**NO_PROBLEMS, "takes_over": TAKES_OVER, "problems": ["It would change them."]},
            "error",
            "It would change them.",
        ),
        ({"msg": "GET /x was rejected.", "failed": False}, "unknown", "GET /x was rejected."),
    ],
)
def test_the_problems_of_the_role_are_errors_before_the_first_change(plan: dict, status: str, found: str):
    (finding,) = operator_findings(plan, ())
    assert (finding["check"], finding["status"]) == ("operator-settings", status)
    assert found in finding["found"]


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"skipped": True},
        {**NO_PROBLEMS, "problems": ["Set both."], "credentials": {"problems": ["Set both."]}},
        {**NO_PROBLEMS, "problems": ["No such image."]},
    ],
)
def test_what_another_check_reports_is_not_reported_twice(plan: dict):
    assert list(operator_findings(plan, ["No such image."])) == []
