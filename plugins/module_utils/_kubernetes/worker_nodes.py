# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option `nodes`: the provider IDs of the worker nodes of a cluster (private)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NODES_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

NODES_OPTION = {
    "type": "dict",
    "options": {
        "kubeconfig": {"type": "raw", "no_log": True},
        "context": {"type": "str"},
        "label_selector": {"type": "str", "default": "node-role.kubernetes.io/worker"},
    },
}


class WorkerNodesError(Exception):
    """The reason why the instances of the nodes are not known, as a sentence."""


def worker_provider_ids(module: AnsibleModule, instead: str) -> tuple[str, ...]:
    """The spec.providerID of each node that the option `nodes` selects.

    `instead` is the option that a user can set instead, for the error messages.
    """
    # Not at the top of the file: without the option `nodes`, the Kubernetes library is not imported.
    from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError

    options = module.params["nodes"]
    selector = options["label_selector"]
    try:
        # The log-in options of the cluster are those in `nodes`; those of the module are for its cloud.
        cluster = Cluster(SimpleNamespace(params=options, fail_json=module.fail_json))
        nodes = list(cluster.list(NODES_PATH, labelSelector=selector))
    except ClusterError as error:
        raise WorkerNodesError(str(error)) from error
    return provider_ids(nodes, selector, instead)


def provider_ids(nodes: Sequence[Mapping], label_selector: str, instead: str) -> tuple[str, ...]:
    """The spec.providerID of each node. Raises WorkerNodesError if a node has none."""
    if not nodes:
        raise WorkerNodesError(
            f"The cluster has no node with the labels {label_selector}. Set label_selector to the "
            f"labels of the workers, or set {instead} instead of nodes."
        )
    without_id = [node["metadata"]["name"] for node in nodes if not node["spec"].get("providerID")]
    if without_id:
        raise WorkerNodesError(
            f"{join_names(without_id)} {'has' if len(without_id) == 1 else 'have'} no spec.providerID, "
            "so the instance is unknown. Wait until the cloud controller manager has "
            f"initialized the node, or set {instead} instead of nodes."
        )
    return tuple(node["spec"]["providerID"] for node in nodes)
