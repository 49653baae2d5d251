from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._cluster_info import describe, worker

ALLOWED = {"status": {"allowed": True}}


def node(provider_id: str | None, **status) -> dict:
    return {
        "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"providerID": provider_id} if provider_id else {},
        "status": status,
    }


def test_azure_names_its_resource_group_instead_of_a_region():
    infrastructure = {
        "status": {
            "infrastructureName": "demo-x",
            "platformStatus": {"type": "Azure", "azure": {"resourceGroupName": "demo-x-rg"}},
        }
    }
    version = {"status": {"desired": {"version": "4.13.5"}}}
    assert describe(infrastructure, version, [], ALLOWED) == {
        "is_openshift": True,
        "platform": "Azure",
        "region": None,
        "resource_group": "demo-x-rg",
        "infrastructure_name": "demo-x",
        "version": "4.13.5",
        "is_cluster_admin": True,
        "workers": [],
    }


def test_a_cluster_that_is_not_openshift_has_workers_and_nothing_else():
    facts = describe(None, None, [node("kind://docker/kind/worker")], ALLOWED)
    assert facts.pop("is_openshift") is False
    assert facts.pop("is_cluster_admin") is True
    assert [row["instance_id"] for row in facts.pop("workers")] == ["worker"]
    assert set(facts.values()) == {None}


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
def test_the_instance_is_what_follows_the_last_slash(provider_id, instance_id):
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
def test_a_node_is_ready_when_its_condition_says_so(conditions, ready):
    assert worker(node(None, conditions=conditions))["ready"] is ready
