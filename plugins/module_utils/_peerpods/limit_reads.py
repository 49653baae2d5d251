# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits of a cluster, read from wherever its operator stores them (private to this collection)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import Operator, read_operator
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    AGENT,
    CONFIGS_PATH,
    DEFAULT_POOL,
    LIMIT_KEY,
    LIMITS,
    OPERATORS_CONFIG,
    PEER_PODS_CM,
    configs_path,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import Pool, pool_of_config, pools_of_second


@dataclass(frozen=True)
class Limits:
    """The pools of a cluster, and the objects that a change of them needs.

    `operator` is None if none of its objects can be read; `is_second` is set in this case, too. `configs` are the
    PeerPodConfigs, None if the API server does not serve them. `limits` is the ConfigMap peerpods-limits, `settings`
    the data of peer-pods-cm; both are None if they do not exist or were not needed. `has_agent` is None if the user may
    not read the Deployment of the agent. `unread` has a sentence for each object that could not be read.
    """

    operator: Operator | None
    is_second: bool
    pools: tuple[Pool, ...]
    configs: tuple[dict, ...] | None
    limits: dict | None = None
    settings: dict | None = None
    has_agent: bool | None = False
    unread: tuple[str, ...] = ()

    @property
    def has_place(self) -> bool:
        """Whether the cluster has a place to store limits at all."""
        stores = (self.configs, self.limits, self.settings)
        return bool(self.operator) or any(store is not None for store in stores)

    def pool(self, label: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.label == label), None)


def explain_no_operator(namespace: str) -> str:
    return (
        f"No operator for OpenShift sandboxed containers is installed in namespace {namespace}, so "
        "there is no place for a limit. Run the role osc.peerpods.operator_install first."
    )


def name_of_pool(name: str, is_second: bool) -> str:
    """The operator's own pool has one name on each generation; the second accepts both."""
    return DEFAULT_POOL if is_second and name == OPERATORS_CONFIG else name


def read_limits(
    cluster: Cluster,
    namespace: str,
    agent_namespace: str,
    *,
    everywhere: bool = True,
    for_removal: bool = False,
    agent_deployed: bool | None = None,
    agent_is_located: bool = True,
) -> Limits:
    """The limits of the operator in `namespace`; with `everywhere`, also the PeerPodConfigs of other namespaces.

    Unless `agent_is_located`, the agent may be in another namespace than `agent_namespace`.

    Takes three requests on the first generation. On the second it takes up to three more: the agent's Deployment
    (unless `agent_deployed` is given), peerpods-limits (only with an agent) and peer-pods-cm (only while the operator's
    pool has no entry in peerpods-limits). A removal always reads the last two. An object that the user may not read is
    left out if the other objects still show the limits.
    """
    configs, forbidden = _configs(cluster, namespace, everywhere)
    own = configs and [config for config in configs if config["metadata"]["namespace"] == namespace]
    operator = read_operator(cluster, namespace, own)
    is_second = operator.behaviour.is_second if operator else bool(forbidden) or configs is None
    if not is_second:
        if forbidden:
            raise forbidden
        return Limits(operator, False, tuple(map(pool_of_config, configs or ())), configs)
    try:
        limits = _second(
            cluster,
            namespace,
            agent_namespace,
            operator,
            tuple(own or ()),
            for_removal,
            agent_deployed,
            agent_is_located,
        )
    except ClusterError as error:
        if error.status != 403 or operator or not forbidden:
            raise
        raise forbidden from error
    shows_second = limits.limits is not None or LIMIT_KEY in (limits.settings or {})
    if operator is None and forbidden and not shows_second:
        # The generation is unknown: peer-pods-cm exists on the first, too, but without that key.
        raise forbidden
    return limits


def _second(
    cluster: Cluster,
    namespace: str,
    agent_namespace: str,
    operator: Operator | None,
    configs: tuple[dict, ...],
    for_removal: bool,
    agent_deployed: bool | None,
    agent_is_located: bool,
) -> Limits:
    unread: list[str] = []
    has_agent = read_agent(cluster, agent_namespace) if agent_deployed is None else agent_deployed
    if not has_agent and agent_deployed is None and not agent_is_located:
        has_agent = None
    limits = None
    if has_agent is not False or for_removal:
        limits, forbidden = _unless_forbidden(lambda: read_agent_limits(cluster, agent_namespace))
        if forbidden:
            unread.append(f"The limits of the node capacity agent are not known: {forbidden}")
    entries = (limits or {}).get("data") or {}
    settings = None
    if for_removal or DEFAULT_POOL not in entries:
        settings = read_settings(cluster, namespace)
    pools = pools_of_second(
        configs,
        # A user who may not read whether the agent is deployed gets its limits nevertheless.
        entries if has_agent or (has_agent is None and limits is not None) else None,
        settings,
        namespace=namespace,
        agent_namespace=agent_namespace,
        adaptor_selector=operator.node_selector if operator else None,
    )
    return Limits(
        operator,
        True,
        tuple(pools),
        configs or None,
        limits,
        settings,
        has_agent,
        tuple(unread),
    )


def read_agent(cluster: Cluster, namespace: str) -> bool | None:
    """Whether the node capacity agent is deployed; None if the user may not read its Deployment."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{AGENT}"
    deployment, forbidden = _unless_forbidden(lambda: cluster.get(path))
    return None if forbidden else deployment is not None


def read_settings(cluster: Cluster, namespace: str) -> dict | None:
    """The data of peer-pods-cm; None if it does not exist."""
    config_map = cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{PEER_PODS_CM}")
    return None if config_map is None else config_map.get("data") or {}


def read_agent_limits(cluster: Cluster, namespace: str) -> dict | None:
    """The ConfigMap peerpods-limits, which the agent in `namespace` enforces; None if it does not exist."""
    return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{LIMITS}")


def _configs(cluster: Cluster, namespace: str, everywhere: bool) -> tuple[tuple[dict, ...] | None, ClusterError | None]:
    """The PeerPodConfigs, None if they are not served, and the error if the user may not read them.

    The API server returns this error to such a user even if it does not serve PeerPodConfigs.
    """
    paths = [configs_path(namespace)]
    if everywhere:
        # A user with permissions in one namespace may only read those of the operator.
        paths.insert(0, CONFIGS_PATH)
    forbidden = None
    for path in paths:
        try:
            return tuple(cluster.list(path)), None
        except ClusterError as error:
            if error.status == 404:
                return None, None
            if error.status != 403:
                raise
            forbidden = forbidden or error
    return (), forbidden


def _unless_forbidden(
    read: Callable[[], dict | None],
) -> tuple[dict | None, ClusterError | None]:
    try:
        return read(), None
    except ClusterError as error:
        if error.status != 403:
            raise
        return None, error
