from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.teardown import plan_teardown


def entry(kind: str, name: str = "a", *, managed: bool = True, **labels: str) -> dict:
    return {"kind": kind, "name": name, "managed": managed, "labels": labels}


REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
CSV_OF_OLM = entry("ClusterServiceVersion", managed=False)


@pytest.mark.parametrize(
    ("objects", "removed", "remaining"),
    [
        ([], [], []),
        ([entry("KataConfig"), entry("Namespace")], ["Namespace"], []),
        ([entry("Subscription"), CSV_OF_OLM], ["Subscription", "ClusterServiceVersion"], []),
        ([entry("Subscription", managed=False), CSV_OF_OLM], [], ["Subscription/a", "ClusterServiceVersion/a"]),
        ([entry("OperatorGroup", managed=False), entry("Namespace")], [], ["OperatorGroup/a"]),
        ([entry("Secret", managed=False, **REQUESTED), entry("Namespace")], ["Namespace"], []),
        (
            [entry("KataConfig", managed=False), entry("Subscription"), CSV_OF_OLM],
            [],
            ["KataConfig/a", "Subscription/a", "ClusterServiceVersion/a"],
        ),
    ],
)
def test_what_a_teardown_removes(objects: list[dict], removed: list[str], remaining: list[str]):
    planned = plan_teardown(objects)
    assert [each["kind"] for each in planned["remove"]] == removed
    assert planned["remain"] == remaining
