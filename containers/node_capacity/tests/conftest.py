"""Makes the agent importable where it is not installed, and what its tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from agent_process import Place


@pytest.fixture
def place(cluster, tmp_path: Path) -> Iterator[Place]:
    place = Place(cluster, tmp_path)
    yield place
    place.clean_up()
