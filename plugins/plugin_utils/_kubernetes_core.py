# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs modules of kubernetes.core, and those with its options, like the other modules of this collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubernetes.core.plugins.action.k8s_info import (
    ActionModule as KubernetesCoreAction,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import connect
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    InController,
    imported,
    renamed,
)


def run_persistently(module: str) -> None:
    """Run a module of kubernetes.core with this collection's connection, which retries and explains errors."""
    python_module = imported(module)
    # kubernetes.core has no option for it; its modules call this function where they connect.
    python_module.get_api_client = connect
    python_module.main()


class KubernetesCoreInController(InController, KubernetesCoreAction):
    """The action of osc.peerpods.k8s and k8s_info, which behaves like the action of kubernetes.core with that name."""

    # A module in the controller needs no temporary directory. One that is sent to another machine gets it then.
    TRANSFERS_FILES = False

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        # The action of kubernetes.core reads the name of the module from the task, and from it the module's options.
        original = f"kubernetes.core.{task.action.rpartition('.')[2]}"
        super().__init__(renamed(task, original), *args, **kwargs)
