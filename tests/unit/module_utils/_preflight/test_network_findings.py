"""The findings about the network of the VMs, as tables: each row changes one reading of a network without problems."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.network_findings import network_findings

CLUSTER = {"platform": "AWS", "region": "eu-central-1"}
OPENED = [
    {"port": 15150, "protocols": ["tcp"], "to": ["vms"]},
    {"port": "9000", "protocols": ["tcp", "udp"], "to": ["vms", "workers"]},
]
RULES = [
    {"destination_port_ranges": ["15150"], "to": ["vms"]},
    {"protocol": "Udp", "destination_port_ranges": ["9000"]},
]
SETTINGS = {
    "vm_subnet": "subnet-a",
    "vm_subnet_is_set": False,
    "worker_subnets": ["subnet-a"],
    "ports": None,
    "tunnel_port": "9000",
    "public_ip": False,
    "roles": ["cloud_networking"],
}
AWS = {
    "subnets": [{"id": "subnet-a", "availability_zone": "eu-central-1a"}],
    "missing": [],
    "route_table": "rtb-1",
    "default_route": {"target": "nat-1", "kind": "NAT gateway", "active": True},
    "prefix_list_routes": [],
    "public_addresses": False,
    "endpoints": [],
    "https_allowed_by": "0.0.0.0/0 (all traffic)",
    "denied": [],
    "denied_to_internet": [],
}
DENIAL = {
    "network_acl": "acl-1",
    "subnet": "subnet-a",
    "direction": "inbound",
    "peer": "10.0.1.0/24",
    "ports": "9000/udp",
    "rules": "*",
}
INTERNET_GATEWAY = {"target": "igw-1", "kind": "internet gateway", "active": True}
BY_NAT = "subnet-a reaches the internet through the NAT gateway nat-1."
ECR = ["ecr.api", "ecr.dkr", "s3"]


def found(network: dict | None, settings: dict | None = None, platform: str = "AWS") -> dict[str, dict]:
    readings = {"network": network}
    findings = network_findings({**CLUSTER, "platform": platform}, {**SETTINGS, **(settings or {})}, readings)
    return {finding["check"]: finding for finding in findings}


def test_a_network_without_problems():
    findings = found(AWS)
    assert {check: finding["status"] for check, finding in findings.items()} == {
        "network-acls": "ok",
        "egress": "ok",
        "vm-zone": "ok",
    }
    assert findings["egress"]["found"] == BY_NAT
    assert findings["vm-zone"]["found"] == "Workers and VMs are in eu-central-1a."


@pytest.mark.parametrize("network", [None, {}, {"skipped": True}])
def test_nothing_was_read(network: dict | None):
    assert found(network) == {}
    assert found(AWS, platform="None") == {}


def test_a_network_that_cannot_be_read():
    findings = found({"failed": True, "msg": "EC2 rejected DescribeRouteTables with UnauthorizedOperation."})
    assert [(check, finding["status"]) for check, finding in findings.items()] == [("egress", "unknown")]
    assert findings["egress"]["found"].startswith("EC2 rejected ")


def test_a_subnet_that_does_not_exist():
    """Another finding reports it."""
    assert found({**AWS, "subnets": [], "missing": ["subnet-a"]}) == {}
    readings = {"network": {**AZURE, "subnet": None, "way_out": None}}
    assert [*network_findings({"platform": "Azure", "region": "westeurope"}, SETTINGS, readings)] == []


@pytest.mark.parametrize(
    ("platform", "subnet", "statuses"),
    [
        ("AWS", {"subnet": {"id": "subnet-a"}, "problems": []}, ["ok"]),
        ("AWS", {"subnet": {"id": "subnet-a"}, "problems": ["EC2 has no subnet subnet-a."]}, ["error"]),
        ("Azure", {"subnet": {"id": "/s/subnets/a"}, "problems": ["Azure has no subnet /s/subnets/a."]}, ["error"]),
        # Other findings report these.
        ("AWS", {"subnet": {"id": None}, "problems": []}, []),
        ("AWS", {"msg": "EC2 refused."}, []),
        ("AWS", {"skipped": True}, []),
        ("None", {"subnet": {"id": "subnet-a"}, "problems": []}, []),
    ],
)
def test_what_the_vms_are_created_in(platform: str, subnet: dict, statuses: list[str]):
    findings = list(network_findings({**CLUSTER, "platform": platform}, SETTINGS, {"subnet": subnet}))
    assert [(finding["check"], finding["status"]) for finding in findings] == [
        ("vm-network", each) for each in statuses
    ]
    if statuses == ["error"]:
        assert findings[0]["found"] == subnet["problems"][0]
        assert platform.lower() in findings[0]["fix"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (
            {"default_route": None},
            "warning",
            (
                "rtb-1 of subnet-a has no route to the internet (VPC endpoints: none). Images of Amazon ECR need "
                "endpoints of ecr.api, ecr.dkr, s3 as well."
            ),
        ),
        (
            {"default_route": None, "endpoints": ["ec2", "s3"]},
            "warning",
            (
                "rtb-1 of subnet-a has no route to the internet (VPC endpoints: ec2, s3). Images of Amazon ECR need "
                "endpoints of ecr.api, ecr.dkr as well."
            ),
        ),
        (
            {
                "default_route": None,
                "prefix_list_routes": [{"prefix_list": "pl-1", "target": "tgw-1"}],
            },
            "unknown",
            (
                "rtb-1 of subnet-a has no route for all addresses. Whether the registry is in a prefix list that it "
                "routes (pl-1 to tgw-1) was not checked."
            ),
        ),
        (
            {"default_route": None, "endpoints": ECR},
            "ok",
            (
                "rtb-1 of subnet-a has no route to the internet (VPC endpoints: ecr.api, ecr.dkr, s3). VMs pull images "
                "of Amazon ECR, or of a registry in the VPC."
            ),
        ),
        (
            {"default_route": {**AWS["default_route"], "active": False}},
            "warning",
            "The route of rtb-1 to the internet leads to nat-1, which does not exist.",
        ),
        (
            {"default_route": INTERNET_GATEWAY},
            "warning",
            "subnet-a reaches the internet through the internet gateway igw-1, but its VMs get no public IP address.",
        ),
        (
            {"default_route": INTERNET_GATEWAY, "public_addresses": True},
            "ok",
            "subnet-a reaches the internet through the internet gateway igw-1.",
        ),
        (
            {"https_allowed_by": ""},
            "warning",
            f"{BY_NAT} No security group of the VMs has an egress rule that allows 443/tcp to all addresses.",
        ),
        (
            {"denied_to_internet": [{**DENIAL, "direction": "outbound", "ports": "443/tcp", "peer": "0.0.0.0/0"}]},
            "warning",
            f"{BY_NAT} acl-1 of subnet-a denies outbound 443/tcp to 0.0.0.0/0 (rule *).",
        ),
    ],
)
def test_outbound_access(change: dict, status: str, sentence: str):
    egress = found({**AWS, **change})["egress"]
    assert (egress["status"], egress["found"]) == (status, sentence)
    assert ("operator_install_aws_subnet_id" in egress["fix"]) is (status == "warning")


def test_vms_with_public_addresses_of_their_own():
    """Of USE_PUBLIC_IP. A route table with a route for all addresses counts before them on Azure."""
    settings = {"public_ip": True}
    assert found({**AWS, "default_route": INTERNET_GATEWAY}, settings)["egress"]["status"] == "ok"
    assert found({**AWS, "default_route": None}, settings)["egress"]["status"] == "warning"
    finding = azure_egress(NONE, public_ip=True)
    assert finding["status"] == "ok"
    assert finding["found"] == "The VMs in workers reach the internet by their public IP addresses (USE_PUBLIC_IP)."
    assert azure_egress(DROPPED, public_ip=True)["status"] == "warning"
    denied = {**NONE, "https_denied_by": ["rest (200) of demo-nsg"]}
    assert azure_egress(denied, public_ip=True)["status"] == "warning"


def test_without_the_groups_of_the_vms_their_rules_do_not_count():
    without = {key: value for key, value in AWS.items() if key != "https_allowed_by"}
    assert found(without)["egress"]["status"] == "ok"


def test_network_acls():
    finding = found({**AWS, "denied": [DENIAL, {**DENIAL, "direction": "outbound", "rules": "90"}]})["network-acls"]
    assert finding["status"] == "error"
    assert finding["found"] == (
        "acl-1 of subnet-a denies inbound 9000/udp from 10.0.1.0/24 (rule *). "
        "acl-1 of subnet-a denies outbound 9000/udp to 10.0.1.0/24 (rule 90)."
    )


WORKERS_IN_THREE_ZONES = {
    "subnets": [{"id": f"subnet-{zone}", "availability_zone": f"eu-central-1{zone}"} for zone in "abc"],
}


@pytest.mark.parametrize(
    ("settings", "status", "zones"),
    [
        ({"worker_subnets": ["subnet-a", "subnet-b", "subnet-c"]}, "warning", "a, eu-central-1b, eu-central-1c"),
        ({"worker_subnets": ["subnet-b"]}, "warning", "b"),
        # The user has chosen it.
        ({"worker_subnets": ["subnet-b"], "vm_subnet_is_set": True}, "ok", "b"),
    ],
)
def test_the_zone_of_the_vms(settings: dict, status: str, zones: str):
    finding = found({**AWS, **WORKERS_IN_THREE_ZONES}, settings)["vm-zone"]
    assert finding["status"] == status
    assert finding["found"] == (
        f"All VMs are in eu-central-1a, the zone of subnet-a; the workers are in eu-central-1{zones}."
    )
    assert ("set it to subnet-a." in finding["fix"]) is (status == "warning")


def test_without_workers_there_is_no_zone_to_compare():
    assert "vm-zone" not in found(AWS, {"worker_subnets": []})


# -- Azure -------------------------------------------------------------------------------------

AZURE = {
    "subnet": "/s/virtualNetworks/v/subnets/workers",
    "way_out": "nat_gateway",
    "nat_gateway": "/s/natGateways/demo-nat",
    "route_table": None,
    "route": None,
    "https_denied_by": [],
}
NONE = {"way_out": "none", "nat_gateway": None}
DEFAULT = {"way_out": "default", "nat_gateway": None}
BY_DEMO_NAT = "The VMs in workers reach the internet by the NAT gateway demo-nat."
NOT_REACHED = "The VMs in workers do not reach the internet: "
BY_FIREWALL = {
    "way_out": "route",
    "route_table": "/s/routeTables/rt",
    "route": {"name": "out", "next_hop_type": "VirtualAppliance", "next_hop": "10.0.0.4"},
}
DROPPED = {
    "way_out": "none",
    "route_table": "/s/routeTables/rt",
    "route": {"name": "out", "next_hop_type": "None", "next_hop": None},
}


def azure_egress(
    change: dict, nat_gateway: dict | None = None, requested: bool = False, public_ip: bool = False
) -> dict:
    of_run = {"vm_subnet": "/s/subnets/workers", "azure_nat_gateway": requested, "public_ip": public_ip}
    settings = {**SETTINGS, **of_run}
    readings = {"network": {**AZURE, **change}, "nat_gateway": nat_gateway}
    (finding,) = network_findings({"platform": "Azure", "region": "westeurope"}, settings, readings)
    assert finding["check"] == "egress"
    return finding


@pytest.mark.parametrize(
    ("change", "status", "sentence", "fix"),
    [
        ({}, "ok", BY_DEMO_NAT, ""),
        (
            BY_FIREWALL,
            "ok",
            "The VMs in workers reach the internet by the route out of rt to VirtualAppliance 10.0.0.4.",
            "",
        ),
        (
            DEFAULT,
            "ok",
            "The VMs in workers reach the internet by Azure's default outbound access. Its address may change.",
            "",
        ),
        (
            NONE,
            "warning",
            f"{NOT_REACHED}the subnet has no NAT gateway, no route to a firewall, and no default outbound access.",
            "Set cloud_networking_azure_nat_gateway to true, so that the role",
        ),
        (
            DROPPED,
            "warning",
            f"{NOT_REACHED}the route out of rt to None drops this traffic.",
            "Route 0.0.0.0/0 of this",
        ),
        (
            {"https_denied_by": ["rest (200) of demo-nsg"]},
            "warning",
            f"{BY_DEMO_NAT} 443/tcp to the internet is denied by rest (200) of demo-nsg.",
            "Allow 443/tcp outbound",
        ),
    ],
)
def test_outbound_access_on_azure(change: dict, status: str, sentence: str, fix: str):
    finding = azure_egress(change)
    assert (finding["status"], finding["found"]) == (status, sentence)
    assert finding["fix"].startswith(fix)
    assert bool(finding["fix"]) is (status == "warning")


def test_a_nat_gateway_that_is_requested():
    finding = azure_egress(NONE, {"changes": []}, requested=True)
    assert finding["status"] == "ok"
    assert finding["found"].endswith("default outbound access. The role cloud_networking adds a NAT gateway.")
    # The task does not fail.
    refused = {"failed": False, "msg": "All 20 NAT gateways that this subscription may have in westeurope exist."}
    for way_out in (NONE, DEFAULT):
        finding = azure_egress(way_out, refused, requested=True)
        assert finding["status"] == "error"
        assert finding["found"].endswith(f"A NAT gateway cannot be added: {refused['msg']}")
    assert azure_egress(DEFAULT, {"changes": []}, requested=True)["found"].endswith("adds a NAT gateway.")


def test_a_subnet_on_azure_that_cannot_be_read():
    readings = {"network": {"failed": True, "msg": "Azure rejected GET."}}
    (finding,) = network_findings({"platform": "Azure"}, SETTINGS, readings)
    assert (finding["status"], finding["found"]) == ("unknown", "Azure rejected GET.")


@pytest.mark.parametrize(
    ("platform", "ports", "changes", "expected"),
    [
        ("AWS", OPENED, {}, None),
        ("AWS", [{"port": 15150}, {"port": 9000, "protocols": ["udp"]}], {}, None),
        (
            "AWS",
            [],
            {},
            "leaves out 15150/tcp to the VMs (the kata agent), 9000/udp to the VMs and the workers (the tunnel).",
        ),
        # The port of the tunnel is not the one that cloud-api-adaptor gets.
        ("AWS", OPENED, {"tunnel_port": 4789}, "cloud_networking_ports leaves out 4789/udp to the VMs and the workers"),
        ("AWS", [OPENED[0], {"port": 9000}], {}, "leaves out 9000/udp to the VMs and the workers (the tunnel)."),
        (
            "AWS",
            [OPENED[0], {"port": 9000, "protocols": ["udp"], "to": ["vms"]}],
            {},
            "leaves out 9000/udp to the workers (the tunnel).",
        ),
        ("AWS", [], {"roles": ["webhook"]}, None),
        ("AWS", None, {}, None),
        ("None", [], {}, None),
        ("Azure", RULES, {}, None),
        ("Azure", [{"protocol": "*", "destination_port_ranges": ["*"]}], {}, None),
        ("Azure", [RULES[0], {"protocol": "Udp", "destination_port_ranges": ["80", "9000-9999"]}], {}, None),
        (
            "Azure",
            [RULES[0], {"protocol": "Udp", "destination_port_ranges": ["9001-9999"]}],
            {},
            "cloud_networking_security_rules leaves out 9000/udp to the VMs and the workers (the tunnel).",
        ),
        ("Azure", [RULES[0], {**RULES[1], "access": "Deny"}], {}, "leaves out 9000/udp"),
        ("Azure", [RULES[0], {**RULES[1], "direction": "Outbound"}], {}, "leaves out 9000/udp"),
        # A single value in place of a list.
        ("Azure", [{"destination_port_ranges": 15150}, {**RULES[1], "destination_port_ranges": "9000-9100"}], {}, None),
        ("Azure", [RULES[0], {**RULES[1], "destination_port_ranges": "9000-"}], {}, "leaves out 9000/udp"),
        ("Azure", [{"name": "agent", "priority": 112}], {}, "leaves out 15150/tcp to the VMs"),
        ("AWS", [OPENED[0], {"port": "9000", "protocols": "tcp,udp", "to": "vms,workers"}], {}, None),
        ("AWS", OPENED, {"tunnel_port": "none"}, None),
    ],
)
def test_ports_that_are_set_by_hand(platform: str, ports: list | None, changes: dict, expected: str | None):
    finding = found(None, {"ports": ports, **changes}, platform).get("needed-ports")
    if expected is None:
        assert finding is None
    else:
        assert finding["status"] == "warning"
        assert expected in finding["found"]
