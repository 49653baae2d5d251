from __future__ import annotations

import pytest

from tests.cluster.openshift import remove_pods, set_status, wait_for_scheduler
from tests.cluster.processes import wait_for
from tests.integration.apiserver import between, requests_of

NAMESPACE = "info-test"
NODES = ("info-a", "info-b")
RUNTIME_CLASS = "kata-info-test"
RESOURCE = "kata.peerpods.io/vm"


def pod(name: str, node: str | None, *, accounted: bool = True) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "runtimeClassName": RUNTIME_CLASS,
            **({"nodeName": node} if node else {"nodeSelector": {"pool": "nowhere"}}),
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "resources": {"limits": {RESOURCE: "1"}} if accounted else {},
                }
            ],
        },
    }


def create_peer_pods(cluster) -> None:
    """Two nodes with room for 3 and 2000 peer pods, four peer pods and one that has ended."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": "kata-remote",
            "scheduling": {"tolerations": [{"key": "info", "operator": "Exists"}]},
        },
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"pool": name}},
                "spec": {"taints": [{"key": "info", "value": name, "effect": "NoSchedule"}]},
            }
            for name in NODES
        ),
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPodConfig",
            "metadata": {"name": "ours", "namespace": NAMESPACE},
            "spec": {
                "cloudSecretName": "peer-pods-secret",
                "configMapName": "peer-pods-cm",
                "limit": "3",
                "nodeSelector": {"pool": "info-a"},
            },
        },
    )
    for name, count in zip(NODES, (3, 2000), strict=True):
        amounts = {"capacity": {RESOURCE: str(count)}, "allocatable": {RESOURCE: str(count)}}
        set_status(cluster, f"node/{name}", amounts, NAMESPACE)
    cluster.apply(
        pod("runs", "info-a"),
        pod("unaccounted", "info-a", accounted=False),
        pod("ended", "info-a"),
        pod("big-node", "info-b"),
        pod("waits", None),
    )
    set_status(cluster, "pod/ended", {"phase": "Succeeded"}, NAMESPACE)
    set_status(cluster, "pod/runs", {"phase": "Running"}, NAMESPACE)
    set_status(cluster, "pod/unaccounted", {"phase": "Running"}, NAMESPACE)
    waiting = {"reason": "ContainerCreating"}
    status = {"name": "c", "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
    set_status(cluster, "pod/big-node", {"containerStatuses": [{**status, "state": {"waiting": waiting}}]}, NAMESPACE)
    # The API server adds one to a new node (the admission plugin TaintNodesByCondition), and a controller removes it.
    wait_for(
        "the removal of the taint node.kubernetes.io/not-ready",
        lambda: all(len(cluster.get("node", name)["spec"]["taints"]) == 1 for name in NODES),
        seconds=30,
    )
    wait_for_scheduler(cluster, "waits", NAMESPACE)


@pytest.fixture(scope="module")
def peer_pods(cluster):
    try:
        create_peer_pods(cluster)
        yield
    finally:
        remove_pods(cluster, NAMESPACE)
        cluster.delete("namespace", NAMESPACE, "--wait=false")
        cluster.delete("runtimeclass", RUNTIME_CLASS)
        cluster.delete("node", *NODES)


def named(rows: list[dict], *names: str) -> dict[str, dict]:
    return {row["name"]: row for row in rows if row["name"] in names}


def test_all_facts_take_six_requests_and_one_for_tolerations(cluster, peer_pods, run_module):
    kubeconfig = cluster.user_kubeconfig("peerpod-info", "system:masters")
    result = run_module(
        "peerpod_info",
        {
            "kubeconfig": str(kubeconfig),
            "namespace": NAMESPACE,
            "runtime_classes": [RUNTIME_CLASS],
        },
    )
    assert not result.get("failed"), result["msg"]
    assert not result["changed"]
    assert (result["operator"]["limit_in"], result["msg"]) == ("PeerPodConfig", None)
    assert result["pools"] == [
        {
            "name": "ours",
            "namespace": NAMESPACE,
            "store": {"kind": "PeerPodConfig", "namespace": NAMESPACE, "name": "ours", "key": None},
            "limit": 3,
            "slots": 3,
            "cloud_bound": None,
            "node_selector": {"pool": "info-a"},
            "cloud_secret_name": "peer-pods-secret",
            "config_map_name": "peer-pods-cm",
            "instance_type": None,
            "setup_completed": False,
            "selected_nodes": 1,
            "advertised_nodes": 1,
        }
    ]
    assert named(result["nodes"], *NODES) == {
        "info-a": {
            "name": "info-a",
            "pools": [f"{NAMESPACE}/ours"],
            "capacity": 3,
            "allocatable": 3,
            "used": 2,
            "unaccounted": 1,
            "blocked": None,
            "free": 2,
        },
        "info-b": {
            "name": "info-b",
            "pools": [],
            "capacity": 2000,
            "allocatable": 2000,
            "used": 1,
            "unaccounted": 0,
            "blocked": None,
            "free": 1999,
        },
    }
    assert named(result["namespaces"], NAMESPACE) == {NAMESPACE: {"name": NAMESPACE, "used": 3, "unscheduled": 1}}
    pending = named(result["pending"], "waits", "big-node", "runs", "ended", "unaccounted")
    assert pending.keys() == {"waits", "big-node"}
    assert pending["waits"]["node"] is None
    assert pending["waits"]["reason"] == "Unschedulable"
    assert "nodes are available" in pending["waits"]["message"]
    assert pending["big-node"] == {
        "name": "big-node",
        "namespace": NAMESPACE,
        "node": "info-b",
        "reason": "ContainerCreating",
        "message": None,
    }
    totals = result["totals"]
    assert totals["nodes"] == len(result["nodes"])
    assert totals["free"] == sum(node["free"] for node in result["nodes"])
    assert totals["used"] == sum(row["used"] for row in result["namespaces"])
    requests = requests_of(cluster, "peerpod-info")
    # The last one is for a RuntimeClass, since nodes have taints.
    assert [verb for verb, _ in requests] == ["get", "list", "list", "list", "get", "list", "list", "get"]
    assert requests[-1][1].endswith(f"/runtimeclasses/{RUNTIME_CLASS}")
    assert f"/namespaces/{NAMESPACE}/peerpodconfigs?" in requests[1][1]


def test_a_node_that_advertises_the_bounded_limit_is_correct(cluster, peer_pods, run_module):
    def read(user: str, *groups: str, name: str = "peerpods-cloud-capacity") -> dict:
        result = run_module(
            "peerpod_info",
            {
                "kubeconfig": str(cluster.user_kubeconfig(user, *groups)),
                "namespace": NAMESPACE,
                "cloud_capacity": {"namespace": NAMESPACE, "name": name},
            },
        )
        assert not result.get("failed"), result["msg"]
        (pool,) = result["pools"]
        return {**pool, "bounds": result["cloud_bounds"], "warnings": result.get("warnings")}

    data = {"instance-quota": "2", "subnet-addresses": "59", "nonsense": "many"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peerpods-cloud-capacity", "namespace": NAMESPACE},
            "data": data,
        }
    )
    facts = read("peerpod-info", "system:masters")
    assert facts["bounds"] == {"instance-quota": 2, "subnet-addresses": 59}
    assert (facts["limit"], facts["slots"], facts["cloud_bound"]) == (3, 2, "instance-quota")
    assert facts["advertised_nodes"] == 0

    no_pools = read("peerpod-info", "system:masters", name="another")
    assert (no_pools["bounds"], no_pools["slots"], no_pools["advertised_nodes"]) == ({}, 3, 1)

    details = run_module(
        "peerpod_info",
        {
            "kubeconfig": str(cluster.user_kubeconfig("peerpod-info", "system:masters")),
            "namespace": NAMESPACE,
            "cloud_capacity": {"namespace": NAMESPACE},
            "details": True,
        },
    )
    assert details["cloud_capacity"] == {"managed": False, "own": [], "data": data}
    assert (details["agent_deployed"], details["peer_pods_cm"]) == (False, {})

    # A user who may read everything but ConfigMaps gets a warning that they are not counted.
    cluster.kubectl(
        "create",
        "clusterrole",
        "info-looker",
        "--verb=list",
        "--resource=nodes,pods,peerpodconfigs.confidentialcontainers.org",
    )
    cluster.kubectl(
        "create",
        "clusterrolebinding",
        "info-looker",
        "--clusterrole=info-looker",
        "--user=info-looker",
    )
    unread = read("info-looker")
    assert (unread["bounds"], unread["slots"]) == ({}, 3)
    assert "The cloud capacity is unknown" in " ".join(unread["warnings"])
    assert "Which taints peer pods tolerate is unknown" in " ".join(unread["warnings"])
    cluster.delete("clusterrolebinding,clusterrole", "info-looker")


def test_without_peerpodconfigs_the_rest_is_returned(cluster, peer_pods, run_module):
    def intervene(method, path):
        # The response of an API server for a kind that it does not serve.
        return (404, b"404 page not found\n") if "peerpodconfigs" in path else None

    kubeconfig = cluster.user_kubeconfig("peerpod-info-bare", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = run_module("peerpod_info", {"host": url, "api_key": "any"})
    assert not result.get("failed"), result["msg"]
    assert (result["operator"], result["pools"]) == (None, [])
    assert result["msg"].startswith("No operator for OpenShift sandboxed containers is installed")
    # No RuntimeClass of the default name tolerates the taint of the nodes.
    tainted = named(result["nodes"], "info-b")["info-b"]
    assert (tainted["allocatable"], tainted["free"]) == (2000, 0)
    assert tainted["blocked"] == "tainted (info=info-b:NoSchedule)"
    # Pods with another RuntimeClass count if they request the extended resource.
    assert named(result["nodes"], "info-a")["info-a"]["used"] == 1
