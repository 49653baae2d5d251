# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The content of a report, from module results (no I/O here).

A reading is the result of a module. It is None if the module did not run, and lacks its facts if the module failed; its
`msg` then has the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Increased when a key of the document changes its meaning or is removed.
FORMAT = 1

OPERATOR = "sandboxed-containers-operator."

# Characters that XML and HTML do not allow, even escaped, and unpaired surrogates, which UTF-8 cannot encode.
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010fffd]")

# The order of the nodes in a report.
STATES = ("full", "in_use", "unused", "blocked", "no_slots")


def document(
    findings: list[dict],
    *,
    title: str,
    made_at: str,
    made_by: str | None = None,
    cluster: Mapping[str, Any] | None = None,
    operators: Mapping[str, Any] | None = None,
    peer_pods: Mapping[str, Any] | None = None,
    networking: Mapping[str, Any] | None = None,
) -> dict:
    """The report as the data of its JSON file."""
    readings = {
        "cluster": (cluster, "workers"),
        "operator": (operators, "resources"),
        "capacity": (peer_pods, "totals"),
    }
    known = {title: reading if reading and fact in reading else None for title, (reading, fact) in readings.items()}
    return _clean(
        {
            "format": FORMAT,
            "title": title,
            "made_at": made_at,
            "made_by": made_by or None,
            "not_known": [
                {"what": title, "why": str(reading.get("msg") or "The reason is unknown.")}
                for title, (reading, _fact) in readings.items()
                if reading and known[title] is None
            ],
            "cluster": known["cluster"] and _cluster(known["cluster"]),
            "operators": known["operator"] and _operators(known["operator"]["resources"]),
            "findings": [
                {
                    **{key: finding.get(key) or "" for key in ("check", "title", "status", "found", "why", "fix")},
                    **({"cause": finding["cause"]} if finding.get("cause") else {}),
                }
                for finding in findings
            ],
            "capacity": known["capacity"] and _capacity(known["capacity"]),
            "ports": _ports(networking) if networking else None,
        }
    )


def _cluster(reading: Mapping[str, Any]) -> dict:
    return {
        "name": reading.get("infrastructure_name"),
        "platform": reading.get("platform"),
        "region": reading.get("region"),
        "openshift_version": reading.get("version"),
        "workers": len(reading["workers"]),
    }


def _operators(versions: Iterable[Mapping[str, Any]]) -> list[dict]:
    """The operator's ClusterServiceVersions; during an upgrade there are two."""
    return [
        {
            "name": version["metadata"]["name"],
            "version": version.get("spec", {}).get("version"),
            "phase": version.get("status", {}).get("phase"),
        }
        for version in versions
        if version["metadata"]["name"].startswith(OPERATOR)
    ]


def _capacity(reading: Mapping[str, Any]) -> dict:
    nodes = [_node(node) for node in reading["nodes"]]
    totals = reading["totals"]
    return {
        "note": reading.get("msg"),
        "totals": {**totals, "used_percent": _percent(totals["used"], totals["allocatable"])},
        "cloud_bounds": dict(reading.get("cloud_bounds") or {}),
        "operator": reading.get("operator"),
        "pools": [_pool(pool, nodes) for pool in reading["pools"]],
        "nodes": sorted(nodes, key=_by_fullness),
        "namespaces": sorted(
            reading["namespaces"],
            key=lambda row: (-row["used"], -row["unscheduled"], row["name"]),
        ),
        "pending": _pending(reading["pending"]),
    }


def _node(node: Mapping[str, Any]) -> dict:
    slots = node["allocatable"] or 0
    if not slots:
        state = "no_slots"
    elif node["blocked"]:
        state = "blocked"
    elif not node["free"]:
        state = "full"
    else:
        state = "in_use" if node["used"] else "unused"
    return {**node, "state": state, "used_percent": _percent(node["used"], slots)}


def _by_fullness(node: Mapping[str, Any]) -> tuple:
    percent = node["used_percent"] or 0
    return STATES.index(node["state"]), -percent, -node["used"], node["name"]


def _pool(pool: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> dict:
    name = f"{pool['namespace']}/{pool['name']}"
    selected = [node for node in nodes if name in node["pools"]]
    sums = {key: sum(node[key] or 0 for node in selected) for key in ("allocatable", "used", "free")}
    return {**pool, **sums, "used_percent": _percent(sums["used"], sums["allocatable"])}


def _pending(pods: Iterable[Mapping[str, Any]]) -> list[dict]:
    """The pending pods, grouped by their reason."""
    groups: dict[tuple, list[dict]] = {}
    for pod in pods:
        where = {key: pod[key] for key in ("namespace", "name", "node")}
        groups.setdefault((pod["reason"], pod["message"]), []).append(where)
    return [
        {"reason": reason, "message": message, "pods": group}
        for (reason, message), group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _percent(part: int, whole: int | None) -> int | None:
    """A share of less than 100 % is not rounded up to 100 %."""
    return min(100, part * 100 // whole) if whole else None


def _ports(reading: Mapping[str, Any]) -> dict:
    """The results of the role cloud_networking on AWS and on Azure."""
    return {
        "reason": reading.get("reason"),
        "rules": [
            *(
                {"where": f"{group['group_id']} ({group['group_name']})", **rule}
                for group in reading.get("groups") or []
                for rule in _of_security_group(group)
            ),
            *(
                {"where": group["name"], **rule}
                for group in reading.get("network_security_groups") or []
                for rule in _of_network_security_group(group)
            ),
        ],
        "unfiltered": list(reading.get("unfiltered") or []),
    }


def _of_security_group(group: Mapping[str, Any]) -> Iterable[dict]:
    for state in ("opened", "already_open"):
        for port in group.get(state) or []:
            by = port.get("covered_by")
            egress = " egress" if port.get("direction") == "egress" else ""
            yield {"rule": f"{port['port']}/{port['protocol']}{egress}", "state": state, "by": by}


def _of_network_security_group(group: Mapping[str, Any]) -> Iterable[dict]:
    for rule in [*(group.get("created") or []), *(group.get("updated") or [])]:
        yield {"rule": rule["name"], "state": "opened", "by": None}
    for name in group.get("unchanged") or []:
        yield {"rule": name, "state": "already_open", "by": "a rule of that name"}
    for rule in group.get("covered") or []:
        yield {"rule": rule["name"], "state": "already_open", "by": rule["covered_by"]}
    for rule in group.get("shadowed") or []:
        yield {"rule": rule["name"], "state": "shadowed", "by": rule["shadowed_by"]}


def _clean(value: Any) -> Any:
    """The value with its text cleaned, which may come from any user of the cluster."""
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return _NO_TEXT.sub("\ufffd", value) if isinstance(value, str) else value
