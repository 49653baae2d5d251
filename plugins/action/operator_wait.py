# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module operator_wait until its wait is over, and shows each step."""

from __future__ import annotations

import time
from typing import Any

from ansible.utils.display import Display
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    InController,
    preload,
)

display = Display()
preload("osc.peerpods.operator_wait")


class ActionModule(InController):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        # The module rejects a timeout that is not a number.
        timeout = arguments.get("wait_timeout", 0)
        seconds = int(timeout) if str(timeout).isdigit() else 0
        deadline = time.monotonic() + seconds
        changed = False
        while True:
            step = self._execute_module(module_args=arguments, task_vars=task_vars)
            if step.get("changed"):
                # An InstallPlan was approved: each version gets the whole timeout.
                changed, deadline = True, time.monotonic() + seconds
            result.update(step, changed=changed)
            progress = step.get("progress")
            if step.get("failed") or not progress:
                return result
            if progress["summary"]:
                # To standard error, since a callback may write output for programs, such as JSON, to standard output.
                display.display(f"  {progress['summary']}", stderr=True)
            left = int(deadline - time.monotonic())
            if progress["done"] or progress["problem"] or progress["needs_approval"] or left <= 0:
                break
            arguments.update(previous=progress, wait_timeout=left)
        if seconds and not progress["done"]:
            reason = progress["problem"] or f"Timed out after {seconds} s: {progress['summary']}."
            result.update(failed=True, msg=f"{reason} {progress['remedy']}")
        return result
