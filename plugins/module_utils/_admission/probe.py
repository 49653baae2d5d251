# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pod by which a mutation is verified (no I/O here)."""

from __future__ import annotations


def probe_pod(runtime_class: str, object_selector: dict | None, annotations: dict[str, str] | None = None) -> dict:
    """A pod that has to be changed, and that the strictest pod security lets pass."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "peer-pod-probe-",
            "labels": (object_selector or {}).get("matchLabels") or {},
            "annotations": annotations or {},
        },
        "spec": {
            "runtimeClassName": runtime_class,
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": "never-pulled",
                    "resources": {"requests": {"cpu": "10m"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
