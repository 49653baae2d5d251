"""The guarantees of the launcher: no process or pod of podman outlives it, and clusters run side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.support import ROOT

PROGRAMS = {"etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "kwok"}


@pytest.mark.parametrize(
    "arguments",
    [
        "namespace default",
        "namespaces/default",
        "nodes -l node-role.kubernetes.io/worker",
        "nodes --show-managed-fields",
        "serviceaccounts -A --field-selector=metadata.name=default",
        "configmaps -n kube-system",
        "cm,sa -n kube-public",
        "clusterroles view edit",
        "deployments.apps -A",
        "mcp",
    ],
)
def test_objects_are_read_as_by_kubectl(cluster: Cluster, arguments: str):
    def is_equal() -> bool:
        printed = json.loads(cluster.kubectl("get", *arguments.split(), "-o", "json"))
        objects = cluster.get(*arguments.split())
        return objects.get("items", objects) == printed.get("items", printed)

    # Another program may write between the two reads.
    wait_for("the same answer", is_equal, seconds=30)


@pytest.mark.parametrize("command", ["label", "annotate"])
def test_metadata_changes_as_by_kubectl(cluster: Cluster, command: str):
    names = [f"{command}-{way}" for way in ("kubectl", "client")]
    for name in names:
        cluster.kubectl("create", "configmap", name, "--from-literal=key=value")
    cluster.kubectl(command, "configmap", *names, "kept=1", "replaced=1", "removed=1")
    changes = ("replaced=", "removed-", "example.com/added=2")
    cluster.kubectl(command, "configmap", names[0], *changes, "--overwrite")
    getattr(cluster, command)(f"configmap/{names[1]}", *changes)
    first, second = (cluster.get("configmap", name, "--show-managed-fields")["metadata"] for name in names)
    for key in ("labels", "annotations"):
        assert first.get(key) == second.get(key)
    # Their order depends on the seconds in which they wrote.
    managers = [sorted(entry["manager"] for entry in metadata["managedFields"]) for metadata in (first, second)]
    assert managers[0] == managers[1]
    cluster.delete("configmap", *names)


def test_objects_are_deleted_as_by_kubectl(cluster: Cluster):
    """kubectl waits for finalizers, and fails if there is no such object."""
    cluster.kubectl("create", "configmap", "held")
    cluster.merge("configmap/held", {"metadata": {"finalizers": ["example.com/hold"]}})
    with ThreadPoolExecutor() as executor:
        deletion = executor.submit(cluster.delete, "configmap", "held")
        wait_for(
            "the deletion", lambda: cluster.get("configmap", "held")["metadata"].get("deletionTimestamp"), seconds=30
        )
        cluster.delete("configmap", "held", "--wait=false")
        assert not deletion.done()
        cluster.merge("configmap/held", {"metadata": {"finalizers": None}})
        deletion.result()
    for delete in (cluster.delete, partial(cluster.kubectl, "delete")):
        with pytest.raises(RuntimeError, match="not found"):
            delete("configmap", "held")
        delete("configmap,secret", "held", "--ignore-not-found")
    cluster.apply(
        *(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "test"}}}
            for name in "ab"
        )
    )
    cluster.delete("configmap", "-l", "of=test")
    assert not cluster.get("configmap", "-l", "of=test")["items"]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """`python -m tests.cluster`, up and running."""
    # pytest removes the files of a killed launcher from this directory, in which no Unix socket has a valid path.
    directory = tmp_path / ("long-name-" * 10)
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster", "--workers=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(directory)},
    ) as process:
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        yield process
        process.kill()
        process.wait()


def children(pid: int) -> dict[int, str]:
    """The names of a process' children, by pid (field 4 of /proc/PID/stat is the parent)."""
    names = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text())
        except OSError:
            continue
        if int(match[3]) == pid:
            names[int(match[1])] = match[2]
    return names


def all_gone(pids: dict[int, str]) -> bool:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_clusters_run_side_by_side_and_end_with_ctrl_c(cluster: Cluster, launcher: subprocess.Popen):
    """The session's cluster next to the launcher's: they share neither servers nor nodes."""
    (imagined,) = openshift.imagined_workers(1)
    assert imagined.name not in cluster.kubectl("get", "nodes", "-o", "name")
    ends_with_all_that_it_started(launcher, signal.SIGINT)


def test_no_process_outlives_a_killed_launcher(launcher: subprocess.Popen):
    ends_with_all_that_it_started(launcher, signal.SIGKILL)


def ends_with_all_that_it_started(launcher: subprocess.Popen, number: signal.Signals) -> None:
    started = children(launcher.pid)
    assert {name[:15] for name in started.values()} >= {name[:15] for name in PROGRAMS}
    os.kill(launcher.pid, number)
    launcher.wait(timeout=60)
    assert all_gone(started)


def test_sigterm_stops_everything_like_ctrl_c():
    program = (
        "import signal; from tests.cluster.processes import unwind_on_signals\n"
        "unwind_on_signals()\n"
        "try: print('up', flush=True); signal.pause()\n"
        "finally: print('unwound')"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.read() == "unwound\n"
    assert process.returncode == 128 + signal.SIGTERM
