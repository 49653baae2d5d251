# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many peer pods the cloud has room for, as a ConfigMap reports it, and each node's share (private)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import has_mark
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import whole_number

# The bounds that the role peerpodconfig_rollout writes. In the ConfigMap of another owner, an annotation has the value
# of each, so that the role neither replaces nor removes what the owner sets.
WRITTEN_BOUNDS = ("subnet-addresses", "instance-quota")
WRITTEN_VALUE = "osc.peerpods.io/{}"


def read_cloud_capacity(module: AnsibleModule, cluster: Cluster, namespace: str, name: str) -> dict | None:
    """The ConfigMap; None if it does not exist, and with a warning if the user may not read it."""
    try:
        return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    except ClusterError as error:
        if error.status != 403:
            raise
        module.warn(f"The cloud capacity is unknown, so only the limits count: {error}")
        return None


def read_cloud_bounds(module: AnsibleModule, cluster: Cluster, namespace: str, name: str) -> dict[str, int]:
    """The bounds in the ConfigMap; none if it cannot be read."""
    return cloud_bounds((read_cloud_capacity(module, cluster, namespace, name) or {}).get("data") or {})


def cloud_bounds(data: Mapping[str, str]) -> dict[str, int]:
    """How many peer pods the cloud has room for in total, by the bounds in the data of the ConfigMap.

    Invalid values are left out, as the agent does without a previous valid value.
    """
    numbers = {name: whole_number(str(text)) for name, text in data.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def own_bounds(configmap: Mapping) -> list[str]:
    """The names of the bounds in the ConfigMap that the role peerpodconfig_rollout wrote."""
    metadata, data = configmap["metadata"], configmap.get("data") or {}
    annotations = metadata.get("annotations") or {}
    return [
        name
        for name in WRITTEN_BOUNDS
        if name in data and (has_mark(metadata) or annotations.get(WRITTEN_VALUE.format(name)) == data[name])
    ]


@dataclass(frozen=True)
class CloudShare:
    """The share of the cloud's smallest bound that each node may use.

    `bound` is its name, `total` how many peer pods it allows, `limits` the sum of the limits of the `nodes`, and
    `slots` the largest number that a node may advertise; None if all limits fit.
    """

    bound: str
    total: int
    nodes: int
    limits: int
    slots: int | None

    def of(self, limit: int) -> int:
        """What a node with that limit advertises."""
        return limit if self.slots is None else min(limit, self.slots)


def cloud_share(limits: Collection[int], bounds: Mapping[str, int]) -> CloudShare | None:
    """How the smallest of `bounds` is shared among nodes with these limits; None without bounds.

    Evenly, but the part that a node with a low limit does not use goes to the other nodes: `slots` is the largest
    number for which sum(min(limit, slots)) stays within the bound. The node capacity agent follows
    the same rule.
    """
    if not bounds:
        return None
    total, bound = min((total, bound) for bound, total in bounds.items())
    slots, left = None, total
    for place, limit in enumerate(sorted(limits)):
        share = left // (len(limits) - place)
        if limit > share:
            slots = share
            break
        left -= limit
    return CloudShare(bound, total, len(limits), sum(limits), slots)


def slots_of(limit: int, share: CloudShare | None) -> int:
    """What a node with that limit advertises, with the cloud's share if there is one."""
    return share.of(limit) if share else limit
