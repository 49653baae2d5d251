from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster import describe, details, worker

ALLOWED = {"status": {"allowed": True}}
NO_SETTINGS: dict[str, list] = {
    "subnets": [],
    "security_groups": [],
    "network_security_groups": [],
    "default_sizes": [],
    "sizes": [],
    "images": [],
    "tunnel_ports": [],
}


VM = "/subscriptions/{}/resourceGroups/demo-x-rg/providers/Microsoft.Compute/virtualMachines/{}"


def node(provider_id: str | None, region: str | None = None, **status) -> dict:
    labels = {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": region}
    return {
        "metadata": {"name": "n", "labels": {key: value for key, value in labels.items() if value}},
        "spec": {"providerID": provider_id} if provider_id else {},
        "status": status,
    }


def azure(nodes: list[dict], **platform: str) -> dict:
    infrastructure = {
        "status": {
            "infrastructureName": "demo-x",
            "platformStatus": {"type": "Azure", "azure": platform},
        }
    }
    version = {"spec": {"clusterID": "id-1"}, "status": {"desired": {"version": "4.13.5"}}}
    return describe(infrastructure, version, nodes, None, ALLOWED)


def test_azure_facts_come_from_the_infrastructure_and_the_nodes():
    worker = node("azure://" + VM.format("sub-1", "demo-worker-1"), "germanywestcentral")
    facts = azure([worker, worker], resourceGroupName="demo-x-rg")
    assert [row["instance_id"] for row in facts.pop("workers")] == ["demo-worker-1"] * 2
    assert facts == {
        "is_openshift": True,
        "platform": "Azure",
        "region": "germanywestcentral",
        "resource_group": "demo-x-rg",
        "network_resource_group": "demo-x-rg",
        "cloud_name": "AzurePublicCloud",
        "subscription_id": "sub-1",
        "infrastructure_name": "demo-x",
        "cluster_id": "id-1",
        "version": "4.13.5",
        "topology": {"control_plane": None, "infrastructure": None, "control_plane_workers": []},
        "is_cluster_admin": True,
        "pod_vms": NO_SETTINGS,
    }


def test_azure_with_a_custom_network_and_cloud():
    facts = azure(
        [],
        resourceGroupName="demo-x-rg",
        networkResourceGroupName="network-rg",
        cloudName="AzureUSGovernmentCloud",
    )
    assert facts["network_resource_group"] == "network-rg"
    assert facts["cloud_name"] == "AzureUSGovernmentCloud"


@pytest.mark.parametrize(
    ("workers", "region", "subscription"),
    [
        ([], None, None),
        ([(None, None), ("azure://" + VM.format("s", "a"), "westeurope")], "westeurope", "s"),
        (
            [
                ("azure://" + VM.format("s", "a"), "westeurope"),
                ("azure://" + VM.format("t", "b"), "northeurope"),
            ],
            None,
            None,
        ),
        ([("other://" + VM.format("s", "a"), "westeurope")], "westeurope", None),
    ],
)
def test_azure_region_and_subscription_are_those_of_all_nodes(workers, region, subscription):
    facts = azure([node(*worker) for worker in workers], resourceGroupName="g", cloudName="")
    assert (facts["region"], facts["subscription_id"]) == (region, subscription)
    assert facts["cloud_name"] == "AzurePublicCloud"


def test_the_region_of_aws_comes_from_the_infrastructure():
    infrastructure = {"status": {"platformStatus": {"type": "AWS", "aws": {"region": "eu-central-1"}}}}
    facts = describe(infrastructure, None, [node("aws:///z/i-1", "elsewhere")], None, ALLOWED)
    assert facts["region"] == "eu-central-1"
    assert {facts[key] for key in ("resource_group", "network_resource_group", "cloud_name", "subscription_id")} == {
        None
    }


def test_a_cluster_that_is_not_openshift_has_only_workers():
    facts = describe(None, None, [node("kind://docker/kind/worker")], None, ALLOWED)
    assert facts.pop("pod_vms") == NO_SETTINGS
    assert facts.pop("is_openshift") is False
    assert facts.pop("is_cluster_admin") is True
    assert [row["instance_id"] for row in facts.pop("workers")] == ["worker"]
    assert facts.pop("topology")["control_plane"] is None
    assert set(facts.values()) == {None}


@pytest.mark.parametrize(
    ("platform", "settings", "expected"),
    [
        ("AWS", {"metadata": {}}, {}),
        (
            "AWS",
            {
                "data": {
                    "AWS_SUBNET_ID": "subnet-1",
                    "AWS_SG_IDS": "sg-1, sg-2",
                    "PODVM_INSTANCE_TYPE": "t3.medium",
                    "PODVM_INSTANCE_TYPES": "t3.small,t3.medium",
                    "PODVM_AMI_ID": "ami-1",
                }
            },
            {
                "subnets": ["subnet-1"],
                "security_groups": ["sg-1", "sg-2"],
                "default_sizes": ["t3.medium"],
                "sizes": ["t3.small", "t3.medium"],
                "images": ["ami-1"],
            },
        ),
        (
            "Azure",
            {
                "data": {
                    "AZURE_SUBNET_ID": "/s",
                    "AZURE_NSG_ID": "/n",
                    "AZURE_INSTANCE_SIZE": "B2",
                    "AZURE_IMAGE_ID": "/i",
                    "VXLAN_PORT": "4789",
                }
            },
            {
                "tunnel_ports": ["4789"],
                "images": ["/i"],
                "subnets": ["/s"],
                "network_security_groups": ["/n"],
                "default_sizes": ["B2"],
            },
        ),
        # Left over from a copy.
        ("Azure", {"data": {"AWS_SUBNET_ID": "subnet-1"}}, {}),
        (None, {"data": {"AWS_SUBNET_ID": "subnet-1"}}, {}),
    ],
)
def test_the_settings_of_the_vms(platform, settings, expected):
    infrastructure = {"status": {"platformStatus": {"type": platform}}}
    assert describe(infrastructure, None, [], settings, ALLOWED)["pod_vms"] == {**NO_SETTINGS, **expected}


@pytest.mark.parametrize(
    ("provider_id", "instance_id"),
    [
        ("aws:///eu-central-1a/i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60001"),
        (
            "azure:///subscriptions/s/resourceGroups/g/providers/P/virtualMachines/demo-worker-1",
            "demo-worker-1",
        ),
        (None, None),
    ],
)
def test_the_instance_id_is_the_last_segment_of_the_provider_id(provider_id, instance_id):
    assert worker(node(provider_id))["provider_id"] == provider_id
    assert worker(node(provider_id))["instance_id"] == instance_id


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "Unknown"}], False),
        ([{"type": "MemoryPressure", "status": "True"}], False),
        ([], False),
    ],
)
def test_a_node_is_ready_if_its_ready_condition_is_true(conditions, ready):
    assert worker(node(None, conditions=conditions))["ready"] is ready


def test_details_of_an_old_api_server_without_an_operator():
    version = {"major": "1", "minor": "26+", "gitVersion": "v1.26.9"}
    policies = {"resources": [{"name": "mutatingadmissionpolicies"}, {"name": "mutatingadmissionpolicybindings"}]}
    apis = {"v1": {"resources": [{"name": "mutatingwebhookconfigurations"}]}, "v1beta1": policies}
    readings = {"version": version, "admission_apis": apis, "runtime_class": None, "packages": None}
    assert details(readings, {"webhooks": "no"}) == {
        "kubernetes_version": "v1.26.9",
        "match_conditions": False,
        "mutating_admission_policy": "v1beta1",
        "validating_admission_policy": False,
        "image_builds": None,
        "runtime_class": None,
        "webhooks": None,
        "webhook_options": None,
        "cert_manager": None,
        "service_ca": None,
        "tls_min_version": None,
        "advertisers": None,
        "operator": None,
        "limits": None,
        "subscription": None,
        "credentials": None,
        "catalogs": None,
        "machine_configs": None,
        "proxy": None,
        "mirrors": None,
        "disabled_catalogs": None,
        "aro": None,
        "node_capacity_options": {},
        "placements": {role: {"namespace": None, "problem": None} for role in ("node_capacity", "webhook")},
        "unread": {"webhooks": "no"},
    }


@pytest.mark.parametrize(
    ("annotations", "options", "is_damaged"),
    [
        (None, {}, False),
        ({"osc.peerpods.io/options": '{"certificate": "own"}'}, {"certificate": "own"}, False),
        ({"osc.peerpods.io/options": '{"certificate": '}, {}, True),
    ],
)
def test_the_registration_has_the_options_of_its_webhook(annotations: dict | None, options: dict, is_damaged: bool):
    webhooks = [
        {"metadata": {"name": "other", "annotations": {"osc.peerpods.io/options": "{"}}},
        {"metadata": {"name": "peerpods-webhook", **({"annotations": annotations} if annotations else {})}},
    ]
    described = details({"webhooks": webhooks, "groups": {"cert-manager.io"}}, {})
    assert (described["webhook_options"], described["cert_manager"]) == (options, True)
    store = {"apiVersion": "v1", "kind": "ConfigMap", **webhooks[1]}
    of_agent = details({"agent": {"store": store}}, {})
    assert of_agent["node_capacity_options"] == options
    for facts, role in ((described, "webhook"), (of_agent, "node_capacity")):
        problem = facts["placements"][role]["problem"] or ""
        assert ("peerpods-webhook is not a JSON object" in problem) == is_damaged
    assert details({"webhooks": [], "groups": set()}, {})["cert_manager"] is False


def test_what_decides_about_the_certificate_and_the_tls_version_of_the_webhook():
    profiles = {
        "Old": "VersionTLS12",
        "Intermediate": "VersionTLS12",
        "Modern": "VersionTLS13",
        "Custom": "VersionTLS13",
    }
    found = {
        profile: details({"api_server": {"spec": {"tlsSecurityProfile": {"type": profile}}}}, {})["tls_min_version"]
        for profile in profiles
    }
    assert found == profiles
    read = details({"api_server": None, "service_ca": {"metadata": {}}}, {})
    assert (read["tls_min_version"], read["service_ca"]) == ("VersionTLS12", True)
    assert details({"service_ca": None}, {})["service_ca"] is False


def test_a_catalog_has_the_head_of_each_channel():
    package = {
        "status": {
            "catalogSource": "redhat-operators",
            "catalogSourceNamespace": "openshift-marketplace",
            "channels": [
                {"name": "stable", "currentCSV": "x.v1.10.1", "entries": [{"name": "x.v1.10.0"}]},
                {"name": "preview", "currentCSV": "x.v1.11.0"},
            ],
        }
    }
    assert details({"packages": [package]}, {})["catalogs"] == [
        {
            "name": "redhat-operators",
            "namespace": "openshift-marketplace",
            "channels": ["stable", "preview"],
            "heads": {"stable": "x.v1.10.1", "preview": "x.v1.11.0"},
            "default_channel": None,
        }
    ]


def test_details_that_could_not_be_read_are_null():
    described = details({}, {"version": "no"})
    reads = {"placements", "node_capacity_options", "unread"}
    assert {value for key, value in described.items() if key not in reads} == {None}
    assert described["node_capacity_options"] == {}
    nowhere = {"namespace": None, "problem": None}
    assert described["placements"] == {"webhook": nowhere, "node_capacity": nowhere}


def test_a_namespace_that_differs_from_that_of_the_container_is_a_problem():
    metadata = {"name": "peerpods-webhook", "labels": {"app.kubernetes.io/part-of": "osc.peerpods"}}
    readings = {
        "webhooks": [
            {
                "metadata": metadata,
                "webhooks": [
                    {
                        "name": "mwebhook.peerpods.io",
                        "clientConfig": {"service": {"name": "peerpods-webhook", "namespace": "infra"}},
                    }
                ],
            }
        ],
        "agent": {
            "binding": {
                "metadata": metadata,
                "subjects": [{"name": "peerpods-node-capacity", "namespace": "infra"}],
            }
        },
    }
    for given, is_problem in ((None, False), ("infra", False), ("other", True)):
        placements = details(readings, {}, {"webhook": given, "node_capacity": given})["placements"]
        for placement in placements.values():
            assert placement["namespace"] == "infra"
            assert bool(placement["problem"]) == is_problem
