"""The resources that ARM has stored, and the rules of their changes, without HTTP.

Every resource, including subnets and security rules, is an entry of its own, by lower-case ID. `State.get` assembles
the response of ARM: a network with its subnets, a group with its rules and the resources that use it.
"""

from __future__ import annotations

import copy
import ipaddress
import re
import uuid
from collections.abc import Iterator

from . import egress, galleries, ids, machines, rules, storage
from .errors import ArmError, unparsable
from .ids import ResourceId
from .wire import Headers

# Read-only properties, which are dropped from requests.
_READ_ONLY = {
    ids.NSGS: {"defaultSecurityRules", "networkInterfaces", "subnets", "securityRules"},
    ids.VNETS: {"subnets"},
    ids.SUBNETS: {"ipConfigurations"},
    ids.NICS: {"virtualMachine", "macAddress"},
    ids.PUBLIC_IPS: {"natGateway", "ipConfiguration", "ipAddress"},
    ids.NAT_GATEWAYS: {"subnets"},
    ids.ROUTE_TABLES: {"subnets", "routes"},
}
_PARTS = {ids.NSGS: ids.RULES, ids.VNETS: ids.SUBNETS, ids.ROUTE_TABLES: ids.ROUTES}
_NAME = re.compile(r"\w(?:[\w.-]{0,78}\w)?", re.ASCII)
_OF_GALLERIES = (ids.GALLERIES, ids.GALLERY_IMAGES, ids.GALLERY_VERSIONS, ids.IMAGES)
_LOCATED = (
    ids.RESOURCE_GROUPS,
    ids.VNETS,
    ids.NICS,
    ids.ASGS,
    ids.NSGS,
    ids.PUBLIC_IPS,
    ids.NAT_GATEWAYS,
    ids.ROUTE_TABLES,
    ids.VMS,
    ids.STORAGE_ACCOUNTS,
    *_OF_GALLERIES,
)
# Resources that subnets refer to, and the property of a subnet that has the reference.
_REFERENCES = {
    ids.NSGS: "networkSecurityGroup",
    ids.NAT_GATEWAYS: "natGateway",
    ids.ROUTE_TABLES: "routeTable",
}
# The types that can be changed by PATCH with {"tags": {...}}.
TAGGED = _LOCATED

SUCCEEDED = "Succeeded"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class State:
    """Resources by lower-case ID, and the rules of their changes."""

    def __init__(self, subscription_id: str):
        # Those that the identity can see, in lower case.
        self.subscriptions = {subscription_id}
        self.stored: dict[str, dict] = {}
        # The limits of the usages of Microsoft.Network, by name, for every location.
        self.limits = dict(egress.DEFAULT_LIMITS)

    # -- Reading -------------------------------------------------------------------------------

    def exists(self, resource_id: str) -> bool:
        return resource_id.lower() in self.stored

    def get(self, resource: ResourceId) -> dict:
        """The resource as ARM returns it; ArmError 404 if it does not exist."""
        self._require_scope(resource)
        if resource.type == ids.DEFAULT_RULES:
            for rule in self._default_rules(self._parent(resource)):
                if rule["name"].lower() == str(resource.name).lower():
                    return rule
        if resource.key not in self.stored:
            raise self._not_found(resource)
        return self._answered(self.stored[resource.key])

    def usages(self, network: ResourceId) -> list[dict]:
        """https://learn.microsoft.com/rest/api/virtualnetwork/virtual-networks/list-usage

        Azure reserves five addresses of each subnet, and does not count those of a gateway.
        """
        usages = []
        for subnet in self.get(network)["properties"]["subnets"]:
            prefixes = map(ipaddress.ip_network, prefixes_of(subnet["properties"]))
            used = len(self._ip_configurations(subnet["id"]))
            limit = sum(prefix.num_addresses - 5 for prefix in prefixes if prefix.version == 4)
            if subnet["name"] == "GatewaySubnet":
                used = limit = -1
            usages.append(
                {
                    "currentValue": float(used),
                    "id": subnet["id"],
                    "limit": float(limit),
                    "name": {"localizedValue": "Subnet size and usage", "value": "SubnetSpace"},
                    "unit": "Count",
                }
            )
        return usages

    def list_resources(self, collection: ResourceId) -> list[dict]:
        """All resources of a type in a network or group, a resource group, or the subscription."""
        self._require_scope(collection)
        if collection.type == ids.DEFAULT_RULES:
            return self._default_rules(self._parent(collection))
        if collection.is_nested:
            self._parent(collection)
        scope = collection.scope.lower() + "/"
        return [
            self._answered(body)
            for key, body in self.stored.items()
            if key.startswith(scope) and body["type"] == collection.type
        ]

    # -- Writing -------------------------------------------------------------------------------

    def put(self, resource: ResourceId, body: dict, *, state: str = SUCCEEDED, conditions: Headers) -> bool:
        """Create or replace the resource; True if it was created.

        `conditions` may have If-Match and If-None-Match. `state` is the new provisioningState of the resource and of
        the resource that contains it.
        """
        self._require_scope(resource)
        self._require_unlocked(resource, "write")
        if resource.type == ids.DEFAULT_RULES:
            raise ArmError(405, "MethodNotAllowed", "Default security rules cannot be written.")
        _require_name(resource.name)
        before = self.stored.get(resource.key)
        root = self.stored.get(resource.root.lower())
        self._require_conditions(resource, before, root, conditions)
        if resource.is_nested and not self.exists(resource.scope):
            raise _parent_not_found(resource, "write")
        properties = body.get("properties") or {}
        if not isinstance(properties, dict):
            raise unparsable("Error converting value to type 'Properties'. Path 'properties'.")
        new = {
            "id": before["id"] if before else self._written_id(resource),
            "name": before["name"] if before else resource.name,
            "type": resource.type,
        }
        if resource.type in _LOCATED:
            new["location"] = self._location(resource, before, body)
            new |= {key: body[key] for key in ("tags", "zones", "identity", "sku", "kind") if body.get(key)}
            if before is None:
                egress.require_room(self.stored.values(), resource.type, str(new["location"]), self.limits)
        new["properties"] = {
            key: value
            for key, value in properties.items()
            if value is not None and key not in _READ_ONLY.get(resource.type, ())
        }
        # Nothing is stored before everything, including the children, is validated.
        children = self._completed(resource, new, before, properties)
        self.stored[resource.key] = new
        for key, child in children.items():
            if child is None:
                del self.stored[key]
            else:
                self.stored[key] = child
        self._touch(resource, state)
        return before is None

    def patch_tags(self, resource: ResourceId, body: dict) -> dict:
        self._require_scope(resource)
        self._require_unlocked(resource, "write")
        if resource.key not in self.stored:
            raise self._not_found(resource)
        self.stored[resource.key]["tags"] = body.get("tags") or {}
        self._touch(resource, SUCCEEDED)
        return self.get(resource)

    def require_deletable(self, resource: ResourceId, conditions: Headers) -> bool:
        """Whether the resource exists; ArmError if it must not be deleted."""
        self._require_scope(resource)
        self._require_unlocked(resource, "delete")
        root = self.stored.get(resource.root.lower())
        if resource.is_nested and not self.exists(resource.scope):
            raise _parent_not_found(resource, "delete")
        if resource.key not in self.stored:
            if resource.type == ids.RESOURCE_GROUPS:
                raise self._not_found(resource)
            return False
        self._require_conditions(resource, self.stored[resource.key], root, conditions)
        self._require_unused(resource.key)
        return True

    def delete(self, resource: ResourceId) -> None:
        """Delete the resource with its children. This changes the parent."""
        deleted_too = machines.deleted_with(self.stored[resource.key]) if resource.type == ids.VMS else []
        for key in [key for key in self.stored if f"{key}/".startswith(resource.key + "/")]:
            del self.stored[key]
        self._touch(resource, SUCCEEDED)
        for other in deleted_too:
            self.delete(ids.known(other))

    def mark(self, resource: ResourceId, state: str) -> None:
        """Set the provisioningState of the resource, its children, and its parent.

        The parent is "Updating" while one of its children is being deleted.
        """
        if resource.type == ids.LOCKS:
            return
        kind = _PARTS.get(resource.type)
        parts = self._children(resource.key, kind).values() if kind else ()
        for body in [self.stored.get(resource.key), *parts]:
            if body:
                body["properties"]["provisioningState"] = state
        if resource.root != resource.text:
            root = self.stored[resource.root.lower()]
            root["properties"]["provisioningState"] = "Updating" if state == "Deleting" else state

    # -- Completing the body of a write ----------------------------------------------------------

    def _completed(
        self, resource: ResourceId, new: dict, before: dict | None, properties_given: dict
    ) -> dict[str, dict | None]:
        """Complete `new` in place; returns the children by key, None for a child that is removed."""
        old = before["properties"] if before else {}
        properties = new["properties"]
        if resource.type in (ids.NSGS, ids.VNETS, ids.NICS, ids.ASGS):
            properties["resourceGuid"] = old.get("resourceGuid", str(uuid.uuid4()))
        match resource.type:
            case ids.RULES:
                new["properties"] = rules.stored_rule(new["id"], properties_given, self.exists)
                other_rules = self._named(self._children(resource.scope, ids.RULES), except_key=resource.key)
                rules.require_no_conflict([*other_rules, (new["name"], new["properties"])])
            case ids.NSGS:
                return self._children_given(new, ids.RULES, properties_given.get("securityRules") or [])
            case ids.VNETS:
                self._complete_network(new)
                # Without `subnets` a network keeps its subnets; with [] they are removed.
                if properties_given.get("subnets") is not None:
                    return self._children_given(new, ids.SUBNETS, properties_given["subnets"])
            case ids.SUBNETS:
                network = self.stored[resource.scope.lower()]
                siblings = self._children(resource.scope, ids.SUBNETS)
                self._complete_subnet(new, network, self._named(siblings, except_key=resource.key))
            case ids.NICS:
                self._complete_nic(new, old)
            case ids.PUBLIC_IPS:
                egress.complete_public_ip(new, before, len(self._of_type(ids.PUBLIC_IPS)))
            case ids.NAT_GATEWAYS:
                for address in properties.get("publicIpAddresses") or ():
                    self._require_reference(new["id"], address)
                others = [gateway for gateway in self._of_type(ids.NAT_GATEWAYS) if gateway is not before]
                egress.complete_nat_gateway(new, before, others)
            case ids.ROUTE_TABLES:
                properties.setdefault("disableBgpRoutePropagation", False)
                return self._children_given(new, ids.ROUTES, properties_given.get("routes") or [])
            case ids.ROUTES:
                new["properties"] = egress.stored_route(new["name"], properties)
            case ids.VMS:
                if before is None:
                    galleries.require_image(properties.get("storageProfile") or {}, new["location"], self.stored)
                properties["vmId"] = old.get("vmId", str(uuid.uuid4()))
                for nic_id, nic in machines.interfaces_of(new):
                    self.put(ids.known(nic_id), nic, conditions={})
                for nic in (properties.get("networkProfile") or {}).get("networkInterfaces", ()):
                    self._require_reference(new["id"], nic)
            case kind if kind in _OF_GALLERIES:
                galleries.complete(kind, new["name"], properties, old, new["location"])
            case ids.STORAGE_ACCOUNTS:
                storage.complete(new)
            case ids.LOCKS:
                if properties.get("level") not in ("CanNotDelete", "ReadOnly"):
                    raise ArmError(400, "InvalidLockLevel", "The lock level is invalid.")
        return {}

    def _children_given(self, new: dict, kind: str, bodies: list[dict]) -> dict[str, dict | None]:
        """The children in the body of a parent, which replace the existing children."""
        segment = kind.rpartition("/")[2]
        children: dict[str, dict] = {}
        for child in bodies:
            _require_name(child.get("name"))
            child_id = f"{new['id']}/{segment}/{child['name']}"
            known = self.stored.get(child_id.lower())
            properties = {
                key: value
                for key, value in (child.get("properties") or {}).items()
                if value is not None and key not in _READ_ONLY.get(kind, ())
            }
            body = {
                "id": known["id"] if known else child_id,
                "name": known["name"] if known else child["name"],
                "type": kind,
                "properties": properties,
            }
            if kind == ids.RULES:
                body["properties"] = rules.stored_rule(body["id"], properties, self.exists)
            elif kind == ids.ROUTES:
                body["properties"] = egress.stored_route(body["name"], properties)
            else:
                self._complete_subnet(body, new, self._named(children))
            if child_id.lower() in children:
                raise ArmError(
                    400,
                    "InvalidRequestFormat",
                    "Cannot parse the request.",
                    [
                        {
                            "code": "DuplicateResourceName",
                            "message": f"Resource {new['id']} has two child resources with the same "
                            f"name ({child['name']}).",
                        }
                    ],
                )
            children[child_id.lower()] = body
        if kind == ids.RULES:
            rules.require_no_conflict(self._named(children))
        removed = set(self._children(new["id"], kind)) - set(children)
        for key in removed:
            self._require_unused(key)
        return {**children, **dict.fromkeys(removed)}

    def _complete_network(self, new: dict) -> None:
        space = (new["properties"].get("addressSpace") or {}).get("addressPrefixes")
        if not space:
            raise unparsable("Required property 'addressSpace' not found. Path 'properties'.")
        for prefix in space:
            _network(prefix, new["id"])
        new["properties"].setdefault("virtualNetworkPeerings", [])
        new["properties"].setdefault("enableDdosProtection", False)

    def _complete_subnet(self, new: dict, network: dict, siblings: Iterator[tuple[str, dict]]) -> None:
        properties = new["properties"]
        networks = [_network(prefix, new["id"]) for prefix in prefixes_of(properties)]
        space = [_network(prefix, network["id"]) for prefix in network["properties"]["addressSpace"]["addressPrefixes"]]
        if not networks or not all(any(_is_within(prefix, outer) for outer in space) for prefix in networks):
            raise ArmError(
                400,
                "NetcfgInvalidSubnet",
                f"Subnet '{new['name']}' is not valid in virtual network '{network['name']}'.",
            )
        for name, sibling in siblings:
            sibling_networks = [_network(prefix, name) for prefix in prefixes_of(sibling)]
            if any(a.version == b.version and a.overlaps(b) for a in networks for b in sibling_networks):
                raise ArmError(
                    400,
                    "NetcfgSubnetRangesOverlap",
                    f"Subnet '{new['name']}' is not valid because its IP address range overlaps "
                    f"with that of an existing subnet in virtual network '{network['name']}'.",
                )
        for reference in _REFERENCES.values():
            self._require_reference(new["id"], properties.get(reference))
        if gateway := properties.get("natGateway"):
            self._require_one_network(gateway["id"], network["id"])
        properties.setdefault("delegations", [])
        properties.setdefault("privateEndpointNetworkPolicies", "Disabled")
        properties.setdefault("privateLinkServiceNetworkPolicies", "Enabled")

    def _complete_nic(self, new: dict, old: dict) -> None:
        properties = new["properties"]
        self._require_reference(new["id"], properties.get("networkSecurityGroup"))
        addresses = {
            configuration["name"]: configuration["properties"].get("privateIPAddress")
            for configuration in old.get("ipConfigurations", ())
        }
        if not properties.get("ipConfigurations"):
            raise unparsable("Required property 'ipConfigurations' not found. Path 'properties'.")
        completed: list[dict] = []
        for index, configuration in enumerate(properties["ipConfigurations"]):
            inner = {k: v for k, v in configuration["properties"].items() if v is not None}
            if "subnet" not in inner:
                raise unparsable("Required property 'subnet' not found. Path 'ipConfigurations'.")
            self._require_reference(new["id"], inner["subnet"])
            for group in inner.get("applicationSecurityGroups", ()):
                self._require_reference(new["id"], group)
            inner["provisioningState"] = SUCCEEDED
            inner.setdefault("privateIPAllocationMethod", "Dynamic")
            inner.setdefault("primary", index == 0)
            inner.setdefault("privateIPAddressVersion", "IPv4")
            if not inner.get("privateIPAddress"):
                inner["privateIPAddress"] = addresses.get(configuration["name"]) or self._free_address(
                    inner["subnet"]["id"], inner["privateIPAddressVersion"], completed
                )
            completed.append(
                {
                    "name": configuration["name"],
                    "id": f"{new['id']}/ipConfigurations/{configuration['name']}",
                    "type": f"{ids.NICS}/ipConfigurations",
                    "properties": inner,
                }
            )
        properties["ipConfigurations"] = completed
        properties["macAddress"] = old.get("macAddress") or "00-0D-3A-{:02X}-{:02X}-{:02X}".format(
            *uuid.uuid4().bytes[:3]
        )
        properties.setdefault("enableAcceleratedNetworking", False)
        properties.setdefault("enableIPForwarding", False)
        properties.setdefault("dnsSettings", {"dnsServers": [], "appliedDnsServers": []})

    def _free_address(self, subnet_id: str, version: str, completed: list[dict]) -> str:
        """The first free address; Azure reserves the first four and the last."""
        taken = {
            configuration["properties"].get("privateIPAddress")
            for configuration in [*self._ip_configurations(subnet_id), *completed]
        }
        for prefix in prefixes_of(self.stored[subnet_id.lower()]["properties"]):
            network = ipaddress.ip_network(prefix)
            if f"IPv{network.version}" == version:
                for number in range(4, network.num_addresses - 1):
                    if str(network[number]) not in taken:
                        return str(network[number])
        raise ArmError(
            400,
            "SubnetIsFull",
            f"Subnet {subnet_id} does not have enough capacity for 1 IP addresses.",
        )

    # -- Assembling a response ---------------------------------------------------

    def _answered(self, stored: dict) -> dict:
        body = copy.deepcopy(stored)
        properties = body["properties"]
        match body["type"]:
            case ids.NSGS:
                properties["securityRules"] = self._answers(body["id"], ids.RULES)
                properties["defaultSecurityRules"] = self._default_rules(stored)
                for key, kind in (("networkInterfaces", ids.NICS), ("subnets", ids.SUBNETS)):
                    users = [{"id": user["id"]} for user in self._users(body, kind)]
                    if users:
                        properties[key] = users
            case ids.NAT_GATEWAYS | ids.ROUTE_TABLES:
                if body["type"] == ids.ROUTE_TABLES:
                    properties["routes"] = self._answers(body["id"], ids.ROUTES)
                users = [{"id": user["id"]} for user in self._users(body, ids.SUBNETS)]
                if users:
                    properties["subnets"] = users
            case ids.PUBLIC_IPS:
                for gateway in self._gateways_with(body["id"]):
                    properties["natGateway"] = {"id": gateway["id"]}
            case ids.VNETS:
                properties["subnets"] = self._answers(body["id"], ids.SUBNETS)
            case ids.SUBNETS:
                used_by = [{"id": configuration["id"]} for configuration in self._ip_configurations(body["id"])]
                if used_by:
                    properties["ipConfigurations"] = used_by
            case ids.NICS:
                for machine in self._machines(body["id"]):
                    properties["virtualMachine"] = {"id": machine["id"]}
        resource = ids.known(body["id"])
        root = self.stored.get(resource.root.lower(), stored)
        if etag := root.get("etag"):
            body["etag"] = etag
            for configuration in properties.get("ipConfigurations", ()) if body["type"] == ids.NICS else ():
                configuration["etag"] = etag
        return body

    def _answers(self, parent_id: str, kind: str) -> list[dict]:
        return [self._answered(body) for body in self._children(parent_id, kind).values()]

    def _default_rules(self, group: dict) -> list[dict]:
        return [
            {
                "name": rule["name"],
                "id": f"{group['id']}/defaultSecurityRules/{rule['name']}",
                "etag": group["etag"],
                "type": ids.DEFAULT_RULES,
                "properties": dict(rule["properties"]),
            }
            for rule in rules.DEFAULT_RULES
        ]

    # -- Relations -------------------------------------------------------------------

    def _children(self, parent_id: str, kind: str) -> dict[str, dict]:
        start = f"{parent_id}/{kind.rpartition('/')[2]}/".lower()
        return {key: body for key, body in self.stored.items() if key.startswith(start)}

    def _named(self, bodies: dict[str, dict], except_key: str = "") -> Iterator[tuple[str, dict]]:
        return ((b["name"], b["properties"]) for key, b in list(bodies.items()) if key != except_key)

    def _of_type(self, kind: str) -> list[dict]:
        return [body for body in self.stored.values() if body["type"] == kind]

    def _users(self, used: dict, kind: str) -> list[dict]:
        """The subnets or network interfaces that use a security group, a NAT gateway or a route table."""
        reference = _REFERENCES[used["type"]]
        return [
            body
            for body in self._of_type(kind)
            if (body["properties"].get(reference) or {}).get("id", "").lower() == used["id"].lower()
        ]

    def _gateways_with(self, address_id: str) -> list[dict]:
        """The NAT gateways with a public IP address."""
        return [
            gateway
            for gateway in self._of_type(ids.NAT_GATEWAYS)
            for address in gateway["properties"]["publicIpAddresses"]
            if address["id"].lower() == address_id.lower()
        ]

    def _ip_configurations(self, subnet_id: str) -> list[dict]:
        return [
            configuration
            for nic in self._of_type(ids.NICS)
            for configuration in nic["properties"]["ipConfigurations"]
            if configuration["properties"]["subnet"]["id"].lower() == subnet_id.lower()
        ]

    def _machines(self, nic_id: str) -> list[dict]:
        return [
            machine
            for machine in self._of_type(ids.VMS)
            for nic in (machine["properties"].get("networkProfile") or {}).get("networkInterfaces", ())
            if nic["id"].lower() == nic_id.lower()
        ]

    # -- Validation --------------------------------------------------------------------------

    def _require_scope(self, resource: ResourceId) -> None:
        if resource.subscription.lower() not in self.subscriptions:
            raise ArmError(
                404,
                "SubscriptionNotFound",
                f"The subscription '{resource.subscription}' could not be found.",
            )
        group = resource.group
        if group and resource.type != ids.RESOURCE_GROUPS:
            key = f"/subscriptions/{resource.subscription}/resourcegroups/{group}".lower()
            if key not in self.stored:
                raise _group_not_found(group)

    def _parent(self, resource: ResourceId) -> dict:
        if parent := self.stored.get(resource.scope.lower()):
            return parent
        raise self._not_found(ids.known(resource.scope))

    def _not_found(self, resource: ResourceId) -> ArmError:
        if resource.type == ids.RESOURCE_GROUPS:
            return _group_not_found(resource.name)
        if resource.root != resource.text and self.exists(resource.scope):
            return ArmError(404, "NotFound", f"Resource {resource.text} not found.")
        top = resource if resource.root == resource.text else ids.known(resource.root)
        path = top.text.partition("/providers/")[2] if top.is_nested else f"{top.type}/{top.name}"
        return ArmError(
            404,
            "ResourceNotFound",
            f"The Resource '{path}' under resource group '{top.group}' was not "
            "found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
        )

    def _require_unlocked(self, resource: ResourceId, action: str) -> None:
        """ReadOnly forbids writes and deletions in the scope, CanNotDelete only deletions."""
        if resource.type == ids.LOCKS:
            return
        locked = []
        for lock in self._of_type(ids.LOCKS):
            scope = ids.known(lock["id"]).scope.lower()
            below = f"{resource.key}/".startswith(scope + "/")
            above = action == "delete" and f"{scope}/".startswith(resource.key + "/")
            if (below or above) and (action == "delete" or lock["properties"]["level"] == "ReadOnly"):
                locked.append(ids.known(lock["id"]).scope)
        if locked:
            raise scope_locked(resource.text, action, locked)

    def _require_conditions(
        self, resource: ResourceId, before: dict | None, root: dict | None, conditions: Headers
    ) -> None:
        """As "ETags for Resources" in v1.0/Addendum.md of Azure/azure-resource-manager-rpc has them."""
        if_match = conditions.get("If-Match")
        etag = (root or {}).get("etag")
        if if_match and if_match != etag and not (if_match == "*" and before):
            raise precondition_failed(if_match, etag, resource.text)
        if conditions.get("If-None-Match") == "*" and before:
            raise ArmError(412, "PreconditionFailed", f"Precondition failed: {resource.text} exists already.")

    def _require_reference(self, resource_id: str, reference: dict | None) -> None:
        if reference is not None and not self.exists(reference["id"]):
            raise ArmError(
                400,
                "InvalidResourceReference",
                f"Resource {reference['id']} referenced by resource {resource_id} was not found. "
                "Please make sure that the referenced resource exists, and that both resources "
                "are in the same region.",
            )

    def _require_one_network(self, gateway_id: str, network_id: str) -> None:
        """ "NAT gateway can't span beyond a single virtual network." microsoft/azure_arc#3288 has the error."""
        for subnet in self._users(self.stored[gateway_id.lower()], ids.SUBNETS):
            if not subnet["id"].lower().startswith(f"{network_id.lower()}/"):
                raise ArmError(
                    400,
                    "NatGatewayCannotBeUsedBySubnetsBelongingToDifferentVirtualNetworks",
                    f"NAT Gateway cannot be configured on multiple virtual networks. NAT Gateway {gateway_id} is "
                    f"currently used on virtual network {subnet['id'].partition('/subnets/')[0]} and cannot be added "
                    f"to virtual network {network_id}.",
                )

    def _require_unused(self, key: str) -> None:
        body = self.stored[key]
        name = body["name"]
        match body["type"]:
            case ids.NSGS:
                users = [*self._users(body, ids.NICS), *self._users(body, ids.SUBNETS)]
                code = "InUseNetworkSecurityGroupCannotBeDeleted"
                description, hint = "Network security group", "aka.ms/deletensg"
            case ids.SUBNETS:
                users = self._ip_configurations(key)
                code, description, hint = "InUseSubnetCannotBeDeleted", "Subnet", "aka.ms/deletesubnet"
            case ids.VNETS:
                users = [
                    configuration
                    for subnet in self._children(key, ids.SUBNETS)
                    for configuration in self._ip_configurations(subnet)
                ]
                code, description, hint = "InUseSubnetCannotBeDeleted", "Subnet", "aka.ms/deletesubnet"
            case ids.NICS:
                users = self._machines(key)
                code, description, hint = "NicInUse", "Network Interface", "aka.ms/deletenic"
            case ids.ROUTE_TABLES:
                users = self._users(body, ids.SUBNETS)
                code, description, hint = "InUseRouteTableCannotBeDeleted", "Route table", "aka.ms/deleteroutetable"
            case ids.NAT_GATEWAYS:
                if users := self._users(body, ids.SUBNETS):
                    # As hashicorp/terraform-provider-azurerm and Azure-Samples quote it.
                    raise ArmError(
                        400,
                        "CannotDeleteNatGatewayAssociatedToSubnet",
                        f"NAT Gateway {body['id']} is still configured on {len(users)} subnets. Remove NAT Gateway "
                        "from all referenced subnets and then delete NAT Gateway.",
                    )
                return
            case ids.PUBLIC_IPS:
                for gateway in self._gateways_with(key):
                    raise ArmError(
                        400,
                        "PublicIPAddressCannotBeDeleted",
                        f"Public IP address {body['id']} can not be deleted since it is still allocated to resource "
                        f"{gateway['id']}. In order to delete the public IP, disassociate/detach the Public IP address "
                        "from the resource.",
                    )
                return
            case ids.GALLERIES | ids.GALLERY_IMAGES:
                return galleries.require_empty([b["id"] for k, b in self.stored.items() if k.startswith(f"{key}/")])
            case _:
                return
        if users:
            raise ArmError(
                400,
                code,
                f"{description} {name} cannot be deleted because it is in use by the following "
                f"resources: {', '.join(user['id'] for user in users)}. Remove the association "
                f"first. To learn how to do this, see {hint}.",
            )

    def _location(self, resource: ResourceId, before: dict | None, body: dict) -> str:
        location = str(body.get("location") or "").replace(" ", "").lower()
        if not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        if before and before["location"] != location:
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource.name}' already exists in location "
                f"'{before['location']}' in resource group '{resource.group}'. A resource with the "
                f"same name cannot be created in location '{location}'. Please select a new "
                "resource name.",
            )
        return location

    def _written_id(self, resource: ResourceId) -> str:
        """The ID, with existing parents in their stored spelling and the new name as given."""
        if resource.type in (ids.RESOURCE_GROUPS, ids.LOCKS):
            return resource.text
        if resource.is_nested:
            parent = self.stored[resource.scope.lower()]["id"]
            return f"{parent}/{resource.type.rpartition('/')[2]}/{resource.name}"
        scope = self.stored[resource.scope.lower()]["id"]
        return f"{scope}/providers/{resource.type}/{resource.name}"

    def _touch(self, resource: ResourceId, state: str) -> None:
        root = self.stored.get(resource.root.lower())
        if root and root["type"].startswith("Microsoft.Network/"):
            root["etag"] = f'W/"{uuid.uuid4()}"'
        self.mark(resource, state)


def _require_name(name: str | None) -> None:
    if not _NAME.fullmatch(name or ""):
        raise ArmError(
            400,
            "InvalidResourceName",
            f"Resource name {name} is invalid. The name can be up to 80 characters long. It must "
            "begin with a word character, and it must end with a word character or with '_'. The "
            "name may contain word characters or '.', '-', '_'.",
        )


def prefixes_of(properties: dict) -> list[str]:
    """The address prefixes of a subnet, from either of its two properties."""
    return properties.get("addressPrefixes") or [prefix for prefix in [properties.get("addressPrefix")] if prefix]


def precondition_failed(if_match: str, actual: str | None, resource_id: str) -> ArmError:
    return ArmError(
        412,
        "PreconditionFailed",
        "Precondition failed.",
        [
            {
                "code": "PreconditionFailedEtagMismatch",
                "message": f"Etag provided in if-match header {if_match} does not match etag {actual} of "
                f"resource {resource_id} in NRP data store.",
            }
        ],
    )


def scope_locked(scope: str, action: str, locked: list[str]) -> ArmError:
    scopes = ",".join(f"'{locked_scope}'" for locked_scope in locked)
    return ArmError(
        409,
        "ScopeLocked",
        f"The scope '{scope}' cannot perform {action} operation because following scope(s) are "
        f"locked: {scopes}. Please remove the lock and try again.",
    )


def _group_not_found(name: str | None) -> ArmError:
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")


def _parent_not_found(resource: ResourceId, action: str) -> ArmError:
    return ArmError(
        404,
        "ParentResourceNotFound",
        f"Failed to perform '{action}' on resource(s) of type "
        f"'{resource.type.partition('/')[2]}', because the parent resource '{resource.scope}' "
        "could not be found.",
    )


def _network(prefix: str, resource_id: str) -> Network:
    try:
        return ipaddress.ip_network(prefix)
    except ValueError:
        raise ArmError(
            400,
            "InvalidCIDRNotation",
            f"The address prefix {prefix} in resource {resource_id} has an invalid CIDR notation.",
        ) from None


def _is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
