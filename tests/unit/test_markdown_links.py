"""The links of Markdown files to files and headings of the repository lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

FILES = sorted(
    subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
)


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
