"""Which writes replace which cloud-api-adaptor pods, as tables."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._adaptor.plan import (
    GENERATION_ANNOTATION,
    GENERATION_LABEL,
    HASH_LABEL,
    HOLD_ANNOTATION,
    CurrentSettings,
    DesiredSettings,
    SettingsError,
    affected_peer_pods,
    as_text,
    explain_lost_peer_pods,
    hold_write,
    in_order,
    plan_settings,
    plan_write,
    refuse_bad_gates,
    restore_write,
    stale_pods,
    strategy_of,
    written_at,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import (
    VERSION_ANNOTATION,
    Operator,
    behaviour_of,
)

NEW = {"PROXY_TIMEOUT": "9m"}


def config_map(version: str = "7", time: str = "2026-03-01T12:00:00Z", **data: str) -> dict:
    return {
        "metadata": {
            "name": "peer-pods-cm",
            "resourceVersion": version,
            "managedFields": [
                {"manager": "one", "time": time, "fieldsV1": {"f:data": {}}},
                {"manager": "labeller", "time": "2027-01-01T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
            ],
        },
        "data": {"PROXY_TIMEOUT": "5m", **data},
    }


def gates(annotation: str | None = None, **data: str) -> dict:
    annotations = {} if annotation is None else {HOLD_ANNOTATION: annotation}
    return {"metadata": {"name": "osc-feature-gates", "resourceVersion": "3", "annotations": annotations}, "data": data}


def pod(
    node: str = "a",
    generation: str = "1",
    started: str | None = "2026-03-01T13:00:00Z",
    hash_: str = "h",
) -> dict:
    state = {"running": {"startedAt": started}} if started else {"waiting": {}}
    return {
        "metadata": {
            "name": f"caa-{node}",
            "namespace": "osc",
            "uid": f"uid-{node}",
            "labels": {GENERATION_LABEL: generation, HASH_LABEL: hash_},
        },
        "spec": {"nodeName": node},
        "status": {"containerStatuses": [{"name": "caa-pod", "state": state}]},
    }


def operator(release: str, noted_version: str | None = None, exists: bool = True) -> Operator:
    annotations = {} if noted_version is None else {VERSION_ANNOTATION: noted_version}
    daemon_set = {
        "metadata": {"name": "osc-caa-ds", "annotations": {GENERATION_ANNOTATION: "1"}},
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": {}}},
    }
    return Operator(release, behaviour_of(release), True, daemon_set if exists else None)


FIRST, SECOND, NEWEST = operator("1.8.1"), operator("1.10.3"), operator("1.13.0", "7")


@pytest.mark.parametrize(
    ("case", "current_operator", "desired", "current", "mode", "targets"),
    [
        ("nothing to write", NEWEST, {"config_map": {"PROXY_TIMEOUT": "5m"}}, {}, "write", 0),
        ("no pods yet", operator("1.13.0", exists=False), {"config_map": NEW}, {}, "write", 0),
        ("1.8 does not replace", FIRST, {"config_map": NEW}, {}, "replace", 2),
        ("1.10 does not replace", SECOND, {"config_map": NEW}, {}, "replace", 2),
        ("1.13 replaces", NEWEST, {"config_map": NEW}, {}, "hold", 2),
        (
            "1.13 with OnDelete of the user",
            NEWEST,
            {"config_map": NEW},
            {"gates": gates(caaUpdateStrategy="OnDelete")},
            "replace",
            2,
        ),
        (
            "1.13 with OnDelete in the same run",
            NEWEST,
            {"config_map": NEW, "gates": {"caaUpdateStrategy": "OnDelete"}},
            {},
            "replace",
            2,
        ),
        (
            "1.13 with a strategy that the operator ignores",
            NEWEST,
            {"config_map": NEW},
            {"gates": gates(caaUpdateStrategy="ondelete")},
            "hold",
            2,
        ),
        ("a roll without an option", operator("1.12.0", "7"), {"config_map": NEW}, {}, "roll", 2),
        (
            "a roll without an option, and no replacement requested",
            operator("1.12.0", "7"),
            {"config_map": NEW, "replace": False},
            {},
            "roll",
            2,
        ),
        ("no replacement requested", SECOND, {"config_map": NEW, "replace": False}, {}, "write", 0),
        (
            "no replacement requested, which requires OnDelete",
            NEWEST,
            {"config_map": NEW, "replace": False},
            {},
            "hold",
            0,
        ),
        ("the Secret is not watched", NEWEST, {"secret": {"KEY": "value"}}, {}, "replace", 2),
        ("a gate that is not about CAA", NEWEST, {"gates": {"deploymentMode": "DaemonSet"}}, {}, "write", 0),
        (
            "a gate with which the operator writes peer-pods-cm",
            NEWEST,
            {"gates": {"confidential": "true"}},
            {},
            "hold",
            2,
        ),
        (
            "the same gate, and peer-pods-cm has the value",
            NEWEST,
            {"gates": {"confidential": "true"}},
            {"config_map": config_map(DISABLECVM="false")},
            "write",
            0,
        ),
        (
            "a gate while a label of peer-pods-cm waits for a reconcile",
            operator("1.13.0", "6"),
            {"gates": {"deploymentMode": "DaemonSet"}},
            {},
            "hold",
            2,
        ),
        ("a rerun with stale pods", NEWEST, {}, {"stale": True}, "write", 0),
        ("a resumed run with stale pods", NEWEST, {"resume": True}, {"stale": True}, "replace", 1),
        (
            "back to RollingUpdate with stale pods",
            NEWEST,
            {"gates": {"caaUpdateStrategy": "RollingUpdate"}},
            {"gates": gates(caaUpdateStrategy="OnDelete"), "stale": True},
            "hold",
            1,
        ),
        (
            "back to RollingUpdate without stale pods",
            NEWEST,
            {"gates": {"caaUpdateStrategy": "RollingUpdate"}},
            {"gates": gates(caaUpdateStrategy="OnDelete")},
            "write",
            0,
        ),
        (
            "an interrupted run writes more",
            NEWEST,
            {"config_map": NEW},
            {"gates": gates("", caaUpdateStrategy="OnDelete")},
            "hold",
            2,
        ),
    ],
)
def test_how_a_write_takes_effect(case, current_operator, desired, current, mode, targets):
    pods = [pod("a"), pod("b")]
    stale = pods[:1] if current.pop("stale", False) else []
    plan = plan_settings(
        CurrentSettings(**{"config_map": config_map(), **current}),
        DesiredSettings(**desired),
        current_operator,
        pods,
        stale,
    )
    assert (plan.mode, len(plan.targets)) == (mode, targets)


@pytest.mark.parametrize(
    ("feature_gates", "own", "is_held"),
    [
        (None, None, False),
        (gates(caaUpdateStrategy="RollingUpdate"), "RollingUpdate", False),
        (gates(caaUpdateStrategy="OnDelete"), "OnDelete", False),
        (gates("", caaUpdateStrategy="OnDelete"), None, True),
        (gates("RollingUpdate", caaUpdateStrategy="OnDelete"), "RollingUpdate", True),
        # The strategy was changed by hand after the write.
        (gates("", caaUpdateStrategy="RollingUpdate"), "RollingUpdate", False),
    ],
)
def test_the_owner_of_the_strategy(feature_gates, own, is_held):
    strategy = strategy_of(feature_gates)
    assert (strategy.own, strategy.is_held) == (own, is_held)


@pytest.mark.parametrize("own", [None, "RollingUpdate"])
def test_the_strategy_is_restored(own):
    before = gates() if own is None else gates(caaUpdateStrategy=own)
    write = hold_write(before)
    assert write.data == {"caaUpdateStrategy": "OnDelete"}
    assert write.annotations == {HOLD_ANNOTATION: own or ""}
    held_gates = gates(own or "", caaUpdateStrategy="OnDelete")
    assert hold_write(held_gates) is None
    restored = restore_write(held_gates)
    assert restored.data == {"caaUpdateStrategy": own}
    assert restored.annotations == {HOLD_ANNOTATION: None}
    assert restore_write(held_gates, "RollingUpdate").data == {"caaUpdateStrategy": "RollingUpdate"}


def test_a_strategy_that_a_user_sets_meanwhile_is_kept():
    restored = restore_write(gates("", caaUpdateStrategy="RollingUpdate"))
    assert (restored.data, restored.annotations) == ({}, {HOLD_ANNOTATION: None})


@pytest.mark.parametrize(
    ("data", "desired", "written"),
    [
        ({}, {}, {"PODVM_AMI_ID": "ami-mine"}),
        ({"PODVM_AMI_ID": ""}, NEW, {"PODVM_AMI_ID": "ami-mine", **NEW}),
        ({}, {"PODVM_AMI_ID": "ami-new"}, {"PODVM_AMI_ID": "ami-new"}),
        # A user has set another image since.
        ({"PODVM_AMI_ID": "ami-other"}, {}, {}),
    ],
)
@pytest.mark.parametrize("pods", [[], [pod()]])
def test_the_image_that_an_interrupted_teardown_keeps_is_restored(data: dict, desired: dict, written: dict, pods: list):
    """Like any other write: it replaces the pods."""
    settings = config_map(**data)
    settings["metadata"]["annotations"] = {"osc.peerpods/pod-vm-image": "ami-mine"}
    plan = plan_settings(CurrentSettings(settings), DesiredSettings(desired), NEWEST, pods, [])
    if pods and not written:
        # The annotation alone can wait.
        assert (plan.writes, plan.mode, plan.targets) == ((), "write", ())
        return
    assert plan.config_map.data == written
    assert plan.config_map.annotations == {"osc.peerpods/pod-vm-image": None}
    assert (plan.mode, len(plan.targets)) == (("hold", 1) if pods else ("write", 0))


GALLERY = ["osc.peerpods/image-gallery", "IMAGE_GALLERY_NAME"]


@pytest.mark.parametrize(
    ("current_operator", "pods", "desired", "written", "mode", "targets"),
    [
        (FIRST, 2, {}, GALLERY, "write", 0),
        (SECOND, 2, {}, GALLERY, "write", 0),
        (SECOND, 2, {"resume": True}, GALLERY, "replace", 1),
        (SECOND, 2, {"secret": {"KEY": "value"}}, GALLERY, "replace", 2),
        (NEWEST, 0, {}, GALLERY, "write", 0),
        (operator("1.13.0", exists=False), 0, {}, GALLERY, "write", 0),
        # The operator would replace all pods, but only at its next reconcile.
        (NEWEST, 2, {}, [], "write", 0),
        (NEWEST, 2, {"resume": True}, [], "replace", 1),
        (NEWEST, 2, {"secret": {"KEY": "value"}}, [], "replace", 2),
        (NEWEST, 2, {"config_map": NEW}, GALLERY, "hold", 2),
        (SECOND, 2, {"config_map": NEW}, GALLERY, "replace", 2),
    ],
)
def test_the_annotation_for_the_gallery_alone_replaces_no_pod(current_operator, pods, desired, written, mode, targets):
    """It is restored after a teardown or a renewal that was interrupted. One pod is stale for another reason."""
    settings = config_map()
    settings["metadata"]["annotations"] = {"osc.peerpods/image-gallery": "PodVMGallery_1"}
    nodes = [pod("a"), pod("b")][:pods]
    plan = plan_settings(CurrentSettings(settings), DesiredSettings(**desired), current_operator, nodes, nodes[:1])
    assert (plan.mode, len(plan.targets)) == (mode, targets)
    write = plan.config_map
    assert list(write.annotations if write else ()) == written
    if written:
        assert dict(write.annotations) == dict(zip(GALLERY, (None, "PodVMGallery_1"), strict=True))
        # The time of the manager that owns the data stays.
        assert write.field_manager == ("osc.peerpods" if write.data else "osc.peerpods-annotations")


def test_what_the_operator_would_delete_is_not_restored():
    settings = config_map()
    settings["metadata"]["annotations"] = {
        "osc.peerpods/pod-vm-image": "ami-mine",
        "osc.peerpods/image-gallery": "PodVMGallery_1",
    }
    desired = DesiredSettings(NEW, restores_image=False)
    plan = plan_settings(CurrentSettings(settings), desired, NEWEST, [], [])
    assert (plan.config_map.data, plan.config_map.annotations) == (NEW, {})


def test_an_interrupted_run_is_completed_together_with_a_write_if_no_pod_exists():
    current = CurrentSettings(config_map(), None, gates("", caaUpdateStrategy="OnDelete"))
    assert plan_settings(current, DesiredSettings(NEW), NEWEST, [], []).restores_strategy
    assert not plan_settings(current, DesiredSettings(NEW), NEWEST, [pod()], []).restores_strategy


@pytest.mark.parametrize(
    ("stale", "restores_strategy"), [(False, True), (True, False)], ids=["all pods are new", "one pod is stale"]
)
def test_a_rerun_completes_an_interrupted_run(stale, restores_strategy):
    pods = [pod()]
    current = CurrentSettings(config_map(), None, gates("", caaUpdateStrategy="OnDelete"))
    plan = plan_settings(current, DesiredSettings(), NEWEST, pods, pods if stale else [])
    assert (plan.restores_strategy, plan.changed) == (restores_strategy, restores_strategy)
    assert plan_settings(current, DesiredSettings(), NEWEST, [], []).restores_strategy


@pytest.mark.parametrize(
    ("case", "adaptor_pod", "options", "is_stale"),
    [
        ("started later", pod(), {}, False),
        ("started before", pod(started="2026-03-01T11:59:59Z"), {}, True),
        ("in the second of the write", pod(started="2026-03-01T12:00:00Z"), {}, False),
        ("in the second of the own write", pod(started="2026-03-01T12:00:00Z"), {"same_second": True}, True),
        ("does not run, and reads its settings when it starts", pod(started=None), {}, False),
        ("of another template", pod(generation="0"), {}, True),
        ("of a template that came back", pod(generation="0"), {"revision": "h"}, False),
    ],
)
def test_pods_with_older_settings_are_stale(case, adaptor_pod, options, is_stale):
    written = written_at(config_map(), None)
    assert bool(stale_pods([adaptor_pod], SECOND.daemon_set, written, **options)) == is_stale


def test_the_values_of_a_secret_are_not_in_the_diff():
    stored = {"metadata": {"resourceVersion": "1"}, "data": {"A": base64.b64encode(b"x").decode()}}
    write = plan_write("Secret", "peer-pods-secret", stored, {"A": "hidden", "B": "hidden"})
    assert "hidden" not in str(write.diff())
    assert set(write.diff()[1]) == {"A", "B"}
    assert write.body("osc", {})["data"]["A"] == base64.b64encode(b"hidden").decode()
    assert plan_write("Secret", "peer-pods-secret", stored, {"A": "x"}) is None


def test_only_a_new_object_is_labelled():
    labels = {"app.kubernetes.io/part-of": "osc.peerpods"}
    new = plan_write("ConfigMap", "peer-pods-cm", None, NEW).body("osc", labels)
    assert new["metadata"]["labels"] == labels
    patch = plan_write("ConfigMap", "peer-pods-cm", config_map(), NEW).body("osc", labels)
    assert patch == {"metadata": {"resourceVersion": "7"}, "data": NEW}


def test_an_existing_key_can_be_kept():
    desired = {"PROXY_TIMEOUT": "9m", "VXLAN_PORT": "9000"}
    write = plan_write("ConfigMap", "peer-pods-cm", config_map(), desired, only_missing=list(desired))
    assert write.data == {"VXLAN_PORT": "9000"}


def test_values_must_be_strings():
    assert as_text({"a": True, "b": 5, "c": "x"}, "config_map") == {"a": "true", "b": "5", "c": "x"}
    with pytest.raises(SettingsError, match="a of config_map must be"):
        as_text({"a": ["x"]}, "config_map")


@pytest.mark.parametrize("value", ["ondelete", "Recreate", ""])
def test_a_strategy_that_the_operator_ignores_is_rejected(value):
    with pytest.raises(SettingsError, match="must be RollingUpdate or OnDelete"):
        refuse_bad_gates({"caaUpdateStrategy": value})


def test_nodes_with_the_fewest_peer_pods_come_first():
    pods = [pod("a"), pod("b"), pod("c")]
    peer_pods = {"a": ["n/1", "n/2"], "b": ["n/3"], "other": ["n/4"]}
    assert [ordered_pod["spec"]["nodeName"] for ordered_pod in in_order(pods, peer_pods)] == ["c", "b", "a"]
    assert affected_peer_pods(pods, peer_pods) == {"a": ["n/1", "n/2"], "b": ["n/3"]}


def test_a_rejection_lists_twenty_peer_pods_and_the_next_step():
    plan = plan_settings(CurrentSettings(config_map()), DesiredSettings(config_map=NEW), NEWEST, [pod()], [])
    message = explain_lost_peer_pods(plan, {"a": [f"n/{number}" for number in range(25)]})
    assert "ConfigMap/peer-pods-cm" in message
    assert "n/19 on a and 5 more" in message
    assert "n/20" not in message
    assert "ends in _disruption) to wait" in message
