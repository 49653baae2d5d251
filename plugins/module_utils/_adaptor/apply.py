# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the operator's settings and replace cloud-api-adaptor pods node by node (private to this collection).

`plan.py` decides; this module reads, writes and waits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._adaptor.plan import (
    HASH_LABEL,
    HOLD,
    ON_DELETE,
    REPLACE,
    ROLL,
    WRITE,
    CurrentSettings,
    DesiredSettings,
    Plan,
    SettingsError,
    Write,
    affected_peer_pods,
    as_secret,
    as_text,
    explain_lost_peer_pods,
    explain_waiting,
    full_name,
    hold_write,
    in_order,
    is_of_template,
    is_ready,
    node_of,
    own_strategy,
    plan_config_map,
    plan_settings,
    plan_write,
    refuse_bad_gates,
    restore_write,
    stale_pods,
    strategy_of,
    template_version,
    written_at,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import PODS_PATH, label_selector
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Collection as Followed,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import Operator
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    FEATURE_GATES,
    KATA_CONFIGS,
    PART_OF,
    PEER_PODS_CM,
    PEER_PODS_SECRET,
    RUNTIME_CLASS,
    UPDATE_STRATEGY_KEY,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.node_slots import is_down
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import (
    KEPT_GALLERY,
    KEPT_IMAGE,
    kept_annotations,
    kept_data,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import RUNNING_PODS, is_peer_pod
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# How long to wait for the operator. It reconciles within seconds, unless it waits for another step. Seconds.
OPERATOR_SECONDS = 120.0

# The polling intervals for the operator's objects and for peer pods. Seconds.
INTERVAL = 0.5
PEER_PODS_INTERVAL = 2.0

# How often the node is read while its new CAA pod is not Ready. Seconds.
NODE_INTERVAL = 15.0


class AdaptorError(TaskError):
    """Why settings were not written or do not take effect; `result` has what was written and which pods were
    replaced."""


def apply_settings(
    module: AnsibleModule,
    cluster: Cluster,
    operator: Operator | None,
    namespace: str,
    *,
    config_map: Mapping[str, object],
    secret: Mapping[str, object] | None = None,
    gates: Mapping[str, object] | None = None,
    disruption: str,
    timeout: float,
    only_missing: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    replace: bool = True,
    resume: bool = False,
    lagging: Collection[str] = (),
    runtime_classes: Collection[str] = (RUNTIME_CLASS,),
) -> dict:
    """Write settings and replace the cloud-api-adaptor pods, without losing peer pods unless `disruption` allows it.

    `disruption` is refuse, wait or allow. `timeout` is the number of seconds that each step may take: the operator
    applies the settings, a new pod becomes Ready, or the peer pods of a node end. `lagging` are the nodes that do not
    advertise the stored limit: with `resume`, their pods are replaced like pods with older settings. In check mode
    nothing is written. Raises AdaptorError, and ClusterError from a request that failed before the first write.
    """
    try:
        desired = DesiredSettings(
            as_text(config_map, "config_map"),
            as_secret(secret or {}),
            as_text(gates or {}, "feature_gates"),
            only_missing,
            replace,
            resume,
            lagging,
        )
        refuse_bad_gates(desired.gates)
    except SettingsError as error:
        raise AdaptorError(str(error)) from error
    run = _Run(module, cluster, operator, namespace, desired, disruption, timeout, labels, runtime_classes)
    try:
        run.apply()
    except ClusterError as error:
        if not cluster.writes:
            raise
        raise AdaptorError(f"{error} {run.explain_written()}", run.result()) from error
    run.warn_of_hold()
    return run.result()


def is_held(cluster: Cluster, namespace: str) -> bool:
    """Whether an earlier run has left caaUpdateStrategy at OnDelete; takes one request."""
    path = f"/api/v1/namespaces/{namespace}/configmaps/{FEATURE_GATES}"
    return strategy_of(cluster.get(path)).is_held


def peer_pods_by_node(
    cluster: Cluster, runtime_classes: Collection[str], selector: str = RUNNING_PODS
) -> dict[str, list[str]]:
    """The names of the peer pods that run on each node; lists all running pods of the cluster."""
    by_node: dict[str, list[str]] = {}
    for pod in cluster.list(PODS_PATH, fieldSelector=selector):
        if is_peer_pod(pod, runtime_classes):
            by_node.setdefault(pod["spec"]["nodeName"], []).append(full_name(pod))
    return {node: sorted(pods) for node, pods in by_node.items()}


class _Run:
    def __init__(
        self,
        module: AnsibleModule,
        cluster: Cluster,
        operator: Operator | None,
        namespace: str,
        desired: DesiredSettings,
        disruption: str,
        timeout: float,
        labels: Mapping[str, str] | None,
        runtime_classes: Collection[str],
    ):
        self.module = module
        self.cluster = cluster
        self.operator = operator
        self.namespace = namespace
        self.desired = desired
        self.disruption = disruption
        self.timeout = timeout
        self.labels = dict([PART_OF]) if labels is None else labels
        self.runtime_classes = runtime_classes
        self.plan: Plan | None = None
        self.written: list[str] = []
        self.replaced: list[str] = []
        self.waiting: list[str] = []
        self.stale: list[str] = []
        self.affected: dict[str, list[str]] = {}
        self.lost: list[str] = []
        self.strategy: dict[str, str | None] = {"before": None, "after": None}
        self.diff: dict = {}

        # Reads

    @property
    def _daemon_set(self) -> dict:
        """The DaemonSet of cloud-api-adaptor, where it exists."""
        if self.daemon_set is None:
            raise AdaptorError("The DaemonSet of cloud-api-adaptor does not exist.")
        return self.daemon_set

    @property
    def _rolls(self) -> bool:
        return self.operator is not None and self.operator.rolls

    @property
    def daemon_set(self) -> dict | None:
        return self.operator.daemon_set if self.operator else None

    def path(self, kind: str, name: str = "") -> str:
        plural = {"ConfigMap": "configmaps", "Secret": "secrets"}[kind]
        path = f"/api/v1/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def daemon_set_now(self) -> dict | None:
        if self.daemon_set is None:
            return None
        name = self.daemon_set["metadata"]["name"]
        return self.cluster.get(f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets/{name}")

    def _selector(self) -> str:
        return label_selector(self._daemon_set["spec"]["selector"]["matchLabels"])

    def adaptor_pods(self) -> list[dict]:
        """The CAA pods on nodes, without those that are being deleted."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        pods = self.cluster.list(path, labelSelector=self._selector())
        return [pod for pod in pods if node_of(pod) and "deletionTimestamp" not in pod["metadata"]]

    def read(self) -> CurrentSettings:
        config_map = self.cluster.get(self.path("ConfigMap", PEER_PODS_CM))
        kept = {KEPT_IMAGE: kept_data(config_map), KEPT_GALLERY: kept_annotations(config_map)}
        if self.desired.restores_image and any(kept.values()) and self._may_delete_image():
            self.desired = dataclasses.replace(self.desired, restores_image=False)
            what, annotation = ("image", KEPT_IMAGE) if kept[KEPT_IMAGE] else ("gallery", KEPT_GALLERY)
            self.module.warn(
                f"{PEER_PODS_CM} does not name the {what} of the pod VMs yet, which the annotation {annotation} keeps: "
                f"a KataConfig is being deleted, or cannot be read, and the operator would delete the {what}. "
                "Run osc.peerpods.adaptor_config with resume=true when the KataConfig is gone."
            )
        has_adaptor = self.daemon_set is not None
        secret = gates = None
        if self.desired.secret:
            secret = self.cluster.get(self.path("Secret", PEER_PODS_SECRET))
        elif has_adaptor:
            # Only the time of the last write is needed. A user who may write ConfigMaps may not be permitted to read
            # Secrets.
            try:
                secret = self.cluster.get(self.path("Secret", PEER_PODS_SECRET))
            except ClusterError as error:
                if error.status != 403:
                    raise
        has_strategy = has_adaptor and self.operator and self.operator.behaviour.has_update_strategy
        # An interrupted run may have left a strategy, also where cloud-api-adaptor was removed since.
        if self.desired.gates or self.desired.resume or has_strategy:
            gates = self.cluster.get(self.path("ConfigMap", FEATURE_GATES))
        return CurrentSettings(config_map, secret, gates)

    def _may_delete_image(self) -> bool:
        """Whether the operator will delete the image that peer-pods-cm names."""
        try:
            return any("deletionTimestamp" in kata["metadata"] for kata in self.cluster.list(KATA_CONFIGS))
        except ClusterError as error:
            if error.status == 404:
                return False
            if error.status == 403:
                return True
            raise

    def stale_among(self, pods: list[dict], current: CurrentSettings, *, same_second: bool = False) -> list[dict]:
        written = written_at(current.config_map, current.secret)
        stale = stale_pods(pods, self._daemon_set, written, same_second=same_second)
        if all(is_of_template(pod, self._daemon_set) for pod in stale):
            return stale
        # If the template was changed back, its pods are kept; their hash shows this.
        return stale_pods(pods, self._daemon_set, written, revision=self._revision(), same_second=same_second)

    def _revision(self) -> str | None:
        revisions = self.cluster.list(
            f"/apis/apps/v1/namespaces/{self.namespace}/controllerrevisions",
            labelSelector=self._selector(),
        )
        newest = max(revisions, key=lambda revision: revision["revision"], default=None)
        return newest["metadata"]["labels"].get(HASH_LABEL) if newest else None

    def look(self) -> tuple[CurrentSettings, Plan]:
        current = self.read()
        pods = self.adaptor_pods() if self.daemon_set else []
        stale = self.stale_among(pods, current) if pods else []
        stale += [pod for pod in pods if pod not in stale and self._lags(pod)]
        return current, plan_settings(current, self.desired, self.operator, pods, stale)

    def _lags(self, pod: dict) -> bool:
        # A pod that is not Ready may advertise later.
        return node_of(pod) in self.desired.lagging and is_ready(pod)

    def peer_pods(self, node: str | None = None) -> dict[str, list[str]]:
        selector = RUNNING_PODS
        if node is not None:
            selector = RUNNING_PODS.replace("spec.nodeName!=", f"spec.nodeName={node}")
        return peer_pods_by_node(self.cluster, self.runtime_classes, selector)

        # Writes and waits

    def apply(self) -> None:
        current, plan = self.look()
        self.plan, self.diff = plan, plan.diff
        self.stale = sorted(map(node_of, plan.stale))
        before = strategy_of(current.gates)
        self.strategy = {"before": before.value, "after": before.value}
        if plan.targets:
            self.affected = affected_peer_pods(plan.targets, self.peer_pods())
        if self.affected and self.disruption == "refuse":
            self.waiting = sorted(self.affected)
            self.replaced = []
            raise AdaptorError(explain_lost_peer_pods(plan, self.affected), self.result())
        if self.module.check_mode:
            self._predict(plan)
            return
        if plan.restores_strategy:
            self._restore_strategy()
        if not plan.changed:
            return
        if plan.mode == HOLD:
            self._hold(current, plan)
        elif plan.mode == ROLL:
            self._before_roll(plan)
        self._write_all(current, plan)
        if plan.mode == WRITE or not (plan.targets or plan.mode == HOLD):
            return
        self._settle(plan)
        if not self.desired.replace and plan.mode == HOLD:
            self.waiting = sorted(map(node_of, self.adaptor_pods()))
            return
        if plan.mode == ROLL:
            self._watch_roll(plan)
            return
        waiting = self._replace(plan)
        if plan.mode == HOLD or before.is_held:
            self._restore_strategy()
        self.waiting = sorted(waiting)
        busy = {node: pods for node, pods in waiting.items() if pods}
        if busy:
            message = explain_waiting(busy, self.timeout, self.disruption)
            raise AdaptorError(f"{message} {self.explain_written()}", self.result())

    def _predict(self, plan: Plan) -> None:
        self.written = [write.object_name for write in plan.writes]
        if (plan.mode == HOLD or plan.restores_strategy) and f"ConfigMap/{FEATURE_GATES}" not in self.written:
            self.written.insert(0, f"ConfigMap/{FEATURE_GATES}")
        nodes = {node_of(pod) for pod in plan.targets}
        self.replaced = sorted(nodes)
        if self.disruption == "wait":
            self.waiting = sorted(self.affected)
        else:
            self.lost = [pod for pods in self.affected.values() for pod in pods]
        if plan.mode == HOLD or plan.restores_strategy or plan.gates:
            self.strategy["after"] = plan.strategy

    def _write(
        self, current: dict | None, kind: str, name: str, plan: Callable[[dict | None], Write | None]
    ) -> dict | None:
        """Write what `plan` returns for the object; after a conflict with another writer, read and plan again."""
        first_read: list[dict | None] = [current]

        def attempt() -> dict | None:
            object_ = first_read.pop() if first_read else self.cluster.get(self.path(kind, name))
            write = plan(object_)
            if write is None:
                return object_
            body = write.body(self.namespace, self.labels)
            self.module.log(f"Writing {write.object_name} ({', '.join(write.data) or 'annotations'})")
            if write.resource_version is None:
                written = self.cluster.create(self.path(kind), body)
            else:
                written = self.cluster.patch(self.path(kind, name), body, fieldManager=write.field_manager)
            if write.object_name not in self.written:
                self.written.append(write.object_name)
            return written

        return retry_conflicts(attempt)

    def _write_all(self, current: CurrentSettings, plan: Plan) -> None:
        gates = dict(plan.gates.data) if plan.gates else {}
        if plan.mode == HOLD:
            # _restore_strategy writes this value at the end.
            gates.pop(UPDATE_STRATEGY_KEY, None)
        if gates:
            feature_gates = (
                self.cluster.get(self.path("ConfigMap", FEATURE_GATES)) if plan.mode == HOLD else current.gates
            )
            self._write(
                feature_gates,
                "ConfigMap",
                FEATURE_GATES,
                lambda now: plan_write("ConfigMap", FEATURE_GATES, now, gates),
            )
        if UPDATE_STRATEGY_KEY in gates:
            self.strategy["after"] = plan.strategy
        if plan.secret:
            self._write(
                current.secret,
                "Secret",
                PEER_PODS_SECRET,
                lambda now: plan_write("Secret", PEER_PODS_SECRET, now, self.desired.secret),
            )
        if plan.config_map:
            self._write(
                current.config_map,
                "ConfigMap",
                PEER_PODS_CM,
                lambda now: plan_config_map(now, self.desired),
            )

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(INTERVAL)
        return True

    def _hold(self, current: CurrentSettings, plan: Plan) -> None:
        """Set OnDelete and wait until the DaemonSet has it; an earlier write would replace all pods."""
        held = strategy_of(current.gates)
        writes_before = len(self.cluster.writes)
        self._write(
            current.gates,
            "ConfigMap",
            FEATURE_GATES,
            lambda now: hold_write(now, self._requested_strategy),
        )
        self.strategy["after"] = ON_DELETE

        def is_on_delete() -> bool:
            daemon_set = self.daemon_set_now()
            return daemon_set is None or daemon_set["spec"]["updateStrategy"]["type"] == ON_DELETE

        seconds = min(OPERATOR_SECONDS, self.timeout)
        if self._until(is_on_delete, seconds):
            return
        if not held.is_held:
            self._write_strategy(None)
            self.written.remove(f"ConfigMap/{FEATURE_GATES}")
            # The ConfigMap is as it was.
            del self.cluster.writes[writes_before:]
        raise AdaptorError(
            f"After {seconds:g} s the operator has not set the update strategy of "
            f"{self._daemon_set['metadata']['name']} to {ON_DELETE}. Without it, a write to {PEER_PODS_CM} replaces "
            f"every cloud-api-adaptor pod and all peer pods are lost. {self.explain_written()} See the log of the "
            "operator's Deployment controller-manager, then run the task again.",
            self.result(),
        )

    def _before_roll(self, plan: Plan) -> None:
        """Require that the peer pods of all nodes have ended, since the operator replaces all pods by itself."""
        if self.disruption == "allow":
            return
        affected: dict[str, list[str]] = {}

        def is_idle() -> bool:
            nonlocal affected
            affected = affected_peer_pods(plan.targets, self.peer_pods())
            return not affected

        seconds = self.timeout if self.disruption == "wait" else 0.0
        if self._until(is_idle, seconds):
            return
        self.affected, self.waiting = affected, sorted(affected)
        message = explain_lost_peer_pods(plan, affected)
        if self.written:
            message = message.replace("Nothing was written", self.explain_written().rstrip("."))
        raise AdaptorError(f"After {seconds:g} s: {message}", self.result())

    def _settle(self, plan: Plan) -> None:
        """Wait until the operator has applied the settings, so that new CAA pods start with them."""

        def is_taken_up() -> bool:
            config_map = self.cluster.get(self.path("ConfigMap", PEER_PODS_CM))
            data = (config_map or {}).get("data") or {}
            if not plan.derived.items() <= data.items():
                return False
            if not self._rolls:
                return True
            daemon_set = self.daemon_set_now()
            version = config_map and config_map["metadata"]["resourceVersion"]
            return daemon_set is None or template_version(daemon_set) == version

        if not plan.derived and not (self._rolls and (plan.config_map or plan.mode != REPLACE)):
            return
        seconds = min(OPERATOR_SECONDS, self.timeout)
        if not self._until(is_taken_up, seconds):
            raise AdaptorError(
                f"After {seconds:g} s the operator has not applied the new settings, and no cloud-api-adaptor "
                f"pod was replaced. {self.explain_written()} See the log of the operator's Deployment "
                "controller-manager, then run the task again with resume=true.",
                self.result(),
            )

    def _targets(self, plan: Plan) -> list[dict]:
        """The CAA pods to replace, read again after all writes."""
        now = self.daemon_set_now()
        if now is None or self.operator is None:
            return []
        self.operator = Operator(self.operator.version, self.operator.behaviour, self.operator.is_known, now)
        pods = self.adaptor_pods()
        before = {pod["metadata"]["uid"] for pod in plan.targets}
        stale = self.stale_among(pods, self.read(), same_second=True) if plan.writes else []
        uids = before | {pod["metadata"]["uid"] for pod in stale}
        return [pod for pod in pods if pod["metadata"]["uid"] in uids]

    def _replace(self, plan: Plan) -> dict[str, list[str]]:
        """Replace the CAA pods node by node; returns the nodes that remain, with their peer pods."""
        remaining = self._targets(plan)
        peer_pods = self.peer_pods() if remaining else {}
        following = self.cluster.follow(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=self._selector())
        deadline = time.monotonic() + self.timeout
        unready: dict[str, list[str]] = {}
        while remaining:
            replaced = False
            for pod in in_order(remaining, peer_pods):
                node = node_of(pod)
                if peer_pods.get(node) and self.disruption != "allow":
                    continue
                # Peer pods start and end: read them again directly before the replacement.
                running = self.peer_pods(node).get(node, [])
                if running and self.disruption != "allow":
                    peer_pods[node] = running
                    continue
                remaining.remove(pod)
                if not self._is_up(node):
                    unready[node] = []
                    continue
                self._replace_one(following, pod, running)
                replaced = True
            if not remaining or self.disruption != "wait":
                break
            if replaced:
                deadline = time.monotonic() + self.timeout
            elif time.monotonic() >= deadline:
                break
            began = time.monotonic()
            peer_pods = self.peer_pods()
            # In a large cluster this list is expensive for the API server.
            are_all_busy = all(peer_pods.get(node_of(pod)) for pod in remaining)
            if are_all_busy:
                time.sleep(max(PEER_PODS_INTERVAL, 5 * (time.monotonic() - began)))
        return {**{node_of(pod): peer_pods.get(node_of(pod), []) for pod in remaining}, **unready}

    def _is_up(self, node: str) -> bool:
        """Whether a node exists and can run a new pod."""
        node_object = self.cluster.get(f"/api/v1/nodes/{node}")
        return node_object is not None and not is_down(node_object)

    def _replace_one(self, following: Followed, pod: dict, peer_pods: Iterable[str]) -> None:
        node, name, uid = node_of(pod), pod["metadata"]["name"], pod["metadata"]["uid"]
        self.module.log(f"Replacing the cloud-api-adaptor pod {name} of node {node}")
        self.cluster.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", uid=uid)
        self.lost += peer_pods
        self.replaced.append(node)

        def has_new(pods: list[dict]) -> bool:
            return any(
                node_of(candidate) == node and candidate["metadata"]["uid"] != uid and is_ready(candidate)
                for candidate in pods
            )

        deadline = time.monotonic() + self.timeout
        while not following.wait(has_new, min(NODE_INTERVAL, max(0.0, deadline - time.monotonic()))):
            if not self._is_up(node):
                return
            if time.monotonic() >= deadline:
                # Other nodes would fail with these settings, too.
                raise AdaptorError(
                    f"After {self.timeout:g} s the new cloud-api-adaptor pod of node {node} is not Ready, so no "
                    f"other pod was replaced. {self.explain_written()} See oc logs -n {self.namespace} "
                    f"-l {self._selector()}; correct the settings, then run the task again.",
                    self.result(),
                )

    def _watch_roll(self, plan: Plan) -> None:
        """Wait until the operator has replaced every CAA pod."""
        nodes = sorted(map(node_of, plan.targets))
        self.replaced, self.lost = nodes, [pod for pods in self.affected.values() for pod in pods]

        def is_done() -> bool:
            daemon_set = self.daemon_set_now()
            return daemon_set is None or all(
                is_of_template(pod, daemon_set) and is_ready(pod) for pod in self.adaptor_pods()
            )

        if not self._until(is_done, self.timeout * max(1, len(nodes))):
            raise AdaptorError(
                "The operator replaces the cloud-api-adaptor pods, and not all of the new ones are Ready. "
                f"{self.explain_written()} See oc get pods -n {self.namespace} -l {self._selector()}.",
                self.result(),
            )

    def _restore_strategy(self) -> None:
        """Restore the user's strategy, unless the operator would then replace pods."""
        daemon_set = self.daemon_set_now()
        config_map = self.cluster.get(self.path("ConfigMap", PEER_PODS_CM))
        version = config_map and config_map["metadata"]["resourceVersion"]
        if daemon_set is not None and (
            # After the write, the operator would reconcile and set the newer version in the pod template.
            (self._rolls and template_version(daemon_set) != version)
            or not all(is_of_template(pod, daemon_set) for pod in self.adaptor_pods())
        ):
            self.module.log(f"caaUpdateStrategy stays {ON_DELETE}: not every pod is up to date")
            return
        self._write_strategy(self._requested_strategy)

    @property
    def _requested_strategy(self) -> str | None:
        return self.desired.gates.get(UPDATE_STRATEGY_KEY)

    def _write_strategy(self, requested: str | None) -> None:
        gates = self.cluster.get(self.path("ConfigMap", FEATURE_GATES))
        self.strategy["after"] = own_strategy(gates, requested)
        if gates is None:
            return
        written = self._write(gates, "ConfigMap", FEATURE_GATES, lambda now: restore_write(now, requested))
        key, value = PART_OF
        if (
            written is not None
            and (written["metadata"].get("labels") or {}).get(key) == value
            and not written.get("data")
        ):
            # This collection created it for the replacement only.
            self.cluster.delete(self.path("ConfigMap", FEATURE_GATES), written["metadata"]["resourceVersion"])

        # Results

    @property
    def stays_held(self) -> bool:
        """Whether caaUpdateStrategy is OnDelete instead of the value that the user has set."""
        return self.plan is not None and self.strategy["after"] == ON_DELETE != self.plan.strategy

    def explain_written(self) -> str:
        replaced = f" Replaced: the cloud-api-adaptor pods of {join_names(self.replaced)}." if self.replaced else ""
        if not self.written:
            return f"Nothing was written.{replaced}"
        note = (
            f" caaUpdateStrategy in {FEATURE_GATES} stays {ON_DELETE} until every pod is replaced."
            if self.stays_held
            else ""
        )
        return f"Written: {', '.join(self.written)}.{note}{replaced}"

    def warn_of_hold(self) -> None:
        if self.module.check_mode or not self.stays_held:
            return
        nodes = join_names(self.waiting or self.stale)
        self.module.warn(
            f"caaUpdateStrategy in {FEATURE_GATES} stays {ON_DELETE}, because the cloud-api-adaptor pods of "
            f"{nodes or 'some nodes'} have older settings. Run osc.peerpods.adaptor_config with resume=true to "
            "replace them and to restore it."
        )

    def result(self) -> dict:
        plan = self.plan
        replaces = bool(plan and plan.targets)
        daemon_set = self.daemon_set
        return {
            "changed": bool(self.written or self.replaced or self.cluster.writes),
            "written": self.written,
            "diff": self.diff,
            "adaptor": {
                "daemon_set": daemon_set and daemon_set["metadata"]["name"],
                "rolls": bool(self.operator and self.operator.rolls),
                "mode": plan.mode if plan else WRITE,
                "replaced": self.replaced,
                "waiting": self.waiting,
                "stale": [] if replaces else self.stale,
                "peer_pods": [pod for pods in self.affected.values() for pod in pods],
                "lost": self.lost,
                "strategy": self.strategy,
            },
        }
