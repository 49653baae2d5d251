# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module verification_pods until its pods have answered or cannot start, and shows each step."""

from __future__ import annotations

import time
from typing import Any

from ansible.utils.display import Display
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    InController,
    preload,
)

display = Display()
preload("osc.peerpods.verification_pods")

# The module's default.
WAIT_TIMEOUT = 900


class ActionModule(InController):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        # The module rejects a timeout that is not a number.
        timeout = arguments.get("wait_timeout", WAIT_TIMEOUT)
        deadline = time.monotonic() + (int(timeout) if str(timeout).isdigit() else 0)
        changed = False
        while True:
            step = self._execute_module(module_args=arguments, task_vars=task_vars)
            # A step that only waits changes nothing.
            changed = changed or step.get("changed", False)
            result.update(step, changed=changed)
            progress = step.get("progress")
            if step.get("failed") or not progress:
                return result
            # To standard error, since a callback may write output for programs, such as JSON, to standard output.
            display.display(f"  {progress['summary']}", stderr=True)
            if progress["done"]:
                return result
            arguments.update(previous=progress, wait_timeout=max(0, int(deadline - time.monotonic())))
