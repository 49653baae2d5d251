"""A playbook whose tasks with the tag always are skipped ends with the reason, before anything is changed."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import ROOT, ansible_environment


@pytest.mark.parametrize("tags", [(), ("--tags", "cloud_networking")], ids=["all", "one"])
@pytest.mark.parametrize("playbook", ["site", "teardown"])
def test_tasks_that_are_always_needed_were_skipped(playbook: str, tags: tuple[str, ...]):
    completed = subprocess.run(
        ["ansible-playbook", str(ROOT / f"playbooks/{playbook}.yml"), "--skip-tags", "always", *tags],
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2
    words = " ".join((completed.stdout + completed.stderr).split())
    assert "run the playbook without --skip-tags always" in words
    assert "changed=0" in words
