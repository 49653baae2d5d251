from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_plan import (
    LimitError,
    adaptor_moves,
    parse_limit,
    plan_config,
    plan_config_absent,
    plan_entry,
    plan_entry_absent,
    plan_settings,
    refuse_bad_fields,
    refuse_overlap,
    refuse_second_generation_fields,
    refuse_without_agent,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    pool_of_config,
    pools_of_second,
)

from tests.unit.module_utils._peerpods.objects import NAMESPACES, config, entry, node, operators_config


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0", 0),
        ("10", 10),
        (" 7\n", 7),
        ("0012", 12),
        (str(2**63 - 1), 2**63 - 1),
        ("0" * 5000 + "5", 5),
    ],
)
def test_a_whole_number_is_a_limit(text, limit):
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    "text",
    ["-1", "+1", "1.0", "1e3", "2k", "1_0", "", "ten", "٣", str(2**63), "9" * 5000],
)
def test_anything_else_is_rejected(text):
    with pytest.raises(LimitError, match="0 or more; got"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("before", "limit", "changed", "lowers"),
    [
        ("10", "10", False, False),
        ("10", "11", True, False),
        ("10", "9", True, True),
        ("9", "10", True, False),  # as numbers: compared as strings, the limit would be lower
        ("010", "10", True, False),
        # A limit that is not written is 1.
        (None, "2", True, False),
        (None, "0", True, True),
        ("many", "10", True, True),
        ("0", "0", False, False),
    ],
)
def test_the_plan_of_a_limit(before, limit, changed, lowers):
    spec = {} if before is None else {"limit": before}
    change = plan_config(config(cloudSecretName="s", **spec), "operator", "ours", {"limit": limit})
    (plan,) = change.plans
    assert (change.changed, change.lowers) == (changed, lowers)
    assert plan.diff == {"before": {"spec": {"limit": before}}, "after": {"spec": {"limit": limit}}}
    if changed:
        assert plan.patch == {"metadata": {"resourceVersion": "7"}, "spec": {"limit": limit}}
    assert plan.store.path == ("/apis/confidentialcontainers.org/v1alpha1/namespaces/operator/peerpodconfigs/ours")


@pytest.mark.parametrize("spec", [{"limit": "12"}, {"limit": "many"}, {}])
def test_without_fields_nothing_changes(spec):
    assert not plan_config(config(**spec), "operator", "ours", {}).changed


@pytest.mark.parametrize(
    ("spec", "fields", "patched", "lowers"),
    [
        ({"instanceType": "a"}, {"instanceType": "a"}, None, False),
        ({"instanceType": "a"}, {"instanceType": "b"}, {"instanceType": "b"}, False),
        ({}, {"instanceType": "b", "limit": "10"}, {"instanceType": "b"}, False),
        # Added nodes may run more pods than the limit; removed nodes lose their slots.
        ({"nodeSelector": {"a": ""}}, {"nodeSelector": {"b": ""}}, {"nodeSelector": {"a": None, "b": ""}}, True),
        (
            {"nodeSelector": {"a": "", "b": ""}},
            {"nodeSelector": {"b": "c"}},
            {"nodeSelector": {"a": None, "b": "c"}},
            True,
        ),
        ({}, {"nodeSelector": {"b": ""}}, {"nodeSelector": {"b": ""}}, True),
        ({"nodeSelector": {"b": ""}}, {"nodeSelector": {"b": ""}}, None, False),
    ],
)
def test_only_fields_that_change_are_written(spec, fields, patched, lowers):
    change = plan_config(config(limit="10", **spec), "operator", "ours", fields)
    (plan,) = change.plans
    assert change.changed == (patched is not None)
    assert change.lowers == lowers
    if patched:
        assert plan.patch["spec"] == patched


def test_a_missing_config_is_created_only_with_a_node_selector():
    with pytest.raises(LimitError, match=r"operator_install first\. .* option node_selector\.$"):
        plan_config(None, "operator", "ours", {"limit": "3", "instanceType": "a"})
    change = plan_config(None, "operator", "ours", {"limit": "3", "nodeSelector": {"pool": "a"}})
    (plan,) = change.plans
    assert change.changed
    assert change.lowers, "pods may run there already"
    assert plan.body == {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": {"name": "ours", "namespace": "operator"},
        "spec": {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "limit": "3",
            "nodeSelector": {"pool": "a"},
        },
    }
    assert plan.diff == {"before": {}, "after": {"spec": plan.body["spec"]}}


def test_absent_removes_the_config_once():
    change = plan_config_absent(config(limit="3"))
    (plan,) = change.plans
    assert (change.changed, change.lowers, plan.resource_version) == (True, True, "7")
    assert plan.diff == {"before": {"spec": {"limit": "3"}}, "after": {}}
    deleting = config(limit="3")
    deleting["metadata"]["deletionTimestamp"] = "2024-11-04T08:00:00Z"
    for settled in (None, deleting):
        change = plan_config_absent(settled)
        assert (change.changed, change.lowers) == (False, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cloud_secret_name": ""}, "cloud_secret_name must be a Kubernetes name .* got ''"),
        ({"config_map_name": "Has_Capitals"}, "config_map_name must be a Kubernetes name"),
        ({"name": "-a"}, "name must be a Kubernetes name"),
        ({"namespace": " "}, "namespace must be a Kubernetes name"),
        ({"instance_type": " "}, "instance_type is empty"),
        ({"node_selector": {}}, "selects every node, the control"),
        (
            {"node_selector": {"pool": None}},
            "is None, which is not a string: .* for a label without",
        ),
        ({"node_selector": {"pool": True}}, "label pool in node_selector is True"),
        ({"node_selector": {"pool": "a b"}}, "has 'a b' for the label pool"),
        ({"node_selector": {"pool": "a" * 64}}, "not a valid label value"),
        ({"node_selector": {"": "a"}}, "has '', which is not a valid label name"),
        ({"node_selector": {"/a": "a"}}, "not a valid label name"),
        ({"node_selector": {"UPPER.example/a": "a"}}, "not a valid label name"),
    ],
)
def test_invalid_fields_are_rejected(fields, message):
    with pytest.raises(LimitError, match=message):
        refuse_bad_fields(fields)


def test_valid_fields_are_accepted():
    refuse_bad_fields(
        {
            "name": "peerpodconfig-openshift",
            "namespace": "operator",
            "cloud_secret_name": "my.secret-1",
            "config_map_name": None,
            "instance_type": "Standard_D2as_v5",
            "node_selector": {"node-role.kubernetes.io/kata-oc": "", "Pool_1": "A.b-c_d"},
        }
    )


SHARED = r"pools operator/ours and operator/theirs both select the node n1"
BOUND_TO = r"operator/ours and operator/theirs overlap: every node that matches "


@pytest.mark.parametrize(
    ("selector", "other_selector", "labels", "message"),
    [
        ({"kata": ""}, {"pool": "b"}, {"kata": ""}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "a"}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "b"}, SHARED),
        ({"kata": ""}, None, {"kata": ""}, None),
        ({"kata": ""}, None, {"kata": "", "node.kubernetes.io/worker": ""}, SHARED),
        # This applies to existing and future nodes.
        ({"kata": ""}, {"kata": ""}, {}, BOUND_TO + "'kata=' matches 'kata='"),
        ({"kata": ""}, {"kata": "", "b": "c"}, {}, BOUND_TO + "'kata=,b=c' matches 'kata='"),
        ({"kata": "", "b": "c"}, {"kata": ""}, {}, BOUND_TO + "'kata=,b=c' matches 'kata='"),
        ({"kata": ""}, {}, {}, BOUND_TO + "'kata=' matches the empty selector"),
        ({"pool": "a"}, {"pool": "b"}, {}, None),
    ],
)
def test_two_configs_must_not_share_a_node(selector, other_selector, labels, message):
    pool = pool_of_config(config(nodeSelector=selector))
    other_pool = pool_of_config(
        config("theirs", **({} if other_selector is None else {"nodeSelector": other_selector}))
    )
    nodes = [node(**labels)] if labels else []
    if message:
        with pytest.raises(LimitError, match=message):
            refuse_overlap(pool, [other_pool], nodes)
    else:
        refuse_overlap(pool, [other_pool], nodes)


def change_entry(name: str, limit: int | None, selector=None, limits: dict | None = None):
    data = (limits or {}).get("data") or {}
    pools = pools_of_second([], data, {"PEERPODS_LIMIT_PER_NODE": "7"}, **NAMESPACES)
    pool = next((pool for pool in pools if pool.name == name), None)
    return plan_entry(
        pool,
        limits,
        name=name,
        namespace="operator",
        agent_namespace="agent",
        limit=limit,
        selector=selector,
    )


def adaptors(owner: str, **selector: str) -> dict:
    return {
        "metadata": {"ownerReferences": [{"kind": "PeerPodConfig", "name": owner}]},
        "spec": {"template": {"spec": {"nodeSelector": selector}}},
    }


@pytest.mark.parametrize(
    ("case", "selector", "follows", "moves"),
    [
        ("the same nodes", {"a": ""}, True, None),
        ("other nodes", {"b": ""}, True, ({"a": ""}, {"b": ""})),
        ("other nodes, and it stays", {"b": ""}, False, None),
        ("the default", None, True, ({"a": ""}, {"node.kubernetes.io/worker": ""})),
    ],
)
def test_when_cloud_api_adaptor_is_removed_with_a_peerpodconfig(case, selector, follows, moves):
    spec = {} if selector is None else {"nodeSelector": selector}
    change = plan_config(config(limit="3", **spec), "operator", "ours", {"limit": "4"})
    assert adaptor_moves(adaptors("ours", a=""), change, follows=follows) == moves
    unchanged = plan_config(config(limit="3", **spec), "operator", "ours", {"limit": "3"})
    assert adaptor_moves(adaptors("ours", a=""), unchanged, follows=follows) is None


@pytest.mark.parametrize(("owner", "moves"), [("ours", ({"a": ""}, None)), ("theirs", None)])
def test_cloud_api_adaptor_is_removed_with_its_owning_peerpodconfig(owner, moves):
    change = plan_config_absent(config(limit="3", nodeSelector={"a": ""}))
    assert adaptor_moves(adaptors(owner, a=""), change, follows=True) == moves


def config_map(**data: str) -> dict:
    return {"metadata": {"resourceVersion": "9"}, "data": data}


def test_with_the_agent_a_limit_goes_to_peerpods_limits():
    (plan,) = change_entry("default", 20).plans
    assert plan.store.path == "/api/v1/namespaces/agent/configmaps/peerpods-limits"
    assert plan.body["data"] == {"default": '{"limit":20}'}
    assert plan.body["metadata"]["labels"] == {"app.kubernetes.io/part-of": "osc.peerpods"}
    (plan,) = change_entry("default", 20, limits=config_map(theirs="x")).plans
    assert plan.patch["data"] == {"default": '{"limit":20}'}
    # The label of the collection is not added to a ConfigMap of another owner.
    assert plan.patch["metadata"] == {"resourceVersion": "9"}
    # The limit is unchanged, in either place.
    assert not change_entry("default", 7).changed
    assert not change_entry("default", 20, limits=config_map(default=entry(20))).changed


def test_a_named_pool_needs_its_nodes_once():
    with pytest.raises(LimitError, match="set the option node_selector"):
        change_entry("memory", 4)
    (plan,) = change_entry("memory", 4, {"pool": "memory"}).plans
    assert plan.after == {"memory": '{"limit":4,"nodeSelector":{"pool":"memory"}}'}
    limits = config_map(memory=entry(4, pool="memory"))
    change = change_entry("memory", 5, limits=limits)
    assert (change.before.limit, change.after.limit, change.lowers) == (4, 5, False)
    assert change_entry("memory", None, {"pool": "other"}, limits).moves


def test_without_an_entry_a_pool_falls_back():
    limits = config_map(default=entry(20), memory=entry(4, pool="memory"))
    pools = {pool.name: pool for pool in pools_of_second([], limits["data"], {}, **NAMESPACES)}
    fallback = pools_of_second([], {}, {}, **NAMESPACES)[0]
    change = plan_entry_absent(pools["default"], limits, None, fallback, pools["default"].store)
    assert (change.before.limit, change.after.limit) == (20, 10)
    assert change.plans[0].patch["data"] == {"default": None}
    change = plan_entry_absent(pools["memory"], limits, None, fallback, pools["memory"].store)
    assert change.after is None
    assert change.plans[0].patch["data"] == {"memory": None}


def test_without_the_agent_there_is_one_limit_in_peer_pods_cm():
    pool = pools_of_second([], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, **NAMESPACES)[0]
    (plan,) = plan_settings(pool, 8).plans
    assert (plan.before, plan.after) == (
        {"PEERPODS_LIMIT_PER_NODE": "7"},
        {"PEERPODS_LIMIT_PER_NODE": "8"},
    )
    assert not plan_settings(pool, 7).changed
    half_migrated = pools_of_second([operators_config("5")], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, **NAMESPACES)[0]
    assert not plan_settings(half_migrated, 5).changed
    with pytest.raises(LimitError, match="a limit that is set now would be lost"):
        plan_settings(half_migrated, 8)
    refuse_without_agent("default", None)
    for name, selector in (
        ("memory", {"pool": "memory"}),
        ("memory", None),
        ("default", {"a": ""}),
    ):
        with pytest.raises(LimitError, match="node_capacity_manager=collection"):
            refuse_without_agent(name, selector)


@pytest.mark.parametrize(
    ("fields", "name", "match"),
    [
        ({"cloud_secret_name": "s"}, "default", "peer-pods-secret"),
        ({"config_map_name": "c"}, "default", "peer-pods-cm"),
        ({"instance_type": "t"}, "memory", "operator_install_podvm_instance_type"),
        ({"node_selector": {"a": ""}}, "default", "the operator selects its nodes"),
    ],
)
def test_fields_of_the_first_generation_are_rejected(fields, name, match):
    with pytest.raises(LimitError, match=match):
        refuse_second_generation_fields(fields, name)
    refuse_second_generation_fields({"node_selector": {"a": ""}}, "memory")
