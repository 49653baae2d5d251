from __future__ import annotations

import pytest

from tests.cluster import aws, openshift
from tests.integration.apiserver import requests_of


def test_what_the_roles_need_in_four_requests(cluster, cloud_side, run_module):
    kubeconfig = cluster.user_kubeconfig("cluster-info", "system:masters")
    result = run_module("cluster_info", {"kubeconfig": str(kubeconfig)})

    workers = {worker["name"]: worker for worker in result.pop("workers")}
    for expected in cloud_side.workers:
        assert workers[expected.name] == {
            "name": expected.name,
            "provider_id": expected.provider_id,
            "instance_id": expected.provider_id.rpartition("/")[2],
            "zone": expected.zone,
            "ready": True,
        }
    facts = {
        "is_openshift",
        "platform",
        "region",
        "resource_group",
        "network_resource_group",
        "cloud_name",
        "subscription_id",
        "infrastructure_name",
        "version",
        "is_cluster_admin",
    }
    assert {key: result[key] for key in facts} == {
        "is_openshift": True,
        "platform": "AWS",
        "region": aws.REGION,
        "resource_group": None,
        "network_resource_group": None,
        "cloud_name": None,
        "subscription_id": None,
        "infrastructure_name": openshift.INFRASTRUCTURE_NAME,
        "version": openshift.VERSION,
        "is_cluster_admin": True,
    }
    assert not result["changed"]
    verbs = [verb for verb, _path in requests_of(cluster, "cluster-info")]
    # What is created is a review, which is answered and not stored.
    assert sorted(verbs) == ["create", "get", "get", "list"]


def test_a_user_who_may_only_look(cluster, run_module):
    cluster.kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=*.*")
    cluster.kubectl(
        "create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker"
    )
    kubeconfig = cluster.user_kubeconfig("looker")
    assert run_module("cluster_info", {"kubeconfig": str(kubeconfig)})["is_cluster_admin"] is False


def test_a_node_without_provider_id_and_not_ready_is_returned_as_that(cluster, run_module):
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "no-provider", "labels": {"pool": "no-provider"}},
        }
    )
    result = run_module(
        "cluster_info",
        {"kubeconfig": str(cluster.kubeconfig), "worker_selector": "pool=no-provider"},
    )
    assert result["workers"] == [
        {
            "name": "no-provider",
            "provider_id": None,
            "instance_id": None,
            "zone": None,
            "ready": False,
        }
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No configuration found"),
        ("", "file is empty"),
        ("hello", "this is no kubeconfig"),
        ("clusters: [", "while parsing"),
        ("{apiVersion: v1, kind: Config, current-context: none, contexts: []}", "name none"),
    ],
)
def test_a_wrong_kubeconfig_ends_in_a_sentence(tmp_path, run_module, content, said):
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    result = run_module("cluster_info", {"kubeconfig": str(kubeconfig)})
    assert result["failed"]
    assert result["msg"].startswith("No cluster to talk to: ")
    assert said in result["msg"]
    assert result["msg"].endswith("or set K8S_AUTH_KUBECONFIG or KUBECONFIG.")
    assert "\n" not in result["msg"]


def test_a_cluster_that_is_down_ends_in_a_sentence(run_module):
    # Port 1 is reserved and nobody's.
    result = run_module("cluster_info", {"host": "https://127.0.0.1:1", "api_key": "token"})
    assert result["failed"]
    assert "cannot be reached" in result["msg"]
    assert "Connection refused" in result["msg"]


def test_credentials_without_rights_and_without_validity_end_in_a_sentence(cluster, run_module):
    nobody = cluster.user_kubeconfig("cluster-info-nobody")
    result = run_module("cluster_info", {"kubeconfig": str(nobody)})
    assert result["failed"]
    assert (
        '403 Forbidden: infrastructures.config.openshift.io "cluster" is forbidden' in result["msg"]
    )
    assert result["msg"].endswith("Log in as a user with the cluster-admin role.")

    result = run_module(
        "cluster_info",
        {
            "host": cluster.server,
            "api_key": "expired",
            "ca_cert": str(cluster.directory / "ca.crt"),
        },
    )
    assert result["failed"]
    assert "401 Unauthorized" in result["msg"]
    assert "log in again" in result["msg"]
