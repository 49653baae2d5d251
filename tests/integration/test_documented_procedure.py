"""The documented commands on one copy of a cloud and the roles on another: the same end state, and 9000/udp.

The tunnel of cloud-api-adaptor is VXLAN over UDP, for which the documented procedure has no rule. Tables in this file
list the differences and their reasons. Where the documented commands fail, the tests show the failure and the result of
the module that the role runs with the same defaults.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import documented
from tests.azure_arm import AzureArm, roles
from tests.azure_arm.az import AZURE_CLI, Az
from tests.cluster import aws, azure, openshift
from tests.cluster.launcher import Cluster
from tests.environments import own_environment
from tests.support import JSON_OUTPUT, OPERATOR_NAMESPACE, ROOT, ansible_environment

KATA_AGENT, VXLAN = "Allow-Kata-Agent-Internal", "Allow-VXLAN-Internal"
# The collection's own.
VXLAN_UDP = "Allow-VXLAN-UDP-Internal"


def differing(documented_rules: list[dict], collection_rules: list[dict]) -> set[str]:
    """The fields that are not equal, a field that only one side has among them."""
    assert len(documented_rules) == len(collection_rules)
    missing = object()
    return {
        field
        for documented_rule, collection_rule in zip(documented_rules, collection_rules, strict=True)
        for field in documented_rule.keys() | collection_rule.keys()
        if documented_rule.get(field, missing) != collection_rule.get(field, missing)
    }


@dataclass
class Machine:
    """The user's machine: a cluster to log in to, and the environment."""

    cluster: Cluster
    environment: dict[str, str]
    programs: tuple[Path, ...]

    def type(self, script: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return documented.typed(script, environment, self.cluster.bin, *self.programs)

    def run(self, run_module: Callable[..., dict], name: str, **options: str) -> dict:
        """The result of the module `name` for all workers."""
        environment = {**self.environment, "K8S_AUTH_KUBECONFIG": str(self.cluster.kubeconfig)}
        identity = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
        result = run_module(name, {"nodes": {}, **identity, **options}, env=environment)
        assert not result.get("failed"), result["msg"]
        return result

    def open_ports(self, **variables: object) -> dict:
        """The result of the role cloud_networking, run by site.yml."""
        completed = subprocess.run(
            ["ansible-playbook", "site.yml", "--tags=cloud_networking", "-e", json.dumps(variables)],
            env={**self.environment, **JSON_OUTPUT, "KUBECONFIG": str(self.cluster.kubeconfig)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        (play,) = json.loads(completed.stdout)["plays"]
        results = (task["hosts"].get("localhost", {}) for task in play["tasks"])
        return next(result for result in results if "reason" in result)


# -- AWS (3.1.2.1) -----------------------------------------------------------------------------

AWS_DIFFERENT = {
    "SecurityGroupRuleId": "EC2's own, never the same twice",
    "Description": "names the program that opened the port, and the purpose",
    "Tags": "identify the rules of the collection for state: absent",
}


@dataclass
class Aws(Machine):
    ec2: object
    group_id: str
    first_worker: str

    def groups_of_first_worker(self) -> list[str]:
        response = self.ec2.describe_instances(InstanceIds=[self.first_worker])
        (instance,) = response["Reservations"][0]["Instances"]
        return [group["GroupId"] for group in instance["SecurityGroups"]]

    def put_first_worker_in(self, group_ids: list[str]) -> None:
        self.ec2.modify_instance_attribute(InstanceId=self.first_worker, Groups=group_ids)

    def rules(self) -> list[dict]:
        response = self.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [self.group_id]}])[
            "SecurityGroupRules"
        ]
        return sorted(
            (r for r in response if not r["IsEgress"]), key=lambda rule: (rule["FromPort"], rule["IpProtocol"])
        )

    def back_to(self, before: list[dict]) -> None:
        """Remove all rules that were added since `before`. The rules of then must still exist."""
        known = {rule["SecurityGroupRuleId"] for rule in before}
        added = {rule["SecurityGroupRuleId"] for rule in self.rules()} - known
        if added:
            self.ec2.revoke_security_group_ingress(GroupId=self.group_id, SecurityGroupRuleIds=sorted(added))
        assert self.rules() == before

    def ip_permissions(self) -> list[dict]:
        """The same rules as DescribeSecurityGroups returns them, one for each pair of groups."""
        (group,) = self.ec2.describe_security_groups(GroupIds=[self.group_id])["SecurityGroups"]
        return [
            {**permission, "UserIdGroupPairs": None, **pair}
            for permission in sorted(
                group["IpPermissions"], key=lambda permission: (permission["FromPort"], permission["IpProtocol"])
            )
            for pair in permission["UserIdGroupPairs"]
        ]


@pytest.fixture
def on_aws(moto: aws.Moto, cluster: Cluster, cloud_side: aws.CloudSide) -> Iterator[Aws]:
    # The documented commands read the first worker by name.
    first = min(cloud_side.workers, key=lambda worker: worker.name)
    world = Aws(
        cluster,
        ansible_environment(moto.environment),
        (own_environment(documented.AWSCLI),),
        moto.client("ec2"),
        cloud_side.worker_group_id,
        first.provider_id.rpartition("/")[2],
    )
    groups, before = world.groups_of_first_worker(), world.rules()
    yield world
    world.put_first_worker_in(groups)
    world.back_to(before)


def without_udp(rules: list[dict]) -> list[dict]:
    return [rule for rule in rules if (rule["FromPort"], rule["IpProtocol"]) != (9000, "udp")]


def test_aws_ports(on_aws: Aws):
    """The first worker is in one group, the case that the documented commands support."""
    before = on_aws.rules()
    on_aws.put_first_worker_in([on_aws.group_id])
    completed = on_aws.type(documented.AWS_PORTS)
    assert (completed.returncode, completed.stderr) == (0, "")
    documented_rules, documented_permissions = on_aws.rules(), on_aws.ip_permissions()
    on_aws.back_to(before)

    assert on_aws.open_ports()["changed"]
    different = differing(documented_rules, without_udp(on_aws.rules()))
    different |= differing(documented_permissions, without_udp(on_aws.ip_permissions()))
    assert different == AWS_DIFFERENT.keys()
    assert len(on_aws.rules()) == len(documented_rules) + 1
    assert [(rule["FromPort"], rule["IpProtocol"]) for rule in documented_rules] == sorted(
        [(9000, "tcp"), (15150, "tcp"), *aws.PORTS_OPEN_BEFORE.items()]
    )


def test_aws_workers_in_two_groups(on_aws: Aws, cloud_side: aws.CloudSide, run_module: Callable[..., dict]):
    """${SG} then consists of two words, but --group-id accepts only one."""
    before = on_aws.rules()
    second = on_aws.ec2.create_security_group(GroupName="load-balancer", Description="Another", VpcId=cloud_side.vpc_id)
    on_aws.put_first_worker_in([on_aws.group_id, second["GroupId"]])
    completed = on_aws.type(documented.AWS_PORTS)
    assert "Unknown options: sg-" in completed.stderr
    assert on_aws.rules() == before

    cluster = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
    (group,) = on_aws.run(run_module, "security_group_ports", region=aws.REGION, **cluster)["groups"]
    assert group["group_id"] == on_aws.group_id
    added = [(rule["FromPort"], rule["IpProtocol"]) for rule in on_aws.rules() if rule not in before]
    assert added == [(9000, "tcp"), (9000, "udp"), (15150, "tcp")]


AWS_ROLE_DIFFERENT = {
    "RoleId": "IAM's own",
    "CreateDate": "the time",
    "Arn": "contains the name",
    "RoleName": "is that of the cluster, so that several clusters can share an account",
    "Description": "names the program that created the role, and the purpose",
    "Tags": "identify the role of the collection for state: absent",
    "AssumeRolePolicyDocument": "has a list of one subject, as ccoctl writes it",
}


def test_aws_role_for_tokens(on_aws: Aws, moto: aws.Moto, run_module: Callable[..., dict]):
    issuer = "https://documented.s3.eu-central-1.amazonaws.com"
    iam = moto.client("iam")
    iam.create_open_id_connect_provider(Url=issuer, ClientIDList=["openshift"], ThumbprintList=[])
    openshift.use_tokens(on_aws.cluster, issuer)
    configured = replace(on_aws, environment={**on_aws.environment, "AWS_DEFAULT_REGION": aws.REGION})
    completed = configured.type(documented.AWS_TOKEN)
    openshift.use_root_credential(on_aws.cluster)
    assert (completed.returncode, completed.stderr) == (0, "")
    identity = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
    options = {**identity, "issuer": issuer, "region": aws.REGION}
    created = run_module("iam_token_role", options, env=on_aws.environment)
    documented_role, role = (
        iam.get_role(RoleName=name)["Role"] for name in ("openshift-sandboxed-containers-role", created["role"]["name"])
    )
    run_module("iam_token_role", {**options, "state": "absent"}, env=on_aws.environment)
    assert differing([documented_role], [role]) == AWS_ROLE_DIFFERENT.keys()
    (expected,), (statement,) = (each["AssumeRolePolicyDocument"]["Statement"] for each in (documented_role, role))
    subject = next(key for key in expected["Condition"]["StringEquals"] if key.endswith(":sub"))
    expected["Condition"]["StringEquals"][subject] = [expected["Condition"]["StringEquals"][subject]]
    assert statement == expected
    # The check of a role that was given accepts the documented one.
    checked = run_module(
        "iam_token_role_info",
        {"role_arn": documented_role["Arn"], "issuer": issuer, "region": aws.REGION},
        env=on_aws.environment,
    )
    iam.delete_role(RoleName=documented_role["RoleName"])
    assert checked["problems"] == []


# -- Azure (3.1.3.1) ---------------------------------------------------------------------------

AZURE_DIFFERENT = {
    "etag": "ARM's own, another after each write",
    "description": "identifies the cluster whose rule it is, for its teardown",
    "name": "ends with the name of the cluster, so that several clusters can share a group",
    "id": "contains the name",
}


@dataclass
class Azure(Machine):
    arm: AzureArm
    side: azure.CloudSide

    def rules(self) -> dict[str, dict]:
        """All security rules of the cluster's group, by name without the cluster's; their properties are at the top."""
        group = self.arm.resources[self.side.nsg_id.lower()]
        return {
            rule["name"].removesuffix(f"-{openshift.INFRASTRUCTURE_NAME}"): {
                **rule,
                **rule["properties"],
                "properties": None,
            }
            for rule in group["properties"]["securityRules"]
        }

    def everything_else(self) -> dict[str, dict]:
        """All of ARM except that group and its rules."""
        return {
            resource_id: body
            for resource_id, body in self.arm.resources.items()
            if not resource_id.startswith(self.side.nsg_id.lower())
        }


@pytest.fixture(scope="module")
def azure_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    directory = tmp_path_factory.mktemp("azure")
    with AzureArm(directory / "arm") as arm, Cluster(definitions=openshift.definitions()) as cluster:
        side = azure.create_cloud_side(arm, workers=2)
        status = openshift.azure_status(side.resource_group)
        openshift.fill(cluster, side.workers, azure.REGION, status)
        az = Az(arm, directory / "az")
        environment = ansible_environment(
            {
                **{key: az.environment[key] for key in az.environment if key.startswith("AZURE_")},
                **arm.environment,
            }
        )
        yield Azure(cluster, environment, (own_environment(AZURE_CLI),), arm, side)


@pytest.fixture
def on_azure(azure_world: Azure) -> Iterator[Azure]:
    before = azure_world.arm.snapshot()
    yield azure_world
    azure_world.arm.restore(before)


def remove_deny_rule(world: Azure) -> None:
    """Without a rule that denies the traffic, AllowVnetInBound decides."""
    world.arm.delete(f"{world.side.nsg_id}/securityRules/{azure.DENY_RULE}")


def test_azure_ports(on_azure: Azure):
    remove_deny_rule(on_azure)
    before = on_azure.arm.snapshot()
    completed = on_azure.type(documented.AZURE_PORTS)
    assert (completed.returncode, completed.stderr) == (0, "")
    documented_rules, documented_rest = on_azure.rules(), on_azure.everything_else()
    on_azure.arm.restore(before)

    assert on_azure.open_ports(cloud_networking_on_covered="ensure")["changed"]
    collection_rules = on_azure.rules()
    udp = collection_rules.pop(VXLAN_UDP)
    assert documented_rules.keys() == collection_rules.keys()
    # The same as the rule for TCP, for UDP.
    assert differing([collection_rules[VXLAN]], [udp]) == {"description", "name", "id", "protocol", "priority"}
    in_order = sorted(documented_rules)
    assert (
        differing([documented_rules[name] for name in in_order], [collection_rules[name] for name in in_order])
        == AZURE_DIFFERENT.keys()
    )
    assert on_azure.everything_else() == documented_rest
    assert {KATA_AGENT: 112, VXLAN: 111}.items() <= priorities(documented_rules).items()


def priorities(rules: dict[str, dict]) -> dict[str, int]:
    return {name: rule["priority"] for name, rule in rules.items()}


def test_azure_ports_that_are_open_already(on_azure: Azure, run_module: Callable[..., dict]):
    """The documented procedure leaves the check to the user; the module checks, and does not change the group."""
    remove_deny_rule(on_azure)
    before = on_azure.arm.resources

    result = on_azure.run(run_module, "nsg_rules")
    assert not result["changed"]
    assert on_azure.arm.resources == before
    (group,) = result["network_security_groups"]
    assert group["covered"] == [
        {"name": f"{name}-{openshift.INFRASTRUCTURE_NAME}", "covered_by": "AllowVnetInBound (65000)"}
        for name in (KATA_AGENT, VXLAN, VXLAN_UDP)
    ]


def second_group(world: Azure) -> None:
    """For example the group of an application in the same resource group. It is not attached to the workers."""
    properties = {"location": azure.REGION, "properties": {}}
    world.arm.put(f"{world.side.nsg_id}-app", properties)


def address_prefixes(world: Azure) -> None:
    """As the portal and newer tools write a subnet."""
    properties = world.arm.resources[world.side.worker_subnet_id.lower()]["properties"]
    prefix = properties.pop("addressPrefix")
    for read_only in ("ipConfigurations", "provisioningState"):
        properties.pop(read_only, None)
    world.arm.put(world.side.worker_subnet_id, {"properties": {**properties, "addressPrefixes": [prefix]}})


def priority_conflict(world: Azure) -> None:
    """The rule of another program has the priority."""
    https_rule = {
        "priority": 112,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "Tcp",
        "sourceAddressPrefix": "Internet",
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
        "destinationPortRange": "443",
    }
    world.arm.put(f"{world.side.nsg_id}/securityRules/allow-https", {"properties": https_rule})


@pytest.mark.parametrize(
    ("hole", "message", "documented_rules", "collection_rules"),
    [
        # $AZURE_NSG_NAME is two words.
        (second_group, "unrecognized arguments", {}, {KATA_AGENT: 112, VXLAN: 111, VXLAN_UDP: 110}),
        # $AZURE_SUBNET_PREFIX is empty.
        (address_prefixes, "expected at least one argument", {}, {KATA_AGENT: 112, VXLAN: 111, VXLAN_UDP: 110}),
        (priority_conflict, "SecurityRuleConflict", {VXLAN: 111}, {KATA_AGENT: 113, VXLAN: 111, VXLAN_UDP: 110}),
    ],
)
def test_azure_gaps_in_the_documented_commands(
    on_azure: Azure,
    run_module: Callable[..., dict],
    hole: Callable,
    message: str,
    documented_rules: dict[str, int],
    collection_rules: dict[str, int],
):
    hole(on_azure)
    before, old = on_azure.arm.snapshot(), on_azure.rules()

    def added() -> dict[str, dict]:
        return {name: rule for name, rule in on_azure.rules().items() if name not in old}

    completed = on_azure.type(documented.AZURE_PORTS)
    assert message in completed.stderr
    assert priorities(added()) == documented_rules
    on_azure.arm.restore(before)

    assert on_azure.run(run_module, "nsg_rules")["changed"]
    assert priorities(added()) == collection_rules
    for rule in added().values():
        assert rule["sourceAddressPrefix"] == azure.WORKER_SUBNET_CIDR
        assert rule["destinationAddressPrefix"] == azure.WORKER_SUBNET_CIDR


# -- Outbound connections ----------------------------------------------------------------------

OUTBOUND_DIFFERENT = {
    "id": "contains the name",
    "name": "that of the cluster, so that several clusters can share a resource group",
    "etag": "ARM's own",
    "resourceGuid": "ARM's own",
    "tags": "identify the cluster, for its teardown",
    # az requests all zones if none is given, and the module none, which is the same for an address of Azure.
    "zones": "see test_azure_outbound",
    "references": "contain the names",
}


def test_azure_outbound(on_azure: Azure, run_module: Callable[..., dict]):
    before = on_azure.arm.snapshot()
    subnet_id = on_azure.side.worker_subnet_id
    variables = f"AZURE_REGION={azure.REGION}\nAZURE_SUBNET_ID={subnet_id}\n"
    completed = on_azure.type(variables + documented.AZURE_OUTBOUND)
    assert completed.returncode == 0, completed.stderr
    documented_ones = outbound(on_azure, before)
    on_azure.arm.restore(before)

    identity = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
    result = run_module("azure_nat_gateway", {**identity, "subnet": subnet_id}, env=on_azure.environment)
    assert result["changed"], result
    different = differing(documented_ones, outbound(on_azure, before))
    assert different <= OUTBOUND_DIFFERENT.keys()
    assert {"tags", "references"} <= different


def outbound(world: Azure, before: dict[str, dict]) -> list[dict]:
    """The new resources and the subnet, by type, with their properties at the top and their references by type."""
    subnet = world.side.worker_subnet_id.lower()
    resources = [body for key, body in world.arm.resources.items() if key not in before or key == subnet]
    flat = []
    for body in sorted(resources, key=lambda body: body["type"]):
        properties = dict(body["properties"])
        references = {
            key: json.dumps(properties.pop(key))
            for key in ("natGateway", "publicIpAddresses", "subnets", "ipAddress")
            if key in properties
        }
        flat.append({**body, **properties, "properties": None, "references": references, "has": sorted(references)})
    return flat


# -- The limit (3.1.1.1) -----------------------------------------------------------------------


def test_limit(cluster: Cluster, run_module: Callable[..., dict]):
    """The documented commands and the role, each on a PeerPodConfig as the operator creates it."""
    config_arguments = ("peerpodconfig", "peerpodconfig-openshift", "-n", OPERATOR_NAMESPACE)
    config = openshift.peer_pod_config()
    kubeconfig = str(cluster.kubeconfig)
    specs = []
    for set_limit in (
        lambda: Machine(cluster, ansible_environment(), ()).type(documented.limit("20")),
        lambda: run_module("peerpod_limit", {"limit": 20, "kubeconfig": kubeconfig}),
    ):
        cluster.apply(config)
        try:
            set_limit()
            specs.append(cluster.get(*config_arguments)["spec"])
        finally:
            cluster.delete(*config_arguments)
    assert specs == [{**config["spec"], "limit": "20"}] * 2


def test_azure_identity_for_tokens(azure_world: Azure, run_module: Callable[..., dict]):
    """Both have one federated credential for the same tokens, and the same roles: the documentation in the whole
    subscription, the collection as ccoctl in the resource group of the cluster."""
    issuer, group = "https://documentedoidc.blob.core.windows.net/demo", azure_world.side.resource_group
    arm = azure_world.arm
    arm.permissions = [roles.OWNER]
    openshift.use_tokens(azure_world.cluster, issuer)
    completed = azure_world.type(documented.AZURE_TOKEN)
    assert completed.returncode == 0, completed.stderr
    documented_ones = dict(arm.identities.stored)
    identity = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
    options = {**identity, "issuer": issuer, "resource_group": group, "location": azure.REGION, "image": True}
    run_module("azure_token_identity", options, env=azure_world.environment)
    ours = {key: body for key, body in arm.identities.stored.items() if key not in documented_ones}

    def of(stored: dict[str, dict], kind: str) -> list[dict]:
        return [body["properties"] for body in stored.values() if body["type"].endswith(kind)]

    assert of(ours, "/federatedIdentityCredentials") == of(documented_ones, "/federatedIdentityCredentials")
    assignments = [of(each, "/roleAssignments") for each in (documented_ones, ours)]
    assigned = [{each["roleDefinitionId"] for each in of_one} for of_one in assignments]
    assert assigned[0] == assigned[1]
    subscription = f"/subscriptions/{arm.subscription_id}"
    scopes = [{each["scope"] for each in of_one} for of_one in assignments]
    assert scopes == [{subscription}, {f"{subscription}/resourceGroups/{group}"}]
    # The check of an identity that was given accepts the documented one.
    client_id = of(documented_ones, "/userAssignedIdentities")[0]["clientId"]
    given = {"identity_client_id": client_id, "resource_group": group, "issuer": issuer, "image": True}
    checked = run_module("azure_token_identity_info", given, env=azure_world.environment)
    assert (checked["problems"], checked["denied"], checked["unknown"]) == ([], [], "")
