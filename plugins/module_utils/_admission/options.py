# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the webhook and the policy have in common: which pods they change (no I/O here)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

# What Kubernetes and OpenShift keep for themselves: nobody may request a project by such a name.
SYSTEM_NAMESPACES = ("kube-*", "openshift", "openshift-*")

_NAMESPACES = re.compile(r"[a-z0-9]([-a-z0-9]{0,62})\*?")


class AdmissionError(Exception):
    """A webhook or a policy that must not be set up as asked, as a sentence."""


@dataclass(frozen=True)
class Namespaces:
    """Namespaces by their names, and by what their names begin with."""

    names: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def __contains__(self, namespace: str) -> bool:
        return namespace in self.names or namespace.startswith(self.prefixes)

    def spelled_out(self, existing: Iterable[str]) -> Namespaces:
        """The same by name alone, as far as they are among the `existing` ones."""
        return Namespaces(tuple(sorted({*self.names, *(name for name in existing if name in self)})))

    def begin_with(self) -> str:
        """The prefixes as an expression in CEL of an admission request; "" where there are none."""
        return " || ".join(f"request.namespace.startsWith({json.dumps(prefix)})" for prefix in self.prefixes)


def namespaces(patterns: Iterable[str]) -> Namespaces:
    """What `patterns` mean: each a name, or the beginning of names with a * after it."""
    patterns = sorted(set(patterns))
    for pattern in patterns:
        if not _NAMESPACES.fullmatch(pattern):
            raise AdmissionError(
                f"{pattern!r} names no namespace: write a name, or the beginning of names with a * after it."
            )
    return Namespaces(
        tuple(pattern for pattern in patterns if not pattern.endswith("*")),
        tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*")),
    )


def stored_selector(selector: dict | None) -> dict:
    """A label selector without the empty parts, which the API server leaves out."""
    return {key: value for key, value in (selector or {}).items() if value}
