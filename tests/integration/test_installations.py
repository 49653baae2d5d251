"""What a newcomer starts first, from the commands of the README: the demo on both clouds, and a scenario of molecule.

Each installs on a cluster of its own, as a process of its own.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support import ROOT


@pytest.mark.parametrize(
    "arguments",
    [
        # With tokens, and then with keys.
        "demo CLOUD=aws CREDENTIALS=token",
        "demo CLOUD=azure OPERATOR=1.8",
        "molecule SCENARIO=default",
    ],
)
def test_make(arguments: str):
    # Without the options of the `make` that runs the tests.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    completed = subprocess.run(
        ["make", *arguments.split()],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
