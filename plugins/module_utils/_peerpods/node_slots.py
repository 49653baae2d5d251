# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What nodes advertise of the extended resource, and what their limits allow (no I/O here)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.cloud_capacity import CloudShare, slots_of
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import (
    Pool,
    deciding,
)

with contextlib.suppress(ImportError):  # The module reports the missing Kubernetes client.
    from kubernetes.utils.quantity import parse_quantity


def limit_at(node: dict, pool: Pool) -> int:
    """The number of slots that `pool` allows on its node; the current number of the node if the limit is invalid."""
    return (advertised(node) or 0) if pool.limit is None else pool.limit


def allowed(node: dict, pools: Iterable[Pool]) -> int:
    """The number of slots that `pools` allow on a node: the smallest if several select it, else 0."""
    return min((limit_at(node, pool) for pool in deciding(node, pools)), default=0)


def advertised(node: dict) -> int | None:
    """How many peer pod VMs the node's status allows; None if it advertises no number."""
    quantity = node.get("status", {}).get("allocatable", {}).get(EXTENDED_RESOURCE)
    return None if quantity is None else int(parse_quantity(quantity))


def in_force(nodes: list[dict], limit: int) -> bool:
    """Whether `nodes` is not empty and each node allows exactly `limit` peer pods."""
    return bool(nodes) and not lagging(nodes, limit)


def lagging(nodes: Iterable[dict], limit: int) -> dict[str, int | None]:
    """The nodes that do not allow exactly `limit` peer pods, and what they advertise.

    A node that advertises nothing allows 0.
    """
    return {node["metadata"]["name"]: advertised(node) for node in nodes if (advertised(node) or 0) != limit}


def is_down(node: dict) -> bool:
    """Whether a node's kubelet does not respond, or reports that the node cannot run pods."""
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] != "True" for condition in conditions)


def why_blocked(node: dict, tolerations: Callable[[], Iterable[Collection[dict]]]) -> str | None:
    """Why the scheduler places no further peer pod on a node, whatever the node advertises; None if it does.

    `tolerations` returns those of the RuntimeClasses of peer pods, and is called only if the node has a taint of its
    own.
    """
    spec = node.get("spec", {})
    if spec.get("unschedulable"):
        return "cordoned"
    if is_down(node):
        return "not ready"
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] in ("NoSchedule", "NoExecute")]
    if taints and not any(all(_is_tolerated(taint, own) for taint in taints) for own in tolerations()):
        return f"tainted ({', '.join(map(_describe_taint, taints))})"
    return None


def _is_tolerated(taint: dict, tolerations: Iterable[dict]) -> bool:
    """As the scheduler decides: an empty key or effect matches all."""
    return any(
        toleration.get("key") in (taint["key"], "", None)
        and toleration.get("effect") in (taint["effect"], "", None)
        and (
            toleration.get("operator") == "Exists"
            or (
                toleration.get("operator") in ("Equal", "", None)
                and toleration.get("key")
                and (toleration.get("value") or "") == (taint.get("value") or "")
            )
        )
        for toleration in tolerations
    )


def _describe_taint(taint: dict) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def released(nodes: Iterable[dict], pools: Collection[Pool]) -> list[dict]:
    """The `nodes` that none of `pools` selects."""
    return [node for node in nodes if not any(pool.selects(node) for pool in pools)]


def still_advertising(nodes: Iterable[dict], pools: Collection[Pool]) -> dict[str, int]:
    """The nodes that none of `pools` selects and that still allow peer pods."""
    slots = {node["metadata"]["name"]: advertised(node) or 0 for node in released(nodes, pools)}
    return {name: count for name, count in slots.items() if count}


def explain_still_advertising(advertising: dict[str, int], seconds: float) -> str:
    shown = ", ".join(f"{name} advertises {count}" for name, count in advertising.items())
    return (
        f"After {seconds:g} s nodes that no pool selects any more still advertise peer pods: "
        f"{shown}. Check that the node capacity agent (or the operator's controller) runs."
    )


def explain_lagging(
    nodes: list[dict],
    limit: int,
    selector: str,
    seconds: float,
    share: CloudShare | None = None,
    not_ready: Collection[str] = (),
) -> str:
    """Why a limit is not in force; `not_ready` are the nodes without a Ready cloud-api-adaptor pod."""
    slots = slots_of(limit, share)
    bounded = f", of which the cloud's {share.bound} leaves {slots}," if share and slots != limit else ""
    waited = f"After {seconds:g} s the limit of {limit}{bounded} is not in force"
    if not nodes:
        return (
            f"{waited}: no node has the labels {selector!r} that the pool selects. The operator "
            "labels the nodes while it rolls out a KataConfig: see its status."
        )
    behind = lagging(nodes, slots)
    shown = ", ".join(f"{name} advertises {'nothing' if count is None else count}" for name, count in behind.items())
    waited = f"{waited} on every selected node: {shown}."
    if all(is_down(node) for node in nodes):
        waited += " None of these nodes is Ready."
    unready_names = sorted(name for name in behind if name in not_ready)
    if unready_names:
        return (
            f"{waited} The cloud-api-adaptor pod is not Ready on {', '.join(unready_names)}: such a node "
            "offers no free slot until it is. Check the pods of cloud-api-adaptor."
        )
    return (
        f"{waited} Check that the program that advertises the extended resource runs: the node "
        "capacity agent, the operator's controller or cloud-api-adaptor."
    )


def nodes_without_adaptor(nodes: Iterable[str], pods: Iterable[dict]) -> list[str]:
    """The `nodes` on which no pod of cloud-api-adaptor is Ready."""
    ready = {
        pod["spec"].get("nodeName")
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            (condition["type"], condition["status"]) == ("Ready", "True")
            for condition in pod.get("status", {}).get("conditions") or []
        )
    }
    return [name for name in nodes if name not in ready]


def explain_overfull(limit: int, used: Mapping[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence if `limit` is below the number of running peer pods of a node, else None."""
    overfull = _more_than(limit, used, nodes)
    return overfull and f"The limit of {limit} is below the peer pods that run now: {overfull}."


def explain_left_over(used: Mapping[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence if peer pods run on `nodes`, which no pool will select, else None."""
    left_over = _more_than(0, used, nodes)
    return left_over and (f"Peer pods run on nodes that no pool would select any more: {left_over}.")


def _more_than(limit: int, used: Mapping[str, int], nodes: Iterable[dict]) -> str | None:
    names = (node["metadata"]["name"] for node in nodes)
    return ", ".join(f"{used[name]} on {name}" for name in names if used[name] > limit) or None


def node_rows(nodes: Iterable[dict], used: Mapping[str, int] | None) -> list[dict]:
    """The module's result for each node; `used` is None if the pods were not counted."""
    return [
        {
            "name": node["metadata"]["name"],
            "allocatable": advertised(node),
            "used": None if used is None else used[node["metadata"]["name"]],
        }
        for node in nodes
    ]
