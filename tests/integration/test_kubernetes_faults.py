"""A module's run when the API server, or the connection to it, fails.

A proxy produces each fault on the wire; the tests check the objects in the cluster
afterwards and the result of the module.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.cluster.openshift import POD_VM_SETTINGS, remove_pods, set_status
from tests.integration.apiserver import AWAY, ETCD_TIMEOUT, THROTTLED, Answer, Break, between, requests_of, status
from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, OPERATOR_NAMESPACE, ansible_environment, local_play

NAMESPACE = "faults-test"
NODES = ("faults-a", "faults-b")
RESOURCE = "kata.peerpods.io/vm"
CONFIG = f"/namespaces/{NAMESPACE}/peerpodconfigs"


BROKEN = status(500, "etcdserver: leader changed")
EXPIRED_EVENT = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410}}).encode() + b"\n"


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
    try:
        advertise(cluster, 10)
        yield
    finally:
        cluster.delete("namespace", NAMESPACE, "--wait=false")
        cluster.delete("node", *NODES)


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
    cluster.delete("peerpodconfig", "--all", "-n", NAMESPACE)


@pytest.fixture
def run_with_faults(cluster, config, run_module, request, tmp_path):
    """Run peerpod_limit as a user of this test through a proxy that calls `intervene`."""

    def run(intervene, module="peerpod_limit", check=False, **arguments) -> dict:
        kubeconfig = cluster.user_kubeconfig(user_of(request), "system:masters")
        if module == "peerpod_limit":
            arguments = {"name": "ours", "namespace": NAMESPACE, **arguments}
        with between(cluster, kubeconfig, intervene) as url:
            # kubernetes.core caches discovery there by host, and the port may have been that of another proxy.
            temporary = {"TMPDIR": str(tmp_path)}
            return run_module(module, {"host": url, "api_key": "not-a-secret", **arguments}, check=check, env=temporary)

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


@pytest.mark.parametrize(
    ("methods", "faults"),
    [
        (("GET", "POST", "PATCH", "DELETE"), [THROTTLED, AWAY, ETCD_TIMEOUT, Break.BEFORE]),
        (("POST", "PATCH", "DELETE"), [Break.AFTER]),
        (("POST", "PATCH", "DELETE"), [Break.AMID]),
    ],
    ids=["refused", "lost", "truncated"],
)
def test_objects_of_kubernetes_core_are_written_once_and_with_their_result(
    cluster, run_with_faults, count_requests, methods, faults
):
    """osc.peerpods.k8s, with which the roles write: the first request of each method fails, in each way to write."""
    name = {"name": "weather", "namespace": NAMESPACE}
    next_fault = itertools.cycle(faults)

    def run(**arguments) -> dict:
        pending = set(methods)

        def intervene(method, path):
            # Discovery is cached by host.
            if method not in pending or not ("/configmaps" in path or "/secrets" in path):
                return None
            pending.remove(method)
            return next(next_fault)

        result = run_with_faults(intervene, module="k8s", **arguments)
        assert not result.get("failed"), result["msg"]
        assert "warnings" not in result
        return result

    def definition(data: dict, kind: str = "ConfigMap", field: str = "data") -> dict:
        metadata = {**name, "labels": {"app.kubernetes.io/part-of": "osc.peerpods"}}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, field: data}

    created = run(definition=definition({"a": "1"}))
    assert (created["changed"], created["result"]["data"]) == (True, {"a": "1"})
    patched = run(definition=definition({"b": "2"}))
    assert (patched["changed"], patched["result"]["data"]) == (True, {"a": "1", "b": "2"})
    applied = run(
        definition=definition({"b": "3"}),
        apply=True,
        server_side_apply={"field_manager": "weather", "force_conflicts": True},
    )
    assert (applied["changed"], applied["result"]["data"]) == (True, {"a": "1", "b": "3"})
    assert not run(definition=definition({"b": "3"}))["changed"]
    assert run(kind="ConfigMap", state="absent", **name)["changed"]
    assert not run(kind="ConfigMap", state="absent", **name)["changed"]
    secret = run(definition=definition({"a": "1"}, "Secret", "stringData"))
    assert (secret["changed"], secret["result"]["data"]) == (True, {"a": "MQ=="})
    assert run(kind="Secret", state="absent", **name)["changed"]
    counts = count_requests()
    # A lost patch that the object does not show is repeated, which changes nothing.
    assert (counts["create"], counts["delete"]) == (2, 2)


@pytest.fixture
def created_again(cluster, config):
    """Deletes the ConfigMap or PeerPodConfig `again` as another client, and creates a new one of that name."""
    label = {"app.kubernetes.io/part-of": "osc.peerpods", "app.kubernetes.io/name": "faults-again"}
    metadata = {"name": "again", "namespace": NAMESPACE, "labels": label}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    pool = {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": metadata,
        "spec": {"cloudSecretName": "a", "configMapName": "a", "limit": "3", "nodeSelector": {"pool": "again"}},
    }
    cluster.apply(settings, pool)

    def recreate() -> None:
        cluster.delete("configmap/again", "peerpodconfig/again", "-n", NAMESPACE)
        cluster.apply(settings, pool)

    yield recreate
    cluster.delete("configmap/again", "peerpodconfig/again", "-n", NAMESPACE, "--ignore-not-found")


DELETIONS = {
    "configmap": ("k8s", {"kind": "ConfigMap", "name": "again", "namespace": NAMESPACE}),
    "configmap-by-label": (
        "k8s",
        {
            "kind": "ConfigMap",
            "namespace": NAMESPACE,
            "label_selectors": ["app.kubernetes.io/name=faults-again"],
        },
    ),
    "peerpodconfig": ("peerpod_limit", {"name": "again"}),
}


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_deletion_whose_response_was_lost_spares_what_another_client_created_since(
    cluster, run_with_faults, count_requests, created_again, deletion
):
    module, arguments = DELETIONS[deletion]
    pending = ["lost"]

    def intervene(method, _path):
        if method != "DELETE" or not pending:
            return None
        pending.clear()
        # The deletion takes effect, and its response is lost.
        created_again()
        return Break.BEFORE

    result = run_with_faults(intervene, module=module, state="absent", **arguments)
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    assert not pending
    kind = deletion.partition("-")[0]
    assert cluster.get(kind, "again", "-n", NAMESPACE)["metadata"]["name"] == "again"
    assert count_requests()["delete"] == 0


def test_an_update_whose_response_was_lost_spares_what_another_client_created_since(
    cluster, run_with_faults, created_again
):
    pending = ["lost"]

    def intervene(method, _path):
        if method != "PATCH" or not pending:
            return None
        pending.clear()
        created_again()
        return Break.BEFORE

    metadata = {"name": "again", "namespace": NAMESPACE}
    definition = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"of": "this collection"}}
    result = run_with_faults(intervene, module="k8s", definition=definition)
    assert result["failed"]
    assert "It is not known whether the change was made: run the task again." in result["msg"]
    assert not pending
    assert "data" not in cluster.get("configmap", "again", "-n", NAMESPACE)


@pytest.mark.parametrize("deletion", ["configmap", "configmap-by-label"])
def test_a_deletion_applies_to_the_object_that_was_read(cluster, run_with_faults, created_again, deletion):
    module, arguments = DELETIONS[deletion]

    def intervene(method, _path):
        return created_again() if method == "DELETE" else None

    result = run_with_faults(intervene, module=module, state="absent", **arguments)
    assert result["failed"]
    assert "409 Conflict" in result["msg"]
    assert "Run the task again" in result["msg"]
    assert cluster.get("configmap", "again", "-n", NAMESPACE)["metadata"]["name"] == "again"


@pytest.mark.usefixtures("created_again")
@pytest.mark.parametrize("deletion", ["configmap", "configmap-by-label"])
def test_an_object_that_another_client_deletes_meanwhile_is_absent(cluster, run_with_faults, deletion):
    module, arguments = DELETIONS[deletion]

    def intervene(method, _path):
        return cluster.delete("configmap", "again", "-n", NAMESPACE) if method == "DELETE" else None

    result = run_with_faults(intervene, module=module, state="absent", **arguments)
    assert not result.get("failed"), result["msg"]
    # The collection has not deleted it.
    assert not result["changed"]


def test_an_object_with_a_generated_name_is_created_once(cluster, run_with_faults, count_requests):
    definition = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"generateName": "weather-", "namespace": NAMESPACE},
    }
    unprocessed = run_with_faults(fault_each(post=[THROTTLED]), module="k8s", definition=definition)
    assert not unprocessed.get("failed"), unprocessed["msg"]
    lost = run_with_faults(fault_each(post=[Break.AFTER]), module="k8s", definition=definition)
    assert lost["failed"]
    assert "It is not known whether the change was made" in lost["msg"]
    assert count_requests()["create"] == 2
    # A dry run is repeated: it stores nothing.
    dry = run_with_faults(fault_each(post=[Break.AFTER]), module="k8s", definition=definition, check=True)
    assert not dry.get("failed"), dry["msg"]
    cluster.delete("configmaps", "-n", NAMESPACE, "--all")


def test_questions_are_asked_again(run_with_faults):
    """The POST of a SelfSubjectAccessReview stores nothing."""
    faults = fault_each(post=[AWAY, Break.AFTER])
    info = run_with_faults(faults, module="cluster_info", permissions_for="site")
    assert not info.get("failed"), info["msg"]
    assert info["is_cluster_admin"]


@pytest.mark.parametrize("path", ["/version", "/apis"])
def test_a_connection_survives_transient_faults(run_with_faults, path):
    faults = [AWAY, Break.BEFORE, Break.AMID]

    def intervene(method, requested):
        return faults.pop(0) if requested == path and faults else None

    result = run_with_faults(intervene, module="k8s_info", kind="Node")
    assert not result.get("failed"), result["msg"]
    assert not faults


NOT_OF_AN_API_SERVER = "is not that of a Kubernetes API server: "


@pytest.mark.parametrize(
    ("module", "path"), [("k8s_info", "/api/v1/nodes"), ("cluster_info", "/version"), ("cluster_info", "/apis")]
)
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>Log in here</html>"), NOT_OF_AN_API_SERVER + "<html>Log in here</html>"),
        ((200, b""), NOT_OF_AN_API_SERVER + "it is empty"),
        ((200, b"null"), NOT_OF_AN_API_SERVER + "null"),
        ((200, b'["a"]'), NOT_OF_AN_API_SERVER),
        ((200, b'{"error": "no upstream"}'), NOT_OF_AN_API_SERVER),
        ((403, b"<html>Blocked</html>"), "403 Forbidden: <html>Blocked</html>. The answer is not that of a"),
        ((404, b"<html>Not here</html>"), "404 Not Found: <html>Not here</html>. The answer is not that of a"),
        (status(503, "no", **{"Retry-After": "3600"}), "503 Service Unavailable: no. It requests a retry after 3600 s"),
        (status(401, "Unauthorized"), "401 Unauthorized: Unauthorized. The credentials are invalid or have expired."),
    ],
    ids=["html", "empty", "null", "list", "other-json", "proxy", "absent", "long-retry-after", "expired"],
)
def test_an_answer_that_ends_a_run_is_reported_as_it_is(run_with_faults, module, path, answer, message):
    def intervene(method, requested):
        return answer if requested.partition("?")[0] == path else None

    result = run_with_faults(intervene, module=module, **({"kind": "Node"} if module == "k8s_info" else {}))
    assert result["failed"]
    assert message in result["msg"]
    assert "Traceback" not in result["msg"]


@pytest.fixture
def closed_namespace(cluster):
    """A namespace that rejects a pod for one reason after the other, each named by a label of the pod."""
    name = "faults-closed"
    labels = {"kubernetes.io/metadata.name": name}
    condition = "!has(object.metadata.labels) || object.metadata.labels.reason != 'policy'"
    of_group = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}},
        },
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "small", "namespace": name},
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]},
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [of_group]},
                "validations": [{"expression": condition, "message": "no such pod"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": labels}},
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "closed.example.com",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "clientConfig": {"url": "https://127.0.0.1:1/"},
                    "rules": [of_group],
                    "namespaceSelector": {"matchLabels": labels},
                    "objectSelector": {"matchLabels": {"reason": "webhook"}},
                }
            ],
        },
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": name}, "spec": {}},
    )
    yield name
    cluster.delete("validatingadmissionpolicy,validatingadmissionpolicybinding", name)
    cluster.delete("validatingwebhookconfiguration", name)
    cluster.delete("namespace", name, "--wait=false")


def test_a_rejected_request_is_reported_with_the_cause_that_the_api_server_gives(cluster, closed_namespace, run_module):
    def create(reason: str, user: str = "", **spec) -> str:
        container = {"name": "c", "image": "i", **spec.pop("container", {})}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "p-", "namespace": closed_namespace, "labels": {"reason": reason}},
            "spec": {"containers": [container], **spec},
        }
        kubeconfig = cluster.user_kubeconfig(user) if user else cluster.kubeconfig
        result = run_module("k8s", {"kubeconfig": str(kubeconfig), "definition": pod}, check=True)
        return result["msg"] if result.get("failed") else ""

    # The API server uses a policy and a webhook some moments after they were written.
    deadline = time.monotonic() + 60
    while not ((policy := create("policy")) and (webhook := create("webhook"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "The ValidatingAdmissionPolicy faults-closed rejects the request" in policy
    assert "The API server could not call the admission webhook closed.example.com" in webhook
    limits = {"resources": {"limits": {"cpu": "2"}}}
    assert "A LimitRange of the namespace rejects the request" in create("limits", container=limits)
    assert "only pods of the Pod Security Standard baseline:latest" in create("security", hostNetwork=True)
    assert "The RuntimeClass none does not exist" in create("runtime-class", runtimeClassName="none")
    denied = create("permission", user="faults-unprivileged")
    assert f"Grant faults-unprivileged the verb create on pods in namespace {closed_namespace}, or" in denied
    cluster.merge("resourcequota/full", {"spec": {"hard": {"pods": "0"}}}, closed_namespace)
    while not (quota := create("quota")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "The ResourceQuota full of the namespace rejects the request" in quota


def test_a_kind_of_an_api_that_is_away_is_not_reported_as_absent(run_with_faults):
    """kubernetes.core takes a 503 of discovery for an API without kinds, and k8s_info then returns no objects."""
    away = fault_each(v1=[AWAY] * 5)
    result = run_with_faults(away, module="k8s_info", kind="Deployment", api_version="apps/v1")
    assert result["failed"]
    assert "GET /apis/apps/v1 was rejected by the API server with 503" in result["msg"]


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
        cluster.delete("mutatingwebhookconfiguration", name)


WEBHOOK = {"name": "faults-partial", "url": "https://example.com/", "verify": False}
POLICY = {"name": "faults-partial", "verify": False}
SETTINGS = {
    "namespace": NAMESPACE,
    "config_map": {"PROXY_TIMEOUT": "5m"},
    "secret": {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE"},
}
CAPACITY = {"resource": "example.com/faults", "managers": ["faults-agent"]}
OWN_NAMESPACE = {"name": "faults-own"}
CSV = "sandboxed-containers-operator.v1.8.1"
APPROVAL = {"wait_for": "operator", "namespace": NAMESPACE, "csv": CSV, "approve": True}
OLM = "operators.coreos.com/v1alpha1"
INSTALL_PLAN = f"/apis/{OLM}/namespaces/{NAMESPACE}/installplans/faults"
DEFINITIONS = {
    "definition": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}}
        for name in ("faults-partial", "faults-other")
    ]
}


def installation_that_waits_for_approval() -> list[dict]:
    metadata = {"name": "faults", "namespace": NAMESPACE}
    return [
        {
            "apiVersion": OLM,
            "kind": "Subscription",
            "metadata": metadata,
            "spec": {
                "name": "sandboxed-containers-operator",
                "source": "redhat-operators",
                "sourceNamespace": "openshift-marketplace",
                "installPlanApproval": "Manual",
            },
        },
        {
            "apiVersion": OLM,
            "kind": "InstallPlan",
            "metadata": metadata,
            "spec": {"approval": "Manual", "approved": False, "clusterServiceVersionNames": [CSV]},
        },
    ]


@pytest.fixture
def no_leftovers(cluster, config):
    namespace = {**OWN_NAMESPACE, "labels": {"app.kubernetes.io/part-of": "osc.peerpods"}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}, *installation_that_waits_for_approval()
    )
    planned = {"installPlanRef": {"name": "faults"}, "lastUpdated": "2026-01-01T00:00:00Z"}
    set_status(cluster, "subscription/faults", planned, NAMESPACE)
    for name in NODES:
        slots = {"status": {"capacity": {CAPACITY["resource"]: "1"}}}
        cluster.merge(f"node/{name}", slots, subresource="status", manager=CAPACITY["managers"][0])
    yield
    kinds = "mutatingwebhookconfiguration,mutatingadmissionpolicy,mutatingadmissionpolicybinding"
    cluster.delete(kinds, "faults-partial", "--ignore-not-found")
    settings = ("configmap/peer-pods-cm", "configmap/faults-partial", "secret/peer-pods-secret")
    cluster.delete(*settings, "-n", NAMESPACE, "--ignore-not-found")
    cluster.delete("subscription,installplan", "faults", "-n", NAMESPACE)
    cluster.delete("namespace", OWN_NAMESPACE["name"], "--ignore-not-found")


@pytest.mark.parametrize(
    ("module", "arguments", "written"),
    [
        ("peerpod_limit", {"limit": 20}, "PATCH /apis/confidentialcontainers.org/v1alpha1" + CONFIG + "/ours"),
        ("mutating_webhook", WEBHOOK, "POST /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"),
        ("mutating_policy", POLICY, "POST /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies"),
        ("adaptor_config", SETTINGS, ""),
        ("peerpod_capacity", CAPACITY, ""),
        ("own_namespace", OWN_NAMESPACE, "DELETE /api/v1/namespaces/faults-own"),
        ("operator_wait", APPROVAL, f"PATCH {INSTALL_PLAN}"),
        ("k8s", DEFINITIONS, ""),
    ],
)
def test_a_write_of_which_the_result_is_not_known_is_reported_as_a_change(
    no_leftovers, run_with_faults, module, arguments, written
):
    """The response to the first write is lost, and the credentials expire before the object can be read."""
    writes = []

    def intervene(method, path):
        if writes:
            return status(401, "Unauthorized")
        if method == "GET":
            return None
        writes.append(path)
        return Break.AFTER

    result = run_with_faults(intervene, module=module, **arguments)
    assert result["failed"]
    assert result["changed"]
    assert "It is not known whether the change was made: run the task again." in result["msg"]
    if written:
        assert result["msg"].endswith(f"Written before: {written} (perhaps).")


@pytest.mark.parametrize(
    ("module", "arguments", "reported"),
    [
        (
            "mutating_policy",
            POLICY,
            "Written before: POST /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies.",
        ),
        ("adaptor_config", SETTINGS, "Written: Secret/peer-pods-secret."),
        ("peerpod_capacity", CAPACITY, ""),
        ("k8s", DEFINITIONS, "Changed before: ConfigMap faults-partial."),
    ],
)
def test_what_was_written_before_a_failure_is_reported(no_leftovers, run_with_faults, module, arguments, reported):
    writes = []

    def intervene(method, path):
        if method == "GET":
            return None
        writes.append(path)
        return status(403, "an administrator has stopped this") if len(writes) > 1 else None

    result = run_with_faults(intervene, module=module, **arguments)
    assert len(writes) == 2
    assert result["failed"]
    assert result["changed"]
    assert "an administrator has stopped this" in result["msg"]
    assert reported in result["msg"]
    if module == "peerpod_capacity":
        assert result["nodes"] == [writes[0].split("/")[4]]


def after_the_first_write() -> Callable[[str, str], Answer | None]:
    """The credentials expire after the first write."""
    writes = []

    def intervene(method, path):
        if writes:
            return status(401, "Unauthorized")
        if method != "GET":
            writes.append(path)
        return None

    return intervene


def test_a_namespace_of_which_the_end_is_not_seen_is_reported_as_deleted(no_leftovers, run_with_faults):
    result = run_with_faults(after_the_first_write(), module="own_namespace", **OWN_NAMESPACE)
    assert result["failed"]
    assert result["changed"]
    assert "401 Unauthorized" in result["msg"]
    assert result["msg"].endswith("Written before: DELETE /api/v1/namespaces/faults-own.")


def test_an_approval_is_reported_if_a_later_step_of_the_wait_fails(cluster, no_leftovers, tmp_path):
    """The action repeats the module, which has approved the InstallPlan in an earlier step."""
    kubeconfig = cluster.user_kubeconfig("faults-approval", "system:masters")
    with between(cluster, kubeconfig, after_the_first_write()) as url:
        task = {"osc.peerpods.operator_wait": {**APPROVAL, "host": url, "api_key": "x", "wait_timeout": 30}}
        playbook = tmp_path / "play.yml"
        playbook.write_text(json.dumps(local_play(tasks=[task])))
        completed = run_playbook(["ansible-playbook", str(playbook)], ansible_environment(JSON_OUTPUT))
    (task,) = json.loads(completed.stdout)["plays"][0]["tasks"]
    result = task["hosts"]["localhost"]
    assert result["failed"]
    assert result["changed"]
    assert "401 Unauthorized" in result["msg"]
    assert cluster.get("installplan", "faults", "-n", NAMESPACE)["spec"]["approved"]


def test_a_wait_outlasts_an_api_server_that_has_answered_before(run_with_faults):
    """The outage is longer than a request is repeated, as during the reboot of a single node."""
    since = {"faults-a": "2026-03-01T10:12:00Z"}

    def wait(previous: dict, answers: list[Answer]) -> dict:
        def intervene(_method, path):
            return answers.pop() if "/pods" in path and answers else None

        return run_with_faults(intervene, module="operator_wait", wait_for="pods", wait_timeout=60, previous=previous)

    away = wait({"status": "1 node", "since": since}, [AWAY] * 5)
    assert not away.get("failed"), away["msg"]
    assert away["progress"]["summary"] == "the API server does not answer"
    assert "apiserver is shutting down. " in away["progress"]["remedy"]
    assert away["progress"]["since"] == since
    back = wait(away["progress"], [AWAY] * 5)
    assert back["progress"]["done"]
    first = wait({}, [AWAY] * 5)
    assert first["failed"]
    assert "apiserver is shutting down" in first["msg"]


def test_a_wait_that_times_out_shows_the_log_of_the_image_job(cluster, run_module):
    """The job hangs. Its pod is on a simulated node, so that its log is empty or cannot be read."""
    metadata = {"name": "osc-podvm-image-creation", "namespace": OPERATOR_NAMESPACE}
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "create", "image": "builder"}]}}
    labels = {"job-name": metadata["name"]}
    objects = [
        {
            "apiVersion": "kataconfiguration.openshift.io/v1",
            "kind": "KataConfig",
            "metadata": {"name": "hangs"},
            "spec": {"enablePeerPods": True},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "peer-pods-cm"},
            "data": POD_VM_SETTINGS,
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"suspend": True, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "name": "image-pod", "labels": labels},
            "spec": {**template["spec"], "schedulerName": "none"},
        },
    ]
    cluster.apply(*objects)
    set_status(cluster, "kataconfig/hangs", {"kataNodes": {"nodeCount": 1, "readyNodeCount": 1}}, OPERATOR_NAMESPACE)

    def wait(**arguments: object) -> dict:
        given = {"wait_for": "nodes", "kubeconfig": str(cluster.kubeconfig), **arguments}
        return run_module("operator_wait", given)["progress"]

    try:
        first = wait()
        last = wait(previous=first, wait_timeout=1)
    finally:
        for each in ("kataconfig/hangs", "configmap/peer-pods-cm", f"job/{metadata['name']}", "pod/image-pod"):
            cluster.delete(each, "-n", OPERATOR_NAMESPACE, "--ignore-not-found")
    assert "job osc-podvm-image-creation creates the image of the pod VMs" in first["summary"]
    assert "image-pod" not in first["remedy"]
    assert last["remedy"].startswith("The log of pod image-pod ")
    assert "run the playbook again" in last["remedy"]


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
    remove_pods(cluster, NAMESPACE)


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
