from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    EXTENDED_RESOURCE,
    LimitError,
    advertised,
    current_limit,
    explain_lagging,
    explain_overfull,
    in_force,
    label_selector,
    lagging,
    node_selector,
    parse_limit,
    peer_pods_by_node,
    plan_limit,
    refuse_overlap,
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


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("10", 10), (" 7\n", 7), ("0012", 12)])
def test_a_whole_number_is_a_limit(text, limit):
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["-1", "+1", "1.0", "1e3", "2k", "1_0", "", "ten", "٣"])
def test_anything_else_is_refused(text):
    with pytest.raises(LimitError, match="0 or more; got"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("before", "limit", "changed", "lowers"),
    [
        ("10", 10, False, False),
        ("10", 11, True, False),
        ("10", 9, True, True),
        ("9", 10, True, False),  # as numbers: as strings it would be a lowering
        ("010", 10, True, False),
        (None, 10, True, True),
        ("many", 10, True, True),
        ("0", 0, False, False),
    ],
)
def test_the_plan_of_a_limit(before, limit, changed, lowers):
    spec = {} if before is None else {"limit": before}
    plan = plan_limit(config(cloudSecretName="s", **spec), limit)
    assert (plan.changed, plan.lowers) == (changed, lowers)
    assert plan.patch == {"metadata": {"resourceVersion": "7"}, "spec": {"limit": str(limit)}}
    assert plan.path == (
        "/apis/confidentialcontainers.org/v1alpha1/namespaces/operator/peerpodconfigs/ours"
    )


@pytest.mark.parametrize("spec", [{"limit": "12"}, {"limit": "many"}, {}])
def test_without_a_limit_everything_stays(spec):
    assert not plan_limit(config(**spec), None).changed


@pytest.mark.parametrize(("spec", "limit"), [({"limit": "12"}, 12), ({}, 10)])
def test_the_limit_that_is_set(spec, limit):
    assert current_limit(config(**spec)) == limit


def test_a_limit_that_is_set_and_no_number():
    with pytest.raises(
        LimitError, match=r"operator/ours is 'many', .* Set one by the option limit"
    ):
        current_limit(config(limit="many"))


@pytest.mark.parametrize(
    ("ours", "other", "labels", "overlap"),
    [
        ({"kata": ""}, {"kata": ""}, {"kata": ""}, True),
        ({"kata": ""}, {"pool": "b"}, {"kata": ""}, False),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "b"}, True),
        ({"kata": ""}, {"pool": "b"}, {"kata": "", "pool": "a"}, False),
        ({"kata": ""}, {}, {"kata": ""}, True),
        ({"kata": ""}, None, {"kata": ""}, False),
        ({"kata": ""}, None, {"kata": "", "node.kubernetes.io/worker": ""}, True),
    ],
)
def test_two_configs_must_not_share_a_node(ours, other, labels, overlap):
    mine = config(nodeSelector=ours)
    theirs = config("theirs", **({} if other is None else {"nodeSelector": other}))
    nodes = [node(**labels)]
    if overlap:
        with pytest.raises(LimitError, match=r"operator/ours and operator/theirs both .* node n1"):
            refuse_overlap(mine, [mine, theirs], nodes)
    else:
        refuse_overlap(mine, [mine, theirs], nodes)


def test_the_same_name_in_another_namespace_is_another_config():
    mine = config(nodeSelector={"a": "b"})
    theirs = config(namespace="elsewhere", nodeSelector={"a": "b"})
    with pytest.raises(LimitError, match="elsewhere/ours"):
        refuse_overlap(mine, [theirs, mine], [node(a="b")])


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
