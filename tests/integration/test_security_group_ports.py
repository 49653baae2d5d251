"""security_group_ports as a user runs it, against moto's EC2 through a proxy that records the calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.cluster.aws import REGION, Moto
from tests.ec2_proxy import (
    Answer,
    Ec2Proxy,
    cut_the_answer,
    ec2_proxy,
    hang_up,
    lose_the_answer,
    promise_another_page,
    refuse,
    work,
)
from tests.integration.apiserver import requests_of

AUTHORIZE = "AuthorizeSecurityGroupIngress"
AUTHORIZE_EGRESS = "AuthorizeSecurityGroupEgress"
REVOKE = "RevokeSecurityGroupIngress"
GROUPS = "DescribeSecurityGroups"
RULES = "DescribeSecurityGroupRules"
INTERFACES = "DescribeNetworkInterfaces"
READS = ["DescribeInstances", RULES]

A = {"cluster_name": "demo-a", "cluster_id": "id-of-a"}
B = {"cluster_name": "demo-b", "cluster_id": "id-of-b"}
MANAGED = {"osc.peerpods/managed": "true"}
OF_A = {"osc.peerpods/cluster/id-of-a": "demo-a"}
OF_B = {"osc.peerpods/cluster/id-of-b": "demo-b"}


def tags_of(rule: dict) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in rule["Tags"]}


def no_such_groups_yet(pass_on: Callable[[], Answer]) -> Answer:
    return (
        200,
        b"<DescribeSecurityGroupsResponse><securityGroupInfo/></DescribeSecurityGroupsResponse>",
    )


@dataclass
class World:
    """A VPC with a subnet, with methods to fill and to read it."""

    ec2: object
    vpc_id: str
    subnet_id: str

    def group(self, name: str) -> str:
        return self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc_id)["GroupId"]

    def instance(self, *group_ids: str) -> str:
        return self.instances(1, *group_ids)[0]

    def instances(self, count: int, *group_ids: str) -> list[str]:
        reservation = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=count,
            MaxCount=count,
            SubnetId=self.subnet_id,
            SecurityGroupIds=group_ids,
        )
        return [instance["InstanceId"] for instance in reservation["Instances"]]

    def allow(self, group_id: str, port: int, protocol: str = "tcp", **source: list) -> None:
        self.ec2.authorize_security_group_ingress(
            GroupId=group_id,
            IpPermissions=[{"IpProtocol": protocol, "FromPort": port, "ToPort": port, **source}],
        )

    def rules(self, group_id: str) -> list[dict]:
        response = self.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group_id]}])[
            "SecurityGroupRules"
        ]
        return sorted(
            (r for r in response if not r["IsEgress"]), key=lambda rule: (rule["FromPort"], rule["IpProtocol"])
        )

    def ports(self, group_id: str) -> list[tuple[int, str]]:
        return [(rule["FromPort"], rule["IpProtocol"]) for rule in self.rules(group_id)]


DEFAULT_PORTS = [(9000, "tcp"), (9000, "udp"), (15150, "tcp")]
# In the order in which the option has them.
DEFAULT_RULES = [(15150, "tcp"), (9000, "tcp"), (9000, "udp")]


@pytest.fixture
def world(moto: Moto) -> Iterator[World]:
    ec2 = moto.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24", AvailabilityZone=f"{REGION}a")
    yield World(ec2, vpc_id, subnet["Subnet"]["SubnetId"])
    # A removal finds rules in the whole region.
    managed = ec2.describe_security_group_rules(Filters=[{"Name": "tag:osc.peerpods/managed", "Values": ["true"]}])
    for rule in managed["SecurityGroupRules"]:
        revoke = ec2.revoke_security_group_egress if rule["IsEgress"] else ec2.revoke_security_group_ingress
        revoke(GroupId=rule["GroupId"], SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])


@pytest.fixture
def proxy(moto: Moto) -> Iterator[Ec2Proxy]:
    with ec2_proxy(moto.endpoint_url) as server:
        yield server


@pytest.fixture
def run(moto: Moto, proxy: Ec2Proxy, run_module: Callable[..., dict]) -> Callable[..., dict]:
    """Run the module through the proxy; `env` is added to the variables of a user."""

    def run(args: dict, *, env: dict[str, str] | None = None, **modes: bool) -> dict:
        environment = {
            **moto.environment,
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            **(env or {}),
        }
        return run_module("security_group_ports", {**A, **args}, env=environment, **modes)

    return run


# -- The main path -----------------------------------------------------------------------------


def test_opens_the_ports_of_all_workers_once(world, proxy, run):
    node, lb = world.group("node"), world.group("lb")
    workers = [world.instance(node, lb), world.instance(node, lb), world.instance(node)]
    args = {
        "instance_ids": [f"aws:///{REGION}a/{worker}" for worker in workers],
        "tags": {"team": "kata"},
    }

    predicted = run(args, check=True, diff=True)
    assert proxy.take_calls() == READS
    assert world.rules(node) == []

    result = run(args, diff=True)
    assert proxy.take_calls() == [*READS, AUTHORIZE]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    assert result["changed"]
    assert result["reason"] == f"{node} (node) is on all 3 instances; {lb} (lb) is not."
    assert result["groups"] == [
        {
            "group_id": node,
            "group_name": "node",
            "vpc_id": world.vpc_id,
            "opened": [
                {"port": port, "protocol": protocol, "direction": "ingress", "peer": node}
                for port, protocol in DEFAULT_RULES
            ],
            "already_open": [],
            "revoked": [],
            "retagged": [],
            "kept": [],
            "unused": [],
        }
    ]
    assert result["instances"][2] == {
        "instance_id": workers[2],
        "vpc_id": world.vpc_id,
        "subnet_id": world.subnet_id,
        "availability_zone": f"{REGION}a",
        "group_ids": [node],
    }
    assert result["diff"][0]["before"] == "9000/tcp closed\n9000/udp closed\n15150/tcp closed\n"
    assert "9000/tcp open to the group itself (tcp 9000)\n" in result["diff"][0]["after"]

    assert world.ports(node) == DEFAULT_PORTS
    for rule in world.rules(node):
        assert rule["ReferencedGroupInfo"]["GroupId"] == node
        assert tags_of(rule) == {**MANAGED, **OF_A, "Name": "demo-a-peer-pods", "team": "kata"}
    (group,) = world.ec2.describe_security_groups(GroupIds=[node])["SecurityGroups"]
    for permission in group["IpPermissions"]:
        (pair,) = permission["UserIdGroupPairs"]
        assert pair["Description"].startswith(
            f"osc.peerpods: port {permission['FromPort']}/{permission['IpProtocol']} "
        )
    assert world.rules(lb) == []

    second_result = run({**args, "tags": {}})
    assert proxy.take_calls() == READS
    assert not second_result["changed"]
    assert second_result["groups"][0]["opened"] == []
    assert second_result["groups"][0]["already_open"] == [
        {"port": port, "protocol": protocol, "covered_by": f"the group itself ({protocol} {port})"}
        for port, protocol in DEFAULT_RULES
    ]


def test_absent_removes_the_rules_of_the_cluster_wherever_they_are(world, proxy, run):
    """Not by today's workers: one is terminated, and another one is no longer in the group."""
    node, other_group = world.group("node"), world.group("other")
    world.allow(node, 9000, UserIdGroupPairs=[{"GroupId": node}])
    world.allow(node, 22, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
    workers = world.instances(2, node)
    tunnel = {"ports": [{"port": 9000, "protocols": ["tcp", "udp"]}]}
    run({"instance_ids": workers, **tunnel})
    run({"instance_ids": workers, "ports": [{"port": 443}], "vm_group_ids": [other_group]})
    assert world.ports(node) == [(22, "tcp"), (443, "tcp"), (9000, "tcp"), (9000, "udp")]
    assert world.ports(other_group) == [(443, "tcp")]
    world.ec2.terminate_instances(InstanceIds=workers[:1])
    world.ec2.modify_instance_attribute(InstanceId=workers[1], Groups=[other_group])
    proxy.take_calls()

    predicted = run({"state": "absent"}, check=True, diff=True)
    assert proxy.take_calls() == [RULES, GROUPS]
    result = run({"state": "absent"}, diff=True)
    assert proxy.take_calls() == [RULES, GROUPS, "CreateTags", RULES, REVOKE, REVOKE]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    revoked = {group["group_id"]: [rule["port"] for rule in group["revoked"]] for group in result["groups"]}
    assert {group_id: sorted(ports) for group_id, ports in revoked.items()} == {node: [443, 9000], other_group: [443]}
    assert world.ports(node) == [(22, "tcp"), (9000, "tcp")]
    assert world.ports(other_group) == []

    second_result = run({"state": "absent"})
    assert (second_result["changed"], second_result["groups"]) == (False, [])
    assert proxy.take_calls() == [RULES]


def test_a_port_that_is_open_to_the_whole_vpc_is_unchanged(world, proxy, run):
    group = world.group("node")
    entries = [{"Cidr": "192.0.2.0/24"}, {"Cidr": "10.0.0.0/8"}]
    prefix_list = world.ec2.create_managed_prefix_list(
        PrefixListName="inside", MaxEntries=5, AddressFamily="IPv4", Entries=entries
    )["PrefixList"]["PrefixListId"]
    world.allow(group, 9000, PrefixListIds=[{"PrefixListId": prefix_list}])
    world.allow(group, 9000, "udp", UserIdGroupPairs=[{"GroupId": group}])
    world.allow(group, 15150, IpRanges=[{"CidrIp": "10.0.0.0/16"}])

    result = run({"group_ids": [group]})
    assert not result["changed"]
    assert [port["covered_by"] for port in result["groups"][0]["already_open"]] == [
        "10.0.0.0/16 (tcp 15150)",
        f"{prefix_list} (tcp 9000)",
        "the group itself (udp 9000)",
    ]
    assert proxy.take_calls() == [GROUPS, RULES, "GetManagedPrefixListEntries", "DescribeVpcs"]

    world.ec2.associate_vpc_cidr_block(VpcId=world.vpc_id, CidrBlock="172.16.0.0/16")
    assert run({"group_ids": [group]})["changed"]


def test_a_prefix_list_that_cannot_be_read_covers_nothing(world, proxy, run):
    group = world.group("node")
    world.allow(group, 9000, PrefixListIds=[{"PrefixListId": "pl-0a1b2c3d"}])
    proxy.faults["GetManagedPrefixListEntries"] = [refuse(403, "UnauthorizedOperation")]

    result = run({"group_ids": [group], "ports": [{"port": 9000}]})
    assert [rule["port"] for rule in result["groups"][0]["opened"]] == [9000]
    assert result["warnings"][0].startswith("pl-0a1b2c3d cannot be read and is ignored: EC2 in ")


def test_the_last_of_many_workers_counts(world, proxy, run):
    """More reservations than fit in a page, and more workers than EC2 accepts in a filter."""
    proxy.page_size = 100
    node, extra = world.group("node"), world.group("extra")
    workers = world.instances(100, node, extra)
    workers += [world.instance(node, extra) for _ in range(100)]
    workers.append(world.instance(node))

    result = run({"instance_ids": workers})
    assert [group["group_id"] for group in result["groups"]] == [node]
    assert [instance["instance_id"] for instance in result["instances"]] == workers
    assert world.ports(node) == DEFAULT_PORTS
    assert proxy.take_calls() == ["DescribeInstances"] * 3 + [RULES, AUTHORIZE]


def test_200_workers_in_many_groups_take_as_many_calls_as_one(world, proxy, run):
    node, *other_groups = [world.group(name) for name in ("node", "a", "b", "c", "d")]
    workers = world.instances(99, node, *other_groups)
    # More reservations than moto returns in a page without a requested size.
    workers += [world.instance(node, *other_groups[: number % 3]) for number in range(101)]
    result = run({"instance_ids": workers})
    assert [group["group_id"] for group in result["groups"]] == [node]
    assert proxy.take_calls() == [*READS, AUTHORIZE]


def test_the_workers_are_read_from_the_cluster(moto, cluster, cloud_side, proxy, run):
    kubeconfig = cluster.user_kubeconfig("opens-ports", "system:masters")
    # validate_certs of AWS does not apply to the cluster, whose CA no system trusts.
    args = {"nodes": {"kubeconfig": str(kubeconfig)}, "validate_certs": True}

    result = run(args, check=True)
    assert proxy.take_calls() == READS
    assert requests_of(cluster, "opens-ports") == [
        ("list", "/api/v1/nodes?labelSelector=node-role.kubernetes.io/worker&limit=500")
    ]
    assert result["changed"]
    (group,) = result["groups"]
    assert group["group_id"] == cloud_side.worker_group_id
    assert sorted(instance["instance_id"] for instance in result["instances"]) == sorted(
        worker.provider_id.rpartition("/")[2] for worker in cloud_side.workers
    )

    result = run({"nodes": {"label_selector": "no-such-label"}}, env={"K8S_AUTH_KUBECONFIG": str(kubeconfig)})
    assert result["msg"].startswith("The cluster has no node with the labels no-such-label. ")
    result = run({"nodes": {"kubeconfig": "/no/such/kubeconfig"}})
    assert result["msg"].startswith("No cluster is configured: ")
    assert proxy.take_calls() == []


def test_the_tags_of_the_clusters_rules_are_set_in_one_call(world, proxy, run):
    first_group, second_group = world.group("one"), world.group("two")
    args = {"group_ids": [first_group, second_group]}
    run({**args, "tags": {"team": "kata", "stays": "so"}})
    world.allow(first_group, 443, UserIdGroupPairs=[{"GroupId": first_group}])
    proxy.take_calls()

    ports = [{"port": port} for port in (15150, 9000, 443)]
    tagged = {**args, "ports": ports, "tags": {"team": "peer", "cost": 7}}
    predicted = run(tagged, check=True, diff=True)
    reads = [GROUPS, RULES, GROUPS, INTERFACES]
    assert proxy.take_calls() == reads
    run({**tagged, "ports": ports[:2], "dry_run": True})
    assert proxy.take_calls() == [GROUPS, RULES, "CreateTags"]
    assert tags_of(world.rules(first_group)[-1])["team"] == "kata"

    result = run(tagged, diff=True)
    assert proxy.take_calls() == [*reads, AUTHORIZE, "CreateTags"]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    tunnel = world.rules(first_group)[1]
    assert {
        "port": 9000,
        "protocol": "tcp",
        "rule_id": tunnel["SecurityGroupRuleId"],
        "tags": {"cost": "7", "team": "peer"},
    } in result["groups"][0]["retagged"]
    untagged_rule, *tagged_rules = world.rules(first_group)
    assert untagged_rule["Tags"] == []
    for rule in tagged_rules:
        assert tags_of(rule) == {
            **MANAGED,
            **OF_A,
            "Name": "demo-a-peer-pods",
            "stays": "so",
            "team": "peer",
            "cost": "7",
        }

    assert not run(tagged)["changed"]
    assert proxy.take_calls() == [GROUPS, RULES]


# -- Which groups ------------------------------------------------------------------------------


def test_of_the_groups_that_all_workers_share_the_narrowest_gets_the_rules(world, proxy, run):
    """Other machines with the other groups do not reach the kata agent."""
    *others, narrowest = sorted(world.group(name) for name in ("one", "two", "three"))
    workers = world.instances(2, narrowest, *others)
    for other in others:
        world.instance(other)
    result = run({"instance_ids": workers})
    assert [(group["group_id"], len(group["opened"])) for group in result["groups"]] == [
        *((other, 0) for other in others),
        (narrowest, 3),
    ]
    assert proxy.take_calls() == [*READS, GROUPS, INTERFACES, AUTHORIZE]
    assert world.ports(narrowest) == DEFAULT_PORTS
    assert result["vm_group_ids"] == [*others, narrowest]

    assert not run({"instance_ids": workers})["changed"]
    assert proxy.take_calls() == READS
    # As peer-pods-cm has them after the first run.
    assert not run({"instance_ids": workers, "vm_group_ids": result["vm_group_ids"]})["changed"]
    assert proxy.take_calls() == READS


def test_without_the_permission_to_count_members_one_group_gets_the_rules(world, proxy, run):
    groups = [world.group("one"), world.group("two")]
    proxy.faults[INTERFACES] = [refuse(403, "UnauthorizedOperation")]
    result = run({"instance_ids": world.instances(1, *groups)})
    assert [len(group["opened"]) for group in result["groups"]] == [3, 0]
    assert result["warnings"][0].startswith(
        f"The members of {min(groups)}, {max(groups)} cannot be read, so the first "
    )


def test_a_group_of_the_cluster_is_known_without_counting_members(world, proxy, run):
    names = ("demo-a-node", "demo-a-lb", "corporate")
    node, *others = [world.group(name) for name in names]
    run({"instance_ids": world.instances(2, node, *others)})
    assert proxy.take_calls() == [*READS, GROUPS, AUTHORIZE]
    assert world.ports(node) == DEFAULT_PORTS


def test_one_open_group_of_the_set_is_enough(world, run):
    node, lb = world.group("node"), world.group("lb")
    for port, protocol in DEFAULT_PORTS:
        world.allow(lb, port, protocol, UserIdGroupPairs=[{"GroupId": node}])
    result = run({"instance_ids": world.instances(2, node, lb)})
    assert not result["changed"]
    assert {group["group_id"]: len(group["already_open"]) for group in result["groups"]} == {node: 0, lb: 3}


def test_vms_in_their_own_group(world, proxy, run):
    """Also for workers that share no group."""
    first, second, vms = world.group("one"), world.group("two"), world.group("vms")
    args = {"instance_ids": [world.instance(first), world.instance(second)], "vm_group_ids": [vms]}
    predicted = run(args, check=True, diff=True)
    proxy.take_calls()
    result = run(args, diff=True)
    assert proxy.take_calls() == ["DescribeInstances", GROUPS, RULES, GROUPS, INTERFACES, *[AUTHORIZE] * 3]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    sources = {
        group: sorted(
            (rule["FromPort"], rule["IpProtocol"], rule["ReferencedGroupInfo"]["GroupId"])
            for rule in world.rules(group)
        )
        for group in (first, second, vms)
    }
    assert sources == {
        first: [(9000, "tcp", vms), (9000, "udp", vms)],
        second: [(9000, "tcp", vms), (9000, "udp", vms)],
        vms: sorted((*port, group) for port in DEFAULT_PORTS for group in (first, second)),
    }
    assert result["vm_group_ids"] == [vms]
    assert not run(args)["changed"]
    assert run({"state": "absent"})["changed"]
    assert [world.ports(group) for group in (first, second, vms)] == [[], [], []]


def test_groups_without_egress_rules(world, proxy, run):
    node, vms = world.group("node"), world.group("vms")
    for group in (node, vms):
        permission = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        world.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[permission])
    args = {"instance_ids": [world.instance(node)], "vm_group_ids": [vms]}
    result = run(args)
    opened = {
        group["group_id"]: [
            (rule["direction"], rule["port"], rule["protocol"], rule["peer"]) for rule in group["opened"]
        ]
        for group in result["groups"]
    }
    assert opened == {
        node: [
            ("egress", 15150, "tcp", vms),
            *((direction, 9000, protocol, vms) for direction in ("egress", "ingress") for protocol in ("tcp", "udp")),
        ],
        vms: [
            ("ingress", 15150, "tcp", node),
            *((direction, 9000, protocol, node) for direction in ("ingress", "egress") for protocol in ("tcp", "udp")),
        ],
    }
    assert not run(args)["changed"]
    assert len(run({"state": "absent"})["groups"]) == 2
    assert (
        world.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [node, vms]}])[
            "SecurityGroupRules"
        ]
        == []
    )


def test_named_groups_are_used_for_the_given_workers(world, run):
    """The result has the values for operator_install: instances with VPC and subnet, and the groups of the VMs."""
    first, second = world.group("one"), world.group("two")
    workers = [world.instance(first), world.instance(second)]
    result = run({"instance_ids": workers, "group_ids": [first, second]})
    assert [len(group["opened"]) for group in result["groups"]] == [3, 3]
    assert [instance["instance_id"] for instance in result["instances"]] == workers
    assert result["vm_group_ids"] == [first, second]
    assert run({"instance_ids": workers, "group_ids": [first], "ports": [{"port": 1}]})["msg"] == (
        f"Workers with the security groups {second} have none of {first}, so 1/tcp cannot be opened for them. Add one "
        "of their groups to group_ids."
    )


def test_a_port_that_is_no_longer_requested_is_named_or_closed(world, proxy, run):
    group = world.group("node")
    run({"group_ids": [group], "ports": [{"port": 15150}, {"port": 9001, "protocols": ["udp"]}]})
    now = {"group_ids": [group], "ports": [{"port": 15150}]}
    result = run(now)
    assert not result["changed"]
    (unused,) = result["groups"][0]["unused"]
    assert (unused["port"], unused["protocol"]) == (9001, "udp")
    (warning,) = result["warnings"]
    assert f"no requested port needs them: 9001/udp of {group} ({unused['rule_id']})." in warning
    predicted = run({**now, "purge_rules": True}, check=True, diff=True)
    result = run({**now, "purge_rules": True}, diff=True)
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    assert result["groups"][0]["revoked"] == [unused]
    assert world.ports(group) == [(15150, "tcp")]
    assert not run({**now, "purge_rules": True})["changed"]


# -- Two clusters ------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [A, B], ids=["the first cluster stays", "the second cluster stays"])
def test_two_clusters_with_a_common_group(world, proxy, run, last):
    group = world.group("common")
    args = {"instance_ids": world.instances(2, group), "tags": {"team": "a"}}
    run({**args, **A})
    b_run = {**args, **B, "tags": {"team": "b"}}
    predicted = run(b_run, check=True, diff=True)
    proxy.take_calls()
    result = run(b_run, diff=True)
    assert proxy.take_calls() == [*READS, "CreateTags", RULES]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    assert [rule["tags"] for rule in result["groups"][0]["retagged"]] == [OF_B] * 3
    common = {**MANAGED, **OF_A, **OF_B, "Name": "demo-a-peer-pods", "team": "a"}
    assert [tags_of(rule) for rule in world.rules(group)] == [common] * 3
    for cluster_run in ({**args, **A}, b_run):
        assert not run(cluster_run)["changed"]
    assert [tags_of(rule) for rule in world.rules(group)] == [common] * 3

    first, other, reference = (B, "demo-a (id-of-a)", OF_B) if last is A else (A, "demo-b (id-of-b)", OF_A)
    predicted = run({**first, "state": "absent"}, check=True, diff=True)
    proxy.take_calls()
    result = run({**first, "state": "absent"}, diff=True)
    assert proxy.take_calls() == [RULES, GROUPS, "CreateTags", RULES, "DeleteTags"]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    assert result["changed"]
    assert [rule["reason"] for rule in result["groups"][0]["kept"]] == [f"It is also used by {other}."] * 3
    assert [tags_of(rule) for rule in world.rules(group)] == [
        {key: value for key, value in common.items() if key not in reference}
    ] * 3
    assert not run({**first, "state": "absent"})["changed"]

    assert len(run({**last, "state": "absent"})["groups"][0]["revoked"]) == 3
    assert world.rules(group) == []


def test_clusters_that_leave_at_the_same_time_leave_no_rule(world, proxy, run):
    """Every order of the requests is in tests/unit/test_shared_rules.py."""
    group = world.group("common")
    for cluster in (A, B):
        run({**cluster, "group_ids": [group]})

    def after_the_other_has_left(pass_on: Callable[[], Answer]) -> Answer:
        assert run({**B, "state": "absent"})["changed"]
        return pass_on()

    proxy.faults["CreateTags"] = [after_the_other_has_left]
    assert run({"state": "absent"})["changed"]
    assert world.rules(group) == []


def test_a_cluster_does_not_rely_on_a_rule_that_another_one_removes(world, proxy, run):
    """It adds its tag after the last read of the other run."""
    group = world.group("common")
    run({"group_ids": [group]})
    has_joined = threading.Event()

    def read_and_report(pass_on: Callable[[], Answer]) -> Answer:
        answer = pass_on()
        has_joined.set()
        return answer

    with ThreadPoolExecutor() as pool:
        joining = []

        def after_the_other_cluster(pass_on: Callable[[], Answer]) -> Answer:
            proxy.faults[RULES] = [work, read_and_report]
            joining.append(pool.submit(run, {**B, "group_ids": [group]}))
            assert has_joined.wait(60)
            return pass_on()

        proxy.faults[REVOKE] = [after_the_other_cluster]
        assert len(run({"state": "absent"})["groups"][0]["revoked"]) == 3
        assert len(joining[0].result()["groups"][0]["opened"]) == 3
    assert [tags_of(rule) for rule in world.rules(group)] == [{**MANAGED, **OF_B, "Name": "demo-b-peer-pods"}] * 3


def test_a_rule_that_another_cluster_begins_to_use_stays(world, proxy, run):
    """It gets the tag of that cluster between the first read and the removal."""
    group = world.group("common")
    run({"group_ids": [group]})

    def after_the_other_cluster(pass_on: Callable[[], Answer]) -> Answer:
        run({**B, "group_ids": [group]})
        return pass_on()

    proxy.faults[GROUPS] = [after_the_other_cluster]
    result = run({"state": "absent"})
    assert result["groups"][0]["revoked"] == []
    assert [tags_of(rule) for rule in world.rules(group)] == [{**MANAGED, **OF_B, "Name": "demo-a-peer-pods"}] * 3


def test_a_rule_that_is_removed_before_it_is_tagged_is_added_again(world, proxy, run):
    group = world.group("common")
    run({"group_ids": [group]})

    def after_the_other_has_left(pass_on: Callable[[], Answer]) -> Answer:
        answer = pass_on()
        for rule in world.rules(group):
            world.ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
        return answer

    proxy.faults["CreateTags"] = [after_the_other_has_left]
    result = run({**B, "group_ids": [group]})
    assert len(result["groups"][0]["opened"]) == 3
    assert [tags_of(rule) for rule in world.rules(group)] == [{**MANAGED, **OF_B, "Name": "demo-b-peer-pods"}] * 3


def test_a_rule_that_another_cluster_adds_at_the_same_time_gets_a_reference(world, proxy, run):
    group = world.group("common")

    def after_the_other_cluster(pass_on: Callable[[], Answer]) -> Answer:
        run({**B, "group_ids": [group]})
        return pass_on()

    proxy.faults[AUTHORIZE] = [after_the_other_cluster]
    result = run({"group_ids": [group]})
    assert result["changed"]
    assert result["groups"][0]["opened"] == []
    assert [tags_of(rule) for rule in world.rules(group)] == [
        {**MANAGED, **OF_B, **OF_A, "Name": "demo-b-peer-pods"}
    ] * 3


def test_rules_without_the_mark_of_a_cluster_stay(world, run):
    """Those of a user, and those of a version of the collection that did not record the cluster."""
    group = world.group("node")
    run({"group_ids": [group]})
    marked = [rule["SecurityGroupRuleId"] for rule in world.rules(group)]
    world.ec2.delete_tags(Resources=marked, Tags=[{"Key": key} for key in OF_A])
    before = world.rules(group)
    assert not run({"group_ids": [group], "tags": {"team": "a"}})["changed"]
    result = run({"state": "absent"})
    assert not result["changed"]
    kept = next(g["kept"] for g in result["groups"] if g["group_id"] == group)
    assert {rule["reason"] for rule in kept} == {
        "It has no tag osc.peerpods/cluster/…, so the clusters that use it are unknown."
    }
    assert world.rules(group) == before


# -- Invalid input -----------------------------------------------------------------------------


def test_workers_without_a_common_group(world, proxy, run):
    node, other_group = world.group("node"), world.group("other")
    workers = [world.instance(node), world.instance(other_group)]
    result = run({"instance_ids": workers})
    assert result["failed"]
    assert result["msg"] == (
        f"The 2 instances share no security group: {workers[0]} has {node}; {workers[1]} has {other_group}. Set "
        "group_ids to the groups of the workers to use, or vm_group_ids to those of the VMs."
    )
    assert AUTHORIZE not in proxy.take_calls()


def test_missing_instances_are_reported(world, proxy, run):
    group = world.group("node")
    worker, terminated = world.instance(group), world.instance(group)
    world.ec2.terminate_instances(InstanceIds=[terminated])
    result = run({"instance_ids": [worker, terminated, "i-0123456789abcdef0"]})
    assert result["failed"]
    assert result["msg"].startswith(
        f"EC2 has no instance i-0123456789abcdef0 in {REGION} and {terminated} is terminated. "
    )
    assert proxy.take_calls() == ["DescribeInstances"]


@pytest.mark.parametrize(
    ("args", "msg"),
    [
        ({"group_ids": ["sg-0123456789abcdef0"]}, "EC2 has no security group sg-0123456789abc"),
        ({"instance_ids": []}, "No worker and no security group is given"),
        ({"instance_ids": ["azure:///w"]}, "'azure:///w' is not the id of an EC2 instance"),
        ({"group_ids": ["sg-1"], "ports": [{"port": 70000}]}, "70000 is not a port"),
        ({"group_ids": ["sg-1"], "cluster_id": ""}, "cluster_id is empty. "),
        ({"state": "absent", "cluster_name": ""}, "cluster_name is empty. "),
    ],
)
def test_other_bad_input_is_rejected(run, args, msg):
    result = run(args)
    assert result["failed"]
    assert result["msg"].startswith(msg)


# -- Credentials -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "fault", "message", "advice"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            None,
            "No AWS credentials for EC2 were found: ",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            {"AWS_SESSION_TOKEN": "a-token-of-yesterday"},
            refuse(400, "RequestExpired", "Request has expired."),
            f"EC2 in {REGION} rejected DescribeSecurityGroups with RequestExpired: ",
            "The credentials have expired: get new ones.",
        ),
        (
            {},
            refuse(401, "AuthFailure", "AWS was not able to validate the credentials"),
            f"EC2 in {REGION} rejected DescribeSecurityGroups with AuthFailure: ",
            "or name a profile",
        ),
        (
            {},
            refuse(
                403,
                "UnauthorizedOperation",
                "You are not authorized. Encoded authorization failure message: AbCd",
            ),
            f"EC2 in {REGION} rejected DescribeSecurityGroups with UnauthorizedOperation: ",
            (
                "You are not authorized. aws sts decode-authorization-message --query DecodedMessage --output text "
                "--encoded-message AbCd shows the reason to identities with sts:DecodeAuthorizationMessage. Grant "
                "ec2:DescribeSecurityGroups to the identity"
            ),
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
            None,
            f"Calling EC2 DescribeSecurityGroups in {REGION} failed: ",
            "Check region and endpoint_url",
        ),
    ],
    ids=["none", "expired", "wrong", "not allowed", "unreachable"],
)
def test_rejected_credentials_are_reported_with_advice(proxy, run, env, fault, message, advice):
    if fault:
        proxy.faults["DescribeSecurityGroups"] = [fault]
    result = run({"group_ids": ["sg-0123456789abcdef0"]}, env=env)
    assert result["failed"]
    assert result["msg"].startswith(message)
    assert advice in result["msg"]


def test_no_secret_is_shown(moto, world, run):
    args = {
        "group_ids": [world.group("node")],
        "access_key": moto.environment["AWS_ACCESS_KEY_ID"],
        "secret_key": moto.environment["AWS_SECRET_ACCESS_KEY"],
        "session_token": "a-token-that-must-not-be-shown",
    }
    output = str(run(args, env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}))
    assert "opened" in output
    assert args["secret_key"] not in output
    assert args["session_token"] not in output


def test_dry_run_checks_permissions_and_changes_nothing(world, proxy, run):
    group = world.group("node")
    args = {"group_ids": [group], "dry_run": True}
    result = run(args)
    assert proxy.take_calls() == [GROUPS, RULES, AUTHORIZE]
    assert not result["changed"]
    assert len(result["groups"][0]["opened"]) == 3
    assert world.rules(group) == []

    proxy.faults[AUTHORIZE] = [refuse(403, "UnauthorizedOperation")]
    result = run(args, check=True)
    assert result["failed"]
    assert f"rejected {AUTHORIZE} with UnauthorizedOperation" in result["msg"]

    run({"group_ids": [group]})
    proxy.take_calls()
    assert not run({"state": "absent", "dry_run": True})["changed"]
    assert REVOKE in proxy.take_calls()
    proxy.faults[REVOKE] = [refuse(403, "UnauthorizedOperation")]
    assert run({"state": "absent", "dry_run": True}, check=True)["failed"]
    assert world.ports(group) == DEFAULT_PORTS


# -- Faults and races, and their end state -----------------------------------------------------


@pytest.mark.parametrize(
    ("action", "faults", "env"),
    [
        (AUTHORIZE, [refuse(503, "RequestLimitExceeded")] * 3, {"AWS_MAX_ATTEMPTS": "1"}),
        (
            "DescribeSecurityGroups",
            [refuse(503, "RequestLimitExceeded")] * 3,
            {"AWS_MAX_ATTEMPTS": "1"},
        ),
        (AUTHORIZE, [refuse(500, "InternalError")], {}),
        (AUTHORIZE, [hang_up], {}),
        (AUTHORIZE, [refuse(400, "InvalidGroup.NotFound")], {}),
        ("DescribeSecurityGroups", [no_such_groups_yet], {}),
    ],
    ids=[
        "throttled write",
        "throttled read",
        "internal error",
        "connection reset",
        "group not yet known to the write",
        "group not yet known to the read",
    ],
)
def test_transient_faults_are_survived(world, proxy, run, action, faults, env):
    group = world.group("node")
    proxy.faults[action] = list(faults)
    result = run({"group_ids": [group]}, env=env)
    assert result["changed"], result
    assert proxy.faults[action] == []
    assert proxy.take_calls().count(action) == len(faults) + 1
    assert world.ports(group) == DEFAULT_PORTS


def test_a_list_with_an_expired_page_token_is_restarted(world, proxy, run):
    proxy.page_size = 1
    node, other_group = world.group("node"), world.group("other")
    workers = [world.instance(node, other_group), world.instance(node)]
    proxy.faults["DescribeInstances"] = [work, refuse(400, "InvalidNextToken")]
    result = run({"instance_ids": workers})
    assert [instance["instance_id"] for instance in result["instances"]] == workers
    assert proxy.take_calls() == ["DescribeInstances"] * 4 + [RULES, AUTHORIZE]
    assert world.ports(node) == DEFAULT_PORTS
    assert world.rules(other_group) == []


@pytest.mark.parametrize(
    ("action", "second_page", "message"),
    [
        ("DescribeInstances", cut_the_answer, f"Calling EC2 {{}} in {REGION} failed: Unable to parse "),
        ("DescribeInstances", refuse(403, "UnauthorizedOperation"), f"EC2 in {REGION} rejected {{}} with Unauth"),
        (RULES, refuse(400, "RequestExpired"), f"EC2 in {REGION} rejected {{}} with RequestExp"),
        (RULES, refuse(403, "UnauthorizedOperation"), f"EC2 in {REGION} rejected {{}} with Unauth"),
    ],
    ids=["cut off", "refused", "login expired", "rules refused"],
)
def test_a_truncated_response_is_not_used(world, proxy, run, action, second_page, message):
    """Nothing is opened for the workers, groups and rules that came in the first page."""
    group = world.group("node")
    args = {"instance_ids": [world.instance(group)], "tags": {"team": "kata"}}
    if action == RULES:
        run({**args, "ports": [{"port": 9000}]})
    before = world.rules(group)
    proxy.take_calls()
    proxy.faults[action] = [promise_another_page, second_page]
    result = run(args)
    assert result["failed"]
    assert result["msg"].startswith(message.format(action))
    assert "\n" not in result["msg"]
    assert len(result["msg"]) < 400
    assert not {AUTHORIZE, "CreateTags"}.intersection(proxy.take_calls())
    assert world.rules(group) == before


def test_a_lost_response_creates_no_duplicate(world, proxy, run):
    """The request is sent again, and EC2 has everything already. The run made the changes all the same."""
    group = world.group("node")
    proxy.faults[AUTHORIZE] = [lose_the_answer]
    result = run({"group_ids": [group]})
    assert result["changed"], result
    assert [rule["port"] for rule in result["groups"][0]["opened"]] == [15150, 9000, 9000]
    assert result["groups"][0]["already_open"] == []
    assert world.ports(group) == DEFAULT_PORTS

    proxy.faults["CreateTags"] = [lose_the_answer]
    assert run({"group_ids": [group], "tags": {"team": "a"}})["changed"]

    proxy.faults[REVOKE] = [lose_the_answer]
    result = run({"state": "absent"})
    assert result["changed"], result
    assert sorted(rule["port"] for rule in result["groups"][0]["revoked"]) == [9000, 9000, 15150]
    assert world.rules(group) == []


TOO_MANY = refuse(400, "RulesPerSecurityGroupLimitExceeded")
NO_RETRIES = {"AWS_MAX_ATTEMPTS": "1"}


@pytest.mark.parametrize(
    ("action", "fault", "before"),
    [
        (AUTHORIZE, [work, TOO_MANY], "opened 15150/tcp of {0}, 9000/tcp of {0}, 9000/udp of {0}"),
        (
            AUTHORIZE,
            [work, refuse(403, "UnauthorizedOperation")],
            "opened 15150/tcp of {0}, 9000/tcp of {0}, 9000/udp of {0}",
        ),
        (AUTHORIZE, [TOO_MANY], None),
        (
            REVOKE,
            [work, refuse(403, "UnauthorizedOperation")],
            (
                "tagged 15150/tcp of {1}, 9000/tcp of {1}, 9000/udp of {1}, "
                "removed 15150/tcp of {0}, 9000/tcp of {0}, 9000/udp of {0}"
            ),
        ),
        ("CreateTags", [refuse(403, "UnauthorizedOperation")], None),
    ],
)
def test_a_failed_run_reports_what_it_changed(world, proxy, run, action, fault, before):
    args = {"group_ids": [world.group("one"), world.group("two")]}
    if action != AUTHORIZE:
        run(args)
        args = {"state": "absent"} if action == REVOKE else {**args, "tags": {"team": "a"}}
    proxy.faults[action] = fault
    result = run(args, diff=True)
    assert result["failed"]
    assert result["msg"].startswith(f"EC2 in {REGION} rejected {action} with ")
    assert result.get("changed", False) == bool(before)
    if before is None:
        assert "groups" not in result
        return
    key = "opened" if action == AUTHORIZE else "revoked"
    (changed, unchanged) = sorted(result["groups"], key=lambda group: -len(group[key]))
    assert (len(changed[key]), len(unchanged[key])) == (3, 0)
    before = before.format(changed["group_id"], unchanged["group_id"])
    assert result["msg"].endswith(f" Before, this run {before}.")
    assert len(result["diff"]) == 2
    assert len(world.rules(changed["group_id"])) == (3 if action == AUTHORIZE else 0)
    assert len(world.rules(unchanged["group_id"])) == (0 if action == AUTHORIZE else 3)


def test_a_removal_that_was_rejected_is_resumed_or_taken_back(world, proxy, run):
    """Its rules have the mark of a removal."""
    group = world.group("one")
    run({"group_ids": [group]})
    for again in ({"group_ids": [group]}, {"state": "absent"}):
        proxy.faults[REVOKE] = [refuse(403, "UnauthorizedOperation")]
        result = run({"state": "absent"})
        assert (result["failed"], result["changed"]) == (True, True)
        assert {rule["tags"].popitem() for rule in result["groups"][0]["retagged"]} == {
            ("osc.peerpods/cluster/id-of-a", "leaving:demo-a")
        }
        assert run(again)["changed"]
        assert [tags_of(rule)["osc.peerpods/cluster/id-of-a"] for rule in world.rules(group)] == (
            ["demo-a"] * 3 if "group_ids" in again else []
        )


def test_an_answer_that_is_not_that_of_aws_is_not_a_change(world, proxy, run):
    group = world.group("node")
    proxy.faults[AUTHORIZE] = [lambda pass_on: (200, b"<html>Log in here</html>")]
    result = run({"group_ids": [group]})
    assert result["failed"]
    assert result["msg"].startswith(f"The answer to EC2 {AUTHORIZE} in {REGION} is not that of AWS")
    assert not result.get("changed")
    assert world.rules(group) == []


def test_a_failed_run_reports_a_change_whose_response_was_lost(world, proxy, run):
    """The connection breaks after each request, until no retry is left. The rules show what was changed."""
    group = world.group("node")
    proxy.faults[AUTHORIZE] = [lose_the_answer, *[hang_up] * 20]
    result = run({"group_ids": [group]}, env=NO_RETRIES)
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"].startswith(f"Calling EC2 {AUTHORIZE} in {REGION} failed: ")
    assert f" Before, this run opened 15150/tcp of {group}, 9000/tcp of {group}, 9000/udp of {group}." in result["msg"]
    assert world.ports(group) == DEFAULT_PORTS


def test_a_change_that_may_have_been_made_is_reported_as_such(world, proxy, run):
    group = world.group("node")
    proxy.faults[AUTHORIZE] = [lose_the_answer, *[hang_up] * 20]
    proxy.faults[RULES] = [work, refuse(403, "UnauthorizedOperation")]
    result = run({"group_ids": [group]}, env=NO_RETRIES)
    assert (result["failed"], result["changed"]) == (True, True)
    assert (
        "The request may have been applied: no response was received, and the rules could not be read" in result["msg"]
    )


def test_two_concurrent_runs(world, proxy, run):
    """Both runs read closed ports before either opens them."""
    group = world.group("node")
    both_have_read = threading.Barrier(2, timeout=60)

    def after_the_other_has_looked(pass_on: Callable[[], Answer]) -> Answer:
        both_have_read.wait()
        return pass_on()

    proxy.faults[AUTHORIZE] = [after_the_other_has_looked] * 2
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(run, [{"group_ids": [group]}] * 2))
    assert not any(result.get("failed") for result in results), results
    assert any(result["changed"] for result in results)
    assert world.ports(group) == DEFAULT_PORTS
