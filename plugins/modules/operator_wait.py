#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: operator_wait
version_added: "0.1.0"
short_description: Wait for the operator, its nodes or the end of kata pods, and show the progress
description:
  - >-
    Shows the progress while it waits, at least once a minute, as lines on the standard error: whether an InstallPlan
    requires approval or is being installed, how many nodes have been rolled, which node is being updated and for how
    long.
  - >-
    Ends as soon as the state is reached, and fails as soon as the Operator Lifecycle Manager (OLM), the operator or the
    machine config operator report that they do not continue by themselves, or after O(wait_timeout). The message has
    the reason, as reported, and what to do next. Temporary conditions, such as a catalog that restarts, are shown as
    progress.
  - >-
    Once the API server has answered, it may be away for up to the rest of O(wait_timeout), such as during the reboot of
    a single node.
  - An interrupted wait resumes from the state of the cluster.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
attributes:
  check_mode:
    description: Can run in check mode, where it approves no InstallPlan.
    details: Changes nothing without O(approve).
options:
  wait_for:
    description:
      - V(catalog) waits until a CatalogSource is READY and offers the operator.
      - V(operator) waits until a ClusterServiceVersion is Succeeded.
      - >-
        V(nodes) waits until the nodes run kata, the RuntimeClass of peer pods exists, and C(peer-pods-cm) has the ID of
        an image of the pod VMs, if the KataConfig enables peer pods. It fails as soon as the job
        C(osc-podvm-image-creation), which creates the image, has failed, with the end of its log.
      - V(removal) waits until kata is removed from the nodes, after a KataConfig was deleted.
      - V(pods) waits until all pods of O(runtime_classes) have ended.
    type: str
    choices: [catalog, operator, nodes, removal, pods]
    required: true
  namespace:
    description:
      - The namespace of the operator.
    type: str
    default: openshift-sandboxed-containers-operator
  csv:
    description:
      - With O(wait_for=operator), the ClusterServiceVersion to wait for. If empty, any.
      - With O(wait_for=catalog), a ClusterServiceVersion that the channel must offer. If empty, any.
    type: str
    default: ""
  source:
    description:
      - With O(wait_for=catalog), the name of the CatalogSource.
    type: str
  source_namespace:
    description:
      - With O(wait_for=catalog), the namespace of the CatalogSource.
    type: str
  channel:
    description:
      - With O(wait_for=catalog), a channel that the CatalogSource must offer.
    type: str
  approve:
    description:
      - >-
        With O(wait_for=operator), whether to approve the InstallPlans that install O(csv) and nothing else, or one step
        from the installed version to O(csv). Other InstallPlans are never approved.
    type: bool
    default: false
  runtime_class:
    description:
      - With O(wait_for=nodes), the RuntimeClass of peer pods.
    type: str
    default: kata-remote
  runtime_classes:
    description:
      - >-
        With O(wait_for=pods), the RuntimeClasses of the pods that must end. Pods that request C(kata.peerpods.io/vm)
        are waited for, too.
    type: list
    elements: str
    default: [kata-remote]
  image_requested_after:
    description:
      - >-
        With O(wait_for=nodes), when the operator last reported a failed image job before the image was requested again,
        as RV(osc.peerpods.operator_info#module:pod_vm_image.failed). That failure and earlier ones are ignored, and a
        missing job is waited for. If not set, no earlier run has failed.
    type: str
  wait_timeout:
    description:
      - How many seconds to wait. With V(0), the module returns the current state immediately and does not fail.
      - With O(approve), the time starts again after each InstallPlan that is approved.
    type: int
    default: 0
  previous:
    description:
      - The previous RV(progress). The module returns as soon as the progress differs from it. Set by the action plugin.
    type: dict
    default: {}
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: osc.peerpods.operator_info
"""

EXAMPLES = r"""
- name: Gather the progress of the nodes
  osc.peerpods.operator_wait:
    wait_for: nodes
  register: nodes

- name: Show the progress
  ansible.builtin.debug:
    msg: "{{ nodes.progress.summary }}"

- name: Wait up to an hour for the nodes
  osc.peerpods.operator_wait:
    wait_for: nodes
    wait_timeout: 3600

- name: Approve the InstallPlan of a version and wait until it is installed
  osc.peerpods.operator_wait:
    wait_for: operator
    csv: sandboxed-containers-operator.v1.8.1
    approve: true
    wait_timeout: 900
"""

RETURN = r"""
progress:
  description: The progress.
  returned: unless a request failed
  type: dict
  contains:
    done:
      description: Whether the state that is waited for is reached.
      type: bool
    problem:
      description: The reason why there is no further progress, else empty.
      type: str
    needs_approval:
      description: >-
        Whether RV(install_plan) requires approval, and installs O(csv) and nothing else, or one step from the installed
        version to O(csv).
      type: bool
    remedy:
      description: What to do if there is no further progress.
      type: str
    summary:
      description: The progress in one line.
      type: str
    status:
      description: RV(progress.summary) without durations.
      type: str
    since:
      description: The time since which each node is being updated, as observed.
      type: dict
  sample:
    done: false
    problem: ""
    needs_approval: false
    remedy: See C(oc describe machineconfigpool kata-oc), …
    summary: >-
      1 of 3 nodes run kata; working on worker-1 (for 4 min); 1 waiting; MachineConfigPool kata-oc: 1 of 3 updated, for
      9 min
    status: >-
      1 of 3 nodes run kata; working on worker-1; 1 waiting; MachineConfigPool kata-oc: 1 of 3 updated
    since:
      worker-1: "2026-03-01T10:12:00Z"
pods:
  description: The pods of O(runtime_classes) that run on nodes, each as namespace/name.
  returned: with O(wait_for=pods), if the API server answers
  type: list
  elements: str
  sample: [default/peer-pod]
install_plan:
  description: The InstallPlan that the Subscription refers to, null if it does not exist.
  returned: with O(wait_for=operator), if the API server answers
  type: dict
  sample:
    name: install-x9k2p
    csvs: [sandboxed-containers-operator.v1.8.1]
    approved: false
    phase: RequiresApproval
"""

import dataclasses
import time
from datetime import datetime, timezone

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    cluster_module,
    reporting_writes,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import ClusterError
from ansible_collections.osc.peerpods.plugins.module_utils._operator.client import (
    read_csvs,
    read_image_failure,
    read_image_job,
    read_image_log,
    read_install_states,
    read_kata_configs,
    read_missing_keys,
    read_package_manifests,
    read_plan,
    read_pods,
    read_pools,
    read_source,
    read_subscription,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.node_rollout import (
    check_pods_ended,
    check_removal,
    check_rollout,
    lacks_image_settings,
    needs_image,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import (
    check_catalog,
    check_installation,
    describe_catalogs,
    describe_plan,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import REMEDIES, Progress, describe_outage
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import KATA_POOL
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import OLM

# The polling interval in seconds. A rollout takes minutes, and each poll is a few small requests.
INTERVAL = 1.0

# After this number of seconds without a change, the last progress is reported again.
HEARTBEAT = 60


def look(cluster: Cluster, params: dict) -> tuple[Progress, dict]:
    """The current progress, and further values to return."""
    now = datetime.now(timezone.utc)
    since = params["previous"].get("since") or {}
    if params["wait_for"] == "catalog":
        namespace, name = params["source_namespace"], params["source"]
        manifests = read_package_manifests(cluster)
        catalogs = None if manifests is None else describe_catalogs(manifests)
        requested = {"namespace": namespace, "name": name, "channel": params["channel"], "csv": params["csv"]}
        return check_catalog(read_source(cluster, namespace, name), catalogs, requested, now), {}
    if params["wait_for"] == "operator":
        namespace = params["namespace"]
        subscription = read_subscription(cluster, namespace)
        spec = (subscription or {}).get("spec")
        source = spec and read_source(cluster, spec["sourceNamespace"], spec["source"])
        plan = read_plan(cluster, namespace, subscription)
        csvs = read_csvs(cluster, namespace, subscription)
        progress = check_installation(subscription, source, plan, csvs, params["csv"], now)
        return progress, {"install_plan": describe_plan(plan)}
    if params["wait_for"] == "pods":
        pods = read_pods(cluster, params["runtime_classes"])
        return check_pods_ended(pods), {"pods": pods}
    kata = next(iter(read_kata_configs(cluster)), None)
    pools = read_pools(cluster)
    # The nodes of its pool are installed by MachineConfigs.
    states = {} if pools and KATA_POOL in pools else read_install_states(cluster)
    if params["wait_for"] == "nodes":
        return look_at_nodes(cluster, params, kata, pools, since, now, states), {}
    missing = read_missing_keys(cluster, params["namespace"]) if lacks_image_settings(kata) else ""
    return check_removal(kata, pools, since, now, states, missing), {}


def look_at_nodes(
    cluster: Cluster,
    params: dict,
    kata: dict | None,
    pools: dict | None,
    since: dict,
    now: datetime,
    states: dict,
) -> Progress:
    """The progress of the nodes; when all of them run kata, also that of the image."""
    requested, image = params["image_requested_after"], None
    if needs_image(kata):
        image = read_image_job(cluster, params["namespace"], requested or "", now)
        if image.failure:
            image = dataclasses.replace(image, failure=read_image_failure(cluster, params["namespace"], image))
    return check_rollout(kata, pools, params["runtime_class"], since, now, states, image, requested is not None)


def approve(cluster: Cluster, namespace: str, install_plan: str) -> None:
    cluster.patch(f"{OLM}/namespaces/{namespace}/installplans/{install_plan}", {"spec": {"approved": True}})


def main() -> None:
    module = cluster_module(
        {
            "wait_for": {
                "type": "str",
                "choices": ["catalog", "operator", "nodes", "removal", "pods"],
                "required": True,
            },
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "csv": {"type": "str", "default": ""},
            "source": {"type": "str"},
            "source_namespace": {"type": "str"},
            "channel": {"type": "str"},
            "approve": {"type": "bool", "default": False},
            "runtime_class": {"type": "str", "default": "kata-remote"},
            "runtime_classes": {"type": "list", "elements": "str", "default": ["kata-remote"]},
            "image_requested_after": {"type": "str"},
            "wait_timeout": {"type": "int", "default": 0},
            "previous": {"type": "dict", "default": {}},
        },
        required_if=[("wait_for", "catalog", ("source", "source_namespace"))],
    )
    deadline = time.monotonic() + min(module.params["wait_timeout"], HEARTBEAT)
    # The action plugin waits no longer: the message has the log of an image job that runs.
    is_last = 0 < module.params["wait_timeout"] <= HEARTBEAT
    before = module.params["previous"].get("status")
    changed = False
    with reporting_writes(module) as cluster:
        while True:
            try:
                progress, result = look(cluster, module.params)
            except ClusterError as error:
                # An API server that has not answered before may be that of a wrong kubeconfig.
                if before is None or not error.transient or not module.params["wait_timeout"]:
                    raise
                progress, result = describe_outage(error, module.params["previous"].get("since") or {}), {}
            settled = progress.done or progress.problem or progress.needs_approval
            if progress.needs_approval and module.params["approve"] and not module.check_mode:
                approve(cluster, module.params["namespace"], result["install_plan"]["name"])
                summary = f"{progress.summary}; approved"
                progress = dataclasses.replace(progress, summary=summary, needs_approval=False)
                changed = True
                break
            if settled or progress.status != before or time.monotonic() >= deadline:
                break
            time.sleep(INTERVAL)
        remedy = progress.remedy or REMEDIES[module.params["wait_for"]]
        is_over = is_last and not settled and time.monotonic() >= deadline
        if is_over and module.params["wait_for"] == "nodes":
            log = read_image_log(cluster, module.params["namespace"], datetime.now(timezone.utc))
            remedy = f"{log} {remedy}".strip()
    progress = dataclasses.replace(progress, remedy=remedy)
    module.exit_json(changed=changed, progress=dataclasses.asdict(progress), **result)


if __name__ == "__main__":
    main()
