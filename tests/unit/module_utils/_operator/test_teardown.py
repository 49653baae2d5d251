from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.teardown import plan_teardown


def entry(kind: str, name: str = "a", *, is_created: bool = True, **labels: str) -> dict:
    return {"kind": kind, "name": name, "ours": is_created, "labels": labels}


REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
CSV_OF_OLM = entry("ClusterServiceVersion", is_created=False)


@pytest.mark.parametrize(
    ("objects", "removed", "remaining"),
    [
        ([], [], []),
        ([entry("KataConfig"), entry("Namespace")], ["Namespace"], []),
        ([entry("Subscription"), CSV_OF_OLM], ["Subscription", "ClusterServiceVersion"], []),
        ([entry("Subscription", is_created=False), CSV_OF_OLM], [], ["Subscription/a", "ClusterServiceVersion/a"]),
        ([entry("OperatorGroup", is_created=False), entry("Namespace")], [], ["OperatorGroup/a"]),
        ([entry("Secret", is_created=False, **REQUESTED), entry("Namespace")], ["Namespace"], []),
        (
            [entry("KataConfig", is_created=False), entry("Subscription"), CSV_OF_OLM],
            [],
            ["KataConfig/a", "Subscription/a", "ClusterServiceVersion/a"],
        ),
    ],
)
def test_what_a_teardown_removes(objects: list[dict], removed: list[str], remaining: list[str]):
    planned = plan_teardown(objects)
    assert [item["kind"] for item in planned["remove"]] == removed
    assert planned["remain"] == remaining
