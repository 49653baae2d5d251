# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mutation of peer pods as a MutatingAdmissionPolicy and its binding (no I/O here).

The API server evaluates the policy itself, in CEL, and calls no webhook. The
result is the same as that of the collection's webhook. The desired objects contain every default of the API server, so
that they equal what the API server returns.

Three things about quantities in CEL shape the expressions:
- CEL has no fold, and `sum()` does not add quantities: amounts are converted to integers, which it adds.
- The API server has rounded every amount up to thousandths before admission: an amount that is not an integer is a
  whole number of thousandths.
- In CEL, quantities are strings in canonical form: only a negative amount begins with "-".
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError, Namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    ADMISSION_PATH,
    MUTATING_POLICIES,
    MUTATING_POLICY_BINDINGS,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE, PART_OF
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import (
    refuse_changes,
    refuse_deletions,
)

# The policy sets this annotation, if a pod has it, to its fingerprint. With the fingerprint, a dry run distinguishes
# the policy from a webhook that mutates in the same way, and the current policy from the previous one. Other pods do
# not get the annotation.
MUTATED_BY = "osc.peerpods.io/mutated-by"

_MACHINE_TYPE = "io.katacontainers.config.hypervisor.machine_type"
_DEFAULT = "io.katacontainers.config.hypervisor.default_"

# The annotations that size the VM, each with its resource, its unit, and whether nodes overcommit the resource.
_DIMENSIONS = (
    (f"{_DEFAULT}vcpus", "cpu", 1, True),
    (f"{_DEFAULT}memory", "memory", 2**20, True),
    (f"{_DEFAULT}gpus", "nvidia.com/gpu", 1, False),
)

SIDES = ("limits", "requests")

# The name of the match condition that selects peer pods and excludes namespaces, and the latter part of it.
SELECTS_PEER_PODS = "peer-pods-that-are-not-yet-changed"
_EXCLUDED = re.compile(
    r"!\(request\.namespace in (?P<names>\[[^\]]*\])"
    r'(?P<prefixes>(?: \|\| request\.namespace\.startsWith\("[^"]+"\))*)\)'
)
_PREFIX = re.compile(r'startsWith\("([^"]+)"\)')


@dataclass(frozen=True)
class Change:
    """One object to create, replace or delete; `body` is the whole object."""

    action: str
    path: str
    body: dict


@dataclass(frozen=True)
class Plan:
    """The changes of the policy and its binding, and their specs before and after."""

    changes: tuple[Change, ...]
    before: dict
    after: dict

    @property
    def diff(self) -> dict:
        return {"before": self.before, "after": self.after}


def policy_path(version: str, name: str = "") -> str:
    return _path(version, MUTATING_POLICIES, name)


def binding_path(version: str, name: str = "") -> str:
    return _path(version, MUTATING_POLICY_BINDINGS, name)


def not_served(version: str) -> str:
    return (
        f"This API server ({version}) serves no MutatingAdmissionPolicy: it comes with Kubernetes 1.36, or with 1.34 "
        "where the API admissionregistration.k8s.io/v1beta1 and its feature gate are turned on. Use "
        "osc.peerpods.mutating_webhook."
    )


def policy_spec(
    *,
    runtime_classes: list[str],
    excluded: Namespaces,
    object_selector: dict,
    failure_policy: str,
    reinvocation_policy: str,
) -> dict:
    """The policy's spec as the API server stores it."""
    spec = {
        "failurePolicy": failure_policy,
        "reinvocationPolicy": reinvocation_policy,
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": object_selector,
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                    "scope": "*",
                }
            ],
        },
        "matchConditions": [
            {
                "name": SELECTS_PEER_PODS,
                "expression": _matches(runtime_classes, excluded),
            }
        ],
        "variables": [{"name": name, "expression": expression} for name, expression in _variables().items()],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": _patch()}}],
    }
    # The fingerprint covers the whole spec except for itself.
    mark = {"name": "mark", "expression": json.dumps(_digest(spec))}
    return {**spec, "variables": [*spec["variables"], mark]}


def fingerprint(spec: dict) -> str:
    """The value that a policy with this spec sets for the annotation MUTATED_BY."""
    return json.loads(spec["variables"][-1]["expression"])


def exclusions(spec: dict) -> Namespaces | None:
    """The namespaces that a policy with this spec excludes; None if it is not a policy of this collection."""
    for condition in spec.get("matchConditions") or ():
        excluded = _EXCLUDED.search(condition["expression"])
        if condition["name"] == SELECTS_PEER_PODS and excluded:
            return Namespaces(tuple(json.loads(excluded["names"])), tuple(_PREFIX.findall(excluded["prefixes"])))
    return None


def plan_policy(name: str, version: str, spec: dict, policy: dict | None, binding: dict | None) -> Plan:
    """Create or update the policy, and then its binding: a binding without its policy has no effect."""
    objects = (
        ("MutatingAdmissionPolicy", policy_path, policy, spec),
        ("MutatingAdmissionPolicyBinding", binding_path, binding, {"policyName": name}),
    )
    changes, owned = [], []
    for kind, path, current, desired in objects:
        definition = {
            "apiVersion": f"admissionregistration.k8s.io/{version}",
            "kind": kind,
            "metadata": {"name": name, "labels": dict([PART_OF])},
            "spec": copy.deepcopy(desired),
        }
        if current is None:
            changes.append(Change("create", path(version), definition))
            continue
        owned.append((definition, current))
        if current["spec"] != desired:
            changes.append(Change("replace", path(version, name), {**current, "spec": definition["spec"]}))
    if refusal := refuse_changes(owned, "Set name to another name."):
        raise AdmissionError(refusal)
    return Plan(
        tuple(changes),
        _shown(policy and policy["spec"], binding and binding["spec"]),
        _shown(spec, {"policyName": name}),
    )


def plan_no_policy(name: str, version: str, policy: dict | None, binding: dict | None) -> Plan:
    """Delete the binding and then the policy, so that no binding refers to a policy that does not exist."""
    if refusal := refuse_deletions(filter(None, (binding, policy))):
        raise AdmissionError(refusal)
    changes = [
        Change("delete", path(version, name), current)
        for path, current in ((binding_path, binding), (policy_path, policy))
        if current is not None
    ]
    return Plan(tuple(changes), _shown(policy and policy["spec"], binding and binding["spec"]), {})


def _path(version: str, resource: str, name: str) -> str:
    return "/".join(filter(None, (ADMISSION_PATH, version, resource, name)))


def _shown(policy: dict | None, binding: dict | None) -> dict:
    specs = {"policy": policy, "binding": binding}
    return {key: spec for key, spec in specs.items() if spec is not None}


def _digest(spec: dict) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _matches(runtime_classes: list[str], excluded: Namespaces) -> str:
    """Peer pods that the policy has not mutated completely.

    The API server invokes a policy that changed a pod again (IfNeeded), and each invocation encodes and decodes the
    whole pod, even for an empty patch: the condition avoids that. Namespaces are excluded here because a
    namespaceSelector is parsed for every created pod, twice for peer pods, while the condition is one table lookup, and
    for peer pods only.
    """
    vm = json.dumps({EXTENDED_RESOURCE: "1"})
    prefixes = excluded.begin_with()
    first = "object.spec.containers[0].resources"
    return (
        # A JSON list of strings is a CEL list of strings.
        "has(object.spec.runtimeClassName) && "
        f"object.spec.runtimeClassName in {json.dumps(runtime_classes)} && "
        f"!(request.namespace in {json.dumps(excluded.names)}{prefixes and ' || '}{prefixes}) && "
        f"!(has({first}.limits) && {first}.limits == {vm} && "
        f"has({first}.requests) && {first}.requests == {vm} && "
        "!has(object.spec.resources) && "
        f"object.spec.containers.all(i, c, i == 0 || {_bare('c')}) && "
        f"(!has(object.spec.initContainers) || object.spec.initContainers.all(c, {_bare('c')})))"
    )


def _bare(container: str) -> str:
    resources = f"{container}.resources"
    return f"(!has({resources}) || (!has({resources}.limits) && !has({resources}.requests)))"


def _variables() -> dict[str, str]:
    """The shared sub-expressions, by name. Each is evaluated at most once, and compiled as a program of its own."""
    return {
        "annotations": "has(object.metadata.annotations) ? object.metadata.annotations : {}",
        **{side: _amounts(side) for side in SIDES},
    }


def _amounts(side: str) -> str:
    """The maps of amounts to add up: those of the containers, and those of the pod.

    For a resource that the pod requests as a whole, the amounts of its containers are left out.
    """
    of_containers = (
        "(object.spec.containers + "
        "(has(object.spec.initContainers) ? object.spec.initContainers : []))"
        f".map(c, has(c.resources) && has(c.resources.{side}), c.resources.{side})"
    )
    of_pod = f"object.spec.resources.{side}"
    return (
        f"has(object.spec.resources) && has({of_pod}) "
        f"? [{of_pod}] + {of_containers}.map(r, r.transformMap(k, v, !(k in {of_pod}), v)) "
        f": {of_containers}"
    )


def _thousandths(resource: str, side: str) -> str:
    key = json.dumps(resource)
    return (
        f"variables.{side}.map(r, {key} in r, quantity(r[{key}]))"
        ".map(q, q.isInteger() ? q.asInteger() * 1000 "
        ": int(q.asApproximateFloat() * 1000.0 + 0.5)).sum()"
    )


def _size(resource: str, overcommits: bool) -> str:
    """A list with one element, in thousandths: the limit if it is at least the request, else the request.

    The limit of a container has no effect without a request, the limit of the pod does. For a resource that cannot be
    overcommitted, limit and request are equal.
    """
    requested = f"[{_thousandths(resource, 'requests')}]"
    if not overcommits:
        return requested
    limits = "object.spec.resources.limits"
    limit_of_pod = f"has(object.spec.resources) && has({limits}) && {json.dumps(resource)} in {limits}"
    limited = _thousandths(resource, "limits")
    return f"{requested}.map(n, n > 0 || ({limit_of_pod}) ? [n, {limited}].max() : 0)"


def _patch() -> str:
    """The patches; none for a pod with a negative amount, which the API server rejects with the reason.

    Few patches with short paths are the cheapest: each level of a path is decoded and encoded once more.
    """
    patches = (
        _without_pod_resources(),
        _first_container(),
        f"(has(object.spec.resourceClaims) ? {_bared_of_amounts()} : {_bared()})",
        _annotated(),
    )
    negative = '(variables.requests + variables.limits).exists(r, r.exists(k, v, v.startsWith("-")))'
    return f"{negative} ? [] : ({' + '.join(patches)})"


def _without_pod_resources() -> str:
    resources = "object.spec.resources"
    return (
        f"(has({resources}) && (has({resources}.requests) || has({resources}.limits)) "
        '? [JSONPatch{op: "remove", path: "/spec/resources"}] : [])'
    )


def _first_container() -> str:
    vm = json.dumps({EXTENDED_RESOURCE: "1"})
    path = "/spec/containers/0/resources"
    with_claims = ", ".join(f'JSONPatch{{op: "add", path: "{path}/{side}", value: {vm}}}' for side in SIDES)
    without_claims = f'JSONPatch{{op: "add", path: "{path}", value: {{"limits": {vm}, "requests": {vm}}}}}'
    return f"(has(object.spec.containers[0].resources.claims) ? [{with_claims}] : [{without_claims}])"


def _bared() -> str:
    """Patches that remove all resources of the other containers."""
    return _removals(f"!{_bare('c')}", "/resources")


def _bared_of_amounts() -> str:
    """Patches that remove only limits and requests, for pods whose containers may have claims."""
    removals = (_removals(f"has(c.resources) && has(c.resources.{side})", f"/resources/{side}") for side in SIDES)
    return f"({' + '.join(removals)})"


def _removals(condition: str, below: str) -> str:
    """A patch for each init container, and for each other container but the first, that meets the condition."""
    patch = 'JSONPatch{{op: "remove", path: "/spec/{}/" + string(i) + "{}"}}'
    return (
        f"(object.spec.containers.transformList(i, c, i > 0 && {condition}, "
        f"{patch.format('containers', below)}) + "
        "(has(object.spec.initContainers) ? "
        f"object.spec.initContainers.transformList(i, c, {condition}, "
        f"{patch.format('initContainers', below)}) : []))"
    )


def _annotated() -> str:
    """Patches that add the annotations that size the VM. Existing annotations of the pod are not changed."""
    sizes = " + ".join(_sized(*dimension) for dimension in _DIMENSIONS)
    pointer = MUTATED_BY.replace("/", "~1")
    return (
        "(size(variables.annotations) > 0 ? [] : "
        '[JSONPatch{op: "add", path: "/metadata/annotations", value: {}}]) + '
        f'("{MUTATED_BY}" in variables.annotations ? '
        f'[JSONPatch{{op: "add", path: "/metadata/annotations/{pointer}", value: variables.mark}}] '
        ": []) + "
        # An instance type determines the size already.
        f'("{_MACHINE_TYPE}" in variables.annotations && '
        f'variables.annotations["{_MACHINE_TYPE}"] != "" ? [] : {sizes})'
    )


def _sized(annotation: str, resource: str, unit: int, overcommits: bool) -> str:
    divisor = unit * 1000
    size = f"string((n + {divisor - 1}) / {divisor})"
    return (
        f'("{annotation}" in variables.annotations ? [] : '
        f"{_size(resource, overcommits)}.map(n, n > 0, "
        f'JSONPatch{{op: "add", path: "/metadata/annotations/{annotation}", value: {size}}}))'
    )
