"""The ports of the test clusters."""

from __future__ import annotations

import subprocess
import sys

from tests.cluster.processes import free_ports
from tests.support import ROOT

# Prints the first free port of those in its arguments.
CHOOSE = """
import random, sys
from types import SimpleNamespace
from tests.cluster.processes import free_ports

ports = map(int, sys.argv[1:])
random.SystemRandom = lambda: SimpleNamespace(randrange=lambda *_range: next(ports))
print(*free_ports(1))
"""


def test_another_process_does_not_get_a_port_on_which_nothing_listens_yet():
    chosen = free_ports(3)
    assert len(set(chosen)) == 3
    others = [str(port) for port in range(29_000, 29_100) if port not in chosen]
    command = [sys.executable, "-c", CHOOSE, *map(str, chosen), *others]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(completed.stdout) not in chosen
