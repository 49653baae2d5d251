# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many more instances of a type the quotas of EC2 allow in a region (private; no I/O here).

EC2 counts the vCPUs of On-Demand Instances, those of several families together ("Amazon EC2 instance type quotas":
Capacity Reservations count even if they are unused, Spot Instances, Capacity Blocks and Dedicated Hosts have quotas of
their own).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# The quotas "Running On-Demand ... instances": the code in Service Quotas, and the first letters of their instance
# types.
_FAMILIES = {
    "L-1216C47A": ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"),
    "L-43DA4232": ("u",),
    "L-74FC7D96": ("f",),
    "L-DB2E81BA": ("g", "gr", "vt"),
    "L-417A185B": ("p",),
    "L-7295265B": ("x",),
    "L-6E869C2A": ("dl",),
    "L-1945791B": ("inf",),
    "L-2C3B7624": ("trn",),
    "L-F7808C92": ("hpc",),
}
_QUOTA_CODES = {family: code for code, families in _FAMILIES.items() for family in families}
_FAMILY = re.compile("[a-z]+")


def quota_code(instance_type: str) -> str | None:
    """The code of the quota that an instance type counts against, or None if it is unknown."""
    family = _FAMILY.match(instance_type)
    return _QUOTA_CODES.get(family[0]) if family else None


def counted(instances: Iterable[Mapping], reservations: Iterable[Mapping]) -> Counter[str]:
    """The number of instances of each type that count against a quota.

    `instances` are the running ones of DescribeInstances, `reservations` the active ones of
    DescribeCapacityReservations; the used part of a reservation consists of instances.
    """
    counts: Counter[str] = Counter()
    for instance in instances:
        on_demand = "InstanceLifecycle" not in instance
        if on_demand and instance.get("Placement", {}).get("Tenancy") != "host":
            counts[instance["InstanceType"]] += 1
    for reservation in reservations:
        if reservation.get("ReservationType") != "capacity-block":
            counts[reservation["InstanceType"]] += reservation["AvailableInstanceCount"]
    return counts


def vcpu_quota(
    instance_types: Sequence[str],
    vcpus: Mapping[str, int],
    count: Mapping[str, int],
    quotas: Mapping[str, int],
    region: str,
) -> list[dict]:
    """The value `instance_types` of ec2_vcpu_quota_info: each type once, in order.

    `vcpus` has the vCPUs of an instance by its type, `count` is the result of `counted`, `quotas` has vCPUs by code.
    `quotas` may lack quotas that these instance types do not count against.
    """
    used: Counter[str | None] = Counter()
    for instance_type, number in count.items():
        if quota_code(instance_type) in quotas:
            used[quota_code(instance_type)] += number * vcpus[instance_type]
    return [_of_type(instance_type, vcpus, used, quotas, region) for instance_type in dict.fromkeys(instance_types)]


def _of_type(
    instance_type: str,
    vcpus: Mapping[str, int],
    used: Mapping[str | None, int],
    quotas: Mapping[str, int],
    region: str,
) -> dict:
    code = quota_code(instance_type)
    quota = None if code is None else quotas.get(code)
    result: dict[str, object] = {
        "name": instance_type,
        "vcpus": vcpus.get(instance_type),
        "quota_code": code,
        "quota": quota,
        "used": None if quota is None else used[code],
        "instances": None,
        "reason": None,
    }
    if instance_type not in vcpus:
        result["reason"] = f"EC2 has no instance type {instance_type} in {region}."
    elif quota is None:
        result["reason"] = f"No vCPU quota of On-Demand Instances is known for {instance_type}."
    else:
        result["instances"] = max(0, quota - used[code]) // vcpus[instance_type]
    return result
