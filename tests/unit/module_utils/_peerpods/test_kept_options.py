"""A later run keeps the options that it does not set, and every option of a role decides whether it is kept."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.kept_options import (
    DamagedOptionsError,
    kept_options,
    stored_options,
)

from tests.support import ROOT

# The options that a run does not keep, by role, with the reasons.
RUN = "is about the run, not about what it deploys"
IMAGE = "is required if it is not set, so that no run changes it silently"
PLACED = "is found in the cluster"
SHARED = "is read by other roles, which have only the option"
PER_RUN = {
    "webhook": {
        "namespace": PLACED,
        "image_source": IMAGE,
        "image": IMAGE,
        "build_timeout": RUN,
        "timeout": RUN,
    },
    "node_capacity": {
        "namespace": PLACED,
        "image_source": IMAGE,
        "image": IMAGE,
        "build_timeout": RUN,
        "timeout": RUN,
        "disruption": RUN,
        "peerpodconfig_namespace": SHARED,
        "cloud_capacity_configmap": SHARED,
        "extended_resource": SHARED,
    },
    "policy": {"state": RUN, "timeout": RUN},
    # The roles webhook and node_capacity set all of its options.
    "image_build": {
        "container": RUN,
        "namespace": PLACED,
        "can_write": RUN,
        "alternative": RUN,
        "base_image": "is kept by the role that sets it",
        "timeout": RUN,
    },
}


def specification(role: str) -> dict[str, dict[str, Any]]:
    text = (ROOT / "roles" / role / "meta/argument_specs.yml").read_text()
    return yaml.safe_load(text)["argument_specs"]["main"]["options"]


def kept_by(role: str) -> set[str]:
    """The names of the options that the role keeps, without that of the role."""
    path = ROOT / "roles" / role / "vars/main.yml"
    variables = yaml.safe_load(path.read_text())
    if role == "policy":
        return set(variables["policy_defaults"])
    return set(variables.get(f"{role}_kept_names", ()))


# The options of the role policy, by their names in the annotation.
RENAMED = {"namespace_selector": "selector"}


@pytest.mark.parametrize("role", PER_RUN)
def test_each_option_is_kept_or_has_a_reason_not_to_be(role: str):
    names = {RENAMED.get(name, name) for name in (key.removeprefix(f"{role}_") for key in specification(role))}
    assert kept_by(role) | PER_RUN[role].keys() == names
    assert not kept_by(role) & PER_RUN[role].keys()


@pytest.mark.parametrize("role", PER_RUN)
def test_no_secret_is_kept(role: str):
    options = specification(role)
    secret = {
        name
        for name, option in options.items()
        if option.get("no_log") or re.search(r"secret$|password|token|_key$", name)
    }
    assert not {name.removeprefix(f"{role}_") for name in secret} & kept_by(role)


SPECIFICATION = {
    "role_manager": {"type": "str", "choices": ["auto", "collection"], "default": "auto"},
    "role_class": {"type": "str", "default": "critical"},
    "role_replicas": {"type": "int", "default": 2},
    "role_monitored": {"type": "bool", "default": True},
    "role_selector": {"type": "dict", "default": {}},
    "role_namespaces": {"type": "list", "elements": "str", "default": []},
    "role_ports": {"type": "list", "elements": "int", "default": [443]},
    "role_peers": {"type": "list", "elements": "dict", "default": []},
}
DEFAULTS = {name.removeprefix("role_"): option["default"] for name, option in SPECIFICATION.items()}


@pytest.mark.parametrize(
    ("given", "stored", "kept"),
    [
        ({}, {}, {}),
        ({}, None, {}),
        # What an earlier run has set stays, and what this run sets is added.
        ({}, {"replicas": 3, "manager": "collection"}, {"replicas": 3, "manager": "collection"}),
        ({"role_replicas": 4}, {"replicas": 3, "class": "low"}, {"replicas": 4, "class": "low"}),
        # The default, which may be empty, is not stored.
        ({"role_replicas": 2}, {"replicas": 3}, {}),
        ({"role_namespaces": [], "role_selector": {}}, {"namespaces": ["a"]}, {}),
        ({"role_monitored": "true"}, {"monitored": False}, {}),
        ({"role_class": ""}, {"class": "low"}, {"class": ""}),
        # An answer that was left out.
        (dict.fromkeys(set(SPECIFICATION) - {"role_class"}, ""), {"replicas": 3}, {"replicas": 3}),
        (dict.fromkeys(SPECIFICATION), {"replicas": 3}, {"replicas": 3}),
        # As they are given on a command line.
        (
            {
                "role_replicas": "4",
                "role_monitored": "no",
                "role_selector": '{"a": "b"}',
                "role_namespaces": "a,b",
                "role_ports": "443,6443",
                "role_peers": '[{"ipBlock": {"cidr": "192.0.2.0/24"}}]',
            },
            {},
            {
                "replicas": 4,
                "monitored": False,
                "selector": {"a": "b"},
                "namespaces": ["a", "b"],
                "ports": [443, 6443],
                "peers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
            },
        ),
        # An option of another release, and a variable of another role.
        ({"role_other": 1}, {"unknown": 1}, {}),
    ],
)
def test_an_option_that_is_not_set_keeps_its_value(given: dict, stored: dict | None, kept: dict):
    result = kept_options(given, "role", DEFAULTS, SPECIFICATION, stored)
    assert result == {"kept": kept, "options": {**DEFAULTS, **kept}}
    # A second run without options has the same.
    assert kept_options({}, "role", DEFAULTS, SPECIFICATION, result["kept"]) == result


def annotated(text: str, namespace: str | None = None) -> dict:
    metadata = {"name": "ours", "annotations": {"osc.peerpods.io/options": text}}
    return {
        "apiVersion": "v1" if namespace else "rbac.authorization.k8s.io/v1",
        "kind": "ConfigMap" if namespace else "ClusterRoleBinding",
        "metadata": {**metadata, "namespace": namespace} if namespace else metadata,
    }


@pytest.mark.parametrize(
    ("existing", "options"),
    [
        ({}, {}),
        ({"metadata": {}}, {}),
        ({"metadata": {"annotations": {"other": "["}}}, {}),
        (annotated("{}"), {}),
        (annotated('{"replicas": 3}', "infra"), {"replicas": 3}),
    ],
)
def test_the_options_of_an_earlier_run_are_read(existing: dict, options: dict):
    assert stored_options(existing) == options


@pytest.mark.parametrize("text", ["", "{", "replicas: 3", "[]", "null", "3", '"{}"', "[" * 100_000])
def test_a_damaged_annotation_is_reported_with_the_object_and_what_to_do(text: str):
    with pytest.raises(DamagedOptionsError) as error:
        stored_options(annotated(text, "infra"))
    message = str(error.value)
    assert message.startswith(
        "The annotation osc.peerpods.io/options of ConfigMap ours in infra is not a JSON object: "
    )
    assert message.endswith("oc annotate configmap/ours -n infra osc.peerpods.io/options-")
    assert len(message) < 500
    with pytest.raises(
        DamagedOptionsError, match=r"oc annotate clusterrolebinding\.rbac\.authorization\.k8s\.io/ours osc"
    ):
        stored_options(annotated(text))
