"""What network ACLs deny, as tables of their rules."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.network_acls import (
    Packets,
    Subnet,
    denied_between,
    denied_parts,
    denied_to_internet,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import DEFAULT_PORTS, wanted_flows

VMS, WORKERS = "10.0.0.0/24", "10.0.1.0/24"
FLOWS = wanted_flows(DEFAULT_PORTS)
TUNNEL = Packets(IPv4Network(WORKERS), "udp", 9000, 9000)
REPLIES = Packets(IPv4Network(WORKERS), "tcp", 32768, 60999)


def entry(number: int, action: str, block: str = "0.0.0.0/0", protocol: str = "-1", ports=None, egress=False) -> dict:
    result = {"RuleNumber": number, "RuleAction": action, "CidrBlock": block, "Protocol": protocol, "Egress": egress}
    return {**result, "PortRange": {"From": ports[0], "To": ports[1]}} if ports else result


LAST = [entry(32767, "deny", egress=egress) for egress in (False, True)]
ALL = [entry(100, "allow", egress=egress) for egress in (False, True)]


@pytest.mark.parametrize(
    ("packets", "entries", "denied"),
    [
        (TUNNEL, [entry(100, "allow")], []),
        (TUNNEL, [], [(WORKERS, "*")]),
        (TUNNEL, [entry(100, "allow", protocol="17", ports=(9000, 9000))], []),
        (TUNNEL, [entry(100, "allow", protocol="6", ports=(9000, 9000))], [(WORKERS, "*")]),
        (TUNNEL, [entry(100, "allow", egress=True)], [(WORKERS, "*")]),
        (TUNNEL, [entry(100, "allow", "10.0.1.0/25")], [("10.0.1.128/25", "*")]),
        (TUNNEL, [entry(90, "deny", "10.0.1.7/32"), entry(100, "allow")], [("10.0.1.7/32", "90")]),
        # The smallest number decides, not the order.
        (TUNNEL, [entry(100, "allow"), entry(90, "deny", protocol="17", ports=(8000, 9500))], [(WORKERS, "90")]),
        (TUNNEL, [entry(100, "allow"), entry(110, "deny")], []),
        (REPLIES, [entry(100, "allow", protocol="6", ports=(1024, 65535))], []),
        (REPLIES, [entry(100, "allow", protocol="6", ports=(49152, 65535))], [(WORKERS, "*")]),
        (
            REPLIES,
            [
                entry(90, "deny", protocol="6", ports=(40000, 40000)),
                entry(100, "allow", "10.0.0.0/8", protocol="6", ports=(1024, 65535)),
            ],
            [(WORKERS, "90")],
        ),
        (TUNNEL, [{**entry(100, "allow"), "CidrBlock": None} | {"Ipv6CidrBlock": "::/0"}], [(WORKERS, "*")]),
    ],
)
def test_denied_parts(packets: Packets, entries: list[dict], denied: list[tuple[str, str]]):
    without_none = [{key: value for key, value in rule.items() if value is not None} for rule in entries]
    parts = denied_parts([*without_none, LAST[0]], False, packets)
    assert sorted((str(network), number) for network, number in parts) == denied


def subnet(subnet_id: str, block: str, *entries: dict) -> Subnet:
    return Subnet(subnet_id, block, {"NetworkAclId": f"acl-{subnet_id}", "Entries": [*entries, *LAST]})


def sentences(denials: list[dict]) -> list[tuple[str, ...]]:
    return [(d["network_acl"], d["direction"], d["ports"], d["peer"], d["rules"]) for d in denials]


def test_both_ends_are_filtered_in_both_directions():
    """Workers connect to 15150, the tunnel has both ends, and TCP has replies."""
    denials = denied_between(subnet("vms", VMS), [subnet("workers", WORKERS)], FLOWS)
    assert sentences(denials) == [
        ("acl-workers", "outbound", "15150/tcp", VMS, "*"),
        ("acl-vms", "inbound", "15150/tcp", WORKERS, "*"),
        ("acl-vms", "outbound", "32768-60999/tcp", WORKERS, "*"),
        ("acl-workers", "inbound", "32768-60999/tcp", VMS, "*"),
        ("acl-workers", "outbound", "9000/udp", VMS, "*"),
        ("acl-vms", "inbound", "9000/udp", WORKERS, "*"),
        ("acl-vms", "outbound", "9000/udp", WORKERS, "*"),
        ("acl-workers", "inbound", "9000/udp", VMS, "*"),
    ]


def test_only_what_is_denied_is_returned_once():
    vms, open_one = subnet("vms", VMS, *ALL), subnet("a", WORKERS, *ALL)
    no_udp = [entry(90, "deny", protocol="17", egress=True), *ALL]
    closed = [subnet("b", "10.0.2.0/24", *no_udp), subnet("b", "10.0.2.0/24", *no_udp)]
    assert denied_between(vms, [open_one], FLOWS) == []
    assert sentences(denied_between(vms, [open_one, *closed], FLOWS)) == [
        ("acl-b", "outbound", "9000/udp", VMS, "90"),
    ]


def test_traffic_within_a_subnet_is_not_filtered():
    vms = subnet("vms", VMS)
    assert denied_between(vms, [vms], FLOWS) == []


def test_tcp_counts_for_a_port_without_udp():
    closed = [entry(90, "deny", protocol="6", ports=(9000, 9000)), *ALL]
    ends = subnet("vms", VMS, *closed), [subnet("workers", WORKERS, *ALL)]
    assert denied_between(*ends, FLOWS) == []
    only_tcp = wanted_flows([{"port": 9000, "protocols": ["tcp"], "to": ["vms"]}])
    assert sentences(denied_between(*ends, only_tcp)) == [("acl-vms", "inbound", "9000/tcp", WORKERS, "90")]


@pytest.mark.parametrize(
    ("entries", "denied"),
    [
        (ALL, []),
        ([], [("outbound", "443/tcp", "*"), ("inbound", "32768-60999/tcp", "*")]),
        # One network that is denied is not the internet.
        ([entry(90, "deny", "203.0.113.0/24", egress=True), *ALL], []),
        ([ALL[0], entry(100, "allow", "10.0.0.0/8", egress=True)], [("outbound", "443/tcp", "*")]),
        ([ALL[1], entry(90, "deny", protocol="6", ports=(0, 40000)), ALL[0]], [("inbound", "32768-60999/tcp", "90")]),
    ],
)
def test_https_to_the_internet(entries: list[dict], denied: list[tuple[str, ...]]):
    denials = denied_to_internet(subnet("vms", VMS, *entries))
    assert [(d["direction"], d["ports"], d["rules"]) for d in denials] == denied
    assert all(d["peer"] == "0.0.0.0/0" for d in denials)
