"""mutation_info on the real API server: whether peer pods are mutated, and what rejects them if a namespace is closed.

The tests depend on their order: no RuntimeClass, no mutation, a mutation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.namespaces import namespace_policies

from tests.cluster.launcher import Cluster
from tests.cluster.processes import free_ports, wait_for

# A RuntimeClass of this file, so that other tests do not meet its policies.
RUNTIME_CLASS = "kata-mutation-info"
OPEN = "mutation-info"
IS_PEER_POD = f'has(object.spec.runtimeClassName) && object.spec.runtimeClassName == "{RUNTIME_CLASS}"'
API = "admissionregistration.k8s.io/v1"
POD_RULES = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]

Info = Callable[..., dict]


@pytest.fixture(scope="module")
def _namespace(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("create", "namespace", OPEN)
    yield
    cluster.delete("runtimeclass", RUNTIME_CLASS, "--ignore-not-found")
    cluster.delete("namespace", "--wait=false", OPEN)


@pytest.fixture
def info(cluster: Cluster, _namespace: None, run_module: Callable[..., dict]) -> Info:
    def gather(**options: str) -> dict:
        result = run_module(
            "mutation_info", {"kubeconfig": str(cluster.kubeconfig), "runtime_class": RUNTIME_CLASS, **options}
        )
        assert not result.get("failed"), result
        assert not result["changed"]
        return result

    return gather


@pytest.fixture
def policy(cluster: Cluster, run_module: Callable[..., dict]) -> Iterator[Callable[..., dict]]:
    """The mutating policy for this RuntimeClass."""
    options = {"kubeconfig": str(cluster.kubeconfig), "name": "peerpods-mutating-policy"}

    def apply(**more: object) -> dict:
        return run_module(
            "mutating_policy",
            {**options, "target_runtime_classes": [RUNTIME_CLASS], "verify": True, "wait_timeout": 30, **more},
        )

    assert apply()["verified"] is True
    yield apply
    run_module("mutating_policy", {**options, "state": "absent"})


def quota() -> list[dict]:
    return [
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "no-pods", "namespace": "default"},
            "spec": {"hard": {"pods": "0"}},
        }
    ]


def validating_policy(*conditions: str) -> list[dict]:
    expression = " && ".join([IS_PEER_POD, *conditions])
    return [
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "closed-by-site"},
            "spec": {
                "matchConstraints": {"resourceRules": POD_RULES},
                "matchConditions": [{"name": "closed", "expression": expression}],
                "validations": [{"expression": "false", "message": "closed by the site"}],
            },
        },
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "closed-by-site"},
            "spec": {"policyName": "closed-by-site", "validationActions": ["Deny"]},
        },
    ]


def webhook(kind: str, name: str, *conditions: str) -> list[dict]:
    """A webhook that does not answer."""
    (port,) = free_ports(1)
    return [
        {
            "apiVersion": API,
            "kind": f"{kind}WebhookConfiguration",
            "metadata": {"name": "closed-by-site"},
            "webhooks": [
                {
                    "name": name,
                    "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
                    "rules": POD_RULES,
                    "matchConditions": [{"name": "closed", "expression": " && ".join([IS_PEER_POD, *conditions])}],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }
            ],
        }
    ]


IN_DEFAULT = 'request.namespace == "default"'
CLOSERS = {
    "quota": (quota(), "exceeded quota: no-pods"),
    "policy": (validating_policy(IN_DEFAULT), "ValidatingAdmissionPolicy 'closed-by-site'"),
    "webhook": (webhook("Validating", "validate.site.example", IN_DEFAULT), 'webhook "validate.site.example"'),
}


@pytest.fixture
def close(cluster: Cluster, info: Info) -> Iterator[Callable[..., None]]:
    created: list[dict] = []

    def apply(objects: list[dict], state: str = "rejected") -> None:
        created.extend(objects)
        cluster.apply(*objects)
        wait_for("the rejection", lambda: info(namespace="default")["state"] == state, seconds=30)

    yield apply
    for item in created:
        namespace = item["metadata"].get("namespace", "default")
        cluster.delete(item["kind"], item["metadata"]["name"], "-n", namespace)

    def is_open() -> bool:
        result = info(namespace="default")
        return result["state"] != "rejected" and "calling webhook" not in result["message"]

    wait_for("the namespace to be open again", is_open, seconds=30)


def test_without_a_runtime_class(info: Info):
    result = info()
    assert (result["state"], result["namespace"]) == ("no_runtime_class", None)
    assert f"the RuntimeClass {RUNTIME_CLASS} does not exist yet" in result["message"]


def test_without_a_mutation(cluster: Cluster, info: Info):
    cluster.apply(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": RUNTIME_CLASS,
        }
    )
    result = info()
    assert (result["state"], result["namespace"]) == ("not_mutated", "default")
    assert "the pod was returned without kata.peerpods.io/vm. Nodes would get more" in result["message"]


def test_a_webhook_that_does_not_answer_does_not_mutate(info: Info, close: Callable[..., None]):
    close(webhook("Mutating", "mwebhook.peerpods.io"), "not_mutated")

    def called() -> dict | None:
        result = info()
        return result if 'failed calling webhook "mwebhook.peerpods.io"' in result["message"] else None

    # The state was the same before.
    assert wait_for("the call of the webhook", called, seconds=20)["state"] == "not_mutated"


def test_a_webhook_that_excludes_every_namespace_is_not_a_missing_mutation(cluster: Cluster, info: Info, close):
    """As on a new cluster with webhook_extra_excluded_namespaces: [default]: the others are those of the system."""
    names = [item["metadata"]["name"] for item in cluster.get("namespaces")["items"]]
    registration = webhook("Mutating", "mwebhook.peerpods.io", f'!(request.namespace.startsWith("{OPEN[:4]}"))')
    (entry,) = registration[0]["webhooks"]
    entry["matchConditions"][0]["name"] = "not-in-excluded-namespaces"
    others = [name for name in names if name != OPEN]
    entry["namespaceSelector"] = {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": others}]
    }
    close(registration, "not_mutated")
    result = info()
    assert (result["state"], result["namespace"]) == ("rejected", None)
    assert "Every namespace is excluded" in result["message"]


def test_a_mutation(info: Info, policy: Callable[..., dict]):
    result = info()
    assert (result["state"], result["namespace"]) == ("mutated", "default")
    assert "Peer pods are counted" in result["message"]


@pytest.mark.parametrize("closer", CLOSERS)
def test_a_closed_namespace_proves_nothing(info: Info, policy: Callable[..., dict], close, closer: str):
    objects, named = CLOSERS[closer]
    close(objects)
    chosen = info(namespace="default")
    assert (chosen["state"], chosen["namespace"]) == ("rejected", None)
    assert named in chosen["message"]
    assert "rejected, but not by what mutates peer pods" in chosen["message"]
    result = info()
    assert result["state"] == "mutated"
    assert result["namespace"] != "default"
    # The module that mutates verifies in the same way.
    assert policy()["verified"] is True
    named_by_user = policy(verify_namespace="default")
    assert named_by_user["failed"]
    assert named in named_by_user["msg"]
    assert "Set verify_namespace to another namespace than default" in named_by_user["msg"]


def test_every_namespace_is_closed(info: Info, policy: Callable[..., dict], close: Callable[..., None]):
    close(validating_policy())
    result = info()
    assert (result["state"], result["namespace"]) == ("rejected", None)
    assert "ValidatingAdmissionPolicy 'closed-by-site'" in result["message"]
    assert "more namespaces reject it as well" in result["message"]
    verified = policy()
    assert (verified.get("failed"), verified["verified"]) == (None, False)
    assert any("ValidatingAdmissionPolicy 'closed-by-site'" in warning for warning in verified["warnings"])


def test_an_excluded_namespace_proves_nothing(info: Info, policy: Callable[..., dict]):
    assert policy(extra_excluded_namespaces=["default"])["verified"] is True
    result = info()
    assert result["state"] == "mutated"
    assert result["namespace"] != "default"
    chosen = info(namespace="default")
    assert chosen["state"] == "not_mutated"
    assert "MutatingAdmissionPolicy peerpods-mutating-policy excludes this namespace." in chosen["message"]


def test_a_policy_that_excludes_every_namespace_is_not_a_missing_mutation(
    cluster: Cluster, info: Info, policy: Callable[..., dict]
):
    names = [item["metadata"]["name"] for item in cluster.get("namespaces")["items"]]
    assert policy(extra_excluded_namespaces=names)["verified"] is False
    result = info()
    assert (result["state"], result["namespace"]) == ("rejected", None)
    assert "Every namespace is excluded" in result["message"]


def test_namespaces_that_reject_only_pods_that_are_not_mutated_are_waited_for(
    info: Info, policy: Callable[..., dict], close: Callable[..., None]
):
    policy(state="absent")
    resources = "object.spec.containers[0].resources"
    close(validating_policy(f'!(has({resources}.requests) && "kata.peerpods.io/vm" in {resources}.requests)'))
    assert info()["state"] == "rejected"
    assert policy()["verified"] is True
    assert policy(verify_namespace="default")["verified"] is True


def test_the_policy_of_the_collection_closes_no_namespace(cluster: Cluster, info: Info, policy: Callable[..., dict]):
    """The role's defaults allow peer pods in namespaces with a label, and no namespace has it."""
    selector = {"matchLabels": {"osc.peerpods.io/peer-pods": "allowed"}}
    objects = [entry["definition"] for entry in namespace_policies([RUNTIME_CLASS], selector=selector)["objects"]]
    cluster.apply(*objects)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "peer-pod", "namespace": "default"},
        "spec": {"runtimeClassName": RUNTIME_CLASS, "containers": [{"name": "a", "image": "a"}]},
    }

    def is_rejected(*arguments: str) -> bool:
        try:
            cluster.kubectl("create", *arguments, "-f", "-", input=json.dumps(pod))
        except RuntimeError as error:
            return "Peer pods may not be created in namespace default" in str(error)
        return False

    try:
        wait_for("the policy", lambda: is_rejected("--dry-run=server"), seconds=30)
        result = info()
        assert (result["state"], result["namespace"]) == ("mutated", "default")
        # The annotation opens dry runs only.
        pod["metadata"]["annotations"] = {"osc.peerpods.io/probe": ""}
        assert is_rejected()
        assert not is_rejected("--dry-run=server")
    finally:
        for item in objects:
            cluster.delete(item["kind"], item["metadata"]["name"])
