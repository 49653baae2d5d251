"""How the operator creates and deletes the image of the pod VMs: with a job whose pod runs image_builder.py.

Source: controllers/image_generator.go of openshift/sandboxed-containers-operator (SCO), at d0632e5 and be1ca72, with
the manifests in config/peerpods/podvm. What follows from it for a client:

- The operator itself creates the ConfigMap with the settings of the job, unless it exists.
- After a failed job, it creates an event, deletes the job without its pods, continues without an image, and resets its
  condition: the reason PodVMImageJobFailed is never written for a creation (enablePeerPods and Reconcile).
- It creates the job again at the next reconcile, which a change of the KataConfig, of nodes or, in releases that watch
  it, of peer-pods-cm triggers. The write of its own status does not trigger one here.
- batch/v1 orphans the pods of a deleted job, so that their logs can be read until they are collected.

Here the job's pod runs on the node that runs pods for real (kubelet.py). Not modelled: FIPS, the pull secret in
auth-json-secret, the volumes of container tools.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.support import OPERATOR_NAMESPACE

from .openshift import CLUSTER_ID

if TYPE_CHECKING:
    from .api import Api
    from .releases import Release

BUILDER = "osc-podvm-builder-rhel9"
OCI_IMAGE = "registry.redhat.io/openshift-sandboxed-containers/osc-dm-verity-image@sha256:4959a0af"

# The key of peer-pods-cm with the image, and the variable of the deletion job with the image to delete.
IMAGE_KEYS = {"AWS": ("PODVM_AMI_ID", "AMI_ID"), "Azure": ("AZURE_IMAGE_ID", "IMAGE_ID")}

CORE = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}"
CONFIG_MAPS = f"{CORE}/configmaps"
JOBS = f"/apis/batch/v1/namespaces/{OPERATOR_NAMESPACE}/jobs"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
# The field manager of the operator.
MANAGER = "fieldManager=manager"
CREATION, DELETION = "osc-podvm-image-creation", "osc-podvm-image-deletion"

# Of the token of the default service account (osc-podvm-create-job.yaml since 1.12).
TOKEN_DIRECTORY = "/var/run/secrets/openshift/serviceaccount"
# The token for the cloud, as the operator mounts it into cloud-api-adaptor, too (addBoundSATokenVolume in
# controllers/peerpods.go of SCO).
TOKEN_AUDIENCE = "openshift"
TOKEN_VOLUME = {
    "name": "bound-sa-token",
    "projected": {
        "sources": [{"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}}]
    },
}

# Both jobs have them in their environment, in this order.
SECRETS = ("peer-pods-secret", "peer-pods-image-creation-secret")
SETTINGS = ("peer-pods-cm", "azure-podvm-image-cm", "aws-podvm-image-cm")

# getClusterID of controllers/utils.go, and createImageConfigMapFromFile: a number of 31 bits that Azure accepts.
SHORT_ID = CLUSTER_ID[:8]
VERSION = f"{int(SHORT_ID, 16) % 2**31}.0.1"

# config/peerpods/podvm/aws-podvm-image-cm.yaml and azure-podvm-image-cm.yaml: the keys that the builder reads.
DEFAULTS = {
    "AWS": (
        "aws-podvm-image-cm",
        {
            "AMI_BASE_NAME": "podvm-image",
            "AMI_VERSION": VERSION,
            "AMI_VOLUME_SIZE": "30",
            "INSTALL_PACKAGES": "no",
            "UPDATE_PEERPODS_CM": "yes",
        },
    ),
    "Azure": (
        "azure-podvm-image-cm",
        {
            "IMAGE_GALLERY_NAME": f"PodVMGallery_{SHORT_ID}",
            "IMAGE_DEFINITION_NAME": "podvm-image",
            "IMAGE_DEFINITION_PUBLISHER": "RedHat",
            "IMAGE_DEFINITION_OFFER": "OSC-PodVM",
            "IMAGE_DEFINITION_SKU": "OSC-PodVM",
            "IMAGE_DEFINITION_OS_TYPE": "Linux",
            "IMAGE_DEFINITION_OS_STATE": "Generalized",
            "IMAGE_DEFINITION_VM_GENERATION": "V2",
            "IMAGE_DEFINITION_ARCHITECTURE": "x64",
            "IMAGE_BASE_NAME": "podvm-image",
            "IMAGE_VERSION": VERSION,
            "INSTALL_PACKAGES": "no",
            "CONFIDENTIAL_COMPUTE_ENABLED": "no",
            "UPDATE_PEERPODS_CM": "yes",
        },
    ),
}

# The last event of each job, by its uid: the operator reports at each reconcile, here at each change.
_reported: dict[str, str] = {}

# What triggered the reconcile in which the creation failed, by the uid of the KataConfig.
_failed: dict[str, object] = {}


def create_image(
    api: Api, platform: str, release: Release, version: str, uid: str, trigger: object, fails: bool
) -> str:
    """One reconcile of ImageCreate: "created", "running" or "failed"."""
    name, defaults = DEFAULTS[platform]
    existing = api.get(f"{CONFIG_MAPS}/{name}")
    if existing is None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": defaults}
        existing = api.request("POST", f"{CONFIG_MAPS}?{MANAGER}", body)
    if release.takes_oci_image and not (existing.get("data") or {}).get("PODVM_IMAGE_URI"):
        api.merge(f"{CONFIG_MAPS}/{name}?{MANAGER}", {"data": {"PODVM_IMAGE_URI": f"oci::{OCI_IMAGE}"}})
    if _image_id(api, platform):
        _delete(api, CREATION)
        return "created"
    if _failed.get(uid) == trigger:
        return "failed"
    _failed.pop(uid, None)
    state = _job(api, CREATION, ["create"], release, version, fails)
    if state == "failed":
        _failed[uid] = trigger
    return "running" if state == "completed" else state


def delete_image(api: Api, platform: str, release: Release, version: str, fails: bool) -> str:
    """One reconcile of ImageDelete: "deleted", "running" or "failed". The image may be that of a user."""
    image = _image_id(api, platform)
    if not image:
        _delete(api, DELETION)
        return "deleted"
    arguments = ["delete", "-f", *(["-g"] if platform == "Azure" else [])]
    state = _job(api, DELETION, arguments, release, version, fails, {IMAGE_KEYS[platform][1]: image})
    return "running" if state == "completed" else state


def _image_id(api: Api, platform: str) -> str:
    settings = api.get(f"{CONFIG_MAPS}/peer-pods-cm") or {}
    return (settings.get("data") or {}).get(IMAGE_KEYS[platform][0], "")


def _job(
    api: Api,
    name: str,
    arguments: list[str],
    release: Release,
    version: str,
    fails: bool,
    variables: dict[str, str] | None = None,
) -> str:
    """Create the job unless it exists, and return its state (checkJobStatus); delete it if it has failed."""
    job = api.get(f"{JOBS}/{name}")
    if job is None:
        _grant(api)
        api.request("POST", JOBS, _manifest(name, arguments, release, version, fails, variables or {}))
        return "running"
    status = job.get("status") or {}
    conditions = {condition["type"] for condition in status.get("conditions") or () if condition["status"] == "True"}
    if "Failed" in conditions:
        _report(api, job, "PodVMImageJobFailed", f"PodVM image job ({name}) failed", "Warning")
        _delete(api, name)
        return "failed"
    if "Complete" in conditions:
        _report(api, job, "PodVMImageJobCompleted", f"PodVM image job ({name}) completed successfully", "Normal")
        return "completed"
    if status.get("active"):
        _report(api, job, "PodVMImageJobRunning", f"PodVM image job ({name}) is running", "Normal")
    return "running"


def _delete(api: Api, name: str) -> None:
    if api.get(f"{JOBS}/{name}"):
        api.delete(f"{JOBS}/{name}")


def _report(api: Api, job: dict, reason: str, message: str, kind: str) -> None:
    metadata = job["metadata"]
    if _reported.get(metadata["uid"]) == reason:
        return
    _reported[metadata["uid"]] = reason
    api.request(
        "POST",
        f"{CORE}/events",
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "job-event-", "namespace": OPERATOR_NAMESPACE},
            "involvedObject": {"kind": "Job", "namespace": OPERATOR_NAMESPACE, "name": metadata["name"]},
            "reason": reason,
            "message": message,
            "type": kind,
            "reportingComponent": "image-generator",
            "reportingInstance": "controller-manager",
            "action": "Check the logs for the job",
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    )


# The permissions of the service account `default`, which OLM creates and removes with the bundle of the operator.
GRANT = "osc-podvm-image-jobs"
GRANT_PATHS = (f"{RBAC}/clusterrolebindings/{GRANT}", f"{RBAC}/clusterroles/{GRANT}")
_granted: set[str] = set()


def revoke(api: Api) -> None:
    """After the operator was removed."""
    while _granted:
        api.delete(_granted.pop())


def _grant(api: Api) -> None:
    _granted.update(GRANT_PATHS)
    rbac = "rbac.authorization.k8s.io"
    metadata = {"name": GRANT}
    rules = [
        {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["get", "patch"]},
        {
            "apiGroups": ["cloudcredential.openshift.io"],
            "resources": ["credentialsrequests"],
            "verbs": ["get", "create", "patch", "delete"],
        },
    ]
    api.ensure(
        f"{RBAC}/clusterroles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": rules,
        },
    )
    api.ensure(
        f"{RBAC}/clusterrolebindings",
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": GRANT},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": OPERATOR_NAMESPACE}],
        },
    )


def _manifest(
    name: str, arguments: list[str], release: Release, version: str, fails: bool, variables: dict[str, str]
) -> dict[str, Any]:
    """osc-podvm-create-job.yaml and osc-podvm-delete-job.yaml, on the real node."""
    variables = {
        **variables,
        # What the scripts of that release do. The other variable is of tests.
        "PODVM_BUILDER_TAKES_GIVEN_CREDENTIALS": "1" if release.takes_given_credentials else "",
        "PODVM_BUILDER_FAILS": "1" if fails else "",
    }
    tokens = [TOKEN_VOLUME] if release.takes_tokens else []
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 1,
            "template": {
                "metadata": {"name": name},
                "spec": {
                    "restartPolicy": "Never",
                    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                    "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}],
                    "containers": [
                        {
                            "name": arguments[0],
                            "image": f"{BUILDER}:{version}",
                            "command": ["/podvm-builder.sh", *arguments],
                            "env": [{"name": key, "value": value} for key, value in variables.items()],
                            "volumeMounts": [
                                {"name": volume["name"], "mountPath": TOKEN_DIRECTORY} for volume in tokens
                            ],
                            "envFrom": [
                                {"secretRef": {"name": SECRETS[0]}},
                                {"secretRef": {"name": SECRETS[1], "optional": True}},
                                *({"configMapRef": {"name": each, "optional": True}} for each in SETTINGS),
                            ],
                        }
                    ],
                    "volumes": tokens,
                },
            },
        },
    }
