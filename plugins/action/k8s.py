# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module in the controller if possible. Finds definitions and templates as kubernetes.core does."""

from __future__ import annotations

from typing import Any

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import preload
from ansible_collections.osc.peerpods.plugins.plugin_utils._kubernetes_core import (
    KubernetesCoreInController,
)

MODULE = "osc.peerpods.k8s"

preload(MODULE)


class ActionModule(KubernetesCoreInController):
    """The strategy imports this file before it forks workers."""

    def _execute_module(
        self,
        module_name: str | None = None,
        module_args: dict[str, Any] | None = None,
        task_vars: dict[str, Any] | None = None,
        wrap_async: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # The action of kubernetes.core passes the name of its own module.
        return super()._execute_module(MODULE, module_args, task_vars, wrap_async, **kwargs)
