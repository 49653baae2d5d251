# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The progress of the operator's rollout of nodes (no I/O here).

For a KataConfig, the operator creates a MachineConfigPool, whose nodes then run kata; without separate workers it uses
that of the control plane. With deploymentMode=DaemonSet, and where no MachineConfigPools are served, the pods of a
DaemonSet install kata instead (controllers/daemonset_reconcile.go of openshift/sandboxed-containers-operator). They
report the state of their node in a label (scripts/kata-install/osc-kata-install.sh).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_job import (
    FAILED,
    IMAGE_REMEDY,
    ImageJob,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import (
    Progress,
    condition_messages,
    elapsed,
    parse_time,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

DELETION_REMEDY = (
    "Restore it: the operator then continues by itself. Run the playbook again to wait for it. To keep the image, "
    "remove its ID from peer-pods-cm."
)

# The number of nodes and pods that a message names.
NAMED_NODES = 5
NAMED_PODS = 20

# The label of nodes with the state of an installation by a DaemonSet, and the state in which the operator waits for a
# reboot that nothing starts.
INSTALL_STATE_LABEL = "kataconfiguration.openshift.io/kata-ds-rpm-install"
WAITS_FOR_REBOOT = "waiting_for_reboot"

DAEMON_SET_REMEDY = (
    "A DaemonSet of the operator changes the nodes: see `oc get pods -n openshift-sandboxed-containers-operator -o "
    "wide` for its pods osc-rpm-…, and their logs. Fix the cause, then run the playbook again; it resumes from here."
)


def check_rollout(
    kata: dict | None,
    pools: Mapping[str, dict] | None,
    runtime_class: str,
    since: Mapping[str, str],
    now: datetime,
    states: Mapping[str, str] | None = None,
    image: ImageJob | None = None,
    image_is_requested: bool = False,
) -> Progress:
    """How many nodes run kata, whether the operator has created the RuntimeClass of peer pods, and whether it has an
    image for their VMs.

    `since` is that of the previous Progress. `pools` are None if they are not served; `states` are those of
    INSTALL_STATE_LABEL by node. `image` is None before all nodes run kata, and where the operator needs no image. With
    `image_is_requested`, the operator has completed an earlier run without an image, and begins again.
    """
    if kata is None:
        return Progress("", problem="There is no KataConfig.")
    status = kata.get("status") or {}
    nodes = status.get("kataNodes") or {}
    count, ready = nodes.get("nodeCount", 0), nodes.get("readyNodeCount", 0)
    condition = _in_progress(status)
    is_daemon_set = pools is None or bool(states)
    pools = {} if is_daemon_set else pools or {}
    pool = pools.get("kata-oc") or _updating(pools)
    is_applied = (
        # The operator has applied enablePeerPods only after it has created the RuntimeClass of peer pods.
        runtime_class in (status.get("runtimeClasses") or [])
        and condition.get("status") == "False"
        and "kataNodes" in status
        and ready == count
    )
    done = is_applied and (image is None or bool(image.image))
    problem = "The KataConfig selects no node." if is_applied and not count else ""
    remedy = ""
    if not problem and image and not image.image:
        problem = image.failure or _lacks_image(is_applied, image, image_is_requested)
        remedy = IMAGE_REMEDY if problem else ""
    progress = _nodes_line(
        f"{ready} of {count} nodes run kata",
        nodes.get("installing"),
        nodes.get("waitingToInstall"),
        condition,
        pool,
        since,
        now,
        image,
    )
    stuck = _stuck(condition, pool, is_applied) or _needs_reboot(states, is_applied)
    if stuck or not remedy:
        remedy = DAEMON_SET_REMEDY if is_daemon_set else ""
    return _with_outcome(progress, done and not problem, stuck or problem, remedy)


def _lacks_image(is_applied: bool, image: ImageJob, is_requested: bool) -> str:
    """A sentence if the operator has completed its work without an image, and without a job that is left."""
    if not is_applied or image.is_active or is_requested:
        return ""
    return (
        f"The operator has completed the installation without an image of the pod VMs, and without it no peer pod "
        f"starts: {image.summary}."
    )


def check_removal(
    kata: dict | None,
    pools: Mapping[str, dict] | None,
    since: Mapping[str, str],
    now: datetime,
    states: Mapping[str, str] | None = None,
    missing: str = "",
) -> Progress:
    """How many nodes no longer run kata, after a KataConfig was deleted.

    `missing` is what the operator needs to delete the image of the pod VMs and does not have.
    """
    if kata is None:
        return Progress("the KataConfig is gone", "the KataConfig is gone", done=True)
    status = kata.get("status") or {}
    nodes = status.get("kataNodes") or {}
    condition = _in_progress(status)
    is_daemon_set = pools is None or bool(states)
    pools = {} if is_daemon_set else pools or {}
    pool = _updating(pools) or pools.get("worker")
    left = sum(
        len(nodes.get(key) or []) for key in ("installed", "uninstalling", "waitingToUninstall", "failedToUninstall")
    )
    progress = _nodes_line(
        f"nodes that still have kata: {left}",
        nodes.get("uninstalling"),
        nodes.get("waitingToUninstall"),
        condition,
        pool,
        since,
        now,
    )
    if condition.get("reason") == "BlockedByExistingKataPods":
        return _with_outcome(progress, False, f"The operator waits: {condition.get('message')}.")
    # The reason alone may be temporary: the operator sets it for a job that has just begun, too.
    if condition.get("reason") == FAILED and missing:
        problem = f"The operator needs {missing} to delete the image of the pod VMs, and waits for it."
        return _with_outcome(progress, False, problem, DELETION_REMEDY)
    problem = _stuck(condition, pool, False) or _needs_reboot(states, False)
    return _with_outcome(progress, False, problem, DAEMON_SET_REMEDY if is_daemon_set else "")


def needs_image(kata: dict | None) -> bool:
    """Whether the operator creates the image of the pod VMs now, or should have done so."""
    if not ((kata or {}).get("spec") or {}).get("enablePeerPods"):
        return False
    nodes = ((kata or {}).get("status") or {}).get("kataNodes") or {}
    return 0 < nodes.get("nodeCount", 0) == nodes.get("readyNodeCount", 0)


def lacks_image_settings(kata: dict | None) -> bool:
    """Whether the operator reports that it cannot delete the image, which may be temporary."""
    return _in_progress((kata or {}).get("status") or {}).get("reason") == FAILED


def check_pods_ended(pods: list[str]) -> Progress:
    """How many pods have not ended yet."""
    if not pods:
        return Progress("no pod is running", "no pod is running", done=True)
    summary = f"{len(pods)} running: {join_names(pods, NAMED_PODS)}"
    return Progress(summary, summary)


def _with_outcome(progress: Progress, done: bool, problem: str, remedy: str = "") -> Progress:
    return Progress(progress.summary, progress.status, done, problem, remedy=remedy, since=progress.since)


def _stuck(condition: dict, pool: dict | None, done: bool) -> str:
    """The reason that the machine config operator reports for a rollout that does not continue."""
    if done:
        return ""
    if condition.get("reason") == "Failed":
        return f"The KataConfig reports: {condition.get('message')}."
    return "" if pool is None else pool_problem(pool)


def _needs_reboot(states: Mapping[str, str] | None, done: bool) -> str:
    """The nodes that an administrator must reboot, if no other node is worked on."""
    waiting = sorted(node for node, state in (states or {}).items() if state == WAITS_FOR_REBOOT)
    if done or not waiting or any(state in ("installing", "uninstalling") for state in (states or {}).values()):
        return ""
    return (
        f"A change of the packages of kata takes effect at the next boot of {join_names(waiting, NAMED_NODES)}, and "
        "the operator does not reboot nodes without MachineConfigs. Reboot or replace them, one after the other."
    )


def describe_pool(pool: dict) -> dict:
    """What else is decided about a MachineConfigPool needs."""
    status = pool.get("status") or {}
    return {
        "name": pool["metadata"]["name"],
        "machines": status.get("machineCount") or 0,
        "updated": status.get("updatedMachineCount") or 0,
        "paused": bool((pool.get("spec") or {}).get("paused")),
        "updating": _updating({"": pool}) is not None,
        "problem": pool_problem(pool),
    }


def pool_problem(pool: dict) -> str:
    """Why the machine config operator rolls no further node of the pool, empty if it does."""
    name, conditions = pool["metadata"]["name"], (pool.get("status") or {}).get("conditions")
    degraded = condition_messages(conditions, "True", "NodeDegraded", "RenderDegraded", "Degraded")
    if degraded or (pool.get("status") or {}).get("degradedMachineCount"):
        return f"MachineConfigPool {name} is degraded: {degraded or 'no reason is reported'}."
    if (pool.get("spec") or {}).get("paused"):
        return f"MachineConfigPool {name} is paused: no node is rolled until spec.paused is false."
    return ""


def _in_progress(status: dict) -> dict:
    conditions = status.get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "InProgress"), {})


def _updating(pools: Mapping[str, dict]) -> dict | None:
    return next(
        (
            pool
            for pool in pools.values()
            for condition in (pool.get("status") or {}).get("conditions") or []
            if condition["type"] == "Updating" and condition["status"] == "True"
        ),
        None,
    )


def _nodes_line(
    head: str,
    working: list[str] | None,
    waiting: list[str] | None,
    condition: dict,
    pool: dict | None,
    since: Mapping[str, str],
    now: datetime,
    image: ImageJob | None = None,
) -> Progress:
    working = working or []
    working_since = {node: since.get(node) or _text(now) for node in working}
    steady, summary = [head], [head]
    if working:
        steady.append(f"working on {_names(working)}")
        summary.append(f"working on {_names(working, working_since, now)}")
    parts = [f"{len(waiting)} waiting"] if waiting else []
    if condition.get("status") == "True" and condition.get("message") and not working and image is None:
        parts.append(condition["message"])
    steady += parts
    summary += parts
    if image and image.status:
        steady.append(image.status)
        summary.append(image.summary)
    status = (pool or {}).get("status") or {}
    if pool and status.get("machineCount"):
        line = (
            f"MachineConfigPool {pool['metadata']['name']}: {status.get('updatedMachineCount', 0)} of "
            f"{status['machineCount']} updated"
        )
        steady.append(line)
        summary.append(line + _rolling_for(status, now))
    return Progress("; ".join(summary), "; ".join(steady), since=working_since)


def _rolling_for(pool_status: dict, now: datetime) -> str:
    for condition in pool_status.get("conditions") or []:
        began = parse_time(condition.get("lastTransitionTime"))
        if condition["type"] == "Updating" and condition["status"] == "True" and began:
            return f", {elapsed(began, now)}"
    return ""


def _names(nodes: list[str], since: Mapping[str, str] | None = None, now: datetime | None = None) -> str:
    def describe(node: str) -> str:
        began = parse_time((since or {}).get(node))
        return f"{node} ({elapsed(began, now)})" if began and now else node

    return join_names([describe(node) for node in nodes], NAMED_NODES)


def _text(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
