"""The room in AWS and Azure: the modules that read it, and the role that limits the nodes to it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from azure.identity import ClientSecretCredential
from azure.mgmt.network import NetworkManagementClient

from tests.azure_arm import AzureArm
from tests.azure_arm.faults import Fault, authorization_failed
from tests.cluster import openshift
from tests.cluster.aws import Moto
from tests.cluster.launcher import Cluster
from tests.ec2_proxy import Ec2Proxy, ec2_proxy, refuse
from tests.integration.agent import AGENT_NAMESPACE, start_agent
from tests.integration.apiserver import requests_of
from tests.integration.site import NOTHING_CHANGED, play_of
from tests.playbook_runs import run_playbook
from tests.support import OPERATOR_NAMESPACE, ansible_environment

# moto separates regions, and no other test uses this region.
REGION = "eu-west-3"
ZONE = f"{REGION}a"
# A type that other zones of this region offer.
OFFERED_ELSEWHERE = "c6id.large"
STANDARD = "L-1216C47A"
STANDARD_NAME = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
RESOURCE = "kata.peerpods.io/vm"
CONFIGMAP = "peerpods-cloud-capacity"
NODES = ("capacity-a", "capacity-b", "capacity-c")
POOL = {"pool": "capacity"}


# -- Two APIs that moto lacks, as their references have them ------------------------------------


class ServiceQuotas(ThreadingHTTPServer):
    """GetServiceQuota of EC2's quotas, with `values` by code; `error` refuses with that code."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _QuotaHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.values: dict[str, float] = {STANDARD: 64.0}
        self.error: str | None = None


class _QuotaHandler(BaseHTTPRequestHandler):
    server: ServiceQuotas

    def do_POST(self) -> None:
        parameters = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["X-Amz-Target"] == "ServiceQuotasV20190624.GetServiceQuota"
        value = self.server.values.get(parameters["QuotaCode"])
        if self.server.error:
            status, answer = 400, {"__type": self.server.error, "Message": "not authorized to"}
        elif parameters["ServiceCode"] != "ec2" or value is None:
            message = "The request failed because the specified quota does not exist."
            status, answer = 400, {"__type": "NoSuchResourceException", "Message": message}
        else:
            status, answer = (
                200,
                {
                    "Quota": {
                        "ServiceCode": "ec2",
                        "QuotaCode": parameters["QuotaCode"],
                        "QuotaName": STANDARD_NAME,
                        "Value": value,
                        "Unit": "None",
                        "Adjustable": True,
                        "GlobalQuota": False,
                    }
                },
            )
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def reservations(**available: int) -> bytes:
    """DescribeCapacityReservations' answer; `available` by instance type, with _ for its dot."""
    items = "".join(
        f"<item><instanceType>{name.replace('_', '.')}</instanceType><state>active</state>"
        f"<availableInstanceCount>{count}</availableInstanceCount>"
        f"<reservationType>default</reservationType></item>"
        for name, count in available.items()
    )
    return (
        '<DescribeCapacityReservationsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<requestId>1</requestId><capacityReservationSet>{items}</capacityReservationSet>"
        "</DescribeCapacityReservationsResponse>"
    ).encode()


@dataclass
class Aws:
    """An account with a subnet and a quota."""

    ec2: object
    proxy: Ec2Proxy
    quotas: ServiceQuotas
    environment: dict[str, str]
    subnet_id: str

    def launch(self, instance_type: str, count: int = 1, **options: object) -> list[str]:
        launched = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=count,
            MaxCount=count,
            InstanceType=instance_type,
            SubnetId=self.subnet_id,
            **options,
        )
        return [instance["InstanceId"] for instance in launched["Instances"]]

    def terminate(self, instance_ids: list[str]) -> None:
        self.ec2.terminate_instances(InstanceIds=instance_ids)

    def reserve(self, **available: int) -> None:
        """Return these reservations from now on."""
        answer = reservations(**available)
        self.proxy.faults["DescribeCapacityReservations"] = [lambda _pass_on: (200, answer) for _ in range(20)]


@pytest.fixture
def aws(moto: Moto) -> Iterator[Aws]:
    ec2 = _ec2(moto)
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/26", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    with ec2_proxy(moto.endpoint_url) as proxy, ServiceQuotas() as quotas:
        thread = threading.Thread(target=quotas.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        environment = {
            **moto.environment,
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ENDPOINT_URL_SERVICE_QUOTAS": quotas.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        account = Aws(ec2, proxy, quotas, environment, subnet)
        account.reserve()
        try:
            yield account
        finally:
            live = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running", "stopped"]}])
            ids = [i["InstanceId"] for r in live["Reservations"] for i in r["Instances"]]
            if ids:
                ec2.terminate_instances(InstanceIds=ids)
            quotas.shutdown()
            thread.join()


def _ec2(moto: Moto):
    environment = moto.environment
    return boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=moto.endpoint_url,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


# -- ec2_vcpu_quota_info ------------------------------------------------------------------------


@pytest.fixture
def quota(aws: Aws, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(*instance_types: str) -> dict:
        args = {"region": REGION, "instance_types": list(instance_types)}
        return run_module("ec2_vcpu_quota_info", args, env=aws.environment)

    return run


def test_aws_counts_running_instances_by_the_families_of_a_quota(aws: Aws, quota):
    aws.launch("m6i.2xlarge", 3)
    aws.launch("t3.medium")
    aws.launch("g4dn.xlarge")
    stopped = aws.launch("m6i.2xlarge")
    aws.ec2.stop_instances(InstanceIds=stopped)
    aws.terminate(aws.launch("m6i.2xlarge"))
    aws.reserve(c5_xlarge=2, g5_xlarge=7)
    quotas = quota("t3.medium", "t3.medium")
    assert quotas["instance_types"] == [
        {
            "name": "t3.medium",
            "vcpus": 2,
            "quota_code": STANDARD,
            "quota": 64,
            # 3 x 8 and 2 vCPUs run, 2 x 4 are reserved.
            "used": 34,
            "instances": 15,
            "reason": None,
        }
    ]
    assert not quotas["changed"]
    assert sorted(aws.proxy.take_calls()) == [
        "DescribeCapacityReservations",
        "DescribeInstanceTypes",
        "DescribeInstances",
    ]


def test_unknown_types_and_paged_lists(aws: Aws, quota):
    for _reservation in range(6):
        aws.launch("m6i.2xlarge")
    aws.proxy.page_size = 5
    huge, medium = quota("t9.huge", "t3.medium")["instance_types"]
    assert huge["instances"] is None
    assert huge["reason"] == f"EC2 has no instance type t9.huge in {REGION}."
    assert (medium["used"], medium["instances"]) == (48, 8)
    assert aws.proxy.take_calls().count("DescribeInstances") == 2


@pytest.mark.parametrize("missing_action", ["quota", "reservations", "instances"])
def test_a_missing_permission_is_reported_instead_of_a_number(aws: Aws, quota, missing_action: str):
    if missing_action == "quota":
        aws.quotas.error = "AccessDeniedException"
        expected = f"Service Quotas in {REGION} rejected GetServiceQuota with AccessDeniedException"
        permission = "servicequotas:GetServiceQuota"
    else:
        operation = {"reservations": "DescribeCapacityReservations", "instances": "DescribeInstances"}[missing_action]
        aws.proxy.faults[operation] = [refuse(403, "UnauthorizedOperation", "not authorized to")]
        expected = f"EC2 in {REGION} rejected {operation} with UnauthorizedOperation"
        permission = f"ec2:{operation}"
    quotas = quota("t3.medium")
    assert quotas["failed"]
    assert quotas["msg"] == (f"{expected}: not authorized to. Grant {permission} to the identity of these credentials.")


def test_a_quota_that_service_quotas_does_not_list(aws: Aws, quota):
    aws.quotas.values.clear()
    assert "rejected GetServiceQuota with NoSuchResourceException" in quota("t3.medium")["msg"]


def test_aws_counts_a_subnets_addresses(aws: Aws, run_module):
    def usage(subnet: str, **network: object) -> dict:
        args = {"region": REGION, "subnet": subnet, **network}
        return run_module("ec2_subnet_usage_info", args, env=aws.environment)

    aws.launch("t3.medium", 3)
    usages = usage(aws.subnet_id)
    assert usages["problems"] == []
    assert usages["subnet"] == {"id": aws.subnet_id, "availability_zone": ZONE, "free": 56, "reason": None}
    assert aws.proxy.take_calls() == ["DescribeSubnets"]
    missing = usage("subnet-0123456789abcdef0", security_groups=["sg-0123456789abcdef0"])
    assert missing["problems"] == [
        f"EC2 has no subnet subnet-0123456789abcdef0 in {REGION}.",
        f"EC2 has no security group sg-0123456789abcdef0 in {REGION}.",
    ]
    assert usage(aws.subnet_id, vpc="vpc-1")["problems"][0].endswith(", not in vpc-1.")
    assert missing["subnet"] == {
        "id": "subnet-0123456789abcdef0",
        "availability_zone": None,
        "free": None,
        "reason": f"EC2 has no subnet subnet-0123456789abcdef0 in {REGION}.",
    }


def test_a_zone_does_not_offer_all_instance_types_of_its_region(aws: Aws, run_module):
    """The workers name the subnet as they do for the VMs of peer pods."""

    def usage(worker: str) -> dict:
        types = [OFFERED_ELSEWHERE, "t3.medium", OFFERED_ELSEWHERE]
        args = {"region": REGION, "instance_types": types, "instance_ids": [f"aws:///{ZONE}/{worker}"]}
        return run_module("ec2_subnet_usage_info", args, env=aws.environment)

    (worker,) = aws.launch("t3.medium")
    result = usage(worker)
    assert aws.proxy.take_calls() == ["DescribeInstances", "DescribeSubnets", "DescribeInstanceTypeOfferings"]
    assert (result["subnet"]["id"], result["subnet"]["free"]) == (aws.subnet_id, 58)
    assert result["instance_types"] == [
        {"name": OFFERED_ELSEWHERE, "offered": False},
        {"name": "t3.medium", "offered": True},
    ]
    missing = usage("i-0123456789abcdef0")
    assert missing["subnet"]["reason"] == f"EC2 has no running instance i-0123456789abcdef0 in {REGION}."
    assert missing["instance_types"] == []


# -- azure_subnet_usage_info --------------------------------------------------------------------


@dataclass
class Azure:
    arm: AzureArm
    group_id: str
    vnet_id: str

    @property
    def subnet_id(self) -> str:
        return f"{self.vnet_id}/subnets/vms"

    def launch(self, name: str) -> None:
        """A VM with an address in the subnet."""
        network = f"{self.group_id}/providers/Microsoft.Network"
        location = {"location": "westeurope"}
        nic = self.arm.put(
            f"{network}/networkInterfaces/{name}",
            {
                **location,
                "properties": {
                    "ipConfigurations": [{"name": "ipconfig", "properties": {"subnet": {"id": self.subnet_id}}}]
                },
            },
        )
        self.arm.put(
            f"{self.group_id}/providers/Microsoft.Compute/virtualMachines/{name}",
            {
                **location,
                "properties": {
                    "hardwareProfile": {"vmSize": "Standard_B2als_v2"},
                    "networkProfile": {"networkInterfaces": [{"id": nic["id"]}]},
                },
            },
        )


@pytest.fixture
def azure(arm: AzureArm) -> Iterator[Azure]:
    before, limits = arm.snapshot(), dict(arm.limits)
    group_id = f"/subscriptions/{arm.subscription_id}/resourceGroups/capacity-rg"
    vnet_id = f"{group_id}/providers/Microsoft.Network/virtualNetworks/capacity-vnet"
    arm.put(group_id, {"location": "westeurope"})
    arm.put(
        vnet_id,
        {
            "location": "westeurope",
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16", "fd00::/48"]},
                "subnets": [
                    {"name": "vms", "properties": {"addressPrefixes": ["10.0.0.0/24", "fd00:0:0:1::/64"]}},
                    {"name": "GatewaySubnet", "properties": {"addressPrefix": "10.0.1.0/27"}},
                ],
            },
        },
    )
    arm.take_requests()
    yield Azure(arm, group_id, vnet_id)
    arm.faults.clear()
    arm.restore(before)
    arm.limits.update(limits)


@pytest.fixture
def usage(azure: Azure, run_module: Callable[..., dict]) -> Callable[[str], dict]:
    def run(subnet: str, network_security_group: str = "") -> dict:
        arguments = {"subnet": subnet, "network_security_group": network_security_group}
        return run_module("azure_subnet_usage_info", arguments, env=azure.arm.environment)

    return run


def test_azure_counts_a_subnets_addresses(azure: Azure, usage):
    for number in range(3):
        azure.launch(f"vm{number}")
    azure.arm.take_requests()
    usages = usage(f"{azure.subnet_id.upper()}/")
    assert usages["subnet"] == {
        "id": azure.subnet_id,
        "limit": 251,
        "used": 3,
        "free": 248,
        "reason": None,
    }
    assert azure.arm.take_requests() == [("GET", f"{azure.vnet_id.upper()}/usages")]


def test_the_sdk_reads_the_usage_of_the_emulator(azure: Azure, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(azure.arm.ca_file))
    azure.launch("vm")
    login = ClientSecretCredential(
        azure.arm.tenant_id,
        azure.arm.client_id,
        azure.arm.client_secret,
        authority=azure.arm.endpoint_url,
        disable_instance_discovery=True,
    )
    client = NetworkManagementClient(
        login,
        azure.arm.subscription_id,
        base_url=azure.arm.endpoint_url,
        credential_scopes=[f"{azure.arm.endpoint_url}/.default"],
    )
    usages = list(client.virtual_networks.list_usage("capacity-rg", "capacity-vnet"))
    assert [
        (subnet_usage.id, subnet_usage.current_value, subnet_usage.limit, subnet_usage.unit, subnet_usage.name.value)
        for subnet_usage in usages
    ] == [
        (azure.subnet_id, 1, 251, "Count", "SubnetSpace"),
        (f"{azure.vnet_id}/subnets/GatewaySubnet", -1, -1, "Count", "SubnetSpace"),
    ]


def test_the_usage_of_a_subnet_is_unknown(azure: Azure, usage):
    gateway = f"{azure.vnet_id}/subnets/GatewaySubnet"
    usages = usage(gateway)["subnet"]
    assert (usages["free"], usages["reason"]) == (
        None,
        f"Azure does not count the addresses of {gateway}.",
    )
    missing = f"{azure.vnet_id}-2/subnets/vms"
    assert usage(missing)["subnet"]["reason"] == f"Azure has no subnet {missing}."
    group = f"{azure.group_id}/providers/Microsoft.Network/networkSecurityGroups/missing"
    assert usage(azure.subnet_id, group)["problems"] == [f"Azure has no network security group {group}."]
    assert usage(missing)["problems"] == [f"Azure has no subnet {missing}."]
    assert "'missing' is not the ARM id of a network security group" in usage(azure.subnet_id, "missing")["msg"]
    assert usage("vms")["msg"].startswith("'vms' is not the ARM id of a subnet: it must be")
    azure.arm.faults.append(Fault("GET", "usages", authorization_failed))
    refused = usage(azure.subnet_id)
    assert refused["failed"]
    assert "'Microsoft.Network/virtualNetworks/usages/read'" in refused["msg"]


# -- The role and the agent ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With three nodes for peer pods, and the namespaces of the operator and of the agent."""
    with Cluster(definitions=openshift.definitions()) as running:
        openshift.fill(running, (), REGION)
        for namespace in (OPERATOR_NAMESPACE, AGENT_NAMESPACE):
            running.kubectl("create", "namespace", namespace)
        running.apply(
            *({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": POOL}} for name in NODES)
        )
        yield running


@pytest.fixture(scope="module")
def agent(cluster: Cluster) -> None:
    """The agent as a process. Another test covers the Deployment that the role requires."""
    # No node in this test has a cloud-api-adaptor, so none can be ready.
    start_agent(cluster, REQUIRE_READY_ADAPTOR="false")


@dataclass
class World:
    """A cluster that creates its VMs in a cloud, and the role to run."""

    cluster: Cluster
    environment: dict[str, str]
    variables: dict = field(default_factory=dict)

    def run(self, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
        extra = {"peerpodconfig_rollout_timeout": 30, **self.variables, **variables}
        return run_playbook(
            ["ansible-playbook", str(self.playbook), *arguments, "-e", json.dumps(extra)],
            ansible_environment({**self.environment, "K8S_AUTH_KUBECONFIG": str(self.cluster.kubeconfig)}),
        )

    def rolled_out(self, *arguments: str, **variables: object) -> str:
        completed = self.run(*arguments, **variables)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    @property
    def playbook(self) -> Path:
        return play_of("peerpodconfig_rollout", self.cluster.directory)

    def peer_pods_cm(self, **data: str) -> None:
        self.cluster.apply(configmap("peer-pods-cm", OPERATOR_NAMESPACE, data))

    @property
    def bounds(self) -> dict[str, str] | None:
        """The bounds that the role wrote for the agent; None without a ConfigMap."""
        items = self.cluster.get("configmaps", "-n", AGENT_NAMESPACE)["items"]
        return next((i["data"] for i in items if i["metadata"]["name"] == CONFIGMAP), None)

    @property
    def slots(self) -> list[str | None]:
        nodes = self.cluster.get("nodes", "-l", "pool=capacity")["items"]
        return [node["status"].get("allocatable", {}).get(RESOURCE) for node in nodes]


def configmap(name: str, namespace: str, data: dict[str, str], owner: str = "another-program") -> dict:
    labels = {"app.kubernetes.io/part-of": owner}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "data": data,
    }


def peer_pods(cluster: Cluster, phase: str, *names: str) -> None:
    """Peer pods that have a node, in that phase."""
    resources = {"limits": {RESOURCE: "1"}}
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "nodeName": NODES[0],
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "c", "image": "i", "resources": resources}],
                },
            }
            for name in names
        )
    )
    for name in names:
        openshift.set_status(cluster, f"pod/{name}", {"phase": phase}, "default")


@pytest.fixture
def installed(cluster: Cluster, agent) -> Iterator[Cluster]:
    """The agent, the Deployment that the role node_capacity makes, and the operator's PeerPodConfig."""
    labels = {"app": "agent"}
    config = openshift.peer_pod_config()
    config["spec"]["nodeSelector"] = POOL
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "peerpods-node-capacity", "namespace": AGENT_NAMESPACE},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        },
        config,
    )
    yield cluster
    delete = ("delete", "--ignore-not-found", "--wait")
    collection_objects = ("deployment/peerpods-node-capacity", f"configmap/{CONFIGMAP}")
    cluster.kubectl(*delete, *collection_objects, "-n", AGENT_NAMESPACE)
    cluster.kubectl(*delete, "configmap", "peer-pods-cm", "-n", OPERATOR_NAMESPACE)
    cluster.kubectl(*delete, "peerpodconfig", "--all", "-n", OPERATOR_NAMESPACE)
    openshift.remove_pods(cluster)


@pytest.fixture
def on_aws(installed: Cluster, aws: Aws) -> World:
    world = World(installed, aws.environment)
    world.peer_pods_cm(
        CLOUD_PROVIDER="aws",
        AWS_REGION=REGION,
        AWS_SUBNET_ID=aws.subnet_id,
        PODVM_INSTANCE_TYPE="t3.medium",
        PODVM_INSTANCE_TYPES="t3.medium,m6i.2xlarge",
    )
    return world


@pytest.fixture
def on_azure(installed: Cluster, azure: Azure) -> World:
    world = World(installed, azure.arm.environment)
    world.peer_pods_cm(
        CLOUD_PROVIDER="azure",
        AZURE_REGION="westeurope",
        AZURE_SUBNET_ID=azure.subnet_id,
        AZURE_INSTANCE_SIZE="Standard_B2als_v2",
    )
    return world


class TestOnAws:
    def test_nodes_advertise_what_the_cloud_has_room_for_and_new_peer_pods_do_not_change_it(
        self, on_aws: World, aws: Aws
    ):
        aws.launch("m6i.2xlarge")
        # Of the subnet's 59 addresses one is taken, of 64 vCPUs 8.
        expected = (
            "subnet-addresses: room for 58 peer pods in total, 0 running and 58 more.",
            "instance-quota: room for 28 peer pods in total, 0 running and 28 more.",
            "and the cloud has room for 28 (instance-quota): no node advertises more than 9.",
        )
        planned = on_aws.rolled_out("--check", "--diff", peerpodconfig_rollout_limit=30)
        assert on_aws.bounds is None
        output = on_aws.rolled_out(peerpodconfig_rollout_limit=30)
        for failure_message in expected:
            assert failure_message in planned
            assert failure_message in output
        bounds = {"subnet-addresses": "58", "instance-quota": "28"}
        assert on_aws.bounds == bounds
        assert on_aws.slots == ["9", "9", "9"]

        # New peer pods do not change the bounds: each uses an instance and an address, and is itself counted.
        peer_pods(on_aws.cluster, "Running", "one", "two")
        # A pod that waits for its VM, for example because of a used-up quota, must not raise the bound.
        peer_pods(on_aws.cluster, "Pending", "three")
        aws.launch("t3.medium", 2)
        output = on_aws.rolled_out(peerpodconfig_rollout_limit=30)
        assert NOTHING_CHANGED.search(output), output
        assert "subnet-addresses: room for 58 peer pods in total, 2 running and 56 more." in output
        assert on_aws.bounds == bounds
        assert on_aws.slots == ["9", "9", "9"]

    def test_a_bound_that_cannot_be_read_is_dropped_or_kept(self, on_aws: World, aws: Aws, tmp_path: Path):
        aws.quotas.error = "AccessDeniedException"
        output = on_aws.rolled_out(peerpodconfig_rollout_limit=25)
        assert "instance-quota: unknown. Service Quotas in eu-west-3 rejected" in output
        assert "Required permissions: servicequotas:GetServiceQuota, ec2:DescribeInstances" in output
        assert "stay in force" not in output
        assert on_aws.bounds == {"subnet-addresses": "59"}
        assert on_aws.slots == ["19", "19", "19"]

        # Without credentials, the roll-out continues.
        missing_path = str(tmp_path / "none")
        on_aws.environment = {
            **on_aws.environment,
            "AWS_CONFIG_FILE": missing_path,
            "AWS_SHARED_CREDENTIALS_FILE": missing_path,
        }
        del on_aws.environment["AWS_ACCESS_KEY_ID"], on_aws.environment["AWS_SECRET_ACCESS_KEY"]
        output = on_aws.rolled_out(peerpodconfig_rollout_limit=25)
        assert NOTHING_CHANGED.search(output), output
        assert output.count(": unknown. ") == 2
        assert "Required permissions: ec2:DescribeSubnets. The 59 peer pods of an earlier run stay" in output
        assert on_aws.slots == ["19", "19", "19"]

    def test_bounds_of_variables_and_of_another_program(self, on_aws: World):
        on_aws.cluster.apply(configmap(CONFIGMAP, AGENT_NAMESPACE, {"budget": "7"}))
        output = on_aws.rolled_out(
            peerpodconfig_rollout_instance_type="m6i.2xlarge",
            peerpodconfig_rollout_subnet_id="subnet-0123456789abcdef0",
        )
        assert "instance-quota: room for 8 peer pods" in output
        assert "subnet-addresses: unknown. EC2 has no subnet subnet-0123456789abcdef0" in output
        assert "The limits of 3 nodes add up to 30 peer pods, and the cloud has room for 7 (budget)" in output
        assert on_aws.bounds == {"budget": "7", "instance-quota": "8"}
        # The collection does not adopt the ConfigMap.
        metadata = on_aws.cluster.get("configmap", CONFIGMAP, "-n", AGENT_NAMESPACE)["metadata"]
        assert metadata["labels"] == {"app.kubernetes.io/part-of": "another-program"}
        assert metadata["annotations"]["osc.peerpods.io/instance-quota"] == "8"
        assert on_aws.slots == ["2", "2", "2"]


class TestOnAzure:
    def test_nodes_advertise_what_the_cloud_has_room_for(self, on_azure: World, azure: Azure):
        azure.launch("worker")
        azure.arm.limits["standardBasv2Family"] = 43
        output = on_azure.rolled_out(peerpodconfig_rollout_limit=6)
        assert "subnet-addresses: room for 250 peer pods in total, 0 running and 250 more." in output
        assert "The limits of 3 nodes add up to 18 peer pods, and the cloud has room for 20 (instance-quota)" in output
        assert "(instance-quota): every node advertises its limit." in output
        assert on_azure.bounds == {"subnet-addresses": "250", "instance-quota": "20"}
        assert on_azure.slots == ["6", "6", "6"]

    def test_a_bound_that_cannot_be_read_is_dropped(self, on_azure: World, azure: Azure):
        azure.arm.faults += [
            Fault("GET", "usages", authorization_failed),
            Fault("GET", "skus", authorization_failed),
        ]
        output = on_azure.rolled_out(peerpodconfig_rollout_limit=6)
        assert "Required permissions: Microsoft.Network/virtualNetworks/usages/read." in output
        assert "Required permissions: Microsoft.Compute/skus/read and Microsoft.Compute/locations" in output
        assert on_azure.bounds is None
        assert on_azure.slots == ["6", "6", "6"]


class TestSwitchedOff:
    def test_the_cloud_is_not_read_and_the_bounds_are_removed(self, on_azure: World, azure: Azure):
        azure.arm.limits["standardBasv2Family"] = 0
        on_azure.rolled_out(peerpodconfig_rollout_limit=8)
        # The available amount of an exhausted quota is known: it is 0.
        assert on_azure.bounds["instance-quota"] == "0"
        assert on_azure.slots == ["0", "0", "0"]
        azure.arm.take_requests()
        options = {"peerpodconfig_rollout_limit": 8, "peerpodconfig_rollout_cloud_capacity": False}
        on_azure.rolled_out(**options)
        assert on_azure.bounds is None
        assert on_azure.slots == ["8", "8", "8"]
        assert azure.arm.take_requests() == []

    @pytest.mark.parametrize("owner", ["osc.peerpods", "another-program"])
    def test_a_bound_of_another_program_stays_and_is_applied(self, on_azure: World, owner: str):
        """From then on, the ConfigMap belongs to that program."""
        bounds = {"budget": "7", "instance-quota": "9", "subnet-addresses": "30"}
        existing = configmap(CONFIGMAP, AGENT_NAMESPACE, bounds, owner=owner)
        # Of the ConfigMap of another owner, this one alone has the value that the role wrote.
        existing["metadata"]["annotations"] = {
            "osc.peerpods.io/instance-quota": "12",
            "osc.peerpods.io/subnet-addresses": "30",
        }
        on_azure.cluster.apply(existing)
        options = {"peerpodconfig_rollout_limit": 8, "peerpodconfig_rollout_cloud_capacity": False}
        output = on_azure.rolled_out(**options)
        assert "the cloud has room for 7 (budget)" in output
        left = {"budget": "7"} if owner == "osc.peerpods" else {"budget": "7", "instance-quota": "9"}
        assert on_azure.bounds == left
        assert f"stays: it has {', '.join(left)}, which this collection did not write" in output
        labels = on_azure.cluster.get("configmap", CONFIGMAP, "-n", AGENT_NAMESPACE)["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == (None if owner == "osc.peerpods" else owner)
        assert on_azure.slots == ["2", "2", "2"]

    def test_without_the_agent_or_a_known_cloud_no_bounds_are_written(self, on_azure: World, azure: Azure):
        """Another advertiser does not use the bounds: here, the agent without bounds."""
        on_azure.cluster.apply(configmap(CONFIGMAP, AGENT_NAMESPACE, {"instance-quota": "6"}, owner="osc.peerpods"))
        on_azure.cluster.delete("deployment", "peerpods-node-capacity", "-n", AGENT_NAMESPACE)
        output = on_azure.rolled_out(peerpodconfig_rollout_limit=8)
        assert "instance-quota: room for 50 peer pods" in output
        assert "No program keeps the nodes within the capacity of the cloud" in output
        assert on_azure.bounds is None
        assert on_azure.slots == ["8", "8", "8"]

        # The capacity of an unknown cloud is not read either.
        on_azure.peer_pods_cm(CLOUD_PROVIDER="libvirt")
        output = on_azure.rolled_out(peerpodconfig_rollout_limit=8)
        assert NOTHING_CHANGED.search(output), output
        assert "CLOUD_PROVIDER in peer-pods-cm is neither aws nor azure" in output


# -- peerpod_limit, on its own ------------------------------------------------------------------


@pytest.fixture
def set_limit(installed: Cluster, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(user: str, *groups: str, **args: object) -> dict:
        kubeconfig = installed.user_kubeconfig(user, *groups)
        return run_module("peerpod_limit", {"kubeconfig": str(kubeconfig), "wait_timeout": 20, **args})

    return run


def test_the_wait_is_for_the_bounded_limit(installed: Cluster, set_limit):
    """Of 20 peer pods, a pool of one node with a limit of 4 takes 4, which leaves 8 for each of the other nodes."""
    installed.apply(configmap(CONFIGMAP, AGENT_NAMESPACE, {"instance-quota": "20", "bad": "x"}))
    installed.label("node", NODES[0], "pool=small")
    try:
        small = set_limit("small", "system:masters", name="small", limit=4, wait=True, node_selector={"pool": "small"})
        assert small["cloud"] == {
            "bound": "instance-quota",
            "total": 20,
            "nodes": 3,
            "limits": 24,
            "slots": 8,
        }
        large = set_limit("large", "system:masters", limit=30, wait=True)
        assert not large.get("failed"), large
        assert (large["after"], large["advertised_nodes"]) == (30, 2)
        assert [node["allocatable"] for node in large["nodes"]] == [8, 8]
        assert (large["cloud"]["limits"], large["cloud"]["slots"]) == (64, 8)
        reads = {verb: path for verb, path in requests_of(installed, "large") if verb == "get"}
        assert reads == {"get": f"/api/v1/namespaces/{AGENT_NAMESPACE}/configmaps/{CONFIGMAP}"}
    finally:
        installed.label("node", NODES[0], "pool=capacity")


def test_a_timeout_reports_the_bounded_limit(installed: Cluster, set_limit):
    assert not set_limit("bounded", "system:masters", limit=8, wait=True).get("failed")
    bounds = {"data": {"budget": "9"}}
    result = set_limit("bounded", "system:masters", limit=8, wait=True, wait_timeout=2, cloud_capacity=bounds)
    assert result["failed"]
    assert "the limit of 8, of which the cloud's budget leaves 3, is not in force" in result["msg"]
    assert "capacity-a advertises 8" in result["msg"]
    assert result["cloud"]["bound"] == "budget"


def test_without_a_wait_the_bounds_are_not_read(installed: Cluster, set_limit):
    installed.apply(configmap(CONFIGMAP, AGENT_NAMESPACE, {"instance-quota": "20"}))
    assert set_limit("looker", "system:masters", limit=8)["cloud"] is None
    assert CONFIGMAP not in str(requests_of(installed, "looker"))


def test_a_user_without_access_to_the_bounds_gets_a_warning_and_waits_for_the_limit(installed: Cluster, set_limit):
    rules = {
        "limited-configs": ("get,list,patch", "peerpodconfigs.confidentialcontainers.org"),
        "limited-nodes": ("list,watch", "nodes,pods"),
    }
    for name, (verbs, resources) in rules.items():
        installed.kubectl("create", "clusterrole", name, f"--verb={verbs}", f"--resource={resources}")
        installed.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", "--user=limited")
    result = set_limit("limited", limit=6, wait=True)
    assert not result.get("failed"), result
    assert result["advertised_nodes"] == len(NODES)
    (warning,) = result["warnings"]
    assert warning.startswith("The cloud capacity is unknown, so only the limits count: GET")
    assert "403 Forbidden" in warning
