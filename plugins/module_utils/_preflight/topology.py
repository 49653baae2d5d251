# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The facts of a cluster about its topology, its proxy and its mirrors (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import is_control_plane

PROXY_PATH = "/apis/config.openshift.io/v1/proxies/cluster"
OPERATOR_HUB_PATH = "/apis/config.openshift.io/v1/operatorhubs/cluster"
# The kinds of mirrors by digest, with the field that has them: the second is the older one. The operator's images have
# digests, so that mirrors by tag do not matter.
MIRRORS = {
    "/apis/config.openshift.io/v1/imagedigestmirrorsets": "imageDigestMirrors",
    "/apis/operator.openshift.io/v1alpha1/imagecontentsourcepolicies": "repositoryDigestMirrors",
}
# The object that Azure Red Hat OpenShift creates in each of its clusters (pkg/operator/apis/aro.openshift.io/v1alpha1
# of Azure/ARO-RP), and the flag with which its operator attaches its own network security group to the subnets.
ARO_PATH = "/apis/aro.openshift.io/v1alpha1/clusters/cluster"
ARO_MANAGES_NSGS = "aro.azuresubnets.nsg.managed"

# The catalogs that OpenShift has unless they are disabled.
DEFAULT_CATALOGS = ("certified-operators", "community-operators", "redhat-marketplace", "redhat-operators")

CREDENTIALS_OF_A_URL = re.compile(r"(?<=://)[^/@]*(?=@)")


def describe_topology(infrastructure: Mapping | None, nodes: Iterable[Mapping]) -> dict:
    """Where the control plane runs, and which of the nodes are a part of it."""
    status = (infrastructure or {}).get("status", {})
    labels = {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in nodes}
    return {
        "control_plane": status.get("controlPlaneTopology"),
        "infrastructure": status.get("infrastructureTopology"),
        "control_plane_workers": [
            {"name": name, "labels": its_labels} for name, its_labels in labels.items() if is_control_plane(its_labels)
        ],
    }


def describe_proxy(proxy: Mapping | None) -> dict:
    """The proxy as it is in force, without credentials, and the ConfigMap with further certification authorities."""
    status, spec = (proxy or {}).get("status") or {}, (proxy or {}).get("spec") or {}
    return {
        "http_proxy": _without_credentials(status.get("httpProxy")),
        "https_proxy": _without_credentials(status.get("httpsProxy")),
        "no_proxy": [name.strip() for name in (status.get("noProxy") or "").split(",") if name.strip()],
        "trusted_ca": (spec.get("trustedCA") or {}).get("name") or None,
    }


def _without_credentials(url: str | None) -> str | None:
    return CREDENTIALS_OF_A_URL.sub("***", url) if url else None


def describe_mirrors(objects: Iterable[tuple[str, Mapping]]) -> list[dict]:
    """The sources of images that have mirrors, each with its mirrors; `objects` have the field of their kind."""
    return [
        {"source": entry["source"], "mirrors": entry.get("mirrors") or []}
        for field, object_ in objects
        for entry in (object_.get("spec") or {}).get(field) or ()
    ]


def disabled_catalogs(operator_hub: Mapping | None) -> list[str]:
    """The default catalogs that the OperatorHub `cluster` disables."""
    spec, status = (operator_hub or {}).get("spec") or {}, (operator_hub or {}).get("status") or {}
    sources = status.get("sources") or spec.get("sources") or ()
    by_name = {source["name"]: bool(source.get("disabled")) for source in sources}
    disabled = bool(spec.get("disableAllDefaultSources"))
    return [name for name in DEFAULT_CATALOGS if by_name.get(name, disabled)]


def describe_aro(cluster: Mapping | None) -> dict | None:
    """The resource group that Azure Red Hat OpenShift manages, None on another cluster."""
    if cluster is None:
        return None
    spec = cluster.get("spec") or {}
    flag = str((spec.get("operatorflags") or {}).get(ARO_MANAGES_NSGS, ""))
    return {
        "resource_group": spec.get("clusterResourceGroupId", "").rpartition("/")[2] or None,
        "manages_nsgs": flag.lower() == "true",
    }
