# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The facts of a cluster that the roles need, from its own objects (no I/O here)."""

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
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.kept_options import (
    DamagedOptionsError,
    stored_options,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import WEBHOOK
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import (
    namespace_of_binding,
    namespace_of_registration,
    placement_problem,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.features import FACTS
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.topology import (
    describe_aro,
    describe_mirrors,
    describe_proxy,
    describe_topology,
    disabled_catalogs,
)

INFRASTRUCTURE_PATH = "/apis/config.openshift.io/v1/infrastructures/cluster"
CLUSTER_VERSION_PATH = "/apis/config.openshift.io/v1/clusterversions/version"

RUNTIME_CLASS_PATH = f"{RUNTIME_CLASSES_PATH}/kata-remote"

CERT_MANAGER_GROUP = "cert-manager.io"

# The APIs with which the role image_build builds an image.
BUILD_GROUPS = {"build.openshift.io", "image.openshift.io"}

VALIDATING_POLICIES = "validatingadmissionpolicies"

# The names of all webhooks for peer pods end with this domain, also those of other programs.
WEBHOOK_DOMAIN = "peerpods.io"

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"

# The keys of peer-pods-cm by platform.
POD_VM_KEYS = {
    "AWS": {
        "subnets": "AWS_SUBNET_ID",
        "security_groups": "AWS_SG_IDS",
        "default_sizes": "PODVM_INSTANCE_TYPE",
        "sizes": "PODVM_INSTANCE_TYPES",
        "images": "PODVM_AMI_ID",
        "tunnel_ports": "VXLAN_PORT",
    },
    "Azure": {
        "subnets": "AZURE_SUBNET_ID",
        "network_security_groups": "AZURE_NSG_ID",
        "default_sizes": "AZURE_INSTANCE_SIZE",
        "sizes": "AZURE_INSTANCE_SIZES",
        "images": "AZURE_IMAGE_ID",
        "tunnel_ports": "VXLAN_PORT",
    },
}

# The cloud if azure.cloudName of the Infrastructure is empty.
AZURE_PUBLIC_CLOUD = "AzurePublicCloud"


def describe(
    infrastructure: dict | None, version: dict | None, nodes: list[dict], settings: dict | None, review: dict
) -> dict:
    """The result of the module; `infrastructure` and `version` are None if the cluster is not OpenShift, and `settings`
    is peer-pods-cm, None if it cannot be read."""
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
        "cluster_id": (version or {}).get("spec", {}).get("clusterID"),
        "version": (version or {}).get("status", {}).get("desired", {}).get("version"),
        "is_cluster_admin": review["status"]["allowed"],
        "topology": describe_topology(infrastructure, nodes),
        "workers": [worker(node) for node in nodes],
        "pod_vms": pod_vms(platform.get("type"), (settings or {}).get("data") or {}),
        **(_azure(azure, nodes) if platform.get("type") == "Azure" else {}),
    }


def _azure(azure: dict, nodes: list[dict]) -> dict:
    """Facts that the Infrastructure does not have on Azure: the cloud controller manager writes them to the nodes."""
    return {
        "region": _common_value(node["metadata"].get("labels", {}).get(REGION_LABEL) for node in nodes),
        "cloud_name": azure.get("cloudName") or AZURE_PUBLIC_CLOUD,
        "subscription_id": _common_value(_subscription(node) for node in nodes),
    }


def _subscription(node: dict) -> str | None:
    """The ID in azure:///subscriptions/ID/resourceGroups/…, None if the providerID is not one of Azure."""
    scheme, separator, subscription = node["spec"].get("providerID", "").partition("/subscriptions/")
    return subscription.partition("/")[0] if separator and scheme == "azure://" else None


def _common_value(values: Iterable[str | None]) -> str | None:
    """The value that all of `values` have in common, without those that are empty; None if they differ."""
    different = {value for value in values if value}
    return different.pop() if len(different) == 1 else None


def worker(node: dict) -> dict:
    """The facts of a Node that requests to the cloud and the rollout need."""
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


def pod_vms(platform: str | None, settings: Mapping[str, str]) -> dict[str, list[str]]:
    """What the data of peer-pods-cm sets for the VMs of peer pods."""
    keys = POD_VM_KEYS.get(platform or "", {})
    return {
        # Lists in peer-pods-cm are separated by commas.
        name: [part.strip() for part in (settings.get(keys.get(name, "")) or "").split(",") if part.strip()]
        for name in (
            "subnets",
            "security_groups",
            "network_security_groups",
            "default_sizes",
            "sizes",
            "images",
            "tunnel_ports",
        )
    }


def details(
    readings: Mapping[str, Any], unread: dict[str, str], given_namespaces: Mapping[str, str | None] | None = None
) -> dict:
    """Further facts. `readings` lacks what could not be read; `unread` has the reasons. `given_namespaces` are those
    that the options of roles name, by role."""
    version, groups = readings.get("version"), readings.get("groups")
    apis = readings.get("admission_apis")
    packages = readings.get("packages")
    return {
        "kubernetes_version": version and version["gitVersion"],
        "match_conditions": version and serves_match_conditions(version),
        "mutating_admission_policy": (
            apis
            and next(
                (version for version in MUTATING_POLICY_VERSIONS if serves_mutating_policies(apis.get(version))), None
            )
        ),
        "validating_admission_policy": apis and serves(apis["v1"], VALIDATING_POLICIES),
        "image_builds": None if groups is None else groups >= BUILD_GROUPS,
        "runtime_class": _runtime_class(readings.get("runtime_class")),
        "webhooks": _webhooks(readings.get("webhooks")),
        "placements": _placements(readings, given_namespaces or {}),
        "webhook_options": None if readings.get("webhooks") is None else _kept(_registration(readings))["options"],
        "node_capacity_options": _kept((readings.get("agent") or {}).get("store"))["options"],
        "cert_manager": None if groups is None else CERT_MANAGER_GROUP in groups,
        "service_ca": FACTS["service_ca"][1](readings["service_ca"]) if "service_ca" in readings else None,
        "tls_min_version": _tls_min_version(readings["api_server"]) if "api_server" in readings else None,
        "advertisers": readings.get("advertisers"),
        "operator": readings.get("operator"),
        "limits": (readings.get("agent") or {}).get("limits"),
        "subscription": readings.get("subscription"),
        "credentials": readings.get("credentials"),
        "catalogs": None if packages is None else [_catalog(package) for package in packages],
        "machine_configs": readings.get("machine_configs"),
        "proxy": describe_proxy(readings["proxy"]) if "proxy" in readings else None,
        "mirrors": describe_mirrors(readings["mirrors"]) if "mirrors" in readings else None,
        "disabled_catalogs": disabled_catalogs(readings["operator_hub"]) if "operator_hub" in readings else None,
        "aro": describe_aro(readings.get("aro")),
        "unread": unread,
    }


def _runtime_class(runtime_class: dict | None) -> dict | None:
    return runtime_class and {
        "handler": runtime_class["handler"],
        "overhead": runtime_class.get("overhead", {}).get("podFixed", {}),
    }


def _webhooks(configurations: list[dict] | None) -> list[dict] | None:
    return configurations and [
        {"configuration": configuration["metadata"]["name"], "name": webhook["name"]}
        for configuration in configurations
        for webhook in configuration.get("webhooks", ())
        if webhook["name"].endswith(f".{WEBHOOK_DOMAIN}")
    ]


def _placements(readings: Mapping[str, Any], given: Mapping[str, str | None]) -> dict:
    registration, agent = _registration(readings), readings.get("agent") or {}
    found = {
        "webhook": (namespace_of_registration(registration), registration),
        "node_capacity": (namespace_of_binding(agent.get("binding")), agent.get("store")),
    }
    return {
        role: {
            "namespace": namespace,
            "problem": placement_problem(role, given.get(role), [namespace] if namespace else [])
            or _kept(store)["problem"],
        }
        for role, (namespace, store) in found.items()
    }


def _registration(readings: Mapping[str, Any]) -> dict | None:
    """That of the webhook of this collection. The items of a list have no type."""
    type_ = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    webhooks = readings.get("webhooks") or ()
    return next(({**type_, **entry} for entry in webhooks if entry["metadata"]["name"] == WEBHOOK), None)


def _kept(object_: dict | None) -> dict:
    """The options that the role which wrote this object keeps, and the problem if they cannot be read."""
    try:
        return {"options": stored_options(object_ or {}), "problem": None}
    except DamagedOptionsError as error:
        return {"options": {}, "problem": str(error)}


def _tls_min_version(api_server: dict | None) -> str:
    """The minimum TLS version of a webhook by OpenShift's TLS profile, as webhook_tls_profiles of the role webhook has
    them."""
    profile = FACTS["tls_profile"][1](api_server)
    return "VersionTLS12" if profile in (None, "Old", "Intermediate") else "VersionTLS13"


def _catalog(package: dict) -> dict:
    status = package["status"]
    return {
        "name": status["catalogSource"],
        "namespace": status["catalogSourceNamespace"],
        "channels": [channel["name"] for channel in status["channels"]],
        "heads": {channel["name"]: channel["currentCSV"] for channel in status["channels"]},
        "default_channel": status.get("defaultChannel"),
    }
