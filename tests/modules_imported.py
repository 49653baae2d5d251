"""Imports all modules of the collection and their dependencies, for the server of module_runs.py."""

import importlib

from ansible.plugins.loader import init_plugin_loader

from tests.support import ROOT

init_plugin_loader([str(ROOT / "collections")])
in_controller = importlib.import_module("ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller")
for path in (ROOT / "plugins" / "modules").glob("*.py"):
    in_controller.preload(f"osc.peerpods.{path.stem}", "ec2")
