"""Stands in for the cluster's own controllers, so that the roles wait for real transitions.

Not the Operator Lifecycle Manager, not the OpenShift sandboxed containers
operator, not the cloud credential operator, not the service CA operator: a
small actor that answers their custom resources in the order, and with the
states, that they go through. It installs nothing and reboots nothing. Run it
as `python -m tests.cluster.operators KUBECONFIG`.
"""

from __future__ import annotations

import base64
import json
import sys
import time

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from tests.support import OPERATOR_NAMESPACE

from .openshift import peer_pod_config
from .pki import CertificateAuthority

PACKAGE = "sandboxed-containers-operator"
LATEST_CSV = f"{PACKAGE}.v1.8.1"

KATA_OC_LABEL = "node-role.kubernetes.io/kata-oc"

# A tick is one step of every state machine; a real one takes minutes.
TICK = 0.3

SERVING_CERT_ANNOTATION = "service.beta.openshift.io/serving-cert-secret-name"
INJECT_CA_ANNOTATION = "service.beta.openshift.io/inject-cabundle"

# Which root credentials the cloud credential operator serves a request from, and what it gives away of them.
ROOT_CREDENTIALS = {
    "AWSProviderSpec": ("aws-creds", ("aws_access_key_id", "aws_secret_access_key")),
    "AzureProviderSpec": ("azure-credentials", tuple(f"azure_{name}" for name in (
        "client_id", "client_secret", "region", "resource_prefix", "resourcegroup", "subscription_id",
        "tenant_id"))),
}  # fmt: skip

# What the sandboxed containers operator takes of them, in capital letters, and how it marks its Secret.
PEER_POD_CREDENTIALS = {
    "aws_access_key_id", "aws_secret_access_key",
    "azure_client_id", "azure_client_secret", "azure_subscription_id", "azure_tenant_id",
}  # fmt: skip
CREDENTIALS_REQUEST_LABEL = {"kataconfiguration.openshift.io/credentials-request-based": "true"}


class Api:
    """Just enough of a client: plain paths and plain dicts."""

    def __init__(self, kubeconfig: str):
        self._client = DynamicClient(config.new_client_from_config(kubeconfig))

    def request(
        self, method: str, path: str, body=None, content_type: str = "application/json"
    ) -> dict:
        response = self._client.request(
            method.lower(), path, body=body, content_type=content_type, serialize=False
        )
        return json.loads(response.data)

    def list(self, path: str) -> list[dict]:
        return self.request("GET", path)["items"]

    def get(self, path: str) -> dict | None:
        try:
            return self.request("GET", path)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def ensure(self, collection: str, body: dict) -> None:
        """Create the object unless it is there."""
        if self.get(f"{collection}/{body['metadata']['name']}") is None:
            self.request("POST", collection, body)

    def merge(self, path: str, body: dict) -> None:
        self.request("PATCH", path, body, "application/merge-patch+json")


def main() -> None:
    api = Api(sys.argv[1])
    service_ca = CertificateAuthority("openshift-service-serving-signer")
    while True:
        for act in (lifecycle_manager, cloud_credential_operator, sandboxed_containers_operator):
            try:
                act(api)
            except ApiException as error:
                # Two writers met, or an object went away in between: look again next tick.
                if error.status not in (404, 409):
                    raise
        service_ca_operator(api, service_ca)
        time.sleep(TICK)


def lifecycle_manager(api: Api) -> None:
    """Subscription → InstallPlan (approved, or waiting for it) → ClusterServiceVersion Succeeded."""
    root = "/apis/operators.coreos.com"
    for subscription in api.list(f"{root}/v1alpha1/subscriptions"):
        namespace, name = (subscription["metadata"][key] for key in ("namespace", "name"))
        spec, status = subscription["spec"], subscription.get("status", {})
        collection = f"{root}/v1alpha1/namespaces/{namespace}"
        here = f"{collection}/subscriptions/{name}/status"
        catalog = api.get(
            f"{root}/v1alpha1/namespaces/{spec['sourceNamespace']}/catalogsources/{spec['source']}"
        )
        if catalog is None:
            condition = {
                "type": "CatalogSourcesUnhealthy",
                "status": "True",
                "message": f"no catalog source {spec['source']} in {spec['sourceNamespace']}",
            }
            if status.get("conditions") != [condition]:
                api.merge(here, {"status": {"conditions": [condition]}})
            continue
        # Without exactly one OperatorGroup in the namespace, OLM does nothing.
        if len(api.list(f"{root}/v1/namespaces/{namespace}/operatorgroups")) != 1:
            continue
        csv_name = spec.get("startingCSV") or LATEST_CSV
        if status.get("state") == "AtLatestKnown":
            continue
        plan_path = f"{collection}/installplans/install-{name[:20]}"
        plan = api.get(plan_path)
        if plan is None:
            approval = spec.get("installPlanApproval", "Automatic")
            api.request("POST", f"{collection}/installplans", {
                "apiVersion": "operators.coreos.com/v1alpha1",
                "kind": "InstallPlan",
                "metadata": {"name": plan_path.rpartition("/")[2]},
                "spec": {"approval": approval, "approved": approval == "Automatic",
                         "clusterServiceVersionNames": [csv_name]},
            })  # fmt: skip
            api.merge(here, {"status": {
                "state": "UpgradePending",
                "currentCSV": csv_name,
                "installPlanRef": {"namespace": namespace, "name": plan_path.rpartition("/")[2]},
            }})  # fmt: skip
        elif not plan["spec"]["approved"]:
            if plan.get("status", {}).get("phase") != "RequiresApproval":
                api.merge(f"{plan_path}/status", {"status": {"phase": "RequiresApproval"}})
        elif _install(api, f"{collection}/clusterserviceversions", csv_name):
            api.merge(f"{plan_path}/status", {"status": {"phase": "Complete"}})
            api.merge(here, {"status": {"state": "AtLatestKnown", "installedCSV": csv_name}})


def _install(api: Api, collection: str, csv_name: str) -> bool:
    """Take a ClusterServiceVersion one phase further; true once it has Succeeded."""
    phases = [None, "Pending", "InstallReady", "Installing", "Succeeded"]
    csv = api.get(f"{collection}/{csv_name}")
    if csv is None:
        csv = api.request("POST", collection, {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "ClusterServiceVersion",
            "metadata": {"name": csv_name},
            "spec": {
                "displayName": "OpenShift sandboxed containers Operator",
                "version": csv_name.partition(".v")[2],
                "install": {"strategy": "deployment"},
            },
        })  # fmt: skip
    phase = csv.get("status", {}).get("phase")
    if phase != "Succeeded":
        following = phases[phases.index(phase) + 1]
        api.merge(f"{collection}/{csv_name}/status", {"status": {"phase": following}})
    return phase == "Succeeded"


def cloud_credential_operator(api: Api) -> None:
    """CredentialsRequest → the Secret that it names, in passthrough mode: as the root credentials are."""
    root = "/apis/cloudcredential.openshift.io/v1"
    for request in api.list(f"{root}/credentialsrequests"):
        metadata, spec = request["metadata"], request["spec"]
        here = f"{root}/namespaces/{metadata['namespace']}/credentialsrequests/{metadata['name']}/status"
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
            reference = spec["secretRef"]
            api.ensure(f"/api/v1/namespaces/{reference['namespace']}/secrets", {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": reference["name"], "annotations": {
                    "cloudcredential.openshift.io/credentials-request":
                        f"{metadata['namespace']}/{metadata['name']}"}},
                "data": data,
            })  # fmt: skip
            status = {"provisioned": True, "conditions": []}
        status["lastSyncGeneration"] = metadata["generation"]
        if not status.items() <= request.get("status", {}).items():
            api.merge(here, {"status": status})


def _aws_credentials_file(data: dict) -> str:
    """What an AWS SDK reads, of base64 values."""
    return "[default]\n" + "".join(
        f"{key} = {base64.b64decode(value).decode()}\n" for key, value in data.items()
    )


def sandboxed_containers_operator(api: Api) -> None:
    """KataConfig → kata-oc pool rolled node by node → RuntimeClasses and PeerPodConfig.

    Before that, as its credentials controller does: cco-secret → peer-pods-secret.
    """
    csvs = api.list(
        f"/apis/operators.coreos.com/v1alpha1/namespaces/{OPERATOR_NAMESPACE}/clusterserviceversions"
    )
    if not any(csv.get("status", {}).get("phase") == "Succeeded" for csv in csvs):
        return
    _map_credentials(api)
    for kata in api.list("/apis/kataconfiguration.openshift.io/v1/kataconfigs"):
        _roll_out(api, kata)


def _map_credentials(api: Api) -> None:
    """Unless a user made peer-pods-secret: that one is left alone."""
    secrets = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets"
    cco_secret = api.get(f"{secrets}/cco-secret")
    if cco_secret is None:
        return
    data = {
        key.upper(): value
        for key, value in cco_secret["data"].items()
        if key in PEER_POD_CREDENTIALS
    }
    api.ensure(secrets, {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "peer-pods-secret",
            "labels": CREDENTIALS_REQUEST_LABEL,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "cco-secret",
                                 "uid": cco_secret["metadata"]["uid"], "controller": True}],
        },
        "data": data,
    })  # fmt: skip


def _roll_out(api: Api, kata: dict) -> None:
    spec = kata.get("spec") or {}
    selector = (spec.get("kataConfigPoolSelector") or {}).get("matchLabels", {})
    nodes = [
        node["metadata"]
        for node in api.list("/api/v1/nodes")
        if "node-role.kubernetes.io/worker" in node["metadata"]["labels"]
        and selector.items() <= node["metadata"]["labels"].items()
    ]
    installed = [node["name"] for node in nodes if KATA_OC_LABEL in node["labels"]]
    waiting = [node["name"] for node in nodes if KATA_OC_LABEL not in node["labels"]]
    here = f"/apis/kataconfiguration.openshift.io/v1/kataconfigs/{kata['metadata']['name']}/status"
    progress = (kata.get("status") or {}).get("conditions", [{}])[0].get("status")
    if not waiting and progress == "False":
        return
    # A fifth of the pool a tick, so that a roll takes some ticks whatever its size.
    installing = waiting[: max(1, len(nodes) // 5)] if progress else []
    for name in installing:
        api.merge(f"/api/v1/nodes/{name}", {"metadata": {"labels": {KATA_OC_LABEL: ""}}})
    pools = "/apis/machineconfiguration.openshift.io/v1/machineconfigpools"
    api.ensure(pools, {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": {"name": "kata-oc"},
        "spec": {"nodeSelector": {"matchLabels": {KATA_OC_LABEL: ""}}},
    })  # fmt: skip
    api.merge(f"{pools}/kata-oc/status", {"status": {
        "machineCount": len(nodes),
        "updatedMachineCount": len(installed),
        "readyMachineCount": len(installed),
        "unavailableMachineCount": len(installing),
        "degradedMachineCount": 0,
    }})  # fmt: skip
    status = {
        "kataNodes": {
            "nodeCount": len(nodes),
            "readyNodeCount": len(installed),
            "installed": installed,
            "installing": installing,
            "waitingToInstall": [name for name in waiting if name not in installing],
        },
        "conditions": [_in_progress("True" if waiting else "False")],
    }
    if not waiting:
        status["runtimeClasses"] = ["kata"] + ["kata-remote"] * bool(spec.get("enablePeerPods"))
        for name in status["runtimeClasses"]:
            api.ensure("/apis/node.k8s.io/v1/runtimeclasses", _runtime_class(name))
        if spec.get("enablePeerPods"):
            api.ensure(
                f"/apis/confidentialcontainers.org/v1alpha1/namespaces/{OPERATOR_NAMESPACE}/peerpodconfigs",
                peer_pod_config(),
            )
    api.merge(here, {"status": status})


def _in_progress(status: str) -> dict:
    return {
        "type": "InProgress",
        "status": status,
        "reason": "Installing" if status == "True" else "Installed",
        "message": "Performing initial installation of kata on cluster" * (status == "True"),
        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _runtime_class(name: str) -> dict:
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": name,
        # What shim and cloud-api-adaptor take on the worker node itself.
        "overhead": {"podFixed": {"cpu": "250m", "memory": "350Mi"}},
        "scheduling": {"nodeSelector": {KATA_OC_LABEL: ""}},
    }


def service_ca_operator(api: Api, authority: CertificateAuthority) -> None:
    """A serving certificate for each Service that asks, our CA to each webhook that asks."""
    for service in api.list("/api/v1/services"):
        metadata = service["metadata"]
        secret = metadata.get("annotations", {}).get(SERVING_CERT_ANNOTATION)
        if secret is None:
            continue
        secrets = f"/api/v1/namespaces/{metadata['namespace']}/secrets"
        if api.get(f"{secrets}/{secret}") is None:
            name = f"{metadata['name']}.{metadata['namespace']}.svc"
            pair = authority.server(name, name, f"{name}.cluster.local")
            api.request("POST", secrets, {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {"name": secret},
                "data": {"tls.crt": _base64(pair.certificate), "tls.key": _base64(pair.key)},
            })  # fmt: skip
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
            api.request(
                "PATCH",
                f"{webhooks}/{metadata['name']}",
                [
                    {"op": "test", "path": "/metadata/resourceVersion",
                     "value": metadata["resourceVersion"]},
                    *({"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle",
                       "value": bundle} for index in stale),
                ],
                "application/json-patch+json",
            )  # fmt: skip


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()
