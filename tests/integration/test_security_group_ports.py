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
REVOKE = "RevokeSecurityGroupIngress"
RULES = "DescribeSecurityGroupRules"
READS = ["DescribeInstances", "DescribeSecurityGroups"]
OUR_TAG = {"Key": "osc.peerpods/managed", "Value": "true"}


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

    def allow(self, group_id: str, port: int, **source: list) -> None:
        self.ec2.authorize_security_group_ingress(
            GroupId=group_id,
            IpPermissions=[{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}],
        )

    def rules(self, group_id: str) -> list[dict]:
        response = self.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group_id]}])[
            "SecurityGroupRules"
        ]
        return sorted((r for r in response if not r["IsEgress"]), key=lambda rule: rule["FromPort"])

    def ports(self, group_id: str) -> list[tuple[int, str]]:
        return [(rule["FromPort"], rule["IpProtocol"]) for rule in self.rules(group_id)]


DEFAULT_PORTS = [(9000, "tcp"), (15150, "tcp")]


@pytest.fixture
def world(moto: Moto) -> World:
    ec2 = moto.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24", AvailabilityZone=f"{REGION}a")
    return World(ec2, vpc_id, subnet["Subnet"]["SubnetId"])


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
        return run_module("security_group_ports", args, env=environment, **modes)

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
            "opened": [{"port": 15150, "protocol": "tcp"}, {"port": 9000, "protocol": "tcp"}],
            "already_open": [],
            "revoked": [],
            "retagged": [],
        }
    ]
    assert result["instances"][2] == {
        "instance_id": workers[2],
        "vpc_id": world.vpc_id,
        "subnet_id": world.subnet_id,
        "availability_zone": f"{REGION}a",
        "group_ids": [node],
    }
    assert result["diff"][0]["before"] == "9000/tcp closed\n15150/tcp closed\n"
    assert "9000/tcp open to the group itself (tcp 9000)\n" in result["diff"][0]["after"]

    assert world.ports(node) == DEFAULT_PORTS
    for rule in world.rules(node):
        assert rule["ReferencedGroupInfo"]["GroupId"] == node
        assert OUR_TAG in rule["Tags"]
        assert {"Key": "team", "Value": "kata"} in rule["Tags"]
    (group,) = world.ec2.describe_security_groups(GroupIds=[node])["SecurityGroups"]
    for permission in group["IpPermissions"]:
        (pair,) = permission["UserIdGroupPairs"]
        assert pair["Description"].startswith(f"osc.peerpods: port {permission['FromPort']}/tcp ")
    assert world.rules(lb) == []

    second_result = run({**args, "tags": {}})
    assert proxy.take_calls() == READS
    assert not second_result["changed"]
    assert second_result["groups"][0]["opened"] == []
    assert second_result["groups"][0]["already_open"] == [
        {"port": 15150, "protocol": "tcp", "covered_by": "the group itself (tcp 15150)"},
        {"port": 9000, "protocol": "tcp", "covered_by": "the group itself (tcp 9000)"},
    ]


def test_absent_removes_only_what_was_added(world, proxy, run):
    group = world.group("node")
    world.allow(group, 9000, UserIdGroupPairs=[{"GroupId": group}])
    world.allow(group, 22, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
    args = {"group_ids": [group], "ports": [{"port": 9000, "protocols": ["tcp", "udp"]}]}
    assert run(args)["groups"][0]["opened"] == [{"port": 9000, "protocol": "udp"}]
    added_rules = [rule["SecurityGroupRuleId"] for rule in world.rules(group) if rule["Tags"]]
    proxy.take_calls()

    absent = {**args, "state": "absent"}
    predicted = run(absent, check=True)
    assert proxy.take_calls() == ["DescribeSecurityGroups", "DescribeSecurityGroupRules"]
    result = run(absent)
    assert proxy.take_calls() == ["DescribeSecurityGroups", "DescribeSecurityGroupRules", REVOKE]
    assert predicted["groups"] == result["groups"]
    assert result["groups"][0]["revoked"] == [{"port": 9000, "protocol": "udp", "rule_id": added_rules[0]}]
    assert world.ports(group) == [(22, "tcp"), (9000, "tcp")]

    assert not run(absent)["changed"]
    assert REVOKE not in proxy.take_calls()


def test_a_port_that_is_open_to_the_whole_vpc_is_unchanged(world, proxy, run):
    group = world.group("node")
    entries = [{"Cidr": "192.0.2.0/24"}, {"Cidr": "10.0.0.0/8"}]
    prefix_list = world.ec2.create_managed_prefix_list(
        PrefixListName="inside", MaxEntries=5, AddressFamily="IPv4", Entries=entries
    )["PrefixList"]["PrefixListId"]
    world.allow(group, 9000, PrefixListIds=[{"PrefixListId": prefix_list}])
    world.allow(group, 15150, IpRanges=[{"CidrIp": "10.0.0.0/16"}])

    result = run({"group_ids": [group]})
    assert not result["changed"]
    assert [port["covered_by"] for port in result["groups"][0]["already_open"]] == [
        "10.0.0.0/16 (tcp 15150)",
        f"{prefix_list} (tcp 9000)",
    ]
    assert sorted(proxy.take_calls()) == [
        "DescribeSecurityGroups",
        "DescribeVpcs",
        "GetManagedPrefixListEntries",
    ]

    world.ec2.associate_vpc_cidr_block(VpcId=world.vpc_id, CidrBlock="172.16.0.0/16")
    assert run({"group_ids": [group]})["changed"]


def test_a_prefix_list_that_cannot_be_read_covers_nothing(world, proxy, run):
    group = world.group("node")
    world.allow(group, 9000, PrefixListIds=[{"PrefixListId": "pl-0a1b2c3d"}])
    proxy.faults["GetManagedPrefixListEntries"] = [refuse(403, "UnauthorizedOperation")]

    result = run({"group_ids": [group], "ports": [{"port": 9000}]})
    assert result["groups"][0]["opened"] == [{"port": 9000, "protocol": "tcp"}]
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
    assert proxy.take_calls() == ["DescribeInstances"] * 3 + ["DescribeSecurityGroups", AUTHORIZE]


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


def test_the_tags_of_the_collections_rules_are_set_in_one_call(world, proxy, run):
    first_group, second_group = world.group("one"), world.group("two")
    args = {"group_ids": [first_group, second_group]}
    run({**args, "tags": {"team": "kata", "stays": "so"}})
    world.allow(first_group, 443, UserIdGroupPairs=[{"GroupId": first_group}])
    proxy.take_calls()

    ports = [{"port": port} for port in (15150, 9000, 443)]
    tagged = {**args, "ports": ports, "tags": {"team": "peer", "cost": 7}}
    predicted = run(tagged, check=True, diff=True)
    assert proxy.take_calls() == ["DescribeSecurityGroups", RULES]
    run({**tagged, "group_ids": [first_group], "dry_run": True})
    assert proxy.take_calls() == ["DescribeSecurityGroups", RULES, "CreateTags"]
    assert {"Key": "team", "Value": "kata"} in world.rules(first_group)[-1]["Tags"]

    result = run(tagged, diff=True)
    calls = proxy.take_calls()
    assert calls == ["DescribeSecurityGroups", RULES, AUTHORIZE, "CreateTags"]
    for key in ("changed", "groups", "diff"):
        assert predicted[key] == result[key], key
    tunnel = world.rules(first_group)[1]
    assert result["groups"][0]["retagged"][0] == {
        "port": 9000,
        "protocol": "tcp",
        "rule_id": tunnel["SecurityGroupRuleId"],
        "tags": {"cost": "7", "team": "peer"},
    }
    untagged_rule, *tagged_rules = world.rules(first_group)
    assert untagged_rule["Tags"] == []
    for rule in tagged_rules:
        assert {tag["Key"]: tag["Value"] for tag in rule["Tags"]} == {
            "osc.peerpods/managed": "true",
            "stays": "so",
            "team": "peer",
            "cost": "7",
        }

    assert not run(tagged)["changed"]
    assert proxy.take_calls() == ["DescribeSecurityGroups", RULES]


# -- Invalid input -----------------------------------------------------------------------------


def test_workers_without_a_common_group(world, proxy, run):
    node, other_group = world.group("node"), world.group("other")
    workers = [world.instance(node), world.instance(other_group)]
    result = run({"instance_ids": workers})
    assert result["failed"]
    assert result["msg"] == (
        f"The 2 instances share no security group: {workers[0]} has {node}; "
        f"{workers[1]} has {other_group}. Set group_ids to the groups to open."
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
            "You are not authorized. Grant these credentials the permissions",
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
    assert proxy.take_calls() == ["DescribeSecurityGroups", AUTHORIZE]
    assert not result["changed"]
    assert len(result["groups"][0]["opened"]) == 2
    assert world.rules(group) == []

    proxy.faults[AUTHORIZE] = [refuse(403, "UnauthorizedOperation")]
    result = run(args, check=True)
    assert result["failed"]
    assert f"rejected {AUTHORIZE} with UnauthorizedOperation" in result["msg"]


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
    assert proxy.take_calls() == ["DescribeInstances"] * 4 + ["DescribeSecurityGroups", AUTHORIZE]
    assert world.ports(node) == DEFAULT_PORTS
    assert world.rules(other_group) == []


@pytest.mark.parametrize(
    ("action", "second_page", "message"),
    [
        ("DescribeInstances", cut_the_answer, f"Calling EC2 {{}} in {REGION} failed: Unable to parse "),
        ("DescribeInstances", refuse(403, "UnauthorizedOperation"), f"EC2 in {REGION} rejected {{}} with Unauth"),
        ("DescribeSecurityGroups", refuse(400, "RequestExpired"), f"EC2 in {REGION} rejected {{}} with RequestExp"),
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
    group = world.group("node")
    proxy.faults[AUTHORIZE] = [lose_the_answer]
    result = run({"group_ids": [group]})
    assert not result.get("failed"), result
    assert world.ports(group) == DEFAULT_PORTS

    proxy.faults[REVOKE] = [lose_the_answer]
    result = run({"group_ids": [group], "state": "absent"})
    assert not result.get("failed"), result
    assert world.rules(group) == []


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
