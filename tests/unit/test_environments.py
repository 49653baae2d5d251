"""The cache outside the repository, and the virtual environments in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environments
from tests.support import ROOT


@pytest.mark.parametrize(
    ("setting", "expected"), [("", "/home/user/.cache"), (None, "/home/user/.cache"), ("/c", "/c")]
)
def test_the_cache_is_that_of_the_user(setting: str | None, expected: str):
    environment = {**os.environ, "HOME": "/home/user", "XDG_CACHE_HOME": setting}
    program = "from tests.environments import CACHE; print(CACHE)"
    completed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(completed.stdout.strip()) == Path(expected, "osc.peerpods")


def test_an_environment_is_created_again_for_other_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")

    def environment(clone: str, requirements: str) -> Path:
        file = tmp_path / clone / "requirements.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(requirements)
        return environments.own_environment("empty", "-r", str(file))

    mark = environment("a", "# nothing") / "mark"
    mark.touch()
    assert environment("b", "# nothing") == mark.parent
    assert mark.exists()
    assert environment("a", "# nothing else") == mark.parent
    assert not mark.exists()
