# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verify a mutation by pods that are created in dry runs (private to this collection)."""

from __future__ import annotations

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import MUTATED_BY
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import RUNTIME_CLASSES_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import is_accounted_for

# The pause between two dry runs, until the API server uses the new object. Seconds.
PROBE_INTERVAL = 0.5


def verify(module: AnsibleModule, cluster: Cluster, subject: str, mark: str | None = None) -> bool:
    """Whether a pod of each target RuntimeClass is mutated; False, with a warning, where one does not exist.

    `subject` is the webhook or the policy, for messages. With `mark`, only a mutation by the policy with that
    fingerprint counts. Raises AdmissionError where a pod is not mutated within wait_timeout.
    """
    names = module.params["target_runtime_classes"]
    missing = [name for name in names if not _is_mutated(module, cluster, subject, name, mark)]
    if missing:
        module.warn(
            f"The {subject} could not be verified: RuntimeClass {', '.join(missing)} does not exist yet. The operator "
            "creates it for a KataConfig that enables peer pods."
        )
    return not missing


def _is_mutated(module: AnsibleModule, cluster: Cluster, subject: str, runtime_class: str, mark: str | None) -> bool:
    params = module.params
    deadline = time.monotonic() + params["wait_timeout"]
    path = f"/api/v1/namespaces/{params['verify_namespace']}/pods"
    pod = probe_pod(runtime_class, params["object_selector"], {MUTATED_BY: ""} if mark else None)
    while True:
        try:
            created = cluster.create(path, pod, dryRun="All")
            if not is_accounted_for(created):
                reason = f"the pod was returned without {EXTENDED_RESOURCE}."
            elif mark and created["metadata"]["annotations"].get(MUTATED_BY) != mark:
                reason = "the pod was mutated, but not by the current policy."
            else:
                return True
        except ClusterError as error:
            if error.status == 403 and cluster.get(f"{RUNTIME_CLASSES_PATH}/{runtime_class}") is None:
                return False
            if error.status is None or error.status < 500:
                raise
            reason = str(error)  # The error of the API server if it cannot call the webhook.
        if time.monotonic() > deadline:
            raise AdmissionError(
                f"The {subject} is configured, but after {params['wait_timeout']} s it does not mutate a pod with the "
                f"RuntimeClass {runtime_class} in a dry run: {reason}"
            )
        time.sleep(PROBE_INTERVAL)


def probe_pod(runtime_class: str, object_selector: dict | None, annotations: dict[str, str] | None = None) -> dict:
    """A pod that must be mutated, and that the strictest pod security admits."""
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
