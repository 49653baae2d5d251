from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    EXTENDED_RESOURCE,
    LimitError,
    advertised,
    as_planned,
    current_limit,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    find_config,
    in_force,
    label_selector,
    lagging,
    node_selector,
    others_than,
    parse_limit,
    peer_pods_by_node,
    plan_absent,
    plan_present,
    refuse_bad_fields,
    refuse_overlap,
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
            "containers": [
                {"name": str(i), "resources": {"requests": one}} for i, one in enumerate(requests)
            ]
            or [{"name": "0", "resources": {}}],
        }
    }


@pytest.mark.parametrize(
    ("text", "limit"),
    [("0", 0), ("10", 10), (" 7\n", 7), ("0012", 12), (str(2**63 - 1), 2**63 - 1)],
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
        (None, "10", True, True),
        ("many", "10", True, True),
        ("0", "0", False, False),
    ],
)
def test_the_plan_of_a_limit(before, limit, changed, lowers):
    spec = {} if before is None else {"limit": before}
    plan = plan_present(config(cloudSecretName="s", **spec), "operator", "ours", {"limit": limit})
    assert (plan.changed, plan.lowers) == (changed, lowers)
    assert plan.diff == {"before": {"spec": {"limit": before}}, "after": {"spec": {"limit": limit}}}
    if changed:
        assert plan.patch == {"metadata": {"resourceVersion": "7"}, "spec": {"limit": limit}}
    assert plan.path == (
        "/apis/confidentialcontainers.org/v1alpha1/namespaces/operator/peerpodconfigs/ours"
    )


@pytest.mark.parametrize("spec", [{"limit": "12"}, {"limit": "many"}, {}])
def test_without_fields_everything_stays(spec):
    assert not plan_present(config(**spec), "operator", "ours", {}).changed


@pytest.mark.parametrize(
    ("spec", "fields", "patched", "lowers"),
    [
        ({"instanceType": "a"}, {"instanceType": "a"}, None, False),
        ({"instanceType": "a"}, {"instanceType": "b"}, {"instanceType": "b"}, False),
        ({}, {"instanceType": "b", "limit": "10"}, {"instanceType": "b"}, False),
        # Nodes that come may have more pods than the limit, nodes that go have none of it.
        ({"nodeSelector": {"a": ""}}, {"nodeSelector": {"b": ""}},
         {"nodeSelector": {"a": None, "b": ""}}, True),
        ({"nodeSelector": {"a": "", "b": ""}}, {"nodeSelector": {"b": "c"}},
         {"nodeSelector": {"a": None, "b": "c"}}, True),
        ({}, {"nodeSelector": {"b": ""}}, {"nodeSelector": {"b": ""}}, True),
        ({"nodeSelector": {"b": ""}}, {"nodeSelector": {"b": ""}}, None, False),
    ],
)  # fmt: skip
def test_only_fields_that_change_are_written(spec, fields, patched, lowers):
    plan = plan_present(config(limit="10", **spec), "operator", "ours", fields)
    assert plan.changed == (patched is not None)
    assert plan.lowers == lowers
    if patched:
        assert plan.patch["spec"] == patched
    assert as_planned(config(limit="10", **spec), plan)["spec"] == {"limit": "10", **spec, **fields}


def test_one_that_is_missing_is_made_for_the_nodes_that_are_named():
    with pytest.raises(LimitError, match=r"operator_install first\. .* node_selector\.$"):
        plan_present(None, "operator", "ours", {"limit": "3", "instanceType": "a"})
    plan = plan_present(None, "operator", "ours", {"limit": "3", "nodeSelector": {"pool": "a"}})
    assert plan.changed
    assert plan.lowers, "pods may run there already"
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
    plan = plan_absent(config(limit="3"), "operator", "ours")
    assert (plan.changed, plan.lowers, plan.resource_version) == (True, True, "7")
    assert plan.diff == {"before": {"spec": {"limit": "3"}}, "after": {}}
    going = config(limit="3")
    going["metadata"]["deletionTimestamp"] = "2024-11-04T08:00:00Z"
    for settled in (None, going):
        plan = plan_absent(settled, "operator", "ours")
        assert (plan.changed, plan.lowers) == (False, False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cloud_secret_name": ""}, "cloud_secret_name must be a name .* got ''"),
        ({"config_map_name": "Has_Capitals"}, "config_map_name must be a name"),
        ({"name": "-a"}, "name must be a name"),
        ({"namespace": " "}, "namespace must be a name"),
        ({"instance_type": " "}, "instance_type is empty"),
        ({"node_selector": {}}, "selects every node there is"),
        ({"node_selector": {"pool": None}}, "is None, which is no text: .* for a label without"),
        ({"node_selector": {"pool": True}}, "label pool in node_selector is True"),
        ({"node_selector": {"pool": "a b"}}, "wants the label pool to be 'a b'"),
        ({"node_selector": {"pool": "a" * 64}}, "which no label can be"),
        ({"node_selector": {"": "a"}}, "names '', which no label can be called"),
        ({"node_selector": {"/a": "a"}}, "which no label can be called"),
        ({"node_selector": {"UPPER.example/a": "a"}}, "which no label can be called"),
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


@pytest.mark.parametrize(("spec", "limit"), [({"limit": "12"}, 12), ({}, 10)])
def test_the_limit_that_is_set(spec, limit):
    assert current_limit(config(**spec)) == limit


def test_a_limit_that_is_set_and_no_number():
    with pytest.raises(
        LimitError, match=r"operator/ours is 'many', .* Set one by the option limit"
    ):
        current_limit(config(limit="many"))


SHARED = r"operator/ours and operator/theirs both select the node n1"
BOUND_TO = r"operator/ours and operator/theirs overlap: every node that fits "


@pytest.mark.parametrize(
    ("ours", "other", "labels", "said"),
    [
        ({"kata": ""}, {"pool": "b"}, {"kata": ""}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "a"}, None),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "b"}, SHARED),
        ({"kata": ""}, None, {"kata": ""}, None),
        ({"kata": ""}, None, {"kata": "", "node.kubernetes.io/worker": ""}, SHARED),
        # Whatever node there is or comes.
        ({"kata": ""}, {"kata": ""}, {}, BOUND_TO + "'kata=' fits 'kata='"),
        ({"kata": ""}, {"kata": "", "b": "c"}, {}, BOUND_TO + "'kata=,b=c' fits 'kata='"),
        ({"kata": "", "b": "c"}, {"kata": ""}, {}, BOUND_TO + "'kata=,b=c' fits 'kata='"),
        ({"kata": ""}, {}, {}, BOUND_TO + "'kata=' fits the empty selector"),
        ({"pool": "a"}, {"pool": "b"}, {}, None),
    ],
)
def test_two_configs_must_not_share_a_node(ours, other, labels, said):
    mine = config(nodeSelector=ours)
    theirs = config("theirs", **({} if other is None else {"nodeSelector": other}))
    nodes = [node(**labels)] if labels else []
    if said:
        with pytest.raises(LimitError, match=said):
            refuse_overlap(mine, [theirs], nodes)
    else:
        refuse_overlap(mine, [theirs], nodes)


def test_the_same_name_in_another_namespace_is_another_config():
    mine, theirs = config(), config(namespace="elsewhere")
    assert others_than([mine, theirs], "operator", "ours") == [theirs]
    assert find_config([theirs, mine], "operator", "ours") is mine
    assert find_config([theirs], "operator", "ours") is None


def test_nodes_that_no_config_selects_must_not_go_on_advertising():
    nodes = [node("a", "10", pool="a"), node("b", "2k", pool="b"), node("zero", "0"), node("none")]
    others = [config(nodeSelector={"pool": "a"})]
    assert [one["metadata"]["name"] for one in released(nodes, others)] == ["b", "zero", "none"]
    assert still_advertising(nodes, others) == {"b": 2000}
    assert "any more still advertise peer pods: b shows 2000. Check" in explain_still_advertising(
        {"b": 2000}, 5
    )
    assert explain_left_over({"a": 0, "b": 2, "zero": 0, "none": 1}, nodes) == (
        "Peer pods run on nodes that no PeerPodConfig would select any more: 2 on b, 1 on none."
    )


def test_the_selector_as_the_api_takes_it():
    assert label_selector({"node-role.kubernetes.io/kata-oc": "", "pool": "a"}) == (
        "node-role.kubernetes.io/kata-oc=,pool=a"
    )
    assert label_selector(node_selector(config(nodeSelector={}))) == ""
    assert label_selector(node_selector(config())) == "node.kubernetes.io/worker="


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
    assert "no node carries the labels 'kata='" in explain_lagging([], 10, "kata=", 30)


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
    assert explain_overfull(2, used, nodes) == (
        "The limit of 2 is below the peer pods that run now: 3 on n1."
    )
    assert explain_overfull(3, used, nodes) is None
