# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PeerPodConfigs, the nodes they select and the peer pods that run there (no I/O here).

The limit of a PeerPodConfig is what each node it selects advertises as the
extended resource `kata.peerpods.io/vm`; the scheduler does the rest.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

with contextlib.suppress(ImportError):  # The Kubernetes client says what to install.
    from kubernetes.utils.quantity import parse_quantity

CONFIGS_PATH = "/apis/confidentialcontainers.org/v1alpha1/peerpodconfigs"
PODS_PATH = "/api/v1/pods"

EXTENDED_RESOURCE = "kata.peerpods.io/vm"
RUNTIME_CLASS = "kata-remote"

# What the operator writes into the PeerPodConfig it makes, and where one says nothing, holds.
DEFAULT_LIMIT = 10

# The largest number a Kubernetes quantity counts with, an int64.
LARGEST_LIMIT = 2**63 - 1

# What a PeerPodConfig is made with where a task does not say: the defaults of its CRD.
DEFAULT_SPEC = {
    "cloudSecretName": "peer-pods-secret",
    "configMapName": "peer-pods-cm",
    "limit": str(DEFAULT_LIMIT),
}

# Pods that hold a VM on a node or are about to: bound, and not ended.
RUNNING_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

# What the operator's controller takes where a PeerPodConfig has no nodeSelector.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# What Kubernetes takes for the name of an object, for a label's name and for its value.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class LimitError(Exception):
    """A limit that must not be set, or has nowhere to go, as a sentence."""


NOT_SERVED = (
    "This cluster does not know PeerPodConfigs (confidentialcontainers.org/v1alpha1). The operator "
    "for OpenShift sandboxed containers brings them: run the role osc.peerpods.operator_install "
    "first."
)


@dataclass(frozen=True)
class Plan:
    """What is to become of a PeerPodConfig.

    `before` and `after` are the fields of its spec that the task is about, None where there is
    no PeerPodConfig; `resource_version` is the one it was read at.
    """

    namespace: str
    name: str
    resource_version: str | None
    before: dict | None
    after: dict | None

    @property
    def path(self) -> str:
        return f"{collection_path(self.namespace)}/{self.name}"

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def moves(self) -> bool:
        """Whether a PeerPodConfig that stays is to select other nodes than it does."""
        selectors = [(spec or {}).get("nodeSelector") for spec in (self.before, self.after)]
        return None not in (self.before, self.after) and selectors[0] != selectors[1]

    @property
    def lowers(self) -> bool:
        """Whether nodes may end up with less than they have (a limit we cannot read counts)."""
        if self.before is None or self.after is None or self.moves:
            return self.changed
        before, after = (whole_number(spec["limit"]) for spec in (self.before, self.after))
        return self.before["limit"] != self.after["limit"] and (before is None or after < before)

    @property
    def body(self) -> dict:
        """The PeerPodConfig to create."""
        return {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPodConfig",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": self.after,
        }

    @property
    def patch(self) -> dict:
        """A merge patch of the fields that change, good only for the object that was read."""
        spec = {key: value for key, value in self.after.items() if value != self.before[key]}
        if "nodeSelector" in spec:
            # A merge patch merges maps: labels that are not wanted any more have to be said.
            gone = dict.fromkeys(self.before["nodeSelector"] or {})
            spec["nodeSelector"] = {**gone, **spec["nodeSelector"]}
        return {"metadata": {"resourceVersion": self.resource_version}, "spec": spec}

    @property
    def diff(self) -> dict:
        return {
            "before": {} if self.before is None else {"spec": self.before},
            "after": {} if self.after is None else {"spec": self.after},
        }


def collection_path(namespace: str) -> str:
    group_version, dummy, plural = CONFIGS_PATH.rpartition("/")
    return f"{group_version}/namespaces/{namespace}/{plural}"


def whole_number(text: str | None) -> int | None:
    """`text` as a whole number that Kubernetes can count with, or None where it is not one."""
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit() and len(text.lstrip("0")) < 20):
        return None
    return int(text) if int(text) <= LARGEST_LIMIT else None


def parse_limit(text: str) -> int:
    limit = whole_number(text)
    if limit is None:
        raise LimitError(
            f"limit must be a whole number of peer pod VMs per node, 0 or more; got {text!r}."
        )
    return limit


def refuse_bad_fields(fields: dict) -> None:
    """Raise where a task's options are none that Kubernetes could make anything of.

    The CRD takes any text, also for the name of a Secret that there cannot be and for labels that
    no node can carry.
    """
    for option in ("namespace", "name", "cloud_secret_name", "config_map_name"):
        name = fields.get(option)
        if name is not None and not _NAME.fullmatch(name):
            raise LimitError(
                f"{option} must be a name as Kubernetes has them (small letters, digits, '-' and "
                f"'.', with a letter or digit at both ends); got {name!r}."
            )
    instance_type = fields.get("instance_type")
    if instance_type is not None and not instance_type.strip():
        raise LimitError("instance_type is empty: name one, or leave the option out.")
    selector = fields.get("node_selector")
    if selector is not None:
        _refuse_bad_selector(selector)


def _refuse_bad_selector(selector: dict) -> None:
    if not selector:
        raise LimitError(
            "node_selector is empty, which selects every node there is, the control plane's too. "
            "Name a label of the nodes that are to run peer pods."
        )
    for label, value in selector.items():
        if not isinstance(value, str):
            raise LimitError(
                f"The value of the label {label} in node_selector is {value!r}, which is no text: "
                'put it in quotes ("" for a label without a value).'
            )
        prefix, slash, name = label.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _NAME.fullmatch(prefix)):
            raise LimitError(f"node_selector names {label!r}, which no label can be called.")
        if value and not _LABEL_NAME.fullmatch(value):
            raise LimitError(
                f"node_selector wants the label {label} to be {value!r}, which no label can be."
            )


def find_config(configs: Iterable[dict], namespace: str, name: str) -> dict | None:
    return next((config for config in configs if _names(config) == (namespace, name)), None)


def missing(namespace: str, name: str) -> LimitError:
    return LimitError(
        f"There is no PeerPodConfig {name} in namespace {namespace}. The operator makes it when a "
        "KataConfig enables peer pods: run the role osc.peerpods.operator_install first. To have "
        "one made for a pool of nodes of its own, name their labels by the option node_selector."
    )


def node_selector(config: dict) -> dict[str, str]:
    """The labels of the nodes a PeerPodConfig is for; an empty selector is for all nodes."""
    selector = config.get("spec", {}).get("nodeSelector")
    return DEFAULT_NODE_SELECTOR if selector is None else selector


def selects(config: dict, node: dict) -> bool:
    return node_selector(config).items() <= node["metadata"].get("labels", {}).items()


def label_selector(labels: dict[str, str]) -> str:
    """`labels` as the API's `labelSelector` takes them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def others_than(configs: Iterable[dict], namespace: str, name: str) -> list[dict]:
    return [config for config in configs if _names(config) != (namespace, name)]


def refuse_overlap(config: dict, others: Collection[dict], nodes: Iterable[dict]) -> None:
    """Raise where one of `others` selects a node of `config` too, or is bound to.

    Both would advertise their own limit there, and the last one to write would win. Bound to it is
    where one selector has all labels of the other. Any two selectors of different labels could
    meet on a node that carries both; they are refused only once there is one (in `nodes`, those
    that `config` selects), or pools by labels of their own would be impossible.
    """
    mine = node_selector(config).items()
    for other in others:
        both = f"The PeerPodConfigs {'/'.join(_names(config))} and {'/'.join(_names(other))}"
        theirs = node_selector(other).items()
        if mine <= theirs or theirs <= mine:
            raise LimitError(
                f"{both} overlap: every node that fits {_shown(max(mine, theirs, key=len))} fits "
                f"{_shown(min(mine, theirs, key=len))}, so its limit is not well defined. Give "
                "them node selectors that no node fits twice."
            )
        node = next((node for node in nodes if selects(other, node)), None)
        if node:
            raise LimitError(
                f"{both} both select the node {node['metadata']['name']}, so its limit is not well "
                "defined. Give them node selectors that no node fits twice."
            )


def _shown(selector: Iterable[tuple[str, str]]) -> str:
    return repr(label_selector(dict(selector))) if selector else "the empty selector"


def current_limit(config: dict) -> int:
    """The limit that a PeerPodConfig sets now."""
    text = config.get("spec", {}).get("limit")
    limit = DEFAULT_LIMIT if text is None else whole_number(text)
    if limit is None:
        raise LimitError(
            f"The limit of the PeerPodConfig {'/'.join(_names(config))} is {text!r}, which is not a "
            "whole number, so no node can advertise it. Set one by the option limit."
        )
    return limit


def plan_present(config: dict | None, namespace: str, name: str, fields: dict[str, object]) -> Plan:
    """Have the PeerPodConfig with `fields`, those of its spec that a task gives.

    It keeps what it has of everything else; where there is none, defaults fill in.
    """
    if config is None:
        if "nodeSelector" not in fields:
            raise missing(namespace, name)
        return Plan(namespace, name, None, None, {**DEFAULT_SPEC, **fields})
    spec = config.get("spec", {})
    before = {key: spec.get(key) for key in ("limit", *(key for key in fields if key != "limit"))}
    return Plan(
        namespace, name, config["metadata"]["resourceVersion"], before, {**before, **fields}
    )


def plan_absent(config: dict | None, namespace: str, name: str) -> Plan:
    # One that goes already needs no second push.
    if config is None or "deletionTimestamp" in config["metadata"]:
        return Plan(namespace, name, None, None, None)
    return Plan(
        namespace, name, config["metadata"]["resourceVersion"], config.get("spec", {}), None
    )


def as_planned(config: dict | None, plan: Plan) -> dict:
    """The PeerPodConfig as it will be once `plan` has come true."""
    spec = {**((config or {}).get("spec", {})), **plan.after}
    return {"metadata": {"namespace": plan.namespace, "name": plan.name}, "spec": spec}


@dataclass(frozen=True)
class CloudShare:
    """What the cloud's smallest bound leaves the nodes.

    `bound` is its name, `total` how many peer pods it is good for, `limits` what the limits of the
    `nodes` add up to, and `slots` what no node is to advertise more than; None where all limits fit.
    """

    bound: str
    total: int
    nodes: int
    limits: int
    slots: int | None

    def of(self, limit: int) -> int:
        """What a node with that limit is to advertise."""
        return limit if self.slots is None else min(limit, self.slots)


def cloud_share(limits: Collection[int], bounds: Mapping[str, int]) -> CloudShare | None:
    """How the smallest of `bounds` is shared among nodes with these limits; None without bounds.

    Evenly, but what a node with a low limit leaves goes to the others: `slots` is the largest
    number for which sum(min(limit, slots)) stays within the bound. The node capacity agent keeps to
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
    """What a node with that limit is to advertise, with the cloud's share where there is one."""
    return share.of(limit) if share else limit


def limit_at(node: dict, config: dict) -> int:
    """What `config` allows on a node that it selects; what the node has, where its limit is none."""
    text = config.get("spec", {}).get("limit")
    limit = DEFAULT_LIMIT if text is None else whole_number(text)
    return (advertised(node) or 0) if limit is None else limit


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


def released(nodes: Iterable[dict], configs: Collection[dict]) -> list[dict]:
    """Those of `nodes` that none of `configs` selects."""
    return [node for node in nodes if not any(selects(config, node) for config in configs)]


def still_advertising(nodes: Iterable[dict], configs: Collection[dict]) -> dict[str, int]:
    """The nodes that none of `configs` selects and that allow peer pods all the same."""
    return {
        node["metadata"]["name"]: advertised(node)
        for node in released(nodes, configs)
        if advertised(node)
    }


def explain_still_advertising(advertising: dict[str, int], seconds: float) -> str:
    shown = ", ".join(f"{name} shows {count}" for name, count in advertising.items())
    return (
        f"After {seconds:g} s nodes that no PeerPodConfig selects any more still advertise peer "
        f"pods: {shown}. Check that the node capacity agent (or the operator's controller) runs."
    )


def explain_lagging(
    nodes: list[dict], limit: int, selector: str, seconds: float, share: CloudShare | None = None
) -> str:
    slots = slots_of(limit, share)
    held = f", of which the cloud's {share.bound} leaves {slots}," if slots != limit else ""
    waited = f"After {seconds:g} s the limit of {limit}{held} is not in force"
    if not nodes:
        return (
            f"{waited}: no node carries the labels {selector!r} that the PeerPodConfig selects. "
            "The operator labels the nodes while it rolls out a KataConfig: see its status."
        )
    shown = ", ".join(
        f"{name} shows {'nothing' if count is None else count}"
        for name, count in lagging(nodes, slots).items()
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


def is_peer_pod(pod: dict, runtime_classes: Collection[str] = (RUNTIME_CLASS,)) -> bool:
    """Whether a pod has a VM: one in a system namespace does without being accounted for."""
    return pod["spec"].get("runtimeClassName") in runtime_classes or is_accounted_for(pod)


def peer_pods_by_node(running_pods: Iterable[dict]) -> Counter[str]:
    """How many peer pods hold a VM on each node, accounted for by the scheduler or not."""
    return Counter(pod["spec"]["nodeName"] for pod in running_pods if is_peer_pod(pod))


def explain_overfull(limit: int, used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence where `limit` is below what runs on a node already, else None."""
    overfull = _more_than(limit, used, nodes)
    return overfull and f"The limit of {limit} is below the peer pods that run now: {overfull}."


def explain_left_over(used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    """A sentence where peer pods run on `nodes`, which no PeerPodConfig is to select, else None."""
    left_over = _more_than(0, used, nodes)
    return left_over and (
        f"Peer pods run on nodes that no PeerPodConfig would select any more: {left_over}."
    )


def _more_than(limit: int, used: dict[str, int], nodes: Iterable[dict]) -> str | None:
    names = (node["metadata"]["name"] for node in nodes)
    return ", ".join(f"{used[name]} on {name}" for name in names if used[name] > limit) or None


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
