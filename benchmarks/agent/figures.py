"""What a process and the API server spend on a phase."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..load import cpu_seconds, resident_mb
from .world import WRITER, World

# Seconds from one look at the sockets to the next. Clients keep an unused connection for longer.
LOOK_AT_SOCKETS = 1.0


@dataclass(frozen=True)
class Phase:
    """What one contender took for one phase.

    `seconds` of wall time; `cpu` and `servers_cpu` (etcd's and the API server's) in CPU seconds;
    `requests` by verb, as the API server logged them, of which it refused `refused`; `sent` and
    `received` in bytes; `rss` at the end and `peak` within, in MB. `progress` are the seconds
    after which each node was written, `lags` those from when another writer had reset the node,
    both in order.
    """

    seconds: float
    cpu: float
    servers_cpu: Mapping[str, float]
    requests: Mapping[str, int]
    refused: int
    sent: int
    received: int
    rss: float
    peak: float
    progress: tuple[float, ...] = ()
    lags: tuple[float, ...] = ()


class Subject:
    """A program with a user of its own in the cluster, and what it has spent since it was started."""

    def __init__(self, world: World, name: str, command: list[str], environment: dict[str, str]):
        self.user = f"bench-{name.replace(' ', '-').replace(',', '')}"
        self._world = world
        self._command = command
        self._environment = {
            **environment,
            "KUBECONFIG": str(world.cluster.user_kubeconfig(self.user, "system:masters")),
        }
        self._to_api_server = f"dport = :{urlsplit(world.cluster.server).port}"
        self._process: subprocess.Popen | None = None
        self._sockets: dict[str, tuple[int, int]] = {}

    def start(self) -> None:
        self._process = self._world.cluster.processes.start(self.user, self._command, environment=self._environment)

    def stop(self) -> None:
        if self._process:
            self._world.cluster.processes.end(self.user)

    @property
    def log(self) -> Path:
        return self._world.cluster.directory / "logs" / f"{self.user}.log"

    def check_alive(self) -> None:
        if self._process and self._process.poll() is not None:
            raise RuntimeError(f"{self.user} ended: {self.log.read_text()[-2000:]}")

    def cpu(self) -> float:
        return cpu_seconds(self._proc) if self._process else 0.0

    def forget_peak(self) -> None:
        if self._process:
            (self._proc / "clear_refs").write_text("5")

    def memory(self) -> tuple[float, float]:
        """Resident MB now, and at most since `forget_peak`."""
        status = (self._proc / "status").read_text()
        return resident_mb(self._proc), int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024

    def bytes(self) -> tuple[int, int]:
        """(sent, received) on connections to the API server that this has seen at least once."""
        if self._process:
            listed = subprocess.run(
                ["ss", "-Htinp", "state", "connected", self._to_api_server],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            # A connection is two lines, the second indented.
            for connection in re.split(r"\n(?=\S)", listed):
                if f"pid={self._process.pid}," in connection:
                    ours = connection.split()[3]
                    self._sockets[ours] = _count(connection, "sent"), _count(connection, "received")
        return (
            sum(sent for sent, _ in self._sockets.values()),
            sum(received for _, received in self._sockets.values()),
        )

    @property
    def _proc(self) -> Path:
        return Path("/proc", str(self._process.pid))


def _count(connection: str, direction: str) -> int:
    found = re.search(rf"bytes_{direction}:(\d+)", connection)
    return int(found[1]) if found else 0


def measure(
    world: World,
    subject: Subject,
    what: str,
    act: Callable[[], object],
    done: Callable[[], bool],
    seconds: float,
) -> Phase:
    """`act()`, and all that happens until `done()`.

    Raises RuntimeError, with `what`, where it is not done after so many `seconds`, or the subject
    ends before.
    """
    world.audit.forget()
    subject.forget_peak()
    sent, received = subject.bytes()
    cpu, servers = subject.cpu(), {name: cpu_seconds(one) for name, one in world.servers.items()}
    began = looked = time.time()
    act()
    while not done():
        subject.check_alive()
        if (now := time.time()) - began > seconds:
            raise RuntimeError(f"{subject.user}: waited {seconds:.0f} s in vain for {what}.")
        if now - looked > LOOK_AT_SOCKETS:
            subject.bytes()
            looked = now
        time.sleep(0.05)
    elapsed = time.time() - began
    after, (rss, peak) = subject.bytes(), subject.memory()
    seen, reset = world.audit.of(subject.user), world.audit.of(WRITER).advertised
    progress = tuple(sorted(at - began for at in seen.advertised.values()))
    return Phase(
        progress[-1] if progress else elapsed,
        subject.cpu() - cpu,
        {name: cpu_seconds(one) - servers[name] for name, one in world.servers.items()},
        dict(seen.requests),
        seen.refused,
        after[0] - sent,
        after[1] - received,
        rss,
        peak,
        progress,
        tuple(sorted(at - reset[name] for name, at in seen.advertised.items() if name in reset)),
    )
