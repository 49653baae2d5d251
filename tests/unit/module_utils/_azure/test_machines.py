"""The state of a virtual machine."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.machines import (
    is_machine_id,
    power_state,
    state_reason,
)

ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"


def machine(*codes: str, state: str = "Succeeded") -> dict:
    """As in the REST example VirtualMachine_Get_WithInstanceView."""
    statuses = [{"code": code, "level": "Info"} for code in codes]
    return {"properties": {"provisioningState": state, "instanceView": {"statuses": statuses}}}


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (None, "missing"),
        (machine("ProvisioningState/succeeded", "PowerState/running"), "running"),
        (machine("ProvisioningState/succeeded", "PowerState/deallocated"), "deallocated"),
        (machine("ProvisioningState/failed/AllocationFailed", state="Failed"), "failed"),
        ({"properties": {"provisioningState": "Deleting"}}, "deleting"),
    ],
)
def test_the_power_state_or_the_provisioning_state(read: dict | None, expected: str):
    assert power_state(read) == expected


def test_the_error_of_a_creation_that_failed():
    """hail-is/hail#11393."""
    error = {"level": "Error", "displayStatus": "Provisioning failed", "message": "Allocation failed. We do not have"}
    failed = {
        "properties": {"instanceView": {"statuses": [{"code": "ProvisioningState/failed/AllocationFailed", **error}]}}
    }
    assert state_reason(failed) == "AllocationFailed: Allocation failed. We do not have"
    assert state_reason(machine("ProvisioningState/succeeded", "PowerState/running")) == state_reason(None) == ""


@pytest.mark.parametrize(
    ("text", "expected"), [(ID, True), (ID.lower(), True), (f"{ID}/extensions/e", False), ("i-0abc", False)]
)
def test_what_is_the_id_of_a_machine(text: str, expected: bool):
    assert is_machine_id(text) is expected
