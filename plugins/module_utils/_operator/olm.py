# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The progress of the operator's installation (no I/O here).

For a Subscription, the Operator Lifecycle Manager (OLM) creates an InstallPlan, which creates a ClusterServiceVersion
(CSV).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import (
    APPROVAL_REMEDY,
    Progress,
    condition_messages,
    parse_time,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    PACKAGE,
    PART_OF,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import is_made_by_operator

# For how many seconds after OLM connected to a catalog its PackageManifests may be outdated.
PACKAGES_LAG = 20

# For how many seconds after a write to a Subscription an older condition may refer to its previous content.
OLM_LAG = 30


def is_managed(object_: dict) -> bool:
    key, value = PART_OF
    return (object_["metadata"].get("labels") or {}).get(key) == value


def describe_object(api_version: str, kind: str, object_: dict) -> dict:
    metadata = object_["metadata"]
    return {
        "api_version": api_version,
        "kind": kind,
        "name": metadata["name"],
        "namespace": metadata.get("namespace"),
        "uid": metadata.get("uid"),
        "labels": metadata.get("labels") or {},
        "managed": is_managed(object_),
        "of_operator": is_made_by_operator(kind, metadata),
        "is_deleted": "deletionTimestamp" in metadata,
        "content": _content(kind, object_),
    }


def _content(kind: str, object_: dict) -> dict | None:
    """The settings that an object has: of a Secret only the names of its keys that have a value."""
    if kind in ("KataConfig", "Subscription"):
        return object_.get("spec") or {}
    if kind == "ConfigMap":
        return object_.get("data") or {}
    return {key: None for key, value in (object_.get("data") or {}).items() if value} if kind == "Secret" else None


def describe_subscription(subscription: dict | None) -> dict | None:
    if subscription is None:
        return None
    spec, status = subscription["spec"], subscription.get("status") or {}
    return {
        "name": subscription["metadata"]["name"],
        "channel": spec.get("channel"),
        "source": spec["source"],
        "source_namespace": spec["sourceNamespace"],
        "approval": spec.get("installPlanApproval", "Automatic"),
        "installed_csv": status.get("installedCSV"),
        "current_csv": status.get("currentCSV"),
    }


def describe_plan(plan: dict | None) -> dict | None:
    if plan is None:
        return None
    return {
        "name": plan["metadata"]["name"],
        "csvs": plan["spec"]["clusterServiceVersionNames"],
        "approved": plan["spec"]["approved"],
        "phase": (plan.get("status") or {}).get("phase"),
    }


def describe_catalogs(manifests: Iterable[dict]) -> list[dict]:
    """The catalogs that offer the package, with their channels and versions, the latest version last."""
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
                        # OLM of OpenShift 4.13 and older returns no entries, only the head.
                        "csvs": sorted((entry["name"] for entry in channel.get("entries") or []), key=csv_version),
                    }
                    for channel in sorted(status["channels"], key=lambda channel: channel["name"])
                ],
            }
            for status in (manifest["status"] for manifest in manifests)
        ),
        key=lambda catalog: (catalog["namespace"], catalog["name"]),
    )


def plan_name(subscription: dict | None) -> str | None:
    """The name of the InstallPlan of the Subscription, from the newer of its two fields, else from the older."""
    status = (subscription or {}).get("status") or {}
    reference = status.get("installPlanRef") or status.get("installplan") or {}
    return reference.get("name")


def csv_names(subscription: dict | None) -> list[str]:
    """The installed CSV, and the CSV that OLM is about to install instead."""
    status = (subscription or {}).get("status") or {}
    names = (status.get("installedCSV"), status.get("currentCSV"))
    return list(dict.fromkeys(name for name in names if name))


def plan_upgrade(subscription: dict | None, catalogs: list[dict], to: str) -> dict:
    """The CSV to upgrade to, the path of CSVs from the installed one, and the problem that prevents the upgrade.

    `to` is the name of a CSV, a version, or empty for the latest of the Subscription's channel.
    """
    described = describe_subscription(subscription)
    if described is None or not described["installed_csv"]:
        return _no_upgrade(None, f"{PACKAGE} is not installed: there is nothing to upgrade.")
    installed, name = described["installed_csv"], described["channel"]
    source = f"{described['source_namespace']}/{described['source']}"
    channel = _channel(catalogs, source, name)
    if not to and channel is None:
        why = f"The versions in channel {name} of CatalogSource {source} are unknown. Set the version to upgrade to."
        return _no_upgrade(None, why)
    csv = to if to.startswith(f"{PACKAGE}.v") else f"{PACKAGE}.v{to}"
    if not to and channel is not None:
        csv = channel["head"]
    if csv == installed:
        return {"csv": csv, "path": [], "problem": ""}
    if csv_version(csv) < csv_version(installed):
        return _no_upgrade(
            csv, f"{installed} is installed, which is newer than {csv}: OLM does not downgrade operators."
        )
    if channel is None:
        return {"csv": csv, "path": [csv], "problem": ""}
    offered = channel["csvs"] or [channel["head"]]
    if csv not in offered:
        onward = ", ".join(version for version in offered if csv_version(version) > csv_version(installed))
        why = f"Channel {name} of CatalogSource {source} has no {csv}. From {installed} it leads to "
        return _no_upgrade(csv, f"{why}{onward or 'nothing newer'}.")
    if described["approval"] == "Automatic" and csv != channel["head"]:
        why = f"The Subscription's approval is Automatic: OLM upgrades to {channel['head']} by itself"
        return _no_upgrade(csv, f"{why}, and does not stop at {csv}.")
    path = [version for version in offered if csv_version(installed) < csv_version(version) <= csv_version(csv)]
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


def check_catalog(
    source: dict | None, catalogs: list[dict] | None, requested: Mapping[str, str], now: datetime
) -> Progress:
    """Whether the CatalogSource is ready and offers the requested channel and CSV.

    `requested` has the namespace and name of the catalog, and the channel and CSV if these are known.
    `catalogs` is None if the cluster does not serve PackageManifests.
    """
    name = f"{requested['namespace']}/{requested['name']}"
    if source is None:
        return Progress("", problem=f"There is no CatalogSource {name}. {_offers(catalogs)}")
    state = (source.get("status") or {}).get("connectionState") or {}
    observed = state.get("lastObservedState")
    if observed != "READY":
        summary = f"CatalogSource {name} is {observed or 'not observed yet'}, not READY"
        return Progress(summary, summary)
    summary = f"CatalogSource {name} is READY"
    problem = "" if catalogs is None else _not_offered(name, catalogs, requested)
    connected = parse_time(state.get("lastConnect"))
    if problem and connected and (now - connected).total_seconds() < PACKAGES_LAG:
        return Progress(summary, summary)
    return Progress(summary, summary, done=not problem, problem=problem)


def _offers(catalogs: list[dict] | None) -> str:
    if not catalogs:
        return f"No catalog is known to offer {PACKAGE}."
    descriptions = (
        f"{catalog['namespace']}/{catalog['name']} "
        f"(channels {', '.join(channel['name'] for channel in catalog['channels'])})"
        for catalog in catalogs
    )
    return f"{PACKAGE} is offered by {' and '.join(descriptions)}."


def _not_offered(name: str, catalogs: list[dict], requested: Mapping[str, str]) -> str:
    matching = [catalog for catalog in catalogs if f"{catalog['namespace']}/{catalog['name']}" == name]
    if not matching:
        return f"CatalogSource {name} does not offer {PACKAGE}. {_offers(catalogs)}"
    if not requested.get("channel"):
        return ""
    channels = {channel["name"]: channel for channel in matching[0]["channels"]}
    channel = channels.get(requested["channel"])
    if channel is None:
        return f"CatalogSource {name} has no channel {requested['channel']} of {PACKAGE}, but {', '.join(channels)}."
    csv = requested.get("csv")
    if csv and channel["csvs"] and csv not in channel["csvs"]:
        return f"Channel {requested['channel']} of CatalogSource {name} has no {csv}, but {', '.join(channel['csvs'])}."
    return ""


def check_installation(
    subscription: dict | None,
    source: dict | None,
    plan: dict | None,
    csvs: Mapping[str, dict],
    requested: str,
    now: datetime,
) -> Progress:
    """The progress of OLM towards the version `requested`, or towards any version if that is empty.

    `csvs` are the existing CSVs of `csv_names`, and the CSVs that they replace.
    """
    if subscription is None:
        return Progress("", problem=f"There is no Subscription of {PACKAGE}.")
    status = subscription.get("status") or {}
    installed = status.get("installedCSV", "")
    is_installed = _phase(csvs.get(installed)) == "Succeeded"
    waits = plan is not None and not plan["spec"]["approved"]
    moving = status.get("currentCSV", "") not in ("", installed) and not waits
    replaces = {(csv.get("spec") or {}).get("replaces") for csv in csvs.values()}
    moving = moving or bool(replaces & csvs.keys())
    summary = "; ".join(filter(None, (_plan_line(plan), *map(_csv_line, csvs.values()))))
    summary = summary or "; ".join(["OLM has not planned anything yet", *_condition_lines(status)])
    if is_installed and not moving and requested in ("", installed):
        return Progress(summary, summary, done=True)
    problem, remedy = _failure(subscription, source, plan, csvs, now), ""
    needs_approval = False
    if not problem and requested and is_installed and csv_version(installed) > csv_version(requested):
        problem = f"{installed} is installed, which is newer than {requested}: OLM does not downgrade operators."
    elif not problem and plan is not None and waits:
        needs_approval, reason = _approval(plan, installed if is_installed else None, requested)
        problem = reason if _is_answer(subscription, plan["metadata"].get("creationTimestamp"), now) else ""
        remedy = APPROVAL_REMEDY if problem else ""
    elif not problem and is_installed and not moving and status.get("state") == "AtLatestKnown":
        problem = f"Channel {subscription['spec'].get('channel')} has no version after {installed}."
    return Progress(summary, summary, problem=problem, needs_approval=needs_approval, remedy=remedy)


def _approval(plan: dict, installed: str | None, requested: str) -> tuple[bool, str]:
    """Whether to approve the InstallPlan, or the reason why not."""
    names = plan["spec"]["clusterServiceVersionNames"]
    waiting = f"InstallPlan {plan['metadata']['name']} waits for approval. It installs {', '.join(names)}"
    if not requested:
        return False, f"{waiting}, and no version is requested."
    if names == [requested]:
        return True, ""
    on_the_way = (
        installed is not None
        and len(names) == 1
        and names[0].startswith(f"{PACKAGE}.")
        and csv_version(installed) < csv_version(names[0]) < csv_version(requested)
    )
    return on_the_way, "" if on_the_way else f"{waiting}, but only {requested} is requested."


def _failure(
    subscription: dict,
    source: dict | None,
    plan: dict | None,
    csvs: Mapping[str, dict],
    now: datetime,
) -> str:
    """The failure that OLM reports and does not resolve by itself, or an empty string."""
    if source is None:
        spec = subscription["spec"]
        return f"CatalogSource {spec['sourceNamespace']}/{spec['source']} is gone."
    for condition in (subscription.get("status") or {}).get("conditions") or []:
        kind, reason = condition["type"], condition.get("reason")
        lasting = kind == "BundleUnpackFailed" or (
            # For any other reason, such as a catalog that restarts, OLM tries again.
            kind == "ResolutionFailed" and reason == "ConstraintsNotSatisfiable"
        )
        since = condition.get("lastTransitionTime")
        if lasting and condition["status"] == "True" and _is_answer(subscription, since, now):
            return f"OLM reports {kind}: {condition.get('message') or reason}."
    planned = (plan or {}).get("status") or {}
    if plan and planned.get("phase") == "Failed":
        why = condition_messages(planned.get("conditions"), "False") or planned.get("message")
        if _is_answer(subscription, plan["metadata"].get("creationTimestamp"), now):
            return f"InstallPlan {plan['metadata']['name']} failed: {why}."
    for name, csv in csvs.items():
        if _phase(csv) == "Failed":
            why = csv["status"]
            return f"ClusterServiceVersion {name} failed: {why.get('reason')}, {why.get('message')}."
    return ""


def _is_answer(subscription: dict, time: str | None, now: datetime) -> bool:
    """Whether what OLM reported at `time` refers to the current Subscription."""
    entries = subscription["metadata"].get("managedFields") or []
    written = max(
        filter(None, (parse_time(entry.get("time")) for entry in entries if not entry.get("subresource"))),
        default=None,
    )
    reported = parse_time(time)
    if written is None or reported is None or reported >= written:
        return True
    return (now - written).total_seconds() >= OLM_LAG


def _condition_lines(status: dict) -> list[str]:
    return [
        f"{condition['type']}: {condition.get('message') or condition.get('reason')}"
        for condition in status.get("conditions") or []
        if condition["status"] == "True"
    ]


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
    # The last phase needs no message.
    why = "" if phase == "Succeeded" else status.get("message") or status.get("reason") or ""
    return f"{csv['metadata']['name']} is {phase}" + (f" ({why})" if why else "")
