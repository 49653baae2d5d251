"""How a subnet reaches the internet, as tables of its properties."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.egress import (
    default_route,
    https_denied_by,
    way_out,
)

NAT = {"natGateway": {"id": "/nat"}}


def route(hop: str, prefix: str = "0.0.0.0/0", address: str | None = None) -> dict:
    return {
        "name": f"to-{hop.lower()}",
        "properties": {"addressPrefix": prefix, "nextHopType": hop, "nextHopIpAddress": address},
    }


@pytest.mark.parametrize(
    ("routes", "properties", "expected"),
    [
        ([], {}, "default"),
        ([], {"defaultOutboundAccess": True}, "default"),
        ([], {"defaultOutboundAccess": False}, "none"),
        ([], {"defaultOutboundAccess": False, **NAT}, "nat_gateway"),
        ([route("VirtualAppliance", address="10.0.0.4")], {"defaultOutboundAccess": False}, "route"),
        ([route("VirtualNetworkGateway")], {}, "route"),
        # A route takes precedence over a NAT gateway.
        ([route("VirtualAppliance", address="10.0.0.4")], NAT, "route"),
        ([route("None")], NAT, "none"),
        # Only the default, and other prefixes.
        ([route("Internet")], NAT, "nat_gateway"),
        ([route("Internet")], {"defaultOutboundAccess": False}, "none"),
        ([route("VirtualAppliance", "10.1.0.0/16", "10.0.0.4")], {}, "default"),
        # As firewalls document it, so that a route for all addresses is overridden.
        ([route("VirtualAppliance", "0.0.0.0/1"), route("VirtualAppliance", "128.0.0.0/1")], NAT, "route"),
        ([route("Internet"), route("None", "0.0.0.0/1"), route("None", "128.0.0.0/1")], NAT, "none"),
        ([route("VirtualAppliance", "0.0.0.0/1"), route("Internet", "128.0.0.0/1")], NAT, "nat_gateway"),
        ([route("VirtualAppliance", "Storage")], NAT, "nat_gateway"),
    ],
)
def test_the_way_out(routes: list[dict], properties: dict, expected: str):
    found = default_route({"properties": {"routes": routes}})
    assert way_out({"properties": properties}, found) == expected


def test_a_subnet_without_a_route_table():
    assert default_route(None) is None
    assert default_route({"properties": {}}) is None


ALLOW_INTERNET = ("AllowInternetOutBound", 65001, "Allow", "Internet")


def denied(*rules: tuple) -> list[str]:
    defaults = [("AllowVnetOutBound", 65000, "Allow", "VirtualNetwork"), ALLOW_INTERNET]
    group = {
        "name": "demo-nsg",
        "properties": {
            "securityRules": [
                {
                    "name": name,
                    "properties": {
                        "priority": priority,
                        "direction": "Outbound",
                        "access": access,
                        "protocol": protocol[0] if protocol else "*",
                        "sourceAddressPrefix": "*",
                        "sourcePortRange": "*",
                        "destinationAddressPrefix": destination,
                        "destinationPortRange": "*",
                    },
                }
                for name, priority, access, destination, *protocol in (*rules, *defaults)
            ],
            "defaultSecurityRules": [],
        },
    }
    subnet = {"properties": {"addressPrefix": "10.0.1.0/24"}}
    network = {"id": "/vnet", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}}
    return https_denied_by(subnet, network, [group])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), []),
        ((("no-internet", 4000, "Deny", "Internet"),), ["no-internet (4000) of demo-nsg"]),
        ((("nothing", 4000, "Deny", "*"),), ["nothing (4000) of demo-nsg"]),
        ((("no-internet", 4000, "Deny", "Internet", "Udp"),), []),
        # Single networks and services.
        ((("one-network", 4000, "Deny", "203.0.113.0/24"),), []),
        ((("storage", 4000, "Deny", "Storage"),), []),
        (
            (("registry", 100, "Allow", "198.51.100.0/24"), ("rest", 200, "Deny", "Internet")),
            ["rest (200) of demo-nsg"],
        ),
        ((("all", 100, "Allow", "Internet"), ("rest", 200, "Deny", "*")), []),
    ],
)
def test_rules_that_deny_https(rules: tuple, expected: list[str]):
    assert denied(*rules) == expected
