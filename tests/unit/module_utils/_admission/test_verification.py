from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import SYSTEM_NAMESPACES, namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import (
    OTHER_NAMESPACES,
    Proof,
    candidates,
    describe_proof,
    is_of,
    probe_pod,
)


def test_the_probe_matches_the_selector_and_has_resources():
    pod = probe_pod("kata-remote", {"matchLabels": {"team": "a"}})
    assert pod["metadata"]["labels"] == {"team": "a"}
    assert pod["spec"]["runtimeClassName"] == "kata-remote"
    assert pod["spec"]["containers"][0]["resources"]["requests"]


def namespaces_of(*names: str) -> SimpleNamespace:
    """A cluster that lists these namespaces; the one with a * is being deleted."""

    def listing(path: str) -> Iterator[dict]:
        for name in names:
            deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if name.startswith("*") else {}
            yield {"metadata": {"name": name.lstrip("*"), **deleted}}

    return SimpleNamespace(list=listing)


@pytest.mark.parametrize(
    ("chosen", "excluded", "expected"),
    [
        (None, [*SYSTEM_NAMESPACES], ["default", "a", "b"]),
        (None, [*SYSTEM_NAMESPACES, "default"], ["a", "b"]),
        (None, ["default", "a*", "b"], ["kube-system", "openshift-x"]),
        (None, ["default", "a", "b", "kube-*", "openshift-*"], []),
        ("b", [*SYSTEM_NAMESPACES], ["b"]),
    ],
)
def test_where_the_pod_is_created(chosen: str | None, excluded: list[str], expected: list[str]):
    cluster = namespaces_of("a", "b", "default", "kube-system", "*leaving", "openshift-x")
    assert list(candidates(cluster, chosen, namespaces(excluded))) == expected


def test_a_large_cluster_is_not_tried_out():
    cluster = namespaces_of("default", *(f"team-{number}" for number in range(3000)))
    assert len(list(candidates(cluster, None, namespaces([])))) == 1 + OTHER_NAMESPACES


# The errors of an API server of Kubernetes 1.37.
@pytest.mark.parametrize(
    ("text", "own"),
    [
        ('failed calling webhook "mwebhook.peerpods.io": failed to call webhook: Post "https://x"', True),
        ('admission webhook "mwebhook.peerpods.io" denied the request: no', True),
        ("pods \"x\" is forbidden: policy 'peerpods-mutating-policy' with binding 'b' denied request: no", True),
        ('failed calling webhook "validate.kyverno.svc-fail": failed to call webhook', False),
        ('admission webhook "x.mwebhook.peerpods.io" denied the request: no', False),
        (
            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'peerpods-mutating-policy' with binding 'b' denied",
            False,
        ),
        ('pods "x" is forbidden: exceeded quota: mwebhook.peerpods.io, requested: pods=1', False),
    ],
)
def test_whose_rejection_it_is(text: str, own: bool):
    assert is_of(text, ["mwebhook.peerpods.io", "peerpods-mutating-policy"]) is own


def test_a_result_names_its_reason():
    rejected = Proof("rejected", reasons=("default says no.", "a says no.", "b says no."))
    assert describe_proof("kata", rejected) == (
        "Could not verify that peer pods are counted. A dry run of a pod with the RuntimeClass kata was rejected, but "
        "not by what mutates peer pods: default says no. 2 more namespaces reject it as well."
    )
    unchanged = Proof("not_mutated", "a", ("the pod was returned without x.",))
    assert describe_proof("kata", unchanged).startswith(
        "Peer pods are not counted: in a dry run in namespace a, the pod was returned without x. Nodes would get more"
    )
