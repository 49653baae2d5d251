# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure functions that merge the sources of limits, of both generations of the operator, into pools of nodes.

References in comments: openshift/sandboxed-containers-operator (SCO) and
confidential-containers/cloud-api-adaptor (CAA).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .plan import Node

# The default limits: of a PeerPodConfig, whose CRD has none (CAA's
# src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, defaultPeerPodsLimitPerNode, from 9fc762f8 until its
# removal by 059f6420), and in peer-pods-cm (CAA's src/cloud-api-adaptor/cmd/cloud-api-adaptor/main.go, flag
# peerpods-limit-per-node).
CONFIG_DEFAULT_LIMIT, DEFAULT_LIMIT = 1, 10

# The default of spec.nodeSelector in upstream's peerpodconfig-ctrl. An empty selector selects every node.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# Schedulers count in int64; the API server accepts larger quantities.
LARGEST_LIMIT = 2**63 - 1

# The DaemonSets of cloud-api-adaptor: that of peerpodconfig-ctrl (operator 1.4 to 1.8) and that of the operator
# itself (1.9 and newer; SCO's pull request 532).
FIRST_DAEMON_SET, SECOND_DAEMON_SET = "peerpodconfig-ctrl-caa-daemon", "osc-caa-ds"

# The operator's own pool: a PeerPodConfig up to 1.8, the nodes of osc-caa-ds from 1.9 on.
OPERATORS_CONFIG, DEFAULT = "peerpodconfig-openshift", "default"

# The operator's settings from 1.9 on (SCO's pull request 498), and the key of the limit.
PEER_PODS_CM, LIMIT_KEY = "peer-pods-cm", "PEERPODS_LIMIT_PER_NODE"

# The sources of limits, as logs and metrics name them.
PEER_POD_CONFIG, LIMITS = "PeerPodConfig", "peerpods-limits"

_NEGATIVE_NUMBER = re.compile("-[0-9]*[1-9][0-9]*")


@dataclass(frozen=True)
class Observed:
    """The metadata and status of a PeerPodConfig, as the API server returned them last."""

    uid: str = ""
    generation: int = 0
    version: str = ""
    setup_completed: bool = False
    conditions: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A group of nodes with a limit.

    `node_selector` and `limit` are the last valid values; None: no valid value has been read. Without a
    `node_selector` the pool selects no node. `invalid` is the current text if it is not valid. The limit is stored in
    `source`; if it is not `is_written` there, it is the default. A pool that `is_fallback` applies only to nodes that
    no other pool selects. A pool that `has_vanished` has no source any more (see `vanished`). `observed` does not
    count in comparisons.
    """

    name: str
    node_selector: Mapping[str, str] | None
    limit: int | None
    invalid: str | None = None
    source: str = PEER_POD_CONFIG
    is_written: bool = True
    is_fallback: bool = False
    has_vanished: bool = False
    observed: Observed = field(default=Observed(), compare=False)

    def selects(self, node: Node) -> bool:
        selector = self.node_selector
        return selector is not None and selector.items() <= node.labels.items()


def pool_of_config(
    name: str,
    *,
    node_selector: Mapping[str, str] | None,
    limit: str | None,
    previous: Pool | None,
    observed: Observed = Observed(),
) -> Pool:
    """Return the pool of the PeerPodConfig `name`, with defaults.

    If the limit is not valid, that of `previous`, the pool of the same PeerPodConfig before, stays in force.
    """
    selector = DEFAULT_NODE_SELECTOR if node_selector is None else node_selector
    if not limit:
        return Pool(name, selector, CONFIG_DEFAULT_LIMIT, is_written=False, observed=observed)
    number = whole_number(limit)
    if number is not None:
        return Pool(name, selector, number, observed=observed)
    last_valid = previous.limit if previous else None
    return Pool(name, selector, last_valid, invalid=limit, observed=observed)


class Entry(NamedTuple):
    """One entry of peerpods-limits: the last valid limit and node selector, and the text if it is not valid."""

    limit: int | None
    node_selector: Mapping[str, str] | None
    invalid: str | None = None


def parse_limit_entries(data: Mapping[str, str], previous: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
    """Parse the entries of peerpods-limits, by pool; for an invalid limit or node selector, that of `previous` stays
    in force."""
    return {name: _parse_entry(name, text, (previous or {}).get(name)) for name, text in data.items()}


def _parse_entry(name: str, text: str, previous: Entry | None) -> Entry:
    last_valid = previous or Entry(None, None)
    try:
        value = json.loads(text)
    # RecursionError: deeply nested text. A number with thousands of digits is a ValueError.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    limit, selector, invalid = value.get("limit"), value.get("nodeSelector"), None
    # Each field is validated by itself: the nodes of a pool without a valid limit must not get the default pool's.
    if type(limit) is not int or not 0 <= limit <= LARGEST_LIMIT:
        limit, invalid = last_valid.limit, text
    if name == DEFAULT:
        # The nodes of this pool are those of the operator's DaemonSet.
        return Entry(limit, None, invalid)
    if not isinstance(selector, dict) or not all(isinstance(v, str) for v in selector.values()):
        selector, invalid = last_valid.node_selector, text
    return Entry(limit, selector, invalid)


@dataclass(frozen=True)
class Setting:
    """PEERPODS_LIMIT_PER_NODE of peer-pods-cm: the last valid `limit`, whether the key is written, and its text if it
    is not valid.

    `limit` is None if the key is not written or negative: for a negative one, cloud-api-adaptor advertises nothing
    (CAA's pkg/adaptor/k8sops/node.go).
    """

    limit: int | None
    is_written: bool = True
    invalid: str | None = None


def parse_setting(data: Mapping[str, str], previous: Setting | None = None) -> Setting:
    """Parse the limit in the data of peer-pods-cm; if it is not valid, that of `previous` stays in force."""
    text = data.get(LIMIT_KEY)
    # An empty value means the default (CAA's src/cloud-providers/util.go, IntWithEnv).
    if not text:
        return Setting(None, is_written=False)
    if _NEGATIVE_NUMBER.fullmatch(text.strip()):
        return Setting(None)
    number = whole_number(text)
    if number is not None:
        return Setting(number)
    return Setting(previous.limit if previous else None, invalid=text)


def merge(
    configs: Iterable[Pool],
    entries: Mapping[str, Entry] | None,
    peer_pods_cm: Setting | None,
    daemon_sets: Mapping[str, Mapping[str, str]],
) -> tuple[int, dict[str, Pool]]:
    """Return the operator's generation and the pools by name.

    `configs` are the pools of the PeerPodConfigs, `entries` those of peerpods-limits, `daemon_sets` the node
    selectors of cloud-api-adaptor's DaemonSets by name; None: the ConfigMap does not exist. The generation is 0 while
    it is not known: without a KataConfig, and in an upgrade from 1.8, between the deletion of peerpodconfig-openshift
    and the creation of osc-caa-ds.
    """
    pools = {config.name: config for config in configs}
    second = daemon_sets.get(SECOND_DAEMON_SET)
    if second is None and (FIRST_DAEMON_SET in daemon_sets or OPERATORS_CONFIG in pools):
        # The limits are in the PeerPodConfigs; peerpods-limits may be left over from a downgrade.
        return 1, pools
    operators = pools.pop(OPERATORS_CONFIG, None)
    for name, entry in (entries or {}).items():
        if name != DEFAULT:
            pools[name] = Pool(name, entry.node_selector, entry.limit, entry.invalid, LIMITS)
    if second is None:
        return 0, pools
    pools[DEFAULT] = replace(
        _default_pool(operators, (entries or {}).get(DEFAULT), peer_pods_cm),
        node_selector=second,
        is_fallback=True,
    )
    return 2, pools


def _default_pool(operators: Pool | None, entry: Entry | None, peer_pods_cm: Setting | None) -> Pool:
    """Return the operator's own pool on the second generation, without its node selector. Its limit is that of the
    first source that has one."""
    if entry:
        return Pool(DEFAULT, None, entry.limit, entry.invalid, LIMITS)
    if operators and operators.is_written:
        # Not migrated yet: its limit overwrites that of peer-pods-cm (SCO's controllers/migrate.go).
        return replace(operators, name=DEFAULT, observed=Observed())
    if peer_pods_cm and peer_pods_cm.is_written:
        return Pool(DEFAULT, None, peer_pods_cm.limit, peer_pods_cm.invalid, PEER_PODS_CM)
    limit = DEFAULT_LIMIT if peer_pods_cm else None
    return Pool(DEFAULT, None, limit, source=PEER_PODS_CM, is_written=False)


def vanished(last: Mapping[str, Pool], pools: Mapping[str, Pool], generation: int) -> dict[str, Pool]:
    """Return the pools of `last`, those known before, that are missing in `pools`, by name.

    Empty if the operator's own pool is in `pools`: then all sources exist, and missing pools were deleted. Without
    it, as in an upgrade from 1.8 until the image of the pod VMs is built, only the remembered pools show which nodes
    depend on a cloud-api-adaptor.
    """
    if operators_pool(generation) in pools:
        return {}
    return {name: replace(pool, has_vanished=True) for name, pool in last.items() if name not in pools}


def operators_pool(generation: int) -> str:
    """Return the name of the operator's own pool."""
    return DEFAULT if generation == 2 else OPERATORS_CONFIG


def whole_number(text: str) -> int | None:
    """Parse a limit; None if it is not valid. White space around the number is ignored, as in CAA (entrypoint.sh up to
    33263154, then IntWithEnv) and in the modules."""
    text = text.strip()
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    # int() raises ValueError for thousands of digits.
    return int(digits) if len(digits) < 20 and int(digits) <= LARGEST_LIMIT else None
