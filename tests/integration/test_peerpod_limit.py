from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.openshift import remove_pods
from tests.cluster.processes import wait_for
from tests.integration.apiserver import between, requests_of

NAMESPACE = "limit-test"
NODES = ("limit-a", "limit-b")
RESOURCE = "kata.peerpods.io/vm"


def peerpodconfig(name: str, selector: dict[str, str]) -> dict:
    """A PeerPodConfig as the operator creates it, with a limit."""
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
    """Two nodes without a kubelet that would change what they advertise."""
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
    cluster.delete("namespace", NAMESPACE, "--wait=false")
    cluster.delete("node", *NODES)


@pytest.fixture
def config(cluster, pool):
    """A PeerPodConfig with the operator's limit of 10 that both nodes advertise."""
    cluster.apply(peerpodconfig("ours", {"pool": "limit"}))
    advertise(cluster, dict.fromkeys(NODES, 10))
    yield "ours"
    cluster.delete("peerpodconfig", "--all", "-n", NAMESPACE)


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
        status = {"status": {"capacity": {RESOURCE: str(count)}, "allocatable": {RESOURCE: str(count)}}}
        cluster.merge(f"node/{name}", status, subresource="status")


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
                    "containers": [{"name": "c", "image": "i", "resources": {"limits": {RESOURCE: "1"}}}],
                },
            }
            for number in range(3)
        )
    )
    yield
    remove_pods(cluster, NAMESPACE)


def spec_of(cluster, name: str = "ours") -> dict:
    return cluster.get("peerpodconfig", name, "-n", NAMESPACE)["spec"]


def test_reads_the_limit_and_writes_nothing(cluster, config, run_module):
    kubeconfig = str(cluster.user_kubeconfig("limit-reader", "system:masters"))
    result = run_module("peerpod_limit", {"name": config, "namespace": NAMESPACE, "kubeconfig": kubeconfig})
    assert (result["changed"], result["before"], result["after"]) == (False, 10, 10)
    assert result["advertised_nodes"] == len(NODES)
    assert {verb for verb, _path in requests_of(cluster, "limit-reader")} == {"get", "list"}


def test_only_the_limit_is_changed(cluster, set_limit):
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
    # The limit does not fall below any node's usage, so pods are not listed.
    assert [verb for verb, _ in requests_of(cluster, "limit-raise")] == ["get", *["list"] * 4, "patch"]

    second_result = set_limit("20", user="limit-again")
    assert not second_result["changed"]
    assert (second_result["before"], second_result["after"]) == (20, 20)
    assert [verb for verb, _ in requests_of(cluster, "limit-again")] == ["get", *["list"] * 4]


def test_check_mode_shows_the_change_and_writes_nothing(cluster, set_limit):
    before = cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)
    # A wait would time out: no program lowers what the nodes advertise.
    result = set_limit(3, user="limit-check", check=True, diff=True, wait=True, wait_timeout=5)
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    assert (result["before"], result["after"]) == (10, 3)
    assert result["diff"]["after"] == {"spec": {"limit": "3"}}
    assert cluster.get("peerpodconfig", "ours", "-n", NAMESPACE) == before
    assert {verb for verb, _ in requests_of(cluster, "limit-check")} == {"get", "list"}


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
        *("get", "list", "list", "list", "get", "list"),
        "patch",
        "watch",
    ]


def test_a_quantity_with_a_suffix_is_read_as_a_number(cluster, set_limit):
    advertise(cluster, dict.fromkeys(NODES, 2000))
    allocatable = cluster.get("node", "limit-a")["status"]["allocatable"][RESOURCE]
    assert allocatable == "2k"
    assert set_limit(2000, wait=True, wait_timeout=20)["advertised_nodes"] == 2


def test_a_timeout_reports_what_each_lagging_node_advertises(cluster, set_limit):
    advertise(cluster, {"limit-a": 12})
    result = set_limit(12, wait=True, wait_timeout=2)
    assert result["failed"]
    assert "After 2 s the limit of 12 is not in force" in result["msg"]
    assert "limit-b advertises 10" in result["msg"]
    assert "limit-a" not in result["msg"]
    assert result["changed"]
    assert result["advertised_nodes"] == 1
    assert spec_of(cluster)["limit"] == "12"


def test_a_watch_that_keeps_breaking_is_replaced_by_a_few_lists(cluster, config, set_limit):
    expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    watches = []

    def intervene(method, path):
        if "watch=true" in path:
            watches.append(path)
            # By the next list, one more node advertises the limit.
            advertise(cluster, {NODES[len(watches) - 1]: 30})
            return 200, json.dumps(expired).encode() + b"\n"
        return None

    kubeconfig = cluster.user_kubeconfig("limit-cut", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = set_limit(30, host=url, api_key="any", wait=True, wait_timeout=30)
    assert result["advertised_nodes"] == 2, result
    nodes_lists = [path for verb, path in requests_of(cluster, "limit-cut") if verb == "list" and "nodes" in path]
    assert len(nodes_lists) == 1 + len(watches) == 3


def another_writes_before_the_first(cluster, method: str):
    """Write once between a run's read and its write by `method`."""
    other_specs = iter([{"instanceType": "m6i.large", "limit": "15"}])

    def intervene(request_method, path):
        other_spec = next(other_specs, None) if request_method == method else None
        if other_spec:
            cluster.merge("peerpodconfig/ours", {"spec": other_spec}, NAMESPACE)

    return intervene


def test_a_concurrent_change_stays(cluster, config, set_limit):
    """The write is valid only for the version that was read; the second attempt reads the other change."""
    kubeconfig = cluster.user_kubeconfig("limit-conflict", "system:masters")
    intervene = another_writes_before_the_first(cluster, "PATCH")
    with between(cluster, kubeconfig, intervene) as url:
        result = set_limit(20, host=url, api_key="any")
    assert (result["before"], result["after"]) == (15, 20)
    assert spec_of(cluster)["limit"] == "20"
    assert spec_of(cluster)["instanceType"] == "m6i.large"


def test_a_removal_returns_a_concurrent_change(cluster, config, set_limit):
    kubeconfig = cluster.user_kubeconfig("limit-remove-race", "system:masters")
    intervene = another_writes_before_the_first(cluster, "DELETE")
    with between(cluster, kubeconfig, intervene) as url:
        result = set_limit(None, state="absent", host=url, api_key="any")
    assert (result["changed"], result["before"], result["after"]) == (True, 15, None)


def test_a_limit_below_the_running_peer_pods_is_a_warning_and_rejected_with_protect(cluster, set_limit, three_pods):
    refused = set_limit(2, protect=True)
    assert refused["failed"]
    assert "below the peer pods that run now: 3 on limit-a. Nothing was changed" in refused["msg"]
    assert spec_of(cluster)["limit"] == "10"

    warned = set_limit(2, user="limit-lower")
    assert warned["changed"]
    assert spec_of(cluster)["limit"] == "2"
    assert any("3 on limit-a. These pods keep running" in warning for warning in warned["warnings"])
    assert {node["name"]: node["used"] for node in warned["nodes"]} == {"limit-a": 3, "limit-b": 0}
    pods = [path for verb, path in requests_of(cluster, "limit-lower") if "/pods?" in path]
    assert len(pods) == 1

    assert not set_limit(2, protect=True)["changed"], "an unchanged limit does not lower anything"


def test_a_second_config_for_a_node_is_rejected_before_any_write(cluster, config, set_limit):
    cluster.label("node", "limit-b", "pool2=shared")
    cluster.apply(peerpodconfig("other", {"pool2": "shared"}))
    result = set_limit(20)
    assert result["failed"]
    assert f"{NAMESPACE}/ours and {NAMESPACE}/other both select the node limit-b" in result["msg"]
    assert spec_of(cluster)["limit"] == "10"


@pytest.mark.parametrize("limit", [-1, "ten", "1.5", "1_000", "", "١٢", True])
def test_an_invalid_limit_is_rejected_without_a_request(run_module, limit):
    result = run_module("peerpod_limit", {"limit": limit, "host": "https://127.0.0.1:1"})
    assert result["failed"]
    assert result["msg"] == (f"limit must be a whole number of peer pod VMs per node, 0 or more; got {str(limit)!r}.")


def test_a_missing_config_is_reported_with_the_role_that_creates_it(set_limit):
    result = set_limit(1, name="missing")
    assert result["failed"]
    assert f"PeerPodConfig missing does not exist in namespace {NAMESPACE}" in result["msg"]
    assert "osc.peerpods.operator_install" in result["msg"]


def test_a_missing_operator_is_reported_with_the_role_that_installs_it(cluster, run_module):
    def intervene(method, path):
        # The response of an API server for a kind that it does not serve.
        return (404, b"404 page not found\n") if "peerpodconfigs" in path else None

    kubeconfig = cluster.user_kubeconfig("limit-bare", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = run_module("peerpod_limit", {"limit": 1, "host": url, "api_key": "any"})
    assert result["failed"]
    assert result["msg"].startswith("No operator for OpenShift sandboxed containers is installed")
    assert "osc.peerpods.operator_install" in result["msg"]


@pytest.fixture
def adaptor(cluster, config):
    """The only DaemonSet of cloud-api-adaptor in 1.7 and 1.8. The PeerPodConfig that was written last owns it."""
    owner = cluster.get("peerpodconfig", config, "-n", NAMESPACE)
    labels = {"name": "peerpodconfig-ctrl-caa-daemon"}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {
                "name": labels["name"],
                "namespace": NAMESPACE,
                "ownerReferences": [
                    {key: owner[key] for key in ("apiVersion", "kind")}
                    | {key: owner["metadata"][key] for key in ("name", "uid")}
                ],
            },
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "nodeSelector": {"pool": "limit"},
                        "containers": [{"name": "caa-pod", "image": "i"}],
                    },
                },
            },
        }
    )
    cluster.label("node", "limit-b", "pool=limit-own")
    yield
    cluster.label("node", "limit-b", "pool=limit")
    cluster.delete("daemonset", labels["name"], "-n", NAMESPACE, "--ignore-not-found")


@pytest.mark.usefixtures("three_pods", "adaptor")
def test_cloud_api_adaptor_is_not_removed_without_permission(cluster, set_limit):
    before = cluster.get("peerpodconfigs", "-n", NAMESPACE)["items"]
    own = {"name": "own", "node_selector": {"pool": "limit-own"}}
    for options in ({}, {"check": True}, {"disruption": "wait", "wait_timeout": 1}):
        result = set_limit(None, **own, **options)
        assert result["failed"]
        assert "cloud-api-adaptor only on the nodes of the PeerPodConfig that was written last" in result["msg"]
        assert "no peer pod can start on limit-a any more" in result["msg"]
        assert f"would be lost: {NAMESPACE}/peer-0, {NAMESPACE}/peer-1" in result["msg"]
        assert "ends in _disruption) to wait" in result["msg"]
    removal = set_limit(None, state="absent")
    assert removal["failed"]
    assert "owns the DaemonSet of cloud-api-adaptor, which is deleted with it" in removal["msg"]
    assert cluster.get("peerpodconfigs", "-n", NAMESPACE)["items"] == before
    # A change of its own limit does not move cloud-api-adaptor.
    assert set_limit(9, check=True)["changed"]
    allowed = set_limit(None, check=True, disruption="allow", **own)
    assert allowed["changed"]
    assert "These peer pods would be lost" in allowed["warnings"][0]


def test_a_config_of_a_pool_is_created_changed_and_removed(cluster, config, set_limit):
    """The config is created and changed as requested; its removal waits until its nodes advertise nothing."""
    cluster.label("node", "limit-b", "pool=limit-own")
    try:
        own = {"name": "own", "node_selector": {"pool": "limit-own"}}
        predicted = set_limit(None, check=True, diff=True, **own)
        assert (predicted["changed"], predicted["before"], predicted["after"]) == (True, None, 10)
        created_spec = {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "limit": "10",
            "nodeSelector": {"pool": "limit-own"},
        }
        assert predicted["diff"] == {"before": {}, "after": {"spec": created_spec}}
        assert "own" not in cluster.kubectl("get", "peerpodconfig", "-n", NAMESPACE, "-o", "name")

        result = set_limit(None, user="limit-create", wait=True, wait_timeout=30, **own)
        assert result["changed"]
        assert [node["name"] for node in result["nodes"]] == ["limit-b"]
        assert spec_of(cluster, "own") == created_spec
        verbs = [verb for verb, _path in requests_of(cluster, "limit-create")]
        assert verbs == ["get", *["list"] * 3, "get", "list", "list", "create"]
        assert not set_limit(None, **own)["changed"]

        fields = {"instance_type": "r6i.large", "config_map_name": "other-cm"}
        changed = set_limit(None, user="limit-fields", diff=True, name="own", **fields)
        assert spec_of(cluster, "own") == {
            **created_spec,
            "instanceType": "r6i.large",
            "configMapName": "other-cm",
        }
        assert changed["diff"]["before"]["spec"] == {
            "limit": "10",
            "instanceType": None,
            "configMapName": "peer-pods-cm",
        }
        assert "/pods?" not in str(requests_of(cluster, "limit-fields"))

        removal = {"name": "own", "state": "absent"}
        before = spec_of(cluster, "own")
        assert set_limit(None, check=True, **removal)["changed"]
        assert spec_of(cluster, "own") == before
        timed_out = set_limit(None, wait=True, wait_timeout=1, **removal)
        assert timed_out["failed"]
        assert "still advertise peer pods: limit-b advertises 10." in timed_out["msg"]
        assert (timed_out["changed"], timed_out["before"], timed_out["after"]) == (True, 10, None)
        assert timed_out["advertised_nodes"] == 1
        assert not set_limit(None, **removal)["changed"]
    finally:
        cluster.label("node", "limit-b", "pool=limit")


def test_a_removal_waits_for_nodes_that_no_other_config_selects(cluster, set_limit, three_pods):
    refused = set_limit(None, state="absent", protect=True)
    assert refused["failed"]
    assert "any more: 3 on limit-a. Nothing was changed" in refused["msg"]
    assert spec_of(cluster)["limit"] == "10"

    # Another config selects limit-b, so the wait ignores what it advertises.
    cluster.label("node", "limit-b", "other=home")
    cluster.apply(peerpodconfig("other", {"other": "home"}))
    with ThreadPoolExecutor() as background:
        run = background.submit(set_limit, None, user="limit-remove", state="absent", wait=True, wait_timeout=60)
        wait_for(
            "the removal",
            lambda: "ours" not in cluster.kubectl("get", "peerpodconfig", "-n", NAMESPACE, "-o", "name"),
            seconds=30,
        )
        assert not run.done()
        advertise(cluster, {"limit-a": 0})
        result = run.result(timeout=30)
    cluster.label("node", "limit-b", "other-")
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    assert any("any more: 3 on limit-a. These pods keep" in warning for warning in result["warnings"])
    assert result["advertised_nodes"] == 0
    verbs = [verb for verb, _path in requests_of(cluster, "limit-remove")]
    assert verbs == ["get", *["list"] * 5, "delete", "watch"]


def test_a_moved_config_releases_its_former_nodes(cluster, set_limit):
    cluster.label("node", "limit-b", "moved=here")
    result = set_limit(None, diff=True, node_selector={"moved": "here"}, wait=True, wait_timeout=1)
    cluster.label("node", "limit-b", "moved-")
    assert spec_of(cluster)["nodeSelector"] == {"moved": "here"}
    assert result["diff"]["before"]["spec"]["nodeSelector"] == {"pool": "limit"}
    assert result["failed"]
    assert "still advertise peer pods: limit-a advertises 10." in result["msg"]


def test_overlapping_selectors_are_rejected_before_nodes_exist(cluster, set_limit):
    selector = {"pool": "limit", "size": "huge"}
    result = set_limit(5, name="huge", node_selector=selector)
    assert result["failed"]
    assert (
        f"{NAMESPACE}/huge and {NAMESPACE}/ours overlap: every node that matches "
        "'pool=limit,size=huge' matches 'pool=limit'" in result["msg"]
    )
    assert "huge" not in cluster.kubectl("get", "peerpodconfig", "-n", NAMESPACE, "-o", "name")


@pytest.mark.parametrize("name", ["ours", "raced"])
def test_two_concurrent_runs_both_succeed(cluster, config, set_limit, name):
    """Both runs read before either writes: one write succeeds, and the other run reads again."""
    barrier = threading.Barrier(2)
    writes = []

    def intervene(method, path):
        if method in ("PATCH", "POST"):
            writes.append(method)
            if len(writes) <= 2:
                barrier.wait(timeout=30)

    selector = {} if name == "ours" else {"node_selector": {"pool": "limit-raced"}}
    kubeconfig = cluster.user_kubeconfig("limit-race", "system:masters")
    with between(cluster, kubeconfig, intervene) as url, ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(set_limit, number, name=name, host=url, api_key="not-a-secret", **selector)
            for number in (20, 30)
        ]
        results = [run.result(timeout=60) for run in runs]
    assert not any(result.get("failed") for result in results), results
    assert len(writes) == 3
    last = max(results, key=lambda result: {None: 0}.get(result["before"], result["before"]))
    first = next(result for result in results if result is not last)
    assert first["before"] == (10 if name == "ours" else None)
    assert last["before"] == first["after"]
    assert spec_of(cluster, name)["limit"] == str(last["after"])
    assert {result["after"] for result in results} == {20, 30}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_selector": {}}, "node_selector is empty"),
        ({"node_selector": {"pool": None}}, 'put it in quotes ("" for a label without a value)'),
        ({"cloud_secret_name": ""}, "cloud_secret_name must be a Kubernetes name"),
    ],
)
def test_invalid_fields_are_rejected_without_a_request(run_module, options, message):
    result = run_module("peerpod_limit", {**options, "host": "https://127.0.0.1:1"})
    assert result["failed"]
    assert message in result["msg"]


def test_the_removal_of_a_missing_config_changes_nothing(cluster, run_module):
    def intervene(method, path):
        return (404, b"404 page not found\n") if "peerpodconfigs" in path else None

    kubeconfig = cluster.user_kubeconfig("limit-nothing", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = run_module(
            "peerpod_limit",
            {"state": "absent", "wait": True, "host": url, "api_key": "not-a-secret"},
        )
    assert not result.get("failed"), result["msg"]
    assert (result["changed"], result["nodes"]) == (False, [])
