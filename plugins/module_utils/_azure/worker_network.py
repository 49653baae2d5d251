# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The subnets of workers and pod VMs in Azure, and the network security groups that filter their traffic (private).

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
    Ends,
    Target,
    address_space,
    attached_groups,
    attachments,
    group_of,
    is_same_id,
    parse_virtual_machine_id,
    pod_vm_group,
    subnet_ids,
    subnet_prefixes,
    target,
    unconnected,
    unfiltered,
    unique,
    virtual_network_id,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import DIRECTIONS, ENDS, Path
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
    "vm_subnets": {"type": "list", "elements": "str"},
    "current_vm_subnets": {"type": "list", "elements": "str"},
    "vm_network_security_groups": {"type": "list", "elements": "str"},
}
ONE_OF_WORKERS = ("nodes", "virtual_machines", "subnets", "network_security_groups")
AT_MOST_ONE_OF_WORKERS = [("nodes", "virtual_machines", "subnets")]

# Traffic of both address families, for a check of rules before the network is read.
ANYWHERE = tuple(
    Path(to, direction, ("10.0.0.0/8", "fd00::/8"), ("10.0.0.0/8", "fd00::/8"), ())
    for to in ENDS
    for direction in DIRECTIONS
)

_BY_NAME = "Named by network_security_groups."

_PROVIDER = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network"
_SUBNET_ID = re.compile(f"{_PROVIDER}/virtualNetworks/[^/]+/subnets/[^/]+", re.IGNORECASE)
_NSG_ID = re.compile(f"{_PROVIDER}/networkSecurityGroups/[^/]+", re.IGNORECASE)
_SUBSCRIPTION = re.compile("(?:azure://)?/subscriptions/([^/]+)/", re.IGNORECASE)


@dataclass(frozen=True)
class WorkerNetwork:
    """The subnets of both ends of the traffic, as ARM returns them, and the groups that filter it.

    `unfiltered` has a sentence for each subnet or network interface without a group, `unconnected` one for each two
    virtual networks that are not peered. `bodies` has the groups, by id, that were read already.
    """

    ends: Ends
    targets: tuple[Target, ...]
    unfiltered: tuple[str, ...]
    reason: str
    unconnected: tuple[str, ...] = ()
    bodies: Mapping[str, dict] = field(default_factory=dict)


def worker_network(arm: Arm, module: AnsibleModule) -> WorkerNetwork:
    """Find the network of the workers, with one request for each resource group of VMs and for each virtual network."""
    params = module.params
    named = tuple(_validate_ids(params["network_security_groups"] or (), _NSG_ID))
    pod_vms = tuple(_validate_ids(params["vm_subnets"] or (), _SUBNET_ID)) or None
    pod_vm_groups = tuple(_validate_ids(params["vm_network_security_groups"] or (), _NSG_ID))
    attached: tuple[Attachment, ...] = ()
    if params["subnets"]:
        workers = tuple(_validate_ids(params["subnets"], _SUBNET_ID))
        reason = "Attached to the subnets that were named."
    elif params["nodes"] is not None or params["virtual_machines"]:
        instead = "subnets or network_security_groups"
        provider_ids = params["virtual_machines"] or worker_provider_ids(module, instead)
        vm_ids = unique(parse_virtual_machine_id(name) for name in provider_ids)
        attached = _attachments(arm, vm_ids)
        workers = subnet_ids(attached)
        count = "the only worker" if len(vm_ids) == 1 else f"all {len(vm_ids)} workers"
        reason = f"Attached to the subnets and interfaces of {count}."
    elif named:
        return _of_security_groups(arm, named)
    else:
        raise SecurityRuleError(
            "No worker, subnet or network security group is given. Set one of nodes, virtual_machines, "
            "subnets and network_security_groups to a value that is not empty."
        )
    if pod_vms is None:
        pod_vms = _outside(workers, tuple(_validate_ids(params["current_vm_subnets"] or (), _SUBNET_ID)))
    networks = _virtual_networks(arm, (*workers, *(pod_vms or ())))
    ends = Ends(_subnets(networks, workers), None if pod_vms is None else _subnets(networks, pod_vms), pod_vm_groups)
    groups = named or attached_groups(ends, attached)
    if not pod_vm_groups and (default := pod_vm_group(ends, groups)):
        ends = replace(ends, pod_vm_groups=(default,))
    attached_ids = attached_groups(ends, attached)
    return WorkerNetwork(
        ends,
        tuple(
            target(
                group, ends, networks, attached, is_everywhere=not any(is_same_id(id_, group) for id_ in attached_ids)
            )
            for group in groups
        ),
        () if named else unfiltered(ends, attached),
        _BY_NAME if named else reason,
        unconnected(ends, networks) if pod_vms else (),
    )


def targets_with_groups(arm: Arm, network: WorkerNetwork) -> list[tuple[Target, dict]]:
    """Each target with its group as ARM returns it; takes one request for each group."""
    return [
        (of_group, network.bodies.get(nsg_id) or network_security_group(arm, nsg_id))
        for of_group in network.targets
        for nsg_id in [of_group.network_security_group_id]
    ]


def network_security_group(arm: Arm, nsg_id: str) -> dict:
    return _get_existing(arm, nsg_id, "network security group")


def groups_of_subscriptions(arm: Arm, module: AnsibleModule) -> tuple[list[dict], tuple[str, ...]]:
    """All network security groups that can be read in the subscriptions that the options name, and these subscriptions.

    Takes one request for each subscription and page. Workers and subnets may have been deleted.
    """
    params = module.params
    nodes = () if params["nodes"] is None else worker_provider_ids(module, "subscription_id")
    options = (
        "virtual_machines",
        "subnets",
        "network_security_groups",
        "vm_subnets",
        "current_vm_subnets",
        "vm_network_security_groups",
    )
    ids = [*nodes, *(id_ for option in options for id_ in params[option] or ())]
    named = [match[1] for id_ in ids if (match := _SUBSCRIPTION.match(id_))]
    subscriptions = unique([*named, *filter(None, [arm.subscription_id])])
    if not subscriptions:
        raise SecurityRuleError(
            "No subscription is given in which to look for rules of the cluster. Set subscription_id."
        )
    groups = [
        nsg
        for subscription in subscriptions
        for nsg in arm.list(
            f"/subscriptions/{subscription}/providers/Microsoft.Network/networkSecurityGroups", NETWORK_API_VERSION
        )
    ]
    return groups, subscriptions


def _of_security_groups(arm: Arm, nsg_ids: Sequence[str]) -> WorkerNetwork:
    """Groups that are given without workers: their subnets determine the addresses of VirtualNetwork."""
    bodies = {nsg["id"]: nsg for nsg in (network_security_group(arm, id_) for id_ in nsg_ids)}
    subnets = {id_: [subnet["id"] for subnet in nsg["properties"].get("subnets") or ()] for id_, nsg in bodies.items()}
    networks = _virtual_networks(arm, [subnet_id for ids in subnets.values() for subnet_id in ids])
    group_targets = tuple(
        Target(
            id_,
            (),
            (),
            (),
            tuple(
                tuple(address_space(network))
                for network in networks
                if any(is_same_id(virtual_network_id(subnet_id), network["id"]) for subnet_id in ids)
            ),
        )
        for id_, ids in subnets.items()
    )
    return WorkerNetwork(Ends(()), group_targets, (), _BY_NAME, bodies=bodies)


def _attachments(arm: Arm, vm_ids: Sequence[str]) -> tuple[Attachment, ...]:
    interfaces = [
        interface
        for group in unique(vm_id.partition("/providers/")[0] for vm_id in vm_ids)
        for interface in arm.list(f"{group}/providers/Microsoft.Network/networkInterfaces", NETWORK_API_VERSION)
    ]
    return attachments(interfaces, vm_ids)


def _outside(workers: Iterable[str], subnets: Sequence[str]) -> tuple[str, ...] | None:
    """The subnets if one of them is not a worker's. Rules for all subnets of workers are for the others as well."""
    known = {id_.lower() for id_ in workers}
    return tuple(subnets) if any(id_.lower() not in known for id_ in subnets) else None


def _virtual_networks(arm: Arm, subnets: Iterable[str]) -> list[dict]:
    return [_get_existing(arm, id_, "virtual network") for id_ in unique(map(virtual_network_id, subnets))]


def _subnets(networks: Iterable[Mapping], ids: Sequence[str]) -> tuple[dict, ...]:
    by_id = {subnet["id"].lower(): subnet for network in networks for subnet in network["properties"]["subnets"]}
    missing = [subnet_id for subnet_id in ids if subnet_id.lower() not in by_id]
    if missing:
        raise SecurityRuleError(
            f"Azure has no subnet {', '.join(missing)}. Its virtual networks have "
            f"{', '.join(sorted(subnet['id'] for subnet in by_id.values())) or 'none'}."
        )
    return tuple(by_id[subnet_id.lower()] for subnet_id in ids)


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


def describe_ends(network: WorkerNetwork) -> dict:
    """The ends of the traffic for the result of a module."""
    groups = network.ends.pod_vm_groups
    return {
        "subnets": [_describe_subnet(subnet) for subnet in network.ends.workers],
        "vm_subnets": [_describe_subnet(subnet) for subnet in network.ends.pod_vm_subnets],
        "vm_network_security_group": groups[0] if groups else None,
        "unfiltered": list(network.unfiltered),
        "unconnected": list(network.unconnected),
    }


def _describe_subnet(subnet: Mapping) -> dict:
    return {
        "id": subnet["id"],
        "address_prefixes": list(subnet_prefixes(subnet)),
        "network_security_group": group_of(subnet),
    }
