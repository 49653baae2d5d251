# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs amazon.aws.aws_caller_info in the controller, where it would run anyway."""

from __future__ import annotations

import json
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

    def _run_here(self, name: str) -> None:
        try:
            super()._run_here(name)
        # A file that botocore opens itself, such as that of AWS_WEB_IDENTITY_TOKEN_FILE: the module would end in a
        # traceback.
        except OSError as error:
            message = (
                f"A file of the credentials cannot be read: {error}. Correct the path in the environment or profile."
            )
            print(json.dumps({"failed": True, "msg": message}))

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(renamed(task, ORIGINAL), *args, **kwargs)
