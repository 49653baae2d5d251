# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the roles need to know of a cluster, read out of its own objects (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._advertisers import advertisers
from ansible_collections.osc.peerpods.plugins.module_utils._mutating_policy import (
    VERSIONS,
    serves_policies,
)
from ansible_collections.osc.peerpods.plugins.module_utils._mutating_webhook import (
    RUNTIME_CLASSES_PATH,
    serves,
    serves_match_conditions,
)

INFRASTRUCTURE_PATH = "/apis/config.openshift.io/v1/infrastructures/cluster"
CLUSTER_VERSION_PATH = "/apis/config.openshift.io/v1/clusterversions/version"

# Asks the API server whether it would let us do anything to anything: the role cluster-admin.
ACCESS_REVIEWS_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CLUSTER_ADMIN_REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}},
}

# What a playbook does to a cluster whatever its settings, by API group and resource. What only a setting
# asks for (an image built in the cluster, credentials of its own) or only some clusters have (cert-manager,
# Prometheus' operator) is not in it.
_READ = ("get", "list")
_WRITE = ("get", "create", "patch")
_REMOVE = (*_READ, "delete")
NEEDED = {
    "site": {
        ("", "configmaps"): (*_WRITE, "delete"),
        ("", "namespaces"): _WRITE,
        ("", "nodes"): ("get", "list", "watch"),
        # A change of the settings replaces cloud-api-adaptor pods.
        ("", "pods"): ("list", "create", "watch", "delete"),
        ("", "secrets"): _WRITE,
        ("", "serviceaccounts"): _WRITE,
        ("", "services"): _WRITE,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): (
            *_READ,
            "create",
            "update",
        ),
        ("apps", "controllerrevisions"): ("list",),
        ("apps", "daemonsets"): ("get", "list"),
        ("apps", "deployments"): _WRITE,
        ("cloudcredential.openshift.io", "credentialsrequests"): ("get",),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list", "patch"),
        ("config.openshift.io", "apiservers"): ("get",),
        ("config.openshift.io", "clusterversions"): ("get",),
        ("config.openshift.io", "infrastructures"): ("get",),
        ("discovery.k8s.io", "endpointslices"): ("list", "watch"),
        ("kataconfiguration.openshift.io", "kataconfigs"): ("list", *_WRITE),
        ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
        ("networking.k8s.io", "networkpolicies"): _WRITE,
        ("node.k8s.io", "runtimeclasses"): ("get",),
        ("operators.coreos.com", "catalogsources"): ("get",),
        ("operators.coreos.com", "clusterserviceversions"): _READ,
        ("operators.coreos.com", "installplans"): ("get", "patch"),
        ("operators.coreos.com", "operatorgroups"): ("list", *_WRITE),
        ("operators.coreos.com", "subscriptions"): ("list", *_WRITE),
        ("packages.operators.coreos.com", "packagemanifests"): ("list",),
        ("policy", "poddisruptionbudgets"): _WRITE,
        # Whoever gives away rights that they do not have themselves needs these two verbs.
        ("rbac.authorization.k8s.io", "clusterroles"): (*_WRITE, "escalate", "bind"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"): _WRITE,
        ("rbac.authorization.k8s.io", "roles"): (*_WRITE, "escalate", "bind"),
        ("rbac.authorization.k8s.io", "rolebindings"): _WRITE,
    },
    "teardown": {
        ("", "configmaps"): (*_REMOVE, "patch"),
        ("", "namespaces"): ("get", "delete"),
        ("", "nodes"): ("list",),
        ("", "nodes/status"): ("patch",),
        ("", "persistentvolumeclaims"): ("list",),
        ("", "pods"): ("list",),
        ("", "secrets"): _REMOVE,
        ("", "serviceaccounts"): _REMOVE,
        ("", "services"): _REMOVE,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): ("get", "delete"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"): _REMOVE,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): ("get", "delete"),
        ("apps", "daemonsets"): ("list",),
        ("apps", "deployments"): _REMOVE,
        ("cloudcredential.openshift.io", "credentialsrequests"): ("get",),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list",),
        ("config.openshift.io", "clusterversions"): ("get",),
        ("config.openshift.io", "infrastructures"): ("get",),
        ("coordination.k8s.io", "leases"): ("get", "delete"),
        ("kataconfiguration.openshift.io", "kataconfigs"): _REMOVE,
        ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
        ("networking.k8s.io", "networkpolicies"): _REMOVE,
        ("operators.coreos.com", "clusterserviceversions"): (*_REMOVE, "patch"),
        ("operators.coreos.com", "installplans"): ("get",),
        ("operators.coreos.com", "operatorgroups"): _REMOVE,
        ("operators.coreos.com", "subscriptions"): _REMOVE,
        ("packages.operators.coreos.com", "packagemanifests"): ("list",),
        ("policy", "poddisruptionbudgets"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterroles"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterrolebindings"): _REMOVE,
        ("rbac.authorization.k8s.io", "roles"): _REMOVE,
        ("rbac.authorization.k8s.io", "rolebindings"): _REMOVE,
    },
}

RUNTIME_CLASS_PATH = f"{RUNTIME_CLASSES_PATH}/kata-remote"

VALIDATING_POLICIES = "validatingadmissionpolicies"

# What the name of every webhook for peer pods ends in, whoever registered it.
WEBHOOK_DOMAIN = "peerpods.io"

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"

# What the Infrastructure means where it leaves azure.cloudName empty.
AZURE_PUBLIC_CLOUD = "AzurePublicCloud"


def describe(infrastructure: dict | None, version: dict | None, nodes: list[dict], review: dict) -> dict:
    """The module's answer; `infrastructure` and `version` are None off OpenShift."""
    status = (infrastructure or {}).get("status", {})
    platform = status.get("platformStatus", {})
    azure = platform.get("azure", {})
    return {
        "is_openshift": infrastructure is not None,
        "platform": platform.get("type"),
        "region": platform.get("aws", {}).get("region"),
        "resource_group": azure.get("resourceGroupName"),
        "network_resource_group": (azure.get("networkResourceGroupName") or azure.get("resourceGroupName")),
        "cloud_name": None,
        "subscription_id": None,
        "infrastructure_name": status.get("infrastructureName"),
        "version": (version or {}).get("status", {}).get("desired", {}).get("version"),
        "is_cluster_admin": review["status"]["allowed"],
        "workers": [worker(node) for node in nodes],
        **(_azure(azure, nodes) if platform.get("type") == "Azure" else {}),
    }


def _azure(azure: dict, nodes: list[dict]) -> dict:
    """What Azure's Infrastructure leaves to the nodes: the cloud controller manager wrote it there."""
    return {
        "region": _one(node["metadata"].get("labels", {}).get(REGION_LABEL) for node in nodes),
        "cloud_name": azure.get("cloudName") or AZURE_PUBLIC_CLOUD,
        "subscription_id": _one(_subscription(node) for node in nodes),
    }


def _subscription(node: dict) -> str | None:
    """The ID in azure:///subscriptions/ID/resourceGroups/…, None where the providerID is no such."""
    before, found, after = node["spec"].get("providerID", "").partition("/subscriptions/")
    return after.partition("/")[0] if found and before == "azure://" else None


def _one(values: Iterable[str | None]) -> str | None:
    """The value that all agree on who have one."""
    different = {value for value in values if value}
    return different.pop() if len(different) == 1 else None


def worker(node: dict) -> dict:
    """What the cloud and the rollout need to know of a Node."""
    provider_id = node["spec"].get("providerID")
    return {
        "name": node["metadata"]["name"],
        "provider_id": provider_id,
        # aws:///eu-central-1a/i-0123456789abcdef0 and azure:///subscriptions/…/virtualMachines/NAME
        # both name the instance after their last slash.
        "instance_id": provider_id.rpartition("/")[2] if provider_id else None,
        "region": node["metadata"].get("labels", {}).get(REGION_LABEL),
        "zone": node["metadata"].get("labels", {}).get(ZONE_LABEL),
        "ready": any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node.get("status", {}).get("conditions", [])
        ),
    }


def access_review(verb: str, group: str, resource: str) -> dict:
    """Asks the API server whether it would let us do that, in every namespace."""
    attributes = {"verb": verb, "group": group, "resource": resource}
    return {**CLUSTER_ADMIN_REVIEW, "spec": {"resourceAttributes": attributes}}


def details(nodes: Iterable[dict], readings: Mapping[str, Any], unread: dict[str, str]) -> dict:
    """What more there is to know; of `readings` those are not there that `unread` says why of."""
    version = readings.get("version")
    apis = readings.get("admission_apis")
    packages = readings.get("packages")
    return {
        "kubernetes_version": version and version["gitVersion"],
        "match_conditions": version and serves_match_conditions(version),
        "mutating_admission_policy": (apis and next((one for one in VERSIONS if serves_policies(apis.get(one))), None)),
        "validating_admission_policy": apis and serves(apis["v1"], VALIDATING_POLICIES),
        "runtime_class": _runtime_class(readings.get("runtime_class")),
        "webhooks": _webhooks(readings.get("webhooks")),
        "advertisers": advertisers(nodes),
        "operator": readings.get("operator"),
        "limits": readings.get("limits"),
        "catalogs": None if packages is None else [_catalog(one) for one in packages],
        "unread": unread,
    }


def _runtime_class(found: dict | None) -> dict | None:
    return found and {
        "handler": found["handler"],
        "overhead": found.get("overhead", {}).get("podFixed", {}),
    }


def _webhooks(configurations: list[dict] | None) -> list[dict] | None:
    return configurations and [
        {"configuration": configuration["metadata"]["name"], "name": webhook["name"]}
        for configuration in configurations
        for webhook in configuration.get("webhooks", ())
        if webhook["name"].endswith(f".{WEBHOOK_DOMAIN}")
    ]


def _catalog(package: dict) -> dict:
    status = package["status"]
    return {
        "name": status["catalogSource"],
        "namespace": status["catalogSourceNamespace"],
        "channels": [channel["name"] for channel in status["channels"]],
        "heads": {channel["name"]: channel["currentCSV"] for channel in status["channels"]},
        "default_channel": status.get("defaultChannel"),
    }
