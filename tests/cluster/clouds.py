"""The clouds on this machine, and a bare OpenShift cluster in one of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.azure_arm import AzureArm, roles

from . import aws, azure, openshift
from .binaries import binaries
from .images import IMAGES, build_images
from .launcher import API_AUDIENCE, Cluster
from .processes import free_ports
from .releases import NEWEST


@dataclass(frozen=True)
class Cloud:
    """A running cloud with the machines of a cluster's workers."""

    name: str
    region: str
    workers: tuple[openshift.Worker, ...]
    # The platform status of the cluster's Infrastructure.
    platform_status: dict | None
    # The environment variables of a client.
    environment: dict[str, str]
    # Reads the ports that were opened between the workers, such as 9000/tcp.
    ports_opened: Callable[[], list[str]]


# Whose tokens each cloud trusts, if a cluster is installed with tokens: a URL as ccoctl creates it.
ISSUERS = {
    "aws": f"https://{openshift.INFRASTRUCTURE_NAME}-oidc.s3.{aws.REGION}.amazonaws.com",
    "azure": f"https://{openshift.INFRASTRUCTURE_NAME.replace('-', '')}oidc.blob.core.windows.net/oidc",
}


def start_aws(directory: Path, workers: int, stack: ExitStack, *, has_tokens: bool = False) -> Cloud:
    """moto, until `stack` is closed."""
    moto = aws.Moto(directory)
    stack.callback(moto.processes.stop)
    side = aws.create_cloud_side(moto, workers)
    if has_tokens:
        # ccoctl creates it; the image job creates the bucket and the role of the import itself.
        moto.client("iam").create_open_id_connect_provider(
            Url=ISSUERS["aws"], ClientIDList=["openshift", "sts.amazonaws.com"], ThumbprintList=[]
        )
    else:
        aws.create_image_resources(moto)

    def ports_opened() -> list[str]:
        (group,) = moto.client("ec2").describe_security_groups(GroupIds=[side.worker_group_id])["SecurityGroups"]
        return sorted(
            f"{permission['FromPort']}/{permission['IpProtocol']}"
            for permission in group["IpPermissions"]
            if permission["FromPort"] not in aws.PORTS_OPEN_BEFORE
            and any(pair["GroupId"] == group["GroupId"] for pair in permission["UserIdGroupPairs"])
        )

    return Cloud("aws", aws.REGION, side.workers, None, moto.environment, ports_opened)


def start_azure(directory: Path, workers: int, stack: ExitStack, *, has_tokens: bool = False) -> Cloud:
    """The ARM emulator, until `stack` is closed. One of its rules denies all traffic that no other rule allows."""
    arm = stack.enter_context(AzureArm(directory))
    if has_tokens:
        # To assign the roles of an identity.
        arm.permissions = [roles.OWNER]
    side = azure.create_cloud_side(arm, workers)

    def rules() -> dict[str, dict]:
        rule_bodies = arm.resources[side.nsg_id.lower()]["properties"]["securityRules"]
        return {rule["name"]: rule["properties"] for rule in rule_bodies}

    before = rules().keys()

    def ports_opened() -> list[str]:
        return sorted(
            f"{rule['destinationPortRange']}/{rule['protocol'].lower()}"
            for name, rule in rules().items()
            if name not in before
            and (rule["access"], rule["direction"]) == ("Allow", "Inbound")
            and rule["sourceAddressPrefix"] == rule["destinationAddressPrefix"] == azure.WORKER_SUBNET_CIDR
        )

    status = openshift.azure_status(side.resource_group)
    return Cloud("azure", azure.REGION, side.workers, status, arm.environment, ports_opened)


CLOUDS = {"aws": start_aws, "azure": start_azure}


@contextmanager
def bare_cluster(
    name: str, workers: int, runtime: str, operator: str = NEWEST, *, has_tokens: bool = False
) -> Iterator[tuple[Cluster, Cloud]]:
    """A cluster with `workers` workers in a cloud of CLOUDS, as an installer leaves it.

    The head of the channel `stable` is the release `operator`. The newest release deploys its own webhook, as all
    releases do; older ones do not deploy it here, so that the webhook of the collection is tested. The controllers
    (operators.py) and one real node (kubelet.py) run; the node runs pods with podman or as processes. `has_tokens`: the
    cluster was installed with short-lived credentials, so that the cloud trusts the tokens of its service accounts.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osc-peerpods-")))
        binaries()
        cloud = CLOUDS[name](directory / name, workers, stack, has_tokens=has_tokens)
        issuer = ISSUERS[name] if has_tokens else API_AUDIENCE
        definitions = openshift.definitions(peer_pod_configs=False)
        cluster = stack.enter_context(
            Cluster(directory / "cluster", definitions=definitions, has_pod_network=True, issuer=issuer)
        )
        openshift.fill(cluster, cloud.workers, cloud.region, cloud.platform_status)
        if has_tokens:
            openshift.use_tokens(cluster, issuer)
        webhook = _images(runtime)["webhook"] if operator == NEWEST else ""
        openshift.start_stand_ins(
            cluster, runtime, operator, webhook_image=webhook, cloud_environment=cloud.environment
        )
        yield cluster, cloud


def exported(cluster: Cluster, cloud: Cloud) -> dict[str, str]:
    """The environment variables of a client of both."""
    return {"KUBECONFIG": str(cluster.kubeconfig), **cloud.environment}


@cache
def _images(runtime: str) -> dict[str, str]:
    """The images of the containers, or their sources if pods run as processes."""
    return build_images() if runtime == "podman" else {name: f"{name}:source" for name in IMAGES}


def site_variables(runtime: str) -> dict:
    """The inventory variables for the cluster on this machine."""
    images = _images(runtime)
    placement = {
        # This machine is the only control plane node, and the only node that runs pods for real.
        "node_selector": {"node-role.kubernetes.io/control-plane": ""},
        "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}],
    }
    variables: dict[str, object] = {
        f"{role}_{name}": value
        for role in ("webhook", "node_capacity")
        for name, value in {**placement, "image": images[role]}.items()
    }
    if runtime == "process":
        # Two processes on one machine cannot listen on the same port, nor can two demos.
        variables |= {"webhook_replicas": 1, "node_capacity_replicas": 1}
        ports = "webhook_port", "webhook_health_port", "node_capacity_health_port"
        variables |= dict(zip(ports, free_ports(3), strict=True))
    return variables
