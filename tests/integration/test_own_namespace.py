"""own_namespace on a real API server: it removes a namespace of the collection, and nothing of another owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.integration.apiserver import between

NAMESPACE = "own-namespace-test"
OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}
CONTAINER = {"containers": [{"name": "app", "image": "app"}]}


def an(api_version: str, kind: str, name: str = "mine", **content: object) -> dict:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **content}


# One object of each way to be served: the core group, other groups, workloads with dependents, custom resources.
OF_USERS = [
    an("v1", "ConfigMap", data={"key": "value"}),
    an("v1", "Secret", stringData={"key": "value"}),
    an("v1", "Service", spec={"ports": [{"port": 80}]}),
    an("v1", "Pod", spec=CONTAINER),
    an(
        "v1",
        "PersistentVolumeClaim",
        spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    ),
    an(
        "apps/v1",
        "Deployment",
        spec={
            "replicas": 1,
            "selector": {"matchLabels": {"app": "mine"}},
            "template": {"metadata": {"labels": {"app": "mine"}}, "spec": CONTAINER},
        },
    ),
    an("networking.k8s.io/v1", "NetworkPolicy", spec={"podSelector": {}}),
    an("confidentialcontainers.org/v1alpha1", "PeerPodConfig", spec={"limit": "3"}),
    an("operators.coreos.com/v1", "OperatorGroup"),
]


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace of the collection with an object of the collection and what the cluster creates in it."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": OURS}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ours", "namespace": NAMESPACE, "labels": OURS},
        },
    )
    yield cluster
    cluster.delete("namespace", NAMESPACE, "--ignore-not-found")


@pytest.fixture
def remove(cluster: Cluster, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(*, check: bool = False, **options: object) -> dict:
        arguments = {"kubeconfig": str(cluster.kubeconfig), "name": NAMESPACE, **options}
        return run_module("own_namespace", arguments, check=check, diff=True)

    return run


def exists(cluster: Cluster) -> bool:
    return NAMESPACE in [entry["metadata"]["name"] for entry in cluster.get("namespaces")["items"]]


def test_a_namespace_with_own_objects_is_removed(namespace: Cluster, remove: Callable[..., dict]):
    planned = remove(check=True)
    assert exists(namespace)
    assert planned["diff"] == {"before": {"namespace": NAMESPACE, "objects": ["ConfigMap/ours"]}, "after": {}}
    removed = remove()
    assert not exists(namespace)
    assert (removed["changed"], removed["own"]) == (planned["changed"], planned["own"]) == (True, ["ConfigMap/ours"])
    assert remove() == {**removed, "changed": False, "own": [], "diff": {"before": {}, "after": {}}}


def test_the_objects_of_users_keep_the_namespace(namespace: Cluster, remove: Callable[..., dict]):
    """Each of them alone, and the objects are not changed."""
    expected = sorted(f"{entry['kind']}/mine" for entry in OF_USERS)
    namespace.apply(*OF_USERS)
    uids = {
        entry["kind"]: namespace.get(entry["kind"].lower(), "mine", "-n", NAMESPACE)["metadata"]["uid"]
        for entry in OF_USERS
    }
    planned, done = remove(check=True, of_operator=True), remove(of_operator=True)
    assert planned == done
    assert (done["changed"], done["stays"], done["others"], done["own"]) == (False, True, expected, [])
    assert f"Namespace {NAMESPACE} stays: it contains ConfigMap/mine, Deployment/mine, " in done["reason"]
    assert f"oc delete namespace {NAMESPACE}" in done["reason"]
    for kind, uid in uids.items():
        metadata = namespace.get(kind.lower(), "mine", "-n", NAMESPACE)["metadata"]
        assert (metadata["uid"], metadata.get("deletionTimestamp")) == (uid, None)


def test_a_config_map_that_is_created_during_the_read_keeps_the_namespace(
    namespace: Cluster, run_module: Callable[..., dict]
):
    """The core group is read last, directly before the deletion."""

    def create(_method: str, path: str) -> None:
        if path.startswith(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"):
            namespace.apply(an("v1", "ConfigMap"))

    with between(namespace, namespace.kubeconfig, create) as url:
        result = run_module("own_namespace", {"host": url, "api_key": "not-a-secret", "name": NAMESPACE})
    assert (result["changed"], result["others"]) == (False, ["ConfigMap/mine"])


def test_a_namespace_without_the_label_stays(namespace: Cluster, remove: Callable[..., dict]):
    namespace.label("namespace", NAMESPACE, "app.kubernetes.io/part-of-")
    result = remove()
    assert (result["changed"], result["stays"], exists(namespace)) == (False, True, True)
    assert "stays: it does not have the label app.kubernetes.io/part-of=osc.peerpods" in result["reason"]


def test_a_kind_that_cannot_be_listed_keeps_the_namespace(namespace: Cluster, remove: Callable[..., dict]):
    """A user who may delete namespaces and list some kinds only."""
    rules = (
        ("get,delete", "namespaces"),
        ("list", "configmaps,serviceaccounts,events"),
    )
    for number, (verbs, resources) in enumerate(rules):
        name = f"own-namespace-{number}"
        namespace.kubectl("create", "clusterrole", name, f"--verb={verbs}", f"--resource={resources}")
        namespace.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", "--user=remover")
    try:
        result = remove(kubeconfig=str(namespace.user_kubeconfig("remover")))
    finally:
        for number, _rule in enumerate(rules):
            namespace.delete("clusterrole,clusterrolebinding", f"own-namespace-{number}")
    assert (result["changed"], result["stays"], exists(namespace)) == (False, True, True)
    assert "its content could not be read completely: GET " in result["reason"]
    assert "secrets is forbidden" in result["reason"]


def test_a_namespace_that_is_not_removed_in_time_fails_with_the_reason(namespace: Cluster, remove: Callable[..., dict]):
    namespace.kubectl("patch", "configmap", "ours", "-n", NAMESPACE, "-p", '{"metadata": {"finalizers": ["a.b/c"]}}')
    namespace.delete("namespace", NAMESPACE, "--wait=false")

    def has_conditions() -> bool:
        return bool(namespace.get("namespace", NAMESPACE)["status"].get("conditions"))

    wait_for("the namespace controller", has_conditions, seconds=60)
    try:
        failed = remove(wait_timeout=0)
    finally:
        namespace.kubectl("patch", "configmap", "ours", "-n", NAMESPACE, "-p", '{"metadata": {"finalizers": null}}')
    assert failed["failed"]
    assert (
        f"Namespace {NAMESPACE} is deleted, but still exists after 0 s: Some resources are remaining" in failed["msg"]
    )
