"""nsg_rules and nsg_rules_info as a user runs them, against an emulated Azure Resource Manager."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.azure_arm import AzureArm, roles
from tests.azure_arm.faults import (
    Act,
    Fault,
    PassOn,
    another_operation_in_progress,
    authorization_failed,
    every_third,
    first,
    hang_up,
    lose_the_answer,
    operation_fails,
    refuse,
    retryable_error,
    superseded,
    throttled,
    work,
)
from tests.azure_arm.wire import Answer, Request
from tests.cluster import openshift
from tests.integration.apiserver import requests_of

LOCATION = {"location": "westeurope"}
WORKERS = "10.0.128.0/17"
CLUSTER, OTHER_CLUSTER = (
    {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID},
    {"cluster_name": "demo-b9f4t", "cluster_id": "5c1e7a90-3f0b-4d52-8a77-6f2f0e2f4b1d"},
)
DOCUMENTED = "Allow-Kata-Agent-Internal", "Allow-VXLAN-Internal"
# The tunnel is VXLAN over UDP, which the documented rule does not allow.
BASE_NAMES = *DOCUMENTED, "Allow-VXLAN-UDP-Internal"
NAMES = [f"{name}-{openshift.INFRASTRUCTURE_NAME}" for name in BASE_NAMES]
KATA, VXLAN, UDP = NAMES
MARK = f"osc.peerpods {openshift.CLUSTER_ID}: "
COLLECTION_DESCRIPTION = {"description": f"{MARK}of an earlier run"}

GROUP = "networkSecurityGroups/demo-nsg"
READS = ["GET networkInterfaces", "GET virtualNetworks/demo-vnet", f"GET {GROUP}"]
DONE = ["GET operation", "GET operation"]


def rule(name: str, priority: int, access: str = "Allow", port: str = "*", **extra: object) -> dict:
    """A security rule for the whole virtual network; `extra` replaces properties."""
    properties = {
        "priority": priority,
        "access": access,
        "direction": "Inbound",
        "protocol": "*",
        "sourcePortRange": "*",
        "sourceAddressPrefix": "VirtualNetwork",
        "destinationAddressPrefix": "VirtualNetwork",
        "destinationPortRange": port,
    }
    return {"name": name, "properties": {**properties, **extra}}


# The rule of a strict site, so that the rules of peer pods are needed.
DENY = rule("deny-vnet", 4000, "Deny")


def documented_rule(priority: int, port: str, protocol: str = "Tcp", prefix: str = WORKERS) -> dict:
    """The properties of a rule of the product documentation, with the description for the cluster."""
    return {
        "description": f"{MARK}port {port}/{protocol.lower()} between workers and peer pods",
        "priority": priority,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": protocol,
        "sourcePortRange": "*",
        "sourceAddressPrefix": prefix,
        "destinationPortRange": port,
        "destinationAddressPrefix": prefix,
    }


DEFAULT_RULES = {
    KATA: documented_rule(112, "15150"),
    VXLAN: documented_rule(111, "9000"),
    UDP: documented_rule(110, "9000", "Udp"),
}


@dataclass(frozen=True)
class World:
    """A resource group, with methods to fill and to read it. IDs have the form of ARM."""

    arm: AzureArm
    group: str
    # Empty: that of the login.
    subscription: str = ""

    def __post_init__(self) -> None:
        self.arm.put(self.group_id, LOCATION)

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{self.subscription or self.arm.subscription_id}/resourceGroups/{self.group}"

    def put(self, kind: str, name: str, properties: dict, **extra: object) -> str:
        provider = "Compute" if kind == "virtualMachines" else "Network"
        resource_id = f"{self.group_id}/providers/Microsoft.{provider}/{kind}/{name}"
        body = {**LOCATION, "properties": properties, **extra}
        return self.arm.put(resource_id, body)["id"]

    def nsg(self, name: str, *rules: dict, **properties: object) -> str:
        return self.put("networkSecurityGroups", name, {"securityRules": rules, **properties})

    def subnets(
        self,
        vnet: str,
        *subnets: tuple[Sequence[str], str | None],
        space: Sequence[str] = ("10.0.0.0/8", "fd00::/16"),
    ) -> list[str]:
        """A virtual network of these subnets, each with its prefixes and NSG; returns their ids."""
        properties = [
            {
                **({"addressPrefix": prefixes[0]} if len(prefixes) == 1 else {}),
                **({"addressPrefixes": list(prefixes)} if len(prefixes) > 1 else {}),
                **({"networkSecurityGroup": {"id": nsg}} if nsg else {}),
            }
            for prefixes, nsg in subnets
        ]
        vnet_id = self.put(
            "virtualNetworks",
            vnet,
            {
                "addressSpace": {"addressPrefixes": list(space)},
                "subnets": [{"name": f"s{i}", "properties": p} for i, p in enumerate(properties)],
            },
        )
        return [f"{vnet_id}/subnets/s{i}" for i in range(len(subnets))]

    def machine(self, name: str, subnet: str, nsg: str | None = None) -> str:
        """A virtual machine with one interface; returns the providerID of its node."""
        on_nic = {"networkSecurityGroup": {"id": nsg}} if nsg else {}
        address = {"name": "pipConfig", "properties": {"subnet": {"id": subnet}}}
        nic = self.put("networkInterfaces", f"{name}-nic", {"ipConfigurations": [address], **on_nic})
        profile = {"networkProfile": {"networkInterfaces": [{"id": nic}]}}
        return f"azure://{self.put('virtualMachines', name, profile)}"

    def workers(self, *rules: dict, **nsg: object) -> tuple[str, dict]:
        """Two workers in a subnet, the NSG there with these rules, and the arguments for them."""
        nsg_id = self.nsg("demo-nsg", *rules, **nsg)
        _, subnet = self.subnets("demo-vnet", (["10.0.0.0/17"], nsg_id), ([WORKERS], nsg_id))
        return nsg_id, {"virtual_machines": [self.machine(f"w{i}", subnet) for i in range(2)]}

    def rules(self, nsg: str) -> dict[str, dict]:
        """Name → properties, without what ARM adds to them."""
        return {
            stored_rule["name"]: {
                key: value
                for key, value in stored_rule["properties"].items()
                if value != [] and key != "provisioningState"
            }
            for stored_rule in self.arm.resources[nsg.lower()]["properties"]["securityRules"]
        }

    def priorities(self, nsg: str) -> dict[str, int]:
        return {name: properties["priority"] for name, properties in self.rules(nsg).items()}

    def added_meanwhile(self, nsg: str, other_rule: dict) -> Act:
        return first(lambda: self.arm.put(f"{nsg}/securityRules/{other_rule['name']}", other_rule))

    def take_requests(self) -> list[str]:
        """The requests since the last call, each with its method and resource."""
        return [f"{method} {_about(path)}" for method, path in self.arm.take_requests()]


def _about(path: str) -> str:
    if "/operations/" in path:
        return "operation"
    about = path.partition("/Microsoft.Network/")[2]
    return about.replace("/providers/Microsoft.Authorization/", "/")


def writes(requests: list[str]) -> list[str]:
    return [request for request in requests if not request.startswith("GET")]


@pytest.fixture
def world(arm: AzureArm) -> Iterator[World]:
    before = arm.snapshot()
    arm.take_requests()
    yield World(arm, "demo-rg")
    arm.restore(before)
    arm.faults.clear()
    arm.permissions = [roles.CONTRIBUTOR]


@pytest.fixture
def run(arm: AzureArm, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(args: dict, module: str = "nsg_rules", **modes: bool) -> dict:
        cluster = CLUSTER if module == "nsg_rules" else {}
        return run_module(module, {**cluster, **args}, env=arm.environment, **modes)

    return run


# -- The main path -----------------------------------------------------------------------------


def test_opens_the_ports_between_all_workers_once(world, arm, run):
    nsg, args = world.workers(DENY)
    predicted = run(args, check=True, diff=True)
    assert world.take_requests() == READS
    assert world.rules(nsg).keys() == {"deny-vnet"}

    result = run(args, diff=True)
    assert world.take_requests() == [*READS, f"PUT {GROUP}", *DONE]
    for key in ("changed", "network_security_groups", "reason", "subnets", "vm_subnets", "diff"):
        assert predicted[key] == result[key], key
    assert result["changed"]
    assert result["reason"] == ("demo-nsg. Attached to the subnets and interfaces of all 2 workers.")
    subnet = nsg.replace(GROUP, "virtualNetworks/demo-vnet/subnets/s1")
    (done,) = result["network_security_groups"]
    assert {stored_rule["name"]: stored_rule["properties"] for stored_rule in done["created"]} == DEFAULT_RULES
    assert done["id"] == nsg
    assert done["subnets"] == [subnet]
    assert result["subnets"] == [{"id": subnet, "address_prefixes": [WORKERS], "network_security_group": nsg}]
    assert result["vm_subnets"] == result["subnets"]
    assert result["vm_network_security_group"] == nsg
    assert result["unfiltered"] == []
    assert result["diff"][0]["before"] == ""
    assert result["diff"][0]["after"] == (
        f"{UDP} 110 Inbound Allow Udp {WORKERS}:* → {WORKERS}:9000\n"
        f"{VXLAN} 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9000\n"
        f"{KATA} 112 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:15150\n"
    )
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}

    second_result = run(args)
    assert world.take_requests() == READS
    assert not second_result["changed"]
    assert second_result["network_security_groups"][0]["unchanged"] == NAMES

    # As in an installation from before UDP was a default.
    arm.delete(f"{nsg}/securityRules/{UDP}")
    assert run(args)["network_security_groups"][0]["unchanged"] == [KATA, VXLAN]
    assert world.take_requests() == [*READS, f"PUT {GROUP}/securityRules/{UDP}", *DONE]
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}


LIST_GROUPS = "GET networkSecurityGroups"


def test_absent_removes_only_rules_of_the_cluster(world, run):
    nsg, args = world.workers(
        DENY,
        rule(KATA, 112, **COLLECTION_DESCRIPTION),
        rule(VXLAN, 111, description="of the network team"),
        rule(DOCUMENTED[1], 113),
        rule("of-another-cluster", 114, description="osc.peerpods 5c1e7a90: x"),
        rule("of-an-earlier-release", 115, description="osc.peerpods: x"),
    )
    absent = {**args, "state": "absent"}
    predicted = run(absent, check=True, diff=True)
    assert world.take_requests() == [LIST_GROUPS]
    result = run(absent, diff=True)
    assert world.take_requests() == [LIST_GROUPS, f"DELETE {GROUP}/securityRules/{KATA}", *DONE]
    for key in ("changed", "network_security_groups", "diff"):
        assert predicted[key] == result[key], key
    (done,) = result["network_security_groups"]
    assert done["removed"] == [KATA]
    reasons = {kept_rule["name"]: kept_rule["reason"] for kept_rule in done["kept"]}
    assert reasons == {
        VXLAN: f"its description is 'of the network team' and does not begin with {MARK.strip()!r}",
        DOCUMENTED[1]: f"its description is empty and does not begin with {MARK.strip()!r}",
    }
    assert result["diff"][0]["before"].startswith(f"{KATA} 112 ")
    assert result["diff"][0]["after"] == ""
    assert world.rules(nsg).keys() == {
        "deny-vnet",
        VXLAN,
        DOCUMENTED[1],
        "of-another-cluster",
        "of-an-earlier-release",
    }

    assert not run(absent)["changed"]
    assert world.take_requests() == [LIST_GROUPS]


def test_absent_finds_rules_where_the_topology_no_longer_leads(world, arm, run):
    """A group that was detached, one in another resource group, a rule by another name, and a worker that is gone."""
    network = World(arm, "network-rg")
    first_nsg, second_nsg, third_nsg = world.nsg("one", DENY), network.nsg("two", DENY), world.nsg("three")
    first_subnet, second_subnet = world.subnets("v", (["10.0.0.0/24"], first_nsg), (["10.0.1.0/24"], second_nsg))
    workers = [world.machine("w0", first_subnet), world.machine("w1", second_subnet)]
    assert run({"virtual_machines": workers})["changed"]
    arm.put(f"{third_nsg}/securityRules/old", rule("old", 200, **COLLECTION_DESCRIPTION))
    world.subnets("v", (["10.0.0.0/24"], None), (["10.0.1.0/24"], second_nsg))
    arm.delete(workers[0].removeprefix("azure://"))
    assert "No network interface of w0 was found. " in run({"virtual_machines": workers})["msg"]
    result = run({"virtual_machines": workers, "state": "absent"})
    assert {nsg["name"]: nsg["removed"] for nsg in result["network_security_groups"]} == {
        "one": NAMES,
        "two": NAMES,
        "three": ["old"],
    }
    assert result["reason"] == (
        f"one, two, three of 3 readable in {arm.subscription_id}. Those with rules of the cluster "
        f"{openshift.INFRASTRUCTURE_NAME}."
    )
    for nsg in (first_nsg, second_nsg, third_nsg):
        assert world.rules(nsg).keys() <= {"deny-vnet"}
    # The subscription of the login is enough, also if no worker is left.
    assert not run({"state": "absent"})["changed"]


def test_the_vms_have_a_subscription_of_their_own(world, arm, run):
    """Rules belong to the group in each subscription. Only the subnet of the VMs names theirs."""
    subscription = "9f3a7c10-5b7e-4c1d-8a52-6d0f4e2b1c33"
    arm.state.subscriptions.add(subscription)
    of_vms = World(arm, "vms-rg", subscription)
    nsg, args = world.workers(DENY)
    vms_nsg = of_vms.nsg("vms-nsg", DENY)
    vm_subnets = of_vms.subnets("vms-vnet", (["192.168.7.0/24"], vms_nsg), space=["192.168.0.0/16"])
    world.take_requests()
    result = run({**args, "vm_subnets": vm_subnets})
    created = {group["id"]: {each["name"] for each in group["created"]} for group in result["network_security_groups"]}
    # Workers receive no connections of the agent.
    to_workers = {name.replace("Internal", "Internal-To-Workers") for name in (UDP, VXLAN)}
    assert created == {vms_nsg: set(NAMES), nsg: to_workers}
    assert run({"state": "absent"}, check=True)["network_security_groups"][0]["name"] == "demo-nsg"
    removed = run({"vm_subnets": vm_subnets, "state": "absent"})
    assert {group["name"] for group in removed["network_security_groups"]} == {"demo-nsg", "vms-nsg"}
    assert f"readable in {subscription}, {arm.subscription_id}. " in removed["reason"]
    for group in (nsg, vms_nsg):
        assert world.rules(group).keys() == {"deny-vnet"}
    arm.state.subscriptions.discard(subscription)
    # The identity does not see it.
    assert "that these credentials have permission to read it" in run({**args, "vm_subnets": vm_subnets})["msg"]


# -- Several clusters in one network -----------------------------------------------------------


def test_two_clusters_share_a_group(world, run):
    """Neither changes, or relies on, a rule of the other, in any order; the second gets the next free priorities."""
    nsg, args = world.workers(DENY)
    other = {**args, **OTHER_CLUSTER}
    assert run(args)["changed"]
    of_first = world.rules(nsg)
    assert "Priority conflict in" in run({**other, "on_priority_conflict": "fail"})["msg"]
    result = run(other)
    assert [move["taken_by"] for move in result["network_security_groups"][0]["moved"]] == NAMES
    assert world.priorities(nsg) == {
        "deny-vnet": 4000,
        KATA: 112,
        VXLAN: 111,
        UDP: 110,
        f"{BASE_NAMES[0]}-demo-b9f4t": 113,
        f"{BASE_NAMES[1]}-demo-b9f4t": 114,
        f"{BASE_NAMES[2]}-demo-b9f4t": 115,
    }
    assert not run(args)["changed"]
    assert not run(other)["changed"]
    assert run({**other, "state": "absent"})["network_security_groups"][0]["removed"] == [
        f"{name}-demo-b9f4t" for name in BASE_NAMES
    ]
    assert world.rules(nsg) == of_first


@pytest.mark.parametrize("name", [DOCUMENTED[1], VXLAN])
def test_a_rule_by_hand_stays_as_it_is(world, run, name):
    by_hand = rule(name, 111, port="9000", protocol="Tcp", sourceAddressPrefix="10.0.130.0/24")
    nsg, args = world.workers(DENY, by_hand)
    before = world.rules(nsg)[name]
    result = run(args)
    (done,) = result["network_security_groups"]
    assert [kept["name"] for kept in done["kept"]] == [name]
    own_name = VXLAN if name != VXLAN else f"{VXLAN}-2"
    assert world.priorities(nsg) == {"deny-vnet": 4000, name: 111, own_name: 113, KATA: 112, UDP: 110}
    assert world.rules(nsg)[name] == before
    renamed = (
        f"{VXLAN} of demo-nsg is not a rule of this cluster and stays as it is. The rule of this cluster is {own_name}."
    )
    assert (renamed in result["warnings"]) is (name == VXLAN)
    assert not run(args)["changed"]
    run({**args, "state": "absent"})
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], name: before}


# -- Workers and pod VMs in different subnets ---------------------------------------------------

DENY_OUT = rule("deny-out", 4000, "Deny", direction="Outbound")
VMS = "10.0.2.0/24"


def opened(result: dict) -> dict[str, set[str]]:
    """The created rules of each group: direction, port, source and destination."""
    return {
        nsg["name"]: {
            " ".join(
                created["properties"][key]
                for key in ("direction", "destinationPortRange", "sourceAddressPrefix", "destinationAddressPrefix")
            )
            for created in nsg["created"]
        }
        for nsg in result["network_security_groups"]
    }


def test_pod_vms_in_a_subnet_of_their_own(world, run):
    """Both groups are opened for the traffic that passes them, both ways where the tunnel needs it."""
    of_workers, of_vms = world.nsg("of-workers", DENY, DENY_OUT), world.nsg("of-vms", DENY, DENY_OUT)
    workers, vms = world.subnets("v", ([WORKERS], of_workers), ([VMS], of_vms))
    args = {"virtual_machines": [world.machine("w", workers)], "vm_subnets": [vms]}
    info = run({**args}, "nsg_rules_info")
    assert not info["passes"]
    result = run(args)
    to_vms, back = f"{WORKERS} {VMS}", f"{VMS} {WORKERS}"
    assert opened(result) == {
        "of-workers": {f"Inbound 9000 {back}", f"Outbound 9000 {to_vms}", f"Outbound 15150 {to_vms}"},
        "of-vms": {f"Inbound 9000 {to_vms}", f"Inbound 15150 {to_vms}", f"Outbound 9000 {back}"},
    }
    assert [subnet["id"] for subnet in result["subnets"]] == [workers]
    assert [subnet["id"] for subnet in result["vm_subnets"]] == [vms]
    assert result["vm_network_security_group"] == of_vms
    assert result["unconnected"] == []
    assert not run(args)["changed"]
    # The module that only reads agrees, by each of its flows.
    info = run(args, "nsg_rules_info")
    assert info["passes"]
    assert {(flow["direction"], *flow["to"], flow["port"]) for flow in info["flows"]} == {
        (direction, to, port)
        for direction in ("Inbound", "Outbound")
        for to, port in (("vms", 15150), ("vms", 9000), ("workers", 9000))
    }
    assert run({"state": "absent"})["changed"]
    for nsg in (of_workers, of_vms):
        assert world.rules(nsg).keys() == {"deny-vnet", "deny-out"}


def test_pod_vms_where_cloud_api_adaptor_creates_them(world, run):
    """A subnet of a worker changes nothing of an earlier run; another one is like vm_subnets."""
    of_workers, of_vms = world.nsg("of-workers", DENY), world.nsg("of-vms", DENY)
    zone_1, zone_2, vms = world.subnets("v", ([WORKERS], of_workers), (["10.0.3.0/24"], of_workers), ([VMS], of_vms))
    args = {"virtual_machines": [world.machine("w1", zone_1), world.machine("w2", zone_2)]}
    assert run(args)["changed"]
    again = run({**args, "current_vm_subnets": [zone_2.upper()]})
    assert not again["changed"]
    assert [subnet["id"] for subnet in again["vm_subnets"]] == [zone_1, zone_2]
    outside = run({**args, "current_vm_subnets": [vms]})
    assert [subnet["id"] for subnet in outside["vm_subnets"]] == [vms]
    assert {nsg["name"]: len(nsg["created"]) for nsg in outside["network_security_groups"]}["of-vms"] == 3
    # An option that is set comes first.
    chosen = run({**args, "vm_subnets": [zone_1], "current_vm_subnets": [vms]}, check=True)
    assert [subnet["id"] for subnet in chosen["vm_subnets"]] == [zone_1]


def test_the_group_of_the_network_interfaces_of_pod_vms(world, run):
    of_workers, of_nics = world.nsg("of-workers"), world.nsg("of-nics", DENY)
    workers, vms = world.subnets("v", ([WORKERS], of_workers), ([VMS], None))
    args = {"subnets": [workers], "vm_subnets": [vms], "vm_network_security_groups": [of_nics]}
    assert opened(run(args)) == {
        "of-workers": set(),
        "of-nics": {f"Inbound {port} {WORKERS} {VMS}" for port in (9000, 15150)},
    }
    del args["vm_network_security_groups"]
    result = run(args)
    # Without a group, the interfaces get that of the workers, which is the only one.
    assert (result["vm_network_security_group"], result["unfiltered"]) == (of_workers, [])


def test_pod_vms_in_another_virtual_network(world, run):
    """Without a peering, it is not in the tag VirtualNetwork, so Azure's default rules do not allow the traffic."""
    of_workers, of_vms = world.nsg("of-workers"), world.nsg("of-vms")
    (workers,) = world.subnets("v", ([WORKERS], of_workers))
    (vms,) = world.subnets("w", (["192.168.1.0/24"], of_vms), space=["192.168.0.0/16"])
    result = run({"subnets": [workers], "vm_subnets": [vms]})
    assert opened(result)["of-vms"] == {f"Inbound {port} {WORKERS} 192.168.1.0/24" for port in (9000, 15150)}
    (sentence,) = result["unconnected"]
    assert sentence.endswith(
        "/w of the VMs of peer pods is not peered with " + workers.partition("/subnets/")[0] + " of workers."
    )


def test_outbound_traffic_that_is_denied_is_opened_or_reported(world, run):
    nsg, args = world.workers(DENY_OUT)
    result = run(args)
    assert opened(result) == {"demo-nsg": {f"Outbound {port} {WORKERS} {WORKERS}" for port in (9000, 15150)}}
    assert world.priorities(nsg) == {
        "deny-out": 4000,
        **{
            f"{name}-Outbound-{openshift.INFRASTRUCTURE_NAME}": priority
            for name, priority in zip(BASE_NAMES, (112, 111, 110), strict=True)
        },
    }
    assert not run(args)["changed"]
    assert run({"state": "absent"})["changed"]

    nsg, args = world.workers(rule("no-way", 105, "Deny", direction="Outbound"))
    assert "-Outbound-demo-7x2kq (111) would be shadowed in " in run(args)["msg"]
    shadowed, *_ = run({**args, "on_shadowed": "warn"}, check=True)["network_security_groups"][0]["shadowed"]
    assert shadowed["shadowed_by"].startswith("no-way (105) denies ")


def test_traffic_that_is_allowed_needs_no_rule(world, run):
    nsg, args = world.workers()
    result = run(args)
    assert world.take_requests() == READS
    assert not result["changed"]
    assert result["network_security_groups"][0]["covered"] == [
        {"name": name, "covered_by": "AllowVnetInBound (65000)"} for name in NAMES
    ]
    assert run({**args, "on_covered": "ensure"})["changed"]
    assert world.rules(nsg) == DEFAULT_RULES


def test_a_different_rule_is_corrected(world, arm, run):
    """The description identifies a rule of the cluster; unknown properties stay."""
    nsg, args = world.workers(
        DENY,
        rule(KATA, 300, "Deny", "1-2", **COLLECTION_DESCRIPTION),
        *({"name": name, "properties": DEFAULT_RULES[name]} for name in (VXLAN, UDP)),
    )
    stored = arm.state.stored[f"{nsg}/securityRules/{KATA}".lower()]["properties"]
    stored["futureProperty"] = {"a": 1}
    sent = []
    arm.faults += [Fault("PUT", KATA, looked_at(sent))]
    result = run(args, diff=True)
    assert world.take_requests() == [*READS, f"PUT {GROUP}/securityRules/{KATA}", *DONE]
    assert world.rules(nsg)[KATA] == DEFAULT_RULES[KATA]
    assert sent[0]["properties"]["futureProperty"] == {"a": 1}
    (done,) = result["network_security_groups"]
    assert [stored_rule["name"] for stored_rule in done["updated"]] == [KATA]
    assert done["unchanged"] == [VXLAN, UDP]
    assert "300 Inbound Deny * VirtualNetwork:* → VirtualNetwork:1-2" in result["diff"][0]["before"]
    assert not run(args)["changed"]


def test_a_changed_port_leaves_the_former_one_open_until_it_is_purged(world, run):
    nsg, args = world.workers(DENY)
    assert run(args)["changed"]
    former = {"name": "Allow-VXLAN-Internal", "priority": 111, "destination_port_ranges": ["9000"]}
    args["rules"] = [{**former, "destination_port_ranges": ["9100"]}]
    still_open = f"{VXLAN} 111 Inbound Allow Tcp {WORKERS}:* → {WORKERS}:9000"
    for check, is_changed in ((True, True), (False, True), (False, False)):
        result = run(args, check=check)
        assert (result["changed"], bool(result["diff"][0]["after"])) == (is_changed, is_changed)
        assert result["diff"][0]["before"] == ""
        (warning,) = [each for each in result["warnings"] if "stay although their traffic is not requested" in each]
        assert (still_open in warning, "set purge_rules to true" in warning) == (True, True)
        assert not any("is not a rule of this cluster" in each for each in result["warnings"])
        assert VXLAN in result["network_security_groups"][0]["unused"]
    rules = world.rules(nsg)
    assert (rules[VXLAN], rules[f"{VXLAN}-2"]["destinationPortRange"]) == (DEFAULT_RULES[VXLAN], "9100")
    result = run({**args, "purge_rules": True})
    assert (result["changed"], result.get("warnings")) == (True, None)
    assert world.rules(nsg).keys() == {"deny-vnet", VXLAN}
    assert world.rules(nsg)[VXLAN]["destinationPortRange"] == "9100"


def looked_at(sent: list[dict]) -> Act:
    def act(request: Request, pass_on: PassOn) -> Answer:
        sent.append(json.loads(request.content))
        return pass_on()

    return act


def test_unknown_properties_are_preserved(world, arm, run):
    nsg, args = world.workers(DENY, rule("theirs", 200, port="443"), flushConnection=True)
    arm.state.stored[nsg.lower()]["tags"] = {"team": "network"}
    arm.state.stored[f"{nsg}/securityRules/theirs".lower()]["properties"]["futureProperty"] = "x"
    sent = []
    arm.faults += [Fault("PUT", "demo-nsg$", looked_at(sent))]
    assert run(args)["changed"]
    after = arm.resources[nsg.lower()]
    assert after["properties"]["flushConnection"] is True
    assert after["tags"] == {"team": "network"}
    assert after["location"] == "westeurope"
    by_name = {stored_rule["name"]: stored_rule["properties"] for stored_rule in sent[0]["properties"]["securityRules"]}
    assert by_name["theirs"]["futureProperty"] == "x"
    assert "defaultSecurityRules" not in sent[0]["properties"]


# -- Where the workers are ---------------------------------------------------------------------


def test_the_workers_are_read_from_the_cluster(world, cluster, run):
    _, args = world.workers(DENY)
    nodes = [
        openshift.node(
            openshift.Worker(f"nsg-rules-{number}", provider_id, "1", "Standard_D8s_v5", "10.9.9.9"),
            "westeurope",
        )
        for number, provider_id in enumerate(args["virtual_machines"])
    ]
    for node in nodes:
        node["metadata"]["labels"] = {"test-nsg-rules/pool": "azure"}
    kubeconfig = str(cluster.user_kubeconfig("opens-azure", "system:masters"))
    selected = {"kubeconfig": kubeconfig, "label_selector": "test-nsg-rules/pool=azure"}
    cluster.apply(*nodes)
    try:
        result = run({"nodes": selected}, check=True)
        foreign = run({"nodes": {"kubeconfig": kubeconfig}})
    finally:
        cluster.delete("node", *(node["metadata"]["name"] for node in nodes))
    assert result["reason"].endswith(" interfaces of all 2 workers.")
    assert result["changed"]
    assert requests_of(cluster, "opens-azure")[0] == (
        "list",
        "/api/v1/nodes?labelSelector=test-nsg-rules/pool=azure&limit=500",
    )
    # The cluster's other workers are on AWS.
    assert " is not the id of an Azure virtual machine. " in foreign["msg"]
    assert world.take_requests() == READS


def test_every_worker_counts_in_any_network(world, arm, run, monkeypatch):
    """Two networks, one of them in another resource group; machines in two resource groups; pages of two items."""
    monkeypatch.setattr(arm, "page_size", 2)
    network, machines = World(arm, "network-rg"), World(arm, "more-rg")
    world.nsg("a-first-of-the-list")
    front_nsg, back_nsg = network.nsg("front"), network.nsg("back")
    on_nic = world.nsg("on-nic")
    front_subnet, back_subnet = network.subnets("vnet-1", (["10.1.0.0/24"], front_nsg), (["10.1.1.0/24"], back_nsg))
    (nic_subnet,) = world.subnets("vnet-2", (["10.2.0.0/24"], None))
    arguments = {
        "on_covered": "ensure",
        "virtual_machines": [
            *(world.machine(f"one-{number}", front_subnet) for number in range(3)),
            world.machine("three", nic_subnet, nsg=on_nic),
            world.machine("bare", nic_subnet),
            machines.machine("two", back_subnet),
        ],
    }
    result = run(arguments)
    requests = world.take_requests()
    assert sorted(requests[: -3 * 3]) == sorted(
        ["GET networkInterfaces"] * 4  # Five of one group, and one.
        + [f"GET virtualNetworks/{name}" for name in ("vnet-1", "vnet-2")]
        + [f"GET networkSecurityGroups/{name}" for name in ("front", "back", "on-nic")]
    )
    assert result["reason"].startswith("front, back, on-nic. Attached ")
    addresses = {
        nsg["name"]: {key: value for key, value in nsg["created"][0]["properties"].items() if "AddressPrefix" in key}
        for nsg in result["network_security_groups"]
    }
    prefixes = ["10.1.0.0/24", "10.1.1.0/24"]
    assert addresses == {
        "front": {"sourceAddressPrefixes": prefixes, "destinationAddressPrefix": prefixes[0]},
        "back": {"sourceAddressPrefixes": prefixes, "destinationAddressPrefix": prefixes[1]},
        "on-nic": {
            "sourceAddressPrefix": "10.2.0.0/24",
            "destinationAddressPrefix": "10.2.0.0/24",
        },
    }
    attachments = {
        nsg["name"]: (nsg["subnets"], nsg["network_interfaces"]) for nsg in result["network_security_groups"]
    }
    nic = f"{world.group_id}/providers/Microsoft.Network/networkInterfaces/three-nic"
    assert attachments == {"front": ([front_subnet], []), "back": ([back_subnet], []), "on-nic": ([], [nic])}
    assert result["unfiltered"] == [
        f"No network security group filters bare-nic in the subnet {nic_subnet}: all traffic passes."
    ]
    for nsg in (front_nsg, back_nsg, on_nic):
        assert world.rules(nsg).keys() == set(NAMES)
    assert not run(arguments)["changed"]


def test_dual_stack_takes_two_rules_for_each_option(world, run):
    nsg = world.nsg("demo-nsg", DENY, rule("theirs", 113, port="443"))
    prefixes = ["10.0.1.0/24", "10.0.3.0/24", "fd00:0:0:1::/64"]
    (subnet,) = world.subnets("demo-vnet", (prefixes, nsg))
    args = {"virtual_machines": [world.machine("w", subnet)]}
    result = run(args)
    assert result["subnets"][0]["address_prefixes"] == prefixes
    rules = world.rules(nsg)
    kata_ipv6, vxlan_ipv6, udp_ipv6 = (f"{name}-IPv6-{openshift.INFRASTRUCTURE_NAME}" for name in BASE_NAMES)
    expected = {KATA: 112, VXLAN: 111, UDP: 110, kata_ipv6: 114, vxlan_ipv6: 115, udp_ipv6: 116}
    assert {name: rules[name]["priority"] for name in expected} == expected
    assert rules[VXLAN]["sourceAddressPrefixes"] == prefixes[:2]
    assert rules[VXLAN]["destinationAddressPrefixes"] == prefixes[:2]
    assert rules[vxlan_ipv6]["sourceAddressPrefix"] == prefixes[2]
    assert rules[vxlan_ipv6]["destinationPortRange"] == "9000"

    assert not run(args)["changed"]
    world.take_requests()
    assert len(run({**args, "state": "absent"})["network_security_groups"][0]["removed"]) == 6
    assert world.take_requests() == [LIST_GROUPS, f"PUT {GROUP}", *DONE]
    assert world.rules(nsg).keys() == {"deny-vnet", "theirs"}


def test_subnets_and_groups_by_name(world, run):
    nsg = world.nsg("demo-nsg", DENY)
    filtered, unfiltered = world.subnets("demo-vnet", ([WORKERS], nsg), (["10.0.0.0/24"], None))
    result = run({"subnets": [filtered]}, check=True)
    assert world.take_requests() == READS[1:]
    assert result["reason"] == "demo-nsg. Attached to the subnets that were named."
    assert {
        created_rule["properties"]["sourceAddressPrefix"]
        for created_rule in result["network_security_groups"][0]["created"]
    } == {WORKERS}

    result = run({"subnets": [unfiltered]})
    assert not result["changed"]
    assert result["reason"].startswith("No network security group. ")
    assert result["unfiltered"] == [f"No network security group filters the subnet {unfiltered}: all traffic passes."]

    other_nsg = world.nsg("other", DENY)
    world.take_requests()
    result = run({"subnets": [filtered], "network_security_groups": [other_nsg]})
    assert world.take_requests()[:2] == [READS[1], "GET networkSecurityGroups/other"]
    assert result["reason"] == "other. Named by network_security_groups."
    assert world.rules(other_nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}
    assert world.rules(nsg).keys() == {"deny-vnet"}


def test_rules_with_their_own_sources_and_destinations(world, run):
    nsg, _ = world.workers(DENY)
    web, db = (world.put("applicationSecurityGroups", name, {}) for name in ("web", "db"))
    args = {
        "network_security_groups": [nsg],
        "rules": [
            {
                "name": "groups",
                "priority": 120,
                "destination_port_ranges": ["9000", "9002-9003"],
                "source_application_security_groups": [web],
                "destination_application_security_groups": [db],
                "description": "tunnel",
            },
            {
                "name": "out",
                "priority": 120,
                "direction": "Outbound",
                "access": "Deny",
                "protocol": "*",
                "source_port_ranges": ["1024-65535"],
                "destination_port_ranges": ["*"],
                "source_address_prefixes": ["10.0.0.4", "10.0.0.5"],
                "destination_address_prefixes": ["Internet"],
            },
        ],
    }
    assert run(args)["changed"]
    assert world.take_requests() == [f"GET {GROUP}", READS[1], f"PUT {GROUP}", *DONE]
    rules = {name.removesuffix(f"-{openshift.INFRASTRUCTURE_NAME}"): body for name, body in world.rules(nsg).items()}
    assert rules["groups"] == {
        "description": f"{MARK}tunnel",
        "priority": 120,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "Tcp",
        "sourcePortRange": "*",
        "destinationPortRanges": ["9000", "9002-9003"],
        "sourceApplicationSecurityGroups": [{"id": web}],
        "destinationApplicationSecurityGroups": [{"id": db}],
    }
    assert rules["out"]["sourceAddressPrefixes"] == ["10.0.0.4", "10.0.0.5"]
    assert rules["out"]["destinationAddressPrefix"] == "Internet"
    assert rules["out"]["sourcePortRange"] == "1024-65535"
    assert not run(args)["changed"]

    result = run({"network_security_groups": [nsg]})
    assert result["msg"].startswith(f"The rule {DOCUMENTED[0]} matches nothing: ")


AZURE = "/subscriptions/0/resourceGroups/r/providers"
SCALE_SETS = f"azure://{AZURE}/Microsoft.Compute/virtualMachineScaleSets/s/virtualMachines/0"
PORTS = {"destination_port_ranges": ["1"]}


@pytest.mark.parametrize(
    ("args", "msg"),
    [
        (
            {},
            "state is present but any of the following are missing: nodes, virtual_machines, subnets, network_sec",
        ),
        ({"subnets": ["s"], "cluster_id": "a b"}, "cluster_id is 'a b'. Set it to what osc.peerpods.cluster_info "),
        ({"subnets": ["s"], "virtual_machines": ["v"]}, "parameters are mutually exclusive: "),
        ({"virtual_machines": []}, "No worker, subnet or network security group is given. "),
        (
            {"virtual_machines": [SCALE_SETS]},
            f"{SCALE_SETS} is an instance of a uniform scale set, ",
        ),
        ({"subnets": [AZURE]}, f"'{AZURE}' is not a valid id. Set the whole ARM id, "),
        ({"network_security_groups": ["demo-nsg"]}, "'demo-nsg' is not a valid id. Set the whole"),
        ({"subnets": ["s"], "priority_range": [4000, 5000]}, "priority_range is two numbers, "),
        (
            {"subnets": ["s"], "rules": [{"name": n, "priority": 200, **PORTS} for n in "ab"]},
            "The rules a and b both have the priority 200 ",
        ),
    ],
)
def test_bad_input_is_rejected_without_a_request_to_azure(arm, run, args, msg):
    arm.take_requests()
    result = run(args)
    assert result["failed"]
    assert result["msg"].startswith(msg)
    assert arm.take_requests() == []


def test_missing_resources_are_reported(world, run):
    nsg, args = world.workers()
    provider = nsg.removesuffix(GROUP)
    vnet = f"{provider}virtualNetworks/demo-vnet"
    workers = args["virtual_machines"]
    for arguments, msg in [
        (
            {"virtual_machines": [*workers, workers[0].replace("/w0", "/w9")]},
            "No network interface of w9 was found. ",
        ),
        (
            {"subnets": [f"{vnet}/subnets/no"]},
            f"Azure has no subnet {vnet}/subnets/no. Its virtual networks have {vnet}/subnets/s0, ",
        ),
        (
            {"subnets": [f"{provider}virtualNetworks/no/subnets/s0"]},
            f"Azure has no virtual network {provider}virtualNetworks/no. Check the id, ",
        ),
        (
            {"network_security_groups": [f"{provider}networkSecurityGroups/no"]},
            f"Azure has no network security group {provider}networkSecurityGroups/no. Check the id, ",
        ),
    ]:
        assert run(arguments)["msg"].startswith(msg)
    assert writes(world.take_requests()) == []


# -- Priorities --------------------------------------------------------------------------------


def test_a_priority_conflict(world, run):
    nsg, args = world.workers(DENY, rule("theirs", 112, port="443"))
    result = run({**args, "on_priority_conflict": "fail"})
    assert result["msg"] == (
        f"Priority conflict in {nsg}: {KATA} is set to the priority 112, which theirs has. Set another "
        "priority (such as 113), or set on_priority_conflict=move."
    )
    result = run({**args, "priority_range": [112, 112]})
    assert result["msg"].startswith(f"No priority from 112 to 112 is free for {KATA}: ")
    assert writes(world.take_requests()) == []

    result = run({**args, "priority_range": [2000, 2999]})
    assert result["warnings"] == [f"{KATA} has priority 2000 instead of 112, which theirs has in demo-nsg."]
    assert result["network_security_groups"][0]["moved"] == [
        {"name": KATA, "requested": 112, "assigned": 2000, "taken_by": "theirs"}
    ]
    assert world.priorities(nsg) == {"deny-vnet": 4000, "theirs": 112, KATA: 2000, VXLAN: 111, UDP: 110}
    assert not run(args)["changed"]


def test_a_rule_that_would_be_shadowed(world, run):
    unshadowed, shadowing = (
        world.nsg(name, DENY, *extra_rules)
        for name, extra_rules in (("good", ()), ("bad", [rule("no-tunnel", 105, "Deny", "9000", protocol="Tcp")]))
    )
    unshadowed_subnet, shadowing_subnet = world.subnets(
        "demo-vnet", (["10.0.0.0/24"], unshadowed), (["10.0.1.0/24"], shadowing)
    )
    args = {"virtual_machines": [world.machine("a", unshadowed_subnet), world.machine("b", shadowing_subnet)]}
    result = run(args)
    assert result["msg"].startswith(f"{VXLAN} (111) would be shadowed in {shadowing}: no-tunnel (105) denies ")
    assert "(such as 104)" in result["msg"]
    assert writes(world.take_requests()) == []
    assert world.rules(unshadowed).keys() == {"deny-vnet"}

    result = run({**args, "on_shadowed": "warn"})
    assert result["changed"]
    (shadowed,) = result["network_security_groups"][1]["shadowed"]
    assert shadowed["name"] == VXLAN
    assert result["warnings"] == [f"{VXLAN} of bad is shadowed for some of its traffic: {shadowed['shadowed_by']}."]
    assert shadowed["shadowed_by"].startswith("no-tunnel (105) denies ")
    assert world.priorities(shadowing)[VXLAN] == 111


# -- Permissions -------------------------------------------------------------------------------

LIST_PERMISSIONS = f"GET {GROUP}/permissions"


def test_dry_run_checks_permissions_and_changes_nothing(world, arm, run):
    _, args = world.workers(DENY)
    before = arm.snapshot()
    predicted = run(args, check=True, diff=True)
    world.take_requests()
    dry = {**args, "dry_run": True}
    for check in (False, True):
        result = run(dry, check=check, diff=True)
        assert world.take_requests() == [*READS, LIST_PERMISSIONS]
        assert result["changed"] is check
        for key in ("network_security_groups", "diff"):
            assert predicted[key] == result[key], key
    assert arm.snapshot() == before

    assert run(args)["changed"]
    world.take_requests()
    result = run(dry, check=True)
    assert world.take_requests() == READS
    assert not result["changed"]


def test_dry_run_fails_without_permission(world, arm, run):
    nsg, args = world.workers(DENY)
    arm.permissions = [roles.READER]
    before = arm.snapshot()
    action = "Microsoft.Network/networkSecurityGroups/write"
    for check in (False, True):
        result = run({**args, "dry_run": True}, check=check)
        assert world.take_requests() == [*READS, LIST_PERMISSIONS]
        assert result["failed"]
        assert result["msg"] == (
            f"This identity lacks permission for {action} on {nsg}. Assign the role Network Contributor "
            "there, and wait some minutes until the assignment takes effect."
        )
        assert result["missing_permissions"] == [{"action": action, "scope": nsg}]
    assert arm.snapshot() == before
    # A real run is rejected, as the dry run reported.
    assert f" perform action '{action}' over scope '{nsg}'" in run(args)["msg"]


@pytest.mark.parametrize(
    ("state", "existing", "allowed", "is_allowed"),
    [
        ("present", [], "/write", True),
        ("present", [], "/securityRules/*", False),
        ("present", [VXLAN, UDP], "/securityRules/write", True),
        ("present", [VXLAN, UDP], "/write", False),
        ("absent", [KATA], "/securityRules/delete", True),
        ("absent", [KATA], "/securityRules/write", False),
        ("absent", [KATA, UDP], "/write", True),
        ("absent", [KATA, UDP], "/securityRules/*", False),
    ],
)
def test_dry_run_predicts_the_outcome_of_a_run(world, arm, run, state, existing, allowed, is_allowed):
    """Several rules are written with their group, a single rule is written alone."""
    rules = ({"name": name, "properties": DEFAULT_RULES[name]} for name in existing)
    _, args = world.workers(DENY, *rules)
    args["state"] = state
    group_may = f"Microsoft.Network/networkSecurityGroups{allowed}"
    arm.permissions = [roles.READER, {**roles.OWNER, "actions": [group_may]}]
    dry_run = run({**args, "dry_run": True})
    assert writes(world.take_requests()) == []
    assert ("failed" not in dry_run) is is_allowed
    assert ("failed" not in run(args)) is is_allowed


def test_dry_run_checks_each_changing_group_once(world, arm, run):
    first_nsg, second_nsg, open_nsg = world.nsg("one", DENY), world.nsg("two", DENY), world.nsg("open")
    subnets = world.subnets(
        "v", (["10.0.0.0/24"], first_nsg), (["10.0.1.0/24"], second_nsg), (["10.0.2.0/24"], open_nsg)
    )
    args = {"subnets": subnets, "dry_run": True}
    assert "failed" not in run(args)
    requests = [request for request in world.take_requests() if request.endswith("/permissions")]
    assert requests == [f"GET networkSecurityGroups/{name}/permissions" for name in ("one", "two")]

    arm.permissions = [roles.READER]
    result = run(args)
    assert [missing["scope"] for missing in result["missing_permissions"]] == [first_nsg, second_nsg]
    assert f"on {first_nsg}, or for Microsoft.Network/networkSecurityGroups/write on {second_nsg}. " in result["msg"]


def test_dry_run_without_permission_to_list_permissions(world, arm, run):
    nsg, args = world.workers(DENY)
    arm.faults += [Fault("GET", "/permissions$", authorization_failed)]
    result = run({**args, "dry_run": True})
    assert result["failed"]
    assert f"Azure rejected GET {nsg}/providers/Microsoft.Authorization/permissions with " in result["msg"]
    assert "missing_permissions" not in result


# -- Other writers -----------------------------------------------------------------------------


def test_a_priority_that_is_taken_during_the_run_is_replaced(world, arm, run):
    nsg, args = world.workers(DENY, *({"name": name, "properties": DEFAULT_RULES[name]} for name in (VXLAN, UDP)))
    other_rule = rule("theirs", 112, port="443")
    arm.faults += [Fault("PUT", f"securityRules/{KATA}", world.added_meanwhile(nsg, other_rule))]
    result = run(args)
    put = f"PUT {GROUP}/securityRules/{KATA}"
    assert world.take_requests() == [*READS, put, f"GET {GROUP}", put, *DONE]
    assert result["network_security_groups"][0]["moved"][0]["assigned"] == 113
    assert world.priorities(nsg) == {"deny-vnet": 4000, VXLAN: 111, UDP: 110, "theirs": 112, KATA: 113}


def test_a_rule_that_is_added_during_the_run_is_kept(world, arm, run):
    nsg, args = world.workers(DENY)
    other_rule = rule("theirs", 200, port="443")
    arm.faults += [Fault("PUT", "demo-nsg$", world.added_meanwhile(nsg, other_rule))]
    assert run(args)["changed"]
    assert world.take_requests() == [*READS, f"PUT {GROUP}", f"GET {GROUP}", f"PUT {GROUP}", *DONE]
    expected = {"deny-vnet": DENY["properties"], "theirs": other_rule["properties"], **DEFAULT_RULES}
    assert world.rules(nsg) == expected


def test_a_rule_that_gets_the_name_during_the_run_is_kept(world, arm, run):
    """A new rule is written with If-None-Match, also if the request is repeated after a lost response."""
    nsg, args = world.workers(DENY, *({"name": name, "properties": DEFAULT_RULES[name]} for name in (VXLAN, UDP)))
    by_hand = rule(KATA, 300, port="443")
    arm.faults += [Fault("PUT", f"securityRules/{KATA}$", world.added_meanwhile(nsg, by_hand))]
    arm.faults += [Fault("PUT", f"securityRules/{KATA}-2$", lose_the_answer)]
    result = run(args)
    assert [created["name"] for created in result["network_security_groups"][0]["created"]] == [f"{KATA}-2"]
    assert world.rules(nsg)[KATA] == by_hand["properties"]
    assert world.priorities(nsg)[f"{KATA}-2"] == 112


def test_the_outcome_of_a_lost_response_is_read(world, arm, run):
    nsg, args = world.workers(DENY)
    arm.faults += [Fault("PUT", "demo-nsg$", lose_the_answer)]
    result = run(args)
    assert result["changed"]
    assert len(result["network_security_groups"][0]["created"]) == 3
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}

    for name in (VXLAN, UDP):
        arm.delete(f"{nsg}/securityRules/{name}")
    arm.faults += [Fault("DELETE", KATA, lose_the_answer)]
    result = run({**args, "state": "absent"})
    assert result["network_security_groups"][0]["removed"] == [KATA]
    assert world.rules(nsg).keys() == {"deny-vnet"}


# -- Faults and their end state ----------------------------------------------------------------


def test_transient_faults_are_survived(world, arm, run):
    nsg, args = world.workers(DENY)
    faults = {
        "GET networkInterfaces": not_again_before(1, throttled(1)),
        "GET virtualNetworks/demo-vnet": [refuse(500, "InternalServerError")],
        f"GET {GROUP}": [refuse(502, "BadGateway"), hang_up],
        f"PUT {GROUP}": [
            refuse(409, "AnotherOperationInProgress", after=0.01),
            retryable_error(0.01),
            another_operation_in_progress(0.01),
        ],
        "GET operation": [refuse(503, "ServerTimeout", after=0.01)],
    }
    paths = {"GET operation": "/operations/"}
    arm.faults += [
        Fault(request.partition(" ")[0], paths.get(request, request.partition(" ")[2] + "$"), act)
        for request, acts in faults.items()
        for act in acts
    ]
    assert run(args)["changed"]
    assert arm.faults == []
    # Each request is repeated unchanged: the module does not make a second plan, so it sends no further reads.
    requests = world.take_requests()
    assert {request: requests.count(request) for request in faults} == {
        READS[0]: 2,
        READS[1]: 2,
        READS[2]: 3,
        f"PUT {GROUP}": 4,
        "GET operation": 3,
    }
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}


def not_again_before(seconds: float, act: Act) -> list[Act]:
    """`act`, and then a permanent failure of a request that comes before `seconds` have passed."""
    answered = []

    def answer(request: Request, pass_on: PassOn) -> Answer | None:
        answered.append(time.monotonic())
        return act(request, pass_on)

    def check_the_time(request: Request, pass_on: PassOn) -> Answer:
        if time.monotonic() - answered[0] < seconds:
            return refuse(400, "TooSoon")(request, pass_on)
        return pass_on()

    return [answer, check_the_time]


INNER = {"code": "InvalidJson", "message": "Unexpected value. Path 'x'."}
POLICY = {
    "code": "RequestDisallowedByPolicy",
    "message": "It was disallowed.",
    "additionalInfo": [
        {
            "type": "PolicyViolation",
            "info": {"policyDefinitionDisplayName": "no-open-ports", "policyAssignmentDisplayName": "corp"},
        }
    ],
}
PASSED_ON = {
    "code": "LinkedAuthorizationFailed",
    "message": "It may not join the group.",
    "innererror": {"code": "ScopeLocked", "message": "A lock."},
}


@pytest.mark.parametrize(
    ("fault", "refused", "advice"),
    [
        (
            Fault("GET", "networkInterfaces$", authorization_failed),
            " with AuthorizationFailed: The client ",
            "Assign a role with this action to the identity, such as Network Contributor ",
        ),
        (
            Fault("PUT", "demo-nsg$", operation_fails("InternalServerError", "An error occurred.")),
            " with InternalServerError: An error occurred.",
            "",
        ),
        (
            Fault(
                "PUT", "demo-nsg$", refuse(400, "InvalidRequestFormat", "Cannot parse the request.", details=[INNER])
            ),
            " with InvalidRequestFormat: Cannot parse the request. InvalidJson: Unexpected value. Path 'x'.",
            "",
        ),
        (
            Fault("PUT", "demo-nsg$", refuse(400, "Failed", "No.", details=[POLICY])),
            " with Failed: No. RequestDisallowedByPolicy: It was disallowed. policy no-open-ports, assigned as corp.",
            "Have the owner of the policy exempt the resource",
        ),
        (
            Fault("PUT", "demo-nsg$", refuse(409, "Conflict", json.dumps({"error": PASSED_ON}))),
            " with LinkedAuthorizationFailed: It may not join the group. ScopeLocked: A lock.",
            "Remove the lock (`az lock list`)",
        ),
        (
            Fault("PUT", "demo-nsg$", refuse(429, "TooManyRequests", "Throttled.", after=900)),
            " with TooManyRequests: Throttled.",
            "Azure requests a pause of 900 s: run the module again after that.",
        ),
    ],
)
def test_an_error_of_azure_is_reported_with_advice(world, arm, run, fault, refused, advice):
    _, args = world.workers(DENY)
    arm.faults += [fault]
    result = run(args)
    assert result["failed"]
    assert result["msg"].startswith(f"Azure rejected {fault.method} {world.group_id}/")
    assert refused in result["msg"]
    assert advice in result["msg"]
    assert "\n" not in result["msg"]


def test_a_lock_is_not_retried_like_a_conflict(world, arm, run):
    nsg, args = world.workers(DENY)
    locks = f"{world.group_id}/providers/Microsoft.Authorization/locks/keep"
    arm.put(locks, {"properties": {"level": "ReadOnly"}})
    result = run(args)
    arm.delete(locks)
    assert result["msg"].startswith(f"Azure rejected PUT {nsg} with ScopeLocked: ")
    assert result["msg"].endswith("Remove the lock (`az lock list`), or have its owner make the change.")
    assert writes(world.take_requests()) == [f"PUT {GROUP}"]


def test_the_wait_ends_after_its_timeout(world, arm, run, monkeypatch):
    nsg, args = world.workers(DENY)
    monkeypatch.setattr(arm, "polls", 10_000)
    result = run({**args, "wait_timeout": 1})
    assert result["msg"].startswith(f"Azure accepted PUT {nsg} and did not complete it within 1 s. ")


def test_changes_before_a_failure_are_reported(world, arm, run):
    first_nsg, second_nsg = world.nsg("one", DENY), world.nsg("two", DENY)
    first_subnet, second_subnet = world.subnets("v", (["10.0.0.0/24"], first_nsg), (["10.0.1.0/24"], second_nsg))
    arm.faults += [Fault("PUT", "networkSecurityGroups/two", authorization_failed)]
    result = run({"subnets": [first_subnet, second_subnet]})
    assert result["failed"]
    assert result["changed"]
    assert "networkSecurityGroups/two with AuthorizationFailed: " in result["msg"]
    assert " Changes were made in one. Fix the cause" in result["msg"]
    created = {nsg["name"]: [body["name"] for body in nsg["created"]] for nsg in result["network_security_groups"]}
    assert created == {"one": NAMES, "two": []}
    assert world.rules(first_nsg).keys() == {"deny-vnet", *NAMES}
    assert world.rules(second_nsg).keys() == {"deny-vnet"}


def lost_for_good(request: Request, pass_on: PassOn) -> Answer:
    """The change is made, and every response is an error."""
    pass_on()
    return refuse(400, "Lost")(request, pass_on)


@pytest.mark.parametrize("act", [operation_fails("InternalServerError"), lost_for_good])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_changes_by_the_request_that_failed_are_reported(world, arm, run, state, act):
    """The group is read after a failure, because its response does not tell what the request changed."""
    existing = [{"name": name, "properties": body} for name, body in DEFAULT_RULES.items()] if state == "absent" else []
    nsg, args = world.workers(DENY, *existing)
    before = world.rules(nsg)
    arm.faults += [Fault("PUT", "demo-nsg$", act)]
    result = run({**args, "state": state})
    assert result["failed"]
    assert result["changed"]
    assert " Changes were made in demo-nsg. " in result["msg"]
    (done,) = result["network_security_groups"]
    changes = [*(body["name"] for body in done["created"]), *done["removed"]]
    assert set(changes) == before.keys() ^ world.rules(nsg).keys() == set(NAMES)


def test_an_unknown_outcome_is_reported_as_such(world, arm, run):
    _, args = world.workers(DENY)
    arm.faults += [
        Fault("PUT", "demo-nsg$", operation_fails("InternalServerError")),
        Fault("GET", "demo-nsg$", work),
        Fault("GET", "demo-nsg$", authorization_failed),
    ]
    result = run(args)
    assert result["changed"]
    assert " Whether demo-nsg was changed is unknown: Azure rejected GET " in result["msg"]


def test_a_rule_of_a_failed_operation_is_written_again(world, arm, run):
    """Azure stores a rule before it is in force."""
    _, args = world.workers(DENY)
    arm.faults += [Fault("PUT", "demo-nsg$", operation_fails("InternalServerError"))]
    assert run(args)["failed"]
    assert run(args)["changed"]
    assert not run(args)["changed"]


def test_an_operation_that_another_one_replaced_is_repeated(world, arm, run):
    nsg, args = world.workers(DENY)
    of_another_client = {**LOCATION, "properties": {"securityRules": [DENY, rule("theirs", 112, port="443")]}}
    arm.faults += [Fault("PUT", "demo-nsg$", superseded(lambda: arm.put(nsg, of_another_client)))]
    result = run(args)
    assert world.take_requests() == [*READS, f"PUT {GROUP}", *DONE, f"GET {GROUP}", f"PUT {GROUP}", *DONE]
    assert len(result["network_security_groups"][0]["created"]) == 3
    assert world.priorities(nsg) == {"deny-vnet": 4000, "theirs": 112, KATA: 113, VXLAN: 111, UDP: 110}

    # Its rules are part of what replaced it.
    assert run({"state": "absent"})["changed"]
    arm.faults += [Fault("PUT", "demo-nsg$", superseded(lambda: None))]
    world.take_requests()
    assert len(run(args)["network_security_groups"][0]["created"]) == 3
    assert writes(world.take_requests()) == [f"PUT {GROUP}"]


@pytest.mark.parametrize(
    "act",
    [
        throttled(0.01),
        retryable_error(0.01),
        another_operation_in_progress(0.01),
        refuse(409, "AnotherOperationInProgress", after=0.01),
        refuse(503, "ServerTimeout", after=0.01),
        hang_up,
        lose_the_answer,
    ],
    ids=["throttled", "retryable", "in-progress-429", "in-progress-409", "unavailable", "no-answer", "lost-answer"],
)
def test_every_third_request_fails(world, arm, run, act):
    """Nothing is done twice, nothing is left, and the result has all changes."""
    nsg, args = world.workers(DENY)
    every_third(arm.faults, act)
    result = run(args)
    assert [body["name"] for body in result["network_security_groups"][0]["created"]] == NAMES
    assert world.rules(nsg) == {"deny-vnet": DENY["properties"], **DEFAULT_RULES}
    assert not run(args)["changed"]
    assert run({**args, "state": "absent"})["network_security_groups"][0]["removed"] == NAMES
    assert world.rules(nsg).keys() == {"deny-vnet"}


def html(request: Request, pass_on: PassOn) -> Answer:
    return Answer(200, b"<html>Log in to the network</html>")


@pytest.mark.parametrize("path", ["networkInterfaces$", "demo-nsg$"])
def test_a_response_that_is_not_json_is_reported(world, arm, run, path):
    _, args = world.workers()
    arm.faults += [Fault("GET", path, html)]
    message = run(args)["msg"]
    assert message.startswith(f"{arm.endpoint_url} returned ")
    assert " instead of a JSON object for GET " in message


@pytest.mark.parametrize(
    "environment",
    [
        {"REQUESTS_CA_BUNDLE": "/missing.pem"},
        {"AZURE_CLIENT_SECRET": "", "AZURE_SECRET": "", "AZURE_CLIENT_CERTIFICATE_PATH": "/missing.pem"},
        {"AZURE_CLIENT_SECRET": "", "AZURE_SECRET": "", "AZURE_FEDERATED_TOKEN_FILE": "/missing.pem"},
    ],
)
def test_a_file_that_does_not_exist_is_reported(world, arm, run_module, environment):
    _, args = world.workers()
    result = run_module("nsg_rules", {**CLUSTER, **args}, env={**arm.environment, **environment})
    assert result["msg"].startswith("A file for ")
    assert "/missing.pem" in result["msg"]
    assert "REQUESTS_CA_BUNDLE" in result["msg"]


# -- nsg_rules_info ----------------------------------------------------------------------------


def decisions(result: dict, *keys: str) -> dict[tuple, list[tuple]]:
    """(direction, port) → the deciding rule, and the other `keys` of the verdict."""
    return {
        (flow["direction"], flow["port"]): [
            (verdict["access"], verdict["rule"], *(verdict[key] for key in keys)) for verdict in flow["verdicts"]
        ]
        for flow in result["flows"]
    }


def test_info_by_the_default_rules(world, run):
    nsg, args = world.workers()
    result = run(args, "nsg_rules_info", check=True)
    assert world.take_requests() == READS
    assert not result["changed"]
    assert result["passes"]
    assert decisions(result, "source", "destination", "priority", "partly") == {
        (direction, port): [("Allow", f"AllowVnet{bound}", [WORKERS], [WORKERS], 65000, False)]
        for direction, bound in (("Inbound", "InBound"), ("Outbound", "OutBound"))
        for port in (15150, 9000)
    }
    (group,) = result["network_security_groups"]
    assert group["id"] == nsg
    assert [stored_rule["name"] for stored_rule in group["rules"]][:3] == [
        "AllowVnetInBound",
        "AllowAzureLoadBalancerInBound",
        "DenyAllInBound",
    ]


def test_info_returns_the_deciding_rule(world, run):
    members = world.put("applicationSecurityGroups", "members", {})
    by_group = {
        "sourceAddressPrefix": None,
        "sourceApplicationSecurityGroups": [{"id": members}],
    }
    _, args = world.workers(
        rule("some-may", 200, port="9000", **by_group),
        rule("no-tunnel", 300, "Deny", "8000-9500"),
        rule("udp-only", 310, "Deny", "22", protocol="Udp"),
        rule("half-a-subnet", 320, "Deny", "443", sourceAddressPrefix="10.0.192.0/18"),
        rule("stay-in", 100, "Deny", "22", direction="Outbound"),
    )
    ports = {"ports": [{"port": port} for port in (9000, 22, 443)]}
    result = run({**args, **ports}, "nsg_rules_info")
    deciding = decisions(result, "partly")
    allowed_flows = [(flow["direction"], flow["port"]) for flow in result["flows"] if flow["passes"]]
    assert not result["passes"]
    assert deciding["Inbound", 9000] == [("Allow", "some-may", True), ("Deny", "no-tunnel", False)]
    assert deciding["Inbound", 22] == [("Allow", "AllowVnetInBound", False)]
    assert deciding["Outbound", 22] == [("Deny", "stay-in", False)]
    assert allowed_flows == [("Inbound", 22), ("Outbound", 9000), ("Outbound", 443)]
    assert decisions(result, "source")["Inbound", 443] == [
        ("Deny", "half-a-subnet", ["10.0.192.0/18"]),
        ("Allow", "AllowVnetInBound", ["10.0.128.0/18"]),
    ]


def test_info_between_two_prefixes(world, run):
    nsg, args = world.workers(rule("keep-out", 300, "Deny", destinationAddressPrefix="10.0.128.9"))
    ends = {
        "source_address_prefixes": ["10.0.128.7/32"],
        "destination_address_prefixes": ["10.0.128.8/31"],
        "ports": [{"port": 53, "protocol": "Udp"}],
    }
    for scope in (args, {"network_security_groups": [nsg]}):
        result = run({**scope, **ends}, "nsg_rules_info")
        assert decisions(result, "source", "destination")["Inbound", 53] == [
            ("Deny", "keep-out", ["10.0.128.7/32"], ["10.0.128.9/32"]),
            ("Allow", "AllowVnetInBound", ["10.0.128.7/32"], ["10.0.128.8/32"]),
        ]
        assert result["flows"][0]["protocol"] == "Udp"
    assert run({"network_security_groups": [nsg]}, "nsg_rules_info")["msg"].startswith(
        "Without workers, source_address_prefixes and destination_address_prefixes are required."
    )


def test_info_of_subnet_and_interface(world, run):
    """Traffic must pass both network security groups."""
    on_subnet, on_nic = world.nsg("on-subnet"), world.nsg("on-nic", DENY)
    (subnet,) = world.subnets("demo-vnet", ([WORKERS], on_subnet))
    args = {"virtual_machines": [world.machine("w", subnet, nsg=on_nic)]}
    result = run({**args, "ports": [{"port": 9000}]}, "nsg_rules_info")
    passes = {(flow["network_security_group"], flow["direction"]): flow["passes"] for flow in result["flows"]}
    assert passes == {
        (on_subnet, "Inbound"): True,
        (on_subnet, "Outbound"): True,
        (on_nic, "Inbound"): False,
        (on_nic, "Outbound"): True,
    }
    assert not result["passes"]
    assert [nsg["network_interfaces"] != [] for nsg in result["network_security_groups"]] == [
        False,
        True,
    ]
