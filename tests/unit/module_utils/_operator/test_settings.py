from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.settings import operator_settings, pod_vm_image


def settings(*rows, **options) -> dict:
    defaults = {
        "settings": list(rows),
        "credentials": [{"key": "AWS_KEY", "option": "role_key", "value": "k", "remedy": "Set it."}],
        "credentials_from": "variables",
        "extra_config": {},
        "tags": {},
        "feature_gates": {},
        "namespace": "osc",
        "objects": [],
    }
    return operator_settings(defaults | options)


def row(key: str, value: object, **fields) -> dict:
    return {"key": key, "option": f"role_{key.lower()}", "value": value, **fields}


def existing(kind: str, name: str, **labels: str) -> dict:
    return {"kind": kind, "name": name, "labels": labels}


LIMIT = row("LIMIT", 10, only_new=True)
REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}


def test_the_written_settings():
    written = settings(
        row("SIZES", ["a", "b"]),
        row("PORT", 9000),
        row("IMAGE", ""),
        LIMIT,
        extra_config={"INITDATA": "x", "EMPTY": ""},
        tags={"team": "a", "cost": "b"},
        feature_gates={"confidential": True, "deploymentMode": "DaemonSet"},
    )
    assert written == {
        "config_map": {"SIZES": "a,b", "PORT": "9000", "LIMIT": "10", "INITDATA": "x", "TAGS": "team=a,cost=b"},
        "secret": {"AWS_KEY": "k"},
        "feature_gates": {"confidential": "true", "deploymentMode": "DaemonSet"},
        "problems": [],
    }


def test_the_limit_of_an_existing_config_map_is_kept():
    assert settings(LIMIT, objects=[existing("ConfigMap", "peer-pods-cm")])["config_map"] == {}


def test_credentials_of_a_credentials_request():
    planned = settings(credentials_from="credentials_request", credentials=[row("AWS_KEY", "", remedy="Set it.")])
    assert (planned["secret"], planned["problems"]) == ({}, [])


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([row("VPC", "", remedy="Set it.")], {}, "role_vpc is empty. Set it."),
        ([row("IDS", [], remedy="Set them.")], {}, "role_ids is empty. Set them."),
        (
            [row("IDS", ["sg-1", "x"], pattern="sg-[0-9]+", expected="IDs of security groups")],
            {},
            "role_ids must be IDs of security groups; got 'x'.",
        ),
        ([row("PORT", 70000, pattern="[0-9]{1,4}", expected="a port")], {}, "role_port must be a port; got '70000'."),
        ([], {"credentials": [row("KEY", "", remedy="Set it.")]}, "role_key is empty. Set it."),
        ([], {"feature_gates": {"confidential": "yes"}}, "must be one of true, false; got 'yes'"),
        ([], {"feature_gates": {"caaUpdateStrategy": "ondelete"}}, "must be one of RollingUpdate, OnDelete"),
        ([], {"feature_gates": {"no-gate": True}}, "'no-gate' in operator_install_feature_gates is not the name"),
        ([], {"tags": {"team": "a,b"}}, "The tag 'team' in operator_install_tags has a comma"),
        ([], {"tags": {"a=b": "c"}}, "The tag 'a=b' in operator_install_tags has a comma"),
        ([], {"extra_config": {"tags": "x"}}, "tags in operator_install_extra_config is not a key of peer-pods-cm"),
        ([row("PORT", 9000)], {"extra_config": {"PORT": 1}}, "PORT in operator_install_extra_config is set by another"),
        ([], {"extra_config": {"AWS_KEY": "x"}}, "AWS_KEY in operator_install_extra_config is a credential"),
        ([], {"extra_config": {"A": {"b": 1}}}, "A in operator_install_extra_config is not a single value"),
        ([], {"extra_config": {"A": None}}, "A in operator_install_extra_config is not a single value"),
        (
            [],
            {"extra_config": {"DISABLECVM": True}, "feature_gates": {"confidential": True}},
            "contradicts the feature gate confidential",
        ),
        (
            [],
            {"objects": [existing("OperatorGroup", "a"), existing("OperatorGroup", "b")]},
            "Namespace osc has the OperatorGroups a, b.",
        ),
        (
            [],
            {"objects": [existing("Secret", "peer-pods-secret", **REQUESTED)]},
            "The operator created peer-pods-secret from a CredentialsRequest",
        ),
        (
            [],
            {"objects": [existing("Secret", "peer-pods-secret")], "credentials_from": "credentials_request"},
            "peer-pods-secret was not created from a CredentialsRequest",
        ),
        ([], {"feature_gates": {"layeredImageDeployment": True}}, "needs the ConfigMap layered-image-deploy-cm"),
    ],
)
def test_invalid_settings_have_a_problem(rows: list[dict], options: dict, expected: str):
    (problem,) = settings(*rows, **options)["problems"]
    assert expected in problem


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([row("IMAGE", "", pattern="ami-.*", expected="an AMI")], {}),
        ([row("BOOT", "")], {"extra_config": {"BOOT": "true"}}),
        ([], {"extra_config": {"DISABLECVM": False}, "feature_gates": {"confidential": True}}),
        ([], {"feature_gates": {"newerGate": "x"}}),
        ([], {"objects": [existing("OperatorGroup", "a"), existing("Secret", "peer-pods-secret")]}),
        (
            [],
            {
                "objects": [existing("Secret", "peer-pods-secret", **REQUESTED)],
                "credentials_from": "credentials_request",
            },
        ),
        ([], {"feature_gates": {"layeredImageDeployment": True}, "objects": [existing("KataConfig", "k")]}),
        (
            [],
            {
                "feature_gates": {"layeredImageDeployment": True},
                "objects": [existing("ConfigMap", "layered-image-deploy-cm")],
            },
        ),
    ],
)
def test_valid_settings_have_no_problem(rows: list[dict], options: dict):
    assert settings(*rows, **options)["problems"] == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {"key": "PODVM_AMI_ID", "id": ""}),
        ({"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0"}, {"key": "PODVM_AMI_ID", "id": "ami-0"}),
        ({"CLOUD_PROVIDER": "azure", "AZURE_IMAGE_ID": "/i"}, {"key": "AZURE_IMAGE_ID", "id": "/i"}),
    ],
)
def test_the_image_of_the_pod_vms(data: dict | None, expected: dict):
    assert pod_vm_image(data and {"data": data}) == expected
