"""Microsoft.Compute's usages and SKUs: some VM families, and the vCPUs that the machines use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A VM family of a quota, and its sizes with their vCPUs."""

    name: str
    localized: str
    sizes: dict[str, int]


FAMILIES = (
    Family("standardDSv5Family", "Standard DSv5 Family vCPUs", {f"Standard_D{n}s_v5": n for n in (2, 4, 8, 16)}),
    Family("standardDASv5Family", "Standard DASv5 Family vCPUs", {f"Standard_D{n}as_v5": n for n in (2, 4, 8)}),
    Family("standardDCASv5Family", "Standard DCASv5 Family vCPUs", {f"Standard_DC{n}as_v5": n for n in (2, 4, 8)}),
    Family(
        "standardBasv2Family",
        "Standard Basv2 Family vCPUs",
        {"Standard_B2als_v2": 2, "Standard_B2as_v2": 2, "Standard_B4als_v2": 4},
    ),
)
ZONES = ("1", "2", "3")
DEFAULT_LIMITS = {
    "virtualMachines": 25000,
    "cores": 100,
    **{family.name: 100 for family in FAMILIES},
}


def usages(machines: list[dict], limits: dict[str, int]) -> list[dict]:
    """https://learn.microsoft.com/rest/api/compute/usage/list"""
    sizes = [(machine["properties"].get("hardwareProfile") or {}).get("vmSize") for machine in machines]
    used: dict[str, int] = {
        family.name: sum(family.sizes[size] for size in sizes if size in family.sizes) for family in FAMILIES
    }
    counts = {"virtualMachines": len(machines), "cores": sum(used.values()), **used}
    names = {
        "virtualMachines": "Virtual Machines",
        "cores": "Total Regional vCPUs",
        **{family.name: family.localized for family in FAMILIES},
    }
    return [
        {
            "unit": "Count",
            "currentValue": counts[name],
            "limit": limits[name],
            "name": {"value": name, "localizedValue": localized},
        }
        for name, localized in names.items()
    ]


def skus(location: str) -> list[dict]:
    """https://learn.microsoft.com/rest/api/compute/resource-skus/list"""
    return [
        {
            "resourceType": "virtualMachines",
            "name": name,
            "tier": "Standard",
            "size": name.removeprefix("Standard_"),
            "family": family.name,
            "locations": [location],
            "locationInfo": [{"location": location, "zones": list(ZONES), "zoneDetails": []}],
            "capabilities": [
                {"name": "vCPUs", "value": str(cores)},
                {"name": "vCPUsAvailable", "value": str(cores)},
                {"name": "HyperVGenerations", "value": "V1,V2"},
            ],
            "restrictions": [],
        }
        for family in FAMILIES
        for name, cores in family.sizes.items()
    ]
