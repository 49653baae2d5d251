# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a cluster is between the two generations of the operator (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    OPERATORS_CONFIG,
)

# The states of a cluster between the operator's two generations.
MIGRATED = "migrated"
PENDING = "pending"
LIMIT_MISSING = "limit_missing"
DOWNGRADED = "downgraded"
TWO_ADAPTORS = "two_adaptors"


def migration_state(
    *,
    is_second: bool,
    daemon_set: str | None,
    configs: Iterable[str] | None,
    limit: str | None,
    has_settings: bool,
    older_daemon_set_of: str | None = None,
) -> dict:
    """The state of a cluster between the two generations, with a sentence if the state needs attention.

    `is_second` is the generation of the installed operator, `daemon_set` the name of the DaemonSet of
    cloud-api-adaptor, `configs` the names of the PeerPodConfigs (None if the API server does not serve them), `limit`
    the literal value of PEERPODS_LIMIT_PER_NODE, `has_settings` whether peer-pods-cm exists, `older_daemon_set_of` the
    PeerPodConfig that still owns the DaemonSet of an operator older than 1.9.
    """
    names = sorted(configs or ())
    pools = [name for name in names if name != OPERATORS_CONFIG]
    if not is_second:
        if daemon_set != "osc-caa-ds":
            return _state("", pools=names)
        return _state(
            DOWNGRADED,
            f"The installed operator is older than 1.9, and the DaemonSet {daemon_set} of a newer operator is still "
            "in the cluster. Each node would run two cloud-api-adaptor pods.",
            f"Upgrade the operator to 1.9 or newer, or delete the DaemonSet {daemon_set} when no peer pod runs.",
            names,
        )
    if configs is None:
        return _state("", pools=[])
    if OPERATORS_CONFIG in names:
        return _state(
            PENDING,
            f"The PeerPodConfig {OPERATORS_CONFIG} of an operator older than 1.9 still exists. The installed operator "
            "moves its limit to peer-pods-cm and deletes it the next time it reconciles the KataConfig.",
            "Check that a KataConfig exists, and see the log of the operator's Deployment controller-manager.",
            pools,
        )
    if older_daemon_set_of is not None:
        return _state(TWO_ADAPTORS, *explain_two_adaptors(older_daemon_set_of), pools)
    if limit is None and has_settings:
        return _state(
            LIMIT_MISSING,
            "The CustomResourceDefinition of PeerPodConfigs was left by an operator older than 1.9, and peer-pods-cm "
            "has no PEERPODS_LIMIT_PER_NODE. If a limit was set before the upgrade, it was not moved, and "
            "cloud-api-adaptor advertises 10, unless the node capacity agent enforces another limit.",
            "Read the limit with osc.peerpods.limit. Set it if it is wrong.",
            pools,
        )
    return _state(MIGRATED, pools=pools)


def explain_two_adaptors(config: str) -> tuple[str, str]:
    """The problem if a PeerPodConfig keeps the DaemonSet of an older operator, and what to do."""
    message = (
        "The DaemonSet peerpodconfig-ctrl-caa-daemon of an operator older than 1.9 is still in the cluster, because "
        f"the PeerPodConfig {config} owns it. Nodes that it selects run two cloud-api-adaptor pods."
    )
    remedy = (
        f"If the node capacity agent is deployed, set the limit of the pool {config} with osc.peerpods.peerpod_limit, "
        "which stores it in peerpods-limits; without the agent, its nodes get the limit of peer-pods-cm. Then, when "
        f"no peer pod runs on its nodes, delete the PeerPodConfig {config}, which also deletes the DaemonSet."
    )
    return message, remedy


def _state(state: str, message: str = "", remedy: str = "", pools: list[str] | None = None) -> dict:
    return {"state": state, "message": message, "remedy": remedy, "pools": pools or []}
