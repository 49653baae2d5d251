"""The data with which clusters start: made once for the same inputs, by one of several processes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.cluster import seeds


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(seeds, "CACHE", tmp_path / "cache")


def grow(target: Path) -> None:
    target.mkdir()
    (target / "data").touch()


def forbidden(_target: Path) -> None:
    pytest.fail("The cache has it.")


def test_the_same_inputs_have_one_seed():
    first = seeds.seed([b"a", b"b"], grow)
    assert seeds.seed([b"a", b"b"], forbidden) == first
    assert [file.name for file in first.iterdir()] == ["data"]


@pytest.mark.parametrize("inputs", [[b"ab"], [b"a"], [b"b", b"a"], [b"", b"ab"], [b"a", b"b", b""]])
def test_other_inputs_have_another_seed(inputs: list[bytes]):
    assert seeds.seed(inputs, grow) != seeds.seed([b"a", b"b"], grow)


def test_one_makes_it_while_another_waits():
    grown, may_end = [], threading.Event()

    def slowly(target: Path) -> None:
        grown.append(target)
        may_end.wait(timeout=30)
        grow(target)

    threads = [threading.Thread(target=seeds.seed, args=([b"a"], slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(grown) == 1


def test_a_seed_that_failed_halfway_is_made_again():
    def fail(target: Path) -> None:
        grow(target)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        seeds.seed([b"a"], fail)
    assert seeds.seed([b"a"], grow).exists()


def test_a_copy_has_the_same_content_in_less_space(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "wal").mkdir(parents=True)
    (source / "wal" / "0").write_bytes(b"log" + bytes(4 << 20))
    seeds.copy(source, target)
    copied = target / "wal" / "0"
    assert copied.read_bytes() == b"log" + bytes(4 << 20)
    assert copied.stat().st_blocks * 512 < 1 << 20
