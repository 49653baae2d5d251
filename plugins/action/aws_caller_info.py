# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs amazon.aws.aws_caller_info in the controller, where it would run anyway."""

from __future__ import annotations

from typing import Any

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    ModuleInController,
    preload,
    renamed,
)

ORIGINAL = "amazon.aws.aws_caller_info"

preload(ORIGINAL)


class ActionModule(ModuleInController):
    """The strategy imports this file before it forks workers."""

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(renamed(task, ORIGINAL), *args, **kwargs)
