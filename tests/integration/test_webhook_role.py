"""The role webhook by itself: its certificates, its image and its pods, as the API server reports them.

Each tested setting has its own namespace and ports. The objects of the previous settings stay, as those of another
owner. The webhook runs as a process, as in the tests of site.yml.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster import openshift
from tests.cluster.api import Api, ApiError
from tests.cluster.cert_manager import start_cert_manager
from tests.cluster.clouds import site_variables
from tests.cluster.images import base_image, why_no_podman
from tests.cluster.launcher import CLIENT_CERTIFICATE_NAMESPACE, Cluster
from tests.cluster.pki import builder, key_usage, pem
from tests.cluster.processes import free_ports, wait_for
from tests.integration.containers import (
    assert_probed_and_spread,
    listed_and_pinned,
    openshift_builds,
    readme_settings,
)
from tests.integration.site import NOTHING_CHANGED, RoleAlone, failure_message, play_of
from tests.integration.webhook import (
    NAME,
    PEER_POD,
    REGISTRATION,
    RESOURCE,
    presented,
    presented_at,
    tls,
    tls_secret,
    trusted,
)


@dataclass
@dataclass
class Role(RoleAlone):
    """The role, with the settings of one namespace."""

    namespace: str = ""

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        completed = self.run(*arguments)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed

    def get(self, *names: str) -> dict:
        return self.cluster.get(*names, "-n", self.namespace)

    def secret(self, name: str) -> dict[str, bytes]:
        data = self.get(f"secret/{name}")["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def environment_of_pod(self) -> dict[str, str]:
        (container,) = self.get(f"deployment/{NAME}")["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable["value"] for variable in container["env"]}

    def trusted(self) -> list[x509.Certificate]:
        return trusted(self.cluster)

    def presented(self) -> x509.Certificate:
        return presented("127.0.0.1", self.variables["webhook_port"])

    def presents_one_of(self, ca: x509.Certificate, excluded: x509.Certificate | None = None) -> bool:
        """Whether a new connection gets a certificate of the CA that is not `excluded`.

        Call it repeatedly: for a while after a rotation, both the old and the new certificate are presented.
        """
        certificate = self.presented()
        try:
            certificate.verify_directly_issued_by(ca)
        except (InvalidSignature, ValueError):
            return False
        return certificate != excluded


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(definitions=openshift.definitions()) as running:
        workers = openshift.imagined_workers(2)
        openshift.fill(running, workers, openshift.IMAGINED_REGION["aws"])
        openshift.start_stand_ins(running, "process")
        running.apply(
            *(
                {
                    "apiVersion": "node.k8s.io/v1",
                    "kind": "RuntimeClass",
                    "metadata": {"name": name},
                    "handler": name,
                }
                for name in ("kata-remote", "kata-cc")
            )
        )
        yield running


def disown(cluster: Cluster, namespace: str) -> None:
    """Make the webhook of another namespace than this that of another owner, which is not registered."""
    unmark = "app.kubernetes.io/part-of-"
    others = f"metadata.namespace!={namespace}"
    for kind in ("deployments", "poddisruptionbudgets"):
        cluster.label(kind, "-A", "-l", f"app.kubernetes.io/name={NAME}", "--field-selector", others, unmark)
    for registration in cluster.get("mutatingwebhookconfigurations")["items"]:
        (webhook,) = registration["webhooks"]
        if webhook["clientConfig"]["service"]["namespace"] != namespace:
            cluster.delete(REGISTRATION)


@pytest.fixture(scope="module")
def role(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Role]:
    """Creates the role of a namespace, with `variables` and those of this machine."""
    playbook = play_of("webhook", tmp_path_factory.mktemp("role"))

    def make(namespace: str, **variables: object) -> Role:
        disown(cluster, namespace)
        port, health_port = free_ports(2)
        defaults = {
            **site_variables("process"),
            # Only the first installation of `own` has it.
            **({} if namespace == "own" else {"webhook_namespace": namespace}),
            # Without the option, that of the previous setting would stay.
            **({} if namespace == "own" else {"webhook_certificate": "service_ca"}),
            "webhook_port": port,
            "webhook_health_port": health_port,
            # There is no other replica that answers while this one is replaced.
            "webhook_shutdown_delay": 0,
            "webhook_timeout": 60,
        }
        return Role(cluster, None, {}, list, defaults | variables, playbook, namespace=namespace)

    return make


@contextmanager
def peer_pods(cluster: Cluster) -> Iterator[Callable[[int], None]]:
    """Create peer pods in dry runs during the block; none may be rejected.

    Yields a function that waits for a number of further pods.
    """
    api = Api(str(cluster.kubeconfig))
    refused, created, done = [], [], threading.Event()

    def create() -> None:
        while not done.wait(0.1):
            try:
                answer = api.request("POST", "/api/v1/namespaces/default/pods?dryRun=All", PEER_POD)
                created.append(answer["spec"]["containers"][0]["resources"]["limits"][RESOURCE])
            except ApiError as error:
                refused.append(str(error))

    def wait_for_more(count: int) -> None:
        target = len(created) + count
        wait_for(f"{count} peer pods", lambda: len(created) >= target or refused, seconds=60)

    thread = threading.Thread(target=create)
    thread.start()
    try:
        yield wait_for_more
    finally:
        done.set()
        thread.join()
    assert refused == []
    assert set(created) == {"1"}


def accepts_peer_pods(cluster: Cluster) -> bool:
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(PEER_POD))
    except RuntimeError:
        return False
    return True


@pytest.fixture(scope="module")
def own(role: Callable[..., Role]) -> Role:
    return role("own")


# The options of the registration of the first installation of `own`. Later runs leave them out.
FIRST_OPTIONS = {
    "webhook_namespace": "own",
    "webhook_certificate": "own",
    "webhook_extra_excluded_namespaces": ["legacy", "team-*"],
    "webhook_target_runtime_classes": ["kata-remote", "kata-cc"],
    "webhook_sizing": "kubernetes",
    "webhook_validate_resources": True,
    "webhook_tls_min_version": "VersionTLS13",
    "webhook_log_unchanged": True,
}


@pytest.fixture(scope="module")
def first_output(own: Role) -> str:
    """The output of the first installation, with -vvv."""
    completed = own.install("-vvv", "--diff", "-e", json.dumps(FIRST_OPTIONS))
    return completed.stdout + completed.stderr


class TestOwnCertificateAuthority:
    """The certificates in a cluster without OpenShift's service CA. Each test continues from the previous test."""

    def test_a_dry_run_of_a_first_installation_writes_nothing(self, own: Role):
        with own.unchanged():
            own.install("--check", "--diff", "-e", json.dumps(FIRST_OPTIONS))

    @pytest.mark.usefixtures("first_output")
    def test_the_api_server_calls_the_webhook(self, own: Role):
        (trusted,) = own.trusted()
        trusted.verify_directly_issued_by(trusted)
        presented = own.presented()
        presented.verify_directly_issued_by(trusted)
        names = presented.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{NAME}.own.svc"]
        with peer_pods(own.cluster) as wait_for_more:
            wait_for_more(1)

    def test_no_key_is_printed(self, own: Role, first_output: str):
        for secret in (f"{NAME}-ca", f"{NAME}-own-tls"):
            key = own.secret(secret)["tls.key"]
            lines = key.decode().splitlines()[1:-1]
            for form in (*lines, base64.b64encode(key).decode()):
                assert form not in first_output

    @pytest.mark.usefixtures("first_output")
    def test_no_pod_has_the_key_of_the_ca(self, own: Role):
        for pod in self._pods(own):
            mounted = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"]]
            assert mounted == [f"{NAME}-own-tls"]

    @pytest.mark.usefixtures("first_output")
    def test_the_pods_follow_good_practice(self, own: Role):
        namespace = own.cluster.get("namespace", "own")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        (webhook,) = own.cluster.get(REGISTRATION)["webhooks"]
        (excluded,) = webhook["namespaceSelector"]["matchExpressions"]
        assert excluded["operator"] == "NotIn"
        assert "own" in excluded["values"]
        (pod,) = self._pods(own)
        (container,) = pod["spec"]["containers"]
        # The priority admission sets this if the class exists.
        assert pod["spec"]["priority"] == 2_000_000_000
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "volumeMounts" in container
        assert not any("serviceaccount" in m["mountPath"] for m in container["volumeMounts"])
        assert container["resources"]["requests"] == {"cpu": "50m", "memory": "64Mi"}
        assert_probed_and_spread(pod)

    @pytest.mark.usefixtures("first_output")
    def test_the_network_policy_admits_only_the_api_server_and_prometheus(self, own: Role):
        spec = own.get(f"networkpolicy/{NAME}")["spec"]
        assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
        assert "egress" not in spec
        reviews, metrics = spec["ingress"]
        assert [port["port"] for port in reviews["ports"]] == ["https"]
        assert "from" not in reviews
        assert [port["port"] for port in metrics["ports"]] == ["health"]
        assert metrics["from"]
        (pod,) = self._pods(own)
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()

    @pytest.mark.usefixtures("first_output")
    def test_a_node_with_the_only_replica_can_be_drained(self, own: Role):
        (pod,) = self._pods(own)
        name = pod["metadata"]["name"]
        Api(str(own.cluster.kubeconfig)).request(
            "POST",
            f"/api/v1/namespaces/own/pods/{name}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name},
                "deleteOptions": {"dryRun": ["All"]},
            },
        )

    @pytest.mark.usefixtures("first_output")
    def test_a_certificate_in_its_last_third_is_renewed_while_pods_are_created(self, own: Role):
        aged = Aged(ca_days_left=3000, leaf_days_left=100)
        aged.move_in(own)
        with peer_pods(own.cluster) as wait_for_more:
            own.install()
            wait_for("a new certificate", lambda: own.presents_one_of(aged.ca, excluded=aged.leaf), seconds=30)
            wait_for_more(10)
        assert own.trusted() == [aged.ca]
        assert excluded_by_registration(own) == {"legacy", "team-", *EXCLUDED_BY_DEFAULT}

    @pytest.mark.usefixtures("first_output")
    def test_a_ca_in_its_last_third_is_renewed_while_pods_are_created(self, own: Role):
        """The API server keeps trusting former CAs, except expired ones."""
        aged = Aged(ca_days_left=1000, leaf_days_left=300)
        aged.move_in(own, also_trusted=[Aged(ca_days_left=-1, leaf_days_left=-1).ca])
        with peer_pods(own.cluster) as wait_for_more:
            # An empty list removes what the registration has; an empty answer in a survey keeps it.
            answers = {"webhook_extra_excluded_namespaces": [], "webhook_target_runtime_classes": ""}
            own.install("-e", json.dumps(answers))
            new, old = own.trusted()
            wait_for("the new CA's certificate", lambda: own.presents_one_of(new), seconds=30)
            wait_for_more(10)
        assert old == aged.ca
        assert new.public_key() != old.public_key()
        assert excluded_by_registration(own) == EXCLUDED_BY_DEFAULT
        (webhook,) = own.cluster.get(REGISTRATION)["webhooks"]
        assert '["kata-remote", "kata-cc"]' in webhook["matchConditions"][0]["expression"]
        environment = own.environment_of_pod()
        assert environment["TARGET_RUNTIME_CLASS"] == "kata-remote,kata-cc"
        assert (environment["SIZING"], environment["VALIDATE_RESOURCES"]) == ("kubernetes", "true")
        assert (environment["TLS_MIN_VERSION"], environment["LOG_UNCHANGED"]) == ("VersionTLS13", "true")

    @pytest.mark.usefixtures("first_output")
    def test_a_dry_run_of_a_complete_installation_changes_nothing(self, own: Role):
        """This is also true after a renewal, and with strings: all values on the command line are strings."""
        strings = "webhook_ca_days=3650 webhook_certificate_days=365 webhook_shutdown_delay=0"
        with own.unchanged():
            assert NOTHING_CHANGED.search(own.install("--check", "--diff", "-e", strings).stdout)

    @pytest.mark.usefixtures("first_output")
    def test_a_secret_of_another_owner_is_not_overwritten(self, own: Role):
        stored_secret = own.get(f"secret/{NAME}-ca")
        own.cluster.apply(tls_secret("own", f"{NAME}-ca", {"tls.crt": b"none", "tls.key": b"none"}))
        trusted, leaf = own.trusted(), own.secret(f"{NAME}-own-tls")
        try:
            message = failure_message(own.run())
        finally:
            own.cluster.apply(
                {key: stored_secret[key] for key in ("apiVersion", "kind", "type", "data")}
                | {"metadata": {"name": f"{NAME}-ca", "namespace": "own"}}
            )
        assert f"{NAME}-ca" in message
        assert "delete both" in message
        assert (own.trusted(), own.secret(f"{NAME}-own-tls")) == (trusted, leaf)

    @staticmethod
    def _pods(own: Role) -> list[dict]:
        return own.get("pods", "-l", f"app.kubernetes.io/name={NAME}")["items"]


# The namespace of the webhook and those of the system, by name and by prefix.
EXCLUDED_BY_DEFAULT = {"own", "openshift", "kube-", "openshift-"}


def excluded_by_registration(own: Role) -> set[str]:
    (webhook,) = own.cluster.get(REGISTRATION)["webhooks"]
    (by_name,) = webhook["namespaceSelector"]["matchExpressions"]
    return {*by_name["values"], *re.findall(r'startsWith\("(.+?)"\)', webhook["matchConditions"][1]["expression"])}


class Aged:
    """A CA and an old certificate of the role, for the namespace `own`."""

    def __init__(self, ca_days_left: int, leaf_days_left: int):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.leaf_key = ec.generate_private_key(ec.SECP256R1())
        ca_name, leaf_name = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (f"{NAME} CA of own", NAME)
        )
        self.ca = (
            _aging(ca_name, ca_name, self.key, days=3650, days_left=ca_days_left)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.leaf = (
            _aging(leaf_name, ca_name, self.leaf_key, days=365, days_left=leaf_days_left)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{NAME}.own.svc")]), False)
            .add_extension(key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .sign(self.key, hashes.SHA256())
        )

    def move_in(self, own: Role, also_trusted: list[x509.Certificate] | None = None) -> None:
        """Replace the existing certificates, and wait until the webhook is called with these."""
        bundle = b"".join(map(pem, [self.ca, *(also_trusted or [])]))
        own.cluster.apply(
            tls_secret("own", f"{NAME}-ca", {"tls.crt": pem(self.ca), "tls.key": pem(self.key), "ca.crt": bundle}),
            tls_secret("own", f"{NAME}-own-tls", {"tls.crt": pem(self.leaf), "tls.key": pem(self.leaf_key)}),
        )
        own.cluster.kubectl(
            "patch",
            REGISTRATION,
            "--type=json",
            "-p",
            json.dumps(
                [
                    {
                        "op": "replace",
                        "path": "/webhooks/0/clientConfig/caBundle",
                        "value": base64.b64encode(bundle).decode(),
                    }
                ]
            ),
        )
        # A running pod would also present its previous certificate for a while, which is no longer trusted.
        own.cluster.delete("pods", "-n", own.namespace, "-l", f"app.kubernetes.io/name={NAME}")
        wait_for(
            "the aged certificate",
            lambda: presented_at(own.variables["webhook_port"]) == self.leaf,
            seconds=30,
        )
        wait_for("peer pods to pass", lambda: accepts_peer_pods(own.cluster), seconds=30)


def _aging(subject, issuer, key, days: int, days_left: int) -> x509.CertificateBuilder:
    not_after = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days_left)
    return builder(subject, issuer, key, not_after - datetime.timedelta(days=days), not_after)


@pytest.fixture(scope="module")
def openshift_role(role: Callable[..., Role], cluster: Cluster) -> Role:
    openshift.monitoring(cluster)
    cluster.apply(
        # OpenShift's network operator creates it.
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "openshift-host-network"}},
        {
            "apiVersion": "config.openshift.io/v1",
            "kind": "APIServer",
            "metadata": {"name": "cluster"},
            "spec": {"tlsSecurityProfile": {"type": "Modern", "modern": {}}},
        },
    )
    installed = role("on-openshift")
    installed.install()
    return installed


class TestOpenShiftIntegration:
    """The service CA, the TLS profile and the Prometheus operator of OpenShift."""

    def test_the_service_ca_issues_the_certificate(self, openshift_role: Role):
        assert openshift_role.secret(f"{NAME}-tls").keys() == {"tls.crt", "tls.key"}
        annotations = openshift_role.cluster.get(REGISTRATION)["metadata"]["annotations"]
        assert annotations["service.beta.openshift.io/inject-cabundle"] == "true"
        assert accepts_peer_pods(openshift_role.cluster)

    def test_the_network_policy_admits_the_host_network_and_the_operator_of_the_api_server(self, openshift_role: Role):
        reviews, _metrics = openshift_role.get(f"networkpolicy/{NAME}")["spec"]["ingress"]
        host_network, operator = reviews["from"]
        assert host_network == {
            "namespaceSelector": {"matchLabels": {"policy-group.network.openshift.io/host-network": ""}}
        }
        assert operator["podSelector"] == {"matchLabels": {"app": "kube-apiserver-operator"}}

    def test_the_tls_profile_is_followed(self, openshift_role: Role):
        assert openshift_role.environment_of_pod()["TLS_MIN_VERSION"] == "VersionTLS13"
        context = ssl._create_unverified_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        port = openshift_role.variables["webhook_port"]
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            pytest.raises(ssl.SSLError, match=r"(?i)version"),
        ):
            context.wrap_socket(plain)

    def test_prometheus_finds_the_metrics(self, openshift_role: Role):
        spec = openshift_role.get(f"servicemonitors.monitoring.coreos.com/{NAME}")["spec"]
        service = openshift_role.get(f"service/{NAME}")
        labels = spec["selector"]["matchLabels"]
        assert labels.items() <= service["metadata"]["labels"].items()
        (endpoint,) = spec["endpoints"]
        ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
        assert ports[endpoint["port"]] == "health"


@pytest.fixture(scope="module")
def cert_managed(role: Callable[..., Role], cluster: Cluster) -> Role:
    """The certificate is issued by cert-manager, with a CA that cert-manager created."""
    start_cert_manager(cluster)
    managed = role(
        "cert-managed",
        webhook_certificate="cert_manager",
        webhook_cert_manager_issuer={"kind": "ClusterIssuer", "name": "internal-ca"},
    )
    managed.install()
    return managed


@pytest.fixture(scope="module")
def internal_ca(cert_managed: Role) -> x509.Certificate:
    # cert-manager keeps the former CA, which may still be in use.
    *_rest, newest = cert_managed.trusted()
    return newest


def test_cert_manager_issues_the_certificate(cert_managed: Role, internal_ca):
    assert internal_ca.subject.rfc4514_string() == "CN=internal-ca"
    assert cert_managed.presents_one_of(internal_ca)
    assert accepts_peer_pods(cert_managed.cluster)


def test_a_second_run_changes_nothing(cert_managed: Role):
    """The webhook is monitored, and has the TLS profile of the cluster."""
    assert cert_managed.get(f"servicemonitors.monitoring.coreos.com/{NAME}")
    assert cert_managed.environment_of_pod()["TLS_MIN_VERSION"] == "VersionTLS13"
    assert NOTHING_CHANGED.search(cert_managed.install().stdout)


def test_no_pod_is_refused_while_cert_manager_renews(cert_managed: Role, internal_ca):
    before = cert_managed.presented()
    with peer_pods(cert_managed.cluster) as wait_for_more:
        # `cmctl renew` does the same.
        cert_managed.cluster.kubectl(
            "patch",
            f"certificate/{NAME}",
            "-n",
            cert_managed.namespace,
            "--subresource=status",
            "--type=json",
            "-p",
            json.dumps(
                [
                    {
                        "op": "add",
                        "path": "/status/conditions/-",
                        "value": {
                            "type": "Issuing",
                            "status": "True",
                            "reason": "ManuallyTriggered",
                            "message": "",
                            "lastTransitionTime": "2026-01-01T00:00:00Z",
                        },
                    }
                ]
            ),
        )
        wait_for(
            "the renewed certificate",
            lambda: cert_managed.presents_one_of(internal_ca, excluded=before),
            seconds=60,
        )
        wait_for_more(10)


@pytest.mark.usefixtures("cert_managed")
def test_missing_and_conflicting_settings_are_reported_together(role, cluster: Cluster):
    """Among them a registration of another owner: without our label, and with a Service in another namespace.

    The webhook stays in its namespace.
    """
    managed = role(
        "cert-managed",
        webhook_certificate="cert_manager",
        # Without it, the issuer of the registration counts.
        webhook_cert_manager_issuer={"kind": "Issuer"},
        webhook_image="",
        webhook_port=9443,
        webhook_health_port=9443,
        webhook_client_ca="/etc/pki/ca.crt",
        webhook_tls_cipher_suites="AES128-SHA",
        # The cluster has the TLS profile Modern.
        webhook_tls_min_version="VersionTLS12",
    )
    called = "/webhooks/0/clientConfig/service/namespace"

    def register(namespace: str, label: str) -> None:
        patch = [{"op": "replace", "path": called, "value": namespace}]
        cluster.kubectl("patch", REGISTRATION, "--type=json", "-p", json.dumps(patch))
        cluster.label(REGISTRATION, f"app.kubernetes.io/part-of{label}")

    register("of-another", "-")
    try:
        with managed.unchanged():
            message = failure_message(managed.run("-e", "webhook_namespace=elsewhere"))
    finally:
        register("cert-managed", "=osc.peerpods")
    assert (
        f"The namespace of {NAME} is set to elsewhere, but this collection has deployed it in cert-managed." in message
    )
    assert "has a webhook mwebhook.peerpods.io of another owner" in message
    assert "webhook_cert_manager_issuer does not name an issuer" in message
    assert "webhook_image is not set" in message
    assert "webhook_port and webhook_health_port are both 9443" in message
    assert "webhook_client_ca has no PEM certificates that TLS accepts" in message
    assert "webhook_tls_cipher_suites leaves out TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" in message


@pytest.fixture(scope="module")
def strict(role: Callable[..., Role], cluster: Cluster) -> Role:
    """All settings are set; the webhook requires the client certificate of the API server."""
    installed = role(
        CLIENT_CERTIFICATE_NAMESPACE,
        webhook_client_ca=cluster.ca.decode(),
        webhook_tls_cipher_suites=["ECDHE-ECDSA-AES128-GCM-SHA256"],
        webhook_tls_min_version="VersionTLS13",
    )
    installed.install()
    return installed


def test_the_api_server_presents_its_client_certificate(strict: Role):
    assert accepts_peer_pods(strict.cluster)


def test_clients_without_a_certificate_are_rejected(strict: Role):
    # With TLS 1.3, a client gets the rejection when it reads.
    refused = pytest.raises(ssl.SSLError, match=r"(?i)certificate[ _]required")
    with tls("127.0.0.1", strict.variables["webhook_port"]) as connection, refused:
        connection.recv(1)


def test_the_settings_of_the_pods_are_those_of_the_webhook(strict: Role):
    settings, passed = readme_settings("webhook"), strict.environment_of_pod().keys()
    assert passed <= settings
    # Not passed: upstream's name for a setting that is passed, a value on which the rest of the collection depends, a
    # limit that the API server's own limits make unnecessary, and times that suit any API server.
    assert settings - passed == {
        "TARGET_RUNTIMECLASS",
        "POD_VM_EXTENDED_RESOURCE",
        "MAX_BODY_BYTES",
        "IDLE_SECONDS",
        "CONNECTION_SECONDS",
    }


def test_an_api_server_without_the_client_certificate_is_reported(role, cluster: Cluster):
    """On OpenShift, the API server does not present a client certificate to the webhook."""
    unknown = role("unknown", webhook_client_ca=cluster.ca.decode(), webhook_timeout=30)
    assert "it does not mutate a pod" in failure_message(unknown.run())


def test_the_image_has_a_bill_of_materials(tmp_path: Path):
    """It lists exactly the packages that are pinned by hash."""
    if reason := why_no_podman():
        pytest.skip(reason)
    listed, pinned = listed_and_pinned("webhook", tmp_path)
    assert sorted(listed) == sorted(pinned)


REPOSITORY = "image-registry.example.com:5000/built"


@pytest.fixture(scope="module")
def built(role: Callable[..., Role], cluster: Cluster) -> Iterator[Role]:
    if reason := why_no_podman():
        pytest.skip(reason)
    with openshift_builds(cluster, REPOSITORY):
        yield role(
            "built",
            webhook_image_source="build",
            webhook_image="",
            webhook_base_image=base_image(),
            webhook_build_timeout=300,
        )


class TestBuildInTheCluster:
    """A stand-in for OpenShift's build controller builds images with podman."""

    def test_a_failed_build_is_reported(self, built: Role):
        message = failure_message(built.run("-e", "webhook_base_image=localhost/there-is/none:such"))
        assert "DockerBuildFailed" in message
        assert "localhost/there-is/none:such" in message
        assert "The next run starts a new build." in message

    def test_the_image_is_built_and_deployed(self, built: Role):
        built.install()
        (container,) = built.get(f"deployment/{NAME}")["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith(f"{REPOSITORY}/{NAME}@sha256:")
        assert accepts_peer_pods(built.cluster)

    def test_an_existing_image_is_not_built_again(self, built: Role):
        before = built.get(f"buildconfigs/{NAME}")["metadata"]["uid"]
        assert NOTHING_CHANGED.search(built.install().stdout)
        assert built.get(f"buildconfigs/{NAME}")["metadata"]["uid"] == before


OPERATORS_REGISTRATION = "mutating-webhook-configuration"


# Some of the namespaces that the operator's webhook excludes, by their names only (controllers/ppwebhook.go of
# sandboxed-containers-operator).
OPERATORS_EXCLUDED = ["openshift-sandboxed-containers-operator", "openshift", "openshift-config", "kube-system"]


@pytest.fixture(scope="module")
def operators_webhook(role: Callable[..., Role], cluster: Cluster) -> Iterator[dict]:
    """What the operator registers: a webhook in another namespace, here with the program of the collection."""
    role("operators", webhook_certificate="own").install()
    (webhook,) = cluster.get(REGISTRATION)["webhooks"]
    by_name = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": OPERATORS_EXCLUDED}
    yield {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": OPERATORS_REGISTRATION},
        "webhooks": [
            {
                **{key: field for key, field in webhook.items() if key != "matchConditions"},
                "namespaceSelector": {"matchExpressions": [by_name]},
            }
        ],
    }
    cluster.delete("mutatingwebhookconfiguration", OPERATORS_REGISTRATION, "--ignore-not-found")


@pytest.fixture(scope="module")
def replaced(role: Callable[..., Role], operators_webhook: dict) -> Role:
    """The webhook of the collection before that of the operator appears.

    It excludes its own namespace twice: by its name, and with all namespaces of the system.
    """
    installed = role("openshift-replaced", webhook_certificate="own")
    installed.install()
    return installed


class TestTheOperatorTakesOver:
    def test_the_webhook_stays_if_the_operators_does_not_mutate(self, replaced: Role, operators_webhook: dict):
        (webhook,) = operators_webhook["webhooks"]
        service = {**webhook["clientConfig"]["service"], "name": "none"}
        silent = {**webhook, "clientConfig": {**webhook["clientConfig"], "service": service}, "failurePolicy": "Ignore"}
        replaced.cluster.apply({**operators_webhook, "webhooks": [silent]})
        with replaced.unchanged():
            message = failure_message(replaced.run("-e", "webhook_timeout=1"))
        assert (
            "The other webhook is configured, but after 1 s it does not mutate a pod with the RuntimeClass" in message
        )
        assert f"The webhook {NAME} was not removed." in message
        assert accepts_peer_pods(replaced.cluster)

    def test_the_webhook_is_removed_while_pods_are_created(self, replaced: Role, operators_webhook: dict):
        replaced.cluster.apply(operators_webhook)
        # One that cert-manager issued before, and one of another owner.
        pair = {"tls.crt": b"certificate", "tls.key": b"key"}
        issued = tls_secret(replaced.namespace, f"{NAME}-cert-manager-tls", pair)
        issued["metadata"]["annotations"] = {"cert-manager.io/certificate-name": NAME}
        replaced.cluster.apply(issued, tls_secret(replaced.namespace, f"{NAME}-tls", pair))
        with replaced.unchanged():
            assert "was removed" in replaced.install("--check").stdout
        with peer_pods(replaced.cluster) as wait_for_more:
            wait_for_more(5)
            output = replaced.install().stdout
            wait_for_more(5)
        assert "The webhook of this collection was removed (webhook_manager=auto)" in output
        registered = [
            entry["metadata"]["name"] for entry in replaced.cluster.get("mutatingwebhookconfigurations")["items"]
        ]
        assert registered == [OPERATORS_REGISTRATION]
        left = replaced.get("deployments,services,secrets,configmaps,poddisruptionbudgets,serviceaccounts")["items"]
        assert {entry["metadata"]["name"] for entry in left} - {"default", "kube-root-ca.crt"} == {f"{NAME}-tls"}

    def test_a_second_run_changes_nothing(self, replaced: Role):
        output = replaced.install().stdout
        assert NOTHING_CHANGED.search(output)
        assert "The webhook of this collection is not deployed" in output
