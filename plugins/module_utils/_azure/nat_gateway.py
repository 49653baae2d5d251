# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans of NAT gateways: what a subnet lacks to reach the internet, and what a teardown removes (private).

Pure functions of resources in the format of ARM, which return plans. Sources: REST reference "Nat Gateways", "Public IP
Addresses", "Subnets"; "Troubleshoot Azure NAT Gateway" (a NAT gateway is of one virtual network, and cannot be deleted
while a subnet has it).

Tags of a NAT gateway mark it as created by this collection, and have the clusters that depend on it and the names of
the subnets that it was attached to. A subnet that another client attached keeps its NAT gateway.

The last cluster of a NAT gateway marks its tag before it detaches anything, with the etag that it read: a cluster that
begins to use it either comes first, and the NAT gateway stays, or sees the mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.osc.peerpods.plugins.module_utils._azure.egress import default_route, reference
from ansible_collections.osc.peerpods.plugins.module_utils._azure.tags import (
    LEAVING,
    MANAGED_TAG,
    REFERENCE_TAG,
    TAG_PREFIX,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

SUBNETS_TAG = f"{TAG_PREFIX}subnets"

# The usages of a subscription in a location that count resources of these types, in lower case, and their names.
_USAGES = {
    "natGateways": (("natgateways",), "NAT gateways"),
    "publicIPAddresses": (
        ("publicipaddresses", "standardskupublicipaddresses", "ipv4standardskupublicipaddresses"),
        "public IP addresses",
    ),
}

# What an address refers to if it is in use.
_ADDRESS_USERS = ("natGateway", "ipConfiguration")

_SUBNET_ID = re.compile(
    r"(/subscriptions/[^/]+/resourceGroups/[^/]+)/providers/Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+",
    re.IGNORECASE,
)

# The name of a network interface, or of a load balancer, in the id of its IP configuration.
_CONFIGURED = re.compile(r"/([^/]+)/(?:ipConfigurations|frontendIPConfigurations)/[^/]+$", re.IGNORECASE)

_SUBSCRIPTION = re.compile("/subscriptions/([^/]+)/", re.IGNORECASE)

# Properties that ARM returns and a write does not have.
_READ_ONLY = ("etag", "type")
_READ_ONLY_PROPERTIES = (
    "provisioningState",
    "resourceGuid",
    "subnets",
    "ipConfigurations",
    "ipConfigurationProfiles",
    "privateEndpoints",
    "resourceNavigationLinks",
    "serviceAssociationLinks",
    "purpose",
)

_WRITES = {
    "publicIPAddresses": "Microsoft.Network/publicIPAddresses/write",
    "natGateways": "Microsoft.Network/natGateways/write",
    "subnets": "Microsoft.Network/virtualNetworks/subnets/write",
}
_DELETES = {
    "publicIPAddresses": "Microsoft.Network/publicIPAddresses/delete",
    "natGateways": "Microsoft.Network/natGateways/delete",
}
# The action on a resource that a written resource refers to.
_JOINS = {
    "publicIPAddresses": "Microsoft.Network/publicIPAddresses/join/action",
    "natGateways": "Microsoft.Network/natGateways/join/action",
    "networkSecurityGroups": "Microsoft.Network/networkSecurityGroups/join/action",
    "routeTables": "Microsoft.Network/routeTables/join/action",
}


class NatGatewayError(Exception):
    """The reason why no plan can be made, as a sentence."""


@dataclass(frozen=True)
class Owner:
    """The cluster that a NAT gateway is for: its infrastructure name and its id."""

    name: str
    id: str

    @property
    def reference(self) -> dict[str, str]:
        return {f"{REFERENCE_TAG}{self.id}": self.name}

    @property
    def mark(self) -> dict[str, str]:
        """The reference of this cluster while it gives up the resource."""
        return {f"{REFERENCE_TAG}{self.id}": f"{LEAVING}{self.name}"}

    def is_owner_of(self, resource: Mapping) -> bool:
        return self.id in clusters_of(resource)


@dataclass(frozen=True)
class Request:
    """What is requested: the NAT gateway and its address by id, their zone or "", and further tags."""

    owner: Owner
    gateway_id: str
    address_id: str
    zone: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """What exists: the virtual network and its subnet, the NAT gateway and the route table of the subnet, and resources
    with the names of the requested ones."""

    network: Mapping
    subnet: Mapping
    attached: Mapping | None = None
    route_table: Mapping | None = None
    gateway: Mapping | None = None
    address: Mapping | None = None


@dataclass(frozen=True)
class Step:
    """One request: a PUT of `body`, or a DELETE without it. `description` is the result, `change` is what it does."""

    change: str
    resource_id: str
    description: str
    body: dict | None = None
    etag: str | None = None

    @property
    def kind(self) -> str:
        return self.resource_id.split("/")[-2]

    def actions(self) -> Iterator[tuple[str, str]]:
        """The actions that the request needs, each with its scope: an existing resource, or a resource group."""
        group = self.resource_id.partition("/providers/")[0]
        scope = self.resource_id if self.kind == "subnets" or self.body is None else group
        yield (_DELETES if self.body is None else _WRITES)[self.kind], scope
        properties = (self.body or {}).get("properties", {})
        references = [properties.get(key) for key in ("natGateway", "networkSecurityGroup", "routeTable")]
        for linked in filter(None, [*references, *properties.get("publicIpAddresses", ())]):
            kind = linked["id"].split("/")[-2]
            is_new = kind in ("natGateways", "publicIPAddresses")
            yield _JOINS[kind], linked["id"].partition("/providers/")[0] if is_new else linked["id"]

    def is_done(self, resource: Mapping | None) -> bool:
        """Whether the resource, as it was read later, is as this step leaves it."""
        if resource is None or self.body is None:
            return resource is self.body
        if self.kind == "subnets":
            return (reference(resource, "natGateway") or "").lower() == (
                (self.body["properties"].get("natGateway") or {}).get("id", "").lower()
            )
        return _own_tags(resource) == _own_tags(self.body)


@dataclass(frozen=True)
class Plan:
    """The steps in order, a sentence with their reason, and what a removal leaves, by id with the reason."""

    reason: str
    steps: tuple[Step, ...] = ()
    gateway_id: str | None = None
    # The public IP addresses of a NAT gateway of this collection.
    address_ids: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()


def network_of_subnet(subnet_id: str) -> str:
    """The id of the virtual network; NatGatewayError if the id is not that of a subnet."""
    if not _SUBNET_ID.fullmatch(subnet_id):
        raise NatGatewayError(
            f"{subnet_id!r} is not the ARM id of a subnet. Set /subscriptions/…/virtualNetworks/…/subnets/…, as `az "
            "network vnet subnet show --query id` prints it."
        )
    return subnet_id.rpartition("/subnets/")[0]


def subscriptions_of(subnet_id: str | None, default: str | None) -> list[str]:
    """Where a teardown looks for resources: they are in the subscription of the subnet, which may be another one than
    that of the cluster."""
    match = _SUBSCRIPTION.match(subnet_id or "")
    names = [name for name in (match and match[1], default) if name]
    if not names:
        raise NatGatewayError("No subscription is given in which to look for NAT gateways. Set subscription_id.")
    return list({name.lower(): name for name in names}.values())


def group_of(resource_id: str) -> str:
    """The id of the resource group."""
    return resource_id.partition("/providers/")[0]


def clusters_of(resource: Mapping) -> dict[str, str]:
    """The clusters that the tags of a resource of this collection have: names by id."""
    tags = resource.get("tags") or {}
    if tags.get(MANAGED_TAG) != "true":
        return {}
    return {
        key.removeprefix(REFERENCE_TAG): value.removeprefix(LEAVING)
        for key, value in tags.items()
        if key.startswith(REFERENCE_TAG)
    }


def is_decided(found: Found) -> bool:
    """Whether the subnet has a way to the internet that must not be replaced."""
    return bool(found.attached or default_route(found.route_table))


def plan_present(found: Found, request: Request) -> Plan:
    """Give the subnet a NAT gateway, unless it has one, or a route to elsewhere."""
    subnet, owner = found.subnet, request.owner
    name = subnet["name"]
    if found.attached:
        plan = _plan_attached(found.attached, name, owner)
        return replace(plan, steps=(*plan.steps, *_unused_steps(found, request)))
    if route := default_route(found.route_table):
        hop = " ".join(filter(None, [route["next_hop_type"], route["next_hop"]]))
        table = (found.route_table or {})["name"]
        reason = f"The route {route['name']} of the route table {table} sends the traffic of {name} to {hop}."
        return Plan(reason, tuple(_unused_steps(found, request)))
    for existing, option in ((found.gateway, request.gateway_id), (found.address, request.address_id)):
        if existing and not owner.is_owner_of(existing):
            raise NatGatewayError(
                f"{option} exists and does not have the tag {REFERENCE_TAG}{owner.id}, so this collection did not "
                "create it for this cluster. Set name to another name, or attach it to the subnet yourself."
            )
    steps = [*_address_steps(found, request), *_gateway_steps(found, request)]
    gateway_name = request.gateway_id.rpartition("/")[2]
    body = _writable(subnet)
    body["properties"]["natGateway"] = {"id": request.gateway_id}
    steps.append(Step("attached", subnet["id"], f"{name}: NAT gateway {gateway_name}", body, subnet.get("etag")))
    reason = f"{name} had no NAT gateway and no route to elsewhere."
    return Plan(reason, tuple(steps), request.gateway_id, (request.address_id,))


def plan_absent(
    gateways: Iterable[Mapping], addresses: Sequence[Mapping], subnets: Mapping[str, Mapping], owner: Owner
) -> Plan:
    """Remove the NAT gateways of the cluster with their addresses, and give up those that other clusters use.

    `subnets` has the subnets that the NAT gateways are attached to, by lower-case id.
    """
    steps: list[Step] = []
    kept: dict[str, str] = {}
    by_id = {address["id"].lower(): address for address in addresses}
    planned: set[str] = set()
    # The last of their clusters removes them with their addresses, also with those that this cluster has created.
    of_others: set[str] = set()
    for gateway in gateways:
        if not owner.is_owner_of(gateway):
            of_others |= {gateway["id"].lower()} if clusters_of(gateway) else set()
            continue
        own_addresses = [
            by_id[linked["id"].lower()]
            for linked in gateway["properties"].get("publicIpAddresses") or ()
            if clusters_of(by_id.get(linked["id"].lower(), {}))
        ]
        planned |= {address["id"].lower() for address in own_addresses}
        others = [f"{name} ({id_})" for id_, name in clusters_of(gateway).items() if id_ != owner.id]
        attached = [linked["id"] for linked in gateway["properties"].get("subnets") or ()]
        recorded = _recorded(gateway)
        foreign = [subnet_id for subnet_id in attached if subnet_id.rpartition("/")[2].lower() not in recorded]
        if others:
            kept[gateway["id"]] = f"It is also used by {join_names(others)}."
            tags = {key: value for key, value in gateway["tags"].items() if key not in owner.reference}
            steps.append(_put_gateway("released", gateway, tags))
            continue
        if foreign:
            kept[gateway["id"]] = f"It is also attached to {join_names(foreign)}, which this collection did not do."
            continue
        if users := _users_of(subnets, attached, owner):
            kept[gateway["id"]] = (
                f"{join_names(users)} in its subnets may need it, and {owner.name} did not name them. Remove them, or "
                "detach the NAT gateway, then run this again."
            )
            continue
        marked = {**gateway["tags"], **owner.mark}
        if attached and marked != gateway["tags"]:
            steps.append(_put_gateway("marked", gateway, marked))
        for subnet_id in attached:
            subnet = subnets.get(subnet_id.lower())
            if subnet is None:
                continue
            body = _writable(subnet)
            body["properties"].pop("natGateway", None)
            steps.append(Step("detached", subnet["id"], f"{subnet['name']}: no NAT gateway", body, subnet.get("etag")))
        # Marking and detaching it has changed its etag.
        steps.append(Step("removed", gateway["id"], f"NAT gateway {gateway['name']}"))
        steps += map(_delete_address, own_addresses)
    for address in addresses:
        if not owner.is_owner_of(address) or address["id"].lower() in planned:
            continue
        user = next(
            (linked["id"] for key in _ADDRESS_USERS if (linked := address["properties"].get(key) or {}).get("id")),
            None,
        )
        if user and user.lower() in of_others:
            continue
        if user:
            kept[address["id"]] = f"It is used by {user}."
        else:
            steps.append(_delete_address(address))
    found = "The NAT gateways and public IP addresses with the tag of the cluster."
    return Plan(found, tuple(steps), kept=tuple(kept.items()))


def quota_reached(usages: Iterable[Mapping], location: str, plan: Plan) -> str | None:
    """A sentence if the location has no room for what the plan creates."""
    by_name = {usage["name"]["value"].lower(): usage for usage in usages}
    for step in plan.steps:
        names, things = _USAGES[step.kind] if step.change == "created" else ((), "")
        for usage in filter(None, map(by_name.get, names)):
            if usage["currentValue"] >= usage["limit"]:
                return (
                    f"All {usage['limit']:g} {things} that this subscription may have in {location} exist. Delete one "
                    "that is not used, or request a higher quota."
                )
    return None


def _plan_attached(gateway: Mapping, subnet_name: str, owner: Owner) -> Plan:
    clusters = clusters_of(gateway)
    if not clusters:
        return Plan(
            f"{subnet_name} has the NAT gateway {gateway['name']}, which this collection did not create.",
            gateway_id=gateway["id"],
        )
    address_ids = tuple(linked["id"] for linked in gateway["properties"].get("publicIpAddresses") or ())
    tags = {**gateway["tags"], **owner.reference}
    if tags == gateway["tags"]:
        reason = f"{subnet_name} has the NAT gateway {gateway['name']}."
        return Plan(reason, gateway_id=gateway["id"], address_ids=address_ids)
    leaving = [f"{name} ({id_})" for id_, name in clusters.items() if id_ != owner.id and _is_leaving(gateway, id_)]
    if leaving:
        raise NatGatewayError(
            f"The NAT gateway {gateway['id']} of {subnet_name} is being removed by {join_names(leaving)}. Wait for the "
            "end of that teardown, or if it was interrupted, run it again, or if that cluster no longer exists, remove "
            f"the tag {REFERENCE_TAG}… from the NAT gateway. Then run this again."
        )
    step = _put_gateway("shared", gateway, tags)
    names = join_names(sorted(clusters.values()))
    reason = f"{subnet_name} has the NAT gateway {gateway['name']} of {names}."
    return Plan(reason, (step,), gateway["id"], address_ids)


def _unused_steps(found: Found, request: Request) -> Iterator[Step]:
    """Remove the NAT gateway of this cluster and its address if the subnet got another one, or a route to elsewhere,
    meanwhile, for example if two clusters have created one at the same time. Both cost money."""
    gateway, address = found.gateway, found.address
    if gateway and (list(clusters_of(gateway)) != [request.owner.id] or gateway["properties"].get("subnets")):
        return
    if gateway:
        yield Step("removed", gateway["id"], f"NAT gateway {gateway['name']}")
    if address and list(clusters_of(address)) == [request.owner.id]:
        users = [linked["id"] for key in _ADDRESS_USERS if (linked := address["properties"].get(key))]
        if not users or (gateway and [user.lower() for user in users] == [gateway["id"].lower()]):
            yield _delete_address(address)


def _address_steps(found: Found, request: Request) -> Iterator[Step]:
    if found.address:
        return
    name = request.address_id.rpartition("/")[2]
    body = {
        "location": found.network["location"],
        "sku": {"name": "Standard"},
        "tags": {**request.tags, MANAGED_TAG: "true", **request.owner.reference},
        **({"zones": [request.zone]} if request.zone else {}),
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
    }
    yield Step("created", request.address_id, f"public IP address {name}, {_zone(request.zone)}", body)


def _gateway_steps(found: Found, request: Request) -> Iterator[Step]:
    name, subnet_name = request.gateway_id.rpartition("/")[2], found.subnet["name"]
    if found.gateway:
        network_id = found.network["id"].lower()
        for linked in found.gateway["properties"].get("subnets") or ():
            if linked["id"].lower().rpartition("/subnets/")[0] != network_id:
                raise NatGatewayError(
                    f"The NAT gateway {name} is attached to {linked['id']}, and Azure attaches a NAT gateway to "
                    "subnets of one virtual network only. Set name to another name."
                )
        recorded = _recorded(found.gateway)
        tags = {**found.gateway["tags"], **request.owner.reference}
        if subnet_name.lower() not in recorded:
            tags[SUBNETS_TAG] = " ".join([*recorded, subnet_name])
        if tags != found.gateway["tags"]:
            yield _put_gateway("recorded", found.gateway, tags)
        return
    body = {
        "location": found.network["location"],
        "sku": {"name": "Standard"},
        "tags": {**request.tags, MANAGED_TAG: "true", **request.owner.reference, SUBNETS_TAG: subnet_name},
        **({"zones": [request.zone]} if request.zone else {}),
        "properties": {"idleTimeoutInMinutes": 4, "publicIpAddresses": [{"id": request.address_id}]},
    }
    yield Step("created", request.gateway_id, f"NAT gateway {name}, {_zone(request.zone)}", body)


def _put_gateway(change: str, gateway: Mapping, tags: Mapping[str, str]) -> Step:
    body = {**_writable(gateway), "tags": dict(tags)}
    listed = ", ".join(f"{key}={value}" for key, value in sorted(tags.items()) if key.startswith("osc.peerpods"))
    return Step(
        change, gateway["id"], f"NAT gateway {gateway['name']} with the tags {listed}", body, gateway.get("etag")
    )


def _users_of(subnets: Mapping[str, Mapping], attached: Iterable[str], owner: Owner) -> list[str]:
    """The resources of other owners in these subnets, such as the pod VMs of a cluster that set no such option.

    The installer names the machines and the load balancers of a cluster after it.
    """
    names = (
        match[1]
        for subnet_id in attached
        for configuration in subnets.get(subnet_id.lower(), {}).get("properties", {}).get("ipConfigurations") or ()
        if (match := _CONFIGURED.search(configuration["id"]))
    )
    return [name for name in dict.fromkeys(names) if not name.lower().startswith(f"{owner.name.lower()}-")]


def _delete_address(address: Mapping) -> Step:
    return Step("removed", address["id"], f"public IP address {address['name']}")


def _own_tags(resource: Mapping) -> dict[str, str]:
    """The tags of this collection: Azure Policy may add others, or change them."""
    return {key: value for key, value in (resource.get("tags") or {}).items() if key.startswith(TAG_PREFIX)}


def _is_leaving(gateway: Mapping, cluster_id: str) -> bool:
    return gateway["tags"][f"{REFERENCE_TAG}{cluster_id}"].startswith(LEAVING)


def _recorded(gateway: Mapping) -> list[str]:
    """The names of the subnets that this collection attached, in lower case. All are in one virtual network."""
    return ((gateway.get("tags") or {}).get(SUBNETS_TAG) or "").lower().split()


def _zone(zone: str) -> str:
    return f"zone {zone}" if zone else "no zone"


def _writable(resource: Mapping) -> dict:
    """A resource that was read, for its PUT, with unknown properties as they are."""
    body = {key: value for key, value in resource.items() if key not in _READ_ONLY}
    body["properties"] = {k: v for k, v in resource["properties"].items() if k not in _READ_ONLY_PROPERTIES}
    return body
