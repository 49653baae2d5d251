# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which network security groups filter the workers' traffic, and between which addresses (private).

Pure functions of dicts in the format of ARM. Ids are compared without regard to letter case, as ARM does, and keep
their first spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    """A network security group between the workers, and the traffic that its rules cover.

    It filters all of `subnet_ids`, or the workers' `network_interface_ids`, or both. `source` has the prefixes of all
    worker subnets of its virtual networks, `destination` those of the subnets that it filters or that contain those
    interfaces, and `virtual_network` the prefixes of the tag VirtualNetwork.
    """

    network_security_group_id: str
    subnet_ids: tuple[str, ...]
    network_interface_ids: tuple[str, ...]
    source: tuple[str, ...]
    destination: tuple[str, ...]
    virtual_network: tuple[str, ...]


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
                configuration["properties"]["subnet"]["id"]
                for configuration in interface["properties"]["ipConfigurations"]
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


def targets(
    subnets: Sequence[Mapping],
    virtual_networks: Iterable[Mapping],
    attached: Sequence[Attachment] = (),
) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The network security groups between the workers, and a sentence for each unfiltered subnet or interface.

    `subnets` are the subnets of the workers, `virtual_networks` at least their virtual networks, and `attached` the
    workers' interfaces, which may have groups of their own.
    """
    groups = unique(
        filter(
            None,
            [
                *(_group_of(subnet) for subnet in subnets),
                *(attachment.network_security_group_id for attachment in attached),
            ],
        )
    )
    networks = tuple(virtual_networks)
    return (
        tuple(_target(group, subnets, networks, attached) for group in groups),
        tuple(
            f"No network security group filters {place}: all traffic passes."
            for place in _unfiltered(subnets, attached)
        ),
    )


def _target(
    group: str,
    subnets: Sequence[Mapping],
    virtual_networks: Sequence[Mapping],
    attached: Sequence[Attachment],
) -> Target:
    filtered = tuple(subnet["id"] for subnet in subnets if _is_same_id(_group_of(subnet), group))
    attached_to_group = [a for a in attached if _is_same_id(a.network_security_group_id, group)]
    workers_subnets = {id_.lower() for id_ in (*filtered, *subnet_ids(attached_to_group))}
    networks = {virtual_network_id(id_) for id_ in workers_subnets}
    return Target(
        group,
        filtered,
        tuple(attachment.network_interface_id for attachment in attached_to_group),
        source=unique(
            prefix
            for subnet in subnets
            if virtual_network_id(subnet["id"]).lower() in networks
            for prefix in subnet_prefixes(subnet)
        ),
        destination=unique(
            prefix
            for subnet in subnets
            if subnet["id"].lower() in workers_subnets
            for prefix in subnet_prefixes(subnet)
        ),
        virtual_network=unique(
            prefix
            for network in virtual_networks
            if network["id"].lower() in networks
            for prefix in _address_space(network)
        ),
    )


def _unfiltered(subnets: Iterable[Mapping], attached: Iterable[Attachment]) -> Iterator[str]:
    """The subnets without a group, or those of their interfaces that have no group of their own."""
    for subnet in subnets:
        inside = [a for a in attached if any(_is_same_id(id_, subnet["id"]) for id_ in a.subnet_ids)]
        without_group = names_of(a.network_interface_id for a in inside if not a.network_security_group_id)
        if not _group_of(subnet) and (without_group or not inside):
            interfaces = f"{join_names(without_group)} in " if len(without_group) < len(inside) else ""
            yield f"{interfaces}the subnet {subnet['id']}"


def _group_of(subnet: Mapping) -> str | None:
    return _id_of(subnet["properties"], "networkSecurityGroup")


def _is_same_id(first: str | None, second: str) -> bool:
    return first is not None and first.lower() == second.lower()


def _address_space(network: Mapping) -> list[str]:
    """The prefixes of a virtual network and of its peers.

    Peers without allowVirtualNetworkAccess are left out: they do not belong to the tag VirtualNetwork ("Create, change,
    or delete a virtual network peering").
    """
    properties = network["properties"]
    prefixes = list(properties["addressSpace"]["addressPrefixes"])
    for peering in properties.get("virtualNetworkPeerings") or ():
        remote = peering["properties"]
        if remote.get("peeringState") == "Connected" and remote.get("allowVirtualNetworkAccess") is not False:
            prefixes += (remote.get("remoteAddressSpace") or {}).get("addressPrefixes", ())
    return prefixes


def subnet_prefixes(subnet: Mapping) -> Sequence[str]:
    properties = subnet["properties"]
    return properties.get("addressPrefixes") or [properties["addressPrefix"]]


def _id_of(properties: Mapping, key: str) -> str | None:
    return (properties.get(key) or {}).get("id")


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Remove duplicates without regard to letter case; keep the first spelling."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.lower(), text)
    return tuple(first.values())
