"""From the workers to the groups that filter their traffic, as tables."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import (
    Attachment,
    Target,
    attachments,
    parse_virtual_machine_id,
    subnet_ids,
    targets,
    virtual_network_id,
)
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


def test_workers_without_an_interface_are_named():
    with pytest.raises(SecurityRuleError, match="No network interface of w-1, w-2 was found"):
        attachments([interface("w-0", "s")], [vm_id("w-0"), vm_id("w-1"), vm_id("w-2")])


def subnet(name: str, *prefixes: str, group: str | None = None, network: str = "vnet") -> dict:
    prefix_property = {"addressPrefix": prefixes[0]} if len(prefixes) == 1 else {"addressPrefixes": prefixes}
    group_property = {"networkSecurityGroup": {"id": group}} if group else {}
    return {"id": subnet_id(name, network), "properties": prefix_property | group_property}


def peering(*prefixes: str, state: str = "Connected", **properties: object) -> dict:
    return {
        "properties": {
            "peeringState": state,
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
]
TAG = ("10.0.0.0/16", "fd00::/48", "10.9.0.0/16")


def attached(name: str, subnet_of_nic: str, group: str | None = None) -> Attachment:
    return Attachment(vm_id(name), f"nic-{name}", (subnet_of_nic,), group)


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
                    ("10.0.1.0/24", "10.0.2.0/24", "fd00::/64"),
                    ("10.0.1.0/24", "10.0.2.0/24", "fd00::/64"),
                    TAG,
                )
            ],
        ),
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
                    ("10.0.1.0/24", "10.0.2.0/24", "172.16.1.0/24"),
                    ("10.0.1.0/24", "172.16.1.0/24"),
                    (*TAG, "172.16.0.0/16"),
                ),
                Target(
                    "g2",
                    (subnet_id("b"),),
                    (),
                    ("10.0.1.0/24", "10.0.2.0/24"),
                    ("10.0.2.0/24",),
                    TAG,
                ),
            ],
        ),
        (
            [subnet("a", "10.0.1.0/24", group="g"), subnet("b", "10.0.2.0/24")],
            [
                attached("w-0", subnet_id("a"), "nic-g"),
                attached("w-1", subnet_id("b").upper(), "G"),
                attached("w-2", subnet_id("a")),
            ],
            [
                Target(
                    "g",
                    (subnet_id("a"),),
                    ("nic-w-1",),
                    ("10.0.1.0/24", "10.0.2.0/24"),
                    ("10.0.1.0/24", "10.0.2.0/24"),
                    TAG,
                ),
                Target("nic-g", (), ("nic-w-0",), ("10.0.1.0/24", "10.0.2.0/24"), ("10.0.1.0/24",), TAG),
            ],
        ),
    ],
)
def test_the_groups_between_the_workers_are_found(subnets, attachments_of_workers, expected):
    assert targets(subnets, VNETS, attachments_of_workers) == (tuple(expected), ())


@pytest.mark.parametrize(
    ("groups", "unfiltered"),
    [
        ([], [f"the subnet {subnet_id('a')}"]),
        ([None, None], [f"the subnet {subnet_id('a')}"]),
        ([None, "g"], [f"nic-w-0 in the subnet {subnet_id('a')}"]),
        (["g", "g"], []),
    ],
)
def test_unfiltered_traffic_is_reported(groups, unfiltered):
    nics = [attached(f"w-{n}", subnet_id("a"), group) for n, group in enumerate(groups)]
    _, sentences = targets([subnet("a", "10.0.1.0/24")], VNETS, nics)
    assert sentences == tuple(
        f"No network security group filters {resource}: all traffic passes." for resource in unfiltered
    )


def test_the_virtual_network_of_a_subnet():
    assert virtual_network_id(subnet_id("a")) == f"{NETWORK}/virtualNetworks/vnet"
    shouted = subnet_id("a").replace("subnets", "SUBNETS")
    assert virtual_network_id(shouted) == f"{NETWORK}/virtualNetworks/vnet"
