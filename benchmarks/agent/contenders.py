"""The programs that make nodes advertise their slots: the agent, a controller built on client-go, and curl."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import built
from tests.cluster.processes import free_ports
from tests.support import OPERATOR_NAMESPACE

from .figures import Phase, Subject, measure
from .world import (
    ADAPTOR,
    AGENT_NAMESPACE,
    KATA_OC,
    LIMITS,
    NODES,
    RESOURCE,
    STATUS_INTERVAL,
    World,
)

PEER = Path(__file__).with_name("peer")

COLLECTION = "osc"
LIMITED = "client-go, 20 QPS"
UNLIMITED = "client-go, no limit"
CURL = "curl per node"

COLD, LIMIT, STORM = "cold start", "limit change", "restart storm"
SECOND = "limit, 2nd generation"
QUIET, BEATS = "steady, quiet", "steady, heartbeats"

# Seconds that a steady state is measured, and that kwok has for its first Leases before.
STEADY = 60
KWOK_BEGINS = 30

# The share of nodes that are reset in a restart storm.
STORM_SHARE = 0.1

# Seconds that a contender may take, in addition to those of its rate limit.
PATIENCE = 120


@dataclass(frozen=True)
class Contender:
    """A program and its rate limit in nodes per second; with a rate limit, one round is enough. `second` is its
    command for the second generation of the operator; None: not measured there."""

    name: str
    command: list[str]
    environment: dict[str, str]
    per_second: float | None = None
    second: list[str] | None = None


def agent_process(agent: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of the agent whose package is in the directory `agent`."""
    environment = {
        "PYTHONPATH": str(agent),
        "PEERPODCONFIG_NAMESPACE": OPERATOR_NAMESPACE,
        "NAMESPACE": AGENT_NAMESPACE,
        "POD_VM_EXTENDED_RESOURCE": RESOURCE,
        "BIND_ADDRESS": "127.0.0.1",
        "HEALTH_PORT": str(free_ports(1)[0]),
    }
    return [sys.executable, "-m", "peerpods_node_capacity"], environment


def contenders(agent: Path) -> list[Contender]:
    peer = built(PEER, [PEER.name], minutes=1) / PEER.name
    program = [str(peer), f"-namespace={OPERATOR_NAMESPACE}", f"-resource={RESOURCE}"]
    unlimited = [*program, "-qps=-1", "-workers=16"]
    selector = ",".join("=".join(label) for label in KATA_OC.items())
    limits = [f"-limits={AGENT_NAMESPACE}/{LIMITS}", f"-adaptor={ADAPTOR}", f"-selector={selector}"]
    command, environment = agent_process(agent)
    # The agent of an older checkout reads PeerPodConfigs only.
    second = command if (agent / "peerpods_node_capacity" / "pools.py").exists() else None
    return [
        Contender(COLLECTION, command, environment, second=second),
        Contender(UNLIMITED, unlimited, {}, second=[*unlimited, *limits]),
        Contender(LIMITED, [*program, "-qps=20", "-burst=30"], {}, per_second=20),
    ]


def _writer(world: World, contender: Contender, subject: Subject) -> Callable[..., Phase]:
    """Return a function that measures a phase in which nodes advertise a new limit."""

    def measure_writes(nodes: list[str], limit: str, act: Callable[[], object]) -> Phase:
        phase = measure(
            world,
            subject,
            f"{len(nodes)} nodes to advertise {limit}",
            act,
            lambda: len(world.audit.of(subject.user).advertised) == len(nodes),
            PATIENCE + len(world.nodes) / (contender.per_second or 100),
        )
        wrong = sum(slots != (limit, limit) for slots in world.slots().values())
        if wrong:
            raise RuntimeError(f"{contender.name}: {wrong} nodes do not advertise {limit}.")
        return phase

    return measure_writes


def second_generation(world: World, contender: Contender) -> Iterator[tuple[str, Phase]]:
    """Measure a limit change in peerpods-limits, on nodes whose cloud-api-adaptor is ready."""
    if contender.second is None:
        return
    world.limit(None)
    world.second_limit("10")
    world.reset(world.nodes)
    subject = Subject(world, contender.name, contender.second, contender.environment)
    measure_writes = _writer(world, contender, subject)
    try:
        measure_writes(world.nodes, "10", subject.start)
        yield SECOND, measure_writes(world.nodes, "20", lambda: world.second_limit("20"))
    finally:
        subject.stop()
        world.second_limit(None)


def phases(world: World, contender: Contender, steady: bool) -> Iterator[tuple[str, Phase]]:
    """Measure the phases of a contender, from its start with nodes that advertise nothing."""
    world.limit("10")
    world.reset(world.nodes)
    subject = Subject(world, contender.name, contender.command, contender.environment)
    nodes = world.nodes
    restarting = nodes[: int(len(nodes) * STORM_SHARE)]
    measure_writes = _writer(world, contender, subject)

    try:
        yield COLD, measure_writes(nodes, "10", subject.start)
        yield LIMIT, measure_writes(nodes, "20", lambda: world.limit("20"))
        yield STORM, measure_writes(restarting, "20", lambda: world.reset(restarting))
        if steady:
            yield QUIET, _while(world, subject, lambda: time.sleep(STEADY))
            beating = nodes[: len(nodes) * STEADY // STATUS_INTERVAL]
            with world.kwok():
                time.sleep(KWOK_BEGINS)
                per_second = len(nodes) / STATUS_INTERVAL
                yield BEATS, _while(world, subject, lambda: world.beat(beating, per_second))
    finally:
        subject.stop()
    yield from second_generation(world, contender)


def _while(world: World, subject: Subject, run: Callable[[], object]) -> Phase:
    """Measure what the subject spends while `run` runs."""
    running: list[Future] = []
    with ThreadPoolExecutor(1) as pool:
        phase = measure(
            world,
            subject,
            "the end of a steady state",
            lambda: running.append(pool.submit(run)),
            lambda: running[0].done(),
            PATIENCE,
        )
        running[0].result()
    return phase


@dataclass(frozen=True)
class Curl:
    """The wall time and CPU time in seconds of one curl per node, in a shell's loop.

    `sent` and `received` are bytes of HTTP, without TLS.
    """

    nodes: int
    seconds: float
    cpu: float
    sent: int
    received: int

    def scaled(self, nodes: int) -> Curl:
        """Return the figures for so many nodes; each takes the same time."""
        share = nodes / self.nodes
        return Curl(
            nodes,
            self.seconds * share,
            self.cpu * share,
            int(self.sent * share),
            int(self.received * share),
        )


def curl(world: World, sample: int) -> Curl:
    """Send upstream's patch by curl to the first `sample` nodes, with a process and a TLS connection for each."""
    user = "bench-curl"
    world.cluster.user_kubeconfig(user, "system:masters")
    directory = world.cluster.directory
    nodes = world.nodes[:sample]
    key = RESOURCE.replace("/", "~1")
    patch = ", ".join(
        f'{{"op": "add", "path": "/status/{kind}/{key}", "value": "30"}}' for kind in ("capacity", "allocatable")
    )
    command = [
        "curl",
        "--fail",
        "--silent",
        "--show-error",
        "--output",
        "/dev/null",
        "--cacert",
        f"{directory}/ca.crt",
        "--cert",
        f"{directory}/{user}.crt",
        "--key",
        f"{directory}/{user}.key",
        "--request",
        "PATCH",
        "--header",
        "Content-Type: application/json-patch+json",
        "--data",
        f"[{patch}]",
        "--write-out",
        r"%{size_request} %{size_upload} %{size_header} %{size_download}\n",
    ]
    loop = (
        f"for node in {shlex.join(nodes)}; do {shlex.join(command)} "
        f"{world.cluster.server}{NODES}/$node/status || exit 1; done"
    )
    before, began = os.times(), time.perf_counter()
    ran = subprocess.run(["bash", "-c", loop], capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, os.times()
    if ran.returncode:
        raise RuntimeError(f"curl could not patch a node: {ran.stderr}")
    sizes = [[int(size) for size in line.split()] for line in ran.stdout.splitlines()]
    return Curl(
        len(nodes),
        seconds,
        after.children_user + after.children_system - before.children_user - before.children_system,
        sum(request + upload for request, upload, _, _ in sizes),
        sum(header + download for _, _, header, download in sizes),
    )
