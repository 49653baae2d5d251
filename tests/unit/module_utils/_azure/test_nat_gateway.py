"""Plans of NAT gateways, as tables of what exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nat_gateway import (
    Found,
    NatGatewayError,
    Owner,
    Plan,
    Request,
    network_of_subnet,
    plan_absent,
    plan_present,
    quota_reached,
    subscriptions_of,
)

GROUP = "/subscriptions/s/resourceGroups/rg"
NETWORK_ID = f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v"
SUBNET_ID = f"{NETWORK_ID}/subnets/workers"
GATEWAY_ID = f"{GROUP}/providers/Microsoft.Network/natGateways/demo-peer-pods-nat"
ADDRESS_ID = f"{GROUP}/providers/Microsoft.Network/publicIPAddresses/demo-peer-pods-nat-ip"
NSG_ID = f"{GROUP}/providers/Microsoft.Network/networkSecurityGroups/demo-nsg"
OWNER, OTHER = Owner("demo", "id-1"), Owner("other", "id-2")
REQUEST = Request(OWNER, GATEWAY_ID, ADDRESS_ID, "", {})
MARK = {"osc.peerpods.managed": "true", "osc.peerpods.cluster.id-1": "demo"}
MARK_OF_OTHER = {"osc.peerpods.managed": "true", "osc.peerpods.cluster.id-2": "other"}
NETWORK = {"id": NETWORK_ID, "location": "westeurope"}


def subnet(name: str = "workers", **properties: object) -> dict:
    return {
        "id": f"{NETWORK_ID}/subnets/{name}",
        "name": name,
        "etag": 'W/"1"',
        "properties": {"addressPrefix": "10.0.1.0/24", "ipConfigurations": [{"id": "x"}], **properties},
    }


def gateway(tags: dict, *subnets: str, recorded: str = "workers") -> dict:
    tags = {**tags, "osc.peerpods.subnets": recorded} if tags else {}
    return {
        "id": GATEWAY_ID,
        "name": "demo-peer-pods-nat",
        "etag": 'W/"2"',
        "tags": tags,
        "location": "westeurope",
        "properties": {
            "publicIpAddresses": [{"id": ADDRESS_ID}],
            "subnets": [{"id": subnet_id} for subnet_id in subnets],
        },
    }


def address(tags: dict, **properties: object) -> dict:
    return {"id": ADDRESS_ID, "name": "demo-peer-pods-nat-ip", "tags": tags, "properties": properties}


def table(hop: str, next_hop: str | None = None) -> dict:
    properties = {"addressPrefix": "0.0.0.0/0", "nextHopType": hop, "nextHopIpAddress": next_hop}
    return {"name": "rt", "properties": {"routes": [{"name": "out", "properties": properties}]}}


def changes(plan: Plan) -> list[tuple[str, str]]:
    return [(step.change, step.resource_id.rpartition("/")[2]) for step in plan.steps]


CREATED = [
    ("created", "demo-peer-pods-nat-ip"),
    ("created", "demo-peer-pods-nat"),
    ("attached", "workers"),
]


@pytest.mark.parametrize(("tags", "is_ours"), [(MARK, True), ({}, False), (MARK_OF_OTHER, False)])
def test_a_new_resource_with_tags_of_azure_policy(tags: dict, is_ours: bool):
    """A policy with the effect modify adds tags to what is written, or replaces those of the user."""
    request = replace(REQUEST, tags={"team": "kata"})
    for step in plan_present(Found(NETWORK, subnet()), request).steps[:2]:
        recorded = {"osc.peerpods.subnets": "workers"} if tags and step.kind == "natGateways" else {}
        read = {**step.body, "tags": {"cost-center": "42", "team": "platform", **tags, **recorded}}
        assert step.is_done(read) == is_ours


def test_a_subnet_without_a_way_out():
    before = subnet(networkSecurityGroup={"id": NSG_ID}, futureProperty=1)
    plan = plan_present(Found(NETWORK, before), REQUEST)
    assert changes(plan) == CREATED
    assert plan.reason == "workers had no NAT gateway and no route to elsewhere."
    assert (plan.gateway_id, plan.address_ids) == (GATEWAY_ID, (ADDRESS_ID,))
    new_address, new_gateway, attached = (step.body for step in plan.steps)
    assert new_address == {
        "location": "westeurope",
        "sku": {"name": "Standard"},
        "tags": MARK,
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
    }
    assert new_gateway == {
        "location": "westeurope",
        "sku": {"name": "Standard"},
        "tags": {**MARK, "osc.peerpods.subnets": "workers"},
        "properties": {"idleTimeoutInMinutes": 4, "publicIpAddresses": [{"id": ADDRESS_ID}]},
    }
    # Unknown properties stay, and read-only ones are not sent.
    assert attached["properties"] == {
        "addressPrefix": "10.0.1.0/24",
        "networkSecurityGroup": {"id": NSG_ID},
        "futureProperty": 1,
        "natGateway": {"id": GATEWAY_ID},
    }
    assert [step.etag for step in plan.steps] == [None, None, 'W/"1"']
    actions = [action for step in plan.steps for action in step.actions()]
    assert actions == [
        ("Microsoft.Network/publicIPAddresses/write", GROUP),
        ("Microsoft.Network/natGateways/write", GROUP),
        ("Microsoft.Network/publicIPAddresses/join/action", GROUP),
        ("Microsoft.Network/virtualNetworks/subnets/write", SUBNET_ID),
        ("Microsoft.Network/natGateways/join/action", GROUP),
        ("Microsoft.Network/networkSecurityGroups/join/action", NSG_ID),
    ]


def test_zone_and_tags_of_new_resources():
    request = Request(OWNER, GATEWAY_ID, ADDRESS_ID, "2", {"team": "kata", "osc.peerpods.managed": "no"})
    bodies = [step.body for step in plan_present(Found(NETWORK, subnet()), request).steps[:2]]
    assert [body["zones"] for body in bodies] == [["2"], ["2"]]
    assert all(body["tags"].items() >= {**MARK, "team": "kata"}.items() for body in bodies)


WINNER = {**gateway(MARK_OF_OTHER, SUBNET_ID), "id": f"{GATEWAY_ID}-2", "name": "other-peer-pods-nat"}
REMOVED = [("removed", "demo-peer-pods-nat"), ("removed", "demo-peer-pods-nat-ip")]
IN_USE = {"natGateway": {"id": GATEWAY_ID}}


@pytest.mark.parametrize(
    ("found", "removed"),
    [
        ({}, []),
        ({"gateway": gateway(MARK), "address": address(MARK, **IN_USE)}, REMOVED),
        ({"address": address(MARK)}, REMOVED[1:]),
        # It is used, or of another owner.
        ({"gateway": gateway(MARK, f"{SUBNET_ID}-2"), "address": address(MARK, **IN_USE)}, []),
        ({"gateway": gateway({**MARK, **MARK_OF_OTHER}), "address": address(MARK, **IN_USE)}, []),
        ({"gateway": gateway({}), "address": address({}, **IN_USE)}, []),
        ({"address": address(MARK, ipConfiguration={"id": "/nic"})}, []),
    ],
)
def test_two_clusters_have_created_one_at_the_same_time(found: dict, removed: list[tuple[str, str]]):
    """The subnet has that of the other cluster."""
    plan = plan_present(Found(NETWORK, subnet(natGateway={"id": WINNER["id"]}), WINNER, **found), REQUEST)
    assert changes(plan) == [("shared", "demo-peer-pods-nat-2"), *removed]


def test_what_was_created_is_removed_if_the_subnet_got_a_route_meanwhile():
    found = Found(NETWORK, subnet(), None, table("VirtualAppliance", "10.0.9.4"), gateway(MARK), address(MARK))
    removed = [("removed", "demo-peer-pods-nat"), ("removed", "demo-peer-pods-nat-ip")]
    assert changes(plan_present(found, REQUEST)) == removed


@pytest.mark.parametrize(
    ("found", "planned"),
    [
        ({"address": address(MARK)}, CREATED[1:]),
        ({"address": address(MARK), "gateway": gateway(MARK)}, CREATED[2:]),
        (
            {"address": address(MARK), "gateway": gateway(MARK, recorded="others")},
            [("recorded", "demo-peer-pods-nat"), *CREATED[2:]],
        ),
        # The next hop that Azure's default route has, too.
        ({"route_table": table("Internet")}, CREATED),
    ],
)
def test_an_interrupted_run_is_continued(found: dict, planned: list[tuple[str, str]]):
    plan = plan_present(Found(NETWORK, subnet(), **found), REQUEST)
    assert changes(plan) == planned
    if planned[0][0] == "recorded":
        assert plan.steps[0].body["tags"] == {**MARK, "osc.peerpods.subnets": "others workers"}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            {"route_table": table("VirtualAppliance", "10.0.0.4")},
            "The route out of the route table rt sends the traffic of workers to VirtualAppliance 10.0.0.4.",
        ),
        ({"route_table": table("None")}, "The route out of the route table rt sends the traffic of workers to None."),
        (
            {"attached": {**gateway({}), "name": "theirs"}},
            "workers has the NAT gateway theirs, which this collection did not create.",
        ),
        ({"attached": gateway(MARK)}, "workers has the NAT gateway demo-peer-pods-nat."),
    ],
)
def test_what_exists_is_not_replaced(found: dict, reason: str):
    plan = plan_present(Found(NETWORK, subnet(), **found), REQUEST)
    assert (plan.steps, plan.reason) == ((), reason)
    assert plan.gateway_id == (GATEWAY_ID if "attached" in found else None)


def test_the_gateway_of_another_cluster_gets_a_reference():
    plan = plan_present(Found(NETWORK, subnet(), attached=gateway(MARK_OF_OTHER)), REQUEST)
    assert changes(plan) == [("shared", "demo-peer-pods-nat")]
    assert plan.reason == "workers has the NAT gateway demo-peer-pods-nat of other."
    (step,) = plan.steps
    assert step.body["tags"] == {**MARK, **MARK_OF_OTHER, "osc.peerpods.subnets": "workers"}
    assert step.etag == 'W/"2"'


def test_the_gateway_that_another_cluster_removes_is_not_used():
    marked = gateway({**MARK_OF_OTHER, **OTHER.mark})
    with pytest.raises(NatGatewayError, match=r"of workers is being removed by other \(id-2\)\."):
        plan_present(Found(NETWORK, subnet(), attached=marked), REQUEST)
    # A cluster that has used it since before the mark is not affected: the other one only gives it up.
    both = gateway({**MARK, **MARK_OF_OTHER, **OTHER.mark}, SUBNET_ID)
    assert not plan_present(Found(NETWORK, subnet(), attached=both), REQUEST).steps
    assert changes(plan_absent([both], [], ATTACHED, OTHER)) == [("released", "demo-peer-pods-nat")]


def test_an_interrupted_removal_is_resumed_or_taken_back():
    marked = gateway({**MARK, **OWNER.mark}, SUBNET_ID)
    assert changes(plan_absent([marked], [], ATTACHED, OWNER))[0] == ("detached", "workers")
    for found, change in (
        (Found(NETWORK, subnet(), attached=marked), "shared"),
        (Found(NETWORK, subnet(), gateway=gateway({**MARK, **OWNER.mark}), address=address(MARK)), "recorded"),
    ):
        step, *dummy = plan_present(found, REQUEST).steps
        assert (step.change, step.body["tags"]["osc.peerpods.cluster.id-1"]) == (change, "demo")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"gateway": gateway({})}, f"{GATEWAY_ID} exists and does not have the tag osc.peerpods.cluster.id-1, so"),
        ({"gateway": gateway(MARK_OF_OTHER)}, f"{GATEWAY_ID} exists and does not have the tag"),
        ({"address": address({"osc.peerpods.cluster.id-1": "demo"})}, f"{ADDRESS_ID} exists and does not have the tag"),
        (
            {"gateway": gateway(MARK, f"{GROUP}/providers/Microsoft.Network/virtualNetworks/w/subnets/a")},
            "The NAT gateway demo-peer-pods-nat is attached to ",
        ),
    ],
)
def test_names_that_are_taken(found: dict, sentence: str):
    with pytest.raises(NatGatewayError) as error:
        plan_present(Found(NETWORK, subnet(), **found), REQUEST)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith("Set name to another name.") or "Set name to another name, or" in str(error.value)


ATTACHED = {SUBNET_ID.lower(): subnet(natGateway={"id": GATEWAY_ID})}


def test_a_teardown_detaches_and_removes():
    plan = plan_absent([gateway(MARK, SUBNET_ID)], [address(MARK)], ATTACHED, OWNER)
    assert changes(plan) == [
        ("marked", "demo-peer-pods-nat"),
        ("detached", "workers"),
        ("removed", "demo-peer-pods-nat"),
        ("removed", "demo-peer-pods-nat-ip"),
    ]
    marked, detached, *removed = plan.steps
    assert (marked.body["tags"]["osc.peerpods.cluster.id-1"], marked.etag) == ("leaving:demo", 'W/"2"')
    assert "natGateway" not in detached.body["properties"]
    assert detached.etag == 'W/"1"'
    assert [step.body for step in removed] == [None, None]
    assert [action for step in removed for action in step.actions()] == [
        ("Microsoft.Network/natGateways/delete", GATEWAY_ID),
        ("Microsoft.Network/publicIPAddresses/delete", ADDRESS_ID),
    ]


OF_USER = f"{NETWORK_ID}/subnets/of-user"


@pytest.mark.parametrize(
    ("gateways", "addresses", "planned", "kept"),
    [
        ([gateway({}, SUBNET_ID)], [address({})], [], {}),
        ([gateway(MARK_OF_OTHER, SUBNET_ID)], [address(MARK_OF_OTHER)], [], {}),
        (
            [gateway({**MARK, **MARK_OF_OTHER}, SUBNET_ID)],
            [address(MARK)],
            [("released", "demo-peer-pods-nat")],
            {GATEWAY_ID: "It is also used by other (id-2)."},
        ),
        (
            [gateway(MARK, SUBNET_ID, OF_USER)],
            [address(MARK)],
            [],
            {GATEWAY_ID: f"It is also attached to {OF_USER}, which this collection did not do."},
        ),
        # What an interrupted run leaves, and an address that another client uses.
        ([], [address(MARK)], [("removed", "demo-peer-pods-nat-ip")], {}),
        ([], [address(MARK, ipConfiguration={"id": "/nic"})], [], {ADDRESS_ID: "It is used by /nic."}),
        # A NAT gateway that this cluster has released before, and another one, with the address that it created.
        ([gateway(MARK_OF_OTHER, SUBNET_ID)], [address(MARK, natGateway={"id": GATEWAY_ID.upper()})], [], {}),
        (
            [gateway({}, SUBNET_ID)],
            [address(MARK, natGateway={"id": GATEWAY_ID})],
            [],
            {ADDRESS_ID: f"It is used by {GATEWAY_ID}."},
        ),
        # The address of a user stays with its tags.
        ([gateway(MARK)], [address({"team": "a"})], [("removed", "demo-peer-pods-nat")], {}),
    ],
)
def test_a_teardown_leaves_what_others_use(gateways, addresses, planned, kept):
    plan = plan_absent(gateways, addresses, ATTACHED, OWNER)
    assert changes(plan) == planned
    assert dict(plan.kept) == kept


@pytest.mark.parametrize(
    ("configurations", "user"),
    [
        (["networkInterfaces/demo-worker-0-nic/ipConfigurations/p"], ""),
        (["loadBalancers/Demo-internal/frontendIPConfigurations/f"], ""),
        (["networkInterfaces/demo2-worker-0-nic/ipConfigurations/p"], "demo2-worker-0-nic"),
        (
            ["networkInterfaces/demo-0/ipConfigurations/p", "networkInterfaces/podvm-a-net/ipConfigurations/p"],
            "podvm-a",
        ),
    ],
)
def test_a_teardown_leaves_the_way_out_of_others(configurations: list[str], user: str):
    """The pod VM of another cluster, which found the NAT gateway, is in the subnet, and so are our own workers."""
    ids = [{"id": f"{GROUP}/providers/Microsoft.Network/{each}"} for each in configurations]
    attached = {SUBNET_ID.lower(): subnet(natGateway={"id": GATEWAY_ID}, ipConfigurations=ids)}
    plan = plan_absent([gateway(MARK, SUBNET_ID)], [address(MARK)], attached, OWNER)
    assert bool(plan.steps) is not bool(user)
    assert user in dict(plan.kept).get(GATEWAY_ID, "")
    assert bool(plan.kept) is bool(user)


def test_the_last_cluster_removes_what_the_first_created():
    """The address has only the tag of the first cluster."""
    plan = plan_absent([gateway(MARK_OF_OTHER, SUBNET_ID)], [address(MARK)], ATTACHED, OTHER)
    assert changes(plan)[-1] == ("removed", "demo-peer-pods-nat-ip")


def test_what_a_step_leaves():
    """To find out after a lost response whether it was carried out."""
    new_address, new_gateway, attached = plan_present(Found(NETWORK, subnet()), REQUEST).steps
    assert not new_address.is_done(None)
    assert new_address.is_done(address(MARK))
    assert not new_gateway.is_done(gateway({}))
    assert new_gateway.is_done(gateway(MARK))
    assert not attached.is_done(subnet())
    assert attached.is_done(subnet(natGateway={"id": GATEWAY_ID.upper()}))
    marked, detached, removed, _address = plan_absent(
        [gateway(MARK, SUBNET_ID)], [address(MARK)], ATTACHED, OWNER
    ).steps
    assert marked.is_done(gateway({**MARK, **OWNER.mark}))
    assert not marked.is_done(gateway(MARK))
    assert detached.is_done(subnet())
    assert not detached.is_done(subnet(natGateway={"id": GATEWAY_ID}))
    assert removed.is_done(None)
    assert not removed.is_done(gateway(MARK))


def usage(name: str, used: int, limit: int) -> dict:
    return {"name": {"value": name}, "currentValue": used, "limit": limit}


@pytest.mark.parametrize(
    ("usages", "things"),
    [
        ([], None),
        ([usage("NatGateways", 19, 20), usage("PublicIPAddresses", 5, 20)], None),
        ([usage("NatGateways", 20, 20)], "NAT gateways"),
        ([usage("PublicIPAddresses", 20, 20)], "public IP addresses"),
        ([usage("IPv4StandardSkuPublicIpAddresses", 10, 10)], "public IP addresses"),
        ([usage("VirtualNetworks", 20, 20)], None),
    ],
)
def test_a_quota_that_is_reached(usages: list[dict], things: str | None):
    sentence = quota_reached(usages, "westeurope", plan_present(Found(NETWORK, subnet()), REQUEST))
    assert (things is None) is (sentence is None)
    if things:
        assert f" {things} that this subscription may have in westeurope exist." in sentence
    only_attach = plan_present(Found(NETWORK, subnet(), address=address(MARK), gateway=gateway(MARK)), REQUEST)
    assert quota_reached(usages, "westeurope", only_attach) is None


def test_an_id_that_is_not_that_of_a_subnet():
    assert network_of_subnet(SUBNET_ID) == NETWORK_ID
    for text in ("workers", NETWORK_ID, f"{SUBNET_ID}/x"):
        with pytest.raises(NatGatewayError, match="is not the ARM id of a subnet"):
            network_of_subnet(text)


@pytest.mark.parametrize(
    ("subnet_id", "default", "expected"),
    [
        (None, "s", ["s"]),
        (SUBNET_ID, None, ["s"]),
        (SUBNET_ID.upper(), "s", ["s"]),
        # The subnet of the VMs may belong to another subscription than the cluster.
        (SUBNET_ID, "of-the-cluster", ["s", "of-the-cluster"]),
        ("subnet-0a", "s", ["s"]),
    ],
)
def test_a_teardown_looks_in_each_subscription(subnet_id: str | None, default: str | None, expected: list[str]):
    assert subscriptions_of(subnet_id, default) == expected


def test_a_teardown_without_a_subscription():
    with pytest.raises(NatGatewayError, match="Set subscription_id"):
        subscriptions_of(None, None)
