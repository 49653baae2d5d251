from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission import verification
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import SYSTEM_NAMESPACES, namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import (
    OTHER_NAMESPACES,
    Proof,
    candidates,
    describe_proof,
    is_of,
    probe_pod,
    prove,
    verify,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE


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


class Answers:
    """A cluster that answers each dry run in a namespace with the next of these: a pod, or an error."""

    def __init__(self, **answers: list):
        self.answers = {namespace: iter(each) for namespace, each in answers.items()}
        self.list = namespaces_of(*answers).list

    def create(self, path: str, pod: dict, **query: str) -> dict:
        answer = next(self.answers[path.split("/")[4]])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, path: str) -> dict:
        return {}


UNCHANGED = probe_pod("kata", None)
MUTATED_POD = copy.deepcopy(UNCHANGED)
MUTATED_POD["spec"]["containers"][0]["resources"] = {"requests": {EXTENDED_RESOURCE: "1"}}
# A quota of peer pods closes a namespace only once pods are mutated.
NO_PEER_PODS = ClusterError("pods is forbidden: exceeded quota: no-peer-pods", 403)
AWAY = ClusterError("503", 503, transient=True)
EXPIRED = ClusterError("401 Unauthorized", 401)


@pytest.mark.parametrize(
    "answers",
    [
        {"default": [UNCHANGED, NO_PEER_PODS], "a": [MUTATED_POD]},
        {"default": [NO_PEER_PODS] * 2, "a": [UNCHANGED, NO_PEER_PODS], "b": [MUTATED_POD]},
        {"default": [UNCHANGED, AWAY, AWAY, MUTATED_POD]},
        {"default": [AWAY, NO_PEER_PODS], "a": [MUTATED_POD]},
    ],
)
def test_the_proof_survives_what_comes_in_between(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list]):
    monkeypatch.setattr(verification, "PROBE_INTERVAL", 0.0)
    params = {
        "target_runtime_classes": ["kata"],
        "object_selector": None,
        "verify_namespace": None,
        "wait_timeout": 60,
    }
    assert verify(SimpleNamespace(params=params), Answers(**answers), "webhook", "w", namespaces([]))


@pytest.mark.parametrize("error", [EXPIRED, AWAY], ids=["expired", "away"])
def test_an_error_that_says_nothing_about_the_pod_is_no_proof(error: ClusterError):
    with pytest.raises(ClusterError):
        prove(Answers(default=[error], a=[MUTATED_POD]), UNCHANGED, ["default", "a"], ["w"])


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
