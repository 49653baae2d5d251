# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of a virtual machine (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/virtualMachines/[^/]+", re.IGNORECASE
)


def is_machine_id(resource_id: str) -> bool:
    return _ID.fullmatch(resource_id) is not None


def _statuses(machine: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return ((machine.get("properties") or {}).get("instanceView") or {}).get("statuses") or ()


def state_reason(machine: Mapping[str, Any] | None) -> str:
    """The error in the instance view of a VM, such as `AllocationFailed: …`; empty without one."""
    errors = [status for status in _statuses(machine or {}) if status.get("level") == "Error"]
    return "; ".join(f"{each['code'].rpartition('/')[2]}: {each.get('message', '')}" for each in errors)


def power_state(machine: Mapping[str, Any] | None) -> str:
    """The power state of a VM that was read with its instance view, such as `running`.

    A VM that failed to be created has none; then its provisioning state. `missing` if the VM does not exist.
    """
    if machine is None:
        return "missing"
    properties = machine.get("properties") or {}
    codes = [status.get("code", "") for status in _statuses(machine)]
    power = next((code.partition("/")[2] for code in codes if code.startswith("PowerState/")), "")
    return power or str(properties.get("provisioningState", "unknown")).lower()
