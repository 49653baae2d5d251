"""Imports all of our modules, and so whatever they import: for the server of module_runs.py."""

import importlib

from ansible.plugins.loader import init_plugin_loader

from tests.module_runs import MODULES
from tests.support import ROOT

init_plugin_loader([str(ROOT / "collections")])
for path in sorted((ROOT / "plugins" / "modules").glob("*.py")):
    importlib.import_module(f"{MODULES}.{path.stem}")
