# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the roles need to know of a cluster, read out of its own objects (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    MUTATING_POLICY_VERSIONS,
    RUNTIME_CLASSES_PATH,
    serves,
    serves_match_conditions,
    serves_mutating_policies,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import advertisers

INFRASTRUCTURE_PATH = "/apis/config.openshift.io/v1/infrastructures/cluster"
CLUSTER_VERSION_PATH = "/apis/config.openshift.io/v1/clusterversions/version"

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
        "region": _common_value(node["metadata"].get("labels", {}).get(REGION_LABEL) for node in nodes),
        "cloud_name": azure.get("cloudName") or AZURE_PUBLIC_CLOUD,
        "subscription_id": _common_value(_subscription(node) for node in nodes),
    }


def _subscription(node: dict) -> str | None:
    """The ID in azure:///subscriptions/ID/resourceGroups/…, None where the providerID is no such."""
    before, found, after = node["spec"].get("providerID", "").partition("/subscriptions/")
    return after.partition("/")[0] if found and before == "azure://" else None


def _common_value(values: Iterable[str | None]) -> str | None:
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


def details(nodes: Iterable[dict], readings: Mapping[str, Any], unread: dict[str, str]) -> dict:
    """What more there is to know; of `readings` those are not there that `unread` says why of."""
    version = readings.get("version")
    apis = readings.get("admission_apis")
    packages = readings.get("packages")
    return {
        "kubernetes_version": version and version["gitVersion"],
        "match_conditions": version and serves_match_conditions(version),
        "mutating_admission_policy": (
            apis and next((one for one in MUTATING_POLICY_VERSIONS if serves_mutating_policies(apis.get(one))), None)
        ),
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
