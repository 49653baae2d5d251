# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PeerPodConfigs, the nodes they select and the peer pods that run there (no I/O here).

The limit of a PeerPodConfig is what each node it selects advertises as the
extended resource `kata.peerpods.io/vm`; the scheduler does the rest.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

with contextlib.suppress(ImportError):  # The Kubernetes client says what to install.
    from kubernetes.utils.quantity import parse_quantity

CONFIGS_PATH = "/apis/confidentialcontainers.org/v1alpha1/peerpodconfigs"
NODES_PATH = "/api/v1/nodes"
PODS_PATH = "/api/v1/pods"

EXTENDED_RESOURCE = "kata.peerpods.io/vm"
RUNTIME_CLASS = "kata-remote"

# What the operator writes into the PeerPodConfig it makes, and where one says nothing, holds.
DEFAULT_LIMIT = 10

# Pods that hold a VM on a node or are about to: bound, and not ended.
RUNNING_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

# What the operator's controller takes where a PeerPodConfig has no nodeSelector.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}


class LimitError(Exception):
    """A limit that must not be set, or has nowhere to go, as a sentence."""


@dataclass(frozen=True)
class Plan:
    """What is to become of `spec.limit`, a string or None where there is none."""

    path: str
    resource_version: str
    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def lowers(self) -> bool:
        """Whether nodes may end up with less than they have (a limit we cannot read counts)."""
        before = whole_number(self.before)
        return self.changed and (before is None or int(self.after) < before)

    @property
    def patch(self) -> dict:
        """A merge patch of the one field, good only for the object that was read."""
        return {
            "metadata": {"resourceVersion": self.resource_version},
            "spec": {"limit": self.after},
        }

    @property
    def diff(self) -> dict:
        return {
            "before": {"spec": {"limit": self.before}},
            "after": {"spec": {"limit": self.after}},
        }


def whole_number(text: str | None) -> int | None:
    """`text` as a whole number of 0 or more, or None where it is not one."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def parse_limit(text: str) -> int:
    limit = whole_number(text)
    if limit is None:
        raise LimitError(
            f"limit must be a whole number of peer pod VMs per node, 0 or more; got {text!r}."
        )
    return limit


def find_config(configs: Iterable[dict], namespace: str, name: str) -> dict:
    for config in configs:
        if _names(config) == (namespace, name):
            return config
    raise LimitError(
        f"There is no PeerPodConfig {name} in namespace {namespace}. The operator makes it when a "
        "KataConfig enables peer pods: run the role osc.peerpods.operator_install first."
    )


def node_selector(config: dict) -> dict[str, str]:
    """The labels of the nodes a PeerPodConfig is for; an empty selector is for all nodes."""
    selector = config.get("spec", {}).get("nodeSelector")
    return DEFAULT_NODE_SELECTOR if selector is None else selector


def label_selector(labels: dict[str, str]) -> str:
    """`labels` as the API's `labelSelector` takes them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def refuse_overlap(config: dict, configs: Iterable[dict], nodes: Iterable[dict]) -> None:
    """Raise where another PeerPodConfig selects one of `nodes`, those that `config` selects.

    Both would advertise their own limit there, and the last one to write would win.
    """
    others = [other for other in configs if _names(other) != _names(config)]
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        for other in others:
            if node_selector(other).items() <= labels.items():
                raise LimitError(
                    f"The PeerPodConfigs {'/'.join(_names(config))} and {'/'.join(_names(other))} "
                    f"both select the node {node['metadata']['name']}, so its limit is not well "
                    "defined. Give them node selectors that no node fits twice."
                )


def current_limit(config: dict) -> int:
    """The limit that a PeerPodConfig sets now."""
    text = config["spec"].get("limit")
    limit = DEFAULT_LIMIT if text is None else whole_number(text)
    if limit is None:
        raise LimitError(
            f"The limit of the PeerPodConfig {'/'.join(_names(config))} is {text!r}, which is not a "
            "whole number, so no node can advertise it. Set one by the option limit."
        )
    return limit


def plan_limit(config: dict, limit: int | None) -> Plan:
    """The plan for `limit`; with None the PeerPodConfig keeps what it has."""
    namespace, name = _names(config)
    group_version = CONFIGS_PATH.rpartition("/")[0]
    before = config["spec"].get("limit")
    return Plan(
        path=f"{group_version}/namespaces/{namespace}/peerpodconfigs/{name}",
        resource_version=config["metadata"]["resourceVersion"],
        before=before,
        after=before if limit is None else str(limit),
    )


def advertised(node: dict) -> int | None:
    """How many peer pod VMs the node's status allows, or None where it does not say."""
    quantity = node.get("status", {}).get("allocatable", {}).get(EXTENDED_RESOURCE)
    return None if quantity is None else int(parse_quantity(quantity))


def in_force(nodes: list[dict], limit: int) -> bool:
    """Whether there are nodes and each of them allows exactly `limit` peer pods."""
    return bool(nodes) and not lagging(nodes, limit)


def lagging(nodes: Iterable[dict], limit: int) -> dict[str, int | None]:
    """The nodes that do not allow exactly `limit` peer pods, and what they advertise.

    A node that advertises nothing allows none.
    """
    return {
        node["metadata"]["name"]: advertised(node)
        for node in nodes
        if (advertised(node) or 0) != limit
    }


def explain_lagging(nodes: list[dict], limit: int, selector: str, seconds: float) -> str:
    waited = f"After {seconds:g} s the limit of {limit} is not in force"
    if not nodes:
        return (
            f"{waited}: no node carries the labels {selector!r} that the PeerPodConfig selects. "
            "The operator labels the nodes while it rolls out a KataConfig: see its status."
        )
    shown = ", ".join(
        f"{name} shows {'nothing' if count is None else count}"
        for name, count in lagging(nodes, limit).items()
    )
    return (
        f"{waited} on every selected node: {shown}. Check that the node capacity agent (or the "
        "operator's controller) that advertises the extended resource runs."
    )


def is_accounted_for(pod: dict) -> bool:
    """Whether the scheduler counts a pod against its node's limit."""
    return any(
        EXTENDED_RESOURCE in container.get("resources", {}).get("requests", {})
        for container in pod["spec"]["containers"]
    )


def is_peer_pod(pod: dict) -> bool:
    """Whether a pod has a VM: one in a system namespace does without being accounted for."""
    return pod["spec"].get("runtimeClassName") == RUNTIME_CLASS or is_accounted_for(pod)


def peer_pods_by_node(running_pods: Iterable[dict]) -> Counter[str]:
    """How many peer pods hold a VM on each node, accounted for by the scheduler or not."""
    return Counter(pod["spec"]["nodeName"] for pod in running_pods if is_peer_pod(pod))


def explain_overfull(limit: int, used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence where `limit` is below what runs on a node already, else None."""
    names = (node["metadata"]["name"] for node in nodes)
    overfull = [f"{used[name]} on {name}" for name in names if used[name] > limit]
    if not overfull:
        return None
    return f"The limit of {limit} is below the peer pods that run now: {', '.join(overfull)}."


def node_rows(nodes: Iterable[dict], used: dict[str, int] | None) -> list[dict]:
    """What the module returns of each node; `used` is None where nobody counted."""
    return [
        {
            "name": node["metadata"]["name"],
            "allocatable": advertised(node),
            "used": None if used is None else used[node["metadata"]["name"]],
        }
        for node in nodes
    ]


def _names(config: dict) -> tuple[str, str]:
    return config["metadata"]["namespace"], config["metadata"]["name"]
