"""The dependencies in the metadata of the collection."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

INSTALLED = Path(sysconfig.get_path("purelib")) / "ansible_collections"
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
RUNTIME = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())

EXTENDED_GROUPS = [
    group
    for actions in RUNTIME["action_groups"].values()
    for action in actions
    if isinstance(action, dict)
    for group in action["metadata"]["extend_group"]
]


def load_runtime(collection: str) -> dict:
    return yaml.safe_load((INSTALLED / collection.replace(".", "/") / "meta" / "runtime.yml").read_text())


@pytest.mark.parametrize("group", EXTENDED_GROUPS)
def test_an_extended_action_group_exists(group: str) -> None:
    """Ansible ignores a group that does not exist."""
    collection, _, name = group.rpartition(".")
    assert collection in GALAXY["dependencies"]
    assert load_runtime(collection)["action_groups"][name]


def test_every_cloud_and_kubernetes_has_an_extended_group() -> None:
    assert {group.rpartition(".")[0] for group in EXTENDED_GROUPS} == {
        "amazon.aws",
        "azure.azcollection",
        "kubernetes.core",
    }


def test_the_execution_environment_leaves_out_the_packages_of_azure() -> None:
    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    assert definition["dependencies"]["exclude"] == {"all_from_collections": ["azure.azcollection"]}
