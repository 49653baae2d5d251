# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module ec2_subnet_network_info in the controller, where it would run anyway."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    ModuleInController,
    preload,
)

preload("osc.peerpods.ec2_subnet_network_info", "ec2")


class ActionModule(ModuleInController):
    """The strategy finds it by the module's name, and imports this file before it forks workers."""
