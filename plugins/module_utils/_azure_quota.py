# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many more VMs of a size an Azure subscription may have in a region (private; no I/O here).

Microsoft.Compute counts vCPUs: of each family of sizes, and of all in a region
("Check vCPU quotas", Usage - List, Resource Skus - List).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# The name of the usage that counts all vCPUs of the region.
REGIONAL = "cores"


def vcpu_quota(
    sizes: Sequence[str], skus: Iterable[Mapping], usages: Iterable[Mapping], location: str
) -> list[dict]:
    """What azure_vcpu_quota_info returns as `sizes`, each size once and in order.

    `skus` and `usages` as ARM lists them, for this location.
    """
    by_size = {sku["name"].lower(): sku for sku in skus if sku["resourceType"] == "virtualMachines"}
    by_name = {usage["name"]["value"].lower(): usage for usage in usages}
    return [
        _of_size(size, by_size.get(size.lower()), by_name, location)
        for size in dict.fromkeys(sizes)
    ]


def _of_size(size: str, sku: Mapping | None, usages: Mapping[str, Mapping], location: str) -> dict:
    found = {
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
        found["reason"] = f"Azure has no VM size {size} in {location}."
        return found
    vcpus = next(
        int(capability["value"])
        for capability in sku["capabilities"]
        if capability["name"] == "vCPUs"
    )
    family, regional = usages.get(sku["family"].lower()), usages.get(REGIONAL)
    found.update(
        name=sku["name"],
        family=sku["family"],
        vcpus=vcpus,
        family_limit=family and family["limit"],
        family_used=family and family["currentValue"],
        regional_limit=regional and regional["limit"],
        regional_used=regional and regional["currentValue"],
    )
    # A restriction of type Zone leaves the other zones.
    restriction = next((r for r in sku.get("restrictions", ()) if r["type"] == "Location"), None)
    if restriction:
        found["reason"] = (
            f"This subscription may not have {sku['name']} in {location} "
            f"({restriction['reasonCode']})."
        )
        return found
    free = [usage["limit"] - usage["currentValue"] for usage in (family, regional) if usage]
    found.update(available=True, instances=max(0, min(free) // vcpus) if free else None)
    return found
