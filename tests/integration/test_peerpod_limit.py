from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.processes import wait_for
from tests.integration.apiserver import between, requests_of

NAMESPACE = "limit-test"
NODES = ("limit-a", "limit-b")
RESOURCE = "kata.peerpods.io/vm"


def peerpodconfig(name: str, selector: dict[str, str]) -> dict:
    """As the operator makes it, limit included."""
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "limit": "10",
            "nodeSelector": selector,
        },
    }


@pytest.fixture(scope="module")
def pool(cluster):
    """Two nodes of our own: no kubelet is there to touch what they advertise."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"pool": "limit"}},
            }
            for name in NODES
        ),
    )
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE)
    cluster.kubectl("delete", "node", *NODES)


@pytest.fixture
def config(cluster, pool):
    """A PeerPodConfig with the operator's limit of 10 that both nodes advertise."""
    cluster.apply(peerpodconfig("ours", {"pool": "limit"}))
    advertise(cluster, dict.fromkeys(NODES, 10))
    yield "ours"
    cluster.kubectl("delete", "peerpodconfig", "--all", "-n", NAMESPACE)


@pytest.fixture
def set_limit(cluster, config, run_module):
    def run(limit, user="limit", check=False, diff=False, **options) -> dict:
        if "host" not in options:
            kubeconfig = cluster.user_kubeconfig(user, "system:masters")
            options["kubeconfig"] = str(kubeconfig)
        arguments = {"name": config, "namespace": NAMESPACE, "limit": limit, **options}
        return run_module("peerpod_limit", arguments, check=check, diff=diff)

    return run


def advertise(cluster, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        status = {
            "status": {"capacity": {RESOURCE: str(count)}, "allocatable": {RESOURCE: str(count)}}
        }
        cluster.kubectl(
            "patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status)
        )


@pytest.fixture
def three_pods(cluster, config):
    """Peer pods bound to limit-a, as the scheduler leaves them."""
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"peer-{number}", "namespace": NAMESPACE},
                "spec": {
                    "nodeName": "limit-a",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [
                        {"name": "c", "image": "i", "resources": {"limits": {RESOURCE: "1"}}}
                    ],
                },
            }
            for number in range(3)
        )
    )
    yield
    # Nobody is on the node to end them.
    cluster.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")


def spec_of(cluster, name: str = "ours") -> dict:
    return cluster.get("peerpodconfig", name, "-n", NAMESPACE)["spec"]


def test_reads_the_limit_and_writes_nothing(cluster, config, run_module):
    kubeconfig = str(cluster.user_kubeconfig("limit-reader", "system:masters"))
    result = run_module(
        "peerpod_limit", {"name": config, "namespace": NAMESPACE, "kubeconfig": kubeconfig}
    )
    assert (result["changed"], result["before"], result["after"]) == (False, 10, 10)
    assert result["advertised_nodes"] == len(NODES)
    assert {verb for verb, _path in requests_of(cluster, "limit-reader")} == {"list"}


def test_raises_the_limit_and_nothing_else(cluster, set_limit):
    before = spec_of(cluster)
    result = set_limit(20, user="limit-raise", diff=True)

    assert spec_of(cluster) == {**before, "limit": "20"}
    assert result["changed"]
    assert (result["before"], result["after"]) == (10, 20)
    assert result["nodes"] == [{"name": name, "allocatable": 10, "used": None} for name in NODES]
    assert result["advertised_nodes"] == 0
    assert result["diff"] == {
        "before": {"spec": {"limit": "10"}},
        "after": {"spec": {"limit": "20"}},
    }
    # Nothing that could fall below the limit: the pods are not listed.
    assert [verb for verb, _ in requests_of(cluster, "limit-raise")] == ["list", "list", "patch"]

    again = set_limit("20", user="limit-again")
    assert not again["changed"]
    assert (again["before"], again["after"]) == (20, 20)
    assert [verb for verb, _ in requests_of(cluster, "limit-again")] == ["list", "list"]


def test_check_mode_shows_and_writes_nothing(cluster, set_limit):
    before = cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)
    # Waiting would be in vain: nobody lowers what the nodes advertise.
    result = set_limit(3, user="limit-check", check=True, diff=True, wait=True, wait_timeout=5)
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    assert (result["before"], result["after"]) == (10, 3)
    assert result["diff"]["after"] == {"spec": {"limit": "3"}}
    assert cluster.get("peerpodconfig", "ours", "-n", NAMESPACE) == before
    assert {verb for verb, _ in requests_of(cluster, "limit-check")} == {"list"}


def test_waits_by_one_watch_until_every_node_advertises_the_limit(cluster, set_limit):
    with ThreadPoolExecutor() as background:
        run = background.submit(set_limit, 1500, user="limit-wait", wait=True, wait_timeout=60)
        wait_for("the new limit", lambda: spec_of(cluster)["limit"] == "1500", seconds=30)
        advertise(cluster, {"limit-a": 1500})
        assert not run.done()
        advertise(cluster, {"limit-b": 1500})
        result = run.result(timeout=30)
    assert not result.get("failed"), result["msg"]
    assert [node["allocatable"] for node in result["nodes"]] == [1500, 1500]
    assert result["advertised_nodes"] == 2
    assert [verb for verb, _ in requests_of(cluster, "limit-wait")] == [
        *("list", "list"),
        "patch",
        "watch",
    ]


def test_a_quantity_with_a_suffix_is_the_number_it_stands_for(cluster, set_limit):
    advertise(cluster, dict.fromkeys(NODES, 2000))
    shown = cluster.get("node", "limit-a")["status"]["allocatable"][RESOURCE]
    assert shown == "2k"
    assert set_limit(2000, wait=True, wait_timeout=20)["advertised_nodes"] == 2


def test_says_which_node_shows_what_when_the_limit_does_not_come_into_force(cluster, set_limit):
    advertise(cluster, {"limit-a": 12})
    result = set_limit(12, wait=True, wait_timeout=2)
    assert result["failed"]
    assert "After 2 s the limit of 12 is not in force" in result["msg"]
    assert "limit-b shows 10" in result["msg"]
    assert "limit-a" not in result["msg"]
    assert result["changed"]
    assert result["advertised_nodes"] == 1
    assert spec_of(cluster)["limit"] == "12"


def test_a_watch_that_cannot_be_held_is_replaced_by_a_few_lists(cluster, config, set_limit):
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    seen = []

    def intervene(method, path):
        if "watch=true" in path:
            seen.append(path)
            # By the next list one more node has arrived.
            advertise(cluster, {NODES[len(seen) - 1]: 30})
            return 200, json.dumps(gone).encode() + b"\n"
        return None

    kubeconfig = cluster.user_kubeconfig("limit-cut", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = set_limit(30, host=url, api_key="any", wait=True, wait_timeout=30)
    assert result["advertised_nodes"] == 2, result
    nodes_lists = [
        path
        for verb, path in requests_of(cluster, "limit-cut")
        if verb == "list" and "nodes" in path
    ]
    assert len(nodes_lists) == 1 + len(seen) == 3


def test_what_another_writer_sets_in_between_stays(cluster, config, set_limit):
    """The write is good only for what was read; the second attempt sees the other's change."""
    others = iter([{"instanceType": "m6i.large", "limit": "15"}])

    def intervene(method, path):
        other = next(others, None) if method == "PATCH" else None
        if other:
            cluster.kubectl(
                "patch", "peerpodconfig", config, "-n", NAMESPACE, "--type=merge", "-p",
                json.dumps({"spec": other}),
            )  # fmt: skip

    kubeconfig = cluster.user_kubeconfig("limit-conflict", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = set_limit(20, host=url, api_key="any")
    assert (result["before"], result["after"]) == (15, 20)
    assert spec_of(cluster)["limit"] == "20"
    assert spec_of(cluster)["instanceType"] == "m6i.large"


def test_lowering_below_what_runs_is_a_warning_and_refused_with_protect(
    cluster, set_limit, three_pods
):
    refused = set_limit(2, protect=True)
    assert refused["failed"]
    assert "below the peer pods that run now: 3 on limit-a. Nothing was changed" in refused["msg"]
    assert spec_of(cluster)["limit"] == "10"

    warned = set_limit(2, user="limit-lower")
    assert warned["changed"]
    assert spec_of(cluster)["limit"] == "2"
    assert any("3 on limit-a. They keep running" in warning for warning in warned["warnings"])
    assert {node["name"]: node["used"] for node in warned["nodes"]} == {"limit-a": 3, "limit-b": 0}
    pods = [path for verb, path in requests_of(cluster, "limit-lower") if "/pods?" in path]
    assert len(pods) == 1

    assert not set_limit(2, protect=True)["changed"], "what is so already is no lowering"


def test_another_config_for_the_same_node_is_refused_before_anything_is_written(
    cluster, config, set_limit
):
    cluster.kubectl("label", "node", "limit-b", "pool2=shared", "--overwrite")
    cluster.apply(peerpodconfig("other", {"pool2": "shared"}))
    result = set_limit(20)
    assert result["failed"]
    assert f"{NAMESPACE}/ours and {NAMESPACE}/other both select the node limit-b" in result["msg"]
    assert spec_of(cluster)["limit"] == "10"


@pytest.mark.parametrize("limit", [-1, "ten", "1.5", "1_000", "", "١٢", True])
def test_what_is_no_limit_is_refused_without_asking_the_cluster(run_module, limit):
    result = run_module("peerpod_limit", {"limit": limit, "host": "https://127.0.0.1:1"})
    assert result["failed"]
    assert result["msg"] == (
        f"limit must be a whole number of peer pod VMs per node, 0 or more; got {str(limit)!r}."
    )


def test_a_config_that_is_not_there_yet_points_to_the_operator(set_limit):
    result = set_limit(1, name="missing")
    assert result["failed"]
    assert f"no PeerPodConfig missing in namespace {NAMESPACE}" in result["msg"]
    assert "osc.peerpods.operator_install" in result["msg"]


def test_a_cluster_without_the_operator_points_to_it(cluster, run_module):
    def intervene(method, path):
        # What an API server says of a kind that it does not serve.
        return (404, b"404 page not found\n") if "peerpodconfigs" in path else None

    kubeconfig = cluster.user_kubeconfig("limit-bare", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = run_module("peerpod_limit", {"limit": 1, "host": url, "api_key": "any"})
    assert result["failed"]
    assert result["msg"].startswith("This cluster does not know PeerPodConfigs")
    assert "osc.peerpods.operator_install" in result["msg"]
