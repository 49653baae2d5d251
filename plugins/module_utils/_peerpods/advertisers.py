# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who advertises peer pods on which nodes, by what the API server keeps of them (no I/O here)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import AGENT, EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# What cloud-api-adaptor leaves on each node on which it advertises.
ADAPTOR_ANNOTATION = "kata.peerpods.io/caa-owner"

# Field managers of what people run: kubectl, oc, curl, the console's browser, a script or a play in Python.
# Whatever else has written a node's capacity is a controller, and will do so again.
PEOPLE = re.compile(r"(kubectl|oc)(-.*)?|curl|Wget|Mozilla|python-requests|OpenAPI-Generator|Swagger-Codegen")


def capacity_managers(node: dict, resource: str = EXTENDED_RESOURCE) -> set[str]:
    """The field managers that wrote `resource` into the node's capacity and own it still."""
    return {
        entry["manager"]
        for entry in node["metadata"].get("managedFields", ())
        if f"f:{resource}" in entry.get("fieldsV1", {}).get("f:status", {}).get("f:capacity", {})
    }


def advertisers(nodes: Iterable[dict], resource: str = EXTENDED_RESOURCE) -> list[dict]:
    """Who last wrote `resource` into the capacity of which nodes, and what it is.

    That is what the API server keeps of field managers. cloud-api-adaptor writes when it starts, so
    that the last word may be another's until it starts again: it leaves an annotation.
    """
    nodes_by_manager = defaultdict(set)
    for node in nodes:
        metadata = node["metadata"]
        for manager in capacity_managers(node, resource):
            nodes_by_manager[manager].add(metadata["name"])
        if ADAPTOR_ANNOTATION in metadata.get("annotations", {}):
            nodes_by_manager["cloud-api-adaptor"].add(metadata["name"])
    return [
        {
            "manager": manager,
            "kind": kind(manager),
            "nodes": sorted(names),
            "summary": f"{manager} on {join_names(sorted(names))}",
        }
        for manager, names in sorted(nodes_by_manager.items())
    ]


def kind(manager: str) -> str:
    """The kind of a field manager: the agent of this collection, the kubelet, a person or a controller.

    The kubelet advertises nothing: after a restart it sets to 0 whatever it does not know.
    """
    if manager == AGENT:
        return "agent"
    if manager == "kubelet":
        return "kubelet"
    return "person" if PEOPLE.fullmatch(manager) else "controller"
