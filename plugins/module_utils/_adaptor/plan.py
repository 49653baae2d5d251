# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which writes to the operator's settings replace which cloud-api-adaptor pods (no I/O here).

Private to this collection. A cloud-api-adaptor (CAA) pod reads its settings when its container starts, and loses the
peer pods of its node when it ends. `apply.py` executes the plan.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import FIELD_MANAGER
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import (
    HOLD_ANNOTATION,
    VERSION_ANNOTATION,
    Operator,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    FEATURE_GATES,
    PEER_PODS_CM,
    PEER_PODS_SECRET,
    UPDATE_STRATEGIES,
    UPDATE_STRATEGY_KEY,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import (
    KEPT_GALLERY,
    KEPT_IMAGE,
    kept_annotations,
    kept_data,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

ROLLING_UPDATE, ON_DELETE = UPDATE_STRATEGIES

# A pod is up to date for the DaemonSet controller if its generation or its hash matches (IsPodUpdated in
# pkg/controller/daemon/util/daemonset_util.go of Kubernetes).
GENERATION_ANNOTATION = "deprecated.daemonset.template.generation"
GENERATION_LABEL = "pod-template-generation"
HASH_LABEL = "controller-revision-hash"

CONTAINER = "caa-pod"

# With this feature gate, the operator itself writes DISABLECVM of peer-pods-cm (handleFeatureConfidential in
# controllers/confidential_handler.go of sandboxed-containers-operator).
CONFIDENTIAL = "confidential"
DISABLE_CVM = "DISABLECVM"

# The number of peer pods that a message names.
NAMED_PODS = 20

# How a planned write takes effect.
WRITE = "write"  # No CAA pod is replaced.
REPLACE = "replace"  # This collection replaces pods node by node; the operator replaces none.
HOLD = "hold"  # The operator would replace all pods: set OnDelete first, then as REPLACE.
ROLL = "roll"  # The operator replaces all pods, and has no option to prevent this.


class SettingsError(Exception):
    """Settings that cannot be written, as a sentence."""


@dataclass(frozen=True)
class Write:
    """The keys of a ConfigMap or Secret that change; None removes one.

    `before` has their current values. `resource_version` is that of the object that was read, None for a new object.
    """

    kind: str
    name: str
    resource_version: str | None
    before: Mapping[str, str | None]
    data: Mapping[str, str | None]
    annotations: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def object_name(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def field_manager(self) -> str:
        """Another one for annotations alone: the time of that of the data tells which pods have older settings."""
        return FIELD_MANAGER if self.data else f"{FIELD_MANAGER}-annotations"

    def body(self, namespace: str, labels: Mapping[str, str]) -> dict:
        """The object to create, or a merge patch that is valid only for the object that was read."""
        data = dict(self.data)
        if self.kind == "Secret":
            data = {key: _encoded(value) for key, value in data.items()}
        if self.resource_version is not None:
            metadata: dict = {"resourceVersion": self.resource_version}
            if self.annotations:
                metadata["annotations"] = dict(self.annotations)
            return {"metadata": metadata, **({"data": data} if data else {})}
        metadata = {"name": self.name, "namespace": namespace, "labels": dict(labels)}
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        opaque = {"type": "Opaque"} if self.kind == "Secret" else {}
        return {"apiVersion": "v1", "kind": self.kind, "metadata": metadata, **opaque, "data": data}

    def diff(self) -> tuple[dict, dict]:
        """Before and after; for a Secret only the names of the keys."""
        if self.kind != "Secret":
            before = {key: value for key, value in self.before.items() if value is not None}
            return before, {key: value for key, value in self.data.items() if value is not None}
        before = {key: "(not shown)" for key, value in self.before.items() if value is not None}
        return before, dict.fromkeys(self.data, "(not shown, changed)")


def as_text(settings: Mapping[str, object], what: str) -> dict[str, str]:
    """Settings as a ConfigMap stores them: true, not True."""
    texts = {}
    for key, value in settings.items():
        if isinstance(value, bool):
            texts[key] = str(value).lower()
        elif isinstance(value, (str, int, float)):
            texts[key] = str(value)
        else:
            raise SettingsError(f"{key} of {what} must be a string, a number or a boolean.")
    return texts


def as_secret(settings: Mapping[str, object]) -> dict[str, str | None]:
    """The same for a Secret, of which None removes a key."""
    removed = dict.fromkeys(key for key, value in settings.items() if value is None)
    return {**as_text({key: settings[key] for key in settings if key not in removed}, "secret"), **removed}


def refuse_bad_gates(gates: Mapping[str, str]) -> None:
    strategy = gates.get(UPDATE_STRATEGY_KEY)
    if strategy is not None and strategy not in UPDATE_STRATEGIES:
        # The operator treats any other value as RollingUpdate (ParseCAAUpdateStrategy).
        raise SettingsError(
            f"{UPDATE_STRATEGY_KEY} must be {' or '.join(UPDATE_STRATEGIES)}, in these letters; "
            f"got {strategy!r}. The operator ignores any other value."
        )


def plan_write(
    kind: str,
    name: str,
    object_: dict | None,
    settings: Mapping[str, str | None],
    annotations: Mapping[str, str | None] | None = None,
    only_missing: Collection[str] = (),
) -> Write | None:
    """The patch that adds `settings` and `annotations` to the object; None if it has them already."""
    data = (object_ or {}).get("data") or {}
    current_annotations = ((object_ or {}).get("metadata") or {}).get("annotations") or {}
    desired = {key: value for key, value in settings.items() if key not in only_missing or key not in data}
    if kind == "Secret":
        changed = {key: value for key, value in desired.items() if data.get(key) != _encoded(value)}
    else:
        changed = {key: value for key, value in desired.items() if data.get(key) != value}
    noted = {key: value for key, value in (annotations or {}).items() if current_annotations.get(key) != value}
    if not changed and not noted:
        return None
    version = None if object_ is None else object_["metadata"]["resourceVersion"]
    return Write(kind, name, version, {key: data.get(key) for key in changed}, changed, noted)


def plan_config_map(object_: dict | None, desired: DesiredSettings) -> Write | None:
    """The write to peer-pods-cm, which restores what an interrupted teardown has taken out of it: the image, and the
    annotation for its gallery."""
    if not desired.restores_image:
        return plan_write("ConfigMap", PEER_PODS_CM, object_, desired.config_map, only_missing=desired.only_missing)
    settings = {**kept_data(object_), **desired.config_map}
    annotations = {KEPT_IMAGE: None, KEPT_GALLERY: None, **kept_annotations(object_)}
    return plan_write("ConfigMap", PEER_PODS_CM, object_, settings, annotations, desired.only_missing)


def _encoded(value: str | None) -> str | None:
    return None if value is None else base64.b64encode(value.encode()).decode()


@dataclass(frozen=True)
class Strategy:
    """caaUpdateStrategy in osc-feature-gates, and the value that a run of this collection must restore."""

    value: str | None = None
    kept_value: str | None = None

    @property
    def is_held(self) -> bool:
        # A value that was changed by hand since then is the user's.
        return self.kept_value is not None and self.value == ON_DELETE

    @property
    def own(self) -> str | None:
        """The value that the user has set."""
        return (self.kept_value or None) if self.is_held else self.value


def strategy_of(gates: dict | None) -> Strategy:
    annotations = ((gates or {}).get("metadata") or {}).get("annotations") or {}
    return Strategy(((gates or {}).get("data") or {}).get(UPDATE_STRATEGY_KEY), annotations.get(HOLD_ANNOTATION))


def written_at(*objects: dict | None) -> datetime | None:
    """When the data of any of these objects was last written, according to their managedFields.

    The time of a field manager is that of its last write to any field, so the result may be too late, but not too
    early. `Write.field_manager` prevents this for annotations that are written alone.
    """
    times = [
        datetime.fromisoformat(entry["time"])
        for object_ in objects
        if object_
        for entry in object_["metadata"].get("managedFields") or []
        if "f:data" in (entry.get("fieldsV1") or {}) and entry.get("time")
    ]
    return max(times, default=None)


def started_at(pod: dict) -> datetime | None:
    """When the container of a CAA pod started; None if it does not run, and will read the current settings."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        running = (container.get("state") or {}).get("running")
        if container["name"] == CONTAINER:
            started = (running or {}).get("startedAt")
            return datetime.fromisoformat(started) if started else None
    return None


def is_ready(pod: dict) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def is_of_template(pod: dict, daemon_set: dict, revision: str | None = None) -> bool:
    """Whether a CAA pod has the DaemonSet's current template; `revision` is the hash of the template if known."""
    labels = pod["metadata"].get("labels") or {}
    generation = (daemon_set["metadata"].get("annotations") or {}).get(GENERATION_ANNOTATION)
    if revision is not None and labels.get(HASH_LABEL) == revision:
        return True
    return labels.get(GENERATION_LABEL) == generation


def stale_pods(
    pods: Iterable[dict],
    daemon_set: dict,
    written: datetime | None,
    *,
    revision: str | None = None,
    same_second: bool = False,
) -> list[dict]:
    """The CAA pods whose settings differ from the stored ones.

    Times are whole seconds: with `same_second`, a pod that started in the second of the write counts.
    """

    def is_stale(pod: dict) -> bool:
        if not is_of_template(pod, daemon_set, revision):
            return True
        started = started_at(pod)
        if written is None or started is None:
            return False
        return started <= written if same_second else started < written

    return [pod for pod in pods if is_stale(pod)]


def template_version(daemon_set: dict) -> str | None:
    """The resourceVersion of peer-pods-cm in the template of CAA pods, if the operator sets it."""
    template = daemon_set["spec"]["template"].get("metadata") or {}
    return (template.get("annotations") or {}).get(VERSION_ANNOTATION)


@dataclass(frozen=True)
class CurrentSettings:
    """The objects with the settings, None if they do not exist."""

    config_map: dict | None = None
    secret: dict | None = None
    gates: dict | None = None


@dataclass(frozen=True)
class DesiredSettings:
    """The settings that a task requests. Other keys stay as they are."""

    config_map: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str | None] = field(default_factory=dict)
    gates: Mapping[str, str] = field(default_factory=dict)
    only_missing: Collection[str] = ()
    replace: bool = True
    resume: bool = False
    # Nodes that do not advertise the stored limit: with `resume`, their CAA pods that are Ready are replaced, too.
    lagging: Collection[str] = ()
    # The operator deletes the image that peer-pods-cm names together with the KataConfig: not while that is deleted.
    restores_image: bool = True


@dataclass(frozen=True)
class Plan:
    """What to write, in this order, and how it takes effect.

    `targets` are the CAA pods to replace; `mode` determines which program replaces them. `stale` are the pods whose
    settings differ from the stored ones, or that have not advertised them. `derived` are the keys of peer-pods-cm that
    the operator sets from the gates. `strategy` is the final value of caaUpdateStrategy.
    """

    gates: Write | None
    secret: Write | None
    config_map: Write | None
    mode: str
    targets: tuple[dict, ...]
    stale: tuple[dict, ...]
    derived: Mapping[str, str]
    strategy: str | None
    # Whether the strategy that an earlier run has changed can be restored without replacing a pod.
    restores_strategy: bool = False

    @property
    def writes(self) -> tuple[Write, ...]:
        # peer-pods-cm comes last, because some operators start to replace pods after a write to it.
        return tuple(write for write in (self.gates, self.secret, self.config_map) if write)

    @property
    def changed(self) -> bool:
        return bool(self.writes or self.restores_strategy or (self.targets and self.mode != WRITE))

    @property
    def diff(self) -> dict:
        diffs = {write.object_name: write.diff() for write in self.writes}
        return {
            "before": {name: before for name, (before, after) in diffs.items()},
            "after": {name: after for name, (before, after) in diffs.items()},
        }


def plan_settings(
    current: CurrentSettings,
    desired: DesiredSettings,
    operator: Operator | None,
    pods: Iterable[dict],
    stale: Iterable[dict],
) -> Plan:
    """Plan the writes; `pods` are the CAA pods that are bound to a node, `stale` the stale pods among them."""
    pods, stale = tuple(pods), tuple(stale)
    config_map = plan_config_map(current.config_map, desired)
    if config_map and not config_map.data and pods and operator and operator.rolls:
        # The operator takes no notice of it, but replaces all pods for the new resourceVersion when it next reconciles
        # for any other reason (ConfigMapEventHandler in controllers/cm_event_handler.go, and peer-pods-cm/version). The
        # next write of data, or one without pods, has the annotations, too.
        config_map = None
    secret = plan_write("Secret", PEER_PODS_SECRET, current.secret, desired.secret)
    held = strategy_of(current.gates)
    own = desired.gates.get(UPDATE_STRATEGY_KEY, held.own)
    gates = plan_write("ConfigMap", FEATURE_GATES, current.gates, _gates(desired.gates, held))
    derived = _derived(gates, current.config_map, desired.config_map)
    writes = gates or secret or config_map
    daemon_set = operator.daemon_set if operator else None
    if operator is None or daemon_set is None or not pods:
        # No pod exists that the operator would replace.
        restores_strategy = held.is_held and not gates
        return Plan(gates, secret, config_map, WRITE, (), stale, derived, own, restores_strategy)
    pending = (
        operator.rolls
        and current.config_map is not None
        and template_version(daemon_set) != current.config_map["metadata"]["resourceVersion"]
    )
    relaxes = held.value == ON_DELETE and not held.is_held and own != ON_DELETE
    if (config_map and config_map.data) or derived or (gates and pending):
        targets, starts_roll = pods, operator.rolls
    elif relaxes and stale:
        targets, starts_roll = stale, operator.rolls
    elif secret:
        # The operator does not watch the Secret.
        targets, starts_roll = pods, False
    elif desired.resume:
        targets, starts_roll = stale, False
    else:
        targets, starts_roll = (), False
    is_kept = operator.behaviour.has_update_strategy and operator.rolls
    if starts_roll and not is_kept:
        mode = ROLL
    elif starts_roll and own != ON_DELETE:
        mode = HOLD
    else:
        mode = REPLACE if targets else WRITE
    if not desired.replace and mode in (REPLACE, HOLD):
        targets = ()
        mode = WRITE if mode == REPLACE else HOLD
    restores_strategy = held.is_held and not stale and not pending and not writes and mode == WRITE
    return Plan(gates, secret, config_map, mode, targets, stale, derived, own, restores_strategy)


def _gates(gates: Mapping[str, str], held: Strategy) -> dict[str, str]:
    """The gates to write now; a strategy that is held already is restored at the end."""
    return {key: value for key, value in gates.items() if not (key == UPDATE_STRATEGY_KEY and held.is_held)}


def _derived(gates: Write | None, config_map: dict | None, settings: Mapping[str, str]) -> dict[str, str]:
    confidential = (gates.data if gates else {}).get(CONFIDENTIAL)
    if confidential is None or config_map is None:
        return {}
    disable_cvm = "false" if confidential.lower() in ("true", "1", "t") else "true"
    data = {**(config_map.get("data") or {}), **settings}
    return {} if data.get(DISABLE_CVM) == disable_cvm else {DISABLE_CVM: disable_cvm}


def own_strategy(gates: dict | None, requested: str | None = None) -> str | None:
    """The value of caaUpdateStrategy that this run requests, else that of the user, as it is now."""
    return requested or strategy_of(gates).own


def hold_write(gates: dict | None, requested: str | None = None) -> Write | None:
    """Set OnDelete, and keep the value to restore in an annotation."""
    return plan_write(
        "ConfigMap",
        FEATURE_GATES,
        gates,
        {UPDATE_STRATEGY_KEY: ON_DELETE},
        {HOLD_ANNOTATION: own_strategy(gates, requested) or ""},
    )


def restore_write(gates: dict | None, requested: str | None = None) -> Write | None:
    strategy = own_strategy(gates, requested)
    return plan_write("ConfigMap", FEATURE_GATES, gates, {UPDATE_STRATEGY_KEY: strategy}, {HOLD_ANNOTATION: None})


def node_of(pod: dict) -> str:
    """The name of the pod's node, empty if it has none yet."""
    return pod["spec"].get("nodeName") or ""


def full_name(pod: dict) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def in_order(pods: Iterable[dict], peer_pods: Mapping[str, Collection[str]]) -> list[dict]:
    """The CAA pods in the order of their replacement: nodes with the fewest peer pods first."""
    return sorted(pods, key=lambda pod: (len(peer_pods.get(node_of(pod), ())), node_of(pod)))


def affected_peer_pods(targets: Iterable[dict], peer_pods: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The peer pods that replacing `targets` would lose, by node."""
    nodes = {node_of(pod) for pod in targets}
    return {node: pods for node, pods in sorted(peer_pods.items()) if node in nodes and pods}


def _describe_peer_pods(lost: Mapping[str, list[str]]) -> str:
    names = [f"{pod} on {node}" for node, pods in lost.items() for pod in pods]
    return join_names(names, NAMED_PODS)


ADVICE = (
    "Set disruption (of a role, the variable that ends in _disruption) to wait to wait until they have ended, or to "
    "allow to lose them; or drain the nodes first"
)


def explain_lost_peer_pods(plan: Plan, lost: Mapping[str, list[str]]) -> str:
    names = ", ".join(write.object_name for write in plan.writes) or "settings that are written already"
    count = sum(map(len, lost.values()))
    return (
        f"Applying {names} replaces the cloud-api-adaptor pods of {len(lost)} nodes that run peer pods, "
        f"and these {count} peer pods would be lost: {_describe_peer_pods(lost)}. Nothing was written. {ADVICE}."
    )


def explain_waiting(waiting: Mapping[str, list[str]], seconds: float, disruption: str) -> str:
    """Why the CAA pods of these nodes were not replaced."""
    busy = {node: pods for node, pods in waiting.items() if pods}
    since = f"After {seconds:g} s these" if disruption == "wait" else "Since the check, these"
    return (
        f"{since} peer pods run on {len(busy)} nodes whose cloud-api-adaptor pods have older settings: "
        f"{_describe_peer_pods(busy)}. Run the task again with resume=true to replace them. {ADVICE}."
    )
