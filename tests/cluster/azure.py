"""The Azure side of a cluster, in an Azure Resource Manager on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from tests.azure_arm import AzureArm

from .openshift import INFRASTRUCTURE_NAME, Worker

REGION = "westeurope"
VNET_CIDR = "10.0.0.0/16"
WORKER_SUBNET_CIDR = "10.0.128.0/17"
VM_SIZE = "Standard_D8s_v5"

# Some of the traffic that the cluster needs between its machines, on a site that denies all other traffic: priority,
# protocol and ports of rules from VirtualNetwork to VirtualNetwork. They must not change. Of 9000-9999, OpenShift's
# host services, 9000 is left out, because the documented procedure opens it.
ALLOWED_BEFORE = {
    "allow-kubelet": (3000, "Tcp", "10250"),
    "allow-geneve": (3001, "Udp", "6081"),
    "allow-vxlan": (3002, "Udp", "4789"),
    "allow-host-services": (3003, "*", "9100-9999"),
    "allow-machine-config": (3004, "Tcp", "22623-22624"),
}
DENY_RULE = "deny-vnet-inbound"


@dataclass(frozen=True)
class CloudSide:
    """The Azure resources of an installer-provisioned cluster that matter for peer pods."""

    resource_group: str
    vnet_id: str
    worker_subnet_id: str
    nsg_id: str
    workers: tuple[Worker, ...]


def create_cloud_side(arm: AzureArm, workers: int) -> CloudSide:
    """A virtual network with the installer's two subnets, one security group on both, and VMs.

    By default, Azure allows all traffic in a network, and peer pods require no rule. This site denies all traffic
    that the cluster does not need, as strict sites do.
    """
    group = f"{INFRASTRUCTURE_NAME}-rg"
    group_id = f"/subscriptions/{arm.subscription_id}/resourceGroups/{group}"
    network = f"{group_id}/providers/Microsoft.Network"
    machines = f"{group_id}/providers/Microsoft.Compute/virtualMachines"
    vnet_id = f"{network}/virtualNetworks/{INFRASTRUCTURE_NAME}-vnet"
    worker_subnet_id = f"{vnet_id}/subnets/{INFRASTRUCTURE_NAME}-worker-subnet"
    nsg_id = f"{network}/networkSecurityGroups/{INFRASTRUCTURE_NAME}-nsg"
    tags = {f"kubernetes.io_cluster.{INFRASTRUCTURE_NAME}": "owned"}
    common = {"location": REGION, "tags": tags}

    arm.put(group_id, common)
    arm.put(nsg_id, {**common, "properties": {"securityRules": _rules()}})
    subnets = [
        {
            "name": f"{INFRASTRUCTURE_NAME}-{role}-subnet",
            "properties": {"addressPrefix": prefix, "networkSecurityGroup": {"id": nsg_id}},
        }
        for role, prefix in (("master", "10.0.0.0/17"), ("worker", WORKER_SUBNET_CIDR))
    ]
    space = {"addressPrefixes": [VNET_CIDR]}
    arm.put(vnet_id, {**common, "properties": {"addressSpace": space, "subnets": subnets}})
    created_workers = []
    for index in range(workers):
        zone = str(index % 3 + 1)
        name = f"{INFRASTRUCTURE_NAME}-worker-{REGION}{zone}-{_suffix(index)}"
        nic = arm.put(
            f"{network}/networkInterfaces/{name}-nic",
            {
                **common,
                "properties": {
                    "ipConfigurations": [
                        {"name": "pipConfig", "properties": {"subnet": {"id": worker_subnet_id}}},
                    ]
                },
            },
        )
        machine = arm.put(
            f"{machines}/{name}",
            {
                **common,
                "zones": [zone],
                "properties": {
                    "hardwareProfile": {"vmSize": VM_SIZE},
                    "networkProfile": {"networkInterfaces": [{"id": nic["id"]}]},
                },
            },
        )
        (address,) = nic["properties"]["ipConfigurations"]
        created_workers.append(
            Worker(
                name=name,
                provider_id=f"azure://{machine['id']}",
                zone=f"{REGION}-{zone}",
                instance_type=VM_SIZE,
                internal_ip=address["properties"]["privateIPAddress"],
            )
        )
    return CloudSide(group, vnet_id, worker_subnet_id, nsg_id, tuple(created_workers))


def _rules() -> list[dict]:
    def rule(name: str, priority: int, access: str, protocol: str, source: str, port: str) -> dict:
        return {
            "name": name,
            "properties": {
                "priority": priority,
                "direction": "Inbound",
                "access": access,
                "protocol": protocol,
                "sourceAddressPrefix": source,
                "sourcePortRange": "*",
                "destinationAddressPrefix": "*" if source == "*" else source,
                "destinationPortRange": port,
            },
        }

    return [
        # The rules of the installer: github.com/openshift/installer, pkg/infrastructure/azure.
        rule("apiserver_in", 101, "Allow", "Tcp", "*", "6443"),
        *(
            rule(name, priority, "Allow", protocol, "VirtualNetwork", port)
            for name, (priority, protocol, port) in ALLOWED_BEFORE.items()
        ),
        rule(DENY_RULE, 4000, "Deny", "*", "VirtualNetwork", "*"),
    ]


def _suffix(index: int) -> str:
    """Five characters, as machine sets append them: reproducible, and different for each index."""
    letters = "bcdfghjklmnpqrstvwxz"
    return "".join(letters[(index // 20**position + 7 * position) % 20] for position in range(5))
