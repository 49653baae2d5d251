"""What breaks around the agent, with an API server of their own, since that goes down as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from agent_process import Place, until

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.support import ROOT

PEER_POD_CONFIGS = "peerpodconfigs.confidentialcontainers.org"
CRD = ROOT / "tests" / "cluster" / "crds" / f"{PEER_POD_CONFIGS}.yaml"

# Seconds within which the agent finds an API that is served again, with time for the API server.
FOUND = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        openshift.fill(running, (), "eu-central-1")
        yield running


def test_an_api_server_that_is_down_for_longer_than_a_lease(place: Place, cluster: Cluster):
    """One leads again, and what changed meanwhile (or at once) is caught up with by a new list."""
    node = place.node("a")
    place.config("c", "3")
    agents = [place.start(LEASE_DURATION_SECONDS="3"), place.start(LEASE_DURATION_SECONDS="3")]
    until(lambda: place.slots(node), ("3", "3"))
    cluster.restart_api_server(down_seconds=10)
    place.config("c", "4")
    place.set_status(node, "0")
    late = place.node("late")
    until(lambda: (place.slots(node), place.slots(late)), (("4", "4"), ("4", "4")), seconds=90)
    until(lambda: sorted(agent.leads() for agent in agents), [False, True], seconds=60)
    for agent in agents:
        assert agent.get("/readyz") == 200
        # From a quarter of a second on, each wait is twice the one before: no storm.
        refused = [r for r in agent.log("warning") if "no answer" in r["message"]]
        assert 0 < len(refused) < 60


def test_an_api_server_that_no_longer_knows_where_we_stood(place: Place, cluster: Cluster):
    """A new one has only what is now: it answers our watches with 410 Gone."""
    node, gone = place.node("a"), place.node("gone")
    place.config("c", "3")
    link = place.link()
    agent = place.start(link.server)
    until(lambda: (place.slots(node), place.slots(gone)), (("3", "3"), ("3", "3")))
    link.cut()
    place.config("c", "4")
    place.set_status(node, "0")
    place.relabel(gone, f"{place.label}-")
    cluster.restart_api_server()
    link.mend()
    until(lambda: (place.slots(node), place.slots(gone)), (("4", "4"), (None, None)), seconds=60)
    again = [record["message"] for record in agent.log("info")]
    again = [message for message in again if message.startswith("Listing /api/v1/nodes again")]
    assert len(again) == 1
    assert "410" in again[0]


def test_a_watch_that_is_slow_is_caught_up_with(place: Place):
    """The Lease is lost meanwhile and taken again."""
    node, gone = place.node("a"), place.node("gone")
    place.config("c", "3")
    link = place.link()
    agent = place.start(link.server, LEASE_DURATION_SECONDS="3")
    until(lambda: place.slots(node), ("3", "3"))
    link.stall()
    until(agent.leads, False)
    for limit in ("4", "5", "6"):
        place.config("c", limit)
    place.relabel(gone, f"{place.label}-")
    assert place.slots(node) == ("3", "3")
    link.flow()
    until(lambda: place.slots(node), ("6", "6"))
    until(lambda: place.slots(gone), (None, None))
    until(lambda: agent.patched(node)[-1], 6)


def test_nodes_that_go_in_the_middle_of_a_change(place: Place, cluster: Cluster):
    nodes = place.nodes(40)
    place.config("c", "3")
    agent = place.start()
    until(lambda: set(place.all_slots().values()), {("3", "3")})
    deleting = threading.Thread(target=cluster.kubectl, args=("delete", "node", *nodes[:20], "--wait=false"))
    deleting.start()
    for limit in ("4", "5", "6", "7"):
        place.config("c", limit)
    deleting.join()
    place.forget(nodes[:20])
    until(lambda: set(place.all_slots().values()), {("7", "7")})
    desired = ("peerpods_node_slots_desired",)
    until(lambda: {key[1] for key in agent.metrics() if key[:1] == desired}, set(nodes[20:]))
    # What could not be patched because it was gone is not tried for ever.
    warned = len(agent.log("warning"))
    place.config("c", "8")
    until(lambda: set(place.all_slots().values()), {("8", "8")})
    assert len(agent.log("warning")) == warned


def test_another_writer_does_not_make_a_storm(place: Place):
    """It gives in for a while after six times; its own word is the last one."""
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    for _ in range(30):
        place.set_status(node, "0")
    (warning,) = agent.log("warning")
    assert warning["node"] == node
    assert "managedFields" in warning["message"]
    until(lambda: place.slots(node), ("3", "3"), seconds=60)
    assert len(agent.patched(node)) < 20
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"), seconds=60)


@pytest.fixture
def install(cluster: Cluster):
    """Install the CustomResourceDefinition of PeerPodConfigs; it is there in the end."""

    def install() -> None:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD))
        cluster.kubectl("wait", "crd", PEER_POD_CONFIGS, "--for=condition=Established")

    yield install
    install()


def test_an_api_of_peerpodconfigs_that_comes_and_goes(place: Place, cluster: Cluster, install):
    """Operators from 1.9 on do not install it, upgrades leave it, and a user may delete it."""
    node, memory = place.node("a"), place.node("memory")
    place.relabel(memory, "pool=memory")
    cluster.kubectl("delete", "crd", PEER_POD_CONFIGS)
    place.peer_pods_cm("20")
    place.daemon_set()
    agent = place.start()
    until(lambda: [place.slots(node), place.slots(memory)], [("20", "20")] * 2)
    listed = ("peerpods_node_capacity_requests_total", "404", "list")
    looked = agent.metrics()[listed]
    for limit in ("4", "6"):
        install()
        place.config("memory", limit, selector={"pool": "memory", place.label: ""})
        until(lambda: place.slots(memory), (limit, limit), seconds=FOUND)
        # Changes are followed, and not only looked for now and then.
        place.config("memory", "9", selector={"pool": "memory", place.label: ""})
        until(lambda: place.slots(memory), ("9", "9"), seconds=5)
        cluster.kubectl("delete", "crd", PEER_POD_CONFIGS)
        until(lambda: place.slots(memory), ("20", "20"), seconds=FOUND)
        assert agent.get("/readyz") == 200
    assert place.slots(node) == ("20", "20")
    until(lambda: agent.patched(node), [20])
    # It looks every ten seconds or so, not all the time.
    assert agent.metrics()[listed] - looked < 20
