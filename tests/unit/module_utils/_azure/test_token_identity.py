"""Which changes give a managed identity its credential and its roles, and what one that was given lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import Access
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import (
    IMAGE_ROLES,
    VM_ROLES,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.token_identity import (
    Cluster,
    Existing,
    assignment_name,
    credential_problems,
    identity_path,
    issuer_problem,
    missing_actions,
    own_identities,
    owner_problem,
    plan_identity,
    plan_removal,
    plan_roles,
    removal_problem,
    unclear_actions,
)

CLUSTER = Cluster("demo-7x2kq", "uuid", "https://oidc.example.com/demo", "osc", "westeurope")
PATH = identity_path("s", "demo-rg", CLUSTER, "")
SCOPE = "/subscriptions/s/resourceGroups/demo-rg"
ROLES = {role: f"/subscriptions/s/providers/x/{role.replace(' ', '-')}" for role in (*VM_ROLES, *IMAGE_ROLES)}
TRUST = {
    "issuer": CLUSTER.issuer,
    "subject": "system:serviceaccount:osc:default",
    "audiences": ["openshift"],
}
TAGS = {"osc.peerpods.managed": "true", "osc.peerpods.cluster.uuid": "demo-7x2kq"}
IDENTITY = {"id": PATH, "name": "i", "tags": {**TAGS, "team": "a"}, "properties": {"principalId": "p", "clientId": "c"}}


def assignment(role: str, scope: str = SCOPE, name: str = "") -> dict:
    named = name or assignment_name(SCOPE, "p", role)
    properties = {"roleDefinitionId": ROLES[role], "scope": scope, "principalId": "p"}
    return {"id": f"{scope}/{named}", "name": named, "properties": properties}


COMPLETE = Existing(IDENTITY, [{"name": "default", "properties": TRUST}], [assignment(role) for role in VM_ROLES])
WITH_IMAGE = replace(COMPLETE, assignments=[assignment(role) for role in (*VM_ROLES, *IMAGE_ROLES)])


OTHER_SUBJECT = "system:serviceaccount:payments:uploader"
UPDATE = "update federated credential default"


def with_credentials(**changes: dict) -> Existing:
    listed = [{"name": name, "properties": {**TRUST, **each}} for name, each in changes.items()]
    return replace(COMPLETE, credentials=listed)


def roles(existing: Existing, *, image: bool = False) -> list[str]:
    return [str(change) for change in plan_roles(existing, CLUSTER, [SCOPE], ROLES, image=image, principal_id="p")]


def test_the_name_is_that_of_the_cluster():
    assert PATH.endswith("/userAssignedIdentities/demo-7x2kq-peer-pods")
    assert identity_path("s", "g", CLUSTER, "mine").endswith("/mine")


@pytest.mark.parametrize(
    ("existing", "changes"),
    [
        (Existing(), ["create identity", "create federated credential default"]),
        (COMPLETE, []),
        (replace(COMPLETE, credentials=[]), ["create federated credential default"]),
        (with_credentials(default={"audiences": ["x"]}), [UPDATE]),
        (with_credentials(**{"default": {"issuer": "https://b"}, "default-2": {"audiences": ["x"]}}), [f"{UPDATE}-2"]),
        # Another service account uses the identity.
        (with_credentials(default={"subject": OTHER_SUBJECT}), ["create federated credential default-2"]),
        (with_credentials(Default={"subject": OTHER_SUBJECT}), ["create federated credential default-2"]),
        # Another cluster uses the identity.
        (with_credentials(default={"issuer": "https://b"}), ["create federated credential default-2"]),
        (with_credentials(**{"default": {"issuer": "https://b"}, "default-2": {}}), []),
        (
            with_credentials(**{"default": {"issuer": "https://b"}, "default-2": {"issuer": "https://c"}}),
            ["create federated credential default-3"],
        ),
        (with_credentials(mine={}), []),
    ],
)
def test_the_identity_and_its_credential(existing: Existing, changes: list[str]):
    planned = plan_identity(PATH, existing, CLUSTER)
    assert [str(change) for change in planned] == changes
    for change in planned:
        expected = {"properties": TRUST} if "credential" in str(change) else {"location": "westeurope", "tags": TAGS}
        assert change.body == expected


def test_the_roles_that_are_missing_are_assigned():
    of_vms = [f"assign {role} in demo-rg" for role in VM_ROLES]
    assert roles(Existing()) == of_vms
    assert roles(Existing(), image=True) == [*of_vms, *(f"assign {role} in demo-rg" for role in IMAGE_ROLES)]
    assert roles(COMPLETE) == roles(WITH_IMAGE, image=True) == []
    # An assignment of another owner is sufficient, one in another scope or of the subscription is not ours to rely on.
    others = [assignment("Reader", name="x"), assignment("Network Contributor", scope="/subscriptions/s")]
    assert roles(Existing(IDENTITY, None, others)) == [
        "assign Virtual Machine Contributor in demo-rg",
        "assign Network Contributor in demo-rg",
    ]


def test_the_roles_for_an_image_are_unassigned_if_this_collection_assigned_them():
    assert roles(WITH_IMAGE) == [f"unassign {role} in demo-rg" for role in IMAGE_ROLES]
    others = [assignment(role, name="x") for role in IMAGE_ROLES]
    assert roles(replace(COMPLETE, assignments=[*COMPLETE.assignments, *others])) == []


def test_an_identity_is_removed_with_its_assignments():
    planned = [change.path for change in plan_removal(COMPLETE, CLUSTER)]
    assert planned == [*(each["id"] for each in COMPLETE.assignments), PATH]


@pytest.mark.parametrize(
    ("assignments", "credentials", "uses", "problem"),
    [
        ([], {"default": CLUSTER.issuer}, {}, ""),
        ([assignment("Reader", name="mine")], {}, {}, f"has the role assignment mine in {SCOPE}, which"),
        # The name of an assignment is that of its scope.
        (
            [assignment("Reader", scope="/subscriptions/s", name=assignment_name(SCOPE, "p", "Reader"))],
            {},
            {},
            "in /subscriptions/s, which",
        ),
        (
            [],
            {"default": CLUSTER.issuer, "app": CLUSTER.issuer},
            {},
            f"credential app of the issuer {CLUSTER.issuer} for the subject {CLUSTER.subject}, which",
        ),
        ([], {"default": CLUSTER.issuer, "default-2": CLUSTER.issuer}, {}, ""),
        # Another cluster uses the identity, and has replaced the credential.
        ([], {"default": "https://b"}, {}, "has the federated credential default of the issuer https://b for"),
        (
            [],
            {},
            {"userAssignedIdentities": {PATH.upper(): {}}},
            "has a (Microsoft.Compute/virtualMachineScaleSets), w",
        ),
        ([], {}, {"userAssignedIdentities": {f"{PATH}2": {}}}, ""),
        ([], {}, {"type": "SystemAssigned"}, ""),
    ],
)
def test_an_identity_that_others_use_is_not_removed(
    assignments: list[dict], credentials: dict[str, str], uses: dict, problem: str
):
    listed = [{"name": name, "properties": {**TRUST, "issuer": issuer}} for name, issuer in credentials.items()]
    existing = replace(COMPLETE, assignments=[*COMPLETE.assignments, *assignments], credentials=listed)
    resources = [{"name": "a", "type": "Microsoft.Compute/virtualMachineScaleSets", "identity": uses}, {"name": "b"}]
    found = removal_problem(existing, CLUSTER, resources)
    assert problem in found
    assert bool(found) is bool(problem)
    # A teardown that does not know the issuer.
    unknown = removal_problem(existing, replace(CLUSTER, issuer=""), resources)
    assert bool(unknown) is ((bool(problem) and "https://b" not in problem) or "default-2" in credentials)
    # Ours only, whatever others have added.
    planned = [change.path for change in plan_removal(existing, CLUSTER)]
    assert planned == [*(each["id"] for each in COMPLETE.assignments), PATH]


@pytest.mark.parametrize("issuer", [CLUSTER.issuer, ""])
@pytest.mark.parametrize("name", ["default", "default-2"])
def test_an_identity_that_another_service_account_uses_is_not_removed(name: str, issuer: str):
    existing = with_credentials(**{name: {"subject": OTHER_SUBJECT}})
    problem = removal_problem(existing, replace(CLUSTER, issuer=issuer), [])
    assert f"the federated credential {name} of the issuer {CLUSTER.issuer} for the subject {OTHER_SUBJECT}" in problem


OF_ANOTHER = replace(COMPLETE, identity={**IDENTITY, "tags": {"team": "a"}})


@pytest.mark.parametrize("existing", [Existing(), OF_ANOTHER])
def test_an_identity_of_another_owner_is_not_removed(existing: Existing):
    assert plan_removal(existing, CLUSTER) == []


def test_the_identities_of_the_cluster_are_found_by_their_tags():
    """That with the default name comes first, whatever the spelling of its ID."""
    other = {"id": PATH.replace("demo-7x2kq-peer-pods", "a"), "name": "a", "tags": TAGS, "properties": {}}
    of_another = {**other, "tags": {**TAGS, "osc.peerpods.cluster.uuid": "demo-another"}}
    default = {**IDENTITY, "id": PATH.lower()}
    listed = [other, of_another, {**other, "tags": None}, default]
    assert own_identities(listed, PATH, CLUSTER) == [default, other]


def test_an_identity_of_another_owner_is_not_changed():
    problem = owner_problem(OF_ANOTHER, CLUSTER)
    assert "this collection did not create it for this cluster" in problem
    assert "set operator_install_azure_identity_client_id to c" in problem
    assert owner_problem(COMPLETE, CLUSTER) == owner_problem(Existing(), CLUSTER) == ""


def test_a_cluster_without_an_issuer():
    assert issuer_problem(CLUSTER) == ""
    assert "have no public issuer" in issuer_problem(replace(CLUSTER, issuer=""))


@pytest.mark.parametrize(
    ("changes", "is_trusted"),
    [
        ({}, True),
        ({"audiences": ["other", "openshift"]}, True),
        ({"audiences": ["api://AzureADTokenExchange"]}, False),
        ({"subject": "system:serviceaccount:osc:other"}, False),
        ({"issuer": "https://other"}, False),
    ],
)
def test_the_credential_of_an_identity_that_was_given(changes: dict, is_trusted: bool):
    problems = list(credential_problems([{"properties": {}}, {"properties": {**TRUST, **changes}}], CLUSTER))
    assert bool(problems) is not is_trusted


def test_an_action_that_is_permitted_on_a_single_resource_is_neither_missing_nor_checked():
    gallery = f"{SCOPE}/providers/Microsoft.Compute/galleries/g"
    assigned = [{"properties": {"roleDefinitionId": "R", "scope": gallery}}]
    access = Access("p", assigned, {"r": [{"actions": ["*"]}]})
    write = "Microsoft.Compute/galleries/write"
    required = [(SCOPE, (write, "Microsoft.Compute/virtualMachines/write"))]
    assert missing_actions(access, required) == ["Microsoft.Compute/virtualMachines/write in demo-rg"]
    assert unclear_actions(access, required) == (
        f"Roles of the identity permit only on single resources: {write} on g. Whether the VMs and their image use "
        "these was not checked."
    )
    assert unclear_actions(Access("p", [], {}), required) == ""
