"""The server that runs modules in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

INTERRUPTED_AT_ITS_END = """
import atexit, os, signal, sys
import tests.modules_imported
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import run_forked

def main():
    @atexit.register
    def interrupted():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        print("removed its files")
    print("did its work")
    sys.exit(0)

print(run_forked(main, b"{}"))
"""

LISTEN = """
from multiprocessing.connection import Listener
from tests.module_runs import server_of_modules

server_of_modules()
print(Listener(family="AF_UNIX").address)
"""


def test_its_socket_does_not_depend_on_the_length_of_tmpdir(tmp_path: Path):
    """A listener of multiprocessing has the same kind of address as the server."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    environment = {**os.environ, "TMPDIR": str(directory)}
    command = [sys.executable, "-c", LISTEN]
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("/tmp/")


def test_a_module_that_is_interrupted_at_its_end_completes_it():
    command = [sys.executable, "-c", INTERRUPTED_AT_ITS_END]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    expected = {"rc": 0, "stdout": "did its work\nremoved its files\n", "stderr": ""}
    assert (completed.stdout.strip(), completed.stderr) == (str(expected), "")
