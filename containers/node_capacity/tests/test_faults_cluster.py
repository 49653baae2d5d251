"""Failures around the agent. These tests have their own API server, because they stop it."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator

import pytest
from agent_process import Workspace, until

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.support import ROOT

PEER_POD_CONFIGS = "peerpodconfigs.confidentialcontainers.org"
CRD = ROOT / "tests" / "cluster" / "crds" / f"{PEER_POD_CONFIGS}.yaml"

# Seconds within which the agent finds an API that is served again, with time for the API server.
DISCOVERY = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(definitions=openshift.definitions()) as running:
        openshift.fill(running, (), "eu-central-1")
        yield running


@contextlib.contextmanager
def restored_etcd(cluster: Cluster) -> Iterator[None]:
    """Back up etcd, and restore the backup after the block."""
    data, backup = cluster.directory / "etcd", cluster.directory / "etcd-backup"
    cluster.processes.end("etcd")
    shutil.copytree(data, backup)
    cluster.processes.restart("etcd")
    yield
    cluster.processes.end("kube-apiserver")
    cluster.processes.end("etcd")
    shutil.rmtree(data)
    backup.rename(data)
    cluster.processes.restart("etcd")
    cluster.restart_api_server()


def test_an_api_server_that_is_down_for_longer_than_a_lease(workspace: Workspace, cluster: Cluster):
    """One replica becomes the leader again, and a new list has the changes in between."""
    node = workspace.node("a")
    workspace.config("c", "3")
    agents = [workspace.start(LEASE_DURATION_SECONDS="3"), workspace.start(LEASE_DURATION_SECONDS="3")]
    until(lambda: workspace.slots(node), ("3", "3"))
    cluster.restart_api_server(down_seconds=15)
    workspace.config("c", "4")
    workspace.set_status(node, "0")
    new_node = workspace.node("late")
    until(lambda: (workspace.slots(node), workspace.slots(new_node)), (("4", "4"), ("4", "4")), seconds=90)
    until(lambda: sorted(agent.leads() for agent in agents), [False, True], seconds=60)
    until(lambda: [agent.get("/readyz") for agent in agents], [200, 200])
    for agent in agents:
        # Of the failures in a row, fewer and fewer are logged: of one collection, at most 7 in 90 s.
        refused = [r for r in agent.log("warning") if "GET /api/v1/nodes failed: no response" in r["message"]]
        assert 0 < len(refused) < 10


def test_an_etcd_that_is_restored_from_a_backup(workspace: Workspace, cluster: Cluster):
    """The Lease, the limits and the nodes are those of the backup, whose resourceVersions are lower."""
    node, deleted = workspace.node("a"), workspace.node("deleted")
    workspace.config("c", "3")
    agents = [workspace.start(LEASE_DURATION_SECONDS="3"), workspace.start(LEASE_DURATION_SECONDS="3")]
    until(lambda: (workspace.slots(node), workspace.slots(deleted)), (("3", "3"), ("3", "3")))
    with restored_etcd(cluster):
        workspace.config("c", "4")
        # The API server pauses longer and longer before it connects to etcd again.
        until(lambda: workspace.slots(node), ("4", "4"), seconds=90)
        cluster.delete("node", deleted)
    until(lambda: (workspace.slots(node), workspace.slots(deleted)), (("3", "3"), ("3", "3")), seconds=90)
    until(lambda: sorted(agent.leads() for agent in agents), [False, True], seconds=60)
    workspace.config("c", "5")
    until(lambda: (workspace.slots(node), workspace.slots(deleted)), (("5", "5"), ("5", "5")), seconds=60)


def test_a_stalled_watch_resumes(workspace: Workspace):
    """The agent loses the Lease and acquires it again."""
    node, deselected = workspace.node("a"), workspace.node("gone")
    workspace.config("c", "3")
    link = workspace.link()
    agent = workspace.start(link.server, LEASE_DURATION_SECONDS="3")
    until(lambda: workspace.slots(node), ("3", "3"))
    link.stall()
    until(agent.leads, False)
    for limit in ("4", "5", "6"):
        workspace.config("c", limit)
    workspace.relabel(deselected, f"{workspace.label}-")
    assert workspace.slots(node) == ("3", "3")
    link.resume()
    until(lambda: workspace.slots(node), ("6", "6"))
    until(lambda: workspace.slots(deselected), (None, None))
    until(lambda: agent.patched(node)[-1], 6)


def test_nodes_that_are_deleted_during_a_limit_change(workspace: Workspace, cluster: Cluster):
    nodes = workspace.nodes(40)
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: set(workspace.all_slots().values()), {("3", "3")})
    deleting = threading.Thread(target=cluster.delete, args=("node", *nodes[:20], "--wait=false"))
    deleting.start()
    for limit in ("4", "5", "6", "7"):
        workspace.config("c", limit)
    deleting.join()
    workspace.forget(nodes[:20])
    until(lambda: set(workspace.all_slots().values()), {("7", "7")})
    desired = ("peerpods_node_slots_desired",)
    until(lambda: {key[1] for key in agent.metrics() if key[:1] == desired}, set(nodes[20:]))
    # Patches of deleted nodes are not retried forever.
    warned = len(agent.warnings())
    workspace.config("c", "8")
    until(lambda: set(workspace.all_slots().values()), {("8", "8")})
    assert len(agent.warnings()) == warned


def test_another_writer_causes_backoff(workspace: Workspace):
    """The agent backs off, and its value is the last one."""
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))

    def warned() -> list[tuple[str, bool]]:
        workspace.set_status(node, "0")
        return [(r.get("node"), "managedFields" in r["message"]) for r in agent.warnings()]

    # It warns after a number of corrections. What is written during one of them needs no other.
    until(warned, [(node, True)])
    for _ in range(20):
        workspace.set_status(node, "0")
    until(lambda: workspace.slots(node), ("3", "3"), seconds=60)
    assert len(agent.patched(node)) < 20
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"), seconds=60)


@pytest.fixture
def install(cluster: Cluster):
    """Install the CustomResourceDefinition of PeerPodConfigs; it is installed again at the end."""

    def install() -> None:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD))
        cluster.kubectl("wait", "crd", PEER_POD_CONFIGS, "--for=condition=Established")

    yield install
    install()


def test_an_api_of_peerpodconfigs_that_is_installed_and_removed(workspace: Workspace, cluster: Cluster, install):
    """Operators from 1.9 on do not install it, upgrades leave it, and users may delete it."""
    node, memory = workspace.node("a"), workspace.node("memory")
    workspace.relabel(memory, "pool=memory")
    cluster.delete("crd", PEER_POD_CONFIGS)
    workspace.peer_pods_cm("20")
    workspace.daemon_set()
    agent = workspace.start()
    until(lambda: [workspace.slots(node), workspace.slots(memory)], [("20", "20")] * 2)
    listed = ("peerpods_node_capacity_requests_total", "404", "list")
    looked = agent.metrics()[listed]
    for limit in ("4", "6"):
        install()
        workspace.config("memory", limit, selector={"pool": "memory", workspace.label: ""})
        until(lambda: workspace.slots(memory), (limit, limit), seconds=DISCOVERY)
        # A watch follows the changes.
        workspace.config("memory", "9", selector={"pool": "memory", workspace.label: ""})
        until(lambda: workspace.slots(memory), ("9", "9"), seconds=5)
        cluster.delete("crd", PEER_POD_CONFIGS)
        until(lambda: workspace.slots(memory), ("20", "20"), seconds=DISCOVERY)
        assert agent.get("/readyz") == 200
    assert workspace.slots(node) == ("20", "20")
    until(lambda: agent.patched(node), [20])
    # The agent requests the API every ten seconds.
    assert agent.metrics()[listed] - looked < 20
