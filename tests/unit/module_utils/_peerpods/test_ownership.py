from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import plan_removal
from hypothesis import given
from hypothesis import strategies as st

NAMESPACED = {
    ("", "ConfigMap"),
    ("", "Pod"),
    ("", "Secret"),
    ("", "Service"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("operators.coreos.com", "Subscription"),
}
OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}
CSV = "sandboxed-containers-operator.v1.13.0"


def written_by(*managers: str) -> dict:
    return {"managedFields": [{"manager": manager} for manager in managers]}


def image_settings_of_job(**data: dict) -> dict:
    """aws-podvm-image-cm of the operator, to which its image job has written as well."""
    fields = {"f:data": {f"f:{key}": value for key, value in data.items()}}
    job = {"manager": "kubectl-patch", "operation": "Update", "fieldsV1": fields}
    return an("ConfigMap", "aws-podvm-image-cm", managedFields=[{"manager": "manager"}, job])


def an(kind: str, name: str, *, owners: tuple[dict, ...] = (), **metadata: object) -> dict:
    return {
        "group": "",
        "kind": kind,
        "metadata": {"name": name, "uid": f"{kind}/{name}", "ownerReferences": list(owners), **metadata},
    }


def owner(kind: str, name: str, api_version: str = "v1") -> dict:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": f"{kind}/{name}"}


MINE = an("ConfigMap", "mine")
DEPLOYMENT = owner("Deployment", "app", "apps/v1")
REPLICA_SET = an("ReplicaSet", "app-1", owners=(DEPLOYMENT,))
POD = an("Pod", "app-1-x", owners=(owner("ReplicaSet", "app-1", "apps/v1"),))
KATA_CONFIG = owner("KataConfig", "example", "kataconfiguration.openshift.io/v1")

# What keeps the namespace of the operator: the reference that is reported, and the objects.
OTHERS = [
    ("ConfigMap/mine", [MINE]),
    ("Secret/mine", [an("Secret", "mine")]),
    ("PersistentVolumeClaim/mine", [an("PersistentVolumeClaim", "mine")]),
    ("PeerPodConfig/memory", [an("PeerPodConfig", "memory"), an("PeerPodConfig", "peerpodconfig-openshift")]),
    ("Widget/mine", [an("Widget", "mine")]),
    # The configuration of the operator that the collection did not write.
    ("ConfigMap/peer-pods-cm", [an("ConfigMap", "peer-pods-cm")]),
    ("Secret/peer-pods-secret", [an("Secret", "peer-pods-secret")]),
    # The root of a chain of owners is reported, not what follows it.
    ("Deployment/app", [an("Deployment", "app"), REPLICA_SET, POD]),
    # A label of another part, and another value of ours.
    ("ConfigMap/mine", [an("ConfigMap", "mine", labels={"app.kubernetes.io/part-of": "another"})]),
    # Its owner is outside of the namespace, or of a kind that the API server does not serve: no garbage collector
    # deletes it.
    ("Pod/static", [an("Pod", "static", owners=(owner("Node", "worker-0"),))]),
    ("ConfigMap/mine", [an("ConfigMap", "mine", owners=(owner("Gone", "mine", "example.com/v1"),))]),
    # What a user created or edited, so that the operator builds another image.
    ("ConfigMap/aws-podvm-image-cm", [an("ConfigMap", "aws-podvm-image-cm", **written_by("kubectl-create"))]),
    ("ConfigMap/azure-podvm-image-cm", [an("ConfigMap", "azure-podvm-image-cm", **written_by("manager", "Mozilla"))]),
    ("ConfigMap/aws-podvm-image-cm", [image_settings_of_job(BUCKET_NAME={}, PODVM_IMAGE_URI={})]),
    # An object whose field managers a user has cleared (managedFields: [{}]), and a manager without a name.
    ("ConfigMap/aws-podvm-image-cm", [an("ConfigMap", "aws-podvm-image-cm")]),
    ("Secret/auth-json-secret", [an("Secret", "auth-json-secret", managedFields=[])]),
    (
        "ConfigMap/azure-podvm-image-cm",
        [an("ConfigMap", "azure-podvm-image-cm", managedFields=[{"operation": "Update"}])],
    ),
    ("Pod/mine", [an("Pod", "mine", labels={"batch.kubernetes.io/job-name": "mine"})]),
    ("Secret/auth-json-secret", [an("Secret", "auth-json-secret", **written_by("argocd-controller"))]),
    # A token that a user made for a ServiceAccount of the cluster.
    (
        "Secret/ci-token",
        [an("Secret", "ci-token", annotations={"kubernetes.io/service-account.name": "default"})],
    ),
    # A copy of a Secret of the service CA. The original is owned by its Service.
    ("Secret/tls", [an("Secret", "tls", annotations={"service.beta.openshift.io/originating-service-name": "app"})]),
    # cert-manager keeps a Secret when its Certificate is deleted.
    ("Secret/mine-tls", [an("Secret", "mine-tls", annotations={"cert-manager.io/certificate-name": "mine"})]),
    # Another operator.
    (
        "Subscription/other",
        [an("Subscription", "other"), an("InstallPlan", "i", owners=(owner("Subscription", "other"),))],
    ),
    (
        "ConfigMap/other",
        [an("ConfigMap", "other", labels={"olm.owner": "another-operator.v1.0.0"})],
    ),
    ("Secret/other", [an("Secret", "other", annotations={"cloudcredential.openshift.io/credentials-request": "a/b"})]),
    ("ImageStreamTag/app:v1", [an("ImageStreamTag", "app:v1")]),
]

# What goes with the namespace of the operator, and whether it is listed.
OWN = [
    (True, an("ConfigMap", "peer-pods-cm", labels=OURS)),
    (True, an("Role", "peerpods-node-capacity", labels={**OURS, "app.kubernetes.io/name": "peerpods-node-capacity"})),
    (True, an("PeerPodConfig", "peerpodconfig-openshift")),
    (True, an("Job", "osc-podvm-image-creation")),
    (True, an("ConfigMap", "aws-podvm-image-cm", **written_by("manager"))),
    (True, image_settings_of_job(BUCKET_NAME={})),
    # Of a job that the operator has deleted.
    (
        True,
        an(
            "Pod",
            "osc-podvm-image-creation-x",
            labels={"batch.kubernetes.io/job-name": "osc-podvm-image-creation"},
        ),
    ),
    (True, an("PeerPodConfig", "peerpodconfig-openshift", **written_by("manager", "OpenAPI-Generator"))),
    (True, an("Lease", "290f4947.kataconfiguration.openshift.io")),
    (
        True,
        an(
            "ClusterServiceVersion",
            CSV,
            labels={"operators.coreos.com/sandboxed-containers-operator.openshift-sand": ""},
        ),
    ),
    (True, an("Service", "webhook-service", labels={"olm.owner": CSV})),
    (
        True,
        an("Secret", "peer-pods-secret", labels={"kataconfiguration.openshift.io/credentials-request-based": "true"}),
    ),
    (True, an("Secret", "peer-pods-secret", labels={"kataconfiguration.openshift.io/sts": "aws"})),
    (
        True,
        an(
            "Secret",
            "cco-secret",
            annotations={
                "cloudcredential.openshift.io/credentials-request": (
                    "openshift-cloud-credential-operator/openshift-sandboxed-containers-aws"
                )
            },
        ),
    ),
    (False, an("DaemonSet", "osc-caa-ds", owners=(KATA_CONFIG,))),
    # Garbage: the owner was deleted.
    (False, REPLICA_SET),
    (False, an("InstallPlan", "install-x", owners=(owner("Subscription", "gone", "operators.coreos.com/v1alpha1"),))),
    (False, an("ClusterServiceVersion", "another.v1", labels={"olm.copiedFrom": "openshift-operators"})),
    (False, an("ConfigMap", "kube-root-ca.crt")),
    (False, an("ServiceAccount", "builder")),
    (False, an("RoleBinding", "system:image-pullers")),
    (
        False,
        an("Secret", "default-token-x2k9p", annotations={"kubernetes.io/service-account.name": "default"}),
    ),
    (False, an("Event", "any")),
    (False, an("Endpoints", "app")),
    (False, an("AppliedClusterResourceQuota", "of-a-team")),
    (False, an("ConfigMap", "mine", deletionTimestamp="2026-01-01T00:00:00Z")),
]


def planned(*objects: dict, **options: object):
    return plan_removal(objects, NAMESPACED, **{"of_operator": True, **options})


@pytest.mark.parametrize(("reference", "objects"), OTHERS)
def test_what_keeps_the_namespace(reference: str, objects: list[dict]):
    plan = planned(*objects)
    assert plan.others == [reference]


@pytest.mark.parametrize(("listed", "entry"), OWN)
def test_what_is_removed_with_the_namespace(listed: bool, entry: dict):
    plan = planned(entry)
    assert plan.others == plan.in_use == []
    assert plan.own == ([f"{entry['kind']}/{entry['metadata']['name']}"] if listed else [])


@given(st.sets(st.sampled_from(range(len(OWN)))), st.sets(st.sampled_from(range(len(OTHERS)))))
def test_own_objects_never_hide_another(own: set[int], others: set[int]):
    """The verdict is the same, however many of the own objects are deleted already."""
    kept = [entry for index in others for entry in OTHERS[index][1]]
    uids = {entry["metadata"]["uid"] for entry in kept}
    removed = [OWN[index][1] for index in own if OWN[index][1]["metadata"]["uid"] not in uids]
    assert planned(*removed, *kept).others == planned(*kept).others


def labelled(name: str | None) -> dict:
    return an("Deployment", name or "limits", labels=OURS if name is None else {**OURS, "app.kubernetes.io/name": name})


@pytest.mark.parametrize(
    ("removed_names", "removed_objects", "own", "in_use"),
    [
        (["webhook"], [], ["Deployment/webhook"], ["Deployment/agent", "Deployment/limits"]),
        (["webhook", "agent"], [], ["Deployment/agent", "Deployment/webhook"], ["Deployment/limits"]),
        (
            ["webhook", "agent"],
            ["Deployment/limits"],
            ["Deployment/agent", "Deployment/limits", "Deployment/webhook"],
            [],
        ),
        # A container is named by its label, and other objects by their kind as well.
        (
            [],
            ["Deployment/agent", "ConfigMap/limits"],
            [],
            ["Deployment/agent", "Deployment/limits", "Deployment/webhook"],
        ),
        (None, [], ["Deployment/agent", "Deployment/limits", "Deployment/webhook"], []),
    ],
)
def test_parts_that_share_a_namespace(
    removed_names: list[str] | None, removed_objects: list[str], own: list[str], in_use: list[str]
):
    objects = labelled("webhook"), labelled("agent"), labelled(None)
    plan = planned(*objects, removed_names=removed_names, removed_objects=removed_objects)
    assert (plan.own, plan.in_use, plan.others) == (own, in_use, [])


def test_a_secret_that_cert_manager_keeps_is_that_of_the_webhook():
    entry = an("Secret", "any", annotations={"cert-manager.io/certificate-name": "peerpods-webhook"})
    assert planned(entry, removed_names=["peerpods-webhook"]).own == ["Secret/any"]
    assert planned(entry, removed_names=["another"]).in_use == ["Secret/any"]


def test_a_lease_that_the_agent_has_not_created_is_that_of_another_owner():
    """The agent labels its own; it also writes to one that exists."""
    assert planned(an("Lease", "any", **written_by("peerpods-node-capacity", "kubectl"))).others == ["Lease/any"]


@pytest.mark.parametrize(
    "entry", [an("PeerPodConfig", "peerpodconfig-openshift"), an("Pod", "p", owners=(KATA_CONFIG,))]
)
def test_without_the_operator_its_objects_are_those_of_another_owner(entry: dict):
    assert len(planned(entry, of_operator=False).others) == 1
