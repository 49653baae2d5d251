# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the VMs of a subnet in Azure reach the internet (private).

Pure functions of dicts in the format of ARM. Sources on Microsoft Learn: "Default outbound access in Azure", "Azure NAT
Gateway resource", "Virtual network traffic routing" (a route for 0.0.0.0/0 takes precedence over a NAT gateway).
cloud-api-adaptor gives a VM no public IP address by default, and adds it to no load balancer
(src/cloud-providers/azure/provider.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import address_space, subnet_prefixes
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    Flow,
    decide,
    network_of,
    rules_of,
)

_ANYWHERE = "0.0.0.0/0"
_ALL_ADDRESSES = IPv4Network(_ANYWHERE).num_addresses

# The next hops of a route that leads out of the virtual network, and the one that drops the traffic. `Internet` is the
# default of Azure, and changes nothing.
_ELSEWHERE = ("virtualappliance", "virtualnetworkgateway")
_NOWHERE = "none"


def reference(subnet: Mapping, key: str) -> str | None:
    """The id of a resource that the subnet refers to, such as its natGateway."""
    return (subnet["properties"].get(key) or {}).get("id")


def default_route(table: Mapping | None) -> dict | None:
    """The route of a route table for all IPv4 addresses that decides where this traffic goes; None if Azure's does.

    Routes for parts of them take precedence, such as 0.0.0.0/1 and 128.0.0.0/1: the first one counts if they are for
    most addresses.
    """
    by_prefix = {
        route["properties"].get("addressPrefix"): route
        for route in (table["properties"].get("routes") or () if table else ())
        if route["properties"]["nextHopType"].lower() in (*_ELSEWHERE, _NOWHERE)
    }
    parts = [prefix for prefix in by_prefix if prefix and prefix != _ANYWHERE]
    route = by_prefix.get(parts[0] if _is_most(parts) else _ANYWHERE)
    if route is None:
        return None
    properties = route["properties"]
    return {
        "name": route["name"],
        "next_hop_type": properties["nextHopType"],
        "next_hop": properties.get("nextHopIpAddress"),
    }


def way_out(subnet: Mapping, route: Mapping | None) -> str:
    """`route`, `nat_gateway`, `default` (Azure's default outbound access) or `none`."""
    if route:
        return "none" if route["next_hop_type"].lower() == _NOWHERE else "route"
    if reference(subnet, "natGateway"):
        return "nat_gateway"
    # A subnet without the property was created when default outbound access was the default.
    return "none" if subnet["properties"].get("defaultOutboundAccess") is False else "default"


def https_denied_by(subnet: Mapping, network: Mapping, groups: Iterable[Mapping]) -> list[str]:
    """The rules that deny HTTPS from the subnet to most of the internet, each with its group.

    Rules that deny single networks or services do not count: the registry need not be among them.
    """
    flow = Flow("Outbound", "Tcp", 443, tuple(subnet_prefixes(subnet)), ("Internet",), tuple(address_space(network)))
    return [
        f"{verdict.by} of {group['name']}"
        for group in groups
        for verdict in decide(flow, rules_of(group))
        if verdict.access == "Deny" and not verdict.partly and _is_most(verdict.destination)
    ]


def _is_most(prefixes: Iterable[str]) -> bool:
    networks = [network for prefix in prefixes if isinstance(network := network_of(prefix), IPv4Network)]
    return sum(network.num_addresses for network in networks) > _ALL_ADDRESSES / 2
