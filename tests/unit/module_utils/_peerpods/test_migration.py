from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.migration import migration_state


@pytest.mark.parametrize(
    ("case", "is_second", "daemon_set", "configs", "limit", "has_settings", "state", "pools"),
    [
        (
            "1.8",
            False,
            "peerpodconfig-ctrl-caa-daemon",
            ["peerpodconfig-openshift"],
            None,
            True,
            "",
            ["peerpodconfig-openshift"],
        ),
        ("1.8 after 1.9", False, "osc-caa-ds", [], "10", True, "downgraded", []),
        ("1.13, newly installed", True, "osc-caa-ds", None, None, True, "", []),
        (
            "not migrated yet",
            True,
            "osc-caa-ds",
            ["peerpodconfig-openshift", "memory"],
            None,
            True,
            "pending",
            ["memory"],
        ),
        ("migrated", True, "osc-caa-ds", ["memory"], "20", True, "migrated", ["memory"]),
        ("migrated without a limit", True, "osc-caa-ds", [], None, True, "limit_missing", []),
        ("no settings at all", True, None, [], None, False, "migrated", []),
    ],
)
def test_the_migration_between_the_generations(case, is_second, daemon_set, configs, limit, has_settings, state, pools):
    migration = migration_state(
        is_second=is_second,
        daemon_set=daemon_set,
        configs=configs,
        limit=limit,
        has_settings=has_settings,
    )
    assert (migration["state"], migration["pools"]) == (state, pools)
    assert bool(migration["message"]) == bool(migration["remedy"]) == (state not in ("", "migrated"))


def test_a_peerpodconfig_keeps_the_daemon_set_of_an_older_operator():
    migration = migration_state(
        is_second=True,
        daemon_set="osc-caa-ds",
        configs=["memory"],
        limit="10",
        has_settings=True,
        older_daemon_set_of="memory",
    )
    assert (migration["state"], migration["pools"]) == ("two_adaptors", ["memory"])
    assert "two cloud-api-adaptor pods" in migration["message"]
    assert "delete the PeerPodConfig memory" in migration["remedy"]
