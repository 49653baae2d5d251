"""`python -m benchmarks.limit`: change the limit of a cluster that is full of peer pods.

The operator is of the second generation.

The collection's way is `limit.yml` with the agent, the other is the documented way: edit peer-pods-cm and replace the
cloud-api-adaptor (CAA) pods. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import yaml

from tests.cluster import openshift
from tests.cluster.adaptor import lost
from tests.cluster.api import Api
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.cluster.releases import NEWEST, release_of
from tests.support import OPERATOR_NAMESPACE, ROOT, ansible_environment

BUILD = ROOT / "build" / "bench"
HERE = ("-n", OPERATOR_NAMESPACE)
RESOURCE = "kata.peerpods.io/vm"
WORKERS = "node-role.kubernetes.io/worker"
CAA = "osc-caa-ds"

# The initial limit, and the limit that each way sets.
BEFORE, DOCUMENTED, OURS = 10, 20, 30


@dataclass(frozen=True)
class Change:
    """One change of the limit. `seconds` is until all nodes advertise it, `until_done` until the commands have
    ended and all CAA pods are Ready; `without_slots` counts the nodes that advertised nothing meanwhile."""

    seconds: float
    until_done: float
    caa_restarts: int
    peer_pods_lost: int
    without_slots: int


class World:
    """A cluster whose nodes all run cloud-api-adaptor, and peer pods."""

    def __init__(self, cluster: Cluster, nodes: int, peer_pods: int, operator: str):
        self.cluster, self._peer_pods, self._operator = cluster, peer_pods, operator
        self._api = Api(str(cluster.kubeconfig))
        region = openshift.IMAGINED_REGION["aws"]
        openshift.fill(cluster, openshift.imagined_workers(nodes), region)
        openshift.start_stand_ins(cluster, "process", operator, webhook_image="webhook:source")
        cluster.apply(*_installation())
        wait_for("all nodes to advertise", lambda: self._advertise(BEFORE), seconds=1800)
        self._rolled_out("deployment/peer-pods-webhook")

    def run_peer_pods(self) -> None:
        """Run exactly so many peer pods."""
        openshift.remove_pods(self.cluster)
        self.cluster.apply(*map(_peer_pod, range(self._peer_pods)))
        wait_for("the peer pods", lambda: self._peer_pods == sum(map(_runs, self._pods())), seconds=900)

    def documented(self) -> Change:
        """Newer operators replace the CAA pods by themselves: an additional restart would replace them twice."""
        data = json.dumps({"data": {"PEERPODS_LIMIT_PER_NODE": str(DOCUMENTED)}})
        oc = [str(self.cluster.bin / "kubectl"), f"--kubeconfig={self.cluster.kubeconfig}", *HERE]
        commands = [[*oc, "patch", "configmap", "peer-pods-cm", "--type=merge", "-p", data]]
        if not release_of(self._operator).rolls:
            commands.append([*oc, "rollout", "restart", f"daemonset/{CAA}"])
        return self._measured(DOCUMENTED, commands)

    def limit_playbook(self) -> Change:
        self._start_agent()
        limit = json.dumps({"peerpodconfig_rollout_limit": OURS})
        playbook = str(ROOT / "playbooks" / "limit.yml")
        return self._measured(OURS, [["ansible-playbook", playbook, "-e", limit]])

    def _start_agent(self) -> None:
        variables = site_variables("process") | {"node_capacity_manager": "collection"}
        play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "roles": ["osc.peerpods.node_capacity"]}
        path = self.cluster.directory / "agent.yml"
        path.write_text(yaml.safe_dump([play]))
        ran = subprocess.run(
            ["ansible-playbook", str(path)],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            sys.exit(ran.stdout + ran.stderr)

    def _measured(self, limit: int, commands: list[list[str]]) -> Change:
        adaptors = self._adaptors()
        listed = self._list("/api/v1/nodes", WORKERS)
        began = time.monotonic()
        waiting = {node["metadata"]["name"] for node in listed["items"]}
        without: set[str] = set()
        # Into a file: a pipe would fill while the nodes are watched.
        log_file = self.cluster.directory / "commands.log"
        with log_file.open("w") as log:
            running = subprocess.Popen(
                ["bash", "-ec", " && ".join(map(shlex.join, commands))],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        for node in self._changes(listed["metadata"]["resourceVersion"]):
            name, slots = node["metadata"]["name"], node["status"]["allocatable"].get(RESOURCE)
            if slots is None:
                without.add(name)
            (waiting.discard if slots == str(limit) else waiting.add)(name)
            if not waiting:
                break
        else:
            sys.exit(f"Not all nodes advertise {limit}:\n{log_file.read_text()}")
        seconds = time.monotonic() - began
        if running.wait():
            sys.exit(log_file.read_text())
        self._rolled_out(f"daemonset/{CAA}")
        until_done = time.monotonic() - began
        pods = self._pods()
        return Change(
            seconds,
            until_done,
            len(adaptors - self._adaptors()),
            sum(map(lost, pods)) + self._peer_pods - len(pods),
            len(without),
        )

    def _rolled_out(self, workload: str) -> None:
        """Wait until all its pods are of its template, and Ready."""
        self.cluster.kubectl("rollout", "status", workload, *HERE, "--timeout=15m")

    def _changes(self, version: str) -> Iterator[dict]:
        """The workers as they change from then on."""
        path = f"/api/v1/nodes?watch=true&labelSelector={WORKERS}&resourceVersion={version}&timeoutSeconds=3600"
        for line in self._api.stream(path):
            yield json.loads(line)["object"]

    def _advertise(self, limit: int) -> bool:
        nodes = self._list("/api/v1/nodes", WORKERS)["items"]
        return all(node["status"]["allocatable"].get(RESOURCE) == str(limit) for node in nodes)

    def _adaptors(self) -> set[str]:
        pods = self._list(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods", f"name={CAA}")["items"]
        return {pod["metadata"]["uid"] for pod in pods}

    def _pods(self) -> list[dict]:
        return self._list("/api/v1/namespaces/default/pods")["items"]

    def _list(self, path: str, selector: str = "") -> dict:
        return self._api.request("GET", f"{path}?labelSelector={selector}")

    @property
    def _environment(self) -> dict[str, str]:
        return ansible_environment({"KUBECONFIG": str(self.cluster.kubeconfig)})


def _installation() -> list[dict]:
    """The objects that an administrator applies to install the operator, with a limit of BEFORE."""
    metadata = {"namespace": OPERATOR_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peer-pods-cm", **metadata},
            "data": {**openshift.POD_VM_SETTINGS, "PODVM_AMI_ID": "ami-0", "PEERPODS_LIMIT_PER_NODE": str(BEFORE)},
        },
        openshift.POD_VM_CREDENTIALS,
        *openshift.subscription(),
        {
            "apiVersion": "kataconfiguration.openshift.io/v1",
            "kind": "KataConfig",
            "metadata": {"name": "kata"},
            "spec": {"enablePeerPods": True},
        },
    ]


def _peer_pod(number: int) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"peer-pod-{number}", "namespace": "default"},
        "spec": {
            "runtimeClassName": "kata-remote",
            "automountServiceAccountToken": False,
            "containers": [{"name": "app", "image": "app"}],
        },
    }


def _runs(pod: dict) -> bool:
    return pod["status"]["phase"] == "Running" and not lost(pod)


def table(changes: dict[str, Change]) -> str:
    head = (
        f"{'':24}{'all advertise it':>18}{'all is done':>14}{'CAA restarts':>14}{'peer pods lost':>16}"
        f"{'nodes without slots':>21}"
    )
    return "\n".join(
        [
            head,
            *(
                f"{name:24}{change.seconds:>16.1f} s{change.until_done:>12.1f} s{change.caa_restarts:>14}"
                f"{change.peer_pods_lost:>16}{change.without_slots:>21}"
                for name, change in changes.items()
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--peer-pods", type=int, default=1000)
    parser.add_argument("--operator", default=NEWEST, help="the operator's release (1.9 or newer)")
    options = parser.parse_args()
    if release_of(options.operator).has_peer_pod_config:
        parser.error("operators up to 1.8 change a limit without a restart of cloud-api-adaptor")
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False)) as cluster:
        print(f"load {os.getloadavg()[0]:.1f}; installing on {options.nodes} nodes", flush=True)
        world = World(cluster, options.nodes, options.peer_pods, options.operator)
        changes = {}
        ways = {"the documented way": world.documented, "osc.peerpods": world.limit_playbook}
        for name, change in ways.items():
            world.run_peer_pods()
            load = f"load {os.getloadavg()[0]:.1f}"
            print(f"{options.peer_pods} peer pods run; {load}; {name}", flush=True)
            changes[name] = change()
    print(table(changes))
    BUILD.mkdir(parents=True, exist_ok=True)
    figures = {name: asdict(result) for name, result in changes.items()}
    (BUILD / "limit.json").write_text(json.dumps(vars(options) | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
