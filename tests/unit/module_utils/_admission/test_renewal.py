"""When the webhook's certificates are renewed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.renewal import certificate_renewal_due


@pytest.mark.parametrize(
    ("not_after", "due"),
    [("20260501000001Z", False), ("20260501000000Z", True), ("20260430235959Z", True), ("20251231000000Z", True)],
)
# On the command line all values are strings.
@pytest.mark.parametrize("days", [360, "360"])
def test_a_certificate_is_renewed_in_the_last_third_of_its_lifetime(not_after: str, due: bool, days: int | str):
    assert certificate_renewal_due({"not_after": not_after}, days, now="20260101000000Z") is due


def test_the_clock_is_the_default():
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    info = {"not_after": tomorrow.strftime("%Y%m%d%H%M%SZ")}
    assert certificate_renewal_due(info, 4)
    assert not certificate_renewal_due(info, 2)
