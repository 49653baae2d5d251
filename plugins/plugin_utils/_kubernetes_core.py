# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs modules of kubernetes.core in the controller, like the modules of this collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.kubernetes.core.plugins.action.k8s_info import (
    ActionModule as KubernetesCoreAction,
)
from ansible_collections.kubernetes.core.plugins.module_utils.k8s import runner
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import LostWriteError, connect
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import (
    InController,
    imported,
    renamed,
)

PERFORM_ACTION = runner.perform_action


def run_persistently(module: str) -> None:
    """Run a module of kubernetes.core with this collection's connection, which retries and explains errors."""
    python_module = imported(module)
    # kubernetes.core has no option for either; its modules call this function where they connect.
    for caller in (python_module, runner):
        if hasattr(caller, "get_api_client"):
            caller.get_api_client = connect
    runner.perform_action = reporting_changes(PERFORM_ACTION)
    python_module.main()


def reporting_changes(perform_action: Callable[..., dict]) -> Callable[..., dict]:
    """`perform_action`, whose failure has the changes of the definitions before it.

    kubernetes.core takes the result of a failure from the exception.
    """
    changed: list[str] = []

    def perform(service: Any, definition: dict, params: dict) -> dict:
        try:
            result = perform_action(service, definition, params)
        except Exception as error:
            if not changed and not any(isinstance(each, LostWriteError) for each in (error, error.__cause__)):
                raise
            before = f" Changed before: {join_names(changed)}." if changed else ""
            failure = CoreException(f"{str(error).rstrip('.')}.{before}")
            failure.result = {**getattr(error, "result", {}), "changed": True}
            raise failure from error.__cause__ or error
        if result["changed"] and not service.module.check_mode:
            changed.append(f"{definition['kind']} {definition['metadata'].get('name', '')}".strip())
        return result

    return perform


class KubernetesCoreInController(InController, KubernetesCoreAction):
    """The action of osc.peerpods.k8s and k8s_info, which behaves like the action of kubernetes.core with that name."""

    # A module in the controller needs no temporary directory. One that is sent to another machine gets it then.
    TRANSFERS_FILES = False

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        # The action of kubernetes.core reads the name of the module from the task, and from it the module's options.
        original = f"kubernetes.core.{task.action.rpartition('.')[2]}"
        super().__init__(renamed(task, original), *args, **kwargs)

    def _run_here(self, name: str) -> None:
        run_persistently(name)
