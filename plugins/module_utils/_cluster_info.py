# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the roles need to know of a cluster, read out of its own objects (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable

INFRASTRUCTURE_PATH = "/apis/config.openshift.io/v1/infrastructures/cluster"
CLUSTER_VERSION_PATH = "/apis/config.openshift.io/v1/clusterversions/version"
NODES_PATH = "/api/v1/nodes"

# Asks the API server whether it would let us do anything to anything: the role cluster-admin.
ACCESS_REVIEWS_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CLUSTER_ADMIN_REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}},
}

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"

# What the Infrastructure means where it leaves azure.cloudName empty.
AZURE_PUBLIC_CLOUD = "AzurePublicCloud"


def describe(
    infrastructure: dict | None, version: dict | None, nodes: list[dict], review: dict
) -> dict:
    """The module's answer; `infrastructure` and `version` are None off OpenShift."""
    status = (infrastructure or {}).get("status", {})
    platform = status.get("platformStatus", {})
    azure = platform.get("azure", {})
    return {
        "is_openshift": infrastructure is not None,
        "platform": platform.get("type"),
        "region": platform.get("aws", {}).get("region"),
        "resource_group": azure.get("resourceGroupName"),
        "network_resource_group": (
            azure.get("networkResourceGroupName") or azure.get("resourceGroupName")
        ),
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
        "zone": node["metadata"].get("labels", {}).get(ZONE_LABEL),
        "ready": any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node.get("status", {}).get("conditions", [])
        ),
    }
