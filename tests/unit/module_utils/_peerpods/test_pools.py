from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    deciding,
    find_config,
    others_than,
    pool_of_config,
    pools_of_second,
    problems_of_entries,
)

from tests.unit.module_utils._peerpods.objects import NAMESPACES, config, entry, node, operators_config


@pytest.mark.parametrize(
    ("spec", "limit"),
    [({"limit": "12"}, 12), ({}, 1), ({"limit": ""}, 1), ({"limit": "many"}, None)],
)
def test_the_limit_of_a_peerpodconfig(spec, limit):
    pool = pool_of_config(config(**spec))
    assert pool.limit == limit
    assert (pool.problem is None) == (limit is not None)


def test_the_same_name_in_another_namespace_is_another_config():
    local, elsewhere = config(), config(namespace="elsewhere")
    pools = [pool_of_config(local), pool_of_config(elsewhere)]
    assert others_than(pools, pools[0]) == [pools[1]]
    assert find_config([elsewhere, local], "operator", "ours") is local
    assert find_config([elsewhere], "operator", "ours") is None


def test_entries_that_apply_to_no_node():
    entries = {
        "default": '{"limit":10}',
        "memory": '{"limit":4,"nodeSelector":{"pool":"memory"}}',
        "garbage": "ten",
        "everywhere": '{"limit":4}',
    }
    assert problems_of_entries(entries, "ours") == [
        "everywhere of ConfigMap ours/peerpods-limits is '{\"limit\":4}': it has no valid nodeSelector.",
        "garbage of ConfigMap ours/peerpods-limits is 'ten', which is not a valid limit.",
    ]


@pytest.mark.parametrize(
    ("configs", "entries", "settings", "limit", "stored"),
    [
        ([], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, 7, "peer-pods-cm"),
        ([], None, {}, 10, "peer-pods-cm"),
        ([], None, {"PEERPODS_LIMIT_PER_NODE": ""}, 10, "peer-pods-cm"),
        ([], None, None, None, "peer-pods-cm"),
        ([], None, {"PEERPODS_LIMIT_PER_NODE": "many"}, None, "peer-pods-cm"),
        ([], None, {"PEERPODS_LIMIT_PER_NODE": "-1"}, None, "peer-pods-cm"),
        ([], {"default": entry(3)}, {"PEERPODS_LIMIT_PER_NODE": "7"}, 3, "peerpods-limits"),
        ([], {"default": "{"}, {"PEERPODS_LIMIT_PER_NODE": "7"}, None, "peerpods-limits"),
        ([], {"default": entry(True)}, {}, None, "peerpods-limits"),
        ([], {}, {"PEERPODS_LIMIT_PER_NODE": "7"}, 7, "peer-pods-cm"),
        # The operator has not migrated the PeerPodConfig yet.
        ([operators_config("5")], None, {}, 5, "peerpodconfig-openshift"),
        (
            [operators_config("5")],
            None,
            {"PEERPODS_LIMIT_PER_NODE": "7"},
            5,
            "peerpodconfig-openshift",
        ),
        # The operator migrates a PeerPodConfig without a limit by deleting it.
        ([operators_config(None)], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, 7, "peer-pods-cm"),
    ],
)
def test_the_limit_of_the_operators_pool(configs, entries, settings, limit, stored):
    pool = pools_of_second(configs, entries, settings, **NAMESPACES)[0]
    assert (pool.name, pool.selector, pool.limit, pool.store.name) == (
        "default",
        {"kata": ""},
        limit,
        stored,
    )
    assert (pool.problem is None) == (limit is not None)


def test_named_pools_count_only_if_the_agent_enforces_them():
    left_config = config("left", limit="2", nodeSelector={"pool": "left"})
    without_entries = pools_of_second([left_config], None, {}, **NAMESPACES)
    entries = {"memory": entry(4, pool="memory"), "bad": entry(4)}
    pools = pools_of_second([left_config], entries, {}, **NAMESPACES)
    assert [pool.name for pool in without_entries] == ["default"]
    assert [(pool.name, pool.limit) for pool in pools] == [
        ("default", 10),
        ("left", 2),
        ("memory", 4),
        ("bad", 4),
    ]
    assert [pool.name for pool in deciding(node(kata="", pool="memory"), pools)] == ["memory"]
    assert [pool.name for pool in deciding(node(kata=""), pools)] == ["default"]


def test_the_nodes_of_a_peerpodconfig():
    assert pool_of_config(config(nodeSelector={})).selector == {}
    assert pool_of_config(config()).selector == {"node.kubernetes.io/worker": ""}
