"""The plans of nsg_rules: as tables, and against brute force on small worlds."""

from __future__ import annotations

import re
from functools import cache
from ipaddress import ip_address, ip_network

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._nsg_decision import (
    Flow,
    Verdict,
    decide,
    passes,
    rules_of,
    same,
)
from ansible_collections.osc.peerpods.plugins.module_utils._security_rules import (
    Move,
    Plan,
    SecurityRuleError,
    WantedRule,
    apply_to,
    diff_of,
    needed_action,
    plan_absent,
    plan_present,
    security_rule,
    single_change,
    wanted_rules,
)
from hypothesis import given
from hypothesis import strategies as st

WORKERS = "10.0.128.0/17"
VNET = ("10.0.0.0/16", "fd00::/48")
NETWORK = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network"
COMPUTE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute"
NSG_ID = f"{NETWORK}/networkSecurityGroups/nsg"
ASG = {"id": f"{NETWORK}/applicationSecurityGroups/workers"}


def rule(name: str, priority: int, access: str = "Allow", **properties: object) -> dict:
    """A rule as ARM stores it; by default on all traffic, `source=` and `ports=` in short."""
    source, destination, ports = (properties.pop(key, "*") for key in ("source", "destination", "ports"))
    return {
        "id": f"{NSG_ID}/securityRules/{name}",
        "name": name,
        "etag": 'W/"1"',
        "type": "Microsoft.Network/networkSecurityGroups/securityRules",
        "properties": {
            "provisioningState": "Succeeded",
            "protocol": "*",
            "sourcePortRange": "*",
            "destinationPortRange": ports,
            "sourceAddressPrefix": source,
            "destinationAddressPrefix": destination,
            "sourcePortRanges": [],
            "destinationPortRanges": [],
            "sourceAddressPrefixes": [],
            "destinationAddressPrefixes": [],
            "access": access,
            "priority": priority,
            "direction": "Inbound",
        }
        | properties,
    }


ALLOW_VNET = rule("AllowVnetInBound", 65000, source="VirtualNetwork", destination="VirtualNetwork")
ALLOW_PROBES = rule("AllowAzureLoadBalancerInBound", 65001, source="AzureLoadBalancer")
DENY_ALL = rule("DenyAllInBound", 65500, "Deny")
DEFAULTS = [ALLOW_VNET, ALLOW_PROBES, DENY_ALL]
DENY_VNET = rule("DenyVnet", 4096, "Deny", source="VirtualNetwork")


def nsg(*rules: dict) -> dict:
    return {
        "id": NSG_ID,
        "name": "nsg",
        "etag": 'W/"1"',
        "type": "Microsoft.Network/networkSecurityGroups",
        "location": "westeurope",
        "tags": {"a": "b"},
        "properties": {
            "provisioningState": "Succeeded",
            "resourceGuid": "g",
            "flushConnection": True,
            "securityRules": list(rules),
            "defaultSecurityRules": DEFAULTS,
            "subnets": [{"id": "x"}],
            "networkInterfaces": [],
        },
    }


def option(name: str = "Ours", priority: int = 111, ports: str = "9000", **changes: object) -> dict:
    return {
        "name": name,
        "priority": priority,
        "protocol": "Tcp",
        "access": "Allow",
        "direction": "Inbound",
        "description": None,
        "source_port_ranges": ["*"],
        "destination_port_ranges": [ports],
        "source_address_prefixes": None,
        "destination_address_prefixes": None,
        "source_application_security_groups": None,
        "destination_application_security_groups": None,
    } | changes


def wanted(*options: dict, workers: tuple[str, ...] = (WORKERS,)) -> tuple[WantedRule, ...]:
    return wanted_rules(options or [option()], workers, workers)


def stored(rule_: WantedRule, priority: int | None = None, **changes: object) -> dict:
    """Ours as ARM stores it."""
    body = security_rule(rule_, priority or rule_.priority)
    return rule(body["name"], 0) | {"properties": body["properties"] | changes}


# -- How a group decides -----------------------------------------------------------------------


def flow(**changes: object) -> Flow:
    return Flow(
        **{
            "direction": "Inbound",
            "protocol": "Tcp",
            "port": 9000,
            "source": (WORKERS,),
            "destination": (WORKERS,),
        }
        | changes
    )


@pytest.mark.parametrize(
    ("rules", "by"),
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
def test_who_decides_between_the_workers(rules, by):
    verdicts = decide(flow(), rules_of(nsg(*rules)), VNET)
    assert {verdict.by + " partly" * verdict.partly for verdict in verdicts} == by
    assert passes(verdicts) == all(name.startswith("A") for name in by)


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ({"source": ("168.63.129.16",)}, ["AllowAzureLoadBalancerInBound (65001)"]),
        ({"source": ("203.0.113.0/24",)}, ["DenyAllInBound (65500)"]),
        ({"source": ("fd00::/64",), "destination": ("fd00::/64",)}, ["AllowVnetInBound (65000)"]),
        ({"source": ("fd00::/64",)}, []),
        ({"source": ("10.0.0.0/8",)}, ["AllowVnetInBound (65000)", "DenyAllInBound (65500)"]),
        ({"direction": "Outbound"}, ["no rule (65536)"]),
    ],
)
def test_the_default_rules(changes, by):
    verdicts = decide(flow(**changes), DEFAULTS, VNET)
    assert [verdict.by for verdict in verdicts] == by
    assert passes(verdicts) == (by == ["AllowVnetInBound (65000)"] or "Balancer" in str(by))


def test_a_tag_of_some_service_decides_only_a_part_and_only_outside():
    rules = [rule("D", 100, "Deny", source="Storage"), rule("A", 200)]
    verdicts = decide(flow(source=("8.0.0.0/6",), destination=(WORKERS,)), rules, VNET)
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
    verdicts = decide(flow(protocol="*"), [rule("D", 100, "Deny", protocol="Tcp"), ALLOW_VNET], VNET)
    assert [(v.by, v.partly) for v in verdicts] == [
        ("D (100)", True),
        ("AllowVnetInBound (65000)", False),
    ]


def test_the_answer_is_short():
    rules = [rule("D", 100, "Deny", source="10.0.128.0/24", destination="10.0.129.0/24"), DENY_VNET]
    workers = ("10.0.128.0/24", "10.0.129.0/24")
    verdicts = decide(flow(source=workers, destination=workers), rules, VNET)
    assert verdicts == (
        Verdict(("10.0.128.0/24",), ("10.0.129.0/24",), "Deny", "D", 100),
        Verdict(("10.0.129.0/24",), ("10.0.128.0/23",), "Deny", "DenyVnet", 4096),
        Verdict(("10.0.128.0/24",), ("10.0.128.0/24",), "Deny", "DenyVnet", 4096),
    )
    rules = [rules[0], rule("E", 200, destination="10.0.128.0/24"), ALLOW_VNET]
    verdicts = decide(flow(source=workers, destination=workers), rules, VNET)
    assert [(v.source, v.destination) for v in verdicts] == [
        (("10.0.128.0/24",), ("10.0.129.0/24",)),
        (("10.0.128.0/23",), ("10.0.128.0/24",)),
        (("10.0.129.0/24",), ("10.0.129.0/24",)),
    ]


# Small enough for brute force: 4 IPv4 and 2 IPv6 addresses, of which the tag means half.
WHOLE = [ip_network("10.0.0.0/30"), ip_network("fd00::/127")]
SPACE = ("10.0.0.0/31", "fd00::/128")
# And some from outside, Azure's load balancer among them: a rule may be about all but the former.
LOAD_BALANCER = ip_address("168.63.129.16")
OUTSIDE = [LOAD_BALANCER, ip_address("192.0.2.1"), ip_address("2001:db8::1")]
WORLD = [address for whole in WHOLE for address in whole] + OUTSIDE
BLOCKS = [
    str(block)
    for whole in WHOLE
    for prefix in range(whole.prefixlen, whole.max_prefixlen + 1)
    for block in whole.subnets(new_prefix=prefix)
]
TAGS = ["*", "VirtualNetwork", "Internet", "AzureLoadBalancer", "0.0.0.0/0", "::/0"]
V4, V6 = ([b for b in BLOCKS if (":" in b) == v6] for v6 in (False, True))

block_lists = st.sampled_from([V4, V6]).flatmap(
    lambda blocks: st.lists(st.sampled_from(blocks), min_size=1, max_size=3, unique=True)
)
sides = st.sampled_from(TAGS).map(lambda tag: [tag]) | block_lists
port_ranges = st.lists(st.sampled_from(["*", "1", "2", "3", "1-2", "2-4", "0-65535"]), min_size=1, max_size=2)


def as_rule(number, priority, access, direction, protocol, source, destination, ports) -> dict:
    return rule(
        f"R{number}",
        priority,
        access,
        direction=direction,
        protocol=protocol,
        sourceAddressPrefixes=source,
        destinationAddressPrefixes=destination,
        destinationPortRanges=ports,
    )


rule_lists = st.lists(
    st.tuples(
        st.sampled_from(range(100, 108)),
        st.sampled_from(["Allow", "Deny"]),
        st.sampled_from(["Inbound", "Inbound", "Outbound"]),
        st.sampled_from(["Tcp", "Udp", "*"]),
        sides,
        sides,
        port_ranges,
    ),
    max_size=6,
    unique_by=lambda r: (r[0], r[2]),
).map(lambda rules: [as_rule(number, *parts) for number, parts in enumerate(rules)])


@cache
def holds(prefixes: tuple[str, ...], address) -> bool:
    inside = any(address in ip_network(block) for block in SPACE)
    return any(
        prefix == "*"
        or (prefix == "VirtualNetwork" and inside)
        or (prefix == "Internet" and not inside)
        or (prefix == "AzureLoadBalancer" and address == LOAD_BALANCER)
        or ("/" in prefix and address in ip_network(prefix))
        for prefix in prefixes
    )


def one_or_more(properties: dict, key: str, plural: str) -> tuple[str, ...]:
    return tuple(properties.get(key + plural) or [properties[key]])


def in_ports(port: int, port_ranges: tuple[str, ...]) -> bool:
    bounds = [(text if text != "*" else "0-65535").split("-") for text in port_ranges]
    return any(int(low) <= port <= int(high[0] if high else low) for low, *high in bounds)


def first_match(rules: list[dict], flow_: Flow, source, destination) -> str:
    """The oracle: which rule decides about one address each."""
    for rule_ in sorted(rules, key=lambda r: r["properties"]["priority"]):
        properties = rule_["properties"]
        if (
            properties["direction"] == flow_.direction
            and properties["protocol"] in ("*", flow_.protocol)
            and holds(one_or_more(properties, "sourceAddressPrefix", "es"), source)
            and holds(one_or_more(properties, "destinationAddressPrefix", "es"), destination)
            and in_ports(flow_.port, one_or_more(properties, "destinationPortRange", "s"))
        ):
            return rule_["name"]
    return "no rule"


PAIRS = [(s, d) for s in WORLD for d in WORLD if s.version == d.version]

flows = st.builds(
    lambda direction, protocol, port, source, destination: Flow(
        direction, protocol, port, tuple(source), tuple(destination)
    ),
    st.sampled_from(["Inbound", "Inbound", "Outbound"]),
    st.sampled_from(["Tcp", "Udp"]),
    st.integers(1, 4),
    block_lists,
    block_lists,
)


@given(rule_lists, flows)
def test_every_pair_of_addresses_is_decided_once_and_as_by_brute_force(rules, flow_):
    rules += DEFAULTS
    verdicts = decide(flow_, rules, SPACE)
    for source in WORLD:
        for destination in WORLD:
            said = [v.rule for v in verdicts if holds(v.source, source) and holds(v.destination, destination)]
            asked = (
                source.version == destination.version
                and holds(flow_.source, source)
                and holds(flow_.destination, destination)
            )
            assert said == ([first_match(rules, flow_, source, destination)] if asked else [])


# -- Whether two rules are the same ------------------------------------------------------------


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
def test_rules_are_the_same_by_what_they_mean(changes, is_same):
    existing = rule("R", 111, source=WORKERS, destination=WORKERS, ports="9000", protocol="Tcp")
    wanted_ = security_rule(*wanted(), 111)["properties"]
    del wanted_["description"]
    assert same(existing["properties"] | changes, wanted_) == is_same


def test_lists_are_sets_and_ids_have_no_case():
    def properties(prefixes: list[str], asg: str) -> dict:
        return rule(
            "R",
            1,
            sourceAddressPrefixes=prefixes,
            destinationApplicationSecurityGroups=[{"id": asg}],
        )["properties"]

    one = properties(["10.0.0.0/24", "10.0.1.0/24"], ASG["id"])
    assert same(one, properties(["10.0.1.0/24", "10.0.0.0/24"], ASG["id"].upper()))
    assert not same(one, properties(["10.0.1.0/24"], ASG["id"]))
    assert not same(one, properties(["10.0.1.0/24", "10.0.0.0/24"], ASG["id"] + "2"))
    assert not same(one, one | {"description": "wanted"})


# -- Which rules are wanted --------------------------------------------------------------------


def test_the_chapters_rule_as_az_makes_it():
    assert security_rule(*wanted(option("Allow-VXLAN-Internal")), 111) == {
        "name": "Allow-VXLAN-Internal",
        "properties": {
            "description": "osc.peerpods: port 9000/tcp between workers and peer pods",
            "protocol": "Tcp",
            "sourceAddressPrefix": WORKERS,
            "sourcePortRange": "*",
            "destinationAddressPrefix": WORKERS,
            "destinationPortRange": "9000",
            "access": "Allow",
            "priority": 111,
            "direction": "Inbound",
        },
    }


@pytest.mark.parametrize(
    ("changes", "properties"),
    [
        ({}, {"sourceAddressPrefixes": ["10.0.0.0/24", "10.0.1.0/24"]}),
        ({"source_address_prefixes": ["*"]}, {"sourceAddressPrefix": "*"}),
        (
            {"source_application_security_groups": [ASG["id"]]},
            {"sourceApplicationSecurityGroups": [ASG]},
        ),
        (
            {"source_address_prefixes": ["10.0.0.0/24"], "source_port_ranges": ["1", "2-3"]},
            {"sourceAddressPrefix": "10.0.0.0/24", "sourcePortRanges": ["1", "2-3"]},
        ),
        ({"description": "tunnel"}, {"description": "osc.peerpods: tunnel"}),
        (
            {"destination_port_ranges": ["1", "2"]},
            {"description": "osc.peerpods: traffic between workers and peer pods"},
        ),
    ],
)
def test_one_is_given_as_such_and_several_as_a_list(changes, properties):
    (rule_,) = wanted(option(**changes), workers=("10.0.0.0/24", "10.0.1.0/24"))
    body = security_rule(rule_, 111)["properties"]
    assert body.items() >= properties.items()
    kinds = {"sourceAddressPrefix", "sourceAddressPrefixes", "sourceApplicationSecurityGroups"}
    assert len(kinds & set(body)) == 1


BOTH = ("10.0.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("changes", "workers", "halves"),
    [
        ({}, BOTH, [("Ours", 111, "10.0.0.0/24"), ("Ours-IPv6", None, "fd00::/64")]),
        ({}, ("fd00::/64",), [("Ours", 111, "fd00::/64")]),
        (
            {"destination_address_prefixes": ["*"]},
            BOTH,
            [("Ours", 111, "10.0.0.0/24"), ("Ours-IPv6", None, "fd00::/64")],
        ),
        (
            {"destination_address_prefixes": ["fd00::/56"]},
            BOTH,
            [("Ours", 111, "fd00::/64")],
        ),
        ({"source_address_prefixes": ["10.0.0.7"]}, BOTH, [("Ours", 111, "10.0.0.7")]),
        (
            {"source_address_prefixes": ["VirtualNetwork"]},
            BOTH,
            [("Ours", 111, "VirtualNetwork"), ("Ours-IPv6", None, "VirtualNetwork")],
        ),
    ],
)
def test_a_rule_for_both_ip_families_is_two(changes, workers, halves):
    found = wanted(option(**changes), workers=workers)
    assert [(r.name, r.priority, security_rule(r, 1)["properties"]["sourceAddressPrefix"]) for r in found] == halves
    assert [r.twin_of for r in found] == [None, "Ours"][: len(halves)]


@pytest.mark.parametrize(
    "changes",
    [
        {f"{side}_application_security_groups": ["a"] for side in ("source", "destination")},
        {f"{side}_address_prefixes": ["*"] for side in ("source", "destination")},
    ],
)
def test_groups_and_tags_are_for_both_families_in_one_rule(changes):
    assert [r.name for r in wanted(option(**changes), workers=BOTH)] == ["Ours"]
    assert [r.name for r in wanted(option(**changes), workers=())] == ["Ours"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([option("-x")], "The rule -x has a name that Azure does not take"),
        ([option("x" * 81)], "has a name that Azure does not take"),
        ([option(priority=99)], "The rule Ours has the priority 99. Give one from 100 to 4096"),
        ([option(priority=4097)], "has the priority 4097"),
        ([option(ports="70000")], "has the ports 70000. Give ports from 0 to 65535"),
        ([option(ports="2-1")], "has the ports 2-1"),
        ([option(ports="http")], "has the ports http"),
        ([option(destination_port_ranges=["*", "1"])], "has the ports *, 1"),
        ([option(destination_port_ranges=[])], "has the ports none"),
        ([option(source_port_ranges=["x"])], "has the ports x"),
        ([option(source_address_prefixes=["10.0.0.1/24"])], "Give 10.0.0.0/24."),
        ([option(source_address_prefixes=["10.0.0.0/33"])], "prefix '10.0.0.0/33'. Give a CIDR"),
        ([option(source_address_prefixes=["10.0.0.0/24", "*"])], "has * beside other address"),
        ([option(description="x" * 127)], "a description of 127 characters. Give at most 126:"),
        (
            [option(destination_address_prefixes=["fd00::/64"])],
            "matches nothing: no IP family is in both its source (10.0.128.0/17) and its",
        ),
        (
            [option(source_address_prefixes=["*"], source_application_security_groups=["a"])],
            "has both source_address_prefixes and source_application_security_groups",
        ),
        ([option(), option("OURS", 112)], "Two rules are called OURS."),
        ([option(), option("B")], "Ours and B both have the priority 111 and the direction"),
    ],
)
def test_rules_that_azure_would_refuse_are_refused_in_words(options, sentence):
    with pytest.raises(SecurityRuleError) as error:
        wanted(*options)
    assert sentence in str(error.value)


def test_the_same_priority_in_the_other_direction_is_fine():
    assert len(wanted(option(), option("B", direction="Outbound"))) == 2


# -- What is left to do ------------------------------------------------------------------------


def summary(plan: Plan) -> dict:
    """The plan in short, without what is empty."""
    full = {
        "created": {body["name"]: body["properties"]["priority"] for body in plan.created},
        "updated": {body["name"]: body["properties"]["priority"] for _, body in plan.updated},
        "unchanged": plan.unchanged,
        "covered": dict(plan.covered),
        "shadowed": dict(plan.shadowed),
    }
    return {key: value for key, value in full.items() if value}


A, B = wanted(option("A", 111, "9000"), option("B", 112, "15150"))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], {"covered": dict.fromkeys("AB", "AllowVnetInBound (65000)")}),
        ([DENY_VNET], {"created": {"A": 111, "B": 112}}),
        (
            [DENY_VNET, rule("Other", 300, ports="9000")],
            {"created": {"B": 112}, "covered": {"A": "Other (300)"}},
        ),
        (
            [
                DENY_VNET,
                rule("High", 300, ports="9000", source="10.0.128.0/18"),
                rule("Low", 200, ports="9000-15150", source="10.0.192.0/18"),
            ],
            {"created": {"B": 112}, "covered": {"A": "Low (200) and High (300)"}},
        ),
        (
            [DENY_VNET, rule("Half", 300, ports="9000", source="10.0.128.0/18")],
            {"created": {"A": 111, "B": 112}},
        ),
        (
            [DENY_VNET, rule("Some", 300, sourceApplicationSecurityGroups=[ASG])],
            {"created": {"A": 111, "B": 112}},
        ),
        ([DENY_VNET, stored(A), stored(B)], {"unchanged": ("A", "B")}),
        # Ours that are there stay, whatever else would let the traffic through.
        ([stored(A)], {"unchanged": ("A",), "covered": {"B": "AllowVnetInBound (65000)"}}),
        ([DENY_VNET, stored(A, 4000), stored(B)], {"updated": {"A": 111}, "unchanged": ("B",)}),
        ([DENY_VNET, stored(A, 112), stored(B, 111)], {"updated": {"A": 111, "B": 112}}),
        (
            [DENY_VNET, stored(A, protocol="Udp"), stored(B)],
            {"updated": {"A": 111}, "unchanged": ("B",)},
        ),
        # A priority that is taken: the next free one, and there it stays.
        ([DENY_VNET, rule("X", 111, ports="1")], {"created": {"A": 113, "B": 112}}),
        (
            [DENY_VNET, rule("X", 111, ports="1", direction="outbound")],
            {"created": {"A": 111, "B": 112}},
        ),
        (
            [
                DENY_VNET,
                rule("X", 111, ports="1"),
                rule("Y", 113, ports="1"),
                rule("Z", 112, ports="1"),
            ],
            {"created": {"A": 114, "B": 115}},
        ),
        (
            [DENY_VNET, rule("X", 111, ports="1"), stored(A, 200), stored(B)],
            {"unchanged": ("A", "B")},
        ),
        (
            [DENY_VNET, rule("X", 111, ports="1"), stored(A, 112), stored(B, 113)],
            {"updated": {"A": 113, "B": 112}},
        ),
    ],
)
def test_what_a_group_lacks(rules, expected):
    assert summary(plan_present(nsg(*rules), [A, B], VNET)) == expected


def test_when_covered_ensure_makes_the_rule_all_the_same():
    plan = plan_present(nsg(), [A], VNET, when_covered="ensure")
    assert summary(plan) == {"created": {"A": 111}}


def test_an_unneeded_deny_is_one_whose_traffic_is_denied_already():
    (deny,) = wanted(option("D", 111, access="Deny"))
    assert summary(plan_present(nsg(), [deny], VNET)) == {"created": {"D": 111}}
    assert summary(plan_present(nsg(DENY_VNET), [deny], VNET)) == {"covered": {"D": "DenyVnet (4096)"}}


@pytest.mark.parametrize("other", [[], [rule("Other", 300, ports="9000")]])
@pytest.mark.parametrize("there", [False, True])
def test_what_another_wanted_rule_would_take_away_is_not_covered(other, there):
    rules = wanted(option("A", 111), option("D", 4000, "*", protocol="*", access="Deny"))
    group = nsg(*other, *[stored(rules[1])] * there)
    plan = plan_present(group, rules, VNET, when_shadowed="warn")
    assert [body["name"] for body in plan.created] == ["A", "D"][: 2 - there]


@pytest.mark.parametrize(
    ("rules", "is_covered"),
    [
        ([], True),
        ([DENY_VNET], False),
        ([DENY_VNET, rule("Other", 300, ports="9000")], False),
        ([DENY_VNET, rule("Other", 300, ports="9000-9001"), rule("X", 301, ports="9002")], True),
        ([rule("D", 300, "Deny", ports="9001", protocol="Esp")], False),
    ],
)
def test_every_port_and_protocol_of_a_rule_has_to_be_covered(rules, is_covered):
    (wide,) = wanted(option("W", 111, "9000-9002", protocol="*"))
    plan = plan_present(nsg(*rules), [wide], VNET)
    assert (bool(plan.covered), bool(plan.created)) == (is_covered, not is_covered)


@pytest.mark.parametrize(
    ("taken", "priority_range", "given_"),
    [
        ([111], (100, 4096), 112),
        ([111, 112, 113], (100, 4096), 114),
        ([111], (200, 300), 200),
        ([111], (100, 111), 100),
        ([111, 100], (100, 111), 101),
        ([111], (100, 105), 100),
    ],
)
def test_the_next_free_priority_in_the_range(taken, priority_range, given_):
    group = nsg(*(rule(f"X{p}", p, ports="1") for p in taken))
    plan = plan_present(group, [A], VNET, when_covered="ensure", priority_range=priority_range)
    assert summary(plan) == {"created": {"A": given_}}
    assert plan.moved == (Move("A", 111, given_, "X111"),)


def test_a_priority_that_is_taken_fails_if_asked_or_if_none_is_free():
    group = nsg(rule("X", 111, ports="1"))
    with pytest.raises(SecurityRuleError) as error:
        plan_present(group, [A], VNET, when_covered="ensure", priority_taken="fail")
    assert str(error.value) == (
        f"A is to have the priority 111 in {NSG_ID}, which X has. Give it another priority, 112 "
        "would do, or set priority_taken: move."
    )
    with pytest.raises(SecurityRuleError, match="No priority from 111 to 111 is free for A: "):
        plan_present(group, [A], VNET, when_covered="ensure", priority_range=(111, 111))


def test_the_ipv6_half_comes_after_the_other():
    rules = wanted(option("A"), option("B", 112), workers=BOTH)
    first = plan_present(nsg(DENY_VNET), rules, VNET)
    assert summary(first) == {"created": {"A": 111, "A-IPv6": 113, "B": 112, "B-IPv6": 114}}
    assert first.moved == ()
    group = nsg(DENY_VNET, *(stored(r, p) for r, p in zip(rules, (111, 113, 112, 114), strict=True)))
    assert not plan_present(group, rules, VNET).changes
    taken = nsg(DENY_VNET, rule("X", 111, ports="1"), stored(rules[0], 500))
    assert summary(plan_present(taken, rules[:2], VNET)) == {
        "created": {"A-IPv6": 501},
        "unchanged": ("A",),
    }


def test_only_the_half_that_something_denies_is_needed():
    rules = wanted(option("A"), workers=BOTH)
    plan = plan_present(nsg(rule("D", 4096, "Deny", source="::/0")), rules, VNET)
    assert summary(plan) == {
        "created": {"A-IPv6": 112},
        "covered": {"A": "AllowVnetInBound (65000)"},
    }


@pytest.mark.parametrize(
    ("properties", "by"),
    [
        ({}, "D (100) denies 10.0.128.0/17 → 10.0.128.0/17 on 9000/tcp"),
        ({"source": "10.0.192.0/18"}, "D (100) denies 10.0.192.0/18 → 10.0.128.0/17 on 9000/tcp"),
        (
            {"sourceApplicationSecurityGroups": [ASG]},
            "D (100) denies some of 10.0.128.0/17 → 10.0.128.0/17 on 9000/tcp",
        ),
        ({"ports": "9001"}, None),
        ({"source": "10.0.0.0/17"}, None),
        ({"protocol": "Udp"}, None),
        ({"access": "Allow"}, None),
        ({"priority": 112}, None),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_who_shadows_our_rule(properties, by, there):
    group = nsg(rule("D", **{"priority": 100, "access": "Deny"} | properties), *[stored(A)] * there)
    plan = plan_present(group, [A], VNET, when_covered="ensure", when_shadowed="warn")
    assert plan.shadowed == ((("A", by),) if by else ())


def test_what_is_decided_after_ours_does_not_shadow_it():
    ours = wanted(option("A", source_application_security_groups=[ASG["id"]]))
    assert summary(plan_present(nsg(DENY_VNET), ours, VNET)) == {"created": {"A": 111}}


@pytest.mark.parametrize(
    ("priorities", "advice"),
    [
        ([110], "or give A a smaller one (109 would do)."),
        ([110, 109], "or give A a smaller one (108 would do)."),
        ([100], "or make room below 100, where no priority is free."),
    ],
)
def test_a_shadow_fails_and_says_what_to_do(priorities, advice):
    group = nsg(*(rule(f"D{p}", p, "Deny") for p in priorities))
    with pytest.raises(SecurityRuleError) as error:
        plan_present(group, [A], VNET)
    first = f"D{min(priorities)}"
    assert str(error.value) == (
        f"A (111) would come too late in {NSG_ID}: {first} ({min(priorities)}) denies "
        f"{WORKERS} → {WORKERS} on 9000/tcp. Move {first} to a larger priority number, {advice} "
        "With when_shadowed: warn the rules are written all the same."
    )


@pytest.mark.parametrize("taken", [[150], [150, 149], [150, 148], [150, 147]])
@pytest.mark.parametrize("denied", ["*", "::/0"])
@pytest.mark.parametrize("there", [False, True])
def test_the_priority_that_would_do_does_for_both_halves(taken, denied, there):
    def ours(priority: int) -> tuple[WantedRule, ...]:
        return wanted(option("A", priority), workers=BOTH)

    group = nsg(
        rule("D", 150, "Deny", source=denied),
        *(rule(f"X{p}", p, ports="1") for p in taken[1:]),
        *[stored(half, p) for half, p in zip(ours(200), (200, 201), strict=True)] * there,
    )
    with pytest.raises(SecurityRuleError) as error:
        plan_present(group, ours(200), VNET)
    (would_do,) = re.findall(r"give A a smaller one \((\d+) would do\)", str(error.value))
    assert plan_present(group, ours(int(would_do)), VNET).changes


def test_a_wanted_rule_before_another_is_meant():
    rules = wanted(option("D", 110, access="Deny", source_address_prefixes=["10.0.128.0/24"]), option("A"))
    assert summary(plan_present(nsg(), rules, VNET)) == {"created": {"D": 110, "A": 111}}


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        (None, None, None),
        ("by hand", None, "by hand"),
        ("osc.peerpods: old", None, A.full_description),
        ("osc.peerpods: old", "new", "osc.peerpods: new"),
        (None, "new", "osc.peerpods: new"),
        ("by hand", "new", "osc.peerpods: new"),
    ],
)
@pytest.mark.parametrize("differs", [False, True])
def test_whose_description_stays(before, asked, after, differs):
    there = stored(A, protocol="Udp" if differs else "Tcp", unknown="kept")
    there["properties"]["description"] = before
    plan = plan_present(nsg(there), wanted(option("A", description=asked)), VNET)
    if differs or before != after:
        ((_, body),) = plan.updated
        assert body["properties"].get("description") == after
        assert (body["properties"]["unknown"], body["etag"]) == ("kept", there["etag"])
    else:
        assert plan.unchanged == ("A",)


def test_an_updated_rule_has_nothing_left_of_what_it_was_about():
    there = stored(A, sourceAddressPrefixes=["1.2.3.4"], sourceAddressPrefix="", sourcePortRanges=[])
    ((_, body),) = plan_present(nsg(there), [A], VNET).updated
    assert body["properties"] == security_rule(A, 111)["properties"]


@pytest.mark.parametrize(
    ("rule_", "removed", "because"),
    [
        (stored(A), True, None),
        (stored(A, 4000, protocol="Udp", description="osc.peerpods: x"), True, None),
        (stored(A) | {"name": "a-ipv6"}, True, None),
        (stored(A) | {"name": "B"}, False, None),
        (
            stored(A, description="by hand"),
            False,
            "a description of ours begins with 'osc.peerpods:', its description is 'by hand'",
        ),
        (
            stored(A, description=None),
            False,
            "a description of ours begins with 'osc.peerpods:', it has none",
        ),
    ],
)
def test_absent_removes_ours_alone(rule_, removed, because):
    plan = plan_absent(nsg(rule_, DENY_VNET), ["A"])
    assert plan.removed == ((rule_,) if removed else ())
    assert plan.kept == (((rule_["name"], because),) if because else ())
    assert plan.changes == removed


def test_the_group_as_it_is_put():
    there, gone = stored(A, protocol="Udp"), stored(B)
    group = nsg(DENY_VNET, there, gone)
    plan = Plan(
        NSG_ID,
        created=(security_rule(A, 200) | {"name": "New"},),
        updated=((there, stored(A)),),
        removed=(gone,),
    )
    body = apply_to(group, plan)
    assert set(body) == {"location", "tags", "properties"}
    assert set(body["properties"]) == {"flushConnection", "securityRules"}
    names = [r["name"] for r in body["properties"]["securityRules"]]
    assert names == ["DenyVnet", "A", "New"]
    for rule_ in body["properties"]["securityRules"]:
        assert set(rule_) == {"name", "properties"}
        assert "provisioningState" not in rule_["properties"]
    assert body["properties"]["securityRules"][1]["properties"]["protocol"] == "Tcp"
    assert group == nsg(DENY_VNET, there, gone)


def test_a_single_change_is_about_its_rule_alone():
    there = stored(A, protocol="Udp")
    body = {"name": "A", "properties": security_rule(A, 111)["properties"]}
    assert single_change(Plan(NSG_ID)) is None
    assert single_change(Plan(NSG_ID, created=(body,))) == ("A", body)
    assert single_change(Plan(NSG_ID, updated=((there, stored(A)),))) == ("A", body)
    assert single_change(Plan(NSG_ID, removed=(there,))) == ("A", None)
    assert single_change(Plan(NSG_ID, created=(body,), removed=(there,))) is None


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"created": ("A",)}, "securityRules/write"),
        ({"updated": ("A",)}, "securityRules/write"),
        ({"removed": ("A",)}, "securityRules/delete"),
        ({"created": ("A", "B")}, "write"),
        ({"created": ("A",), "updated": ("B",)}, "write"),
        ({"removed": ("A", "B")}, "write"),
    ],
)
def test_the_action_that_a_plan_needs_is_that_of_its_one_request(changes, action):
    rules = {"A": stored(A), "B": stored(B)}
    plan = {kind: tuple(rules[name] for name in names) for kind, names in changes.items()}
    if "updated" in plan:
        plan["updated"] = tuple((rule_, rule_) for rule_ in plan["updated"])
    needed = needed_action(Plan(NSG_ID, **plan))
    assert needed == f"Microsoft.Network/networkSecurityGroups/{action}"


def test_the_diff():
    line = f"A 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9000"
    there = stored(B, protocol="Udp", sourceApplicationSecurityGroups=[ASG])
    plan = plan_present(nsg(DENY_VNET, there), [A, B], VNET)
    assert diff_of(plan) == {
        "before_header": NSG_ID,
        "after_header": NSG_ID,
        "before": f"B 112 Inbound Allow Udp workers:* → {WORKERS}:15150\n",
        "after": f"{line}\nB 112 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:15150\n",
    }
    assert diff_of(plan_absent(nsg(stored(A)), ["A"]))["before"] == f"{line}\n"
    described = plan_present(nsg(stored(A)), wanted(option("A", description="new")), VNET)
    assert diff_of(described)["before"] == f"{line} '{A.full_description}'\n"
    assert diff_of(described)["after"] == f"{line} 'osc.peerpods: new'\n"


# Names of ours and of others, in few priorities, so that all of it happens.
OUR_NAMES = ["A", "B", "C"]
group_rules = rule_lists.flatmap(
    lambda rules: st.permutations(["A", "B", "a-ipv6", *"WXYZ"]).map(
        lambda names: [{**rule_, "name": name} for rule_, name in zip(rules, names, strict=False)]
    )
)
our_options = st.lists(
    st.builds(
        lambda priority, access, protocol, ports, source: {
            "priority": priority,
            "access": access,
            "protocol": protocol,
            "destination_port_ranges": [ports],
            "source_address_prefixes": source,
        },
        st.integers(100, 107),
        st.sampled_from(["Allow", "Allow", "Deny"]),
        st.sampled_from(["Tcp", "*"]),
        st.sampled_from(["1", "2-3", "*"]),
        st.sampled_from([None, ["*"], ["10.0.0.0/31"]]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda changes: changes["priority"],
).map(lambda all_: [option(name, **changes) for name, changes in zip(OUR_NAMES, all_, strict=False)])
ways = st.fixed_dictionaries(
    {
        "when_covered": st.sampled_from(["skip", "ensure"]),
        "priority_range": st.sampled_from([(100, 4096), (103, 120)]),
    }
)


def written(group: dict, plan: Plan) -> dict:
    """The group as ARM has it after the PUT."""
    return group | {"properties": {**group["properties"], **apply_to(group, plan)["properties"]}}


@given(group_rules, our_options, ways)
def test_a_second_plan_changes_nothing(rules, options, ways):
    group = nsg(*rules)
    ours = wanted(*options, workers=("10.0.0.0/31", "fd00::/128"))
    plan = plan_present(group, ours, SPACE, when_shadowed="warn", **ways)
    after = written(group, plan)
    again = plan_present(after, ours, SPACE, when_shadowed="warn", **ways)
    assert not again.changes
    assert (again.covered, again.shadowed, again.moved) == (
        plan.covered,
        plan.shadowed,
        plan.moved,
    )

    places = [(r["properties"]["direction"], r["properties"]["priority"]) for r in after["properties"]["securityRules"]]
    assert len(places) == len(set(places))

    def of_others(rules_: list[dict]) -> list[dict]:
        names = {r.name.lower() for r in ours}
        return [r["properties"] | {"provisioningState": None} for r in rules_ if r["name"].lower() not in names]

    assert of_others(after["properties"]["securityRules"]) == of_others(rules)


@given(group_rules, our_options, ways)
def test_what_is_wanted_comes_true_unless_it_is_said_to_be_shadowed(rules, options, ways):
    """The oracle: every pair of addresses of a wanted rule, against its own access."""
    group = nsg(*rules)
    ours = wanted(*options, workers=("10.0.0.0/31", "fd00::/128"))
    plan = plan_present(group, ours, SPACE, when_shadowed="warn", **ways)
    after = rules_of(written(group, plan))
    access = {r["name"]: r["properties"]["access"] for r in after} | {"no rule": "Deny"}
    names = {r.name.lower() for r in ours}
    for rule_ in ours:
        ports = [port for port in (1, 2, 3, 4) if in_ports(port, rule_.destination.port_ranges)]
        deciding = {
            first_match(after, Flow("Inbound", protocol, port, (), ()), source, destination)
            for source, destination in PAIRS
            if holds(rule_.source.prefixes, source) and holds(rule_.destination.prefixes, destination)
            for port in ports
            for protocol in (["Tcp", "Udp", "Icmp"] if rule_.protocol == "*" else ["Tcp"])
        }
        wrong = {name for name in deciding if access[name] != rule_.access}
        said = dict(plan.shadowed).get(rule_.name, "")
        assert {name for name in wrong if name.lower() not in names} == {
            part.split(" (")[0] for part in said.split("; ") if part
        }
