from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import advertisers, kind


def test_the_advertiser_is_the_last_writer():
    def written(name: str, manager: str, resource: str, annotations: dict | None = None) -> dict:
        fields = {"f:status": {"f:capacity": {f"f:{resource}": {}}}}
        return {
            "metadata": {
                "name": name,
                "managedFields": [{"manager": manager, "fieldsV1": fields}, {"manager": "x"}],
                **({"annotations": annotations} if annotations else {}),
            }
        }

    resource, annotation = "kata.peerpods.io/vm", "kata.peerpods.io/caa-owner"
    nodes = [
        written("b", "manager", resource),
        written("a", "manager", resource),
        written("c", "kubelet", "cpu"),
        written("d", "oc-edit", resource, {annotation: "uid-d"}),
        # The pod ended and cleaned up, or it did not.
        written("e", "kubelet", "cpu", {annotation: "uid-e"}),
        written("f", "cloud-api-adaptor", resource, {annotation: "uid-f"}),
        {"metadata": {"name": "g"}},
    ]
    assert advertisers(nodes, {"uid-d", "uid-other"}) == [
        {"manager": "cloud-api-adaptor", "kind": "controller", "nodes": ["d"], "summary": "cloud-api-adaptor on d"},
        {"manager": "manager", "kind": "controller", "nodes": ["a", "b"], "summary": "manager on a, b"},
        {"manager": "oc-edit", "kind": "person", "nodes": ["d"], "summary": "oc-edit on d"},
    ]
    # Older releases leave no annotation.
    assert [each["nodes"] for each in advertisers([written("h", "cloud-api-adaptor", resource)], ())] == [["h"]]


def test_the_advertisers_of_another_resource():
    fields = {"f:status": {"f:capacity": {"f:example.com/vm": {}}}}
    nodes = [
        {"metadata": {"name": "a", "managedFields": [{"manager": "x", "fieldsV1": fields}]}},
    ]
    assert advertisers(nodes, ()) == []
    assert [advertiser["nodes"] for advertiser in advertisers(nodes, (), "example.com/vm")] == [["a"]]


@pytest.mark.parametrize(
    ("manager", "program"),
    [
        ("kubectl", "person"),
        ("kubectl-patch", "person"),
        ("kubectl-edit", "person"),
        ("oc", "person"),
        ("curl", "person"),
        ("Mozilla", "person"),
        ("OpenAPI-Generator", "person"),
        ("peerpods-node-capacity", "agent"),
        ("kubelet", "kubelet"),
        # The operator's program, and unknown programs.
        ("manager", "controller"),
        ("cloud-api-adaptor", "controller"),
        ("peerpodconfig-ctrl", "controller"),
        ("octopus", "controller"),
        ("curler", "controller"),
    ],
)
def test_the_program_of_a_field_manager(manager: str, program: str):
    assert kind(manager) == program
