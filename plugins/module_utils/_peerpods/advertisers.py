# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which programs advertise peer pods on which nodes, according to managedFields."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import METADATA_ONLY, PODS_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import AGENT, EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import RUNNING_PODS
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The annotation that cloud-api-adaptor sets on each node on which it advertises: the uid of its pod.
ADAPTOR_ANNOTATION = "kata.peerpods.io/caa-owner"

# The field manager of cloud-api-adaptor.
ADAPTOR = "cloud-api-adaptor"

# The field managers of programs that users run: kubectl, oc, curl, a browser with the console, a script or a play in
# Python. Any other field manager is a controller, which will write the capacity of the node again.
PEOPLE = re.compile(r"(kubectl|oc)(-.*)?|curl|Wget|Mozilla|python-requests|OpenAPI-Generator|Swagger-Codegen")


def capacity_managers(node: dict, resource: str = EXTENDED_RESOURCE) -> set[str]:
    """The field managers that own `resource` in the node's capacity."""
    return {
        entry["manager"]
        for entry in node["metadata"].get("managedFields", ())
        if f"f:{resource}" in entry.get("fieldsV1", {}).get("f:status", {}).get("f:capacity", {})
    }


def read_advertisers(cluster: Cluster, nodes: Iterable[dict], resource: str = EXTENDED_RESOURCE) -> list[dict]:
    """The advertisers of `resource` on the nodes. Lists the running pods if cloud-api-adaptor has annotated a node."""
    nodes = list(nodes)
    return advertisers(nodes, running_pods(cluster) if any(map(adaptor_of, nodes)) else (), resource)


def running_pods(cluster: Cluster) -> dict[str, str]:
    """The namespace of each running pod, by uid."""
    return {
        pod["metadata"]["uid"]: pod["metadata"]["namespace"]
        for page in cluster.pages(PODS_PATH, {"fieldSelector": RUNNING_PODS}, METADATA_ONLY)
        for pod in page["items"] or ()
    }


def adaptor_of(node: dict) -> str | None:
    """The uid of the cloud-api-adaptor pod that annotated the node."""
    return node["metadata"].get("annotations", {}).get(ADAPTOR_ANNOTATION)


def advertisers(nodes: Iterable[dict], running: Collection[str], resource: str = EXTENDED_RESOURCE) -> list[dict]:
    """Which program last wrote `resource` into the capacity of which nodes, and its kind.

    The managedFields show the last writer. cloud-api-adaptor writes only when it starts, and may not be the last writer
    until it starts again; its annotation shows that it advertises. A pod that was killed leaves both behind: its node
    counts only if the pod is among the uids of the `running` pods.
    """
    nodes_by_manager = defaultdict(set)
    for node in nodes:
        name, adaptor = node["metadata"]["name"], adaptor_of(node)
        for manager in capacity_managers(node, resource):
            nodes_by_manager[manager].add(name)
        if adaptor is not None:
            nodes_by_manager[ADAPTOR].discard(name)
        if adaptor in running:
            nodes_by_manager[ADAPTOR].add(name)
    return [
        {
            "manager": manager,
            "kind": kind(manager),
            "nodes": sorted(names),
            "summary": f"{manager} on {join_names(sorted(names))}",
        }
        for manager, names in sorted(nodes_by_manager.items())
        if names
    ]


def kind(manager: str) -> str:
    """The kind of a field manager: the agent of this collection, the kubelet, a person or a controller.

    The kubelet advertises nothing: after a restart it sets unknown resources to 0.
    """
    if manager == AGENT:
        return "agent"
    if manager == "kubelet":
        return "kubelet"
    return "person" if PEOPLE.fullmatch(manager) else "controller"
