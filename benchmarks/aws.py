"""AWS: moto's EC2 behind a proxy that counts calls, and the contenders that open ports there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests import documented
from tests.cluster import openshift
from tests.cluster.aws import REGION, Moto
from tests.cluster.launcher import Cluster
from tests.ec2_proxy import Ec2Proxy, ec2_proxy
from tests.environments import own_environment
from tests.support import OPERATOR_NAMESPACE

from .contenders import DOCUMENTED, OURS, Contender, Job, World
from .kubernetes import (
    LIMIT_BEFORE,
    NODES,
    WEBHOOK_NAMESPACE,
    endpoint_slice,
    kubernetes_jobs,
)

PORTS = (9000, 15150)

SHARED_GROUPS = (
    "{%- set all = namespace(groups=workers.instances[0].security_groups) -%}"
    "{%- for instance in workers.instances -%}"
    "{%- set all.groups = all.groups | intersect(instance.security_groups) -%}"
    "{%- endfor -%}{{ all.groups }}"
)


# Marks the rules. The ports are those of the product documentation, as in the other contenders, without 9000/udp.
CLUSTER = {
    "cluster_name": openshift.INFRASTRUCTURE_NAME,
    "cluster_id": openshift.CLUSTER_ID,
    "ports": [{"port": port} for port in PORTS],
}


def amazon_aws(instance_ids: str) -> list[dict]:
    """Two tasks of amazon.aws that do what security_group_ports does."""
    return [
        {
            "amazon.aws.ec2_instance_info": {"instance_ids": instance_ids},
            "register": "workers",
        },
        {
            "amazon.aws.ec2_security_group": {
                "group_id": "{{ item.group_id }}",
                # The module requires both; the groups here are described by their names.
                "name": "{{ item.group_name }}",
                "description": "{{ item.group_name }}",
                "purge_rules": False,
                "purge_rules_egress": False,
                "rules": [{"proto": "tcp", "ports": list(PORTS), "group_id": "{{ item.group_id }}"}],
            },
            "loop": SHARED_GROUPS,
        },
    ]


class AwsWorld(World):
    api = "EC2"
    packages = ("boto3", "moto")
    cli = documented.AWSCLI
    refusal = "InvalidPermission.Duplicate"

    @classmethod
    @contextlib.contextmanager
    def started(cls, scratch: Path) -> Iterator[Self]:
        moto = Moto(scratch / "moto")
        with contextlib.ExitStack() as servers:
            servers.callback(moto.processes.stop)
            proxy = servers.enter_context(ec2_proxy(moto.endpoint_url))
            yield cls(servers.enter_context(Cluster(definitions=openshift.definitions())), scratch, moto, proxy)

    def __init__(self, cluster: Cluster, scratch: Path, moto: Moto, proxy: Ec2Proxy):
        super().__init__(cluster, scratch)
        self.environment = {
            **moto.environment,
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._proxy = proxy
        self._aws_cli = own_environment(documented.AWSCLI)
        self._ec2 = moto.client("ec2")
        vpc = self._ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self._subnet = self._ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/19", AvailabilityZone=f"{REGION}a")[
            "Subnet"
        ]["SubnetId"]
        self._group, *self._others = [
            self._ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
            for name in ("node", "lb", "storage")
        ]
        openshift.fill(cluster, (), REGION)
        cluster.apply(
            *(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                for name in (OPERATOR_NAMESPACE, WEBHOOK_NAMESPACE)
            ),
            openshift.peer_pod_config("worker", LIMIT_BEFORE),
            endpoint_slice(),
        )

    def grow(self, count: int) -> None:
        """Add workers until there are `count`; each is a reservation of its own in EC2, as OpenShift's machines are.

        The first worker is in one group, the only case that the documented commands support; the others are in more
        groups.
        """
        new = []
        for number in range(len(self.workers), count):
            groups = [self._group, *(self._others[: 1 + number % 2] if number else ())]
            instance = self._ec2.run_instances(
                ImageId="ami-12c6146b",
                MinCount=1,
                MaxCount=1,
                SubnetId=self._subnet,
                SecurityGroupIds=groups,
            )["Instances"][0]
            new.append(
                openshift.Worker(
                    # The documented commands take .items[0], the first by name.
                    name=f"worker-{number:03}.{REGION}.compute.internal",
                    provider_id=f"aws:///{REGION}a/{instance['InstanceId']}",
                    zone=f"{REGION}a",
                    instance_type="m6i.2xlarge",
                    internal_ip=instance["PrivateIpAddress"],
                )
            )
        if new:
            self.cluster.apply(*(openshift.node(worker, REGION) for worker in new))
        self.workers += new
        self.variables = {"instance_ids": [worker.provider_id.rpartition("/")[2] for worker in self.workers]}

    def take_calls(self) -> int:
        return len(self._proxy.take_calls())

    def jobs(self) -> tuple[Job, ...]:
        return (
            Job(
                "open the ports, given the instances",
                (
                    Contender(
                        OURS,
                        [{f"{OURS}.security_group_ports": {**CLUSTER, "instance_ids": "{{ instance_ids }}"}}],
                    ),
                    Contender("amazon.aws", amazon_aws("{{ instance_ids }}")),
                ),
                self._close_ports,
                self._ports_open,
            ),
            Job(
                "open the ports, given the cluster",
                (
                    Contender(OURS, [{f"{OURS}.security_group_ports": {**CLUSTER, "nodes": {}}}]),
                    Contender(
                        "kubernetes.core + amazon.aws",
                        [
                            NODES,
                            *amazon_aws(
                                "{{ nodes.resources | map(attribute='spec.providerID')"
                                " | map('split', '/') | map('last') | list }}"
                            ),
                        ],
                    ),
                    Contender(DOCUMENTED, script=documented.AWS_PORTS, programs=self._aws_cli),
                ),
                self._close_ports,
                self._ports_open,
            ),
            *kubernetes_jobs(self),
        )

    def _close_ports(self) -> None:
        rules = [rule["SecurityGroupRuleId"] for rule in self._ingress()]
        if rules:
            self._ec2.revoke_security_group_ingress(GroupId=self._group, SecurityGroupRuleIds=rules)

    def _ports_open(self) -> bool:
        return sorted(rule["FromPort"] for rule in self._ingress()) == sorted(PORTS)

    def _ingress(self) -> list[dict]:
        rules = self._ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [self._group]}])[
            "SecurityGroupRules"
        ]
        return [rule for rule in rules if not rule["IsEgress"]]
