# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which network security groups filter the traffic of peer pods, and between which addresses (private).

Pure functions of dicts in the format of ARM. Ids are compared without regard to letter case, as ARM does, and keep
their first spelling.

Workers connect to the agent in the VM of a peer pod, and each end of the tunnel sends to the same port of the other
(confidential-containers/cloud-api-adaptor, src/cloud-api-adaptor/pkg/podnetwork/tunneler/vxlan). The network interface
of a VM is in AZURE_SUBNET_ID and has the group AZURE_NSG_ID (src/cloud-providers/azure/provider.go), so that its
traffic passes this group and that of the subnet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import VMS, WORKERS, Path
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import SecurityRuleError, names_of
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

_VIRTUAL_MACHINE = re.compile(
    r"(?:azure://)?(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute"
    r"/virtualMachines/[^/]+)",
    re.IGNORECASE,
)
_SCALE_SET = re.compile(r".*/virtualMachineScaleSets/[^/]+/virtualMachines/[^/]+", re.IGNORECASE)


@dataclass(frozen=True)
class Attachment:
    """A worker's network interface; ids have the first spelling that ARM returned."""

    virtual_machine_id: str
    network_interface_id: str
    subnet_ids: tuple[str, ...]
    network_security_group_id: str | None


@dataclass(frozen=True)
class Target:
    """A network security group between workers and pod VMs, and the traffic that passes it.

    It filters all of `subnet_ids`, or the workers' `network_interface_ids`, or both. `virtual_networks` has the
    prefixes of the tag VirtualNetwork in each virtual network that has the group.
    """

    network_security_group_id: str
    subnet_ids: tuple[str, ...]
    network_interface_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    virtual_networks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Ends:
    """The two ends of the traffic, as subnets that ARM returned.

    `pod_vms` is None if the VMs are in the workers' subnets. `pod_vm_groups` are the groups of the network interfaces
    of VMs, by id.
    """

    workers: tuple[Mapping, ...]
    pod_vms: tuple[Mapping, ...] | None = None
    pod_vm_groups: tuple[str, ...] = ()

    @property
    def pod_vm_subnets(self) -> tuple[Mapping, ...]:
        return self.workers if self.pod_vms is None else self.pod_vms

    @property
    def subnets(self) -> tuple[Mapping, ...]:
        """All subnets of both ends, each once."""
        return tuple({subnet["id"].lower(): subnet for subnet in (*self.pod_vm_subnets, *self.workers)}.values())


def parse_virtual_machine_id(provider_id: str) -> str:
    """The ARM id of a virtual machine, from such an id or from a node's spec.providerID."""
    match = _VIRTUAL_MACHINE.fullmatch(provider_id)
    if match:
        return match.group(1)
    if _SCALE_SET.fullmatch(provider_id):
        raise SecurityRuleError(
            f"{provider_id} is an instance of a uniform scale set, whose network interfaces are "
            "not listed with those of virtual machines. Set the option subnets instead."
        )
    raise SecurityRuleError(
        f"{provider_id!r} is not the id of an Azure virtual machine. Set ARM ids "
        "(/subscriptions/…/providers/Microsoft.Compute/virtualMachines/worker-0) or the "
        "spec.providerID of nodes (azure:///subscriptions/…)."
    )


def attachments(network_interfaces: Iterable[Mapping], virtual_machine_ids: Sequence[str]) -> tuple[Attachment, ...]:
    """The network interfaces of these virtual machines; only the primary interface if a machine has several.

    The primary interface has the address of the node. `network_interfaces` may include those of other machines.
    """
    by_machine: dict[str, list[Mapping]] = {id_.lower(): [] for id_ in virtual_machine_ids}
    for interface in network_interfaces:
        owner = _id_of(interface["properties"], "virtualMachine")
        if owner and owner.lower() in by_machine:
            by_machine[owner.lower()].append(interface)
    missing = names_of(id_ for id_ in virtual_machine_ids if not by_machine[id_.lower()])
    if missing:
        raise SecurityRuleError(
            f"No network interface of {join_names(missing)} was found. Check that the subscription is "
            "that of the cluster and that every node still has its virtual machine, or name the "
            "workers' subnets."
        )
    return tuple(
        Attachment(
            interface["properties"]["virtualMachine"]["id"],
            interface["id"],
            unique(
                filter(
                    None,
                    (
                        _id_of(configuration.get("properties") or {}, "subnet")
                        for configuration in interface["properties"].get("ipConfigurations") or ()
                    ),
                )
            ),
            _id_of(interface["properties"], "networkSecurityGroup"),
        )
        for interfaces in by_machine.values()
        for interface in ([nic for nic in interfaces if nic["properties"].get("primary")] or interfaces)
    )


def subnet_ids(attached: Iterable[Attachment]) -> tuple[str, ...]:
    """The subnets of the workers, each once."""
    return unique(id_ for attachment in attached for id_ in attachment.subnet_ids)


def virtual_network_id(subnet_id: str) -> str:
    return re.split("/subnets/", subnet_id, flags=re.IGNORECASE)[0]


def attached_groups(ends: Ends, attached: Sequence[Attachment]) -> tuple[str, ...]:
    """The groups of the subnets of both ends, of the workers' network interfaces and of those of pod VMs."""
    return unique(
        filter(
            None,
            [
                *(group_of(subnet) for subnet in (*ends.workers, *ends.pod_vm_subnets)),
                *(attachment.network_security_group_id for attachment in attached),
                *ends.pod_vm_groups,
            ],
        )
    )


def pod_vm_group(ends: Ends, groups: Sequence[str]) -> str | None:
    """The default group of the network interfaces of pod VMs: that of their subnet, or the first of `groups`."""
    first = min(ends.pod_vm_subnets, key=lambda subnet: subnet["id"], default=None)
    group = group_of(first) if first else None
    if group and any(is_same_id(group, candidate) for candidate in groups):
        return group
    return min(groups, default=None)


def target(
    group: str,
    ends: Ends,
    virtual_networks: Iterable[Mapping],
    attached: Sequence[Attachment] = (),
    is_everywhere: bool = False,
) -> Target:
    """The group with the traffic that it filters; all traffic if it `is_everywhere`.

    `virtual_networks` are at least those of both ends, and `attached` the workers' interfaces, which may have groups of
    their own.
    """
    attached_to_group = [a for a in attached if is_same_id(a.network_security_group_id, group)]
    of_interfaces = {id_.lower() for id_ in subnet_ids(attached_to_group)}

    def is_filtered(subnet: Mapping) -> bool:
        return is_everywhere or is_same_id(group_of(subnet), group)

    workers = [subnet for subnet in ends.workers if is_filtered(subnet) or subnet["id"].lower() in of_interfaces]
    pod_vms = [subnet for subnet in ends.pod_vm_subnets if is_filtered(subnet)]
    if any(is_same_id(id_, group) for id_ in ends.pod_vm_groups):
        # Of several subnets of workers, the VMs are in the first.
        first = sorted(ends.pod_vm_subnets, key=lambda subnet: subnet["id"])
        pod_vms += (first[:1] if ends.pod_vms is None else first) if first else []
    if ends.pod_vms is None:
        workers = pod_vms = [*workers, *pod_vms]
    networks = [
        network
        for network in virtual_networks
        if any(_is_in(subnet, [network["id"]]) for subnet in (*workers, *pod_vms))
    ]
    return Target(
        group,
        tuple(subnet["id"] for subnet in ends.subnets if is_same_id(group_of(subnet), group)),
        tuple(attachment.network_interface_id for attachment in attached_to_group),
        tuple(path for network in networks for path in _paths(network, ends, workers, pod_vms)),
        tuple(dict.fromkeys(tuple(address_space(network)) for network in networks)),
    )


def _paths(network: Mapping, ends: Ends, workers: Sequence[Mapping], pod_vms: Sequence[Mapping]) -> Iterator[Path]:
    """The traffic of these subnets in one virtual network.

    Workers in virtual networks that are not peered do not reach each other. VMs with subnets of their own are reached,
    through a peering or another route, because the user chose these subnets.
    """
    connected = _connected(network)
    all_workers, all_pod_vms = (
        prefixes_of(subnet for subnet in subnets if ends.pod_vms is not None or _is_in(subnet, connected))
        for subnets in (ends.workers, ends.pod_vm_subnets)
    )
    own_workers, own_pod_vms = (
        prefixes_of(subnet for subnet in subnets if _is_in(subnet, [network["id"]])) for subnets in (workers, pod_vms)
    )
    space = tuple(address_space(network))
    for to, direction, source, destination in (
        (VMS, "Inbound", all_workers, own_pod_vms),
        (WORKERS, "Inbound", all_pod_vms, own_workers),
        (VMS, "Outbound", own_workers, all_pod_vms),
        (WORKERS, "Outbound", own_pod_vms, all_workers),
    ):
        if source and destination:
            yield Path(to, direction, source, destination, space)


def unfiltered(ends: Ends, attached: Iterable[Attachment]) -> tuple[str, ...]:
    """A sentence for each subnet without a group, or with those of its interfaces that have no group of their own."""
    return tuple(
        f"No network security group filters {place}: all traffic passes."
        for place in _unfiltered(ends, tuple(attached))
    )


def _unfiltered(ends: Ends, attached: Sequence[Attachment]) -> Iterator[str]:
    workers = {subnet["id"].lower() for subnet in ends.workers}
    for subnet in ends.subnets:
        if group_of(subnet):
            continue
        if subnet["id"].lower() not in workers:
            if not ends.pod_vm_groups:
                yield f"the subnet {subnet['id']}"
            continue
        inside = [a for a in attached if any(is_same_id(id_, subnet["id"]) for id_ in a.subnet_ids)]
        without_group = names_of(a.network_interface_id for a in inside if not a.network_security_group_id)
        if without_group or not inside:
            interfaces = f"{join_names(without_group)} in " if len(without_group) < len(inside) else ""
            yield f"{interfaces}the subnet {subnet['id']}"


def unconnected(ends: Ends, virtual_networks: Sequence[Mapping]) -> tuple[str, ...]:
    """A sentence for each two virtual networks, one of pod VMs and one of workers, that are not peered."""
    of_workers, of_pod_vms = (
        [network for network in virtual_networks if any(_is_in(subnet, [network["id"]]) for subnet in subnets)]
        for subnets in (ends.workers, ends.pod_vm_subnets)
    )
    return tuple(
        f"The virtual network {of_vms['id']} of the VMs of peer pods is not peered with {of_worker['id']} of workers."
        for of_vms in of_pod_vms
        for of_worker in of_workers
        if not any(is_same_id(id_, of_worker["id"]) for id_ in _connected(of_vms))
    )


def group_of(subnet: Mapping) -> str | None:
    return _id_of(subnet["properties"], "networkSecurityGroup")


def is_same_id(first: str | None, second: str) -> bool:
    return first is not None and first.lower() == second.lower()


def _is_in(subnet: Mapping, network_ids: Iterable[str]) -> bool:
    return any(is_same_id(virtual_network_id(subnet["id"]), id_) for id_ in network_ids)


def address_space(network: Mapping) -> list[str]:
    """The prefixes of a virtual network and of its peers, which are those of the tag VirtualNetwork."""
    own = (network["properties"].get("addressSpace") or {}).get("addressPrefixes") or ()
    return [*own, *(prefix for dummy, prefixes in _peers(network) for prefix in prefixes)]


def _connected(network: Mapping) -> list[str]:
    """The ids of a virtual network and of its peers."""
    return [network["id"], *(id_ for id_, dummy in _peers(network))]


def _peers(network: Mapping) -> Iterator[tuple[str, Sequence[str]]]:
    """The peers of a virtual network: their ids and prefixes.

    Peers without allowVirtualNetworkAccess are left out: they do not belong to the tag VirtualNetwork ("Create, change,
    or delete a virtual network peering").
    """
    for peering in network["properties"].get("virtualNetworkPeerings") or ():
        remote = peering["properties"]
        if remote.get("peeringState") == "Connected" and remote.get("allowVirtualNetworkAccess") is not False:
            yield (
                _id_of(remote, "remoteVirtualNetwork") or "",
                (remote.get("remoteAddressSpace") or {}).get("addressPrefixes") or (),
            )


def prefixes_of(subnets: Iterable[Mapping]) -> tuple[str, ...]:
    return unique(prefix for subnet in subnets for prefix in subnet_prefixes(subnet))


def subnet_prefixes(subnet: Mapping) -> Sequence[str]:
    properties = subnet["properties"]
    return properties.get("addressPrefixes") or [prefix for prefix in [properties.get("addressPrefix")] if prefix]


def _id_of(properties: Mapping, key: str) -> str | None:
    return (properties.get(key) or {}).get("id")


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Remove duplicates without regard to letter case; keep the first spelling."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.lower(), text)
    return tuple(first.values())
