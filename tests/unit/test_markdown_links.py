"""The links of Markdown files to files and headings of the repository lead somewhere, and the named paths exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
FILES = sorted(file for file in TRACKED if file.endswith(".md"))
PATH = re.compile(r"(?<![\w./$*-])[\w.-]+(?:/[\w.-]+)+\.(?:cfg|j2|json|md|mod|py|rst|sum|toml|txt|ya?ml)\b")


def links(text: str) -> list[str]:
    """The targets of links and images, without those to other sites."""
    without_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code) + re.findall(r'src="([^"]+)"', without_code)
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(file: Path, link: str) -> str | None:
    path, _hash, anchor = link.partition("#")
    target = (file.parent / path).resolve() if path else file
    if not target.exists():
        return "does not exist"
    if anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
        return "has no such heading"
    return None


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("README.md", None),
        ("README.md#roles-and-modules", None),
        ("tests/README.md#i-changed-", None),
        ("README.md#modules", "has no such heading"),
        ("READYOU.md", "does not exist"),
    ],
)
def test_a_broken_link_is_found(link: str, expected: str | None) -> None:
    assert problem(ROOT / "CONTRIBUTING.md", link) == expected


@pytest.mark.parametrize("file", FILES)
def test_every_link_leads_somewhere(file: str) -> None:
    path = ROOT / file
    broken = {link: reason for link in links(path.read_text()) if (reason := problem(path, link))}
    assert broken == {}


def missing_paths(text: str) -> set[str]:
    """The paths of files in code that no file has, from any directory on. Builds create those in build/."""
    named = {path for code in re.findall(r"`([^`\n]+)`", text) for path in PATH.findall(code)}
    return {
        path
        for path in named
        if not path.startswith("build/")
        and "NAME" not in path
        and not any(f"/{file}".endswith(f"/{path}") for file in TRACKED)
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`tests/unit/test_layout.py` and `unit/test_layout.py`", set()),
        ("`pytest tests/unit/test_missing.py -q`", {"tests/unit/test_missing.py"}),
        ("`it/test_layout.py`", {"it/test_layout.py"}),
        ("`build/bench/site.json`, `/opt/app/sbom.cdx.json`, `tests/integration/test_NAME.py`", set()),
    ],
)
def test_a_missing_path_is_found(text: str, expected: set[str]) -> None:
    assert missing_paths(text) == expected


@pytest.mark.parametrize("file", FILES)
def test_every_path_exists(file: str) -> None:
    assert missing_paths((ROOT / file).read_text()) == set()
