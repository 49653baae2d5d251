"""The plans of security_group_ports: as tables, and compared with brute force on small address spaces."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import Port, Rule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    DEFAULT_PORTS,
    VMS,
    WORKERS,
    Addresses,
    Ends,
    Flow,
    Group,
    NewRules,
    SecurityGroupError,
    check_instances,
    describe_rules,
    ends_of,
    facts_needed,
    instance_ids,
    ip_permission,
    network_problems,
    other_members,
    plan_rules,
    ranks_of,
    undecided,
    unused_rules,
    wanted_flows,
)
from hypothesis import given
from hypothesis import strategies as st

NODE, LB, VM = "sg-0000000a", "sg-0000000b", "sg-0000000c"
OTHER_GROUP = "sg-0000000d"
TUNNEL = Port(9000, "tcp")
TO_VMS, TO_WORKERS = Flow(TUNNEL, VMS), Flow(TUNNEL, WORKERS)
VPC = ("10.0.0.0/16",)
OURS = {"osc.peerpods/managed": "true", "osc.peerpods/cluster/id-a": "demo-a"}
THEIRS = {"osc.peerpods/managed": "true", "osc.peerpods/cluster/id-b": "demo-b"}


def ingress(group: str, peer: str, protocol: str = "tcp", ports=(9000, 9000), egress=False, tags=None) -> Rule:
    """An existing rule, by default for the tunnel."""
    return Rule(group, egress, protocol, *ports, peer, f"sgr-{group}-{peer}-{protocol}", tags or {})


def egress(group: str, peer: str = "0.0.0.0/0", protocol: str = "-1", ports=(-1, -1)) -> Rule:
    """A rule for outgoing traffic, by default the one of a new group."""
    return ingress(group, peer, protocol, ports, egress=True)


def ends(*workers: set[str], vms: tuple[str, ...] = (), worker_groups: tuple[str, ...] = ()) -> Ends:
    shared = worker_groups or tuple(sorted(set.intersection(*workers)))
    return Ends(tuple(map(frozenset, workers)), shared, vms or shared)


SAME = ends({NODE})
ALL_OUT = [egress(group) for group in (NODE, LB, VM)]


def planned(rule: Rule) -> tuple[str, str, str]:
    return rule.direction, rule.group_id, rule.peer


def plan(rules: list[Rule], between: Ends = SAME, flows=(TO_VMS, TO_WORKERS), ranks=None, cidrs=VPC) -> NewRules:
    return plan_rules(flows, between, rules, Addresses(cidrs, PREFIX_LISTS), "id-a", ranks)


@pytest.mark.parametrize(
    ("rule", "is_unused"),
    [
        (ingress(NODE, NODE, tags=OURS), False),
        (ingress(NODE, NODE, ports=(9001, 9001), tags=OURS), True),
        (ingress(NODE, NODE, "udp", tags=OURS), True),
        (ingress(NODE, VM, tags=OURS), True),
        (ingress(NODE, NODE, ports=(9001, 9001), tags=THEIRS), False),
        (ingress(NODE, NODE, ports=(9001, 9001)), False),
        (ingress(NODE, NODE, ports=(9001, 9001), tags=OURS | THEIRS), True),
    ],
)
def test_the_rules_of_a_cluster_that_no_port_needs(rule, is_unused):
    assert unused_rules([rule, *ALL_OUT], (TO_VMS, TO_WORKERS), SAME, "id-a") == ((rule,) if is_unused else ())


def test_the_rules_of_one_direction_are_unused_in_the_other():
    to_vms, to_workers = ingress(VM, NODE, tags=OURS), ingress(NODE, VM, tags=OURS)
    between = ends({NODE}, vms=(VM,))
    assert unused_rules([to_vms, to_workers], (TO_VMS,), between, "id-a") == (to_workers,)


# -- What covers a port ------------------------------------------------------------------------

PREFIX_LISTS = {
    "pl-wide": ["192.0.2.0/24", "10.0.0.0/8"],
    "pl-narrow": ["10.0.0.0/17"],
    "pl-1": ["10.0.0.0/29", "fd00::/126"],
    "pl-2": ["10.0.0.8/29"],
    "pl-3": [],
}


@pytest.mark.parametrize(
    ("rules", "covered_by"),
    [
        ([], None),
        ([(NODE,)], "the group itself (tcp 9000)"),
        ([(NODE, "tcp", (0, 65535))], "the group itself (tcp 0-65535)"),
        ([(NODE, "-1", (-1, -1))], "the group itself (all traffic)"),
        ([(NODE, "tcp", (8999, 8999))], None),
        ([(NODE, "tcp", (9001, 9100))], None),
        ([(NODE, "udp")], None),
        ([(NODE, "icmp", (-1, -1))], None),
        ([(OTHER_GROUP, "-1", (-1, -1))], None),
        ([("10.0.0.0/16",)], "10.0.0.0/16 (tcp 9000)"),
        ([("0.0.0.0/0", "-1", (-1, -1))], "0.0.0.0/0 (all traffic)"),
        ([("10.0.0.0/17",)], None),
        ([("::/0",)], None),
        (
            [("10.0.0.0/17",), ("10.0.128.0/17", "tcp", (1, 9999)), ("fd00::/8",)],
            "10.0.0.0/17 (tcp 9000) and 10.0.128.0/17 (tcp 1-9999)",
        ),
        ([("10.0.0.0/17",), ("10.0.128.0/17", "udp", (1, 9999))], None),
        ([("pl-wide",)], "pl-wide (tcp 9000)"),
        ([("pl-narrow",)], None),
        ([("pl-unreadable",)], None),
        ([("pl-narrow",), ("10.0.128.0/17",)], "pl-narrow (tcp 9000) and 10.0.128.0/17 (tcp 9000)"),
    ],
)
def test_what_covers_a_port(rules, covered_by):
    outcome = plan([*ALL_OUT, *(ingress(NODE, *rule) for rule in rules)])
    opened, already_open = outcome.opened, [(port, describe_rules(rules)) for port, rules in outcome.already_open]
    if covered_by is None:
        assert (list(map(planned, opened)), already_open) == ([("ingress", NODE, NODE)], [])
    else:
        assert (opened, already_open) == ((), [(TUNNEL, covered_by)])


# "Port 9000-9999 for node ports", for TCP and UDP (openshift/installer, pkg/asset/manifests/aws/cluster.go).
BY_INSTALLER = [ingress(NODE, NODE, protocol, (9000, 9999)) for protocol in ("tcp", "udp")]
AGENT = ingress(NODE, NODE, "tcp", (15150, 15150))


@pytest.mark.parametrize(
    ("rules", "added"),
    [
        ([], ["15150/tcp", "9000/tcp", "9000/udp"]),
        (BY_INSTALLER, ["15150/tcp"]),
        # As versions before 9000/udp was a default, and the documented procedure, leave it.
        ([AGENT, ingress(NODE, NODE)], ["9000/udp"]),
        ([AGENT, ingress(NODE, NODE, tags=OURS)], ["9000/udp"]),
    ],
)
def test_the_default_ports(rules, added):
    opened = plan([*ALL_OUT, *rules], flows=wanted_flows(DEFAULT_PORTS)).opened
    assert [str(rule.port) for rule in opened] == added


@pytest.mark.parametrize(
    ("rules", "is_covered"),
    [
        ([egress(NODE)], True),
        ([], False),
        ([egress(NODE, "0.0.0.0/0", "tcp", (443, 443))], False),
        ([egress(NODE, "::/0")], False),
        ([egress(NODE, "10.0.0.0/16")], True),
        ([egress(NODE, "10.0.0.0/17")], False),
        ([egress(NODE, "pl-wide", "tcp", (9000, 9000))], True),
        ([egress(NODE, NODE)], True),
        ([egress(NODE, VM)], False),
        ([egress(LB)], False),
    ],
)
def test_egress_counts_as_ingress_does(rules, is_covered):
    opened = plan([ingress(NODE, NODE), *rules]).opened
    assert list(map(planned, opened)) == ([] if is_covered else [("egress", NODE, NODE)])


@pytest.mark.parametrize(
    ("vpc_cidrs", "is_open"),
    [
        (["10.0.0.0/16"], True),
        # Those of two VPCs with the same group, or two of one VPC.
        (["10.0.0.0/16", "10.1.0.0/16"], False),
        ([], False),
    ],
)
def test_a_cidr_covers_a_port_only_if_it_contains_every_block_of_the_vpcs(vpc_cidrs, is_open):
    outcome = plan([*ALL_OUT, ingress(NODE, "10.0.0.0/16")], cidrs=vpc_cidrs)
    assert (outcome.opened == ()) == is_open


@pytest.mark.parametrize(
    ("rules", "needed"),
    [
        ([], (False, ())),
        ([ingress(NODE, "0.0.0.0/0", "tcp", (22, 22))], (False, ())),
        ([ingress(NODE, OTHER_GROUP)], (False, ())),
        ([ingress(NODE, "0.0.0.0/0")], (False, ())),
        ([ingress(NODE, "10.0.0.0/16", "-1")], (True, ())),
        ([ingress(NODE, "pl-1")], (True, ("pl-1",))),
        ([ingress(NODE, "pl-1"), ingress(NODE, NODE, "-1")], (False, ())),
        ([ingress(NODE, NODE), egress(NODE, "10.0.0.0/16")], (True, ())),
    ],
)
def test_only_deciding_facts_are_needed(rules, needed):
    has_egress = any(rule.is_egress for rule in rules)
    assert facts_needed([TO_VMS], SAME, [*rules, *([] if has_egress else ALL_OUT)]) == needed


# -- Which groups get the rules ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "rules", "opened"),
    [
        # One group is enough, whatever groups the workers share.
        (ends({NODE, LB}), [], [("ingress", NODE, NODE)]),
        (ends({NODE, LB}), [ingress(LB, LB)], []),
        (ends({NODE, LB}), [ingress(LB, NODE)], []),
        (ends({NODE, LB}, {NODE}), [ingress(LB, NODE)], [("ingress", NODE, NODE)]),
        # VMs in a group of their own.
        (ends({NODE}, vms=(VM,)), [], [("ingress", VM, NODE), ("ingress", NODE, VM)]),
        (ends({NODE}, vms=(VM,)), [ingress(NODE, NODE)], [("ingress", VM, NODE), ("ingress", NODE, VM)]),
        (ends({NODE}, vms=(VM,)), [ingress(VM, NODE)], [("ingress", NODE, VM)]),
        (ends({NODE}, vms=(VM,)), [ingress(NODE, VM)], [("ingress", VM, NODE)]),
        (ends({NODE}, vms=(VM,)), [ingress(VM, "10.0.0.0/8"), ingress(NODE, "10.0.0.0/8")], []),
        (ends({NODE, LB}, vms=(VM,)), [ingress(VM, LB), ingress(LB, VM)], []),
        # VMs in one of the groups of the workers, and in one of their own, which is narrower.
        (ends({NODE}, vms=(NODE, VM)), [], [("ingress", VM, NODE), ("ingress", NODE, VM)]),
        (ends({NODE}, vms=(NODE, VM)), [ingress(NODE, NODE)], []),
        # Workers without a common group.
        (
            ends({NODE}, {LB}, vms=(VM,), worker_groups=(NODE, LB)),
            [],
            [("ingress", VM, NODE), ("ingress", VM, LB), ("ingress", NODE, VM), ("ingress", LB, VM)],
        ),
        (
            ends({NODE}, {LB}, worker_groups=(NODE, LB)),
            [],
            [("ingress", NODE, NODE), ("ingress", LB, LB)],
        ),
        # The group that serves the most workers comes first, and serves them all if it can.
        (
            ends({LB, OTHER_GROUP}, {OTHER_GROUP}, vms=(VM,), worker_groups=(LB, OTHER_GROUP)),
            [],
            [("ingress", VM, OTHER_GROUP), ("ingress", OTHER_GROUP, VM)],
        ),
    ],
)
def test_the_groups_that_get_rules(between, rules, opened):
    outcome = plan([*ALL_OUT, egress(OTHER_GROUP), *rules], between)
    assert list(map(planned, outcome.opened)) == opened


def test_only_the_requested_direction_is_opened():
    between = ends({NODE}, vms=(VM,))
    assert list(map(planned, plan(ALL_OUT, between, [TO_VMS]).opened)) == [("ingress", VM, NODE)]
    assert list(map(planned, plan(ALL_OUT, between, [TO_WORKERS]).opened)) == [("ingress", NODE, VM)]


def test_groups_without_egress_get_both_rules():
    between = ends({NODE}, vms=(VM,))
    opened = list(map(planned, plan([], between).opened))
    assert opened == [("ingress", VM, NODE), ("egress", NODE, VM), ("ingress", NODE, VM), ("egress", VM, NODE)]


def test_a_rule_that_a_later_one_makes_superfluous_is_not_added():
    """The rules for the second worker serve the first one as well, and the third one has an ingress rule."""
    between = ends({NODE, VM}, {VM}, {LB, NODE}, vms=(NODE,), worker_groups=(NODE, LB, VM))
    opened = plan([ingress(NODE, LB)], between, [TO_VMS]).opened
    assert list(map(planned, opened)) == [("egress", NODE, NODE), ("ingress", NODE, VM), ("egress", VM, NODE)]


def test_a_worker_outside_of_the_named_groups_is_reported():
    with pytest.raises(SecurityGroupError, match=rf"groups {LB} have none of {NODE}, so 9000/tcp cannot be opened "):
        plan(ALL_OUT, ends({NODE}, {LB}, worker_groups=(NODE,)))


def test_of_several_groups_the_narrowest_gets_the_rules():
    between = ends({NODE, LB})
    assert list(map(planned, plan(ALL_OUT, between, ranks={NODE: (1,), LB: (0,)}).opened)) == [("ingress", LB, LB)]
    vms = ends({NODE}, vms=(VM, OTHER_GROUP))
    opened = plan([*ALL_OUT, egress(OTHER_GROUP)], vms, [TO_VMS], {VM: (7,), OTHER_GROUP: (2,), NODE: (0,)}).opened
    assert list(map(planned, opened)) == [("ingress", OTHER_GROUP, NODE)]


@pytest.mark.parametrize(
    ("names", "narrowest"),
    [
        (["demo-node", "demo-lb"], "demo-node"),
        (["demo-lb", "corporate"], "demo-lb"),
        (["default", "corporate"], "corporate"),
        (["tagged", "corporate"], "tagged"),
        (["demo-node", "default", "tagged-lb", "corporate"], "demo-node"),
    ],
)
def test_the_clusters_own_group_is_narrower_than_others(names, narrowest):
    owned = {"kubernetes.io/cluster/demo": "owned"}
    groups = [Group(name, name, "vpc-1", owned if "tagged" in name else {}) for name in names]
    ranks = ranks_of(groups, "demo")
    assert min(ranks, key=lambda group: ranks[group]) == narrowest
    assert undecided(ends(set(names)), ranks) == ()


def test_otherwise_the_number_of_other_members_decides():
    groups = [Group(group_id, f"corporate-{group_id}", "vpc-1") for group_id in (NODE, LB)]
    assert undecided(ends({NODE, LB}), ranks_of(groups, "demo")) == (NODE, LB)

    def interface(instance: str | None, *group_ids: str) -> dict:
        attachment = {"Attachment": {"InstanceId": instance} if instance else {}}
        return {**attachment, "Groups": [{"GroupId": group_id} for group_id in group_ids]}

    interfaces = [interface("i-1", NODE, LB), interface("i-2", NODE), interface(None, NODE, OTHER_GROUP)]
    assert other_members([NODE, LB], interfaces, ["i-1"]) == {NODE: 2, LB: 0}


# -- Rules of the collection -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "used"),
    [
        ([ingress(NODE, NODE)], []),
        ([ingress(NODE, NODE, tags=OURS)], [OURS]),
        ([ingress(NODE, NODE, tags=THEIRS)], [THEIRS]),
        # Traffic that does not depend on a rule of the collection needs no reference.
        ([ingress(NODE, NODE, tags=THEIRS), ingress(NODE, NODE, "-1")], []),
        ([ingress(NODE, NODE, tags=THEIRS), ingress(NODE, "10.0.0.0/8")], []),
        ([ingress(NODE, NODE, tags=THEIRS), ingress(LB, LB, tags=OURS)], [OURS]),
        ([ingress(NODE, NODE, "udp", tags=THEIRS), ingress(NODE, NODE)], []),
    ],
)
def test_the_rules_of_the_collection_that_the_traffic_depends_on(rules, used):
    outcome = plan([*ALL_OUT, *rules], ends({NODE, LB}))
    assert outcome.opened == ()
    assert [rule.tags for rule in outcome.used] == used


# Small enough for brute force: 10 ports, 16 addresses, 3 groups.
V4, V6 = ip_network("10.0.0.0/28"), ip_network("fd00::/125")
BLOCKS = [
    str(block)
    for network in (V4, V6)
    for prefix in range(network.prefixlen, network.max_prefixlen + 1)
    for block in network.subnets(new_prefix=prefix)
]
V4_BLOCKS = [block for block in BLOCKS if "." in block]

group_ids = st.sampled_from([NODE, LB, VM])
peers = (
    group_ids
    | st.sampled_from([OTHER_GROUP, "pl-1", "pl-2", "pl-3", "pl-unreadable", "0.0.0.0/0", "::/0"])
    | st.sampled_from(BLOCKS)
)
port_ranges = st.tuples(st.integers(1, 10), st.integers(1, 10)).map(sorted)
tags = st.sampled_from([{}, OURS, THEIRS])
rules = st.builds(
    lambda group, peer, protocol, ports, egress, tags: ingress(group, peer, protocol, ports, egress, tags),
    group_ids,
    peers,
    st.sampled_from(["tcp", "udp", "-1", "icmp"]),
    port_ranges,
    st.booleans(),
    tags,
)
flows = st.builds(
    Flow, st.builds(Port, st.integers(1, 10), st.sampled_from(["tcp", "udp"])), st.sampled_from([VMS, WORKERS])
)
sets_of_groups = st.sets(group_ids, min_size=1)
vpc_blocks = st.lists(st.sampled_from(V4_BLOCKS), min_size=1, max_size=3, unique=True).map(tuple)
topologies = st.builds(
    lambda workers, vms: ends(*workers, vms=tuple(sorted(vms)), worker_groups=tuple(sorted(set.union(*workers)))),
    st.lists(sets_of_groups, min_size=1, max_size=3),
    sets_of_groups,
)


def is_open(existing: list[Rule], flow: Flow, worker: frozenset[str], between: Ends, vpc_cidrs) -> bool:
    """The oracle: the rules of both directions admit the other end as a group, or every single address of the VPC."""

    def allowed(rule: Rule) -> bool:
        return rule.protocol == "-1" or (
            rule.protocol == flow.port.protocol and flow.port.port in range(rule.from_port, rule.to_port + 1)
        )

    def passes(groups, others, is_egress) -> bool:
        matching = [r for r in existing if r.group_id in groups and r.is_egress == is_egress and allowed(r)]
        blocks = [
            ip_network(block)
            for rule in matching
            for block in PREFIX_LISTS.get(rule.peer, [rule.peer] if "/" in rule.peer else [])
        ]
        return any(rule.peer in others for rule in matching) or all(
            any(ip_address(address) in block for block in blocks) for cidr in vpc_cidrs for address in ip_network(cidr)
        )

    vms = set(between.vm_groups)
    sender, receiver = (worker, vms) if flow.receiver == VMS else (vms, worker)
    return passes(receiver, sender, False) and passes(sender, receiver, True)


@given(st.lists(rules, max_size=8), st.lists(flows, min_size=1, max_size=4, unique=True), topologies, vpc_blocks)
def test_afterwards_every_flow_is_open_and_no_rule_is_superfluous(existing, requested, between, vpc_cidrs):
    outcome = plan(existing, between, requested, cidrs=vpc_cidrs)
    after = [*existing, *outcome.opened]
    assert all(is_open(after, flow, worker, between, vpc_cidrs) for flow in requested for worker in between.workers)
    for added in outcome.opened:
        without = [rule for rule in after if rule is not added]
        assert not all(
            is_open(without, flow, worker, between, vpc_cidrs) for flow in requested for worker in between.workers
        )
        assert {added.group_id, added.peer} <= {*between.worker_groups, *between.vm_groups}


@given(st.lists(rules, max_size=8), st.lists(flows, min_size=1, max_size=4, unique=True), topologies, vpc_blocks)
def test_nothing_is_added_where_the_traffic_passes(existing, requested, between, vpc_cidrs):
    passes = all(
        is_open(existing, flow, worker, between, vpc_cidrs) for flow in requested for worker in between.workers
    )
    assert (plan(existing, between, requested, cidrs=vpc_cidrs).opened == ()) == passes


@given(st.lists(rules, max_size=8), st.lists(flows, min_size=1, max_size=4, unique=True), topologies, vpc_blocks)
def test_the_needed_facts_are_sufficient(existing, requested, between, vpc_cidrs):
    needs_vpcs, prefix_list_ids = facts_needed(requested, between, existing)
    addresses = Addresses(
        vpc_cidrs if needs_vpcs else (), {pl: PREFIX_LISTS[pl] for pl in prefix_list_ids if pl in PREFIX_LISTS}
    )
    needed = plan_rules(requested, between, existing, addresses, "id-a")
    assert needed.opened == plan(existing, between, requested, cidrs=vpc_cidrs).opened


def test_a_planned_rule_as_a_request():
    assert ip_permission(Rule(VM, False, "udp", 9000, 9000, NODE)) == {
        "IpProtocol": "udp",
        "FromPort": 9000,
        "ToPort": 9000,
        "UserIdGroupPairs": [
            {"GroupId": NODE, "Description": "osc.peerpods: port 9000/udp between workers and peer pods"}
        ],
    }


# -- Which groups the ends have ----------------------------------------------------------------


def instance(number: int, *group_ids: str, state: str = "running") -> dict:
    return {
        "InstanceId": f"i-{number:08x}",
        "State": {"Name": state},
        "VpcId": "vpc-1",
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
    between, why = ends_of(instances, [], [])
    assert (between.worker_groups, between.vm_groups, why) == (shared, shared, reason)
    assert set(between.workers) == {
        frozenset(group["GroupId"] for group in instance["SecurityGroups"]) for instance in instances
    }


@pytest.mark.parametrize(
    ("instances", "group_ids", "vm_group_ids", "expected", "reason"),
    [
        ([], ["sg-a", "sg-b"], [], ends({"sg-a"}, {"sg-b"}, worker_groups=("sg-a", "sg-b")), "Named by group_ids."),
        (
            [instance(1, "sg-a", "sg-b"), instance(2, "sg-a", "sg-b")],
            ["sg-b"],
            [],
            ends({"sg-a", "sg-b"}, worker_groups=("sg-b",)),
            "Named by group_ids.",
        ),
        (
            [instance(1, "sg-a")],
            [],
            ["sg-v", "sg-w"],
            ends({"sg-a"}, vms=("sg-v", "sg-w")),
            "sg-a (name-of-sg-a) is on the only instance. The VMs have sg-v, sg-w (named by vm_group_ids).",
        ),
        (
            [instance(1, "sg-a"), instance(2, "sg-b")],
            [],
            ["sg-v"],
            ends({"sg-a"}, {"sg-b"}, vms=("sg-v",), worker_groups=("sg-a", "sg-b")),
            "The 2 instances share no security group. The VMs have sg-v (named by vm_group_ids).",
        ),
    ],
)
def test_named_groups(instances, group_ids, vm_group_ids, expected, reason):
    assert ends_of(instances, group_ids, vm_group_ids) == (expected, reason)


def test_without_a_shared_group_the_groups_of_each_instance_are_listed():
    with pytest.raises(SecurityGroupError) as error:
        ends_of([instance(1, "sg-a"), instance(2, "sg-b", "sg-a"), instance(3), instance(4)], [], [])
    assert str(error.value) == (
        "The 4 instances share no security group: i-00000001 has sg-a; i-00000002 has sg-a, sg-b; i-00000003, "
        "i-00000004 have none. Set group_ids to the groups of the workers to use, or vm_group_ids to those of the VMs."
    )


def test_the_list_of_groups_stays_short_for_many_workers():
    with pytest.raises(SecurityGroupError, match="i-0000000a and 190 more have sg-a; i-000000c9 "):
        ends_of([instance(n, "sg-a") for n in range(1, 201)] + [instance(201, "sg-b")], [], [])


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


def test_flows_are_deduplicated_and_in_order():
    requested = [
        {"port": 9000, "protocols": ["udp", "tcp"], "to": [VMS]},
        {"port": 15150, "protocols": ["tcp"], "to": [WORKERS]},
        {"port": 9000, "protocols": ["tcp"], "to": [VMS, WORKERS]},
    ]
    assert wanted_flows(requested) == (
        Flow(Port(9000, "udp"), VMS),
        Flow(Port(9000, "tcp"), VMS),
        Flow(Port(15150, "tcp"), WORKERS),
        Flow(Port(9000, "tcp"), WORKERS),
    )


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_outside_the_range_is_rejected(port):
    with pytest.raises(SecurityGroupError, match=f"{port} is not a port"):
        wanted_flows([{"port": port, "protocols": ["tcp"], "to": ["vms"]}])


SUBNET = {"SubnetId": "subnet-1", "VpcId": "vpc-1"}


@pytest.mark.parametrize(
    ("subnet", "vpc", "existing", "problems"),
    [
        (SUBNET, "", {NODE: "vpc-1", LB: "vpc-1"}, []),
        (SUBNET, "vpc-1", {NODE: "vpc-1", LB: "vpc-1"}, []),
        (None, "vpc-1", {NODE: "vpc-1", LB: "vpc-2"}, []),
        (SUBNET, "vpc-2", {NODE: "vpc-1", LB: "vpc-1"}, ["subnet-1 is in vpc-1, not in vpc-2."]),
        (None, "", {NODE: "vpc-1"}, [f"EC2 has no security group {LB} in eu-central-1."]),
        (SUBNET, "", {NODE: "vpc-1", LB: "vpc-2"}, [f"{LB} is in vpc-2, not in vpc-1, the VPC of subnet-1."]),
    ],
)
def test_why_no_instance_can_be_started(subnet: dict | None, vpc: str, existing: dict, problems: list[str]):
    groups = {group_id: {"VpcId": of} for group_id, of in existing.items()}
    assert list(network_problems(subnet, vpc, [NODE, LB], groups, "eu-central-1")) == problems
