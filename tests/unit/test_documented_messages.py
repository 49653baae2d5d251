"""The messages and checks that the documentation explains are those of the code."""

from __future__ import annotations

import re

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import TITLES

from tests.support import ROOT

GUIDE = (ROOT / "docs/docsite/rst/guide_troubleshooting.rst").read_text()

# The messages of Kubernetes, not of the collection.
KUBERNETES = {"Insufficient kata.peerpods.io/vm", "failed calling webhook", "must specify limits"}

CHECKS, SYMPTOMS = re.search(
    r"^A check of the preflight failed\n(.*?)^A peer pod does not start\n(.*)", GUIDE, re.MULTILINE | re.DOTALL
).groups()
MESSAGES = [" ".join(message.split()) for message in re.findall(r"(?<![*\w])\*(\w[^*]+|… [^*]+)\*(?!\*)", SYMPTOMS)]


def normalized(text: str) -> str:
    """Code without line ends, quotes and placeholders, which interrupt a sentence."""
    text = re.sub(r"\"\s*\n\s*f?\"", "", text)
    return " ".join(re.sub(r"\{\{.*?\}\}|\{[^{}]*\}", "…", text, flags=re.DOTALL).split())


def test_there_are_messages():
    assert set(MESSAGES) > KUBERNETES
    assert len(MESSAGES) > 10


@pytest.mark.parametrize("message", sorted(set(MESSAGES) - KUBERNETES))
def test_the_code_has_the_message(message: str):
    paths = [path for top in ("plugins", "roles", "playbooks") for path in (ROOT / top).rglob("*.*")]
    texts = [normalized(path.read_text()) for path in paths if path.suffix in (".py", ".yml", ".j2")]
    parts = [part.strip() for part in message.split("…") if part.strip()]
    assert any(all(part in text for part in parts) for text in texts)


@pytest.mark.parametrize("check", re.findall(r"``([a-z-]+)``", "".join(re.findall(r"\* - (``.*)\n", CHECKS))))
def test_the_check_exists(check: str):
    assert check in TITLES


def test_the_readme_of_the_role_explains_each_check():
    readme = (ROOT / "roles/cluster_prerequisites/README.md").read_text()
    table = readme.partition("| check | what is checked |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`([a-z-]+)`", "".join(first_cells))) == sorted(TITLES)


SHOWN_TASKS = sorted(
    {
        task
        for path in [*ROOT.glob("docs/docsite/rst/*.rst"), *ROOT.glob("roles/*/README.md")]
        for task in re.findall(r"TASK \[(?:osc\.peerpods\.(\w+) : )?([^\]]+)\]", path.read_text())
    }
)


@pytest.mark.parametrize(("role", "task"), SHOWN_TASKS)
def test_the_tasks_in_documented_output_exist(role: str, task: str):
    files = ROOT.glob(f"roles/{role}/tasks/*.yml" if role else "playbooks/*.yml")
    assert task in {name for path in files for name in re.findall(r"^ *- name: (.+)$", path.read_text(), re.MULTILINE)}
