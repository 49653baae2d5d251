from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.permissions import TEARDOWN, needed

SERVED = {"monitoring.coreos.com"}
DELETE_KATA_CONFIGS = ("kataconfiguration.openshift.io", "kataconfigs")
DELETE_MONITORS = ("monitoring.coreos.com", "servicemonitors")
PATCH_NODES = ("", "nodes/status")


@pytest.mark.parametrize(
    ("tags", "includes", "excludes"),
    [
        (["all"], [DELETE_KATA_CONFIGS, DELETE_MONITORS, PATCH_NODES], []),
        (["webhook"], [DELETE_MONITORS], [DELETE_KATA_CONFIGS, PATCH_NODES]),
        (["operator_install"], [DELETE_KATA_CONFIGS], [DELETE_MONITORS, PATCH_NODES]),
        (["cloud_networking"], [("", "nodes")], [DELETE_KATA_CONFIGS, ("*", "*")]),
        (["policy", "node_capacity"], [PATCH_NODES], [DELETE_KATA_CONFIGS]),
    ],
)
def test_a_teardown_needs_the_permissions_of_its_tags(tags: list[str], includes: list, excludes: list):
    permissions = needed("teardown", tags, SERVED)
    assert {*includes} <= permissions.keys()
    assert not {*excludes} & permissions.keys()


def test_kinds_that_the_cluster_does_not_serve_need_no_permission():
    groups = {group for group, _resource in needed("teardown", ["all"], SERVED)}
    assert "monitoring.coreos.com" in groups
    assert "cert-manager.io" not in groups


def test_the_verbs_of_all_tags_are_united():
    assert {*needed("teardown", ["all"], ())["", "configmaps"]} == {"get", "list", "delete", "patch"}


def test_every_tag_is_one_of_the_playbook():
    """cloud_networking has no permissions in the cluster."""
    assert TEARDOWN.keys() == {
        "always",
        "policy",
        "webhook",
        "operator_install",
        "peerpodconfig_rollout",
        "node_capacity",
    }
