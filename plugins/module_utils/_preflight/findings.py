# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that prevents peer pods in a cluster and its cloud (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cloud_findings import cloud_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import cluster_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.credential_findings import credential_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import finding
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.image_findings import image_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.network_findings import network_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.operator_findings import operator_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.option_findings import option_findings
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.topology_findings import topology_findings


def findings(readings: Mapping[str, Any]) -> list[dict[str, str]]:
    """All findings, in the order in which to resolve them.

    `readings` has the result `cluster` of cluster_info, the `settings` of the roles, the validations of their
    `options`, the names of those that are `nulls`, the `problems` of options together, by role, and, if the cloud is
    checked too, the results that ANSWERS names.
    """
    cluster, settings = readings["cluster"], readings["settings"]
    if "workers" not in cluster:
        return [
            finding(
                "cluster",
                "error",
                cluster["msg"],
                "Nothing else can be checked without access to the cluster.",
                "Fix the cause, then run preflight again.",
            )
        ]
    plan = readings.get("operator") or {}
    of_image = list(image_findings(cluster, settings, readings))
    return [
        *option_findings(
            cluster,
            settings,
            readings.get("options") or (),
            readings.get("nulls") or (),
            readings.get("problems") or {},
        ),
        *cluster_findings(cluster, settings),
        *credential_findings(cluster, settings, readings.get("identity"), plan),
        *operator_findings(
            plan, {text for entry in of_image for text in (entry["found"], f"{entry['found']} {entry['fix']}")}
        ),
        *topology_findings(cluster, settings),
        *cloud_findings(cluster, settings, readings),
        *network_findings(cluster, settings, readings),
        *of_image,
    ]
