"""Public IP addresses, NAT gateways and route tables: the rules of their own, and the usages of Microsoft.Network.

Sources: the REST references of publicIPAddresses, natGateways and routeTables, and "Troubleshoot Azure NAT Gateway".
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable, Iterator

from . import ids
from .errors import ArmError, unparsable

# The limits of the usages, in every location, and the types that they count.
COUNTED = {"PublicIPAddresses": ids.PUBLIC_IPS, "NatGateways": ids.NAT_GATEWAYS, "RouteTables": ids.ROUTE_TABLES}
DEFAULT_LIMITS = {"PublicIPAddresses": 20, "NatGateways": 20, "RouteTables": 200}
LOCALIZED = {
    "PublicIPAddresses": "Public IP Addresses",
    "NatGateways": "Nat Gateways",
    "RouteTables": "Route Tables",
}
# The first is in issues of openshift/openshift-azure (2252) and of MicrosoftDocs/azure-docs (106096). The other two are
# in no public text and follow its pattern: a client may show them, and must not depend on their codes.
_LIMIT_CODES = {
    "PublicIPAddresses": ("PublicIPCountLimitReached", "public IP addresses"),
    "NatGateways": ("NatGatewayCountLimitReached", "NAT gateways"),
    "RouteTables": ("RouteTableCountLimitReached", "route tables"),
}

NEXT_HOPS = ("VirtualNetworkGateway", "VnetLocal", "Internet", "VirtualAppliance", "None")


# What a resource refers to, and the action on that which a write needs ("Azure network permissions": join/action).
_JOINED = {
    ids.SUBNETS: {
        "networkSecurityGroup": f"{ids.NSGS}/join/action",
        "natGateway": f"{ids.NAT_GATEWAYS}/join/action",
        "routeTable": f"{ids.ROUTE_TABLES}/join/action",
    },
    ids.NAT_GATEWAYS: {"publicIpAddresses": f"{ids.PUBLIC_IPS}/join/action"},
}


def joined(kind: str, body: dict) -> Iterator[tuple[str, str]]:
    """The actions on other resources that a write of `body` needs, each with the ID of the other resource."""
    properties = body.get("properties") or {}
    for key, action in _JOINED.get(kind, {}).items():
        value = properties.get(key) or ()
        for reference in [value] if isinstance(value, dict) else value:
            yield action, reference["id"]


def usages(resources: Iterable[dict], location: str, limits: dict[str, int]) -> list[dict]:
    """https://learn.microsoft.com/rest/api/virtualnetwork/usages/list"""
    kinds = [body["type"] for body in resources if body.get("location") == location.lower()]
    return [
        {
            "currentValue": kinds.count(kind),
            "limit": limits[name],
            "name": {"value": name, "localizedValue": LOCALIZED[name]},
            "unit": "Count",
        }
        for name, kind in COUNTED.items()
    ]


def require_room(resources: Iterable[dict], kind: str, location: str, limits: dict[str, int]) -> None:
    """ArmError if the subscription may not have another resource of this type in the location."""
    name = next((name for name, counted in COUNTED.items() if counted == kind), None)
    if name is None:
        return
    usage = next(u for u in usages(resources, location, limits) if u["name"]["value"] == name)
    if usage["currentValue"] >= usage["limit"]:
        code, things = _LIMIT_CODES[name]
        raise ArmError(
            400, code, f"Cannot create more than {usage['limit']} {things} for this subscription in this region."
        )


def complete_public_ip(new: dict, before: dict | None, taken: int) -> None:
    properties, sku = new["properties"], new.setdefault("sku", {"name": "Basic"})
    sku.setdefault("tier", "Regional")
    if sku["name"] != "Standard" or (before and before["sku"]["name"] != "Standard"):
        # "Upgrade to Standard SKU public IP addresses in Azure by September 30, 2025 – Basic SKU will be retired"
        raise ArmError(
            400,
            "IPv4BasicSkuPublicIpCountLimitReached",
            "Cannot create more than 0 IPv4 Basic SKU public IP addresses for this subscription in this region.",
        )
    properties.setdefault("publicIPAllocationMethod", "Static")
    if properties["publicIPAllocationMethod"] != "Static":
        raise ArmError(
            400,
            # As `az network public-ip create` prints it.
            "StandardAndStandardV2SkuPublicIPAddressesMustBeStatic",
            f"Standard sku publicIp {new['id']} must have AllocationMethod set to Static.",
        )
    properties.setdefault("publicIPAddressVersion", "IPv4")
    properties.setdefault("idleTimeoutInMinutes", 4)
    properties.setdefault("ipTags", [])
    old = before["properties"] if before else {}
    properties["resourceGuid"] = old.get("resourceGuid", str(uuid.uuid4()))
    # Addresses for documentation (RFC 5737).
    properties["ipAddress"] = old.get("ipAddress") or str(ipaddress.ip_address("198.51.100.1") + taken)


def complete_nat_gateway(new: dict, before: dict | None, others: Iterable[dict]) -> None:
    properties = new["properties"]
    sku = new.setdefault("sku", {"name": "Standard"})
    sku.setdefault("tier", "Regional")
    if before and before.get("zones") != new.get("zones"):
        # "Zones can't be changed, updated, or created for NAT gateway after deployment." Azure/AzOps#701 has the text.
        old_zones, new_zones = (", ".join(each.get("zones") or ["NoZone"]) for each in (before, new))
        raise ArmError(
            400,
            "ResourceAvailabilityZonesCannotBeModified",
            f"Resource {new['id']} has an existing availability zone constraint {old_zones} and the request has "
            f"availability zone constraint {new_zones}, which do not match. Zones cannot be added/updated/removed once "
            "the resource is created. The resource cannot be updated from regional to zonal or vice-versa.",
        )
    if len(new.get("zones") or ()) > 1:
        # hashicorp/terraform-provider-azurerm#21696, of which the code is not public.
        raise unparsable("A Standard NAT gateway has at most one zone. Path 'zones'.")
    used = {
        address["id"].lower(): other["id"] for other in others for address in other["properties"]["publicIpAddresses"]
    }
    for address in properties.setdefault("publicIpAddresses", []):
        if user := used.get(address["id"].lower()):
            # gardener/gardener-extension-provider-azure#757.
            raise ArmError(
                400,
                "PublicIPAddressInUse",
                f"Resource {new['id']} is referencing public IP address {address['id']} that is already allocated to "
                f"resource {user}.",
            )
    properties.setdefault("idleTimeoutInMinutes", 4)
    old = before["properties"] if before else {}
    properties["resourceGuid"] = old.get("resourceGuid", str(uuid.uuid4()))


def stored_route(name: str, properties: dict) -> dict:
    """The properties of a route as ARM stores them."""
    prefix, hop = properties.get("addressPrefix"), properties.get("nextHopType")
    if not prefix:
        raise unparsable("Required property 'addressPrefix' not found. Path 'properties'.")
    if hop not in NEXT_HOPS:
        raise unparsable(f"Error converting value \"{hop}\" to type 'RouteNextHopType'. Path 'properties.nextHopType'.")
    if hop == "VirtualAppliance" and not properties.get("nextHopIpAddress"):
        # hashicorp/terraform-provider-azurerm#20365.
        raise ArmError(
            400,
            "MissingNextHopIpAddress",
            f"NextHopIpAddress cannot be Null or Empty in route {name} when NextHopType is VirtualAppliance.",
        )
    if hop != "VirtualAppliance" and properties.get("nextHopIpAddress"):
        # XenitAB/terraform-modules#303, of which the code is not public.
        raise unparsable(f"Only a VirtualAppliance has a next hop IP address. Path 'properties.routes.{name}'.")
    return {"provisioningState": "Succeeded", "hasBgpOverride": False, **properties}
