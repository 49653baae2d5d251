# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module operator_wait from one step to the next, and shows each while it is waited for."""

from __future__ import annotations

import time

from ansible.utils.display import Display
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    InController,
    preload,
)

display = Display()
preload("osc.peerpods.operator_wait")


class ActionModule(InController):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        # What is no number, the module refuses with a sentence.
        timeout = arguments.get("wait_timeout", 0)
        seconds = int(timeout) if str(timeout).isdigit() else 0
        deadline = time.monotonic() + seconds
        while True:
            step = self._execute_module(module_args=arguments, task_vars=task_vars)
            result.update(step)
            progress = step.get("progress")
            if step.get("failed") or not progress:
                return result
            if progress["summary"]:
                # Beside what a callback writes to stdout, for programs, too.
                display.display(f"  {progress['summary']}", stderr=True)
            left = int(deadline - time.monotonic())
            settled = progress["done"] or progress["problem"] or progress["needs_approval"]
            if settled or left <= 0:
                return result
            arguments.update(previous=progress, wait_timeout=left)
