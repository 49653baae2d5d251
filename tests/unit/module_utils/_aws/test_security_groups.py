"""The plans of security_group_ports: as tables, and compared with brute force on small address spaces."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    MANAGED_TAG,
    Group,
    Plan,
    Port,
    Rule,
    SecurityGroupError,
    check_instances,
    diff_of,
    facts_needed,
    instance_ids,
    ip_permission,
    may_contain_our_rules,
    plan_absent,
    plan_present,
    plan_tags,
    rules_of,
    shared_groups,
    wanted_ports,
)
from hypothesis import given
from hypothesis import strategies as st

SELF = "sg-0000000a"
OTHER_GROUP = "sg-0000000b"
TUNNEL = Port(9000, "tcp")
VPC = {"vpc-1": ["10.0.0.0/16"]}


def group(*rules: Rule) -> Group:
    return Group(SELF, "workers", "vpc-1", rules)


# -- What covers a port ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "covered_by"),
    [
        ([], None),
        ([Rule("tcp", 9000, 9000, SELF)], "the group itself (tcp 9000)"),
        ([Rule("tcp", 0, 65535, SELF)], "the group itself (tcp 0-65535)"),
        ([Rule("-1", None, None, SELF)], "the group itself (all traffic)"),
        ([Rule("tcp", 8999, 8999, SELF)], None),
        ([Rule("tcp", 9001, 9100, SELF)], None),
        ([Rule("udp", 9000, 9000, SELF)], None),
        ([Rule("icmp", -1, -1, SELF)], None),
        ([Rule("-1", None, None, OTHER_GROUP)], None),
        ([Rule("tcp", 9000, 9000, "10.0.0.0/16")], "10.0.0.0/16 (tcp 9000)"),
        ([Rule("-1", None, None, "0.0.0.0/0")], "0.0.0.0/0 (all traffic)"),
        ([Rule("tcp", 9000, 9000, "10.0.0.0/17")], None),
        ([Rule("tcp", 9000, 9000, "::/0")], None),
        (
            [Rule("tcp", 9000, 9000, "10.0.0.0/17"), Rule("tcp", 1, 9999, "10.0.128.0/17")],
            "10.0.0.0/17 (tcp 9000) and 10.0.128.0/17 (tcp 1-9999)",
        ),
        (
            [Rule("tcp", 9000, 9000, "10.0.0.0/17"), Rule("udp", 1, 9999, "10.0.128.0/17")],
            None,
        ),
        ([Rule("tcp", 9000, 9000, "pl-wide")], "pl-wide (tcp 9000)"),
        ([Rule("tcp", 9000, 9000, "pl-narrow")], None),
        ([Rule("tcp", 9000, 9000, "pl-unreadable")], None),
        (
            [Rule("tcp", 9000, 9000, "pl-narrow"), Rule("tcp", 9000, 9000, "10.0.128.0/17")],
            "pl-narrow (tcp 9000) and 10.0.128.0/17 (tcp 9000)",
        ),
    ],
)
def test_what_covers_a_port(rules, covered_by):
    prefix_lists = {"pl-wide": ["192.0.2.0/24", "10.0.0.0/8"], "pl-narrow": ["10.0.0.0/17"]}
    plan = plan_present(group(*rules), [TUNNEL], VPC, prefix_lists)
    if covered_by is None:
        assert (plan.opened, plan.already_open) == ((TUNNEL,), ())
    else:
        assert (plan.opened, plan.already_open) == ((), ((TUNNEL, covered_by),))


@pytest.mark.parametrize(
    ("vpc_cidrs", "opened"),
    [
        (["10.0.0.0/16"], ()),
        (["10.0.0.0/16", "10.1.0.0/16"], (TUNNEL,)),
        (["10.0.0.0/16", "fd00::/56"], (TUNNEL,)),
        ([], (TUNNEL,)),
    ],
)
def test_a_cidr_covers_a_port_only_if_it_contains_every_block_of_the_vpc(vpc_cidrs, opened):
    plan = plan_present(group(Rule("tcp", 9000, 9000, "10.0.0.0/16")), [TUNNEL], {"vpc-1": vpc_cidrs}, {})
    assert plan.opened == opened


@pytest.mark.parametrize(
    ("rules", "needed"),
    [
        ([], ((), ())),
        ([Rule("tcp", 22, 22, "0.0.0.0/0")], ((), ())),
        ([Rule("tcp", 9000, 9000, OTHER_GROUP)], ((), ())),
        ([Rule("-1", None, None, "10.0.0.0/16")], (("vpc-1",), ())),
        ([Rule("tcp", 9000, 9000, "pl-1")], (("vpc-1",), ("pl-1",))),
        ([Rule("tcp", 9000, 9000, "pl-1"), Rule("-1", None, None, SELF)], ((), ())),
    ],
)
def test_only_deciding_facts_are_needed(rules, needed):
    assert facts_needed([group(*rules)], [TUNNEL]) == needed


# Small enough for brute force: 10 ports, 16 IPv4 and 8 IPv6 addresses.
V4, V6 = ip_network("10.0.0.0/28"), ip_network("fd00::/125")
BLOCKS = [
    str(block)
    for network in (V4, V6)
    for prefix in range(network.prefixlen, network.max_prefixlen + 1)
    for block in network.subnets(new_prefix=prefix)
]
PREFIX_LISTS = {"pl-1": ["10.0.0.0/29", "fd00::/126"], "pl-2": ["10.0.0.8/29"], "pl-3": []}

sources = st.sampled_from(
    [SELF, OTHER_GROUP, "pl-1", "pl-2", "pl-3", "pl-unreadable", "0.0.0.0/0", "::/0"]
) | st.sampled_from(BLOCKS)
port_ranges = st.tuples(st.integers(1, 10), st.integers(1, 10)).map(sorted)
rules = st.one_of(
    st.builds(
        lambda protocol, ports, source: Rule(protocol, *ports, source),
        st.sampled_from(["tcp", "udp"]),
        port_ranges,
        sources,
    ),
    st.builds(lambda source: Rule("-1", None, None, source), sources),
    st.builds(lambda source: Rule("icmp", -1, -1, source), sources),
)
ports = st.builds(Port, st.integers(1, 10), st.sampled_from(["tcp", "udp"]))
vpc_blocks = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3, unique=True)


def is_open(group_rules: list[Rule], port: Port, vpc_cidrs: list[str]) -> bool:
    """The oracle: the rules admit every member of the group, or every single address of the VPC."""

    def allowed(address) -> bool:
        return any(
            ip_address(address) in ip_network(block)
            for rule in group_rules
            if rule.protocol == "-1"
            or (rule.protocol == port.protocol and port.port in range(rule.from_port, rule.to_port + 1))
            for block in PREFIX_LISTS.get(rule.source, [rule.source] if "/" in rule.source else [])
        )

    by_group = any(
        rule.source == SELF
        and (
            rule.protocol == "-1"
            or (rule.protocol == port.protocol and port.port in range(rule.from_port, rule.to_port + 1))
        )
        for rule in group_rules
    )
    return by_group or all(allowed(a) for cidr in vpc_cidrs for a in ip_network(cidr))


@given(st.lists(rules, max_size=6), st.lists(ports, min_size=1, max_size=4, unique=True), vpc_blocks)
def test_exactly_the_closed_ports_are_opened(group_rules, requested, vpc_cidrs):
    plan = plan_present(group(*group_rules), requested, {"vpc-1": vpc_cidrs}, PREFIX_LISTS)
    assert list(plan.opened) == [p for p in requested if not is_open(group_rules, p, vpc_cidrs)]
    assert [p for p, _ in plan.already_open] == [p for p in requested if p not in plan.opened]


@given(st.lists(rules, max_size=6), st.lists(ports, min_size=1, max_size=4, unique=True), vpc_blocks)
def test_a_second_plan_changes_nothing(group_rules, requested, vpc_cidrs):
    facts = {"vpc-1": vpc_cidrs}, PREFIX_LISTS
    first = plan_present(group(*group_rules), requested, *facts)
    added = rules_of(ip_permission(SELF, port) for port in first.opened)
    assert not plan_present(group(*group_rules, *added), requested, *facts).changes


@given(st.lists(rules, max_size=6), st.lists(ports, min_size=1, max_size=4, unique=True), vpc_blocks)
def test_the_needed_facts_are_sufficient(group_rules, requested, vpc_cidrs):
    everything = {"vpc-1": vpc_cidrs}, PREFIX_LISTS
    vpc_ids, prefix_list_ids = facts_needed([group(*group_rules)], requested)
    needed = (
        {vpc_id: everything[0][vpc_id] for vpc_id in vpc_ids},
        {pl: PREFIX_LISTS[pl] for pl in prefix_list_ids if pl in PREFIX_LISTS},
    )
    assert plan_present(group(*group_rules), requested, *needed) == plan_present(
        group(*group_rules), requested, *everything
    )


# -- Removal -----------------------------------------------------------------------------------


def security_group_rule(port: int = 9000, **changes) -> dict:
    return {
        "SecurityGroupRuleId": "sgr-1",
        "GroupId": SELF,
        "IsEgress": False,
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "ReferencedGroupInfo": {"GroupId": SELF},
        "Tags": [{"Key": MANAGED_TAG, "Value": "true"}],
    } | changes


@pytest.mark.parametrize(
    ("rule", "is_removed"),
    [
        (security_group_rule(), True),
        (security_group_rule(Tags=[], Description=TUNNEL.description), True),
        (security_group_rule(Tags=[]), False),
        (security_group_rule(Tags=[], Description="opened by hand"), False),
        (security_group_rule(Tags=[{"Key": MANAGED_TAG, "Value": "false"}]), False),
        (security_group_rule(IsEgress=True), False),
        (security_group_rule(GroupId=OTHER_GROUP), False),
        (security_group_rule(ReferencedGroupInfo={"GroupId": OTHER_GROUP}), False),
        (security_group_rule(15150), False),
        (security_group_rule(IpProtocol="udp"), False),
        (security_group_rule(ToPort=9001), False),
        (security_group_rule(IpProtocol="-1", FromPort=-1, ToPort=-1), False),
    ],
)
def test_absent_revokes_only_rules_of_the_collection_for_these_ports(rule, is_removed):
    plan = plan_absent(group(), [TUNNEL], [rule])
    assert plan.revoked == (((TUNNEL, "sgr-1"),) if is_removed else ())
    assert plan.changes == is_removed


# -- Tags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing_tags", "before", "after"),
    [
        ({}, (), (("a", "1"), ("b", "2"))),
        ({"a": "1", "b": "2"}, None, None),
        ({"a": "1", "b": "2", "other": "x"}, None, None),
        ({"a": "1", "b": "old"}, (("b", "old"),), (("b", "2"),)),
        ({"a": "", "other": "x"}, (("a", ""),), (("a", "1"), ("b", "2"))),
    ],
)
def test_missing_tags_of_a_rule_of_the_collection_are_set(existing_tags, before, after):
    tags = [{"Key": key, "Value": value} for key, value in existing_tags.items()]
    rule = security_group_rule(Tags=tags, Description=TUNNEL.description)
    plan = plan_tags(Plan(group()), [TUNNEL], {"a": "1", "b": "2"}, [rule])
    changes = [(r.port, r.rule_id, r.before, r.after) for r in plan.retagged]
    assert changes == ([] if after is None else [(TUNNEL, "sgr-1", before, after)])
    assert plan.changes == bool(changes)


def test_the_tags_of_other_rules_are_unchanged():
    unmanaged_rule = security_group_rule(Description="by hand", Tags=[{"Key": "a", "Value": "old"}])
    assert plan_tags(Plan(group()), [TUNNEL], {"a": "1"}, [unmanaged_rule]).retagged == ()


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        (Rule("tcp", 9000, 9000, SELF), True),
        (Rule("tcp", 9000, 9001, SELF), False),
        (Rule("udp", 9000, 9000, SELF), False),
        (Rule("tcp", 9000, 9000, OTHER_GROUP), False),
        (Rule("-1", None, None, SELF), False),
    ],
)
def test_only_a_rule_for_exactly_the_port_from_the_group_itself_can_be_the_collections(rule, may):
    assert may_contain_our_rules(group(rule), [TUNNEL]) == may


# -- Which groups ------------------------------------------------------------------------------


def instance(number: int, *group_ids: str, state: str = "running") -> dict:
    return {
        "InstanceId": f"i-{number:08x}",
        "State": {"Name": state},
        "SecurityGroups": [{"GroupId": g, "GroupName": f"name-of-{g}"} for g in group_ids],
    }


@pytest.mark.parametrize(
    ("instances", "shared", "reason"),
    [
        (
            [instance(1, "sg-a")],
            ("sg-a",),
            "sg-a (name-of-sg-a) is on the only instance.",
        ),
        (
            [instance(1, "sg-b", "sg-a"), instance(2, "sg-a", "sg-b")],
            ("sg-a", "sg-b"),
            "sg-a (name-of-sg-a), sg-b (name-of-sg-b) are on all 2 instances.",
        ),
        (
            [instance(1, "sg-a", "sg-b"), instance(2, "sg-b"), instance(3, "sg-b", "sg-c")],
            ("sg-b",),
            ("sg-b (name-of-sg-b) is on all 3 instances; sg-a (name-of-sg-a), sg-c (name-of-sg-c) are not."),
        ),
    ],
)
def test_the_groups_that_all_instances_share(instances, shared, reason):
    assert shared_groups(instances) == (shared, reason)


def test_without_a_shared_group_the_groups_of_each_instance_are_listed():
    with pytest.raises(SecurityGroupError) as error:
        shared_groups([instance(1, "sg-a"), instance(2, "sg-b", "sg-a"), instance(3), instance(4)])
    assert str(error.value) == (
        "The 4 instances share no security group: i-00000001 has sg-a; i-00000002 has sg-a, sg-b; "
        "i-00000003, i-00000004 have none. Set group_ids to the groups to open."
    )


def test_the_list_of_groups_stays_short_for_many_workers():
    with pytest.raises(SecurityGroupError, match="i-0000000a and 190 more have sg-a; i-000000c9 "):
        shared_groups([instance(n, "sg-a") for n in range(1, 201)] + [instance(201, "sg-b")])


def test_instances_that_are_missing_or_terminated_are_named():
    requested = ["i-00000001", "i-00000002", "i-00000003"]
    with pytest.raises(SecurityGroupError) as error:
        check_instances(requested, [instance(1, "sg-a"), instance(2, state="terminated")], region="us-east-2")
    assert str(error.value).startswith("EC2 has no instance i-00000003 in us-east-2 and i-00000002 is terminated. ")
    check_instances(requested[:1], [instance(1, "sg-a", state="stopped")], region="us-east-2")


# -- Input -------------------------------------------------------------------------------------


def test_instance_ids_and_provider_ids_name_instances():
    assert instance_ids(["i-0a1b2c3d4e5f60718", "aws:///us-east-2a/i-0a1b2c3d", "i-0a1b2c3d"]) == (
        "i-0a1b2c3d4e5f60718",
        "i-0a1b2c3d",
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "worker-0",
        "aws:///us-east-2a/",
        "azure:///subscriptions/s/resourceGroups/r/providers/Microsoft.Compute/virtualMachines/w",
        "sg-0a1b2c3d",
        "i-0a1b2c3d ",
    ],
)
def test_other_names_are_rejected(name):
    with pytest.raises(SecurityGroupError, match="is not the id of an EC2 instance"):
        instance_ids([name])


def test_ports_are_deduplicated_and_sorted():
    requested = [
        {"port": 9000, "protocols": ["udp", "tcp"]},
        {"port": 15150, "protocols": ["tcp"]},
        {"port": 9000, "protocols": ["tcp"]},
    ]
    assert wanted_ports(requested) == (Port(9000, "udp"), Port(9000, "tcp"), Port(15150, "tcp"))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_outside_the_range_is_rejected(port):
    with pytest.raises(SecurityGroupError, match=f"{port} is not a port"):
        wanted_ports([{"port": port, "protocols": ["tcp"]}])


def test_every_kind_of_source_of_a_permission_becomes_a_rule():
    permission = {
        "IpProtocol": "tcp",
        "FromPort": 1,
        "ToPort": 2,
        "UserIdGroupPairs": [{"GroupId": SELF, "UserId": "123456789012"}],
        "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "192.0.2.0/24"}],
        "Ipv6Ranges": [{"CidrIpv6": "fd00::/8"}],
        "PrefixListIds": [{"PrefixListId": "pl-1"}],
    }
    everything = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": OTHER_GROUP}]}
    assert rules_of([permission, everything]) == (
        *(Rule("tcp", 1, 2, s) for s in (SELF, "10.0.0.0/8", "192.0.2.0/24", "fd00::/8", "pl-1")),
        Rule("-1", None, None, OTHER_GROUP),
    )


# -- Diff --------------------------------------------------------------------------------------


def test_the_diff_of_opening_and_of_removing():
    present = plan_present(group(Rule("tcp", 15150, 15150, SELF)), [Port(15150, "tcp"), TUNNEL], {}, {})
    assert diff_of(present) == {
        "before_header": f"{SELF} (workers)",
        "after_header": f"{SELF} (workers)",
        "before": "9000/tcp closed\n15150/tcp open to the group itself (tcp 15150)\n",
        "after": "9000/tcp open to the group itself (tcp 9000)\n15150/tcp open to the group itself (tcp 15150)\n",
    }
    absent = diff_of(plan_absent(group(), [TUNNEL], [security_group_rule()]))
    assert (absent["before"], absent["after"]) == ("9000/tcp opened by osc.peerpods (sgr-1)\n", "")


def test_the_diff_of_tags():
    opened = plan_present(group(Rule("tcp", 9000, 9000, SELF)), [TUNNEL], {}, {})
    tags = [{"Key": MANAGED_TAG, "Value": "true"}, {"Key": "b", "Value": "old"}]
    rule = security_group_rule(Tags=tags)
    diff = diff_of(plan_tags(opened, [TUNNEL], {"a": "1", "b": "2"}, [rule]))
    covered = "9000/tcp open to the group itself (tcp 9000)"
    assert diff["before"] == f"{covered}; sgr-1 has the tags b=old\n"
    assert diff["after"] == f"{covered}; sgr-1 has the tags a=1, b=2\n"
