# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs modules of kubernetes.core in the controller, as those of this collection are."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubernetes.core.plugins.action.k8s_info import (
    ActionModule as KubernetesCoreAction,
)
from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import InController, renamed


class KubernetesCoreInController(InController, KubernetesCoreAction):
    """The action of osc.peerpods.k8s and k8s_info: does what the one of kubernetes.core with that name does."""

    # What is sent to other machines gets its directory when it is sent; here none is needed.
    TRANSFERS_FILES = False

    def __init__(self, task: Any, *args: Any, **kwargs: Any) -> None:
        # The action of kubernetes.core takes from it the name of the module, and which options that module has.
        original = f"kubernetes.core.{task.action.rpartition('.')[2]}"
        super().__init__(renamed(task, original), *args, **kwargs)
