"""A real AWS API on this machine: moto's server over HTTP, with the cloud side of a cluster in it."""

from __future__ import annotations

import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from .image_builder import TRUST, vmimport_policy
from .image_jobs import VERSION
from .openshift import INFRASTRUCTURE_NAME, PYTHON, Worker
from .processes import START_SECONDS, Processes, free_ports, wait_for

REGION = "eu-central-1"
VPC_CIDR = "10.0.0.0/16"
INSTANCE_TYPE = "m6i.2xlarge"

# Some of the ports that an installer opens between nodes. They must not change.
PORTS_OPEN_BEFORE = {10250: "tcp", 4789: "udp"}


class Moto:
    """A running moto server; stop it with its `processes`."""

    def __init__(self, directory: Path):
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        self.processes = Processes(directory / "logs")
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        try:
            self.processes.start(
                "moto",
                [sys.executable, "-m", "tests.cluster.moto_server", "-H", "127.0.0.1", "-p", str(port)],
                # As in AWS without a policy of the bucket.
                environment={**PYTHON, "MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS": "false"},
            )
            wait_for("moto", self._ready, seconds=START_SECONDS)
        except BaseException:
            self.processes.stop()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client of this AWS. moto accepts any credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        }

    def client(self, service: str) -> Any:
        environment = self.environment
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )

    def _ready(self) -> bool:
        self.processes.check_alive()
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/moto-api/data.json", timeout=5):
                return True
        except OSError:
            return False


@dataclass(frozen=True)
class CloudSide:
    """The AWS resources of an installer-provisioned cluster that matter for peer pods."""

    vpc_id: str
    worker_group_id: str
    workers: tuple[Worker, ...]


def create_cloud_side(moto: Moto, workers: int) -> CloudSide:
    """A VPC with one subnet in each zone, the installer's two security groups, `workers` instances and a NAT gateway.

    Every worker is in the node group and, as on a real cluster with a load balancer, in a second
    group: the documented commands fail in this case.
    """
    ec2 = moto.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock=VPC_CIDR)["Vpc"]["VpcId"]
    zones = [f"{REGION}{letter}" for letter in "abc"]
    subnets = {
        zone: ec2.create_subnet(VpcId=vpc_id, CidrBlock=f"10.0.{32 * index}.0/19", AvailabilityZone=zone)["Subnet"][
            "SubnetId"
        ]
        for index, zone in enumerate(zones)
    }
    _route_to_internet(ec2, vpc_id, list(subnets.values()))
    groups = [
        ec2.create_security_group(GroupName=f"{INFRASTRUCTURE_NAME}-{role}", Description=description, VpcId=vpc_id)[
            "GroupId"
        ]
        for role, description in (
            ("node", "Cluster nodes"),
            ("lb", "Load balancer of the ingress controller"),
        )
    ]
    ec2.authorize_security_group_ingress(
        GroupId=groups[0],
        IpPermissions=[
            {"IpProtocol": protocol, "FromPort": port, "ToPort": port, "UserIdGroupPairs": [{"GroupId": groups[0]}]}
            for port, protocol in PORTS_OPEN_BEFORE.items()
        ],
    )
    created_workers = []
    for index in range(workers):
        zone = zones[index % len(zones)]
        # The last worker is in the node group only, so that all workers share exactly one group.
        own_groups = groups if index < workers - 1 else groups[:1]
        instance = ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            InstanceType=INSTANCE_TYPE,
            SubnetId=subnets[zone],
            SecurityGroupIds=own_groups,
        )["Instances"][0]
        created_workers.append(
            Worker(
                name=instance["PrivateDnsName"].split(".")[0] + f".{REGION}.compute.internal",
                provider_id=f"aws:///{zone}/{instance['InstanceId']}",
                zone=zone,
                instance_type=INSTANCE_TYPE,
                internal_ip=instance["PrivateIpAddress"],
            )
        )
    return CloudSide(vpc_id, groups[0], tuple(created_workers))


def _route_to_internet(ec2: Any, vpc_id: str, subnet_ids: list[str]) -> None:
    """A NAT gateway for private subnets, as the installer creates them (openshift/installer, pkg/infrastructure/aws).

    The installer creates a public subnet and a NAT gateway in each zone; one of both is enough here.
    """
    public = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.96.0/24")["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    gateway = ec2.create_nat_gateway(SubnetId=public, AllocationId=address)["NatGateway"]["NatGatewayId"]
    table = ec2.create_route_table(VpcId=vpc_id)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)
    for subnet_id in subnet_ids:
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet_id)


def create_image_resources(moto: Moto) -> None:
    """What the documentation has users create for the image job if they give the credentials: config/peerpods/podvm/
    ami-helper.sh -s of the operator, with the bucket that the job uses by default."""
    bucket = f"podvm-image-{VERSION}"
    moto.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    iam = moto.client("iam")
    iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="vmimport", PolicyName="vmimport", PolicyDocument=json.dumps(vmimport_policy(bucket)))
