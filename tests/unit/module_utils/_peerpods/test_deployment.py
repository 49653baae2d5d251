from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import (
    Deployment,
    explain_reboot,
    is_control_plane,
    never_rolled,
    plan_deployment,
)


def pools(**machines: int) -> list[dict]:
    return [{"name": name, "machines": count} for name, count in machines.items()]


STANDARD = {"served": True, "pools": pools(master=3, worker=3)}
COMPACT = {"served": True, "pools": pools(master=3, worker=0)}
HOSTED = {"served": False, "pools": None}
# Definitions without the machine config operator: of MachineConfigs alone, and of MachineConfigPools, too.
HALF_HOSTED = {"served": True, "pools": None}
EMPTY = {"served": True, "pools": []}

BY_POOL = ("MachineConfig", "kata-oc")
BY_CONTROL_PLANE = ("MachineConfig", "master")
BY_DAEMON_SET = ("DaemonSet", None)
IMPOSSIBLE = (None, None)


@pytest.mark.parametrize(
    ("version", "gate", "machine_configs", "expected", "problem"),
    [
        # Releases that know MachineConfigs only read no gate.
        ("1.8.1", None, STANDARD, BY_POOL, ""),
        ("1.8.1", "DaemonSet", STANDARD, BY_POOL, ""),
        ("1.10.1", "DaemonSet", STANDARD, BY_POOL, ""),
        ("1.10.1", "DaemonSet", HOSTED, IMPOSSIBLE, "Operator 1.10.1 watches MachineConfigPools"),
        ("1.10.3", "DaemonSet", STANDARD, BY_DAEMON_SET, ""),
        ("1.11.0", None, COMPACT, BY_CONTROL_PLANE, ""),
        ("1.12.0", "DaemonSetFallback", STANDARD, BY_POOL, ""),
        # Its controller watches MachineConfigPools in every mode.
        ("1.12.0", "DaemonSet", HOSTED, IMPOSSIBLE, "which this cluster does not serve"),
        ("1.12.0", "DaemonSet", EMPTY, BY_DAEMON_SET, ""),
        ("1.12.0", None, EMPTY, IMPOSSIBLE, "Operator 1.12.0 would install kata by a MachineConfig"),
        ("1.9.0", None, EMPTY, IMPOSSIBLE, "no MachineConfigPools that apply it"),
        ("1.13.0", None, STANDARD, BY_POOL, ""),
        ("1.13.0", None, COMPACT, BY_CONTROL_PLANE, ""),
        ("1.13.0", "DaemonSet", COMPACT, BY_DAEMON_SET, ""),
        ("1.13.0", None, HOSTED, BY_DAEMON_SET, ""),
        ("1.13.0", "DaemonSet", HOSTED, BY_DAEMON_SET, ""),
        ("1.13.0", "MachineConfig", HOSTED, IMPOSSIBLE, "no MachineConfigPools that apply it"),
        ("1.13.0", None, HALF_HOSTED, IMPOSSIBLE, "no MachineConfigPools that apply it"),
        ("1.13.0", None, EMPTY, IMPOSSIBLE, "no MachineConfigPools that apply it"),
        ("1.13.0", "DaemonSet", HALF_HOSTED, BY_DAEMON_SET, ""),
        # The operator uses its default instead of a value that it does not know.
        ("1.13.0", "daemonset", STANDARD, BY_POOL, ""),
        ("2.0.0", None, HOSTED, BY_DAEMON_SET, ""),
        (None, None, HOSTED, BY_DAEMON_SET, ""),
        (None, "MachineConfig", HOSTED, IMPOSSIBLE, "The operator would install kata"),
    ],
)
def test_how_kata_is_installed(version, gate, machine_configs, expected, problem):
    deployment = plan_deployment(version, gate, machine_configs)
    assert (deployment.mode, deployment.pool) == expected
    assert problem in deployment.problem
    assert bool(deployment.problem) == bool(deployment.remedy) == (deployment.mode is None)


def test_what_to_do_without_pools():
    assert plan_deployment("1.12.0", None, EMPTY).remedy.startswith("Set deploymentMode")
    assert plan_deployment("1.9.0", None, EMPTY).remedy.startswith("Install operator 1.13")
    assert plan_deployment("1.12.0", None, HOSTED).remedy.startswith("Install operator 1.13")


@pytest.mark.parametrize(
    ("existing", "pool"),
    [
        (pools(master=3, worker=0), "master"),
        (pools(master=1, worker=0), "master"),
        (pools(master=1, worker=2), "kata-oc"),
        # A pool of another owner, or that of an earlier KataConfig.
        (pools(master=3, worker=0, infra=0), "kata-oc"),
    ],
)
def test_the_pool_that_is_rebooted(existing, pool):
    assert plan_deployment("1.13.0", None, {"served": True, "pools": existing}).pool == pool


CONTROL_PLANE = Deployment(*BY_CONTROL_PLANE)


@pytest.mark.parametrize(
    ("deployment", "existing", "expected"),
    [
        (CONTROL_PLANE, pools(master=1, worker=0), "reboots the only node of this cluster"),
        (CONTROL_PLANE, pools(master=3, worker=0), "reboots the 3 nodes of the control plane"),
        (Deployment(*BY_POOL), pools(master=3, worker=3), ""),
        (Deployment(*BY_DAEMON_SET), pools(master=1, worker=0), ""),
        (Deployment(*BY_DAEMON_SET), None, ""),
    ],
)
def test_what_a_reboot_means_for_the_control_plane(deployment, existing, expected):
    sentence = explain_reboot(deployment, existing)
    assert (expected in sentence) if expected else sentence == ""


NODE = {"name": "m0", "labels": {"node-role.kubernetes.io/master": "", "zone": "a"}}


@pytest.mark.parametrize(
    ("deployment", "selector", "expected"),
    [
        (Deployment(*BY_POOL), {}, ["m0"]),
        (Deployment(*BY_POOL), {"zone": "a"}, ["m0"]),
        (Deployment(*BY_POOL), {"zone": "b"}, []),
        (CONTROL_PLANE, {}, []),
        (Deployment(*BY_DAEMON_SET), {}, []),
    ],
)
def test_nodes_that_never_join_the_pool(deployment, selector, expected):
    assert never_rolled(deployment, [NODE], selector) == expected


def test_the_role_of_a_node():
    assert is_control_plane({"node-role.kubernetes.io/control-plane": ""})
    assert is_control_plane({"node-role.kubernetes.io/master": ""})
    assert not is_control_plane({"node-role.kubernetes.io/worker": ""})
