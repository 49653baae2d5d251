from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.node_rollout import describe_pool
from ansible_collections.osc.peerpods.plugins.module_utils._operator.teardown import find_blockers, plan_teardown
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import Deployment


def entry(kind: str, name: str = "a", *, managed: bool = True, **labels: str) -> dict:
    content = {"name": "sandboxed-containers-operator"} if kind == "Subscription" else {}
    return {
        "kind": kind,
        "name": name,
        "managed": managed,
        "of_operator": False,
        "labels": labels,
        "content": content,
    }


REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
STS = {"kataconfiguration.openshift.io/sts": "aws"}
CSV_OF_OLM = entry("ClusterServiceVersion", managed=False)
OF_ANOTHER_OPERATOR = {**entry("Subscription", "b", managed=False), "content": {"name": "another-operator"}}


@pytest.mark.parametrize(
    ("objects", "removed", "remaining"),
    [
        ([], [], []),
        ([entry("KataConfig"), entry("Namespace")], [], []),
        ([entry("Subscription"), CSV_OF_OLM], ["Subscription", "ClusterServiceVersion"], []),
        ([entry("Subscription", managed=False), CSV_OF_OLM], [], ["Subscription/a", "ClusterServiceVersion/a"]),
        # An interrupted teardown has labelled it and removed the Subscription.
        ([entry("ClusterServiceVersion")], ["ClusterServiceVersion"], []),
        ([entry("ClusterServiceVersion"), OF_ANOTHER_OPERATOR], ["ClusterServiceVersion"], ["Subscription/b"]),
        # A user has subscribed since, and OLM has adopted it.
        (
            [entry("Subscription", managed=False), entry("ClusterServiceVersion")],
            [],
            ["Subscription/a", "ClusterServiceVersion/a"],
        ),
        ([entry("OperatorGroup", managed=False), entry("Namespace")], [], ["OperatorGroup/a", "Namespace/a"]),
        ([entry("Secret", managed=False, **REQUESTED), entry("Namespace")], [], []),
        ([entry("Secret", managed=False, **STS), entry("Namespace")], [], []),
        ([{**entry("ConfigMap", managed=False), "of_operator": True}, entry("Namespace")], [], []),
        # Another operator in the namespace, or a Subscription of the user, needs the OperatorGroup.
        (
            [entry("Subscription"), entry("Subscription", "b", managed=False), CSV_OF_OLM, entry("OperatorGroup")],
            ["Subscription", "ClusterServiceVersion"],
            ["Subscription/b", "OperatorGroup/a"],
        ),
        (
            [entry("Subscription", managed=False), entry("OperatorGroup"), entry("ConfigMap")],
            ["ConfigMap"],
            ["Subscription/a", "OperatorGroup/a"],
        ),
        (
            [entry("KataConfig", managed=False), entry("Subscription"), CSV_OF_OLM],
            [],
            ["KataConfig/a", "Subscription/a", "ClusterServiceVersion/a"],
        ),
    ],
)
def test_what_a_teardown_removes(objects: list[dict], removed: list[str], remaining: list[str]):
    planned = plan_teardown(objects)
    assert [each["kind"] for each in planned["remove"]] == removed
    assert planned["remain"] == remaining


OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}


def kata_config(*, managed: bool = True, finalizers: tuple[str, ...] = ("f",), classes: tuple[str, ...] = ()) -> dict:
    return {
        "metadata": {"name": "k", "labels": OURS if managed else {}, "finalizers": list(finalizers)},
        "status": {"runtimeClasses": list(classes)},
    }


def csv(phase: str | None, patch: int = 0) -> dict:
    name = f"sandboxed-containers-operator.v1.13.{patch}"
    return {"metadata": {"name": name}, "status": {"phase": phase} if phase else {}}


def pod(runtime_class: str | None, phase: str = "Running") -> dict:
    spec = {"runtimeClassName": runtime_class} if runtime_class else {}
    return {"metadata": {"namespace": "n", "name": runtime_class or "p"}, "spec": spec, "status": {"phase": phase}}


def pool(name: str, *, paused: bool = False, degraded: str = "") -> dict:
    conditions = [{"type": "NodeDegraded", "status": "True", "message": degraded}] if degraded else []
    return {"metadata": {"name": name}, "spec": {"paused": paused}, "status": {"conditions": conditions}}


POOL = Deployment("MachineConfig", "kata-oc")
CONVERGED = Deployment("MachineConfig", "master")
WITHOUT_POOL = Deployment("DaemonSet")


def blockers(
    kata: dict | None,
    *,
    pods: tuple[dict, ...] = (),
    pools: tuple[dict, ...] = (),
    phases: tuple = ("Succeeded",),
    deployment: Deployment = POOL,
) -> list[str]:
    objects = [("v1", "KataConfig", kata)] if kata else []
    objects += [("v1alpha1", "ClusterServiceVersion", csv(phase, patch)) for patch, phase in enumerate(phases)]
    return find_blockers(objects, pods, deployment, [describe_pool(entry) for entry in pools])


INSTALLED = ("kata", "kata-remote")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (blockers(kata_config(classes=INSTALLED), pods=(pod("kata"), pod(None))), ["RuntimeClass kata exist: n/kata."]),
        (
            blockers(kata_config(classes=INSTALLED), pods=(pod("kata-remote", "Succeeded"),)),
            ["n/kata-remote", "have ended"],
        ),
        (
            blockers(kata_config(classes=INSTALLED), pods=(pod("kata", "Pending"), pod("kata-remote", "Failed"))),
            ["RuntimeClass kata, kata-remote exist: n/kata, n/kata-remote."],
        ),
        (blockers(kata_config(), phases=()), ["does not run (no ClusterServiceVersion of it exists)"]),
        (
            blockers(kata_config(), phases=("Failed",)),
            ["does not run (sandboxed-containers-operator.v1.13.0 is Failed)"],
        ),
        (blockers(kata_config(), phases=(None,)), ["v1.13.0 is new"]),
        (blockers(kata_config(), pools=(pool("worker", paused=True),)), ["MachineConfigPool worker is paused"]),
        (blockers(kata_config(), pools=(pool("kata-oc", degraded="full disk"),)), ["kata-oc is degraded: full disk"]),
        (
            blockers(kata_config(), pools=(pool("master", paused=True), pool("worker")), deployment=CONVERGED),
            ["MachineConfigPool master is paused"],
        ),
    ],
)
def test_what_blocks_the_removal_of_a_kata_config(found: list[str], words: list[str]):
    (sentence,) = found
    for text in words:
        assert text in sentence


OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}
KEPT = ("v1", "ConfigMap", {"metadata": {"name": "peerpods-kataconfig", "labels": OURS}})


def test_a_kata_config_that_a_renewal_deleted_is_not_lost():
    """The ConfigMap that keeps it would be deleted together with the namespace."""
    (sentence,) = find_blockers([KEPT], [], POOL, [])
    assert "the ConfigMap peerpods-kataconfig keeps" in sentence
    created_again = ("kataconfiguration.openshift.io/v1", "KataConfig", kata_config(managed=False))
    assert find_blockers([created_again, KEPT], [], POOL, []) == []
    assert find_blockers([("v1", "ConfigMap", {"metadata": {"name": "peerpods-kataconfig"}})], [], POOL, []) == []


def test_all_blockers_are_reported_together():
    found = blockers(
        kata_config(classes=INSTALLED), pods=(pod("kata"),), pools=(pool("worker", paused=True),), phases=()
    )
    assert len(found) == 3


@pytest.mark.parametrize(
    "found",
    [
        blockers(
            kata_config(classes=INSTALLED),
            pods=(pod("runc"), pod(None)),
            pools=(pool("worker"), pool("master", paused=True)),
        ),
        # A DaemonSet removes kata.
        blockers(kata_config(), pools=(pool("worker", paused=True),), deployment=WITHOUT_POOL),
        # While one version replaces another, the old one runs.
        blockers(kata_config(), phases=("Replacing", "Installing")),
        # Nothing has to run before it is gone.
        blockers(kata_config(finalizers=()), phases=()),
        # Not removed.
        blockers(kata_config(managed=False, classes=INSTALLED), pods=(pod("kata"),), phases=()),
        blockers(None, pods=(pod("kata"),), pools=(pool("worker", paused=True),), phases=()),
    ],
)
def test_what_does_not_block(found: list[str]):
    assert found == []
