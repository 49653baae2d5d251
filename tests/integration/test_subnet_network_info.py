"""How the VMs of peer pods reach the internet and the workers: the modules that read it, on AWS and Azure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import boto3
import pytest

from tests.azure_arm import AzureArm
from tests.cluster.aws import Moto
from tests.ec2_proxy import Ec2Proxy, ec2_proxy, refuse

# moto separates regions, and no other test uses this region.
REGION = "eu-north-1"
READS = [
    "DescribeSubnets",
    "DescribeSecurityGroupRules",
    "DescribeNetworkAcls",
    "DescribeRouteTables",
    "DescribeVpcEndpoints",
]


# -- ec2_subnet_network_info --------------------------------------------------------------------


@dataclass
class Aws:
    """A VPC with a subnet for VMs and one for workers."""

    ec2: object
    proxy: Ec2Proxy
    environment: dict[str, str]
    vpc_id: str
    vms: str
    workers: str
    group: str

    def table(self, *subnets: str, **target: str) -> str:
        """A route table of these subnets, with a route to the internet if a target is given."""
        table = self.ec2.create_route_table(VpcId=self.vpc_id)["RouteTable"]["RouteTableId"]
        for subnet in subnets:
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        if target:
            self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
        return table

    def network_acl(self, subnet: str, *rules: dict) -> str:
        """A network ACL of this subnet. A new one denies everything."""
        acl = self.ec2.create_network_acl(VpcId=self.vpc_id)["NetworkAcl"]["NetworkAclId"]
        for number, rule in enumerate(rules, 1):
            self.ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=number, RuleAction="allow", **rule)
        (before,) = self.ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])[
            "NetworkAcls"
        ]
        (association,) = [a for a in before["Associations"] if a["SubnetId"] == subnet]
        self.ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl)
        return acl


@pytest.fixture
def aws(moto: Moto) -> Iterator[Aws]:
    environment = moto.environment
    ec2 = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=moto.endpoint_url,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    vms, workers = (
        ec2.create_subnet(VpcId=vpc_id, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for number, zone in enumerate("ab")
    )
    group = ec2.create_security_group(GroupName="vms", Description="VMs", VpcId=vpc_id)["GroupId"]
    with ec2_proxy(moto.endpoint_url) as proxy:
        yield Aws(ec2, proxy, {**environment, "AWS_ENDPOINT_URL": proxy.url}, vpc_id, vms, workers, group)


@pytest.fixture
def ec2_network(aws: Aws, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(**options: object) -> dict:
        args = {"region": REGION, "subnet": aws.vms, "worker_subnets": [aws.workers], "vm_group_ids": [aws.group]}
        return run_module("ec2_subnet_network_info", {**args, **options}, env=aws.environment)

    return run


def test_aws_with_a_nat_gateway(aws: Aws, ec2_network):
    address = aws.ec2.allocate_address(Domain="vpc")["AllocationId"]
    gateway = aws.ec2.create_nat_gateway(SubnetId=aws.workers, AllocationId=address)["NatGateway"]["NatGatewayId"]
    table = aws.table(aws.vms, NatGatewayId=gateway)
    result = ec2_network()
    assert aws.proxy.take_calls() == READS
    assert not result["changed"]
    assert result["subnets"] == [
        {"id": aws.vms, "availability_zone": f"{REGION}a"},
        {"id": aws.workers, "availability_zone": f"{REGION}b"},
    ]
    assert result["route_table"] == table
    assert result["default_route"] == {"target": gateway, "kind": "NAT gateway", "active": True}
    assert result["https_allowed_by"] == "0.0.0.0/0 (all traffic)"
    for nothing in ("missing", "endpoints", "denied", "denied_to_internet"):
        assert result[nothing] == [], nothing


def test_aws_without_a_way_out(aws: Aws, ec2_network):
    """The main route table, endpoints of a private cluster, groups without egress rules and a strict network ACL."""
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    aws.ec2.revoke_security_group_egress(GroupId=aws.group, IpPermissions=[everything])
    other_table = aws.table(aws.workers)
    for service, kind, of_tables in (("ec2", "Interface", {}), ("s3", "Gateway", {"RouteTableIds": [other_table]})):
        name = f"com.amazonaws.{REGION}.{service}"
        aws.ec2.create_vpc_endpoint(VpcId=aws.vpc_id, ServiceName=name, VpcEndpointType=kind, **of_tables)
    # Only the workers' block, and not the tunnel.
    inside = {"CidrBlock": "10.0.1.0/24", "Protocol": "6", "PortRange": {"From": 1024, "To": 65535}}
    acl = aws.network_acl(aws.vms, {**inside, "Egress": False}, {**inside, "Egress": True})
    result = ec2_network()
    assert result["default_route"] is None
    assert result["endpoints"] == ["ec2"]
    assert result["https_allowed_by"] == ""
    assert [(denial["direction"], denial["ports"], denial["rules"]) for denial in result["denied"]] == [
        ("inbound", "9000/udp", "*"),
        ("outbound", "9000/udp", "*"),
    ]
    assert [(denial["direction"], denial["ports"]) for denial in result["denied_to_internet"]] == [
        ("outbound", "443/tcp"),
        ("inbound", "32768-60999/tcp"),
    ]
    assert {denial["network_acl"] for denial in (*result["denied"], *result["denied_to_internet"])} == {acl}


def test_a_gateway_that_was_deleted_and_a_subnet_that_does_not_exist(aws: Aws, ec2_network):
    gateway = aws.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    aws.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=aws.vpc_id)
    aws.table(aws.vms, GatewayId=gateway)
    aws.ec2.modify_subnet_attribute(SubnetId=aws.vms, MapPublicIpOnLaunch={"Value": True})
    result = ec2_network(worker_subnets=["subnet-0123456789abcdef0"], vm_group_ids=[])
    assert aws.proxy.take_calls() == [read for read in READS if read != "DescribeSecurityGroupRules"]
    assert result["missing"] == ["subnet-0123456789abcdef0"]
    assert result["default_route"] == {"target": gateway, "kind": "internet gateway", "active": True}
    assert result["public_addresses"] is True
    assert "https_allowed_by" not in result

    result = ec2_network(subnet="subnet-0123456789abcdef0")
    assert result["missing"] == ["subnet-0123456789abcdef0"]
    assert (result["route_table"], result["default_route"]) == (None, None)


@pytest.mark.parametrize("action", READS)
def test_a_missing_permission_is_named(aws: Aws, ec2_network, action: str):
    aws.proxy.faults[action] = [refuse(403, "UnauthorizedOperation", "not authorized to")]
    result = ec2_network()
    assert result["failed"]
    assert result["msg"] == (
        f"EC2 in {REGION} rejected {action} with UnauthorizedOperation: not authorized to. Grant ec2:{action} to the "
        "identity of these credentials."
    )


# -- azure_subnet_network_info ------------------------------------------------------------------


@pytest.fixture
def azure_network(arm: AzureArm, run_module: Callable[..., dict]) -> Iterator[Callable[..., dict]]:
    """Read a subnet with these properties, and `vm_group` as the group of the VMs; returns the result."""
    before = arm.snapshot()
    group_id = f"/subscriptions/{arm.subscription_id}/resourceGroups/egress-rg"
    network = f"{group_id}/providers/Microsoft.Network"
    arm.put(group_id, {"location": "westeurope"})

    def run(vm_group: dict | None = None, subnet: str = "vms", **references: tuple[str, dict] | bool) -> dict:
        properties: dict = {"addressPrefix": "10.0.1.0/24"}
        for key, value in references.items():
            if isinstance(value, bool):
                properties[key] = value
            else:
                kind, body = value
                resource_id = f"{network}/{kind}/of-{key}"
                arm.put(resource_id, {"location": "westeurope", "properties": body})
                properties[key] = {"id": resource_id}
        subnets = [{"name": "vms", "properties": properties}]
        space = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}
        arm.put(f"{network}/virtualNetworks/vnet", {"location": "westeurope", "properties": space})
        args = {"subnet": f"{network}/virtualNetworks/vnet/subnets/{subnet}"}
        if vm_group:
            args["vm_network_security_group"] = f"{network}/networkSecurityGroups/of-vms"
            arm.put(args["vm_network_security_group"], {"location": "westeurope", "properties": vm_group})
        arm.take_requests()
        result = run_module("azure_subnet_network_info", args, env=arm.environment)
        assert not result.get("failed"), result["msg"]
        return result

    yield run
    arm.restore(before)


GROUPS = "networkSecurityGroups"
TO_FIREWALL = {"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}
DENY_INTERNET = {
    "priority": 4000,
    "direction": "Outbound",
    "access": "Deny",
    "protocol": "*",
    "sourceAddressPrefix": "*",
    "sourcePortRange": "*",
    "destinationAddressPrefix": "Internet",
    "destinationPortRange": "*",
}


def test_the_ways_out_of_a_subnet_on_azure(arm: AzureArm, azure_network):
    result = azure_network()
    assert len(arm.take_requests()) == 1
    assert (result["way_out"], result["https_denied_by"]) == ("default", [])
    assert azure_network(defaultOutboundAccess=False)["way_out"] == "none"
    result = azure_network(natGateway=("natGateways", {}), defaultOutboundAccess=False)
    assert result["way_out"] == "nat_gateway"
    assert result["nat_gateway"].endswith("/of-natGateway")
    routes = {"routes": [{"name": "out", "properties": TO_FIREWALL}]}
    rules = {"securityRules": [{"name": "no-internet", "properties": DENY_INTERNET}]}
    result = azure_network(
        rules, natGateway=("natGateways", {}), routeTable=("routeTables", routes), networkSecurityGroup=(GROUPS, {})
    )
    assert len(arm.take_requests()) == 4
    assert result["way_out"] == "route"
    assert result["route"] == {"name": "out", "next_hop_type": "VirtualAppliance", "next_hop": "10.0.9.4"}
    assert result["https_denied_by"] == ["no-internet (4000) of of-vms"]
    result = azure_network(subnet="missing")
    assert (result["subnet"], result["way_out"]) == (None, None)
