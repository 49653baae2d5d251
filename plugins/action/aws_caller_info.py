# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs amazon.aws.aws_caller_info in the controller, where it would run anyway."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    ModuleInController,
    preload,
)

ORIGINAL = "amazon.aws.aws_caller_info"

preload(ORIGINAL)


class ActionModule(ModuleInController):
    """The strategy imports this file before it forks workers."""

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        # The name of the module to run is taken from the task.
        original = copy.copy(task)
        original.action = ORIGINAL
        super().__init__(original, *args, **kwargs)
