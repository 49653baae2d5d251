# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Paths of the Kubernetes API, and what an API server serves (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping

NAMESPACES_PATH = "/api/v1/namespaces"
NODES_PATH = "/api/v1/nodes"
PODS_PATH = "/api/v1/pods"
RUNTIME_CLASSES_PATH = "/apis/node.k8s.io/v1/runtimeclasses"

ADMISSION_PATH = "/apis/admissionregistration.k8s.io"
MUTATING_WEBHOOKS_PATH = f"{ADMISSION_PATH}/v1/mutatingwebhookconfigurations"
MUTATING_POLICIES = "mutatingadmissionpolicies"
MUTATING_POLICY_BINDINGS = "mutatingadmissionpolicybindings"

# The versions that can have MutatingAdmissionPolicies, newest first. v1beta1 came with Kubernetes 1.34 and v1alpha1
# with 1.32, both off by default.
MUTATING_POLICY_VERSIONS = ("v1", "v1beta1", "v1alpha1")

# The first Kubernetes minor version 1.x that serves matchConditions by default: OpenShift 4.15. Older ones drop the
# field without an error.
MATCH_CONDITIONS_SINCE = 28


# The Accept header for a list of objects without their content.
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def label_selector(labels: Mapping[str, str]) -> str:
    """`labels` in the format of the API's `labelSelector`."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def serves(resources: dict | None, *names: str) -> bool:
    """Whether the APIResourceList of a group version (None if it does not exist) has all these resources."""
    return {*names} <= {resource["name"] for resource in (resources or {}).get("resources", ())}


def serves_mutating_policies(resources: dict | None) -> bool:
    """Whether the APIResourceList of a group version (None if it does not exist) has MutatingAdmissionPolicies."""
    return serves(resources, MUTATING_POLICIES, MUTATING_POLICY_BINDINGS)


def serves_match_conditions(version: dict) -> bool:
    """Whether the API server supports matchConditions, according to its `/version`."""
    minor = "".join(character for character in version["minor"] if character.isdigit())  # 27+
    return (int(version["major"]), int(minor)) >= (1, MATCH_CONDITIONS_SINCE)
