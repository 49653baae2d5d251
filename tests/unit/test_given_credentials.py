"""When the credentials that are given to cloud-api-adaptor are checked: when a run would write them."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from tests.support import ROOT

SECRET = {"kind": "Secret", "name": "peer-pods-secret"}
OTHERS = [{"kind": "Secret", "name": "ssh-key-secret"}, {"kind": "ConfigMap", "name": "peer-pods-secret"}]


@pytest.mark.parametrize("credentials", [None, {"secret": "given"}])
@pytest.mark.parametrize(
    ("options", "objects", "expected"),
    [
        ([], [], True),
        ([], OTHERS, True),
        # The environment does not replace what it has.
        ([], [SECRET], False),
        (["operator_install_aws_access_key_id"], [SECRET], True),
    ],
)
def test_what_the_cluster_has_is_not_checked(credentials: dict | None, options: list, objects: list, expected: bool):
    """Also if the facts about credentials could not be read, for which a user needs other permissions."""
    tasks = yaml.safe_load((ROOT / "roles/cluster_prerequisites/tasks/main.yml").read_text())
    (task,) = (each for each in tasks if each["name"] == "Check the credentials that are given to cloud-api-adaptor")
    variables = {
        "cluster_prerequisites_given_set": options,
        "cluster_prerequisites_operator": {"objects": objects},
        "cluster_prerequisites_cluster": {"details": {"credentials": credentials}},
        "operator_install_plan": {"credentials": {"way": "given"}, "problems": []},
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    # As Ansible, which makes lists of generators.
    environment.filters["length"] = lambda values: len([*values])
    assert all(environment.compile_expression(each, undefined_to_none=False)(variables) for each in task["when"]) is (
        expected
    )
