"""k8s on a real API server: it writes and deletes the objects of the collection, and none of another owner."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.launcher import Cluster
from tests.integration.apiserver import between, requests_of
from tests.playbook_runs import run_playbook
from tests.support import ansible_environment, local_play

NAMESPACE = "k8s-test"
OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}
MARK = "app.kubernetes.io/part-of=osc.peerpods"
APPLY = {"apply": True, "server_side_apply": {"field_manager": "osc.peerpods", "force_conflicts": True}}
USER = "k8s-test"


def config_map(name: str, value: str, labels: dict | None = OURS) -> dict:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": value}}


OTHERS = config_map("others", "theirs", labels=None)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[None]:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield
    cluster.delete("namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def others(cluster: Cluster, namespace: None) -> Iterator[None]:
    cluster.apply(OTHERS)
    yield
    cluster.delete("configmaps", "-n", NAMESPACE, "--all")


@pytest.fixture
def k8s(cluster: Cluster, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(*, check: bool = False, **arguments: object) -> dict:
        kubeconfig = str(cluster.user_kubeconfig(USER, "system:masters"))
        return run_module("k8s", {"kubeconfig": kubeconfig, **arguments}, check=check, diff=True)

    return run


def values(cluster: Cluster) -> dict[str, str]:
    items = cluster.get("configmaps", "-n", NAMESPACE)["items"]
    return {item["metadata"]["name"]: item["data"]["key"] for item in items if "key" in item["data"]}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("options", [APPLY, {"apply": True}, {"force": True}, {}], ids=str)
@pytest.mark.parametrize("check", [True, False])
def test_nothing_is_written_if_one_object_is_that_of_another_owner(cluster, k8s, options, check):
    definitions = [config_map("ours", "a"), config_map("others", "a")]
    result = k8s(definition=definitions, check=check, **options, alternative="Set another name.")
    assert result["failed"]
    assert not result.get("changed")
    assert result["msg"].startswith(f"ConfigMap others in {NAMESPACE} (written by kubectl")
    assert "This task changed nothing. Set another name. Or delete" in result["msg"]
    assert values(cluster) == {"others": "theirs"}


@pytest.mark.usefixtures("others")
def test_objects_of_the_collection_and_definitions_without_its_label_are_written(cluster, k8s):
    definitions = [config_map("ours", "a"), config_map("others", "a", labels={"team": "a"})]
    first = k8s(definition=definitions, **APPLY)
    assert (first["changed"], values(cluster)) == (True, {"ours": "a", "others": "a"})
    assert [diff["after_header"] for diff in first["diff"]] == ["ConfigMap ours", "ConfigMap others"]
    before = len(requests_of(cluster, USER))
    assert not k8s(definition=definitions, **APPLY)["changed"]
    objects = [verb for verb, path in requests_of(cluster, USER)[before:] if "/configmaps/" in path]
    assert objects == ["get", "get", "patch", "patch"]
    taken = k8s(definition=config_map("others", "b"), take_over=True)
    assert (taken["changed"], values(cluster)["others"]) == (True, "b")
    assert not k8s(definition=config_map("others", "b"), **APPLY).get("failed")


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [{"name": "others"}, {"label_selectors": ["team=a"]}, {"delete_all": True}, {"definition": [OTHERS]}],
    ids=str,
)
def test_no_object_of_another_owner_is_deleted(cluster, k8s, arguments, check):
    cluster.label("configmap", "others", "-n", NAMESPACE, "team=a")
    cluster.apply(config_map("ours", "a", labels={**OURS, "team": "a"}))
    result = k8s(kind="ConfigMap", namespace=NAMESPACE, state="absent", check=check, **arguments)
    assert result["failed"]
    assert "another owner created" in result["msg"]
    assert "This task deleted nothing." in result["msg"]
    assert values(cluster) == {"ours": "a", "others": "theirs"}


@pytest.mark.usefixtures("others")
def test_objects_of_the_collection_and_those_that_are_named_by_uid_are_deleted(cluster, k8s):
    cluster.apply(config_map("ours", "a"))
    uid = cluster.get("configmap", "others", "-n", NAMESPACE)["metadata"]["uid"]
    deletion = {"kind": "ConfigMap", "namespace": NAMESPACE, "state": "absent"}
    assert k8s(name="ours", **deletion)["changed"]
    assert k8s(name="others", delete_options={"preconditions": {"uid": uid}}, **deletion)["changed"]
    assert values(cluster) == {}
    assert not k8s(name="others", **deletion)["changed"]


def test_what_was_deleted_before_a_failure_is_returned(cluster, namespace, run_module):
    """Of several objects that one definition selects."""
    cluster.apply(config_map("a", "1"), config_map("b", "2"))
    user, in_namespace = "deletes-a", ("-n", NAMESPACE)
    cluster.kubectl("create", "role", "lists", "--verb=list", "--resource=configmaps", *in_namespace)
    deletes = ("--verb=delete", "--resource=configmaps", "--resource-name=a")
    cluster.kubectl("create", "role", "deletes", *deletes, *in_namespace)
    for role in ("lists", "deletes"):
        cluster.kubectl("create", "rolebinding", role, f"--role={role}", f"--user={user}", *in_namespace)
    selected = {"kind": "ConfigMap", "namespace": NAMESPACE, "label_selectors": [MARK]}
    result = run_module("k8s", {"kubeconfig": str(cluster.user_kubeconfig(user)), "state": "absent", **selected})
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"].endswith("Changed before: ConfigMap a.")
    assert values(cluster) == {"b": "2"}
    cluster.delete("configmaps", "--all", *in_namespace)


def test_a_certificate_of_another_owner_is_not_used_or_replaced(cluster, namespace, tmp_path):
    """The tasks that store certificates hide their output. A webhook that exists cannot be moved elsewhere."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "peerpods-webhook-own-tls", "namespace": NAMESPACE},
        "stringData": {"tls.key": "theirs"},
    }
    cluster.apply(secret)
    role = {"ansible.builtin.include_role": {"name": "osc.peerpods.webhook", "tasks_from": "certificate"}}
    playbook = tmp_path / "play.yml"
    existing = {"name": NAMESPACE, "found": [NAMESPACE]}
    playbook.write_text(json.dumps(local_play({"webhook_cluster": {"namespace": existing}}, tasks=[role])))
    environment = ansible_environment({"K8S_AUTH_KUBECONFIG": str(cluster.kubeconfig)})
    completed = run_playbook(["ansible-playbook", str(playbook)], environment)
    assert completed.returncode == 2
    output = " ".join(completed.stdout.split())
    assert f"Secret peerpods-webhook-own-tls in {NAMESPACE} already exists without the label" in output
    assert "No certificate was issued. Delete or rename the Secret." in output
    assert [each["metadata"]["name"] for each in cluster.get("secrets", "-n", NAMESPACE)["items"]] == [
        "peerpods-webhook-own-tls"
    ]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("options", [APPLY, {"force": True}, {}], ids=str)
@pytest.mark.parametrize("existed", [True, False])
def test_an_object_that_another_client_creates_after_the_read_is_not_replaced(
    cluster, run_module, tmp_path, options, existed
):
    if existed:
        cluster.apply(config_map("raced", "a"))
    raced = []

    def intervene(method: str, _path: str) -> None:
        if method == "GET" or raced:
            return
        raced.append(method)
        cluster.delete("configmap", "raced", "-n", NAMESPACE, "--ignore-not-found")
        cluster.apply(config_map("raced", "theirs", labels=None))

    kubeconfig = cluster.user_kubeconfig(USER, "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        # kubernetes.core caches discovery there by host.
        environment = {"TMPDIR": str(tmp_path)}
        arguments = {"host": url, "api_key": "any", "definition": config_map("raced", "b"), **options}
        result = run_module("k8s", arguments, env=environment)
    assert raced
    assert result["failed"], result
    assert values(cluster)["raced"] == "theirs"
