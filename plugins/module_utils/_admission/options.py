# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that the webhook and the policy have in common: which pods they mutate (no I/O here)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MUTATION_OPTIONS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "target_runtime_classes": {"type": "list", "elements": "str", "default": ["kata-remote"]},
    "excluded_namespaces": {"type": "list", "elements": "str"},
    "extra_excluded_namespaces": {"type": "list", "elements": "str", "default": []},
    "object_selector": {"type": "dict"},
    "failure_policy": {"type": "str", "choices": ["Fail", "Ignore"], "default": "Fail"},
    "reinvocation_policy": {"type": "str", "choices": ["IfNeeded", "Never"], "default": "IfNeeded"},
    "verify": {"type": "bool", "default": False},
    "verify_namespace": {"type": "str"},
    "wait_timeout": {"type": "int", "default": 120},
}

# The namespaces that Kubernetes and OpenShift reserve: no user may request a project with such a name.
SYSTEM_NAMESPACES = ("kube-*", "openshift", "openshift-*")

_NAMESPACES = re.compile(r"[a-z0-9]([-a-z0-9]{0,62})\*?")


class AdmissionError(Exception):
    """The reason why a webhook or a policy cannot be set up with these options, as a sentence."""


@dataclass(frozen=True)
class Namespaces:
    """Namespaces by name, and by the prefix of their names."""

    names: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def __contains__(self, namespace: str | None) -> bool:
        return namespace is not None and (namespace in self.names or namespace.startswith(self.prefixes))

    def spelled_out(self, existing: Iterable[str]) -> Namespaces:
        """The names of the `existing` namespaces that match."""
        return Namespaces(tuple(sorted({*self.names, *(name for name in existing if name in self)})))

    def begin_with(self) -> str:
        """The prefixes as a CEL expression of an admission request; "" without prefixes."""
        return " || ".join(f"request.namespace.startsWith({json.dumps(prefix)})" for prefix in self.prefixes)


def namespaces(patterns: Iterable[str]) -> Namespaces:
    """Parse `patterns`: each is a name, or a prefix of names that ends in *."""
    patterns = sorted(set(patterns))
    for pattern in patterns:
        if not _NAMESPACES.fullmatch(pattern):
            raise AdmissionError(f"{pattern!r} is not a namespace: set a name, or a prefix of names followed by *.")
    return Namespaces(
        tuple(pattern for pattern in patterns if not pattern.endswith("*")),
        tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*")),
    )


def excluded_namespaces(params: Mapping, own: Iterable[str] = ()) -> Namespaces:
    """The namespaces that a task excludes, and `own`."""
    patterns = params["excluded_namespaces"]
    return namespaces(
        [
            *(SYSTEM_NAMESPACES if patterns is None else patterns),
            *params["extra_excluded_namespaces"],
            *own,
        ]
    )


def validate_mutation(params: Mapping, excluded: Namespaces) -> None:
    """Raise an error if the common options contradict each other."""
    if not params["target_runtime_classes"]:
        raise AdmissionError("target_runtime_classes is empty. Set at least one RuntimeClass.")
    if params["verify"] and params["state"] == "present" and params["verify_namespace"] in excluded:
        raise AdmissionError(f"verify_namespace {params['verify_namespace']} is excluded: no pod is mutated there.")


def stored_selector(selector: dict | None) -> dict:
    """A label selector without the empty parts, which the API server leaves out."""
    return {key: value for key, value in (selector or {}).items() if value}
