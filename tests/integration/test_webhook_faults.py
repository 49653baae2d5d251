"""Faults under load: pods are created all the time while parts of the webhook, and of the cluster, fail.

The role's own Deployment runs as containers on this machine, whose pods have addresses of their own; the API server
reaches them by the endpoints of the role's Service. A peer pod must never bypass the webhook. Failed creations are
counted, and the counts are reported as properties of the tests.
"""

from __future__ import annotations

import base64
import collections
import enum
import http.client
import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster import openshift
from tests.cluster.clouds import site_variables
from tests.cluster.images import why_no_podman
from tests.cluster.launcher import Cluster
from tests.cluster.pki import CertificateAuthority, builder, pem
from tests.cluster.processes import Processes, wait_for
from tests.cluster.webhook import start_webhook
from tests.integration.webhook import (
    NAME,
    PEER_POD,
    RESOURCE,
    presented,
    presented_at,
    tls,
    tls_secret,
    trusted,
)
from tests.support import ansible_environment

NAMESPACE = "osc-peerpods"
PORT, HEALTH_PORT = 9443, 8080

# The number of concurrent creations, every TICK seconds. They start together, so that the API server opens the same
# number of connections to the webhook. Every twentieth pod is really created, the others in a dry run.
CONNECTIONS = 8
TICK = 0.4
STORED_EVERY = 20

# The number of creations by each connection, before and after each fault, so that each connection of the API server to
# the webhook is used again.
STEADY = 8

PODS = "/api/v1/namespaces/load/pods"
MUTATED = {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}}

# What an API server says that has just started. It does not wait for its informers of Services and EndpointSlices
# (buildServiceResolver in cmd/kube-apiserver/app/server.go).
NOT_READY = re.compile(r'not yet ready to handle request|service \\?"[\w-]+\\?" not found|no endpoints available')


class Outcome(enum.Enum):
    """The outcome of a creation."""

    MUTATED = "mutated"
    UNMUTATED = "unmutated"
    # The API server reports that it got no response of the webhook.
    WEBHOOK_FAILED = "webhook failed"
    # The connection to the API server failed: nothing was sent, and the client tries again.
    UNREACHED = "API server unreached"
    # The API server received the request and did not answer.
    CUT_OFF = "API server cut off"
    # The API server is about to stop, or its admission plugins or its informers of Services are not ready: it did not
    # process the request.
    TURNED_AWAY = "API server not ready"
    REFUSED = "refused otherwise"


class Creation(NamedTuple):
    began: float
    ended: float
    outcome: Outcome
    message: str


class Load:
    """Creates peer pods all the time, over connections that it keeps."""

    def __init__(self, cluster: Cluster):
        self._address = urlsplit(cluster.server).netloc
        self._tls = ssl.create_default_context(cafile=cluster.directory / "ca.crt")
        self._tls.load_cert_chain(cluster.kubeconfig.with_suffix(".crt"), cluster.kubeconfig.with_suffix(".key"))
        self._began = time.monotonic()
        self._done = threading.Event()
        # The number of finished creations by each connection.
        self._finished = [0] * CONNECTIONS
        self._creations: list[Creation] = []
        self._threads = [threading.Thread(target=self._create, args=(number,)) for number in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def fault(self) -> Iterator[list[Creation]]:
        """The block is a fault. Yields the creations around it; the list is complete after the block."""
        self.continues()
        creations: list[Creation] = []
        first = len(self._creations)
        yield creations
        self.continues()
        creations += self._creations[first:]

    def continues(self) -> None:
        """Wait until each connection has finished further creations."""
        targets = [finished + STEADY for finished in self._finished]
        wait_for(
            "further creations",
            lambda: all(finished >= target for finished, target in zip(self._finished, targets, strict=True)),
            seconds=120,
        )

    def _create(self, number: int) -> None:
        connection = http.client.HTTPSConnection(self._address, timeout=30, context=self._tls)
        for tick in itertools.count():
            if self._done.wait(self._began + tick * TICK - time.monotonic()):
                connection.close()
                return
            is_stored = (tick + number) % STORED_EVERY == 0
            began = time.monotonic()
            outcome, message = self._create_one(connection, is_stored)
            self._creations.append(Creation(began, time.monotonic(), outcome, message))
            self._finished[number] += 1

    @staticmethod
    def _create_one(connection: http.client.HTTPSConnection, is_stored: bool) -> tuple[Outcome, str]:
        try:
            if connection.sock is None:
                connection.connect()
        except OSError as error:
            return Outcome.UNREACHED, str(error)
        try:
            connection.request(
                "POST",
                PODS if is_stored else f"{PODS}?dryRun=All",
                json.dumps(PEER_POD),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Outcome.CUT_OFF, repr(error)
        if answer.status != 201:
            message = f"{answer.status} {text}"
            if "Retry-After" in answer.headers or NOT_READY.search(text):
                return Outcome.TURNED_AWAY, message
            return Outcome.WEBHOOK_FAILED if "failed calling webhook" in text else Outcome.REFUSED, message
        resources = json.loads(text)["spec"]["containers"][0]["resources"]
        return (Outcome.MUTATED if resources == MUTATED else Outcome.UNMUTATED), ""


@dataclass(frozen=True)
class Replica:
    """A pod of the webhook."""

    name: str
    uid: str
    address: str

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.address}:{HEALTH_PORT}/metrics", timeout=30) as page:
            return float(re.search(rf"^{re.escape(name)} (\S+)$", page.read().decode(), re.MULTILINE)[1])

    def started(self) -> float:
        """When its process was started."""
        return self.metric("process_start_time_seconds")

    def reviewed(self) -> float:
        """The number of peer pods that it has mutated."""
        return self.metric('peerpods_webhook_reviews_total{outcome="mutated"}')

    def restarted_after(self, started: float) -> bool:
        try:
            return self.started() > started
        except OSError:
            return False

    def presented(self) -> x509.Certificate:
        return presented(self.address, PORT)

    def kill(self) -> None:
        """Kill its process as the kernel does if memory runs out."""
        container = f"{NAMESPACE}_{self.name}_{self.uid[:8]}-webhook"
        inspected = subprocess.run(
            ["podman", "inspect", "--format={{.State.Pid}}", container],
            capture_output=True,
            text=True,
            check=True,
        )
        process_id = int(inspected.stdout)
        assert process_id > 0
        os.kill(process_id, signal.SIGKILL)


def replicas(cluster: Cluster) -> list[Replica]:
    pods = cluster.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={NAME}")["items"]
    return [
        Replica(pod["metadata"]["name"], pod["metadata"]["uid"], pod["status"]["podIP"])
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    ]


def install(cluster: Cluster, **variables: object) -> None:
    """Run the role with `variables` and those of this machine."""
    chosen = {
        **site_variables("podman"),
        "webhook_certificate": "own",
        # Half of the default: a rolling update waits this long for each pod.
        "webhook_shutdown_delay": 5,
        **variables,
    }
    completed = subprocess.run(
        [
            "ansible",
            "localhost",
            "-m",
            "ansible.builtin.include_role",
            "-a",
            "name=osc.peerpods.webhook",
            "-e",
            json.dumps(chosen),
        ],
        env=ansible_environment({"K8S_AUTH_KUBECONFIG": str(cluster.kubeconfig)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane that calls the webhook, which has two replicas."""
    if reason := why_no_podman():
        pytest.skip(reason)
    with Cluster() as running:
        openshift.start_kubelet(running, "podman")
        running.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "load"}},
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "kata-remote"},
                "handler": "kata-remote",
            },
        )
        install(running)
        assert len(replicas(running)) == 2
        yield running


@pytest.fixture(scope="module")
def load(cluster: Cluster) -> Iterator[Load]:
    running = Load(cluster)
    yield running
    running.stop()


@pytest.fixture
def failures(record_property) -> Callable[[list[Creation]], list[Creation]]:
    """Report how many creations had each outcome; returns the failed creations."""

    def count(creations: list[Creation]) -> list[Creation]:
        outcomes = collections.Counter(creation.outcome for creation in creations)
        for outcome in Outcome:
            record_property(outcome.value, outcomes[outcome])
        # The load never stopped.
        assert outcomes[Outcome.MUTATED] > CONNECTIONS * STEADY / 2
        return [creation for creation in creations if creation.outcome is not Outcome.MUTATED]

    return count


def test_a_rolling_update_loses_nothing(cluster, load, failures):
    before = replicas(cluster)
    with load.fault() as creations:
        cluster.kubectl("rollout", "restart", f"deployment/{NAME}", "-n", NAMESPACE)
        cluster.kubectl("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, "--timeout=60s")
        for replica in before:
            cluster.kubectl("wait", "--for=delete", f"pod/{replica.name}", "-n", NAMESPACE, "--timeout=60s")
    after = replicas(cluster)
    assert len(after) == len(before)
    assert not {replica.uid for replica in before} & {replica.uid for replica in after}
    assert failures(creations) == []


def test_a_renewed_certificate_loses_nothing(cluster, load, failures):
    before = presented_by_all(cluster)
    authorities = trusted(cluster)
    with load.fault() as creations, until_listeners_are_replaced(endpoints(cluster)):
        cluster.apply(renewed_certificate(cluster))
        wait_until_presented(cluster, before)
    assert trusted(cluster) == authorities
    assert failures(creations) == []


def test_a_renewed_ca_loses_nothing(cluster, load, failures):
    before = presented_by_all(cluster)
    (old,) = trusted(cluster)
    with load.fault() as creations, until_listeners_are_replaced(endpoints(cluster)):
        # A CA with less than a third of this lifetime left is renewed, such as the existing CA of 3650 days.
        install(cluster, webhook_ca_days=11000)
        wait_until_presented(cluster, before)
    renewed, previous = trusted(cluster)
    assert previous == old
    for certificate in presented_by_all(cluster).values():
        certificate.verify_directly_issued_by(renewed)
    assert failures(creations) == []


def test_a_renewed_certificate_loses_nothing_over_http2(cluster, load, failures, tmp_path):
    """An API server uses HTTP/2 for a webhook on its own host (`isLocalHost` in k8s.io/apiserver), and HTTP/1.1 for
    other webhooks.

    HTTP/2 has no header that makes a client reconnect: the old listener sends GOAWAY when it ends.
    """
    processes = Processes(tmp_path)
    url, ca = start_webhook(processes, tmp_path, {})
    port = urlsplit(url).port
    renewing = CertificateAuthority("renewed")
    renewed = renewing.server("webhook", "127.0.0.1")
    registration = by_url(url, ca.read_bytes() + renewing.pair.certificate)
    try:
        before = wait_for("the webhook", lambda: presented_at(port), seconds=20)
        cluster.apply(registration)
        with load.fault() as creations, until_listeners_are_replaced([("127.0.0.1", port)]):
            (tmp_path / "webhook-tls.key").write_bytes(renewed.key)
            (tmp_path / "webhook-tls.crt").write_bytes(renewed.certificate)
            wait_for("the new certificate", lambda: presented_at(port) != before, seconds=20)
        assert failures(creations) == []
    finally:
        # Creations that fail before the API server has read the registration are not part of a fault.
        cluster.delete(registration["kind"], "by-url", "--ignore-not-found")
        processes.stop()


def test_a_restart_of_the_api_server_loses_only_the_requests_in_flight(cluster, load, failures):
    before = api_server_started(cluster)
    with load.fault() as creations:
        cluster.restart_api_server()
        ready = time.monotonic()
    assert api_server_started(cluster) > before
    failed = failures(creations)
    expected = (Outcome.UNREACHED, Outcome.CUT_OFF, Outcome.TURNED_AWAY)
    assert [creation for creation in failed if creation.outcome not in expected] == []
    assert sum(creation.outcome is Outcome.CUT_OFF for creation in failed) <= CONNECTIONS
    assert all(creation.began < ready for creation in failed)


def test_a_killed_replica_loses_only_the_reviews_in_flight(cluster, load, failures, record_property):
    reviewed = {replica: replica.reviewed() for replica in replicas(cluster)}
    load.continues()
    # The replica with more connections of the API server, which keeps its connections and seldom spreads them evenly.
    busiest = max(reviewed, key=lambda replica: replica.reviewed() - reviewed[replica])
    started = busiest.started()
    with load.fault() as creations:
        killed = time.monotonic()
        busiest.kill()
        wait_for("the killed replica", lambda: busiest.restarted_after(started), seconds=30)
        restarted = time.monotonic()
    failed = failures(creations)
    assert all(killed < creation.ended and creation.began < restarted for creation in failed)
    cut = [creation for creation in failed if re.search(r"connection reset|EOF|broken pipe", creation.message)]
    refused = [
        creation
        for creation in failed
        if f"dial tcp {busiest.address}:{PORT}: connect: connection refused" in creation.message
    ]
    record_property("webhook cut off", len(cut))
    record_property("webhook refused connection", len(refused))
    assert [creation for creation in failed if creation not in cut and creation not in refused] == []
    assert len(cut) <= CONNECTIONS


def test_no_pod_was_stored_unmutated(cluster, load, record_property):
    stored = cluster.get("pods", "-n", "load")["items"]
    record_property("stored", len(stored))
    assert stored
    assert [pod for pod in stored if pod["spec"]["containers"][0]["resources"] != MUTATED] == []


def by_url(url: str, ca: bytes) -> dict:
    """A registration of a webhook by its URL, in addition to that of the role."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "by-url"},
        "webhooks": [
            {
                "name": "by-url.peerpods.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": url, "caBundle": base64.b64encode(ca).decode()},
                "failurePolicy": "Fail",
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
                "sideEffects": "None",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "load"}},
            }
        ],
    }


def presented_by_all(cluster: Cluster) -> dict[Replica, x509.Certificate]:
    return {replica: replica.presented() for replica in replicas(cluster)}


def endpoints(cluster: Cluster) -> list[tuple[str, int]]:
    return [(replica.address, PORT) for replica in replicas(cluster)]


@contextmanager
def until_listeners_are_replaced(addresses: list[tuple[str, int]]) -> Iterator[None]:
    """Wait until the previous listeners have ended, which is some time after new ones present the new certificate.

    They close the idle connections then.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(tls(*address)) for address in addresses]
        yield
        for connection in connections:
            connection.settimeout(60)
            assert connection.recv(1) == b""


def wait_until_presented(cluster: Cluster, before: dict[Replica, x509.Certificate]) -> None:
    """Wait until each replica presents another certificate than `before`."""

    def changed() -> bool:
        now = presented_by_all(cluster)
        assert now.keys() == before.keys()
        return all(now[replica] != certificate for replica, certificate in before.items())

    wait_for("all replicas to present the new certificate", changed, seconds=60)


def renewed_certificate(cluster: Cluster) -> dict:
    """The Secret of the webhook's certificate, with a new certificate of the same CA."""
    authority, old = (cluster.get(f"secret/{NAME}-{secret}", "-n", NAMESPACE) for secret in ("ca", "own-tls"))

    def data(secret: dict, name: str) -> bytes:
        return base64.b64decode(secret["data"][name])

    leaf = x509.load_pem_x509_certificate(data(old, "tls.crt"))
    key = ec.generate_private_key(ec.SECP256R1())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    signed = (
        builder(leaf.subject, leaf.issuer, key, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        .add_extension(names.value, names.critical)
        .sign(serialization.load_pem_private_key(data(authority, "tls.key"), None), hashes.SHA256())
    )
    return tls_secret(NAMESPACE, old["metadata"]["name"], {"tls.crt": pem(signed), "tls.key": pem(key)})


def api_server_started(cluster: Cluster) -> float:
    metrics = cluster.kubectl("get", "--raw", "/metrics")
    return float(re.search(r"^process_start_time_seconds (\S+)$", metrics, re.MULTILINE)[1])
