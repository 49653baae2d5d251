from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods import usage
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import pool_of_config, pools_of_second

RESOURCE = "kata.peerpods.io/vm"


def describe(configs, nodes, pods, runtime_classes=("kata-remote",), bounds=None) -> dict:
    pools = [pool_of_config(body) for body in configs]
    return usage.describe(pools, configs, nodes, pods, runtime_classes, bounds or {})


def config(name="ours", namespace="operator", **spec) -> dict:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def node(name="n1", capacity=None, allocatable=None, **labels) -> dict:
    amounts = {"capacity": capacity, "allocatable": allocatable}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {key: {RESOURCE: text} if text else {} for key, text in amounts.items()},
    }


def pod(node_name=None, requests=("1",), runtime_class="kata-remote", namespace="a", **status) -> dict:
    return {
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {
            "nodeName": node_name,
            "runtimeClassName": runtime_class,
            "containers": [
                {"name": str(index), "resources": {"requests": {RESOURCE: text}} if text else {}}
                for index, text in enumerate(requests)
            ],
        },
        "status": {"phase": "Running", **status},
    }


def only(rows: list[dict]) -> dict:
    (row,) = rows
    return row


@pytest.mark.parametrize(
    ("worker", "pods", "used", "unaccounted", "free"),
    [
        (node(capacity="10", allocatable="10"), [], 0, 0, 10),
        (node(capacity="1k", allocatable="1k"), [pod("n1")], 1, 0, 999),
        # The scheduler does not count a pod without requests.
        (node(capacity="3", allocatable="3"), [pod("n1"), pod("n1", [None])], 2, 1, 2),
        (node(capacity="3", allocatable="3"), [pod("n1", ["1", None, "1"])], 1, 0, 1),
        (node(capacity="1", allocatable="1"), [pod("n1")] * 3, 3, 0, 0),
        (node(capacity="9"), [], 0, 0, 0),
        (node(), [pod("n1")], 1, 0, 0),
    ],
)
def test_the_free_slots_of_a_node(worker, pods, used, unaccounted, free):
    row = only(describe([], [worker], pods, ["kata-remote"])["nodes"])
    assert (row["used"], row["unaccounted"], row["free"]) == (used, unaccounted, free)


TAINT = {"key": "team", "value": "a", "effect": "NoSchedule"}
NOT_READY = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "Unknown"}]


@pytest.mark.parametrize(
    ("spec", "conditions", "tolerations", "blocked"),
    [
        ({}, [{"type": "Ready", "status": "True"}], [], None),
        ({"unschedulable": True, "taints": [TAINT]}, [], [], "cordoned"),
        ({}, NOT_READY, [], "not ready"),
        ({"taints": [TAINT]}, [], [], "tainted (team=a:NoSchedule)"),
        ({"taints": [TAINT]}, [], [[]], "tainted (team=a:NoSchedule)"),
        ({"taints": [{"key": "x", "effect": "NoExecute"}]}, [], [[]], "tainted (x:NoExecute)"),
        # The scheduler prefers other nodes.
        ({"taints": [{**TAINT, "effect": "PreferNoSchedule"}]}, [], [], None),
        ({"taints": [TAINT]}, [], [[{"key": "team", "value": "a"}]], None),
        ({"taints": [TAINT]}, [], [[{"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]], None),
        ({"taints": [TAINT]}, [], [[{"key": "team", "operator": "Exists"}]], None),
        ({"taints": [TAINT]}, [], [[{"operator": "Exists"}]], None),
        ({"taints": [TAINT]}, [], [[{"key": "team", "value": "b"}]], "tainted (team=a:NoSchedule)"),
        (
            {"taints": [TAINT]},
            [],
            [[{"key": "team", "operator": "Exists", "effect": "NoExecute"}]],
            "tainted (team=a:NoSchedule)",
        ),
        ({"taints": [TAINT]}, [], [[{"value": "a"}]], "tainted (team=a:NoSchedule)"),
        # One of two RuntimeClasses suffices, and each must tolerate all taints.
        ({"taints": [TAINT]}, [], [[], [{"operator": "Exists"}]], None),
        (
            {"taints": [TAINT, {"key": "x", "effect": "NoExecute"}]},
            [],
            [[{"key": "team", "operator": "Exists"}], [{"key": "x", "operator": "Exists"}]],
            "tainted (team=a:NoSchedule, x:NoExecute)",
        ),
    ],
)
def test_a_node_that_takes_no_further_pod_has_no_free_slot(spec, conditions, tolerations, blocked):
    worker = {**node(capacity="3", allocatable="3"), "spec": spec}
    worker["status"]["conditions"] = conditions
    result = usage.describe([], [], [worker], [pod("n1")], ["kata-remote"], {}, lambda: tolerations)
    row = only(result["nodes"])
    assert (row["blocked"], row["free"]) == (blocked, 0 if blocked else 2)
    assert (row["allocatable"], row["used"], result["totals"]["free"]) == (3, 1, row["free"])


def test_tolerations_are_read_only_for_a_taint():
    def read() -> list:
        raise AssertionError("The RuntimeClasses were read.")

    tainted = {**node("without-slots"), "spec": {"taints": [TAINT]}}
    rows = usage.describe(
        [], [], [tainted, node(capacity="3", allocatable="3")], [pod("without-slots")], ["x"], {}, read
    )
    assert [row["blocked"] for row in rows["nodes"]] == [None, None]


@pytest.mark.parametrize(
    ("worker", "is_listed"),
    [
        (node(), False),
        (node(pool="a"), True),
        (node(capacity="0", allocatable="0"), True),
        (node("n2"), True),
    ],
)
def test_nodes_without_peer_pods_are_left_out(worker, is_listed):
    configs = [config(nodeSelector={"pool": "a"})]
    assert bool(describe(configs, [worker], [pod("n2")], ["kata-remote"])["nodes"]) == is_listed


@pytest.mark.parametrize(
    ("peer_pod", "counts"),
    [
        (pod("n1", runtime_class="kata-remote"), True),
        (pod("n1", [None], runtime_class="kata-cc"), True),
        (pod("n1", [None], runtime_class="kata"), False),
        (pod("n1", [None], runtime_class=None), False),
        # A pod that requests the extended resource has a VM, with any RuntimeClass.
        (pod("n1", runtime_class="kata"), True),
    ],
)
def test_peer_pods_are_recognised(peer_pod, counts):
    described = describe([], [node()], [peer_pod], ["kata-remote", "kata-cc"])
    assert described["totals"]["used"] == counts
    assert bool(described["namespaces"]) == counts


@pytest.mark.parametrize(
    ("spec", "limit", "advertised"),
    [
        ({"limit": "1000"}, 1000, 1),
        ({}, 1, 0),
        ({"limit": "many"}, None, 0),
        ({"limit": "0"}, 0, 1),  # A node that advertises nothing allows no peer pods.
    ],
)
def test_the_limit_of_a_pool_and_the_number_of_nodes_that_advertise_it(spec, limit, advertised):
    nodes = [node("a", "1k", "1k", pool="a"), node("b", pool="a"), node("c", "5", "5")]
    row = only(describe([config(nodeSelector={"pool": "a"}, **spec)], nodes, [], ["kata-remote"])["pools"])
    assert (row["limit"], row["selected_nodes"], row["advertised_nodes"]) == (limit, 2, advertised)


@pytest.mark.parametrize(
    ("bounds", "slots", "bound", "advertised"),
    [
        ({}, 10, None, 1),
        ({"quota": 100}, 10, None, 1),
        # 4 of 15 go to the node with the low limit, and half of the rest to each of the others.
        ({"quota": 15, "addresses": 200}, 5, "quota", 1),
        ({"quota": 0}, 0, "quota", 0),
    ],
)
def test_a_limit_is_bounded_by_the_cloud(bounds, slots, bound, advertised):
    configs = [
        config(limit="10", nodeSelector={"pool": "a"}),
        config("low", limit="4", nodeSelector={"pool": "b"}),
        # The agent bounds only the nodes of configs in its own namespace.
        config("elsewhere", "other", limit="100", nodeSelector={"pool": "c"}),
    ]
    nodes = [
        node("a1", "5", "5", pool="a"),
        node("a2", "10", "10", pool="a"),
        node("b", "4", "4", pool="b"),
        node("c", "100", "100", pool="c"),
    ]
    described = describe(configs, nodes, [], bounds=bounds)
    row = described["pools"][0]
    assert (row["limit"], row["selected_nodes"]) == (10, 2)
    assert (row["slots"], row["cloud_bound"], row["advertised_nodes"]) == (slots, bound, advertised)
    assert described["cloud_bounds"] == bounds


def test_the_smaller_limit_of_two_configs_applies_to_a_node():
    configs = [config("one", limit="2", nodeSelector={"a": ""}), config(limit="9", nodeSelector={})]
    nodes = [node("both", a=""), node("other")]
    limited, other_pool = describe(configs, nodes, [], bounds={"quota": 10})["pools"]
    assert (limited["slots"], other_pool["slots"], other_pool["cloud_bound"]) == (2, 8, "quota")


def test_a_pool_without_a_valid_limit_uses_the_advertised_slots():
    configs = [
        config("bad", limit="many", nodeSelector={"a": ""}),
        config(limit="10", nodeSelector={"b": ""}),
    ]
    nodes = [node("a", "7", "7", a=""), node("b", b="")]
    invalid, valid = describe(configs, nodes, [], bounds={"quota": 10})["pools"]
    assert (invalid["limit"], invalid["slots"], invalid["advertised_nodes"]) == (None, None, 0)
    assert valid["slots"] == 5


def test_a_node_lists_every_pool_that_selects_it():
    configs = [config("one", nodeSelector={"a": ""}), config("two", nodeSelector={"b": ""})]
    row = only(describe(configs, [node(a="", b="")], [], [])["nodes"])
    assert row["pools"] == ["operator/one", "operator/two"]


SCHEDULED = {"type": "PodScheduled", "status": "True"}
UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available",
}


@pytest.mark.parametrize(
    ("node_name", "status", "expected"),
    [
        (None, {"conditions": [UNSCHEDULED]}, ("Unschedulable", "0/3 nodes are available")),
        (None, {}, (None, None)),
        ("n1", {"conditions": [SCHEDULED]}, (None, None)),
        (
            "n1",
            {
                "conditions": [SCHEDULED],
                "initContainerStatuses": [{"state": {"terminated": {}}}, {}],
                "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}}],
            },
            ("ImagePullBackOff", "no such"),
        ),
    ],
)
def test_the_reason_of_a_pending_pod(node_name, status, expected):
    described = describe([], [], [pod(node_name, phase="Pending", **status)], ["kata-remote"])
    row = only(described["pending"])
    assert (row["node"], (row["reason"], row["message"])) == (node_name, expected)
    assert described["totals"]["unscheduled"] == (node_name is None)


def test_totals_are_the_sums_of_the_namespaces():
    nodes = [node("a", "4", "3"), node("b", "2", "2")]
    pods = [pod("a"), pod("b", namespace="b"), pod(None, namespace="b"), pod("b", namespace="b")]
    described = describe([], nodes, pods, ["kata-remote"])
    assert described["totals"] == {
        "nodes": 2,
        "capacity": 6,
        "allocatable": 5,
        "used": 3,
        "unaccounted": 0,
        "free": 2,
        "unscheduled": 1,
    }
    assert described["namespaces"] == [
        {"name": "a", "used": 1, "unscheduled": 0},
        {"name": "b", "used": 2, "unscheduled": 1},
    ]


def test_pools_of_the_second_generation():
    """A node of a named pool has the limit of the pool; the other nodes are in the operator's own pool."""
    pools = pools_of_second(
        [],
        {"memory": '{"limit":4,"nodeSelector":{"pool":"memory"}}'},
        {"PEERPODS_LIMIT_PER_NODE": "7"},
        namespace="operator",
        agent_namespace="agent",
        adaptor_selector={"kata": ""},
    )
    nodes = [node("a", "7", "7", kata=""), node("b", "4", "4", kata="", pool="memory"), node("c")]
    described = usage.describe(pools, [], nodes, [], ["kata-remote"], {})
    assert {row["name"]: row["pools"] for row in described["nodes"]} == {
        "a": ["operator/default"],
        "b": ["operator/memory"],
    }
    assert [
        (
            row["name"],
            row["limit"],
            row["selected_nodes"],
            row["advertised_nodes"],
            row["store"]["name"],
        )
        for row in described["pools"]
    ] == [("default", 7, 1, 1, "peer-pods-cm"), ("memory", 4, 1, 1, "peerpods-limits")]
