"""The clouds on this machine that the demo can run in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.azure_arm import AzureArm
from tests.cluster import aws, azure, openshift


@dataclass(frozen=True)
class Cloud:
    """A running cloud that has the machines of a cluster's workers."""

    name: str
    region: str
    workers: tuple[openshift.Worker, ...]
    # What the cluster's Infrastructure says of it.
    platform_status: dict | None
    # What a shell that talks to it has exported.
    environment: dict[str, str]
    # Read back from it: the ports between workers that are open and were not before, as 9000/tcp.
    ports_opened: Callable[[], list[str]]


def start_aws(directory: Path, workers: int, stack: ExitStack) -> Cloud:
    """moto, until `stack` is left."""
    moto = aws.Moto(directory)
    stack.callback(moto.processes.stop)
    side = aws.create_cloud_side(moto, workers)

    def ports_opened() -> list[str]:
        (group,) = moto.client("ec2").describe_security_groups(GroupIds=[side.worker_group_id])[
            "SecurityGroups"
        ]
        return sorted(
            f"{permission['FromPort']}/{permission['IpProtocol']}"
            for permission in group["IpPermissions"]
            if permission["FromPort"] not in aws.PORTS_OPEN_BEFORE
            and any(pair["GroupId"] == group["GroupId"] for pair in permission["UserIdGroupPairs"])
        )

    return Cloud("aws", aws.REGION, side.workers, None, moto.environment, ports_opened)


def start_azure(directory: Path, workers: int, stack: ExitStack) -> Cloud:
    """The ARM emulator, until `stack` is left. A rule in it denies what no other rule allows."""
    arm = stack.enter_context(AzureArm(directory))
    side = azure.create_cloud_side(arm, workers)

    def rules() -> dict[str, dict]:
        found = arm.resources[side.nsg_id.lower()]["properties"]["securityRules"]
        return {rule["name"]: rule["properties"] for rule in found}

    before = rules().keys()

    def ports_opened() -> list[str]:
        return sorted(
            f"{rule['destinationPortRange']}/{rule['protocol'].lower()}"
            for name, rule in rules().items()
            if name not in before
            and (rule["access"], rule["direction"]) == ("Allow", "Inbound")
            and rule["sourceAddressPrefix"] == rule["destinationAddressPrefix"]
            == azure.WORKER_SUBNET_CIDR
        )  # fmt: skip

    status = openshift.azure_status(side.resource_group)
    return Cloud("azure", azure.REGION, side.workers, status, arm.environment, ports_opened)


CLOUDS = {"aws": start_aws, "azure": start_azure}
