"""A verification of peer pods with VMs in a cloud: what it proves, and that each failure has its own cause.

The stand-ins (tests/cluster/sandboxes.py and pod_vms.py) create the VMs in moto and in the emulated Azure, whose rules
decide which traffic passes; the program of the pod really runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import RETRY_PAUSES
from ansible_collections.osc.peerpods.plugins.module_utils._verify.findings import findings

from tests.azure_arm import AzureArm, faults, roles
from tests.azure_arm.faults import Fault
from tests.azure_arm.galleries import COMMUNITY_IMAGE
from tests.cluster import aws, azure, openshift
from tests.cluster.adaptor import RESTART
from tests.cluster.launcher import Cluster
from tests.cluster.operators import KATA_OC_LABEL, _adaptors
from tests.cluster.pod_vms import NO_AGENT, NO_TOKEN, Aws, RejectedError
from tests.cluster.processes import wait_for
from tests.cluster.releases import NEWEST, release_of
from tests.ec2_proxy import Ec2Proxy, ec2_proxy
from tests.ec2_proxy import refuse as refuse_ec2
from tests.integration.apiserver import AWAY, between
from tests.module_runs import run
from tests.playbook_runs import run_playbook
from tests.support import OPERATOR_NAMESPACE, ROOT, ansible_environment

RESOURCE = "kata.peerpods.io/vm"
AZURE_OPTIONS = ("subscription_id",)


@dataclass
class World:
    """A cluster whose nodes run cloud-api-adaptor in a cloud."""

    cluster: Cluster
    cloud: str
    environment: dict[str, str]
    nodes: list[str]
    directory: Path
    settings: dict[str, str]
    steps: list[str] = field(default_factory=list)

    def run(self, name: str, **arguments: object) -> dict:
        kubeconfig = {"K8S_AUTH_KUBECONFIG": str(self.cluster.kubeconfig)}
        environment = ansible_environment({**self.environment, **kubeconfig})
        return run(name, arguments, environment, self.directory)

    def verify(self, *, delete_timeout: int = 60, **options: object) -> dict[str, dict]:
        """The findings of a verification, by check, as the role and the action plugin make them."""
        arguments: dict = {
            "nodes": self.nodes[:1],
            "egress": "quay.io:443",
            "answer_timeout": 1,
            "wait_timeout": 60,
            **options,
        }
        self.steps = []
        created = self.run("verification_pods", **arguments)
        while not created.get("failed") and not created["progress"]["done"]:
            self.steps.append(created["progress"]["status"].rpartition(": ")[2])
            created = self.run("verification_pods", **arguments, previous=created["progress"])
        ids = [instance for pod in created.get("pods", ()) for instance in pod["instances"]]
        instances = self.consoles(ids)
        absent = {"state": "absent", "wait_timeout": delete_timeout, "namespace": options.get("namespace", "default")}
        deleted = self.run("verification_pods", **absent)
        while not deleted["progress"]["done"]:
            deleted = self.run("verification_pods", **absent, previous=deleted["progress"])
        readings = {
            "pods": created,
            "instances": instances,
            "deleted": deleted,
            "remaining": self.consoles(ids, created),
            "egress": arguments["egress"],
        }
        return {finding["check"]: finding for finding in findings(readings)}

    def consoles(self, ids: list[str], created: dict | None = None) -> dict | None:
        """The VMs, as the role reads them; after the deletion also those without a PeerPod."""
        if self.cloud == "aws":
            pods = list(created["progress"]["pods"].values()) if created and "progress" in created else []
            return self.run("ec2_instance_console_info", instance_ids=ids, pods=pods, region=aws.REGION)
        of_pods = {}
        if created:
            of_pods = {
                "resource_group": created["azure_resource_group"],
                "pods": list(created["progress"]["pods"].values()),
            }
        return self.run("azure_vm_console_info", instance_ids=ids, **of_pods) if ids or of_pods else None

    @contextmanager
    def set(self, *, starts: bool = True, **changed: str) -> Iterator[None]:
        """cloud-api-adaptor with other settings, which it reads when it starts, if it `starts` with them."""
        self._write({**self.settings, **changed}, starts)
        yield
        self._write(self.settings)

    def _write(self, settings: dict[str, str], starts: bool = True) -> None:
        self.cluster.merge("configmap/peer-pods-cm", {"data": None}, OPERATOR_NAMESPACE)
        self.cluster.merge("configmap/peer-pods-cm", {"data": settings}, OPERATOR_NAMESPACE)
        before = {pod["metadata"]["name"]: _restarts(pod) for pod in self.adaptors()}
        for name, restarts in before.items():
            annotations = {RESTART: str(restarts + 1)}
            self.cluster.merge(f"pod/{name}", {"metadata": {"annotations": annotations}}, OPERATOR_NAMESPACE)
        wait_for(
            "cloud-api-adaptor to start again",
            lambda: all(
                _restarts(pod) > before[pod["metadata"]["name"]] and _is_ready(pod) == starts for pod in self.adaptors()
            ),
            seconds=30,
        )

    def adaptors(self) -> list[dict]:
        return self.cluster.get("pods", "-n", OPERATOR_NAMESPACE, "-l", "name=osc-caa-ds")["items"]

    def vms(self) -> set[str]:
        """What the PeerPods of the namespace name."""
        return {peer_pod["spec"]["instanceID"] for peer_pod in self.cluster.get("peerpods")["items"]}


def _restarts(pod: dict) -> int:
    return sum(container["restartCount"] for container in pod["status"].get("containerStatuses") or ())


def _is_ready(pod: dict) -> bool:
    return all(container["ready"] for container in pod["status"].get("containerStatuses") or ())


def advertises(node: dict) -> bool:
    return RESOURCE in node["status"]["allocatable"]


@pytest.fixture(scope="module")
def bare(side: aws.CloudSide) -> Iterator[Cluster]:
    """A cluster with the RuntimeClass, the DaemonSet of cloud-api-adaptor and the mutation of peer pods."""
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False), has_pod_network=True) as cluster:
        openshift.fill(cluster, side.workers, aws.REGION)
        daemon_set = _adaptors(release_of(NEWEST), f"{NEWEST}.0", {KATA_OC_LABEL: ""}, {})
        daemon_set["metadata"] = {"name": "osc-caa-ds", "namespace": OPERATOR_NAMESPACE}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "kata-remote"},
                "handler": "kata-remote",
                "scheduling": {"nodeSelector": {KATA_OC_LABEL: ""}},
            },
            daemon_set,
        )
        yield cluster


def serve(
    cluster: Cluster,
    cloud: str,
    nodes: list[str],
    environments: tuple[dict, dict],
    settings: dict[str, str],
    secret: dict[str, str],
    directory: Path,
) -> World:
    """The nodes with cloud-api-adaptor in a cloud. `environments` are those of the user and of cloud-api-adaptor."""
    for node in cluster.get("nodes")["items"]:
        name = node["metadata"]["name"]
        cluster.merge(f"node/{name}", {"metadata": {"labels": {KATA_OC_LABEL: "" if name in nodes else None}}})
    metadata = {"name": "peer-pods-secret", "namespace": OPERATOR_NAMESPACE}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": "peer-pods-cm"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret},
    )
    cluster.merge("configmap/peer-pods-cm", {"data": settings}, OPERATOR_NAMESPACE)
    kubeconfig = str(cluster.user_kubeconfig("cluster-operators", "system:masters"))
    openshift.start_adaptor(cluster, kubeconfig, environments[1])
    world = World(cluster, cloud, environments[0], nodes, directory, settings)
    mutated = world.run("mutating_policy", verify=True)
    assert "failed" not in mutated, mutated
    wait_for(
        "the slots of the nodes",
        lambda: all(map(advertises, cluster.get("nodes", "-l", KATA_OC_LABEL)["items"])),
        seconds=60,
    )
    return world


@pytest.fixture(scope="module")
def proxy(moto: aws.Moto) -> Iterator[Ec2Proxy]:
    """Between cloud-api-adaptor and EC2."""
    with ec2_proxy(moto.endpoint_url) as running:
        yield running


@pytest.fixture(scope="module")
def side(moto: aws.Moto) -> aws.CloudSide:
    side = aws.create_cloud_side(moto, workers=2)
    open_ports(moto, side)
    return side


def permissions(side: aws.CloudSide, *ports: tuple[int, str]) -> list[dict]:
    group = [{"GroupId": side.worker_group_id}]
    return [
        {"IpProtocol": protocol, "FromPort": port, "ToPort": port, "UserIdGroupPairs": group}
        for port, protocol in ports or ((15150, "tcp"), (9000, "udp"))
    ]


def open_ports(moto: aws.Moto, side: aws.CloudSide, *ports: tuple[int, str]) -> None:
    moto.client("ec2").authorize_security_group_ingress(
        GroupId=side.worker_group_id, IpPermissions=permissions(side, *ports)
    )


@contextmanager
def closed(moto: aws.Moto, side: aws.CloudSide, port: int, protocol: str) -> Iterator[None]:
    moto.client("ec2").revoke_security_group_ingress(
        GroupId=side.worker_group_id, IpPermissions=permissions(side, (port, protocol))
    )
    yield
    open_ports(moto, side, (port, protocol))


@pytest.fixture(scope="module")
def on_aws(bare: Cluster, moto: aws.Moto, side: aws.CloudSide, proxy: Ec2Proxy, tmp_path_factory) -> World:
    settings = {
        "CLOUD_PROVIDER": "aws",
        "AWS_REGION": aws.REGION,
        "PODVM_AMI_ID": "ami-12c6146b",
        "PROXY_TIMEOUT": "1s",
        "PEERPODS_LIMIT_PER_NODE": "1",
    }
    secret = {name: moto.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    environments = (moto.environment, {**moto.environment, "AWS_ENDPOINT_URL": proxy.url})
    nodes = [worker.name for worker in side.workers]
    return serve(bare, "aws", nodes, environments, settings, secret, tmp_path_factory.mktemp("verify"))


def failed(found: dict[str, dict]) -> dict[str, str]:
    """The causes of the checks that failed."""
    return {check: finding["cause"] for check, finding in found.items() if finding["status"] == "error"}


def test_a_peer_pod_that_runs_passes_every_check(on_aws: World, moto: aws.Moto):
    found = on_aws.verify()
    assert {finding["status"] for finding in found.values()} == {"ok"}, found
    assert "answered" in found["verify-answer"]["found"]
    assert "quay.io:443" in found["verify-egress"]["found"]
    assert "172.30.0.1" in found["verify-dns"]["found"]
    assert on_aws.vms() == set()
    assert not on_aws.cluster.get("pods")["items"]


REJECTIONS = {
    "quota": refuse_ec2(400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit"),
    "capacity": refuse_ec2(500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity"),
    "permissions": refuse_ec2(403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
}


@pytest.mark.parametrize("cause", REJECTIONS)
def test_ec2_rejects_the_instance(on_aws: World, proxy: Ec2Proxy, cause: str):
    # Kubelet tries again until the pod is deleted.
    proxy.faults["RunInstances"] += [REJECTIONS[cause]] * 20
    found = on_aws.verify()
    proxy.faults["RunInstances"].clear()
    assert failed(found) == {"verify-vm": cause}
    assert "event FailedCreatePodSandBox" in found["verify-vm"]["found"]
    assert found["verify-deleted"]["found"] == "The pods are deleted. No VM was created."


def test_a_vm_that_stays_is_named(on_aws: World, proxy: Ec2Proxy):
    """cloud-api-adaptor releases the PeerPod only after the VM is deleted."""
    proxy.faults["TerminateInstances"] += [refuse_ec2(403, "UnauthorizedOperation", "You are not authorized.")] * 1000
    found = on_aws.verify(delete_timeout=1)
    assert failed(found) == {"verify-deleted": ""}
    (vm,) = on_aws.vms()
    assert found["verify-vm"]["found"] == f"{on_aws.nodes[0]}: {vm} is running."
    assert "Not deleted within the time: peerpods-verify-" in found["verify-deleted"]["found"]
    proxy.faults["TerminateInstances"].clear()
    wait_for("the VM to go", lambda: not on_aws.vms(), seconds=30)


def test_an_instance_without_a_peer_pod_is_named(on_aws: World, moto: aws.Moto, proxy: Ec2Proxy):
    """The instance was created, and cloud-api-adaptor does not learn that."""
    unavailable = refuse_ec2(500, "InternalError", "An internal error has occurred")

    def created_in_vain(pass_on: Callable) -> tuple[int, bytes]:
        pass_on()
        return unavailable(pass_on)

    proxy.faults["RunInstances"] += [created_in_vain, *[unavailable] * 20]
    found = on_aws.verify(boot_timeout=1)
    proxy.faults["RunInstances"].clear()
    named = [{"Name": "tag:Name", "Values": ["podvm-peerpods-verify-*"]}]
    live = [*named, {"Name": "instance-state-name", "Values": ["running"]}]
    (reservation,) = moto.client("ec2").describe_instances(Filters=live)["Reservations"]
    (instance,) = [each["InstanceId"] for each in reservation["Instances"]]
    moto.client("ec2").terminate_instances(InstanceIds=[instance])
    assert failed(found) == {"verify-vm": "service", "verify-deleted": ""}
    assert f"VMs without a PeerPod stay: {instance} (running)." in found["verify-deleted"]["found"]


def test_the_pods_are_deleted_after_the_api_server_responds_again(on_aws: World):
    """It does not respond for longer than a request is repeated."""
    on_aws.run("verification_pods", nodes=on_aws.nodes[:1])
    kubeconfig = on_aws.cluster.user_kubeconfig("verification", "system:masters")
    away = iter([AWAY] * (len(RETRY_PAUSES) + 1))
    with between(on_aws.cluster, kubeconfig, lambda *_request: next(away, None)) as url:
        deleted = on_aws.run("verification_pods", state="absent", host=url, api_key="any")
    assert deleted["changed"]
    assert deleted["progress"]["is_requested"]
    assert next(away, None) is None
    wait_for("its VM to go", lambda: not on_aws.vms() and not on_aws.cluster.get("pods")["items"], seconds=30)


@pytest.mark.parametrize(
    ("key", "value", "cause", "error"),
    [
        ("PODVM_AMI_ID", "ami-0123456789abcdef0", "image", "InvalidAMIID.NotFound"),
        ("AWS_SUBNET_ID", "subnet-0123456789abcdef0", "settings", "InvalidSubnetID.NotFound"),
    ],
)
def test_ec2_does_not_have_what_a_setting_names(on_aws: World, key: str, value: str, cause: str, error: str):
    with on_aws.set(**{key: value}):
        found = on_aws.verify()
    assert failed(found) == {"verify-vm": cause}
    assert error in found["verify-vm"]["found"]


def test_cloud_api_adaptor_does_not_start(on_aws: World, proxy: Ec2Proxy):
    """It ended without removing the slots of its node."""
    message = "AWS was not able to validate the provided access credentials"
    proxy.faults["DescribeInstanceTypes"] += [refuse_ec2(401, "AuthFailure", message)] * 1000
    with on_aws.set(starts=False):
        found = on_aws.verify(wait_timeout=1)
        proxy.faults["DescribeInstanceTypes"].clear()
    assert failed(found) == {"verify-vm": "permissions"}
    assert "operation error EC2: DescribeInstanceTypes" in found["verify-vm"]["found"]
    assert message in found["verify-vm"]["found"]


def test_the_pods_of_a_system_namespace_are_not_mutated(on_aws: World):
    """The pod needs no slot: more of them than the limit would run."""
    found = on_aws.verify(namespace="kube-system")
    assert failed(found) == {"verify-slot": "mutation"}
    # The wait ends with the failure, before or after the answer.
    assert found["verify-answer"]["status"] in ("ok", "unknown")
    assert found["verify-deleted"]["status"] == "ok"


def test_the_port_of_the_agent_is_closed(on_aws: World, moto: aws.Moto, side: aws.CloudSide):
    """cloud-api-adaptor deletes the VM after PROXY_TIMEOUT, and kubelet has another one created."""
    with closed(moto, side, 15150, "tcp"):
        found = on_aws.verify()
    assert failed(found) == {"verify-agent": "port"}
    # Either the VM that exists at that time, or one that was deleted.
    assert found["verify-vm"]["status"] == "ok"
    assert "10.0.0." in found["verify-agent"]["found"]
    assert "15150: i/o timeout" in found["verify-agent"]["found"]
    assert found["verify-deleted"]["status"] == "ok"


@contextmanager
def network_acl(moto: aws.Moto, side: aws.CloudSide, subnet: str, *denied: dict) -> Iterator[None]:
    """The network ACL of the subnet allows everything else."""
    ec2 = moto.client("ec2")
    of_subnet = [{"Name": "association.subnet-id", "Values": [subnet]}]
    acl = ec2.create_network_acl(VpcId=side.vpc_id)["NetworkAcl"]["NetworkAclId"]
    everything = [{"Egress": egress, "Protocol": "-1", "RuleAction": "allow"} for egress in (False, True)]
    for number, entry in enumerate((*denied, *everything), start=1):
        rule = {"RuleAction": "deny", "CidrBlock": "0.0.0.0/0", **entry}
        ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=number, **rule)

    def replace(name: str) -> str:
        (replaced,) = ec2.describe_network_acls(Filters=of_subnet)["NetworkAcls"]
        (association,) = [each for each in replaced["Associations"] if each["SubnetId"] == subnet]
        ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=name)
        return replaced["NetworkAclId"]

    before = replace(acl)
    yield
    replace(before)
    ec2.delete_network_acl(NetworkAclId=acl)


def subnet_of(moto: aws.Moto, worker: openshift.Worker) -> str:
    ids = [worker.provider_id.rpartition("/")[2]]
    (reservation,) = moto.client("ec2").describe_instances(InstanceIds=ids)["Reservations"]
    return reservation["Instances"][0]["SubnetId"]


def denied(protocol: str, first: int, last: int, *, egress: bool) -> dict:
    return {"Egress": egress, "Protocol": protocol, "PortRange": {"From": first, "To": last}}


TCP, UDP = "6", "17"


def test_a_network_acl_denies_the_replies_of_the_agent(on_aws: World, moto: aws.Moto, side: aws.CloudSide):
    """The VMs are in another subnet than the node; within a subnet, no network ACL filters."""
    other = subnet_of(moto, side.workers[1])
    with (
        network_acl(moto, side, other, denied(TCP, 32768, 60999, egress=True)),
        on_aws.set(AWS_SUBNET_ID=other),
    ):
        found = on_aws.verify()
    assert failed(found) == {"verify-agent": "port"}
    assert "check network ACLs" in found["verify-agent"]["fix"]


@pytest.mark.parametrize(
    ("entry", "closed_off"),
    [
        (None, []),
        (denied(TCP, 15150, 15150, egress=False), ["agent"]),
        (denied(TCP, 1024, 65535, egress=True), ["agent"]),
        (denied(UDP, 9000, 9000, egress=False), ["to the VM"]),
        (denied(UDP, 9000, 9000, egress=True), ["from the VM"]),
        (denied(TCP, 443, 443, egress=True), ["egress"]),
        (denied(TCP, 1024, 65535, egress=False), ["agent", "egress"]),
        ({"Egress": False, "Protocol": "-1"}, ["agent", "to the VM", "egress"]),
        ({**denied(TCP, 1, 65535, egress=False), "CidrBlock": "192.0.2.0/24"}, []),
    ],
)
def test_the_network_acls_of_the_stand_in_are_stateless(
    moto: aws.Moto, side: aws.CloudSide, entry: dict | None, closed_off: list[str]
):
    vms, node = Aws(moto.endpoint_url), {"spec": {"providerID": side.workers[0].provider_id}}
    other = subnet_of(moto, side.workers[1])
    settings = {"PODVM_AMI_ID": "ami-12c6146b", "AWS_REGION": aws.REGION, "AWS_SUBNET_ID": other}
    secret = {name: moto.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    vm = vms.create("podvm-a-1", "1", node, settings, secret, lambda *_line: None)
    with network_acl(moto, side, other, *filter(None, [entry])):
        passing = {
            "agent": vms.reaches(vm, "tcp", 15150),
            "to the VM": vms.reaches(vm, "udp", 9000),
            "from the VM": vms.is_reached_by(vm, "udp", 9000),
            "egress": vms.has_egress(vm),
        }
    vms.delete(vm.id, settings, secret, lambda *_line: None)
    assert [name for name, passes in passing.items() if not passes] == closed_off


def test_the_wait_ends_before_cloud_api_adaptor_deletes_the_vm(on_aws: World, moto: aws.Moto, side: aws.CloudSide):
    """Otherwise its console would be lost."""
    with closed(moto, side, 15150, "tcp"), on_aws.set(PROXY_TIMEOUT="5m"):
        found = on_aws.verify(boot_timeout=1)
    assert failed(found) == {"verify-agent": "port"}
    # moto's console, which every instance has.
    assert "running; the end of its console: " in found["verify-agent"]["found"]


def test_the_tunnel_is_closed(on_aws: World, moto: aws.Moto, side: aws.CloudSide):
    with closed(moto, side, 9000, "udp"):
        found = on_aws.verify()
    assert failed(found) == dict.fromkeys(("verify-answer", "verify-service", "verify-dns", "verify-egress"), "tunnel")
    assert "i/o timeout" in found["verify-answer"]["found"]
    assert "Temporary failure in name resolution" in found["verify-dns"]["found"]


def test_the_vm_has_no_agent(on_aws: World):
    with on_aws.set(TAGS=f"{NO_AGENT}=yes"):
        found = on_aws.verify()
    assert failed(found) == {"verify-agent": "agent"}
    assert "connection refused" in found["verify-agent"]["found"]


@contextmanager
def without_egress(moto: aws.Moto, side: aws.CloudSide) -> Iterator[None]:
    """VMs and nodes reach only each other."""
    ec2 = moto.client("ec2")
    everywhere = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    inside = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": aws.VPC_CIDR}]}]
    of_vpc = [{"Name": "vpc-id", "Values": [side.vpc_id]}]
    groups = [group["GroupId"] for group in ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"]]
    for group in groups:
        ec2.authorize_security_group_egress(GroupId=group, IpPermissions=inside)
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everywhere)
    yield
    for group in groups:
        ec2.authorize_security_group_egress(GroupId=group, IpPermissions=everywhere)
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=inside)


@contextmanager
def without_route(moto: aws.Moto, side: aws.CloudSide) -> Iterator[None]:
    """The subnets have no way to the NAT gateway."""
    ec2 = moto.client("ec2")
    of_vpc = [{"Name": "vpc-id", "Values": [side.vpc_id]}]
    ((table, gateway),) = [
        (table["RouteTableId"], route["NatGatewayId"])
        for table in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        for route in table["Routes"]
        if "NatGatewayId" in route
    ]
    ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    yield
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)


@pytest.mark.parametrize("closed_off", [without_egress, without_route])
def test_the_vm_does_not_reach_the_registry(on_aws: World, moto: aws.Moto, side: aws.CloudSide, closed_off: Callable):
    with closed_off(moto, side):
        found = on_aws.verify()
    assert failed(found) == {"verify-pull": "egress"}
    assert "tcp connect error" in found["verify-pull"]["found"]


@pytest.mark.parametrize(
    ("image", "cause"), [("quay.io/a/b:no-such-tag", "pull"), ("registry.invalid/a/b:1", "egress")]
)
def test_the_image_cannot_be_pulled(on_aws: World, image: str, cause: str):
    assert failed(on_aws.verify(image=image)) == {"verify-pull": cause}


def test_the_image_has_no_python(on_aws: World):
    found = on_aws.verify(image="quay.io/a/b:without-python3")
    assert failed(found) == {"verify-answer": "program"}
    assert "the file python3 was not found" in found["verify-answer"]["found"]


def test_the_node_has_no_free_slot(on_aws: World):
    """Its only slot is taken."""
    taken = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "taken", "namespace": "default"},
        "spec": {"runtimeClassName": "kata-remote", "containers": [{"name": "main", "image": "app"}]},
    }
    taken["spec"]["nodeSelector"] = {"kubernetes.io/hostname": on_aws.nodes[0]}
    on_aws.cluster.apply(taken)

    def phase() -> str:
        return on_aws.cluster.get("pod", "taken")["status"]["phase"]

    wait_for("the other peer pod", lambda: phase() == "Running", seconds=30)
    found = on_aws.verify(wait_timeout=2)
    assert failed(found) == {"verify-slot": "slot"}
    assert f"Insufficient {RESOURCE}" in found["verify-slot"]["found"]
    # The other pod is not that of a verification.
    assert phase() == "Running"
    on_aws.cluster.delete("pod", "taken")
    wait_for("its VM to go", lambda: not on_aws.vms(), seconds=30)


def test_two_nodes_are_verified_at_the_same_time_after_an_interrupted_run(on_aws: World):
    (left,) = on_aws.run("verification_pods", nodes=on_aws.nodes[1:])["progress"]["pods"].values()
    # A node that is named twice gets one pod.
    found = on_aws.verify(nodes=[*on_aws.nodes, on_aws.nodes[0]])
    assert failed(found) == {}
    assert f"interrupted or kept its pods: {left}." in found["verify-leftovers"]["found"]
    assert found["verify-deleted"]["found"] == "2 VMs are deleted."
    assert on_aws.vms() == set()


def test_a_dry_run_creates_nothing(on_aws: World):
    result = on_aws.run("verification_pods", nodes=on_aws.nodes, _ansible_check_mode=True)
    assert result["changed"]
    assert result["progress"]["done"]
    assert not on_aws.cluster.get("pods")["items"]


def test_the_stand_in_takes_the_credentials_that_the_secret_has(moto: aws.Moto, side: aws.CloudSide):
    """Keys, or a role by the token of the service account."""
    node = {"spec": {"providerID": side.workers[0].provider_id}}
    vms, logged = Aws(moto.endpoint_url), []

    def create(secret: dict[str, str]) -> str:
        settings = {"PODVM_AMI_ID": "ami-12c6146b", "AWS_REGION": aws.REGION}
        return vms.create("podvm-a-1", "1", node, settings, secret, lambda *line: logged.append(line)).id

    role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/caa", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"}
    with pytest.raises(RejectedError, match="no EC2 IMDS role found"):
        create({})
    # The operator mounts a token only with a role in its own environment.
    with pytest.raises(RejectedError, match="unable to read file at /var/run/token: open"):
        create({**role, NO_TOKEN: "true"})
    with pytest.raises(RejectedError, match="Not authorized to perform sts:AssumeRoleWithWebIdentity"):
        create(role)
    moto.client("iam").create_role(RoleName="caa", AssumeRolePolicyDocument="{}")
    instance_id = create(role)
    assert logged[-1][1].startswith(f"instance {instance_id}: podNodeIP[0]=10.0.")
    vms.delete(instance_id, {"AWS_REGION": aws.REGION}, role, lambda *line: logged.append(line))
    assert logged[-1] == ("adaptor/cloud/aws", f"Deleted instance {instance_id}")
    moto.client("iam").delete_role(RoleName="caa")


def playbook(world: World, name: str, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = ansible_environment({**world.environment, "K8S_AUTH_KUBECONFIG": str(world.cluster.kubeconfig)})
    command = ["ansible-playbook", str(ROOT / "playbooks" / f"{name}.yml"), "-e", json.dumps(variables), *arguments]
    return run_playbook(command, environment, world.directory)


def test_the_playbook_fails_with_the_cause_and_writes_it_into_the_report(on_aws: World, proxy: Ec2Proxy):
    proxy.faults["RunInstances"] += [REJECTIONS["quota"]] * 50
    ran = playbook(on_aws, "verify", report_formats=["json"], verify_node_count=3)
    proxy.faults["RunInstances"].clear()
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert f"{on_aws.nodes[0]}: waiting for its VM" in ran.stderr
    assert "the pods and their PeerPods are deleted" in ran.stderr
    report = json.loads((on_aws.directory / "peerpods-report/verify.json").read_text())
    failures = {finding["check"]: finding["cause"] for finding in report["findings"] if finding["status"] == "error"}
    assert failures == {"verify-vm": "quota"}
    assert "VcpuLimitExceeded" in ran.stdout
    assert on_aws.vms() == set()


def test_site_runs_it_alone_with_its_tag_after_an_interrupted_run(on_aws: World):
    """Whose pods have all slots."""
    on_aws.run("verification_pods", nodes=on_aws.nodes)
    wait_for("the VMs", lambda: len(on_aws.vms()) == len(on_aws.nodes), seconds=30)
    planned = playbook(on_aws, "site", "--tags", "verify", "--check")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "Would create a peer pod in namespace default on" in planned.stdout
    ran = playbook(on_aws, "site", "--tags", "verify")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "The pod answered the API server" in ran.stdout
    assert "interrupted or kept its pods" in ran.stdout
    assert "webhook : Read" not in ran.stdout


@pytest.fixture(scope="module")
def azure_side(arm: AzureArm) -> Iterator[azure.CloudSide]:
    """A site that denies all traffic in its network except for the ports of peer pods."""
    before, limits = arm.snapshot(), dict(arm.limits)
    arm.restore({})
    side = azure.create_cloud_side(arm, workers=1)
    for name, rule in PEER_POD_RULES.items():
        arm.put(f"{side.nsg_id}/securityRules/{name}", {"properties": rule})
    yield side
    arm.restore(before)
    arm.limits = limits


def rule_for(priority: int, port: str, protocol: str) -> dict:
    prefixes = dict.fromkeys(("sourceAddressPrefix", "destinationAddressPrefix"), azure.WORKER_SUBNET_CIDR)
    ports = {"sourcePortRange": "*", "destinationPortRange": port}
    return {
        "priority": priority,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": protocol,
        **prefixes,
        **ports,
    }


PEER_POD_RULES = {"agent": rule_for(111, "15150", "Tcp"), "tunnel": rule_for(112, "9000", "Udp")}


@pytest.fixture(scope="module")
def on_azure(on_aws: World, arm: AzureArm, azure_side: azure.CloudSide, tmp_path_factory) -> World:
    """The same cluster, with a node in Azure instead of those in AWS."""
    cluster = on_aws.cluster
    cluster.processes.end("adaptor")
    (worker,) = azure_side.workers
    cluster.apply(openshift.node(worker, azure.REGION))
    cluster.merge("configmap/peer-pods-cm", {"data": None}, OPERATOR_NAMESPACE)
    settings = {
        "CLOUD_PROVIDER": "azure",
        "AZURE_REGION": azure.REGION,
        "AZURE_RESOURCE_GROUP": azure_side.resource_group,
        "AZURE_SUBNET_ID": azure_side.worker_subnet_id,
        "AZURE_NSG_ID": azure_side.nsg_id,
        "AZURE_INSTANCE_SIZE": "Standard_B2als_v2",
        "AZURE_IMAGE_ID": COMMUNITY_IMAGE,
        "PROXY_TIMEOUT": "1s",
        "PEERPODS_LIMIT_PER_NODE": "1",
    }
    names = ("AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
    secret = {name: arm.environment[name] for name in names}
    environments = (arm.environment, arm.environment)
    directory = tmp_path_factory.mktemp("verify-azure")
    return serve(cluster, "azure", [worker.name], environments, settings, secret, directory)


def test_a_peer_pod_that_runs_on_azure(on_azure: World, arm: AzureArm):
    before = set(arm.resources)
    found = on_azure.verify()
    assert {finding["status"] for finding in found.values()} == {"ok"}, found
    assert "virtualMachines/podvm-peerpods-verify-" in found["verify-vm"]["found"]
    # Its network interface is deleted as well.
    assert set(arm.resources) == before


def test_the_quota_of_azure_is_used_up(on_azure: World, arm: AzureArm):
    arm.limits["standardBasv2Family"] = 1
    found = on_azure.verify()
    arm.limits["standardBasv2Family"] = 100
    assert failed(found) == {"verify-vm": "quota"}
    assert "Current Limit: 1, Current Usage: 0, Additional Required: 2" in found["verify-vm"]["found"]


def test_azure_does_not_have_the_image(on_azure: World):
    gallery = "/CommunityGalleries/none/Images/podvm/Versions/0.1.0"
    with on_azure.set(AZURE_IMAGE_ID=gallery):
        found = on_azure.verify()
    assert failed(found) == {"verify-vm": "image"}
    assert f"The gallery image {gallery} is not available in westeurope region" in found["verify-vm"]["found"]


def test_azure_has_no_capacity(on_azure: World, arm: AzureArm):
    message = "The requested VM size for resource 'v' is currently not available in location 'westeurope'."
    arm.faults += [Fault("PUT", "/virtualMachines/podvm-", faults.refuse(409, "SkuNotAvailable", message))] * 20
    found = on_azure.verify()
    arm.faults.clear()
    assert failed(found) == {"verify-vm": "capacity"}


def test_a_vm_whose_creation_failed_stays(on_azure: World, arm: AzureArm):
    """cloud-api-adaptor does not delete it (CreateInstance in azure/provider.go returns no instance)."""
    before = set(arm.resources)
    message = "Allocation failed. We do not have sufficient capacity for the requested VM size in this region."
    arm.faults += [Fault("PUT", "/virtualMachines/podvm-", faults.operation_fails("AllocationFailed", message))] * 20
    found = on_azure.verify()
    arm.faults.clear()
    orphaned = {each for each in set(arm.resources) - before if "/virtualmachines/" in each}
    for each in orphaned:
        arm.delete(each)
    assert failed(found) == {"verify-vm": "capacity", "verify-deleted": ""}
    assert orphaned
    assert "VMs without a PeerPod stay" in found["verify-deleted"]["found"]
    assert f"(failed: AllocationFailed: {message})" in found["verify-deleted"]["found"]
    assert set(arm.resources) == before


def test_the_identity_may_not_create_vms(on_azure: World, arm: AzureArm):
    """The emulated Azure has one identity, so that the user may not read the consoles either."""
    before = arm.permissions
    arm.permissions = [roles.READER]
    found = on_azure.verify()
    arm.permissions = before
    assert failed(found) == {"verify-vm": "permissions"}
    assert "does not have authorization to perform action" in found["verify-vm"]["found"]


@pytest.mark.parametrize(
    ("rule", "check", "cause"), [("agent", "verify-agent", "port"), ("tunnel", "verify-answer", "tunnel")]
)
def test_a_rule_is_missing(
    on_azure: World, arm: AzureArm, azure_side: azure.CloudSide, rule: str, check: str, cause: str
):
    rule_id = f"{azure_side.nsg_id}/securityRules/{rule}"
    arm.delete(rule_id)
    found = on_azure.verify()
    arm.put(rule_id, {"properties": PEER_POD_RULES[rule]})
    assert failed(found)[check] == cause


def test_the_boot_diagnostics_show_why_a_vm_does_not_answer(
    on_azure: World, arm: AzureArm, azure_side: azure.CloudSide
):
    rule_id = f"{azure_side.nsg_id}/securityRules/agent"
    arm.delete(rule_id)
    panic = "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
    arm.consoles = _Consoles(panic)
    with on_azure.set(PROXY_TIMEOUT="5m"):
        found = on_azure.verify(boot_timeout=1)
    arm.consoles = {}
    arm.put(rule_id, {"properties": PEER_POD_RULES["agent"]})
    assert failed(found) == {"verify-agent": "agent"}
    assert f"From the console of /subscriptions/{arm.subscription_id}" in found["verify-agent"]["found"]
    assert panic in found["verify-agent"]["found"]


class _Consoles(dict):
    """Every machine writes the same."""

    def __init__(self, text: str):
        super().__init__()
        self._text = text

    def get(self, _machine: str, _default: str = "") -> str:
        return self._text


def test_the_subnet_of_azure_has_no_way_out(on_azure: World, arm: AzureArm, azure_side: azure.CloudSide):
    """Without a NAT gateway, and without the default outbound access that new subnets do not have any more."""
    subnet = arm.resources[azure_side.worker_subnet_id.lower()]["properties"]
    arm.put(azure_side.worker_subnet_id, {"properties": {**subnet, "defaultOutboundAccess": False}})
    found = on_azure.verify()
    arm.put(azure_side.worker_subnet_id, {"properties": subnet})
    assert failed(found) == {"verify-pull": "egress"}
