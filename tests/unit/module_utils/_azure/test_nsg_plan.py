"""The plans of nsg_rules: as tables, and compared with brute force on small address spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    Flow,
    Path,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    DesiredRule,
    Move,
    Plan,
    SecurityRuleError,
    apply_to,
    changes_between,
    describe_rule,
    desired_rules,
    diff_of,
    needed_action,
    plan_absent,
    plan_present,
    security_rule,
    single_change,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.module_utils._azure.rules import (
    ASG,
    DENY_VNET,
    NSG_ID,
    OTHER_CLUSTER,
    OWNER,
    SPACE,
    WORKERS,
    WORLD,
    contains,
    desired,
    first_match,
    in_ports,
    listed,
    nsg,
    option,
    rule,
    rule_lists,
)


def present(group: dict, rules: Sequence[DesiredRule], **options: object) -> Plan:
    return plan_present(group, rules, OWNER, **options)


def stored(desired_rule: DesiredRule, priority: int | None = None, **changes: object) -> dict:
    """A rule of the module as ARM stores it."""
    body = security_rule(desired_rule, priority or desired_rule.priority)
    return rule(body["name"], 0) | {"properties": body["properties"] | changes}


PAIRS = [(s, d) for s in WORLD for d in WORLD if s.version == d.version]


def test_the_documented_rule_is_equal_to_the_rule_of_az():
    assert security_rule(*listed(option("Allow-VXLAN-Internal")), 111) == {
        "name": "Allow-VXLAN-Internal-c",
        "properties": {
            "description": "osc.peerpods id-1: port 9000/tcp between workers and peer pods",
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
        ({"description": "tunnel"}, {"description": "osc.peerpods id-1: tunnel"}),
        (
            {"destination_port_ranges": ["1", "2"]},
            {"description": "osc.peerpods id-1: traffic between workers and peer pods"},
        ),
    ],
)
def test_a_single_value_is_a_string_and_several_are_a_list(changes, properties):
    (desired_rule,) = listed(option(**changes), workers=("10.0.0.0/24", "10.0.1.0/24"))
    body = security_rule(desired_rule, 111)["properties"]
    assert body.items() >= properties.items()
    kinds = {"sourceAddressPrefix", "sourceAddressPrefixes", "sourceApplicationSecurityGroups"}
    assert len(kinds & set(body)) == 1


DUAL_STACK = ("10.0.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("changes", "workers", "halves"),
    [
        ({}, DUAL_STACK, [("Ours-c", 111, "10.0.0.0/24"), ("Ours-IPv6-c", None, "fd00::/64")]),
        ({}, ("fd00::/64",), [("Ours-c", 111, "fd00::/64")]),
        (
            {"destination_address_prefixes": ["*"]},
            DUAL_STACK,
            [("Ours-c", 111, "10.0.0.0/24"), ("Ours-IPv6-c", None, "fd00::/64")],
        ),
        (
            {"destination_address_prefixes": ["fd00::/56"]},
            DUAL_STACK,
            [("Ours-c", 111, "fd00::/64")],
        ),
        ({"source_address_prefixes": ["10.0.0.7"]}, DUAL_STACK, [("Ours-c", 111, "10.0.0.7")]),
        (
            {"source_address_prefixes": ["VirtualNetwork"]},
            DUAL_STACK,
            [("Ours-c", 111, "VirtualNetwork"), ("Ours-IPv6-c", None, "VirtualNetwork")],
        ),
    ],
)
def test_a_rule_for_both_ip_families_becomes_two_rules(changes, workers, halves):
    rules = listed(option(**changes), workers=workers)
    assert [(r.name, r.priority, security_rule(r, 1)["properties"]["sourceAddressPrefix"]) for r in rules] == halves
    assert {r.option for r in rules} == {"Ours"}


@pytest.mark.parametrize(
    "changes",
    [
        {f"{side}_application_security_groups": ["a"] for side in ("source", "destination")},
        {f"{side}_address_prefixes": ["*"] for side in ("source", "destination")},
    ],
)
def test_groups_and_tags_cover_both_families_in_one_rule(changes):
    assert [r.name for r in listed(option(**changes), workers=DUAL_STACK)] == ["Ours-c"]
    assert [r.name for r in listed(option(**changes), workers=())] == ["Ours-c"]


POD_VMS = "10.0.2.0/24"
TO_VMS, BACK = f"{WORKERS} → {POD_VMS}", f"{POD_VMS} → {WORKERS}"
WITHIN = f"{WORKERS} → {WORKERS}"


@pytest.mark.parametrize(
    ("changes", "pod_vms", "expected"),
    [
        ({}, None, [("A-c", "Inbound", WITHIN), ("A-Outbound-c", "Outbound", WITHIN)]),
        ({"to": ["workers"]}, None, [("A-c", "Inbound", WITHIN), ("A-Outbound-c", "Outbound", WITHIN)]),
        ({"direction": "Outbound"}, None, [("A-c", "Outbound", WITHIN), ("A-Inbound-c", "Inbound", WITHIN)]),
        ({"access": "Deny"}, None, [("A-c", "Inbound", WITHIN)]),
        (
            {},
            (POD_VMS,),
            [
                ("A-c", "Inbound", TO_VMS),
                ("A-To-Workers-c", "Inbound", BACK),
                ("A-Outbound-c", "Outbound", TO_VMS),
                ("A-To-Workers-Outbound-c", "Outbound", BACK),
            ],
        ),
        ({"to": ["vms"]}, (POD_VMS,), [("A-c", "Inbound", TO_VMS), ("A-Outbound-c", "Outbound", TO_VMS)]),
        ({"to": ["workers"]}, (POD_VMS,), [("A-c", "Inbound", BACK), ("A-Outbound-c", "Outbound", BACK)]),
        # Addresses of the option: one rule, in its direction, between these and the two sets together.
        (
            {"source_address_prefixes": ["10.9.0.0/16"]},
            (POD_VMS,),
            [("A-c", "Inbound", f"10.9.0.0/16 → {POD_VMS},{WORKERS}")],
        ),
    ],
)
def test_the_rules_of_an_option(changes, pod_vms, expected):
    rules = desired(option("A", **changes), pod_vms=pod_vms)
    assert [
        (r.name, r.direction, f"{','.join(r.source.prefixes)} → {','.join(r.destination.prefixes)}") for r in rules
    ] == expected
    assert [r.priority for r in rules] == [111, *[None] * (len(rules) - 1)]


def test_rules_between_two_sets_get_consecutive_priorities():
    rules = desired(option("A"), option("B", 112, to=["vms"]), pod_vms=(POD_VMS,))
    group = nsg(DENY_VNET, rule("DenyOut", 4096, "Deny", source="VirtualNetwork", direction="Outbound"))
    plan = present(group, rules)
    assert summary(plan) == {
        "created": {
            "A": 111,
            "A-To-Workers": 113,
            "B": 112,
            "A-Outbound": 111,
            "A-To-Workers-Outbound": 112,
            "B-Outbound": 113,
        }
    }
    assert not present(written(group, plan), rules).changes


@pytest.mark.parametrize("on_covered", ["skip", "ensure"])
def test_the_other_direction_takes_a_rule_only_if_it_is_denied(on_covered):
    def created(*rules: dict, on_shadowed: str = "fail") -> dict:
        plan = present(nsg(*rules), desired(option("A")), on_covered=on_covered, on_shadowed=on_shadowed)
        return summary(plan).get("created", {})

    listed_rule = {"A": 111} if on_covered == "ensure" else {}
    deny_out = rule("DenyOut", 4000, "Deny", direction="Outbound")
    assert created() == listed_rule
    assert created(deny_out) == listed_rule | {"A-Outbound": 111}
    assert created(rule("DenyHigh", 4000, "Deny", direction="Outbound", ports="443")) == listed_rule
    with pytest.raises(SecurityRuleError, match=r"A-Outbound-c \(111\) would be shadowed .* DenyOut \(105\) denies"):
        created(rule("DenyOut", 105, "Deny", direction="Outbound"))
    # A rule that exists is kept, like one in the other direction.
    (_, outbound) = desired(option("A"))
    assert created(stored(outbound, 111)) == listed_rule


def test_prefixes_inside_of_others_are_left_out():
    """Azure rejects a rule with both, such as of two virtual networks with the same addresses."""
    (rule_of_all, _) = desired(workers=("10.0.1.0/24", "10.0.0.0/16", "10.1.0.0/16"))
    assert rule_of_all.source.prefixes == ("10.0.0.0/16", "10.1.0.0/16")


def test_a_group_in_two_virtual_networks_is_covered_only_if_it_is_in_both():
    """The tag VirtualNetwork stands for the addresses of the one in which the traffic is."""
    paths = [
        Path("vms", "Inbound", (prefix,), (prefix,), (space,))
        for prefix, space in (("10.0.1.0/24", "10.0.0.0/16"), ("10.8.1.0/24", "10.8.0.0/24"))
    ]
    rules = desired_rules([option("A")], paths, [], OWNER)
    assert rules[0].source.prefixes == ("10.0.1.0/24", "10.8.1.0/24")
    assert summary(present(nsg(), rules)) == {"created": {"A": 111}}
    peered = [replace(path, virtual_network=("10.0.0.0/16", "10.8.0.0/16")) for path in paths]
    assert not present(nsg(), desired_rules([option("A")], peered, [], OWNER)).changes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([option("-x")], "The rule -x-c has a name that Azure does not take"),
        ([option("x" * 79)], "has a name that Azure does not take"),
        ([option(priority=99)], "The rule Ours-c has the priority 99. Give one from 100 to 4096"),
        ([option(priority=4097)], "has the priority 4097"),
        ([option(ports="70000")], "has the ports 70000. Give ports from 0 to 65535"),
        ([option(ports="2-1")], "has the ports 2-1"),
        ([option(ports="http")], "has the ports http"),
        ([option(destination_port_ranges=["*", "1"])], "has the ports *, 1"),
        ([option(destination_port_ranges=[])], "has the ports none"),
        ([option(source_port_ranges=["x"])], "has the ports x"),
        ([option(source_address_prefixes=["10.0.0.1/24"])], "Give 10.0.0.0/24."),
        ([option(source_address_prefixes=["10.0.0.0/33"])], "prefix '10.0.0.0/33'. Give a CIDR"),
        ([option(source_address_prefixes=["10.0.0.0/24", "*"])], "has * and other address"),
        ([option(description="x" * 122)], "a description of 122 characters. Give at most 121:"),
        (
            [option(destination_address_prefixes=["fd00::/64"])],
            "matches nothing: no IP family is in both its source (10.0.128.0/17) and its",
        ),
        (
            [option(source_address_prefixes=["*"], source_application_security_groups=["a"])],
            "has both source_address_prefixes and source_application_security_groups",
        ),
        ([option(to=[])], "The rule Ours has an empty list as to. Set vms, workers, or both."),
        ([option(), option("OURS", 112)], "Two rules are called OURS-c."),
        ([option(), option("B")], "Ours and B both have the priority 111 and the direction"),
    ],
)
def test_invalid_rules_are_rejected_with_a_reason(options, sentence):
    with pytest.raises(SecurityRuleError) as error:
        desired(*options)
    assert sentence in str(error.value)


def test_the_same_priority_is_valid_in_the_other_direction():
    assert len(listed(option(), option("B", direction="Outbound"))) == 2


def without_cluster(name: str) -> str:
    return name.removesuffix("-c")


def summary(plan: Plan) -> dict:
    """The plan in short, without the name of the cluster and what is empty."""
    full = {
        "created": {without_cluster(body["name"]): body["properties"]["priority"] for body in plan.created},
        "updated": {without_cluster(body["name"]): body["properties"]["priority"] for _, body in plan.updated},
        "unchanged": tuple(map(without_cluster, plan.unchanged)),
        "covered": {without_cluster(name): by for name, by in plan.covered},
        "shadowed": {without_cluster(name): by for name, by in plan.shadowed},
    }
    return {key: value for key, value in full.items() if value}


A, B = listed(option("A", 111, "9000"), option("B", 112, "15150"))


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
        # Existing rules of the module stay, even if another rule allows the traffic.
        ([stored(A)], {"unchanged": ("A",), "covered": {"B": "AllowVnetInBound (65000)"}}),
        ([DENY_VNET, stored(A, 4000), stored(B)], {"updated": {"A": 111}, "unchanged": ("B",)}),
        ([DENY_VNET, stored(A, 112), stored(B, 111)], {"updated": {"A": 111, "B": 112}}),
        (
            [DENY_VNET, stored(A, protocol="Udp"), stored(B)],
            {"created": {"A-c-2": 113}, "unchanged": ("B",)},
        ),
        # A priority conflict: the rule gets the next free priority, and keeps it.
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
def test_missing_rules_are_created(rules, expected):
    assert summary(present(nsg(*rules), [A, B])) == expected


def test_on_covered_ensure_creates_a_covered_rule():
    plan = present(nsg(), [A], on_covered="ensure")
    assert summary(plan) == {"created": {"A": 111}}


def test_a_deny_rule_is_unneeded_only_if_its_traffic_is_denied_already():
    (deny,) = listed(option("D", 111, access="Deny"))
    assert summary(present(nsg(), [deny])) == {"created": {"D": 111}}
    assert summary(present(nsg(DENY_VNET), [deny])) == {"covered": {"D": "DenyVnet (4096)"}}


@pytest.mark.parametrize("other_rules", [[], [rule("Other", 300, ports="9000")]])
@pytest.mark.parametrize("is_stored", [False, True])
def test_traffic_that_another_desired_rule_would_deny_is_not_covered(other_rules, is_stored):
    rules = listed(option("A", 111), option("D", 4000, "*", protocol="*", access="Deny"))
    group = nsg(*other_rules, *[stored(rules[1])] * is_stored)
    plan = present(group, rules, on_shadowed="warn")
    assert [body["name"] for body in plan.created] == ["A-c", "D-c"][: 2 - is_stored]


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
def test_a_rule_is_covered_only_if_every_port_and_protocol_is(rules, is_covered):
    (wide,) = listed(option("W", 111, "9000-9002", protocol="*"))
    plan = present(nsg(*rules), [wide])
    assert (bool(plan.covered), bool(plan.created)) == (is_covered, not is_covered)


@pytest.mark.parametrize(
    ("taken", "priority_range", "expected"),
    [
        ([111], (100, 4096), 112),
        ([111, 112, 113], (100, 4096), 114),
        ([111], (200, 300), 200),
        ([111], (100, 111), 100),
        ([111, 100], (100, 111), 101),
        ([111], (100, 105), 100),
    ],
)
def test_the_next_free_priority_of_the_range_is_used(taken, priority_range, expected):
    group = nsg(*(rule(f"X{p}", p, ports="1") for p in taken))
    plan = present(group, [A], on_covered="ensure", priority_range=priority_range)
    assert summary(plan) == {"created": {"A": expected}}
    assert plan.moved == (Move("A-c", 111, expected, "X111"),)


def test_a_priority_conflict_fails_if_requested_or_if_no_priority_is_free():
    group = nsg(rule("X", 111, ports="1"))
    with pytest.raises(SecurityRuleError) as error:
        present(group, [A], on_covered="ensure", on_priority_conflict="fail")
    assert str(error.value) == (
        f"Priority conflict in {NSG_ID}: A-c is set to the priority 111, which X has. Set another priority "
        "(such as 112), or set on_priority_conflict=move."
    )
    with pytest.raises(SecurityRuleError, match="No priority from 111 to 111 is free for A-c: "):
        present(group, [A], on_covered="ensure", priority_range=(111, 111))


def test_the_ipv6_rule_follows_the_ipv4_rule():
    rules = listed(option("A"), option("B", 112), workers=DUAL_STACK)
    first = present(nsg(DENY_VNET), rules)
    assert summary(first) == {"created": {"A": 111, "A-IPv6": 113, "B": 112, "B-IPv6": 114}}
    assert first.moved == ()
    group = nsg(DENY_VNET, *(stored(r, p) for r, p in zip(rules, (111, 113, 112, 114), strict=True)))
    assert not present(group, rules).changes
    taken = nsg(DENY_VNET, rule("X", 111, ports="1"), stored(rules[0], 500))
    assert summary(present(taken, rules[:2])) == {
        "created": {"A-IPv6": 501},
        "unchanged": ("A",),
    }


def test_only_the_rule_for_the_denied_ip_family_is_needed():
    rules = listed(option("A"), workers=DUAL_STACK)
    plan = present(nsg(rule("D", 4096, "Deny", source="::/0")), rules)
    assert summary(plan) == {
        "created": {"A-IPv6": 112},
        "covered": {"A": "AllowVnetInBound (65000)"},
    }


@pytest.mark.parametrize(
    ("properties", "reason"),
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
@pytest.mark.parametrize("is_stored", [False, True])
def test_the_shadowing_rule_is_found(properties, reason, is_stored):
    group = nsg(rule("D", **{"priority": 100, "access": "Deny"} | properties), *[stored(A)] * is_stored)
    plan = present(group, [A], on_covered="ensure", on_shadowed="warn")
    assert plan.shadowed == ((("A-c", reason),) if reason else ())


def test_a_later_rule_does_not_shadow():
    desired_list = listed(option("A", source_application_security_groups=[ASG["id"]]))
    assert summary(present(nsg(DENY_VNET), desired_list)) == {"created": {"A": 111}}


@pytest.mark.parametrize(
    ("priorities", "advice"),
    [
        ([110], "or set a smaller one for A (such as 109)."),
        ([110, 109], "or set a smaller one for A (such as 108)."),
        ([100], "or free a priority number below 100."),
    ],
)
def test_a_shadowed_rule_fails_with_advice(priorities, advice):
    group = nsg(*(rule(f"D{p}", p, "Deny") for p in priorities))
    with pytest.raises(SecurityRuleError) as error:
        present(group, [A])
    first = f"D{min(priorities)}"
    assert str(error.value) == (
        f"A-c (111) would be shadowed in {NSG_ID}: {first} ({min(priorities)}) denies "
        f"{WORKERS} → {WORKERS} on 9000/tcp. Move {first} to a larger priority number, {advice} "
        "With on_shadowed=warn the rules are written anyway."
    )


@pytest.mark.parametrize("taken", [[150], [150, 149], [150, 148], [150, 147]])
@pytest.mark.parametrize("denied", ["*", "::/0"])
@pytest.mark.parametrize("is_stored", [False, True])
def test_the_suggested_priority_fits_the_rules_of_both_ip_families(taken, denied, is_stored):
    def rules_of_both(priority: int) -> tuple[DesiredRule, ...]:
        return listed(option("A", priority), workers=DUAL_STACK)

    group = nsg(
        rule("D", 150, "Deny", source=denied),
        *(rule(f"X{p}", p, ports="1") for p in taken[1:]),
        *[stored(half, p) for half, p in zip(rules_of_both(200), (200, 201), strict=True)] * is_stored,
    )
    with pytest.raises(SecurityRuleError) as error:
        present(group, rules_of_both(200))
    (suggested,) = re.findall(r"set a smaller one for A \(such as (\d+)\)", str(error.value))
    assert present(group, rules_of_both(int(suggested))).changes


def test_a_desired_rule_may_precede_another_desired_rule():
    rules = listed(option("D", 110, access="Deny", source_address_prefixes=["10.0.128.0/24"]), option("A"))
    assert summary(present(nsg(), rules)) == {"created": {"D": 110, "A": 111}}


@pytest.mark.parametrize(
    ("before", "requested", "after"),
    [
        (A.full_description, None, A.full_description),
        ("osc.peerpods id-1: old", None, A.full_description),
        ("osc.peerpods id-1: old", "new", "osc.peerpods id-1: new"),
        ("osc.peerpods id-1: new", "new", "osc.peerpods id-1: new"),
    ],
)
@pytest.mark.parametrize("differs", [False, True])
def test_the_description_of_a_managed_rule_is_the_requested_one(before, requested, after, differs):
    existing = stored(A, protocol="Udp" if differs else "Tcp", unknown="kept")
    existing["properties"]["description"] = before
    plan = present(nsg(existing), listed(option("A", description=requested)), purge_rules=True)
    if differs or before != after:
        ((_, body),) = plan.updated
        assert body["properties"].get("description") == after
        assert (body["properties"]["unknown"], body["etag"]) == ("kept", existing["etag"])
    else:
        assert plan.unchanged == ("A-c",)


TWO_SUBNETS = ("10.0.0.0/24", "10.0.1.0/24")


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        # What a running peer pod may use stays open: a port, a protocol, a direction, an address.
        (option("A", ports="9000"), option("A", ports="9100"), True),
        (option("A", ports="9000-9001"), option("A", ports="9000"), True),
        (option("A"), option("A", protocol="Udp"), True),
        (option("A", protocol="*"), option("A"), True),
        (option("A"), option("A", direction="Outbound"), True),
        (option("A"), option("A", access="Deny", ports="9100"), True),
        (option("A", source_address_prefixes=["1.2.3.4"]), option("A"), True),
        (option("A"), option("A", destination_address_prefixes=["10.0.128.7"]), True),
        (option("A"), option("A", source_port_ranges=["1024-65535"]), True),
        (option("A"), option("A", source_application_security_groups=[ASG["id"]]), True),
        (option("A", source_application_security_groups=[ASG["id"]]), option("A"), True),
        # A rule that allows at least as much replaces it.
        (option("A"), option("A", ports="9000-9100"), False),
        (option("A"), option("A", protocol="*"), False),
        (option("A"), option("A", source_address_prefixes=["*"]), False),
        (option("A", source_address_prefixes=["10.0.128.7"]), option("A"), False),
        (
            option("A", source_application_security_groups=[ASG["id"]]),
            option("A", source_address_prefixes=["*"]),
            False,
        ),
        # Denied traffic is requested, and a rule that denies traffic keeps nothing open.
        (option("A"), option("A", access="Deny"), False),
        (option("A", access="Deny"), option("A", ports="9100"), False),
        (option("A", access="Deny"), option("A", access="Deny", ports="9100"), False),
        # The traffic of another rule that is requested now.
        (option("A", ports="15150"), option("A"), False),
    ],
)
def test_traffic_that_a_rule_allows_is_closed_only_if_requested(before, after, is_kept):
    (rule_before,) = listed(before)
    existing = stored(rule_before)
    rules = listed(after, option("B", 112, ports="15150"))
    group = nsg(DENY_VNET, existing)
    plan = present(group, rules)
    assert [body["name"] for body, _ in plan.updated] == ([] if is_kept else ["A-c"])
    assert plan.unused == ((existing,) if is_kept else ())
    assert plan.removed == ()
    # A second run changes nothing, and still reports it.
    second_plan = present(written(group, plan), rules)
    assert not second_plan.changes
    assert [body["name"] for body in second_plan.unused] == ["A-c"] * is_kept
    # With purge_rules, one rule remains, with the name and the priority of the option.
    after_plan = written(group, plan)
    purged = present(after_plan, rules, purge_rules=True)
    stay = written(after_plan, purged)["properties"]["securityRules"]
    body = security_rule(rules[0], 111)
    assert [body["properties"] for body in stay if body["name"].startswith("A")] == [body["properties"]]
    assert not purged.unused
    assert present(group, rules, purge_rules=True).unused == ()


def test_a_rule_that_is_narrowed_stays_and_covers_the_requested_traffic():
    existing = stored(*listed(option("A"), workers=TWO_SUBNETS))
    group = nsg(rule("DenyVnet", 4096, "Deny"), existing)
    narrower = listed(option("A"), workers=TWO_SUBNETS[:1])
    plan = present(group, narrower)
    assert (plan.changes, plan.unused, plan.covered) == (False, (existing,), (("A-c-2", "A-c (111)"),))
    ((_, body),) = present(group, narrower, purge_rules=True).updated
    assert body["properties"] == security_rule(narrower[0], 111)["properties"]


def test_a_port_that_changes_back_and_forth_has_one_rule_for_each_value():
    ports = ["9000", "9100", "9000", "9200", "9100"]
    group, names = nsg(DENY_VNET), []
    for port in ports:
        rules = listed(option("A", ports=port))
        plan = present(group, rules, on_priority_conflict="fail")
        group = written(group, plan)
        names.append([body["name"] for body in plan.unused])
    assert names == [[], ["A-c"], ["A-c-2"], ["A-c", "A-c-2"], ["A-c", "A-c-3"]]
    stay = written(group, present(group, rules, purge_rules=True))["properties"]["securityRules"]
    assert [describe_rule(body) for body in stay[1:]] == [f"A-c 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9100"]


def test_a_rule_whose_traffic_another_rule_allows_is_removed_only_with_purge_rules():
    """Its traffic is requested, so it is not reported as traffic that is not."""
    group = nsg(DENY_VNET)
    for ports in (["9000"], ["9001"], ["9000", "9001"]):
        rules = listed(option("A", destination_port_ranges=ports))
        plan = present(group, rules)
        group = written(group, plan)
    assert plan.unused == ()
    narrower = present(group, listed(option("A", ports="9001")))
    assert ["9000" in describe_rule(body) for body in narrower.unused] == [True]
    assert [body["name"] for body in present(group, rules, purge_rules=True).removed] == ["A-c-2"]


def test_two_rules_that_exchange_their_ports_are_changed():
    exchanged = listed(option("A", ports="15150"), option("B", 112, "9000"))
    plan = present(nsg(DENY_VNET, stored(A), stored(B)), exchanged)
    assert summary(plan) == {"updated": {"A": 111, "B": 112}}
    assert plan.unused == ()


# The beginnings of descriptions of rules that a run for the cluster id-1 never changes: of another cluster, of an
# earlier release, of a person, of an id that begins in the same way.
NOT_OF_THE_CLUSTER = [
    "osc.peerpods id-2: x",
    "osc.peerpods: x",
    "osc.peerpods id-10: x",
    "osc.peerpods id-1",
    "by hand",
    "",
    None,
]


@pytest.mark.parametrize("description", NOT_OF_THE_CLUSTER)
@pytest.mark.parametrize("name", ["A", "A-c", "a-C"])
@pytest.mark.parametrize("allows_all", [False, True])
def test_a_rule_that_is_not_of_the_cluster_is_never_changed(name, description, allows_all):
    """Its name is not used for a second rule, and it is returned with the reason."""
    other = stored(A, 111, description=description, protocol="*" if allows_all else "Udp") | {"name": name}
    plan = present(nsg(DENY_VNET, other), [A])
    ((kept, reason),) = plan.kept
    actual = f"is {description!r}" if description else "is empty"
    assert (kept, reason) == (name, f"its description {actual} and does not begin with 'osc.peerpods id-1:'")
    assert not plan.updated
    assert not plan.removed
    # The rule of another cluster goes with that cluster, so it does not replace one of this cluster.
    if allows_all and description not in NOT_OF_THE_CLUSTER[:3]:
        assert not plan.created
    else:
        (created,) = plan.created
        assert created["name"] == ("A-c" if name == "A" else "A-c-2")
        assert created["properties"]["priority"] == 112
        after = nsg(DENY_VNET, other, rule(created["name"], 0) | created)
        assert not present(after, [A]).changes
    assert plan.renamed == ((("A-c", "A-c-2"),) if plan.created and name != "A" else ())

    absent = plan_absent(nsg(other), ["A"], OWNER)
    assert not absent.changes
    assert [kept for kept, _ in absent.kept] == ([] if name == "A" else [name])


def test_two_clusters_have_rules_of_their_own_in_one_group():
    """The second one gets the next free priorities, and the removal of one leaves the other as it is."""
    of_other = listed(option("A"), option("B", 112), owner=OTHER_CLUSTER)
    group = written(nsg(DENY_VNET), present(nsg(DENY_VNET), [A, B]))
    plan = plan_present(group, of_other, OTHER_CLUSTER)
    assert [(body["name"], body["properties"]["priority"]) for body in plan.created] == [("A-d", 113), ("B-d", 114)]
    both = written(group, plan)
    assert not present(both, [A, B]).changes
    assert not plan_present(both, of_other, OTHER_CLUSTER).changes
    without_first = written(both, plan_absent(both, ["A", "B"], OWNER))
    # The priorities that the option names are free again.
    assert summary(plan_present(without_first, of_other, OTHER_CLUSTER)) == {"updated": {"A-d": 111, "B-d": 112}}
    assert {r["name"] for r in without_first["properties"]["securityRules"]} == {"DenyVnet", "A-d", "B-d"}


def test_a_rule_keeps_its_name_when_the_cluster_of_the_same_name_is_gone():
    """Otherwise a changed option would leave the rule of before under that name."""
    namesake = replace(OTHER_CLUSTER, name=OWNER.name)
    group = written(nsg(DENY_VNET), present(nsg(DENY_VNET), [A]))
    both = written(group, plan_present(group, listed(option("A"), owner=namesake), namesake))
    alone = written(both, plan_absent(both, ["A"], OWNER))
    changed = plan_present(alone, listed(option("A", protocol="Udp"), owner=namesake), namesake, purge_rules=True)
    assert summary(changed) == {"updated": {"A-c-2": 111}}


def test_a_name_that_becomes_too_long_is_rejected():
    """The rule of another owner has the name, and with a number it has more than 80 characters."""
    suffix = max((rule.name.removeprefix("A") for rule in desired(option("A"))), key=len)
    rules = desired(option("A" * (80 - len(suffix))))
    (longest,) = (rule for rule in rules if len(rule.name) == 80)
    other = stored(longest, 111, description=None)
    with pytest.raises(SecurityRuleError, match=f"{suffix}-2 has a name that Azure does not take"):
        present(nsg(DENY_VNET, other), rules)


def test_a_rule_that_is_no_longer_required_is_named_or_removed():
    before, by_hand = stored(B, 300), rule("B", 301)
    group = nsg(DENY_VNET, stored(A), before, by_hand)
    plan = present(group, [A])
    assert (plan.unused, plan.removed, plan.changes) == ((before,), (), False)
    plan = present(group, [A], purge_rules=True)
    assert (plan.unused, plan.removed) == ((), (before,))
    # What is removed covers nothing, and its priority is free.
    wide = stored(A, 112) | {"name": "old"}
    plan = present(nsg(DENY_VNET, wide), [A, B], purge_rules=True)
    assert summary(plan) == {"created": {"A": 111, "B": 112}}
    assert plan.removed == (wide,)


def test_absent_removes_all_rules_of_the_cluster_whatever_their_names():
    owned = [stored(A), stored(B, 300, protocol="Udp", description="osc.peerpods id-1: x") | {"name": "renamed"}]
    by_hand = stored(A, 200, description=None) | {"name": "A"}
    plan = plan_absent(nsg(*owned, by_hand, DENY_VNET), ["A"], OWNER)
    assert plan.removed == tuple(owned)
    assert [name for name, _ in plan.kept] == ["A"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [stored(A)], {"created": {"A": 111}}),
        ([stored(A)], [], {"removed": ("A-c",)}),
        ([stored(A, 200)], [stored(A), stored(B)], {"created": {"B": 112}, "updated": {"A": 111}}),
        ([stored(A)], [stored(A, etag="new")], {"unchanged": ("A",)}),
        ([DENY_VNET], [rule("Other", 300)], {}),
    ],
)
def test_what_a_failed_request_changed_is_read_from_the_group(before, after, expected):
    plan = present(nsg(DENY_VNET, *before), [A])
    changed = changes_between(plan, nsg(*before), nsg(*after), OWNER)
    removed = tuple(removed_rule["name"] for removed_rule in changed.removed)
    assert summary(changed) | ({"removed": removed} if removed else {}) == expected


def test_the_group_is_written_with_all_changes():
    existing, removed = stored(A, protocol="Udp"), stored(B)
    group = nsg(DENY_VNET, existing, removed)
    plan = Plan(
        NSG_ID,
        created=(security_rule(A, 200) | {"name": "New"},),
        updated=((existing, stored(A)),),
        removed=(removed,),
    )
    body = apply_to(group, plan)
    assert set(body) == {"location", "tags", "properties"}
    assert set(body["properties"]) == {"flushConnection", "securityRules"}
    names = [r["name"] for r in body["properties"]["securityRules"]]
    assert names == ["DenyVnet", "A-c", "New"]
    for stored_rule in body["properties"]["securityRules"]:
        assert set(stored_rule) == {"name", "properties"}
        assert "provisioningState" not in stored_rule["properties"]
    assert body["properties"]["securityRules"][1]["properties"]["protocol"] == "Tcp"
    assert group == nsg(DENY_VNET, existing, removed)


def test_a_single_change_is_written_to_its_rule_only():
    existing = stored(A, protocol="Udp")
    body = {"name": "A-c", "properties": security_rule(A, 111)["properties"]}
    assert single_change(Plan(NSG_ID)) is None
    assert single_change(Plan(NSG_ID, created=(body,))) == ("A-c", body)
    assert single_change(Plan(NSG_ID, updated=((existing, stored(A)),))) == ("A-c", body)
    assert single_change(Plan(NSG_ID, removed=(existing,))) == ("A-c", None)
    assert single_change(Plan(NSG_ID, created=(body,), removed=(existing,))) is None


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
def test_a_plan_needs_the_permission_of_its_request(changes, action):
    rules = {"A": stored(A), "B": stored(B)}
    plan = {kind: tuple(rules[name] for name in names) for kind, names in changes.items()}
    if "updated" in plan:
        plan["updated"] = tuple((changed_rule, changed_rule) for changed_rule in plan["updated"])
    needed = needed_action(Plan(NSG_ID, **plan))
    assert needed == f"Microsoft.Network/networkSecurityGroups/{action}"


def test_the_diff():
    line = f"A-c 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9000"
    existing = stored(B, protocol="Udp", sourceApplicationSecurityGroups=[ASG])
    plan = present(nsg(DENY_VNET, existing), [A, B], purge_rules=True)
    assert diff_of(plan) == {
        "before_header": NSG_ID,
        "after_header": NSG_ID,
        "before": f"B-c 112 Inbound Allow Udp workers:* → {WORKERS}:15150\n",
        "after": f"{line}\nB-c 112 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:15150\n",
    }
    assert diff_of(plan_absent(nsg(stored(A)), ["A"], OWNER))["before"] == f"{line}\n"
    described = present(nsg(stored(A)), listed(option("A", description="new")))
    assert diff_of(described)["before"] == f"{line} '{A.full_description}'\n"
    assert diff_of(described)["after"] == f"{line} 'osc.peerpods id-1: new'\n"


# Names of the collection's and of other rules, with few priorities, so that conflicts are frequent.
OUR_NAMES = ["A", "B", "C"]
NAMES = ["A-c", "B-c", "a-ipv6-c", "A-Outbound-c", "B-To-Workers-c", "A-d", *"WXYZ"]
DESCRIPTIONS = [OWNER.mark + "x", OTHER_CLUSTER.mark + "x", "osc.peerpods: x", "by hand", None]
group_rules = rule_lists.flatmap(
    lambda rules: st.tuples(
        st.permutations(NAMES), st.lists(st.sampled_from(DESCRIPTIONS), min_size=len(rules), max_size=len(rules))
    ).map(
        lambda drawn: [
            {**drawn_rule, "name": name, "properties": {**drawn_rule["properties"], "description": description}}
            for drawn_rule, name, description in zip(rules, *drawn, strict=False)
        ]
    )
)
desired_options = st.lists(
    st.builds(
        lambda priority, access, direction, to, protocol, ports, source: {
            "priority": priority,
            "access": access,
            "direction": direction,
            "to": to,
            "protocol": protocol,
            "destination_port_ranges": [ports],
            "source_address_prefixes": source,
        },
        st.integers(100, 107),
        st.sampled_from(["Allow", "Allow", "Deny"]),
        st.sampled_from(["Inbound", "Inbound", "Outbound"]),
        st.sampled_from([["vms", "workers"], ["vms", "workers"], ["vms"]]),
        st.sampled_from(["Tcp", "*"]),
        st.sampled_from(["1", "2-3", "*"]),
        st.sampled_from([None, None, ["*"], ["10.0.0.0/31"]]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda changes: changes["priority"],
).map(lambda drawn: [option(name, **changes) for name, changes in zip(OUR_NAMES, drawn, strict=False)])
# The VMs of peer pods are with the workers, or in a subnet of their own, here without IPv6.
desired_rule_lists = st.tuples(desired_options, st.sampled_from([None, ("10.0.0.2/31",)])).map(
    lambda drawn: desired(*drawn[0], workers=("10.0.0.0/31", "fd00::/128"), pod_vms=drawn[1], space=SPACE)
)
ways = st.fixed_dictionaries(
    {
        "on_covered": st.sampled_from(["skip", "ensure"]),
        "priority_range": st.sampled_from([(100, 4096), (103, 120)]),
        "purge_rules": st.booleans(),
    }
)


def written(group: dict, plan: Plan) -> dict:
    """The group as ARM has it after the PUT."""
    return group | {"properties": {**group["properties"], **apply_to(group, plan)["properties"]}}


def without_state(rules: Iterable[dict]) -> list[dict]:
    return [{"name": r["name"], **r["properties"], "provisioningState": None} for r in rules]


@given(group_rules, desired_rule_lists, ways)
def test_a_second_plan_changes_nothing(rules, desired_list, ways):
    group = nsg(*rules)
    plan = present(group, desired_list, on_shadowed="warn", **ways)
    after = written(group, plan)
    second_plan = present(after, desired_list, on_shadowed="warn", **ways)
    assert not second_plan.changes
    assert [unused["name"] for unused in second_plan.unused] == [unused["name"] for unused in plan.unused]
    assert (second_plan.covered, second_plan.shadowed, second_plan.moved, second_plan.renamed) == (
        plan.covered,
        plan.shadowed,
        plan.moved,
        plan.renamed,
    )

    rules_after = after["properties"]["securityRules"]
    places = [(r["properties"]["direction"], r["properties"]["priority"]) for r in rules_after]
    assert len(places) == len(set(places))
    names = [r["name"].lower() for r in rules_after]
    assert len(names) == len(set(names))


@given(group_rules, desired_rule_lists, ways)
def test_only_rules_of_the_cluster_change(rules, desired_list, ways):
    group = nsg(*rules)
    after = written(group, present(group, desired_list, on_shadowed="warn", **ways))
    removed = written(after, plan_absent(after, OUR_NAMES, OWNER))
    others = without_state(r for r in rules if not OWNER.owns(r))
    for group_after in (after, removed):
        rules_after = group_after["properties"]["securityRules"]
        assert without_state(r for r in rules_after if not OWNER.owns(r)) == others
    assert len(removed["properties"]["securityRules"]) == len(others)


@given(group_rules, desired_rule_lists, ways)
def test_a_desired_rule_takes_effect_unless_it_is_reported_as_shadowed(rules, desired_list, ways):
    """The oracle: every pair of addresses of a desired rule, compared with the access of the rule.

    Also after the rules of other clusters that decide in the same way are gone.
    """
    group = nsg(*rules)
    plan = present(group, desired_list, on_shadowed="warn", **ways)
    after = rules_of(written(group, plan))
    access = {r["name"]: r["properties"]["access"] for r in after} | {"no rule": "Deny"}
    renamed = dict(plan.renamed)
    written_rules = [*plan.created, *(body for _, body in plan.updated)]
    names = {name.lower() for name in (*(body["name"] for body in written_rules), *plan.unchanged)}
    for desired_rule in desired_list:
        ports = [port for port in (1, 2, 3, 4) if in_ports(port, desired_rule.destination.port_ranges)]
        lasting = [
            r
            for r in after
            if r["properties"]["access"] != desired_rule.access
            or not OWNER.is_of_another(r)
            or r["name"].lower() in names
        ]
        wrong_now, wrong_later = (
            {
                name
                for name in {
                    first_match(considered, Flow(desired_rule.direction, protocol, port, (), ()), source, destination)
                    for source, destination in PAIRS
                    if contains(desired_rule.source.prefixes, source)
                    and contains(desired_rule.destination.prefixes, destination)
                    for port in ports
                    for protocol in (["Tcp", "Udp", "Icmp"] if desired_rule.protocol == "*" else ["Tcp"])
                }
                if access[name] != desired_rule.access and name.lower() not in names
            }
            for considered in (after, lasting)
        )
        shadowing_rule = dict(plan.shadowed).get(renamed.get(desired_rule.name, desired_rule.name), "")
        assert wrong_later == {part.split(" (")[0] for part in shadowing_rule.split("; ") if part}
        assert wrong_now <= wrong_later


@given(group_rules, desired_rule_lists, ways.filter(lambda drawn: not drawn["purge_rules"]))
def test_traffic_that_the_cluster_allowed_is_denied_only_by_a_requested_rule(rules, desired_list, ways):
    """The oracle: every pair of addresses that a rule of the cluster allowed."""
    group = nsg(*rules)
    try:
        plan = present(group, desired_list, **ways)
    except SecurityRuleError:
        return  # Nothing is changed.
    before, after = rules_of(group), rules_of(written(group, plan))
    own = {r["name"] for r in before if OWNER.owns(r) and r["properties"]["access"] == "Allow"}
    requested = {body["name"] for body in (*plan.created, *(body for _, body in plan.updated))} | set(plan.unchanged)
    denies = {r["name"] for r in after if r["properties"]["access"] == "Deny"} - requested
    for direction in ("Inbound", "Outbound"):
        for protocol in ("Tcp", "Udp"):
            for port in (1, 2, 4):
                flow = Flow(direction, protocol, port, (), ())
                for source, destination in PAIRS:
                    if first_match(before, flow, source, destination) in own:
                        assert first_match(after, flow, source, destination) not in {*denies, "no rule"}
