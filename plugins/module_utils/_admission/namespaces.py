# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ValidatingAdmissionPolicies that restrict peer pods to chosen namespaces (no I/O here)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import OPTIONS_ANNOTATION

POLICY = "osc-peerpods-namespaces"
WORKLOADS_POLICY = f"{POLICY}-workloads"
LABELS = {"app.kubernetes.io/part-of": "osc.peerpods"}
API = "admissionregistration.k8s.io/v1"

# The webhook does not mutate pods in system namespaces, so that nodes would not count peer pods there: no label allows
# them.
SYSTEM_NAMES = ("openshift",)
SYSTEM_PREFIXES = ("kube-", "openshift-")
SYSTEM_NAMESPACES = "|".join([*(f"{name}$" for name in SYSTEM_NAMES), *SYSTEM_PREFIXES])

# The text in a rejection, in a warning and in the audit log.
REJECTION = "Peer pods may not be created in namespace "

# The annotation of a pod in a dry run that verifies the mutation of peer pods. The policy lets it pass, wherever it is
# created: a dry run stores nothing.
PROBE = "osc.peerpods.io/probe"
IS_NO_PROBE = (
    "!has(request.dryRun) || !request.dryRun || !has(object.metadata.annotations) || "
    f"!({json.dumps(PROBE)} in object.metadata.annotations)"
)

POD_RULES = ({"apiGroups": [""], "resources": ["pods"]},)
POD_CLASS = '(has(object.spec.runtimeClassName) ? object.spec.runtimeClassName : "")'

WORKLOAD_RULES = (
    {"apiGroups": ["apps"], "resources": ["daemonsets", "deployments", "statefulsets"]},
    {"apiGroups": ["apps.openshift.io"], "resources": ["deploymentconfigs"]},
    {"apiGroups": ["batch"], "resources": ["cronjobs", "jobs"]},
)
# The path of the pod template depends on the kind, so the API server has no single type to check the expression
# against.
WORKLOAD_CLASS = (
    'dyn(object).spec.?jobTemplate.?spec.orValue(dyn(object).spec).?template.?spec.?runtimeClassName.orValue("")'
)


def namespace_policies(
    runtime_classes: Sequence[str],
    namespaces: Sequence[str] = (),
    selector: Mapping | None = None,
    actions: Sequence[str] = ("Deny",),
    failure_policy: str = "Fail",
    warn_workloads: bool = True,
) -> dict:
    requirements = _requirements(selector or {})
    label_selector = ",".join(map(_as_kubectl, requirements))
    explanation = _explanation(runtime_classes, namespaces, label_selector)
    warns = warn_workloads and not {"Deny", "Warn"}.isdisjoint(actions)
    consequence = " Pods of this workload will be rejected." if "Deny" in actions else ""

    def policy(
        name: str, rules: Sequence[dict], operations: list[str], runtime_class: str, message: str, **conditions: str
    ) -> dict:
        return _object(
            "ValidatingAdmissionPolicy",
            name,
            failurePolicy=failure_policy,
            matchConstraints={
                "resourceRules": [{**rule, "apiVersions": ["v1"], "operations": operations} for rule in rules]
            },
            # The validations are evaluated for peer pods only.
            matchConditions=[
                {"name": "peer-pods", "expression": f"{runtime_class} in {_cel(runtime_classes)}"},
                *({"name": condition, "expression": expression} for condition, expression in conditions.items()),
            ],
            variables=[
                {
                    "name": "labels",
                    "expression": "has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {}",
                },
                {"name": "system", "expression": _is_system()},
            ],
            validations=[
                {
                    "expression": _is_allowed(namespaces, requirements),
                    "reason": "Forbidden",
                    "messageExpression": f"{_cel(REJECTION)} + request.namespace + {_cel(message)}",
                }
            ],
        )

    # The API server rejects later changes of a pod's runtimeClassName by itself.
    pods = policy(POLICY, POD_RULES, ["CREATE"], POD_CLASS, explanation, probes=IS_NO_PROBE)
    options = {
        "runtime_classes": list(runtime_classes),
        "namespaces": list(namespaces),
        "selector": selector or {},
        "actions": list(actions),
        "failure_policy": failure_policy,
        "warn_workloads": warn_workloads,
    }
    pods["metadata"]["annotations"] = {OPTIONS_ANNOTATION: json.dumps(options, sort_keys=True)}
    # A user who applies a Deployment does not see the rejection of its pods; the ReplicaSet controller does.
    workloads = policy(
        WORKLOADS_POLICY, WORKLOAD_RULES, ["CREATE", "UPDATE"], WORKLOAD_CLASS, explanation + consequence
    )
    present, optional = "present", "present" if warns else "absent"
    return {
        "objects": [
            {"state": present, "definition": pods},
            {"state": present, "definition": _binding(POLICY, list(actions))},
            {"state": optional, "definition": workloads},
            {"state": optional, "definition": _binding(WORKLOADS_POLICY, ["Warn"])},
        ],
        "label_selector": label_selector,
        "system_namespaces": SYSTEM_NAMESPACES,
        "rejection": REJECTION,
        "explanation": explanation,
    }


def _object(kind: str, name: str, **spec: object) -> dict:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def _binding(policy: str, actions: list[str]) -> dict:
    return _object("ValidatingAdmissionPolicyBinding", policy, policyName=policy, validationActions=actions)


def _requirements(selector: Mapping) -> list[dict]:
    """The conditions on the labels of a namespace, all as matchExpressions."""
    labels = selector.get("matchLabels") or {}
    return [
        *({"key": key, "operator": "=", "values": [value]} for key, value in labels.items()),
        *(selector.get("matchExpressions") or ()),
    ]


def _as_kubectl(requirement: Mapping) -> str:
    key, values = requirement["key"], ",".join(requirement.get("values") or ())
    return {
        "=": f"{key}={values}",
        "In": f"{key} in ({values})",
        "NotIn": f"{key} notin ({values})",
        "Exists": key,
        "DoesNotExist": f"!{key}",
    }[requirement["operator"]]


def _explanation(runtime_classes: Sequence[str], namespaces: Sequence[str], label_selector: str) -> str:
    """The text of a rejection after the name of the namespace.

    The role recognizes its policy by this text. The policy of an earlier run has another text, and may be in force
    until the API server uses the new policy.
    """
    allowed = [
        *([f"namespaces with the labels {label_selector} that are not system namespaces"] if label_selector else []),
        *([f"the namespaces {', '.join(namespaces)}"] if namespaces else []),
    ]
    return (
        f": RuntimeClass {', '.join(runtime_classes)} is allowed in {' and in '.join(allowed) or 'no namespace'}. "
        "Ask a cluster administrator to allow it in this namespace."
    )


def _cel(value: object) -> str:
    """A JSON string is a string in CEL, and a JSON list of strings a list."""
    return json.dumps(value)


def _is_system() -> str:
    return " || ".join(
        [
            f"request.namespace in {_cel(SYSTEM_NAMES)}",
            *(f"request.namespace.startsWith({_cel(prefix)})" for prefix in SYSTEM_PREFIXES),
        ]
    )


def _is_allowed(namespaces: Sequence[str], requirements: Sequence[Mapping]) -> str:
    labels = " && ".join(map(_is_met, requirements)) or "false"
    return f"request.namespace in {_cel(list(namespaces))} || (!variables.system && {labels})"


def _is_met(requirement: Mapping) -> str:
    key = _cel(requirement["key"])
    exists = f"{key} in variables.labels"
    is_one_of = f"({exists} && variables.labels[{key}] in {_cel(list(requirement.get('values') or ()))})"
    return {
        "=": is_one_of,
        "In": is_one_of,
        "NotIn": f"!{is_one_of}",
        "Exists": exists,
        "DoesNotExist": f"!({exists})",
    }[requirement["operator"]]
