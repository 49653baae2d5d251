#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: adaptor_config
version_added: "0.1.0"
short_description: Manage the settings of cloud-api-adaptor without losing peer pods
description:
  - >-
    Writes keys of the ConfigMap C(peer-pods-cm), the Secret C(peer-pods-secret) and the ConfigMap C(osc-feature-gates)
    of the OpenShift sandboxed containers operator. Only keys that differ are written. Other keys stay.
  - >-
    A cloud-api-adaptor pod reads these settings when it starts, and every peer pod of its node is lost when it
    restarts. After a write, this module replaces the cloud-api-adaptor pods node by node, nodes without peer pods
    first. Each new pod must be Ready before the next one is replaced.
  - >-
    By default the module fails before the first write if a node with running peer pods would be affected. See
    O(disruption).
  - >-
    Operators of release 1.13 and later replace all cloud-api-adaptor pods after every write to C(peer-pods-cm). On
    these the module sets C(caaUpdateStrategy) in C(osc-feature-gates) to V(OnDelete) before the write, and restores it
    when every pod is up to date. The annotation C(osc.peerpods/caa-update-strategy) keeps the value to restore, so that
    an interrupted run can be resumed. If the operator does not apply V(OnDelete) in time, the module fails and writes
    nothing else.
  - >-
    If the annotation C(osc.peerpods/pod-vm-image) of C(peer-pods-cm) has the ID of the image that an interrupted
    teardown has taken out of it, the module restores the ID, unless another image was set since. While a KataConfig is
    being deleted, or if the user may not list KataConfigs, it does not: the operator would delete the image. The same
    is true of C(osc.peerpods/image-gallery), which keeps the annotation C(IMAGE_GALLERY_NAME).
  - >-
    Annotations alone replace no pod. Where the operator would replace all pods after such a write, they are restored
    together with the next key of C(peer-pods-cm) that changes, or when no cloud-api-adaptor pod exists.
  - If nothing needs to be written, no pod is replaced. Pods with older settings are returned in RV(adaptor.stale).
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  namespace:
    description:
      - The namespace of the operator. Must exist if something needs to be written.
    type: str
    default: openshift-sandboxed-containers-operator
  config_map:
    description:
      - Keys of C(peer-pods-cm) and their values.
    type: dict
    default: {}
  secret:
    description:
      - Keys of C(peer-pods-secret) and their values, not encoded. The names of the keys are shown, the values never.
      - A key with the value V(null) is removed.
    type: dict
    default: {}
  feature_gates:
    description:
      - Keys of C(osc-feature-gates) and their values.
      - The value of C(caaUpdateStrategy) must be V(RollingUpdate) or V(OnDelete).
    type: dict
    default: {}
  only_missing:
    description:
      - Keys of O(config_map) that are written only if C(peer-pods-cm) does not have them.
    type: list
    elements: str
    default: []
  labels:
    description:
      - Labels of a ConfigMap or Secret that this module creates. The labels of an existing object are never changed.
    type: dict
    default:
      app.kubernetes.io/part-of: osc.peerpods
  disruption:
    description:
      - What to do about nodes that run peer pods and whose cloud-api-adaptor pod must be replaced.
      - V(refuse) fails before the first write and lists the peer pods.
      - >-
        V(wait) replaces the pod of a node when no peer pod runs there any more. If the operator replaces all pods by
        itself and does not apply C(caaUpdateStrategy), the module waits before the write until no peer pod runs on any
        of the nodes.
      - V(allow) replaces the pods of these nodes last. Their peer pods are lost.
    type: str
    choices: [wait, refuse, allow]
    default: refuse
  replace:
    description:
      - Whether to replace the cloud-api-adaptor pods after a write.
      - >-
        If V(false), the pods keep the settings they started with. On operators that replace pods by themselves
        C(caaUpdateStrategy) then stays V(OnDelete) until a run with O(resume=true).
    type: bool
    default: true
  resume:
    description:
      - Replace pods with older settings also if nothing needs to be written, such as after an interrupted run.
      - Without pods of cloud-api-adaptor, only what an interrupted run has kept is restored.
    type: bool
    default: false
  runtime_classes:
    description:
      - Pods of these RuntimeClasses are peer pods, and so are pods that request C(kata.peerpods.io/vm).
    type: list
    elements: str
    default: [kata-remote]
  wait_timeout:
    description:
      - >-
        How many seconds one step may take: the operator takes up the settings, a new pod becomes Ready, or with
        O(disruption=wait) the peer pods of a further node end.
    type: int
    default: 600
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: >-
      Can run in check mode, where it writes nothing and returns which nodes and peer pods a write would affect.
    support: full
  diff_mode:
    description: Shows the keys that change. Values of the Secret are not shown.
    support: full
notes:
  - If nothing needs to be written, the module sends at most seven small requests.
  - A list of the running pods of the cluster is requested only if cloud-api-adaptor pods must be replaced.
  - Each step of a replacement is logged on the host that runs the module.
seealso:
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Use larger VMs, and fail if running peer pods would be lost
  osc.peerpods.adaptor_config:
    config_map:
      PODVM_INSTANCE_TYPE: m6i.large

- name: Change the proxy timeout on each node when its peer pods have ended
  osc.peerpods.adaptor_config:
    config_map:
      PROXY_TIMEOUT: 10m
    disruption: wait
    wait_timeout: 3600

- name: Replace the pods that still have older settings after an interrupted run
  osc.peerpods.adaptor_config:
    resume: true
    disruption: wait
"""

RETURN = r"""
written:
  description: The objects that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [ConfigMap/osc-feature-gates, ConfigMap/peer-pods-cm]
adaptor:
  description: The cloud-api-adaptor pods.
  returned: always
  type: dict
  contains:
    daemon_set:
      description: The name of their DaemonSet, null if it does not exist.
      type: str
    rolls:
      description: Whether the operator replaces all pods after a write to C(peer-pods-cm).
      type: bool
    mode:
      description: >-
        V(write) if no pod needs to be replaced, V(replace) if this module replaces them, V(hold) if it sets
        C(caaUpdateStrategy) to V(OnDelete) for that time, V(roll) if the operator replaces them.
      type: str
    replaced:
      description: The nodes whose pod was replaced, or would be in check mode.
      type: list
      elements: str
    waiting:
      description: The nodes whose pod was not replaced because peer pods run there or the node is not Ready.
      type: list
      elements: str
    stale:
      description: The nodes whose pod has older settings and is not replaced, because nothing needed to be written.
      type: list
      elements: str
    peer_pods:
      description: The peer pods on the nodes whose pod must be replaced, as they were before the first write.
      type: list
      elements: str
    lost:
      description: The peer pods that were lost. In check mode with O(disruption=allow), those that would be lost.
      type: list
      elements: str
    strategy:
      description: C(caaUpdateStrategy) before and after, null if it is not set.
      type: dict
  sample:
    daemon_set: osc-caa-ds
    rolls: true
    mode: hold
    replaced: [worker-0, worker-1]
    waiting: []
    stale: []
    peer_pods: []
    lost: []
    strategy: {before: null, after: null}
"""

from ansible_collections.osc.peerpods.plugins.module_utils._adaptor.apply import apply_settings
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    cluster_module,
    reporting_writes,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import read_operator
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import NAMESPACE, PART_OF, RUNTIME_CLASS


def main() -> None:
    module = cluster_module(
        {
            "namespace": {"type": "str", "default": NAMESPACE},
            "config_map": {"type": "dict", "default": {}},
            "secret": {"type": "dict", "default": {}, "no_log": True},
            "feature_gates": {"type": "dict", "default": {}},
            "only_missing": {"type": "list", "elements": "str", "default": []},
            "labels": {"type": "dict", "default": dict([PART_OF])},
            "disruption": {
                "type": "str",
                "choices": ["wait", "refuse", "allow"],
                "default": "refuse",
            },
            "replace": {"type": "bool", "default": True},
            "resume": {"type": "bool", "default": False},
            "runtime_classes": {"type": "list", "elements": "str", "default": [RUNTIME_CLASS]},
            "wait_timeout": {"type": "int", "default": 600},
        }
    )
    params = module.params
    with reporting_writes(module) as cluster:
        # Without its DaemonSet nothing needs to be replaced, so PeerPodConfigs need not be read.
        operator = read_operator(cluster, params["namespace"], [])
        result = apply_settings(
            module,
            cluster,
            operator,
            params["namespace"],
            config_map=params["config_map"],
            secret=params["secret"],
            gates=params["feature_gates"],
            only_missing=params["only_missing"],
            labels=params["labels"],
            disruption=params["disruption"],
            timeout=params["wait_timeout"],
            replace=params["replace"],
            resume=params["resume"],
            runtime_classes=params["runtime_classes"],
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
