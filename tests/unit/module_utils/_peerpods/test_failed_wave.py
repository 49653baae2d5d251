"""The roll-back after a failed wave, and its message."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.failed_wave import failed_wave

WAVES = [{"name": name} for name in ("canary", "general", "memory")]


def report(pool: str, before: int | None = 10, *, changed: bool = True) -> dict:
    return {"pool": pool, "changed": changed, "before": before, "after": 4}


def test_the_failed_wave_is_rolled_back_first_and_not_waited_for():
    failure = failed_wave(WAVES, [report("canary")], report("general"))
    assert failure["roll_back"] == [
        {"name": "general", "limit": 10, "wait": False},
        {"name": "canary", "limit": 10, "wait": True},
    ]


def test_only_changed_pools_are_rolled_back():
    failure = failed_wave(WAVES, [report("canary", changed=False)], report("general"))
    assert [pool["name"] for pool in failure["roll_back"]] == ["general"]
    # The module failed before it read the limit.
    failure = failed_wave(WAVES, [report("canary")], {"failed": True, "changed": False, "msg": "no"})
    assert [pool["name"] for pool in failure["roll_back"]] == ["canary"]


def test_the_result_of_an_earlier_wave_is_not_used():
    first = report("canary")
    failure = failed_wave(WAVES, [first], first)
    assert failure["roll_back"] == [{"name": "canary", "limit": 10, "wait": True}]


def test_the_message_has_all_pools_and_limits():
    reason = "Task failed: Module failed: After 4 s the limit of 4 is not in force."
    failure = failed_wave(
        WAVES,
        [report("canary")],
        report("general"),
        reason,
        [
            {"item": {"name": "general"}, "after": 10},
            {"item": {"name": "canary"}, "after": 10, "msg": "After 20 s the limit of 10 is not in force."},
        ],
    )
    assert failure["message"] == (
        "Wave 2 of 3 (general) failed: After 4 s the limit of 4 is not in force. "
        "Rolled back: general to 10, canary to 10. "
        "Rolling back canary failed: After 20 s the limit of 10 is not in force. Not started: memory."
    )


def test_a_pool_without_a_valid_limit_keeps_the_new_one():
    failure = failed_wave(WAVES[:1], [], report("canary", None), "It is so.")
    assert failure == {
        "roll_back": [],
        "message": (
            "Wave 1 of 1 (canary) failed: It is so. Nothing was rolled back. "
            "canary had no valid limit before and keeps the new one."
        ),
    }
