from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.topology import (
    DEFAULT_CATALOGS,
    describe_aro,
    describe_mirrors,
    describe_proxy,
    describe_topology,
    disabled_catalogs,
)


def node(name: str, *roles: str) -> dict:
    return {"metadata": {"name": name, "labels": {f"node-role.kubernetes.io/{role}": "" for role in roles}}}


def test_the_topology_has_the_workers_of_the_control_plane():
    infrastructure = {"status": {"controlPlaneTopology": "SingleReplica", "infrastructureTopology": "HighlyAvailable"}}
    nodes = [
        node("both", "worker", "control-plane", "master"),
        node("worker", "worker"),
        {"metadata": {"name": "bare"}},
    ]
    described = describe_topology(infrastructure, nodes)
    assert (described["control_plane"], described["infrastructure"]) == ("SingleReplica", "HighlyAvailable")
    assert [entry["name"] for entry in described["control_plane_workers"]] == ["both"]
    assert "node-role.kubernetes.io/worker" in described["control_plane_workers"][0]["labels"]
    assert describe_topology(None, [])["control_plane"] is None


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        (None, (None, None, [], None)),
        ({"spec": {"trustedCA": {"name": ""}}, "status": {}}, (None, None, [], None)),
        (
            {
                "spec": {"trustedCA": {"name": "user-ca-bundle"}, "httpsProxy": "http://not-in-force:1"},
                "status": {
                    "httpProxy": "http://proxy:3128",
                    "httpsProxy": "https://user:p%40ss:word@proxy:3129/",
                    "noProxy": ".cluster.local, .svc,10.0.0.0/16",
                },
            },
            (
                "http://proxy:3128",
                "https://***@proxy:3129/",
                [".cluster.local", ".svc", "10.0.0.0/16"],
                "user-ca-bundle",
            ),
        ),
    ],
)
def test_the_proxy_in_force_without_credentials(proxy, expected):
    assert tuple(describe_proxy(proxy).values()) == expected


def test_mirrors_of_both_kinds():
    digest = {"spec": {"imageDigestMirrors": [{"source": "a", "mirrors": ["m/a"]}, {"source": "b"}]}}
    policy = {"spec": {"repositoryDigestMirrors": [{"source": "c", "mirrors": ["m/c", "n/c"]}]}}
    objects = [("imageDigestMirrors", digest), ("repositoryDigestMirrors", policy), ("imageDigestMirrors", {})]
    assert describe_mirrors(objects) == [
        {"source": "a", "mirrors": ["m/a"]},
        {"source": "b", "mirrors": []},
        {"source": "c", "mirrors": ["m/c", "n/c"]},
    ]


@pytest.mark.parametrize(
    ("hub", "expected"),
    [
        (None, []),
        ({"spec": {}}, []),
        ({"spec": {"disableAllDefaultSources": True}}, list(DEFAULT_CATALOGS)),
        (
            {
                "spec": {
                    "disableAllDefaultSources": True,
                    "sources": [{"name": "redhat-operators", "disabled": False}],
                }
            },
            ["certified-operators", "community-operators", "redhat-marketplace"],
        ),
        ({"spec": {"sources": [{"name": "redhat-operators", "disabled": True}]}}, ["redhat-operators"]),
        # The status is what is in force; newer releases have no redhat-marketplace.
        (
            {
                "spec": {"sources": [{"name": "community-operators", "disabled": True}]},
                "status": {"sources": [{"name": "redhat-operators", "disabled": True, "status": "Success"}]},
            },
            ["redhat-operators"],
        ),
    ],
)
def test_disabled_catalogs(hub, expected):
    assert disabled_catalogs(hub) == expected


@pytest.mark.parametrize(
    ("red_hat_cluster", "expected"),
    [
        (None, None),
        ({}, {"resource_group": None, "manages_nsgs": False}),
        (
            {
                "spec": {
                    "clusterResourceGroupId": "/subscriptions/s/resourceGroups/aro-x",
                    "operatorflags": {"aro.azuresubnets.nsg.managed": "True"},
                }
            },
            {"resource_group": "aro-x", "manages_nsgs": True},
        ),
    ],
)
def test_the_managed_resource_group(red_hat_cluster, expected):
    assert describe_aro(red_hat_cluster) == expected
