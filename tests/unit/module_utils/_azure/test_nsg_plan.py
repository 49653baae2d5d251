"""The plans of nsg_rules: as tables, and compared with brute force on small address spaces."""

from __future__ import annotations

import re

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    Flow,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    DesiredRule,
    Move,
    Plan,
    SecurityRuleError,
    apply_to,
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
    SPACE,
    VNET,
    WORKERS,
    WORLD,
    contains,
    desired,
    first_match,
    in_ports,
    nsg,
    option,
    rule,
    rule_lists,
)


def stored(desired_rule: DesiredRule, priority: int | None = None, **changes: object) -> dict:
    """A rule of the module as ARM stores it."""
    body = security_rule(desired_rule, priority or desired_rule.priority)
    return rule(body["name"], 0) | {"properties": body["properties"] | changes}


PAIRS = [(s, d) for s in WORLD for d in WORLD if s.version == d.version]


def test_the_documented_rule_is_equal_to_the_rule_of_az():
    assert security_rule(*desired(option("Allow-VXLAN-Internal")), 111) == {
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
def test_a_single_value_is_a_string_and_several_are_a_list(changes, properties):
    (desired_rule,) = desired(option(**changes), workers=("10.0.0.0/24", "10.0.1.0/24"))
    body = security_rule(desired_rule, 111)["properties"]
    assert body.items() >= properties.items()
    kinds = {"sourceAddressPrefix", "sourceAddressPrefixes", "sourceApplicationSecurityGroups"}
    assert len(kinds & set(body)) == 1


DUAL_STACK = ("10.0.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("changes", "workers", "halves"),
    [
        ({}, DUAL_STACK, [("Ours", 111, "10.0.0.0/24"), ("Ours-IPv6", None, "fd00::/64")]),
        ({}, ("fd00::/64",), [("Ours", 111, "fd00::/64")]),
        (
            {"destination_address_prefixes": ["*"]},
            DUAL_STACK,
            [("Ours", 111, "10.0.0.0/24"), ("Ours-IPv6", None, "fd00::/64")],
        ),
        (
            {"destination_address_prefixes": ["fd00::/56"]},
            DUAL_STACK,
            [("Ours", 111, "fd00::/64")],
        ),
        ({"source_address_prefixes": ["10.0.0.7"]}, DUAL_STACK, [("Ours", 111, "10.0.0.7")]),
        (
            {"source_address_prefixes": ["VirtualNetwork"]},
            DUAL_STACK,
            [("Ours", 111, "VirtualNetwork"), ("Ours-IPv6", None, "VirtualNetwork")],
        ),
    ],
)
def test_a_rule_for_both_ip_families_becomes_two_rules(changes, workers, halves):
    rules = desired(option(**changes), workers=workers)
    assert [(r.name, r.priority, security_rule(r, 1)["properties"]["sourceAddressPrefix"]) for r in rules] == halves
    assert [r.ipv4_half for r in rules] == [None, "Ours"][: len(halves)]


@pytest.mark.parametrize(
    "changes",
    [
        {f"{side}_application_security_groups": ["a"] for side in ("source", "destination")},
        {f"{side}_address_prefixes": ["*"] for side in ("source", "destination")},
    ],
)
def test_groups_and_tags_cover_both_families_in_one_rule(changes):
    assert [r.name for r in desired(option(**changes), workers=DUAL_STACK)] == ["Ours"]
    assert [r.name for r in desired(option(**changes), workers=())] == ["Ours"]


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
        ([option(source_address_prefixes=["10.0.0.0/24", "*"])], "has * and other address"),
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
def test_invalid_rules_are_rejected_with_a_reason(options, sentence):
    with pytest.raises(SecurityRuleError) as error:
        desired(*options)
    assert sentence in str(error.value)


def test_the_same_priority_is_valid_in_the_other_direction():
    assert len(desired(option(), option("B", direction="Outbound"))) == 2


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


A, B = desired(option("A", 111, "9000"), option("B", 112, "15150"))


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
            {"updated": {"A": 111}, "unchanged": ("B",)},
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
    assert summary(plan_present(nsg(*rules), [A, B], VNET)) == expected


def test_on_covered_ensure_creates_a_covered_rule():
    plan = plan_present(nsg(), [A], VNET, on_covered="ensure")
    assert summary(plan) == {"created": {"A": 111}}


def test_a_deny_rule_is_unneeded_only_if_its_traffic_is_denied_already():
    (deny,) = desired(option("D", 111, access="Deny"))
    assert summary(plan_present(nsg(), [deny], VNET)) == {"created": {"D": 111}}
    assert summary(plan_present(nsg(DENY_VNET), [deny], VNET)) == {"covered": {"D": "DenyVnet (4096)"}}


@pytest.mark.parametrize("other_rules", [[], [rule("Other", 300, ports="9000")]])
@pytest.mark.parametrize("is_stored", [False, True])
def test_traffic_that_another_desired_rule_would_deny_is_not_covered(other_rules, is_stored):
    rules = desired(option("A", 111), option("D", 4000, "*", protocol="*", access="Deny"))
    group = nsg(*other_rules, *[stored(rules[1])] * is_stored)
    plan = plan_present(group, rules, VNET, on_shadowed="warn")
    assert [body["name"] for body in plan.created] == ["A", "D"][: 2 - is_stored]


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
    (wide,) = desired(option("W", 111, "9000-9002", protocol="*"))
    plan = plan_present(nsg(*rules), [wide], VNET)
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
    plan = plan_present(group, [A], VNET, on_covered="ensure", priority_range=priority_range)
    assert summary(plan) == {"created": {"A": expected}}
    assert plan.moved == (Move("A", 111, expected, "X111"),)


def test_a_priority_conflict_fails_if_requested_or_if_no_priority_is_free():
    group = nsg(rule("X", 111, ports="1"))
    with pytest.raises(SecurityRuleError) as error:
        plan_present(group, [A], VNET, on_covered="ensure", on_priority_conflict="fail")
    assert str(error.value) == (
        f"Priority conflict in {NSG_ID}: A is set to the priority 111, which X has. Set another priority "
        "(such as 112), or set on_priority_conflict=move."
    )
    with pytest.raises(SecurityRuleError, match="No priority from 111 to 111 is free for A: "):
        plan_present(group, [A], VNET, on_covered="ensure", priority_range=(111, 111))


def test_the_ipv6_rule_follows_the_ipv4_rule():
    rules = desired(option("A"), option("B", 112), workers=DUAL_STACK)
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


def test_only_the_rule_for_the_denied_ip_family_is_needed():
    rules = desired(option("A"), workers=DUAL_STACK)
    plan = plan_present(nsg(rule("D", 4096, "Deny", source="::/0")), rules, VNET)
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
    plan = plan_present(group, [A], VNET, on_covered="ensure", on_shadowed="warn")
    assert plan.shadowed == ((("A", reason),) if reason else ())


def test_a_later_rule_does_not_shadow():
    desired_list = desired(option("A", source_application_security_groups=[ASG["id"]]))
    assert summary(plan_present(nsg(DENY_VNET), desired_list, VNET)) == {"created": {"A": 111}}


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
        plan_present(group, [A], VNET)
    first = f"D{min(priorities)}"
    assert str(error.value) == (
        f"A (111) would be shadowed in {NSG_ID}: {first} ({min(priorities)}) denies "
        f"{WORKERS} → {WORKERS} on 9000/tcp. Move {first} to a larger priority number, {advice} "
        "With on_shadowed=warn the rules are written anyway."
    )


@pytest.mark.parametrize("taken", [[150], [150, 149], [150, 148], [150, 147]])
@pytest.mark.parametrize("denied", ["*", "::/0"])
@pytest.mark.parametrize("is_stored", [False, True])
def test_the_suggested_priority_fits_the_rules_of_both_ip_families(taken, denied, is_stored):
    def rules_of_both(priority: int) -> tuple[DesiredRule, ...]:
        return desired(option("A", priority), workers=DUAL_STACK)

    group = nsg(
        rule("D", 150, "Deny", source=denied),
        *(rule(f"X{p}", p, ports="1") for p in taken[1:]),
        *[stored(half, p) for half, p in zip(rules_of_both(200), (200, 201), strict=True)] * is_stored,
    )
    with pytest.raises(SecurityRuleError) as error:
        plan_present(group, rules_of_both(200), VNET)
    (suggested,) = re.findall(r"set a smaller one for A \(such as (\d+)\)", str(error.value))
    assert plan_present(group, rules_of_both(int(suggested)), VNET).changes


def test_a_desired_rule_may_precede_another_desired_rule():
    rules = desired(option("D", 110, access="Deny", source_address_prefixes=["10.0.128.0/24"]), option("A"))
    assert summary(plan_present(nsg(), rules, VNET)) == {"created": {"D": 110, "A": 111}}


@pytest.mark.parametrize(
    ("before", "requested", "after"),
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
def test_a_description_is_changed_only_on_request(before, requested, after, differs):
    existing = stored(A, protocol="Udp" if differs else "Tcp", unknown="kept")
    existing["properties"]["description"] = before
    plan = plan_present(nsg(existing), desired(option("A", description=requested)), VNET)
    if differs or before != after:
        ((_, body),) = plan.updated
        assert body["properties"].get("description") == after
        assert (body["properties"]["unknown"], body["etag"]) == ("kept", existing["etag"])
    else:
        assert plan.unchanged == ("A",)


def test_an_updated_rule_keeps_no_former_source_or_port():
    existing = stored(A, sourceAddressPrefixes=["1.2.3.4"], sourceAddressPrefix="", sourcePortRanges=[])
    ((_, body),) = plan_present(nsg(existing), [A], VNET).updated
    assert body["properties"] == security_rule(A, 111)["properties"]


@pytest.mark.parametrize(
    ("existing", "removed", "reason"),
    [
        (stored(A), True, None),
        (stored(A, 4000, protocol="Udp", description="osc.peerpods: x"), True, None),
        (stored(A) | {"name": "a-ipv6"}, True, None),
        (stored(A) | {"name": "B"}, False, None),
        (
            stored(A, description="by hand"),
            False,
            "its description is 'by hand' and does not begin with 'osc.peerpods:'",
        ),
        (
            stored(A, description=None),
            False,
            "its description is empty and does not begin with 'osc.peerpods:'",
        ),
    ],
)
def test_absent_removes_only_rules_of_the_collection(existing, removed, reason):
    plan = plan_absent(nsg(existing, DENY_VNET), ["A"])
    assert plan.removed == ((existing,) if removed else ())
    assert plan.kept == (((existing["name"], reason),) if reason else ())
    assert plan.changes == removed


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
    assert names == ["DenyVnet", "A", "New"]
    for stored_rule in body["properties"]["securityRules"]:
        assert set(stored_rule) == {"name", "properties"}
        assert "provisioningState" not in stored_rule["properties"]
    assert body["properties"]["securityRules"][1]["properties"]["protocol"] == "Tcp"
    assert group == nsg(DENY_VNET, existing, removed)


def test_a_single_change_is_written_to_its_rule_only():
    existing = stored(A, protocol="Udp")
    body = {"name": "A", "properties": security_rule(A, 111)["properties"]}
    assert single_change(Plan(NSG_ID)) is None
    assert single_change(Plan(NSG_ID, created=(body,))) == ("A", body)
    assert single_change(Plan(NSG_ID, updated=((existing, stored(A)),))) == ("A", body)
    assert single_change(Plan(NSG_ID, removed=(existing,))) == ("A", None)
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
    line = f"A 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9000"
    existing = stored(B, protocol="Udp", sourceApplicationSecurityGroups=[ASG])
    plan = plan_present(nsg(DENY_VNET, existing), [A, B], VNET)
    assert diff_of(plan) == {
        "before_header": NSG_ID,
        "after_header": NSG_ID,
        "before": f"B 112 Inbound Allow Udp workers:* → {WORKERS}:15150\n",
        "after": f"{line}\nB 112 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:15150\n",
    }
    assert diff_of(plan_absent(nsg(stored(A)), ["A"]))["before"] == f"{line}\n"
    described = plan_present(nsg(stored(A)), desired(option("A", description="new")), VNET)
    assert diff_of(described)["before"] == f"{line} '{A.full_description}'\n"
    assert diff_of(described)["after"] == f"{line} 'osc.peerpods: new'\n"


# Names of the collection's and of other rules, with few priorities, so that conflicts are frequent.
OUR_NAMES = ["A", "B", "C"]
group_rules = rule_lists.flatmap(
    lambda rules: st.permutations(["A", "B", "a-ipv6", *"WXYZ"]).map(
        lambda names: [{**drawn, "name": name} for drawn, name in zip(rules, names, strict=False)]
    )
)
desired_options = st.lists(
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
).map(lambda drawn: [option(name, **changes) for name, changes in zip(OUR_NAMES, drawn, strict=False)])
ways = st.fixed_dictionaries(
    {
        "on_covered": st.sampled_from(["skip", "ensure"]),
        "priority_range": st.sampled_from([(100, 4096), (103, 120)]),
    }
)


def written(group: dict, plan: Plan) -> dict:
    """The group as ARM has it after the PUT."""
    return group | {"properties": {**group["properties"], **apply_to(group, plan)["properties"]}}


@given(group_rules, desired_options, ways)
def test_a_second_plan_changes_nothing(rules, options, ways):
    group = nsg(*rules)
    desired_list = desired(*options, workers=("10.0.0.0/31", "fd00::/128"))
    plan = plan_present(group, desired_list, SPACE, on_shadowed="warn", **ways)
    after = written(group, plan)
    second_plan = plan_present(after, desired_list, SPACE, on_shadowed="warn", **ways)
    assert not second_plan.changes
    assert (second_plan.covered, second_plan.shadowed, second_plan.moved) == (
        plan.covered,
        plan.shadowed,
        plan.moved,
    )

    places = [(r["properties"]["direction"], r["properties"]["priority"]) for r in after["properties"]["securityRules"]]
    assert len(places) == len(set(places))

    def unmanaged_rules(stored_rules: list[dict]) -> list[dict]:
        names = {r.name.lower() for r in desired_list}
        return [r["properties"] | {"provisioningState": None} for r in stored_rules if r["name"].lower() not in names]

    assert unmanaged_rules(after["properties"]["securityRules"]) == unmanaged_rules(rules)


@given(group_rules, desired_options, ways)
def test_a_desired_rule_takes_effect_unless_it_is_reported_as_shadowed(rules, options, ways):
    """The oracle: every pair of addresses of a desired rule, compared with the access of the rule."""
    group = nsg(*rules)
    desired_list = desired(*options, workers=("10.0.0.0/31", "fd00::/128"))
    plan = plan_present(group, desired_list, SPACE, on_shadowed="warn", **ways)
    after = rules_of(written(group, plan))
    access = {r["name"]: r["properties"]["access"] for r in after} | {"no rule": "Deny"}
    names = {r.name.lower() for r in desired_list}
    for desired_rule in desired_list:
        ports = [port for port in (1, 2, 3, 4) if in_ports(port, desired_rule.destination.port_ranges)]
        deciding = {
            first_match(after, Flow("Inbound", protocol, port, (), ()), source, destination)
            for source, destination in PAIRS
            if contains(desired_rule.source.prefixes, source)
            and contains(desired_rule.destination.prefixes, destination)
            for port in ports
            for protocol in (["Tcp", "Udp", "Icmp"] if desired_rule.protocol == "*" else ["Tcp"])
        }
        wrong = {name for name in deciding if access[name] != desired_rule.access}
        shadowing_rule = dict(plan.shadowed).get(desired_rule.name, "")
        assert {name for name in wrong if name.lower() not in names} == {
            part.split(" (")[0] for part in shadowing_rule.split("; ") if part
        }
