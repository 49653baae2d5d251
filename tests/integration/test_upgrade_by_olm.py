"""An upgrade from the operator's first generation to the second that OLM starts by itself, while the agent runs.

Peer pods are created during the upgrade. What each node advertises is compared with the state of its
cloud-api-adaptor (CAA), in the order in which the API server stored both.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.cluster import openshift
from tests.cluster.api import Api
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.cluster.releases import RELEASES
from tests.integration.agent import AGENT_NAMESPACE, start_agent
from tests.integration.test_stand_ins import NAMESPACE_ARGS, RESOURCE, World, first_generation, peer_pod
from tests.support import OPERATOR_NAMESPACE

LIMIT = 5
WORKERS = "node-role.kubernetes.io/worker"
PODS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
ADAPTORS = {row.daemon_set for row in RELEASES}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Operator 1.8.1 with a limit, the agent, and a catalog with a newer version."""
    with first_generation(PODVM_AMI_ID="ami-0") as first:
        wait_for("the default limit", lambda: first.advertised() == ["10", "10"], seconds=60)
        first.cluster.kubectl("create", "namespace", AGENT_NAMESPACE)
        start_agent(first.cluster)
        first.cluster.merge(
            "peerpodconfig/peerpodconfig-openshift", {"spec": {"limit": str(LIMIT)}}, OPERATOR_NAMESPACE
        )
        wait_for("the limit", lambda: set(first.advertised()) == {str(LIMIT)}, seconds=30)
        yield first


class Recorder(threading.Thread):
    """The writes to a collection since the start of the thread, as (resource version, event, object)."""

    def __init__(self, cluster: Cluster, path: str, selector: str = ""):
        super().__init__(daemon=True)
        self._api = Api(str(cluster.kubeconfig))
        self._path = f"{path}?labelSelector={selector}"
        listed = self._api.request("GET", self._path)
        self.before = listed["items"]
        self._since = int(listed["metadata"]["resourceVersion"])
        self.seen: list[tuple[int, str, dict]] = []
        self.start()

    def run(self) -> None:
        for line in self._api.stream(f"{self._path}&watch=true&timeoutSeconds=300&resourceVersion={self._since}"):
            event = json.loads(line)
            item = event["object"]
            self.seen.append((int(item["metadata"]["resourceVersion"]), event["type"], item))

    def catch_up(self) -> None:
        """Wait until the record has the last write to each object that exists."""
        items = self._api.request("GET", self._path)["items"]
        newest = max(int(item["metadata"]["resourceVersion"]) for item in items)
        wait_for(
            "the record",
            lambda: max([self._since, *(version for version, _, _ in self.seen)]) >= newest,
            seconds=30,
        )


def slots(node: dict) -> int:
    return int(node["status"]["allocatable"].get(RESOURCE, 0))


def is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def is_adaptor(pod: dict) -> bool:
    return pod["metadata"].get("labels", {}).get("name") in ADAPTORS and "nodeName" in pod["spec"]


def create_peer_pods(cluster: Cluster, stop: threading.Event) -> None:
    """Create peer pods in sequence during the upgrade."""
    api = Api(str(cluster.kubeconfig))
    for number in range(300):
        if stop.wait(0.2):
            return
        api.request("POST", "/api/v1/namespaces/default/pods", peer_pod(f"pod-{number}"))


def test_a_node_has_fewer_slots_than_its_limit_only_while_its_adaptor_is_down(world: World):
    nodes, pods = Recorder(world.cluster, "/api/v1/nodes", WORKERS), Recorder(world.cluster, PODS)
    stop = threading.Event()
    creating = threading.Thread(target=create_peer_pods, args=(world.cluster, stop))
    creating.start()
    try:
        world.cluster.apply(*openshift.subscription("1.8.1", "Automatic"))
        world.approve()
        wait_for("the newest operator", lambda: world.version() == "1.13.0", seconds=120)

        def settled() -> bool:
            adaptors = list(filter(is_adaptor, world.cluster.get("pods", *NAMESPACE_ARGS)["items"]))
            # The DaemonSet of the newest release comes after the operator.
            new = all(pod["spec"]["containers"][0]["image"].endswith(":1.13.0") for pod in adaptors)
            workers = world.cluster.get("nodes", "-l", WORKERS)["items"]
            return new and [is_ready(pod) for pod in adaptors] == [True, True] and set(map(slots, workers)) == {LIMIT}

        wait_for("both nodes to advertise the limit again", settled, seconds=120)
    finally:
        stop.set()
        creating.join()
    nodes.catch_up()
    pods.catch_up()
    assert world.cluster.get("peerpodconfigs", "-A")["items"] == []
    names = [node["metadata"]["name"] for node in nodes.before]
    outages, dips = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    ready = {pod["metadata"]["uid"] for pod in pods.before if is_adaptor(pod) and is_ready(pod)}
    enough = dict.fromkeys(names, True)
    for _, event, item in sorted([*nodes.seen, *pods.seen], key=lambda record: record[0]):
        if item["kind"] == "Node":
            name = item["metadata"]["name"]
            now = slots(item) >= LIMIT
            dips[name] += enough[name] and not now
            enough[name] = now
        elif is_adaptor(item):
            uid, now = item["metadata"]["uid"], event != "DELETED" and is_ready(item)
            outages[item["spec"]["nodeName"]] += uid in ready and not now
            (ready.add if now else ready.discard)(uid)
    # The operator replaces the DaemonSet, so that each node is without one for a while.
    assert all(outages.values())
    assert {name: dips[name] for name in names if dips[name] > outages[name]} == {}
    assert all(enough.values())
