# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where limits come from: the sources of both generations of the operator, merged into pools of nodes.

Plain data in, plain data out. Sources: openshift/sandboxed-containers-operator (SCO) and
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

# What a limit that is not written, or empty, means: in a PeerPodConfig, whose CRD has no default for
# it (CAA's src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, defaultPeerPodsLimitPerNode,
# from 9fc762f8 until its removal by 059f6420), and in peer-pods-cm (CAA's
# src/cloud-api-adaptor/cmd/cloud-api-adaptor/main.go, flag peerpods-limit-per-node).
CONFIG_DEFAULT_LIMIT, DEFAULT_LIMIT = 1, 10

# What spec.nodeSelector means where it is not written, as upstream's peerpodconfig-ctrl has it.
# An empty selector that is written selects every node, as anywhere in Kubernetes.
DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}

# Kubernetes counts in int64: a larger quantity is kept, but no scheduler can count with it.
LARGEST_LIMIT = 2**63 - 1

# The DaemonSets of cloud-api-adaptor: of peerpodconfig-ctrl (operator 1.4 to 1.8), and of the
# operator itself (1.9 and newer; SCO's pull request 532).
FIRST_DAEMON_SET, SECOND_DAEMON_SET = "peerpodconfig-ctrl-caa-daemon", "osc-caa-ds"

# The operator's own pool: this PeerPodConfig up to 1.8, the nodes of osc-caa-ds from 1.9 on.
OPERATORS_CONFIG, DEFAULT = "peerpodconfig-openshift", "default"

# The operator's settings from 1.9 on (SCO's pull request 498), and the key of the limit.
PEER_PODS_CM, LIMIT_KEY = "peer-pods-cm", "PEERPODS_LIMIT_PER_NODE"

# Where a pool's limit is stored, as logs and metrics name it.
PEER_POD_CONFIG, LIMITS = "PeerPodConfig", "peerpods-limits"

_NEGATIVE_NUMBER = re.compile("-[0-9]*[1-9][0-9]*")


@dataclass(frozen=True)
class Observed:
    """What the API server has of a PeerPodConfig besides its spec; `conditions` as it has them."""

    uid: str = ""
    generation: int = 0
    version: str = ""
    setup_completed: bool = False
    conditions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Pool:
    """Nodes with a limit of their own.

    `node_selector` is None where it could not be read: it selects no node. `limit` is the last
    valid value, None where none was ever read. `bad_limit` is what is written now, where that is
    not a limit. The limit is stored in `source`; unless it `is_written` there, it is the default. A
    pool that `is_fallback` has only the nodes that no other pool selects. A pool that `has_vanished`
    is only remembered (see `vanished`). `observed` is what was reported of a PeerPodConfig last: two
    pools that differ in that alone are the same.
    """

    name: str
    node_selector: Mapping[str, str] | None
    limit: int | None
    bad_limit: str | None = None
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
    """The pool of the PeerPodConfig `name`, with its defaults filled in.

    A limit that is not one leaves the limit of `previous`, the same PeerPodConfig as it was known
    before, in force.
    """
    selector = DEFAULT_NODE_SELECTOR if node_selector is None else node_selector
    if not limit:
        return Pool(name, selector, CONFIG_DEFAULT_LIMIT, is_written=False, observed=observed)
    number = whole_number(limit)
    if number is not None:
        return Pool(name, selector, number, observed=observed)
    last_valid = previous.limit if previous else None
    return Pool(name, selector, last_valid, bad_limit=limit, observed=observed)


class Entry(NamedTuple):
    """One entry of peerpods-limits; `bad` is its text where that is not valid."""

    limit: int | None
    node_selector: Mapping[str, str] | None
    bad: str | None = None


def limit_entries(data: Mapping[str, str], previous: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
    """The entries of peerpods-limits by the pool's name; an invalid limit or node selector leaves that
    of `previous` in force."""
    return {name: _entry(name, text, (previous or {}).get(name)) for name, text in data.items()}


def _entry(name: str, text: str, previous: Entry | None) -> Entry:
    last_valid = previous or Entry(None, None)
    try:
        value = json.loads(text)
    # A number with thousands of digits is a ValueError, too; deeply nested text is the other one.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    limit, selector, bad = value.get("limit"), value.get("nodeSelector"), None
    if type(limit) is not int or not 0 <= limit <= LARGEST_LIMIT:
        limit, bad = last_valid.limit, text
    if name == DEFAULT:
        # The operator decides which nodes these are.
        return Entry(limit, None, bad)
    # Each field by itself: nodes of a pool without a valid limit must not get that of the default.
    if not isinstance(selector, dict) or not all(isinstance(v, str) for v in selector.values()):
        selector, bad = last_valid.node_selector, text
    return Entry(limit, selector, bad)


@dataclass(frozen=True)
class Setting:
    """PEERPODS_LIMIT_PER_NODE of peer-pods-cm: the last valid `limit`, whether the key is written,
    and its text where that is not a number.

    `limit` is None where the key is not written, or negative: then cloud-api-adaptor advertises
    nothing (CAA's pkg/adaptor/k8sops/node.go), and the product has no limit.
    """

    limit: int | None
    is_written: bool = True
    bad: str | None = None


def setting(data: Mapping[str, str], previous: Setting | None = None) -> Setting:
    text = data.get(LIMIT_KEY)
    # An empty one is the default (CAA's src/cloud-providers/util.go, IntWithEnv).
    if not text:
        return Setting(None, is_written=False)
    if _NEGATIVE_NUMBER.fullmatch(text.strip()):
        return Setting(None)
    number = whole_number(text)
    if number is not None:
        return Setting(number)
    return Setting(previous.limit if previous else None, bad=text)


def merge(
    configs: Iterable[Pool],
    entries: Mapping[str, Entry] | None,
    peer_pods_cm: Setting | None,
    daemon_sets: Mapping[str, Mapping[str, str]],
) -> tuple[int, dict[str, Pool]]:
    """(the operator's generation, its pools by name).

    `configs` are those of the PeerPodConfigs, `entries` those of peerpods-limits, `daemon_sets`
    the node selectors of cloud-api-adaptor's DaemonSets by name; None: it does not exist. The
    generation is 0 while nothing shows it: without a KataConfig, and in the middle of an upgrade
    from 1.8, when peerpodconfig-openshift is deleted and osc-caa-ds not yet made.
    """
    pools = {config.name: config for config in configs}
    second = daemon_sets.get(SECOND_DAEMON_SET)
    if second is None and (FIRST_DAEMON_SET in daemon_sets or OPERATORS_CONFIG in pools):
        # The modules write limits to PeerPodConfigs there; peerpods-limits may be left over.
        return 1, pools
    operators = pools.pop(OPERATORS_CONFIG, None)
    for name, entry in (entries or {}).items():
        if name != DEFAULT:
            pools[name] = Pool(name, entry.node_selector, entry.limit, entry.bad, LIMITS)
    if second is None:
        return 0, pools
    pools[DEFAULT] = replace(
        _default(operators, (entries or {}).get(DEFAULT), peer_pods_cm),
        node_selector=second,
        is_fallback=True,
    )
    return 2, pools


def _default(operators: Pool | None, entry: Entry | None, peer_pods_cm: Setting | None) -> Pool:
    """The operator's own pool on the second generation, with the limit of the first source that
    has one; its node selector is still to be set."""
    if entry:
        return Pool(DEFAULT, None, entry.limit, entry.bad, LIMITS)
    if operators and operators.is_written:
        # Not yet migrated: its limit overwrites that of peer-pods-cm (SCO's controllers/migrate.go).
        return replace(operators, name=DEFAULT, observed=Observed())
    if peer_pods_cm and peer_pods_cm.is_written:
        return Pool(DEFAULT, None, peer_pods_cm.limit, peer_pods_cm.bad, PEER_PODS_CM)
    limit = DEFAULT_LIMIT if peer_pods_cm else None
    return Pool(DEFAULT, None, limit, source=PEER_PODS_CM, is_written=False)


def vanished(last: Mapping[str, Pool], pools: Mapping[str, Pool], generation: int) -> dict[str, Pool]:
    """The pools of `last`, those known before, that are missing in `pools`, by name.

    None once the operator's own pool is among `pools`: then no source is missing, and what is not
    there was deleted. Without it, as in an upgrade from 1.8, which may last as long as the image of
    the pod VMs takes to build, nothing else shows which nodes depend on a cloud-api-adaptor.
    """
    if operators_pool(generation) in pools:
        return {}
    return {name: replace(pool, has_vanished=True) for name, pool in last.items() if name not in pools}


def operators_pool(generation: int) -> str:
    """The name of the operator's own pool."""
    return DEFAULT if generation == 2 else OPERATORS_CONFIG


def whole_number(text: str) -> int | None:
    """White space around a number does not count, as to CAA (entrypoint.sh up to 33263154, then
    IntWithEnv) and to the modules."""
    text = text.strip()
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    # Python refuses to convert thousands of digits.
    return int(digits) if len(digits) < 20 and int(digits) <= LARGEST_LIMIT else None
