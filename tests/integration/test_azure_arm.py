"""The emulated ARM behaves as clients of the real ARM expect.

The clients are the unmodified azure-mgmt-network, azure-mgmt-compute and azure-identity, and `az` with the documented
commands. Some requests have the bodies of the official REST examples.
"""

from __future__ import annotations

import copy
import http.client
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.identity import (
    ClientAssertionCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
)
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from tests.azure_arm import AzureArm, faults, roles
from tests.azure_arm.az import AZURE_CLI, Az
from tests.azure_arm.errors import ArmError
from tests.azure_arm.faults import Fault
from tests.cluster.azure import WORKER_SUBNET_CIDR, create_cloud_side
from tests.environments import own_environment

VERSION = "2024-05-01"
EXAMPLE_RULE = {
    "protocol": "*",
    "sourceAddressPrefix": "10.0.0.0/8",
    "destinationAddressPrefix": "11.0.0.0/8",
    "access": "Deny",
    "destinationPortRange": "8080",
    "sourcePortRange": "*",
    "priority": 100,
    "direction": "Outbound",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[AzureArm]:
    with AzureArm(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture
def arm(server: AzureArm) -> Iterator[AzureArm]:
    """A resource group, a security group and a subnet, without resources of other tests."""
    server.restore({})
    server.faults.clear()
    server.put(server_id(server), {"location": "westeurope"})
    server.put(nsg_id(server), {"location": "westeurope"})
    server.put(vnet_id(server), vnet("10.0.0.0/16", {"default": "10.0.0.0/24"}))
    changed = ("polls", "page_size", "token_lifetime", "permissions", "limits", "consoles")
    settings = {name: copy.copy(getattr(server, name)) for name in changed}
    limits = dict(server.state.limits)
    server.take_requests()
    yield server
    for name, value in settings.items():
        setattr(server, name, value)
    server.state.limits.update(limits)


def server_id(arm: AzureArm) -> str:
    return f"/subscriptions/{arm.subscription_id}/resourceGroups/rg1"


def network_id(arm: AzureArm, *parts: str) -> str:
    return "/".join([server_id(arm), "providers/Microsoft.Network", *parts])


def nsg_id(arm: AzureArm) -> str:
    return network_id(arm, "networkSecurityGroups/nsg1")


def rule_id(arm: AzureArm, name: str) -> str:
    return f"{nsg_id(arm)}/securityRules/{name}"


def vnet_id(arm: AzureArm) -> str:
    return network_id(arm, "virtualNetworks/vnet1")


def vnet(space: str, subnets: dict[str, str]) -> dict:
    return {
        "location": "westeurope",
        "properties": {
            "addressSpace": {"addressPrefixes": [space]},
            "subnets": [{"name": name, "properties": {"addressPrefix": prefix}} for name, prefix in subnets.items()],
        },
    }


def rule(**changes: object) -> dict:
    return {"properties": {**EXAMPLE_RULE, **changes}}


def nic(arm: AzureArm, **properties: object) -> dict:
    return {
        "location": "westeurope",
        "properties": {
            "ipConfigurations": [
                {
                    "name": "ipconfig1",
                    "properties": {"subnet": {"id": f"{vnet_id(arm)}/subnets/default"}},
                }
            ],
            **properties,
        },
    }


def secret(arm: AzureArm, **changes: str) -> ClientSecretCredential:
    options = {
        "tenant_id": arm.tenant_id,
        "client_id": arm.client_id,
        "client_secret": arm.client_secret,
        **changes,
    }
    return ClientSecretCredential(
        **options,
        authority=arm.endpoint_url,
        disable_instance_discovery=True,
        connection_verify=str(arm.ca_file),
    )


def scope(arm: AzureArm) -> str:
    return f"{arm.endpoint_url}/.default"


def client(arm: AzureArm, kind: type, credential=None, **settings: object):
    return kind(
        credential or secret(arm),
        arm.subscription_id,
        base_url=arm.endpoint_url,
        credential_scopes=[scope(arm)],
        connection_verify=str(arm.ca_file),
        **settings,
    )


@pytest.fixture
def network(arm: AzureArm) -> NetworkManagementClient:
    return client(arm, NetworkManagementClient, retry_total=0)


@pytest.fixture
def http_of(arm: AzureArm) -> Callable[..., requests.Response]:
    """Plain requests with a valid token, for requests that no SDK sends."""
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would take precedence over `verify`.
    session.verify = str(arm.ca_file)
    session.headers["Authorization"] = f"Bearer {secret(arm).get_token(scope(arm)).token}"

    def send(method: str, path: str, body: object = None, **headers: str) -> requests.Response:
        if "?" not in path:
            path += f"?api-version={VERSION}"
        return session.request(method, arm.endpoint_url + path, json=body, headers=headers, timeout=30)

    return send


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- Every verb, by the SDK --------------------------------------------------------------------


def test_a_rule_is_created_updated_and_deleted(arm: AzureArm, network: NetworkManagementClient) -> None:
    rules = network.security_rules
    created = rules.begin_create_or_update("rg1", "nsg1", "rule1", rule()).result()
    assert created.properties.provisioning_state == "Succeeded"
    # ARM's IDs are case-insensitive, and returned as they were first written.
    assert rules.get("RG1", "NSG1", "RULE1").id == rule_id(arm, "rule1")
    rules.begin_create_or_update("rg1", "NSG1", "RULE1", rule(priority=101)).result()
    (listed,) = rules.list("rg1", "nsg1")
    assert (listed.id, listed.properties.priority) == (rule_id(arm, "rule1"), 101)
    rules.begin_delete("rg1", "nsg1", "rule1").result()
    assert list(rules.list("rg1", "nsg1")) == []
    with pytest.raises(ResourceNotFoundError) as not_found:
        rules.get("rg1", "nsg1", "rule1")
    assert not_found.value.error.code == "NotFound"


TOP_LEVEL = {
    "virtual_networks": lambda arm: vnet("10.1.0.0/16", {"a": "10.1.1.0/24"}),
    "network_interfaces": nic,
    "application_security_groups": lambda arm: {"location": "westeurope"},
    "network_security_groups": lambda arm: {"location": "westeurope"},
    "public_ip_addresses": lambda arm: {"location": "westeurope", "sku": {"name": "Standard"}},
    "nat_gateways": lambda arm: {"location": "westeurope", "sku": {"name": "Standard"}},
    "route_tables": lambda arm: {"location": "westeurope"},
}


@pytest.mark.parametrize("kind", TOP_LEVEL)
def test_the_resources_of_a_group_are_listed(arm: AzureArm, network: NetworkManagementClient, kind: str) -> None:
    operations = getattr(network, kind)
    created = operations.begin_create_or_update("rg1", "new", TOP_LEVEL[kind](arm)).result()
    assert operations.get("rg1", "NEW").as_dict() == created.as_dict()
    assert created.properties.provisioning_state == "Succeeded"
    tagged = operations.update_tags("rg1", "new", {"tags": {"of": "the tests"}})
    assert tagged.tags == {"of": "the tests"}
    assert operations.get("rg1", "new").as_dict() == tagged.as_dict()
    for listed in (operations.list("rg1"), operations.list_all()):
        assert created.id in [resource.id for resource in listed]
    operations.begin_delete("rg1", "new").result()
    with pytest.raises(ResourceNotFoundError) as not_found:
        operations.get("rg1", "new")
    assert not_found.value.error.code == "ResourceNotFound"


@pytest.mark.parametrize("prefixes", [{"addressPrefix": "10.0.1.0/24"}, {"addressPrefixes": ["10.0.1.0/24"]}])
def test_a_subnet_has_its_prefix_in_the_property_that_was_set(
    arm: AzureArm, network: NetworkManagementClient, prefixes: dict
) -> None:
    body = {"properties": {**prefixes, "networkSecurityGroup": {"id": nsg_id(arm)}}}
    created = network.subnets.begin_create_or_update("rg1", "vnet1", "a", body).result()
    answered = created.properties.as_dict()
    assert {k: v for k, v in answered.items() if k.startswith("addressPrefix")} == prefixes
    group = network.network_security_groups.get("rg1", "nsg1")
    assert [subnet.id for subnet in group.properties.subnets] == [created.id]
    inlined = network.virtual_networks.get("rg1", "vnet1").properties.subnets
    assert [subnet.as_dict() for subnet in inlined if subnet.name == "a"] == [created.as_dict()]
    assert [subnet.name for subnet in network.subnets.list("rg1", "vnet1")] == ["default", "a"]
    network.subnets.begin_delete("rg1", "vnet1", "a").result()
    assert [subnet.name for subnet in network.subnets.list("rg1", "vnet1")] == ["default"]


def attach(network: NetworkManagementClient, subnet: str, **references: str) -> HttpResponseError | None:
    """Write a subnet with these references; returns the error."""
    current = network.subnets.get("rg1", "vnet1", subnet)
    for key, resource_id in references.items():
        current.properties[key] = {"id": resource_id}
    try:
        network.subnets.begin_create_or_update("rg1", "vnet1", subnet, current).result()
    except HttpResponseError as error:
        return error
    return None


def test_a_subnet_has_a_nat_gateway_with_a_public_ip_address_and_a_route_table(
    arm: AzureArm, network: NetworkManagementClient
) -> None:
    """Each names the others, and none is deleted while another uses it."""
    standard = {"location": "westeurope", "sku": {"name": "Standard"}, "zones": ["1"]}
    address = network.public_ip_addresses.begin_create_or_update("rg1", "ip", standard).result()
    assert (address.sku.name, address.properties.public_ip_allocation_method) == ("Standard", "Static")
    body = {**standard, "properties": {"publicIpAddresses": [{"id": address.id}]}}
    gateway = network.nat_gateways.begin_create_or_update("rg1", "nat", body).result()
    route = {"name": "out", "properties": {"addressPrefix": "0.0.0.0/0", "nextHopType": "Internet"}}
    table = network.route_tables.begin_create_or_update(
        "rg1", "rt", {"location": "westeurope", "properties": {"routes": [route]}}
    ).result()
    assert attach(network, "default", natGateway=gateway.id, routeTable=table.id) is None
    subnet = network.subnets.get("rg1", "vnet1", "default").id
    gateway = network.nat_gateways.get("rg1", "nat")
    assert (gateway.zones, [s.id for s in gateway.properties.subnets]) == (["1"], [subnet])
    assert network.public_ip_addresses.get("rg1", "ip").properties.nat_gateway.id == gateway.id
    table = network.route_tables.get("rg1", "rt")
    assert [s.id for s in table.properties.subnets] == [subnet]
    assert [(r.name, r.properties.next_hop_type) for r in network.routes.list("rg1", "rt")] == [("out", "Internet")]
    for delete, expected in (
        (lambda: network.nat_gateways.begin_delete("rg1", "nat"), "CannotDeleteNatGatewayAssociatedToSubnet"),
        (lambda: network.public_ip_addresses.begin_delete("rg1", "ip"), "PublicIPAddressCannotBeDeleted"),
        (lambda: network.route_tables.begin_delete("rg1", "rt"), "InUseRouteTableCannotBeDeleted"),
        (lambda: network.nat_gateways.begin_create_or_update("rg1", "second", body), "PublicIPAddressInUse"),
        (
            lambda: network.nat_gateways.begin_create_or_update("rg1", "nat", {**body, "zones": ["2"]}),
            "ResourceAvailabilityZonesCannotBeModified",
        ),
    ):
        with pytest.raises(HttpResponseError) as refused:
            delete()
        assert refused.value.error.code == expected
    missing = attach(network, "default", natGateway=f"{gateway.id}x")
    assert missing is not None
    assert missing.error.code == "InvalidResourceReference"


def test_a_nat_gateway_is_of_one_virtual_network(arm: AzureArm, network: NetworkManagementClient) -> None:
    gateway = network.nat_gateways.begin_create_or_update("rg1", "nat", {"location": "westeurope"}).result()
    assert attach(network, "default", natGateway=gateway.id) is None
    arm.put(network_id(arm, "virtualNetworks/vnet2"), vnet("10.1.0.0/16", {"a": "10.1.0.0/24"}))
    body = {"properties": {"addressPrefix": "10.1.0.0/24", "natGateway": {"id": gateway.id}}}
    with pytest.raises(HttpResponseError) as refused:
        network.subnets.begin_create_or_update("rg1", "vnet2", "a", body)
    assert "NatGatewayCannotBeUsedBySubnets" in refused.value.error.code


def test_the_limits_of_networks_count(arm: AzureArm, network: NetworkManagementClient) -> None:
    arm.state.limits["PublicIPAddresses"] = 1
    body = {"location": "westeurope", "sku": {"name": "Standard"}}
    network.public_ip_addresses.begin_create_or_update("rg1", "one", body).result()
    usages = {usage.name.value: usage for usage in network.usages.list("westeurope")}
    assert (usages["PublicIPAddresses"].current_value, usages["PublicIPAddresses"].limit) == (1, 1)
    with pytest.raises(HttpResponseError) as refused:
        network.public_ip_addresses.begin_create_or_update("rg1", "two", body)
    assert refused.value.error.code == "PublicIPCountLimitReached"
    # An existing address can be written.
    network.public_ip_addresses.begin_create_or_update("rg1", "one", {**body, "tags": {"a": "b"}}).result()
    assert network.usages.list("northeurope").next().current_value == 0


def test_a_machine_uses_its_nic_and_its_family_of_cores(arm: AzureArm, network: NetworkManagementClient) -> None:
    compute = client(arm, ComputeManagementClient)
    card = network.network_interfaces.begin_create_or_update("rg1", "card", nic(arm)).result()
    body = {
        "location": "westeurope",
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D8s_v5"},
            "networkProfile": {"networkInterfaces": [{"id": card.id}]},
        },
    }
    created = compute.virtual_machines.begin_create_or_update("rg1", "vm1", body).result()
    assert created.properties.hardware_profile.vm_size == "Standard_D8s_v5"
    assert [machine.name for machine in compute.virtual_machines.list("rg1")] == ["vm1"]
    assert [machine.name for machine in compute.virtual_machines.list_all()] == ["vm1"]
    card = network.network_interfaces.get("rg1", "card")
    assert card.properties.virtual_machine.id == created.id
    (address,) = card.properties.ip_configurations
    assert address.properties.private_ip_address == "10.0.0.4"
    arm.limits["standardDSv5Family"] = 64
    usages = {usage.name.value: usage for usage in compute.usage.list("westeurope")}
    assert (usages["standardDSv5Family"].current_value, usages["standardDSv5Family"].limit) == (
        8,
        64,
    )
    assert usages["cores"].current_value == 8
    skus = {sku.name: sku for sku in compute.resource_skus.list(filter="location eq 'eastus'")}
    assert skus["Standard_B2als_v2"].family == "standardBasv2Family"
    assert skus["Standard_B2als_v2"].locations == ["eastus"]
    compute.virtual_machines.begin_delete("rg1", "vm1").result()
    assert network.network_interfaces.get("rg1", "card").properties.virtual_machine is None


def test_a_machine_as_cloud_api_adaptor_creates_it(arm: AzureArm, network: NetworkManagementClient) -> None:
    """src/cloud-providers/azure/provider.go: its network interface is created and deleted with it."""
    compute = client(arm, ComputeManagementClient, retry_total=0)
    address = {"name": "ip-config", "properties": {"subnet": {"id": f"{vnet_id(arm)}/subnets/default"}}}
    interface = {"name": "vm1-net", "properties": {"deleteOption": "Delete", "ipConfigurations": [address]}}
    body = {
        "location": "westeurope",
        "tags": {"a": "b"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D8s_v5"},
            "networkProfile": {"networkApiVersion": "2021-11-01", "networkInterfaceConfigurations": [interface]},
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        },
    }
    created = compute.virtual_machines.begin_create_or_update("rg1", "vm1", body).result()
    (reference,) = created.properties.network_profile.network_interfaces
    assert reference.id == network_id(arm, "networkInterfaces/vm1-net")
    assert reference.properties.delete_option == "Delete"
    card = network.network_interfaces.get("rg1", "vm1-net").properties
    assert (card.ip_configurations[0].properties.private_ip_address, card.virtual_machine.id) == (
        "10.0.0.4",
        created.id,
    )

    view = compute.virtual_machines.get("rg1", "vm1", expand="instanceView").properties.instance_view
    assert [status.code for status in view.statuses] == ["ProvisioningState/succeeded", "PowerState/running"]
    data = compute.virtual_machines.retrieve_boot_diagnostics_data("rg1", "vm1")
    unsigned = data.serial_console_log_blob_uri.partition("?")[0]
    arm.consoles[created.id.lower()] = "Kernel panic"
    assert requests.get(data.serial_console_log_blob_uri, verify=str(arm.ca_file), timeout=30).text == "Kernel panic"
    assert requests.get(unsigned, verify=str(arm.ca_file), timeout=30).status_code == 403

    arm.limits["standardDSv5Family"] = 8
    with pytest.raises(HttpResponseError, match="exceeding approved standardDSv5Family Cores quota") as refused:
        compute.virtual_machines.begin_create_or_update("rg1", "vm2", body)
    assert (refused.value.status_code, refused.value.error.code) == (409, "OperationNotAllowed")
    arm.limits["standardDSv5Family"] = 64
    # The network interface of a machine that is rejected is not created.
    before = arm.resources
    for key, image, error, region in IMAGES_NOT_FOUND:
        image_id = image.format(f"{server_id(arm)}/providers/Microsoft.Compute")
        machine = {**body["properties"], "storageProfile": {"imageReference": {key: image_id}}}
        with pytest.raises(HttpResponseError, match=rf"{region} region") as missing:
            compute.virtual_machines.begin_create_or_update("rg1", "vm2", {**body, "properties": machine})
        found = (missing.value.status_code, missing.value.error.code, missing.value.error.target)
        assert found == (404, error, "imageReference")
    assert arm.resources == before
    # A machine that exists may be written again.
    compute.virtual_machines.begin_create_or_update("rg1", "vm1", body).result()
    # One whose creation fails stays, with the error in its status.
    arm.faults.append(Fault("PUT", "virtualMachines/vm2$", faults.operation_fails("AllocationFailed", "No capacity.")))
    with pytest.raises(HttpResponseError, match="No capacity"):
        compute.virtual_machines.begin_create_or_update("rg1", "vm2", body).result()
    stays = compute.virtual_machines.get("rg1", "vm2", expand="instanceView").properties
    (status,) = stays.instance_view.statuses
    assert (stays.provisioning_state, status.code) == ("Failed", "ProvisioningState/failed/AllocationFailed")
    assert (status.level, status.message) == ("Error", "No capacity.")
    for name in ("vm1", "vm2"):
        compute.virtual_machines.begin_delete("rg1", name).result()
    assert not [name for name in arm.resources if "networkinterfaces" in name]


IMAGES_NOT_FOUND = [
    ("id", "{}/galleries/none/images/podvm/versions/1.0.0", "GalleryImageNotFound", "is not available in westeurope"),
    ("id", "{}/images/none", "NotFound", "cannot be found in 'westeurope'"),
    (
        "communityGalleryImageId",
        "/CommunityGalleries/none/Images/podvm/Versions/1.0.0",
        "GalleryImageNotFound",
        "is not available in westeurope",
    ),
]


def test_an_image_in_a_gallery(arm: AzureArm) -> None:
    """A gallery, a definition and a version, as the image job of the operator creates them."""
    compute = client(arm, ComputeManagementClient)
    place = {"location": "westeurope"}
    gallery = compute.galleries.begin_create_or_update("rg1", "Gallery_1", {**place, "properties": {}}).result()
    assert gallery.properties.identifier.unique_name.endswith("-GALLERY_1")
    identifier = {"publisher": "RedHat", "offer": "OSC-PodVM", "sku": "OSC-PodVM"}
    properties = {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier}
    definition = {**place, "properties": properties}
    created = compute.gallery_images.begin_create_or_update("rg1", "Gallery_1", "podvm-image", definition).result()
    assert created.properties.architecture == "x64"
    image = "rg1", "Gallery_1", "podvm-image", "262093934.0.1"
    version = {
        **place,
        "properties": {
            "publishingProfile": {"targetRegions": [{"name": "West Europe"}]},
            "storageProfile": {"osDiskImage": {"source": {"uri": "https://disk"}}},
        },
    }
    stored = compute.gallery_image_versions.begin_create_or_update(*image, version).result()
    assert stored.id == f"{created.id}/versions/262093934.0.1"
    assert stored.properties.replication_status is None
    replicated = compute.gallery_image_versions.get(*image, expand="ReplicationStatus").properties.replication_status
    assert [(entry.region, entry.state) for entry in replicated.summary] == [("West Europe", "Completed")]
    listed = compute.gallery_image_versions.list_by_gallery_image("rg1", "Gallery_1", "podvm-image")
    assert [entry.name for entry in listed] == ["262093934.0.1"]
    # A machine of the version, or of the latest version of the definition, where it is replicated.
    machine = {"storageProfile": {"imageReference": {"id": created.id}}}
    compute.virtual_machines.begin_create_or_update("rg1", "vm1", {**place, "properties": machine}).result()
    machine = {"storageProfile": {"imageReference": {"id": stored.id}}}
    compute.virtual_machines.begin_create_or_update("rg1", "vm2", {**place, "properties": machine}).result()
    body = {"location": "northeurope", "properties": machine}
    with pytest.raises(HttpResponseError, match="is not available in northeurope region"):
        compute.virtual_machines.begin_create_or_update("rg1", "vm3", body)
    for name in ("vm1", "vm2"):
        compute.virtual_machines.begin_delete("rg1", name).result()
    with pytest.raises(HttpResponseError) as nested:
        compute.galleries.begin_delete("rg1", "Gallery_1").result()
    assert (nested.value.status_code, nested.value.error.code) == (409, "CannotDeleteResource")
    compute.gallery_image_versions.begin_delete(*image).result()
    compute.gallery_images.begin_delete("rg1", "Gallery_1", "podvm-image").result()
    compute.galleries.begin_delete("rg1", "Gallery_1").result()
    assert list(compute.galleries.list_by_resource_group("rg1")) == []


@pytest.mark.parametrize(
    ("path", "properties", "status", "code"),
    [
        ("galleries/with-hyphen", {}, 400, "InvalidParameter"),
        ("galleries/Gallery_1/images/d", {"osType": "Linux"}, 400, "InvalidParameter"),
        ("galleries/Gallery_1/images/podvm", {"hyperVGeneration": "V1"}, 409, "PropertyChangeNotAllowed"),
        ("galleries/Gallery_1/images/podvm/versions/1.0", {}, 400, "InvalidParameter"),
        ("galleries/Gallery_1/images/podvm/versions/1.0.2147483648", {}, 400, "InvalidParameter"),
        ("galleries/Gallery_1/images/podvm/versions/1.0.0", {"storageProfile": {}}, 400, "InvalidParameter"),
        ("galleries/Gallery_1/images/none/versions/1.0.0", {}, 404, "ParentResourceNotFound"),
        ("images/mine", {}, 400, "InvalidParameter"),
    ],
)
def test_bodies_of_images_that_azure_rejects(arm: AzureArm, path: str, properties: dict, status: int, code: str):
    compute = f"{server_id(arm)}/providers/Microsoft.Compute"
    whole = {
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": "V2",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
    }
    arm.put(f"{compute}/galleries/Gallery_1", {"location": "westeurope"})
    arm.put(f"{compute}/galleries/Gallery_1/images/podvm", {"location": "westeurope", "properties": whole})
    body = {**whole, **properties} if path.endswith("/podvm") else properties
    with pytest.raises(ArmError) as rejected:
        arm.put(f"{compute}/{path}", {"location": "westeurope", "properties": body})
    assert (rejected.value.status, rejected.value.code) == (status, code)


def test_resource_groups_and_subscriptions(arm: AzureArm, http_of) -> None:
    v = "?api-version=2022-12-01"
    base = f"/subscriptions/{arm.subscription_id}"
    assert http_of("GET", f"/subscriptions{v}").json()["value"][0]["tenantId"] == arm.tenant_id
    assert http_of("GET", base + v).json()["state"] == "Enabled"
    assert http_of("GET", f"/tenants{v}").json()["value"][0]["tenantId"] == arm.tenant_id
    created = http_of("PUT", f"{base}/resourceGroups/rg2{v}", {"location": "West Europe"})
    assert (created.status_code, created.json()["location"]) == (201, "westeurope")
    assert http_of("HEAD", f"{base}/resourcegroups/RG2{v}").status_code == 204
    listed = http_of("GET", f"{base}/resourceGroups{v}").json()["value"]
    assert [resource_group["name"] for resource_group in listed] == ["rg1", "rg2"]
    deleted = http_of("DELETE", f"{base}/resourceGroups/rg1{v}")
    assert deleted.status_code == 202
    followed = deleted.headers["Location"].removeprefix(arm.endpoint_url)
    assert [http_of("GET", followed).status_code for _ in range(2)] == [202, 204]
    assert list(arm.resources) == [f"{base}/resourcegroups/rg2"]


# -- The official REST examples ----------------------------------------------------------------


def within(example: object, answer: object) -> bool:
    """Whether the response contains the example; other fields of ARM are ignored."""
    if isinstance(example, dict):
        return isinstance(answer, dict) and all(
            key in answer and within(value, answer[key]) for key, value in example.items()
        )
    if isinstance(example, list):
        return len(example) == len(answer) and all(map(within, example, answer))
    return example == answer


def default_rule(name: str, source: str, destination: str, priority: int) -> dict:
    return {
        "name": name,
        "properties": {
            "provisioningState": "Succeeded",
            "protocol": "*",
            "priority": priority,
            "sourcePortRange": "*",
            "destinationPortRange": "*",
            "sourceAddressPrefix": source,
            "destinationAddressPrefix": destination,
            "access": name.split("A")[0] or "Allow",
            "direction": "Inbound" if name.endswith("InBound") else "Outbound",
        },
    }


def test_example_network_security_group_create_with_rule(arm: AzureArm, network: NetworkManagementClient) -> None:
    """NetworkSecurityGroupCreateWithRule.json of Microsoft.Network, api-version 2022-07-01."""
    properties = {
        **EXAMPLE_RULE,
        "sourceAddressPrefix": "*",
        "destinationAddressPrefix": "*",
        "access": "Allow",
        "destinationPortRange": "80",
        "priority": 130,
        "direction": "Inbound",
    }
    body = {
        "properties": {"securityRules": [{"name": "rule1", "properties": properties}]},
        "location": "eastus",
    }
    group = network_id(arm, "networkSecurityGroups/testnsg")
    answer = network.network_security_groups.begin_create_or_update(
        "rg1", "testnsg", body, api_version="2022-07-01"
    ).result()
    assert within(
        {
            "name": "testnsg",
            "id": group,
            "type": "Microsoft.Network/networkSecurityGroups",
            "location": "eastus",
            "properties": {
                "provisioningState": "Succeeded",
                "securityRules": [
                    {
                        "name": "rule1",
                        "id": f"{group}/securityRules/rule1",
                        "properties": {"provisioningState": "Succeeded", **properties},
                    }
                ],
                "defaultSecurityRules": [
                    {"id": f"{group}/defaultSecurityRules/{default['name']}", **default}
                    for default in (
                        default_rule("AllowVnetInBound", "VirtualNetwork", "VirtualNetwork", 65000),
                        default_rule("AllowAzureLoadBalancerInBound", "AzureLoadBalancer", "*", 65001),
                        default_rule("DenyAllInBound", "*", "*", 65500),
                        default_rule("AllowVnetOutBound", "VirtualNetwork", "VirtualNetwork", 65000),
                        default_rule("AllowInternetOutBound", "*", "Internet", 65001),
                        default_rule("DenyAllOutBound", "*", "*", 65500),
                    )
                ],
            },
        },
        answer.as_dict(),
    )
    names = [default_rule.name for default_rule in network.default_security_rules.list("rg1", "testnsg")]
    assert names[0] == "AllowVnetInBound"
    deny_rule = network.default_security_rules.get("rg1", "testnsg", "DenyAllInBound")
    assert deny_rule.properties.priority == 65500


def test_example_network_security_group_rule_create(arm: AzureArm, http_of) -> None:
    """NetworkSecurityGroupRuleCreate.json of Microsoft.Network, api-version 2022-07-01."""
    path = rule_id(arm, "rule1")
    arm.polls = 0
    for status in (201, 200):
        answer = http_of("PUT", f"{path}?api-version=2022-07-01", {"properties": EXAMPLE_RULE})
        assert answer.status_code == status
        expected = {
            "name": "rule1",
            "id": path,
            "properties": {"provisioningState": "Succeeded", **EXAMPLE_RULE},
        }
        assert within(expected, answer.json())


def test_example_virtual_network_create_subnet(arm: AzureArm, http_of) -> None:
    """VirtualNetworkCreateSubnet.json of Microsoft.Network, api-version 2023-09-01."""
    path = network_id(arm, "virtualNetworks/test-vnet")
    subnet = {"name": "test-1", "properties": {"addressPrefix": "10.0.0.0/24"}}
    space = {"addressPrefixes": ["10.0.0.0/16"]}
    body = {"properties": {"addressSpace": space, "subnets": [subnet]}, "location": "eastus"}
    arm.polls = 0
    answer = http_of("PUT", f"{path}?api-version=2023-09-01", body)
    expected = {
        "name": "test-vnet",
        "id": path,
        "type": "Microsoft.Network/virtualNetworks",
        "location": "eastus",
        "properties": {
            "provisioningState": "Succeeded",
            "addressSpace": space,
            "subnets": [
                {
                    "id": f"{path}/subnets/test-1",
                    "name": "test-1",
                    "properties": {"addressPrefix": "10.0.0.0/24", "provisioningState": "Succeeded"},
                }
            ],
            "virtualNetworkPeerings": [],
        },
    }
    assert answer.status_code == 201
    assert within(expected, answer.json())


# -- Rejected requests and their messages ------------------------------------------------------

NO_PREFIX = {"sourceAddressPrefix": None}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"priority": 99}, "SecurityRuleInvalidPriority"),
        ({"priority": 4097}, "SecurityRuleInvalidPriority"),
        ({"priority": "high"}, "InvalidRequestFormat"),
        ({"priority": None}, "SecurityRuleParameterMissing"),
        ({"protocol": None}, "SecurityRuleParameterMissing"),
        ({"protocol": "Sctp"}, "InvalidRequestFormat"),
        ({"access": "Maybe"}, "InvalidRequestFormat"),
        ({"direction": "Sideways"}, "InvalidRequestFormat"),
        ({"destinationPortRange": None}, "SecurityRuleParametersMissing"),
        ({"destinationPortRange": "80,443"}, "SecurityRuleInvalidPortRange"),
        ({"destinationPortRange": "65536"}, "SecurityRuleInvalidPortRange"),
        ({"destinationPortRange": "90-80"}, "SecurityRuleInvalidPortRange"),
        ({"destinationPortRange": 80}, "InvalidRequestFormat"),
        ({"destinationPortRanges": ["80"]}, "SecurityRuleParametersConflict"),
        (
            {"destinationPortRange": None, "destinationPortRanges": ["*"]},
            "SecurityRuleParameterContainsInvalidPortRanges",
        ),
        (NO_PREFIX, "SecurityRuleParametersMissing"),
        ({"sourceAddressPrefix": "10.0.0.1/8"}, "SecurityRuleInvalidAddressPrefix"),
        ({"sourceAddressPrefix": "anywhere"}, "SecurityRuleInvalidAddressPrefix"),
        ({"sourceAddressPrefixes": ["10.0.0.0/8"]}, "SecurityRuleParametersConflict"),
        (
            {**NO_PREFIX, "sourceAddressPrefixes": ["Internet"]},
            "SecurityRuleParameterContainsUnsupportedValue",
        ),
        (
            {**NO_PREFIX, "sourceAddressPrefixes": ["10.0.0.0/8", "10.1.0.0/16"]},
            "OverlappingSubnetsNotPermittedInSecurityRule",
        ),
        (
            {"sourceAddressPrefix": "fd00::/64"},
            "ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies",
        ),
        (
            {**NO_PREFIX, "sourceApplicationSecurityGroups": [{"id": "/subscriptions/x"}]},
            "InvalidResourceReference",
        ),
    ],
)
def test_invalid_rules_are_rejected(
    arm: AzureArm, network: NetworkManagementClient, changes: dict, expected: str
) -> None:
    before = arm.resources
    with pytest.raises(HttpResponseError) as refused:
        network.security_rules.begin_create_or_update("rg1", "nsg1", "rule1", rule(**changes))
    assert (refused.value.status_code, refused.value.error.code) == (400, expected)
    assert arm.resources == before


@pytest.mark.parametrize(
    ("properties", "stored"),
    [
        ({"protocol": "TCP", "access": "allow"}, {"protocol": "Tcp", "access": "Allow"}),
        ({"direction": "INBOUND"}, {"direction": "Inbound"}),
        ({"sourceAddressPrefix": "virtualnetwork"}, {"sourceAddressPrefix": "VirtualNetwork"}),
        ({"sourceAddressPrefix": "Storage.WestEurope"}, {}),
        ({"sourceAddressPrefix": "10.0.0.4"}, {}),
        ({"destinationPortRange": "0-65535"}, {}),
        ({"destinationPortRange": None, "destinationPortRanges": ["22", "80-90"]}, {}),
        ({**NO_PREFIX, "sourceAddressPrefixes": ["10.0.0.0/24", "10.2.0.0/24"]}, {}),
        ({"sourceAddressPrefix": "fd00::/64", "destinationAddressPrefix": "fd00::/64"}, {}),
    ],
)
def test_valid_rules_are_accepted(
    arm: AzureArm, network: NetworkManagementClient, properties: dict, stored: dict
) -> None:
    network.security_rules.begin_create_or_update("rg1", "nsg1", "r", rule(**properties)).result()
    answered = arm.resources[rule_id(arm, "r").lower()]["properties"]
    expected = {key: value for key, value in {**properties, **stored}.items() if value is not None}
    assert within(expected, answered)
    # A whole group can be written back as it was read.
    group = network.network_security_groups.get("rg1", "nsg1")
    network.network_security_groups.begin_create_or_update("rg1", "nsg1", group).result()
    assert arm.resources[rule_id(arm, "r").lower()]["properties"] == answered


def test_a_priority_is_unique_in_each_direction(arm: AzureArm, network: NetworkManagementClient) -> None:
    rules = network.security_rules
    rules.begin_create_or_update("rg1", "nsg1", "out", rule()).result()
    rules.begin_create_or_update("rg1", "nsg1", "in", rule(direction="Inbound")).result()
    with pytest.raises(HttpResponseError) as refused:
        rules.begin_create_or_update("rg1", "nsg1", "late", rule())
    assert refused.value.error.code == "SecurityRuleConflict"
    assert "conflicts with rule" in refused.value.message
    rule_bodies = [{"name": name, **rule()} for name in ("a", "b")]
    with pytest.raises(HttpResponseError) as refused:
        network.network_security_groups.begin_create_or_update(
            "rg1", "nsg1", {"location": "westeurope", "properties": {"securityRules": rule_bodies}}
        )
    assert refused.value.error.code == "SecurityRuleConflict"
    assert [stored_rule.name for stored_rule in rules.list("rg1", "nsg1")] == ["out", "in"]


def test_a_put_replaces_the_whole_group(arm: AzureArm, network: NetworkManagementClient) -> None:
    groups = network.network_security_groups
    for names in (["a", "b"], ["b", "c"]):
        rules = [{"name": n, **rule(priority=100 + i)} for i, n in enumerate(names)]
        body = {"location": "westeurope", "properties": {"securityRules": rules}}
        answer = groups.begin_create_or_update("rg1", "nsg1", body).result()
        assert sorted(stored_rule.name for stored_rule in answer.properties.security_rules) == names


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "{nsg}x", (404, "ResourceNotFound")),
        ("GET", "{nsg}/securityRules/x", (404, "NotFound")),
        ("GET", "{nsg}x/securityRules", (404, "ResourceNotFound")),
        ("PUT", "{nsg}x/securityRules/x", (404, "ParentResourceNotFound")),
        ("DELETE", "{nsg}x/securityRules/x", (404, "ParentResourceNotFound")),
        ("PATCH", "{nsg}x", (404, "ResourceNotFound")),
        ("GET", "{group}x/providers/Microsoft.Network/virtualNetworks", (404, "ResourceGroupNotFound")),
        ("PUT", "{group}x/providers/Microsoft.Network/virtualNetworks/v", (404, "ResourceGroupNotFound")),
        (
            "GET",
            "/subscriptions/00000000-0000-0000-0000-000000000000/providers/Microsoft.Network/virtualNetworks",
            (404, "SubscriptionNotFound"),
        ),
        ("GET", "{group}/providers/Microsoft.Netwerk/virtualNetworks", (404, "InvalidResourceNamespace")),
        ("GET", "{group}/providers/Microsoft.Network/virtualNetwerks", (404, "InvalidResourceType")),
        ("PUT", "{nsg}/securityRules/-x", (400, "InvalidResourceName")),
        ("POST", "{nsg}", (405, "MethodNotAllowed")),
        ("GET", "{nsg}?api-version=", (400, "MissingApiVersionParameter")),
        ("GET", "{nsg}?api-version=2099-01-01", (400, "NoRegisteredProviderFound")),
        ("GET", "{group}?api-version=2099-01-01", (400, "InvalidApiVersionParameter")),
    ],
)
def test_an_unknown_path_is_not_found(
    arm: AzureArm, http_of, method: str, path: str, expected: tuple[int, str]
) -> None:
    body = rule() if method == "PUT" else {}
    answer = http_of(method, path.format(nsg=nsg_id(arm), group=server_id(arm)), body)
    assert code(answer) == expected
    assert answer.json()["error"]["details"] == []
    assert {"x-ms-request-id", "x-ms-correlation-request-id"} <= set(answer.headers)


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        ("nsg", {"location": None}, (400, "LocationRequired")),
        ("nsg", {"location": "eastus"}, (409, "InvalidResourceLocation")),
        ("nsg", [], (400, "InvalidRequestFormat")),
        ("vnet", vnet("10.0.0.0/16", {"a": "10.1.0.0/24"}), (400, "NetcfgInvalidSubnet")),
        ("vnet", vnet("10.0.0.0/16", {"a": "10.0.0.0/24", "b": "10.0.0.0/28"}), (400, "NetcfgSubnetRangesOverlap")),
        ("vnet", vnet("10.0.0.0/33", {}), (400, "InvalidCIDRNotation")),
    ],
)
def test_invalid_bodies_are_rejected(arm: AzureArm, http_of, path: str, change, expected: tuple[int, str]) -> None:
    path = {"nsg": nsg_id(arm), "vnet": vnet_id(arm)}[path]
    assert code(http_of("PUT", path, change)) == expected


def test_a_network_written_without_subnets_keeps_them(arm: AzureArm, http_of) -> None:
    body = vnet("10.0.0.0/16", {})
    del body["properties"]["subnets"]
    kept_subnets = http_of("PUT", vnet_id(arm), body).json()["properties"]["subnets"]
    assert [subnet["name"] for subnet in kept_subnets] == ["default"]
    body["properties"]["subnets"] = []
    assert http_of("PUT", vnet_id(arm), body).json()["properties"]["subnets"] == []


def test_resources_in_use_cannot_be_deleted(arm: AzureArm, network: NetworkManagementClient) -> None:
    group = {"networkSecurityGroup": {"id": nsg_id(arm)}}
    network.network_interfaces.begin_create_or_update("rg1", "card", nic(arm, **group)).result()
    for delete, expected in (
        (
            lambda: network.network_security_groups.begin_delete("rg1", "nsg1"),
            "InUseNetworkSecurityGroupCannotBeDeleted",
        ),
        (lambda: network.subnets.begin_delete("rg1", "vnet1", "default"), "InUseSubnetCannotBeDeleted"),
        (lambda: network.virtual_networks.begin_delete("rg1", "vnet1"), "InUseSubnetCannotBeDeleted"),
        (
            lambda: network.virtual_networks.begin_create_or_update("rg1", "vnet1", vnet("10.0.0.0/16", {})),
            "InUseSubnetCannotBeDeleted",
        ),
    ):
        with pytest.raises(HttpResponseError) as refused:
            delete()
        assert refused.value.error.code == expected
    group = network.network_security_groups.get("rg1", "nsg1")
    assert [network_interface.id for network_interface in group.properties.network_interfaces] == [
        network_id(arm, "networkInterfaces/card")
    ]


@pytest.mark.parametrize(
    ("level", "scope_of", "writes", "deletes"),
    [
        ("ReadOnly", server_id, False, False),
        ("ReadOnly", nsg_id, False, False),
        ("ReadOnly", vnet_id, True, True),
        ("CanNotDelete", server_id, True, False),
    ],
)
def test_locks_reject_writes_and_deletions(
    arm: AzureArm, http_of, level: str, scope_of, writes: bool, deletes: bool
) -> None:
    arm.permissions = [roles.OWNER]
    arm.put(rule_id(arm, "rule1"), rule())
    lock = f"{scope_of(arm)}/providers/Microsoft.Authorization/locks/lock1?api-version=2016-09-01"
    assert http_of("PUT", lock, {"properties": {"level": level}}).status_code == 201
    assert http_of("GET", lock).json()["properties"]["level"] == level
    written = http_of("PUT", rule_id(arm, "rule1"), rule(priority=200))
    deleted = http_of("DELETE", rule_id(arm, "rule1"))
    for answer, allowed in ((written, writes), (deleted, deletes)):
        assert answer.ok is allowed
        assert allowed or code(answer) == (409, "ScopeLocked")
    assert http_of("GET", rule_id(arm, "rule1")).status_code == 200
    assert http_of("DELETE", lock).status_code == 200
    assert http_of("DELETE", rule_id(arm, "rule1")).ok


PERMISSIONS = "providers/Microsoft.Authorization/permissions"


def test_the_permissions_of_a_user_are_listed(arm: AzureArm, http_of) -> None:
    """https://learn.microsoft.com/rest/api/authorization/permissions/list-for-resource"""
    arm.put(rule_id(arm, "rule1"), rule())
    for resource_id in (server_id(arm), nsg_id(arm).upper(), rule_id(arm, "rule1")):
        answer = http_of("GET", f"{resource_id}/{PERMISSIONS}?api-version=2022-04-01")
        (role,) = answer.json()["value"]
        assert role.keys() == {"actions", "notActions", "dataActions", "notDataActions"}
        assert role["actions"] == ["*"]
        assert "Microsoft.Authorization/*/Write" in role["notActions"]
    arm.permissions = [roles.READER, roles.OWNER]
    arm.page_size = 1
    first = http_of("GET", f"{nsg_id(arm)}/{PERMISSIONS}?api-version=2022-04-01").json()
    second = http_of("GET", first["nextLink"].removeprefix(arm.endpoint_url)).json()
    assert [*first["value"], *second["value"]] == [roles.READER, roles.OWNER]
    assert "nextLink" not in second


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "x/{}?api-version=2022-04-01", (404, "ResourceNotFound")),
        ("GET", "/{}?api-version=", (400, "MissingApiVersionParameter")),
        # Permissions have other API versions than locks.
        ("GET", "/{}?api-version=2016-09-01", (400, "NoRegisteredProviderFound")),
        (
            "GET",
            "/providers/Microsoft.Authorization/locks/x?api-version=2022-04-01",
            (400, "NoRegisteredProviderFound"),
        ),
        ("DELETE", "/{}?api-version=2022-04-01", (405, "MethodNotAllowed")),
        ("PUT", "/{}/mine?api-version=2022-04-01", (405, "MethodNotAllowed")),
    ],
)
def test_permissions_of_an_unknown_scope(
    arm: AzureArm, http_of, method: str, path: str, expected: tuple[int, str]
) -> None:
    arm.permissions = [roles.OWNER]
    assert code(http_of(method, nsg_id(arm) + path.format(PERMISSIONS), {})) == expected


@pytest.mark.parametrize(
    ("actions", "not_actions", "allowed_operations"),
    [
        (["*"], [], {"nsg", "rule", "tags", "delete"}),
        (["*/read"], [], set()),
        (["microsoft.network/*/Write"], [], {"nsg", "rule", "tags"}),
        (["*"], ["Microsoft.Network/networkSecurityGroups/securityRules/*"], {"nsg", "tags"}),
        (["*"], ["Microsoft.Network/networkSecurityGroups/WRITE"], {"rule", "delete"}),
    ],
)
def test_requests_without_permission_are_rejected(
    arm: AzureArm, http_of, actions: list[str], not_actions: list[str], allowed_operations: set[str]
) -> None:
    arm.permissions = [{**roles.READER}, {**roles.OWNER, "actions": actions, "notActions": not_actions}]
    arm.put(rule_id(arm, "old"), rule())
    for operation, method, path, body in (
        ("tags", "PATCH", nsg_id(arm), {"tags": {"a": "b"}}),
        ("delete", "DELETE", rule_id(arm, "old"), None),
        ("nsg", "PUT", nsg_id(arm), {"location": "westeurope"}),
        ("rule", "PUT", rule_id(arm, "new"), rule()),
    ):
        before = arm.snapshot()
        answer = http_of(method, path, body)
        assert answer.ok is (operation in allowed_operations), operation
        if operation not in allowed_operations:
            assert code(answer) == (403, "AuthorizationFailed")
            assert path in answer.json()["error"]["message"]
            assert arm.snapshot() == before


# -- ETags, operations, pages ------------------------------------------------------------------


def test_stale_etags_are_rejected(arm: AzureArm, network: NetworkManagementClient, http_of) -> None:
    def etag() -> str:
        return network.network_security_groups.get("rg1", "nsg1").etag

    before = etag()
    created = network.security_rules.begin_create_or_update("rg1", "nsg1", "a", rule()).result()
    assert etag() == created.etag != before
    for method, body in (("PUT", rule(priority=200)), ("DELETE", None)):
        stale = http_of(method, rule_id(arm, "a"), body, **{"If-Match": before})
        assert code(stale) == (412, "PreconditionFailed")
        (detail,) = stale.json()["error"]["details"]
        assert detail["code"] == "PreconditionFailedEtagMismatch"
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        network.network_security_groups.begin_create_or_update(
            "rg1", "nsg1", {"location": "westeurope"}, headers={"If-Match": before}
        )
    new_only = {"If-None-Match": "*"}
    assert code(http_of("PUT", rule_id(arm, "a"), rule(), **new_only))[0] == 412
    assert http_of("PUT", rule_id(arm, "b"), rule(priority=201), **new_only).status_code == 201
    current = {"If-Match": etag()}
    assert http_of("PUT", rule_id(arm, "a"), rule(priority=200), **current).status_code == 200
    assert etag() not in (before, current["If-Match"])
    tagged = network.network_security_groups.update_tags("rg1", "nsg1", {"tags": {"a": "b"}})
    assert tagged.etag != before


def test_an_operation_from_start_to_end(arm: AzureArm, http_of) -> None:
    arm.polls = 2

    def follow(answer: requests.Response) -> list[str]:
        assert answer.headers["x-ms-retry-after-ms"] == "10"
        url = answer.headers["Azure-AsyncOperation"].removeprefix(arm.endpoint_url)
        return [http_of("GET", url).json()["status"] for _ in range(3)]

    def states() -> list[str]:
        resources = arm.resources
        return [
            resources[key.lower()]["properties"]["provisioningState"]
            for key in (rule_id(arm, "rule1"), nsg_id(arm), rule_id(arm, "other"))
        ]

    arm.put(rule_id(arm, "other"), rule(priority=300))
    put = http_of("PUT", rule_id(arm, "rule1"), rule())
    assert put.json()["properties"]["provisioningState"] == "Updating"
    assert states() == ["Updating", "Updating", "Succeeded"]
    assert follow(put) == ["InProgress", "InProgress", "Succeeded"]
    assert states() == ["Succeeded"] * 3
    deleted = http_of("DELETE", rule_id(arm, "rule1"))
    assert deleted.status_code == 202
    assert states() == ["Deleting", "Updating", "Succeeded"]
    assert follow(deleted) == ["InProgress", "InProgress", "Succeeded"]
    assert http_of("GET", rule_id(arm, "rule1")).status_code == 404
    assert http_of("DELETE", rule_id(arm, "rule1")).status_code == 204
    arm.retry_after, before = 3, arm.retry_after
    assert http_of("PUT", rule_id(arm, "rule1"), rule()).headers["Retry-After"] == "3"
    arm.retry_after = before


def test_an_operation_proceeds_when_its_resource_is_read(arm: AzureArm, http_of) -> None:
    http_of("PUT", rule_id(arm, "rule1"), rule())
    states = [http_of("GET", rule_id(arm, "rule1")).json()["properties"]["provisioningState"] for _ in range(2)]
    assert states == ["Updating", "Succeeded"]


def test_a_write_waits_for_earlier_operations(arm: AzureArm, http_of) -> None:
    arm.put(rule_id(arm, "rule1"), rule())
    deleted = http_of("DELETE", rule_id(arm, "rule1"))
    assert http_of("PUT", rule_id(arm, "rule2"), rule()).status_code == 201
    assert http_of("PUT", rule_id(arm, "rule1"), rule(priority=200)).status_code == 201
    operation = deleted.headers["Azure-AsyncOperation"].removeprefix(arm.endpoint_url)
    assert http_of("GET", operation).json()["status"] == "Succeeded"
    assert rule_id(arm, "rule1").lower() in arm.resources


@pytest.mark.parametrize("page_size", [2, 3, 6, 100])
def test_lists_are_paged(arm: AzureArm, network: NetworkManagementClient, page_size: int) -> None:
    names = [f"rule{number}" for number in range(6)]
    for number, name in enumerate(names):
        arm.put(rule_id(arm, name), rule(priority=100 + number))
    arm.page_size = page_size
    assert [stored_rule.name for stored_rule in network.security_rules.list("rg1", "nsg1")] == names
    assert len(arm.take_requests()) == -(-6 // page_size)


# -- Authentication ----------------------------------------------------------------------------


def test_valid_log_ins(arm: AzureArm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", arm.endpoint_url)
    verified = {"connection_verify": str(arm.ca_file)}
    for credential in (
        secret(arm),
        ClientAssertionCredential(
            arm.tenant_id,
            arm.client_id,
            lambda: arm.federated_token,
            authority=arm.endpoint_url,
            disable_instance_discovery=True,
            **verified,
        ),
        ManagedIdentityCredential(**verified),
        ManagedIdentityCredential(client_id=arm.client_id, **verified),
    ):
        groups = client(arm, NetworkManagementClient, credential).network_security_groups
        assert [security_group.name for security_group in groups.list_all()] == ["nsg1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client_secret": "wrong"}, "AADSTS7000215"),
        ({"client_id": "00000000-0000-0000-0000-000000000000"}, "AADSTS700016"),
        # The message of MSAL for AADSTS90002.
        ({"tenant_id": "00000000-0000-0000-0000-000000000000"}, "double check your tenant"),
    ],
)
def test_rejected_log_ins(arm: AzureArm, changes: dict, words: str) -> None:
    with pytest.raises(ClientAuthenticationError, match=words):
        secret(arm, **changes).get_token(scope(arm))


def test_an_assertion_without_a_federated_credential_is_rejected(arm: AzureArm) -> None:
    credential = ClientAssertionCredential(
        arm.tenant_id,
        arm.client_id,
        lambda: "another.token.altogether",
        authority=arm.endpoint_url,
        disable_instance_discovery=True,
        connection_verify=str(arm.ca_file),
    )
    with pytest.raises(ClientAuthenticationError, match="AADSTS700213"):
        credential.get_token(scope(arm))


def test_invalid_tokens_are_rejected(arm: AzureArm, http_of) -> None:
    other_audience_token = secret(arm).get_token("https://graph.example.com/.default").token
    for header, expected in (
        ("", "AuthenticationFailed"),
        ("Bearer a.b.c", "InvalidAuthenticationToken"),
        (f"Bearer {other_audience_token}", "InvalidAuthenticationTokenAudience"),
    ):
        answer = http_of("GET", nsg_id(arm), Authorization=header)
        assert code(answer) == (401, expected)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer authorization_uri=")
    assert http_of("GET", nsg_id(arm)).status_code == 200
    arm.expire_tokens()
    assert code(http_of("GET", nsg_id(arm))) == (401, "ExpiredAuthenticationToken")
    arm.token_lifetime = 0
    brief = secret(arm).get_token(scope(arm)).token
    answer = http_of("GET", nsg_id(arm), Authorization=f"Bearer {brief}")
    assert code(answer) == (401, "ExpiredAuthenticationToken")


def test_managed_identity_requires_its_header(arm: AzureArm, http_of) -> None:
    path = f"/metadata/identity/oauth2/token?resource={arm.endpoint_url}"
    assert http_of("GET", path).status_code == 400
    assert http_of("GET", path, Metadata="true").json()["resource"] == arm.endpoint_url
    assert http_of("GET", f"{path}&client_id=other", Metadata="true").status_code == 400


def test_the_endpoints_are_readable_by_the_azure_cli(arm: AzureArm, tmp_path) -> None:
    script = (
        "from azure.cli.core.cloud import get_known_clouds; (cloud,) = get_known_clouds();"
        "e = cloud.endpoints;"
        "print(e.resource_manager, e.active_directory, e.active_directory_resource_id)"
    )
    completed = subprocess.run(
        [own_environment(AZURE_CLI) / "python", "-c", script],
        env={
            "SSL_CERT_FILE": str(arm.ca_file),
            "AZURE_CONFIG_DIR": str(tmp_path),
            "ARM_CLOUD_METADATA_URL": f"{arm.endpoint_url}/metadata/endpoints?api-version=2019-05-01",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.split() == [arm.endpoint_url] * 3


@pytest.mark.parametrize("version", ["2015-01-01", "2019-05-01", "2022-09-01"])
def test_endpoints_by_version(arm: AzureArm, http_of, version: str) -> None:
    body = http_of("GET", f"/metadata/endpoints?api-version={version}").json()
    assert isinstance(body, list) is (version == "2019-05-01")
    cloud = body[0] if isinstance(body, list) else body
    assert cloud["authentication"]["loginEndpoint"] == arm.endpoint_url
    assert cloud["authentication"]["audiences"] == [arm.endpoint_url]
    assert (cloud.get("resourceManager") is None) is (version == "2015-01-01")


# -- For tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (faults.throttled(2), (429, "TooManyRequests")),
        (faults.retryable_error(1), (429, "RetryableError")),
        (faults.another_operation_in_progress(1), (429, "AnotherOperationInProgress")),
        (faults.authorization_failed, (403, "AuthorizationFailed")),
        (faults.scope_locked, (409, "ScopeLocked")),
        (faults.precondition_failed, (412, "PreconditionFailed")),
        (faults.refuse(502, "BadGateway"), (502, "BadGateway")),
        (faults.hang_up, ServiceResponseError),
        (faults.lose_the_answer, ServiceResponseError),
        (faults.cut_the_answer, IncompleteReadError),
        (faults.operation_fails("InternalServerError"), (200, "InternalServerError")),
        (faults.superseded(lambda: None), (200, "Canceled")),
        (faults.work, None),
    ],
)
def test_each_fault_has_its_effect(arm: AzureArm, network: NetworkManagementClient, act, expected) -> None:
    arm.faults += [Fault("GET", "never", faults.hang_up), Fault("PUT", "/securityrules/", act)]
    done = act in (faults.work, faults.lose_the_answer, faults.cut_the_answer)

    def put() -> None:
        network.security_rules.begin_create_or_update("rg1", "nsg1", "rule1", rule()).result()

    if expected is None:
        put()
    else:
        with pytest.raises(expected if isinstance(expected, type) else HttpResponseError) as raised:
            put()
        if isinstance(expected, tuple):
            assert (raised.value.status_code, raised.value.error.code) == expected
            after = raised.value.response.headers.get("Retry-After")
            assert after == {"TooManyRequests": "2", "RetryableError": "1"}.get(
                expected[1], "1" if expected[1].startswith("Another") else None
            )
    stored = arm.resources.get(rule_id(arm, "rule1").lower())
    # The operation that replaces a canceled one sets the state.
    states = {(200, "InternalServerError"): "Failed", (200, "Canceled"): "Updating"}
    if expected in states:
        assert stored["properties"]["provisioningState"] == states[expected]
    else:
        assert (stored is not None) is done
    # The fault that matched is used up. The fault that did not match any request remains.
    assert [fault.path for fault in arm.faults] == ["never"]
    put()
    assert arm.resources[rule_id(arm, "rule1").lower()]["properties"]["priority"] == 100


def test_another_client_can_act_between_two_requests(arm: AzureArm, http_of) -> None:
    before = http_of("GET", nsg_id(arm)).json()["etag"]
    arm.faults.append(Fault("PUT", "rules/mine", faults.first(lambda: arm.put(rule_id(arm, "theirs"), rule()))))
    own_write = http_of("PUT", rule_id(arm, "mine"), rule(priority=200), **{"If-Match": before})
    assert code(own_write) == (412, "PreconditionFailed")
    assert rule_id(arm, "theirs").lower() in arm.resources


def test_a_failed_deletion_leaves_the_rule(arm: AzureArm, network: NetworkManagementClient) -> None:
    arm.put(rule_id(arm, "rule1"), rule())
    arm.faults.append(Fault("DELETE", "rule1", faults.operation_fails("OperationFailed")))
    with pytest.raises(HttpResponseError, match="OperationFailed"):
        network.security_rules.begin_delete("rg1", "nsg1", "rule1").result()
    assert arm.resources[rule_id(arm, "rule1").lower()]["properties"]["priority"] == 100


def test_a_snapshot_restores_the_resources(arm: AzureArm, http_of) -> None:
    snapshot, before = arm.snapshot(), arm.resources
    untouched = copy.deepcopy(snapshot)
    put = http_of("PUT", rule_id(arm, "rule1"), rule())
    assert arm.take_requests() == [("PUT", rule_id(arm, "rule1"))]
    assert arm.take_requests() == []
    assert arm.resources != before
    arm.restore(snapshot)
    assert arm.resources == before
    operation = put.headers["Azure-AsyncOperation"].removeprefix(arm.endpoint_url)
    assert code(http_of("GET", operation)) == (404, "OperationNotFound")
    arm.put(rule_id(arm, "rule1"), rule())
    arm.delete(rule_id(arm, "rule1"))
    assert snapshot == untouched
    assert list(arm.resources) == list(before)


def test_one_connection_carries_many_requests(arm: AzureArm) -> None:
    token = secret(arm).get_token(scope(arm)).token
    endpoint = urlsplit(arm.endpoint_url)
    context = ssl.create_default_context(cafile=str(arm.ca_file))
    connection = http.client.HTTPSConnection(endpoint.hostname, endpoint.port, context=context, timeout=9)
    connection.connect()
    first = connection.sock
    for body in (None, json.dumps({"tags": {"a": "b"}}), None):
        connection.request(
            "PATCH" if body else "GET",
            f"{nsg_id(arm)}?api-version={VERSION}",
            body,
            {"Authorization": f"Bearer {token}"},
        )
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        assert connection.sock is first
    connection.close()


# -- The real az -------------------------------------------------------------------------------


def test_az_reads_and_deletes(arm: AzureArm, tmp_path) -> None:
    """In test_documented_procedure.py, az creates rules."""
    side = create_cloud_side(arm, workers=2)
    az = Az(arm, tmp_path / "az")
    rule = {
        "priority": 111,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "Tcp",
        "sourceAddressPrefix": WORKER_SUBNET_CIDR,
        "sourcePortRange": "*",
        "destinationAddressPrefix": WORKER_SUBNET_CIDR,
        "destinationPortRange": "9000",
    }
    arm.put(f"{side.nsg_id}/securityRules/vxlan", {"properties": rule})
    nsg = ("--resource-group", side.resource_group, "--nsg-name", side.nsg_id.rpartition("/")[2])
    shown_rule = json.loads(az.run("network", "nsg", "rule", "show", *nsg, "--name", "vxlan"))
    assert rule.items() <= shown_rule.items()
    az.run("network", "nsg", "rule", "delete", *nsg, "--name", "vxlan")
    listed = az.run("network", "nsg", "rule", "list", *nsg, "--query", "[].name", "-o", "tsv")
    assert listed.split()
    assert "vxlan" not in listed.split()
    cards = az.run("network", "nic", "list", "-g", side.resource_group, "--query", "[].name")
    assert json.loads(cards) == [f"{worker.name}-nic" for worker in side.workers]
    usage = json.loads(az.run("vm", "list-usage", "--location", "westeurope"))
    assert {core_usage["name"]["value"]: core_usage["currentValue"] for core_usage in usage}["cores"] == "16"
    # The commands of the image job of the operator (azure-podvm-image-handler.sh).
    gallery = ("--resource-group", side.resource_group, "--gallery-name", "PodVMGallery_0f9f3c6e")
    definition = (*gallery, "--gallery-image-definition", "podvm-image")
    az.run("sig", "create", *gallery)
    names = ("--publisher", "RedHat", "--offer", "OSC-PodVM", "--sku", "OSC-PodVM")
    kind = ("--os-type", "Linux", "--os-state", "Generalized", "--hyper-v-generation", "V2", "--architecture", "x64")
    az.run("sig", "image-definition", "create", *definition, *names, *kind, "--location", "westeurope")
    disk = ("--os-vhd-uri", "https://oscsa.blob.core.windows.net/a/b", "--os-vhd-storage-account", "oscsa")
    version = (*definition, "--gallery-image-version", "262093934.0.1")
    az.run("sig", "image-version", "create", *version, *disk, "--target-regions", "westeurope")
    name, group = (
        "oscsapodvmimage262093934",
        f"/subscriptions/{arm.subscription_id}/resourceGroups/{side.resource_group}",
    )
    place = {"location": "westeurope", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
    arm.put(f"{group}/providers/Microsoft.Storage/storageAccounts/{name}", place)
    storage = ("--name", name, "--resource-group", side.resource_group)
    shown = json.loads(az.run("storage", "account", "show", *storage))
    assert (shown["sku"]["tier"], shown["kind"], shown["provisioningState"]) == ("Standard", "StorageV2", "Succeeded")
    account = json.loads(az.run("account", "show"))
    assert (account["id"], account["tenantId"]) == (arm.subscription_id, arm.tenant_id)


# -- The cluster's side ------------------------------------------------------------------------


def test_the_cloud_side_of_a_cluster(arm: AzureArm, network: NetworkManagementClient) -> None:
    side = create_cloud_side(arm, workers=65)
    group, names = side.resource_group, [worker.name for worker in side.workers]
    assert len(set(names)) == len({worker.internal_ip for worker in side.workers}) == 65
    subnet = network.subnets.get(group, *side.worker_subnet_id.split("/")[-3::2])
    assert subnet.properties.network_security_group.id == side.nsg_id
    assert len(subnet.properties.ip_configurations) == 65
    cards = {card.properties.virtual_machine.id: card for card in network.network_interfaces.list(group)}
    for worker in side.workers:
        machine = worker.provider_id.removeprefix("azure://")
        (address,) = cards[machine].properties.ip_configurations
        assert address.properties.private_ip_address == worker.internal_ip
        assert arm.resources[machine.lower()]["zones"] == [worker.zone.rpartition("-")[2]]
    security_group = network.network_security_groups.get(group, side.nsg_id.rpartition("/")[2])
    deny = {stored_rule.name: stored_rule.properties for stored_rule in security_group.properties.security_rules}[
        "deny-vnet-inbound"
    ]
    assert (deny.priority, deny.access) == (4000, "Deny")
