from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission import verification
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    SYSTEM_NAMESPACES,
    AdmissionError,
    namespaces,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import policy_path, policy_spec
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import (
    OTHER_NAMESPACES,
    Proof,
    candidates,
    candidates_without,
    describe_proof,
    is_excluded_by_all,
    is_of,
    probe_pod,
    prove,
    registered,
    verify,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook import service_client_config, webhook
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    MUTATING_WEBHOOKS_PATH,
    NAMESPACES_PATH,
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
    assert list(candidates(cluster, chosen, namespaces(excluded).__contains__)) == expected


def test_a_large_cluster_is_not_tried_out():
    cluster = namespaces_of("default", *(f"team-{number:04}" for number in range(3000)))
    assert len(list(candidates(cluster, None, namespaces([]).__contains__))) == 1 + OTHER_NAMESPACES
    # Excluded namespaces do not count.
    last = namespaces(["default", "team-0*", "team-1*", "team-20*"])
    assert next(candidates(cluster, None, last.__contains__)) == "team-2100"


def cluster_with(webhooks: dict[str, dict], policies: dict[str, dict], *names: str) -> SimpleNamespace:
    """A cluster with these namespaces, and with webhooks and specs of policies by the names of their objects."""
    collections = {
        MUTATING_WEBHOOKS_PATH: [{"metadata": {"name": name}, "webhooks": [entry]} for name, entry in webhooks.items()],
        policy_path("v1"): [{"metadata": {"name": name}, "spec": spec} for name, spec in policies.items()],
        NAMESPACES_PATH: [{"metadata": {"name": name}} for name in names],
    }

    def listing(path: str) -> Iterator[dict]:
        if path not in collections:
            raise ClusterError("not found", 404)
        yield from collections[path]

    return SimpleNamespace(list=listing)


def registration(namespace: str, *excluded: str, name: str = "mwebhook.peerpods.io") -> dict:
    """A webhook of a Service in the namespace, which this collection would register."""
    return webhook(
        name=name,
        client_config=service_client_config(namespace, "svc", "/mutate-v1-pod", 443),
        runtime_classes=["kata-remote"],
        excluded=namespaces(excluded),
        object_selector=None,
        operations=["CREATE"],
        failure_policy="Fail",
        reinvocation_policy="IfNeeded",
        timeout_seconds=10,
        match_conditions=True,
    )


def spec_of_policy(*excluded: str) -> dict:
    return policy_spec(
        runtime_classes=["kata-remote"],
        excluded=namespaces(excluded),
        object_selector={},
        failure_policy="Fail",
        reinvocation_policy="IfNeeded",
    )


# The operator excludes namespaces by their names only (controllers/ppwebhook.go of sandboxed-containers-operator).
OPERATORS = ("openshift-sandboxed-containers-operator", "openshift", "openshift-config", "kube-system")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("osc-peerpods", ["osc-peerpods", "kube-public", "openshift-other"]),
        ("openshift-peerpods", ["openshift-peerpods", "kube-public", "openshift-other"]),
        # That of the operator, which the operator's webhook excludes as well.
        ("openshift-sandboxed-containers-operator", ["kube-public", "openshift-other"]),
    ],
)
def test_the_removal_of_a_webhook_is_verified_where_only_the_other_one_mutates(own: str, expected: list[str]):
    ours = registration(own, *SYSTEM_NAMESPACES, own)
    others = {"ours": ours, "operators": registration(OPERATORS[0], *OPERATORS)}
    existing = sorted({"default", "kube-public", "kube-system", "openshift-config", "openshift-other", own})
    cluster = cluster_with(others, {}, *existing)
    known = [mutator for mutator in registered(cluster) if not mutator.name.endswith(" ours")]
    assert list(candidates_without(cluster, None, ours, known)) == expected
    # Without the permission to read the other one, every namespace that this one excludes is tried.
    assert set(candidates_without(cluster, None, ours, [])) == {*existing} - {"default"}


def test_the_exclusions_of_all_webhooks_and_policies_are_read():
    webhooks = {"ours": registration("osc", "a", "b", "c-*"), "another": registration("x", name="x.example.com")}
    foreign = {"matchConditions": [{"name": "x", "expression": 'request.namespace in ["b"]'}]}
    cluster = cluster_with(webhooks, {"policy": spec_of_policy("b", "c-1*", "d"), "foreign": foreign, "bare": {}})
    mutators = registered(cluster)
    assert [mutator.name for mutator in mutators] == [
        "MutatingWebhookConfiguration ours",
        "MutatingAdmissionPolicy policy",
    ]
    verdicts = {name: is_excluded_by_all(mutators, name) for name in ("a", "b", "c-1", "c-2", "d", "e")}
    assert verdicts == {"a": False, "b": True, "c-1": True, "c-2": False, "d": False, "e": False}
    assert not is_excluded_by_all([], "a")


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


# A quota of cpu closes it only until then.
NO_CPU = ClusterError("pods is forbidden: exceeded quota: no-cpu", 403)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether the pod is verified to be mutated by a cluster with these answers."""
    monkeypatch.setattr(verification, "PROBE_INTERVAL", 0.0)

    def run(answers: dict[str, list], chosen: str | None = None, *, is_new: bool = True) -> bool:
        params = {
            "target_runtime_classes": ["kata"],
            "object_selector": None,
            "verify_namespace": chosen,
            "wait_timeout": 60,
        }
        cluster = Answers(**answers)
        find = partial(candidates, cluster, chosen, namespaces([]).__contains__)
        module = SimpleNamespace(params=params, warn=lambda _text: None)
        return verify(module, cluster, "webhook", "w", find, is_new=is_new)

    return run


@pytest.mark.parametrize(
    "answers",
    [
        {"default": [UNCHANGED, NO_PEER_PODS], "a": [MUTATED_POD]},
        {"default": [NO_PEER_PODS] * 2, "a": [UNCHANGED, NO_PEER_PODS], "b": [MUTATED_POD]},
        {"default": [UNCHANGED, AWAY, AWAY, MUTATED_POD]},
        {"default": [AWAY, NO_PEER_PODS], "a": [MUTATED_POD]},
        {"default": [NO_CPU, NO_CPU, MUTATED_POD], "a": [NO_CPU, NO_CPU]},
        {"default": [NO_CPU] * 4, "a": [NO_CPU, AWAY, NO_CPU, MUTATED_POD]},
    ],
)
def test_the_proof_survives_what_comes_in_between(verified: Callable[..., bool], answers: dict[str, list]):
    assert verified(answers)


def test_a_chosen_namespace_that_rejects_the_pod_until_it_is_mutated_is_waited_for(verified: Callable[..., bool]):
    assert verified({"a": [NO_CPU, NO_CPU, MUTATED_POD]}, "a")


def test_what_rejects_the_pod_for_good_is_not_waited_for(
    verified: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
):
    # Nothing has changed: one answer of each namespace is enough.
    assert not verified({"default": [NO_CPU], "a": [NO_CPU]}, is_new=False)
    monkeypatch.setattr(verification, "SETTLE_SECONDS", 0.0)
    assert not verified({"default": [NO_CPU], "a": [NO_CPU]})
    with pytest.raises(AdmissionError, match="exceeded quota: no-cpu Set verify_namespace to another namespace"):
        verified({"a": [NO_CPU]}, "a", is_new=False)


@pytest.mark.parametrize("error", [EXPIRED, AWAY], ids=["expired", "away"])
def test_an_error_that_says_nothing_about_the_pod_is_no_proof(error: ClusterError):
    with pytest.raises(ClusterError):
        prove(Answers(default=[error], a=[MUTATED_POD]), UNCHANGED, ["default", "a"], ["w"])


def test_a_user_who_may_not_read_runtime_classes_gets_the_reason_of_the_rejection():
    def forbidden(_path: str) -> dict:
        raise ClusterError("cannot get runtimeclasses", 403)

    cluster = Answers(default=[NO_CPU], a=[MUTATED_POD])
    cluster.get = forbidden
    assert prove(cluster, UNCHANGED, ["default"], ["w"]) == Proof("rejected", reasons=(str(NO_CPU),))


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
