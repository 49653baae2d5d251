"""Validates and stores security rules as Microsoft.Network does (no I/O).

Codes and messages are those of Azure, as quoted in public issues (of hashicorp/terraform-provider-azurerm,
Azure/aks-engine, Azure/azure-cli). If no quotation was found (two spellings of one property in the same rule), the code
is a similar code of Azure, and the message is written for the emulator.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from itertools import combinations

from .errors import ArmError, unparsable

PRIORITIES = range(100, 4097)

# https://learn.microsoft.com/azure/virtual-network/service-tags-overview, the tags that matter between the machines of
# a cluster. A region may follow after a dot.
SERVICE_TAGS = (
    "VirtualNetwork",
    "AzureLoadBalancer",
    "Internet",
    "ActionGroup",
    "ApiManagement",
    "AppService",
    "AzureActiveDirectory",
    "AzureArcInfrastructure",
    "AzureBackup",
    "AzureBastion",
    "AzureCloud",
    "AzureContainerRegistry",
    "AzureCosmosDB",
    "AzureFrontDoor.Backend",
    "AzureFrontDoor.Frontend",
    "AzureKeyVault",
    "AzureKubernetesService",
    "AzureMonitor",
    "AzurePlatformDNS",
    "AzurePlatformIMDS",
    "AzureResourceManager",
    "AzureTrafficManager",
    "EventHub",
    "GatewayManager",
    "LogicApps",
    "MicrosoftContainerRegistry",
    "ServiceBus",
    "Sql",
    "Storage",
)
_TAGS = {tag.lower(): tag for tag in SERVICE_TAGS}

_ENUMS = {
    "protocol": ("Tcp", "Udp", "Icmp", "Esp", "Ah", "*"),
    "access": ("Allow", "Deny"),
    "direction": ("Inbound", "Outbound"),
}
_TYPES = {"Prefix": str, "Range": str, "Prefixes": list, "Ranges": list}
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SIDES = ("source", "destination")


def stored_rule(rule_id: str, properties: dict, resource_exists: Callable[[str], bool]) -> dict:
    """The `properties` of a rule as ARM stores them; raises ArmError if ARM would reject them.

    Enumerations are returned in ARM's spelling, lists that are not set are empty, and None means not set.
    """
    set_properties = {key: value for key, value in properties.items() if value is not None}
    for key, value in set_properties.items():
        expected_type = _TYPES.get(key.rpartition("Address")[2].rpartition("Port")[2])
        if expected_type and not isinstance(value, expected_type):
            raise unparsable(f"Unexpected value {value!r}. Path 'properties.{key}'.")
    stored = {key: set_properties[key] for key in ("description",) if key in set_properties}
    for key, values in _ENUMS.items():
        if key not in set_properties:
            raise _missing(rule_id, key)
        by_lower = {value.lower(): value for value in values}
        if str(set_properties[key]).lower() not in by_lower:
            raise unparsable(
                f"Error converting value \"{set_properties[key]}\" to type 'SecurityRule{key.title()}'. Path "
                f"'properties.{key}'."
            )
        stored[key] = by_lower[str(set_properties[key]).lower()]
    stored["priority"] = _priority(rule_id, set_properties)
    for side in _SIDES:
        stored.update(_port_ranges(rule_id, side, set_properties))
        stored.update(_addresses(rule_id, side, set_properties, resource_exists))
    _require_one_family(stored)
    return stored


def require_no_conflict(rules: Iterable[tuple[str, dict]]) -> None:
    """Reject two rules, each (name, stored properties), with the same priority and direction."""
    for (name, rule), (other_name, other_rule) in combinations(rules, 2):
        if (rule["priority"], rule["direction"]) == (other_rule["priority"], other_rule["direction"]):
            raise ArmError(
                400,
                "SecurityRuleConflict",
                f"Security rule {name} conflicts with rule {other_name}. Rules cannot have the "
                "same Priority and Direction. To learn more, see aka.ms/nsgrules.",
            )


def _priority(rule_id: str, properties: dict) -> int:
    if "priority" not in properties:
        raise _missing(rule_id, "priority")
    priority = properties["priority"]
    if not isinstance(priority, int):
        raise unparsable(f"Could not convert string to integer: \"{priority}\". Path 'properties.priority'.")
    if priority not in PRIORITIES:
        raise ArmError(
            400,
            "SecurityRuleInvalidPriority",
            f"Security rule has invalid Priority. Value provided: {priority} "
            f"Allowed range {PRIORITIES[0]}-{PRIORITIES[-1]}.",
        )
    return priority


def _port_ranges(rule_id: str, side: str, properties: dict) -> dict:
    single, plural = f"{side}PortRange", f"{side}PortRanges"
    key = _one_of(rule_id, properties, (single, plural))
    if key == single:
        _require_ports(properties[single])
        return {single: properties[single], plural: []}
    for value in properties[plural]:
        if value == "*":
            raise ArmError(
                400,
                "SecurityRuleParameterContainsInvalidPortRanges",
                f"Security rule parameter {side.title()}PortRanges for rule with Id {rule_id} "
                f"contains invalid port ranges. Value provided: {value}.",
            )
        _require_ports(value)
    return {plural: properties[plural]}


def _require_ports(value: str) -> None:
    if value == "*":
        return
    match = _PORTS.fullmatch(str(value))
    if match:
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last <= 65535:
            return
    raise ArmError(
        400,
        "SecurityRuleInvalidPortRange",
        f"Security rule has invalid Port range. Value provided: {value}. Value should be an "
        "integer OR integer range with '-' delimiter. Valid range 0-65535.",
    )


def _addresses(rule_id: str, side: str, properties: dict, resource_exists: Callable[[str], bool]) -> dict:
    single, plural = f"{side}AddressPrefix", f"{side}AddressPrefixes"
    groups = f"{side}ApplicationSecurityGroups"
    key = _one_of(rule_id, properties, (plural, single, groups))
    if key == groups:
        for group in properties[groups]:
            if not resource_exists(group["id"]):
                raise ArmError(
                    400,
                    "InvalidResourceReference",
                    f"Resource {group['id']} referenced by resource {rule_id} was not found. "
                    "Please make sure that the referenced resource exists, and that both "
                    "resources are in the same region.",
                )
        return {groups: [{"id": group["id"]} for group in properties[groups]], plural: []}
    if key == single:
        return {single: _prefix(rule_id, properties[single]), plural: []}
    for value in properties[plural]:
        if value == "*" or _tag(value):
            raise ArmError(
                400,
                "SecurityRuleParameterContainsUnsupportedValue",
                f"Security rule parameter {side.title()}AddressPrefix for rule with Id {rule_id} "
                "cannot specify existing VIRTUALNETWORK, INTERNET, AZURELOADBALANCER, '*' or "
                f"system tags. Unsupported value used: {value}.",
            )
    stored = [_prefix(rule_id, value) for value in properties[plural]]
    for a, b in combinations([ipaddress.ip_network(prefix) for prefix in stored], 2):
        if a.version == b.version and a.overlaps(b):
            raise ArmError(
                400,
                "OverlappingSubnetsNotPermittedInSecurityRule",
                f"Security rule parameter {side.title()}AddressPrefix for rule with Id {rule_id} "
                f"contains overlapping subnets [{a}, {b}], which is not permitted.",
            )
    return {plural: stored}


def _prefix(rule_id: str, value: str) -> str:
    """A tag in Azure's spelling, or the address prefix as it is."""
    if value == "*":
        return value
    if tag := _tag(value):
        return tag
    try:
        # Azure refuses host bits behind the mask: hashicorp/terraform-provider-azurerm#16761.
        ipaddress.ip_network(value)
    except ValueError:
        raise ArmError(
            400,
            "SecurityRuleInvalidAddressPrefix",
            f"Security rule {rule_id} has invalid Address prefix. Value provided: {value}",
        ) from None
    return value


def _tag(value: str) -> str | None:
    name, _, region = value.partition(".")
    if value.lower() in _TAGS:
        return _TAGS[value.lower()]
    if name.lower() in _TAGS and region.isalnum():
        return f"{_TAGS[name.lower()]}.{region}"
    return None


def _one_of(rule_id: str, properties: dict, keys: tuple[str, ...]) -> str:
    present = [key for key in keys if properties.get(key)]
    names = [key[0].upper() + key[1:] for key in keys]
    if not present:
        raise ArmError(
            400,
            "SecurityRuleParametersMissing",
            "Required security rule parameters are missing for security rule with Id: "
            f"{rule_id}. Security rule must specify {', '.join(names[:-1])}, or {names[-1]}.",
        )
    if len(present) > 1:
        raise ArmError(
            400,
            "SecurityRuleParametersConflict",
            f"Security rule with Id: {rule_id} specifies {' and '.join(present)}. "
            f"Only one of {', '.join(names)} can be specified.",
        )
    return present[0]


def _require_one_family(stored: dict) -> None:
    prefixes = [
        prefix
        for side in _SIDES
        for prefix in (*stored[f"{side}AddressPrefixes"], stored.get(f"{side}AddressPrefix", "*"))
        if prefix != "*" and not _tag(prefix)
    ]
    if len({ipaddress.ip_network(prefix).version for prefix in prefixes}) > 1:
        raise ArmError(
            400,
            "ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies",
            f"{stored['direction']} contains IP addresses or prefixes that belong to different "
            "address families. All IP addresses or prefixes in the resource should belong to the "
            "same address family.",
        )


def _missing(rule_id: str, key: str) -> ArmError:
    return ArmError(
        400,
        "SecurityRuleParameterMissing",
        f"Required security rule parameter {key[0].upper() + key[1:]} is missing for security rule with Id: {rule_id}.",
    )


def _default(name: str, description: str, source: str, destination: str, priority: int) -> dict:
    direction = "Inbound" if name.endswith("InBound") else "Outbound"
    return {
        "name": name,
        "properties": {
            "provisioningState": "Succeeded",
            "description": description,
            "protocol": "*",
            "sourcePortRange": "*",
            "destinationPortRange": "*",
            "sourceAddressPrefix": source,
            "destinationAddressPrefix": destination,
            "access": "Allow" if name.startswith("Allow") else "Deny",
            "priority": priority,
            "direction": direction,
            "sourcePortRanges": [],
            "destinationPortRanges": [],
            "sourceAddressPrefixes": [],
            "destinationAddressPrefixes": [],
        },
    }


# As in the REST example NetworkSecurityGroupGet.json.
DEFAULT_RULES = (
    _default(
        "AllowVnetInBound", "Allow inbound traffic from all VMs in VNET", "VirtualNetwork", "VirtualNetwork", 65000
    ),
    _default(
        "AllowAzureLoadBalancerInBound",
        "Allow inbound traffic from azure load balancer",
        "AzureLoadBalancer",
        "*",
        65001,
    ),
    _default("DenyAllInBound", "Deny all inbound traffic", "*", "*", 65500),
    _default(
        "AllowVnetOutBound",
        "Allow outbound traffic from all VMs to all VMs in VNET",
        "VirtualNetwork",
        "VirtualNetwork",
        65000,
    ),
    _default("AllowInternetOutBound", "Allow outbound traffic from all VMs to Internet", "*", "Internet", 65001),
    _default("DenyAllOutBound", "Deny all outbound traffic", "*", "*", 65500),
)
