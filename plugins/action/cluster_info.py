# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module of this plugin's name in the controller, where it would run anyway. Most plugins here link to it."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    ModuleInController,
    preload,
)

preload(__name__.rpartition(".")[2])


class ActionModule(ModuleInController):
    """The strategy finds it by the module's name, and imports this file before it forks workers."""
