"""How each release of the operator behaves, for the stand-ins: the tests' own table, independent of the product's.

Sources: openshift/sandboxed-containers-operator (SCO), confidential-containers/cloud-api-adaptor (CAA). A new
release with another behaviour is a new row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """What the operator and its cloud-api-adaptor do from release `since` on.

    `has_peer_pod_config`: the limit is in a PeerPodConfig, and the operator itself advertises it.
    `writes_owner`: cloud-api-adaptor names itself in an annotation of the node, and removes what it
    advertised only while it is the owner. `rolls`: the operator watches peer-pods-cm and replaces
    cloud-api-adaptor's pods after each write, unless caaUpdateStrategy is OnDelete.
    """

    since: tuple[int, int]
    has_peer_pod_config: bool
    daemon_set: str
    writes_owner: bool = False
    rolls: bool = False


RELEASES = (
    # CAA's src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, until 059f6420.
    Release((1, 4), has_peer_pod_config=True, daemon_set="peerpodconfig-ctrl-caa-daemon"),
    # SCO's pull requests 498, 532 and 533; CAA's src/cloud-api-adaptor/pkg/adaptor/k8sops/node.go. Pull
    # request 1917 reports that 1.9 to 1.12 may replace the pods at each reconcile; it was closed, and what it
    # names (defaults that the API server adds) does not change a DaemonSet's generation: not modelled.
    Release((1, 9), has_peer_pod_config=False, daemon_set="osc-caa-ds"),
    # SCO's pull request 1950, controllers/fg_handler.go and docs/CONFIG-OPTIONS.md; CAA's 62d8abbd.
    Release((1, 13), has_peer_pod_config=False, daemon_set="osc-caa-ds", writes_owner=True, rolls=True),
)  # fmt: skip

NEWEST = "1.13"


def release_of(version: str) -> Release:
    """The row for `version` (1.8.1)."""
    number = tuple(map(int, re.findall(r"\d+", version)))[:2]
    return next(row for row in reversed(RELEASES) if row.since <= number)
