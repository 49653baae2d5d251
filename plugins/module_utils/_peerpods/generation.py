# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which generation of the operator a cluster has: where its limit is stored and what advertises it.

Private to this collection. The table is `BEHAVIOURS`; a release with another behaviour needs a new row. Sources:
openshift/sandboxed-containers-operator (SCO) and confidential-containers/cloud-api-adaptor (CAA).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, readable
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import DEPLOYMENT_MODE_KEY
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    FEATURE_GATES,
    INITDATA_KEY,
    LIMIT_KEY,
    OLM,
    PACKAGE,
    PEER_POD_CONFIG,
    PEER_PODS_CM,
    PROXY_KEYS,
    UPDATE_STRATEGIES,
    UPDATE_STRATEGY_KEY,
    configs_path,
)

# The annotation of osc-feature-gates with the value of caaUpdateStrategy to restore, while this collection keeps it at
# OnDelete.
HOLD_ANNOTATION = "osc.peerpods/caa-update-strategy"

# The field manager with which the product writes the extended resource, by where it stores the limit.
OPERATORS_MANAGERS = {PEER_POD_CONFIG: "manager", PEER_PODS_CM: "cloud-api-adaptor"}

# The annotation in the pod template of osc-caa-ds, on operators that replace its pods after a write to peer-pods-cm.
VERSION_ANNOTATION = "peer-pods-cm/version"


@dataclass(frozen=True)
class Behaviour:
    """The behaviour of the operator from release `since` on.

    `limit_in` is where it stores the limit of its pool, `advertiser` the program that writes the limit to nodes,
    `daemon_set` the DaemonSet of cloud-api-adaptor. With `moves_adaptor`, every write to a PeerPodConfig moves this
    DaemonSet to the nodes of the PeerPodConfig, which then owns it. With `rolls`, every write to peer-pods-cm replaces
    all cloud-api-adaptor pods. With `has_update_strategy`, caaUpdateStrategy in osc-feature-gates has an effect.
    """

    since: tuple[int, int]
    limit_in: str
    advertiser: str
    daemon_set: str
    moves_adaptor: bool = False
    rolls: bool = False
    has_update_strategy: bool = False

    @property
    def is_second(self) -> bool:
        """Whether this is the second generation, which has no PeerPodConfig."""
        return self.limit_in == PEER_PODS_CM


BEHAVIOURS = (
    # CAA's src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, removed by 059f6420 (2024-09): it
    # advertises spec.limit to every selected node when a PeerPodConfig changes, and restarts nothing.
    Behaviour((1, 4), PEER_POD_CONFIG, "peerpodconfig-ctrl", "peerpodconfig-ctrl-caa-daemon"),
    # CAA's 567287db (2024-04, in v0.9.0, which the go.mod of SCO's v1.7.0 has, and its v1.6.0 not).
    Behaviour((1, 7), PEER_POD_CONFIG, "peerpodconfig-ctrl", "peerpodconfig-ctrl-caa-daemon", moves_adaptor=True),
    # SCO's pull requests 498 (no PeerPodConfig), 532 (osc-caa-ds) and 533 (migration), all of 1.9.0; CAA's
    # pkg/adaptor/k8sops/node.go advertises once, when it starts.
    Behaviour((1, 9), PEER_PODS_CM, "cloud-api-adaptor", "osc-caa-ds"),
    # SCO's pull request 1950 (2026-04, after 1.12.0): the annotation peer-pods-cm/version;
    # docs/CONFIG-OPTIONS.md and controllers/fg_handler.go: caaUpdateStrategy.
    Behaviour((1, 13), PEER_PODS_CM, "cloud-api-adaptor", "osc-caa-ds", rolls=True, has_update_strategy=True),
)

FIRST, NEWEST = BEHAVIOURS[0], BEHAVIOURS[-1]
NEWEST_OF_FIRST_GENERATION = next(row for row in reversed(BEHAVIOURS) if not row.is_second)

# The newest release that the table was checked with. Newer releases are assumed to behave in the same way.
NEWEST_KNOWN = (1, 13)

DAEMON_SETS = tuple(dict.fromkeys(behaviour.daemon_set for behaviour in BEHAVIOURS))


@dataclass(frozen=True)
class Operator:
    """The operator of a cluster: its version (None if it could not be read), its behaviour, whether the table has its
    release, and the DaemonSet of cloud-api-adaptor if it exists. `older_daemon_set` is that of the first generation, if
    it exists in addition to a newer one."""

    version: str | None
    behaviour: Behaviour
    is_known: bool
    daemon_set: dict | None = None
    older_daemon_set: dict | None = None

    @property
    def node_selector(self) -> dict[str, str] | None:
        """The labels of the nodes that cloud-api-adaptor runs on; None without its DaemonSet."""
        if self.daemon_set is None:
            return None
        return self.daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}

    @property
    def rolls(self) -> bool:
        """Whether a write to peer-pods-cm replaces all cloud-api-adaptor pods by itself, with RollingUpdate."""
        if self.daemon_set is None:
            return self.behaviour.rolls
        template = self.daemon_set["spec"]["template"].get("metadata") or {}
        return VERSION_ANNOTATION in (template.get("annotations") or {})

    @property
    def summary(self) -> dict:
        """For a module's result."""
        return {
            "version": self.version,
            "known": self.is_known,
            "limit_in": self.behaviour.limit_in,
            "advertiser": self.behaviour.advertiser,
        }


def behaviour_of(text: str) -> Behaviour:
    """The behaviour of a release such as 1.8.1: the newest row of the table that is not newer."""
    release = _release(text)
    return next((row for row in reversed(BEHAVIOURS) if row.since <= release), FIRST)


def is_known(text: str) -> bool:
    return FIRST.since <= _release(text) <= NEWEST_KNOWN


def decide(
    installed: str | None, *, configs_served: bool, has_config: bool, daemon_set: dict | None
) -> Operator | None:
    """The operator of a cluster, from its version if that is known, else from the objects that it has created.

    None if no such object exists. `configs_served` is whether the API server serves PeerPodConfigs, `has_config`
    whether one exists; a CustomResourceDefinition alone may be left over from an older release.
    """
    if installed is not None:
        return Operator(installed, behaviour_of(installed), is_known(installed), daemon_set)
    if daemon_set is not None and daemon_set["metadata"]["name"] == NEWEST.daemon_set:
        return Operator(None, NEWEST, True, daemon_set)
    if has_config or (configs_served and daemon_set is not None):
        return Operator(None, NEWEST_OF_FIRST_GENERATION, True, daemon_set)
    return None


def installed_version(csvs: Iterable[Mapping]) -> str | None:
    """The version of the running operator; during an upgrade, the version that is being replaced."""
    at_work = [
        csv
        for csv in csvs
        if csv["metadata"]["name"].startswith(f"{PACKAGE}.")
        and (csv.get("status") or {}).get("phase") in ("Succeeded", "Replacing")
    ]
    # Succeeded has precedence over Replacing, then the newest version.
    at_work.sort(key=lambda csv: (csv["status"]["phase"] == "Succeeded", csv_version(csv["metadata"]["name"])))
    return at_work[-1]["spec"].get("version") if at_work else None


def read_operator(cluster: Cluster, namespace: str, configs: Iterable[dict] | None) -> Operator | None:
    """The operator in `namespace`; `configs` are its PeerPodConfigs, None if they are not served.

    Takes two requests. If the user may not list ClusterServiceVersions or DaemonSets, the other objects decide.
    """
    csvs = readable(cluster, f"{OLM}/namespaces/{namespace}/clusterserviceversions")
    sets = readable(cluster, f"/apis/apps/v1/namespaces/{namespace}/daemonsets")
    by_name = {daemon_set["metadata"]["name"]: daemon_set for daemon_set in sets}
    daemon_set = next((by_name[name] for name in reversed(DAEMON_SETS) if name in by_name), None)
    configs = None if configs is None else list(configs)
    operator = decide(
        installed_version(csvs),
        configs_served=configs is not None,
        has_config=bool(configs),
        daemon_set=daemon_set,
    )
    older = by_name.get(FIRST.daemon_set)
    return operator and replace(operator, older_daemon_set=None if older is daemon_set else older)


def read_operator_summary(cluster: Cluster, namespace: str) -> dict | None:
    """The operator as a dict for a module's result, after reading the PeerPodConfigs; None without an operator."""
    configs = readable(cluster, configs_path(namespace))
    operator = read_operator(cluster, namespace, configs)
    return operator.summary if operator else None


def read_operator_state(cluster: Cluster, namespace: str) -> dict | None:
    """The operator with its settings that decide about limits, as preflight needs them; None without an operator.

    `limit` and `update_strategy` are the literal values of PEERPODS_LIMIT_PER_NODE and caaUpdateStrategy, None if they
    are not set; `strategy_is_held` is whether a run of this collection set the latter and did not restore it;
    `deployment_mode` is the literal value of deploymentMode; `has_proxy` and `has_initdata` are whether peer-pods-cm
    has a proxy and the configuration of the VMs; `peer_pod_configs` are the names of the PeerPodConfigs, None if the
    API server does not serve them;
    `older_daemon_set_of` is the PeerPodConfig that owns the DaemonSet of an older release, which exists in addition to
    the newer one; None if no such DaemonSet exists. Takes two more requests than `read_operator_summary`.
    """
    served = cluster.get(configs_path(namespace))
    configs = None if served is None else served["items"]
    operator = read_operator(cluster, namespace, configs)
    if operator is None:
        return None
    config_maps = f"/api/v1/namespaces/{namespace}/configmaps"
    settings, gates = (
        cluster.get(f"{config_maps}/{name}") or {"metadata": {}} for name in (PEER_PODS_CM, FEATURE_GATES)
    )
    strategy = (gates.get("data") or {}).get(UPDATE_STRATEGY_KEY)
    held = HOLD_ANNOTATION in (gates["metadata"].get("annotations") or {})
    return {
        **operator.summary,
        "daemon_set": operator.daemon_set and operator.daemon_set["metadata"]["name"],
        "limit": (settings.get("data") or {}).get(LIMIT_KEY),
        "update_strategy": strategy,
        "strategy_is_held": held and strategy == UPDATE_STRATEGIES[1],
        "deployment_mode": (gates.get("data") or {}).get(DEPLOYMENT_MODE_KEY),
        "has_proxy": any((settings.get("data") or {}).get(key) for key in PROXY_KEYS),
        "has_initdata": bool((settings.get("data") or {}).get(INITDATA_KEY)),
        "peer_pod_configs": (None if configs is None else [config["metadata"]["name"] for config in configs]),
        "older_daemon_set_of": _owner(operator.older_daemon_set, configs or ()),
    }


def _owner(daemon_set: dict | None, configs: Iterable[dict]) -> str | None:
    """The PeerPodConfig that owns the DaemonSet, which is kept as long as its owner exists."""
    owners = ((daemon_set or {}).get("metadata") or {}).get("ownerReferences") or []
    uids = {owner["uid"] for owner in owners}
    return next((config["metadata"]["name"] for config in configs if config["metadata"]["uid"] in uids), None)


def _release(text: str) -> tuple[int, ...]:
    return csv_version(f"{PACKAGE}.v{text}")[:2]


def csv_version(csv: str) -> tuple[int, ...]:
    """The version in the name of a CSV, for comparison: `….v1.8.1` is (1, 8, 1)."""
    return tuple(map(int, re.findall(r"\d+", csv.partition(".v")[2])))
