"""Resource IDs of ARM, and the resource types that are emulated."""

from __future__ import annotations

from dataclasses import dataclass

RESOURCE_GROUPS = "Microsoft.Resources/resourceGroups"
LOCKS = "Microsoft.Authorization/locks"
PERMISSIONS = "Microsoft.Authorization/permissions"
VNETS = "Microsoft.Network/virtualNetworks"
SUBNETS = f"{VNETS}/subnets"
NICS = "Microsoft.Network/networkInterfaces"
ASGS = "Microsoft.Network/applicationSecurityGroups"
NSGS = "Microsoft.Network/networkSecurityGroups"
RULES = f"{NSGS}/securityRules"
DEFAULT_RULES = f"{NSGS}/defaultSecurityRules"
PUBLIC_IPS = "Microsoft.Network/publicIPAddresses"
NAT_GATEWAYS = "Microsoft.Network/natGateways"
ROUTE_TABLES = "Microsoft.Network/routeTables"
ROUTES = f"{ROUTE_TABLES}/routes"
VMS = "Microsoft.Compute/virtualMachines"
GALLERIES = "Microsoft.Compute/galleries"
GALLERY_IMAGES = f"{GALLERIES}/images"
GALLERY_VERSIONS = f"{GALLERY_IMAGES}/versions"
IMAGES = "Microsoft.Compute/images"
STORAGE_ACCOUNTS = "Microsoft.Storage/storageAccounts"

TYPES = {
    name.lower(): name
    for name in (
        RESOURCE_GROUPS,
        LOCKS,
        PERMISSIONS,
        VNETS,
        SUBNETS,
        NICS,
        ASGS,
        NSGS,
        RULES,
        DEFAULT_RULES,
        PUBLIC_IPS,
        NAT_GATEWAYS,
        ROUTE_TABLES,
        ROUTES,
        VMS,
        GALLERIES,
        GALLERY_IMAGES,
        GALLERY_VERSIONS,
        IMAGES,
        STORAGE_ACCOUNTS,
    )
}


@dataclass(frozen=True)
class ResourceId:
    """A resource, or, if `name` is None, the collection of all resources of `type` in `scope`.

    `scope` is the ID of the parent: for a subnet its virtual network, for a network its resource group. `type` is as
    given if it is not one of TYPES.
    """

    scope: str
    type: str
    name: str | None
    text: str

    @property
    def key(self) -> str:
        """The key of the stored resource: IDs are case-insensitive."""
        return self.text.lower()

    @property
    def subscription(self) -> str:
        return self.text.split("/")[2]

    @property
    def group(self) -> str | None:
        """The name of the resource group, or None."""
        parts = self.text.split("/")
        return parts[4] if len(parts) > 4 and parts[3].lower() == "resourcegroups" else None

    @property
    def is_nested(self) -> bool:
        """Whether `scope` is another resource, without which this one cannot exist."""
        return self.type.count("/") > 1

    @property
    def root(self) -> str:
        """The ID of the resource whose ETag and state a write of this resource changes: in Microsoft.Network that of
        the resource that contains it, else its own."""
        return self.scope if self.is_nested and self.type.startswith("Microsoft.Network/") else self.text


def known(path: str) -> ResourceId:
    """The resource of an ID that is known to be valid; ValueError if it is not."""
    resource = parse(path)
    if resource is None:
        raise ValueError(path)
    return resource


def parse(path: str) -> ResourceId | None:
    """The resource or collection of a path without query; None if the path is neither."""
    parts = path.rstrip("/").split("/")
    if len(parts) < 4 or parts[0] or parts[1].lower() != "subscriptions" or "" in parts[1:]:
        return None
    lowered = [part.lower() for part in parts]
    if "providers" not in lowered:
        if lowered[3] != "resourcegroups" or len(parts) > 5:
            return None
        return ResourceId("/".join(parts[:3]), RESOURCE_GROUPS, parts[4] if len(parts) == 5 else None, path)
    start = len(parts) - 1 - lowered[::-1].index("providers")
    namespace, *rest = parts[start + 1 :]
    if not rest:
        return None
    types, names = rest[::2], rest[1::2]
    written = "/".join([namespace, *types])
    nested = len(types) > 1
    scope = parts[: start + 2 + 2 * (len(types) - 1)] if nested else parts[:start]
    return ResourceId(
        "/".join(scope),
        TYPES.get(written.lower(), written),
        names[-1] if len(names) == len(types) else None,
        path.rstrip("/"),
    )
