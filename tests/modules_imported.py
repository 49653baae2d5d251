"""Imports all actions, modules and filters of the collection and their dependencies, for servers that are forked."""

from ansible.plugins.loader import action_loader, init_plugin_loader

from tests.support import ROOT

init_plugin_loader([str(ROOT / "collections")])
# An action imports its module, and the filters.
for path in (ROOT / "plugins" / "action").glob("*.py"):
    action_loader.get(f"osc.peerpods.{path.stem}", class_only=True)
