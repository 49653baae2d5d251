from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cluster.pki import CertificateAuthority
from tests.cluster.processes import free_ports, wait_for
from tests.integration.apiserver import between, requests_of
from tests.integration.containers import actor

CONFIGURATION = "webhook-test"
WEBHOOK = "mwebhook.test.peerpods.io"
NAMESPACE = "webhook-test"
RUNTIME_CLASS = "kata-webhook-test"
RESOURCE = "kata.peerpods.io/vm"

FOREIGN_WEBHOOK = {
    "name": "others.example.com",
    "clientConfig": {"url": "https://others.example.com/"},
    "rules": [
        {
            "apiGroups": ["example.com"],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["examples"],
        }
    ],
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
}


class Admission:
    """A real admission server that adds the extended resource and records the requests."""

    def __init__(self, port: int, authority: CertificateAuthority, directory):
        self.url = f"https://127.0.0.1:{port}/mutate-v1-pod"
        self.ca = authority.pair.certificate.decode()
        self.reviewed: list[str] = []
        reviewed = self.reviewed

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
                reviewed.append(f"{request['namespace']}/{request['object']['spec']['runtimeClassName']}")
                patch = [
                    {
                        "op": "replace",
                        "path": "/spec/containers/0/resources",
                        "value": {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}},
                    }
                ]
                review = {
                    "apiVersion": "admission.k8s.io/v1",
                    "kind": "AdmissionReview",
                    "response": {
                        "uid": request["uid"],
                        "allowed": True,
                        "patchType": "JSONPatch",
                        "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
                    },
                }
                body = json.dumps(review).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        pair = authority.server("admission", "127.0.0.1")
        (directory / "tls.crt").write_bytes(pair.certificate)
        (directory / "tls.key").write_bytes(pair.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)


@pytest.fixture(scope="module")
def admission(tmp_path_factory):
    (port,) = free_ports(1)
    admission = Admission(port, CertificateAuthority("webhook"), tmp_path_factory.mktemp("tls"))
    thread = threading.Thread(target=admission.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield admission
    admission.server.shutdown()
    admission.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def namespace(cluster):
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": RUNTIME_CLASS,
        },
    )
    yield
    cluster.delete("runtimeclass", RUNTIME_CLASS)
    cluster.delete("namespace", "--wait=false", NAMESPACE)


@pytest.fixture
def manage(cluster, namespace, run_module):
    def run(user="webhook", check=False, diff=False, **options) -> dict:
        if "host" not in options:
            kubeconfig = cluster.user_kubeconfig(user, "system:masters")
            options["kubeconfig"] = str(kubeconfig)
        return run_module(
            "mutating_webhook",
            {
                "name": CONFIGURATION,
                "webhook_name": WEBHOOK,
                "target_runtime_classes": [RUNTIME_CLASS],
                **options,
            },
            check=check,
            diff=diff,
        )

    yield run
    cluster.delete("mutatingwebhookconfiguration", CONFIGURATION, "--ignore-not-found")


def configuration(cluster) -> dict | None:
    with contextlib.suppress(RuntimeError):
        return cluster.get("mutatingwebhookconfiguration", CONFIGURATION)


def dry_run_pod(cluster, namespace: str, runtime_class: str | None) -> dict:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
            **({"runtimeClassName": runtime_class} if runtime_class else {}),
        },
    }
    printed = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod))
    return json.loads(printed)["spec"]["containers"][0]["resources"]


def test_only_peer_pods_are_sent_to_the_webhook(cluster, admission, manage):
    result = manage(url=admission.url, ca_bundle=admission.ca, verify=True, wait_timeout=30)
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    assert result["verified"] is True
    assert set(admission.reviewed) == {f"default/{RUNTIME_CLASS}"}

    admission.reviewed.clear()
    assert dry_run_pod(cluster, NAMESPACE, RUNTIME_CLASS)["limits"] == {RESOURCE: "1"}
    assert dry_run_pod(cluster, NAMESPACE, None) == {"requests": {"cpu": "1"}}
    assert dry_run_pod(cluster, "kube-system", RUNTIME_CLASS) == {"requests": {"cpu": "1"}}
    assert admission.reviewed == [f"{NAMESPACE}/{RUNTIME_CLASS}"]

    stored = configuration(cluster)
    assert stored["webhooks"] == [result["webhook"]]
    # A bundle in base64 is equal to the same bundle in PEM. An existing configuration takes one read.
    encoded = base64.b64encode(admission.ca.encode()).decode()
    second_result = manage("webhook-again", url=admission.url, ca_bundle=encoded)
    assert not second_result["changed"]
    assert configuration(cluster) == stored
    assert [verb for verb, _ in requests_of(cluster, "webhook-again")] == ["get"]


def test_check_mode_shows_the_change_and_writes_nothing(cluster, admission, manage):
    result = manage(
        "webhook-check",
        check=True,
        diff=True,
        url=admission.url,
        ca_bundle=admission.ca,
        verify=True,
        wait_timeout=5,
    )
    assert result["changed"]
    assert result["verified"] is None
    assert result["diff"]["before"] == {}
    shown_webhook = result["diff"]["after"]["webhook"]
    assert shown_webhook["failurePolicy"] == "Fail"
    assert shown_webhook["clientConfig"]["caBundle"].startswith("sha256:")
    assert configuration(cluster) is None
    assert {verb for verb, _ in requests_of(cluster, "webhook-check")} == {"get"}


def test_other_webhooks_stay_and_the_last_webhook_removes_the_configuration(cluster, admission, manage):
    cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": CONFIGURATION, "labels": {"app": "others"}},
            "webhooks": [FOREIGN_WEBHOOK],
        }
    )
    before = configuration(cluster)
    assert manage(url=admission.url, ca_bundle=admission.ca)["changed"]
    stored = configuration(cluster)
    assert [entry["name"] for entry in stored["webhooks"]] == [FOREIGN_WEBHOOK["name"], WEBHOOK]
    assert stored["webhooks"][0] == before["webhooks"][0]
    assert stored["metadata"]["labels"] == {"app": "others"}

    stays = manage(state="absent")
    assert not stays["changed"]
    assert f"stays: it calls {admission.url}, and this collection did not create it" in stays["warnings"][0]
    assert manage(state="absent", url=admission.url, check=True)["changed"]
    assert configuration(cluster) == stored
    assert manage(state="absent", url=admission.url)["changed"]
    assert configuration(cluster)["webhooks"] == before["webhooks"]
    assert not manage(state="absent")["changed"]

    result = manage(
        state="absent", webhook_name=FOREIGN_WEBHOOK["name"], url=FOREIGN_WEBHOOK["clientConfig"]["url"], diff=True
    )
    assert result["webhook"] is None
    assert result["diff"]["before"]["webhook"]["name"] == FOREIGN_WEBHOOK["name"]
    assert configuration(cluster) is None
    assert not manage(state="absent")["changed"]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_webhook_that_is_added_concurrently_stays(cluster, admission, manage, state):
    """A write or deletion is valid only for the version of the configuration that was read."""
    manage(url=admission.url, ca_bundle=admission.ca)
    pending = iter(["another"])

    def intervene(method, path):
        if method in ("PUT", "DELETE") and next(pending, None):
            cluster.kubectl(
                "patch",
                "mutatingwebhookconfiguration",
                CONFIGURATION,
                "--type=json",
                "-p",
                json.dumps([{"op": "add", "path": "/webhooks/-", "value": FOREIGN_WEBHOOK}]),
            )

    kubeconfig = cluster.user_kubeconfig("webhook-between", "system:masters")
    with between(cluster, kubeconfig, intervene) as url:
        options = {"host": url, "api_key": "any", "state": state, "timeout_seconds": 3}
        options |= {"url": admission.url} if state == "present" else {}
        result = manage(**options)
    assert result["changed"], result
    remaining_webhooks = [WEBHOOK, FOREIGN_WEBHOOK["name"]] if state == "present" else [FOREIGN_WEBHOOK["name"]]
    assert [entry["name"] for entry in configuration(cluster)["webhooks"]] == remaining_webhooks


def test_fail_is_written_only_once_the_service_has_a_ready_endpoint(cluster, manage):
    service = {"namespace": NAMESPACE, "name": "webhook"}
    refused = manage(service=service, wait_timeout=1)
    assert refused["failed"]
    assert f"The Service {NAMESPACE}/webhook has had no ready endpoint for 1 s." in refused["msg"]
    assert configuration(cluster) is None

    def endpoint_slice(ready: bool) -> dict:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "webhook-1",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": "webhook"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.10"], "conditions": {"ready": ready}}],
            "ports": [{"port": 9443}],
        }

    cluster.apply(endpoint_slice(ready=False))
    with ThreadPoolExecutor() as background:
        run = background.submit(manage, "webhook-wait", service=service, wait_timeout=60)
        wait_for(
            "the list of endpoints",
            lambda: "list" in [verb for verb, _ in requests_of(cluster, "webhook-wait")] or run.done(),
            seconds=60,
        )
        assert not run.done()
        assert configuration(cluster) is None
        cluster.apply(endpoint_slice(ready=True))
        result = run.result(timeout=60)
    assert result["changed"], result
    assert [verb for verb, _ in requests_of(cluster, "webhook-wait")] == [
        *("get", "list", "watch"),
        "create",
    ]
    stored = configuration(cluster)["webhooks"][0]
    assert stored["clientConfig"]["service"] == {**service, "path": "/mutate-v1-pod", "port": 443}
    excluded = stored["namespaceSelector"]["matchExpressions"][0]["values"]
    assert excluded == sorted([NAMESPACE, "openshift"])
    assert [condition["name"] for condition in stored["matchConditions"]] == [
        "peer-pods-only",
        "not-in-excluded-namespaces",
    ]


def test_the_service_ca_operator_keeps_its_bundle(cluster, manage):
    options = {
        "service": {"namespace": NAMESPACE, "name": "absent-service"},
        "failure_policy": "Ignore",
        "service_ca": True,
    }
    assert manage(**options)["changed"]
    annotations = configuration(cluster)["metadata"]["annotations"]
    assert annotations == {"service.beta.openshift.io/inject-cabundle": "true"}
    # Inject a bundle as the service CA operator does.
    bundle = base64.b64encode(CertificateAuthority("service-ca").pair.certificate).decode()
    cluster.kubectl(
        "patch",
        "mutatingwebhookconfiguration",
        CONFIGURATION,
        "--type=json",
        "-p",
        json.dumps([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]),
    )
    assert not manage(**options)["changed"]
    assert manage(**options, timeout_seconds=5)["changed"]
    stored = configuration(cluster)["webhooks"][0]
    assert stored["timeoutSeconds"] == 5
    assert stored["clientConfig"]["caBundle"] == bundle


def test_the_bundle_comes_from_a_secret_or_a_config_map(cluster, manage):
    ca = CertificateAuthority("in-cluster").pair.certificate.decode()
    encoded = base64.b64encode(ca.encode()).decode()
    metadata = {"name": "webhook-ca", "namespace": NAMESPACE}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"ca.crt": encoded}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"bundle": ca}},
    )
    url = "https://webhook.example.com/"
    assert manage(url=url, ca_bundle_secret=metadata)["changed"]
    stored = configuration(cluster)["webhooks"][0]
    assert stored["clientConfig"]["caBundle"] == encoded
    assert not manage(url=url, ca_bundle_config_map={**metadata, "key": "bundle"})["changed"]
    missing = manage(url=url, ca_bundle_config_map=metadata)
    assert missing["failed"]
    assert f"The ConfigMap {NAMESPACE}/webhook-ca has no key ca.crt" in missing["msg"]


def test_cert_manager_keeps_its_bundle(cluster, manage):
    options = {
        "url": "https://webhook.example.com/",
        "cert_manager": {"namespace": NAMESPACE, "certificate": "webhook"},
    }
    result = manage(**options, diff=True)
    annotations = {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/webhook"}
    assert result["diff"]["after"]["annotations"] == annotations
    assert configuration(cluster)["metadata"]["annotations"] == annotations
    # Inject a bundle as the CA injector of cert-manager does.
    bundle = base64.b64encode(CertificateAuthority("cert-manager").pair.certificate).decode()
    cluster.kubectl(
        "patch",
        "mutatingwebhookconfiguration",
        CONFIGURATION,
        "--type=json",
        "-p",
        json.dumps([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]),
    )
    assert not manage(**options)["changed"]
    assert configuration(cluster)["webhooks"][0]["clientConfig"]["caBundle"] == bundle


def test_a_cert_manager_that_drops_fields_is_refused(cluster, admission, manage):
    """Versions before 1.12 write the whole registration, and drop the unknown field matchConditions."""

    def inject() -> None:
        registration = configuration(cluster)
        (webhook,) = registration["webhooks"]
        if "matchConditions" in webhook:
            del webhook["matchConditions"]
            webhook["clientConfig"]["caBundle"] = base64.b64encode(admission.ca.encode()).decode()
            cluster.kubectl("replace", "-f", "-", input=json.dumps(registration))

    options = {
        "url": admission.url,
        "cert_manager": {"namespace": NAMESPACE, "certificate": "webhook"},
        "verify": True,
    }
    with actor(inject):
        results = [manage(**options), manage(**options)]
    for result in results:
        assert (result["failed"], result["changed"], result["verified"]) == (True, True, True)
        assert "lost matchConditions when its CA bundle was injected" in result["msg"]


def test_verify_fails_with_the_error_of_the_api_server(cluster, admission, manage):
    (port,) = free_ports(1)
    result = manage(url=f"https://127.0.0.1:{port}/", ca_bundle=admission.ca, verify=True, wait_timeout=2)
    assert result["failed"]
    assert result["changed"]
    assert "after 2 s it does not mutate a pod" in result["msg"]
    assert "connection refused" in result["msg"]


def test_verify_warns_where_the_runtime_class_is_missing(cluster, admission, manage):
    result = manage(
        url=admission.url,
        ca_bundle=admission.ca,
        target_runtime_classes=["kata-not-yet"],
        verify=True,
        wait_timeout=2,
    )
    assert not result.get("failed"), result["msg"]
    assert result["verified"] is False
    assert any("RuntimeClass kata-not-yet does not exist yet" in warning for warning in result["warnings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "service, url"),
        ({"url": "https://x/", "service": {"namespace": "n", "name": "s"}}, "mutually exclusive"),
        ({"url": "https://x/", "timeout_seconds": 31}, "from 1 to 30; got 31"),
        ({"url": "https://x/", "service_ca": True}, "service_ca is for a service"),
        (
            {"url": "https://x/", "service_ca": True, "ca_bundle": "x"},
            "With service_ca, OpenShift manages the CA bundle. Do not set ca_bundle",
        ),
        (
            {"url": "https://x/", "annotations": {"cert-manager.io/inject-ca-from": "n/c"}},
            "annotations has cert-manager.io/inject-ca-from",
        ),
        ({"url": "https://x/", "target_runtime_classes": []}, "target_runtime_classes is empty"),
        (
            {"url": "https://x/", "verify": True, "verify_namespace": "kube-system"},
            "kube-system is excluded",
        ),
    ],
)
def test_invalid_options_are_rejected_without_a_request(run_module, options, message):
    result = run_module("mutating_webhook", {**options, "host": "https://127.0.0.1:1"})
    assert result["failed"]
    assert message in result["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca_bundle": "nonsense"}, "contains no PEM certificate"),
        ({"ca_bundle_file": "/nonexistent/ca.crt"}, "No such file or directory"),
        ({"url": "http://plain.example.com/"}, "422"),
    ],
)
def test_an_invalid_webhook_is_rejected(cluster, manage, options, message):
    result = manage(**{"url": "https://webhook.example.com/", **options})
    assert result["failed"]
    assert message in result["msg"]
    assert configuration(cluster) is None


def test_without_match_conditions_the_existing_namespaces_are_listed(cluster, admission, manage):
    """Such an API server drops matchConditions: the system namespaces are listed in a selector instead."""

    def older(method, path):
        if path == "/version":
            version = {**json.loads(cluster.kubectl("get", "--raw", path)), "minor": "27"}
            return 200, json.dumps(version).encode()
        return None

    kubeconfig = cluster.user_kubeconfig("webhook-older", "system:masters")
    with between(cluster, kubeconfig, older) as host:
        options = {
            "host": host,
            "api_key": "not-a-secret",
            "url": admission.url,
            "ca_bundle": admission.ca,
        }
        result = manage(**options)
        assert result["changed"], result
        assert manage(**options)["changed"] is False
    stored = configuration(cluster)["webhooks"][0]
    excluded = stored["namespaceSelector"]["matchExpressions"][0]["values"]
    existing = [item["metadata"]["name"] for item in cluster.get("namespaces")["items"]]
    system = [name for name in existing if name.startswith(("kube-", "openshift-"))]
    assert system
    assert excluded == sorted({"openshift", *system})
    assert "matchConditions" not in stored
    assert any("matchConditions" in warning for warning in result["warnings"])
