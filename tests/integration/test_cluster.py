"""The launcher's promises: nothing outlives it, clusters run side by side, podman's pods neither."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.support import ROOT

PROGRAMS = {"etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "kwok"}


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """`python -m tests.cluster`, up and running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster", "--workers=1"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        # Where a launcher that is killed leaves its files for pytest to clean up.
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    yield process
    process.kill()
    process.wait()


def children(pid: int) -> dict[int, str]:
    """The names of a process' children, by pid (field 4 of /proc/PID/stat is the parent)."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text())
        except OSError:
            continue
        if int(match[3]) == pid:
            found[int(match[1])] = match[2]
    return found


def all_gone(pids: dict[int, str]) -> bool:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_launcher(launcher: subprocess.Popen, number: signal.Signals):
    started = children(launcher.pid)
    assert {name[:15] for name in started.values()} >= {name[:15] for name in PROGRAMS}
    os.kill(launcher.pid, number)
    launcher.wait(timeout=60)
    assert all_gone(started)


def test_two_at_once(cluster: Cluster, launcher: subprocess.Popen):
    """The session's own cluster beside the launcher's: neither sees the other's servers or nodes."""
    assert set(children(launcher.pid)).isdisjoint(children(os.getpid()))
    (imagined,) = openshift.imagined_workers(1)
    assert imagined.name not in cluster.kubectl("get", "nodes", "-o", "name")
