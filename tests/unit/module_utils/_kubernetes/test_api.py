from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    label_selector,
    serves_match_conditions,
    serves_mutating_policies,
)


def test_the_selector_as_the_api_takes_it():
    assert label_selector({"node-role.kubernetes.io/kata-oc": "", "pool": "a"}) == (
        "node-role.kubernetes.io/kata-oc=,pool=a"
    )
    assert label_selector({}) == ""


@pytest.mark.parametrize(
    ("names", "serves"),
    [
        (["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"], True),
        (["mutatingwebhookconfigurations"], False),
        ([], False),
    ],
)
def test_a_version_serves_policies_where_it_lists_them(names, serves):
    assert serves_mutating_policies({"resources": [{"name": name} for name in names]}) is serves


def test_a_missing_version_does_not_serve_policies():
    assert serves_mutating_policies(None) is False


@pytest.mark.parametrize(
    ("major", "minor", "serves"),
    [
        ("1", "26", False),
        ("1", "27+", False),
        ("1", "28", True),
        ("1", "30+", True),
        ("2", "0", True),
    ],
)
def test_match_conditions_came_with_1_28(major, minor, serves):
    assert serves_match_conditions({"major": major, "minor": minor}) is serves
