"""How each release of the operator behaves, for the simulated operator. It is independent of the table in the
collection.

Sources: openshift/sandboxed-containers-operator (SCO), confidential-containers/cloud-api-adaptor (CAA). A new release
with another behaviour gets a new row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """The behaviour of the operator and its cloud-api-adaptor from release `since` on.

    `has_peer_pod_config`: the limit is in a PeerPodConfig, and the operator itself advertises it. `rewrites_set`: the
    operator writes the whole DaemonSet of cloud-api-adaptor at each reconcile, where older releases only create it.
    `builds_image`: if peer-pods-cm does not name an image of the pod VMs, a job creates the image and writes its name
    there. When the KataConfig is deleted, a job deletes the image and empties the key. Before each job, the operator
    requires certain keys in peer-pods-cm and peer-pods-secret. `takes_oci_image`: the job makes the image of an OCI
    image, that of the operator by default, where older releases build it with Packer. On AWS this takes an S3
    bucket and the role vmimport. `takes_given_credentials`: credentials that the operator did not request must come
    with both; older releases request credentials that may create both, whatever credentials are given.
    `takes_tokens`: the clouds on which the operator creates peer-pods-secret from the role or identity in its
    environment, and on which such a Secret is sufficient for these jobs. `maps_tokens`: it does the same with
    cco-secret in the format of ccoctl.
    `copies_once`: it updates a peer-pods-secret only if cco-secret is its controller, and creates it with an owner
    that is not a controller: a rotated cco-secret does not reach it.
    `takes_pod_uid`: a cloud-api-adaptor that has POD_UID in its environment names itself in an annotation of the
    node, and removes what it advertised only while it is the owner. `takes_leading_digits`: cloud-api-adaptor uses
    the digits with which PEERPODS_LIMIT_PER_NODE begins, or 10 without digits; older releases do not start if the
    value is not a number. `rolls`: the operator watches peer-pods-cm and replaces cloud-api-adaptor's pods after
    each change of its data. `has_update_strategy`: caaUpdateStrategy in osc-feature-gates decides whether it
    replaces them or waits until they are deleted. `has_webhook`: the operator deploys a mutating webhook.
    `reads_mode`: deploymentMode in osc-feature-gates decides whether kata is installed by MachineConfigs or by a
    DaemonSet. `starts_without_pools`: the operator also starts where no MachineConfigPools are served, and then uses
    a DaemonSet by default.
    """

    since: tuple[int, int]
    has_peer_pod_config: bool
    daemon_set: str
    builds_image: bool = True
    takes_oci_image: bool = False
    takes_given_credentials: bool = False
    rewrites_set: bool = True
    takes_tokens: tuple[str, ...] = ()
    maps_tokens: bool = False
    copies_once: bool = False
    takes_pod_uid: bool = False
    takes_leading_digits: bool = False
    rolls: bool = False
    has_update_strategy: bool = False
    has_webhook: bool = True
    reads_mode: bool = False
    starts_without_pools: bool = False

    @property
    def migrates(self) -> bool:
        """Whether the operator moves the limit of an older release's PeerPodConfig to peer-pods-cm."""
        return not self.has_peer_pod_config

    @property
    def advertiser(self) -> str:
        """The field manager with which the product writes the extended resource."""
        return "manager" if self.has_peer_pod_config else "cloud-api-adaptor"


RELEASES = (
    # CAA's src/peerpodconfig-ctrl/controllers/peerpodconfig_controller.go, until 059f6420. SCO's 55df65e (2023-05,
    # in v1.4.0): controllers/ppwebhook.go.
    Release(
        (1, 4),
        has_peer_pod_config=True,
        daemon_set="peerpodconfig-ctrl-caa-daemon",
        builds_image=False,
        rewrites_set=False,
    ),
    # SCO's ee96b0e (2023-10, in v1.5.0): controllers/image_generator.go.
    Release((1, 5), has_peer_pod_config=True, daemon_set="peerpodconfig-ctrl-caa-daemon", rewrites_set=False),
    # CAA's 567287db (2024-04, in v0.9.0, which the go.mod of SCO's v1.7.0 has, and its v1.6.0 not).
    Release((1, 7), has_peer_pod_config=True, daemon_set="peerpodconfig-ctrl-caa-daemon"),
    # SCO's pull requests 498, 532 and 533; controllers/peerpods.go at c24c8f3b. CAA's
    # src/cloud-api-adaptor/pkg/adaptor/k8sops/node.go. Pull request 1917 reports that 1.9 to 1.12 may replace the pods
    # at each reconcile; it was closed, and what it names (defaults that the API server adds) does not change a
    # DaemonSet's generation: not modelled.
    Release((1, 9), has_peer_pod_config=False, daemon_set="osc-caa-ds"),
    # SCO's 7f3ca91 and be1ca72 (2025-06, in 1.10.0): updateImageConfigMap in controllers/image_generator.go and
    # config/peerpods/podvm/aws-podvm-image-handler.sh; pull request 802 sets RELATED_IMAGE_PODVM_OCI.
    # SCO's pull request 1067, in 1.10.3, the first of 1.10 that a catalog here has: controllers/fg_handler.go,
    # deployment_mode_handler.go and daemonset_reconcile.go, and scripts/kata-install/osc-kata-install.sh.
    Release((1, 10), has_peer_pod_config=False, daemon_set="osc-caa-ds", takes_oci_image=True, reads_mode=True),
    # SCO's pull request 879 (Azure; config/peerpods/podvm/osc-podvm-create-job.yaml of 1.12.0 mounts the token;
    # isCCOFlowSecret and createOrUpdateSecret in controllers/credentials_controller.go).
    Release(
        (1, 12),
        has_peer_pod_config=False,
        daemon_set="osc-caa-ds",
        takes_oci_image=True,
        takes_tokens=("Azure",),
        copies_once=True,
        reads_mode=True,
    ),
    # SCO's pull request 2189 (AWS, also for the credentials of the image job) and
    # config/peerpods/credentials-requests/ccoctl.
    # SCO's pull request 2291: without MachineConfigPools.
    # SCO's pull request 1950, controllers/fg_handler.go, cm_event_handler.go, docs/CONFIG-OPTIONS.md and
    # docs/credentials-handling.md; controllers/peerpods.go at 00b58ece, where the environment is NODE_NAME,
    # TLS_MIN_VERSION, TLS_CIPHER_SUITES and a proxy's, and so no POD_UID. CAA's 62d8abbd, and IntWithEnv in
    # src/cloud-providers/util.go.
    Release(
        (1, 13),
        has_peer_pod_config=False,
        daemon_set="osc-caa-ds",
        takes_oci_image=True,
        takes_given_credentials=True,
        takes_tokens=("AWS", "Azure"),
        maps_tokens=True,
        copies_once=True,
        takes_pod_uid=True,
        takes_leading_digits=True,
        rolls=True,
        has_update_strategy=True,
        reads_mode=True,
        starts_without_pools=True,
    ),
)

NEWEST = "1.13"


def release_of(version: str) -> Release:
    """The row for `version` (1.8.1)."""
    number = tuple(map(int, re.findall(r"\d+", version)))[:2]
    return next(row for row in reversed(RELEASES) if row.since <= number)
