#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: operator_info
version_added: "0.1.0"
short_description: >-
  Gather the installed version of the operator, the versions in catalogs, and the objects of the operator
description:
  - >-
    Gathers the Subscription of the OpenShift sandboxed containers operator, its InstallPlan, the catalogs that offer
    it, and the objects that belong to it. Marks the objects that this collection created.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  namespace:
    description:
      - The namespace of the operator.
    type: str
    default: openshift-sandboxed-containers-operator
  upgrade_to:
    description:
      - >-
        Also return the upgrade path to this version, such as V(1.8.1) or V(sandboxed-containers-operator.v1.8.1). If
        empty, the path to the latest version in the channel of the Subscription.
    type: str
  check_teardown:
    description:
      - >-
        Also return RV(teardown.blockers) and RV(rollout). Takes three more requests, for the Infrastructure, the
        MachineConfigPools, and for each 500 pods of the cluster.
    type: bool
    default: false
  check_rollout:
    description:
      - >-
        Also return RV(rollout). Takes two more requests, for the Infrastructure and the MachineConfigPools, and another
        one if no MachineConfigPools are served.
    type: bool
    default: false
  deployment_mode:
    description:
      - >-
        The value of C(deploymentMode) that C(osc-feature-gates) is going to have, for RV(rollout). If empty, the value
        that it has.
    type: str
    default: ""
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: osc.peerpods.operator_wait
"""

EXAMPLES = r"""
- name: Gather the installed and the offered versions
  osc.peerpods.operator_info:
  register: operator

- name: Gather the upgrade path to the latest version
  osc.peerpods.operator_info:
    upgrade_to: ""
  register: operator
"""

RETURN = r"""
objects:
  description: >-
    The existing objects with which the operator is installed and configured: its namespace, OperatorGroup and
    Subscription, its configuration, CredentialsRequests and KataConfigs. Also Subscriptions of other operators in the
    namespace.
  returned: success
  type: list
  elements: dict
  contains:
    api_version:
      description: The API version of the object.
      type: str
    kind:
      description: The kind of the object.
      type: str
    name:
      description: The name of the object.
      type: str
    namespace:
      description: The namespace of the object, null if it is cluster-scoped.
      type: str
    uid:
      description: The UID of the object, for a deletion only of this object.
      type: str
    labels:
      description: The labels of the object.
      type: dict
    managed:
      description: Whether this collection created the object, from its label C(app.kubernetes.io/part-of=osc.peerpods).
      type: bool
    of_operator:
      description: Whether the operator created the object, and only it and its image job have written to it.
      type: bool
    is_deleted:
      description: Whether the object is being deleted.
      type: bool
    content:
      description: >-
        The C(spec) of a Subscription or a KataConfig, the C(data) of a ConfigMap, and the keys of a Secret that have
        a value, with null values; null for other kinds.
      type: dict
  sample:
    - api_version: kataconfiguration.openshift.io/v1
      kind: KataConfig
      name: example-kataconfig
      namespace: null
      uid: 7f1c8c1e-30a5-4a2b-9a53-1f5d1f3f4a3e
      labels: {app.kubernetes.io/part-of: osc.peerpods}
      managed: true
      of_operator: false
      is_deleted: false
      content: {enablePeerPods: true, logLevel: info}
pod_vm_image:
  description: The image of the pod VMs in C(peer-pods-cm).
  returned: success
  type: dict
  contains:
    key:
      description: >-
        The key of C(peer-pods-cm), C(PODVM_AMI_ID) or C(AZURE_IMAGE_ID): that of C(CLOUD_PROVIDER), or of the
        cluster if C(peer-pods-cm) does not name the cloud.
      type: str
    id:
      description: The ID of the image, empty if no image is set.
      type: str
    of_job:
      description: >-
        Whether an image job of the operator made the image, from the annotation that the job adds to C(peer-pods-cm).
        The operator deletes the image together with the KataConfig, whoever made it.
      type: bool
    failed:
      description:
        - >-
          When the operator last reported that its job to create the image has failed, for
          O(osc.peerpods.operator_wait#module:image_requested_after). Empty if an image is set, without a KataConfig, or
          if the operator has not reported this within the lifetime of events.
      type: str
    kept:
      description: >-
        The ID that an interrupted teardown has taken out of C(peer-pods-cm) and not restored, else empty. The next run
        of M(osc.peerpods.adaptor_config) restores it.
      type: str
    gallery:
      description: >-
        The annotation C(IMAGE_GALLERY_NAME) of C(peer-pods-cm): the gallery that an image job has created on Azure, and
        that the operator deletes together with the image; else empty.
      type: str
    is_created:
      description: Whether no image is set, and a job that creates one exists.
      type: bool
    is_running:
      description: Whether no image is set, and a job that creates one has not ended and is not being deleted.
      type: bool
    buckets:
      description:
        - The S3 buckets of the next job on AWS, by C(aws-podvm-image-cm) and by how C(peer-pods-secret) was created.
        - Empty without one of them, and on Azure.
      type: dict
      contains:
        created:
          description: The bucket that the job creates, on which it fails if it exists.
          type: str
        needed:
          description: The bucket that must exist.
          type: str
        default:
          description: The name that the job uses by default.
          type: str
  sample:
    key: PODVM_AMI_ID
    id: ami-0123456789abcdef0
    of_job: true
    failed: ""
    kept: ""
    gallery: ""
    is_created: false
    is_running: false
    buckets: {created: podvm-image-262093934.0.1, needed: "", default: podvm-image-262093934.0.1}
teardown:
  description: What the entry point C(teardown) of the role P(osc.peerpods.operator_install#role) does.
  returned: success
  type: dict
  contains:
    kata_config:
      description: >-
        The name of a KataConfig that this collection did not create, null if no such KataConfig exists. It needs all
        other objects.
      type: str
    label:
      description: The ClusterServiceVersions that belong to the Subscription of this collection, from RV(objects).
      type: list
      elements: dict
    remove:
      description: >-
        The objects to remove after the KataConfig, in this order, from RV(objects). The namespace is removed by
        M(osc.peerpods.own_namespace).
      type: list
      elements: dict
    remain:
      description: The objects that remain, each as kind/name.
      type: list
      elements: str
    blockers:
      description:
        - >-
          The reasons why the operator or the machine config operator would not remove the KataConfig of this
          collection: pods of its RuntimeClasses, an operator that does not run, a MachineConfigPool that is degraded or
          paused. Also an interrupted renewal of the image, after which only a ConfigMap has the KataConfig.
        - Null without O(check_teardown).
      type: list
      elements: str
  sample:
    kata_config: null
    label: []
    remove: []
    blockers: []
    remain: [OperatorGroup/example]
rollout:
  description:
    - How the operator installs kata on the nodes and removes it.
    - Without an installed operator, RV(rollout) is that of the newest release that this collection knows.
  returned: with O(check_rollout) or O(check_teardown)
  type: dict
  contains:
    mode:
      description: >-
        V(MachineConfig) or V(DaemonSet); null if the operator cannot install kata on this cluster, for the reason in
        RV(rollout.problem).
      type: str
    pool:
      description: >-
        The MachineConfigPool whose nodes are rebooted; V(master) on a cluster without other workers. Null with
        V(DaemonSet).
      type: str
    problem:
      description: Why kata cannot be installed, else empty.
      type: str
    remedy:
      description: What to do about RV(rollout.problem), else empty.
      type: str
    reboot:
      description: What the reboots mean for the control plane, empty if its nodes are not rebooted.
      type: str
    infrastructure_name:
      description: The infrastructure name of the cluster.
      type: str
  sample:
    mode: MachineConfig
    pool: kata-oc
    problem: ""
    remedy: ""
    reboot: ""
    infrastructure_name: demo-x7k2p
subscription:
  description: The Subscription, null if it does not exist.
  returned: success
  type: dict
  sample:
    name: sandboxed-containers-operator
    channel: stable
    source: redhat-operators
    source_namespace: openshift-marketplace
    approval: Manual
    installed_csv: sandboxed-containers-operator.v1.8.0
    current_csv: sandboxed-containers-operator.v1.8.1
install_plan:
  description: The InstallPlan that the Subscription refers to, null if it does not exist.
  returned: success
  type: dict
  sample:
    name: install-x9k2p
    csvs: [sandboxed-containers-operator.v1.8.1]
    approved: false
    phase: RequiresApproval
catalogs:
  description: >-
    The catalogs that offer the operator, with their channels and the versions in each channel, the latest last. Null if
    the cluster does not serve C(packages.operators.coreos.com).
  returned: success
  type: list
  elements: dict
  sample:
    - name: redhat-operators
      namespace: openshift-marketplace
      default_channel: stable
      channels:
        - name: stable
          head: sandboxed-containers-operator.v1.8.1
          csvs: [sandboxed-containers-operator.v1.8.0, sandboxed-containers-operator.v1.8.1]
generation:
  description: >-
    Which generation of the operator is installed and where its limit is, null without an operator. Operators up to 1.8
    store the limit in the PeerPodConfig C(peerpodconfig-openshift), newer ones in C(peer-pods-cm).
  returned: when O(upgrade_to) is given, also if it is empty
  type: dict
  contains:
    version:
      description: The installed version.
      type: str
    known:
      description: Whether the collection was checked with this release.
      type: bool
    limit_in:
      description: V(PeerPodConfig) or V(peer-pods-cm).
      type: str
    advertiser:
      description: The program that advertises the extended resource.
      type: str
    daemon_set:
      description: The DaemonSet of cloud-api-adaptor, null if it does not exist.
      type: str
    limit:
      description: The literal value of C(PEERPODS_LIMIT_PER_NODE), null if it is not set.
      type: str
    config_limit:
      description: C(spec.limit) of the PeerPodConfig C(peerpodconfig-openshift), null if it does not exist or has none.
      type: str
    update_strategy:
      description: The literal value of C(caaUpdateStrategy), null if it is not set.
      type: str
    peer_pod_configs:
      description: The names of the PeerPodConfigs, null if the API server serves none.
      type: list
      elements: str
    strategy_is_held:
      description: Whether a run of this collection set C(caaUpdateStrategy) and did not restore it yet.
      type: bool
    older_daemon_set_of:
      description: >-
        The PeerPodConfig that owns the DaemonSet of an operator older than 1.9, which still exists in addition to that
        of the installed operator; null if no such DaemonSet exists.
      type: str
    migration:
      description: >-
        The state of the cluster between the two generations. RV(generation.migration.message) and
        RV(generation.migration.remedy) explain a state that needs attention.
      type: dict
      contains:
        state:
          description: >-
            V(migrated), V(pending), V(limit_missing), V(two_adaptors), V(downgraded), or empty if nothing was migrated.
          type: str
        message:
          description: What is wrong, empty if nothing is.
          type: str
        remedy:
          description: What to do next, empty if nothing is wrong.
          type: str
        pools:
          description: The names of the PeerPodConfigs that stay.
          type: list
          elements: str
  sample:
    version: 1.13.0
    known: true
    limit_in: peer-pods-cm
    advertiser: cloud-api-adaptor
    daemon_set: osc-caa-ds
    limit: "20"
    config_limit: null
    update_strategy: null
    strategy_is_held: false
    peer_pod_configs: [peerpods-memory]
    older_daemon_set_of: null
    migration: {state: migrated, message: "", remedy: "", pools: [peerpods-memory]}
upgrade:
  description: The upgrade path to O(upgrade_to).
  returned: when O(upgrade_to) is given, also if it is empty
  type: dict
  contains:
    csv:
      description: The ClusterServiceVersion to upgrade to.
      type: str
    path:
      description: >-
        The versions in the channel after the installed version, up to RV(upgrade.csv). Empty if that is installed. OLM
        may skip some of them.
      type: list
      elements: str
    problem:
      description: The reason why the upgrade is not possible, else empty.
      type: str
  sample:
    csv: sandboxed-containers-operator.v1.8.1
    path: [sandboxed-containers-operator.v1.8.1]
    problem: ""
"""

from dataclasses import asdict
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import PODS_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    cluster_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.client import (
    read_image_failure_time,
    read_image_job_object,
    read_machine_configs,
    read_objects,
    read_package_manifests,
    read_plan,
    read_subscription,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_bucket import buckets_in_cluster
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_job import is_running
from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import (
    describe_catalogs,
    describe_object,
    describe_plan,
    describe_subscription,
    plan_upgrade,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.teardown import find_blockers, plan_teardown
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import (
    DEPLOYMENT_MODE_KEY,
    Deployment,
    explain_reboot,
    plan_deployment,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import (
    installed_version,
    read_operator_state,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.migration import migration_state
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    FEATURE_GATES,
    OPERATORS_CONFIG,
    PEER_PODS_CM,
    configs_path,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import names_cloud, pod_vm_image
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster import INFRASTRUCTURE_PATH


def read_generation(cluster: Cluster, namespace: str, objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The installed operator, the store of its limit, and the state of a migration."""
    state = read_operator_state(cluster, namespace)
    if state is None:
        return None
    path = f"{configs_path(namespace)}/{OPERATORS_CONFIG}"
    config = cluster.get(path) if OPERATORS_CONFIG in (state["peer_pod_configs"] or ()) else None
    migration = migration_state(
        is_second=state["limit_in"] == PEER_PODS_CM,
        daemon_set=state["daemon_set"],
        configs=state["peer_pod_configs"],
        limit=state["limit"],
        has_settings=any(object_["name"] == PEER_PODS_CM for object_ in objects),
        older_daemon_set_of=state["older_daemon_set_of"],
    )
    limit = ((config or {}).get("spec") or {}).get("limit")
    return {**state, "config_limit": limit, "migration": migration}


def read_platform(cluster: Cluster) -> str | None:
    infrastructure = cluster.get(INFRASTRUCTURE_PATH) or {}
    return ((infrastructure.get("status") or {}).get("platformStatus") or {}).get("type")


def deployment_of(
    existing: list[tuple[str, str, dict]], machine_configs: dict[str, Any], requested_mode: str
) -> Deployment:
    csvs = [entry for _version, kind, entry in existing if kind == "ClusterServiceVersion"]
    gates = next((entry for _version, _kind, entry in existing if entry["metadata"]["name"] == FEATURE_GATES), {})
    mode = requested_mode or (gates.get("data") or {}).get(DEPLOYMENT_MODE_KEY)
    return plan_deployment(installed_version(csvs), mode, machine_configs)


def describe_rollout(cluster: Cluster, deployment: Deployment, machine_configs: dict[str, Any]) -> dict[str, Any]:
    infrastructure = cluster.get(INFRASTRUCTURE_PATH) or {}
    return {
        **asdict(deployment),
        "reboot": explain_reboot(deployment, machine_configs["pools"]),
        "infrastructure_name": (infrastructure.get("status") or {}).get("infrastructureName"),
    }


def main() -> None:
    module = cluster_module(
        {
            "namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "upgrade_to": {"type": "str"},
            "check_teardown": {"type": "bool", "default": False},
            "check_rollout": {"type": "bool", "default": False},
            "deployment_mode": {"type": "str", "default": ""},
        }
    )
    namespace, upgrade_to = module.params["namespace"], module.params["upgrade_to"]
    check_teardown = module.params["check_teardown"]
    blockers: list[str] | None = None
    result: dict[str, Any] = {}
    try:
        cluster = Cluster(module)
        subscription = read_subscription(cluster, namespace)
        plan = read_plan(cluster, namespace, subscription)
        manifests = read_package_manifests(cluster)
        existing = list(read_objects(cluster, namespace))
        objects = [describe_object(*entry) for entry in existing]
        if check_teardown or module.params["check_rollout"]:
            machine_configs = read_machine_configs(cluster)
            deployment = deployment_of(existing, machine_configs, module.params["deployment_mode"])
            result["rollout"] = describe_rollout(cluster, deployment, machine_configs)
            if check_teardown:
                pools = machine_configs["pools"] or []
                blockers = find_blockers(existing, cluster.list(PODS_PATH), deployment, pools)
        generation = None if upgrade_to is None else read_generation(cluster, namespace, objects)
        settings = next(
            (entry for _version, _kind, entry in existing if entry["metadata"]["name"] == PEER_PODS_CM), None
        )
        image = pod_vm_image(settings, None if names_cloud(settings) else read_platform(cluster))
        is_without_image = not image["id"] and any(kind == "KataConfig" for _version, kind, _entry in existing)
        failed = read_image_failure_time(cluster, namespace) if is_without_image else ""
        job = read_image_job_object(cluster, namespace) if is_without_image else None
    except ClusterError as error:
        module.fail_json(msg=str(error))
    catalogs = None if manifests is None else describe_catalogs(manifests)
    if upgrade_to is not None:
        result |= {"generation": generation, "upgrade": plan_upgrade(subscription, catalogs or [], upgrade_to)}
    module.exit_json(
        changed=False,
        objects=objects,
        pod_vm_image={
            **image,
            "failed": failed,
            "is_created": job is not None,
            "is_running": job is not None and is_running(job),
            "buckets": buckets_in_cluster(
                objects, ((subscription or {}).get("status") or {}).get("installedCSV") or ""
            ),
        },
        teardown={**plan_teardown(objects), "blockers": blockers},
        subscription=describe_subscription(subscription),
        install_plan=describe_plan(plan),
        catalogs=catalogs,
        **result,
    )


if __name__ == "__main__":
    main()
