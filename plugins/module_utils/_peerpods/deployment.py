# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the operator installs kata on nodes: by MachineConfigs, which reboot them, or by a DaemonSet (no I/O here).

Private to this collection. Sources are files of openshift/sandboxed-containers-operator (SCO) and
openshift/machine-config-operator (MCO). The table is `RELEASES`; a release with another behaviour needs a new row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The key of osc-feature-gates, and its values.
DEPLOYMENT_MODE_KEY = "deploymentMode"
MACHINE_CONFIG, DAEMON_SET, FALLBACK = "MachineConfig", "DaemonSet", "DaemonSetFallback"

# The pool that the operator creates for the nodes of a KataConfig, and the pool of the control plane's nodes.
KATA_POOL, CONTROL_PLANE_POOL, WORKER_POOL = "kata-oc", "master", "worker"

CONTROL_PLANE_LABELS = ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")


@dataclass(frozen=True)
class Release:
    """The operators from release `since` on.

    `modes` are the values of deploymentMode that it reads, and `default` the one for any other value. One that
    `needs_pools` watches MachineConfigPools: where the API server does not serve them, its controller does not start.
    """

    since: tuple[int, ...]
    modes: tuple[str, ...]
    default: str
    needs_pools: bool = True


RELEASES = (
    Release((1, 4), (MACHINE_CONFIG,), MACHINE_CONFIG),
    # SCO's pull request 1067, the port of 825 to 1.10 (1.10.3 is the version of its first image):
    # controllers/deployment_mode_handler.go and fg_handler.go.
    Release((1, 10, 3), (MACHINE_CONFIG, DAEMON_SET, FALLBACK), MACHINE_CONFIG),
    # SCO's pull request 2291 (2026-06, after 1.12.0): isMachineConfigPoolAvailable. controllers/fg_handler.go at
    # 00b58ece: the default.
    Release((1, 13), (MACHINE_CONFIG, DAEMON_SET, FALLBACK), FALLBACK, needs_pools=False),
)

# The first release that installs kata where the API server serves no MachineConfigPools.
WITHOUT_POOLS = "1.13"


@dataclass(frozen=True)
class Deployment:
    """How the operator installs kata in a cluster.

    `mode` is MachineConfig, DaemonSet, or None if neither works: `problem` and `remedy` then are sentences. `pool` is
    the MachineConfigPool whose nodes the machine config operator reboots, None with a DaemonSet.
    """

    mode: str | None
    pool: str | None = None
    problem: str = ""
    remedy: str = ""


def plan_deployment(version: str | None, gate: str | None, machine_configs: Mapping[str, Any]) -> Deployment:
    """What the operator `version` (None: the newest) does with this value of deploymentMode (None: not set).

    `machine_configs` has `served`, whether the API server serves MachineConfigs, and `pools`, the MachineConfigPools as
    `describe_pool` returns them, None if they are not served.
    """
    release, pools = _release(version), machine_configs["pools"]
    name = f"Operator {version}" if version else "The operator"
    mode = gate if gate in release.modes else release.default
    use_daemon_set = "Set deploymentMode in operator_install_feature_gates to DaemonSet."
    use_newer = (
        f"Install operator {WITHOUT_POOLS} or newer, which installs kata with a DaemonSet on such a cluster: set "
        "operator_install_channel and operator_install_source to a channel that has it."
    )
    if pools is None and release.needs_pools:
        return _impossible(
            f"{name} watches MachineConfigPools, which this cluster does not serve: it stops.", use_newer
        )
    if mode == DAEMON_SET:
        return Deployment(DAEMON_SET)
    if pools:
        return Deployment(MACHINE_CONFIG, CONTROL_PLANE_POOL if is_converged(pools) else KATA_POOL)
    if mode == FALLBACK and not machine_configs["served"]:
        return Deployment(DAEMON_SET)
    # As where the CustomResourceDefinitions exist without the machine config operator.
    return _impossible(
        f"{name} would install kata by a MachineConfig, and this cluster has no MachineConfigPools that apply it.",
        use_daemon_set if DAEMON_SET in release.modes else use_newer,
    )


def _impossible(problem: str, remedy: str) -> Deployment:
    return Deployment(None, problem=problem, remedy=remedy)


def is_converged(pools: Collection[Mapping]) -> bool:
    """Whether the operator installs kata on the control plane's nodes: with exactly two pools, `worker` without nodes
    (checkConvergedCluster in SCO's controllers/openshift_controller.go)."""
    return len(pools) == 2 and any(pool["name"] == WORKER_POOL and not pool["machines"] for pool in pools)


def is_control_plane(labels: Mapping[str, str]) -> bool:
    """Whether these are the labels of a node of the control plane."""
    return any(label in labels for label in CONTROL_PLANE_LABELS)


def explain_reboot(deployment: Deployment, pools: Collection[Mapping] | None) -> str:
    """What happens to the control plane when kata is installed or removed, as a sentence; empty if nothing does."""
    if deployment.pool != CONTROL_PLANE_POOL:
        return ""
    machines = next((pool["machines"] for pool in pools or () if pool["name"] == CONTROL_PLANE_POOL), 0)
    if machines == 1:
        return (
            "The machine config operator reboots the only node of this cluster: its API and all its pods are down "
            "until the node is back."
        )
    return (
        f"The machine config operator reboots the {machines} nodes of the control plane, one after the other, since "
        "they are also the workers: pods are drained, and a second node that fails meanwhile stops the API."
    )


def never_rolled(deployment: Deployment, nodes: Iterable[Mapping], selector: Mapping[str, str]) -> list[str]:
    """The names of the control plane's nodes that a KataConfig with this selector waits for in vain.

    The operator labels every node with the role worker and these labels for its pool (updateNodeLabels in SCO's
    controllers/openshift_controller.go), but a node of the control plane stays in the pool `master` (GetPoolsForNode in
    MCO's pkg/helpers/helpers.go). `nodes` are those of the control plane with the role worker, with `name` and
    `labels`.
    """
    if deployment.pool != KATA_POOL:
        return []
    return [node["name"] for node in nodes if selector.items() <= node["labels"].items()]


def explain_never_rolled(names: Collection[str]) -> str:
    return (
        f"The KataConfig would select nodes of the control plane: {join_names([*names])}. They stay in the "
        f"MachineConfigPool {CONTROL_PLANE_POOL}, and so the operator would wait for them without end."
    )


def _release(version: str | None) -> Release:
    if version is None:
        return RELEASES[-1]
    numbers = tuple(map(int, re.findall(r"\d+", version.partition("-")[0])))
    return next((row for row in reversed(RELEASES) if row.since <= numbers), RELEASES[0])
