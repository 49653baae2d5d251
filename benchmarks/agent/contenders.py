"""Programs that make nodes advertise their slots: our agent, a controller by client-go, and curl."""

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

OURS = "ours"
LIMITED = "client-go, 20 QPS"
UNLIMITED = "client-go, no limit"
CURL = "curl per node"

COLD, LIMIT, STORM = "cold start", "limit change", "restart storm"
SECOND = "limit, 2nd generation"
QUIET, BEATS = "steady, quiet", "steady, heartbeats"

# Seconds that a steady state is looked at, and that kwok has to write its Leases before.
STEADY = 60
KWOK_BEGINS = 30

# Nodes that restart in a storm, of all.
STORM_SHARE = 0.1

# Seconds that a contender has beyond what its own limit of requests takes.
PATIENCE = 120


@dataclass(frozen=True)
class Contender:
    """A program, and how many nodes it can do a second at best: one round is enough where it has a
    limit of requests. `second` is its command on the second generation of the operator, None where
    it is not measured there."""

    name: str
    command: list[str]
    environment: dict[str, str]
    per_second: float | None = None
    second: list[str] | None = None


def agent_process(agent: Path) -> tuple[list[str], dict[str, str]]:
    """How the agent whose package is in the directory `agent` is started, and its environment."""
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
        Contender(OURS, command, environment, second=second),
        Contender(UNLIMITED, unlimited, {}, second=[*unlimited, *limits]),
        Contender(LIMITED, [*program, "-qps=20", "-burst=30"], {}, per_second=20),
    ]


def _writer(world: World, contender: Contender, subject: Subject) -> Callable[..., Phase]:
    """Measure what makes nodes advertise a limit."""

    def written(nodes: list[str], limit: str, act: Callable[[], object]) -> Phase:
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

    return written


def second_generation(world: World, contender: Contender) -> Iterator[tuple[str, Phase]]:
    """A limit change through peerpods-limits, on nodes whose cloud-api-adaptor is ready."""
    if contender.second is None:
        return
    world.limit(None)
    world.second_limit("10")
    world.take_away(world.nodes)
    subject = Subject(world, contender.name, contender.second, contender.environment)
    written = _writer(world, contender, subject)
    try:
        written(world.nodes, "10", subject.start)
        yield SECOND, written(world.nodes, "20", lambda: world.second_limit("20"))
    finally:
        subject.stop()
        world.second_limit(None)


def phases(world: World, contender: Contender, steady: bool) -> Iterator[tuple[str, Phase]]:
    """The contender from its start on, on nodes that advertise nothing."""
    world.limit("10")
    world.take_away(world.nodes)
    subject = Subject(world, contender.name, contender.command, contender.environment)
    everyone = world.nodes
    some = everyone[: int(len(everyone) * STORM_SHARE)]
    written = _writer(world, contender, subject)

    try:
        yield COLD, written(everyone, "10", subject.start)
        yield LIMIT, written(everyone, "20", lambda: world.limit("20"))
        yield STORM, written(some, "20", lambda: world.take_away(some))
        if steady:
            yield QUIET, _while(world, subject, lambda: time.sleep(STEADY))
            beating = everyone[: len(everyone) * STEADY // STATUS_INTERVAL]
            with world.kwok():
                time.sleep(KWOK_BEGINS)
                per_second = len(everyone) / STATUS_INTERVAL
                yield BEATS, _while(world, subject, lambda: world.beat(beating, per_second))
    finally:
        subject.stop()
    yield from second_generation(world, contender)


def _while(world: World, subject: Subject, run: Callable[[], object]) -> Phase:
    """What the subject does while something runs."""
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
    """A curl for each of some nodes, in a shell's loop: seconds of wall time and of CPU.

    `sent` and `received` are bytes of HTTP, without what TLS adds.
    """

    nodes: int
    seconds: float
    cpu: float
    sent: int
    received: int

    def scaled(self, nodes: int) -> Curl:
        """What so many nodes take, as each takes the same."""
        share = nodes / self.nodes
        return Curl(
            nodes,
            self.seconds * share,
            self.cpu * share,
            int(self.sent * share),
            int(self.received * share),
        )


def curl(world: World, sample: int) -> Curl:
    """Upstream's patch by curl, on the first `sample` nodes: a process and a TLS connection each."""
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
