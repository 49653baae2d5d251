"""The stand-ins for the operator and cloud-api-adaptor behave as each release does.

One cluster is taken from 1.8 over 1.9 to the newest: each test begins where the one before ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import openshift
from tests.cluster.adaptor import MANAGER, OWNER, RESTART, lost
from tests.cluster.launcher import FAKE_NODE_ANNOTATION, Cluster
from tests.cluster.processes import wait_for
from tests.cluster.releases import NEWEST
from tests.support import OPERATOR_NAMESPACE

pytestmark = pytest.mark.integration

HERE = ("-n", OPERATOR_NAMESPACE)
RESOURCE = "kata.peerpods.io/vm"
KATA_CONFIG = {
    "apiVersion": "kataconfiguration.openshift.io/v1", "kind": "KataConfig",
    "metadata": {"name": "kata"}, "spec": {"enablePeerPods": True, "logLevel": "info"},
}  # fmt: skip


class World:
    """A cluster with an operator, and what tests look at in it."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster

    def settings(self, **data: str) -> None:
        self.cluster.apply({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "peer-pods-cm", "namespace": OPERATOR_NAMESPACE},
            "data": {"CLOUD_PROVIDER": "aws", **data},
        })  # fmt: skip

    def gates(self, **data: str) -> None:
        self.cluster.apply({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "osc-feature-gates", "namespace": OPERATOR_NAMESPACE},
            "data": data,
        })  # fmt: skip

    def approve(self) -> None:
        for plan in self.cluster.get("installplans", *HERE)["items"]:
            if not plan["spec"]["approved"]:
                name = plan["metadata"]["name"]
                self.cluster.kubectl(
                    "patch", "installplan", name, *HERE, "--type=merge", "-p", '{"spec":{"approved":true}}'
                )  # fmt: skip

    def version(self) -> str | None:
        csvs = self.cluster.get("clusterserviceversions", *HERE)["items"]
        (phase, version), *others = [
            (csv.get("status", {}).get("phase"), csv["spec"]["version"]) for csv in csvs
        ] or [(None, None)]
        return version if phase == "Succeeded" and not others else None

    def advertised(self) -> list[str | None]:
        nodes = self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"]
        return [node["status"]["capacity"].get(RESOURCE) for node in nodes]

    def writers(self) -> set[str]:
        """The field managers that own the extended resource in the capacity of any worker."""
        nodes = self.cluster.get(
            "nodes", "-l", "node-role.kubernetes.io/worker", "--show-managed-fields"
        )["items"]
        return {
            entry["manager"]
            for node in nodes
            for entry in node["metadata"]["managedFields"]
            if f"f:{RESOURCE}" in entry["fieldsV1"].get("f:status", {}).get("f:capacity", {})
        }

    def owners(self) -> set[str | None]:
        nodes = self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"]
        return {node["metadata"]["annotations"].get(OWNER) for node in nodes}

    def adaptors(self, name: str = "osc-caa-ds") -> dict[str, str]:
        """The node of each CAA pod, by its uid."""
        pods = self.cluster.get("pods", *HERE, "-l", f"name={name}")["items"]
        return {pod["metadata"]["uid"]: pod["spec"].get("nodeName") for pod in pods}

    def peer_pods(self) -> list[dict]:
        return self.cluster.get("pods", "-n", "default")["items"]

    def lost(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.peer_pods() if lost(pod))


@contextmanager
def first_generation(*, webhook_image: str = "", **settings: str) -> Iterator[World]:
    """Operator 1.8.1 with a KataConfig on two workers. Its catalog has a newer one,
    whose InstallPlan waits for approval."""
    with Cluster() as cluster:
        workers = openshift.imagined_workers(2)
        openshift.fill(cluster, workers, "eu-central-1", peer_pod_configs=False)
        cluster.kubectl("create", "namespace", OPERATOR_NAMESPACE)
        openshift.start_stand_ins(cluster, "process", NEWEST, webhook_image=webhook_image)
        here = World(cluster)
        here.settings(**settings)
        cluster.apply(*openshift.subscription("1.8.1", "Manual"))
        wait_for("the InstallPlan", lambda: cluster.get("installplans", *HERE)["items"], seconds=30)
        here.approve()
        wait_for("operator 1.8.1", lambda: here.version() == "1.8.1", seconds=60)
        cluster.apply(KATA_CONFIG)
        yield here


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with first_generation(webhook_image="webhook:source") as here:
        yield here


def peer_pod(name: str, restart_policy: str = "Always") -> dict:
    resources = {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"runtimeClassName": "kata-remote", "restartPolicy": restart_policy,
                 "automountServiceAccountToken": False,
                 "containers": [{"name": "app", "image": "app", "resources": resources}]},
    }  # fmt: skip


def make_peer_pods(world: World, **policies: str) -> None:
    world.cluster.apply(*(peer_pod(name, policy) for name, policy in policies.items()))

    def run() -> bool:
        pods = [pod for pod in world.peer_pods() if pod["metadata"]["name"] in policies]
        objects = world.cluster.get("peerpods", "-n", "default")["items"]
        return len(objects) >= len(policies) and {pod["status"]["phase"] for pod in pods} == {
            "Running"
        }

    wait_for("the peer pods", run, seconds=60)


def test_1_8_advertises_by_its_controller(world: World):
    """Its definition came with the bundle; a change restarts nothing."""
    wait_for("the default limit", lambda: world.advertised() == ["10", "10"], seconds=60)
    wait_for(
        "cloud-api-adaptor",
        lambda: len(world.adaptors("peerpodconfig-ctrl-caa-daemon")) == 2,
        seconds=60,
    )
    before = world.adaptors("peerpodconfig-ctrl-caa-daemon")
    world.cluster.kubectl("patch", "peerpodconfig", "peerpodconfig-openshift", *HERE, "--type=merge",
                          "-p", '{"spec":{"limit":"5"}}')  # fmt: skip
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)
    assert world.adaptors("peerpodconfig-ctrl-caa-daemon") == before
    assert world.writers() == {"manager"}


def test_the_image_job_fills_in_the_image(world: World):
    data = world.cluster.get("configmap", "peer-pods-cm", *HERE)["data"]
    assert data["PODVM_AMI_ID"].startswith("ami-")


def test_the_operators_webhook_mutates(world: World):
    def ready() -> bool:
        deployment = world.cluster.get("deployment", "peer-pods-webhook", *HERE)
        return deployment["status"].get("readyReplicas") == 1

    wait_for("the webhook", ready, seconds=60)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mutated", "namespace": "default"},
           "spec": {"runtimeClassName": "kata-remote",
                    "containers": [{"name": "app", "image": "app"}]}}  # fmt: skip
    created = json.loads(world.cluster.kubectl(
        "create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod)
    ))  # fmt: skip
    assert created["spec"]["containers"][0]["resources"]["limits"] == {RESOURCE: "1"}


def upgrade(world: World, version: str) -> None:
    """Approve each InstallPlan up to that version."""

    def there() -> bool:
        if world.version() != version:
            world.approve()
        return world.version() == version

    wait_for(f"operator {version}", there, seconds=120)


def test_1_9_and_newer_migrate(world: World):
    """The limit is moved, the PeerPodConfig and its DaemonSet go, the definition and other ones stay."""
    other = openshift.peer_pod_config("none")
    other["metadata"]["name"] = "other"
    world.cluster.apply(other)

    upgrade(world, "1.9.1")
    wait_for("the new DaemonSet", lambda: len(world.adaptors()) == 2, seconds=60)
    configs = world.cluster.get("peerpodconfigs", *HERE)["items"]
    assert [config["metadata"]["name"] for config in configs] == ["other"]
    data = world.cluster.get("configmap", "peer-pods-cm", *HERE)["data"]
    assert data["PEERPODS_LIMIT_PER_NODE"] == "5"
    wait_for(
        "the old DaemonSet to go",
        lambda: not world.adaptors("peerpodconfig-ctrl-caa-daemon"),
        seconds=60,
    )
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=60)
    assert world.owners() == {None}


def test_1_9_reads_its_settings_when_a_pod_starts(world: World):
    """It neither watches peer-pods-cm nor knows caaUpdateStrategy."""
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="4")
    world.gates(caaUpdateStrategy="OnDelete")
    gone, *_ = before
    delete_adaptors(world, {gone})
    wait_for("the limit on one node", lambda: sorted(world.advertised()) == ["4", "5"], seconds=60)
    assert len(before.keys() - world.adaptors().keys()) == 1
    # Who writes what a field has already does not become its manager: the other node is still the old operator's.
    assert world.writers() == {"manager", MANAGER}
    template = world.cluster.get("daemonset", "osc-caa-ds", *HERE)["spec"]
    assert template["updateStrategy"]["type"] == "RollingUpdate"
    assert "annotations" not in template["template"]["metadata"]
    world.settings(PEERPODS_LIMIT_PER_NODE="5")
    world.gates()


def delete_adaptors(world: World, uids: set[str]) -> None:
    for pod in world.cluster.get("pods", *HERE, "-l", "name=osc-caa-ds")["items"]:
        if pod["metadata"]["uid"] in uids:
            world.cluster.kubectl("delete", "pod", pod["metadata"]["name"], *HERE)


def test_1_13_names_the_owner(world: World):
    upgrade(world, "1.13.0")
    wait_for("the owners", lambda: world.owners() == world.adaptors().keys(), seconds=120)
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=30)


def test_a_write_to_peer_pods_cm_loses_the_peer_pods_of_every_node(world: World):
    make_peer_pods(world, always="Always", never="Never")
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="6")
    wait_for("new pods", lambda: not before.keys() & world.adaptors().keys() and len(world.adaptors()) == 2,
             seconds=60)  # fmt: skip
    wait_for("the limit", lambda: world.advertised() == ["6", "6"], seconds=30)
    assert world.lost() == ["always", "never"]
    assert world.owners() == world.adaptors().keys()

    def machines() -> int:
        objects = world.cluster.get("peerpods", "-n", "default")["items"]
        owners = [one["metadata"]["ownerReferences"][0]["name"] for one in objects]
        return owners.count("always")

    # A second VM; the first one stays until the pod is deleted.
    wait_for("the second VM", lambda: machines() == 2, seconds=30)
    world.cluster.kubectl("delete", "pods", "--all", "-n", "default", "--force", "--grace-period=0")
    wait_for(
        "the PeerPods to go",
        lambda: not world.cluster.get("peerpods", "-n", "default")["items"],
        seconds=30,
    )


def test_with_on_delete_a_pod_stays_until_it_is_deleted(world: World):
    def strategy() -> str:
        return world.cluster.get("daemonset", "osc-caa-ds", *HERE)["spec"]["updateStrategy"]["type"]

    for value, expected in (("ondelete", "RollingUpdate"), ("OnDelete", "OnDelete")):
        world.gates(caaUpdateStrategy=value)
        wait_for(f"the strategy {expected}", lambda e=expected: strategy() == e, seconds=30)
    make_peer_pods(world, kept="Always")
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="7")
    version = world.cluster.get("configmap", "peer-pods-cm", *HERE)["metadata"]["resourceVersion"]

    def template() -> str:
        found = world.cluster.get("daemonset", "osc-caa-ds", *HERE)
        return found["spec"]["template"]["metadata"]["annotations"]["peer-pods-cm/version"]

    wait_for("the new template", lambda: template() == version, seconds=30)
    assert world.adaptors() == before
    assert world.advertised() == ["6", "6"]
    assert world.lost() == []
    (pod,) = world.peer_pods()
    elsewhere = next(uid for uid, node in before.items() if node != pod["spec"]["nodeName"])
    delete_adaptors(world, {elsewhere})
    wait_for("the limit on one node", lambda: sorted(world.advertised()) == ["6", "7"], seconds=30)
    assert world.lost() == []


def test_a_container_that_is_killed_removes_nothing(world: World):
    """It comes back with the number of its environment, and the peer pod gets another VM."""
    (pod,) = world.peer_pods()
    nodes = {node: uid for uid, node in world.adaptors().items()}
    uid = nodes[pod["spec"]["nodeName"]]
    for one in world.cluster.get("pods", *HERE, "-l", "name=osc-caa-ds")["items"]:
        if one["metadata"]["uid"] == uid:
            name = one["metadata"]["name"]
    world.cluster.kubectl("annotate", "pod", name, *HERE, f"{RESTART}=1")

    def restarted() -> bool:
        (status,) = world.cluster.get("pod", name, *HERE)["status"]["containerStatuses"]
        return (status["restartCount"], status["ready"]) == (1, True)

    wait_for("the container", restarted, seconds=30)
    assert uid in world.adaptors()
    assert world.advertised() == ["7", "7"]
    wait_for("the peer pod to be lost", lambda: world.lost() == ["kept"], seconds=30)


def test_the_newest_takes_what_its_limit_begins_with(world: World):
    """And 10 where that is not a number (IntWithEnv)."""
    world.cluster.kubectl("delete", "pods", "--all", "-n", "default", "--force", "--grace-period=0")
    for text, number in (("many", "10"), ("20abc", "20")):
        world.settings(PEERPODS_LIMIT_PER_NODE=text)
        delete_adaptors(world, set(world.adaptors()))
        wait_for(number, lambda n=number: world.advertised() == [n, n], seconds=90)


def test_an_older_one_crashes_with_a_limit_that_is_not_a_number(world: World):
    """A peer pod then waits; with a number, both run."""
    world.settings(PEERPODS_LIMIT_PER_NODE="many")
    node = {"name": "older", "annotations": FAKE_NODE_ANNOTATION}
    room = {"capacity": {"pods": "250"}, "allocatable": {"pods": "250"}}
    world.cluster.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": node, "status": room},
        {"apiVersion": "v1", "kind": "Pod",
         "metadata": {"name": "caa", "namespace": OPERATOR_NAMESPACE,
                      # The operator's DaemonSet would adopt a pod with its own label.
                      "labels": {"name": "peerpodconfig-ctrl-caa-daemon"}},
         "spec": {"nodeName": "older", "containers": [{"name": "caa-pod", "image": "caa:1.10.0"}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waits", "namespace": "default"},
         "spec": {"runtimeClassName": "kata-remote", "nodeName": "older",
                  "nodeSelector": {"node-role.kubernetes.io/kata-oc": ""},
                  "containers": [{"name": "app", "image": "app"}]}},
    )  # fmt: skip

    def state(name: str, namespace: str) -> dict:
        pod = world.cluster.get("pod", name, "-n", namespace)
        (status,) = pod["status"].get("containerStatuses") or [{}]
        return status.get("state", {})

    for pod, reason in (
        (("waits", "default"), "ContainerCreating"),
        (("caa", HERE[1]), "CrashLoopBackOff"),
    ):
        waiting = {"waiting": {"reason": reason}}
        wait_for(reason, lambda p=pod, w=waiting: state(*p) == w, seconds=60)

    def capacity() -> dict:
        return world.cluster.get("node", "older")["status"]["capacity"]

    assert RESOURCE not in capacity()
    world.settings(PEERPODS_LIMIT_PER_NODE="3")
    wait_for("the limit", lambda: capacity().get(RESOURCE) == "3", seconds=60)
    wait_for("the peer pod", lambda: "running" in state("waits", "default"), seconds=30)
    world.cluster.kubectl("delete", "pod", "caa", *HERE)
    world.cluster.kubectl("delete", "node", "older")


def test_a_negative_limit_advertises_nothing(world: World):
    world.cluster.kubectl("delete", "pods", "--all", "-n", "default", "--force", "--grace-period=0")
    before = world.adaptors()
    world.settings(PEERPODS_LIMIT_PER_NODE="-1")
    delete_adaptors(world, set(before))
    wait_for("new pods", lambda: not before.keys() & world.adaptors().keys() and len(world.adaptors()) == 2,
             seconds=60)  # fmt: skip
    wait_for("nothing to be advertised", lambda: world.advertised() == [None, None], seconds=30)


def test_without_the_kataconfig_nothing_is_left(world: World):
    world.cluster.kubectl("delete", "kataconfig", "kata", "--timeout=60s")
    wait_for("cloud-api-adaptor to go", lambda: not world.adaptors(), seconds=30)
    for kind in ("daemonsets", "deployments", "services"):
        assert world.cluster.get(kind, *HERE)["items"] == []
    assert world.cluster.get("mutatingwebhookconfigurations")["items"] == []
    assert world.cluster.get("configmap", "peer-pods-cm", *HERE)["data"]["PODVM_AMI_ID"] == ""
