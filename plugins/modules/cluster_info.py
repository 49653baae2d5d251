#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
version_added: "0.1.0"
short_description: Tell where a cluster runs and which worker nodes it has
description:
  - Reads the platform, region, version and worker nodes of an OpenShift cluster from the cluster itself.
  - >-
    Takes four requests whatever the size of the cluster up to 500 workers: the Infrastructure C(cluster), the
    ClusterVersion C(version), the Nodes (one more request for each further 500), and a SelfSubjectAccessReview, which
    stores nothing. O(details) takes ten more.
  - On a Kubernetes cluster that is not OpenShift the OpenShift facts are null.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  worker_selector:
    description:
      - The label selector of the nodes to return, as C(oc get nodes -l) takes it.
    type: str
    default: node-role.kubernetes.io/worker
  permissions_for:
    description:
      - >-
        A playbook of this collection, C(osc.peerpods.site) or C(osc.peerpods.teardown), to tell in
        RV(missing_permissions) what it does and this user may not.
      - >-
        Takes no more requests for a user who may do anything to anything, and for any other a SelfSubjectAccessReview for
        each verb and resource, about 75.
    type: str
    choices: [site, teardown]
  details:
    description:
      - >-
        Whether to also tell what somebody wants to know before they install peer pods, RV(details). One that cannot be
        read is no failure.
      - >-
        Takes twelve more requests: the API server's version, the resources of C(admissionregistration.k8s.io/v1), the
        RuntimeClass C(kata-remote), the MutatingWebhookConfigurations, the catalogs' PackageManifests of the operator,
        for RV(details.operator) the PeerPodConfigs, ClusterServiceVersions, DaemonSets and two ConfigMaps of
        O(operator_namespace), and for RV(details.limits) a Deployment and a ConfigMap of O(agent_namespace); up to two
        more where MutatingAdmissionPolicies are not served as C(v1).
    type: bool
    default: false
  operator_namespace:
    description:
      - The namespace of the operator that RV(details.operator) describes.
    type: str
    default: openshift-sandboxed-containers-operator
  agent_namespace:
    description:
      - The namespace of the node capacity agent that RV(details.limits) describes.
    type: str
    default: osc-peerpods
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Find out where the cluster runs
  osc.peerpods.cluster_info:
  register: cluster

- name: Say it
  ansible.builtin.debug:
    msg: >-
      OpenShift {{ cluster.version }} on {{ cluster.platform }} {{ cluster.region }} with the instances
      {{ cluster.workers | map(attribute='instance_id') | join(', ') }}

- name: Look at the nodes of one pool only
  osc.peerpods.cluster_info:
    worker_selector: node-role.kubernetes.io/kata-oc
"""

RETURN = r"""
is_openshift:
  description: Whether the cluster has OpenShift's Infrastructure object.
  returned: always
  type: bool
  sample: true
platform:
  description: The cloud as the Infrastructure object names it, null where the cluster is not OpenShift.
  returned: always
  type: str
  sample: AWS
region:
  description:
    - The region that the cluster is in, null on other platforms than AWS and Azure.
    - >-
      On AWS the Infrastructure names it, on Azure the label C(topology.kubernetes.io/region) of the worker nodes;
      null where these do not agree.
  returned: always
  type: str
  sample: eu-central-1
resource_group:
  description: The Azure resource group, null on other platforms.
  returned: always
  type: str
  sample: null
network_resource_group:
  description: The Azure resource group of the cluster's network, RV(resource_group) unless the installer was given another.
  returned: always
  type: str
  sample: null
cloud_name:
  description: The Azure cloud as the Infrastructure names it, V(AzurePublicCloud) where it names none; null on other platforms.
  returned: always
  type: str
  sample: null
subscription_id:
  description: The Azure subscription that the worker nodes' provider IDs name, null where they do not agree and on other platforms.
  returned: always
  type: str
  sample: null
infrastructure_name:
  description: The name that the installer gave the cluster, which its cloud resources carry.
  returned: always
  type: str
  sample: demo-x7k2p
version:
  description: The OpenShift version that the cluster runs or is being updated to.
  returned: always
  type: str
  sample: 4.16.9
is_cluster_admin:
  description: Whether the user we log in as may do anything to anything, as the role cluster-admin says.
  returned: always
  type: bool
  sample: true
missing_permissions:
  description:
    - >-
      What the playbook of O(permissions_for) does to a cluster and this user may not, in every namespace; empty for a
      cluster administrator. What only some settings ask for, or only some clusters have, is not told.
  returned: with O(permissions_for)
  type: list
  elements: str
  sample: [create namespaces, patch deployments.apps]
workers:
  description: The nodes that O(worker_selector) selects.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The node's name.
      type: str
    provider_id:
      description: The node's C(spec.providerID), null where it has none.
      type: str
    instance_id:
      description: The part of the provider ID after its last slash, on AWS the EC2 instance ID, on Azure the VM's name.
      type: str
    region:
      description: The region that the node's label C(topology.kubernetes.io/region) names.
      type: str
    zone:
      description: The node's availability zone.
      type: str
    ready:
      description: Whether the node's condition C(Ready) is true.
      type: bool
  sample:
    - name: ip-10-0-1-23.eu-central-1.compute.internal
      provider_id: aws:///eu-central-1a/i-0a1b2c3d4e5f60001
      instance_id: i-0a1b2c3d4e5f60001
      region: eu-central-1
      zone: eu-central-1a
      ready: true
details:
  description: What O(details) tells; null where it could not be read, as RV(details.unread) says.
  returned: with O(details=true)
  type: dict
  contains:
    kubernetes_version:
      description: The API server's version.
      type: str
      sample: v1.29.6
    match_conditions:
      description: Whether webhooks can have C(matchConditions).
      type: bool
    mutating_admission_policy:
      description: The newest version of the API that has MutatingAdmissionPolicies, null also where none does.
      type: str
      sample: null
    validating_admission_policy:
      description: Whether ValidatingAdmissionPolicies are served as C(v1).
      type: bool
    runtime_class:
      description: The RuntimeClass C(kata-remote), null also where there is none.
      type: dict
      contains:
        handler:
          description: Its handler.
          type: str
        overhead:
          description: What a pod costs on its worker, by resource; empty where it says nothing.
          type: dict
          sample: {cpu: 250m, memory: 350Mi}
    webhooks:
      description: The mutating webhooks whose names end in C(.peerpods.io).
      type: list
      elements: dict
      contains:
        configuration:
          description: The MutatingWebhookConfiguration.
          type: str
          sample: mutating-webhook-configuration
        name:
          description: The webhook's name.
          type: str
          sample: mwebhook.peerpods.io
    advertisers:
      description:
        - >-
          Who wrote the extended resource C(kata.peerpods.io/vm) last into the capacity of which of RV(workers), by the
          nodes' C(managedFields) and by cloud-api-adaptor's annotation.
      type: list
      elements: dict
      contains:
        manager:
          description: The field manager.
          type: str
          sample: peerpods-node-capacity
        kind:
          description: >-
            Who that is, V(agent), V(kubelet), V(person) or V(controller), as
            RV(osc.peerpods.cluster_features_info#module:advertisers[].kind) tells.
          type: str
          sample: agent
        nodes:
          description: The nodes' names.
          type: list
          elements: str
        summary:
          description: The same in words, with the names of the first ten nodes.
          type: str
          sample: peerpods-node-capacity on ip-10-0-1-23.eu-central-1.compute.internal
    operator:
      description:
        - >-
          The operator that is at work, null where the cluster has none: RV(osc.peerpods.cluster_features_info#module:operator), and its
          settings that decide about limits.
      type: dict
      contains:
        version:
          description: Its version, null where it cannot be read.
          type: str
          sample: 1.13.0
        known:
          description: Whether this collection knows how that release behaves.
          type: bool
        limit_in:
          description: Where the limit is stored, V(PeerPodConfig) or the ConfigMap V(peer-pods-cm).
          type: str
          sample: peer-pods-cm
        advertiser:
          description: What advertises the limit by itself.
          type: str
          sample: cloud-api-adaptor
        daemon_set:
          description: The DaemonSet of cloud-api-adaptor, null where it does not exist.
          type: str
          sample: osc-caa-ds
        limit:
          description: C(PEERPODS_LIMIT_PER_NODE) of peer-pods-cm as it is written, null where it is not set.
          type: str
          sample: "10"
        update_strategy:
          description: C(caaUpdateStrategy) of osc-feature-gates as it is written, null where it is not set.
          type: str
          sample: OnDelete
        strategy_is_held:
          description: >-
            Whether it is V(OnDelete) because a run of this collection set it to replace cloud-api-adaptor pods one by one, and did not
            restore it yet.
          type: bool
          sample: false
        peer_pod_configs:
          description: The names of the PeerPodConfigs, null where the API server does not serve them.
          type: list
          elements: str
          sample: null
        older_daemon_set_of:
          description: >-
            The PeerPodConfig that owns the DaemonSet of an operator older than 1.9 beside that of the installed one, null where none does.
          type: str
          sample: null
    limits:
      description: The node capacity agent, and the limits by pool that it enforces where operators are 1.9 or newer.
      type: dict
      contains:
        agent_deployed:
          description: Whether the agent's Deployment exists, null where the user may not read it.
          type: bool
        problems:
          description: Why entries of the ConfigMap C(peerpods-limits) give no node a limit, a sentence each.
          type: list
          elements: str
          sample: []
    catalogs:
      description: The catalogs that have the operator; null also where the cluster serves no PackageManifests.
      type: list
      elements: dict
      contains:
        name:
          description: The CatalogSource.
          type: str
          sample: redhat-operators
        namespace:
          description: Its namespace.
          type: str
          sample: openshift-marketplace
        channels:
          description: The channels that it has.
          type: list
          elements: str
          sample: [stable]
        heads:
          description: The ClusterServiceVersion that each of them would install, by the channel.
          type: dict
          sample: {stable: sandboxed-containers-operator.v1.10.1}
        default_channel:
          description: The one for who asks for none.
          type: str
          sample: stable
    unread:
      description: Why what could not be read could not, as a sentence, by what it is.
      type: dict
      sample: {}
"""

from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    ADMISSION_PATH,
    MUTATING_POLICY_VERSIONS,
    MUTATING_WEBHOOKS_PATH,
    NODES_PATH,
    serves_mutating_policies,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    cluster_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.client import read_package_manifests
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import read_operator_state
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_reads import read_agent, read_agent_limits
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import NAMESPACE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import problems_of_entries
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster import (
    CLUSTER_VERSION_PATH,
    INFRASTRUCTURE_PATH,
    RUNTIME_CLASS_PATH,
    describe,
    details,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.permissions import (
    ACCESS_REVIEWS_PATH,
    CLUSTER_ADMIN_REVIEW,
    NEEDED,
    access_review,
)


def admission_apis(cluster: Cluster) -> dict[str, dict | None]:
    """The APIResourceList of each version of the group, from the newest to one that has policies."""
    found = {}
    for version in MUTATING_POLICY_VERSIONS:
        found[version] = cluster.get(f"{ADMISSION_PATH}/{version}")
        if serves_mutating_policies(found[version]):
            break
    return found


def missing_permissions(cluster: Cluster, playbook: str) -> list[str]:
    return [
        f"{verb} {resource}.{group}".rstrip(".")
        for (group, resource), verbs in NEEDED[playbook].items()
        for verb in verbs
        if not cluster.create(ACCESS_REVIEWS_PATH, access_review(verb, group, resource))["status"]["allowed"]
    ]


def describe_agent(cluster: Cluster, namespace: str) -> dict[str, Any]:
    limits = read_agent_limits(cluster, namespace)
    return {
        "agent_deployed": read_agent(cluster, namespace),
        "problems": problems_of_entries((limits or {}).get("data") or {}, namespace),
    }


def read_details(cluster: Cluster, nodes: list[dict], operator_namespace: str, agent_namespace: str) -> dict[str, Any]:
    readings: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name, read in {
        "version": lambda: cluster.get("/version"),
        "admission_apis": lambda: admission_apis(cluster),
        "runtime_class": lambda: cluster.get(RUNTIME_CLASS_PATH),
        "webhooks": lambda: list(cluster.list(MUTATING_WEBHOOKS_PATH)),
        "packages": lambda: read_package_manifests(cluster),
        "operator": lambda: read_operator_state(cluster, operator_namespace),
        "limits": lambda: describe_agent(cluster, agent_namespace),
    }.items():
        try:
            readings[name] = read()
        except ClusterError as error:
            unread[name] = str(error)
    return details(nodes, readings, unread)


def main() -> None:
    module = cluster_module(
        {
            "permissions_for": {"type": "str", "choices": sorted(NEEDED)},
            "worker_selector": {"type": "str", "default": "node-role.kubernetes.io/worker"},
            "details": {"type": "bool", "default": False},
            "operator_namespace": {"type": "str", "default": NAMESPACE},
            "agent_namespace": {"type": "str", "default": "osc-peerpods"},
        }
    )
    playbook = module.params["permissions_for"]
    try:
        cluster = Cluster(module)
        infrastructure = cluster.get(INFRASTRUCTURE_PATH)
        version = cluster.get(CLUSTER_VERSION_PATH) if infrastructure else None
        nodes = list(cluster.list(NODES_PATH, labelSelector=module.params["worker_selector"]))
        review = cluster.create(ACCESS_REVIEWS_PATH, CLUSTER_ADMIN_REVIEW)
        facts = describe(infrastructure, version, nodes, review)
        if playbook:
            facts["missing_permissions"] = [] if facts["is_cluster_admin"] else missing_permissions(cluster, playbook)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    if module.params["details"]:
        facts["details"] = read_details(
            cluster, nodes, module.params["operator_namespace"], module.params["agent_namespace"]
        )
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
