"""The admission policies that restrict peer pods to chosen namespaces; test_policy.py applies them to an API server."""

from __future__ import annotations

import json
import re

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.namespaces import namespace_policies

NAMES = ["osc-peerpods-namespaces"] * 2 + ["osc-peerpods-namespaces-workloads"] * 2


def allowed(**settings: object) -> str:
    """The expression that admits a peer pod."""
    return definition(**settings)["validations"][0]["expression"]


def definition(**settings: object) -> dict:
    return namespace_policies(["kata-remote"], **settings)["objects"][0]["definition"]["spec"]


def test_each_policy_has_a_binding_of_its_name():
    objects = namespace_policies(["kata-remote"])["objects"]
    assert [item["definition"]["metadata"]["name"] for item in objects] == NAMES
    kinds = [item["definition"]["kind"] for item in objects]
    assert kinds == ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] * 2
    actions = [item["definition"]["spec"]["validationActions"] for item in objects[1::2]]
    assert actions == [["Deny"], ["Warn"]]


def test_the_next_run_can_read_the_options():
    options = {
        "namespaces": ["b", "a"],
        "selector": {"matchLabels": {"on": "true"}},
        "actions": ["Warn"],
        "failure_policy": "Ignore",
        "warn_workloads": False,
    }
    annotations = namespace_policies(["kata-remote"], **options)["objects"][0]["definition"]["metadata"]["annotations"]
    assert json.loads(annotations["osc.peerpods.io/options"]) == {"runtime_classes": ["kata-remote"], **options}


@pytest.mark.parametrize(
    ("settings", "state", "consequence"),
    [
        ({"actions": ["Deny"]}, "present", True),
        ({"actions": ["Warn", "Audit"]}, "present", False),
        ({"actions": ["Audit"]}, "absent", False),
        ({"warn_workloads": False}, "absent", True),
    ],
)
def test_workloads_are_warned_of_as_long_as_pods_are_refused_or_warned_of(
    settings: dict, state: str, consequence: bool
):
    *_, policy, binding = namespace_policies(["kata-remote"], **settings)["objects"]
    assert [policy["state"], binding["state"]] == [state, state]
    message = policy["definition"]["spec"]["validations"][0]["messageExpression"]
    assert ("Pods of this workload will be rejected." in message) == consequence


def test_without_names_and_labels_no_namespace_is_allowed():
    assert allowed() == "request.namespace in [] || (!variables.system && false)"
    assert "is allowed in no namespace. Ask" in namespace_policies(["kata-remote"])["explanation"]


def test_all_requirements_must_be_met():
    selector = {
        "matchLabels": {"peer-pods": "allowed"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "stage", "operator": "NotIn", "values": ["test"]},
            # As the argument specification of the role completes it.
            {"key": "team", "operator": "Exists", "values": None},
            {"key": "closed", "operator": "DoesNotExist"},
        ],
    }
    assert allowed(selector=selector, namespaces=["here"]) == (
        'request.namespace in ["here"] || (!variables.system && '
        '("peer-pods" in variables.labels && variables.labels["peer-pods"] in ["allowed"]) && '
        '("tier" in variables.labels && variables.labels["tier"] in ["a", "b"]) && '
        '!("stage" in variables.labels && variables.labels["stage"] in ["test"]) && '
        '"team" in variables.labels && !("closed" in variables.labels))'
    )
    plan = namespace_policies(["kata-remote"], namespaces=["here", "there"], selector=selector)
    assert plan["label_selector"] == "peer-pods=allowed,tier in (a,b),stage notin (test),team,!closed"
    assert plan["explanation"] == (
        f": RuntimeClass kata-remote is allowed in namespaces with the labels {plan['label_selector']} that are not "
        "system namespaces and in the namespaces here, there. Ask a cluster administrator to allow it in this "
        "namespace."
    )


def test_input_of_a_user_is_quoted_in_cel():
    assert definition(namespaces=['a" || "b'])["validations"][0]["expression"].startswith(
        r'request.namespace in ["a\" || \"b"] ||'
    )


@pytest.mark.parametrize(
    ("name", "is_system"),
    [("openshift", True), ("openshift-dns", True), ("kube-system", True), ("openshifty", False), ("my-kube-x", False)],
)
def test_system_namespaces(name: str, is_system: bool):
    pattern = namespace_policies(["kata-remote"])["system_namespaces"]
    assert bool(re.match(pattern, name)) == is_system
