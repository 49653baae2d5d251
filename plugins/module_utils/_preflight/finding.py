# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The structure of a finding, and the names of the checks (no I/O here).

A finding reports what was checked, what was found, why it matters and what to do. Its status is `ok`, `warning`
(a run continues), `error` (it would stop a role later) or `unknown` (it could not be checked).
"""

from __future__ import annotations

from collections.abc import Mapping

CLOUDS = ("AWS", "Azure")

TITLES = {
    "cluster": "Cluster",
    "options": "Options",
    "images": "Images of the containers",
    "platform": "Platform",
    "version": "Cluster version",
    "cluster-admin": "Permissions in the cluster",
    "workers": "Worker nodes",
    "provider-ids": "Workers' instances",
    "region": "Region",
    "control-plane": "Control plane",
    "kata-rollout": "Rollout of kata to the nodes",
    "machine-config-pools": "MachineConfigPools",
    "proxy": "Cluster-wide proxy",
    "mirrors": "Image mirrors",
    "aro": "Azure Red Hat OpenShift",
    "runtime-class": "RuntimeClass kata-remote",
    "operator-channel": "Operator's channel",
    "operator-version": "Operator's version",
    "operator-settings": "Operator's settings",
    "limit-storage": "Storage of the limit",
    "limit-pools": "Pools of nodes",
    "adaptor-settings": "Settings of cloud-api-adaptor",
    "migration": "Migration of the limit",
    "other-webhooks": "Other webhooks for peer pods",
    "other-advertisers": "Other advertisers",
    "api-features": "Features of the API server",
    "vm-credentials": "Credentials of the VMs",
    "vm-identity": "Role or identity of the VMs",
    "cloud-credentials": "Cloud credentials",
    "needed-ports": "Ports of peer pods",
    "ports": "Ports between the workers",
    "port-permissions": "Permission to open the ports",
    "network-acls": "Network ACLs",
    "vm-network": "Network of the VMs",
    "egress": "Outbound access of the VMs",
    "vm-zone": "Zone of the VMs",
    "vm-sizes": "VM sizes",
    "pod-vm-image": "Image of the pod VMs",
    "quota": "vCPU quota",
    "subnet-addresses": "IP addresses of the subnet",
    "limit": "Limit of peer pods",
}

# What a simulation of the permissions does not know.
MAY_BE_GRANTED = "If other policies or conditions grant them, ignore this."
ONE_VM_EACH = "Every peer pod is a VM of its own. Without room for its VM, a peer pod stays pending or fails to start."


def finding(check: str, status: str, found: str, why: str = "", fix: str = "") -> dict[str, str]:
    return {
        "check": check,
        "title": TITLES[check],
        "status": status,
        "found": found,
        "why": why,
        "fix": fix,
    }


def unknown_finding(check: str, cluster: Mapping, reading: str) -> dict:
    """The finding of a check whose `reading` of the cluster failed."""
    return finding(check, "unknown", cluster["details"]["unread"][reading])
