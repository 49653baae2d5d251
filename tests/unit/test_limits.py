from __future__ import annotations

import json

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._limits import (
    EXTENDED_RESOURCE,
    LimitError,
    adaptor_moves,
    advertised,
    deciding,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    find_config,
    in_force,
    label_selector,
    lagging,
    nodes_without_adaptor,
    others_than,
    parse_limit,
    peer_pods_by_node,
    plan_config,
    plan_config_absent,
    plan_entry,
    plan_entry_absent,
    plan_settings,
    pool_of_config,
    pools_of_second,
    problems_of_entries,
    refuse_bad_fields,
    refuse_overlap,
    refuse_second_generation_fields,
    refuse_without_agent,
    released,
    still_advertising,
)


def config(name="ours", namespace="operator", **spec) -> dict:
    return {
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "7"},
        "spec": spec,
    }


def node(name="n1", quantity: str | None = None, **labels) -> dict:
    allocatable = {} if quantity is None else {EXTENDED_RESOURCE: quantity}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "8", **allocatable}},
    }


def pod(node_name="n1", runtime_class=None, *requests) -> dict:
    return {
        "spec": {
            "nodeName": node_name,
            **({"runtimeClassName": runtime_class} if runtime_class else {}),
            "containers": [{"name": str(i), "resources": {"requests": one}} for i, one in enumerate(requests)]
            or [{"name": "0", "resources": {}}],
        }
    }


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
def test_anything_else_is_refused(text):
    with pytest.raises(LimitError, match="0 or more; got"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("before", "limit", "changed", "lowers"),
    [
        ("10", "10", False, False),
        ("10", "11", True, False),
        ("10", "9", True, True),
        ("9", "10", True, False),  # as numbers: as strings it would be a lowering
        ("010", "10", True, False),
        # Not written, it is 1.
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
def test_without_fields_everything_stays(spec):
    assert not plan_config(config(**spec), "operator", "ours", {}).changed


@pytest.mark.parametrize(
    ("spec", "fields", "patched", "lowers"),
    [
        ({"instanceType": "a"}, {"instanceType": "a"}, None, False),
        ({"instanceType": "a"}, {"instanceType": "b"}, {"instanceType": "b"}, False),
        ({}, {"instanceType": "b", "limit": "10"}, {"instanceType": "b"}, False),
        # Nodes that come may have more pods than the limit, nodes that go have none of it.
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


def test_one_that_is_missing_is_made_for_the_nodes_that_are_named():
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


def test_absent_is_no_change_where_there_is_none_or_it_goes_already():
    change = plan_config_absent(config(limit="3"))
    (plan,) = change.plans
    assert (change.changed, change.lowers, plan.resource_version) == (True, True, "7")
    assert plan.diff == {"before": {"spec": {"limit": "3"}}, "after": {}}
    going = config(limit="3")
    going["metadata"]["deletionTimestamp"] = "2024-11-04T08:00:00Z"
    for settled in (None, going):
        change = plan_config_absent(settled)
        assert (change.changed, change.lowers) == (False, False)


@pytest.mark.parametrize(
    ("fields", "said"),
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
def test_what_kubernetes_could_make_nothing_of_is_refused(fields, said):
    with pytest.raises(LimitError, match=said):
        refuse_bad_fields(fields)


def test_what_kubernetes_takes_is_taken():
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


@pytest.mark.parametrize(
    ("spec", "limit"),
    [({"limit": "12"}, 12), ({}, 1), ({"limit": ""}, 1), ({"limit": "many"}, None)],
)
def test_the_limit_of_a_peerpodconfig(spec, limit):
    pool = pool_of_config(config(**spec))
    assert pool.limit == limit
    assert (pool.problem is None) == (limit is not None)


SHARED = r"pools operator/ours and operator/theirs both select the node n1"
BOUND_TO = r"operator/ours and operator/theirs overlap: every node that matches "


@pytest.mark.parametrize(
    ("ours", "other", "labels", "said"),
    [
        ({"kata": ""}, {"pool": "b"}, {"kata": ""}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "a"}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "b"}, SHARED),
        ({"kata": ""}, None, {"kata": ""}, None),
        ({"kata": ""}, None, {"kata": "", "node.kubernetes.io/worker": ""}, SHARED),
        # Whatever node there is or comes.
        ({"kata": ""}, {"kata": ""}, {}, BOUND_TO + "'kata=' matches 'kata='"),
        ({"kata": ""}, {"kata": "", "b": "c"}, {}, BOUND_TO + "'kata=,b=c' matches 'kata='"),
        ({"kata": "", "b": "c"}, {"kata": ""}, {}, BOUND_TO + "'kata=,b=c' matches 'kata='"),
        ({"kata": ""}, {}, {}, BOUND_TO + "'kata=' matches the empty selector"),
        ({"pool": "a"}, {"pool": "b"}, {}, None),
    ],
)
def test_two_configs_must_not_share_a_node(ours, other, labels, said):
    mine = pool_of_config(config(nodeSelector=ours))
    theirs = pool_of_config(config("theirs", **({} if other is None else {"nodeSelector": other})))
    nodes = [node(**labels)] if labels else []
    if said:
        with pytest.raises(LimitError, match=said):
            refuse_overlap(mine, [theirs], nodes)
    else:
        refuse_overlap(mine, [theirs], nodes)


def test_the_same_name_in_another_namespace_is_another_config():
    mine, theirs = config(), config(namespace="elsewhere")
    pools = [pool_of_config(mine), pool_of_config(theirs)]
    assert others_than(pools, pools[0]) == [pools[1]]
    assert find_config([theirs, mine], "operator", "ours") is mine
    assert find_config([theirs], "operator", "ours") is None


def test_nodes_that_no_config_selects_must_not_go_on_advertising():
    nodes = [node("a", "10", pool="a"), node("b", "2k", pool="b"), node("zero", "0"), node("none")]
    others = [pool_of_config(config(nodeSelector={"pool": "a"}))]
    assert [one["metadata"]["name"] for one in released(nodes, others)] == ["b", "zero", "none"]
    assert still_advertising(nodes, others) == {"b": 2000}
    assert "any more still advertise peer pods: b shows 2000. Check" in explain_still_advertising({"b": 2000}, 5)
    assert explain_left_over({"a": 0, "b": 2, "zero": 0, "none": 1}, nodes) == (
        "Peer pods run on nodes that no pool would select any more: 2 on b, 1 on none."
    )


def test_the_selector_as_the_api_takes_it():
    assert label_selector({"node-role.kubernetes.io/kata-oc": "", "pool": "a"}) == (
        "node-role.kubernetes.io/kata-oc=,pool=a"
    )
    assert label_selector(pool_of_config(config(nodeSelector={})).selector) == ""
    assert label_selector(pool_of_config(config()).selector) == "node.kubernetes.io/worker="


@pytest.mark.parametrize(("quantity", "count"), [("10", 10), ("2k", 2000), ("0", 0), (None, None)])
def test_what_a_node_advertises(quantity, count):
    assert advertised(node(quantity=quantity)) == count


def test_in_force_is_exactly_the_limit_on_every_node_and_at_least_one_node():
    ten, twelve, silent = node("ten", "10"), node("twelve", "12"), node("silent")
    assert in_force([ten, ten], 10)
    assert not in_force([ten, twelve], 10)
    assert not in_force([], 10)
    assert in_force([silent], 0), "a node that advertises nothing allows nothing"
    assert lagging([ten, twelve, silent], 10) == {"twelve": 12, "silent": None}
    said = explain_lagging([ten, twelve, silent], 10, "kata=", 30)
    assert said.startswith("After 30 s the limit of 10 is not in force on every selected node: ")
    assert "twelve shows 12, silent shows nothing." in said
    assert "no node has the labels 'kata='" in explain_lagging([], 10, "kata=", 30)
    for one in (twelve, silent):
        one["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert "None of these nodes is Ready" in explain_lagging([twelve, silent], 10, "kata=", 30)


def test_entries_that_give_no_node_a_limit():
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


def test_every_pod_with_a_vm_counts_once_accounted_for_or_not():
    vm = {EXTENDED_RESOURCE: "1"}
    used = peer_pods_by_node(
        [
            pod("a", "kata-remote", vm),
            pod("a", "kata-remote"),
            pod("a", None, {"cpu": "1"}, vm),
            pod("a", None, {"cpu": "1"}),
            pod("b", "kata", {"cpu": "1"}),
        ]
    )
    assert used == {"a": 3}


def test_only_nodes_with_more_than_the_limit_are_named():
    used = peer_pods_by_node([pod("n1", "kata-remote")] * 3 + [pod("n2", "kata-remote")] * 2)
    nodes = [node("n1"), node("n2"), node("n3")]
    assert explain_overfull(2, used, nodes) == ("The limit of 2 is below the peer pods that run now: 3 on n1.")
    assert explain_overfull(3, used, nodes) is None


# -- The second generation -----------------------------------------------------------------------

HERE = {"namespace": "operator", "agent_namespace": "agent", "adaptor_selector": {"kata": ""}}


def entry(limit: object, **selector: str) -> str:
    return json.dumps({"limit": limit, **({"nodeSelector": selector} if selector else {})})


def operators_config(limit: str | None) -> dict:
    return config("peerpodconfig-openshift", limit=limit, nodeSelector={"kata": ""})


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
        # The operator has not migrated it yet.
        ([operators_config("5")], None, {}, 5, "peerpodconfig-openshift"),
        (
            [operators_config("5")],
            None,
            {"PEERPODS_LIMIT_PER_NODE": "7"},
            5,
            "peerpodconfig-openshift",
        ),
        # It migrates one without a limit by deleting it.
        ([operators_config(None)], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, 7, "peer-pods-cm"),
    ],
)
def test_the_limit_of_the_operators_pool(configs, entries, settings, limit, stored):
    pool = pools_of_second(configs, entries, settings, **HERE)[0]
    assert (pool.name, pool.selector, pool.limit, pool.store.name) == (
        "default",
        {"kata": ""},
        limit,
        stored,
    )
    assert (pool.problem is None) == (limit is not None)


def test_named_pools_count_only_where_the_agent_enforces_them():
    left_over = config("left", limit="2", nodeSelector={"pool": "left"})
    without = pools_of_second([left_over], None, {}, **HERE)
    entries = {"memory": entry(4, pool="memory"), "bad": entry(4)}
    pools = pools_of_second([left_over], entries, {}, **HERE)
    assert [pool.name for pool in without] == ["default"]
    assert [(pool.name, pool.limit) for pool in pools] == [
        ("default", 10),
        ("left", 2),
        ("memory", 4),
        ("bad", 4),
    ]
    assert [pool.name for pool in deciding(node(kata="", pool="memory"), pools)] == ["memory"]
    assert [pool.name for pool in deciding(node(kata=""), pools)] == ["default"]


def change_entry(name: str, limit: int | None, selector=None, limits: dict | None = None):
    data = (limits or {}).get("data") or {}
    pools = pools_of_second([], data, {"PEERPODS_LIMIT_PER_NODE": "7"}, **HERE)
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
    ("who", "selector", "follows", "moves"),
    [
        ("the same nodes", {"a": ""}, True, None),
        ("others", {"b": ""}, True, ({"a": ""}, {"b": ""})),
        ("others, where it stays", {"b": ""}, False, None),
        ("the default", None, True, ({"a": ""}, {"node.kubernetes.io/worker": ""})),
    ],
)
def test_where_cloud_api_adaptor_goes_with_a_peerpodconfig(who, selector, follows, moves):
    spec = {} if selector is None else {"nodeSelector": selector}
    change = plan_config(config(limit="3", **spec), "operator", "ours", {"limit": "4"})
    assert adaptor_moves(adaptors("ours", a=""), change, follows=follows) == moves
    same = plan_config(config(limit="3", **spec), "operator", "ours", {"limit": "3"})
    assert adaptor_moves(adaptors("ours", a=""), same, follows=follows) is None


@pytest.mark.parametrize(("owner", "moves"), [("ours", ({"a": ""}, None)), ("theirs", None)])
def test_cloud_api_adaptor_goes_with_the_peerpodconfig_that_owns_it(owner, moves):
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
    assert plan.patch["metadata"]["resourceVersion"] == "9"
    # That is its limit already, wherever it is stored.
    assert not change_entry("default", 7).changed
    assert not change_entry("default", 20, limits=config_map(default=entry(20))).changed


def test_a_named_pool_needs_its_nodes_once():
    with pytest.raises(LimitError, match="set the option node_selector"):
        change_entry("memory", 4)
    (plan,) = change_entry("memory", 4, {"pool": "memory"}).plans
    assert plan.after == {"memory": '{"limit":4,"nodeSelector":{"pool":"memory"}}'}
    there = config_map(memory=entry(4, pool="memory"))
    change = change_entry("memory", 5, limits=there)
    assert (change.before.limit, change.after.limit, change.lowers) == (4, 5, False)
    assert change_entry("memory", None, {"pool": "other"}, there).moves


def test_without_an_entry_a_pool_falls_back():
    limits = config_map(default=entry(20), memory=entry(4, pool="memory"))
    pools = {pool.name: pool for pool in pools_of_second([], limits["data"], {}, **HERE)}
    fallback = pools_of_second([], {}, {}, **HERE)[0]
    change = plan_entry_absent(pools["default"], limits, None, fallback, pools["default"].store)
    assert (change.before.limit, change.after.limit) == (20, 10)
    assert change.plans[0].patch["data"] == {"default": None}
    change = plan_entry_absent(pools["memory"], limits, None, fallback, pools["memory"].store)
    assert change.after is None
    assert change.plans[0].patch["data"] == {"memory": None}


def test_without_the_agent_there_is_one_limit_in_peer_pods_cm():
    pool = pools_of_second([], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, **HERE)[0]
    (plan,) = plan_settings(pool, 8).plans
    assert (plan.before, plan.after) == (
        {"PEERPODS_LIMIT_PER_NODE": "7"},
        {"PEERPODS_LIMIT_PER_NODE": "8"},
    )
    assert not plan_settings(pool, 7).changed
    half_migrated = pools_of_second([operators_config("5")], None, {"PEERPODS_LIMIT_PER_NODE": "7"}, **HERE)[0]
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
def test_what_the_second_generation_stores_elsewhere_is_rejected(fields, name, match):
    with pytest.raises(LimitError, match=match):
        refuse_second_generation_fields(fields, name)
    refuse_second_generation_fields({"node_selector": {"a": ""}}, "memory")


def test_nodes_whose_adaptor_is_not_ready_are_named():
    def adaptor(on: str, status: str, **metadata: str) -> dict:
        conditions = [{"type": "Ready", "status": status}]
        return {
            "metadata": metadata,
            "spec": {"nodeName": on},
            "status": {"conditions": conditions},
        }

    pods = [
        adaptor("a", "True"),
        adaptor("b", "False"),
        adaptor("c", "True", deletionTimestamp="t"),
    ]
    assert nodes_without_adaptor(["a", "b", "c", "d"], pods) == ["b", "c", "d"]
    said = explain_lagging([node("b", "0")], 10, "kata=", 5, not_ready=["b"])
    assert "The cloud-api-adaptor pod is not Ready on b" in said
