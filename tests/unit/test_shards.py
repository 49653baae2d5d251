"""The parts into which SHARD splits the tests: each file is in exactly one of them."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from conftest import parse_shard, shard
from tests.support import ROOT

FILES = ("a", "b", "c", "d", "e")
WRONG = ("0/2", "3/2", "2/1", "0/0", "-1/2", "1/2/2", "1", "1/", "x", "", "1/2 ")


@pytest.mark.parametrize("of", range(1, len(FILES) + 2))
def test_each_file_is_in_one_shard(of: int) -> None:
    tests = [file for file in FILES for _test in range(3)]
    shards = [shard(tests, number, of) for number in range(1, of + 1)]
    assert sorted(file for files in shards for file in files) == sorted(FILES)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("text", "expected"), [("1/1", (1, 1)), ("1/2", (1, 2)), ("2/2", (2, 2)), ("10/12", (10, 12))])
def test_a_shard_is_a_number_and_a_count(text: str, expected: tuple[int, int]) -> None:
    assert parse_shard(text) == expected


@pytest.mark.parametrize("text", WRONG)
def test_another_shard_is_rejected(text: str) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(f"got '{text}'.")):
        parse_shard(text)


@pytest.mark.parametrize("text", WRONG)
def test_make_test_rejects_it_before_the_first_stage(text: str) -> None:
    command = ["make", "test", f"SHARD={text}", "STAGES=help"]
    # Without the variables of the make that runs this test.
    environment = {"PATH": os.environ["PATH"]}
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 2
    assert completed.stdout == f"SHARD must be a number and a count, such as 1/2 or 2/2; got '{text}'.\n"
