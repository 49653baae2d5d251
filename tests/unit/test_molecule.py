"""The playbook that stops the cluster of a molecule scenario ends this cluster, and no other process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from ansible.template import Templar, trust_as_template

from tests.support import ROOT


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments]) as running:
        yield running
        running.kill()


def destroy(directory: Path) -> None:
    """Run the script of the playbook."""
    (play,) = yaml.safe_load((ROOT / "extensions/molecule/shared/destroy.yml").read_text())
    (script,) = (task["ansible.builtin.shell"] for task in play["tasks"] if "ansible.builtin.shell" in task)
    templar = Templar(variables={"molecule_ephemeral_directory": str(directory)})
    subprocess.run(["/bin/sh", "-c", templar.template(trust_as_template(script))], cwd=directory, check=True)
    assert not (directory / "pid").exists()


def test_the_cluster_ends(tmp_path: Path):
    with process("-m", "tests.cluster", "--ready", str(tmp_path / "ready.json")) as cluster:
        (tmp_path / "pid").write_text(f"{cluster.pid}\n")
        # The ID of a process exists until its parent has read the status.
        threading.Thread(target=cluster.wait).start()
        destroy(tmp_path)
        assert cluster.wait(timeout=10) == -signal.SIGTERM


def test_another_process_with_the_id_of_the_cluster_continues(tmp_path: Path):
    with process() as other:
        (tmp_path / "pid").write_text(f"{other.pid}\n")
        destroy(tmp_path)
        assert other.poll() is None


def test_a_cluster_that_has_ended_is_forgotten(tmp_path: Path):
    with process() as ended:
        ended.kill()
        ended.wait()
    (tmp_path / "pid").write_text(f"{ended.pid}\n")
    destroy(tmp_path)
