"""A real API server with thousands of nodes, its audit log, and another program that writes the nodes.

Each node has a cloud-api-adaptor pod that is Ready. Of the test cluster's programs only etcd and
kube-apiserver keep running: the others would use the cores on which the contenders are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import aiohttp

from tests.cluster import openshift
from tests.cluster.launcher import FAKE_NODE_ANNOTATION, Cluster
from tests.support import OPERATOR_NAMESPACE

AGENT_NAMESPACE = "osc-peerpods"
RESOURCE = "kata.peerpods.io/vm"
NODES = "/api/v1/nodes"
WRITER = "another-writer"

# The DaemonSet of cloud-api-adaptor from operator 1.9 on, and its nodes.
ADAPTOR = "osc-caa-ds"
KATA_OC = {"node-role.kubernetes.io/kata-oc": ""}
LIMITS = "peerpods-limits"

# Concurrent requests of the other program.
CONCURRENT_WRITES = 16

# The interval in seconds at which a kubelet writes an unchanged node status.
STATUS_INTERVAL = 300

# As on a worker of OpenShift; a kubelet reports at most 50 images.
IMAGES = 30

KEPT = {"etcd", "kube-apiserver"}


def node() -> dict:
    """A worker as its kubelet registers it: about 10 kB, of which an agent needs the labels and two quantities."""
    quantities = {
        "cpu": "16",
        "memory": "65804756Ki",
        "ephemeral-storage": "125293548Ki",
        "pods": "250",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }
    conditions = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID"),
        "Ready": ("True", "KubeletReady"),
    }
    config = "rendered-kata-oc-00000000000000000000000000000000"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "generateName": "worker-",
            "labels": {
                "node.kubernetes.io/worker": "",
                "node-role.kubernetes.io/worker": "",
                **KATA_OC,
                "node.kubernetes.io/instance-type": "m5.4xlarge",
                "topology.kubernetes.io/region": "eu-west-1",
                "topology.kubernetes.io/zone": "eu-west-1a",
            },
            "annotations": {
                **FAKE_NODE_ANNOTATION,
                "machine.openshift.io/machine": "openshift-machine-api/worker",
                "machineconfiguration.openshift.io/currentConfig": config,
                "machineconfiguration.openshift.io/desiredConfig": config,
                "machineconfiguration.openshift.io/state": "Done",
            },
        },
        "spec": {"providerID": "aws:///eu-west-1a/i-00000000000000000"},
        "status": {
            "capacity": quantities,
            "allocatable": quantities,
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": reason,
                    "lastHeartbeatTime": now(),
                    "lastTransitionTime": now(),
                }
                for kind, (status, reason) in conditions.items()
            ],
            "images": [
                {
                    "names": [f"quay.io/openshift-release-dev/ocp-v4.0-art-dev@sha256:{i:064x}"],
                    "sizeBytes": 400_000_000 + i,
                }
                for i in range(IMAGES)
            ],
        },
    }


def adaptor(node: str) -> dict:
    """The cloud-api-adaptor pod of a node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{ADAPTOR}-{node}", "labels": {"name": ADAPTOR}},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "containers": [{"name": "caa-pod", "image": "quay.io/caa"}],
        },
    }


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass
class Seen:
    """The audited requests of one user.

    `advertised` has the time of the last write of each node's status (seconds since the epoch). `requests` are counts
    by verb, `failed` the number of them with an error.
    """

    advertised: dict[str, float] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    failed: int = 0


class AuditLog:
    """The API server's audit log, read incrementally."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._incomplete = b""
        self._by_user: dict[str, Seen] = {}

    def of(self, user: str) -> Seen:
        """Return the requests of `user` since the last `forget`."""
        self._read()
        return self._by_user.setdefault(user, Seen())

    def forget(self) -> None:
        self._read()
        self._by_user.clear()

    def _read(self) -> None:
        self._take(self._file.read())
        # The API server starts a new file after 100 MB.
        if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
            self._take(self._file.read())
            self._file.close()
            self._file = self._path.open("rb")
            self._take(self._file.read())

    def _take(self, data: bytes) -> None:
        *lines, self._incomplete = (self._incomplete + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            verb, object_ref = event["verb"], event.get("objectRef", {})
            # A watch is counted when it begins: it may outlast the measurement.
            if event["stage"] != ("ResponseStarted" if verb == "watch" else "ResponseComplete"):
                continue
            user_requests = self._by_user.setdefault(event["user"]["username"].rpartition(":")[2], Seen())
            user_requests.requests[verb] = user_requests.requests.get(verb, 0) + 1
            if event["responseStatus"]["code"] >= 400:
                user_requests.failed += 1
            elif (verb, object_ref.get("resource"), object_ref.get("subresource")) == ("patch", "nodes", "status"):
                at = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
                user_requests.advertised[object_ref["name"]] = at


class World:
    """The API server, its nodes, and the program that changes them."""

    def __init__(self, cluster: Cluster, count: int):
        self.cluster = cluster
        self.audit = AuditLog(cluster.audit_log)
        cluster.apply(
            *(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                for name in (OPERATOR_NAMESPACE, AGENT_NAMESPACE)
            )
        )
        cluster.kubectl("create", "serviceaccount", WRITER)
        cluster.kubectl(
            "create",
            "clusterrolebinding",
            WRITER,
            "--clusterrole=cluster-admin",
            f"--serviceaccount=default:{WRITER}",
        )
        self._token = cluster.kubectl("create", "token", WRITER, "--duration=24h").strip()
        self.servers: dict[str, Path] = {}
        for name, process in children().items():
            if name in KEPT:
                self.servers[name] = process
            else:
                cluster.processes.end(name)
        self._h2load("POST", [NODES] * count, json.dumps(node()), "application/json")
        self.nodes = sorted(self.slots())
        if len(self.nodes) != count:
            raise RuntimeError(f"Creating {count} nodes made {len(self.nodes)}.")
        self._make_adaptors()

    def _make_adaptors(self) -> None:
        pods = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                # Pods require it, and its controller may not have created it yet.
                "metadata": {"name": "default", "namespace": OPERATOR_NAMESPACE},
            }
        )
        asyncio.run(self._post_each(pods, map(adaptor, self.nodes)))
        # Complete, so that kwok does not change it.
        status = {
            "phase": "Running",
            "podIP": "192.0.2.1",
            "startTime": now(),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}],
        }
        self._h2load(
            "PATCH",
            [f"{pods}/{ADAPTOR}-{name}/status" for name in self.nodes],
            json.dumps({"status": status}),
            "application/strategic-merge-patch+json",
        )

    async def _post_each(self, path: str, bodies: Iterable[dict]) -> None:
        """Create objects with different bodies, which h2load does not support."""
        tls = ssl.create_default_context(cafile=str(self.cluster.directory / "ca.crt"))
        waiting = iter(bodies)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            headers={"Authorization": f"Bearer {self._token}"},
        ) as http:

            async def create() -> None:
                for body in waiting:
                    async with http.post(f"{self.cluster.server}{path}", json=body) as answer:
                        if answer.status != 201:
                            raise RuntimeError(f"POST {path}: {await answer.text()}")

            async with asyncio.TaskGroup() as tasks:
                for _ in range(CONCURRENT_WRITES):
                    tasks.create_task(create())

    @classmethod
    @contextlib.contextmanager
    def started(cls, count: int) -> Iterator[Self]:
        """Start a world that is stopped at the end of the `with` block."""
        with Cluster() as cluster:
            crd = Path(__file__).parents[2] / "tests" / "cluster" / "crds"
            cluster.kubectl("create", "-f", str(crd / "peerpodconfigs.confidentialcontainers.org.yaml"))
            cluster.kubectl("wait", "crd", "--all", "--for=condition=Established")
            yield cls(cluster, count)

    def slots(self) -> dict[str, tuple[str | None, str | None]]:
        """Return what each node advertises: (capacity, allocatable)."""
        nodes = json.loads(self.cluster.kubectl("get", "--raw", NODES))["items"]
        return {
            item["metadata"]["name"]: tuple(
                item["status"].get(kind, {}).get(RESOURCE) for kind in ("capacity", "allocatable")
            )
            for item in nodes
        }

    def limit(self, limit: str | None) -> None:
        """Set spec.limit of the PeerPodConfig; None: delete the PeerPodConfig."""
        config = openshift.peer_pod_config("worker", limit or "")
        if limit is None:
            name, namespace = config["metadata"]["name"], config["metadata"]["namespace"]
            self.cluster.delete("peerpodconfig", name, "-n", namespace, "--ignore-not-found")
        else:
            self.cluster.apply(config)

    def second_limit(self, limit: str | None) -> None:
        """Set the limit as on the second generation of the operator: create its DaemonSet, and the entry default of
        peerpods-limits; None: delete both."""
        labels = {"app": ADAPTOR}
        pod = {"nodeSelector": KATA_OC, "containers": adaptor("")["spec"]["containers"]}
        daemon_set = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": ADAPTOR, "namespace": OPERATOR_NAMESPACE},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
        limits = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": LIMITS, "namespace": AGENT_NAMESPACE},
            "data": {"default": json.dumps({"limit": int(limit or 0)})},
        }
        if limit is not None:
            self.cluster.apply(daemon_set, limits)
            return
        for item in (daemon_set, limits):
            self.cluster.delete(
                item["kind"],
                item["metadata"]["name"],
                "--ignore-not-found",
                "-n",
                item["metadata"]["namespace"],
            )

    def reset(self, nodes: list[str]) -> None:
        """Remove the resource from the nodes' status as a restarted kubelet does."""
        absent = {RESOURCE: None}
        body = {"status": {"capacity": absent, "allocatable": absent}}
        self._h2load(
            "PATCH",
            [f"{NODES}/{name}/status" for name in nodes],
            json.dumps(body),
            "application/merge-patch+json",
        )

    def beat(self, nodes: list[str], per_second: float | None = None) -> None:
        """Write a heartbeat into the nodes' status, at that rate or as fast as possible."""
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now()}
        self._h2load(
            "PATCH",
            [f"{NODES}/{name}/status" for name in nodes],
            json.dumps({"status": {"conditions": [ready]}}),
            "application/strategic-merge-patch+json",
            per_second,
        )

    @contextlib.contextmanager
    def kwok(self) -> Iterator[None]:
        """Run kwok, which renews a Lease for each node."""
        self.cluster.processes.restart("kwok")
        try:
            yield
        finally:
            self.cluster.processes.end("kwok")

    def _h2load(self, method: str, paths: list[str], body: str, kind: str, per_second: float | None = None) -> None:
        """Send a request with the same body to each path. On one connection, because each connection of h2load would
        begin with the first path."""
        directory = self.cluster.directory
        (directory / "paths").write_text("".join(f"{self.cluster.server}{path}\n" for path in paths))
        (directory / "body").write_text(body)
        ran = subprocess.run(
            [
                "h2load",
                "--clients=1",
                f"--max-concurrent-streams={CONCURRENT_WRITES}",
                f"--requests={len(paths)}",
                f"--input-file={directory / 'paths'}",
                f"--data={directory / 'body'}",
                f"--header=:method: {method}",
                f"--header=content-type: {kind}",
                f"--header=authorization: Bearer {self._token}",
                *([] if per_second is None else [f"--rps={per_second}"]),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode or f"{len(paths)} 2xx" not in ran.stdout:
            raise RuntimeError(f"{method} of {len(paths)} objects by h2load failed: {ran.stdout}")


def children() -> dict[str, Path]:
    """Return the /proc directories of the child processes by program."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return {(Path("/proc", pid) / "exe").readlink().name: Path("/proc", pid) for pid in pids}
