"""What it takes to list all nodes and to follow their changes: the agent compared with libraries."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.environments import own_environment

from .contenders import COLLECTION, PATIENCE, STORM_SHARE, agent_process
from .figures import Phase, Subject, measure
from .world import World

CLIENTS = Path(__file__).with_name("clients.py")

# Requirements by the function in clients.py; lightkube is installed with the tests.
LIBRARIES = {
    "lightkube": None,
    "kubernetes_asyncio": "kubernetes-asyncio==36.1.0",
    "kr8s": "kr8s==0.20.15",
    "kopf": "kopf==1.45.2",
}

LIST, FOLLOW = "list all", "follow changes"

# Seconds within which the slowest library has processed all changes.
FOLLOWING = 15


def libraries(world: World, agent: Path) -> Iterator[tuple[str, str, Phase]]:
    """Yield (library, LIST or FOLLOW, figures). Without a PeerPodConfig, the agent does not write."""
    world.limit(None)
    world.reset(world.nodes)
    command, environment = agent_process(agent)
    subject = Subject(world, COLLECTION, command, environment)
    yield from _of(world, COLLECTION, subject, lambda: _ready(environment["HEALTH_PORT"]))
    for name, requirement in LIBRARIES.items():
        programs = own_environment(requirement) if requirement else Path(sys.executable).parent
        command = [str(programs / "python"), str(CLIENTS), name, str(len(world.nodes))]
        subject = Subject(world, name, command, {})
        yield from _of(world, name, subject, lambda log=subject.log: "listed" in log.read_text())


def _of(world: World, name: str, subject: Subject, listed: Callable[[], bool]) -> Iterator[tuple[str, str, Phase]]:
    changed = world.nodes[: int(len(world.nodes) * STORM_SHARE)]

    def change() -> None:
        nonlocal until
        world.beat(changed)
        until = time.monotonic() + FOLLOWING

    until = 0.0
    try:
        yield name, LIST, measure(world, subject, "all nodes", subject.start, listed, PATIENCE)
        yield name, FOLLOW, measure(world, subject, "changes", change, lambda: time.monotonic() > until, PATIENCE)
    finally:
        subject.stop()


def _ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
