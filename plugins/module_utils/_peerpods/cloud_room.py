# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many peer pods the cloud has room for, from what the modules for subnets and quotas returned (no I/O here)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

# The permissions that reading each bound requires.
PERMISSIONS = {
    "aws": {
        "subnet-addresses": "ec2:DescribeSubnets",
        "instance-quota": (
            "servicequotas:GetServiceQuota, ec2:DescribeInstances, ec2:DescribeInstanceTypes and "
            "ec2:DescribeCapacityReservations"
        ),
    },
    "azure": {
        "subnet-addresses": "Microsoft.Network/virtualNetworks/usages/read",
        "instance-quota": "Microsoft.Compute/skus/read and Microsoft.Compute/locations/usages/read",
    },
}


def cloud_room(
    readings: dict,
    provider: str,
    running: int | str,
    stored: Mapping[str, str] = MappingProxyType({}),
    own: Collection[str] | None = None,
) -> dict:
    if provider not in PERMISSIONS:
        return {
            "bounds": {},
            "messages": [
                "The capacity of the cloud is unknown: CLOUD_PROVIDER in peer-pods-cm is neither aws nor azure."
            ],
        }
    subnet, quota = readings["subnet"], readings["quota"]
    # AWS calls it an instance type, Azure a size.
    sizes = quota.get("instance_types") or quota.get("sizes") or [None]
    read = {
        "subnet-addresses": (subnet, subnet.get("subnet"), "free"),
        "instance-quota": (quota, sizes[0], "instances"),
    }
    running, bounds, messages = int(running), {}, []
    for name, (returned, usage, key) in read.items():
        if own is not None and name in stored and name not in own:
            messages.append(f"{name}: {stored[name]}, set by another owner of the ConfigMap. It stays in force.")
            continue
        free = usage and usage[key]
        if free is not None:
            bounds[name] = str(running + free)
            messages.append(f"{name}: room for {running + free} peer pods in total, {running} running and {free} more.")
            continue
        if usage:
            reason = usage.get("reason") or "The quota does not count VMs of this size."
        else:
            reason = f"{returned.get('msg')} Required permissions: {PERMISSIONS[provider][name]}."
        note = f" The {stored[name]} peer pods of an earlier run stay in force." if name in stored else ""
        messages.append(f"{name}: unknown. {reason}{note}")
    return {"bounds": bounds, "messages": messages}
