"""What Microsoft.Compute adds to a virtual machine: its network interfaces, its quota, its state and its console.

https://learn.microsoft.com/rest/api/compute/virtual-machines/create-or-update (networkInterfaceConfigurations,
deleteOption), …/get (expand=instanceView) and …/retrieve-boot-diagnostics-data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import compute, ids
from .errors import ArmError

# What a machine writes to its serial console when its system starts.
BOOTED = "[    0.000000] Linux version 5.14.0-427.el9.x86_64\n[    9.123456] podvm login: \n"

_NIC_FIELDS = ("networkSecurityGroup", "ipConfigurations", "enableAcceleratedNetworking", "enableIPForwarding")


def interfaces_of(machine: dict) -> Iterator[tuple[str, dict]]:
    """The network interfaces that are created with a machine: their IDs and bodies. The machine then refers to them."""
    profile = machine["properties"].get("networkProfile") or {}
    group = ids.known(machine["id"]).scope
    references = profile.setdefault("networkInterfaces", [])
    for configuration in profile.pop("networkInterfaceConfigurations", None) or ():
        properties = configuration["properties"]
        resource_id = f"{group}/providers/{ids.NICS}/{configuration['name']}"
        references.append({"id": resource_id, "properties": {"deleteOption": properties.get("deleteOption", "Detach")}})
        written = {key: properties[key] for key in _NIC_FIELDS if properties.get(key)}
        yield resource_id, {"location": machine["location"], "properties": written}


def deleted_with(machine: dict) -> list[str]:
    """The network interfaces that are deleted with a machine."""
    references = (machine["properties"].get("networkProfile") or {}).get("networkInterfaces") or ()
    return [nic["id"] for nic in references if (nic.get("properties") or {}).get("deleteOption") == "Delete"]


def require_quota(size: str, location: str, machines: list[dict], limits: Mapping[str, int]) -> None:
    """Reject a machine that the quota has no room for. The message is quoted in Azure/karpenter-provider-azure#192."""
    family = next((family for family in compute.FAMILIES if size in family.sizes), None)
    if family is None:
        return
    used = {usage["name"]["value"]: usage["currentValue"] for usage in compute.usages(machines, dict(limits))}
    for name, localized in ((family.name, family.name), ("cores", "Total Regional")):
        needed = used[name] + family.sizes[size]
        if needed > limits[name]:
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {localized} Cores quota. "
                f"Additional details - Deployment Model: Resource Manager, Location: {location}, Current Limit: "
                f"{limits[name]}, Current Usage: {used[name]}, Additional Required: {family.sizes[size]}, (Minimum) "
                f"New Limit Required: {needed}.",
            )


def instance_view(machine: dict, failure: ArmError | None) -> dict:
    """As in the REST example VirtualMachine_Get_WithInstanceView.

    A machine whose creation failed stays (hashicorp/terraform-provider-azurerm#7516). Its status has the code of the
    error (hail-is/hail#11393), and no power state: it was never allocated.
    """
    if failure:
        code, message = failure.error["code"], failure.error["message"]
        display = {"level": "Error", "displayStatus": "Provisioning failed", "message": message}
        statuses = [{"code": f"ProvisioningState/failed/{code}", **display}]
    else:
        statuses = [
            {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded"},
            {"code": "PowerState/running", "level": "Info", "displayStatus": "VM running"},
        ]
    name = (machine["properties"].get("osProfile") or {}).get("computerName", machine["name"])
    return {"computerName": name, "statuses": statuses}
