"""Which rule of a network security group decides: as tables, and compared with brute force on small address spaces."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    Flow,
    Verdict,
    decide,
    is_same_rule,
    passes,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    security_rule,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.module_utils._azure.rules import (
    ALLOW_VNET,
    ASG,
    DEFAULTS,
    DENY_VNET,
    SPACE,
    VNET,
    WORKERS,
    WORLD,
    block_lists,
    contains,
    first_match,
    listed,
    nsg,
    rule,
    rule_lists,
)


def flow(**changes: object) -> Flow:
    return Flow(
        **{
            "direction": "Inbound",
            "protocol": "Tcp",
            "port": 9000,
            "source": (WORKERS,),
            "destination": (WORKERS,),
            "virtual_network": VNET,
        }
        | changes
    )


@pytest.mark.parametrize(
    ("rules", "deciding"),
    [
        ([], {"AllowVnetInBound (65000)"}),
        ([DENY_VNET], {"DenyVnet (4096)"}),
        ([DENY_VNET, rule("A", 200, ports="9000")], {"A (200)"}),
        ([rule("A", 200), rule("D", 100, "Deny")], {"D (100)"}),
        ([rule("A", 100, "allow")], {"A (100)"}),
        ([rule("D", 100, "deny", direction="inbound", protocol="TCP")], {"D (100)"}),
        ([rule("D", 100, "Deny", direction="Outbound")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", protocol="Udp")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", ports="9001")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", ports="8000-8999")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", ports="9000-9000")], {"D (100)"}),
        (
            [rule("D", 100, "Deny", ports="", destinationPortRanges=["80", "8000-10000"])],
            {"D (100)"},
        ),
        ([rule("D", 100, "Deny", source="Internet")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", source="Storage.WestEurope")], {"AllowVnetInBound (65000)"}),
        ([rule("D", 100, "Deny", source="0.0.0.0/0")], {"D (100)"}),
        ([rule("D", 100, "Deny", source="::/0")], {"AllowVnetInBound (65000)"}),
        (
            [rule("D", 100, "Deny", source="10.0.128.5")],
            {"D (100)", "AllowVnetInBound (65000)"},
        ),
        (
            [rule("D", 100, "Deny", source="", sourceAddressPrefixes=["10.1.0.0/16", "10.0.0.0/8"])],
            {"D (100)"},
        ),
        (
            [rule("D", 100, "Deny", source="", sourceApplicationSecurityGroups=[ASG])],
            {"D (100) partly", "AllowVnetInBound (65000)"},
        ),
        (
            [rule("D", 100, "Deny", sourcePortRange="1024-65535")],
            {"D (100) partly", "AllowVnetInBound (65000)"},
        ),
        ([rule("D", 100, "Deny", sourcePortRange="0-65535")], {"D (100)"}),
    ],
)
def test_the_deciding_rule_between_the_workers(rules, deciding):
    verdicts = decide(flow(), rules_of(nsg(*rules)))
    assert {verdict.by + " partly" * verdict.partly for verdict in verdicts} == deciding
    assert passes(verdicts) == all(name.startswith("A") for name in deciding)


@pytest.mark.parametrize(
    ("changes", "deciding"),
    [
        ({"source": ("168.63.129.16",)}, ["AllowAzureLoadBalancerInBound (65001)"]),
        ({"source": ("203.0.113.0/24",)}, ["DenyAllInBound (65500)"]),
        ({"source": ("fd00::/64",), "destination": ("fd00::/64",)}, ["AllowVnetInBound (65000)"]),
        ({"source": ("fd00::/64",)}, []),
        ({"source": ("10.0.0.0/8",)}, ["AllowVnetInBound (65000)", "DenyAllInBound (65500)"]),
        ({"direction": "Outbound"}, ["AllowVnetOutBound (65000)"]),
        ({"direction": "Outbound", "destination": ("203.0.113.0/24",)}, ["AllowInternetOutBound (65001)"]),
    ],
)
def test_the_default_rules(changes, deciding):
    verdicts = decide(flow(**changes), DEFAULTS)
    assert [verdict.by for verdict in verdicts] == deciding
    assert passes(verdicts) == (deciding != [] and all(by.startswith("Allow") for by in deciding))


def test_a_group_without_rules_lets_nothing_through():
    (verdict,) = decide(flow(), [])
    assert (verdict.by, passes([verdict])) == ("no rule (65536)", False)


def test_a_service_tag_decides_only_partly_and_only_outside_the_network():
    rules = [rule("D", 100, "Deny", source="Storage"), rule("A", 200)]
    verdicts = decide(flow(source=("8.0.0.0/6",), destination=(WORKERS,)), rules)
    assert [(v.by, v.partly, v.source) for v in verdicts] == [
        (
            "D (100)",
            True,
            (
                "8.0.0.0/7",
                "10.1.0.0/16",
                "10.2.0.0/15",
                "10.4.0.0/14",
                "10.8.0.0/13",
                "10.16.0.0/12",
                "10.32.0.0/11",
                "10.64.0.0/10",
                "10.128.0.0/9",
                "11.0.0.0/8",
            ),
        ),
        ("A (200)", False, ("8.0.0.0/6",)),
    ]


def test_a_rule_for_one_protocol_decides_part_of_all_protocols():
    verdicts = decide(flow(protocol="*"), [rule("D", 100, "Deny", protocol="Tcp"), ALLOW_VNET])
    assert [(v.by, v.partly) for v in verdicts] == [
        ("D (100)", True),
        ("AllowVnetInBound (65000)", False),
    ]


def test_the_verdicts_are_merged():
    rules = [rule("D", 100, "Deny", source="10.0.128.0/24", destination="10.0.129.0/24"), DENY_VNET]
    workers = ("10.0.128.0/24", "10.0.129.0/24")
    verdicts = decide(flow(source=workers, destination=workers), rules)
    assert verdicts == (
        Verdict(("10.0.128.0/24",), ("10.0.129.0/24",), "Deny", "D", 100),
        Verdict(("10.0.129.0/24",), ("10.0.128.0/23",), "Deny", "DenyVnet", 4096),
        Verdict(("10.0.128.0/24",), ("10.0.128.0/24",), "Deny", "DenyVnet", 4096),
    )
    rules = [rules[0], rule("E", 200, destination="10.0.128.0/24"), ALLOW_VNET]
    verdicts = decide(flow(source=workers, destination=workers), rules)
    assert [(v.source, v.destination) for v in verdicts] == [
        (("10.0.128.0/24",), ("10.0.129.0/24",)),
        (("10.0.128.0/23",), ("10.0.128.0/24",)),
        (("10.0.129.0/24",), ("10.0.129.0/24",)),
    ]


flows = st.builds(
    lambda direction, protocol, port, source, destination: Flow(
        direction, protocol, port, tuple(source), tuple(destination), SPACE
    ),
    st.sampled_from(["Inbound", "Inbound", "Outbound"]),
    st.sampled_from(["Tcp", "Udp"]),
    st.integers(1, 4),
    block_lists,
    block_lists,
)


@given(rule_lists, flows)
def test_every_pair_of_addresses_is_decided_once_and_correctly(rules, traffic):
    rules += DEFAULTS
    verdicts = decide(traffic, rules)
    for source in WORLD:
        for destination in WORLD:
            deciding_rules = [
                v.rule for v in verdicts if contains(v.source, source) and contains(v.destination, destination)
            ]
            is_in_flow = (
                source.version == destination.version
                and contains(traffic.source, source)
                and contains(traffic.destination, destination)
            )
            assert deciding_rules == ([first_match(rules, traffic, source, destination)] if is_in_flow else [])


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"protocol": "TCP", "access": "allow", "direction": "inbound"}, True),
        ({"sourceAddressPrefix": "", "sourceAddressPrefixes": [WORKERS]}, True),
        ({"sourceAddressPrefix": "10.0.128.1/17"}, True),
        ({"destinationPortRange": "", "destinationPortRanges": ["9000-9000"]}, True),
        ({"sourcePortRange": "0-65535"}, True),
        ({"description": "by hand"}, True),
        ({"protocol": "*"}, False),
        ({"access": "Deny"}, False),
        ({"direction": "Outbound"}, False),
        ({"priority": 112}, False),
        ({"sourceAddressPrefix": "10.0.128.0/18"}, False),
        ({"sourceAddressPrefix": "*"}, False),
        ({"sourceAddressPrefix": "", "sourceAddressPrefixes": [WORKERS, "10.1.0.0/16"]}, False),
        ({"destinationAddressPrefix": "VirtualNetwork"}, False),
        ({"destinationPortRange": "9001"}, False),
        ({"sourcePortRange": "9000"}, False),
        ({"sourceAddressPrefix": None, "sourceApplicationSecurityGroups": [ASG]}, False),
    ],
)
def test_rules_are_compared_by_their_meaning(changes, is_same):
    existing = rule("R", 111, source=WORKERS, destination=WORKERS, ports="9000", protocol="Tcp")
    desired_properties = security_rule(*listed(), 111)["properties"]
    del desired_properties["description"]
    assert is_same_rule(existing["properties"] | changes, desired_properties) == is_same


def test_lists_are_compared_as_sets_and_ids_without_case():
    def properties(prefixes: list[str], asg: str) -> dict:
        return rule(
            "R",
            1,
            sourceAddressPrefixes=prefixes,
            destinationApplicationSecurityGroups=[{"id": asg}],
        )["properties"]

    original = properties(["10.0.0.0/24", "10.0.1.0/24"], ASG["id"])
    assert is_same_rule(original, properties(["10.0.1.0/24", "10.0.0.0/24"], ASG["id"].upper()))
    assert not is_same_rule(original, properties(["10.0.1.0/24"], ASG["id"]))
    assert not is_same_rule(original, properties(["10.0.1.0/24", "10.0.0.0/24"], ASG["id"] + "2"))
    assert not is_same_rule(original, original | {"description": "wanted"})
