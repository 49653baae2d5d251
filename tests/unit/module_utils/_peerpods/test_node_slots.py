from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import (
    CloudShare,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.node_slots import (
    advertised,
    explain_lagging,
    explain_left_over,
    explain_overfull,
    explain_still_advertising,
    in_force,
    lagging,
    limit_at,
    nodes_without_adaptor,
    released,
    still_advertising,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import peer_pods_by_node
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    pool_of_config,
)

from tests.unit.module_utils._peerpods.objects import config, node, pod


@pytest.mark.parametrize(
    ("spec", "limit"),
    [({"limit": "4"}, 4), ({}, 1), ({"limit": "many"}, 3)],
)
def test_what_another_config_allows_on_a_node(spec, limit):
    node = {"status": {"allocatable": {EXTENDED_RESOURCE: "3"}}}
    pool = pool_of_config({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})
    assert limit_at(node, pool) == limit


def test_a_timeout_reports_the_bounded_limit():
    def node(name: str, count: str) -> dict:
        return {
            "metadata": {"name": name},
            "status": {"allocatable": {EXTENDED_RESOURCE: count}},
        }

    share = CloudShare("instance-quota", 20, 2, 60, 10)
    message = explain_lagging([node("a", "30"), node("b", "10")], 30, "kata=", 5, share)
    assert message.startswith(
        "After 5 s the limit of 30, of which the cloud's instance-quota leaves 10, is not in force "
        "on every selected node: a advertises 30. "
    )


def test_nodes_without_a_config_must_stop_advertising():
    nodes = [node("a", "10", pool="a"), node("b", "2k", pool="b"), node("zero", "0"), node("none")]
    remaining = [pool_of_config(config(nodeSelector={"pool": "a"}))]
    assert [released_node["metadata"]["name"] for released_node in released(nodes, remaining)] == ["b", "zero", "none"]
    assert still_advertising(nodes, remaining) == {"b": 2000}
    assert "any more still advertise peer pods: b advertises 2000. Check" in explain_still_advertising({"b": 2000}, 5)
    assert explain_left_over({"a": 0, "b": 2, "zero": 0, "none": 1}, nodes) == (
        "Peer pods run on nodes that no pool would select any more: 2 on b, 1 on none."
    )


@pytest.mark.parametrize(("quantity", "count"), [("10", 10), ("2k", 2000), ("0", 0), (None, None)])
def test_the_advertised_amount_of_a_node(quantity, count):
    assert advertised(node(quantity=quantity)) == count


def test_a_limit_is_in_force_if_every_node_advertises_it():
    node_of_10, node_of_12, not_advertising = node("ten", "10"), node("twelve", "12"), node("silent")
    assert in_force([node_of_10, node_of_10], 10)
    assert not in_force([node_of_10, node_of_12], 10)
    assert not in_force([], 10)
    assert in_force([not_advertising], 0), "a node that advertises nothing allows nothing"
    assert lagging([node_of_10, node_of_12, not_advertising], 10) == {"twelve": 12, "silent": None}
    message = explain_lagging([node_of_10, node_of_12, not_advertising], 10, "kata=", 30)
    assert message.startswith("After 30 s the limit of 10 is not in force on every selected node: ")
    assert "twelve advertises 12, silent advertises nothing." in message
    assert "no node has the labels 'kata='" in explain_lagging([], 10, "kata=", 30)
    for not_ready in (node_of_12, not_advertising):
        not_ready["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert "None of these nodes is Ready" in explain_lagging([node_of_12, not_advertising], 10, "kata=", 30)


def test_only_nodes_with_more_than_the_limit_are_named():
    used = peer_pods_by_node([pod("n1", "kata-remote")] * 3 + [pod("n2", "kata-remote")] * 2)
    nodes = [node("n1"), node("n2"), node("n3")]
    assert explain_overfull(2, used, nodes) == ("The limit of 2 is below the peer pods that run now: 3 on n1.")
    assert explain_overfull(3, used, nodes) is None


def test_nodes_whose_adaptor_is_not_ready_are_named():
    def adaptor(node_name: str, status: str, **metadata: str) -> dict:
        conditions = [{"type": "Ready", "status": status}]
        return {
            "metadata": metadata,
            "spec": {"nodeName": node_name},
            "status": {"conditions": conditions},
        }

    pods = [
        adaptor("a", "True"),
        adaptor("b", "False"),
        adaptor("c", "True", deletionTimestamp="t"),
    ]
    assert nodes_without_adaptor(["a", "b", "c", "d"], pods) == ["b", "c", "d"]
    message = explain_lagging([node("b", "0")], 10, "kata=", 5, not_ready=["b"])
    assert "The cloud-api-adaptor pod is not Ready on b" in message
