"""Programs from Go modules are built once for the same sources and flags. The compiler is a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import binaries

GO = """#!/bin/sh
case "$1" in
  env) echo go1.26 ;;
  list) echo package ;;
  install) mkdir -p "$GOBIN" && echo "$@" > "$GOBIN/program" ;;
esac
"""


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(binaries, "CACHE", tmp_path / "cache")
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(GO)
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(go.parent), prepend=":")
    directory = tmp_path / "module"
    directory.mkdir()
    (directory / "go.mod").write_text("go 1.26\n")
    (directory / "go.sum").touch()
    return directory


def built(module: Path, *flags: str) -> Path:
    return binaries.built(module, ["program"], *flags, minutes=0)


def test_the_same_build_is_not_repeated(module: Path):
    first = built(module, "-tags=a")
    (first / "program").write_text("built before")
    assert built(module, "-tags=a") == first
    assert (first / "program").read_text() == "built before"


def test_other_flags_are_another_build(module: Path):
    for flags in ("-tags=a", "-tags=b"):
        assert flags in (built(module, flags) / "program").read_text()


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_other_sources_are_another_build(module: Path, name: str):
    first = built(module)
    with open(module / name, "a") as source:
        source.write("// changed\n")
    assert built(module) != first


def test_a_missing_program_is_built_again(module: Path):
    program = built(module) / "program"
    program.unlink()
    built(module)
    assert program.exists()
