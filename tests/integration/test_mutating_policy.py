"""mutating_policy: the API server itself mutates a pod as the webhook would."""

from __future__ import annotations

import copy
import http.client
import json
import ssl
import sys
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.apiserver import between, requests_of
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "containers" / "webhook"))
from peerpods_webhook.mutate import Pod, Policy, mutate

NAME = "policy-test"
RUNTIME_CLASS = "kata-policy-test"
RESOURCE = "kata.peerpods.io/vm"
HYPERVISOR = "io.katacontainers.config.hypervisor."
PART_OF = {"app.kubernetes.io/part-of": "osc.peerpods"}
MUTATED_BY = "osc.peerpods.io/mutated-by"

# Of each two namespaces, peer pods are mutated in the first and not in the second, which is excluded. The namespaces
# with limits have a LimitRange, which sets the defaults of containers without amounts.
CHANGED, PLAIN = "policy-test", "policy-test-excluded"
LIMITED, LIMITED_PLAIN = "policy-test-limited", "policy-test-limited-excluded"

DECIDE = Policy(runtime_classes=frozenset({RUNTIME_CLASS}))


class ApiServer:
    """Pods in dry runs by one kept-alive connection, as administrator."""

    def __init__(self, cluster):
        context = ssl.create_default_context(cafile=cluster.directory / "ca.crt")
        context.load_cert_chain(cluster.directory / "admin.crt", cluster.directory / "admin.key")
        self._connection = http.client.HTTPSConnection(urlsplit(cluster.server).netloc, context=context, timeout=30)

    def pod(self, namespace: str, pod: dict) -> tuple[int, dict]:
        path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(pod), headers)
        answer = self._connection.getresponse()
        return answer.status, json.load(answer)

    def close(self):
        self._connection.close()


@pytest.fixture(scope="module")
def namespaces(cluster):
    names = (CHANGED, PLAIN, LIMITED, LIMITED_PLAIN)
    namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    runtime_class = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": RUNTIME_CLASS},
        "handler": RUNTIME_CLASS,
        "overhead": {"podFixed": {"cpu": "250m", "memory": "160Mi"}},
    }
    cluster.apply(*namespaces, runtime_class)
    limits = {
        "type": "Container",
        "default": {"cpu": "700m", "memory": "300Mi"},
        "defaultRequest": {"cpu": "300m", "memory": "200Mi"},
    }
    for namespace in (LIMITED, LIMITED_PLAIN):
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "defaults", "namespace": namespace},
                "spec": {"limits": [limits]},
            }
        )
    yield
    cluster.delete("runtimeclass", RUNTIME_CLASS)
    cluster.delete("namespace", "--wait=false", *names)


@pytest.fixture
def manage(cluster, namespaces, run_module):
    def run(user="policy", check=False, diff=False, **options) -> dict:
        if "host" not in options:
            kubeconfig = cluster.user_kubeconfig(user, "system:masters")
            options["kubeconfig"] = str(kubeconfig)
        return run_module(
            "mutating_policy",
            {
                "name": NAME,
                "target_runtime_classes": [RUNTIME_CLASS],
                "extra_excluded_namespaces": [PLAIN, LIMITED_PLAIN],
                **options,
            },
            check=check,
            diff=diff,
        )

    yield run
    cluster.delete(
        "mutatingadmissionpolicybinding,mutatingadmissionpolicy",
        NAME,
        "--ignore-not-found",
    )


@pytest.fixture
def api(cluster):
    server = ApiServer(cluster)
    yield server
    server.close()


@pytest.fixture
def policy(manage):
    """A policy that is in force; the result of the module."""
    result = manage(verify=True, wait_timeout=30)
    assert not result.get("failed"), result["msg"]
    assert result["verified"] is True
    return result


def stored(cluster) -> list[dict]:
    """The specs of the policy and of its binding, if they exist."""
    kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings"
    return [item["spec"] for item in cluster.get(kinds)["items"] if item["metadata"]["name"] == NAME]


def peer_pod(*containers: dict, annotations: dict | None = None, **spec) -> dict:
    named = [{"name": f"c{index}", "image": "never-pulled", **container} for index, container in enumerate(containers)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "annotations": annotations or {}},
        "spec": {
            "runtimeClassName": RUNTIME_CLASS,
            "automountServiceAccountToken": False,
            "containers": named,
            **spec,
        },
    }


def patched(document: dict, patch: list[dict]) -> dict:
    """RFC 6902's add and remove, on object members, which is all that the webhook uses."""
    document = copy.deepcopy(document)
    for step in patch:
        *parents, last = (token.replace("~1", "/").replace("~0", "~") for token in step["path"].split("/")[1:])
        target = document
        for token in parents:
            target = target[int(token)] if isinstance(target, list) else target[token]
        if step["op"] == "remove":
            del target[last]
        else:
            target[last] = step["value"]
    return document


def as_the_webhook(defaulted: dict, pod: dict) -> dict:
    """`pod` as the webhook mutates it; `defaulted` is the pod with the API server's defaults."""
    reviewed = copy.deepcopy(defaulted)
    # The API server completes the pod-level requests only after admission.
    if "resources" in pod["spec"]:
        reviewed["spec"]["resources"] = pod["spec"]["resources"]
    patch = json.loads(mutate(msgspec.convert(reviewed, Pod), DECIDE) or b"[]")
    return comparable(patched(reviewed, patch))


def comparable(pod: dict) -> dict:
    """A pod without fields that differ in each dry run or are computed from its resources later."""
    metadata = {"annotations": {}, **pod["metadata"]}
    for own in ("uid", "creationTimestamp", "namespace", "managedFields"):
        metadata.pop(own, None)
    spec = copy.deepcopy(pod["spec"])
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        container.setdefault("resources", {})
    return {"metadata": metadata, "spec": spec}


def changed(api, namespace: str, pod: dict) -> dict:
    status, answer = api.pod(namespace, pod)
    assert status == 201, answer["message"]
    return comparable(answer)


# Pairs of a request and a limit at least as large.
CPU = (
    *[("1", "1"), ("500m", "2"), ("1m", "1m"), ("0", "0"), ("0", "3"), ("0.1", "0.3")],
    *[("1500u", "2m"), ("1n", "1"), ("999m", "1001m"), ("5e-1", "1e3"), ("1e3", "1k")],
    *[("1234567891", "9E3"), ("+1.5", "1.50"), ("2000m", "2001m"), ("3M", "4M")],
)
MEMORY = (
    *[("64Mi", "64Mi"), ("1Gi", "1.5Gi"), ("1", "1048577"), ("1048576", "1Mi"), ("0", "0")],
    *[("0.1Gi", "0.7Gi"), ("100m", "500m"), ("128974848", "129e6"), ("129M", "123Mi")],
    *[("1e9", "1G"), ("0", "1Ki"), ("1Ti", "1Pi"), ("1500u", "1k"), ("1048575500m", "1048576500m")],
)
GPU = (("1", "1"), ("0", "0"), ("2e0", "2"), ("1k", "1000"))
STORAGE = (("1Gi", "2Gi"), ("0", "0"))
# More than any sum of the values above, since the API server requires pod-level requests of at least the sum.
POD_CPU = (("100G", "100G"), ("100000000000500m", "1e12"), ("2T", "2T"))
POD_MEMORY = (("7Pi", "7Pi"), ("7000000000000000.5", "7168Ti"))


@st.composite
def amounts(draw, choices: dict[str, tuple]) -> dict:
    """ResourceRequirements that name each resource as request, limit, both or neither."""
    requirements: dict[str, dict] = {}
    for resource, pairs in choices.items():
        request, limit = draw(st.sampled_from(pairs))
        sides = draw(st.sampled_from([(), ("requests",), ("limits",), ("requests", "limits")]))
        # An extended resource has no request without a limit.
        if "limits" in sides:
            requirements.setdefault("limits", {})[resource] = limit
        if "requests" in sides and (resource != "nvidia.com/gpu" or "limits" in sides):
            requirements.setdefault("requests", {})[resource] = request
    return requirements


@st.composite
def containers(draw, prefix: str) -> dict:
    resources = draw(amounts({"cpu": CPU, "memory": MEMORY, "nvidia.com/gpu": GPU, "ephemeral-storage": STORAGE}))
    if draw(st.integers(0, 4)) == 0:
        resources = {**resources, "claims": [{"name": "device"}]}
    container: dict = {"image": "never-pulled", "resources": resources}
    if prefix == "i" and draw(st.booleans()):
        container["restartPolicy"] = "Always"
    return container


@st.composite
def pods(draw) -> dict:
    spec: dict = {}
    main = draw(st.lists(containers("c"), min_size=1, max_size=4))
    initial = draw(st.lists(containers("i"), max_size=3))
    if initial:
        spec["initContainers"] = [{"name": f"i{index}", **container} for index, container in enumerate(initial)]
    if any("claims" in container["resources"] for container in (*main, *initial)):
        spec["resourceClaims"] = [{"name": "device", "resourceClaimTemplateName": "device"}]
    elif draw(st.booleans()) and (of_pod := draw(amounts({"cpu": POD_CPU, "memory": POD_MEMORY}))):
        spec["resources"] = of_pod
    annotations = {}
    if draw(st.booleans()):
        annotations = draw(
            st.dictionaries(
                st.sampled_from(
                    [
                        f"{HYPERVISOR}default_vcpus",
                        f"{HYPERVISOR}default_memory",
                        f"{HYPERVISOR}default_gpus",
                        f"{HYPERVISOR}machine_type",
                        "example.com/note",
                    ]
                ),
                st.sampled_from(["", "7", "m5.large"]),
            )
        )
    return peer_pod(*main, annotations=annotations, **spec)


def test_the_policy_and_the_webhook_mutate_any_pod_alike(api, policy):
    outcomes = []

    @settings(
        max_examples=250,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # Cases that random examples rarely contain: thousandths that binary fractions miss, no type of instance,
    # and a pod-level limit without any request of a container.
    @example(peer_pod({"resources": {"requests": {"cpu": "8001m"}}}))
    @example(
        peer_pod(
            {"resources": {"requests": {"cpu": "1"}}},
            annotations={f"{HYPERVISOR}machine_type": ""},
        )
    )
    @example(peer_pod({}, resources={"limits": {"cpu": "4", "memory": "1Gi"}}))
    @given(pods())
    def compare(pod):
        status, defaulted = api.pod(PLAIN, pod)
        if status == 422:
            return  # A pod that the API server rejects without the policy does not test the policy.
        assert status == 201, defaulted["message"]
        assert changed(api, CHANGED, pod) == as_the_webhook(defaulted, pod)
        outcomes.append(pod)

    compare()
    assert len(outcomes) >= 200
    spec_keys = set().union(*(pod["spec"] for pod in outcomes))
    assert {"resources", "initContainers", "resourceClaims"} <= spec_keys


def test_amounts_of_a_limit_range_are_removed_again(api, policy):
    """A LimitRange sets defaults for each container without amounts, after each mutation of the pod."""
    pod = peer_pod({}, {}, initContainers=[{"name": "i0", "image": "never-pulled"}])
    status, defaulted = api.pod(LIMITED_PLAIN, pod)
    assert status == 201, defaulted["message"]
    assert defaulted["spec"]["containers"][1]["resources"]["limits"]["cpu"] == "700m"
    answer = changed(api, LIMITED, pod)
    assert answer == as_the_webhook(defaulted, pod)
    # Three times 700m and 300Mi, rounded up.
    annotations = answer["metadata"]["annotations"]
    assert annotations[f"{HYPERVISOR}default_vcpus"] == "3"
    assert annotations[f"{HYPERVISOR}default_memory"] == "900"


def test_other_pods_stay_as_they_are(api, policy):
    amounts = {"resources": {"requests": {"cpu": "1"}}}
    for namespace, runtime_class in (
        (CHANGED, None),
        (PLAIN, RUNTIME_CLASS),
        ("kube-system", RUNTIME_CLASS),
    ):
        pod = peer_pod(amounts, runtimeClassName=runtime_class)
        assert changed(api, namespace, pod)["spec"]["containers"][0]["resources"] == amounts["resources"]


@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
def test_invalid_amounts_are_rejected(api, manage, failure_policy):
    result = manage(failure_policy=failure_policy, verify=True, wait_timeout=30)
    assert result.get("verified") is True, result
    for resource in ("cpu", "memory", "nvidia.com/gpu"):
        pod = peer_pod({}, {"resources": {"limits": {resource: "-1"}}})
        status, answer = api.pod(CHANGED, pod)
        assert status == 422
        assert f"spec.containers[1].resources.limits[{resource}]" in answer["message"]
        assert "must be greater than or equal to 0" in answer["message"]
    status, answer = api.pod(CHANGED, peer_pod({"resources": {"limits": {"memory": "1 GB"}}}))
    assert status == 400
    assert "quantities must match" in answer["message"]
    # Amounts of more than 64 bits in thousandths cannot be added.
    oversized = peer_pod({"resources": {"limits": {"memory": "9Pi"}}})
    status, answer = api.pod(CHANGED, oversized)
    if failure_policy == "Fail":
        assert status == 403
        assert f"policy '{NAME}'" in answer["message"]
        assert "integer overflow" in answer["message"]
    else:
        assert comparable(answer)["spec"]["containers"][0]["resources"]["limits"] == {"memory": "9Pi"}


def test_an_unchanged_policy_takes_two_reads_and_absent_removes_both_objects(cluster, api, manage, policy):
    assert stored(cluster) == [policy["policy"], policy["binding"]]
    second_result = manage("policy-again")
    assert not second_result["changed"]
    assert [verb for verb, _ in requests_of(cluster, "policy-again")] == ["get", "get"]

    # The fingerprint proves the change, while the former policy is still in force.
    changed_result = manage(reinvocation_policy="Never", verify=True, wait_timeout=30, diff=True)
    assert changed_result["changed"]
    assert changed_result["verified"] is True
    assert changed_result["diff"]["before"]["policy"]["reinvocationPolicy"] == "IfNeeded"
    assert stored(cluster) == [changed_result["policy"], policy["binding"]]
    marks = [result["policy"]["variables"][-1]["expression"] for result in (policy, changed_result)]
    assert marks[0] != marks[1]
    pod = peer_pod({}, annotations={MUTATED_BY: "?"})
    assert json.dumps(changed(api, CHANGED, pod)["metadata"]["annotations"][MUTATED_BY]) == marks[1]

    assert manage(state="absent", check=True)["changed"]
    assert len(stored(cluster)) == 2
    removal = manage(state="absent")
    assert removal["changed"]
    assert removal["policy"] is removal["binding"] is None
    assert stored(cluster) == []
    assert not manage(state="absent")["changed"]


def test_check_mode_shows_the_change_and_writes_nothing(cluster, manage):
    result = manage("policy-check", check=True, diff=True, verify=True)
    assert result["changed"]
    assert result["verified"] is None
    assert result["diff"]["before"] == {}
    assert result["diff"]["after"] == {"policy": result["policy"], "binding": result["binding"]}
    assert stored(cluster) == []
    assert {verb for verb, _ in requests_of(cluster, "policy-check")} == {"get"}


def test_verify_reports_that_the_policy_does_not_match_the_pod(manage):
    # The pod of the dry run gets the labels of matchLabels only.
    selector = {"matchExpressions": [{"key": "team", "operator": "Exists"}]}
    result = manage(object_selector=selector, verify=True, wait_timeout=1)
    assert result["failed"]
    assert result["changed"]
    assert "The policy is configured, but after 1 s it does not mutate a pod" in result["msg"]
    assert f"the pod was returned without {RESOURCE}" in result["msg"]


def test_a_concurrent_change_is_read_again(cluster, manage):
    manage()
    pending = iter(["another"])

    def intervene(method, path):
        if method == "PUT" and next(pending, None):
            cluster.label("mutatingadmissionpolicy", NAME, "team=others")

    kubeconfig = cluster.user_kubeconfig("policy-between", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        result = manage(host=url, api_key="any", failure_policy="Ignore")
    assert result["changed"], result
    policy = cluster.get("mutatingadmissionpolicy", NAME)
    assert policy["spec"]["failurePolicy"] == "Ignore"
    assert policy["metadata"]["labels"] == {"team": "others", **PART_OF}


def test_a_policy_without_the_label_is_neither_changed_nor_deleted(cluster, manage):
    manage()
    cluster.label("mutatingadmissionpolicy", NAME, "app.kubernetes.io/part-of-")
    for check in (True, False):
        change = manage(failure_policy="Ignore", check=check)
        deletion = manage(state="absent", check=check)
        for result in (change, deletion):
            assert result["failed"], result
            assert not result.get("changed")
            assert f"MutatingAdmissionPolicy {NAME} (written by" in result["msg"]
    assert [spec.get("failurePolicy") for spec in stored(cluster)] == ["Fail", None]


GROUP = "/apis/admissionregistration.k8s.io"
VERSIONS = ("v1", "v1beta1", "v1alpha1")


def without_policies_in(versions):
    """The response of an API server without policies in these versions of the group."""

    def intervene(_method, path):
        for version in versions:
            if path == f"{GROUP}/{version}":
                return 200, b'{"kind": "APIResourceList", "resources": []}'
            if path.startswith(f"{GROUP}/{version}/mutatingadmission"):
                return 404, b"{}"
        return None

    return intervene


def test_an_api_server_without_policies_is_reported(cluster, manage):
    kubeconfig = cluster.user_kubeconfig("policy-old", "system:masters")
    with between(cluster, kubeconfig, without_policies_in(VERSIONS)) as url:
        result = manage(host=url, api_key="any")
        removal = manage(host=url, api_key="any", state="absent")
    assert result["failed"]
    assert "(v1.37.2) serves no MutatingAdmissionPolicy" in result["msg"]
    assert "Use osc.peerpods.mutating_webhook." in result["msg"]
    assert not removal["changed"]
    assert stored(cluster) == []


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_an_api_server_with_an_older_version_of_policies(cluster, api, manage, version):
    user = f"policy-{version}"
    kubeconfig = cluster.user_kubeconfig(user, "system:masters")
    newer = VERSIONS[: VERSIONS.index(version)]
    with between(cluster, kubeconfig, without_policies_in(newer)) as url:
        connection = {"host": url, "api_key": "any"}
        created = manage(**connection, verify=True, wait_timeout=30)
        assert created["verified"] is True, created
        assert stored(cluster) == [created["policy"], created["binding"]]
        pod = peer_pod({"resources": {"requests": {"cpu": "1"}}})
        resources = changed(api, CHANGED, pod)["spec"]["containers"][0]["resources"]
        assert resources == {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}}
        assert not manage(**connection)["changed"]
        assert manage(**connection, failure_policy="Ignore")["changed"]
        assert manage(**connection, state="absent")["changed"]
    assert stored(cluster) == []
    written = {
        path.rpartition("/mutating")[0]
        for verb, path in requests_of(cluster, user)
        if verb in ("create", "update", "delete") and "dryRun" not in path
    }
    assert written == {f"{GROUP}/{version}"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_runtime_classes": []}, "target_runtime_classes is empty"),
        ({"verify": True, "verify_namespace": "kube-system"}, "verify_namespace kube-system is excluded"),
        ({"service_ca": True}, "Unsupported parameters"),
    ],
)
def test_invalid_options_are_rejected_without_a_request(run_module, options, message):
    result = run_module("mutating_policy", {**options, "host": "https://127.0.0.1:1"})
    assert result["failed"]
    assert message in result["msg"]
