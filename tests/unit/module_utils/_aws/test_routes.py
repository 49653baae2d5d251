"""The route of a subnet to the internet, and its VPC endpoints."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.routes import (
    default_route,
    endpoints_of,
    prefix_list_routes,
    route_table_of,
)

SUBNET = {"SubnetId": "subnet-1", "VpcId": "vpc-1"}
LOCAL = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}


def table(name: str, *associations: dict, vpc: str = "vpc-1") -> dict:
    return {"RouteTableId": name, "VpcId": vpc, "Associations": list(associations), "Routes": [LOCAL]}


MAIN = table("main", {"Main": True})


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ([MAIN, table("other", {"SubnetId": "subnet-2"})], "main"),
        ([MAIN, table("own", {"SubnetId": "subnet-2"}, {"SubnetId": "subnet-1"})], "own"),
        ([table("of-another-vpc", {"Main": True}, vpc="vpc-2"), MAIN], "main"),
        ([], None),
    ],
)
def test_the_route_table_of_a_subnet(tables: list[dict], expected: str | None):
    found = route_table_of(SUBNET, tables)
    assert (found and found["RouteTableId"]) == expected


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ({"GatewayId": "igw-1"}, "internet gateway"),
        ({"GatewayId": "vgw-1"}, "virtual private gateway"),
        ({"GatewayId": "vpce-1"}, "gateway load balancer endpoint"),
        ({"NatGatewayId": "nat-1"}, "NAT gateway"),
        ({"TransitGatewayId": "tgw-1"}, "transit gateway"),
        ({"InstanceId": "i-1", "NetworkInterfaceId": "eni-1"}, "network interface"),
        ({"NewKindOfTarget": "new-1"}, "target"),
    ],
)
@pytest.mark.parametrize("state", ["active", "blackhole"])
def test_the_target_of_the_default_route(target: dict, kind: str, state: str):
    route = default_route({"Routes": [LOCAL, {"DestinationCidrBlock": "0.0.0.0/0", "State": state, **target}]})
    assert route is not None
    assert (route["kind"], route["active"]) == (kind, state == "active")
    assert route["target"] in ("", *target.values())


def test_routes_for_parts_of_all_addresses():
    """They take precedence over the one for all."""
    halves = [{"DestinationCidrBlock": prefix, "TransitGatewayId": "tgw-1"} for prefix in ("0.0.0.0/1", "128.0.0.0/1")]
    everything = {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1"}
    to_transit = {"target": "tgw-1", "kind": "transit gateway", "active": True}
    assert default_route({"Routes": [LOCAL, *halves]}) == default_route({"Routes": [everything, *halves]}) == to_transit
    assert default_route({"Routes": [LOCAL, halves[0]]}) is None


def test_routes_for_prefix_lists():
    routes = [
        LOCAL,
        {"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-s3"},
        {"DestinationPrefixListId": "pl-2", "TransitGatewayId": "tgw-1"},
    ]
    assert prefix_list_routes({"Routes": routes}) == [{"prefix_list": "pl-2", "target": "tgw-1"}]
    assert prefix_list_routes(None) == []


@pytest.mark.parametrize("routes", [[LOCAL], [{"DestinationIpv6CidrBlock": "::/0", "GatewayId": "igw-1"}]])
def test_no_default_route(routes: list[dict]):
    assert default_route({"Routes": routes}) is None
    assert default_route(None) is None


def test_endpoints_that_the_subnet_can_use():
    def endpoint(service: str, kind: str = "Interface", **extra: object) -> dict:
        name = f"com.amazonaws.eu-central-1.{service}"
        return {"ServiceName": name, "VpcEndpointType": kind, "State": "available", **extra}

    endpoints = [
        endpoint("ecr.dkr"),
        endpoint("ec2", State="pending"),
        endpoint("s3", "Gateway", RouteTableIds=["main"]),
        endpoint("dynamodb", "Gateway", RouteTableIds=["other"]),
    ]
    assert endpoints_of(MAIN, endpoints, "eu-central-1") == ["ecr.dkr", "s3"]
    assert endpoints_of(None, endpoints, "eu-central-1") == ["ecr.dkr"]
