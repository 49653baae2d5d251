"""cluster_features_info on a cluster without any feature, and then on the same cluster with all features."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.integration.apiserver import requests_of

pytestmark = pytest.mark.integration

ALL = {
    "advertisers",
    "console_dashboards",
    "grafana_dashboards",
    "operator",
    "operator_webhook",
    "prometheus_rules",
    "service_ca",
    "service_monitors",
    "tls_profile",
}


@pytest.fixture(scope="module")
def bare() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def gather(bare: Cluster, run_module):
    """Run the module as a user with all permissions; returns the facts by name."""

    def run(user: str, **options) -> dict:
        kubeconfig = bare.user_kubeconfig(user, "system:masters")
        result = run_module("cluster_features_info", {"kubeconfig": str(kubeconfig), **options})
        assert result["changed"] is False
        return {name: result[name] for name in ALL if name in result}

    return run


def test_a_cluster_without_any_feature(gather, run_module, bare: Cluster):
    options = {"kubeconfig": str(bare.kubeconfig), "namespace": "osc-peerpods"}
    nothing = {"exists": False, "labels": {}}
    assert run_module("cluster_features_info", options)["namespace"] == nothing
    assert gather("all", facts=sorted(ALL)) == {
        **dict.fromkeys(ALL, False),
        "tls_profile": None,
        "advertisers": [],
        "operator": None,
    }


def test_only_the_requested_facts_are_read(bare: Cluster, run_module):
    """The user is not an administrator and has no permissions for the other facts."""
    bare.kubectl("create", "clusterrole", "reader", "--verb=get", "--resource=namespaces")
    bare.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--user=reader")
    kubeconfig = str(bare.user_kubeconfig("reader"))
    # Every user may read which APIs are served.
    wanted = ["service_ca", "service_monitors", "prometheus_rules"]
    run_module("cluster_features_info", {"kubeconfig": kubeconfig, "facts": wanted})
    assert sorted(requests_of(bare, "reader")) == [
        ("get", "/api/v1/namespaces/openshift-service-ca"),
        ("get", "/apis/monitoring.coreos.com/v1"),
    ]
    there = run_module("cluster_features_info", {"kubeconfig": kubeconfig, "namespace": "default"})
    assert there["namespace"] == {
        "exists": True,
        "labels": {"kubernetes.io/metadata.name": "default"},
    }
    failed = run_module("cluster_features_info", {"kubeconfig": kubeconfig, "facts": ["advertisers"]})
    assert failed["failed"]
    assert "403 Forbidden" in failed["msg"]
    assert "/api/v1/nodes" in failed["msg"]


def test_a_cluster_with_all_features(bare: Cluster, gather):
    for namespace in ("openshift-service-ca", "openshift-config-managed"):
        bare.kubectl("create", "namespace", namespace)
    openshift.custom_resource(bare, "config.openshift.io", "APIServer", scope="Cluster")
    openshift.monitoring(bare)
    openshift.custom_resource(bare, "grafana.integreatly.org", "GrafanaDashboard", version="v1beta1")
    api_server = {
        "apiVersion": "config.openshift.io/v1",
        "kind": "APIServer",
        "metadata": {"name": "cluster"},
        "spec": {"tlsSecurityProfile": {"type": "Modern", "modern": {}}},
    }
    webhook = {
        "name": "mwebhook.peerpods.io",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "mutating-webhook-configuration"},
        "webhooks": [{**webhook, "name": "pods.example.com"}],
    }
    bare.apply(api_server, configuration)
    # Of an object without any field the API server keeps no field managers.
    bare.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {"pool": "a"}}})
    for manager, resource in (("example-controller", "kata.peerpods.io/vm"), ("curl", "example.com/vm")):
        bare.merge("node/a", {"status": {"capacity": {resource: "3"}}}, subresource="status", manager=manager)
    controller = {
        "manager": "example-controller",
        "kind": "controller",
        "nodes": ["a"],
        "summary": "example-controller on a",
    }
    everything = {
        **dict.fromkeys(ALL, True),
        "tls_profile": "Modern",
        "advertisers": [controller],
        "operator": None,
    }
    # Other webhooks in a configuration of that name are not the operator's.
    assert gather("others", facts=sorted(ALL)) == {**everything, "operator_webhook": False}

    bare.apply({**configuration, "webhooks": [*configuration["webhooks"], webhook]})
    assert gather("everything", facts=sorted(ALL)) == everything
    person = {"manager": "curl", "kind": "person", "nodes": ["a"], "summary": "curl on a"}
    assert gather("another", facts=["advertisers"], extended_resource="example.com/vm") == {"advertisers": [person]}

    # OpenShift lets an APIServer name no profile, and means Intermediate.
    bare.apply({**api_server, "spec": {"tlsSecurityProfile": None}})
    assert gather("no-profile", facts=["tls_profile"]) == {"tls_profile": None}


def test_an_operator_of_the_second_generation(bare: Cluster, gather):
    """Without OLM, the objects of the operator show its version."""
    label = {"name": "osc-caa-ds"}
    bare.kubectl("create", "namespace", "operator")
    bare.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "osc-caa-ds", "namespace": "operator"},
            "spec": {
                "selector": {"matchLabels": label},
                "template": {
                    "metadata": {"labels": label},
                    "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "caa-pod", "image": "caa"}]},
                },
            },
        }
    )
    assert gather("operator", facts=["operator"], operator_namespace="operator") == {
        "operator": {
            "version": None,
            "known": True,
            "limit_in": "peer-pods-cm",
            "advertiser": "cloud-api-adaptor",
        }
    }


def test_unknown_facts_are_rejected(bare: Cluster, run_module):
    failed = run_module("cluster_features_info", {"kubeconfig": str(bare.kubeconfig), "facts": ["weather"]})
    assert failed["failed"]
    assert "value of facts must be one or more of" in failed["msg"]
