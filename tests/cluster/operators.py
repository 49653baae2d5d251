"""Simulates the controllers of the cluster, so that the roles wait for real transitions.

It replaces the Operator Lifecycle Manager, the machine config operator, the OpenShift sandboxed containers operator,
the cloud credential operator and the service CA operator: it updates their custom resources in the order and with the
states of the real controllers. It installs nothing and reboots nothing. releases.py describes the operator by its
version. Run it as `python -m tests.cluster.operators KUBECONFIG [RELEASE]`; RELEASE is the head of the channel
`stable`.

The real operator always deploys its own webhook. Here it does so only with --webhook, with the image of the
collection's webhook, because its own is not public. Most tests are about the webhook of the collection.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from urllib3.exceptions import HTTPError

from tests.support import OPERATOR_NAMESPACE

from .api import Api, ApiError, now
from .image_jobs import TOKEN_DIRECTORY, TOKEN_VOLUME, create_image, delete_image, revoke
from .openshift import CONFIGURED, peer_pod_config
from .pki import CertificateAuthority
from .releases import NEWEST, Release, release_of

PACKAGE = "sandboxed-containers-operator"

KATA_OC_LABEL = "node-role.kubernetes.io/kata-oc"
MASTER_LABEL = "node-role.kubernetes.io/master"
INSTALL_STATE = "kataconfiguration.openshift.io/kata-ds-rpm-install"
KATA_FINALIZER = "kataconfiguration.openshift.io/finalizer"
CREDENTIALS_FINALIZER = "cloudcredential.openshift.io/deprovision"

MACHINE_CONFIG = "machineconfiguration.openshift.io"
WORKER_CONFIG = CONFIGURED[f"{MACHINE_CONFIG}/currentConfig"]

# A node with this annotation cannot be updated to another configuration. The value is the reason.
DEGRADES = "tests.osc.peerpods/degrades"

# A node with this annotation was rebooted after a DaemonSet has removed kata.
REBOOTED = "tests.osc.peerpods/rebooted"

# The image jobs of a KataConfig with this annotation fail: those in its value, "create", "delete" or both.
IMAGE_JOB_FAILS = "tests.osc.peerpods/image-job-fails"


@dataclass(frozen=True)
class Bundle:
    """A version in a catalog, the version that it replaces, and whether it can be installed."""

    version: str
    replaces: str | None = None
    unpacks: bool = True
    starts: bool = True

    @property
    def csv(self) -> str:
        return f"{PACKAGE}.v{self.version}"


# The versions in a catalog whose image name contains the key, by channel, in ascending order.
OFFERING = "operator-index"
CHANNELS = {
    "stable": (Bundle("1.7.0"), Bundle("1.8.0", "1.7.0"), Bundle("1.8.1", "1.8.0")),
    "stable-1.7": (Bundle("1.7.0"),),
    "candidate": (Bundle("1.9.0", starts=False),),
    "preview": (Bundle("1.10.0", unpacks=False),),
}
LATEST_CSV = CHANNELS["stable"][-1].csv

# The later versions in `stable`, in a current catalog.
LATER = (
    Bundle("1.9.1", "1.8.1"),
    Bundle("1.10.3", "1.9.1"),
    Bundle("1.12.0", "1.10.3"),
    Bundle("1.13.0", "1.12.0"),
)


def channels(release: str) -> dict[str, tuple[Bundle, ...]]:
    """The channels of a catalog with a newest release of 1.8 or later."""
    last = tuple(map(int, release.split(".")))
    later = [bundle for bundle in LATER if tuple(map(int, bundle.version.split(".")))[:2] <= last]
    return {**CHANNELS, "stable": (*CHANNELS["stable"], *later)}


# The image of the operator's webhook, if it is deployed.
WEBHOOK: dict[str, str] = {}

# A tick is one step of every state machine; a real one takes minutes. Like the real controllers, this program acts when
# an object of these kinds changes, and otherwise rarely: a test cluster is mostly idle, and a tick takes dozens of
# requests.
TICK = 0.3
RESYNC_SECONDS = 5
WATCHED = {
    "/api/v1/configmaps",
    "/api/v1/nodes",
    "/api/v1/pods",
    "/api/v1/secrets",
    "/api/v1/services",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/deployments",
    "/apis/batch/v1/jobs",
    "/apis/cloudcredential.openshift.io/v1/credentialsrequests",
    "/apis/confidentialcontainers.org/v1alpha1/peerpodconfigs",
    "/apis/config.openshift.io/v1/infrastructures",
    "/apis/operator.openshift.io/v1/cloudcredentials",
    "/apis/kataconfiguration.openshift.io/v1/kataconfigs",
    "/apis/machineconfiguration.openshift.io/v1/machineconfigpools",
    "/apis/node.k8s.io/v1/runtimeclasses",
    "/apis/operators.coreos.com/v1/operatorgroups",
    "/apis/operators.coreos.com/v1alpha1/catalogsources",
    "/apis/operators.coreos.com/v1alpha1/clusterserviceversions",
    "/apis/operators.coreos.com/v1alpha1/installplans",
    "/apis/operators.coreos.com/v1alpha1/subscriptions",
}
# Of the controllers that read few kinds; the other ones act on each change.
CATALOG_KINDS = {"/apis/operators.coreos.com/v1alpha1/catalogsources"}
CREDENTIAL_KINDS = {
    "/api/v1/secrets",
    "/apis/cloudcredential.openshift.io/v1/credentialsrequests",
    "/apis/operator.openshift.io/v1/cloudcredentials",
}
SERVICE_KINDS = {
    "/api/v1/secrets",
    "/api/v1/services",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
}

SERVING_CERT_ANNOTATION = "service.beta.openshift.io/serving-cert-secret-name"
# On the Secret, which the Service owns (pkg/controller/servingcert/controller/secret_creating_controller.go of
# openshift/service-ca-operator).
ORIGINATING_SERVICE_ANNOTATION = "service.beta.openshift.io/originating-service-name"
INJECT_CA_ANNOTATION = "service.beta.openshift.io/inject-cabundle"

# The root credentials that the cloud credential operator uses, and the keys that it passes on.
ROOT_CREDENTIALS = {
    "AWSProviderSpec": ("aws-creds", ("aws_access_key_id", "aws_secret_access_key")),
    "AzureProviderSpec": (
        "azure-credentials",
        tuple(
            f"azure_{name}"
            for name in (
                "client_id",
                "client_secret",
                "region",
                "resource_prefix",
                "resourcegroup",
                "subscription_id",
                "tenant_id",
            )
        ),
    ),
}

# What the cloud credential operator says of the root credential (pkg/operator/secretannotator of
# openshift/cloud-credential-operator).
ROOT_MODE = {"cloudcredential.openshift.io/mode": "passthrough"}

# The keys that the sandboxed containers operator copies, in capital letters, and the label of its Secret.
PEER_POD_CREDENTIALS = {
    "aws_access_key_id",
    "aws_secret_access_key",
    "azure_client_id",
    "azure_client_secret",
    "azure_subscription_id",
    "azure_tenant_id",
}
# In the format of ccoctl, which newer releases take as well (ccoDataMapping in controllers/credentials_controller.go).
TOKEN_CREDENTIALS = {"azure_federated_token_file"}
TOKEN_FIELDS = {"role_arn": "AWS_ROLE_ARN", "web_identity_token_file": "AWS_WEB_IDENTITY_TOKEN_FILE"}
TOKEN_FILE = f"{TOKEN_DIRECTORY}/token"
CREDENTIALS_REQUEST_LABEL = {"kataconfiguration.openshift.io/credentials-request-based": "true"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kubeconfig")
    parser.add_argument("release", nargs="?", default=NEWEST, help="the head of the channel `stable`")
    parser.add_argument(
        "--webhook",
        nargs=3,
        metavar=("IMAGE", "PORT", "HEALTH_PORT"),
        help="deploy the webhook of the operator, with this image of the collection",
    )
    arguments = parser.parse_args()
    api = Api(arguments.kubeconfig)
    CHANNELS.update(channels(arguments.release))
    if arguments.webhook:
        WEBHOOK.update(zip(("image", "port", "health_port"), arguments.webhook, strict=True))
    service_ca = CertificateAuthority("openshift-service-serving-signer")
    controllers: dict[Callable[[Api], None], set[str]] = {
        catalog_operator: CATALOG_KINDS,
        lifecycle_manager: WATCHED,
        cloud_credential_operator: CREDENTIAL_KINDS,
        peerpodconfig_controller: WATCHED,
        sandboxed_containers_operator: WATCHED,
        machine_config_operator: WATCHED,
        partial(service_ca_operator, authority=service_ca): SERVICE_KINDS,
    }
    changes = Changes()
    for path in WATCHED:
        threading.Thread(target=_watch, args=(api, path, changes), daemon=True).start()
    while True:
        changed = changes.wait()
        for act, kinds in controllers.items():
            if not kinds & changed:
                continue
            try:
                act(api)
            except (ApiError, HTTPError, OSError) as error:
                # Try again in the next tick, as a controller does. Any other error is an error of this program.
                if isinstance(error, ApiError) and not is_passing(error):
                    raise
                changes.add(*kinds)
        time.sleep(TICK)


class Changes:
    """The paths of WATCHED with changed objects."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._condition = threading.Condition()
        self._resync = 0.0

    def add(self, *paths: str) -> None:
        with self._condition:
            self._paths.update(paths)
            self._condition.notify()

    def wait(self) -> set[str]:
        """Wait for changes, and return the paths of those since the last call; every RESYNC_SECONDS, all paths."""
        with self._condition:
            self._condition.wait_for(lambda: self._paths, max(0, self._resync - time.monotonic()))
            paths, self._paths = self._paths, set()
        if time.monotonic() < self._resync:
            return paths
        self._resync = time.monotonic() + RESYNC_SECONDS
        return WATCHED


def _watch(api: Api, path: str, changes: Changes) -> None:
    """Add `path` whenever an object of that kind changes, and when a watch begins, for the changes before it."""
    while True:
        # The kind is not defined yet, or the API server does not respond.
        with contextlib.suppress(ApiError, HTTPError, OSError):
            for _event in api.stream(f"{path}?watch=true"):
                changes.add(path)
        time.sleep(TICK)


def is_passing(error: ApiError) -> bool:
    """Whether the same request may succeed later: after a conflict, if an object or its namespace was deleted
    meanwhile, or if the API server is busy or stops.
    """
    ends = error.status == 403 and "is being terminated" in str(error)
    return ends or error.status in (404, 409, 410, 429) or error.status >= 500


def catalog_operator(api: Api) -> None:
    """CatalogSource → READY, and its PackageManifests."""
    for source in api.list("/apis/operators.coreos.com/v1alpha1/catalogsources"):
        metadata, image = source["metadata"], source["spec"].get("image", "")
        catalog_path = _catalog_path(metadata["namespace"], metadata["name"])
        if _connection(source) != "READY":
            api.merge(
                f"{catalog_path}/status",
                {
                    "status": {
                        "connectionState": {
                            "address": f"{metadata['name']}.{metadata['namespace']}.svc:50051",
                            "lastConnect": now(),
                            "lastObservedState": "READY",
                        }
                    }
                },
            )
        if OFFERING in image:
            api.ensure(
                f"/apis/packages.operators.coreos.com/v1/namespaces/{metadata['namespace']}/packagemanifests",
                {
                    "apiVersion": "packages.operators.coreos.com/v1",
                    "kind": "PackageManifest",
                    "metadata": {
                        "name": PACKAGE,
                        "labels": {"catalog": metadata["name"], "catalog-namespace": metadata["namespace"]},
                    },
                    "status": {
                        "catalogSource": metadata["name"],
                        "catalogSourceNamespace": metadata["namespace"],
                        "packageName": PACKAGE,
                        "defaultChannel": "stable",
                        "channels": [
                            {
                                "name": name,
                                "currentCSV": bundles[-1].csv,
                                "entries": [{"name": bundle.csv, "version": bundle.version} for bundle in bundles],
                            }
                            for name, bundles in CHANNELS.items()
                        ],
                    },
                },
            )


def _catalog_path(namespace: str, name: str) -> str:
    return f"/apis/operators.coreos.com/v1alpha1/namespaces/{namespace}/catalogsources/{name}"


def _connection(source: dict) -> str | None:
    return source.get("status", {}).get("connectionState", {}).get("lastObservedState")


def lifecycle_manager(api: Api) -> None:
    """Subscription → InstallPlan (approved, or waiting for it) → ClusterServiceVersion, one after the other."""
    for subscription in api.list("/apis/operators.coreos.com/v1alpha1/subscriptions"):
        _subscribed(api, subscription)


def _subscribed(api: Api, subscription: dict) -> None:
    namespace, name = (subscription["metadata"][key] for key in ("namespace", "name"))
    spec, status = subscription["spec"], subscription.get("status", {})
    collection = f"/apis/operators.coreos.com/v1alpha1/namespaces/{namespace}"
    csvs = f"{collection}/clusterserviceversions"

    def report(state: str | None, *conditions: dict, **fields: object) -> None:
        api.status(
            f"{collection}/subscriptions/{name}",
            subscription,
            {
                **({"state": state} if state else {}),
                "conditions": list(conditions),
                **fields,
            },
            lastUpdated=now(),
        )

    unhealthy = _unhealthy(api, spec)
    # Without exactly one OperatorGroup in the namespace, OLM does nothing.
    groups = api.list(f"/apis/operators.coreos.com/v1/namespaces/{namespace}/operatorgroups")
    if unhealthy["status"] == "True" or len(groups) != 1:
        return report(None, unhealthy)

    current = next(
        filter(None, (api.get(f"{csvs}/{status[key]}") for key in ("currentCSV", "installedCSV") if status.get(key))),
        None,
    )
    if current and not _brought_up(api, csvs, current):
        return None
    bundle, problem = _next_bundle(spec, current)
    if bundle is None and problem:
        return report(None, unhealthy, problem)
    if bundle is None:
        # Only an installed version has nothing to be upgraded to.
        assert current is not None
        return report("AtLatestKnown", unhealthy, installedCSV=current["metadata"]["name"])
    plan = _plan_of(api, collection, status)
    if plan is None or plan["spec"]["clusterServiceVersionNames"] != [bundle.csv]:
        plan = _new_plan(api, collection, subscription, bundle)
        reference = {"apiVersion": plan["apiVersion"], "kind": "InstallPlan", "name": plan["metadata"]["name"]}
        return report(
            "UpgradePending",
            unhealthy,
            _pending("InstallPlanNotYetReconciled"),
            currentCSV=bundle.csv,
            installedCSV=current["metadata"]["name"] if current else None,
            installplan={**reference, "uuid": plan["metadata"]["uid"]},
            installPlanRef={**reference, "namespace": namespace, "uid": plan["metadata"]["uid"]},
        )
    phase = _carried_out(api, collection, plan, bundle)
    if phase == "Complete":
        return report("UpgradePending", unhealthy, installedCSV=bundle.csv)
    if phase == "Failed":
        failed = {
            "type": "InstallPlanFailed",
            "status": "True",
            "reason": "InstallCheckFailed",
            "message": UNPACKING_FAILED,
        }
        return report("UpgradePending", unhealthy, failed)
    return report("UpgradePending", unhealthy, _pending(phase))


def _unhealthy(api: Api, spec: dict) -> dict:
    """The condition CatalogSourcesUnhealthy."""
    source = api.get(_catalog_path(spec["sourceNamespace"], spec["source"]))
    problem = "missing" if source is None else "unhealthy" if _connection(source) != "READY" else None
    if problem:
        return {
            "type": "CatalogSourcesUnhealthy",
            "status": "True",
            "reason": "UnhealthyCatalogSourceFound",
            "message": f"targeted catalogsource {spec['sourceNamespace']}/{spec['source']} {problem}",
        }
    return {
        "type": "CatalogSourcesUnhealthy",
        "status": "False",
        "reason": "AllCatalogSourcesHealthy",
        "message": "all available catalogsources are healthy",
    }


def _pending(reason: str) -> dict:
    return {"type": "InstallPlanPending", "status": "True", "reason": reason}


def _next_bundle(spec: dict, current: dict | None) -> tuple[Bundle | None, dict | None]:
    """The next version in the channel, or the condition that explains why there is no next version."""
    bundles = CHANNELS.get(spec.get("channel", ""), ())
    if current:
        current_version = current["spec"]["version"]
        return next((bundle for bundle in bundles if bundle.replaces == current_version), None), None
    start = spec.get("startingCSV")
    candidates = [bundle for bundle in bundles if start in (None, bundle.csv)]
    if candidates:
        return candidates[-1], None
    named = f"with name {start} in channel" if bundles else "in channel"
    return None, {
        "type": "ResolutionFailed",
        "status": "True",
        "reason": "ConstraintsNotSatisfiable",
        "message": f"constraints not satisfiable: no operators found {named} {spec.get('channel')} of package "
        f"{spec['name']} in the catalog referenced by subscription {PACKAGE}, "
        f"subscription {PACKAGE} exists",
    }


def _plan_of(api: Api, collection: str, status: dict) -> dict | None:
    reference = status.get("installPlanRef")
    return reference and api.get(f"{collection}/installplans/{reference['name']}")


def _new_plan(api: Api, collection: str, subscription: dict, bundle: Bundle) -> dict:
    approval = subscription["spec"].get("installPlanApproval", "Automatic")
    metadata = subscription["metadata"]
    return api.request(
        "POST",
        f"{collection}/installplans",
        {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "InstallPlan",
            "metadata": {
                "generateName": "install-",
                "ownerReferences": [
                    {
                        "apiVersion": "operators.coreos.com/v1alpha1",
                        "kind": "Subscription",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "blockOwnerDeletion": False,
                        "controller": False,
                    }
                ],
            },
            "spec": {
                "approval": approval,
                "approved": approval == "Automatic",
                "clusterServiceVersionNames": [bundle.csv],
            },
        },
    )


UNPACKING_FAILED = (
    "bundle unpacking failed. Reason: DeadlineExceeded, and Message: Job was active longer than specified deadline"
)


def _carried_out(api: Api, collection: str, plan: dict, bundle: Bundle) -> str:
    """Move an InstallPlan to its next phase, and return that phase."""
    phase = plan.get("status", {}).get("phase")
    if phase in ("Complete", "Failed"):
        return phase
    status: dict[str, Any] = {"phase": "Installing" if plan["spec"]["approved"] else "RequiresApproval"}
    if phase == "Installing" and bundle.unpacks:
        status = {"phase": "Complete", "conditions": [{"type": "Installed", "status": "True"}]}
        if release_of(bundle.version).has_peer_pod_config:
            # OLM installs the definitions of a bundle, and does not remove those that the next bundle does not have.
            api.ensure(DEFINITIONS, yaml.safe_load(PEER_POD_CONFIG_CRD.read_text()))
        api.ensure(f"{collection}/clusterserviceversions", _csv(bundle, collection))
    elif phase == "Installing":
        status = {
            "phase": "Failed",
            "conditions": [
                {"type": "Installed", "status": "False", "reason": "InstallCheckFailed", "message": UNPACKING_FAILED}
            ],
        }
    status["catalogSources"] = []
    api.status(f"{collection}/installplans/{plan['metadata']['name']}", plan, status)
    return status["phase"]


def _csv(bundle: Bundle, collection: str) -> dict:
    namespace = collection.rpartition("/")[2]
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": bundle.csv,
            "labels": {f"operators.coreos.com/{f'{PACKAGE}.{namespace}'[:63].rstrip('.-_')}": ""},
        },
        "spec": {
            "displayName": "OpenShift sandboxed containers Operator",
            "version": bundle.version,
            **({"replaces": f"{PACKAGE}.v{bundle.replaces}"} if bundle.replaces else {}),
            "install": {"strategy": "deployment"},
        },
    }


def _brought_up(api: Api, collection: str, csv: dict) -> bool:
    """Move a ClusterServiceVersion to its next phase; true when it has Succeeded and replaced the previous one."""
    name, phase = csv["metadata"]["name"], csv.get("status", {}).get("phase")
    phases = ["", "Pending", "InstallReady", "Installing", "Succeeded"]
    before = csv["spec"].get("replaces") and api.get(f"{collection}/{csv['spec']['replaces']}")
    if phase == "Succeeded":
        if before is None:
            return True
        if before["status"]["phase"] == "Deleting":
            api.delete(f"{collection}/{before['metadata']['name']}")
        else:
            api.merge(
                f"{collection}/{before['metadata']['name']}/status",
                {"status": {"phase": "Deleting", "reason": "Replaced"}},
            )
        return False
    if phase == "Failed":
        return False
    if before and before["status"]["phase"] == "Succeeded":
        api.merge(
            f"{collection}/{before['metadata']['name']}/status",
            {"status": {"phase": "Replacing", "reason": "BeingReplaced", "message": f"being replaced by csv: {name}"}},
        )
    following = phases[phases.index(phase or "") + 1]
    starts = all(bundle.starts for bundles in CHANNELS.values() for bundle in bundles if bundle.csv == name)
    starts = starts and (release_of(csv["spec"]["version"]).starts_without_pools or _pools(api) is not None)
    if following == "Succeeded" and not starts:
        status = {"phase": "Failed", "reason": "InstallCheckFailed", "message": "install timeout"}
    else:
        status = {"phase": following, "reason": CSV_REASONS[following], "message": ""}
    api.merge(f"{collection}/{name}/status", {"status": status})
    return False


CSV_REASONS = {
    "Pending": "RequirementsUnknown",
    "InstallReady": "AllRequirementsMet",
    "Installing": "InstallSucceeded",
    "Succeeded": "InstallSucceeded",
}


def cloud_credential_operator(api: Api) -> None:
    """CredentialsRequest → the Secret that it names. In passthrough mode, the Secret has the root credentials; in
    manual mode, nothing happens."""
    root = "/apis/cloudcredential.openshift.io/v1"
    if _credentials_mode(api) == "Manual":
        return
    for name, _keys in ROOT_CREDENTIALS.values():
        path = f"/api/v1/namespaces/kube-system/secrets/{name}"
        if (secret := api.get(path)) and not ROOT_MODE.items() <= secret["metadata"].get("annotations", {}).items():
            api.merge(path, {"metadata": {"annotations": ROOT_MODE}})
    for request in api.list(f"{root}/credentialsrequests"):
        metadata, spec = request["metadata"], request["spec"]
        request_path = f"{root}/namespaces/{metadata['namespace']}/credentialsrequests/{metadata['name']}"
        reference = spec["secretRef"]
        secrets = f"/api/v1/namespaces/{reference['namespace']}/secrets"
        if "deletionTimestamp" in metadata:
            api.delete(f"{secrets}/{reference['name']}")
            api.merge(request_path, {"metadata": {"finalizers": None}})
            continue
        if CREDENTIALS_FINALIZER not in metadata.get("finalizers", []):
            api.merge(request_path, {"metadata": {"finalizers": [CREDENTIALS_FINALIZER]}})
        name, keys = ROOT_CREDENTIALS[spec["providerSpec"]["kind"]]
        credentials = api.get(f"/api/v1/namespaces/kube-system/secrets/{name}")
        if credentials is None:
            condition = {
                "type": "CredentialsProvisionFailure",
                "status": "True",
                "reason": "CredentialsProvisionFailure",
                "message": f"failed to grant creds: root secret kube-system/{name} not found",
            }
            status = {"provisioned": False, "conditions": [condition]}
        else:
            data = {key: credentials["data"].get(key, "") for key in keys}
            if "aws_access_key_id" in data:
                data["credentials"] = _base64(_aws_credentials_file(data).encode())
            api.write(
                secrets,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {
                        "name": reference["name"],
                        "annotations": {
                            "cloudcredential.openshift.io/credentials-request": (
                                f"{metadata['namespace']}/{metadata['name']}"
                            )
                        },
                    },
                    "data": data,
                },
            )
            status = {"provisioned": True, "conditions": []}
        status["lastSyncGeneration"] = metadata["generation"]
        if not status.items() <= request.get("status", {}).items():
            api.merge(f"{request_path}/status", {"status": status})


def _credentials_mode(api: Api) -> str:
    settings = api.get("/apis/operator.openshift.io/v1/cloudcredentials/cluster") or {"spec": {}}
    return settings["spec"].get("credentialsMode", "")


def _aws_credentials_file(data: dict) -> str:
    """The credentials file of AWS SDKs, from base64 values."""
    return "[default]\n" + "".join(f"{key} = {base64.b64decode(value).decode()}\n" for key, value in data.items())


class RetryError(Exception):
    """A reconcile that ended with an error: the operator does not write a status, and tries again."""


def _installed(api: Api) -> str | None:
    """The version of the operator that runs. While one version replaces another, the old one runs."""
    csvs = api.list(f"/apis/operators.coreos.com/v1alpha1/namespaces/{OPERATOR_NAMESPACE}/clusterserviceversions")
    running = [csv for csv in csvs if csv.get("status", {}).get("phase") in ("Succeeded", "Replacing")]
    if not running:
        return None
    return max(running, key=lambda csv: csv["status"]["phase"])["spec"]["version"]


def sandboxed_containers_operator(api: Api) -> None:
    """KataConfig → nodes of the pool kata-oc → cloud-api-adaptor, RuntimeClasses and, up to 1.8, the
    PeerPodConfig, and back.

    Before that, as the credentials controller of the operator: cco-secret → peer-pods-secret, or the environment of
    its Subscription → peer-pods-secret. It creates no CredentialsRequest of its own: the role has created it.
    """
    latest = _installed(api)
    if latest is None:
        return revoke(api)
    # Where a kind that it watches is not served, the manager of the operator ends with an error.
    if not (release_of(latest).starts_without_pools or _pools(api) is not None):
        return None
    _map_credentials(api, release_of(latest))
    for kata in api.list("/apis/kataconfiguration.openshift.io/v1/kataconfigs"):
        # An installation is completed before it is removed (isInstalling, in SCO's
        # controllers/openshift_controller.go).
        if "deletionTimestamp" in kata["metadata"] and not _is_installing(kata):
            _let_go(api, kata, latest)
        else:
            _use_token(api, kata, release_of(latest))
            try:
                _roll_out(api, kata, latest)
            except RetryError:
                continue


def _is_installing(kata: dict) -> bool:
    conditions = (kata.get("status") or {}).get("conditions", [])
    return any((condition["status"], condition.get("reason")) == ("True", "Installing") for condition in conditions)


PEER_PODS_SECRET = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets/peer-pods-secret"
STS_LABEL = "kataconfiguration.openshift.io/sts"

# The environment and the KataConfig of the last event that the credentials controller handled, by uid.
_handled: dict[str, object] = {}


def _use_token(api: Api, kata: dict, release: Release) -> None:
    """Create peer-pods-secret from the environment if no such Secret exists (setupPeerPodsCredentials and
    checkAndSetupSTSWorkflow in controllers/credentials_controller.go of SCO).

    It does this when the KataConfig is created or changed, and when it starts: OLM restarts it for a new environment.
    """
    env = _environment(api)
    event = (kata["metadata"]["resourceVersion"], tuple(sorted(env.items())))
    uid, enabled = kata["metadata"]["uid"], (kata.get("spec") or {}).get("enablePeerPods")
    if _handled.get(uid) == event or not enabled or api.get(PEER_PODS_SECRET):
        return
    _handled[uid] = event
    data: dict[str, str] = {}
    if "Azure" in release.takes_tokens and all(map(env.get, ("CLIENTID", "TENANTID", "SUBSCRIPTIONID"))):
        data = {
            "AZURE_CLIENT_ID": env["CLIENTID"],
            "AZURE_TENANT_ID": env["TENANTID"],
            "AZURE_SUBSCRIPTION_ID": env["SUBSCRIPTIONID"],
            "AZURE_FEDERATED_TOKEN_FILE": TOKEN_FILE,
        }
    elif "AWS" in release.takes_tokens and env.get("ROLEARN"):
        data = {"AWS_ROLE_ARN": env["ROLEARN"], "AWS_WEB_IDENTITY_TOKEN_FILE": TOKEN_FILE}
    if not data:
        return
    label = {STS_LABEL: "azure" if "AZURE_CLIENT_ID" in data else "aws"}
    api.ensure(
        PEER_PODS_SECRET.rpartition("/")[0],
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": "peer-pods-secret", "labels": label},
            "data": {key: _base64(value.encode()) for key, value in data.items()},
        },
    )


def _environment(api: Api) -> dict[str, str]:
    """What OLM sets in the Deployment of the operator: spec.config.env of its Subscription."""
    subscriptions = api.list(f"/apis/operators.coreos.com/v1alpha1/namespaces/{OPERATOR_NAMESPACE}/subscriptions")
    return {
        entry["name"]: entry.get("value", "")
        for subscription in subscriptions
        if subscription["spec"]["name"] == PACKAGE
        for entry in (subscription["spec"].get("config") or {}).get("env") or []
    }


def _is_copy(secret: dict | None) -> bool:
    """Whether there is no Secret, or one that an older release created (isCCOFlowSecret)."""
    owners = [] if secret is None else secret["metadata"].get("ownerReferences") or []
    return secret is None or any(owner.get("controller") and owner["name"] == "cco-secret" for owner in owners)


def _map_credentials(api: Api, release: Release) -> None:
    """Copy the credentials, unless a user created peer-pods-secret (Reconcile in controllers/credentials_controller.go
    of SCO)."""
    secrets = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets"
    cco_secret = api.get(f"{secrets}/cco-secret")
    if cco_secret is None:
        return
    # It handles events of cco-secret only: peer-pods-secret may be deleted without one.
    uid, event = cco_secret["metadata"]["uid"], (cco_secret["metadata"]["resourceVersion"], release.since)
    if release.copies_once and (_handled.get(uid) == event or not _is_copy(api.get(PEER_PODS_SECRET))):
        _handled[uid] = event
        return
    _handled[uid] = event
    keys = PEER_POD_CREDENTIALS | (TOKEN_CREDENTIALS if release.maps_tokens else set())
    data = {key.upper(): value for key, value in cco_secret["data"].items() if key in keys}
    if release.maps_tokens:
        file = base64.b64decode(cco_secret["data"].get("credentials", "")).decode()
        for name, _equals, value in (line.partition("=") for line in file.splitlines()):
            if name.strip() in TOKEN_FIELDS:
                data[TOKEN_FIELDS[name.strip()]] = _base64(value.strip().encode())
    api.write(
        secrets,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "peer-pods-secret",
                "labels": CREDENTIALS_REQUEST_LABEL,
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Secret",
                        "name": "cco-secret",
                        "uid": uid,
                        **({} if release.copies_once else {"controller": True}),
                    }
                ],
            },
            "data": data,
        },
    )


DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PEER_POD_CONFIG_CRD = Path(__file__).with_name("crds") / "peerpodconfigs.confidentialcontainers.org.yaml"
CONFIG_MAPS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps"
DAEMON_SETS = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/daemonsets"
LIMIT_KEY = "PEERPODS_LIMIT_PER_NODE"

POOLS = f"/apis/{MACHINE_CONFIG}/v1/machineconfigpools"
RUNTIME_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
PEER_POD_CONFIGS = f"/apis/confidentialcontainers.org/v1alpha1/namespaces/{OPERATOR_NAMESPACE}/peerpodconfigs"


def _pools(api: Api) -> dict[str, dict] | None:
    """The MachineConfigPools by name; None if they are not served."""
    pools = api.get(POOLS)
    return None if pools is None else {pool["metadata"]["name"]: pool for pool in pools["items"]}


def _uses_daemon_set(api: Api, release: Release) -> bool:
    """The deployment mode (resolveDeploymentMode in SCO's controllers/deployment_mode_handler.go)."""
    if not release.reads_mode:
        return False
    gates = (api.get(f"{CONFIG_MAPS}/osc-feature-gates") or {}).get("data") or {}
    default = "DaemonSetFallback" if release.starts_without_pools else "MachineConfig"
    mode = gates.get("deploymentMode")
    mode = mode if mode in ("MachineConfig", "DaemonSet", "DaemonSetFallback") else default
    is_fallback = mode == "DaemonSetFallback" and api.get(f"/apis/{MACHINE_CONFIG}/v1/machineconfigs") is None
    return mode == "DaemonSet" or is_fallback


def _is_converged(pools: dict[str, dict] | None) -> bool:
    """checkConvergedCluster in SCO's controllers/openshift_controller.go."""
    worker = (pools or {}).get("worker") or {}
    return pools is not None and len(pools) == 2 and (worker.get("status") or {}).get("machineCount") == 0


def _node_label(api: Api) -> str:
    """The label of the nodes that run kata (getNodeSelectorAsMap)."""
    return MASTER_LABEL if _is_converged(_pools(api)) else KATA_OC_LABEL


def _kata_path(kata: dict) -> str:
    return f"/apis/kataconfiguration.openshift.io/v1/kataconfigs/{kata['metadata']['name']}"


def _roll_out(api: Api, kata: dict, version: str) -> None:
    spec, release = kata.get("spec") or {}, release_of(version)
    if release.migrates:
        _migrate(api)
    # Each minor version has its own configuration of nodes.
    target = f"rendered-kata-oc-{version.rpartition('.')[0]}"
    if KATA_FINALIZER not in kata["metadata"].get("finalizers", []):
        api.merge(_kata_path(kata), {"metadata": {"finalizers": [KATA_FINALIZER]}})
    selector = (spec.get("kataConfigPoolSelector") or {}).get("matchLabels", {})
    if spec.get("checkNodeEligibility"):
        selector = {**selector, "feature.node.kubernetes.io/runtime.kata": "true"}
    workers, label = _workers(api), _node_label(api)
    if label == MASTER_LABEL:
        # The pool of the control plane cannot be customized.
        selector = {MASTER_LABEL: ""}
    if _uses_daemon_set(api, release):
        for node in workers:
            _label(api, node, selector.items() <= node["metadata"]["labels"].items())
        nodes = _changed_by_daemon_set(api, kata, workers, label, "install")
    else:
        if label == KATA_OC_LABEL:
            for node in workers:
                _label(api, node, selector.items() <= node["metadata"]["labels"].items())
            api.ensure(
                POOLS,
                {
                    "apiVersion": f"{MACHINE_CONFIG}/v1",
                    "kind": "MachineConfigPool",
                    "metadata": {"name": "kata-oc"},
                    "spec": {"nodeSelector": {"matchLabels": {KATA_OC_LABEL: ""}}, "configuration": {"name": target}},
                },
            )
        _configure(api, "kata-oc" if label == KATA_OC_LABEL else "master", target)
        nodes = _kata_nodes(workers, target, label)
    ready = nodes["readyNodeCount"] == nodes["nodeCount"]
    status: dict[str, Any] = {
        "kataNodes": nodes,
        "conditions": [_in_progress("Installing", nodes, workers, ready)],
    }
    if ready:
        status["runtimeClasses"] = ["kata"]
        api.ensure(RUNTIME_CLASSES, _runtime_class("kata", kata, label))
        if spec.get("enablePeerPods"):
            condition = _peer_pods(api, kata, release, version)
            if condition:
                status["conditions"] = [condition]
            else:
                status["runtimeClasses"].append("kata-remote")
                api.ensure(RUNTIME_CLASSES, _runtime_class("kata-remote", kata, label))
    api.status(_kata_path(kata), kata, status)


def _let_go(api: Api, kata: dict, version: str) -> None:
    if KATA_FINALIZER not in kata["metadata"].get("finalizers", []):
        return None
    release = release_of(version)
    runtime_classes = (kata.get("status") or {}).get("runtimeClasses", [])
    running = {pod["spec"].get("runtimeClassName") for pod in api.list("/api/v1/pods")}
    if in_use := running.intersection(runtime_classes):
        return api.status(
            _kata_path(kata),
            kata,
            {
                "conditions": [
                    {
                        "type": "InProgress",
                        "status": "False",
                        "reason": "BlockedByExistingKataPods",
                        "message": f'existing pods using "{min(in_use)}" RuntimeClass found. Please delete the '
                        "pods manually for KataConfig deletion to proceed",
                    }
                ]
            },
        )
    workers, label = _workers(api), _node_label(api)
    uses_daemon_set = _uses_daemon_set(api, release)
    if uses_daemon_set:
        nodes = _changed_by_daemon_set(api, kata, workers, label, "uninstall")
    else:
        for node in workers:
            _label(api, node, False)
        if label == MASTER_LABEL:
            _configure(api, "master", WORKER_CONFIG)
        nodes = _kata_nodes(workers, None)
    uninstalling = [*nodes["uninstalling"], *nodes["waitingToUninstall"], *nodes["failedToUninstall"]]
    if uninstalling:
        return api.status(
            _kata_path(kata),
            kata,
            {
                "kataNodes": nodes,
                "conditions": [_in_progress("Uninstalling", nodes, workers, False)],
            },
        )
    if uses_daemon_set:
        for node in workers:
            _label(api, node, False)
    else:
        api.delete(f"{POOLS}/kata-oc")
    api.delete(f"{PEER_POD_CONFIGS}/peerpodconfig-openshift")
    api.delete(f"{DAEMON_SETS}/osc-caa-ds")
    for path in WEBHOOK_PATHS:
        api.delete(path)
    builds_image = release.builds_image and (kata.get("spec") or {}).get("enablePeerPods")
    if builds_image and (condition := _delete_image(api, kata, release, version)):
        return api.status(_kata_path(kata), kata, {"conditions": [condition]})
    # Finalizers of other owners stay (controllerutil.RemoveFinalizer).
    others = [name for name in kata["metadata"]["finalizers"] if name != KATA_FINALIZER]
    api.merge(_kata_path(kata), {"metadata": {"finalizers": others or None}})
    # teardownPeerPodsCredentials, after the KataConfig is gone.
    if STS_LABEL in ((api.get(PEER_PODS_SECRET) or {}).get("metadata") or {}).get("labels", {}):
        api.delete(PEER_PODS_SECRET)
    return None


def _configure(api: Api, pool: str, target: str) -> None:
    """Give the pool another configuration, as new and deleted MachineConfigs do."""
    configuration = {"configuration": {"name": target}}
    if not configuration.items() <= api.request("GET", f"{POOLS}/{pool}")["spec"].items():
        api.merge(f"{POOLS}/{pool}", {"spec": configuration})


def _changed_by_daemon_set(api: Api, kata: dict, workers: list[dict], label: str, action: str) -> dict:
    """Install or uninstall kata with a DaemonSet, and return status.kataNodes (SCO's daemonset_reconcile.go).

    Its pods set the label of their node (osc-kata-install.sh). The operator lets one node after the other install.
    After an uninstallation a pod waits for the reboot of its node.
    """
    api.delete(f"{DAEMON_SETS}/osc-rpm-{'uninstall' if action == 'install' else 'install'}")
    name = f"osc-rpm-{action}"
    labels = {"name": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"nodeSelector": {label: ""}, "containers": [{"name": "kata-install", "image": "osc-daemonset"}]},
    }
    api.ensure(
        DAEMON_SETS,
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name, "ownerReferences": [_owner(kata)]},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    )
    selected = [node for node in workers if label in node["metadata"]["labels"]]
    states = [node["metadata"]["labels"].get(INSTALL_STATE) for node in selected]
    for node, state in zip(selected, states, strict=True):
        is_rebooted = REBOOTED in (node["metadata"].get("annotations") or {})
        following = {
            ("install", "waiting_to_install"): None if "installing" in states else "installing",
            ("install", "installing"): "installed",
            ("install", "installed"): None,
            ("uninstall", "uninstalling"): "waiting_for_reboot",
            ("uninstall", "waiting_for_reboot"): "uninstalled" if is_rebooted else None,
            ("uninstall", "uninstalled"): None,
        }.get((action, state), "waiting_to_install" if action == "install" else "uninstalling")
        if following:
            states[selected.index(node)] = following
            path = f"/api/v1/nodes/{node['metadata']['name']}"
            api.merge(path, {"metadata": {"labels": {INSTALL_STATE: following}}})
    lists: dict[str, list[str]] = {"installed": [], "failedToInstall": [], "failedToUninstall": []}
    for list_name in ("installing", "waitingToInstall", "uninstalling", "waitingToUninstall"):
        lists[list_name] = []
    waiting = f"waitingTo{action.capitalize()}"
    for node, state in zip(selected, states, strict=True):
        if state != "uninstalled":
            lists[state if state in lists else waiting].append(node["metadata"]["name"])
    return {"nodeCount": len(selected), "readyNodeCount": len(lists["installed"]), **lists}


def _peer_pods(api: Api, kata: dict, release: Release, version: str) -> dict | None:
    """The steps when the nodes are ready (enablePeerPods of SCO): the image, then cloud-api-adaptor.

    Returns the condition InProgress of an unfinished step.
    """
    _confidential(api)
    if release.builds_image and (condition := _create_image(api, kata, release, version)):
        return condition
    if release.has_peer_pod_config:
        api.ensure(PEER_POD_CONFIGS, peer_pod_config())
    else:
        _cloud_api_adaptor(api, kata, release, version)
    if release.has_webhook and WEBHOOK:
        _webhook(api)
    return None


# If one of these keys is missing or empty, the operator neither creates nor deletes an image, and retries forever
# (validatePeerPodsConfigs in controllers/image_generator.go of SCO). The first tuple is of the Secret, the second of
# peer-pods-cm. TOKENS are the keys of a Secret for tokens (docs/credentials-handling.md of SCO).
REQUIRED = {
    "AWS": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_REGION", "AWS_SUBNET_ID", "AWS_VPC_ID", "AWS_SG_IDS", "CLOUD_PROVIDER"),
    ),
    "Azure": (
        ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID"),
        ("AZURE_RESOURCE_GROUP", "AZURE_REGION", "CLOUD_PROVIDER"),
    ),
}
TOKENS = {
    "AWS": ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "Azure": ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_FEDERATED_TOKEN_FILE"),
}


def _are_settings_complete(api: Api, release: Release) -> bool:
    platform = _platform(api)
    if platform is None:
        return False
    of_secret, of_settings = REQUIRED[platform]
    secret, settings = (api.get(PEER_PODS_SECRET) or {}).get("data") or {}, _settings(api)
    has_credentials = all(map(secret.get, of_secret)) or (
        platform in release.takes_tokens and all(map(secret.get, TOKENS[platform]))
    )
    return has_credentials and all(map(settings.get, of_settings))


def _create_image(api: Api, kata: dict, release: Release, version: str) -> dict | None:
    """Create an image with a job, unless peer-pods-cm names an image; the condition of a job that runs."""
    platform = _platform(api)
    if platform not in REQUIRED:
        return None
    if not _are_settings_complete(api, release):
        # The operator sets the condition PodVMImageJobFailed but does not write it: see Reconcile.
        raise RetryError
    metadata = kata["metadata"]
    trigger = (
        [metadata.get(key) for key in ("generation", "labels", "annotations")],
        _settings(api) if release.rolls else None,
        [node["metadata"]["name"] for node in _workers(api) if KATA_OC_LABEL in node["metadata"]["labels"]],
    )
    fails = _image_job_fails(kata, "create")
    if create_image(api, platform, release, version, metadata["uid"], trigger, fails) == "running":
        return _image_condition("PodVMImageJobRunning", "Creating Pod VM Image")
    return None


def _delete_image(api: Api, kata: dict, release: Release, version: str) -> dict | None:
    """Delete the image with a job as well, even if a user configured the image."""
    platform = _platform(api)
    if platform not in REQUIRED:
        return None
    if not _are_settings_complete(api, release):
        # The condition of a deletion is written, although the reconcile ends with an error.
        return _image_condition("PodVMImageJobFailed", "Failed to delete Pod VM Image")
    if delete_image(api, platform, release, version, _image_job_fails(kata, "delete")) == "running":
        return _image_condition("PodVMImageJobRunning", "Deleting Pod VM Image")
    return None


def _platform(api: Api) -> str | None:
    cloud = api.request("GET", "/apis/config.openshift.io/v1/infrastructures/cluster")
    return (cloud["status"].get("platformStatus") or {}).get("type")


def _settings(api: Api) -> dict[str, str]:
    """The data of peer-pods-cm."""
    return (api.get(f"{CONFIG_MAPS}/peer-pods-cm") or {}).get("data") or {}


def _image_job_fails(kata: dict, job: str) -> bool:
    """Whether the job fails. The operator logs the failure, and continues without an image or with the old image."""
    return job in (kata["metadata"].get("annotations") or {}).get(IMAGE_JOB_FAILS, "")


def _image_condition(reason: str, message: str) -> dict:
    return {"type": "InProgress", "status": "True", "reason": reason, "message": message}


# The objects of the operator's webhook (controllers/ppwebhook.go of SCO).
WEBHOOK_NAME, WEBHOOK_SERVICE = "peer-pods-webhook", "peer-pods-webhook-svc"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments"
SERVICES = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services"
MUTATING_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
WEBHOOK_PATHS = (
    f"{DEPLOYMENTS}/{WEBHOOK_NAME}",
    f"{SERVICES}/{WEBHOOK_SERVICE}",
    f"{MUTATING_WEBHOOKS}/mutating-webhook-configuration",
)


def _webhook(api: Api) -> None:
    """Deploy the operator's webhook: with its names, rules and certificate, and the program of the collection.

    It has one pod, on the real node, where two processes cannot listen on one port. Only system namespaces of this
    cluster are excluded.
    """
    labels, port, health = {"app": WEBHOOK_NAME}, int(WEBHOOK["port"]), int(WEBHOOK["health_port"])
    env = {
        "TARGET_RUNTIME_CLASS": "kata-remote",
        "BIND_ADDRESS": "0.0.0.0",
        "PORT": str(port),
        "HEALTH_PORT": str(health),
        "TLS_CERT_FILE": "/certs/tls.crt",
        "TLS_KEY_FILE": "/certs/tls.key",
    }
    api.ensure(
        DEPLOYMENTS,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": WEBHOOK_NAME, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                        "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}],
                        "automountServiceAccountToken": False,
                        "containers": [
                            {
                                "name": WEBHOOK_NAME,
                                "image": WEBHOOK["image"],
                                "env": [{"name": name, "value": value} for name, value in env.items()],
                                "readinessProbe": {"httpGet": {"path": "/readyz", "port": health}},
                                "volumeMounts": [{"name": "webhook-cert", "mountPath": "/certs"}],
                            }
                        ],
                        "volumes": [{"name": "webhook-cert", "secret": {"secretName": f"{WEBHOOK_SERVICE}-secret"}}],
                    },
                },
            },
        },
    )
    api.ensure(
        SERVICES,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": WEBHOOK_SERVICE,
                "annotations": {SERVING_CERT_ANNOTATION: f"{WEBHOOK_SERVICE}-secret"},
            },
            "spec": {"selector": labels, "ports": [{"name": WEBHOOK_SERVICE, "port": 443, "targetPort": port}]},
        },
    )
    excluded = ["kube-system", "kube-node-lease", "openshift", OPERATOR_NAMESPACE]
    api.ensure(
        MUTATING_WEBHOOKS,
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "mutating-webhook-configuration", "annotations": {INJECT_CA_ANNOTATION: "true"}},
            "webhooks": [
                {
                    "name": "mwebhook.peerpods.io",
                    "clientConfig": {
                        "service": {"name": WEBHOOK_SERVICE, "namespace": OPERATOR_NAMESPACE, "path": "/mutate-v1-pod"}
                    },
                    "rules": [
                        {
                            "operations": ["CREATE", "UPDATE"],
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "resources": ["pods"],
                        }
                    ],
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "namespaceSelector": {
                        "matchExpressions": [
                            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded}
                        ]
                    },
                }
            ],
        },
    )


def _migrate(api: Api) -> None:
    """From 1.9 on: move the limit of peerpodconfig-openshift to peer-pods-cm, and delete that PeerPodConfig.

    See controllers/migrate.go of SCO. Other PeerPodConfigs stay."""
    config = api.get(f"{PEER_POD_CONFIGS}/peerpodconfig-openshift")
    if config is None:
        return
    limit = config["spec"].get("limit")
    if limit is not None and api.get(f"{CONFIG_MAPS}/peer-pods-cm"):
        api.merge(f"{CONFIG_MAPS}/peer-pods-cm", {"data": {LIMIT_KEY: limit}})
    api.delete(f"{PEER_POD_CONFIGS}/peerpodconfig-openshift")


# The state that a controller saw in its last complete reconcile of an object, by uid.
_reconciled: dict[str, object] = {}

# The default node selector of peerpodconfig-ctrl.
DEFAULT_LIMIT = "1"
DEFAULT_SELECTOR = {"node.kubernetes.io/worker": ""}


def peerpodconfig_controller(api: Api) -> None:
    """Up to 1.8: advertise the limit on every node that a PeerPodConfig selects, and create the DaemonSet.

    See peerpodconfig_controller.go of CAA. It reconciles after every write to a PeerPodConfig or its status, and when
    it starts; it ignores nodes that are added later. From 1.7 on, the PeerPodConfig that was written last owns the
    DaemonSet and selects its nodes. All other nodes lose cloud-api-adaptor.
    """
    version = _installed(api)
    if version is None or not release_of(version).has_peer_pod_config:
        return
    release = release_of(version)
    for config_object in api.list(PEER_POD_CONFIGS):
        metadata, spec = config_object["metadata"], config_object["spec"]
        observed = (version, metadata["resourceVersion"])
        if _reconciled.get(metadata["uid"]) == observed:
            continue
        selector = spec.get("nodeSelector") or DEFAULT_SELECTOR
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        limit = spec.get("limit") or DEFAULT_LIMIT
        for node in api.list(f"/api/v1/nodes?labelSelector={labels}"):
            advertise(api, node["metadata"]["name"], limit, release.advertiser)
        _daemon_set(api, _adaptors(release, version, selector, _owner(config_object)), release)
        _reconciled[metadata["uid"]] = observed


def advertise(api: Api, node: str, slots: str | None, manager: str) -> None:
    """Set or remove the extended resource in the node's capacity, as `manager`.

    Also update its allocatable, which kubelets derive at the next heartbeat and kwok does not."""
    op = {"op": "remove"} if slots is None else {"op": "add", "value": slots}
    for part, field_manager in (("capacity", manager), ("allocatable", "kubelet")):
        patch = [{**op, "path": f"/status/{part}/kata.peerpods.io~1vm"}]
        try:
            api.request(
                "PATCH",
                f"/api/v1/nodes/{node}/status?fieldManager={field_manager}",
                patch,
                "application/json-patch+json",
            )
        except ApiError as error:
            # The node was deleted, has nothing to remove, or the limit is not a quantity.
            if error.status not in (400, 404, 422):
                raise


def _cloud_api_adaptor(api: Api, kata: dict, release: Release, version: str) -> None:
    """From 1.9 on: write the whole DaemonSet osc-caa-ds at each reconcile (controllers/peerpods.go of SCO).

    The watches of the operator trigger a reconcile (controllers/openshift_controller.go and cm_event_handler.go): a
    write to the DaemonSet does not, nor a write to a ConfigMap that does not change its data.
    """
    settings = api.get(f"{CONFIG_MAPS}/peer-pods-cm") or {}
    gates = (api.get(f"{CONFIG_MAPS}/osc-feature-gates") or {}).get("data") or {}
    has_token = _mounts_token(api, release)
    observed = (
        version,
        has_token,
        kata["metadata"]["resourceVersion"],
        gates,
        settings.get("data") if release.rolls else None,
        [
            (node["metadata"]["name"], KATA_OC_LABEL in node["metadata"]["labels"], _machine_config(node)[1])
            for node in _workers(api)
        ],
    )
    uid = kata["metadata"]["uid"]
    if _reconciled.get(uid) == observed:
        return
    adaptors = _adaptors(release, version, {_node_label(api): ""}, _owner(kata), has_token=has_token)
    if release.rolls:
        if not settings:
            raise RetryError
        adaptors["spec"]["template"]["metadata"]["annotations"] = {
            "peer-pods-cm/version": settings["metadata"]["resourceVersion"]
        }
    if release.has_update_strategy and gates.get("caaUpdateStrategy") == "OnDelete":
        adaptors["spec"]["updateStrategy"] = {"type": "OnDelete"}
    _daemon_set(api, adaptors, release)
    _reconciled[uid] = observed


# The environment variables of cloud-api-adaptor that the operator sets. peer-pods-cm cannot override them.
ADAPTOR_ENV = [
    {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    {"name": "TLS_MIN_VERSION", "value": "VersionTLS12"},
    {"name": "TLS_CIPHER_SUITES", "value": ""},
]


def _mounts_token(api: Api, release: Release) -> bool:
    """Whether cloud-api-adaptor gets the token: by the environment of the operator, whatever peer-pods-secret has
    (configureCAAProvider in controllers/peerpods.go of SCO)."""
    env, by_cloud = _environment(api), {"AWS": "ROLEARN", "Azure": "CLIENTID"}
    return any(env.get(by_cloud[cloud]) for cloud in release.takes_tokens)


def _adaptors(
    release: Release, version: str, selector: dict[str, str], owner: dict, *, has_token: bool = False
) -> dict:
    labels = {"name": release.daemon_set}
    volumes = [TOKEN_VOLUME] if has_token else []
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": release.daemon_set, "ownerReferences": [owner]},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": selector,
                    "hostNetwork": True,
                    "containers": [
                        {
                            "name": "caa-pod",
                            # adaptor.py reads the release from the tag.
                            "image": f"osc-cloud-api-adaptor-rhel9:{version}",
                            "env": [] if release.has_peer_pod_config else ADAPTOR_ENV,
                            "envFrom": [
                                {"secretRef": {"name": "peer-pods-secret"}},
                                {"configMapRef": {"name": "peer-pods-cm"}},
                            ],
                            "volumeMounts": [
                                {"name": volume["name"], "mountPath": TOKEN_DIRECTORY} for volume in volumes
                            ],
                        }
                    ],
                    "volumes": volumes,
                },
            },
        },
    }


def _owner(config: dict) -> dict:
    return {
        "apiVersion": config["apiVersion"],
        "kind": config["kind"],
        "name": config["metadata"]["name"],
        "uid": config["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _daemon_set(api: Api, daemon_set: dict, release: Release) -> None:
    """Create the DaemonSet, or replace it as a whole."""
    path = f"{DAEMON_SETS}/{daemon_set['metadata']['name']}"
    existing = api.get(path)
    if existing is None:
        api.request("POST", DAEMON_SETS, daemon_set)
    elif release.rewrites_set:
        # CreateOrUpdate keeps other metadata; Update in older releases does not.
        kept_metadata = existing["metadata"] if release.rolls else {}
        api.request("PUT", path, {**daemon_set, "metadata": {**kept_metadata, **daemon_set["metadata"]}})


def _confidential(api: Api) -> None:
    """The feature gate for confidential containers, which sets a key of peer-pods-cm."""
    config_maps = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps"
    gates = (api.get(f"{config_maps}/osc-feature-gates") or {}).get("data", {})
    settings = api.get(f"{config_maps}/peer-pods-cm")
    disable = "false" if gates.get("confidential") == "true" else "true"
    if settings and settings.get("data", {}).get("DISABLECVM") != disable:
        api.merge(f"{config_maps}/peer-pods-cm", {"data": {"DISABLECVM": disable}})


def _workers(api: Api) -> list[dict]:
    return api.list("/api/v1/nodes?labelSelector=node-role.kubernetes.io/worker")


def _label(api: Api, node: dict, is_labelled: bool) -> None:
    labels = node["metadata"]["labels"]
    if (KATA_OC_LABEL in labels) != is_labelled:
        # The state of a DaemonSet is removed with it (unlabelNodesDaemonSet).
        changed_labels = {KATA_OC_LABEL: ""} if is_labelled else {KATA_OC_LABEL: None, INSTALL_STATE: None}
        api.merge(f"/api/v1/nodes/{node['metadata']['name']}", {"metadata": {"labels": changed_labels}})
        if is_labelled:
            labels[KATA_OC_LABEL] = ""
        else:
            del labels[KATA_OC_LABEL]


def _machine_config(node: dict) -> tuple[str, str]:
    """The configuration of a node, and the state of its machine config daemon."""
    annotations = node["metadata"].get("annotations", {})
    return (
        annotations.get(f"{MACHINE_CONFIG}/currentConfig", WORKER_CONFIG),
        annotations.get(f"{MACHINE_CONFIG}/state", "Done"),
    )


def _kata_nodes(workers: list[dict], target: str | None, label: str = KATA_OC_LABEL) -> dict:
    """status.kataNodes of the KataConfig, from the labels and annotations of nodes."""
    lists: dict[str, list[str]] = {
        name: []
        for name in (
            "installed",
            "installing",
            "waitingToInstall",
            "failedToInstall",
            "uninstalling",
            "waitingToUninstall",
            "failedToUninstall",
        )
    }
    selected = 0
    for node in workers:
        kata = label in node["metadata"]["labels"]
        selected += kata
        config, state = _machine_config(node)
        verb = "install" if kata else "uninstall"
        if state == "Done" and config == (target if kata else WORKER_CONFIG):
            list_name = "installed" if kata else None
        elif state == "Working":
            list_name = f"{verb}ing"
        else:
            failed = "failed" if state == "Degraded" else "waiting"
            list_name = f"{failed}To{verb.capitalize()}"
        if list_name:
            lists[list_name].append(node["metadata"]["name"])
    return {"nodeCount": selected, "readyNodeCount": len(lists["installed"]), **lists}


def _in_progress(reason: str, nodes: dict, workers: list[dict], done: bool) -> dict:
    failed = [*nodes["failedToInstall"], *nodes["failedToUninstall"]]
    if failed:
        why = {
            node["metadata"]["name"]: node["metadata"]["annotations"][f"{MACHINE_CONFIG}/reason"]
            for node in workers
            if node["metadata"]["name"] in failed
        }
        return {
            "type": "InProgress",
            "status": "True",
            "reason": "Failed",
            "message": f"Node {failed[-1]} Degraded: {why[failed[-1]]}",
        }
    if done:
        return {"type": "InProgress", "status": "False"}
    return {
        "type": "InProgress",
        "status": "True",
        "reason": reason,
        "message": {
            "Installing": "Performing initial installation of kata on cluster",
            "Uninstalling": "Removing kata from cluster",
        }[reason],
    }


def _runtime_class(name: str, kata: dict, label: str) -> dict:
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {
            "name": name,
            "ownerReferences": [
                {
                    "apiVersion": "kataconfiguration.openshift.io/v1",
                    "kind": "KataConfig",
                    "name": kata["metadata"]["name"],
                    "uid": kata["metadata"]["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "handler": name,
        # The overhead of the shim and cloud-api-adaptor on the worker node.
        "overhead": {"podFixed": {"cpu": "250m", "memory": "350Mi"}},
        "scheduling": {"nodeSelector": {label: ""}},
    }


def machine_config_operator(api: Api) -> None:
    """MachineConfigPool → its nodes are updated to the configuration of the pool, one after the other."""
    pools = _pools(api)
    # A hosted control plane has no machine config operator.
    if pools is None:
        return
    members: dict[str, list[dict]] = {"worker": [], "kata-oc": []}
    for node in _workers(api):
        labels = node["metadata"]["labels"]
        if MASTER_LABEL in labels:
            # Also with the label of another pool (GetPoolsForNode in pkg/helpers/helpers.go of
            # openshift/machine-config-operator). Other nodes of the control plane do not exist here.
            members.setdefault("master", []).append(node)
        else:
            members["kata-oc" if KATA_OC_LABEL in labels and "kata-oc" in pools else "worker"].append(node)
    for name in members.keys() & pools.keys():
        _rolled(api, pools[name], members[name])


def _rolled(api: Api, pool: dict, nodes: list[dict]) -> None:
    name = pool["metadata"]["name"]
    target = pool["spec"].get("configuration", {}).get("name", WORKER_CONFIG)
    # A fifth of a large pool in each tick, so that the time does not depend on its size.
    room = max(1, len(nodes) // 5)
    counts = dict.fromkeys(("updated", "unavailable", "degraded"), 0)
    reports = []
    for node in nodes:
        node_name = node["metadata"]["name"]
        config, state = _machine_config(node)
        reason = node["metadata"].get("annotations", {}).get(DEGRADES)
        change = {}
        if config == target and state == "Done":
            counts["updated"] += 1
            continue
        if pool["spec"].get("paused"):
            continue
        if reason:
            change = {"state": "Degraded", "reason": reason}
            counts["degraded"] += 1
            reports.append(f'Node {node_name} is reporting: "{reason}"')
        elif state == "Working":
            change = {"currentConfig": target, "state": "Done"}
        elif room > counts["unavailable"]:
            change = {"desiredConfig": target, "state": "Working", "reason": None}
        if change:
            counts["unavailable"] += 1
            new_annotations = {f"{MACHINE_CONFIG}/{key}": value for key, value in change.items()}
            current_annotations = node["metadata"].get("annotations", {})
            if any(current_annotations.get(key) != value for key, value in new_annotations.items()):
                api.merge(f"/api/v1/nodes/{node_name}", {"metadata": {"annotations": new_annotations}})
    done = counts["updated"] == len(nodes)
    api.status(
        f"{POOLS}/{name}",
        pool,
        {
            "machineCount": len(nodes),
            "updatedMachineCount": counts["updated"],
            "readyMachineCount": counts["updated"],
            "unavailableMachineCount": counts["unavailable"],
            "degradedMachineCount": counts["degraded"],
            "conditions": [
                {"type": "Updated", "status": str(done)},
                {"type": "Updating", "status": str(not done)},
                {
                    "type": "NodeDegraded",
                    "status": str(bool(reports)),
                    "message": ", ".join(reports),
                    "reason": f"{len(reports)} nodes are reporting degraded status on sync" if reports else "",
                },
                {"type": "Degraded", "status": str(bool(reports))},
            ],
        },
    )


def service_ca_operator(api: Api, authority: CertificateAuthority) -> None:
    """Create a serving certificate for each annotated Service, and inject the CA into each annotated webhook."""
    for service in api.list("/api/v1/services"):
        metadata = service["metadata"]
        secret = metadata.get("annotations", {}).get(SERVING_CERT_ANNOTATION)
        if secret is None:
            continue
        secrets = f"/api/v1/namespaces/{metadata['namespace']}/secrets"
        if api.get(f"{secrets}/{secret}") is None:
            name = f"{metadata['name']}.{metadata['namespace']}.svc"
            # A common name has at most 64 characters; clients use the alternative names.
            pair = authority.server(name[:64], name, f"{name}.cluster.local")
            api.request(
                "POST",
                secrets,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "type": "kubernetes.io/tls",
                    "metadata": {
                        "name": secret,
                        "annotations": {ORIGINATING_SERVICE_ANNOTATION: metadata["name"]},
                        "ownerReferences": [
                            {"apiVersion": "v1", "kind": "Service", "name": metadata["name"], "uid": metadata["uid"]}
                        ],
                    },
                    "data": {"tls.crt": _base64(pair.certificate), "tls.key": _base64(pair.key)},
                },
            )
    bundle = _base64(authority.pair.certificate)
    webhooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    for configuration in api.list(webhooks):
        metadata = configuration["metadata"]
        if metadata.get("annotations", {}).get(INJECT_CA_ANNOTATION) != "true":
            continue
        stale = [
            index
            for index, webhook in enumerate(configuration.get("webhooks", []))
            if webhook["clientConfig"].get("caBundle") != bundle
        ]
        if stale:
            for index in stale:
                configuration["webhooks"][index]["clientConfig"]["caBundle"] = bundle
            # With the resourceVersion, so that a write of another client in between is a conflict.
            api.request("PUT", f"{webhooks}/{metadata['name']}", configuration)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()
