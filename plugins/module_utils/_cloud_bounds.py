# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many peer pods the cloud can hold, as a ConfigMap of the cluster says (private to this collection)."""

from __future__ import annotations

from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import Cluster, ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._limits import whole_number


def read_cloud_capacity(module: AnsibleModule, cluster: Cluster, namespace: str, name: str) -> dict | None:
    """The ConfigMap; None if it does not exist, and with a warning if the user may not read it."""
    try:
        return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    except ClusterError as error:
        if error.status != 403:
            raise
        module.warn(f"The cloud's bounds are not known, the limits alone count: {error}")
        return None


def read_cloud_bounds(module: AnsibleModule, cluster: Cluster, namespace: str, name: str) -> dict[str, int]:
    """The bounds in the ConfigMap; none if it cannot be read."""
    return cloud_bounds((read_cloud_capacity(module, cluster, namespace, name) or {}).get("data") or {})


def cloud_bounds(data: Mapping[str, str]) -> dict[str, int]:
    """How many peer pods the cloud can hold in all, by each bound that the ConfigMap's data names.

    What is no number there is left out, as by the agent that has never seen a good one.
    """
    numbers = {name: whole_number(str(text)) for name, text in data.items()}
    return {name: number for name, number in numbers.items() if number is not None}
