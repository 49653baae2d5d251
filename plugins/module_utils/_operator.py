# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far the operator's installation is, and the nodes that the operator rolls (no I/O here).

Private to this collection. The Operator Lifecycle Manager (OLM) goes from a Subscription by an
InstallPlan to a ClusterServiceVersion (CSV); the operator from a KataConfig by a
MachineConfigPool to nodes that run kata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._words import in_words

# The operator's name in a catalog.
PACKAGE = "sandboxed-containers-operator"

OLM = "/apis/operators.coreos.com/v1alpha1"
OPERATOR_GROUPS = "/apis/operators.coreos.com/v1/namespaces/{}/operatorgroups"
KATA_CONFIGS = "/apis/kataconfiguration.openshift.io/v1/kataconfigs"
POOLS = "/apis/machineconfiguration.openshift.io/v1/machineconfigpools"
CREDENTIALS_REQUESTS = (
    "/apis/cloudcredential.openshift.io/v1/namespaces/openshift-cloud-credential-operator/credentialsrequests"
)

# The mark of what this collection has made itself.
PART_OF = ("app.kubernetes.io/part-of", "osc.peerpods")

# The label of the Secret that the operator makes of a CredentialsRequest.
REQUESTED = "kataconfiguration.openshift.io/credentials-request-based"

# What a PackageManifest says of a catalog that was reached only now may be old. Seconds.
PACKAGES_LAG = 20

# For so long after somebody wrote a Subscription, a condition that is older than that may be OLM's
# answer to what it was before. Seconds.
OLM_LAG = 30

# Of many nodes, so many are named.
NAMED_NODES = 5

# The number of pods that a message names.
NAMED_PODS = 20

# What to do when a wait ends before it is done, by what is waited for. The options are those of the role operator_install.
REMEDIES = {
    "catalog": (
        "Set operator_install_source and operator_install_source_namespace to a CatalogSource that offers the operator, and "
        "operator_install_channel to one of its channels. In a disconnected cluster this is the CatalogSource of the mirror. "
        "`oc get pods -n openshift-marketplace` lists the pods of the default catalogs."
    ),
    "operator": (
        "Check operator_install_channel and operator_install_source. OLM does not repeat a failed InstallPlan or "
        "ClusterServiceVersion: after fixing the cause, delete the Subscription, that InstallPlan and the "
        "ClusterServiceVersion. Then run the playbook again; it resumes from here."
    ),
    "nodes": (
        "See `oc describe machineconfigpool kata-oc`, and `oc get nodes` for the node that is not updated. Fix the cause, "
        "then run the playbook again; it resumes from here."
    ),
    "removal": (
        "See `oc describe machineconfigpool worker` and `oc get kataconfig -o yaml`. Fix the cause, then run the playbook "
        "again; it resumes from here."
    ),
    "pods": "Delete these pods, or the workloads that create them, then run the playbook again.",
}
APPROVAL_REMEDY = (
    "Set spec.approved of the InstallPlan to true, or request that version (operator_install_starting_csv, or "
    "operator_install_upgrade_to if another version is installed). Then run the playbook again; it resumes from here."
)


@dataclass(frozen=True)
class Progress:
    """Where something is on its way.

    `told` is the summary without what changes with time alone. `since` tells since when a node
    is worked on, as far as was seen. `remedy` replaces the general one of what is waited for.
    """

    summary: str
    told: str = ""
    done: bool = False
    problem: str = ""
    approve: bool = False
    remedy: str = ""
    since: Mapping[str, str] = field(default_factory=dict)


def version(csv: str) -> tuple[int, ...]:
    """The version in the name of a CSV, for comparison: `….v1.8.1` is (1, 8, 1)."""
    return tuple(map(int, re.findall(r"\d+", csv.partition(".v")[2])))


def is_ours(one: dict) -> bool:
    key, value = PART_OF
    return (one["metadata"].get("labels") or {}).get(key) == value


def describe_object(api_version: str, kind: str, one: dict) -> dict:
    metadata = one["metadata"]
    return {
        "api_version": api_version,
        "kind": kind,
        "name": metadata["name"],
        "namespace": metadata.get("namespace"),
        "labels": metadata.get("labels") or {},
        "ours": is_ours(one),
    }


def plan_teardown(objects: list[dict]) -> dict:
    """What a teardown removes, in this order, and what remains; `objects` as `describe_object` has them.

    A KataConfig that this collection did not create needs all of them.
    """
    kata_config = next(
        (entry["name"] for entry in objects if entry["kind"] == "KataConfig" and not entry["ours"]), None
    )
    if kata_config:
        return {
            "kata_config": kata_config,
            "label": [],
            "remove": [],
            "remain": [_reference(entry) for entry in objects],
        }
    subscribed = any(entry["kind"] == "Subscription" and entry["ours"] for entry in objects)
    # OLM created them for the Subscription.
    csvs = [entry for entry in objects if entry["kind"] == "ClusterServiceVersion" and subscribed]
    others = [entry for entry in objects if not entry["ours"] and entry not in csvs]
    # The operator's Secret is deleted with the CredentialsRequest that it was made of.
    remain = [entry for entry in others if REQUESTED not in entry["labels"]]
    kept_kinds = {"KataConfig", "Namespace"} if remain else {"KataConfig"}
    return {
        "kata_config": None,
        "label": csvs,
        "remove": [entry for entry in objects if entry not in others and entry["kind"] not in kept_kinds],
        "remain": [_reference(entry) for entry in remain],
    }


def _reference(entry: dict) -> str:
    return f"{entry['kind']}/{entry['name']}"


def pod_vm_image(settings: dict | None) -> dict:
    """The key of peer-pods-cm that holds the ID of the pod VM image, and the ID, empty if there is no image."""
    data = (settings or {}).get("data") or {}
    key = "AZURE_IMAGE_ID" if data.get("CLOUD_PROVIDER") == "azure" else "PODVM_AMI_ID"
    return {"key": key, "id": data.get(key, "")}


def describe_subscription(one: dict | None) -> dict | None:
    if one is None:
        return None
    spec, status = one["spec"], one.get("status") or {}
    return {
        "name": one["metadata"]["name"],
        "channel": spec.get("channel"),
        "source": spec["source"],
        "source_namespace": spec["sourceNamespace"],
        "approval": spec.get("installPlanApproval", "Automatic"),
        "installed_csv": status.get("installedCSV"),
        "current_csv": status.get("currentCSV"),
    }


def describe_plan(one: dict | None) -> dict | None:
    if one is None:
        return None
    return {
        "name": one["metadata"]["name"],
        "csvs": one["spec"]["clusterServiceVersionNames"],
        "approved": one["spec"]["approved"],
        "phase": (one.get("status") or {}).get("phase"),
    }


def describe_catalogs(manifests: Iterable[dict]) -> list[dict]:
    """Who offers the package, in which channels, which versions, the latest last."""
    return sorted(
        (
            {
                "name": status["catalogSource"],
                "namespace": status["catalogSourceNamespace"],
                "default_channel": status.get("defaultChannel"),
                "channels": [
                    {
                        "name": channel["name"],
                        "head": channel["currentCSV"],
                        # Before OLM told them (4.13 and older) there was the head alone.
                        "csvs": sorted((entry["name"] for entry in channel.get("entries") or []), key=version),
                    }
                    for channel in sorted(status["channels"], key=lambda channel: channel["name"])
                ],
            }
            for status in (manifest["status"] for manifest in manifests)
        ),
        key=lambda catalog: (catalog["namespace"], catalog["name"]),
    )


def plan_name(subscription: dict | None) -> str | None:
    """The InstallPlan that the Subscription refers to, by the newer of its two fields or the older."""
    status = (subscription or {}).get("status") or {}
    reference = status.get("installPlanRef") or status.get("installplan") or {}
    return reference.get("name")


def csv_names(subscription: dict | None) -> list[str]:
    """The CSV that is installed, and the one that OLM is about to put in its place."""
    status = (subscription or {}).get("status") or {}
    names = (status.get("installedCSV"), status.get("currentCSV"))
    return list(dict.fromkeys(name for name in names if name))


def upgrade(subscription: dict | None, catalogs: list[dict], to: str) -> dict:
    """Which CSV to come to from what is installed, by which others, and why that cannot be.

    `to` is a CSV's name, a version, or nothing for the latest of the Subscription's channel.
    """
    told = describe_subscription(subscription)
    if told is None or not told["installed_csv"]:
        return _no_upgrade(None, f"{PACKAGE} is not installed: there is nothing to upgrade.")
    installed, name = told["installed_csv"], told["channel"]
    source = f"{told['source_namespace']}/{told['source']}"
    channel = _channel(catalogs, source, name)
    if not to and channel is None:
        why = f"Nobody tells what channel {name} of CatalogSource {source} offers: name the version."
        return _no_upgrade(None, why)
    csv = to if to.startswith(f"{PACKAGE}.v") else f"{PACKAGE}.v{to}" if to else channel["head"]
    if csv == installed:
        return {"csv": csv, "path": [], "problem": ""}
    if version(csv) < version(installed):
        return _no_upgrade(csv, f"{installed} is installed, which is newer than {csv}: OLM does not go back.")
    if channel is None:
        return {"csv": csv, "path": [csv], "problem": ""}
    offered = channel["csvs"] or [channel["head"]]
    if csv not in offered:
        onward = ", ".join(one for one in offered if version(one) > version(installed))
        why = f"Channel {name} of CatalogSource {source} has no {csv}. From {installed} it leads to "
        return _no_upgrade(csv, f"{why}{onward or 'nothing newer'}.")
    if told["approval"] == "Automatic" and csv != channel["head"]:
        why = f"The Subscription's approval is Automatic: OLM goes on to {channel['head']} by itself"
        return _no_upgrade(csv, f"{why}, and does not stop at {csv}.")
    path = [one for one in offered if version(installed) < version(one) <= version(csv)]
    return {"csv": csv, "path": path, "problem": ""}


def _no_upgrade(csv: str | None, problem: str) -> dict:
    return {"csv": csv, "path": [], "problem": problem}


def _channel(catalogs: list[dict], source: str, name: str | None) -> dict | None:
    return next(
        (
            channel
            for catalog in catalogs
            if f"{catalog['namespace']}/{catalog['name']}" == source
            for channel in catalog["channels"]
            if channel["name"] == (name or catalog["default_channel"])
        ),
        None,
    )


def catalog(source: dict | None, catalogs: list[dict] | None, wanted: Mapping[str, str], now: datetime) -> Progress:
    """Whether the CatalogSource is reached and offers what is wanted.

    `wanted` has the catalog's namespace and name, and the channel and CSV where those are known.
    `catalogs` is None where nobody tells what they offer.
    """
    here = f"{wanted['namespace']}/{wanted['name']}"
    if source is None:
        return Progress("", problem=f"There is no CatalogSource {here}. {_offers(catalogs)}")
    state = (source.get("status") or {}).get("connectionState") or {}
    observed = state.get("lastObservedState")
    if observed != "READY":
        told = f"CatalogSource {here} is {observed or 'not looked at yet'}, not READY"
        return Progress(told, told)
    told = f"CatalogSource {here} is READY"
    problem = "" if catalogs is None else _not_offered(here, catalogs, wanted)
    connected = _time(state.get("lastConnect"))
    if problem and connected and (now - connected).total_seconds() < PACKAGES_LAG:
        return Progress(told, told)
    return Progress(told, told, done=not problem, problem=problem)


def _offers(catalogs: list[dict] | None) -> str:
    if not catalogs:
        return f"No catalog is known to offer {PACKAGE}."
    each = (
        f"{catalog['namespace']}/{catalog['name']} "
        f"(channels {', '.join(channel['name'] for channel in catalog['channels'])})"
        for catalog in catalogs
    )
    return f"{PACKAGE} is offered by {' and '.join(each)}."


def _not_offered(here: str, catalogs: list[dict], wanted: Mapping[str, str]) -> str:
    mine = [one for one in catalogs if f"{one['namespace']}/{one['name']}" == here]
    if not mine:
        return f"CatalogSource {here} does not offer {PACKAGE}. {_offers(catalogs)}"
    if not wanted.get("channel"):
        return ""
    channels = {channel["name"]: channel for channel in mine[0]["channels"]}
    channel = channels.get(wanted["channel"])
    if channel is None:
        return f"CatalogSource {here} has no channel {wanted['channel']} of {PACKAGE}, but {', '.join(channels)}."
    csv = wanted.get("csv")
    if csv and channel["csvs"] and csv not in channel["csvs"]:
        return f"Channel {wanted['channel']} of CatalogSource {here} has no {csv}, but {', '.join(channel['csvs'])}."
    return ""


def installation(
    subscription: dict | None,
    source: dict | None,
    plan: dict | None,
    csvs: Mapping[str, dict],
    wanted: str,
    now: datetime,
) -> Progress:
    """How far OLM is on its way to `wanted`, or to any version where that is empty.

    `csvs` are those of `csv_names`, and what they replace, that exist.
    """
    if subscription is None:
        return Progress("", problem=f"There is no Subscription of {PACKAGE}.")
    status = subscription.get("status") or {}
    installed = status.get("installedCSV")
    there = _phase(csvs.get(installed)) == "Succeeded"
    waits = bool(plan) and not plan["spec"]["approved"]
    moving = status.get("currentCSV") not in (None, installed) and not waits
    replaces = {(csv.get("spec") or {}).get("replaces") for csv in csvs.values()}
    moving = moving or bool(replaces & csvs.keys())
    told = "; ".join(filter(None, (_plan_line(plan), *map(_csv_line, csvs.values()))))
    told = told or "; ".join(["OLM has not planned anything yet", *_said(status)])
    if there and not moving and wanted in ("", installed):
        return Progress(told, told, done=True)
    problem, remedy = _failure(subscription, source, plan, csvs, now), ""
    approve = False
    if not problem and wanted and there and version(installed) > version(wanted):
        problem = f"{installed} is installed, which is newer than {wanted}: OLM does not go back."
    elif not problem and waits:
        approve, why = _approval(plan, installed if there else None, wanted)
        problem = why if _is_answer(subscription, plan["metadata"].get("creationTimestamp"), now) else ""
        remedy = APPROVAL_REMEDY if problem else ""
    elif not problem and there and not moving and status.get("state") == "AtLatestKnown":
        problem = f"Channel {subscription['spec'].get('channel')} leads no further than {installed}."
    return Progress(told, told, problem=problem, approve=approve, remedy=remedy)


def _approval(plan: dict, installed: str | None, wanted: str) -> tuple[bool, str]:
    """Whether to approve an InstallPlan that waits for it, or why not."""
    names = plan["spec"]["clusterServiceVersionNames"]
    what = f"InstallPlan {plan['metadata']['name']} waits for approval. It installs {', '.join(names)}"
    if not wanted:
        return False, f"{what}, and no version was asked for."
    if names == [wanted]:
        return True, ""
    on_the_way = (
        installed is not None
        and len(names) == 1
        and names[0].startswith(f"{PACKAGE}.")
        and version(installed) < version(names[0]) < version(wanted)
    )
    return on_the_way, "" if on_the_way else f"{what}, while {wanted} alone was asked for."


def _failure(
    subscription: dict,
    source: dict | None,
    plan: dict | None,
    csvs: Mapping[str, dict],
    now: datetime,
) -> str:
    """What OLM says went wrong and will not mend by itself, or nothing."""
    if source is None:
        where = subscription["spec"]
        return f"CatalogSource {where['sourceNamespace']}/{where['source']} is gone."
    for condition in (subscription.get("status") or {}).get("conditions") or []:
        kind, reason = condition["type"], condition.get("reason")
        lasting = kind == "BundleUnpackFailed" or (
            # For any other reason OLM tries again, such as a catalog that restarts.
            kind == "ResolutionFailed" and reason == "ConstraintsNotSatisfiable"
        )
        since = condition.get("lastTransitionTime")
        if lasting and condition["status"] == "True" and _is_answer(subscription, since, now):
            return f"OLM says {kind}: {condition.get('message') or reason}."
    planned = (plan or {}).get("status") or {}
    if plan and planned.get("phase") == "Failed":
        why = _messages(planned.get("conditions"), "False") or planned.get("message")
        if _is_answer(subscription, plan["metadata"].get("creationTimestamp"), now):
            return f"InstallPlan {plan['metadata']['name']} failed: {why}."
    for name, csv in csvs.items():
        if _phase(csv) == "Failed":
            why = csv["status"]
            return f"ClusterServiceVersion {name} failed: {why.get('reason')}, {why.get('message')}."
    return ""


def _is_answer(subscription: dict, time: str | None, now: datetime) -> bool:
    """Whether what OLM said at `time` is of the Subscription as it is now."""
    entries = subscription["metadata"].get("managedFields") or []
    written = max(
        filter(None, (_time(entry.get("time")) for entry in entries if not entry.get("subresource"))),
        default=None,
    )
    said = _time(time)
    if written is None or said is None or said >= written:
        return True
    return (now - written).total_seconds() >= OLM_LAG


def _said(status: dict) -> list[str]:
    return [
        f"{condition['type']}: {condition.get('message') or condition.get('reason')}"
        for condition in status.get("conditions") or []
        if condition["status"] == "True"
    ]


def _messages(conditions: list[dict] | None, status: str, *types: str) -> str:
    return ", ".join(
        condition.get("message") or condition.get("reason") or ""
        for condition in conditions or []
        if condition.get("status") == status
        and (not types or condition["type"] in types)
        and (condition.get("message") or condition.get("reason"))
    )


def _phase(csv: dict | None) -> str | None:
    return ((csv or {}).get("status") or {}).get("phase")


def _plan_line(plan: dict | None) -> str:
    if plan is None or (plan.get("status") or {}).get("phase") == "Complete":
        return ""
    names = ", ".join(plan["spec"]["clusterServiceVersionNames"])
    phase = (plan.get("status") or {}).get("phase") or "new"
    return f"InstallPlan {plan['metadata']['name']} ({names}) is {phase}"


def _csv_line(csv: dict) -> str:
    status = csv.get("status") or {}
    phase = status.get("phase") or "new"
    # In its last phase, nothing is left to say.
    why = "" if phase == "Succeeded" else status.get("message") or status.get("reason") or ""
    return f"{csv['metadata']['name']} is {phase}" + (f" ({why})" if why else "")


def roll(
    kata: dict | None,
    pools: Mapping[str, dict],
    runtime_class: str,
    since: Mapping[str, str],
    now: datetime,
) -> Progress:
    """How many nodes run kata, and whether the operator has made the RuntimeClass of peer pods.

    `since` is that of the Progress before this one.
    """
    if kata is None:
        return Progress("", problem="There is no KataConfig.")
    status = kata.get("status") or {}
    nodes = status.get("kataNodes") or {}
    count, ready = nodes.get("nodeCount", 0), nodes.get("readyNodeCount", 0)
    condition = _in_progress(status)
    pool = pools.get("kata-oc") or _updating(pools)
    done = (
        # Only a KataConfig that has made the peer pods' RuntimeClass has seen enablePeerPods.
        runtime_class in (status.get("runtimeClasses") or [])
        and condition.get("status") == "False"
        and "kataNodes" in status
        and ready == count
    )
    problem = "The KataConfig selects no node." if done and not count else ""
    progress = _nodes_line(
        f"{ready} of {count} nodes run kata",
        nodes.get("installing"),
        nodes.get("waitingToInstall"),
        condition,
        pool,
        since,
        now,
    )
    return _judged(progress, done and not problem, problem or _stuck(condition, pool, done))


def removal(kata: dict | None, pools: Mapping[str, dict], since: Mapping[str, str], now: datetime) -> Progress:
    """How many nodes have let go of kata, once a KataConfig is deleted."""
    if kata is None:
        return Progress("the KataConfig is gone", "the KataConfig is gone", done=True)
    status = kata.get("status") or {}
    nodes = status.get("kataNodes") or {}
    condition = _in_progress(status)
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
        return _judged(progress, False, f"The operator waits: {condition.get('message')}.")
    return _judged(progress, False, _stuck(condition, pool, False))


def ending(pods: list[str]) -> Progress:
    """How many pods have not ended yet."""
    if not pods:
        return Progress("no such pod runs", "no such pod runs", done=True)
    summary = f"{len(pods)} running: {in_words(pods, NAMED_PODS)}"
    return Progress(summary, summary)


# What a cluster looks like between the operator's two generations.
MIGRATED = "migrated"
PENDING = "pending"
LIMIT_MISSING = "limit_missing"
DOWNGRADED = "downgraded"
TWO_ADAPTORS = "two_adaptors"

# The PeerPodConfig that the operator made up to 1.8, and that 1.9 and newer migrate and delete (migrate.go in
# openshift/sandboxed-containers-operator, pull request 533).
MIGRATED_CONFIG = "peerpodconfig-openshift"


def migration_state(
    *,
    is_second: bool,
    daemon_set: str | None,
    configs: Iterable[str] | None,
    limit: str | None,
    has_settings: bool,
    older_daemon_set_of: str | None = None,
) -> dict:
    """Where a cluster is between the two generations, with a sentence where a person has to know.

    `is_second` tells the generation of the installed operator, `daemon_set` the name of the DaemonSet of
    cloud-api-adaptor, `configs` the names of the PeerPodConfigs (None where the API server serves none), `limit`
    PEERPODS_LIMIT_PER_NODE as written, `has_settings` whether peer-pods-cm exists, `older_daemon_set_of` the
    PeerPodConfig that still owns the DaemonSet of an operator older than 1.9.
    """
    names = sorted(configs or ())
    pools = [name for name in names if name != MIGRATED_CONFIG]
    if not is_second:
        if daemon_set != "osc-caa-ds":
            return _state("", pools=names)
        return _state(
            DOWNGRADED,
            f"The installed operator is older than 1.9, and the DaemonSet {daemon_set} of a newer operator is still "
            "in the cluster. Each node would run two cloud-api-adaptor pods.",
            f"Upgrade the operator to 1.9 or newer, or delete the DaemonSet {daemon_set} when no peer pod runs.",
            names,
        )
    if configs is None:
        return _state("", pools=[])
    if MIGRATED_CONFIG in names:
        return _state(
            PENDING,
            f"The PeerPodConfig {MIGRATED_CONFIG} of an operator older than 1.9 still exists. The installed operator "
            "moves its limit to peer-pods-cm and deletes it the next time it reconciles the KataConfig.",
            "Check that a KataConfig exists, and see the log of the operator's Deployment controller-manager.",
            pools,
        )
    if older_daemon_set_of is not None:
        return _state(TWO_ADAPTORS, *explain_two_adaptors(older_daemon_set_of), pools)
    if limit is None and has_settings:
        return _state(
            LIMIT_MISSING,
            "The CustomResourceDefinition of PeerPodConfigs was left by an operator older than 1.9, and peer-pods-cm "
            "has no PEERPODS_LIMIT_PER_NODE. If a limit was set before the upgrade, it was not moved, and "
            "cloud-api-adaptor advertises 10, unless the node capacity agent enforces another limit.",
            "Read the limit with osc.peerpods.limit. Set it if it is wrong.",
            pools,
        )
    return _state(MIGRATED, pools=pools)


def explain_two_adaptors(config: str) -> tuple[str, str]:
    """What is wrong where a PeerPodConfig keeps the DaemonSet of an older operator, and what to do."""
    message = (
        "The DaemonSet peerpodconfig-ctrl-caa-daemon of an operator older than 1.9 is still in the cluster, because the "
        f"PeerPodConfig {config} owns it. Nodes that it selects run two cloud-api-adaptor pods."
    )
    remedy = (
        f"If the node capacity agent is deployed, set the limit of the pool {config} with osc.peerpods.peerpod_limit, which "
        "stores it in peerpods-limits; without the agent, its nodes get the limit of peer-pods-cm. Then, when no peer pod "
        f"runs on its nodes, delete the PeerPodConfig {config}: the DaemonSet goes with it."
    )
    return message, remedy


def _state(state: str, message: str = "", remedy: str = "", pools: list[str] | None = None) -> dict:
    return {"state": state, "message": message, "remedy": remedy, "pools": pools or []}


def _judged(progress: Progress, done: bool, problem: str) -> Progress:
    return Progress(progress.summary, progress.told, done, problem, since=progress.since)


def _stuck(condition: dict, pool: dict | None, done: bool) -> str:
    """Why the roll goes no further, where the machine config operator says so."""
    if done:
        return ""
    if condition.get("reason") == "Failed":
        return f"The KataConfig says: {condition.get('message')}."
    if pool is None:
        return ""
    name, conditions = pool["metadata"]["name"], (pool.get("status") or {}).get("conditions")
    degraded = _messages(conditions, "True", "NodeDegraded", "RenderDegraded", "Degraded")
    if degraded or (pool.get("status") or {}).get("degradedMachineCount"):
        return f"MachineConfigPool {name} is degraded: {degraded or 'it does not say why'}."
    if (pool.get("spec") or {}).get("paused"):
        return f"MachineConfigPool {name} is paused: no node is rolled until spec.paused is false."
    return ""


def _in_progress(status: dict) -> dict:
    conditions = status.get("conditions") or []
    return next((one for one in conditions if one["type"] == "InProgress"), {})


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
) -> Progress:
    working = working or []
    seen = {node: since.get(node) or _text(now) for node in working}
    told, summary = [head], [head]
    if working:
        told.append(f"working on {_names(working)}")
        summary.append(f"working on {_names(working, seen, now)}")
    parts = [f"{len(waiting)} waiting"] if waiting else []
    if condition.get("status") == "True" and condition.get("message") and not working:
        parts.append(condition["message"])
    told += parts
    summary += parts
    status = (pool or {}).get("status") or {}
    if pool and status.get("machineCount"):
        line = (
            f"MachineConfigPool {pool['metadata']['name']}: {status.get('updatedMachineCount', 0)} of "
            f"{status['machineCount']} updated"
        )
        told.append(line)
        summary.append(line + _rolling_for(status, now))
    return Progress("; ".join(summary), "; ".join(told), since=seen)


def _rolling_for(pool_status: dict, now: datetime) -> str:
    for condition in pool_status.get("conditions") or []:
        began = _time(condition.get("lastTransitionTime"))
        if condition["type"] == "Updating" and condition["status"] == "True" and began:
            return f", {_ago(began, now)}"
    return ""


def _names(nodes: list[str], since: Mapping[str, str] | None = None, now: datetime | None = None) -> str:
    def one(node: str) -> str:
        began = _time((since or {}).get(node))
        return f"{node} ({_ago(began, now)})" if began and now else node

    return in_words([one(node) for node in nodes], NAMED_NODES)


def _ago(began: datetime, now: datetime) -> str:
    seconds = max(0, int((now - began).total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"for {hours} h {minutes % 60} min"
    return f"for {minutes} min" if minutes else f"for {seconds} s"


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
