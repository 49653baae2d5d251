# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many more VMs Azure has room for (private; no I/O here).

Microsoft.Compute counts vCPUs: by family of sizes, and of all families in a region ("Check vCPU quotas", Usage - List,
Resource Skus - List). Microsoft.Network counts the addresses of a subnet, without those that Azure reserves (Virtual
Networks - List Usage).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

# The name of the usage that counts all vCPUs of the region.
REGIONAL = "cores"


def vcpu_quota(sizes: Sequence[str], skus: Iterable[Mapping], usages: Iterable[Mapping], location: str) -> list[dict]:
    """The value `sizes` of azure_vcpu_quota_info: each size once, in order.

    `skus` and `usages` are ARM's lists for this location.
    """
    by_size = {sku["name"].lower(): sku for sku in skus if sku["resourceType"] == "virtualMachines"}
    by_name = {usage["name"]["value"].lower(): usage for usage in usages}
    return [_of_size(size, by_size.get(size.lower()), by_name, location) for size in dict.fromkeys(sizes)]


def _of_size(size: str, sku: Mapping | None, usages: Mapping[str, Mapping], location: str) -> dict:
    result: dict[str, object] = {
        "name": size,
        "family": None,
        "vcpus": None,
        "family_limit": None,
        "family_used": None,
        "regional_limit": None,
        "regional_used": None,
        "instances": 0,
        "available": False,
        "reason": None,
    }
    if sku is None:
        result["reason"] = f"Azure has no VM size {size} in {location}."
        return result
    vcpus = next(int(capability["value"]) for capability in sku["capabilities"] if capability["name"] == "vCPUs")
    family, regional = usages.get(sku["family"].lower()), usages.get(REGIONAL)
    result.update(
        name=sku["name"],
        family=sku["family"],
        vcpus=vcpus,
        family_limit=family["limit"] if family else None,
        family_used=family["currentValue"] if family else None,
        regional_limit=regional["limit"] if regional else None,
        regional_used=regional["currentValue"] if regional else None,
    )
    # A restriction of type Zone leaves the other zones.
    restriction = next((r for r in sku.get("restrictions", ()) if r["type"] == "Location"), None)
    if restriction:
        result["reason"] = f"This subscription may not have {sku['name']} in {location} ({restriction['reasonCode']})."
        return result
    free = [usage["limit"] - usage["currentValue"] for usage in (family, regional) if usage]
    result.update(available=True, instances=max(0, min(free) // vcpus) if free else None)
    return result


def subnet_problems(
    subnet_id: str, usages: Iterable[Mapping] | None, group_id: str, group: Mapping | None
) -> Iterator[str]:
    """Why VMs cannot be created in the subnet with the network security group, which is optional."""
    if _usage_of(subnet_id, usages) is None:
        yield f"Azure has no subnet {subnet_id}."
    if group_id and group is None:
        yield f"Azure has no network security group {group_id}."


def _usage_of(subnet_id: str, usages: Iterable[Mapping] | None) -> Mapping | None:
    return next((usage for usage in usages or () if usage["id"].lower() == subnet_id.lower()), None)


def subnet_usage(subnet_id: str, usages: Iterable[Mapping] | None) -> dict:
    """The value `subnet` of azure_subnet_usage_info.

    `usages` is ARM's list for the virtual network of the subnet, None if this network does not exist.
    """
    result: dict[str, object] = {"id": subnet_id, "limit": None, "used": None, "free": None, "reason": None}
    usage = _usage_of(subnet_id, usages)
    if usage is None:
        result["reason"] = f"Azure has no subnet {subnet_id}."
    # The limit is -1 if Azure does not count the addresses of a subnet, such as that of a gateway.
    elif usage["limit"] < 0:
        result["reason"] = f"Azure does not count the addresses of {subnet_id}."
    else:
        limit, used = int(usage["limit"]), int(usage["currentValue"])
        result.update(id=usage["id"], limit=limit, used=used, free=max(0, limit - used))
    return result
