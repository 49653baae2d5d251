"""The server that runs modules in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

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
