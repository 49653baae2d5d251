# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The progress of one step of the operator's installation (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# What to do if a wait does not succeed, by the value of wait_for. The options are those of the role operator_install.
REMEDIES = {
    "catalog": (
        "Set operator_install_source and operator_install_source_namespace to a CatalogSource that offers the "
        "operator, and operator_install_channel to one of its channels. In a disconnected cluster this is the "
        "CatalogSource of the mirror. `oc get pods -n openshift-marketplace` lists the pods of the default catalogs."
    ),
    "operator": (
        "Check operator_install_channel and operator_install_source. OLM does not repeat a failed InstallPlan or "
        "ClusterServiceVersion: after fixing the cause, delete the Subscription, that InstallPlan and the "
        "ClusterServiceVersion. Then run the playbook again; it resumes from here."
    ),
    "nodes": (
        "See `oc describe machineconfigpool kata-oc`, and `oc get nodes` for the node that is not updated. Fix the "
        "cause, then run the playbook again; it resumes from here."
    ),
    "removal": (
        "See `oc describe machineconfigpool worker` and `oc get kataconfig -o yaml`. Fix the cause, then run the "
        "playbook again; it resumes from here."
    ),
    "pods": "Delete these pods, or the workloads that create them, then run the playbook again.",
}
APPROVAL_REMEDY = (
    "Set spec.approved of the InstallPlan to true, or request that version (operator_install_starting_csv, or "
    "operator_install_upgrade_to if another version is installed). Then run the playbook again; it resumes from here."
)


@dataclass(frozen=True)
class Progress:
    """The progress of a step.

    `summary` is one line for people, `status` the same without durations. `problem` is the reason why the step cannot
    continue, `remedy` what to do about it instead of the entry in REMEDIES, `needs_approval` whether the InstallPlan
    must be approved, and `since` when the operator started to work on each node.
    """

    summary: str
    status: str = ""
    done: bool = False
    problem: str = ""
    needs_approval: bool = False
    remedy: str = ""
    since: Mapping[str, str] = field(default_factory=dict)


def describe_outage(error: Exception, since: Mapping[str, str]) -> Progress:
    """The progress while the API server does not answer, as during the reboot of its only node."""
    summary = "the API server does not answer"
    return Progress(
        summary, summary, remedy=f"{error} When it answers, run the playbook again; it resumes from here.", since=since
    )


def condition_messages(conditions: list[dict] | None, status: str, *types: str) -> str:
    """The messages of the conditions with this status; with `types`, only of these types."""
    return ", ".join(
        condition.get("message") or condition.get("reason") or ""
        for condition in conditions or []
        if condition.get("status") == status
        and (not types or condition["type"] in types)
        and (condition.get("message") or condition.get("reason"))
    )


def elapsed(began: datetime, now: datetime) -> str:
    """How long something has lasted, for a message."""
    seconds = max(0, int((now - began).total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"for {hours} h {minutes % 60} min"
    return f"for {minutes} min" if minutes else f"for {seconds} s"


def parse_time(text: Any) -> datetime | None:
    """A time of the API; None if it is not set."""
    return datetime.fromisoformat(text) if text else None
