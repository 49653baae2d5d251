"""The sources of limits of both generations, and the pools that they result in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peerpods_node_capacity.plan import Node, applicable_pools
from peerpods_node_capacity.pools import (
    Entry,
    Pool,
    Setting,
    merge,
    parse_limit_entries,
    parse_setting,
    pool_of_config,
    vanished,
)

KATA = {"node-role.kubernetes.io/kata-oc": ""}
MEMORY = {"example.com/pool": "memory"}
LARGEST = 2**63 - 1

OPERATORS = Pool("peerpodconfig-openshift", KATA, 12)
OWN_POOL = Pool("memory", MEMORY, 4)
WITHOUT_LIMIT = Pool("peerpodconfig-openshift", KATA, 1, is_written=False)
FIRST = {"peerpodconfig-ctrl-caa-daemon": KATA}
SECOND = {"osc-caa-ds": KATA}


def default(limit, source, bad=None, is_written=True):
    return Pool("default", KATA, limit, bad, source, is_written, is_fallback=True)


def entry(name, limit, selector, bad=None):
    return Pool(name, selector, limit, bad, "peerpods-limits")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, Setting(None, is_written=False)),
        ({"CLOUD_PROVIDER": "aws"}, Setting(None, is_written=False)),
        ({"PEERPODS_LIMIT_PER_NODE": ""}, Setting(None, is_written=False)),
        ({"PEERPODS_LIMIT_PER_NODE": "20"}, Setting(20)),
        ({"PEERPODS_LIMIT_PER_NODE": "0"}, Setting(0)),
        # White space is ignored.
        ({"PEERPODS_LIMIT_PER_NODE": "20\n"}, Setting(20)),
        ({"PEERPODS_LIMIT_PER_NODE": " 20 "}, Setting(20)),
        ({"PEERPODS_LIMIT_PER_NODE": "-1\n"}, Setting(None)),
        # Negative: cloud-api-adaptor advertises nothing.
        ({"PEERPODS_LIMIT_PER_NODE": "-1"}, Setting(None)),
        ({"PEERPODS_LIMIT_PER_NODE": "-99999999999999999999"}, Setting(None)),
        *(
            ({"PEERPODS_LIMIT_PER_NODE": text}, Setting(None, invalid=text))
            for text in ("ten", "1.5", "1 0", " ", "-", "--1", "-0", "1e3", "٣", "9" * 5000)
        ),
    ],
)
def test_parse_setting(data, expected):
    assert parse_setting(data) == expected


def test_an_invalid_setting_keeps_the_last_valid_one():
    first = parse_setting({"PEERPODS_LIMIT_PER_NODE": "20"})
    second = parse_setting({"PEERPODS_LIMIT_PER_NODE": "many"}, first)
    assert second == Setting(20, invalid="many")
    assert parse_setting({"PEERPODS_LIMIT_PER_NODE": "more"}, second) == Setting(20, invalid="more")
    assert parse_setting({}, second) == Setting(None, is_written=False)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("default", '{"limit":20}', Entry(20, None)),
        ("default", '{"limit":0}', Entry(0, None)),
        # The nodes of this pool are those of the operator's DaemonSet.
        ("default", '{"limit":20,"nodeSelector":{"a":"b"}}', Entry(20, None)),
        ("memory", '{"limit":4,"nodeSelector":{"a":"b"}}', Entry(4, {"a": "b"})),
        ("memory", '{"limit":4,"nodeSelector":{}}', Entry(4, {})),
        ("memory", '{"nodeSelector":{"a":"b"},"limit":4,"later":1}', Entry(4, {"a": "b"})),
        ("memory", f'{{"limit":{LARGEST},"nodeSelector":{{}}}}', Entry(LARGEST, {})),
    ],
)
def test_valid_entries(name, text, expected):
    assert parse_limit_entries({name: text}) == {name: expected}


INVALID_ENTRIES = [
    *("", "4", "null", "[]", "{", '{"limit":4', "not JSON", "{'limit': 4}", "{}"),
    f'{{"limit":{"9" * 5000},"nodeSelector":{{}}}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", INVALID_ENTRIES, ids=lambda text: text[:30])
def test_an_invalid_entry_keeps_the_last_valid_one(text):
    assert parse_limit_entries({"memory": text}) == {"memory": Entry(None, None, text)}
    first = parse_limit_entries({"memory": '{"limit":4,"nodeSelector":{"a":"b"}}'})
    second = parse_limit_entries({"memory": text}, first)
    assert second == {"memory": Entry(4, {"a": "b"}, text)}
    assert parse_limit_entries({"memory": "invalid again"}, second)["memory"].limit == 4
    assert parse_limit_entries({}, second) == {}
    valid = parse_limit_entries({"memory": '{"limit":5,"nodeSelector":{}}'}, second)
    assert valid == {"memory": Entry(5, {})}


@pytest.mark.parametrize("limit", ["-1", '"4"', "true", "4.0", "null", "NaN", str(LARGEST + 1), "[]"])
def test_an_entry_with_an_invalid_limit_keeps_its_node_selector(limit):
    """Otherwise the default pool would apply to its nodes."""
    text = f'{{"limit":{limit},"nodeSelector":{{"a":"c"}}}}'
    assert parse_limit_entries({"memory": text}) == {"memory": Entry(None, {"a": "c"}, text)}
    first = parse_limit_entries({"memory": '{"limit":4,"nodeSelector":{"a":"b"}}'})
    assert parse_limit_entries({"memory": text}, first) == {"memory": Entry(4, {"a": "c"}, text)}


@pytest.mark.parametrize("selector", ["null", '["a"]', '{"a":1}', '"a=b"', "0"])
def test_an_entry_with_an_invalid_node_selector_keeps_its_limit(selector):
    text = f'{{"limit":5,"nodeSelector":{selector}}}'
    assert parse_limit_entries({"memory": text}) == {"memory": Entry(5, None, text)}
    first = parse_limit_entries({"memory": '{"limit":4,"nodeSelector":{"a":"b"}}'})
    assert parse_limit_entries({"memory": text}, first) == {"memory": Entry(5, {"a": "b"}, text)}


def test_a_missing_field_is_not_valid():
    for text, entry in (('{"nodeSelector":{}}', (None, {})), ('{"limit":4}', (4, None))):
        assert parse_limit_entries({"memory": text}) == {"memory": Entry(*entry, text)}


def test_the_default_pool_does_not_apply_to_nodes_of_an_entry_with_an_invalid_limit():
    node = Node("w", KATA | MEMORY, "4", "4")
    text = f'{{"limit":"4","nodeSelector":{json.dumps(MEMORY)}}}'
    _, pools = merge([], parse_limit_entries({"memory": text}), Setting(20), SECOND)
    assert [pool.name for pool in applicable_pools(node, pools.values())] == ["memory"]


ENTRY_DEFAULT = {"default": Entry(30, None)}
ENTRY_MEMORY = {"memory": Entry(8, MEMORY)}


@pytest.mark.parametrize(
    ("configs", "entries", "peer_pods_cm", "daemon_sets", "generation", "pools"),
    [
        # No source.
        ([], None, None, {}, 0, []),
        ([], None, Setting(20), {}, 0, []),
        # The first generation: every PeerPodConfig is a pool, none is a fallback.
        ([OPERATORS], None, Setting(None, False), FIRST, 1, [OPERATORS]),
        ([OPERATORS, OWN_POOL], None, None, FIRST, 1, [OPERATORS, OWN_POOL]),
        ([OPERATORS], None, None, {}, 1, [OPERATORS]),
        ([], None, None, FIRST, 1, []),
        # Entries that are left over from before a downgrade are ignored.
        ([OPERATORS, OWN_POOL], ENTRY_MEMORY, Setting(20), FIRST, 1, [OPERATORS, OWN_POOL]),
        # During an upgrade: peerpodconfig-openshift is deleted, osc-caa-ds not created yet.
        ([OWN_POOL], None, Setting(12), {}, 0, [OWN_POOL]),
        # Without a KataConfig, the entries of peerpods-limits are the pools.
        ([], ENTRY_DEFAULT | ENTRY_MEMORY, Setting(20), {}, 0, [entry("memory", 8, MEMORY)]),
        ([OWN_POOL], ENTRY_MEMORY, Setting(20), {}, 0, [entry("memory", 8, MEMORY)]),
        # The second generation without peerpods-limits.
        ([], None, Setting(20), SECOND, 2, [default(20, "peer-pods-cm")]),
        ([], {}, Setting(None, False), SECOND, 2, [default(10, "peer-pods-cm", is_written=False)]),
        ([], None, Setting(20, invalid="ten"), SECOND, 2, [default(20, "peer-pods-cm", "ten")]),
        ([], None, Setting(None, invalid="ten"), SECOND, 2, [default(None, "peer-pods-cm", "ten")]),
        # A negative limit, or no ConfigMap: it sets no limit.
        ([], None, Setting(None), SECOND, 2, [default(None, "peer-pods-cm")]),
        ([], None, None, SECOND, 2, [default(None, "peer-pods-cm", is_written=False)]),
        # The second generation with peerpods-limits.
        ([], ENTRY_DEFAULT, Setting(20), SECOND, 2, [default(30, "peerpods-limits")]),
        ([], ENTRY_DEFAULT, Setting(None), SECOND, 2, [default(30, "peerpods-limits")]),
        ([], ENTRY_DEFAULT, None, SECOND, 2, [default(30, "peerpods-limits")]),
        (
            [],
            ENTRY_MEMORY,
            Setting(20),
            SECOND,
            2,
            [entry("memory", 8, MEMORY), default(20, "peer-pods-cm")],
        ),
        (
            [],
            {"default": Entry(None, None, "{")},
            Setting(20),
            SECOND,
            2,
            [default(None, "peerpods-limits", "{")],
        ),
        # PeerPodConfigs that are left over are pools, unless an entry has the same name.
        ([OWN_POOL], None, Setting(20), SECOND, 2, [OWN_POOL, default(20, "peer-pods-cm")]),
        (
            [OWN_POOL],
            ENTRY_MEMORY,
            Setting(20),
            SECOND,
            2,
            [entry("memory", 8, MEMORY), default(20, "peer-pods-cm")],
        ),
        # peerpodconfig-openshift before its migration, and while both DaemonSets exist.
        ([OPERATORS], None, Setting(None, False), SECOND, 2, [default(12, "PeerPodConfig")]),
        ([OPERATORS], None, None, SECOND, 2, [default(12, "PeerPodConfig")]),
        ([OPERATORS], None, Setting(20), SECOND | FIRST, 2, [default(12, "PeerPodConfig")]),
        ([OPERATORS], None, Setting(None), SECOND, 2, [default(12, "PeerPodConfig")]),
        # If the PeerPodConfig has no limit, the operator migrates nothing.
        ([WITHOUT_LIMIT], None, Setting(20), SECOND, 2, [default(20, "peer-pods-cm")]),
        (
            [WITHOUT_LIMIT],
            None,
            Setting(None, False),
            SECOND,
            2,
            [default(10, "peer-pods-cm", is_written=False)],
        ),
        ([OPERATORS], ENTRY_DEFAULT, None, SECOND, 2, [default(30, "peerpods-limits")]),
    ],
)
def test_merge(configs, entries, peer_pods_cm, daemon_sets, generation, pools):
    merged = merge(configs, entries, peer_pods_cm, daemon_sets)
    assert merged == (generation, {pool.name: pool for pool in pools})


def test_the_operators_own_pool_has_the_nodes_of_its_daemon_set():
    """It does not have the nodes of a PeerPodConfig with another node selector."""
    elsewhere = Pool("peerpodconfig-openshift", {"other": ""}, 12)
    _, pools = merge([elsewhere], None, None, SECOND)
    assert pools["default"].node_selector == KATA


@pytest.mark.parametrize("limit", [None, ""])
def test_the_default_limits(limit):
    config = pool_of_config("c", node_selector=KATA, limit=limit, previous=Pool("c", KATA, 7))
    assert config == Pool("c", KATA, 1, is_written=False)
    data = {} if limit is None else {"PEERPODS_LIMIT_PER_NODE": limit}
    assert merge([], None, parse_setting(data), SECOND)[1]["default"].limit == 10


DEFAULT = default(20, "peer-pods-cm")


@pytest.mark.parametrize(
    ("last", "pools", "generation", "missing"),
    [
        # The upgrade from 1.8 deletes the PeerPodConfig first, then the DaemonSet.
        ([OPERATORS], [], 1, [OPERATORS]),
        ([OPERATORS, OWN_POOL], [OWN_POOL], 0, [OPERATORS]),
        ([OPERATORS, OWN_POOL], [], 0, [OPERATORS, OWN_POOL]),
        ([DEFAULT], [], 0, [DEFAULT]),
        # The operator's own pool shows that no source is missing.
        ([OPERATORS], [DEFAULT], 2, []),
        ([OPERATORS, OWN_POOL], [OPERATORS], 1, []),
        ([DEFAULT], [OPERATORS], 1, []),
        ([OPERATORS], [OPERATORS], 1, []),
        # No pool was known before.
        ([], [], 0, []),
        ([], [OWN_POOL], 0, []),
    ],
)
def test_vanished(last, pools, generation, missing):
    last, pools = ({pool.name: pool for pool in group} for group in (last, pools))
    vanished_pools = vanished(last, pools, generation)
    assert vanished_pools == {pool.name: replace(pool, has_vanished=True) for pool in missing}
    assert vanished({**vanished_pools, **pools}, pools, generation) == vanished_pools
