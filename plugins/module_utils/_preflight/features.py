# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The features of a cluster that the collection's containers use; each is read from one API object (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    MUTATING_WEBHOOKS_PATH,
    NAMESPACES_PATH,
    serves,
)

API_SERVER_PATH = "/apis/config.openshift.io/v1/apiservers/cluster"
PROMETHEUS_PATH = "/apis/monitoring.coreos.com/v1"
CERT_MANAGER_PATH = "/apis/cert-manager.io/v1"
GRAFANA_PATH = "/apis/grafana.integreatly.org/v1beta1"

# The operator's webhook, in a configuration with the name that the operator gives it.
OPERATORS_CONFIGURATION = "mutating-webhook-configuration"
OPERATORS_WEBHOOK = "mwebhook.peerpods.io"


def describe_namespace(namespace: dict | None) -> dict:
    return {
        "exists": namespace is not None,
        "labels": (namespace or {}).get("metadata", {}).get("labels", {}),
    }


def _has_operators_webhook(configuration: dict | None) -> bool:
    webhooks = (configuration or {}).get("webhooks", [])
    return any(webhook["name"] == OPERATORS_WEBHOOK for webhook in webhooks)


def _tls_profile(api_server: dict | None) -> str | None:
    """The type of the TLS profile in OpenShift's APIServer `cluster`, None if it is not set."""
    profile = (api_server or {}).get("spec", {}).get("tlsSecurityProfile") or {}
    return profile.get("type") or None


def _exists(object_: dict | None) -> bool:
    return object_ is not None


# By name: the path of the object, and a function of the object (None if it does not exist) that returns the fact.
FACTS: dict[str, tuple[str, Callable[[dict | None], bool | str | None]]] = {
    "operator_webhook": (
        f"{MUTATING_WEBHOOKS_PATH}/{OPERATORS_CONFIGURATION}",
        _has_operators_webhook,
    ),
    "cert_manager": (CERT_MANAGER_PATH, lambda resources: serves(resources, "certificates")),
    "service_ca": (f"{NAMESPACES_PATH}/openshift-service-ca", _exists),
    "host_network_namespace": (f"{NAMESPACES_PATH}/openshift-host-network", _exists),
    "tls_profile": (API_SERVER_PATH, _tls_profile),
    "service_monitors": (PROMETHEUS_PATH, lambda resources: serves(resources, "servicemonitors")),
    "prometheus_rules": (PROMETHEUS_PATH, lambda resources: serves(resources, "prometheusrules")),
    "grafana_dashboards": (GRAFANA_PATH, lambda resources: serves(resources, "grafanadashboards")),
    "console_dashboards": (f"{NAMESPACES_PATH}/openshift-config-managed", _exists),
}
