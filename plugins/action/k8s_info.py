# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs kubernetes.core.k8s_info in the controller, where it would run anyway."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import preload
from ansible_collections.osc.peerpods.plugins.plugin_utils._kubernetes_core import (
    KubernetesCoreInController,
    run_persistently,
)

preload("kubernetes.core.k8s_info")


class ActionModule(KubernetesCoreInController):
    """The strategy imports this file before it forks workers."""

    def _run_here(self, name: str) -> None:
        run_persistently(name)
