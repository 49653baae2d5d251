"""peerpod_capacity on a real API server: it removes only what the agent alone has written."""

from __future__ import annotations

import pytest

from tests.integration.apiserver import between

RESOURCE = "capacity.example.com/vm"


@pytest.fixture
def nodes(cluster):
    """Nodes written by the agent, by another program, by both in turn, and by no program."""
    writers = {
        "capacity-ours": ["peerpods-node-capacity"],
        "capacity-theirs": ["cloud-api-adaptor"],
        "capacity-both": ["peerpods-node-capacity", "cloud-api-adaptor"],
        "capacity-none": [],
    }
    for name, managers in writers.items():
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"a": "b"}},
        }
        cluster.apply(node)
        for slots, manager in enumerate(managers, 3):
            status = {"capacity": {RESOURCE: str(slots)}, "allocatable": {RESOURCE: str(slots)}}
            cluster.merge(f"node/{name}", {"status": status}, subresource="status", manager=manager)
    yield list(writers)
    cluster.delete("node", *writers)


def test_only_what_the_agent_advertised_is_removed(cluster, run_module, nodes):
    def slots() -> list[str | None]:
        return [cluster.get("node", name)["status"].get("capacity", {}).get(RESOURCE) for name in nodes]

    args = {"kubeconfig": str(cluster.kubeconfig), "resource": RESOURCE}
    before = slots()
    planned = run_module("peerpod_capacity", args, check=True, diff=True)
    assert (planned["changed"], planned["nodes"]) == (True, ["capacity-ours"])
    assert planned["diff"] == {"before": {"capacity-ours": "3"}, "after": {}}
    assert slots() == before == ["3", "3", "4", None]

    done = run_module("peerpod_capacity", args)
    assert (done["changed"], done["nodes"]) == (True, ["capacity-ours"])
    assert sorted(done["kept"]) == ["capacity-both", "capacity-theirs"]
    assert slots() == [None, "3", "4", None]
    assert run_module("peerpod_capacity", args)["changed"] is False


def test_a_running_adaptor_keeps_its_slots(cluster, run_module, nodes):
    """Those of a pod that ended are removed, and those of a pod that ends with the operator."""
    theirs, namespace = "capacity-theirs", "capacity-adaptor"
    pod = {"nodeName": theirs, "containers": [{"name": "caa-pod", "image": "caa"}]}
    metadata = {"name": "adaptor", "namespace": namespace}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
    )
    uid = cluster.get("pod", "adaptor", "-n", namespace)["metadata"]["uid"]
    cluster.annotate("node", theirs, f"kata.peerpods.io/caa-owner={uid}")
    args = {"kubeconfig": str(cluster.kubeconfig), "resource": RESOURCE, "managers": ["cloud-api-adaptor"]}
    kept = run_module("peerpod_capacity", args)
    # No pod has annotated the other node of cloud-api-adaptor.
    assert (kept["nodes"], sorted(kept["kept"])) == (["capacity-both"], ["capacity-ours", theirs])
    with_operator = run_module("peerpod_capacity", {**args, "operator_namespace": namespace}, check=True)
    assert with_operator["nodes"] == [theirs]
    cluster.delete("namespace", namespace, "--wait=false")
    cluster.delete("pod", "adaptor", "-n", namespace, "--force", "--grace-period=0")
    assert run_module("peerpod_capacity", args)["nodes"] == [theirs]


def test_concurrent_writes_of_the_kubelet_and_removed_nodes_are_tolerated(cluster, run_module, nodes):
    owned, deleted = "capacity-ours", "capacity-gone"
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": deleted}})
    advertised = {"status": {"capacity": {RESOURCE: "3"}}}
    cluster.merge(f"node/{deleted}", advertised, subresource="status", manager="peerpods-node-capacity")
    other_writes = {
        owned: ("label", "node", owned, "written=meanwhile"),
        deleted: ("delete", "node", deleted),
    }

    def intervene(method, path):
        other_write = next((write for name, write in other_writes.items() if f"/{name}/status" in path), None)
        if method == "PATCH" and other_write:
            del other_writes[other_write[2]]
            cluster.kubectl(*other_write)

    kubeconfig = cluster.user_kubeconfig("capacity-race", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        args = {"host": url, "api_key": "any", "resource": RESOURCE}
        result = run_module("peerpod_capacity", args)
    assert not result.get("failed"), result
    assert result["nodes"] == [owned]
    assert other_writes == {}
    assert RESOURCE not in cluster.get("node", owned)["status"].get("capacity", {})
