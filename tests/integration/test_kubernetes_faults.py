"""A module's run when the API server, or the connection to it, fails.

A proxy produces each fault on the wire; the tests check the objects in the cluster
afterwards and the result of the module.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from tests.cluster.openshift import set_status
from tests.integration.apiserver import Break, between, requests_of

NAMESPACE = "faults-test"
NODES = ("faults-a", "faults-b")
RESOURCE = "kata.peerpods.io/vm"
CONFIG = f"/namespaces/{NAMESPACE}/peerpodconfigs"


def status(code: int, message: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """A Status of an API server for a failure."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return code, json.dumps({**body, "code": code}).encode(), headers


THROTTLED = status(429, "too many requests, please try again later", **{"Retry-After": "1"})
BROKEN = status(500, "etcdserver: leader changed")
EXPIRED_EVENT = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410}}).encode() + b"\n"
AWAY = status(503, "apiserver is shutting down")


@pytest.fixture(scope="module")
def pool(cluster):
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"pool": "faults"}},
            }
            for name in NODES
        ),
    )
    advertise(cluster, 10)
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("delete", "node", *NODES)


@pytest.fixture
def config(cluster, pool):
    cluster.apply(
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPodConfig",
            "metadata": {"name": "ours", "namespace": NAMESPACE},
            "spec": {
                "cloudSecretName": "peer-pods-secret",
                "configMapName": "peer-pods-cm",
                "limit": "10",
                "nodeSelector": {"pool": "faults"},
            },
        }
    )
    yield
    cluster.kubectl("delete", "peerpodconfig", "--all", "-n", NAMESPACE)


@pytest.fixture
def run_with_faults(cluster, config, run_module, request):
    """Run peerpod_limit as a user of this test through a proxy that calls `intervene`."""

    def run(intervene, module="peerpod_limit", **arguments) -> dict:
        kubeconfig = cluster.user_kubeconfig(user_of(request), "system:masters")
        if module == "peerpod_limit":
            arguments = {"name": "ours", "namespace": NAMESPACE, **arguments}
        with between(cluster, kubeconfig, intervene) as url:
            return run_module(module, {"host": url, "api_key": "not-a-secret", **arguments})

    return run


@pytest.fixture
def count_requests(cluster, request):
    """The requests of the run that reached the API server, counted by verb."""
    return lambda: Counter(verb for verb, _path in requests_of(cluster, user_of(request)))


def user_of(request) -> str:
    # A certificate has room for 64 characters.
    return f"faults-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}"


def fault_each(**faults):
    """One fault after the other for the requests of each kind: `configs`, `nodes`, `patch`, `post`…"""
    remaining = {kind: iter(answers) for kind, answers in faults.items()}

    def intervene(method, path):
        kind = method.lower()
        if method == "GET":
            kind = "configs" if "/peerpodconfigs" in path else path.split("?")[0].split("/")[-1]
        return next(remaining.get(kind, iter(())), None)

    return intervene


def advertise(cluster, count: int) -> None:
    amounts = {"capacity": {RESOURCE: str(count)}, "allocatable": {RESOURCE: str(count)}}
    for name in NODES:
        set_status(cluster, f"node/{name}", amounts)


def limit(cluster) -> str:
    return cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)["spec"]["limit"]


@pytest.mark.parametrize(
    "faults",
    [
        {
            "configs": [THROTTLED, BROKEN, Break.BEFORE],
            "nodes": [AWAY, Break.AMID],
            "patch": [THROTTLED, AWAY, Break.BEFORE],
        },
        {"patch": [Break.AFTER]},
        {"patch": [Break.AMID]},
    ],
    ids=["no-response", "lost-response", "truncated-response"],
)
def test_transient_faults_are_survived_and_written_once(cluster, run_with_faults, count_requests, faults):
    generation = cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)["metadata"]["generation"]
    result = run_with_faults(fault_each(**faults), limit=20)
    assert not result.get("failed"), result["msg"]
    assert (result["changed"], result["before"], result["after"]) == (True, 10, 20)
    assert count_requests()["patch"] == 1
    after = cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)
    assert after["spec"]["limit"] == "20"
    assert after["metadata"]["generation"] == generation + 1


def test_a_creation_and_a_deletion_are_recognised_after_a_lost_response(cluster, run_with_faults, count_requests):
    fields = {"name": "new", "node_selector": {"pool": "faults-new"}, "limit": 3}
    creation = run_with_faults(fault_each(post=[Break.AFTER]), **fields)
    assert not creation.get("failed"), creation["msg"]
    assert creation["changed"]
    assert cluster.get("peerpodconfig", "new", "-n", NAMESPACE)["spec"]["limit"] == "3"
    removal = run_with_faults(fault_each(delete=[Break.AFTER]), name="new", state="absent")
    assert not removal.get("failed"), removal["msg"]
    assert removal["changed"]
    assert (count_requests()["create"], count_requests()["delete"]) == (1, 1)
    assert "new" not in cluster.kubectl("get", "peerpodconfig", "-n", NAMESPACE, "-o", "name")


def test_an_object_is_replaced_once_after_a_lost_response(cluster, run_with_faults, count_requests):
    name = "faults-test"
    cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name, "annotations": {"of": "others"}},
        }
    )
    try:
        result = run_with_faults(
            fault_each(put=[Break.AFTER]),
            module="mutating_webhook",
            name=name,
            url="https://example.com/",
        )
        assert not result.get("failed"), result["msg"]
        assert result["changed"]
        assert count_requests()["update"] == 1
        stored = cluster.get("mutatingwebhookconfiguration", name)
        assert stored["webhooks"] == [result["webhook"]]
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", name)


def test_a_lost_write_does_not_overwrite_a_concurrent_change(cluster, run_with_faults):
    pending = ["another"]

    def intervene(method, path):
        if method == "PATCH" and pending:
            pending.clear()
            cluster.merge("peerpodconfig/ours", {"spec": {"limit": "15", "instanceType": "m6i.large"}}, NAMESPACE)
            return Break.BEFORE
        return None

    result = run_with_faults(intervene, limit=20)
    assert (result["changed"], result["before"], result["after"]) == (True, 15, 20)
    spec = cluster.get("peerpodconfig", "ours", "-n", NAMESPACE)["spec"]
    assert (spec["limit"], spec["instanceType"]) == ("20", "m6i.large")


@pytest.mark.parametrize(
    ("method", "answer", "tries", "message"),
    [
        ("GET", BROKEN, 5, "GET .*peerpodconfigs was rejected .* 500 .*: etcdserver: leader changed"),
        ("PATCH", status(500, "failed calling webhook"), 1, "PATCH .* 500 .*: failed calling webh"),
        ("PATCH", status(409, "the object has been modified"), 6, "409 .*: the object has been m"),
        ("PATCH", status(401, "Unauthorized"), 1, "401 .*: Unauthorized. The credentials are invalid"),
        (
            "PATCH",
            status(429, "slow down", **{"Retry-After": "3600"}),
            1,
            "429 .*: slow down. It requests a retry after 3600 s. Try again then",
        ),
        (
            "GET",
            (200, b"<html>Log in here</html>"),
            1,
            "is not that of a Kubernetes API server: <html>Log in here</html>",
        ),
    ],
    ids=["broken", "refused", "conflict", "expired", "long-throttle", "no-api-server"],
)
def test_permanent_faults_are_reported_and_change_nothing(cluster, run_with_faults, method, answer, tries, message):
    tried_paths = []

    def intervene(request_method, path):
        if request_method == method and "/peerpodconfigs" in path:
            # A read of the outcome of a write does not count as a try.
            tried_paths.append(path)
            return answer
        return None

    result = run_with_faults(intervene, limit=20)
    assert result["failed"]
    assert len(tried_paths) == tries
    assert re.search(message, result["msg"]), result["msg"]
    assert limit(cluster) == "10"


def test_credentials_that_expire_during_the_wait_leave_the_change_reported(cluster, run_with_faults):
    def intervene(method, path):
        return status(401, "Unauthorized") if "watch=true" in path else None

    result = run_with_faults(intervene, limit=20, wait=True, wait_timeout=60)
    assert result["failed"]
    assert "The credentials are invalid or have expired. Log in again." in result["msg"]
    assert (result["changed"], result["before"], result["after"]) == (True, 10, 20)
    assert limit(cluster) == "20"


def test_the_wait_survives_a_longer_outage_of_the_api_server(cluster, run_with_faults):
    waiting, refused = [], []

    def intervene(method, path):
        if "/nodes" not in path or not waiting:
            waiting.extend([method] * (method == "PATCH"))
            return None
        # More attempts than for a single request.
        if len(refused) < 7:
            refused.append(path)
            return Break.BEFORE
        advertise(cluster, 30)
        # The proxy would pass on the response to a watch only after the watch has ended.
        return (200, EXPIRED_EVENT) if "watch=true" in path else None

    result = run_with_faults(intervene, limit=30, wait=True, wait_timeout=60)
    assert not result.get("failed"), result["msg"]
    assert result["advertised_nodes"] == len(NODES)


def test_a_list_with_an_expired_continue_token_is_restarted(cluster, run_with_faults):
    """The API server drops the continue token of a list; no item is missed or counted twice."""
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"peer-{number}", "namespace": NAMESPACE},
                "spec": {
                    "nodeName": "faults-a",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "c", "image": "i", "resources": {"limits": {RESOURCE: "1"}}}],
                },
            }
            for number in range(3)
        )
    )
    cut = set()

    def intervene(method, path):
        kind = path.partition("?")[0]
        if "continue=" in path:
            return status(410, "The provided continue parameter is too old")
        if "limit=500" in path and kind not in cut:
            cut.add(kind)
            # A page with one item, as the API server returns it.
            return 200, cluster.kubectl("get", "--raw", path.replace("limit=500", "limit=1")).encode()
        return None

    info = run_with_faults(intervene, module="peerpod_info")
    assert not info.get("failed"), info["msg"]
    rows = {row["name"]: row["used"] for row in info["nodes"] if row["name"] in NODES}
    assert rows == {"faults-a": 3, "faults-b": 0}
    # PeerPodConfigs, ClusterServiceVersions, DaemonSets, nodes and pods.
    assert len(cut) == 5
    cut.clear()
    lowered = run_with_faults(intervene, limit=2)
    assert {node["name"]: node["used"] for node in lowered["nodes"]} == rows
    cluster.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")


def test_a_list_that_never_ends_is_given_up(cluster, run_with_faults):
    def intervene(method, path):
        if "continue=" in path:
            return status(410, "The provided continue parameter is too old")
        if "/nodes?" in path:
            return 200, cluster.kubectl("get", "--raw", path.replace("limit=500", "limit=1")).encode()
        return None

    result = run_with_faults(intervene, limit=20)
    assert result["failed"]
    assert "410 Gone: The provided continue parameter is too old" in result["msg"]
    assert limit(cluster) == "10"
