from __future__ import annotations

import json

import pytest

from tests.cluster import aws, openshift
from tests.integration.apiserver import requests_of
from tests.integration.site import served_groups, user_of


def test_the_facts_of_the_roles_take_five_requests(cluster, cloud_side, run_module):
    kubeconfig = cluster.user_kubeconfig("cluster-info", "system:masters")
    result = run_module("cluster_info", {"kubeconfig": str(kubeconfig)})

    workers = {worker["name"]: worker for worker in result.pop("workers")}
    for expected in cloud_side.workers:
        assert workers[expected.name] == {
            "name": expected.name,
            "provider_id": expected.provider_id,
            "instance_id": expected.provider_id.rpartition("/")[2],
            "region": aws.REGION,
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
        "cluster_id",
        "version",
        "is_cluster_admin",
        "topology",
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
        "cluster_id": openshift.CLUSTER_ID,
        "version": openshift.VERSION,
        "is_cluster_admin": True,
        "topology": {
            "control_plane": "HighlyAvailable",
            "infrastructure": "HighlyAvailable",
            "control_plane_workers": [],
        },
    }
    assert not result["changed"]
    verbs = [verb for verb, _path in requests_of(cluster, "cluster-info")]
    # The created object is a review, which is not stored.
    assert sorted(verbs) == ["create", "get", "get", "get", "list"]


RUNTIME_CLASS = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "kata-remote"},
    "handler": "kata-remote",
    "overhead": {"podFixed": {"cpu": "250m"}},
}
PACKAGE = {
    "apiVersion": "packages.operators.coreos.com/v1",
    "kind": "PackageManifest",
    "metadata": {"name": "sandboxed-containers-operator", "namespace": "cluster-info"},
    "status": {
        "catalogSource": "mirror",
        "catalogSourceNamespace": "cluster-info",
        "packageName": "sandboxed-containers-operator",
        "defaultChannel": "stable",
        "channels": [{"name": "stable", "currentCSV": "x.v1", "entries": []}],
    },
}
WEBHOOKS = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "cluster-info"},
    "webhooks": [
        {
            "name": name,
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
        }
        for name in ("mwebhook.peerpods.io", "pods.example.com")
    ],
}


def operator_of(namespace: str) -> list[dict]:
    """The objects of an operator of the second generation."""
    metadata = {"namespace": namespace}
    label = {"name": "osc-caa-ds"}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {**metadata, "name": "osc-caa-ds"},
            "spec": {
                "selector": {"matchLabels": label},
                "template": {
                    "metadata": {"labels": label},
                    "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "caa-pod", "image": "caa"}]},
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "peer-pods-cm"},
            "data": {"PEERPODS_LIMIT_PER_NODE": "ten", "AWS_SG_IDS": "sg-1,sg-2"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "peerpods-limits"},
            "data": {"default": "ten"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "osc-feature-gates"},
            "data": {"caaUpdateStrategy": "OnDelete"},
        },
    ]


@pytest.fixture
def with_peer_pods(cluster, cloud_side):
    """A cluster with an object for each detail; yields the name of the advertising node."""
    name = cloud_side.workers[0].name
    cluster.kubectl("create", "namespace", "cluster-info")
    cluster.apply(
        RUNTIME_CLASS,
        PACKAGE,
        {**PACKAGE, "metadata": {**PACKAGE["metadata"], "name": "another"}},
        WEBHOOKS,
        *operator_of("cluster-info"),
    )
    cluster.merge(
        f"node/{name}",
        {"status": {"capacity": {"kata.peerpods.io/vm": "3"}}},
        subresource="status",
        manager="example-controller",
    )
    cluster.annotate("node", name, "kata.peerpods.io/caa-owner=x")
    yield name
    cluster.annotate("node", name, "kata.peerpods.io/caa-owner-")
    cluster.merge(f"node/{name}", {"status": {"capacity": {"kata.peerpods.io/vm": None}}}, subresource="status")
    cluster.delete("mutatingwebhookconfiguration/cluster-info", "runtimeclass/kata-remote")
    cluster.delete("namespace", "cluster-info")


def test_details_take_twenty_seven_requests_more(cluster, run_module, with_peer_pods):
    # The API server answers the first request for a new kind with 429, until its storage is ready.
    cluster.get("peerpodconfigs", "-n", "cluster-info")
    cluster.get("imagedigestmirrorsets,imagecontentsourcepolicies")
    kubeconfig = cluster.user_kubeconfig("cluster-info-details", "system:masters")
    result = run_module(
        "cluster_info",
        {
            "kubeconfig": str(kubeconfig),
            "details": True,
            "permissions_for": "site",
            "operator_namespace": "cluster-info",
            "agent_namespace": "cluster-info",
        },
    )
    details = result["details"]
    assert result["missing_permissions"] == []
    assert result["pod_vms"]["security_groups"] == ["sg-1", "sg-2"]
    assert details.pop("operator") == {
        "version": None,
        "known": True,
        "limit_in": "peer-pods-cm",
        "advertiser": "cloud-api-adaptor",
        "daemon_set": "osc-caa-ds",
        "limit": "ten",
        "update_strategy": "OnDelete",
        "strategy_is_held": False,
        "deployment_mode": None,
        "has_proxy": False,
        "has_initdata": False,
        "peer_pod_configs": [],
        "older_daemon_set_of": None,
    }
    assert details.pop("placements")["node_capacity"] == {"namespace": None, "problem": None}
    assert details.pop("limits") == {
        "namespace": "cluster-info",
        "agent_deployed": False,
        "pools": ["default"],
        "problems": ["default of ConfigMap cluster-info/peerpods-limits is 'ten', which is not a valid limit."],
    }
    assert details.pop("kubernetes_version").startswith("v1.")
    pools = {pool["name"]: pool for pool in details.pop("machine_configs")["pools"]}
    assert pools["master"]["machines"] == 3
    assert pools["worker"]["problem"] == ""
    assert details == {
        "credentials": {"mode": "", "issuer": "", "root": None, "secret": None, "secret_is_outdated": False},
        "match_conditions": True,
        "mutating_admission_policy": "v1",
        "validating_admission_policy": True,
        # Tests of other roles may add the APIs.
        "image_builds": served_groups(cluster) >= {"build.openshift.io", "image.openshift.io"},
        # Tests of other roles may add its namespace.
        "service_ca": details["service_ca"],
        "tls_min_version": "VersionTLS12",
        "cert_manager": "cert-manager.io" in served_groups(cluster),
        "webhook_options": {},
        "node_capacity_options": {},
        "runtime_class": {"handler": "kata-remote", "overhead": {"cpu": "250m"}},
        "webhooks": [{"configuration": "cluster-info", "name": "mwebhook.peerpods.io"}],
        # The pod of cloud-api-adaptor that annotated the node does not exist.
        "advertisers": [
            {
                "manager": "example-controller",
                "kind": "controller",
                "nodes": [with_peer_pods],
                "summary": f"example-controller on {with_peer_pods}",
            }
        ],
        "catalogs": [
            {
                "name": "mirror",
                "namespace": "cluster-info",
                "channels": ["stable"],
                "heads": {"stable": "x.v1"},
                "default_channel": "stable",
            }
        ],
        "subscription": None,
        "proxy": {"http_proxy": None, "https_proxy": None, "no_proxy": [], "trusted_ca": None},
        "mirrors": [],
        "disabled_catalogs": [],
        "aro": None,
        "unread": {},
    }
    verbs = [verb for verb, _path in requests_of(cluster, "cluster-info-details")]
    # The count does not include the requests for /version and /apis, which kubernetes.core sends as well. The last one
    # lists the pods, because of the annotation of cloud-api-adaptor.
    assert sorted(verbs) == ["create"] + ["get"] * 19 + ["list"] * 11


def test_the_topology_the_proxy_and_the_mirrors(cluster, cloud_side, run_module):
    """A single node behind a proxy, with mirrors and without the default catalogs."""
    mirrors = [{"source": "registry.redhat.io", "mirrors": ["mirror.example.com:5000"]}]
    mirror_sets = [
        {
            "apiVersion": "config.openshift.io/v1",
            "kind": "ImageDigestMirrorSet",
            "metadata": {"name": "cluster-info"},
            "spec": {"imageDigestMirrors": mirrors},
        },
        {
            "apiVersion": "operator.openshift.io/v1alpha1",
            "kind": "ImageContentSourcePolicy",
            "metadata": {"name": "cluster-info"},
            "spec": {"repositoryDigestMirrors": [{**mirrors[0], "source": "quay.io/team"}]},
        },
    ]
    node, label = cloud_side.workers[0].name, "node-role.kubernetes.io/master"
    proxy = {"httpsProxy": "http://me:hush@proxy:3128", "noProxy": ".svc,10.0.0.0/16"}
    cluster.apply(*mirror_sets)
    cluster.label("node", node, f"{label}=")
    openshift.set_status(cluster, "infrastructure/cluster", {"controlPlaneTopology": "SingleReplica"})
    openshift.set_status(cluster, "proxy/cluster", proxy)
    cluster.merge("operatorhub/cluster", {"spec": {"disableAllDefaultSources": True}})
    cluster.merge("machineconfigpool/worker", {"spec": {"paused": True}})
    try:
        result = run_module("cluster_info", {"kubeconfig": str(cluster.kubeconfig), "details": True})
    finally:
        cluster.delete("imagedigestmirrorset/cluster-info", "imagecontentsourcepolicy/cluster-info")
        cluster.label("node", node, f"{label}-")
        openshift.set_status(cluster, "infrastructure/cluster", {"controlPlaneTopology": "HighlyAvailable"})
        openshift.set_status(cluster, "proxy/cluster", dict.fromkeys(proxy))
        cluster.merge("operatorhub/cluster", {"spec": {"disableAllDefaultSources": None}})
        cluster.merge("machineconfigpool/worker", {"spec": {"paused": False}})
    assert result["topology"]["control_plane"] == "SingleReplica"
    assert [entry["name"] for entry in result["topology"]["control_plane_workers"]] == [node]
    details = result["details"]
    assert details["proxy"]["https_proxy"] == "http://***@proxy:3128"
    assert details["proxy"]["no_proxy"] == [".svc", "10.0.0.0/16"]
    assert {entry["source"] for entry in details["mirrors"]} == {"registry.redhat.io", "quay.io/team"}
    assert "redhat-operators" in details["disabled_catalogs"]
    assert any(pool["paused"] and "is paused" in pool["problem"] for pool in details["machine_configs"]["pools"])
    assert "hush" not in json.dumps(result)


def test_the_permissions_for_a_site_are_enough_to_read_the_details(cluster, run_module):
    kubeconfig = str(user_of(cluster, "site"))
    result = run_module("cluster_info", {"kubeconfig": kubeconfig, "details": True, "permissions_for": "site"})
    cluster.delete("clusterrole,clusterrolebinding", "site")
    assert (result["missing_permissions"], result["details"]["unread"]) == ([], {})


def test_details_of_a_user_with_few_permissions(cluster, run_module):
    """Details that the user cannot read are null, and the missing permissions are returned."""
    for verb, resource in (
        ("get", "infrastructures.config.openshift.io,clusterversions.config.openshift.io"),
        ("list,create", "nodes,namespaces"),
        ("get", "runtimeclasses.node.k8s.io"),
    ):
        role = f"cluster-info-{resource.partition('.')[0].partition(',')[0]}"
        cluster.kubectl("create", "clusterrole", role, f"--verb={verb}", f"--resource={resource}")
        cluster.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", "--user=cluster-info-little")
    kubeconfig = cluster.user_kubeconfig("cluster-info-little")
    result = run_module(
        "cluster_info",
        {"kubeconfig": str(kubeconfig), "details": True, "permissions_for": "site"},
    )
    details = result["details"]
    of_openshift = {"machine_configs", "proxy", "mirrors", "operator_hub"}
    of_webhook = {"webhooks", "api_server", "service_ca"}
    unread = {"credentials", "agent", "operator", "subscription", "packages", *of_webhook, *of_openshift}
    assert details["unread"].keys() == unread
    assert details["machine_configs"] is details["proxy"] is details["disabled_catalogs"] is None
    assert "403 Forbidden" in details["unread"]["webhooks"]
    assert not any(result["pod_vms"].values())
    assert details["webhooks"] is details["catalogs"] is details["runtime_class"] is None
    assert details["validating_admission_policy"] is True
    missing = result["missing_permissions"]
    assert "patch deployments.apps" in missing
    assert "patch namespaces" in missing
    assert not {"create namespaces", "list nodes"} & {*missing}
    result = run_module("cluster_info", {"kubeconfig": str(kubeconfig), "permissions_for": "teardown"})
    assert "delete deployments.apps" in result["missing_permissions"]
    assert "list nodes" not in result["missing_permissions"]


def test_a_user_who_may_only_read(cluster, run_module):
    cluster.kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=*.*")
    cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
    kubeconfig = cluster.user_kubeconfig("looker")
    assert run_module("cluster_info", {"kubeconfig": str(kubeconfig)})["is_cluster_admin"] is False


def test_a_node_without_provider_id_and_not_ready_is_returned_as_such(cluster, run_module):
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
            "region": None,
            "zone": None,
            "ready": False,
        }
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No configuration found"),
        ("", "file is empty"),
        ("hello", "this is not a kubeconfig"),
        ("clusters: [", "while parsing"),
        ("{apiVersion: v1, kind: Config, current-context: none, contexts: []}", "name none"),
    ],
)
def test_a_wrong_kubeconfig_is_reported(tmp_path, run_module, content, message):
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    result = run_module("cluster_info", {"kubeconfig": str(kubeconfig)})
    assert result["failed"]
    assert result["msg"].startswith("No cluster is configured: ")
    assert message in result["msg"]
    assert result["msg"].endswith("or set K8S_AUTH_KUBECONFIG or KUBECONFIG.")
    assert "\n" not in result["msg"]


@pytest.mark.parametrize("module", ["cluster_info", "k8s_info"])
@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("options", "ca_cert"),
        ("options", "client_cert"),
        ("options", "client_key"),
        ("cluster", "certificate-authority"),
        ("user", "client-certificate"),
        ("user", "tokenFile"),
    ],
)
def test_a_file_that_does_not_exist_is_reported_with_its_name(cluster, tmp_path, run_module, module, section, setting):
    missing = str(tmp_path / "missing.pem")
    arguments = {"kind": "Node"} if module == "k8s_info" else {}
    if section == "options":
        arguments |= {"host": cluster.server, "api_key": "any", setting: missing}
        if setting == "client_key":
            arguments["client_cert"] = str(cluster.directory / "ca.crt")
    else:
        parts = {"cluster": {"server": cluster.server, "insecure-skip-tls-verify": True}, "user": {}}
        if section == "cluster":
            del parts["cluster"]["insecure-skip-tls-verify"]
        parts[section][setting] = missing
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": parts["cluster"]}],
            "users": [{"name": "u", "user": parts["user"]}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(kubeconfig))
        arguments["kubeconfig"] = str(path)
    result = run_module(module, arguments)
    assert result["failed"]
    assert missing in result["msg"]
    assert "\n" not in result["msg"]


@pytest.mark.parametrize("module", ["cluster_info", "k8s_info"])
def test_a_file_that_is_not_a_certificate_is_reported(cluster, tmp_path, run_module, module):
    path = tmp_path / "ca.crt"
    path.write_text("not a certificate")
    arguments = {"kind": "Node"} if module == "k8s_info" else {}
    result = run_module(module, {"host": cluster.server, "api_key": "any", "ca_cert": str(path), **arguments})
    assert result["failed"]
    assert "the files of ca_cert, client_cert and client_key" in result["msg"]


def test_a_cluster_that_is_down_is_reported(run_module):
    # Port 1 is reserved: no server listens there.
    result = run_module("cluster_info", {"host": "https://127.0.0.1:1", "api_key": "token"})
    assert result["failed"]
    assert "cannot be reached" in result["msg"]
    assert "Connection refused" in result["msg"]


def test_credentials_without_permissions_or_validity_are_reported(cluster, run_module):
    unprivileged = cluster.user_kubeconfig("cluster-info-unprivileged")
    result = run_module("cluster_info", {"kubeconfig": str(unprivileged)})
    assert result["failed"]
    assert '403 Forbidden: infrastructures.config.openshift.io "cluster" is forbidden' in result["msg"]
    assert result["msg"].endswith(
        "Grant cluster-info-unprivileged the verb get on infrastructures.config.openshift.io in the whole cluster, or "
        "log in as a user with that permission, such as one with the role cluster-admin."
    )

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
    assert "Log in again" in result["msg"]
