"""Runs the agent as a process, with the permissions that its role grants, against a real API server.

Requires the fixture `cluster` with the CRD of PeerPodConfig. Each test has its own namespace, resource name and nodes,
and deletes them, so that tests can share the cluster.
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
from collections.abc import Callable
from pathlib import Path

import yaml
from prometheus_client.core import Sample
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.launcher import Cluster
from tests.cluster.processes import free_ports

PROJECT = Path(__file__).parents[1]

# Exactly the permissions in the README: cluster-wide, in the operator's namespace and in the agent's namespace.
CLUSTER_RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]
CONFIG_GROUP = "confidentialcontainers.org"
CONFIG_RULES = [
    {"apiGroups": [CONFIG_GROUP], "resources": ["peerpodconfigs"], "verbs": ["list", "watch"]},
    {"apiGroups": [CONFIG_GROUP], "resources": ["peerpodconfigs/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["list", "watch"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["peer-pods-cm"],
        "verbs": ["list", "watch"],
    },
]
ADAPTOR_RULES = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
LEASE = "peerpods-node-capacity"
CONFIGMAP, LIMITS = "peerpods-cloud-capacity", "peerpods-limits"

# Warnings that a slow API server causes: of requests that it does not answer in time or at the same time as others, and
# of a Lease that is not renewed in time.
SLOW_API_SERVER = re.compile(r"no response|the API server returned (409|429|5\d\d)|^Lost leadership")
OWN_RULES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE],
        "verbs": ["list", "watch", "patch"],
    },
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [CONFIGMAP, LIMITS],
        "verbs": ["list", "watch"],
    },
]


def until(probe: Callable[[], object], expected: object, seconds: float = 30) -> None:
    """Wait until `probe()` returns `expected`."""
    deadline = time.monotonic() + seconds
    while (current := probe()) != expected:
        assert time.monotonic() < deadline, f"still {current!r} instead of {expected!r}"
        time.sleep(0.1)


# The seconds of a Lease that lasts far longer than a test.
LONG_DURATION = "600"


class Workspace:
    """The objects of one test: namespace, resource name, service account, nodes and agents."""

    def __init__(self, cluster: Cluster, directory: Path):
        self.id = f"nodecap-{uuid.uuid4().hex[:8]}"
        self.resource = f"{self.id}.example.com/vm"
        self.label = f"{self.id}.example.com/kata"
        self._cluster = cluster
        self.apply = cluster.apply
        self._directory = directory
        self._nodes: list[str] = []
        self._processes: list[subprocess.Popen] = []
        # Of pods. The account `default` exists only some time after its namespace.
        self._account = {"serviceAccountName": self.id, "automountServiceAccountToken": False}
        account = {"kind": "ServiceAccount", "name": self.id, "namespace": self.id}
        role, binding = "rbac.authorization.k8s.io/v1", {"name": self.id, "namespace": self.id}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.id}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": binding},
            {
                "apiVersion": role,
                "kind": "Role",
                "metadata": binding,
                "rules": CONFIG_RULES + ADAPTOR_RULES + OWN_RULES,
            },
            {
                "apiVersion": role,
                "kind": "RoleBinding",
                "metadata": binding,
                "roleRef": {"apiGroup": role[:-3], "kind": "Role", "name": self.id},
                "subjects": [account],
            },
            {
                "apiVersion": role,
                "kind": "ClusterRole",
                "metadata": {"name": self.id},
                "rules": CLUSTER_RULES,
            },
            {
                "apiVersion": role,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": self.id},
                "roleRef": {"apiGroup": role[:-3], "kind": "ClusterRole", "name": self.id},
                "subjects": [account],
            },
        )
        (administrators,) = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"]
        self._api = administrators["cluster"]
        self._token = self._cluster.kubectl("create", "token", self.id, "-n", self.id).strip()

    def config(self, name: str, limit: str | None, selector: dict[str, str] | None = None) -> None:
        """Create or change a PeerPodConfig; by default it selects the workspace's labelled nodes."""
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
        self._cluster.delete("peerpodconfig", name, "-n", self.id)

    def node(self, name: str, *, selected: bool = True) -> str:
        """Create a node; returns its full name."""
        (full,) = self._make_nodes([name], {self.label: ""} if selected else {})
        return full

    def nodes(self, count: int) -> list[str]:
        """Create `count` nodes that PeerPodConfigs select; returns their names."""
        return self._make_nodes([f"{number:04}" for number in range(count)], {self.label: ""})

    def forget(self, nodes: list[str]) -> None:
        """Do not delete these nodes at the end: the test has deleted them."""
        self._nodes = [node for node in self._nodes if node not in nodes]

    def _make_nodes(self, names: list[str], labels: dict[str, str]) -> list[str]:
        full = [f"{self.id}-{name}" for name in names]
        self.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "labels": labels},
                    # Without any capacity, cloud-api-adaptor's JSON patch would have no parent.
                    "status": {"capacity": {"cpu": "1"}},
                }
                for name in full
            )
        )
        self._nodes += full
        return full

    def peer_pod(self, name: str, node: str | None) -> None:
        """Create a pod that uses a slot of the node. If the node is None, the pod is pending."""
        resources = {"requests": {self.resource: "1"}, "limits": {self.resource: "1"}}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": self.id},
                "spec": {
                    **self._account,
                    "nodeName": node,
                    # No scheduler has this name, so the pod stays pending.
                    "schedulerName": self.id,
                    "containers": [{"name": "c", "image": "i", "resources": resources}],
                },
            }
        )

    def cloud_capacity(self, **bounds: str) -> None:
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": CONFIGMAP, "namespace": self.id},
                "data": bounds,
            }
        )

    def limits(self, **entries: dict | str) -> None:
        """Write peerpods-limits: an entry that is not a string becomes JSON."""
        data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
        self._config_map(LIMITS, data)

    def peer_pods_cm(self, limit: str | None) -> None:
        """Write the operator's settings, with PEERPODS_LIMIT_PER_NODE or without it."""
        key = {} if limit is None else {"PEERPODS_LIMIT_PER_NODE": limit}
        self._config_map("peer-pods-cm", {"CLOUD_PROVIDER": "aws", **key})

    def _config_map(self, name: str, data: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": self.id}
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    def daemon_set(self, name: str = "osc-caa-ds", selector: dict[str, str] | None = None) -> None:
        """Create a DaemonSet of cloud-api-adaptor. Its pods stay pending, and do not have the label that the agent
        selects: tests create the pods that they need."""
        labels = {"test": self.id}
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": name, "namespace": self.id},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "nodeSelector": {self.label: ""} if selector is None else selector,
                            "containers": [{"name": "caa-pod", "image": "i"}],
                        },
                    },
                },
            }
        )

    def adaptor(self, node: str, *, ready: bool = True, daemon_set: str = "osc-caa-ds") -> str:
        """Create a cloud-api-adaptor pod on the node; returns its name."""
        name = f"caa-{uuid.uuid4().hex[:8]}"
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": self.id, "labels": {"name": daemon_set}},
                "spec": {
                    **self._account,
                    "nodeName": node,
                    "containers": [{"name": "caa-pod", "image": "i"}],
                },
            }
        )
        if ready:
            self.set_ready(name, True)
        return name

    def set_ready(self, pod: str, ready: bool) -> None:
        """Set the condition Ready as a kubelet does."""
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        self._cluster.patch(f"pod/{pod}", {"status": status}, self.id, type="strategic", subresource="status")

    def stop_pod(self, pod: str) -> None:
        """Delete the pod; it stays with a deletionTimestamp, because there is no kubelet."""
        self._cluster.delete("pod", pod, "-n", self.id, "--wait=false")

    def remove_pod(self, pod: str) -> None:
        self._cluster.delete("pod", pod, "-n", self.id, "--grace-period=0", "--force")

    def delete(self, kind: str, name: str) -> None:
        self._cluster.delete(kind, name, "-n", self.id)

    def advertise(self, node: str, limit: int | None, manager: str = "cloud-api-adaptor") -> None:
        """Write only the capacity, as cloud-api-adaptor does when it starts, or stops (None).

        See pkg/adaptor/k8sops/node.go of CAA.
        """
        path = f"/status/capacity/{self.resource.replace('/', '~1')}"
        operation = (
            {"op": "remove", "path": path} if limit is None else {"op": "add", "path": path, "value": str(limit)}
        )
        self._cluster.patch(f"node/{node}", [operation], type="json", subresource="status", manager=manager)

    def share(self, node: str, limit: int) -> None:
        """Become an owner of the capacity by a server-side apply of the same number."""
        status = {"capacity": {self.resource: str(limit)}}
        self._cluster.kubectl(
            "apply",
            "--server-side",
            "--subresource=status",
            "--field-manager=other",
            "-f",
            "-",
            input=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": status}),
        )

    def status(self, config: str) -> dict:
        return self._cluster.get("peerpodconfig", config, "-n", self.id).get("status", {})

    def condition(self, config: str, kind: str) -> dict:
        (condition,) = (c for c in self.status(config)["conditions"] if c["type"] == kind)
        return condition

    def set_conditions(self, config: str, *conditions: dict) -> None:
        """Write status.conditions as another program."""
        self._cluster.merge(
            f"peerpodconfig/{config}", {"status": {"conditions": conditions}}, self.id, subresource="status"
        )

    def events(self) -> list[tuple[str, str, int]]:
        """(name of the PeerPodConfig, reason, count) of each Event."""
        items = self._cluster.get("events", "-n", self.id)["items"]
        return sorted(
            (item["involvedObject"]["name"], item["reason"], item["count"])
            for item in items
            if item["involvedObject"]["kind"] == "PeerPodConfig"
        )

    def lease(self) -> dict:
        """The spec of the Lease."""
        return self._cluster.get("lease", LEASE, "-n", self.id)["spec"]

    def relabel(self, node: str, change: str) -> None:
        self._cluster.label("node", node, change)

    def set_status(self, node: str, value: str | None) -> None:
        """Set the resource as another program."""
        status = {"capacity": {self.resource: value}, "allocatable": {self.resource: value}}
        self._cluster.merge(f"node/{node}", {"status": status}, subresource="status")

    def slots(self, node: str) -> tuple[str | None, str | None]:
        """(capacity, allocatable) of the resource on the node."""
        return self._slots(self._cluster.get("node", node))

    def all_slots(self) -> dict[str, tuple[str | None, str | None]]:
        """(capacity, allocatable) of each node of the workspace."""
        return {
            item["metadata"]["name"]: self._slots(item)
            for item in self._cluster.get("nodes")["items"]
            if item["metadata"]["name"] in self._nodes
        }

    def _slots(self, node: dict) -> tuple[str | None, str | None]:
        capacity, allocatable = (node.get("status", {}).get(part, {}) for part in ("capacity", "allocatable"))
        return capacity.get(self.resource), allocatable.get(self.resource)

    def link(self) -> Link:
        host, port = self._api["server"].removeprefix("https://").split(":")
        return Link(host, int(port))

    def start(self, server: str | None = None, ready: int = 200, **environment: str) -> Agent:
        """Start an agent and wait until /readyz returns `ready`; `server` replaces the API server's address."""
        number = len(self._processes)
        kubeconfig = self._directory / f"kubeconfig-{number}"
        api = {**self._api, "server": server or self._api["server"]}
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                    "clusters": [{"name": "it", "cluster": api}],
                    "users": [{"name": "it", "user": {"token": self._token}}],
                }
            )
        )
        (port,) = free_ports(1)
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
                    # Most tests do not need cloud-api-adaptor pods.
                    "REQUIRE_READY_ADAPTOR": "false",
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
            self._cluster.delete(kind, self.id)
        self._cluster.delete("namespace", self.id, "--wait=false")
        if self._nodes:
            self._cluster.delete("node", *self._nodes, "--ignore-not-found", "--wait=false")


class Agent:
    def __init__(self, process: subprocess.Popen, log: Path, port: int):
        self.process = process
        self._log = log
        self._port = port

    def stop(self) -> None:
        """Stop it with SIGTERM, as kubelet does."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0

    def get(self, path: str) -> int | None:
        """The HTTP status of the health endpoint; None without a response."""
        assert self.process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}") as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def samples(self) -> list[Sample]:
        """The samples of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics") as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples]

    def metrics(self) -> dict[tuple[str, ...], float]:
        """The value of each sample, by its name and the values of its labels in the order of the label names."""
        return {(sample.name, *sample.labels.values()): sample.value for sample in self.samples()}

    def body(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}") as answer:
            return answer.read().decode()

    def leads(self) -> bool:
        return self.metrics()[("peerpods_node_capacity_leader",)] == 1

    def patched(self, node: str) -> list[int | None]:
        """The slots to which the agent patched the node, in order."""
        records = self.log("info")
        return [r["slots"] for r in records if r.get("node") == node and "slots" in r]

    def log(self, level: str) -> list[dict]:
        """The records of that level. Every line of the log must be a JSON object."""
        records = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [record for record in records if record["level"] == level]

    def warnings(self) -> list[dict]:
        """The warnings, except those about a slow API server."""
        return [record for record in self.log("warning") if not SLOW_API_SERVER.search(record["message"])]


class Link:
    """A TCP proxy of the API server that a test can cut, restore, stall and resume."""

    def __init__(self, host: str, port: int):
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.server = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._up = True
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Hold back all data, in both directions, without closing connections."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        self._up = False
        for end in self._open:
            with contextlib.suppress(OSError):  # ended before
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def restore(self) -> None:
        self._up = True

    def _accept(self) -> None:
        while True:
            near, _address = self._listener.accept()
            if not self._up:
                near.close()
                continue
            upstream_socket = socket.create_connection(self._upstream)
            self._open += [near, upstream_socket]
            for source, sink in ((near, upstream_socket), (upstream_socket, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
