"""The kinds of causes of a verification."""

from __future__ import annotations

import re

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify.kinds import KINDS
from ansible_collections.osc.peerpods.plugins.module_utils._verify.pods import PASSED

from tests.support import role_options


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_names_its_check_and_options_that_exist(name: str):
    kind = KINDS[name]
    assert kind.check in PASSED or name in ("evicted", "unknown")
    assert set(re.findall(r"\b(?:verify|operator_install)_\w+", kind.fix)) <= role_options().keys()


def test_kinds_are_in_the_order_of_the_checks():
    order = list(PASSED)
    indexes = [order.index(kind.check) for kind in KINDS.values() if kind.check]
    assert indexes == sorted(indexes)
