"""An upgrade from the operator's first generation to the second that OLM does by itself, with the agent at work.

Peer pods are created all the while. What each node advertises is held against what its cloud-api-adaptor (CAA) did,
in the order in which the API server stored both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.cluster.operators import Api
from tests.cluster.processes import free_ports, wait_for
from tests.cluster.releases import NEWEST, RELEASES
from tests.integration.test_stand_ins import HERE, KATA_CONFIG, RESOURCE, World, subscription
from tests.support import OPERATOR_NAMESPACE, ROOT

pytestmark = pytest.mark.integration

LIMIT = 5
WORKERS = "node-role.kubernetes.io/worker"
PODS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
ADAPTORS = {row.daemon_set for row in RELEASES}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Operator 1.8.1 with a limit, the agent, and a catalog that has a newer one."""
    (port,) = free_ports(1)
    with Cluster() as cluster:
        workers = openshift.imagined_workers(2)
        openshift.fill(cluster, workers, "eu-central-1", peer_pod_configs=False)
        cluster.kubectl("create", "namespace", OPERATOR_NAMESPACE)
        cluster.kubectl("create", "namespace", "osc-peerpods")
        openshift.start_stand_ins(cluster, "process", NEWEST)
        here = World(cluster)
        here.settings(PODVM_AMI_ID="ami-0")
        cluster.apply(*subscription("1.8.1", "Manual"))
        wait_for("the InstallPlan", lambda: cluster.get("installplans", *HERE)["items"], seconds=30)
        here.approve()
        wait_for("operator 1.8.1", lambda: here.version() == "1.8.1", seconds=60)
        cluster.apply(KATA_CONFIG)
        wait_for("the default limit", lambda: here.advertised() == ["10", "10"], seconds=60)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT / "containers" / "node_capacity"),
            "KUBECONFIG": str(cluster.kubeconfig), "NAMESPACE": "osc-peerpods",
            "BIND_ADDRESS": "127.0.0.1", "HEALTH_PORT": str(port),
        }  # fmt: skip
        log = (tmp_path_factory.mktemp("agent") / "log").open("w")
        agent = subprocess.Popen(
            [sys.executable, "-m", "peerpods_node_capacity"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        cluster.kubectl("patch", "peerpodconfig", "peerpodconfig-openshift", *HERE, "--type=merge",
                        "-p", json.dumps({"spec": {"limit": str(LIMIT)}}))  # fmt: skip
        wait_for("the limit", lambda: set(here.advertised()) == {str(LIMIT)}, seconds=30)
        yield here
        agent.kill()
        agent.wait()


class Recorder(threading.Thread):
    """All that the API server stored of a collection since then, as (resource version, event, object)."""

    def __init__(self, cluster: Cluster, path: str, selector: str = ""):
        super().__init__(daemon=True)
        self._api = Api(str(cluster.kubeconfig))
        self._watch = f"{path}?watch=true&timeoutSeconds=300&labelSelector={selector}"
        listed = self._api.request("GET", f"{path}?labelSelector={selector}")
        self.before = listed["items"]
        self._watch += f"&resourceVersion={listed['metadata']['resourceVersion']}"
        self.seen: list[tuple[int, str, dict]] = []
        self.start()

    def run(self) -> None:
        for line in self._api.stream(self._watch):
            event = json.loads(line)
            found = event["object"]
            self.seen.append((int(found["metadata"]["resourceVersion"]), event["type"], found))


def slots(node: dict) -> int:
    return int(node["status"]["allocatable"].get(RESOURCE, 0))


def is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        one["type"] == "Ready" and one["status"] == "True" for one in conditions
    )


def is_adaptor(pod: dict) -> bool:
    return pod["metadata"].get("labels", {}).get("name") in ADAPTORS and "nodeName" in pod["spec"]


def create_peer_pods(cluster: Cluster, stop: threading.Event) -> None:
    """One after the other, as long as the upgrade takes."""
    api = Api(str(cluster.kubeconfig))
    resources = {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}
    for number in range(300):
        if stop.wait(0.2):
            return
        spec = {"runtimeClassName": "kata-remote", "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "app", "resources": resources}]}  # fmt: skip
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}"},
            "spec": spec,
        }
        api.request("POST", "/api/v1/namespaces/default/pods", pod)


def test_no_node_has_fewer_slots_than_its_limit_but_while_its_adaptor_is_down(world: World):
    nodes, pods = Recorder(world.cluster, "/api/v1/nodes", WORKERS), Recorder(world.cluster, PODS)
    stop = threading.Event()
    creating = threading.Thread(target=create_peer_pods, args=(world.cluster, stop))
    creating.start()
    try:
        world.cluster.apply(*subscription("1.8.1", "Automatic"))
        world.approve()
        wait_for("the newest operator", lambda: world.version() == "1.13.0", seconds=120)

        def settled() -> bool:
            ready = [pod for pod in world.cluster.get("pods", *HERE)["items"] if is_adaptor(pod)]
            return [is_ready(pod) for pod in ready] == [True, True] and set(world.advertised()) == {
                str(LIMIT)
            }

        wait_for("both nodes to advertise the limit again", settled, seconds=120)
    finally:
        stop.set()
        creating.join()
    assert "peerpodconfigs" not in world.cluster.kubectl(
        "get", "peerpodconfigs", "-A", "-o", "name"
    )
    outages, dips = dict.fromkeys(world_nodes(world), 0), dict.fromkeys(world_nodes(world), 0)
    ready = {pod["metadata"]["uid"] for pod in pods.before if is_adaptor(pod) and is_ready(pod)}
    enough = dict.fromkeys(outages, True)
    for _, event, found in sorted([*nodes.seen, *pods.seen], key=lambda one: one[0]):
        if found["kind"] == "Node":
            name = found["metadata"]["name"]
            now = slots(found) >= LIMIT
            dips[name] += enough[name] and not now
            enough[name] = now
        elif is_adaptor(found):
            uid, now = found["metadata"]["uid"], event != "DELETED" and is_ready(found)
            outages[found["spec"]["nodeName"]] += uid in ready and not now
            (ready.add if now else ready.discard)(uid)
    # The operator replaces the DaemonSet, so that each node is without one for a while.
    assert all(outages.values())
    assert {name: dips[name] for name in dips if dips[name] > outages[name]} == {}
    assert all(enough.values())


def world_nodes(world: World) -> list[str]:
    return [node["metadata"]["name"] for node in world.cluster.get("nodes", "-l", WORKERS)["items"]]
