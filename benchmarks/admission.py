"""`python -m benchmarks.admission`: what changing peer pods costs at their creation.

Pods are created in server-side dry runs through a real API server on this machine, over
kept-alive connections: without any mutation, with `mode: policy`, with the least that a
policy can do ("least": one patch of one container, no sizes), and with `mode: webhook` where
the URL of a running webhook is given. What "least" costs is the API server's own price for
any policy that patches: the pod encoded, patched, decoded and admitted once more. The modes take turns, round by round, so that a
ratio is of neighbours; what else the machine does hits all of them. Client and API server
share its cores: creations/s includes what the client costs, so the CPU time of the API
server alone is told as well.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.support import ROOT, ansible_environment

REPORT = ROOT / "build" / "bench" / "admission.json"
NAME = "admission-benchmark"
RUNTIME_CLASS = "kata-remote"
RESOURCE = "kata.peerpods.io/vm"
PATH = "/api/v1/namespaces/default/pods?dryRun=All"

# Two containers, sizes to add up, no annotation: what a Deployment with a sidecar creates.
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "benchmark-", "labels": {"app": "benchmark"}},
    "spec": {
        "runtimeClassName": RUNTIME_CLASS,
        "containers": [
            {
                "name": "app",
                "image": "registry.example.com/app:1",
                "ports": [{"containerPort": 8080}],
                "env": [{"name": "MODE", "value": "production"}],
                "resources": {
                    "requests": {"cpu": "500m", "memory": "256Mi"},
                    "limits": {"cpu": "1", "memory": "512Mi"},
                },
            },
            {
                "name": "sidecar",
                "image": "registry.example.com/sidecar:1",
                "resources": {
                    "requests": {"cpu": "100m", "memory": "64Mi"},
                    "limits": {"memory": "64Mi"},
                },
            },
        ],
    },
}


BODY = json.dumps(POD).encode()

LEAST_POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicy",
    "metadata": {"name": NAME},
    "spec": {
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                }
            ]
        },
        "mutations": [
            {
                "patchType": "JSONPatch",
                "jsonPatch": {
                    "expression": '[JSONPatch{op: "add", path: "/spec/containers/0/resources", '
                    f'value: {{"limits": {{"{RESOURCE}": "1"}}}}}}]'
                },
            }
        ],
    },
}
LEAST = {"mode": "least"}
LEAST_BINDING = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicyBinding",
    "metadata": {"name": NAME},
    "spec": {"policyName": NAME},
}


@dataclass(frozen=True)
class Round:
    """One mode for some seconds: creations/s, and the API server's CPU time for each, in ms."""

    rate: float
    cpu_ms: float


class Client:
    """Creates the pod over and over, on several connections at once."""

    def __init__(self, cluster: Cluster, connections: int):
        self._server = urlsplit(cluster.server).netloc
        self._connections = connections
        self._context = ssl.create_default_context(cafile=cluster.directory / "ca.crt")
        self._context.load_cert_chain(
            cluster.directory / "admin.crt", cluster.directory / "admin.key"
        )
        self._process = api_server(cluster)

    def measure(self, seconds: float) -> Round:
        cpu, began = cpu_seconds(self._process), time.perf_counter()
        with ThreadPoolExecutor(self._connections) as threads:
            counts = threads.map(self._create_until, [began + seconds] * self._connections)
            created = sum(counts)
        took = time.perf_counter() - began
        return Round(created / took, (cpu_seconds(self._process) - cpu) / created * 1000)

    def sees_change(self) -> bool:
        """Whether peer pods are changed at the moment."""
        connection = self._connect()
        pod = json.loads(create(connection))
        connection.close()
        return RESOURCE in pod["spec"]["containers"][0]["resources"].get("limits", {})

    def _create_until(self, end: float) -> int:
        connection = self._connect()
        count = 0
        while time.perf_counter() < end:
            create(connection)
            count += 1
        connection.close()
        return count

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._server, context=self._context, timeout=30)


def create(connection: http.client.HTTPSConnection) -> bytes:
    connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 201:
        raise RuntimeError(f"POST {PATH} came back with {answer.status}: {body.decode()}")
    return body


def api_server(cluster: Cluster) -> Path:
    """Where the kernel tells about the cluster's API server."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        words = command.read_bytes().split(b"\0")
        if words[0].endswith(b"/kube-apiserver") and any(
            os.fsencode(cluster.directory) in word for word in words
        ):
            return command.parent
    raise RuntimeError("The cluster's kube-apiserver is not among this machine's processes.")


def cpu_seconds(process: Path) -> float:
    user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def turn(cluster: Cluster, options: dict, state: str) -> None:
    """Turn a mode on ("present") or off ("absent"); ours as a user does it, by the module."""
    if options == LEAST:
        if state == "present":
            cluster.apply(LEAST_POLICY, LEAST_BINDING)
        else:
            for item in (LEAST_BINDING, LEAST_POLICY):
                cluster.kubectl("delete", item["kind"], NAME)
        return
    if state == "absent":
        options = {"mode": options["mode"]}
    arguments = {
        "name": NAME,
        "kubeconfig": str(cluster.kubeconfig),
        "state": state,
        "verify": True,
        **options,
    }
    ran = subprocess.run(
        ["ansible", "localhost", "-m", "osc.peerpods.mutating_webhook", "-a",
         json.dumps(arguments)],
        env=ansible_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"mutating_webhook failed: {ran.stdout}{ran.stderr}")


def run_rounds(
    cluster: Cluster, client: Client, modes: dict[str, dict | None], rounds: int, seconds: float
) -> dict[str, list[Round]]:
    """Each mode once a round, in an order that rotates, and nothing left of one in the next."""
    measured: dict[str, list[Round]] = {mode: [] for mode in modes}
    order = list(modes)
    for _round in range(rounds):
        for mode in order:
            options = modes[mode]
            if options:
                turn(cluster, options, "present")
                wait_for(f"the start of mode {mode}", client.sees_change, seconds=30)
            client.measure(seconds / 4)  # Warms up.
            measured[mode].append(client.measure(seconds))
            if options:
                turn(cluster, options, "absent")
                wait_for(f"the end of mode {mode}", lambda: not client.sees_change(), seconds=30)
            last = measured[mode][-1]
            print(f"{mode:8} {last.rate:6.0f}/s {last.cpu_ms:6.2f} ms CPU", flush=True)
        order = [*order[1:], order[0]]
    return measured


def summary(measured: dict[str, list[Round]]) -> dict:
    """Medians, and the median of each round's ratio to the round without any mutation."""
    return {
        mode: {
            "creations_per_second": statistics.median(one.rate for one in rounds),
            "api_server_cpu_ms": statistics.median(one.cpu_ms for one in rounds),
            "ratio_of_creations": statistics.median(
                one.rate / none.rate for one, none in zip(rounds, measured["none"], strict=True)
            ),
            "ratio_of_cpu": statistics.median(
                one.cpu_ms / none.cpu_ms for one, none in zip(rounds, measured["none"], strict=True)
            ),
            "rounds": [asdict(one) for one in rounds],
        }
        for mode, rounds in measured.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="per mode and round (default: 6)")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--webhook-url", help="https:// URL of a running webhook to compare with")
    parser.add_argument("--webhook-ca", help="the file with its CA certificate")
    arguments = parser.parse_args()
    # SIGTERM unwinds the `with` as Ctrl-C does, so that everything is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    modes: dict[str, dict | None] = {"none": None, "policy": {"mode": "policy"}, "least": LEAST}
    if arguments.webhook_url:
        modes["webhook"] = {"mode": "webhook", "url": arguments.webhook_url}
        if arguments.webhook_ca:
            modes["webhook"]["ca_bundle_file"] = str(Path(arguments.webhook_ca).resolve())
    with Cluster() as cluster:
        cluster.apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": RUNTIME_CLASS},
                "handler": RUNTIME_CLASS,
            }
        )
        client = Client(cluster, arguments.connections)
        measured = run_rounds(cluster, client, modes, arguments.rounds, arguments.seconds)
    report = {"cores": os.cpu_count(), "connections": arguments.connections} | summary(measured)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print()
    for mode in modes:
        figures = report[mode]
        print(
            f"{mode:8} {figures['creations_per_second']:6.0f}/s = "
            f"{figures['ratio_of_creations']:.2f} of none; "
            f"{figures['api_server_cpu_ms']:.2f} ms of the API server's CPU = "
            f"{figures['ratio_of_cpu']:.2f} of none"
        )
    print(f"\n{REPORT.relative_to(ROOT)} has all rounds.")


if __name__ == "__main__":
    main()
