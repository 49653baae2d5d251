from __future__ import annotations

import copy

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError, namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import (
    fingerprint,
    not_served,
    plan_no_policy,
    plan_policy,
    policy_spec,
)

GROUP = "/apis/admissionregistration.k8s.io"
POLICIES = f"{GROUP}/v1/mutatingadmissionpolicies"
BINDINGS = f"{GROUP}/v1/mutatingadmissionpolicybindings"
BINDING = {"policyName": "p"}


def spec(**changes) -> dict:
    return policy_spec(
        **{
            "runtime_classes": ["kata-remote"],
            "excluded": namespaces(["b", "a", "b", "c-*"]),
            "object_selector": {},
            "failure_policy": "Fail",
            "reinvocation_policy": "IfNeeded",
            **changes,
        }
    )


LABELS = {"app.kubernetes.io/part-of": "osc.peerpods"}


def stored(content: dict, version: str = "7", labels: dict | None = LABELS) -> dict:
    """An object as the API server returns it."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding" if "policyName" in content else "MutatingAdmissionPolicy",
        "metadata": {"name": "p", "resourceVersion": version, "labels": labels},
        "spec": copy.deepcopy(content),
    }


def steps(plan) -> list[tuple[str, str]]:
    return [(change.action, change.path) for change in plan.changes]


def test_missing_objects_are_created_the_policy_before_its_binding():
    plan = plan_policy("p", "v1", spec(), None, None)
    assert steps(plan) == [("create", POLICIES), ("create", BINDINGS)]
    policy, binding = (change.body for change in plan.changes)
    assert policy == {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "p", "labels": LABELS},
        "spec": spec(),
    }
    assert binding["kind"] == "MutatingAdmissionPolicyBinding"
    assert binding["metadata"] == policy["metadata"]
    assert binding["spec"] == BINDING
    assert plan.diff == {"before": {}, "after": {"policy": spec(), "binding": BINDING}}


def test_the_served_version_is_used():
    plan = plan_policy("p", "v1beta1", spec(), None, None)
    assert steps(plan)[0] == ("create", f"{GROUP}/v1beta1/mutatingadmissionpolicies")
    assert plan.changes[0].body["apiVersion"] == "admissionregistration.k8s.io/v1beta1"


def test_the_desired_state_is_unchanged():
    plan = plan_policy("p", "v1", spec(), stored(spec()), stored(BINDING))
    assert plan.changes == ()
    assert plan.before == plan.after


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_policy": "Ignore"},
        {"reinvocation_policy": "Never"},
        {"runtime_classes": ["kata"]},
        {"excluded": namespaces(["a"])},
        {"excluded": namespaces(["a", "b"])},
        {"object_selector": {"matchLabels": {"a": "b"}}},
    ],
)
def test_every_difference_is_a_change_with_another_fingerprint(changes):
    current = stored(spec())
    plan = plan_policy("p", "v1", spec(**changes), current, stored(BINDING))
    assert steps(plan) == [("replace", f"{POLICIES}/p")]
    assert plan.changes[0].body == {**current, "spec": spec(**changes)}
    assert plan.before != plan.after
    assert fingerprint(spec(**changes)) != fingerprint(spec())


def test_the_order_of_excluded_namespaces_does_not_matter():
    first, second = (spec(excluded=namespaces(names)) for names in (["a", "b-*"], ["b-*", "a"]))
    assert first == second


def test_foreign_changes_are_reverted():
    foreign = {**BINDING, "matchResources": {"objectSelector": {"matchLabels": {"a": "b"}}}}
    plan = plan_policy("p", "v1", spec(), stored(spec()), stored(foreign, "9"))
    assert steps(plan) == [("replace", f"{BINDINGS}/p")]
    assert plan.changes[0].body["metadata"]["resourceVersion"] == "9"
    assert plan.changes[0].body["spec"] == BINDING


@pytest.mark.parametrize(
    ("policy", "binding", "expected"),
    [
        (None, None, []),
        (stored(spec()), None, [("delete", f"{POLICIES}/p")]),
        (None, stored(BINDING), [("delete", f"{BINDINGS}/p")]),
        (
            stored(spec()),
            stored(BINDING),
            [("delete", f"{BINDINGS}/p"), ("delete", f"{POLICIES}/p")],
        ),
    ],
)
def test_absent_deletes_the_binding_before_the_policy(policy, binding, expected):
    plan = plan_no_policy("p", "v1", policy, binding)
    assert steps(plan) == expected
    assert plan.after == {}
    assert bool(plan.before) == bool(expected)


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/part-of": "kyverno"}])
@pytest.mark.parametrize("content", [{"failurePolicy": "Fail"}, spec(), BINDING])
def test_objects_of_another_owner_are_neither_changed_nor_deleted(content, labels):
    """Also those that equal what the module would write: a later run would change or delete them."""
    foreign = stored(content, labels=labels)
    is_binding = "policyName" in content
    policy, binding = (stored(spec()), foreign) if is_binding else (foreign, stored(BINDING))
    kind = foreign["kind"]
    with pytest.raises(AdmissionError) as change:
        plan_policy("p", "v1", spec(failure_policy="Ignore"), policy, binding)
    with pytest.raises(AdmissionError) as deletion:
        plan_no_policy("p", "v1", policy, binding)
    for message in (str(change.value), str(deletion.value)):
        assert message.startswith(f"{kind} p already exists without the label app.kubernetes.io/part-of=osc.peerpods")
    assert "This task changed nothing. Set name to another name. Or delete or rename it." in str(change.value)
    argument = f"{kind.lower()}.admissionregistration.k8s.io/p"
    assert f"oc label {argument} app.kubernetes.io/part-of=osc.peerpods" in str(change.value)
    assert str(deletion.value).endswith(f"This task deleted nothing. To delete it: oc delete {argument}")


def test_an_api_server_without_policies_is_reported():
    assert "v1.31.4" in not_served("v1.31.4")
    assert "osc.peerpods.mutating_webhook" in not_served("v1.31.4")
