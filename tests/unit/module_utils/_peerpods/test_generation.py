"""Which generation of the operator a cluster has."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import (
    NEWEST,
    VERSION_ANNOTATION,
    behaviour_of,
    csv_version,
    decide,
    installed_version,
    is_known,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PEER_POD_CONFIG, PEER_PODS_CM


def daemon_set(name: str = "osc-caa-ds", **annotations: str) -> dict:
    template = {"metadata": {"annotations": annotations}, "spec": {"nodeSelector": {"pool": ""}}}
    return {"metadata": {"name": name}, "spec": {"template": template}}


def csv(release: str, phase: str, package: str = "sandboxed-containers-operator") -> dict:
    return {
        "metadata": {"name": f"{package}.v{release}"},
        "spec": {"version": release},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("release", "limit_in", "rolls"),
    [
        ("1.4.1", PEER_POD_CONFIG, False),
        ("1.8.1", PEER_POD_CONFIG, False),
        ("1.9.0", PEER_PODS_CM, False),
        ("1.10.3", PEER_PODS_CM, False),
        ("1.12.1", PEER_PODS_CM, False),
        ("1.13.0", PEER_PODS_CM, True),
        ("2.0.0", PEER_PODS_CM, True),
        # Older than the table: the first generation.
        ("1.3.3", PEER_POD_CONFIG, False),
    ],
)
def test_a_release_behaves_like_the_newest_row_up_to_it(release, limit_in, rolls):
    behaviour = behaviour_of(release)
    assert (behaviour.limit_in, behaviour.rolls) == (limit_in, rolls)


@pytest.mark.parametrize(("release", "known"), [("1.3.9", False), ("1.4.0", True), ("1.13.9", True), ("1.14.0", False)])
def test_a_release_beyond_the_table_is_unknown(release, known):
    assert is_known(release) is known


@pytest.mark.parametrize(
    ("csvs", "installed"),
    [
        ([], None),
        ([csv("1.9.0", "Installing")], None),
        ([{**csv("1.9.0", "Succeeded"), "spec": {}}], None),
        ([csv("1.8.1", "Succeeded"), csv("5.0.0", "Succeeded", "other")], "1.8.1"),
        ([csv("1.10.0", "Installing"), csv("1.8.1", "Replacing")], "1.8.1"),
        ([csv("1.8.1", "Replacing"), csv("1.10.0", "Succeeded")], "1.10.0"),
    ],
)
def test_the_version_is_that_of_the_running_release(csvs, installed):
    assert installed_version(csvs) == installed


@pytest.mark.parametrize(
    ("installed", "served", "has_config", "adaptor_set", "limit_in"),
    [
        ("1.8.1", True, True, None, PEER_POD_CONFIG),
        # Left over from the release before.
        ("1.10.0", True, True, None, PEER_PODS_CM),
        ("1.10.0", False, False, None, PEER_PODS_CM),
        (None, True, True, None, PEER_POD_CONFIG),
        (None, True, True, daemon_set(), PEER_PODS_CM),
        (None, True, False, daemon_set("peerpodconfig-ctrl-caa-daemon"), PEER_POD_CONFIG),
    ],
)
def test_the_version_takes_precedence_over_leftovers(installed, served, has_config, adaptor_set, limit_in):
    operator = decide(installed, configs_served=served, has_config=has_config, daemon_set=adaptor_set)
    assert operator.behaviour.limit_in == limit_in


@pytest.mark.parametrize("served", [True, False])
def test_a_cluster_without_a_trace_of_an_operator(served):
    assert decide(None, configs_served=served, has_config=False, daemon_set=None) is None


def test_whether_a_write_rolls_is_read_from_the_daemon_set():
    settings = {"configs_served": False, "has_config": False}
    waiting = decide("1.13.0", **settings, daemon_set=daemon_set())
    rolling = decide("1.12.0", **settings, daemon_set=daemon_set(**{VERSION_ANNOTATION: "7"}))
    unknown = decide("1.13.0", **settings, daemon_set=None)
    assert (waiting.rolls, rolling.rolls, unknown.rolls) == (False, True, NEWEST.rolls)
    assert rolling.node_selector == {"pool": ""}


PACKAGE = "sandboxed-containers-operator"


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.8.1", "1.10.0"), ("1.8.1", "1.8.1-1"), ("1.8.1-0.1700000", "1.8.1-0.1800000")],
)
def test_versions(older: str, newer: str):
    assert csv_version(f"{PACKAGE}.v{older}") < csv_version(f"{PACKAGE}.v{newer}")
