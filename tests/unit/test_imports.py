"""Every module can be imported, and those of a cloud without the Kubernetes library."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from tests.support import ROOT

CLOUD_MODULES = sorted(
    path.stem
    for cloud in ("azure_*", "ec2_*", "nsg_*", "security_group_*")
    for path in (ROOT / "plugins" / "modules").glob(f"{cloud}.py")
)


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")))
def test_every_module_can_be_imported(module):
    importlib.import_module(f"ansible_collections.osc.peerpods.plugins.modules.{module}")


@pytest.mark.parametrize("module", CLOUD_MODULES)
def test_a_cloud_module_needs_no_kubernetes_library(module):
    name = f"ansible_collections.osc.peerpods.plugins.modules.{module}"
    program = f"import sys, {name}; sys.exit('kubernetes' in sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "collections")},
        check=False,
    )
    assert imported.returncode == 0


def test_every_module_has_an_action_that_runs_it_in_the_controller():
    modules, actions = (
        {path.stem for path in (ROOT / "plugins" / kind).glob("*.py")} for kind in ("modules", "action")
    )
    assert modules == actions
