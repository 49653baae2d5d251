"""Contenders, their jobs and the servers: the part that is the same on every cloud."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.support import ansible_environment, local_play

OURS = "osc.peerpods"
IDLE = "an empty play"
DOCUMENTED = "the documentation"
FIRST, AGAIN = "first", "no change"


@dataclass(frozen=True)
class Contender:
    """A way to do a job: the tasks of a play, or a shell script.

    `programs` is the bin directory of its environment, by default that of this Python, and `collections` the path of
    its collections.
    """

    name: str
    tasks: list[dict] | None = None
    script: str | None = None
    programs: Path | None = None
    collections: Path | None = None


@dataclass(frozen=True)
class Job:
    """A job of the contenders. `reset` reverts it, `done` checks it; None for jobs that only read."""

    name: str
    contenders: tuple[Contender, ...]
    reset: Callable[[], object] | None = None
    done: Callable[[], bool] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        return (FIRST, AGAIN) if self.reset else (FIRST,)


@dataclass(frozen=True)
class Run:
    """The figures of a run.

    `memory` is the largest resident set of one of its processes, in MB. `outcome` is what the
    contender reports: "changed", "ok" (nothing changed, or not a playbook), or "rejected" if the
    cloud rejected a rule that exists already.
    """

    cloud_calls: float
    kubernetes_calls: float
    seconds: float
    cpu_seconds: float
    memory: float
    outcome: str


class World(ABC):
    """The servers of a cloud, with a cluster to which workers can be added."""

    api: str
    """What the cloud's API is called in a table."""

    packages: tuple[str, ...]
    """The packages whose versions matter here, in addition to Kubernetes and ansible."""

    cli: str
    """The command line tool of the documented commands."""

    environment: dict[str, str]
    """What a user of this cloud has exported."""

    variables: dict[str, object]
    """What a play of this cloud knows without asking."""

    refusal: str | None = None
    """What a script's complaint is known by that is none: the rule is there already."""

    def __init__(self, cluster: Cluster, scratch: Path):
        self.cluster = cluster
        self.scratch = scratch
        self.workers: list[openshift.Worker] = []

    @classmethod
    @abstractmethod
    def started(cls, scratch: Path) -> AbstractContextManager[Self]:
        """A world that is stopped at the end of the `with` block."""

    @abstractmethod
    def grow(self, count: int) -> None:
        """Add workers until there are `count`."""

    @abstractmethod
    def take_calls(self) -> int:
        """The number of requests to the cloud since the last call."""

    @abstractmethod
    def jobs(self) -> tuple[Job, ...]:
        """The jobs for the current workers."""

    def run(self, contender: Contender) -> Run:
        user = f"bench-{contender.name.replace(' ', '-')}"
        kubeconfig = self.cluster.directory / f"{user}.kubeconfig"
        if not kubeconfig.exists():
            self.cluster.user_kubeconfig(user, "system:masters")
        environment = ansible_environment(
            {
                **self.environment,
                "KUBECONFIG": str(kubeconfig),
                # The discovery caches of kubernetes.core and kubectl.
                "TMPDIR": str(self.scratch),
                "KUBECACHEDIR": str(self.scratch / "kubectl"),
            }
        )
        first = [contender.programs] if contender.programs else []
        if contender.collections:
            environment["ANSIBLE_COLLECTIONS_PATH"] = str(contender.collections)
        if contender.script is not None:
            first.append(self.cluster.bin)
            command = ["bash", "-c", contender.script]
        else:
            command = ["ansible-playbook", "-i", "localhost,", str(self._playbook(contender))]
        environment["PATH"] = os.pathsep.join([*map(str, first), environment["PATH"]])
        logged = self.cluster.audit_log.stat().st_size
        self.take_calls()
        began = time.perf_counter()
        ran, usage = _run(command, environment)
        seconds = time.perf_counter() - began
        time.sleep(0.1)  # A request appears in the audit log soon after its response.
        cloud_calls = self.take_calls()
        with self.cluster.audit_log.open() as log:
            log.seek(logged)
            kubernetes_calls = sum(
                event["user"].get("username") == user and event["stage"] == "ResponseComplete"
                for event in map(json.loads, log)
            )
        return Run(
            cloud_calls,
            kubernetes_calls,
            seconds,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / 1024,
            self._outcome(contender, ran),
        )

    def _playbook(self, contender: Contender) -> Path:
        """A play of the contender's tasks. JSON is YAML."""
        path = self.scratch / "play.yml"
        path.write_text(json.dumps(local_play(self.variables, tasks=contender.tasks)))
        return path

    def _outcome(self, contender: Contender, ran: subprocess.CompletedProcess[str]) -> str:
        if contender.script is None:
            if ran.returncode == 0:
                return "changed" if re.search(r"changed=[1-9]", ran.stdout) else "ok"
        elif self.refusal and self.refusal in ran.stderr:
            return "rejected"
        elif not ran.returncode and not ran.stderr:
            return "ok"
        sys.exit(f"A contender failed:\n{ran.stdout}\n{ran.stderr}")


def _run(command: list[str], environment: dict[str, str]):
    """Run the command; returns the kernel's accounting of it and all its children.

    A busy machine does not change the CPU time there.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        ran = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
    return ran, usage
