# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The namespaces of the agent and of the webhook, by their marks in the cluster (private to this collection).

The options with their namespaces are for a first installation only: a later run that leaves them out, or sets them to
another namespace, must neither deploy a second copy nor read the limits of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    METADATA_ONLY,
    MUTATING_WEBHOOKS_PATH,
    label_selector,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError, TaskError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import AGENT, PART_OF, WEBHOOK

# The namespace of a first installation, if none is given.
DEFAULT_NAMESPACE = "osc-peerpods"

# The ClusterRoleBinding of the agent, whose subject names its namespace.
AGENT_BINDING = "osc-peerpods-node-capacity"
AGENT_BINDING_PATH = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{AGENT_BINDING}"

# By the role that deploys it.
CONTAINERS = {"node_capacity": AGENT, "webhook": WEBHOOK}

# The first and the last object in the namespace that a removal deletes, so that an interrupted one is found.
LISTED_PATHS = ("/apis/apps/v1/deployments", "/apis/policy/v1/poddisruptionbudgets")


@dataclass(frozen=True)
class Placement:
    """The namespace of a container. `is_known` is False if it was not given and the cluster could not be read."""

    namespace: str
    is_known: bool = True


def namespace_of_binding(binding: dict | None) -> str | None:
    """The namespace of the agent by its ClusterRoleBinding, None if that is missing or of another owner."""
    if not _is_ours(binding):
        return None
    subjects = (binding or {}).get("subjects") or ()
    return next((subject.get("namespace") for subject in subjects if subject["name"] == AGENT), None)


def namespace_of_registration(configuration: dict | None) -> str | None:
    """The namespace of the webhook by its registration, None if that is missing or of another owner."""
    if not _is_ours(configuration):
        return None
    services = [webhook["clientConfig"].get("service") or {} for webhook in (configuration or {}).get("webhooks") or ()]
    return next((service.get("namespace") for service in services if service.get("name") == WEBHOOK), None)


def _is_ours(object_: dict | None) -> bool:
    label, value = PART_OF
    return ((object_ or {}).get("metadata", {}).get("labels") or {}).get(label) == value


def chosen_namespace(given: str | None, found: Sequence[str]) -> str:
    """The first of the namespaces in which the container was `found`, else the one that is `given`."""
    return next(iter(found), given or DEFAULT_NAMESPACE)


def placement_problem(role: str, given: str | None, found: Sequence[str]) -> str | None:
    """A sentence if a container would be moved or not be found with the namespace that is `given`, else None."""
    if not given or not found or given == found[0]:
        return None
    tags = "webhook" if role == "webhook" else "node_capacity,peerpodconfig_rollout"
    return (
        f"The namespace of {CONTAINERS[role]} is set to {given}, but this collection has deployed it in {found[0]}. "
        f"Leave {role}_namespace out, and it stays there. To move it, first remove it with the playbook "
        f"osc.peerpods.teardown and --tags {tags}, which also removes the options that a run keeps: set them again."
    )


def read_found(cluster: Cluster, role: str, given: str | None = None) -> list[str]:
    """All namespaces with the container of this role. That of the container in use is first."""
    if role == "webhook":
        in_use = namespace_of_registration(cluster.get(f"{MUTATING_WEBHOOKS_PATH}/{WEBHOOK}"))
    else:
        in_use = namespace_of_binding(cluster.get(AGENT_BINDING_PATH))
    label, value = PART_OF
    selector = label_selector({"app.kubernetes.io/name": CONTAINERS[role], label: value})
    listed = {
        item["metadata"]["namespace"]
        for path in LISTED_PATHS
        for page in cluster.pages(path, {"labelSelector": selector}, METADATA_ONLY)
        # Without objects, a list of metadata has null.
        for item in page["items"] or ()
    }
    first = [in_use] if in_use else [given] if given in listed else []
    return [*first, *sorted(listed.difference(first))]


def read_agent_placement(cluster: Cluster, given: str | None) -> Placement:
    """The namespace of the agent. Raises TaskError if the one that is `given` is another."""
    try:
        found = namespace_of_binding(cluster.get(AGENT_BINDING_PATH))
    except ClusterError as error:
        if error.status != 403:
            raise
        return Placement(given or DEFAULT_NAMESPACE, is_known=bool(given))
    problem = placement_problem("node_capacity", given, [found] if found else [])
    if problem:
        raise TaskError(problem)
    return Placement(found or given or DEFAULT_NAMESPACE)
