# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a subnet sends traffic to the internet, and which VPC endpoints it has (private; no I/O here).

A subnet has the route table that is associated with it, else the main route table of its VPC ("Configure route
tables", Amazon VPC).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import ANYWHERE

# The keys of a route's target, and what it is. A GatewayId is that of one of several kinds, by its prefix.
_TARGETS = {
    "NatGatewayId": "NAT gateway",
    "TransitGatewayId": "transit gateway",
    "VpcPeeringConnectionId": "VPC peering connection",
    "CarrierGatewayId": "carrier gateway",
    "LocalGatewayId": "local gateway",
    "CoreNetworkArn": "core network",
    "NetworkInterfaceId": "network interface",
    "InstanceId": "instance",
}
_EVERYWHERE = IPv4Network(ANYWHERE)
# The target of the route for the addresses of the VPC.
LOCAL = "local"
INTERNET_GATEWAY = "internet gateway"
_GATEWAYS = {
    "igw": INTERNET_GATEWAY,
    "vgw": "virtual private gateway",
    "vpce": "gateway load balancer endpoint",
}


def route_table_of(subnet: Mapping, route_tables: Iterable[Mapping]) -> Mapping | None:
    """The route table in force for a subnet, from those of its VPC."""
    main = None
    for table in route_tables:
        for association in table["Associations"]:
            if association.get("SubnetId") == subnet["SubnetId"]:
                return table
            if association.get("Main") and table["VpcId"] == subnet["VpcId"]:
                main = table
    return main


def default_route(table: Mapping | None) -> dict | None:
    """The route for all IPv4 addresses: its target, what that is, and whether it is active.

    Routes for parts of them take precedence, such as 0.0.0.0/1 and 128.0.0.0/1: the first one counts if they are for
    most addresses.
    """
    by_network = {
        IPv4Network(route["DestinationCidrBlock"]): route
        for route in (table["Routes"] if table else ())
        if route.get("DestinationCidrBlock") and route.get("GatewayId") != LOCAL
    }
    parts = [network for network in by_network if network.prefixlen]
    is_split = sum(network.num_addresses for network in parts) > _EVERYWHERE.num_addresses / 2
    route = by_network.get(parts[0] if is_split else _EVERYWHERE)
    if route is None:
        return None
    key, target = _target(route)
    kind = _GATEWAYS.get(target.partition("-")[0]) or _TARGETS.get(key) or "target"
    return {"target": target, "kind": kind, "active": route.get("State") != "blackhole"}


def prefix_list_routes(table: Mapping | None) -> list[dict]:
    """The routes for the addresses of prefix lists, which may be those of the internet.

    Those of gateway endpoints are for services of AWS.
    """
    routes = [
        {"prefix_list": route["DestinationPrefixListId"], "target": _target(route)[1]}
        for route in (table["Routes"] if table else ())
        if route.get("DestinationPrefixListId")
    ]
    return [route for route in routes if not route["target"].startswith("vpce-")]


def _target(route: Mapping) -> tuple[str, str]:
    key = next((key for key in ("GatewayId", *_TARGETS) if route.get(key)), "")
    return key, route[key] if key else ""


def endpoints_of(table: Mapping | None, endpoints: Iterable[Mapping], region: str) -> list[str]:
    """The services with an available endpoint that a subnet with this route table can use, without their prefix.

    A gateway endpoint is a route, an interface endpoint an address in the VPC.
    """
    services = set()
    for endpoint in endpoints:
        is_gateway = endpoint.get("VpcEndpointType") == "Gateway"
        is_reachable = not is_gateway or (table and table["RouteTableId"] in endpoint.get("RouteTableIds", ()))
        if endpoint.get("State", "").lower() == "available" and is_reachable:
            services.add(endpoint["ServiceName"].rpartition(f".{region}.")[2])
    return sorted(services)
