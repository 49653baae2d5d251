"""The time, CPU, memory and traffic of a process and the API server in a phase."""

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

# The interval in seconds at which the sockets are read. Clients keep idle connections for longer.
SOCKETS_INTERVAL = 1.0


@dataclass(frozen=True)
class Phase:
    """The figures of one contender in one phase.

    `seconds` of wall time; `cpu` and `servers_cpu` (of etcd and the API server) in CPU seconds; `requests` by verb, as
    the API server audited them, and how many of them `failed`; `sent` and `received` in bytes; `rss` at the end and
    `peak` during the phase, in MB. `progress` has the seconds after which each node was written, `lags` the seconds
    since another program had reset it, both sorted.
    """

    seconds: float
    cpu: float
    servers_cpu: Mapping[str, float]
    requests: Mapping[str, int]
    failed: int
    sent: int
    received: int
    rss: float
    peak: float
    progress: tuple[float, ...] = ()
    lags: tuple[float, ...] = ()


class Subject:
    """A contender's process, with its own user in the cluster."""

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
        """Return the resident MB now, and the peak since `forget_peak`."""
        status = (self._proc / "status").read_text()
        return resident_mb(self._proc), int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024

    def bytes(self) -> tuple[int, int]:
        """Return the bytes (sent, received) on all connections to the API server so far."""
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
                    local_address = connection.split()[3]
                    self._sockets[local_address] = _count(connection, "sent"), _count(connection, "received")
        return (
            sum(sent for sent, _ in self._sockets.values()),
            sum(received for _, received in self._sockets.values()),
        )

    @property
    def _proc(self) -> Path:
        return Path("/proc", str(self._process.pid))


def _count(connection: str, direction: str) -> int:
    match = re.search(rf"bytes_{direction}:(\d+)", connection)
    return int(match[1]) if match else 0


def measure(
    world: World,
    subject: Subject,
    goal: str,
    act: Callable[[], object],
    done: Callable[[], bool],
    seconds: float,
) -> Phase:
    """Call `act()` and measure until `done()`.

    Raises RuntimeError, with `goal`, if that takes longer than `seconds` or the subject ends.
    """
    world.audit.forget()
    subject.forget_peak()
    sent, received = subject.bytes()
    cpu, servers = subject.cpu(), {name: cpu_seconds(process) for name, process in world.servers.items()}
    began = read = time.time()
    act()
    while not done():
        subject.check_alive()
        if (now := time.time()) - began > seconds:
            raise RuntimeError(f"{subject.user}: timed out after {seconds:.0f} s waiting for {goal}.")
        if now - read > SOCKETS_INTERVAL:
            subject.bytes()
            read = now
        time.sleep(0.05)
    elapsed = time.time() - began
    after, (rss, peak) = subject.bytes(), subject.memory()
    observed, reset = world.audit.of(subject.user), world.audit.of(WRITER).advertised
    progress = tuple(sorted(at - began for at in observed.advertised.values()))
    return Phase(
        progress[-1] if progress else elapsed,
        subject.cpu() - cpu,
        {name: cpu_seconds(process) - servers[name] for name, process in world.servers.items()},
        dict(observed.requests),
        observed.failed,
        after[0] - sent,
        after[1] - received,
        rss,
        peak,
        progress,
        tuple(sorted(at - reset[name] for name, at in observed.advertised.items() if name in reset)),
    )
