# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The subnets of the workers in Azure, and the network security groups that filter their traffic (private).

The VMs lead to their network interfaces, these to subnets, and subnets to virtual networks and the attached network
security groups. Each object is found by its id in the previous one; no name is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import NETWORK_API_VERSION, Arm
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import (
    Attachment,
    Target,
    attachments,
    parse_virtual_machine_id,
    subnet_ids,
    subnet_prefixes,
    targets,
    unique,
    virtual_network_id,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import SecurityRuleError
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import (
    NODES_OPTION,
    worker_provider_ids,
)

# The options that nsg_rules and nsg_rules_info have in common, in addition to those of the login.
WORKER_NETWORK_ARGS = {
    "nodes": NODES_OPTION,
    "virtual_machines": {"type": "list", "elements": "str"},
    "subnets": {"type": "list", "elements": "str"},
    "network_security_groups": {"type": "list", "elements": "str"},
}
ONE_OF_WORKERS = [("nodes", "virtual_machines", "subnets", "network_security_groups")]
AT_MOST_ONE_OF_WORKERS = [("nodes", "virtual_machines", "subnets")]

_BY_NAME = "Named by network_security_groups."

_PROVIDER = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network"
_SUBNET_ID = re.compile(f"{_PROVIDER}/virtualNetworks/[^/]+/subnets/[^/]+", re.IGNORECASE)
_NSG_ID = re.compile(f"{_PROVIDER}/networkSecurityGroups/[^/]+", re.IGNORECASE)


@dataclass(frozen=True)
class WorkerNetwork:
    """The subnets of the workers, as ARM returns them, and the groups that filter them.

    `unfiltered` has a sentence for each subnet or network interface without a group. `bodies` has the groups, by id,
    that were read already.
    """

    subnets: tuple[dict, ...]
    targets: tuple[Target, ...]
    unfiltered: tuple[str, ...]
    reason: str
    bodies: Mapping[str, dict] = field(default_factory=dict)


def worker_network(arm: Arm, module: AnsibleModule) -> WorkerNetwork:
    """Find the network of the workers, with one request for each resource group of VMs and for each virtual network."""
    params = module.params
    named = tuple(_validate_ids(params["network_security_groups"] or (), _NSG_ID))
    if params["subnets"]:
        ids = tuple(_validate_ids(params["subnets"], _SUBNET_ID))
        network = _of_subnets(arm, ids, (), "Attached to the subnets that were named.")
    elif params["nodes"] is not None or params["virtual_machines"]:
        instead = "subnets or network_security_groups"
        network = _of_virtual_machines(arm, params["virtual_machines"] or worker_provider_ids(module, instead))
    elif named:
        return _of_security_groups(arm, named)
    else:
        raise SecurityRuleError(
            "No worker, subnet or network security group is given. Set one of nodes, virtual_machines, "
            "subnets and network_security_groups to a value that is not empty."
        )
    return _limit_to_groups(network, named) if named else network


def targets_with_groups(arm: Arm, network: WorkerNetwork) -> list[tuple[Target, dict]]:
    """Each target with its group as ARM returns it; takes one request for each group."""
    return [
        (target, network.bodies.get(nsg_id) or network_security_group(arm, nsg_id))
        for target in network.targets
        for nsg_id in [target.network_security_group_id]
    ]


def network_security_group(arm: Arm, nsg_id: str) -> dict:
    return _get_existing(arm, nsg_id, "network security group")


def _of_security_groups(arm: Arm, nsg_ids: Sequence[str]) -> WorkerNetwork:
    """Groups that are given without workers: their subnets determine the addresses of VirtualNetwork."""
    bodies = {nsg["id"]: nsg for nsg in (network_security_group(arm, id_) for id_ in nsg_ids)}
    subnets = [subnet["id"] for nsg in bodies.values() for subnet in nsg["properties"].get("subnets", ())]
    spaces = {
        target.network_security_group_id.lower(): target.virtual_network
        for target in _of_subnets(arm, subnets, (), "").targets
    }
    group_targets = tuple(Target(id_, (), (), (), (), spaces.get(id_.lower(), ())) for id_ in bodies)
    return WorkerNetwork((), group_targets, (), _BY_NAME, bodies)


def _of_virtual_machines(arm: Arm, names: Iterable[str]) -> WorkerNetwork:
    vm_ids = unique(parse_virtual_machine_id(name) for name in names)
    interfaces = [
        interface
        for group in unique(vm_id.partition("/providers/")[0] for vm_id in vm_ids)
        for interface in arm.list(f"{group}/providers/Microsoft.Network/networkInterfaces", NETWORK_API_VERSION)
    ]
    attached = attachments(interfaces, vm_ids)
    count = "the only worker" if len(vm_ids) == 1 else f"all {len(vm_ids)} workers"
    return _of_subnets(arm, subnet_ids(attached), attached, f"Attached to the subnets and interfaces of {count}.")


def _of_subnets(arm: Arm, ids: Sequence[str], attached: Sequence[Attachment], reason: str) -> WorkerNetwork:
    networks = [_get_existing(arm, id_, "virtual network") for id_ in unique(map(virtual_network_id, ids))]
    by_id = {subnet["id"].lower(): subnet for network in networks for subnet in network["properties"]["subnets"]}
    missing = [subnet_id for subnet_id in ids if subnet_id.lower() not in by_id]
    if missing:
        raise SecurityRuleError(
            f"Azure has no subnet {', '.join(missing)}. Its virtual networks have "
            f"{', '.join(sorted(subnet['id'] for subnet in by_id.values())) or 'none'}."
        )
    subnets = tuple(by_id[subnet_id.lower()] for subnet_id in ids)
    subnet_targets, unfiltered = targets(subnets, networks, attached)
    return WorkerNetwork(subnets, subnet_targets, unfiltered, reason)


def _limit_to_groups(network: WorkerNetwork, nsg_ids: Sequence[str]) -> WorkerNetwork:
    """The groups that the task names, instead of the attached groups."""
    attached = {target.network_security_group_id.lower(): target for target in network.targets}
    sources = tuple(dict.fromkeys(p for subnet in network.subnets for p in subnet_prefixes(subnet)))
    spaces = tuple(dict.fromkeys(p for target in network.targets for p in target.virtual_network))
    named = tuple(
        attached.get(nsg_id.lower()) or Target(nsg_id, (), (), sources, sources, spaces) for nsg_id in nsg_ids
    )
    return replace(network, targets=named, unfiltered=(), reason=_BY_NAME)


def _get_existing(arm: Arm, resource_id: str, kind: str) -> dict:
    resource = arm.get(resource_id, NETWORK_API_VERSION)
    if resource is None:
        raise SecurityRuleError(
            f"Azure has no {kind} {resource_id}. Check the id, and that these credentials have permission to read it."
        )
    return resource


def _validate_ids(ids: Iterable[str], pattern: re.Pattern) -> Iterator[str]:
    for resource_id in unique(ids):
        if not pattern.fullmatch(resource_id):
            raise SecurityRuleError(
                f"{resource_id!r} is not a valid id. Set the whole ARM id, "
                "/subscriptions/…/resourceGroups/…/providers/Microsoft.Network/…"
            )
        yield resource_id


def describe_subnets(network: WorkerNetwork) -> list[dict]:
    """The subnets for the result of a module."""
    return [
        {
            "id": subnet["id"],
            "address_prefixes": list(subnet_prefixes(subnet)),
            "network_security_group": (subnet["properties"].get("networkSecurityGroup") or {}).get("id"),
        }
        for subnet in network.subnets
    ]
