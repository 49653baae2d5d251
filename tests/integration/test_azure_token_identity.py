"""The module azure_token_identity against the emulated Azure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import IMAGE_ACTIONS
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientAssertionCredential
from azure.mgmt.network import NetworkManagementClient

from tests.azure_arm import AzureArm, roles
from tests.azure_arm.faults import Fault, PassOn, authorization_failed, refuse
from tests.azure_arm.ids import VMS
from tests.azure_arm.wire import Answer, Request
from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, ROOT, ansible_environment, local_play, service_account_token

ISSUER = "https://demooidc.blob.core.windows.net/demo"
GROUP, NETWORK = "identity-rg", "identity-network-rg"
CLUSTER = {
    "cluster_name": "demo-7x2kq",
    "cluster_id": "uuid",
    "issuer": ISSUER,
    "resource_group": GROUP,
    "scopes": [GROUP, NETWORK],
    "location": "westeurope",
}
NAME = "demo-7x2kq-peer-pods"
ADDRESSES = {"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}}
VM_ROLES = ["Reader", "Virtual Machine Contributor", "Network Contributor"]
IMAGE_ROLES = ["Storage Account Contributor", "Compute Gallery Artifacts Publisher"]


def changes(verb: str, names: list[str]) -> list[str]:
    return [f"{verb} {name} in {group}" for group in (GROUP, NETWORK) for name in names]


@pytest.fixture(scope="module")
def azure(arm: AzureArm) -> Iterator[AzureArm]:
    before = arm.snapshot()
    for name in (GROUP, NETWORK):
        arm.put(f"/subscriptions/{arm.subscription_id}/resourceGroups/{name}", {"location": "westeurope"})
    arm.permissions = [roles.OWNER]
    yield arm
    arm.permissions = [roles.CONTRIBUTOR]
    arm.identities.stored.clear()
    arm.restore(before)


@pytest.fixture
def info(azure: AzureArm, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def info(identity: str | None, **args: Any) -> dict:
        groups = {"resource_group": GROUP, "network_resource_group": NETWORK}
        defaults = {"identity_client_id": identity, **groups, "issuer": ISSUER}
        return run_module("azure_token_identity_info", {**defaults, **args}, env=azure.environment)

    return info


@pytest.fixture
def run(azure: AzureArm, run_module: Callable[..., dict]) -> Callable[..., dict]:
    def run(args: dict | None = None, **modes: Any) -> dict:
        return run_module("azure_token_identity", {**CLUSTER, **(args or {})}, env=azure.environment, **modes)

    return run


def test_without_the_permission_for_assignments_the_rest_is_reported(azure: AzureArm, run):
    azure.permissions = [roles.CONTRIBUTOR]
    failed = run()
    azure.permissions = [roles.OWNER]
    assert "Microsoft.Authorization/roleAssignments/write" in failed["msg"]
    assert failed["msg"].endswith("Before, this run did: create identity, create federated credential default.")
    assert failed["changed"]


def test_the_next_run_completes_it(azure: AzureArm, run):
    predicted = run({"image": True}, check=True)
    created = run({"image": True})
    for group in (GROUP, NETWORK):
        expected = [f"assign {name} in {group}" for name in (*VM_ROLES, *IMAGE_ROLES)]
        assert [each for each in created["changes"] if each.endswith(f" {group}")] == expected
    assert predicted["changes"] == created["changes"]
    (identity,) = azure.identities.of_type("Microsoft.ManagedIdentity/userAssignedIdentities")
    assert identity["name"] == NAME
    assert created["identity"] == {
        "name": NAME,
        "client_id": identity["properties"]["clientId"],
        "principal_id": identity["properties"]["principalId"],
        "tenant_id": azure.tenant_id,
        "owned": True,
    }
    (credential,) = azure.identities.of_type(
        "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials"
    )
    # As ccoctl creates it, with the name of the service account.
    assert credential["name"] == "default"
    assert credential["properties"] == {
        "issuer": ISSUER,
        "subject": "system:serviceaccount:openshift-sandboxed-containers-operator:default",
        "audiences": ["openshift"],
    }
    again = run({"image": True})
    assert (again["changed"], again["changes"]) == (False, [])


def test_the_roles_for_an_image_are_removed(azure: AzureArm, run):
    assert run()["changes"] == changes("unassign", IMAGE_ROLES)
    assert not run()["changed"]


def test_the_emulated_azure_accepts_the_token_that_the_credential_describes(azure: AzureArm, run):
    """And permits what is assigned to the identity, where it is assigned."""
    client_id = run()["identity"]["client_id"]
    connection = {"connection_verify": str(azure.ca_file)}

    def logged_in(token: str) -> ClientAssertionCredential:
        options = {"authority": azure.endpoint_url, "disable_instance_discovery": True, **connection}
        return ClientAssertionCredential(azure.tenant_id, client_id, lambda: token, **options)

    scope = f"{azure.endpoint_url}/.default"
    for token, error in (
        (service_account_token("https://kubernetes.default.svc"), "AADSTS700211"),
        (service_account_token(ISSUER, account="other"), "AADSTS700213"),
        (service_account_token(ISSUER, audience="sts.amazonaws.com"), "AADSTS700212"),
    ):
        with pytest.raises(ClientAuthenticationError, match=f"{error}: No matching federated identity record found"):
            logged_in(token).get_token(scope)
    credential = logged_in(service_account_token(ISSUER))
    settings = {"base_url": azure.endpoint_url, "credential_scopes": [scope], **connection}
    groups = NetworkManagementClient(credential, azure.subscription_id, **settings).network_security_groups
    assert list(groups.list(NETWORK)) == []
    azure.put(f"/subscriptions/{azure.subscription_id}/resourceGroups/other-rg", {"location": "westeurope"})
    with pytest.raises(HttpResponseError, match="does not have authorization to perform action"):
        list(groups.list("other-rg"))
    azure.delete(f"/subscriptions/{azure.subscription_id}/resourceGroups/other-rg")


def test_an_identity_that_was_given_is_checked(azure: AzureArm, run, info):
    """What azure_token_identity creates is what the check requires."""
    client_id = run()["identity"]["client_id"]
    checked = info(client_id)
    assert checked["tenant_id"] == azure.tenant_id
    assert (checked["problems"], checked["denied"], checked["unknown"]) == ([], [], "")
    # Reader has the others, and Virtual Machine Contributor the keys.
    missing = [f"{action} in {GROUP}" for action in IMAGE_ACTIONS if action.endswith(("/write", "/delete"))]
    assert info(client_id, image=True)["denied"] == missing
    (problem,) = info(client_id, namespace="other")["problems"]
    assert problem.startswith(
        f"cloud-api-adaptor cannot use the managed identity {NAME}. It has no federated credential"
    )
    assert "the subject system:serviceaccount:other:default" in problem
    assert "have no public issuer" in info(client_id, issuer="")["problems"][0]
    assert "has no user-assigned managed identity with the client ID other" in info("other")["unknown"]


def test_the_actions_of_a_custom_role_are_sufficient(azure: AzureArm, run, info):
    """And those that it excludes, or a deny assignment denies, are missing."""
    client_id = run()["identity"]["client_id"]
    kept = dict(azure.identities.stored)
    subscription, number = f"/subscriptions/{azure.subscription_id}", "7d5c0a31-0f6c-4c8d-a9f0-1d7d2f5d3c11"
    assignments = {key: body for key, body in kept.items() if body["type"].endswith("/roleAssignments")}
    key, assignment = next(iter(assignments.items()))
    definition = f"{subscription}/providers/Microsoft.Authorization/roleDefinitions/{number}"
    properties = {**assignment["properties"], "roleDefinitionId": definition, "scope": subscription}
    for other in assignments:
        del azure.identities.stored[other]
    azure.identities.stored[key] = {**assignment, "properties": properties}
    actions = json.loads((ROOT / "docs/policies/azure-pod-vms.json").read_text())["Actions"]
    azure.identities.custom_roles[number] = ("Peer pod VMs", {"actions": actions, "notActions": []})
    azure.take_requests()
    assert info(client_id)["denied"] == []
    # The identities, the credentials, the assignments, one role, and the deny assignments.
    assert len(azure.take_requests()) == 5
    excluded = {"actions": ["*"], "notActions": ["Microsoft.Network/*/join/action"]}
    azure.identities.custom_roles[number] = ("Peer pod VMs", excluded)
    joins = ["networkInterfaces", "networkSecurityGroups"]
    missing = [f"Microsoft.Network/{each}/join/action in {GROUP}" for each in joins]
    assert info(client_id)["denied"] == [
        *missing,
        f"Microsoft.Network/virtualNetworks/subnets/join/action in {NETWORK}",
    ]
    azure.identities.custom_roles[number] = ("Peer pod VMs", {"actions": ["*"], "notActions": []})
    denial = {
        "denyAssignmentName": "managed",
        "scope": f"{subscription}/resourceGroups/{GROUP}",
        "principals": [{"id": "00000000-0000-0000-0000-000000000000", "type": "SystemDefined"}],
        "permissions": [{"actions": ["Microsoft.Compute/virtualMachines/write"], "notActions": []}],
    }
    azure.identities.denials = [{"name": "d1", "properties": denial}]
    assert info(client_id)["denied"] == [
        f"Microsoft.Compute/virtualMachines/write in {GROUP} (deny assignment managed)"
    ]
    azure.identities.denials, azure.identities.custom_roles = [], {}
    azure.identities.stored = kept


def test_the_identity_of_the_login_is_checked(azure: AzureArm, info):
    """As for a service principal that is given."""
    assert (info(None, image=True)["denied"], info(None)["problems"]) == ([], [])
    azure.permissions = [roles.VIRTUAL_MACHINE_CONTRIBUTOR, roles.READER]
    missing = [f"{action} in {GROUP}" for action in IMAGE_ACTIONS if action.endswith(("/write", "/delete"))]
    assert info(None, image=True)["denied"] == missing
    # A role on the subnet itself.
    subnet = f"/subscriptions/{azure.subscription_id}/resourceGroups/{NETWORK}/providers/Microsoft.Network"
    subnet += "/virtualNetworks/v/subnets/vms"
    azure.put(subnet.rpartition("/subnets/")[0], {"location": "westeurope", "properties": ADDRESSES})
    azure.put(subnet, {"properties": {"addressPrefix": "10.9.1.0/24"}})
    azure.permissions = [roles.READER]
    join = "Microsoft.Network/virtualNetworks/subnets/join/action"
    assert f"{join} in vms" in info(None, subnet=subnet)["denied"]
    azure.permissions_on = {subnet: [roles.NETWORK_CONTRIBUTOR]}
    denied = info(None, subnet=subnet)["denied"]
    assert denied
    assert not [each for each in denied if each.startswith(join)]
    # Another check reports that it does not exist.
    assert f"{join} in none" in info(None, subnet=subnet.replace("vms", "none"))["denied"]
    azure.permissions, azure.permissions_on = [roles.OWNER], {}
    (problem,) = info(None, client_id=azure.client_id, secret="expired", tenant=azure.tenant_id)["problems"]
    assert problem.startswith("Azure rejects the login as this identity. Authenticating to Azure failed: ")


def test_an_identity_of_another_owner_is_neither_changed_nor_removed(azure: AzureArm, run):
    before = dict(azure.identities.stored)
    assert "this collection did not create it for this cluster" in run({"cluster_id": "another"})["msg"]
    assert not run({"cluster_id": "another", "state": "absent"})["changed"]
    assert "have no public issuer" in run({"issuer": ""})["msg"]
    assert azure.identities.stored == before


@pytest.mark.parametrize("kind", ["identity", "assignment"])
def test_what_another_client_creates_at_the_same_time(azure: AzureArm, run, kind: str):
    """Azure has no etags for them, so an identity is read after its creation."""

    def overwrite(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on()
        (identity,) = (body for body in azure.identities.stored.values() if body["name"] == "raced")
        identity["tags"] = {"of": "another"}
        return answer

    if kind == "identity":
        azure.faults += [Fault("PUT", "/userAssignedIdentities/raced$", overwrite)]
        failed = run({"name": "raced"})
        assert (
            "The managed identity raced exists, and this collection did not create it for this cluster" in failed["msg"]
        )
        assert failed["msg"].endswith("Before, this run did: create identity.")
    else:
        azure.faults += [Fault("PUT", "/roleAssignments/", refuse(409, "RoleAssignmentExists"))]
        result = run({"name": "raced"})
        assert changes("assign", VM_ROLES)[0] not in result["changes"]
        assert changes("assign", VM_ROLES)[1] in result["changes"]
        assert run({"name": "raced", "state": "absent"})["changed"]
    for key in [key for key in azure.identities.stored if "/raced" in key]:
        del azure.identities.stored[key]


def test_an_identity_that_others_use_stays(azure: AzureArm, run):
    (identity,) = azure.identities.of_type("Microsoft.ManagedIdentity/userAssignedIdentities")
    (credential,) = (body for body in azure.identities.stored.values() if body["name"] == "default")
    mine = {**credential, "id": credential["id"].replace("default", "mine"), "name": "mine"}
    azure.identities.stored[mine["id"].lower()] = mine
    before = dict(azure.identities.stored)
    failed = run({"state": "absent"})
    assert (failed["left"], failed["in_use"]) == ([identity["id"]], True)
    assert f"has the federated credential mine of the issuer {ISSUER} for the subject system:" in failed["msg"]
    assert (failed["changed"], azure.identities.stored) == (False, before)
    del azure.identities.stored[mine["id"].lower()]
    machine = f"/subscriptions/{azure.subscription_id}/resourceGroups/{GROUP}/providers/{VMS}/vm-0"
    used = {"type": "UserAssigned", "userAssignedIdentities": {identity["id"]: {}}}
    azure.put(machine, {"location": "westeurope", "identity": used, "properties": {}})
    assert f"has vm-0 ({VMS}), which this collection did not add" in run({"state": "absent"})["msg"]
    azure.delete(machine)
    azure.faults.append(Fault("GET", "/resources$", authorization_failed))
    failed = run({"state": "absent"})
    assert (failed["changed"], failed["left"], failed["in_use"]) == (False, [identity["id"]], False)
    assert identity["id"].lower() in azure.identities.stored


def test_the_identity_is_removed_with_its_assignments(azure: AzureArm, run):
    assert run({"state": "absent"}, check=True)["changed"]
    removed = run({"state": "absent", "issuer": ""})
    assert removed["changes"][-1] == f"delete identity {NAME}"
    assert azure.identities.stored == {}
    assert not run({"state": "absent"})["changed"]
    assert not run({"state": "absent", "resource_group": "removed-rg"})["changed"]
    # A dry run without the identity does not know its principal.
    assert run(check=True)["changes"] == [
        "create identity",
        "create federated credential default",
        *changes("assign", VM_ROLES),
    ]


def test_an_identity_is_found_by_its_tags(run):
    """Also if its name is not given again."""
    named = run({"name": "mine"})["identity"]
    found = run({"image": True})
    assert (found["identity"]["name"], found["identity"]["client_id"]) == ("mine", named["client_id"])
    assert found["changes"] == changes("assign", IMAGE_ROLES)
    # A given name is that of another identity.
    assert run({"name": "other"}, check=True)["changes"][0] == "create identity"
    removed = run({"state": "absent"})
    assert (removed["identity"]["name"], removed["changes"][-1]) == ("mine", "delete identity mine")


def test_an_identity_in_another_resource_group_is_removed(azure: AzureArm, run):
    """The option with the resource group of the VMs is not given again."""
    assert run({"resource_group": NETWORK})["changed"]
    assert run({"state": "absent"})["changes"][-1] == f"delete identity {NAME}"
    assert azure.identities.stored == {}
    azure.take_requests()
    assert not run({"state": "absent"})["changed"]
    assert len(azure.take_requests()) == 2


STATE = {
    "objects": [],
    "catalogs": [],
    "subscription": None,
    "pod_vm_image": {"key": "AZURE_IMAGE_ID", "id": "", "kept": "", "gallery": "", "is_created": False},
}
MANAGED = "aro-rg"
PLANNED = "00000000-0000-0000-0000-000000000000"


def test_the_role_passes_the_identity_to_the_operator(azure: AzureArm, tmp_path: Path):
    """In the plan, before anything is changed, the client ID is not known. test_site.py has the same on AWS with an
    operator; then a teardown removes the identity, for which there is no cluster here.

    On Azure Red Hat OpenShift, nothing can be created in the resource group of the cluster.
    """

    def tasks(name: str, **variables: object) -> dict:
        return {
            "ansible.builtin.include_role": {"name": "osc.peerpods.operator_install", "tasks_from": name},
            "vars": variables,
        }

    given = {
        "operator_install_azure_identity_client_id": PLANNED,
        "operator_install_found_azure_tenant_id": "",
        "cluster_prerequisites_given_identity": {"tenant_id": azure.tenant_id},
    }
    show = {"ansible.builtin.debug": {"msg": "{{ operator_install_plan.subscription }}"}}
    variables = {
        "cluster_prerequisites_cluster": {
            "platform": "Azure",
            "region": "westeurope",
            "infrastructure_name": "demo-7x2kq",
            "cluster_id": "uuid",
            "resource_group": MANAGED,
            "network_resource_group": NETWORK,
            "subscription_id": azure.subscription_id,
            "details": {
                "aro": {"resource_group": MANAGED, "manages_nsgs": False},
                "credentials": {"mode": "Manual", "issuer": ISSUER, "root": None, "secret": None},
            },
        },
        "operator_install_azure_resource_group": GROUP,
        "operator_install_create_identity": "true",
        "operator_install_state": STATE,
    }
    # The preflight checks the service principal that is set, also if this run has another login.
    principal = {
        "environment": {"ANSIBLE_AZURE_AUTH_SOURCE": "cli"},
        "block": [
            {
                "ansible.builtin.include_role": {
                    "name": "osc.peerpods.cluster_prerequisites",
                    "tasks_from": "azure_given",
                },
                "vars": {
                    "operator_install_azure_client_id": azure.environment["AZURE_CLIENT_ID"],
                    "operator_install_azure_client_secret": azure.environment["AZURE_CLIENT_SECRET"],
                    "cluster_prerequisites_cluster": {
                        **variables["cluster_prerequisites_cluster"],
                        "resource_group": GROUP,
                    },
                },
            }
        ],
    }
    of_principal = "Problems: {{ cluster_prerequisites_given_principal.problems }}"
    play = local_play(
        vars=variables,
        tasks=[
            tasks("create_identity", operator_install_identity_is_planned=True),
            show,
            tasks("create_identity", operator_install_identity_name="mine"),
            show,
            # Without its name, and without the Subscription that has its client ID.
            tasks("remove_identity_azure"),
            # The tenant of an identity that is set, after a login without AZURE_TENANT_ID.
            tasks("plan", **given),
            show,
            principal,
            {"ansible.builtin.debug": {"msg": of_principal}},
        ],
    )
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(play))
    environment = ansible_environment({**JSON_OUTPUT, **azure.environment})
    azure.take_requests()
    completed = run_playbook(["ansible-playbook", str(playbook)], environment, ROOT)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Problems: []" in completed.stdout
    shown = [
        task["hosts"]["localhost"]["msg"]["config"]["env"]
        for each in json.loads(completed.stdout)["plays"]
        for task in each["tasks"]
        if "config" in (task["hosts"]["localhost"].get("msg") or "")
    ]
    planned, created, of_given = ({entry["name"]: entry["value"] for entry in env} for env in shown)
    rest = {"TENANTID": azure.tenant_id, "SUBSCRIPTIONID": azure.subscription_id}
    assert planned == of_given == {"CLIENTID": PLANNED, **rest}
    assert created == {"CLIENTID": created["CLIENTID"], **rest}
    assert created["CLIENTID"] not in (PLANNED, "")
    assert azure.identities.stored == {}
    assert not [path for _method, path in azure.take_requests() if f"/{MANAGED}/" in path]
