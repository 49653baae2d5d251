"""The check of the docs site: each kind of problem is found where it is, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs_site import problems

HOME = '<h1 id="top">Home</h1><a href="#top">up</a><a href="guide/aws.html#ports">ports</a><img src="a%20b.png">'
GUIDE = '<h2 id="ports">Ports</h2><a href="../index.html">home</a><a href="https://example.com/none">there</a>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text(HOME)
    (tmp_path / "guide/aws.html").write_text(GUIDE)
    (tmp_path / "a b.png").write_bytes(b"")
    return tmp_path


def test_a_site_without_problems(site: Path):
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        ('<a href="azure.html">', "links to azure.html, which does not exist"),
        ('<a href="../guide/">', "links to ../guide/, which does not exist"),
        ('<a href="#port">', "links to #port, an anchor that does not exist"),
        ('<a href="../index.html#ports">', "links to ../index.html#ports, an anchor that does not exist"),
        ('<img src="../c.png">', "links to ../c.png, which does not exist"),
        ('<script src="_static/a.js"></script>', "links to _static/a.js, which does not exist"),
        ('<aside class="system-message big">', "has an error box (system-message)"),
        ('<span class="problematic">', "has an error box (problematic)"),
    ],
)
def test_each_problem_is_found(site: Path, added: str, problem: str):
    (site / "guide/aws.html").write_text(GUIDE + added)
    assert list(problems(site)) == [f"guide/aws.html: {problem}"]
