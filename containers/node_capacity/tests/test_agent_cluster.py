"""The agent as a process, with the rights its role gives it, against a real API server.

Needs the fixture `cluster`: `kubeconfig` (a path, the administrator's) and
`kubectl(*arguments, input=None)`, with the PeerPodConfig CRD installed. Each test
has a namespace, a resource name and nodes of its own, and leaves the cluster as
it was: any number of agents and tests can share it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

# Exactly what the README says the agent needs: in the whole cluster, in the PeerPodConfigs'
# namespace and in its own.
CLUSTER_RIGHTS = [
    {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]
CONFIG_GROUP = "confidentialcontainers.org"
CONFIG_RIGHTS = [
    {"apiGroups": [CONFIG_GROUP], "resources": ["peerpodconfigs"], "verbs": ["list", "watch"]},
    {"apiGroups": [CONFIG_GROUP], "resources": ["peerpodconfigs/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
LEASE, CONFIGMAP = "peerpods-node-capacity", "peerpods-cloud-capacity"
OWN_RIGHTS = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
        "resourceNames": [LEASE], "verbs": ["list", "watch", "patch"],
    },
    {
        "apiGroups": [""], "resources": ["configmaps"],
        "resourceNames": [CONFIGMAP], "verbs": ["list", "watch"],
    },
]  # fmt: skip


def until(probe: Callable[[], object], expected: object, seconds: float = 30) -> None:
    """Wait until `probe()` returns `expected`."""
    deadline = time.monotonic() + seconds
    while (found := probe()) != expected:
        assert time.monotonic() < deadline, f"still {found!r} instead of {expected!r}"
        time.sleep(0.1)


class Place:
    """A corner of the cluster for one test: namespace, resource, service account, nodes."""

    def __init__(self, cluster, directory: Path):
        self.id = f"nodecap-{uuid.uuid4().hex[:8]}"
        self.resource = f"{self.id}.example.com/vm"
        self.label = f"{self.id}.example.com/kata"
        self._kubectl = cluster.kubectl
        self._directory = directory
        self._nodes: list[str] = []
        self._processes: list[subprocess.Popen] = []
        account = {"kind": "ServiceAccount", "name": self.id, "namespace": self.id}
        role, binding = "rbac.authorization.k8s.io/v1", {"name": self.id, "namespace": self.id}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.id}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": binding},
            {
                "apiVersion": role, "kind": "Role", "metadata": binding,
                "rules": CONFIG_RIGHTS + OWN_RIGHTS,
            },
            {
                "apiVersion": role, "kind": "RoleBinding", "metadata": binding,
                "roleRef": {"apiGroup": role[:-3], "kind": "Role", "name": self.id},
                "subjects": [account],
            },
            {
                "apiVersion": role, "kind": "ClusterRole", "metadata": {"name": self.id},
                "rules": CLUSTER_RIGHTS,
            },
            {
                "apiVersion": role, "kind": "ClusterRoleBinding", "metadata": {"name": self.id},
                "roleRef": {"apiGroup": role[:-3], "kind": "ClusterRole", "name": self.id},
                "subjects": [account],
            },
        )  # fmt: skip
        view = self._kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json")
        self._api = json.loads(view)["clusters"][0]["cluster"]
        self._token = self._kubectl("create", "token", self.id, "-n", self.id).strip()

    def apply(self, *objects: dict) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._kubectl("apply", "--server-side", "-f", "-", input=json.dumps(items))

    def config(self, name: str, limit: str | None, selector: dict[str, str] | None = None) -> None:
        """Create or change a PeerPodConfig; by default it selects this place's labelled nodes."""
        spec = {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "nodeSelector": {self.label: ""} if selector is None else selector,
        }
        self.apply(
            {
                "apiVersion": "confidentialcontainers.org/v1alpha1",
                "kind": "PeerPodConfig",
                "metadata": {"name": name, "namespace": self.id},
                "spec": spec if limit is None else {**spec, "limit": limit},
            }
        )

    def delete_config(self, name: str) -> None:
        self._kubectl("delete", "peerpodconfig", name, "-n", self.id)

    def node(self, name: str, *, selected: bool = True) -> str:
        """Create a node; returns its full name."""
        full = f"{self.id}-{name}"
        labels = {self.label: ""} if selected else {}
        self.apply(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": full, "labels": labels}}
        )
        self._nodes.append(full)
        return full

    def relabel(self, node: str, change: str) -> None:
        self._kubectl("label", "node", node, change)

    def set_status(self, node: str, value: str | None) -> None:
        """Set the resource as another writer would, past the agent."""
        status = {"capacity": {self.resource: value}, "allocatable": {self.resource: value}}
        patch = json.dumps({"status": status})
        self._kubectl(
            "patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}"
        )

    def slots(self, node: str) -> tuple[str | None, str | None]:
        """(capacity, allocatable) of the resource on the node."""
        status = json.loads(self._kubectl("get", "node", node, "-o", "json"))["status"]
        capacity, allocatable = status.get("capacity", {}), status.get("allocatable", {})
        return capacity.get(self.resource), allocatable.get(self.resource)

    def start(self, server: str | None = None, ready: int = 200, **environment: str) -> Agent:
        """Start an agent and wait until /readyz says `ready`; `server` replaces the API server's
        address."""
        number = len(self._processes)
        kubeconfig = self._directory / f"kubeconfig-{number}"
        api = {**self._api, "server": server or self._api["server"]}
        kubeconfig.write_text(json.dumps({
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": api}],
            "users": [{"name": "it", "user": {"token": self._token}}],
        }))  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self._directory / f"agent-{number}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "peerpods_node_capacity"],
                env={
                    **os.environ,
                    "PYTHONPATH": str(PROJECT),
                    "KUBECONFIG": str(kubeconfig),
                    "NAMESPACE": self.id,
                    "PEERPODCONFIG_NAMESPACE": self.id,
                    "POD_VM_EXTENDED_RESOURCE": self.resource,
                    "BIND_ADDRESS": "127.0.0.1",
                    "HEALTH_PORT": str(port),
                    **environment,
                },
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        agent = Agent(process, log, port)
        until(lambda: agent.get("/readyz"), ready)
        return agent

    def clean_up(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for kind in ("clusterrolebinding", "clusterrole"):
            self._kubectl("delete", kind, self.id)
        self._kubectl("delete", "namespace", self.id, "--wait=false")
        if self._nodes:
            self._kubectl("delete", "node", *self._nodes, "--ignore-not-found")


class Agent:
    def __init__(self, process: subprocess.Popen, log: Path, port: int):
        self.process = process
        self._log = log
        self._port = port

    def get(self, path: str) -> int | None:
        """The HTTP status of the health endpoint's answer; None where there is no answer."""
        assert self.process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}") as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def log(self, level: str) -> list[dict]:
        """The records of that level; every line of the log has to be one JSON object."""
        records = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [record for record in records if record["level"] == level]


class Link:
    """A TCP connection to the API server that a test can cut and mend."""

    def __init__(self, host: str, port: int):
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._up = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._up = False
        for end in self._open:
            with contextlib.suppress(OSError):  # ended before
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._up = True

    def _accept(self) -> None:
        while True:
            near, _address = self._listener.accept()
            if not self._up:
                near.close()
                continue
            far = socket.create_connection(self._upstream)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def place(cluster, tmp_path: Path) -> Iterator[Place]:
    place = Place(cluster, tmp_path)
    yield place
    place.clean_up()


def test_selected_nodes_advertise_the_limit_and_others_nothing(place):
    chosen, other = place.node("chosen"), place.node("other", selected=False)
    place.set_status(other, "9")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(chosen), ("3", "3"))
    until(lambda: place.slots(other), (None, None))


def test_a_changed_limit_is_advertised_and_nothing_else_is_written(place):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.config("c", "1000")
    until(lambda: place.slots(node), ("1k", "1k"))
    place.relabel(node, "unrelated=label")
    place.config("c", "0")
    until(lambda: place.slots(node), ("0", "0"))
    patched = [record["slots"] for record in agent.log("info") if record.get("node") == node]
    assert patched == [3, 1000, 0]


def test_an_absent_limit_is_ten(place):
    node = place.node("a")
    place.config("c", None)
    place.start()
    until(lambda: place.slots(node), ("10", "10"))


@pytest.mark.parametrize("reset", ["0", None])
def test_a_reset_is_put_back(place, reset):
    node = place.node("a")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.set_status(node, reset)
    until(lambda: place.slots(node), ("3", "3"))


def test_a_new_node_gets_it(place):
    place.config("c", "3")
    place.start()
    node = place.node("late")
    until(lambda: place.slots(node), ("3", "3"))


def test_a_node_no_longer_selected_loses_it(place):
    leaving, staying = place.node("leaving"), place.node("staying")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(leaving), ("3", "3"))
    place.relabel(leaving, f"{place.label}-")
    until(lambda: place.slots(leaving), (None, None))
    assert place.slots(staying) == ("3", "3")


def test_a_deleted_peerpodconfig_takes_it_away(place):
    node = place.node("a")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.delete_config("c")
    until(lambda: place.slots(node), (None, None))


def test_the_smallest_of_overlapping_limits_wins(place):
    node = place.node("a")
    place.config("large", "8")
    place.config("small", "5")
    place.start()
    until(lambda: place.slots(node), ("5", "5"))
    place.config("small", "12")
    until(lambda: place.slots(node), ("8", "8"))
    place.delete_config("large")
    until(lambda: place.slots(node), ("12", "12"))


def test_a_bad_limit_leaves_the_last_good_one_in_force(place, cluster):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))

    place.config("c", "three")
    until(lambda: [record["peerpodconfig"] for record in agent.log("warning")], ["c"])
    cluster.kubectl("label", "peerpodconfig", "c", "-n", place.id, "not=news")
    late = place.node("late")
    until(lambda: place.slots(late), ("3", "3"))
    place.set_status(node, "0")
    until(lambda: place.slots(node), ("3", "3"))
    assert len(agent.log("warning")) == 1

    # A new agent never saw a good limit: what each node has now stays.
    agent.process.kill()
    successor = place.start()
    until(lambda: [record["peerpodconfig"] for record in successor.log("warning")], ["c"])
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    patched = [record["slots"] for record in successor.log("info") if record.get("node") == node]
    assert patched == [4]


def test_a_broken_connection_is_outlived_and_caught_up_with(place, cluster):
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    host, port = view["clusters"][0]["cluster"]["server"].removeprefix("https://").split(":")
    link = Link(host, int(port))
    changed, deleted = place.node("changed"), place.node("deleted")
    place.config("c", "3")

    link.cut()
    agent = place.start(f"https://127.0.0.1:{link.port}", ready=503)
    assert agent.get("/healthz") == 200
    link.mend()
    until(lambda: [place.slots(changed), place.slots(deleted)], [("3", "3")] * 2)
    assert agent.get("/readyz") == 200

    warnings = len(agent.log("warning"))
    link.cut()
    until(lambda: len(agent.log("warning")) >= warnings + 2, True)
    place.config("c", "4")
    cluster.kubectl("delete", "node", deleted)
    late = place.node("late")
    link.mend()
    until(lambda: [place.slots(changed), place.slots(late)], [("4", "4")] * 2)


def test_sigterm_ends_it_within_two_seconds(place):
    place.node("a")
    place.config("c", "3")
    agent = place.start()
    assert agent.get("/healthz") == 200
    assert agent.get("/elsewhere") == 404
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(timeout=2) == 0
    assert agent.log("info")[-1]["message"] == "Stopped."
    assert agent.log("warning") == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, "No cluster to talk to: .*/nowhere/kubeconfig"),
        ({"KUBECONFIG": ""}, "No cluster to talk to: .*serviceaccount"),
        ({"HEALTH_PORT": "http"}, "HEALTH_PORT is 'http'"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(environment, said):
    ran = subprocess.run(
        [sys.executable, "-m", "peerpods_node_capacity"],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "")
    (line,) = ran.stdout.splitlines()
    record = json.loads(line)
    assert record["level"] == "error"
    assert re.search(said, record["message"])
