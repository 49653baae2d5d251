"""The findings about the topology, as tables: each row changes one reading of a cluster without problems."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.findings import findings

from tests.unit.module_utils._preflight.test_findings import (
    AWS,
    AZURE,
    UNREAD,
    WORKER,
    detail,
    finding_of,
    installed,
    operator,
    pool,
    unread,
    with_changes,
)

NAME = "demo-7x2kq"
NEW = detail("runtime_class", None)
# No operator is installed, and the catalog has a release.
NOT_INSTALLED = [NEW, detail("operator", None), operator("1.13.0")]


def control_plane(topology: str) -> tuple:
    return ("cluster", "topology", "control_plane", topology)


def pools(*entries: dict, served: bool = True) -> tuple:
    return detail("machine_configs", {"served": served, "pools": list(entries)})


def setting(name: str, value: object) -> tuple:
    return ("settings", name, value)


WITHOUT_POOLS = detail("machine_configs", {"served": False, "pools": None})
HOSTED = [control_plane("External"), WITHOUT_POOLS]
SINGLE = [control_plane("SingleReplica"), pools(pool("master", 1), pool("worker", 0))]
COMPACT = [pools(pool("master"), pool("worker", 0))]
SHARED = (
    "cluster",
    "topology",
    "control_plane_workers",
    [{"name": "a", "labels": {"node-role.kubernetes.io/master": "", "zone": "1"}}],
)
ALL_SHARED = [SHARED, ("cluster", "workers", [{**WORKER, "name": "a"}])]
CONFIRMED = setting("confirm", NAME)
DAEMON_SET = setting("deployment_mode", "DaemonSet")
BROKEN = {"problem": "MachineConfigPool worker is degraded: disk full."}
PAUSED = {"paused": True, "problem": "MachineConfigPool worker is paused: no node is rolled."}

PROXY = {"http_proxy": "http://proxy:3128", "https_proxy": "http://proxy:3128", "no_proxy": [], "trusted_ca": None}
WITH_PROXY = detail("proxy", PROXY)
WITH_CA = detail("proxy", {**PROXY, "trusted_ca": "user-ca-bundle"})
ONLY_CA = detail("proxy", {"http_proxy": None, "https_proxy": None, "no_proxy": [], "trusted_ca": "user-ca-bundle"})
OLD = installed(version="1.12.0")
INITDATA = setting("extra_keys", ["INITDATA"])

REDHAT = {"source": "registry.redhat.io", "mirrors": ["mirror:5000"]}
TEAM = {"source": "quay.io/team", "mirrors": ["mirror:5000/team"]}


@pytest.mark.parametrize(
    ("check", "changes", "status", "message"),
    [
        ("control-plane", [], "ok", "has nodes of its own"),
        ("control-plane", [SHARED], "ok", "Nodes of the control plane are also workers: a."),
        ("control-plane", COMPACT, "ok", "a compact cluster"),
        ("control-plane", SINGLE, "ok", "has a single node"),
        ("control-plane", HOSTED, "ok", "hosted outside of the cluster"),
        ("control-plane", [*HOSTED, *NOT_INSTALLED], "warning", "on AWS, as a Technology Preview"),
        ("control-plane", [unread("machine_configs")], "unknown", UNREAD),
        # How kata is installed.
        ("kata-rollout", [], "ok", "join the MachineConfigPool kata-oc and are rebooted one after the other"),
        ("kata-rollout", [unread("machine_configs")], "unknown", UNREAD),
        ("kata-rollout", [*HOSTED, *NOT_INSTALLED], "ok", "without a reboot"),
        ("kata-rollout", [DAEMON_SET], "ok", "without a reboot"),
        (
            "kata-rollout",
            [*HOSTED, NEW, detail("operator", None), operator("1.12.1")],
            "error",
            "Operator 1.12.1 watches MachineConfigPools, which this cluster does not serve: it stops. Install operator",
        ),
        (
            "kata-rollout",
            [*HOSTED, NEW, detail("operator", None), setting("starting_csv", "sandboxed-containers-operator.v1.9.0")],
            "error",
            "Operator 1.9.0 watches MachineConfigPools",
        ),
        (
            "kata-rollout",
            [*HOSTED, NEW, installed(deployment_mode="MachineConfig")],
            "error",
            "would install kata by a MachineConfig, and this cluster has no MachineConfigPools that apply it. Set",
        ),
        # The options have precedence over what the cluster has.
        ("kata-rollout", [*HOSTED, NEW, installed(deployment_mode="MachineConfig"), DAEMON_SET], "ok", "DaemonSet"),
        # What runs is not stopped.
        ("kata-rollout", [*HOSTED, OLD], "warning", "it stops"),
        ("kata-rollout", [*HOSTED, *NOT_INSTALLED, setting("installs", False), OLD], "warning", "it stops"),
        # A reboot of the control plane.
        (
            "kata-rollout",
            [*SINGLE, *NOT_INSTALLED],
            "error",
            f"all its pods are down until the node is back. Set operator_install_confirm to {NAME}",
        ),
        ("kata-rollout", [*COMPACT, *NOT_INSTALLED], "error", "reboots the 3 nodes of the control plane"),
        ("kata-rollout", [*COMPACT, *NOT_INSTALLED, setting("confirm", "another")], "error", "reboots the 3 nodes"),
        ("kata-rollout", [*COMPACT, *NOT_INSTALLED, CONFIRMED], "ok", "For a new, changed or deleted KataConfig: The"),
        ("kata-rollout", [*SINGLE, *NOT_INSTALLED, DAEMON_SET], "ok", "without a reboot"),
        ("kata-rollout", COMPACT, "ok", "reboots the 3 nodes"),
        ("kata-rollout", [*COMPACT, *NOT_INSTALLED, setting("installs", False)], "ok", "reboots the 3 nodes"),
        # Nodes of the control plane in a pool of workers.
        (
            "kata-rollout",
            [SHARED, *NOT_INSTALLED],
            "error",
            "would wait for them without end. Set operator_install_kataconfig_pool_selector",
        ),
        ("kata-rollout", [SHARED, *NOT_INSTALLED, setting("pool_selector", {"zone": "2"})], "ok", "kata-oc"),
        ("kata-rollout", [SHARED, *NOT_INSTALLED, DAEMON_SET], "ok", "without a reboot"),
        ("kata-rollout", [SHARED], "ok", "kata-oc"),
        (
            "kata-rollout",
            [*ALL_SHARED, pools(pool("master"), pool("worker", 0), pool("infra", 0)), *NOT_INSTALLED],
            "error",
            "only if the MachineConfigPools master and worker are the only ones: delete infra, or set deploymentMode",
        ),
        # Pools that are not updated.
        ("machine-config-pools", [], "ok", "The nodes of worker are updated, and no pool is paused"),
        ("machine-config-pools", HOSTED, "ok", "serves no MachineConfigPools"),
        (
            "machine-config-pools",
            [DAEMON_SET, pools(pool("worker", **BROKEN))],
            "ok",
            "does not use MachineConfigPools",
        ),
        ("machine-config-pools", [unread("machine_configs")], "unknown", UNREAD),
        ("machine-config-pools", [pools(pool("worker", **BROKEN))], "warning", "worker is degraded: disk full. Fix"),
        ("machine-config-pools", [pools(pool("worker", **BROKEN)), *NOT_INSTALLED], "error", "degraded: disk full"),
        (
            "machine-config-pools",
            [pools(pool("worker", **BROKEN)), *NOT_INSTALLED, setting("pool_selector", {"kata": "yes"})],
            "warning",
            "degraded: disk full",
        ),
        # Nodes leave a paused pool.
        ("machine-config-pools", [pools(pool("worker", **PAUSED)), *NOT_INSTALLED], "warning", "worker is paused"),
        (
            "machine-config-pools",
            [pools(pool("worker"), pool("kata-oc", **PAUSED)), *NOT_INSTALLED],
            "error",
            "is paused",
        ),
        (
            "machine-config-pools",
            [pools(pool("master", **PAUSED), pool("worker", 0)), *NOT_INSTALLED, CONFIRMED],
            "error",
            "is paused",
        ),
        ("machine-config-pools", [pools(pool("master", **PAUSED), pool("worker")), *NOT_INSTALLED], "ok", "updated"),
        ("machine-config-pools", [pools(pool("worker"), pool("infra", **BROKEN)), *NOT_INSTALLED], "ok", "updated"),
        (
            "machine-config-pools",
            [pools(pool("worker", updating=True, updated=1))],
            "warning",
            "updating the MachineConfigPool worker (1 of 3 nodes). Wait",
        ),
        # The proxy.
        ("proxy", [], "ok", "no cluster-wide proxy"),
        ("proxy", [unread("proxy")], "unknown", UNREAD),
        ("proxy", [ONLY_CA], "ok", "ConfigMap user-ca-bundle has further"),
        (
            "proxy",
            [WITH_PROXY],
            "warning",
            "uses the proxy http://proxy:3128. The VMs of peer pods do not use it. If the subnet",
        ),
        ("proxy", [WITH_CA], "warning", "image_pull_proxy and extra_root_certificates in its cdh.toml"),
        ("proxy", [WITH_PROXY, INITDATA], "ok", "http://proxy:3128"),
        ("proxy", [WITH_PROXY, installed(has_initdata=True)], "ok", "http://proxy:3128"),
        ("proxy", [WITH_PROXY, INITDATA, OLD], "warning", "Operator 1.12.0 does not pass it to cloud-api-adaptor. Set"),
        ("proxy", [WITH_PROXY, INITDATA, installed(version="1.12.0", has_proxy=True)], "ok", "http://proxy:3128"),
        ("proxy", [WITH_PROXY, OLD, setting("extra_keys", ["INITDATA", "HTTPS_PROXY"])], "ok", "http://proxy:3128"),
        ("proxy", [WITH_PROXY, INITDATA, installed(version=None)], "ok", "http://proxy:3128"),
        # Mirrors.
        ("mirrors", [], "ok", "no image mirrors"),
        ("mirrors", [unread("mirrors")], "unknown", UNREAD),
        ("mirrors", [unread("operator_hub")], "unknown", UNREAD),
        (
            "mirrors",
            [detail("mirrors", [TEAM])],
            "warning",
            "Images of quay.io/team come from mirrors. Name the images",
        ),
        ("mirrors", [detail("mirrors", [TEAM]), INITDATA], "ok", "quay.io/team"),
        ("mirrors", [detail("disabled_catalogs", ["community-operators"])], "ok", "disabled: community-operators"),
        (
            "mirrors",
            [detail("disabled_catalogs", ["redhat-operators"]), detail("mirrors", [TEAM]), INITDATA],
            "warning",
            "Images of registry.redhat.io/openshift-sandboxed-containers have no mirror. Mirror the operator",
        ),
        (
            "mirrors",
            [detail("disabled_catalogs", ["redhat-operators"]), detail("mirrors", [REDHAT]), INITDATA],
            "ok",
            "Images of registry.redhat.io come from mirrors. Default catalogs are disabled: redhat-operators.",
        ),
    ],
)
def test_findings_about_the_topology(check, changes, status, message):
    found = finding_of(with_changes(AWS, *changes), check)
    assert found["status"] == status
    assert message in f"{found['why']} {found['found']} {found['fix']}"
    assert bool(found["why"]) == bool(found["fix"]) == (status in ("warning", "error"))


def test_a_similar_name_is_not_the_registry_of_the_operator():
    mirrors = detail("mirrors", [{"source": "registry.redhat.io/openshift-sandboxed", "mirrors": ["m"]}])
    readings = with_changes(AWS, mirrors, detail("disabled_catalogs", ["redhat-operators"]))
    assert "have no mirror" in finding_of(readings, "mirrors")["found"]


ARO = detail("aro", {"resource_group": "demo-RG", "manages_nsgs": True})
CREATES = [
    ("settings", "credentials", "requested", "token"),
    ("settings", "credentials", "token", ["operator_install_create_identity"]),
]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ([ARO], "ok", "manages the resource group demo-RG. It attaches its own network security group"),
        ([ARO, *NOT_INSTALLED], "warning", "would be created in it. Set operator_install_azure_resource_group"),
        ([ARO, *NOT_INSTALLED, setting("azure_resource_group", "mine")], "ok", "demo-RG"),
        ([ARO, *NOT_INSTALLED, setting("azure_resource_group", "DEMO-rg")], "warning", "demo-RG"),
        # The identity of the cluster is excepted from the deny assignment.
        ([ARO, *NOT_INSTALLED, ("settings", "credentials", "requested", "credentials_request")], "ok", "demo-RG"),
        (
            [detail("aro", {"resource_group": None, "manages_nsgs": False}), *NOT_INSTALLED],
            "warning",
            "demo-rg. The VMs",
        ),
        # No role can be assigned in it.
        ([ARO, *NOT_INSTALLED, *CREATES], "error", "The VMs of peer pods and their identity would be created in it."),
        ([ARO, *CREATES], "ok", "demo-RG"),
        ([ARO, *NOT_INSTALLED, *CREATES, setting("azure_resource_group", "mine")], "warning", "would get it as well."),
        (
            [ARO, *NOT_INSTALLED, *CREATES, setting("azure_resource_group", "mine"), setting("azure_nsg", "/own")],
            "ok",
            "demo-RG",
        ),
        ([unread("aro")], "unknown", UNREAD),
    ],
)
def test_findings_about_azure_red_hat_openshift(changes, status, message):
    found = finding_of(with_changes(AZURE, *changes), "aro")
    assert found["status"] == status
    assert message in f"{found['found']} {found['fix']}"


def test_hosted_control_planes_on_azure_are_not_documented():
    readings = with_changes(AZURE, *HOSTED, *NOT_INSTALLED)
    assert "on hosted control planes on AWS only" in finding_of(readings, "control-plane")["why"]


def test_another_kubernetes_has_no_topology_of_openshift():
    checks = {finding["check"] for finding in findings(with_changes(AWS, ("cluster", "is_openshift", False)))}
    assert not checks & {"control-plane", "kata-rollout", "machine-config-pools", "proxy", "mirrors", "aro"}
