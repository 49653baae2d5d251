"""Makes the agent importable if it is not installed, and defines the fixtures of its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from agent_process import Workspace


@pytest.fixture
def workspace(cluster, tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace(cluster, tmp_path)
    yield workspace
    workspace.clean_up()
