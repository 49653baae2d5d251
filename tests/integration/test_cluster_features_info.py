"""cluster_features_info on a cluster without any feature, and then on the same cluster with all features."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.integration.apiserver import requests_of

ALL = {
    "advertisers",
    "console_dashboards",
    "grafana_dashboards",
    "host_network_namespace",
    "operator",
    "operator_webhook",
    "prometheus_rules",
    "service_ca",
    "service_monitors",
    "tls_profile",
}


@pytest.fixture(scope="module")
def plain_cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def gather(plain_cluster: Cluster, run_module):
    """Run the module as a user with all permissions; returns the facts by name."""

    def run(user: str, **options) -> dict:
        kubeconfig = plain_cluster.user_kubeconfig(user, "system:masters")
        result = run_module("cluster_features_info", {"kubeconfig": str(kubeconfig), **options})
        assert result["changed"] is False
        return {name: result[name] for name in ALL if name in result}

    return run


def test_a_cluster_without_any_feature(gather, run_module, plain_cluster: Cluster):
    options = {"kubeconfig": str(plain_cluster.kubeconfig), "namespace": "osc-peerpods"}
    absent_namespace = {"name": "osc-peerpods", "exists": False, "labels": {}}
    assert run_module("cluster_features_info", options)["namespace"] == absent_namespace
    assert gather("all", facts=sorted(ALL)) == {
        **dict.fromkeys(ALL, False),
        "tls_profile": None,
        "advertisers": [],
        "operator": None,
    }


def test_only_the_requested_facts_are_read(plain_cluster: Cluster, run_module):
    """The user is not an administrator and has no permissions for the other facts."""
    plain_cluster.kubectl("create", "clusterrole", "reader", "--verb=get", "--resource=namespaces")
    plain_cluster.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--user=reader")
    kubeconfig = str(plain_cluster.user_kubeconfig("reader"))
    # Every user may read which APIs are served.
    requested = ["service_ca", "service_monitors", "prometheus_rules"]
    run_module("cluster_features_info", {"kubeconfig": kubeconfig, "facts": requested})
    assert sorted(requests_of(plain_cluster, "reader")) == [
        ("get", "/api/v1/namespaces/openshift-service-ca"),
        ("get", "/apis/monitoring.coreos.com/v1"),
    ]
    existing = run_module("cluster_features_info", {"kubeconfig": kubeconfig, "namespace": "default"})
    assert existing["namespace"] == {
        "name": "default",
        "exists": True,
        "labels": {"kubernetes.io/metadata.name": "default"},
    }
    failed = run_module("cluster_features_info", {"kubeconfig": kubeconfig, "facts": ["advertisers"]})
    assert failed["failed"]
    assert "403 Forbidden" in failed["msg"]
    assert "/api/v1/nodes" in failed["msg"]


def test_a_cluster_with_all_features(plain_cluster: Cluster, gather):
    for namespace in ("openshift-service-ca", "openshift-config-managed", "openshift-host-network"):
        plain_cluster.kubectl("create", "namespace", namespace)
    openshift.custom_resource(plain_cluster, "config.openshift.io", "APIServer", scope="Cluster")
    openshift.monitoring(plain_cluster)
    openshift.custom_resource(plain_cluster, "grafana.integreatly.org", "GrafanaDashboard", version="v1beta1")
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
    plain_cluster.apply(api_server, configuration)
    # The API server does not store field managers for an object without fields.
    plain_cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {"pool": "a"}}})
    for manager, resource in (("example-controller", "kata.peerpods.io/vm"), ("curl", "example.com/vm")):
        plain_cluster.merge("node/a", {"status": {"capacity": {resource: "3"}}}, subresource="status", manager=manager)
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

    plain_cluster.apply({**configuration, "webhooks": [*configuration["webhooks"], webhook]})
    assert gather("everything", facts=sorted(ALL)) == everything
    person = {"manager": "curl", "kind": "person", "nodes": ["a"], "summary": "curl on a"}
    assert gather("another", facts=["advertisers"], extended_resource="example.com/vm") == {"advertisers": [person]}

    # The annotation of cloud-api-adaptor counts as long as its pod runs.
    pod = {"spec": {"nodeName": "a", "containers": [{"name": "caa-pod", "image": "caa"}]}}
    plain_cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "adaptor", "namespace": "default"}, **pod}
    )
    uid = plain_cluster.get("pod", "adaptor")["metadata"]["uid"]
    plain_cluster.annotate("node", "a", f"kata.peerpods.io/caa-owner={uid}")
    running = gather("running", facts=["advertisers"])["advertisers"]
    assert [advertiser["manager"] for advertiser in running] == ["cloud-api-adaptor", "example-controller"]
    plain_cluster.delete("pod", "adaptor", "--force", "--grace-period=0")
    assert gather("ended", facts=["advertisers"])["advertisers"] == [controller]

    # In OpenShift, an APIServer without a profile means Intermediate.
    plain_cluster.apply({**api_server, "spec": {"tlsSecurityProfile": None}})
    assert gather("no-profile", facts=["tls_profile"]) == {"tls_profile": None}


def test_a_container_is_found_wherever_it_is(plain_cluster: Cluster, run_module):
    """By what uses it, and by the parts that an interrupted run has left."""
    mark = {"app.kubernetes.io/part-of": "osc.peerpods"}

    def find(**options) -> dict:
        options |= {"kubeconfig": str(plain_cluster.kubeconfig), "role": "node_capacity"}
        return run_module("cluster_features_info", options)["namespace"]

    def budget(namespace: str, labels: dict[str, str]) -> dict:
        metadata = {"name": "budget", "namespace": namespace, "labels": labels}
        return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": {}}

    assert find() == {"name": "osc-peerpods", "exists": False, "labels": {}, "found": [], "problem": None}
    for namespace in ("infra", "left"):
        plain_cluster.kubectl("create", "namespace", namespace)
    plain_cluster.apply(
        budget("left", {**mark, "app.kubernetes.io/name": "peerpods-node-capacity"}),
        budget("infra", {**mark, "app.kubernetes.io/name": "peerpods-webhook"}),
        budget("default", {"app.kubernetes.io/name": "peerpods-node-capacity"}),
    )
    assert find(namespace="infra")["name"] == "left"
    plain_cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "osc-peerpods-node-capacity", "labels": mark},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "none"},
            "subjects": [{"kind": "ServiceAccount", "name": "peerpods-node-capacity", "namespace": "infra"}],
        }
    )
    found = find(namespace="left")
    assert (found["name"], found["found"]) == ("infra", ["infra", "left"])
    assert "is set to left, but this collection has deployed it in infra." in found["problem"]


def test_an_operator_of_the_second_generation(plain_cluster: Cluster, gather):
    """Without OLM, the objects of the operator show its version."""
    label = {"name": "osc-caa-ds"}
    plain_cluster.kubectl("create", "namespace", "operator")
    plain_cluster.apply(
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


def test_unknown_facts_are_rejected(plain_cluster: Cluster, run_module):
    failed = run_module("cluster_features_info", {"kubeconfig": str(plain_cluster.kubeconfig), "facts": ["weather"]})
    assert failed["failed"]
    assert "value of facts must be one or more of" in failed["msg"]
