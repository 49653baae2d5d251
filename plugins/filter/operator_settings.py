# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: operator_settings
version_added: "0.1.0"
short_description: Compute and validate the settings of cloud-api-adaptor
description:
  - >-
    Computes the data of C(peer-pods-cm), C(peer-pods-secret) and C(osc-feature-gates) from the options of the role
    P(osc.peerpods.operator_install#role), and validates them before the role writes anything.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        A dictionary with C(settings), C(credentials) and C(token), lists of C(key), C(option), C(value) and
        C(initial), and of settings also C(pattern), C(expected), C(remedy), C(never_empty), C(only_new),
        C(of_networking) and C(opened_for); with C(subscription) and C(kata_config), lists of the same for these
        objects; and with C(credentials_from), C(extra_config), C(tags), C(feature_gates), C(public_key), C(take_over)
        and C(namespace), the values of the options; C(platform); C(facts),
        RV(osc.peerpods.cluster_info#module:details.credentials); C(installed_csv); and C(catalogs),
        RV(osc.peerpods.operator_info#module:catalogs); and C(before_networking), which is whether the role
        P(osc.peerpods.cloud_networking#role), which finds the values of settings with C(of_networking), has not run
        yet.
      - >-
        C(value) is that of the option, C(initial) what a new object gets without it. C(objects) is
        RV(osc.peerpods.operator_info#module:objects).
      - >-
        C(opened_for) are the groups or subnets of VMs for which the role P(osc.peerpods.cloud_networking#role) opened
        the ports, and C(opened_by) is its option that names others than the default.
      - >-
        A setting with C(remedy) must not be empty. One with C(never_empty) is also written if an existing
        C(peer-pods-cm) has an empty one. One with C(only_new) is written only when C(peer-pods-cm) does not exist. One
        whose C(value) is empty is written if C(peer-pods-cm) does not exist, or if the operator requires it.
      - >-
        A credential with C(shared) names no identity. Credentials of the same C(group) belong together. One that is
        C(optional) may be empty. C(secret_key) is the key of a token's row in C(peer-pods-secret).
      - >-
        C(image) has the C(cluster_id), the C(image_id), C(uri) and C(config) of the options, and the S3 C(bucket) that
        the role creates, empty if none. C(kept) is the image that an interrupted teardown has kept. C(creates_identity)
        is whether it creates the identity of cloud-api-adaptor.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Validate the settings
  ansible.builtin.assert:
    that: (options | osc.peerpods.operator_settings).problems | length == 0
"""

RETURN = r"""
_value:
  description: The settings.
  type: dict
  contains:
    config_map:
      description: The data of C(peer-pods-cm), without empty values and without what an existing ConfigMap keeps.
      type: dict
      sample: {CLOUD_PROVIDER: aws, VXLAN_PORT: "9000"}
    only_missing:
      description: The keys of C(config_map) that are written only if the ConfigMap does not have them.
      type: list
      elements: str
      sample: []
    subscription:
      description: The fields of the Subscription as it will be.
      type: dict
      sample: {channel: stable, source: redhat-operators, installPlanApproval: Automatic}
    kata_config:
      description: The fields of the KataConfig that are written.
      type: dict
      sample: {enablePeerPods: true, logLevel: info}
    changes_nodes:
      description: Whether the KataConfig is created or changed, after which the operator changes nodes.
      type: bool
      sample: true
    takes_over:
      description: The changes of objects that this collection did not create, each as a line.
      type: list
      elements: str
      sample: ["Subscription mine: installPlanApproval from Manual to Automatic"]
    closed:
      description: >-
        A sentence for each setting that gives the VMs other groups or another subnet than those for which the ports
        were opened.
      type: list
      elements: str
      sample: []
    image_settings:
      description: >-
        The ConfigMap with the settings of the image job, the keys that are written to it, and whether it gets the label
        of this collection. Without keys, the operator creates it. Of C(buckets), C(created) is the S3 bucket that the
        job creates, C(needed) the one that it requires to exist, and C(default) the name that it uses by default.
      type: dict
      sample:
        name: aws-podvm-image-cm
        data: {PODVM_IMAGE_URI: "oci::quay.io/example/podvm:1.0"}
        is_own: true
        buckets: {created: podvm-image-262093934.0.1, needed: "", default: podvm-image-262093934.0.1}
    secret:
      description: >-
        The keys of C(peer-pods-secret) that are written, null if one is removed. Empty if the Secret is kept, or if the
        operator creates it.
      type: dict
    credentials:
      description: How cloud-api-adaptor gets its credentials, why, what to watch out for, and what prevents it.
      type: dict
      sample: {way: given, reason: operator_install_credentials is given., warnings: [], problems: []}
    feature_gates:
      description: The data of C(osc-feature-gates).
      type: dict
      sample: {confidential: "true"}
    problems:
      description: Why the settings cannot be used, those of the credentials first, each as a sentence with what to do.
      type: list
      elements: str
      sample: ["operator_install_vxlan_port must be a port, from 1 to 65535; got '70000'."]
"""

from ansible_collections.osc.peerpods.plugins.module_utils._operator.settings import operator_settings


class FilterModule:
    def filters(self) -> dict:
        return {"operator_settings": operator_settings}
