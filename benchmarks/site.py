"""`python -m benchmarks.site`: the whole of site.yml on few and on many workers: time and API calls, by role.

A first run, and then runs without changes. They are compared with a play of as many `ping`, the time that ansible
takes to start so many modules; and with their own requests, repeated by a program that does nothing else.
README.md explains the figures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import yaml

from tests.cluster import aws, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.support import JSON_OUTPUT, KUBERNETES_CLIENT, ROOT, ansible_environment, local_play

BUILD = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Role:
    name: str
    seconds: float
    kubernetes_calls: int


@dataclass(frozen=True)
class Run:
    """A run of site.yml. `aws_calls` are counted by moto, other calls by the API server's audit log."""

    seconds: float
    changed: int
    aws_calls: int
    roles: tuple[Role, ...]
    requests: tuple[tuple[str, str], ...]
    # Modules of a collection, once for each item of a loop.
    modules: int

    @property
    def kubernetes_calls(self) -> int:
        return len(self.requests)


class World:
    """A bare cluster of so many workers, on moto."""

    def __init__(self, directory: Path, cluster: Cluster, moto: aws.Moto, workers: int):
        self.cluster, self._moto, self._directory = cluster, moto, directory
        self._moto_log = directory / "logs" / "moto.log"
        side = aws.create_cloud_side(moto, workers)
        openshift.fill(cluster, side.workers, aws.REGION)
        openshift.start_stand_ins(cluster, "process", cloud_environment=moto.environment)
        self._variables = site_variables("process") | {"operator_install_kataconfig_timeout": 3600}

    def run(self) -> Run:
        aws_before = self._aws_calls()
        began = time.time()
        ran = subprocess.run(
            ["ansible-playbook", "site.yml", "-e", json.dumps(self._variables)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=ansible_environment(
                {**JSON_OUTPUT, **self._moto.environment, "KUBECONFIG": str(self.cluster.kubeconfig)}
            ),
        )
        seconds = time.time() - began
        if ran.returncode:
            sys.exit(ran.stdout + ran.stderr)
        result = json.loads(ran.stdout[ran.stdout.index("{") :])
        tasks = [task["task"] for play in result["plays"] for task in play["tasks"]]
        requests = self._requests(began)
        return Run(
            seconds,
            result["stats"]["localhost"]["changed"],
            self._aws_calls() - aws_before,
            tuple(_by_role(tasks, requests, began + seconds)),
            tuple((verb, uri) for _, verb, uri in requests),
            sum(_modules(task) for play in result["plays"] for task in play["tasks"]),
        )

    def ping(self, times: int) -> float:
        """Seconds of a play that runs `ping` so many times."""
        playbook = self._directory / "ping.json"
        playbook.write_text(json.dumps(local_play(tasks=[{"ansible.builtin.ping": {}}] * times)))
        began = time.perf_counter()
        subprocess.run(
            ["ansible-playbook", str(playbook)],
            env=ansible_environment(JSON_OUTPUT),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    def again(self, run: Run) -> float:
        """The seconds of the reads of `run` from Kubernetes and of as many AWS calls, on one connection each."""
        user = yaml.safe_load(self.cluster.kubeconfig.read_text())
        context = ssl.create_default_context(cafile=user["clusters"][0]["cluster"]["certificate-authority"])
        context.load_cert_chain(user["users"][0]["user"]["client-certificate"], user["users"][0]["user"]["client-key"])
        ec2 = self._moto.client("ec2")
        api = http.client.HTTPSConnection(self.cluster.server.removeprefix("https://"), context=context)
        began = time.perf_counter()
        for verb, uri in run.requests:
            if verb in ("get", "list"):
                api.request("GET", uri)
                answer = api.getresponse()
                body = answer.read()
                # Not found is a valid response, too; for a kind that is not served, it is plain text.
                if answer.status != http.HTTPStatus.NOT_FOUND:
                    json.loads(body)
        for _ in range(run.aws_calls):
            ec2.describe_instances()
        return time.perf_counter() - began

    def _requests(self, since: float) -> list[tuple[float, str, str]]:
        """(time, verb, URI) of each request of a playbook to the API server since then."""
        requests = []
        for line in self.cluster.audit_log.read_text().splitlines():
            event = json.loads(line)
            at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
            is_complete = event["stage"] == "ResponseComplete"
            if at >= since and is_complete and event.get("userAgent", "").startswith(KUBERNETES_CLIENT):
                requests.append((at, event["verb"], event["requestURI"]))
        return requests

    def _aws_calls(self) -> int:
        return len(re.findall(r'"POST / HTTP', self._moto_log.read_text()))


def _modules(task: dict) -> int:
    """How many modules of a collection a task has run."""
    if not task["hosts"]:
        return 0
    (result,) = task["hosts"].values()
    if result.get("action", "").startswith("ansible.builtin."):
        return 0
    return sum(not item.get("skipped") for item in result.get("results", [result]))


def _by_role(tasks: list[dict], requests: list[tuple[float, str, str]], end: float) -> list[Role]:
    """The time of each role with the roles that it includes: from each of its tasks to the next task of another role.

    The first role also runs the checks of later ones.
    """
    (play,) = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    roles = [entry["role"] for entry in play["roles"]]
    starts = [datetime.fromisoformat(task["duration"]["start"]).timestamp() for task in tasks]
    seconds: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    current = None
    for task, start, until in zip(tasks, starts, [*starts[1:], end], strict=True):
        role = task["name"].partition(" : ")[0]
        if role in roles:
            current = role
        if current is not None:
            seconds[current] += until - start
            calls[current] += sum(start <= at < until for at, _, _ in requests)
    return [Role(role.removeprefix("osc.peerpods."), seconds[role], calls[role]) for role in roles]


def table(workers: int, first: Run, later: list[Run], pings: list[float], calls: float) -> str:
    second = later[-1]
    lines = [f"{workers} workers{'':12} {'first run':>22} {'second run':>22}"]
    for role, second_role in zip(first.roles, second.roles, strict=True):
        lines.append(
            f"{role.name:24} {role.seconds:8.1f} s {role.kubernetes_calls:5} calls "
            f"{second_role.seconds:8.1f} s {second_role.kubernetes_calls:5} calls"
        )
    for name, run in (("first run", first), ("second run", second)):
        lines.append(
            f"{name}: {run.seconds:.1f} s, changed={run.changed}, {run.kubernetes_calls} calls of "
            f"Kubernetes, {run.aws_calls} of AWS, {run.modules} modules run"
        )
    took, ping = statistics.median(run.seconds for run in later), statistics.median(pings)
    lines.append(
        f"second run, median of {len(later)}: {took:.1f} s; "
        f"a play of {second.modules} pings: {ping:.1f} s ({took / ping:.2f} ×); "
        f"the second run's calls alone: {calls:.1f} s ({took / calls:.1f} ×)"
    )
    return "\n".join(lines)


def measured(workers: int, rounds: int) -> dict:
    """Print the table of one size of cluster, and return its figures."""
    with tempfile.TemporaryDirectory() as directory:
        moto = aws.Moto(Path(directory))
        try:
            with Cluster(definitions=openshift.definitions()) as cluster:
                world = World(Path(directory), cluster, moto, workers)
                load = os.getloadavg()[0]
                print(f"load {load:.1f}; running site.yml", flush=True)
                first = world.run()
                later, pings = [], []
                for _ in range(rounds):
                    later.append(world.run())
                    pings.append(world.ping(later[-1].modules))
                calls = world.again(later[-1])
        finally:
            moto.processes.stop()
    print(table(workers, first, later, pings, calls), flush=True)
    return {
        "workers": workers,
        "load": load,
        "first": asdict(first),
        "second": [asdict(run) for run in later],
        "pings": pings,
        "calls": calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[3, 500])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = [measured(workers, options.rounds) for workers in options.workers]
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "site.json").write_text(json.dumps(sizes, indent=2) + "\n")


if __name__ == "__main__":
    main()
