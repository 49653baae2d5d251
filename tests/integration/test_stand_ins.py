"""The stand-ins for the operator and cloud-api-adaptor behave as each release does.

One cluster is upgraded from 1.8 over 1.9 to the newest; each test begins in the state of the previous test.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import pytest

from tests.cluster import openshift
from tests.cluster.adaptor import MANAGER, OWNER, RESTART, lost
from tests.cluster.launcher import FAKE_NODE_ANNOTATION, Cluster
from tests.cluster.operators import IMAGE_JOB_FAILS, SERVING_CERT_ANNOTATION
from tests.cluster.processes import StartError, wait_for
from tests.cluster.releases import NEWEST
from tests.support import OPERATOR_NAMESPACE

NAMESPACE_ARGS = ("-n", OPERATOR_NAMESPACE)
RESOURCE = "kata.peerpods.io/vm"
KATA_CONFIG = {
    "apiVersion": "kataconfiguration.openshift.io/v1",
    "kind": "KataConfig",
    "metadata": {"name": "kata"},
    "spec": {"enablePeerPods": True, "logLevel": "info"},
}


class World:
    """A cluster with an operator, with methods to read its state."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster

    def settings(self, **data: str) -> None:
        """Apply peer-pods-cm with the required keys and `data`, and credentials if they do not exist."""
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "peer-pods-cm", "namespace": OPERATOR_NAMESPACE},
                "data": {**openshift.POD_VM_SETTINGS, **data},
            }
        )
        if not self.cluster.get("secrets", *NAMESPACE_ARGS, "--field-selector=metadata.name=peer-pods-secret")["items"]:
            self.cluster.apply(openshift.POD_VM_CREDENTIALS)

    def gates(self, **data: str) -> None:
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "osc-feature-gates", "namespace": OPERATOR_NAMESPACE},
                "data": data,
            }
        )

    def approve(self) -> None:
        for plan in self.cluster.get("installplans", *NAMESPACE_ARGS)["items"]:
            if not plan["spec"]["approved"]:
                name = plan["metadata"]["name"]
                self.cluster.merge(f"installplan/{name}", {"spec": {"approved": True}}, OPERATOR_NAMESPACE)

    def version(self) -> str | None:
        csvs = self.cluster.get("clusterserviceversions", *NAMESPACE_ARGS)["items"]
        (phase, version), *other_csvs = [
            (csv.get("status", {}).get("phase"), csv["spec"]["version"]) for csv in csvs
        ] or [(None, None)]
        return version if phase == "Succeeded" and not other_csvs else None

    def advertised(self) -> list[str | None]:
        nodes = self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"]
        return sorted((node["status"]["capacity"].get(RESOURCE) for node in nodes), key=str)

    def writers(self) -> set[str]:
        """The field managers that own the extended resource in the capacity of any worker."""
        nodes = self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker", "--show-managed-fields")["items"]
        return {
            entry["manager"]
            for node in nodes
            for entry in node["metadata"]["managedFields"]
            if f"f:{RESOURCE}" in entry["fieldsV1"].get("f:status", {}).get("f:capacity", {})
        }

    def advertise(self, node: str, slots: str) -> None:
        """Write the extended resource of a node, as another program would."""
        openshift.set_status(self.cluster, f"node/{node}", {"capacity": {RESOURCE: slots}})

    def owners(self) -> set[str | None]:
        nodes = self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"]
        return {node["metadata"]["annotations"].get(OWNER) for node in nodes}

    def adaptors(self, name: str = "osc-caa-ds") -> dict[str, str]:
        """The node of each CAA pod that has one, by its uid."""
        pods = self.cluster.get("pods", *NAMESPACE_ARGS, "-l", f"name={name}")["items"]
        nodes = {pod["metadata"]["uid"]: pod["spec"].get("nodeName") for pod in pods}
        return {uid: node for uid, node in nodes.items() if node}

    def let_reconcile(self) -> None:
        """Wait until the operators, and then the DaemonSet controller, have acted on all earlier changes."""
        # The last operator to act writes the Secret. One round of the operators begins after that of the first Service.
        for _ in range(2):
            name = f"round-{uuid.uuid4()}"
            self.cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {
                        "name": name,
                        "namespace": "default",
                        "annotations": {SERVING_CERT_ANNOTATION: name},
                    },
                    "spec": {"ports": [{"port": 443}]},
                }
            )
            in_default = ("-n", "default", f"--field-selector=metadata.name={name}")
            wait_for("the operators", lambda args=in_default: self.cluster.get("secrets", *args)["items"], seconds=30)
            # With its Secret, which it owns.
            self.cluster.delete("service", name, "-n", "default")

        def observed() -> bool:
            daemon_sets = self.cluster.get("daemonsets", *NAMESPACE_ARGS)["items"]
            return all(
                each["metadata"]["generation"] == each["status"].get("observedGeneration") for each in daemon_sets
            )

        wait_for("the DaemonSet controller", observed, seconds=30)

    def image(self) -> str:
        data = self.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["data"]
        return data.get("PODVM_AMI_ID", "")

    def peer_pods(self) -> list[dict]:
        return self.cluster.get("pods", "-n", "default")["items"]

    def lost(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.peer_pods() if lost(pod))


@contextmanager
def first_generation(*, webhook_image: str = "", **settings: str) -> Iterator[World]:
    """Operator 1.8.1 with a KataConfig on two workers. The InstallPlan of a newer version waits for approval."""
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False)) as cluster:
        workers = openshift.imagined_workers(2)
        openshift.fill(cluster, workers, "eu-central-1")
        cluster.kubectl("create", "namespace", OPERATOR_NAMESPACE)
        openshift.start_stand_ins(cluster, "process", NEWEST, webhook_image=webhook_image)
        world = World(cluster)
        world.settings(**settings)
        cluster.apply(*openshift.subscription("1.8.1", "Manual"))
        wait_for("the InstallPlan", lambda: cluster.get("installplans", *NAMESPACE_ARGS)["items"], seconds=30)
        world.approve()
        wait_for("operator 1.8.1", lambda: world.version() == "1.8.1", seconds=60)
        cluster.apply(KATA_CONFIG)
        yield world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with first_generation(webhook_image="webhook:source") as world:
        yield world


def peer_pod(name: str, restart_policy: str = "Always") -> dict:
    resources = {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "runtimeClassName": "kata-remote",
            "restartPolicy": restart_policy,
            "automountServiceAccountToken": False,
            "containers": [{"name": "app", "image": "app", "resources": resources}],
        },
    }


def make_peer_pods(world: World, **policies: str) -> None:
    world.cluster.apply(*(peer_pod(name, policy) for name, policy in policies.items()))

    def run() -> bool:
        pods = [pod for pod in world.peer_pods() if pod["metadata"]["name"] in policies]
        objects = world.cluster.get("peerpods", "-n", "default")["items"]
        return len(objects) >= len(policies) and {pod["status"]["phase"] for pod in pods} == {"Running"}

    wait_for("the peer pods", run, seconds=60)


def test_1_8_advertises_by_its_controller(world: World):
    """The bundle contains the definition of PeerPodConfigs, and a change of a PeerPodConfig does not restart pods."""
    wait_for("the default limit", lambda: world.advertised() == ["10", "10"], seconds=60)
    wait_for(
        "cloud-api-adaptor",
        lambda: len(world.adaptors("peerpodconfig-ctrl-caa-daemon")) == 2,
        seconds=60,
    )
    before = world.adaptors("peerpodconfig-ctrl-caa-daemon")
    world.cluster.merge("peerpodconfig/peerpodconfig-openshift", {"spec": {"limit": "5"}}, OPERATOR_NAMESPACE)
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)
    assert world.adaptors("peerpodconfig-ctrl-caa-daemon") == before
    assert world.writers() == {"manager"}


class RequestedCredentials:
    """cco-secret in place of given credentials, and peer-pods-secret, which the operator copies from it."""

    def __init__(self, world: World):
        self._cluster = world.cluster

    def __enter__(self) -> Self:
        self._cluster.delete("secret", "peer-pods-secret", *NAMESPACE_ARGS)
        self.write("first")
        self.wait_for("first")
        return self

    def write(self, key: str) -> None:
        metadata = {"name": "cco-secret", "namespace": OPERATOR_NAMESPACE}
        data = {"aws_access_key_id": key, "aws_secret_access_key": key}
        self._cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})

    def copy(self) -> str | None:
        selector = "--field-selector=metadata.name=peer-pods-secret"
        for secret in self._cluster.get("secrets", *NAMESPACE_ARGS, selector)["items"]:
            return base64.b64decode(secret["data"]["AWS_ACCESS_KEY_ID"]).decode()
        return None

    def wait_for(self, key: str) -> None:
        wait_for("peer-pods-secret", lambda: self.copy() == key, seconds=30)

    def __exit__(self, *_error: object) -> None:
        self._cluster.delete("secret", "cco-secret", *NAMESPACE_ARGS)
        self._cluster.kubectl("wait", "--for=delete", "secret/peer-pods-secret", "--timeout=60s", *NAMESPACE_ARGS)
        self._cluster.apply(openshift.POD_VM_CREDENTIALS)


def test_1_8_copies_renewed_credentials(world: World):
    with RequestedCredentials(world) as credentials:
        credentials.write("second")
        credentials.wait_for("second")


def daemon_set(world: World, name: str = "osc-caa-ds") -> dict:
    return world.cluster.get("daemonset", name, *NAMESPACE_ARGS)


def restarted_at(world: World, name: str = "osc-caa-ds") -> str | None:
    template = daemon_set(world, name)["spec"]["template"]["metadata"]
    return template.get("annotations", {}).get("kubectl.kubernetes.io/restartedAt")


def replaced(world: World, before: dict[str, str], name: str = "osc-caa-ds") -> None:
    """Wait until each node has another CAA pod."""

    def all_replaced() -> bool:
        now = world.adaptors(name)
        return not before.keys() & now.keys() and sorted(now.values()) == sorted(before.values())

    wait_for("new pods", all_replaced, seconds=60)


def test_1_8_advertises_again_after_any_write_to_a_peer_pod_config(world: World):
    node = world.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"][0]
    world.advertise(node["metadata"]["name"], "9")
    before = world.adaptors("peerpodconfig-ctrl-caa-daemon")
    assert world.advertised() == ["5", "9"]
    world.cluster.annotate("peerpodconfig", "peerpodconfig-openshift", *NAMESPACE_ARGS, "seen=1")
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)
    assert world.adaptors("peerpodconfig-ctrl-caa-daemon") == before


def admits(world: World) -> bool:
    """Whether peer pods are admitted: the operator registers its webhook before that serves."""
    probe = json.dumps(peer_pod("probe"))
    with contextlib.suppress(RuntimeError):
        return bool(world.cluster.kubectl("create", "--dry-run=server", "-f", "-", input=probe))
    return False


def test_1_8_moves_its_daemon_set_to_the_nodes_of_the_last_peer_pod_config(
    world: World,
):
    """The other nodes lose cloud-api-adaptor, and the peer pods that it served."""
    name = "peerpodconfig-ctrl-caa-daemon"
    wait_for("the operator's webhook", lambda: admits(world), seconds=60)
    make_peer_pods(world, first="Never", second="Never")
    nodes = sorted(world.adaptors(name).values())
    world.cluster.label("node", nodes[0], "node-role.kubernetes.io/memory=")
    other_config = openshift.peer_pod_config("memory", "3")
    other_config["metadata"]["name"] = "memory"
    world.cluster.apply(other_config)
    wait_for("one node", lambda: sorted(world.adaptors(name).values()) == nodes[:1], seconds=60)
    wait_for("its limit", lambda: world.advertised() == ["3", "5"], seconds=30)
    (owner,) = daemon_set(world, name)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("PeerPodConfig", "memory")
    elsewhere = [pod["metadata"]["name"] for pod in world.peer_pods() if pod["spec"]["nodeName"] != nodes[0]]
    wait_for("the loss", lambda: set(world.lost()) >= set(elsewhere), seconds=30)

    world.cluster.annotate("peerpodconfig", "peerpodconfig-openshift", *NAMESPACE_ARGS, "seen=2")
    wait_for("both nodes", lambda: sorted(world.adaptors(name).values()) == nodes, seconds=60)
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)
    (owner,) = daemon_set(world, name)["metadata"]["ownerReferences"]
    assert owner["name"] == "peerpodconfig-openshift"
    world.cluster.delete("peerpodconfig", "memory", *NAMESPACE_ARGS)
    openshift.remove_pods(world.cluster)


def image_pods(world: World) -> list[dict]:
    pods = world.cluster.get("pods", *NAMESPACE_ARGS, "-l", "job-name=osc-podvm-image-creation")["items"]
    return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])


def test_the_image_job_fills_in_the_image(world: World):
    """The operator deletes the job. Its pod stays, with a log."""
    wait_for("the image", lambda: world.image().startswith("ami-"), seconds=60)
    wait_for("the end of the job", lambda: not world.cluster.get("jobs", *NAMESPACE_ARGS)["items"], seconds=30)
    (pod,) = image_pods(world)
    assert pod["status"]["phase"] == "Succeeded"
    log = world.cluster.kubectl("logs", pod["metadata"]["name"], *NAMESPACE_ARGS, "--tail=1")
    assert log == f"Updating peer-pods-cm configmap with AMI_ID={world.image()}\n"
    settings = world.cluster.get("configmap", "aws-podvm-image-cm", *NAMESPACE_ARGS)["data"]
    assert settings["AMI_VERSION"] == "262093934.0.1"


def test_the_operators_webhook_mutates(world: World):
    def ready() -> bool:
        deployment = world.cluster.get("deployment", "peer-pods-webhook", *NAMESPACE_ARGS)
        return deployment["status"].get("readyReplicas") == 1

    wait_for("the webhook", ready, seconds=60)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "mutated", "namespace": "default"},
        "spec": {"runtimeClassName": "kata-remote", "containers": [{"name": "app", "image": "app"}]},
    }
    created = json.loads(
        world.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod))
    )
    assert created["spec"]["containers"][0]["resources"]["limits"] == {RESOURCE: "1"}


def upgrade(world: World, version: str) -> None:
    """Approve each InstallPlan up to that version."""

    def is_upgraded() -> bool:
        if world.version() != version:
            world.approve()
        return world.version() == version

    wait_for(f"operator {version}", is_upgraded, seconds=120)


def test_1_9_and_newer_migrate(world: World):
    """The limit is moved and the PeerPodConfig is deleted. The definition and another PeerPodConfig stay.

    The older DaemonSet stays as well if the other PeerPodConfig was its last owner: no program deletes it, and its pods
    keep running.
    """
    other_config = openshift.peer_pod_config("none")
    other_config["metadata"]["name"] = "other"
    world.cluster.apply(other_config)
    old = "peerpodconfig-ctrl-caa-daemon"
    wait_for("its pods to go", lambda: not world.adaptors(old), seconds=60)

    upgrade(world, "1.9.1")
    wait_for("the new DaemonSet", lambda: len(world.adaptors()) == 2, seconds=60)
    configs = world.cluster.get("peerpodconfigs", *NAMESPACE_ARGS)["items"]
    assert [config["metadata"]["name"] for config in configs] == ["other"]
    data = world.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["data"]
    assert data["PEERPODS_LIMIT_PER_NODE"] == "5"
    (owner,) = daemon_set(world, old)["metadata"]["ownerReferences"]
    assert owner["name"] == "other"
    world.cluster.delete("peerpodconfig", "other", *NAMESPACE_ARGS)

    def is_gone() -> bool:
        return old not in (
            item["metadata"]["name"] for item in world.cluster.get("daemonsets", *NAMESPACE_ARGS)["items"]
        )

    wait_for("it to go", is_gone, seconds=30)
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=60)
    assert world.owners() == {None}
    # A write of the same value does not change the field manager, so the old operator still is the manager.
    assert world.writers() == {"manager"}


def test_a_restart_is_undone_by_the_next_reconcile(world: World):
    """The operator writes the whole DaemonSet then, so that the pods are replaced once more."""
    before = world.adaptors()
    world.cluster.kubectl("rollout", "restart", "daemonset/osc-caa-ds", *NAMESPACE_ARGS)
    replaced(world, before)
    assert restarted_at(world)
    restarted_adaptors = world.adaptors()
    world.cluster.annotate("kataconfig", "kata", "seen=1")
    replaced(world, restarted_adaptors)
    assert restarted_at(world) is None
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)


def test_1_9_reads_its_settings_when_a_pod_starts(world: World):
    """This release does not watch peer-pods-cm, and ignores caaUpdateStrategy."""
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="4")
    world.gates(caaUpdateStrategy="OnDelete")
    deleted, *_ = before
    delete_adaptors(world, {deleted})
    wait_for("the limit on one node", lambda: world.advertised() == ["4", "5"], seconds=60)
    assert len(before.keys() - world.adaptors().keys()) == 1
    assert world.writers() == {MANAGER}
    template = world.cluster.get("daemonset", "osc-caa-ds", *NAMESPACE_ARGS)["spec"]
    assert template["updateStrategy"]["type"] == "RollingUpdate"
    assert "annotations" not in template["template"]["metadata"]
    world.settings(PEERPODS_LIMIT_PER_NODE="5")
    world.gates()


def delete_adaptors(world: World, uids: set[str]) -> None:
    for pod in world.cluster.get("pods", *NAMESPACE_ARGS, "-l", "name=osc-caa-ds")["items"]:
        if pod["metadata"]["uid"] in uids:
            world.cluster.delete("pod", pod["metadata"]["name"], *NAMESPACE_ARGS)


def test_1_13_does_not_set_an_owner(world: World):
    """Its cloud-api-adaptor would name itself as the owner, but the operator does not set POD_UID."""
    upgrade(world, "1.13.0")

    def upgraded() -> bool:
        pods = world.cluster.get("pods", *NAMESPACE_ARGS, "-l", "name=osc-caa-ds")["items"]
        images = [pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in pods]
        return images == ["1.13.0", "1.13.0"]

    wait_for("its pods", upgraded, seconds=120)
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)
    assert world.owners() == {None}


def test_an_adaptor_with_pod_uid_is_the_owner_and_keeps_the_amount_of_another_owner(world: World):
    """A cloud-api-adaptor as the chart of CAA installs it."""
    label = "peerpodconfig-ctrl-caa-daemon"
    room = {"capacity": {"pods": "250"}, "allocatable": {"pods": "250"}}
    uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}

    def adaptor(name: str, version: str) -> dict:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": OPERATOR_NAMESPACE, "labels": {"name": label}},
            "spec": {
                "nodeName": "upstream",
                "containers": [{"name": "caa-pod", "image": f"caa:{version}", "env": [uid]}],
            },
        }

    def node() -> tuple[str | None, str | None]:
        node_object = world.cluster.get("node", "upstream")
        annotations = node_object["metadata"]["annotations"]
        return node_object["status"]["capacity"].get(RESOURCE), annotations.get(OWNER)

    world.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "status": room,
            "metadata": {"name": "upstream", "annotations": FAKE_NODE_ANNOTATION},
        },
        adaptor("one", "1.13.0"),
    )
    owner = world.cluster.get("pod", "one", *NAMESPACE_ARGS)["metadata"]["uid"]
    wait_for("the owner", lambda: node() == ("5", owner), seconds=30)
    world.cluster.annotate("node", "upstream", f"{OWNER}=another")
    world.cluster.delete("pod", "one", *NAMESPACE_ARGS)
    assert node() == ("5", "another")
    world.cluster.apply(adaptor("two", "1.13.0"))
    owner = world.cluster.get("pod", "two", *NAMESPACE_ARGS)["metadata"]["uid"]
    wait_for("the owner", lambda: node() == ("5", owner), seconds=30)
    world.cluster.delete("pod", "two", *NAMESPACE_ARGS)
    assert node() == (None, owner)
    # An older cloud-api-adaptor does not read POD_UID.
    world.cluster.apply(adaptor("three", "1.12.0"))
    wait_for("the limit", lambda: node() == ("5", owner), seconds=30)
    world.cluster.delete("pod", "three", *NAMESPACE_ARGS)
    assert node() == (None, owner)
    world.cluster.delete("node", "upstream")


def test_a_write_to_peer_pods_cm_that_leaves_its_data_waits_for_the_next_reconcile(world: World):
    before = world.adaptors()
    world.cluster.label("configmap", "peer-pods-cm", *NAMESPACE_ARGS, "seen=1")
    world.let_reconcile()
    assert world.adaptors() == before
    world.cluster.annotate("kataconfig", "kata", "seen=2")
    replaced(world, before)


def test_a_write_to_peer_pods_cm_loses_the_peer_pods_of_every_node(world: World):
    make_peer_pods(world, always="Always", never="Never")
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="6")
    wait_for("new pods", lambda: not before.keys() & world.adaptors().keys() and len(world.adaptors()) == 2, seconds=60)
    wait_for("the limit", lambda: world.advertised() == ["6", "6"], seconds=30)
    assert world.lost() == ["always", "never"]

    def machines() -> int:
        objects = world.cluster.get("peerpods", "-n", "default")["items"]
        owners = [peer_pod["metadata"]["ownerReferences"][0]["name"] for peer_pod in objects]
        return owners.count("always")

    # A second VM; the first one stays until the pod is deleted.
    wait_for("the second VM", lambda: machines() == 2, seconds=30)
    openshift.remove_pods(world.cluster)
    wait_for(
        "the PeerPods to go",
        lambda: not world.cluster.get("peerpods", "-n", "default")["items"],
        seconds=30,
    )


def test_with_on_delete_a_pod_stays_until_it_is_deleted(world: World):
    def strategy() -> str:
        return world.cluster.get("daemonset", "osc-caa-ds", *NAMESPACE_ARGS)["spec"]["updateStrategy"]["type"]

    for value, expected in (("ondelete", "RollingUpdate"), ("OnDelete", "OnDelete")):
        world.gates(caaUpdateStrategy=value)
        wait_for(f"the strategy {expected}", lambda e=expected: strategy() == e, seconds=30)
    make_peer_pods(world, kept="Always")
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="7")
    version = world.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["metadata"]["resourceVersion"]

    def template() -> str:
        daemon_set = world.cluster.get("daemonset", "osc-caa-ds", *NAMESPACE_ARGS)
        return daemon_set["spec"]["template"]["metadata"]["annotations"]["peer-pods-cm/version"]

    wait_for("the new template", lambda: template() == version, seconds=30)
    assert world.adaptors() == before
    assert world.advertised() == ["6", "6"]
    assert world.lost() == []
    (pod,) = world.peer_pods()
    elsewhere = next(uid for uid, node in before.items() if node != pod["spec"]["nodeName"])
    delete_adaptors(world, {elsewhere})
    wait_for("the limit on one node", lambda: world.advertised() == ["6", "7"], seconds=30)
    assert world.lost() == []


def test_a_container_that_is_killed_removes_nothing(world: World):
    """After its restart, it advertises the limit in its environment, and the peer pod gets another VM."""
    (pod,) = world.peer_pods()
    nodes = {node: uid for uid, node in world.adaptors().items()}
    uid = nodes[pod["spec"]["nodeName"]]
    for adaptor_pod in world.cluster.get("pods", *NAMESPACE_ARGS, "-l", "name=osc-caa-ds")["items"]:
        if adaptor_pod["metadata"]["uid"] == uid:
            name = adaptor_pod["metadata"]["name"]
    world.cluster.annotate("pod", name, *NAMESPACE_ARGS, f"{RESTART}=1")

    def restarted() -> bool:
        (status,) = world.cluster.get("pod", name, *NAMESPACE_ARGS)["status"]["containerStatuses"]
        return (status["restartCount"], status["ready"]) == (1, True)

    wait_for("the container", restarted, seconds=30)
    assert uid in world.adaptors()
    assert world.advertised() == ["7", "7"]
    wait_for("the peer pod to be lost", lambda: world.lost() == ["kept"], seconds=30)


def test_the_newest_adaptor_uses_the_leading_digits_of_its_limit(world: World):
    """If the limit does not begin with digits, it uses 10 (IntWithEnv)."""
    openshift.remove_pods(world.cluster)
    for text, number in (("many", "10"), ("20abc", "20")):
        world.settings(PEERPODS_LIMIT_PER_NODE=text)
        delete_adaptors(world, set(world.adaptors()))
        wait_for(number, lambda n=number: world.advertised() == [n, n], seconds=90)


def test_an_older_adaptor_crashes_with_a_limit_that_is_not_a_number(world: World):
    """A peer pod then waits. After the limit is a number again, cloud-api-adaptor and the peer pod run."""
    world.settings(PEERPODS_LIMIT_PER_NODE="many")
    node = {"name": "older", "annotations": FAKE_NODE_ANNOTATION}
    room = {"capacity": {"pods": "250"}, "allocatable": {"pods": "250"}}
    world.cluster.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": node, "status": room},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "caa",
                "namespace": OPERATOR_NAMESPACE,
                # The operator's DaemonSet would adopt a pod with its own label.
                "labels": {"name": "peerpodconfig-ctrl-caa-daemon"},
            },
            "spec": {"nodeName": "older", "containers": [{"name": "caa-pod", "image": "caa:1.10.0"}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "waits", "namespace": "default"},
            "spec": {
                "runtimeClassName": "kata-remote",
                "nodeName": "older",
                "nodeSelector": {"node-role.kubernetes.io/kata-oc": ""},
                "containers": [{"name": "app", "image": "app"}],
            },
        },
    )

    def state(name: str, namespace: str) -> dict:
        pod = world.cluster.get("pod", name, "-n", namespace)
        (status,) = pod["status"].get("containerStatuses") or [{}]
        return status.get("state", {})

    for pod, reason in (
        (("waits", "default"), "ContainerCreating"),
        (("caa", NAMESPACE_ARGS[1]), "CrashLoopBackOff"),
    ):
        waiting = {"waiting": {"reason": reason}}
        wait_for(reason, lambda p=pod, w=waiting: state(*p) == w, seconds=60)

    def capacity() -> dict:
        return world.cluster.get("node", "older")["status"]["capacity"]

    assert RESOURCE not in capacity()
    world.settings(PEERPODS_LIMIT_PER_NODE="3")
    wait_for("the limit", lambda: capacity().get(RESOURCE) == "3", seconds=60)
    wait_for("the peer pod", lambda: "running" in state("waits", "default"), seconds=30)
    world.cluster.delete("pod", "caa", *NAMESPACE_ARGS)
    world.cluster.delete("node", "older")


def test_a_negative_limit_advertises_nothing(world: World):
    openshift.remove_pods(world.cluster)
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="-1")
    delete_adaptors(world, set(before))
    wait_for("new pods", lambda: not before.keys() & world.adaptors().keys() and len(world.adaptors()) == 2, seconds=60)
    wait_for("nothing to be advertised", lambda: world.advertised() == [None, None], seconds=30)


def test_with_a_negative_limit_a_stop_removes_what_another_program_advertises(world: World):
    before = world.adaptors()
    for node in before.values():
        world.advertise(node, "8")
    delete_adaptors(world, set(before))
    replaced(world, before)
    wait_for("it to be removed", lambda: world.advertised() == [None, None], seconds=30)


def condition(world: World) -> tuple[str, str | None] | None:
    """The condition InProgress; None before the operator has set it."""
    status = world.cluster.get("kataconfig", "kata").get("status") or {}
    return next(((each["status"], each.get("reason")) for each in status.get("conditions") or ()), None)


def test_without_the_keys_of_the_image_job_the_kataconfig_stays(world: World):
    """The image is not deleted in this case, nor if the value is empty."""
    world.cluster.merge("configmap/peer-pods-cm", {"data": {"AWS_SG_IDS": ""}}, OPERATOR_NAMESPACE)
    world.cluster.delete("kataconfig", "kata", "--wait=false")
    wait_for("the failure", lambda: condition(world) == ("True", "PodVMImageJobFailed"), seconds=60)
    world.let_reconcile()
    assert condition(world) == ("True", "PodVMImageJobFailed")
    world.cluster.merge("configmap/peer-pods-cm", {"data": {"AWS_SG_IDS": "sg-0"}}, OPERATOR_NAMESPACE)
    world.cluster.kubectl("wait", "--for=delete", "kataconfig/kata", "--timeout=60s")


def test_the_deletion_of_the_kataconfig_removes_everything(world: World):
    wait_for("cloud-api-adaptor to go", lambda: not world.adaptors(), seconds=30)
    for kind in ("daemonsets", "deployments", "services"):
        assert world.cluster.get(kind, *NAMESPACE_ARGS)["items"] == []
    assert world.cluster.get("mutatingwebhookconfigurations")["items"] == []
    assert world.image() == ""


def test_a_failed_image_job_leaves_no_trace_in_the_kataconfig(world: World, run_module: Callable[..., dict]):
    """The job is tried twice. The operator continues without an image, until the KataConfig is changed.

    The module reports the log of the first attempt, which has the cause.
    """
    before = len(image_pods(world))
    failing = {**KATA_CONFIG, "metadata": {"name": "kata", "annotations": {IMAGE_JOB_FAILS: "create"}}}
    world.cluster.apply(failing)
    wait_for("the job", lambda: condition(world) == ("True", "PodVMImageJobRunning"), seconds=60)
    wait_for("the end of the job", lambda: condition(world) == ("False", ""), seconds=60)
    assert world.image() == ""
    assert "kata-remote" in world.cluster.get("kataconfig", "kata")["status"]["runtimeClasses"]
    # With a finalizer, until the garbage collector has removed the owner of its pods.
    wait_for("the end of the job", lambda: not world.cluster.get("jobs", *NAMESPACE_ARGS)["items"], seconds=30)
    pods = image_pods(world)[before:]
    assert [pod["status"]["phase"] for pod in pods] == ["Failed", "Failed"]
    events = world.cluster.get(
        "events", *NAMESPACE_ARGS, "--field-selector=involvedObject.name=osc-podvm-image-creation"
    )["items"]
    assert "PodVMImageJobFailed" in {event["reason"] for event in events}
    waited = run_module("operator_wait", {"wait_for": "nodes", "kubeconfig": str(world.cluster.kubeconfig)})
    assert f"The end of the log of pod {pods[0]['metadata']['name']}:" in waited["progress"]["problem"]
    world.cluster.annotate("kataconfig", "kata", f"{IMAGE_JOB_FAILS}-")
    wait_for("the image", world.image, seconds=60)
    world.cluster.delete("kataconfig", "kata")


def test_1_13_does_not_copy_renewed_credentials(world: World, run_module: Callable[..., dict]):
    """It copies them again after what the finding of the preflight names."""

    def is_outdated() -> bool:
        result = run_module("cluster_info", {"kubeconfig": str(world.cluster.kubeconfig), "details": True})
        return result["details"]["credentials"]["secret_is_outdated"]

    with RequestedCredentials(world) as credentials:
        assert not is_outdated()
        credentials.write("second")
        assert is_outdated()
        world.cluster.delete("secret", "peer-pods-secret", *NAMESPACE_ARGS)
        world.cluster.annotate("secret", "cco-secret", "renewed=1", *NAMESPACE_ARGS)
        credentials.wait_for("second")


def test_without_the_keys_of_the_image_job_an_installation_never_ends(world: World):
    """The installation is not reported as failed, and the deletion of the KataConfig does not remove it."""
    world.cluster.delete("secret", "peer-pods-secret", *NAMESPACE_ARGS)
    world.cluster.apply(KATA_CONFIG)
    wait_for(
        "kata on the nodes",
        lambda: "kata" in world.cluster.kubectl("get", "runtimeclasses", "-o", "name"),
        seconds=60,
    )
    world.cluster.delete("kataconfig", "kata", "--wait=false")
    world.let_reconcile()
    assert condition(world) == ("True", "Installing")
    assert world.adaptors() == {}
    world.cluster.apply(openshift.POD_VM_CREDENTIALS)
    world.cluster.kubectl("wait", "--for=delete", "kataconfig/kata", "--timeout=60s")


def with_an_adaptor_that_dies() -> None:
    with Cluster() as cluster:
        command = [sys.executable, "-m", "tests.cluster.adaptor", "no-kubeconfig"]
        adaptor = cluster.processes.start("adaptor", command, environment=openshift.PYTHON)
        adaptor.wait(timeout=30)


def test_a_stand_in_that_dies_fails_the_test():
    with pytest.raises(StartError, match="adaptor ended with status 1; its log ends with:"):
        with_an_adaptor_that_dies()
