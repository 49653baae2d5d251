"""The guide "By hand and with this collection" quotes each command of the product documentation."""

from __future__ import annotations

import re

import pytest

from tests import documented
from tests.support import ROOT

GUIDE = (ROOT / "docs/docsite/rst/guide_by_hand.rst").read_text()


def one_line(text: str) -> str:
    return " ".join(text.replace("\\\n", " ").split())


def commands() -> list[str]:
    scripts = (documented.AWS_PORTS, documented.AZURE_PORTS, documented.AZURE_OUTBOUND, documented.limit("<value>"))
    lines = re.sub(r"\\\n", " ", "\n".join(scripts)).splitlines()
    return sorted({one_line(line) for line in lines if line.strip() and not line.startswith("oc()")})


def test_there_are_commands():
    assert len(commands()) == 19


@pytest.mark.parametrize("command", commands())
def test_the_command_is_quoted(command: str):
    assert f"$ {command}" in one_line(GUIDE)
