"""docs/architecture.md names the files that exist, and the unit tests of module_utils mirror it."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support import ROOT

# In these directories the document names every file, elsewhere only the top of a directory.
FULLY_LISTED = "plugins"
TOPS = ("benchmarks", "containers", "playbooks", "roles", "tests")


def documented() -> list[str]:
    """The paths in the tree under "Repository layout", files with their directories; those in lists, too."""
    text = (ROOT / "docs/architecture.md").read_text()
    (tree,) = re.findall(r"^## Repository layout\n\n```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    paths, parents = [], []
    for line in tree.splitlines():
        name, _gap, description = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        path = "".join(parents[: depth + 1])
        listed = re.fullmatch(r"(\w+\.yml, )+\w+\.yml", description.strip())
        paths += [path + file for file in description.strip().split(", ")] if listed else [path]
    return paths


def existing(directory: Path) -> list[str]:
    """What is in a directory, as the document names it; directories end in a slash."""
    return sorted(
        f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}"
        for path in directory.iterdir()
        if path.name not in ("__init__.py", "__pycache__") and not path.name.startswith(".")
    )


def everything(directory: Path) -> list[str]:
    paths = existing(directory)
    return paths + [deeper for path in paths if path.endswith("/") for deeper in everything(ROOT / path)]


PATHS = documented()


@pytest.mark.parametrize(
    "path", everything(ROOT / FULLY_LISTED) + [path for top in TOPS for path in existing(ROOT / top)]
)
def test_every_file_is_documented_once(path: str):
    assert sum(fnmatch(path, pattern) for pattern in PATHS) == 1


@pytest.mark.parametrize("pattern", PATHS)
def test_every_documented_file_exists(pattern: str):
    assert any((path.is_dir() or not pattern.endswith("/")) for path in ROOT.glob(pattern.rstrip("/")))


def test_unit_tests_mirror_module_utils():
    """A test file is named for the module that it tests; a module without a decision needs none."""
    utils, tests = ROOT / "plugins/module_utils", ROOT / "tests/unit/module_utils"
    modules = {path.relative_to(utils).with_suffix("").as_posix() for path in utils.rglob("*.py")}
    tested = {
        (path.relative_to(tests).parent / path.stem.removeprefix("test_")).as_posix()
        for path in tests.rglob("test_*.py")
    }
    assert {name if "/" in name else f"_{name}" for name in tested} <= modules
