# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which objects of a namespace a teardown may remove together with it (no I/O here).

An object belongs to the collection or to the operator only if it has one of their marks. An unknown object keeps the
namespace. Sources: openshift/sandboxed-containers-operator (SCO), operator-framework/api (OLM).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    OPERATORS_CONFIG,
    PACKAGE,
    PART_OF,
    WEBHOOK,
)

NAME_LABEL = "app.kubernetes.io/name"

# The objects that the cluster creates in every namespace: the root CA publisher and the service account controller of
# kube-controller-manager, and on OpenShift the service CA operator and openshift-controller-manager.
CLUSTERS_OWN = {
    ("ConfigMap", "kube-root-ca.crt"),
    ("ConfigMap", "openshift-service-ca.crt"),
    ("ServiceAccount", "builder"),
    ("ServiceAccount", "default"),
    ("ServiceAccount", "deployer"),
    ("RoleBinding", "system:deployers"),
    ("RoleBinding", "system:image-builders"),
    ("RoleBinding", "system:image-pullers"),
}

# The objects that the operator creates in its namespace without an owner reference: main.go (the Lease), and in
# controllers/ credentials_controller.go, image_generator.go with config/peerpods/podvm, openshift_controller.go and
# ppwebhook.go of SCO.
OPERATORS_OWN = {
    ("ConfigMap", "aws-podvm-image-cm"),
    ("ConfigMap", "azure-podvm-image-cm"),
    ("ConfigMap", "libvirt-podvm-image-cm"),
    ("Deployment", "peer-pods-webhook"),
    ("Job", "osc-podvm-gallery-deletion"),
    ("Job", "osc-podvm-image-creation"),
    ("Job", "osc-podvm-image-deletion"),
    ("Lease", "290f4947.kataconfiguration.openshift.io"),
    ("PeerPodConfig", OPERATORS_CONFIG),
    ("Secret", "auth-json-secret"),
    ("Service", "peer-pods-webhook-svc"),
}

# The operator deletes these jobs without their pods, whose logs can be read until they are collected.
OPERATORS_JOBS = {name for kind, name in OPERATORS_OWN if kind == "Job"}
JOB_LABEL = "batch.kubernetes.io/job-name"

# Users create some of them before the operator does, or edit them, to build another image of the pod VMs
# (config/peerpods/podvm of SCO). The field manager shows which of them the operator alone has written.
USERS_EDIT = ("ConfigMap", "Secret")
OPERATORS_MANAGER = "manager"

# What the image job itself writes: the name of the bucket that it uses (aws-podvm-image-handler.sh).
WRITTEN_BY_JOB: tuple[str, dict] = ("kubectl-patch", {"f:data": {"f:BUCKET_NAME": {}}})

# An owner outside of the namespace that makes an object the operator's: it is removed before the namespace.
KATA_CONFIG = ("kataconfiguration.openshift.io", "KataConfig")

# The annotation of a Secret that the cloud credential operator makes of a CredentialsRequest, and those of the
# operator.
CREDENTIALS_REQUEST = "cloudcredential.openshift.io/credentials-request"
OPERATORS_REQUESTS = "openshift-cloud-credential-operator/openshift-sandboxed-containers-"

# The operator sets this label on the Secret that it creates for a CredentialsRequest, and reconciles only that Secret.
REQUESTED = "kataconfiguration.openshift.io/credentials-request-based"

# The operator sets this label on the Secret that it creates from the environment in its Subscription (labelSTS in
# controllers/credentials_controller.go). It creates this Secret only if none exists, and never changes it.
STS = "kataconfiguration.openshift.io/sts"

# The annotation of a Secret that a controller made for a ServiceAccount, and the name of such a Secret. A user can make
# Secrets with the annotation, under other names.
SERVICE_ACCOUNT = "kubernetes.io/service-account.name"
TOKEN_NAME = "{}-(token|dockercfg)-[a-z0-9]{{5}}"

# The annotation of a Secret that cert-manager made for a Certificate.
CERTIFICATE = "cert-manager.io/certificate-name"


@dataclass(frozen=True)
class Removal:
    """The objects that are removed with a namespace (`own`), and the objects that keep the namespace: objects of other
    owners (`others`), and objects of this collection that are not removed (`in_use`). Each is kind/name."""

    own: list[str]
    others: list[str]
    in_use: list[str]


def plan_removal(
    objects: Iterable[dict],
    namespaced: Collection[tuple[str, str]],
    *,
    removed_names: Collection[str] | None = None,
    removed_objects: Collection[str] = (),
    of_operator: bool = False,
) -> Removal:
    """The verdict about each object, which is the same before and after the objects of the collection were deleted.

    `objects` have `group`, `kind` and `metadata`. `removed_names` are the values of the label app.kubernetes.io/name of
    those objects of the collection that are removed, `removed_objects` those without that label, each as kind/name; if
    `removed_names` is None, all of them. With `of_operator`, the operator is removed too.
    """
    reader = _Reader(list(objects), namespaced, removed_names, removed_objects, of_operator)
    return Removal(
        own=reader.named("own"),
        others=reader.named("other"),
        in_use=reader.named("in use"),
    )


class _Reader:
    def __init__(
        self,
        objects: list[dict],
        namespaced: Collection[tuple[str, str]],
        removed_names: Collection[str] | None,
        removed_objects: Collection[str],
        of_operator: bool,
    ):
        self.objects = objects
        self.namespaced = namespaced
        self.removed_names = removed_names
        self.removed_objects = removed_objects
        self.of_operator = of_operator
        self.uids = {entry["metadata"]["uid"] for entry in objects}
        self.names = {(entry["kind"], entry["metadata"]["name"]) for entry in objects}

    def named(self, verdict: str) -> list[str]:
        """The objects with that verdict that were not made for another object of the namespace."""
        return sorted(_reference(entry) for entry in self.objects if self.verdict(entry) == verdict)

    def verdict(self, entry: dict) -> str:
        """own, other, in use, or empty where the object follows another one, or the cluster."""
        metadata = entry["metadata"]
        if "deletionTimestamp" in metadata or self._is_of_cluster(entry):
            return ""
        name = _name_in_collection(metadata)
        if name is not None:
            return "own" if self._is_removed(name, entry) else "in use"
        if self.of_operator and _is_of_operator(entry):
            return "own"
        owners = metadata.get("ownerReferences") or []
        if owners:
            return "" if all(map(self._follows, owners)) else "other"
        return "" if self._is_made_for_another(entry) else "other"

    def _is_removed(self, name: str, entry: dict) -> bool:
        if self.removed_names is None:
            return True
        return name in self.removed_names if name else _reference(entry) in self.removed_objects

    def _is_of_cluster(self, entry: dict) -> bool:
        name, kind = entry["metadata"]["name"], entry["kind"]
        labels = entry["metadata"].get("labels") or {}
        return (
            (kind, name) in CLUSTERS_OWN
            # OLM copies the ClusterServiceVersion of an operator for all namespaces into each of them.
            or "olm.copiedFrom" in labels
            # The endpoints controller makes Endpoints for a Service. An AppliedClusterResourceQuota is not stored: it
            # shows a ClusterResourceQuota, with the uid of that (quota.openshift.io).
            or kind in ("AppliedClusterResourceQuota", "Endpoints", "Event")
        )

    def _follows(self, owner: dict) -> bool:
        """Whether an owner decides about its object: it is listed itself, or was deleted and the object is garbage."""
        if owner["uid"] in self.uids:
            return True
        group = owner["apiVersion"].rpartition("/")[0]
        if (group, owner["kind"]) == KATA_CONFIG:
            return self.of_operator
        return (group, owner["kind"]) in self.namespaced

    def _is_made_for_another(self, entry: dict) -> bool:
        """Whether a controller made the object for another object of the namespace, which may be deleted already."""
        annotations, name = entry["metadata"].get("annotations") or {}, entry["metadata"]["name"]
        account = re.escape(annotations.get(SERVICE_ACCOUNT, ""))
        if account and re.fullmatch(TOKEN_NAME.format(account), name):
            return True
        # The tags of an ImageStream are served as objects.
        return entry["kind"] in ("ImageStreamTag", "ImageTag") and ("ImageStream", name.partition(":")[0]) in self.names


def _name_in_collection(metadata: dict) -> str | None:
    """The name label of an object of the collection, "" without that label; None for any other object."""
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    key, value = PART_OF
    if labels.get(key) == value:
        return labels.get(NAME_LABEL, "")
    # cert-manager keeps the Secret of a Certificate that is deleted.
    if annotations.get(CERTIFICATE) == WEBHOOK:
        return WEBHOOK
    return None


def _is_write_of_operator(write: dict) -> bool:
    """Whether an entry of managedFields is of the operator, or of its image job."""
    manager = write.get("manager")
    return manager == OPERATORS_MANAGER or (manager, write.get("fieldsV1")) == WRITTEN_BY_JOB


def is_made_by_operator(kind: str, metadata: dict) -> bool:
    """Whether the operator itself creates an object of this name, and only it and its image job have written to it."""
    return (kind, metadata["name"]) in OPERATORS_OWN and is_written_by_operator(metadata)


def is_written_by_operator(metadata: dict) -> bool:
    """Whether all writers are known. Any user can clear the field managers of an object."""
    writes = metadata.get("managedFields") or ()
    return bool(writes) and all(map(_is_write_of_operator, writes))


def _is_of_operator(entry: dict) -> bool:
    metadata = entry["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if (entry["kind"], metadata["name"]) in OPERATORS_OWN:
        return entry["kind"] not in USERS_EDIT or is_written_by_operator(metadata)
    return (
        (entry["kind"] == "Pod" and labels.get(JOB_LABEL) in OPERATORS_JOBS)
        or
        # OLM labels what it creates for a Subscription or a ClusterServiceVersion.
        labels.get("olm.owner", "").startswith(f"{PACKAGE}.")
        or any(label.startswith(f"operators.coreos.com/{PACKAGE}.") for label in labels)
        or labels.get(REQUESTED) == "true"
        or STS in labels
        or annotations.get(CREDENTIALS_REQUEST, "").startswith(OPERATORS_REQUESTS)
    )


def _reference(entry: dict) -> str:
    return f"{entry['kind']}/{entry['metadata']['name']}"
