"""azure_nat_gateway: what it creates and removes, what it leaves alone, and what remains after failures.

The plans are tested in tests/unit/module_utils/_azure/test_nat_gateway.py. test_documented_procedure.py compares the
result with that of the product documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.azure_arm import AzureArm, roles
from tests.azure_arm.faults import Fault, PassOn, first, lose_the_answer, operation_fails, refuse
from tests.azure_arm.wire import Answer, Request
from tests.cluster import openshift

CLUSTER = {"cluster_name": openshift.INFRASTRUCTURE_NAME, "cluster_id": openshift.CLUSTER_ID}
OTHER_CLUSTER = {"cluster_name": "demo-b9f4t", "cluster_id": "5c1e7a90-3d2b-4f8e-9a61-7b0c4d5e6f70"}
NAT = f"{openshift.INFRASTRUCTURE_NAME}-peer-pods-nat"
LOCATION = {"location": "westeurope"}
READS = ["GET virtualNetworks/nat-vnet", f"GET natGateways/{NAT}", f"GET publicIPAddresses/{NAT}-ip"]
WRITES = [
    f"PUT publicIPAddresses/{NAT}-ip",
    f"PUT natGateways/{NAT}",
    "PUT virtualNetworks/nat-vnet/subnets/vms",
]
CHANGES = [("created", f"{NAT}-ip"), ("created", NAT), ("attached", "vms")]
ADDRESS = {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"}
REMOVAL = [("marked", NAT), ("detached", "vms"), ("removed", NAT), ("removed", f"{NAT}-ip")]


@dataclass(frozen=True)
class World:
    """A virtual network with a private subnet for VMs, and one of a user."""

    arm: AzureArm

    @property
    def network(self) -> str:
        return f"/subscriptions/{self.arm.subscription_id}/resourceGroups/nat-rg/providers/Microsoft.Network"

    @property
    def subnet(self) -> str:
        return f"{self.network}/virtualNetworks/nat-vnet/subnets/vms"

    def put(self, kind: str, name: str, **body: object) -> str:
        return self.arm.put(f"{self.network}/{kind}/{name}", {**LOCATION, **body})["id"]

    def attached(self, subnet: str | None = None) -> str | None:
        """The name of the NAT gateway of a subnet."""
        reference = self.arm.resources[(subnet or self.subnet).lower()]["properties"].get("natGateway")
        return reference and reference["id"].rpartition("/")[2]

    def update_subnet(self, name: str = "vms", **properties: object) -> None:
        subnet_id = f"{self.network}/virtualNetworks/nat-vnet/subnets/{name}"
        known = self.arm.resources[subnet_id.lower()]["properties"]
        self.arm.put(subnet_id, {"properties": {**known, **properties}})

    def take_requests(self) -> list[str]:
        return [
            f"{method} {path.partition('/Microsoft.Network/')[2]}"
            for method, path in self.arm.take_requests()
            if "/operations/" not in path
        ]

    def take_writes(self) -> list[str]:
        return [request for request in self.take_requests() if not request.startswith("GET")]


@pytest.fixture
def world(arm: AzureArm) -> Iterator[World]:
    before, limits = arm.snapshot(), dict(arm.state.limits)
    world = World(arm)
    arm.put(world.network.partition("/providers/")[0], LOCATION)
    nsg = world.put("networkSecurityGroups", "nat-nsg")
    subnets = {"vms": {"networkSecurityGroup": {"id": nsg}, "defaultOutboundAccess": False}, "of-user": {}}
    world.put(
        "virtualNetworks",
        "nat-vnet",
        properties={
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [
                {"name": name, "properties": {"addressPrefix": f"10.0.{number}.0/24", **properties}}
                for number, (name, properties) in enumerate(subnets.items())
            ],
        },
    )
    arm.take_requests()
    yield world
    arm.restore(before)
    arm.faults.clear()
    arm.permissions = [roles.CONTRIBUTOR]
    arm.state.limits.update(limits)


@pytest.fixture
def run(arm: AzureArm, world: World, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(check: bool = False, diff: bool = False, **options: object) -> dict:
        args = {**CLUSTER, "subnet": world.subnet, **options}
        return run_module("azure_nat_gateway", args, check=check, diff=diff, env=arm.environment)

    return run


def changes(result: dict) -> list[tuple[str, str]]:
    return [(change["change"], change["id"].rpartition("/")[2]) for change in result["changes"]]


def test_a_nat_gateway_from_creation_to_teardown(world: World, run):
    before = world.arm.snapshot()
    predicted = run(check=True, diff=True)
    usages = "GET locations/westeurope/usages"
    assert world.take_requests() == [*READS, usages]
    assert world.arm.snapshot() == before

    result = run(diff=True, zone="2", tags={"team": "kata"})
    created = [WRITES[0], READS[2], WRITES[1], READS[1]]
    assert world.take_requests() == [*READS, usages, *created, WRITES[2], READS[2]]
    for key in ("changed", "changes", "reason", "nat_gateway"):
        assert predicted[key] == result[key], key
    assert result["changed"]
    assert changes(result) == CHANGES
    assert result["reason"] == "vms had no NAT gateway and no route to elsewhere."
    assert result["diff"]["after"] == (
        f"public IP address {NAT}-ip, zone 2\nNAT gateway {NAT}, zone 2\nvms: NAT gateway {NAT}\n"
    )
    gateway = world.arm.resources[result["nat_gateway"].lower()]
    (address,) = gateway["properties"]["publicIpAddresses"]
    ip = world.arm.resources[address["id"].lower()]["properties"]["ipAddress"]
    assert result["public_ip_addresses"] == [ip]
    assert (gateway["zones"], gateway["tags"]["team"]) == (["2"], "kata")
    assert world.attached() == NAT
    # The rest of the subnet is as it was.
    assert world.arm.resources[world.subnet.lower()]["properties"]["defaultOutboundAccess"] is False

    second_result = run()
    assert world.take_requests() == [READS[0], READS[1], READS[2]]
    assert not second_result["changed"]
    assert (second_result["changes"], second_result["public_ip_addresses"]) == ([], [ip])
    assert second_result["reason"] == f"vms has the NAT gateway {NAT}."

    predicted = run(check=True, diff=True, state="absent")
    world.take_requests()
    # The names and the subnet are found by the tags.
    result = run(diff=True, state="absent", subnet=None, name="another")
    assert world.take_requests() == [
        "GET natGateways",
        "GET publicIPAddresses",
        "GET virtualNetworks/nat-vnet/subnets/vms",
        WRITES[1],
        WRITES[2],
        f"DELETE natGateways/{NAT}",
        f"DELETE publicIPAddresses/{NAT}-ip",
    ]
    assert predicted["changes"] == result["changes"]
    assert changes(result) == REMOVAL
    assert world.attached() is None
    assert without_etags(world.arm.snapshot()) == without_etags(before)
    assert not run(state="absent")["changed"]


def without_etags(resources: dict[str, dict]) -> dict[str, dict]:
    return {key: {**body, "etag": None} for key, body in resources.items()}


@pytest.mark.parametrize("what", ["nat gateway", "route table"])
def test_what_a_subnet_has_is_never_replaced(world: World, run, what: str):
    if what == "nat gateway":
        theirs = world.put("natGateways", "theirs", properties={})
        world.update_subnet(natGateway={"id": theirs})
        reason = "vms has the NAT gateway theirs, which this collection did not create."
    else:
        hop = {"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}
        table = world.put("routeTables", "rt", properties={"routes": [{"name": "out", "properties": hop}]})
        world.update_subnet(routeTable={"id": table})
        reason = "The route out of the route table rt sends the traffic of vms to VirtualAppliance 10.0.9.4."
    before = world.arm.snapshot()
    result = run()
    assert (result["changed"], result["reason"]) == (False, reason)
    assert len(world.take_requests()) == 2
    assert not run(state="absent")["changed"]
    assert world.arm.snapshot() == before


def test_two_clusters_share_a_subnet(world: World, run):
    run()
    result = run(**OTHER_CLUSTER)
    assert changes(result) == [("shared", NAT)]
    assert not run(**OTHER_CLUSTER)["changed"]
    result = run(state="absent")
    assert changes(result) == [("released", NAT)]
    assert result["kept"][0]["reason"] == f"It is also used by demo-b9f4t ({OTHER_CLUSTER['cluster_id']})."
    assert world.attached() == NAT
    assert len(run(**OTHER_CLUSTER, state="absent")["changes"]) == 4
    assert world.attached() is None


def test_a_cluster_does_not_begin_to_use_a_nat_gateway_that_is_removed(world: World, run):
    """Either it comes first, and the NAT gateway stays, or it fails before it changes anything."""
    run()
    results = []
    world.arm.faults += [Fault("PUT", "/natGateways/", first(lambda: results.append(run(**OTHER_CLUSTER))))]
    result = run(state="absent")
    assert changes(results[0]) == [("shared", NAT)]
    assert changes(result) == [("released", NAT)]
    assert world.attached() == NAT

    world.arm.faults.clear()
    world.arm.faults += [Fault("PUT", "/subnets/vms", first(lambda: results.append(run())))]
    assert changes(run(**OTHER_CLUSTER, state="absent")) == REMOVAL
    assert f"is being removed by demo-b9f4t ({OTHER_CLUSTER['cluster_id']})" in results[1]["msg"]
    assert not results[1].get("changed")


def test_a_subnet_that_a_user_attached_keeps_its_nat_gateway(world: World, run):
    gateway = run()["nat_gateway"]
    world.update_subnet("of-user", natGateway={"id": gateway})
    before = world.arm.snapshot()
    result = run(state="absent")
    assert not result["changed"]
    assert result["kept"][0]["reason"].endswith("/subnets/of-user, which this collection did not do.")
    assert world.arm.snapshot() == before


@pytest.mark.parametrize(
    ("name", "things"), [("NatGateways", "NAT gateways"), ("PublicIPAddresses", "public IP addresses")]
)
def test_a_quota_that_is_reached_fails_before_the_first_change(world: World, run, name: str, things: str):
    world.arm.state.limits[name] = 0
    result = run()
    assert result["msg"] == (
        f"All 0 {things} that this subscription may have in westeurope exist. Delete one that is not used, or request "
        "a higher quota."
    )
    assert not result.get("changed")
    assert world.take_writes() == []
    # Without the permission to read it, the answer of Azure names the quota.
    world.arm.faults += [Fault("GET", "/usages$", refuse(403, "AuthorizationFailed"))]
    message = run()["msg"]
    assert "CountLimitReached: Cannot create more than 0 " in message
    assert ("Before, this run created" in message) is (name == "NatGateways")


def test_a_policy_that_denies_it_is_one_sentence_with_the_changes_before(world: World, run):
    denied = refuse(403, "RequestDisallowedByPolicy", "Resource was disallowed by policy 'no NAT gateways'.")
    world.arm.faults += [Fault("PUT", "/natGateways/", denied)]
    result = run(diff=True)
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"].startswith(
        f"Azure rejected PUT {world.network}/natGateways/{NAT} with RequestDisallowedByPolicy"
    )
    assert f" Before, this run created {NAT}-ip. Fix the cause, then run the module again" in result["msg"]
    assert changes(result) == CHANGES[:1]
    # The next run continues there, and a teardown removes what the failed run left.
    assert changes(run(check=True)) == CHANGES[1:]
    assert changes(run(state="absent")) == [("removed", f"{NAT}-ip")]


@pytest.mark.parametrize("fault", [lose_the_answer, operation_fails("InternalServerError")])
def test_a_change_whose_response_is_lost_is_reported(world: World, run, fault):
    world.arm.faults += [Fault("PUT", "/subnets/vms", fault)]
    result = run()
    assert changes(result) == CHANGES
    assert result["changed"]
    assert world.attached() == NAT
    world.arm.faults.clear()
    world.arm.faults += [Fault("DELETE", "/natGateways/", lose_the_answer)]
    assert changes(run(state="absent")) == REMOVAL


@pytest.mark.parametrize("kind", ["natGateways", "publicIPAddresses"])
@pytest.mark.parametrize("is_late", [False, True], ids=["it is refused", "it is noticed"])
def test_a_new_resource_that_another_client_creates_at_the_same_time(world: World, run, kind: str, is_late: bool):
    """Azure does not document that it evaluates If-None-Match for them, so the tags are read as well."""
    name = NAT if kind == "natGateways" else f"{NAT}-ip"

    def create(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on() if is_late else None
        world.arm.faults.clear()
        world.put(kind, name, tags={"of": "another"}, sku={"name": "Standard"}, properties=ADDRESS)
        return answer or pass_on()

    world.arm.faults += [Fault("PUT", f"/{kind}/", create)]
    result = run()
    assert result["failed"]
    if is_late:
        assert f"/{kind}/{name} at the same time: it does not have the tags of this cluster." in result["msg"]
    else:
        assert f"{name} exists and does not have the tag osc.peerpods.cluster." in result["msg"]
    assert world.arm.resources[f"{world.network}/{kind}/{name}".lower()]["tags"] == {"of": "another"}
    assert {"change": "created", "id": f"{world.network}/{kind}/{name}"} not in result.get("changes", [])


def test_a_subnet_that_another_client_changes_is_planned_again(world: World, run):
    """Its write fails by the etag, and what the other client wrote stays."""
    other = {"service": "Microsoft.Storage"}
    act = first(lambda: world.update_subnet(serviceEndpoints=[other]))
    world.arm.faults += [Fault("PUT", "/subnets/vms", act)]
    result = run()
    assert changes(result) == CHANGES
    assert world.take_writes() == [*WRITES, WRITES[2]]
    assert world.attached() == NAT
    assert world.arm.resources[world.subnet.lower()]["properties"]["serviceEndpoints"] == [other]

    # Another client attaches a NAT gateway of its own at the same time.
    run(state="absent")
    theirs = world.put("natGateways", "theirs", properties={})
    world.arm.faults += [Fault("PUT", "/subnets/vms", first(lambda: world.update_subnet(natGateway={"id": theirs})))]
    result = run()
    assert world.attached() == "theirs"
    assert result["reason"] == "vms has the NAT gateway theirs, which this collection did not create."
    # Otherwise they would cost money.
    assert changes(result) == [*CHANGES[:2], ("removed", NAT), ("removed", f"{NAT}-ip")]
    assert not run(state="absent")["changed"]


def test_dry_run_checks_the_permissions(world: World, run):
    before = world.arm.snapshot()
    assert not run(dry_run=True)["changed"]
    assert run(dry_run=True, check=True)["changed"]
    world.arm.permissions = [roles.READER]
    result = run(dry_run=True)
    assert [permission["action"].partition("/")[2] for permission in result["missing_permissions"]] == [
        "publicIPAddresses/write",
        "natGateways/write",
        "publicIPAddresses/join/action",
        "virtualNetworks/subnets/write",
        "natGateways/join/action",
        "networkSecurityGroups/join/action",
    ]
    assert world.arm.snapshot() == before
    # Each of them is needed: without one, a real run fails.
    missing = {**roles.OWNER, "notActions": ["Microsoft.Network/natGateways/join/action"]}
    world.arm.permissions = [missing]
    assert len(run(dry_run=True)["missing_permissions"]) == 1
    assert "LinkedAuthorizationFailed" in run()["msg"]


def test_invalid_options(world: World, run):
    assert run(subnet="vms")["msg"].startswith("'vms' is not the ARM id of a subnet. Set /subscriptions/")
    assert run(subnet=f"{world.subnet}x")["msg"].startswith(f"Azure has no subnet {world.subnet}x. Check the id")
    assert run(cluster_id="")["msg"].startswith("cluster_id is empty.")
    world.put("natGateways", NAT, properties={})
    assert "exists and does not have the tag" in run()["msg"]
    assert world.take_writes() == []
