"""The findings, as tables: each row changes one reading of a cluster without problems."""

from __future__ import annotations

import copy
import re

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import NEEDED_OPENSHIFT
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import TITLES
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.findings import findings

from tests.support import ROOT

WORKER = {"provider_id": "aws:///a/i-1", "region": "eu-central-1", "ready": True}
CATALOG = {
    "name": "redhat-operators",
    "namespace": "openshift-marketplace",
    "channels": ["stable"],
    "heads": {"stable": "sandboxed-containers-operator.v1.10.1"},
    "default_channel": "stable",
}
OVERHEAD = {"handler": "kata-remote", "overhead": {"memory": "350Mi", "cpu": "250m"}}

OPERATOR = {
    "version": "1.13.0",
    "known": True,
    "limit_in": "peer-pods-cm",
    "advertiser": "cloud-api-adaptor",
    "daemon_set": "osc-caa-ds",
    "limit": "10",
    "update_strategy": None,
    "strategy_is_held": False,
    "deployment_mode": None,
    "has_proxy": False,
    "has_initdata": False,
    "peer_pod_configs": None,
    "older_daemon_set_of": None,
}
FIRST_GENERATION = {
    **OPERATOR,
    "version": "1.8.1",
    "limit_in": "PeerPodConfig",
    "advertiser": "peerpodconfig-ctrl",
    "peer_pod_configs": ["peerpodconfig-openshift"],
}


def pool(name: str, machines: int = 3, **fields: object) -> dict:
    """A MachineConfigPool as `describe_pool` describes it."""
    return {
        "name": name,
        "machines": machines,
        "updated": machines,
        "paused": False,
        "updating": False,
        "problem": "",
        **fields,
    }


SETTINGS = {
    "check_cloud_resources": True,
    "minimum": "4.13",
    "worker_selector": "node-role.kubernetes.io/worker",
    "quota": "warn",
    "image_id": "",
    "image_uri": "",
    "image_resources": False,
    "confirm_image": True,
    "limit": 10,
    "installs": True,
    "roles": ["cloud_networking", "operator_install", "webhook", "node_capacity", "peerpodconfig_rollout"],
    "fails": True,
    "images": {"webhook": "registry.example.com/webhook:1", "node_capacity": "registry.example.com/agent:1"},
    "channel": "stable",
    "starting_csv": "",
    "source": "redhat-operators",
    "source_namespace": "openshift-marketplace",
    "webhook_manager": "auto",
    "node_capacity_manager": "auto",
    "on_shadowed": "fail",
    "ports": None,
    "tunnel_port": 9000,
    "credentials": {"requested": "auto", "given": [], "token": []},
    "vm_subnet": "subnet-1",
    "vm_subnet_is_set": False,
    "worker_subnets": ["subnet-1"],
    "azure_nat_gateway": False,
    "public_ip": False,
    "deployment_mode": "",
    "pool_selector": {},
    "confirm": "",
    "extra_keys": [],
    "azure_resource_group": "",
    "azure_nsg": "",
}
CLUSTER = {
    "is_openshift": True,
    "platform": "AWS",
    "region": "eu-central-1",
    "resource_group": None,
    "infrastructure_name": "demo-7x2kq",
    "topology": {"control_plane": "HighlyAvailable", "infrastructure": "HighlyAvailable", "control_plane_workers": []},
    "subscription_id": None,
    "version": "4.16.21",
    "is_cluster_admin": True,
    "missing_permissions": [],
    "pod_vms": {"images": []},
    "workers": [{**WORKER, "name": "a"}, {**WORKER, "name": "b"}],
    "details": {
        "kubernetes_version": "v1.29.6",
        "match_conditions": True,
        "mutating_admission_policy": None,
        "validating_admission_policy": False,
        "image_builds": True,
        "runtime_class": OVERHEAD,
        "webhooks": [],
        "advertisers": [],
        "operator": OPERATOR,
        "limits": {"agent_deployed": False, "problems": []},
        "subscription": None,
        "credentials": {"mode": "", "issuer": "", "root": "mint", "secret": "given", "secret_is_outdated": False},
        "catalogs": [CATALOG],
        "machine_configs": {"served": True, "pools": [pool("master"), pool("worker")]},
        "proxy": {"http_proxy": None, "https_proxy": None, "no_proxy": [], "trusted_ca": None},
        "mirrors": [],
        "disabled_catalogs": [],
        "aro": None,
        "unread": {},
    },
}


def running(used: int, unaccounted: int = 0, pending: int = 0) -> tuple[str, dict]:
    """The change of the readings for that many peer pods on nodes; one without a node is pending as well."""
    starting = [{"node": "a"}] * pending + [{"node": None}]
    return "peer_pods", {"totals": {"used": used, "unaccounted": unaccounted}, "pending": starting}


PORT = {"port": 9000, "protocol": "tcp"}
AWS = {
    "cluster": CLUSTER,
    "settings": SETTINGS,
    "caller": {"account": "1", "arn": "arn:aws:iam::1:user/me"},
    "ports": {
        "reason": "sg-1 (node) is on all 2 instances.",
        "groups": [
            {
                "group_id": "sg-1",
                "opened": [{**PORT, "port": 15150, "direction": direction} for direction in ("ingress", "egress")],
                "already_open": [{**PORT, "covered_by": "the group itself (tcp 9000)"}],
            }
        ],
    },
    "port_permissions": {"groups": []},
    "operator": {"problems": [], "credentials": {"problems": []}, "takes_over": []},
    "sizes": {
        "instance_types": [
            {
                "name": "t3.medium",
                "vcpus": 2,
                "quota_code": "L-1216C47A",
                "quota": 64,
                "used": 24,
                "instances": 20,
                "reason": None,
            }
        ]
    },
    "subnet": {
        "subnet": {"id": "subnet-1", "availability_zone": "eu-central-1a", "free": 200, "reason": None},
        "instance_types": [{"name": "t3.medium", "offered": True}],
        "problems": [],
    },
    # test_network_findings.py has the findings about it.
    "network": {
        "subnets": [{"id": "subnet-1", "availability_zone": "eu-central-1a"}],
        "missing": [],
        "route_table": "rtb-1",
        "default_route": {"target": "nat-1", "kind": "NAT gateway", "active": True},
        "prefix_list_routes": [],
        "public_addresses": False,
        "endpoints": [],
        "denied": [],
        "denied_to_internet": [],
    },
}
# A subnet of Azure is in all zones, and has no network ACL.
ONLY_AWS = {"network-acls", "vm-zone"}
AZURE_WORKER = {**WORKER, "provider_id": "azure:///vm", "region": "westeurope"}
RULES = {"created": [], "updated": [], "covered": [], "unchanged": [], "shadowed": []}
AZURE = {
    "cluster": {
        **CLUSTER,
        "platform": "Azure",
        "region": "westeurope",
        "resource_group": "demo-rg",
        "subscription_id": "sub-1",
        "workers": [{**AZURE_WORKER, "name": "a"}, {**AZURE_WORKER, "name": "b"}],
    },
    "settings": SETTINGS,
    "caller": {},
    "operator": AWS["operator"],
    "ports": {
        "reason": "demo-nsg. Attached to the subnets of all 2 workers.",
        "network_security_groups": [
            {
                **RULES,
                "name": "demo-nsg",
                "created": [{"name": "Allow-Kata-Agent-Internal"}],
                "covered": [{"name": "Allow-VXLAN-Internal", "covered_by": "AllowVnetInBound (65000)"}],
            }
        ],
        "unfiltered": [],
        "unconnected": [],
    },
    "port_permissions": {"network_security_groups": []},
    "sizes": {
        "sizes": [
            {
                "name": "Standard_B2als_v2",
                "family": "standardBasv2Family",
                "vcpus": 2,
                "family_limit": 100,
                "family_used": 0,
                "regional_limit": 100,
                "regional_used": 24,
                "instances": 38,
                "available": True,
                "reason": None,
            }
        ]
    },
    "subnet": {
        "subnet": {"id": "/a/subnets/demo-worker-subnet", "free": 251, "reason": None},
        "problems": [],
    },
    "network": {
        "subnet": "/a/subnets/demo-worker-subnet",
        "way_out": "nat_gateway",
        "nat_gateway": "/a/natGateways/demo-nat",
        "route_table": None,
        "route": None,
        "https_denied_by": [],
    },
}

SKIPPED = {"skipped": True, "changed": False}


def with_changes(readings: dict, *changes: tuple) -> dict:
    """The readings with `changes`, each a path and the new value."""
    readings = copy.deepcopy(readings)
    for *path, last, value in changes:
        parent = readings
        for key in path:
            parent = parent[key]
        parent[last] = value
    return readings


def finding_of(readings: dict, check: str) -> dict:
    (finding,) = [finding for finding in findings(readings) if finding["check"] == check]
    return finding


@pytest.mark.parametrize("readings", [AWS, AZURE], ids=["aws", "azure"])
def test_without_problems_every_check_is_ok(readings):
    all_findings = findings(readings)
    assert {finding["status"] for finding in all_findings} == {"ok"}
    checks = [finding["check"] for finding in all_findings]
    # These are reported only for an invalid limit or option, an unreadable cluster, missing images or ports, a served
    # PeerPodConfig API, a role or managed identity, and Azure Red Hat OpenShift.
    unreported = {"aro", "cluster", "images", "limit", "limit-pools", "migration", "options", "vm-identity"}
    unreported |= {"needed-ports"}
    if readings is AZURE:
        unreported |= ONLY_AWS
    assert sorted(checks) == sorted(TITLES.keys() - unreported)
    for finding in all_findings:
        assert finding.keys() == {"check", "title", "status", "found", "why", "fix"}
        assert finding["found"].endswith(".")
        assert finding["why"] == finding["fix"] == ""


def test_five_problems_are_reported_together():
    readings = with_changes(
        AWS,
        ("cluster", "version", "4.12.9"),
        ("cluster", "is_cluster_admin", False),
        ("cluster", "missing_permissions", ["create namespaces"]),
        ("cluster", "workers", 0, "provider_id", None),
        ("settings", "limit", "many"),
        ("caller", {"msg": "Unable to locate credentials"}),
    )
    errors = [finding for finding in findings(readings) if finding["status"] == "error"]
    assert [finding["check"] for finding in errors] == [
        "version",
        "cluster-admin",
        "provider-ids",
        "limit",
        "cloud-credentials",
    ]
    assert all(finding["why"] and finding["fix"] for finding in errors)


UNREAD = "GET /x was rejected by the API server with 403 Forbidden: no."


def unread(reading: str) -> tuple:
    return ("cluster", "details", "unread", {reading: UNREAD})


def detail(name: str, value: object) -> tuple:
    return ("cluster", "details", name, value)


def installed(**fields: object) -> tuple:
    """The operator of the second generation, with these fields different."""
    return detail("operator", {**OPERATOR, **fields})


OPERATORS = {"configuration": "mutating-webhook-configuration", "name": "mwebhook.peerpods.io"}
OTHER_WEBHOOK = {"configuration": "another-program", "name": "mwebhook.peerpods.io"}
COLLECTIONS = {"configuration": "peerpods-webhook", "name": "mwebhook.peerpods.io"}
CONTROLLER = {"kind": "controller", "manager": "manager", "summary": "manager on a, b"}
ADAPTOR = {
    "kind": "controller",
    "manager": "cloud-api-adaptor",
    "summary": "cloud-api-adaptor on a",
}
AGENT = {
    "kind": "agent",
    "manager": "peerpods-node-capacity",
    "summary": "peerpods-node-capacity on a",
}
TYPE = ("sizes", "instance_types", 0)
NOT_OFFERED = ("subnet", "instance_types", 0, "offered", False)
NO_SUBNET = {"id": "x", "availability_zone": None, "free": None, "reason": "No x."}
SITE = [("settings", "check_cloud_resources", False), *((name, {"skipped": True}) for name in ("ports", "sizes"))]
MANY = [{**WORKER, "name": f"n{index:02}", "ready": False} for index in range(12)]
PREVIEW = {
    **CATALOG,
    "channels": ["preview"],
    "heads": {"preview": "sandboxed-containers-operator.v1.12.1"},
    "default_channel": "preview",
}
SUBSCRIPTION = {
    "channel": "stable",
    "source": "redhat-operators",
    "source_namespace": "openshift-marketplace",
    "installed_csv": "sandboxed-containers-operator.v1.10.1",
}
NOT_INSTALLED = {**SUBSCRIPTION, "installed_csv": None}
DEFAULT_CHANNEL = ("settings", "channel", None)


def head(csv: str) -> tuple:
    return detail("catalogs", [{**CATALOG, "name": "mirror"}, {**CATALOG, "heads": {"stable": csv}}])


def operator(version: str) -> tuple:
    return head(f"sandboxed-containers-operator.v{version}")


PINNED = ("settings", "starting_csv", "sandboxed-containers-operator.v1.4.1")


@pytest.mark.parametrize(
    ("check", "changes", "status", "message"),
    [
        (
            "platform",
            [("cluster", "platform", "GCP")],
            "error",
            "runs on GCP; this collection sets up peer pods on AWS or Azure only",
        ),
        ("platform", [("cluster", "platform", None)], "error", "an unknown platform"),
        ("platform", [("cluster", "is_openshift", False)], "error", "not an OpenShift cluster"),
        (
            "version",
            [("cluster", "version", "4.12.9")],
            "error",
            "The cluster is OpenShift 4.12.9; peer pods need 4.13 or newer. Upgrade the cluster",
        ),
        ("version", [("cluster", "version", None)], "error", "of an unknown version"),
        ("version", [("cluster", "version", "4.9.1")], "error", "4.9.1"),
        ("version", [("cluster", "version", "4.13.0-rc.8")], "ok", "4.13.0-rc.8"),
        ("version", [("cluster", "version", "5.0.1")], "ok", "5.0.1"),
        ("cluster-admin", [("cluster", "is_cluster_admin", False)], "warning", "may do what the roles"),
        (
            "cluster-admin",
            [("cluster", "is_cluster_admin", False), ("cluster", "missing_permissions", ["patch deployments.apps"])],
            "error",
            "is not a cluster administrator, and may not patch deployments.apps. Log in",
        ),
        ("workers", [("cluster", "workers", [])], "error", "No node matches node-role.kubernetes.io/worker"),
        (
            "workers",
            [("cluster", "workers", MANY)],
            "warning",
            "12 of 12 workers are not ready: n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 and 2 more",
        ),
        (
            "provider-ids",
            [("cluster", "workers", 1, "provider_id", None)],
            "error",
            "whose instances cannot be found in the cloud: b. Check that the cloud controller",
        ),
        ("region", [("cluster", "region", None)], "error", "Infrastructure of the cluster names no"),
        (
            "region",
            [("cluster", "workers", 1, "region", "us-east-2")],
            "warning",
            "differs from the region of the cluster, eu-central-1: b",
        ),
        ("region", [("cluster", "workers", 1, "region", None)], "ok", "eu-central-1"),
        ("runtime-class", [detail("runtime_class", None)], "ok", "not exist yet"),
        ("runtime-class", [detail("runtime_class", {"overhead": {}})], "warning", "no overhead"),
        ("runtime-class", [unread("runtime_class")], "unknown", UNREAD),
        ("runtime-class", [], "ok", "250m cpu and 350Mi memory"),
        ("operator-channel", [detail("catalogs", None)], "unknown", "serves no PackageManifests"),
        ("operator-channel", [unread("packages")], "unknown", UNREAD),
        (
            "operator-channel",
            [detail("catalogs", []), detail("runtime_class", None)],
            "error",
            "does not have the operator. Check that the CatalogSource",
        ),
        ("operator-channel", [detail("catalogs", [])], "warning", "does not have the operator"),
        (
            "operator-channel",
            [detail("catalogs", [{**CATALOG, "name": "mirror"}]), detail("runtime_class", None)],
            "error",
            (
                "does not have the operator. Set operator_install_source and operator_install_channel to "
                "one of: mirror in openshift-marketplace (stable)"
            ),
        ),
        (
            "operator-channel",
            [detail("catalogs", [PREVIEW]), detail("runtime_class", None)],
            "error",
            "does not have the channel stable",
        ),
        # An installed operator in the same channel does not need its catalog.
        (
            "operator-channel",
            [detail("catalogs", [PREVIEW]), detail("subscription", SUBSCRIPTION)],
            "warning",
            "stable",
        ),
        (
            "operator-channel",
            [detail("catalogs", [PREVIEW]), detail("subscription", SUBSCRIPTION), detail("runtime_class", None)],
            "warning",
            "does not have the channel stable",
        ),
        (
            "operator-channel",
            [detail("catalogs", [PREVIEW]), detail("subscription", {**SUBSCRIPTION, "channel": "candidate"})],
            "error",
            "does not have the channel stable",
        ),
        ("operator-channel", [detail("catalogs", [PREVIEW]), detail("subscription", NOT_INSTALLED)], "error", "stable"),
        (
            "operator-channel",
            [
                detail("catalogs", []),
                detail("subscription", {**SUBSCRIPTION, "channel": None}),
                ("settings", "channel", ""),
            ],
            "warning",
            "does not have the operator",
        ),
        # A Subscription without a channel has the default channel of its catalog.
        ("operator-channel", [detail("catalogs", [PREVIEW]), DEFAULT_CHANNEL], "ok", "has the channel preview."),
        (
            "operator-version",
            [detail("catalogs", [PREVIEW]), DEFAULT_CHANNEL],
            "warning",
            "preview of redhat-operators",
        ),
        (
            "operator-version",
            [],
            "ok",
            (
                "stable of redhat-operators has sandboxed-containers-operator.v1.10.1, which needs OpenShift 4.15 or "
                "newer."
            ),
        ),
        ("operator-version", [("cluster", "version", "4.15.0-rc.1")], "ok", "needs OpenShift 4.15 or newer."),
        (
            "operator-version",
            [("cluster", "version", "4.14.40")],
            "warning",
            (
                "needs OpenShift 4.15 or newer; the cluster is OpenShift 4.14.40. Upgrade the cluster to OpenShift "
                "4.15, or"
            ),
        ),
        ("operator-version", [operator("1.9.0"), ("cluster", "version", "4.13.5")], "warning", "4.13.5"),
        ("operator-version", [operator("1.4.1"), ("cluster", "version", "4.13.5")], "ok", "needs OpenShift 4.13"),
        # 1.12 is newer than 1.9, and 4.17 is older than 4.18.
        ("operator-version", [operator("1.12.1"), ("cluster", "version", "4.17.9")], "warning", "4.18"),
        (
            "operator-version",
            [operator("1.13.0"), ("cluster", "version", "4.23.0")],
            "ok",
            "OpenShift 4.23.0 is newer than the newest version that this collection was tested with (4.22).",
        ),
        ("operator-version", [("cluster", "version", "5.0.1")], "ok", "5.0.1 is newer than"),
        (
            "operator-version",
            [operator("1.14.0")],
            "ok",
            (
                "v1.14.0, newer than the newest release that this collection was tested with (1.13). Its release notes "
                "list"
            ),
        ),
        ("operator-version", [operator("2.0.0")], "ok", "v2.0.0, newer than"),
        (
            "operator-version",
            [operator("1.6.0"), ("cluster", "version", "4.12.9")],
            "ok",
            "v1.6.0, a release that this collection does not know. Its release notes list",
        ),
        ("operator-version", [head("another-csv")], "ok", "another-csv, a release that this collection does not know"),
        # The requested version is installed, unless another version is installed already.
        (
            "operator-version",
            [PINNED, detail("runtime_class", None)],
            "ok",
            "operator_install_starting_csv is sandboxed-containers-operator.v1.4.1, which needs OpenShift 4.13",
        ),
        ("operator-version", [PINNED, detail("runtime_class", None), detail("catalogs", None)], "ok", "v1.4.1"),
        ("operator-version", [PINNED], "ok", "v1.10.1, which"),
        ("operator-version", [PINNED, detail("subscription", SUBSCRIPTION)], "ok", "v1.10.1, which"),
        ("operator-version", [PINNED, detail("subscription", NOT_INSTALLED)], "ok", "v1.4.1"),
        ("other-webhooks", [unread("webhooks")], "unknown", UNREAD),
        ("other-webhooks", [detail("webhooks", [COLLECTIONS])], "ok", "No other webhook"),
        (
            "other-webhooks",
            [detail("webhooks", [COLLECTIONS, OTHER_WEBHOOK])],
            "warning",
            "neither the operator nor this collection: another-program.",
        ),
        ("other-webhooks", [detail("webhooks", [OPERATORS])], "ok", "does not deploy another"),
        (
            "other-webhooks",
            [detail("webhooks", [OPERATORS]), ("settings", "webhook_manager", "collection")],
            "warning",
            "webhook_manager is collection",
        ),
        ("other-advertisers", [detail("advertisers", [AGENT])], "ok", "No other program"),
        ("other-advertisers", [detail("advertisers", [AGENT, CONTROLLER])], "warning", "by manager on a, b."),
        (
            "other-advertisers",
            [detail("advertisers", [CONTROLLER]), ("settings", "node_capacity_manager", "operator")],
            "ok",
            "by manager on a, b.",
        ),
        (
            "other-advertisers",
            [detail("advertisers", [CONTROLLER]), detail("operator", FIRST_GENERATION)],
            "ok",
            "No other program",
        ),
        ("other-advertisers", [detail("advertisers", [ADAPTOR])], "ok", "No other program"),
        ("limit-storage", [detail("operator", None)], "ok", "not installed yet"),
        ("limit-storage", [unread("operator")], "unknown", UNREAD),
        (
            "limit-storage",
            [],
            "ok",
            "Operator 1.13.0 stores the limit in the ConfigMap peer-pods-cm; cloud-api-adaptor advertises it.",
        ),
        (
            "limit-storage",
            [detail("operator", FIRST_GENERATION)],
            "ok",
            "Operator 1.8.1 stores the limit in PeerPodConfig peerpodconfig-openshift; peerpodconfig-ctrl adv",
        ),
        ("limit-storage", [installed(version="1.99.0", known=False)], "warning", "1.99.0 is not one of the releases"),
        # The agent has not written a node yet.
        (
            "limit-storage",
            [detail("limits", {"agent_deployed": True, "problems": []})],
            "ok",
            (
                "The agent of the role node_capacity sets what nodes advertise: the limits in the ConfigMap "
                "peerpods-limits"
            ),
        ),
        (
            "limit-storage",
            [detail("operator", {**FIRST_GENERATION, "version": "1.2.0", "known": False})],
            "warning",
            "It is treated as 1.4: ",
        ),
        ("limit-storage", [installed(version=None)], "ok", "The operator, whose version cannot be read, stores"),
        ("adaptor-settings", [], "ok", "PEERPODS_LIMIT_PER_NODE is 10."),
        ("adaptor-settings", [installed(limit=None)], "ok", "is not set, which means 10"),
        ("adaptor-settings", [installed(limit="-1")], "ok", "is -1: cloud-api-adaptor advertises nothing."),
        ("adaptor-settings", [installed(limit=" 9\n")], "ok", "PEERPODS_LIMIT_PER_NODE is 9."),
        ("adaptor-settings", [installed(limit="")], "ok", "is not set, which means 10"),
        ("adaptor-settings", [installed(limit="9" * 20)], "warning", "which is not a whole number that Kubernetes"),
        ("adaptor-settings", [installed(limit="ten")], "warning", "is 'ten', which is not a whole number"),
        ("adaptor-settings", [installed(update_strategy="OnDelete")], "ok", ""),
        (
            "adaptor-settings",
            [installed(update_strategy="ondelete")],
            "warning",
            "is 'ondelete'. The operator ignores it",
        ),
        (
            "adaptor-settings",
            [installed(update_strategy="OnDelete", strategy_is_held=True)],
            "warning",
            "has not restored it, because",
        ),
        (
            "limit-pools",
            [detail("operator", {**FIRST_GENERATION, "peer_pod_configs": ["one", "two"]})],
            "warning",
            "There are several PeerPodConfigs: one, two. The operator runs cloud-api-adaptor only on",
        ),
        (
            "limit-pools",
            [detail("limits", {"agent_deployed": True, "problems": ["That.", "This."]})],
            "warning",
            "That. This.",
        ),
        ("migration", [installed(peer_pod_configs=[])], "ok", "is left over from an older release. It has no"),
        ("migration", [installed(peer_pod_configs=["memory"])], "ok", "an older release: memory. Only the agent"),
        (
            "migration",
            [installed(peer_pod_configs=["memory"]), ("settings", "node_capacity_manager", "operator")],
            "warning",
            "memory. With node_capacity_manager=operator they have no effect",
        ),
        (
            "migration",
            [installed(peer_pod_configs=["memory"], older_daemon_set_of="memory")],
            "warning",
            "because the PeerPodConfig memory owns it. Nodes that it selects run two cloud-api-adaptor pods",
        ),
        ("migration", [installed(peer_pod_configs=["peerpodconfig-openshift"])], "warning", "has not yet moved"),
        ("api-features", [detail("match_conditions", False)], "warning", "cannot have matchCond"),
        (
            "api-features",
            [detail("mutating_admission_policy", "v1beta1"), detail("validating_admission_policy", True)],
            "ok",
            "serves ValidatingAdmissionPolicy, and MutatingAdmissionPolicy as v1beta1",
        ),
        ("api-features", [unread("version")], "unknown", UNREAD),
        ("api-features", [unread("admission_apis")], "unknown", UNREAD),
        ("limit", [("settings", "limit", "many")], "error", "got 'many'"),
        ("limit", [("settings", "limit", "-1")], "error", "got '-1'"),
        (
            "cloud-credentials",
            [("caller", {"msg": "Unable to locate credentials."})],
            "error",
            "Authenticating to AWS failed: Unable to locate credentials. Set AWS_ACCESS_KEY_ID and",
        ),
        *(
            (
                "cloud-credentials",
                [("caller", {"msg": message})],
                "error",
                f"{message}. Check that this machine reaches",
            )
            for message in (
                'Failed: Could not connect to the endpoint URL: "https://sts.example.com/"',
                'Failed: Connect timeout on endpoint URL: "https://sts.example.com/"',
                "Failed: SSL validation failed for https://sts.example.com/ [Errno 2] No such file or directory",
                'Failed: Failed to connect to proxy URL: "http://proxy:3128"',
            )
        ),
        ("cloud-credentials", [("cluster", "platform", "GCP")], "unknown", "Not checked"),
        (
            "cloud-credentials",
            [(name, SKIPPED) for name in ("caller", "ports", "sizes", "subnet")],
            "unknown",
            "requests to AWS need a region",
        ),
        ("ports", [("ports", {"msg": "EC2 refused: you may not."})], "error", "you may not"),
        ("port-permissions", [("port_permissions", {"msg": "EC2 refused it."})], "error", "EC2 refused it. Or ask"),
        ("port-permissions", [], "ok", "These credentials have permission to open the ports on AWS."),
        ("ports", [("ports", SKIPPED)], "unknown", "no worker node has a providerID"),
        ("ports", [("caller", {"msg": "No."})], "unknown", "the login to AWS failed"),
        (
            "ports",
            [],
            "ok",
            "(by the group itself (tcp 9000)). Not open yet: 15150/tcp of sg-1, 15150/tcp egress of sg-1.",
        ),
        (
            "vm-sizes",
            [(*TYPE, "vcpus", None), (*TYPE, "reason", "EC2 has no instance type x.")],
            "error",
            "EC2 has no instance type x. Set operator_install_podvm_instance_type and",
        ),
        ("vm-sizes", [], "ok", "eu-central-1a offers t3.medium."),
        (
            "vm-sizes",
            [NOT_OFFERED],
            "error",
            (
                "eu-central-1a, the zone of subnet-1, does not offer t3.medium. Set "
                "operator_install_podvm_instance_type and operator_install_podvm_instance_types to sizes that "
                "`aws ec2 describe-instance-type-offerings --region eu-central-1 --location-type availability-zone "
                "--filters Name=location,Values=eu-central-1a` offers, or operator_install_aws_subnet_id to a subnet "
                "of another zone."
            ),
        ),
        # A zone has no type that its region does not have: one sentence for each type.
        (
            "vm-sizes",
            [NOT_OFFERED, (*TYPE, "vcpus", None), (*TYPE, "reason", "EC2 has no instance type x.")],
            "error",
            "EC2 has no instance type x. Set operator_install_podvm_instance_type and",
        ),
        # As in a site, which reads no quota and no network.
        ("vm-sizes", [*SITE, NOT_OFFERED], "error", "does not offer t3.medium. Set operator_install_podvm_instance"),
        ("vm-sizes", [*SITE, ("subnet", {"msg": "EC2 refused."})], "unknown", "EC2 refused."),
        ("vm-sizes", [("subnet", {"msg": "EC2 refused."})], "unknown", "EC2 refused."),
        (
            "vm-network",
            [*SITE, ("subnet", {"subnet": NO_SUBNET, "instance_types": [], "problems": ["No x.", "No y."]})],
            "error",
            "No x. No y. Set operator_install_aws_subnet_id, operator_install_aws_security_group_ids, oper",
        ),
        ("vm-sizes", [("subnet", SKIPPED)], "ok", "eu-central-1 offers t3.medium."),
        (
            "quota",
            [("settings", "limit", 11)],
            "warning",
            (
                "11 peer pods on each of 2 nodes are 22 VMs, but AWS has room for 20 more VMs of t3.medium "
                "in eu-central-1, of 2 vCPUs each (24 of 64 vCPUs of the quota L-1216C47A are in use). Set "
                "peerpodconfig_rollout_limit to 10, or request a higher quota L-1216C47A in eu-central-1."
            ),
        ),
        ("quota", [("settings", "limit", "11"), ("settings", "quota", "fail")], "error", "22 VMs"),
        # The VMs of running peer pods are used, and are a part of the limit.
        (
            "quota",
            [(*TYPE, "instances", 0), ("settings", "limit", 6), ("settings", "quota", "fail"), running(12)],
            "ok",
            "AWS has room for 0 more VMs of t3.medium",
        ),
        (
            "quota",
            [(*TYPE, "instances", 1), ("settings", "limit", 7), running(12)],
            "warning",
            "7 peer pods on each of 2 nodes are 14 VMs, of which 12 run, but AWS has room for 1 more VMs of",
        ),
        ("quota", [(*TYPE, "instances", 1), ("settings", "limit", 7), running(12)], "warning", "limit to 6, or"),
        # A pending peer pod may have no VM yet, and one that was not mutated is not a part of the limit.
        (
            "quota",
            [(*TYPE, "instances", 0), ("settings", "limit", 6), running(13, pending=1)],
            "ok",
            "AWS has room for 0",
        ),
        (
            "quota",
            [(*TYPE, "instances", 0), ("settings", "limit", 6), running(12, pending=1)],
            "warning",
            "of which 11 run",
        ),
        (
            "quota",
            [(*TYPE, "instances", 0), ("settings", "limit", 6), running(12, unaccounted=1)],
            "warning",
            "of which 11",
        ),
        ("quota", [("settings", "limit", 11), ("peer_pods", {"msg": "No."})], "warning", "are 22 VMs, but AWS has"),
        (
            "subnet-addresses",
            [("subnet", "subnet", "free", 0), ("settings", "limit", 6), running(12)],
            "ok",
            "The subnet subnet-1 has 0 free addresses.",
        ),
        ("quota", [("sizes", {"msg": "Service Quotas refused."})], "unknown", "Service Quotas ref"),
        (
            "quota",
            [(*TYPE, "instances", None), (*TYPE, "reason", "No vCPU quota is known.")],
            "unknown",
            "No vCPU quota is known.",
        ),
        (
            "subnet-addresses",
            [("subnet", "subnet", "free", 19)],
            "warning",
            "20 VMs, but the subnet subnet-1 has 19 free addresses. Set peerpodconfig_rollout_limit to 9,",
        ),
        ("subnet-addresses", [("subnet", {"msg": "EC2 refused."})], "unknown", "EC2 refused."),
        (
            "subnet-addresses",
            [("subnet", {"subnet": NO_SUBNET, "instance_types": [], "problems": ["No x."]})],
            "unknown",
            "No x.",
        ),
        ("subnet-addresses", [("subnet", SKIPPED)], "unknown", "could not be read"),
    ],
)
def test_the_findings_of_each_check_on_aws(check, changes, status, message):
    finding = finding_of(with_changes(AWS, *changes), check)
    assert finding["status"] == status
    assert message in f"{finding['found']} {finding['fix']}"


SIZE = ("sizes", "sizes", 0)
SHADOWED = [{"name": "x", "shadowed_by": "deny-all (100) denies it"}]
NSG = ("ports", "network_security_groups", 0)
MAY_NOT = {"msg": "This identity may not.", "missing_permissions": [{"action": "a", "scope": "s"}]}


@pytest.mark.parametrize(
    ("check", "changes", "status", "message"),
    [
        ("region", [("cluster", "region", None)], "error", "do not have one region in common"),
        (
            "cloud-credentials",
            [("sizes", {"msg": "Authenticating to Azure failed."})],
            "error",
            "Authenticating to Azure failed. Set AZURE_CLIENT_ID, AZURE_CLIENT_SECRET",
        ),
        ("cloud-credentials", [("sizes", {"msg": "Sending it failed."})], "error", "Sending it failed. Fix the cause"),
        ("quota", [("sizes", {"msg": "Authenticating to Azure failed."})], "unknown", "the login to Azure failed"),
        (
            "vm-sizes",
            [(*SIZE, "available", False), (*SIZE, "reason", "Azure has no VM size x.")],
            "error",
            "Azure has no VM size x. Set operator_install_azure_instance_size and",
        ),
        (
            "quota",
            [("settings", "limit", 20), ("settings", "quota", "fail")],
            "error",
            (
                "20 peer pods on each of 2 nodes are 40 VMs, but Azure has room for 38 more VMs of "
                "Standard_B2als_v2 in westeurope, of 2 vCPUs each (0 of 100 vCPUs of standardBasv2Family "
                "are in use, and 24 of 100 of all families). Set peerpodconfig_rollout_limit to 19, or "
                "request a higher quota of standardBasv2Family or of all vCPUs in westeurope."
            ),
        ),
        ("quota", [(*SIZE, "instances", None)], "unknown", "Azure counts no vCPUs of Standard_B2als_v2"),
        ("ports", [("ports", {"msg": "It is shadowed."})], "error", "It is shadowed."),
        ("port-permissions", [], "ok", "These credentials have permission to open the ports on Azure."),
        ("port-permissions", [("port_permissions", MAY_NOT)], "error", "This identity may not. Or ask someone"),
        # Without permission to list permissions, the result is unknown.
        ("port-permissions", [("port_permissions", {"msg": "Azure rejected GET /x."})], "unknown", "rejected GET"),
        (
            "ports",
            [(*NSG, "shadowed", SHADOWED)],
            "error",
            "x would be shadowed in demo-nsg: deny-all (100) denies it. Move",
        ),
        ("ports", [(*NSG, "shadowed", SHADOWED), ("settings", "on_shadowed", "warn")], "warning", "shadowed in"),
        ("ports", [("ports", "unconnected", ["V is not peered."])], "warning", "V is not peered. Peer the virtual"),
        (
            "ports",
            [("ports", "network_security_groups", []), ("ports", "unfiltered", ["No NSG on x."])],
            "ok",
            "Already open: No NSG on x.",
        ),
        (
            "ports",
            [],
            "ok",
            (
                "Already open: Allow-VXLAN-Internal of demo-nsg (by AllowVnetInBound (65000)). "
                "Not open yet: Allow-Kata-Agent-Internal of demo-nsg"
            ),
        ),
    ],
)
def test_the_findings_of_each_check_on_azure(check, changes, status, message):
    finding = finding_of(with_changes(AZURE, *changes), check)
    assert finding["status"] == status
    assert message in f"{finding['found']} {finding['fix']}"


def test_without_a_cluster_there_is_one_finding():
    (finding,) = findings({**AWS, "cluster": {"msg": "It cannot be reached.", "failed": False}})
    assert (finding["check"], finding["status"]) == ("cluster", "error")
    assert finding["found"] == "It cannot be reached."


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        # A setting that is not set has no finding.
        (
            [("settings", "check_cloud_resources", False), ("ports", SKIPPED), ("sizes", SKIPPED), ("subnet", SKIPPED)],
            {"ports", "quota", "vm-sizes", "subnet-addresses"},
        ),
        (SITE, {"ports", "quota", "subnet-addresses"}),
        ([("settings", "check_cloud_resources", False), ("caller", {"msg": "No."}), ("ports", {})], {"ports", "quota"}),
        # If all ports are open, no permission is needed.
        ([("port_permissions", SKIPPED)], {"port-permissions"}),
        ([("settings", "quota", "ignore"), ("settings", "limit", 1000)], {"quota", "subnet-addresses"}),
        ([("cluster", "is_openshift", False)], {"version", "operator-channel", "operator-version"}),
        # Another check reports why the version is unknown.
        ([detail("catalogs", None)], {"operator-version"}),
        ([detail("catalogs", None), unread("packages")], {"operator-version"}),
        ([detail("catalogs", [PREVIEW])], {"operator-version"}),
        ([detail("catalogs", [{**CATALOG, "namespace": "mirrors"}])], {"operator-version"}),
        ([("cluster", "version", None)], {"operator-version"}),
        ([("cluster", "workers", [])], {"provider-ids", "region", "quota"}),
        ([("settings", "limit", "many")], {"quota", "subnet-addresses"}),
        # The size has no quota.
        ([(*TYPE, "vcpus", None), (*TYPE, "reason", "No x.")], {"quota"}),
    ],
)
def test_a_check_without_its_data_is_left_out(changes, absent):
    assert not absent & {finding["check"] for finding in findings(with_changes(AWS, *changes))}


def test_a_later_patch_release_of_the_newest_known_openshift_is_known():
    readings = with_changes(AWS, operator("1.13.0"), ("cluster", "version", "4.22.3"))
    assert finding_of(readings, "operator-version")["found"].endswith("needs OpenShift 4.18 or newer.")


@pytest.mark.parametrize("path", ["roles/cluster_prerequisites/README.md", "docs/docsite/rst/guide_start.rst"])
def test_the_documented_operators_and_openshift_versions_are_those_of_the_code(path):
    row = r"(?:\||\*) (?:- )?1\.(\d+)(?: to 1\.(\d+))?\s+(?:\||-) (4\.\d+) and newer"
    documented = {
        f"1.{minor}": needed
        for first, last, needed in re.findall(row, (ROOT / path).read_text())
        for minor in range(int(first), int(last or first) + 1)
    }
    assert documented == NEEDED_OPENSHIFT


def test_titles_fit_the_column_of_the_output():
    template = (ROOT / "roles/cluster_prerequisites/templates/findings.txt.j2").read_text()
    (width,) = {int(width) for width in re.findall(r"%-(\d\d)s", template)}
    assert max(map(len, TITLES.values())) < width
