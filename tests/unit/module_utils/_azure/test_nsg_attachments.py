"""From the workers to the groups that filter their traffic, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import (
    Attachment,
    Ends,
    Target,
    attached_groups,
    attachments,
    parse_virtual_machine_id,
    pod_vm_group,
    subnet_ids,
    target,
    unconnected,
    unfiltered,
    virtual_network_id,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import VMS, WORKERS, Path
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import SecurityRuleError

NETWORK = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network"
COMPUTE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute"


def vm_id(name: str) -> str:
    return f"{COMPUTE}/virtualMachines/{name}"


def subnet_id(name: str, network: str = "vnet") -> str:
    return f"{NETWORK}/virtualNetworks/{network}/subnets/{name}"


def interface(vm: str | None, *subnets: str, group: str | None = None, **properties: object) -> dict:
    return {
        "id": f"{NETWORK}/networkInterfaces/nic-{vm}",
        "properties": {
            "virtualMachine": {"id": vm_id(vm)} if vm else None,
            "ipConfigurations": [{"properties": {"subnet": {"id": s}}} for s in subnets],
            **({"networkSecurityGroup": {"id": group}} if group else {}),
        }
        | properties,
    }


def test_virtual_machines_are_named_by_arm_or_by_their_node():
    assert parse_virtual_machine_id(vm_id("w-0")) == vm_id("w-0")
    assert parse_virtual_machine_id("azure://" + vm_id("w-0")) == vm_id("w-0")
    assert parse_virtual_machine_id(vm_id("w-0").lower()) == vm_id("w-0").lower()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "azure://" + f"{COMPUTE}/virtualMachineScaleSets/s/virtualMachines/3",
            "Set the option subnets",
        ),
        ("w-0", "'w-0' is not the id of an Azure virtual machine. Set ARM ids"),
        ("", "is not the id of an Azure virtual machine"),
        ("aws:///eu-central-1a/i-0a1b2c3d", "is not the id of an Azure virtual machine"),
        (f"{NETWORK}/networkInterfaces/nic", "is not the id of an Azure virtual machine"),
        (vm_id("w-0") + "/extensions/x", "is not the id of an Azure virtual machine"),
    ],
)
def test_other_names_are_rejected(name, sentence):
    with pytest.raises(SecurityRuleError, match=sentence):
        parse_virtual_machine_id(name)


def test_the_primary_interfaces_of_the_workers():
    a, b = subnet_id("a"), subnet_id("b")
    attached_interfaces = attachments(
        [
            interface("other", b),
            interface(None, b),
            interface("W-0", a, a.upper(), group="g"),
            interface("w-1", b, primary=False),
            interface("w-1", a, primary=True),
        ],
        [vm_id("w-0"), vm_id("w-1")],
    )
    assert attached_interfaces == (
        Attachment(vm_id("W-0"), f"{NETWORK}/networkInterfaces/nic-W-0", (a,), "g"),
        Attachment(vm_id("w-1"), f"{NETWORK}/networkInterfaces/nic-w-1", (a,), None),
    )
    assert subnet_ids(attached_interfaces) == (a,)


def test_an_address_without_a_subnet_is_left_out():
    nic = interface("w-0", subnet_id("a"))
    nic["properties"]["ipConfigurations"] += [{"name": "new"}, {"properties": {}}, {"properties": {"subnet": None}}]
    (attached_interface,) = attachments([nic], [vm_id("w-0")])
    assert attached_interface.subnet_ids == (subnet_id("a"),)


def test_workers_without_an_interface_are_named():
    with pytest.raises(SecurityRuleError, match="No network interface of w-1, w-2 was found"):
        attachments([interface("w-0", "s")], [vm_id("w-0"), vm_id("w-1"), vm_id("w-2")])


def subnet(name: str, *prefixes: str, group: str | None = None, network: str = "vnet") -> dict:
    prefix_property = {"addressPrefix": prefixes[0]} if len(prefixes) == 1 else {"addressPrefixes": prefixes}
    group_property = {"networkSecurityGroup": {"id": group}} if group else {}
    return {"id": subnet_id(name, network), "properties": prefix_property | group_property}


def peering(*prefixes: str, to: str = "hub", state: str = "Connected", **properties: object) -> dict:
    return {
        "properties": {
            "peeringState": state,
            "remoteVirtualNetwork": {"id": f"{NETWORK}/virtualNetworks/{to}"},
            "remoteAddressSpace": {"addressPrefixes": list(prefixes)},
        }
        | properties
    }


def vnet(name: str, *prefixes: str, peerings: tuple[dict, ...] = ()) -> dict:
    return {
        "id": f"{NETWORK}/virtualNetworks/{name}",
        "properties": {
            "addressSpace": {"addressPrefixes": list(prefixes)},
            "virtualNetworkPeerings": list(peerings),
        },
    }


VNETS = [
    vnet(
        "VNet",
        "10.0.0.0/16",
        "fd00::/48",
        peerings=(
            peering("10.9.0.0/16"),
            peering("10.8.0.0/16", state="Disconnected"),
            peering("10.7.0.0/16", allowVirtualNetworkAccess=False),
        ),
    ),
    vnet("other", "172.16.0.0/16"),
    vnet("hub", "10.9.0.0/16", peerings=(peering("10.0.0.0/16", to="vnet"),)),
]
TAG, OTHER_TAG = ("10.0.0.0/16", "fd00::/48", "10.9.0.0/16"), ("172.16.0.0/16",)
HUB_TAG = ("10.9.0.0/16", "10.0.0.0/16")


def attached(name: str, subnet_of_nic: str, group: str | None = None) -> Attachment:
    return Attachment(vm_id(name), f"nic-{name}", (subnet_of_nic,), group)


def targets(ends: Ends, attachments_of_workers: list[Attachment]) -> list[Target]:
    groups = attached_groups(ends, attachments_of_workers)
    return [target(group, ends, VNETS, attachments_of_workers) for group in groups]


def same(source: tuple[str, ...], own: tuple[str, ...], tag: tuple[str, ...]) -> tuple[Path, ...]:
    """The traffic of a group where workers and VMs are in the same subnets: `own` are those that it filters."""
    return (
        Path(VMS, "Inbound", source, own, tag),
        Path(WORKERS, "Inbound", source, own, tag),
        Path(VMS, "Outbound", own, source, tag),
        Path(WORKERS, "Outbound", own, source, tag),
    )


A, B = ("10.0.1.0/24",), ("10.0.2.0/24",)
A_AND_B = A + B


@pytest.mark.parametrize(
    ("subnets", "attachments_of_workers", "expected"),
    [
        (
            [
                subnet("a", "10.0.1.0/24", group="G"),
                subnet("b", "10.0.2.0/24", "fd00::/64", group="g"),
            ],
            [],
            [
                Target(
                    "G",
                    (subnet_id("a"), subnet_id("b")),
                    (),
                    same((*A_AND_B, "fd00::/64"), (*A_AND_B, "fd00::/64"), TAG),
                    (TAG,),
                )
            ],
        ),
        # A group in two virtual networks is judged in each by itself.
        (
            [
                subnet("a", "10.0.1.0/24", group="g1"),
                subnet("b", "10.0.2.0/24", group="g2"),
                subnet("c", "172.16.1.0/24", group="g1", network="other"),
            ],
            [],
            [
                Target(
                    "g1",
                    (subnet_id("a"), subnet_id("c", "other")),
                    (),
                    (
                        *same(A_AND_B, A, TAG),
                        *same(("172.16.1.0/24",), ("172.16.1.0/24",), OTHER_TAG),
                    ),
                    (TAG, OTHER_TAG),
                ),
                Target("g2", (subnet_id("b"),), (), same(A_AND_B, B, TAG), (TAG,)),
            ],
        ),
        # Workers in virtual networks that are peered reach each other.
        (
            [subnet("a", "10.0.1.0/24", group="g"), subnet("h", "10.9.1.0/24", network="hub")],
            [],
            [Target("g", (subnet_id("a"),), (), same((*A, "10.9.1.0/24"), A, TAG), (TAG,))],
        ),
        (
            [subnet("a", "10.0.1.0/24", group="g"), subnet("b", "10.0.2.0/24")],
            [
                attached("w-0", subnet_id("a"), "nic-g"),
                attached("w-1", subnet_id("b").upper(), "G"),
                attached("w-2", subnet_id("a")),
            ],
            [
                Target("g", (subnet_id("a"),), ("nic-w-1",), same(A_AND_B, A_AND_B, TAG), (TAG,)),
                Target("nic-g", (), ("nic-w-0",), same(A_AND_B, A, TAG), (TAG,)),
            ],
        ),
    ],
)
def test_the_groups_between_the_workers_are_found(subnets, attachments_of_workers, expected):
    assert targets(Ends(tuple(subnets)), attachments_of_workers) == expected


OF_WORKERS = subnet("w", "10.0.1.0/24", group="of-workers")
VM_PREFIX = ("10.0.2.0/24",)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        # A group for each end: each sees its own end of the traffic both ways.
        (
            Ends((OF_WORKERS,), (subnet("v", *VM_PREFIX, group="of-vms"),), ("of-vms",)),
            {
                "of-workers": [
                    Path(WORKERS, "Inbound", VM_PREFIX, A, TAG),
                    Path(VMS, "Outbound", A, VM_PREFIX, TAG),
                ],
                "of-vms": [
                    Path(VMS, "Inbound", A, VM_PREFIX, TAG),
                    Path(WORKERS, "Outbound", VM_PREFIX, A, TAG),
                ],
            },
        ),
        # One group on both.
        (
            Ends((OF_WORKERS,), (subnet("v", *VM_PREFIX, group="OF-workers"),), ("of-workers",)),
            {
                "of-workers": [
                    Path(VMS, "Inbound", A, VM_PREFIX, TAG),
                    Path(WORKERS, "Inbound", VM_PREFIX, A, TAG),
                    Path(VMS, "Outbound", A, VM_PREFIX, TAG),
                    Path(WORKERS, "Outbound", VM_PREFIX, A, TAG),
                ],
            },
        ),
        # The group of the VMs' network interfaces, in a subnet that none filters.
        (
            Ends((OF_WORKERS,), (subnet("v", *VM_PREFIX),), ("of-nics",)),
            {
                "of-workers": [
                    Path(WORKERS, "Inbound", VM_PREFIX, A, TAG),
                    Path(VMS, "Outbound", A, VM_PREFIX, TAG),
                ],
                "of-nics": [
                    Path(VMS, "Inbound", A, VM_PREFIX, TAG),
                    Path(WORKERS, "Outbound", VM_PREFIX, A, TAG),
                ],
            },
        ),
        # VMs in another virtual network, peered or reached by another route.
        *(
            (
                Ends((OF_WORKERS,), (subnet("v", prefix, group="of-vms", network=network),), ("of-vms",)),
                {
                    "of-workers": [
                        Path(WORKERS, "Inbound", (prefix,), A, TAG),
                        Path(VMS, "Outbound", A, (prefix,), TAG),
                    ],
                    "of-vms": [
                        Path(VMS, "Inbound", A, (prefix,), tag),
                        Path(WORKERS, "Outbound", (prefix,), A, tag),
                    ],
                },
            )
            for network, prefix, tag in (
                ("hub", "10.9.1.0/24", HUB_TAG),
                ("other", "172.16.1.0/24", OTHER_TAG),
            )
        ),
    ],
)
def test_the_groups_between_workers_and_pod_vms_are_found(ends, expected):
    by_group = {found.network_security_group_id: list(found.paths) for found in targets(ends, [])}
    assert by_group == expected


@pytest.mark.parametrize(
    ("workers", "pod_vms", "groups", "expected"),
    [
        (["a:g2", "b:g1"], None, ["g2", "g1"], "g2"),
        (["b:g1", "a:g2"], None, ["g1", "g2"], "g2"),
        (["a", "b:g2"], None, ["g3", "g2"], "g2"),
        (["a"], None, [], None),
        (["a:g1"], ["v:g2"], ["g1", "g2"], "g2"),
        (["a:g1"], ["v"], ["g1"], "g1"),
        # Only some groups are in question.
        (["a:g1"], ["v:g2"], ["g9"], "g9"),
    ],
)
def test_the_group_of_the_vms_is_that_of_their_subnet_or_the_first(workers, pod_vms, groups, expected):
    def subnets(names: list[str]) -> tuple[dict, ...]:
        return tuple(subnet(name.partition(":")[0], *A, group=name.partition(":")[2]) for name in names)

    ends = Ends(subnets(workers), None if pod_vms is None else subnets(pod_vms))
    assert pod_vm_group(ends, groups) == expected


def test_the_group_of_a_neighbour_filters_vms_in_the_first_subnet():
    """Where the first subnet of the workers has no group, the interfaces of the VMs there get the first one."""
    ends = Ends((subnet("b", *B, group="g"), subnet("a", *A)), None, ("g",))
    (found,) = targets(ends, [])
    assert found.subnet_ids == (subnet_id("b"),)
    assert found.paths == same(B + A, B + A, TAG)


@pytest.mark.parametrize(
    ("groups", "unfiltered_places"),
    [
        ([], [f"the subnet {subnet_id('a')}"]),
        ([None, None], [f"the subnet {subnet_id('a')}"]),
        ([None, "g"], [f"nic-w-0 in the subnet {subnet_id('a')}"]),
        (["g", "g"], []),
    ],
)
def test_unfiltered_traffic_is_reported(groups, unfiltered_places):
    nics = [attached(f"w-{n}", subnet_id("a"), group) for n, group in enumerate(groups)]
    assert unfiltered(Ends((subnet("a", "10.0.1.0/24"),)), nics) == tuple(
        f"No network security group filters {place}: all traffic passes." for place in unfiltered_places
    )


@pytest.mark.parametrize(("pod_vm_groups", "count"), [((), 1), (("g",), 0)])
def test_an_unfiltered_subnet_of_pod_vms_is_reported(pod_vm_groups, count):
    sentences = unfiltered(Ends((OF_WORKERS,), (subnet("v", *VM_PREFIX),), pod_vm_groups), [])
    assert sentences == (f"No network security group filters the subnet {subnet_id('v')}: all traffic passes.",)[:count]


@pytest.mark.parametrize(("network", "is_connected"), [("vnet", True), ("hub", True), ("other", False)])
def test_pod_vms_without_a_peering_are_reported(network, is_connected):
    ends = Ends((OF_WORKERS,), (subnet("v", *VM_PREFIX, network=network),))
    sentences = unconnected(ends, VNETS)
    networks = f"{NETWORK}/virtualNetworks"
    sentence = (
        f"The virtual network {networks}/other of the VMs of peer pods is not peered with {networks}/VNet of workers."
    )
    assert sentences == (() if is_connected else (sentence,))


def test_the_virtual_network_of_a_subnet():
    assert virtual_network_id(subnet_id("a")) == f"{NETWORK}/virtualNetworks/vnet"
    shouted = subnet_id("a").replace("subnets", "SUBNETS")
    assert virtual_network_id(shouted) == f"{NETWORK}/virtualNetworks/vnet"
