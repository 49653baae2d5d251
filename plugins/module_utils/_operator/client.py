# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the objects of the operator in a cluster (private to this collection)."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NODES_PATH, PODS_PATH, serves
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_job import (
    CREATION_JOB,
    CREDENTIALS_REQUEST,
    JOB_LABEL,
    LOG_LINES,
    ImageJob,
    check_job,
    describe_failure,
    describe_log,
    failed_container,
    last_failure,
    missing_keys,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_settings import NAMES as IMAGE_SETTINGS
from ansible_collections.osc.peerpods.plugins.module_utils._operator.node_rollout import (
    INSTALL_STATE_LABEL,
    describe_pool,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import (
    csv_names,
    plan_name,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    KATA_CONFIGS,
    KEPT_KATA_CONFIG,
    OLM,
    PACKAGE,
    PEER_PODS_CM,
    PEER_PODS_SECRET,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import RUNNING_PODS, is_peer_pod

OPERATOR_GROUPS = "/apis/operators.coreos.com/v1/namespaces/{}/operatorgroups"
MACHINE_CONFIGURATION = "/apis/machineconfiguration.openshift.io/v1"
POOLS = f"{MACHINE_CONFIGURATION}/machineconfigpools"
CREDENTIALS_REQUESTS = (
    "/apis/cloudcredential.openshift.io/v1/namespaces/openshift-cloud-credential-operator/credentialsrequests"
)

# The operator's configuration; users create layered-image-deploy-cm for the feature gate of that name.
CONFIG_MAPS = (
    "peer-pods-cm",
    "osc-feature-gates",
    "layered-image-deploy-cm",
    KEPT_KATA_CONFIG,
    # The operator creates these, unless they exist.
    *IMAGE_SETTINGS.values(),
)
SECRETS = ("peer-pods-secret", "ssh-key-secret")
CLOUDS = ("aws", "azure")

PACKAGES_PATH = "/apis/packages.operators.coreos.com/v1/packagemanifests"


def read_subscription(cluster: Cluster, namespace: str) -> dict | None:
    """The operator's Subscription. Its name is not known: the web console chooses one."""
    subscriptions = items(cluster, f"{OLM}/namespaces/{namespace}/subscriptions")
    return next((subscription for subscription in subscriptions if subscription["spec"]["name"] == PACKAGE), None)


def read_plan(cluster: Cluster, namespace: str, subscription: dict | None) -> dict | None:
    name = plan_name(subscription)
    return cluster.get(f"{OLM}/namespaces/{namespace}/installplans/{name}") if name else None


def read_csvs(cluster: Cluster, namespace: str, subscription: dict | None) -> dict[str, dict]:
    """The existing CSVs of the Subscription, and the CSVs that they replace."""
    path = f"{OLM}/namespaces/{namespace}/clusterserviceversions"
    csvs: dict[str, dict] = {}
    for name in csv_names(subscription):
        csv = cluster.get(f"{path}/{name}")
        if csv is None:
            continue
        csvs[name] = csv
        before = csv["spec"].get("replaces")
        replaced = cluster.get(f"{path}/{before}") if before and before not in csvs else None
        if replaced is not None:
            csvs[before] = replaced
    return csvs


def read_source(cluster: Cluster, namespace: str, name: str) -> dict | None:
    return cluster.get(f"{OLM}/namespaces/{namespace}/catalogsources/{name}")


def read_package_manifests(cluster: Cluster) -> list[dict] | None:
    """The PackageManifests of all catalogs that have the package; None if the cluster does not serve them."""
    # The PackageManifests of all operators are megabytes.
    query = {"fieldSelector": f"metadata.name={PACKAGE}"}
    try:
        # PackageManifests have no uid, which pages() uses to skip duplicates after a restart of the list.
        pages = list(cluster.pages(PACKAGES_PATH, query))
    except ClusterError as error:
        if error.status in (404, 503):
            return None
        raise
    return [manifest for page in pages for manifest in page["items"]]


def read_pools(cluster: Cluster) -> dict[str, dict] | None:
    """The MachineConfigPools by name; None if the API server does not serve them, as on hosted control planes."""
    try:
        return {pool["metadata"]["name"]: pool for pool in cluster.list(POOLS)}
    except ClusterError as error:
        if error.status == 404:
            return None
        raise


def read_machine_configs(cluster: Cluster) -> dict:
    """What `plan_deployment` needs to know about the machine config operator."""
    pools = read_pools(cluster)
    if pools is None:
        return {"served": serves(cluster.get(MACHINE_CONFIGURATION), "machineconfigs"), "pools": None}
    return {"served": True, "pools": [describe_pool(pool) for pool in pools.values()]}


def read_install_states(cluster: Cluster) -> dict[str, str]:
    """The state of each node on which a DaemonSet of the operator installs or removes kata, by node."""
    nodes = cluster.list(NODES_PATH, labelSelector=INSTALL_STATE_LABEL)
    return {node["metadata"]["name"]: node["metadata"]["labels"][INSTALL_STATE_LABEL] for node in nodes}


def read_kata_configs(cluster: Cluster) -> list[dict]:
    return items(cluster, KATA_CONFIGS)


def read_pods(cluster: Cluster, runtime_classes: Collection[str]) -> list[str]:
    """The names of the running pods that are on a node and have these RuntimeClasses or a peer pod's slot."""
    return sorted(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in cluster.list(PODS_PATH, fieldSelector=RUNNING_PODS)
        if is_peer_pod(pod, runtime_classes)
    )


def read_settings(cluster: Cluster, namespace: str) -> dict | None:
    """The ConfigMap with the settings of cloud-api-adaptor."""
    return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{PEER_PODS_CM}")


def read_missing_keys(cluster: Cluster, namespace: str) -> str:
    """What the operator needs for a job of the image, and does not have."""
    return missing_keys(read_settings(cluster, namespace), _read_secret(cluster, namespace))


def read_image_job(cluster: Cluster, namespace: str, since: str, now: datetime) -> ImageJob:
    """The state of the job that creates the image of the pod VMs; the job is read only if no image exists."""
    settings = read_settings(cluster, namespace)
    image = check_job(settings, (), None, (), (), since, now)
    if image.image:
        return image
    job = read_image_job_object(cluster, namespace)
    pods = _image_pods(cluster, namespace)
    events = [] if job else read_events(cluster, namespace, CREATION_JOB)
    secret = {} if job else _read_secret(cluster, namespace)
    request = cluster.get(f"{CREDENTIALS_REQUESTS}/{CREDENTIALS_REQUEST}") if job else None
    return check_job(settings, secret, job, pods, events, since, now, request)


def read_image_failure(cluster: Cluster, namespace: str, image: ImageJob) -> str:
    """Why the job failed, with the end of its log."""
    secrets = _read_secret(cluster, namespace).values()
    name, log, problem = _read_log(cluster, namespace, image.pod)
    last_log = ""
    if image.last and image.last != image.pod:
        last_log = _read_log(cluster, namespace, image.last)[1] or ""
    events = [event for each in filter(None, (CREATION_JOB, name)) for event in read_events(cluster, namespace, each)]
    return describe_failure(image.failure, name, log, problem, events, secrets, last_log)


def read_image_log(cluster: Cluster, namespace: str, now: datetime) -> str:
    """The end of the log of a job that creates an image now; empty without such a job, or if it cannot be read."""
    try:
        image = read_image_job(cluster, namespace, "", now)
        secrets = _read_secret(cluster, namespace).values() if image.is_active else ()
    except ClusterError:
        return ""
    return describe_log(*_read_log(cluster, namespace, image.pod), secrets) if image.is_active else ""


def _read_log(cluster: Cluster, namespace: str, pod: Mapping | None) -> tuple[str, str | None, str]:
    """The name of the pod, its log, and why it cannot be read."""
    if not pod:
        return "", None, ""
    name = pod["metadata"]["name"]
    try:
        return name, cluster.log(namespace, name, failed_container(pod), LOG_LINES), ""
    except ClusterError as error:
        return name, None, str(error)


def read_image_job_object(cluster: Cluster, namespace: str) -> dict | None:
    """The job that creates an image. After a failure, the operator deletes it."""
    return cluster.get(_image_job(namespace))


def _image_job(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{CREATION_JOB}"


def read_image_failure_time(cluster: Cluster, namespace: str) -> str:
    """When the operator last reported a failed job; empty if it has not."""
    return last_failure(read_events(cluster, namespace, CREATION_JOB))


def read_events(cluster: Cluster, namespace: str, name: str) -> list[dict]:
    """The events of the object with that name."""
    path = f"/api/v1/namespaces/{namespace}/events"
    return list(cluster.list(path, fieldSelector=f"involvedObject.name={name}"))


def _image_pods(cluster: Cluster, namespace: str) -> list[dict]:
    return list(cluster.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"{JOB_LABEL}={CREATION_JOB}"))


def _read_secret(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The cloud credentials of the operator."""
    secret = cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{PEER_PODS_SECRET}") or {}
    return {
        key: base64.b64decode(value).decode(errors="replace")
        for key, value in (secret.get("data") or {}).items()
        if value
    }


def read_objects(cluster: Cluster, namespace: str) -> Iterator[tuple[str, str, dict]]:
    """The objects that a teardown may remove, in order: apiVersion, kind, object."""
    for kata in read_kata_configs(cluster):
        yield "kataconfiguration.openshift.io/v1", "KataConfig", kata
    core = f"/api/v1/namespaces/{namespace}"
    single = (
        *(("v1", "ConfigMap", f"{core}/configmaps/{name}") for name in CONFIG_MAPS),
        *(("v1", "Secret", f"{core}/secrets/{name}") for name in SECRETS),
        *(
            (
                "cloudcredential.openshift.io/v1",
                "CredentialsRequest",
                f"{CREDENTIALS_REQUESTS}/openshift-sandboxed-containers-{cloud}",
            )
            for cloud in CLOUDS
        ),
    )
    for api_version, kind, path in single:
        object_ = cluster.get(path)
        if object_ is not None:
            yield api_version, kind, object_
    olm = f"{OLM}/namespaces/{namespace}"
    # Also those of other operators, which need the OperatorGroup.
    for subscription in items(cluster, f"{olm}/subscriptions"):
        yield "operators.coreos.com/v1alpha1", "Subscription", subscription
    for csv in items(cluster, f"{olm}/clusterserviceversions"):
        if csv["metadata"]["name"].startswith(f"{PACKAGE}."):
            yield "operators.coreos.com/v1alpha1", "ClusterServiceVersion", csv
    for group in items(cluster, OPERATOR_GROUPS.format(namespace)):
        yield "operators.coreos.com/v1", "OperatorGroup", group
    namespace_object = cluster.get(f"/api/v1/namespaces/{namespace}")
    if namespace_object is not None:
        yield "v1", "Namespace", namespace_object


def items(cluster: Cluster, path: str) -> list[dict]:
    """The objects of a collection; none if the API server does not serve their kind."""
    try:
        return list(cluster.list(path))
    except ClusterError as error:
        if error.status == 404:
            return []
        raise
