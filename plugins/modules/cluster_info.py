#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
version_added: "0.1.0"
short_description: Gather the platform, version and worker nodes of a cluster
description:
  - Reads the platform, region, version and worker nodes of an OpenShift cluster from the cluster itself.
  - >-
    Takes five requests for up to 500 workers: the Infrastructure C(cluster), the ClusterVersion C(version), the Nodes
    (one more request for each further 500), the ConfigMap C(peer-pods-cm), and a SelfSubjectAccessReview, which stores
    nothing. O(details) takes twenty-three more, on Azure twenty-four.
  - On a Kubernetes cluster that is not OpenShift, the OpenShift facts are null.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  worker_selector:
    description:
      - The label selector of the nodes to return, in the format of C(oc get nodes -l).
    type: str
    default: node-role.kubernetes.io/worker
  permissions_for:
    description:
      - >-
        The playbook of this collection whose permissions to check, V(site) for C(osc.peerpods.site) or V(teardown) for
        C(osc.peerpods.teardown). RV(missing_permissions) has those that the user does not have.
      - >-
        Takes no further request for a cluster administrator. For other users it takes a SelfSubjectAccessReview for
        each verb and resource, about 75.
    type: str
    choices: [site, teardown]
  tags:
    description:
      - >-
        With O(permissions_for=teardown), the tags with which the playbook runs, as in C(ansible_run_tags). The
        permissions of other parts are not checked.
    type: list
    elements: str
    default: [all]
  details:
    description:
      - >-
        Whether to also return RV(details), further facts for an installation of peer pods. A fact that cannot be read
        is null and does not fail the module.
      - >-
        Takes twenty-seven more requests, up to five at a time: the version and the API groups of the API server, the
        resources of C(admissionregistration.k8s.io/v1), the RuntimeClass C(kata-remote), the
        MutatingWebhookConfigurations, the PackageManifests of the operator, the Subscriptions of O(operator_namespace),
        for RV(details.operator) the PeerPodConfigs, ClusterServiceVersions, DaemonSets and two ConfigMaps of that
        namespace, for RV(details.limits) the ClusterRoleBinding of the agent, a ConfigMap of O(operator_namespace) if
        that does not exist, and a Deployment and a ConfigMap of its namespace, four for
        RV(details.credentials), one each for RV(details.service_ca) and RV(details.tls_min_version), and the
        MachineConfigPools, the Proxy, the OperatorHub, the ImageDigestMirrorSets and the ImageContentSourcePolicies.
      - >-
        Takes one less with an agent, up to two more if MutatingAdmissionPolicies are not served as C(v1), one if no
        MachineConfigPools are served, one for the object of Azure Red Hat OpenShift on Azure, and one for each 500 pods
        if cloud-api-adaptor has annotated a node.
    type: bool
    default: false
  credentials:
    description:
      - >-
        With O(details), whether to return RV(details.credentials). Reads C(peer-pods-secret), whose content is not
        returned, and the metadata of another Secret.
    type: bool
    default: true
  operator_namespace:
    description:
      - The namespace of the operator that RV(details.operator) describes, with the ConfigMap of RV(pod_vms).
    type: str
    default: openshift-sandboxed-containers-operator
  agent_namespace:
    description:
      - >-
        The namespace of a node capacity agent that the role P(osc.peerpods.node_capacity#role) did not deploy, or will
        deploy. An agent of this role is found wherever it is.
      - Defaults to the namespace that was found, or to V(osc-peerpods).
    type: str
  webhook_namespace:
    description:
      - The namespace that the options of the role P(osc.peerpods.webhook#role) name, for RV(details.placements).
    type: str
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Gather facts about the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Show the cluster and its instances
  ansible.builtin.debug:
    msg: >-
      OpenShift {{ cluster.version }} on {{ cluster.platform }} {{ cluster.region }} with the instances
      {{ cluster.workers | map(attribute='instance_id') | join(', ') }}

- name: Gather the nodes of one pool only
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
  description: The cloud as the Infrastructure object names it, null if the cluster is not OpenShift.
  returned: always
  type: str
  sample: AWS
region:
  description:
    - The region of the cluster, null on other platforms than AWS and Azure.
    - >-
      On AWS it is read from the Infrastructure, on Azure from the label C(topology.kubernetes.io/region) of the worker
      nodes; null if the labels differ.
  returned: always
  type: str
  sample: eu-central-1
resource_group:
  description: The Azure resource group, null on other platforms.
  returned: always
  type: str
  sample: null
network_resource_group:
  description: >-
    The Azure resource group of the cluster's network. Equals RV(resource_group) unless another was set at installation.
  returned: always
  type: str
  sample: null
cloud_name:
  description: >-
    The Azure cloud as the Infrastructure names it, V(AzurePublicCloud) if it names none; null on other platforms.
  returned: always
  type: str
  sample: null
subscription_id:
  description: >-
    The Azure subscription in the provider IDs of the worker nodes, null if they differ and on other platforms.
  returned: always
  type: str
  sample: null
infrastructure_name:
  description: The infrastructure name of the cluster, which is part of the names of its cloud resources.
  returned: always
  type: str
  sample: demo-x7k2p
cluster_id:
  description: The ID of the cluster in the ClusterVersion C(version), null if the cluster is not OpenShift.
  returned: always
  type: str
  sample: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
version:
  description: The OpenShift version that the cluster runs or is being updated to.
  returned: always
  type: str
  sample: 4.16.9
topology:
  description: Where the control plane runs.
  returned: always
  type: dict
  contains:
    control_plane:
      description: >-
        C(status.controlPlaneTopology) of the Infrastructure, such as V(HighlyAvailable), V(SingleReplica) for a single
        node, or V(External) for a hosted control plane; null if the cluster is not OpenShift.
      type: str
      sample: HighlyAvailable
    infrastructure:
      description: C(status.infrastructureTopology) of the Infrastructure.
      type: str
      sample: HighlyAvailable
    control_plane_workers:
      description: The nodes of RV(workers) that also belong to the control plane, with their labels.
      type: list
      elements: dict
      sample: []
is_cluster_admin:
  description: Whether the user has all permissions on all resources, as the role cluster-admin grants.
  returned: always
  type: bool
  sample: true
missing_permissions:
  description:
    - >-
      The permissions in all namespaces that the playbook O(permissions_for) needs and the user does not have; empty for
      a cluster administrator. Permissions that only some settings need are not checked.
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
      description: The name of the node.
      type: str
    provider_id:
      description: The C(spec.providerID) of the node, null if it is not set.
      type: str
    instance_id:
      description: >-
        The part of the provider ID after its last slash. On AWS the EC2 instance ID, on Azure the name of the VM.
      type: str
    region:
      description: The region in the label C(topology.kubernetes.io/region) of the node.
      type: str
    zone:
      description: The availability zone of the node.
      type: str
    ready:
      description: Whether the condition C(Ready) of the node is true.
      type: bool
  sample:
    - name: ip-10-0-1-23.eu-central-1.compute.internal
      provider_id: aws:///eu-central-1a/i-0a1b2c3d4e5f60001
      instance_id: i-0a1b2c3d4e5f60001
      region: eu-central-1
      zone: eu-central-1a
      ready: true
pod_vms:
  description: >-
    What the ConfigMap C(peer-pods-cm) in O(operator_namespace) sets for the VMs of peer pods. The lists are empty if it
    does not exist, does not set them, or if the user may not read it.
  returned: always
  type: dict
  contains:
    subnets:
      description: The subnet, C(AWS_SUBNET_ID) or C(AZURE_SUBNET_ID).
      type: list
      elements: str
    security_groups:
      description: On AWS, the security groups, C(AWS_SG_IDS).
      type: list
      elements: str
    network_security_groups:
      description: On Azure, the network security group of the network interfaces, C(AZURE_NSG_ID).
      type: list
      elements: str
    default_sizes:
      description: The default instance type (C(PODVM_INSTANCE_TYPE)) or VM size (C(AZURE_INSTANCE_SIZE)).
      type: list
      elements: str
    sizes:
      description: The instance types (C(PODVM_INSTANCE_TYPES)) or VM sizes (C(AZURE_INSTANCE_SIZES)) to choose from.
      type: list
      elements: str
    images:
      description: The ID of the image, C(PODVM_AMI_ID) or C(AZURE_IMAGE_ID).
      type: list
      elements: str
    tunnel_ports:
      description: The port of the tunnel, C(VXLAN_PORT).
      type: list
      elements: str
  sample:
    subnets: [subnet-0a1b2c3d4e5f60001]
    security_groups: [sg-0a1b2c3d4e5f60001]
    network_security_groups: []
    default_sizes: [t3.medium]
    sizes: [t3.small, t3.medium]
    images: [ami-0f3a5b1c2d4e6f708]
    tunnel_ports: ["9000"]
details:
  description: Further facts. A fact that could not be read is null; RV(details.unread) has the reason.
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
      description: The newest API version that serves MutatingAdmissionPolicies, null if they are not served.
      type: str
      sample: null
    validating_admission_policy:
      description: Whether ValidatingAdmissionPolicies are served as C(v1).
      type: bool
    image_builds:
      description: >-
        Whether the cluster can build images, with the capabilities Build and ImageRegistry of OpenShift: whether it
        serves C(build.openshift.io) and C(image.openshift.io).
      type: bool
    runtime_class:
      description: The RuntimeClass C(kata-remote), null if it does not exist.
      type: dict
      contains:
        handler:
          description: The handler of the RuntimeClass.
          type: str
        overhead:
          description: The overhead of a pod on its worker, by resource; empty if it is not set.
          type: dict
          sample: {cpu: 250m, memory: 350Mi}
    webhooks:
      description: The mutating webhooks whose names end with C(.peerpods.io).
      type: list
      elements: dict
      contains:
        configuration:
          description: The name of the MutatingWebhookConfiguration.
          type: str
          sample: mutating-webhook-configuration
        name:
          description: The name of the webhook.
          type: str
          sample: mwebhook.peerpods.io
    placements:
      description: >-
        Where the roles C(webhook) and C(node_capacity) have deployed their containers, whatever the options of this
        task are, by role.
      type: dict
      contains:
        webhook:
          description: >-
            The C(namespace) of the webhook by its registration, null without one; and the C(problem), a sentence if
            O(webhook_namespace) is another namespace or RV(details.webhook_options) cannot be read, else null.
          type: dict
          sample: {namespace: osc-peerpods, problem: null}
        node_capacity:
          description: >-
            The same for the agent by its ClusterRoleBinding, with O(agent_namespace) and
            RV(details.node_capacity_options).
          type: dict
          sample: {namespace: osc-peerpods, problem: null}
    webhook_options:
      description: >-
        The options of the role P(osc.peerpods.webhook#role) that the registration of the webhook keeps; empty without
        one.
      type: dict
      sample: {certificate: own, replicas: 3}
    node_capacity_options:
      description: >-
        The options of the role P(osc.peerpods.node_capacity#role) that the ClusterRoleBinding of the agent keeps, or
        the ConfigMap C(osc-peerpods-node-capacity) in O(operator_namespace); empty without either.
      type: dict
      sample: {manager: collection}
    service_ca:
      description: >-
        Whether the cluster has the service CA operator, which can issue the certificate of the role webhook; null if
        that could not be read.
      type: bool
      sample: true
    tls_min_version:
      description: >-
        The minimum TLS version that the role webhook uses with C(webhook_tls_min_version=auto), by the TLS profile of
        OpenShift; null if that could not be read.
      type: str
      sample: VersionTLS12
    cert_manager:
      description: Whether the API server serves C(cert-manager.io).
      type: bool
      sample: true
    advertisers:
      description:
        - >-
          The field managers that last wrote the extended resource C(kata.peerpods.io/vm) to the capacity of
          RV(workers), from the nodes' C(managedFields) and cloud-api-adaptor's annotation. An annotation of a pod that
          does not run any more does not count.
      type: list
      elements: dict
      contains:
        manager:
          description: The field manager.
          type: str
          sample: peerpods-node-capacity
        kind:
          description: >-
            The kind of the field manager, V(agent), V(kubelet), V(person) or V(controller), as in
            RV(osc.peerpods.cluster_features_info#module:advertisers[].kind).
          type: str
          sample: agent
        nodes:
          description: The names of the nodes.
          type: list
          elements: str
        summary:
          description: A description with the names of the first ten nodes.
          type: str
          sample: peerpods-node-capacity on ip-10-0-1-23.eu-central-1.compute.internal
    operator:
      description:
        - >-
          The installed operator as in RV(osc.peerpods.cluster_features_info#module:operator), and its settings that
          affect limits; null if it is not installed.
      type: dict
      contains:
        version:
          description: The version of the operator, null if it cannot be read.
          type: str
          sample: 1.13.0
        known:
          description: Whether this collection was tested with this release.
          type: bool
        limit_in:
          description: Where the limit is stored, V(PeerPodConfig) or the ConfigMap V(peer-pods-cm).
          type: str
          sample: peer-pods-cm
        advertiser:
          description: The program of the product that advertises the limit.
          type: str
          sample: cloud-api-adaptor
        daemon_set:
          description: The name of the DaemonSet of cloud-api-adaptor, null if it does not exist.
          type: str
          sample: osc-caa-ds
        limit:
          description: The literal value of C(PEERPODS_LIMIT_PER_NODE) in peer-pods-cm, null if it is not set.
          type: str
          sample: "10"
        update_strategy:
          description: The literal value of C(caaUpdateStrategy) in osc-feature-gates, null if it is not set.
          type: str
          sample: OnDelete
        deployment_mode:
          description: The literal value of C(deploymentMode) in osc-feature-gates, null if it is not set.
          type: str
          sample: null
        has_proxy:
          description: Whether peer-pods-cm has a proxy for cloud-api-adaptor.
          type: bool
          sample: false
        has_initdata:
          description: Whether peer-pods-cm has the initdata of the VMs.
          type: bool
          sample: false
        strategy_is_held:
          description: >-
            Whether it is V(OnDelete) because a run of this collection set it to replace cloud-api-adaptor pods one by
            one, and did not restore it yet.
          type: bool
          sample: false
        peer_pod_configs:
          description: The names of the PeerPodConfigs, null if the API server does not serve them.
          type: list
          elements: str
          sample: null
        older_daemon_set_of:
          description: >-
            The PeerPodConfig that owns the DaemonSet of an operator older than 1.9, which still exists in addition to
            that of the installed operator; null if no such DaemonSet exists.
          type: str
          sample: null
    limits:
      description: The node capacity agent, and the limits of pools that it enforces on operators 1.9 and newer.
      type: dict
      contains:
        namespace:
          description: The namespace of the agent, or where it would be deployed.
          type: str
          sample: osc-peerpods
        agent_deployed:
          description: Whether the Deployment of the agent exists, null if the user may not read it.
          type: bool
        pools:
          description: The names of the pools in the ConfigMap C(peerpods-limits).
          type: list
          elements: str
          sample: [default, memory]
        problems:
          description: >-
            The reasons why entries of the ConfigMap C(peerpods-limits) give no node a limit, one sentence each.
          type: list
          elements: str
          sample: []
    subscription:
      description: >-
        The Subscription of the operator, as in RV(osc.peerpods.operator_info#module:subscription); null if it does not
        exist.
      type: dict
      contains:
        name:
          description: The name of the Subscription.
          type: str
        channel:
          description: The channel, null if the Subscription uses the default channel of the catalog.
          type: str
        source:
          description: The name of the CatalogSource.
          type: str
        source_namespace:
          description: The namespace of the CatalogSource.
          type: str
        approval:
          description: V(Automatic) or V(Manual).
          type: str
        installed_csv:
          description: The installed ClusterServiceVersion, null if none is installed.
          type: str
        current_csv:
          description: The ClusterServiceVersion that OLM installs or has installed, null if none is known.
          type: str
      sample: null
    credentials:
      description: What decides how cloud-api-adaptor can get its credentials, null without O(credentials).
      type: dict
      contains:
        mode:
          description: >-
            The mode of the cloud credential operator (C(spec.credentialsMode) of CloudCredential C(cluster)), empty for
            its default; null if the cluster has none.
          type: str
          sample: Manual
        issuer:
          description: >-
            The issuer of service account tokens (C(spec.serviceAccountIssuer) of Authentication C(cluster)), empty or
            null if it is that of the API server, which the cloud cannot reach.
          type: str
          sample: https://demo-7x2kq-oidc.s3.us-east-2.amazonaws.com
        root:
          description: >-
            What the root credential of the cloud credential operator is sufficient for, V(mint), V(passthrough),
            V(insufficient), or empty if it is not known; null if the Secret does not exist. Only the metadata of the
            Secret are read.
          type: str
          sample: null
        secret:
          description: >-
            The way that C(peer-pods-secret) came from, V(given), V(credentials_request) or V(token); null if it does
            not exist.
          type: str
          sample: token
        secret_is_outdated:
          description: >-
            Whether the sandboxed containers operator created C(peer-pods-secret) from C(cco-secret), and the cloud
            credential operator has written other credentials there since. No value is returned.
          type: bool
          sample: false
    catalogs:
      description: The catalogs that have the operator, null if the cluster serves no PackageManifests.
      type: list
      elements: dict
      contains:
        name:
          description: The name of the CatalogSource.
          type: str
          sample: redhat-operators
        namespace:
          description: The namespace of the CatalogSource.
          type: str
          sample: openshift-marketplace
        channels:
          description: The channels of the catalog.
          type: list
          elements: str
          sample: [stable]
        heads:
          description: The newest ClusterServiceVersion of each channel, by channel.
          type: dict
          sample: {stable: sandboxed-containers-operator.v1.10.1}
        default_channel:
          description: The channel that is used if a Subscription names none.
          type: str
          sample: stable
    machine_configs:
      description: What the machine config operator does, null if the cluster is not OpenShift.
      type: dict
      contains:
        served:
          description: Whether the API server serves MachineConfigs.
          type: bool
        pools:
          description: >-
            The MachineConfigPools, null if they are not served. C(problem) is the reason why no further node of the
            pool is updated, else empty.
          type: list
          elements: dict
      sample:
        served: true
        pools:
          - {name: worker, machines: 3, updated: 3, paused: false, updating: false, problem: ""}
    proxy:
      description: >-
        The cluster-wide proxy in force, without the credentials in its URLs, and the ConfigMap with further
        certification authorities. Null if the cluster is not OpenShift.
      type: dict
      sample: {http_proxy: null, https_proxy: null, no_proxy: [], trusted_ca: null}
    mirrors:
      description: >-
        The image sources with mirrors, from ImageDigestMirrorSets and ImageContentSourcePolicies. Null if the cluster
        is not OpenShift.
      type: list
      elements: dict
      sample: []
    disabled_catalogs:
      description: The default catalogs that the OperatorHub disables. Null if the cluster is not OpenShift.
      type: list
      elements: str
      sample: []
    aro:
      description: >-
        On Azure Red Hat OpenShift, the resource group that it manages, and whether it attaches its own network security
        group to the subnets; null on other clusters.
      type: dict
      sample: null
    unread:
      description: The reasons why facts could not be read, one sentence each, by the name of the reading.
      type: dict
      sample: {}
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from ansible_collections.osc.peerpods.plugins.module_utils._operator.client import (
    items,
    read_machine_configs,
    read_package_manifests,
    read_subscription,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import describe_subscription
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import read_advertisers
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import read_credentials
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import read_operator_state
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_reads import read_agent, read_agent_limits
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import NAMESPACE, PEER_PODS_CM
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import (
    AGENT_BINDING,
    AGENT_BINDING_PATH,
    chosen_namespace,
    namespace_of_binding,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import problems_of_entries
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster import (
    CLUSTER_VERSION_PATH,
    INFRASTRUCTURE_PATH,
    RUNTIME_CLASS_PATH,
    describe,
    details,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.features import API_SERVER_PATH, FACTS
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.permissions import (
    ACCESS_REVIEWS_PATH,
    CLUSTER_ADMIN_REVIEW,
    PLAYBOOKS,
    access_review,
    needed,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.topology import (
    ARO_PATH,
    MIRRORS,
    OPERATOR_HUB_PATH,
    PROXY_PATH,
)

# The library keeps at least this many connections open, five for each processor.
READS_AT_A_TIME = 5


def admission_apis(cluster: Cluster) -> dict[str, dict | None]:
    """The APIResourceList of each version of the group, from the newest to one that has policies."""
    apis = {}
    for version in MUTATING_POLICY_VERSIONS:
        apis[version] = cluster.get(f"{ADMISSION_PATH}/{version}")
        if serves_mutating_policies(apis[version]):
            break
    return apis


def served_groups(cluster: Cluster) -> set[str]:
    return {group["name"] for group in (cluster.get("/apis") or {"groups": ()})["groups"]}


def missing_permissions(cluster: Cluster, playbook: str, tags: list[str]) -> list[str]:
    groups = served_groups(cluster)
    return [
        f"{verb} {resource}.{group}".rstrip(".")
        for (group, resource), verbs in needed(playbook, tags, groups).items()
        for verb in verbs
        if not cluster.create(ACCESS_REVIEWS_PATH, access_review(verb, group, resource))["status"]["allowed"]
    ]


def read_adaptor_settings(cluster: Cluster, namespace: str) -> dict | None:
    """peer-pods-cm; None if it does not exist, or if the user may not read it."""
    try:
        return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{PEER_PODS_CM}")
    except ClusterError as error:
        if error.status != 403:
            raise
        return None


def read_unless_forbidden(cluster: Cluster, path: str) -> dict | None:
    try:
        return cluster.get(path)
    except ClusterError as error:
        if error.status != 403:
            raise
        return None


def read_agent_state(cluster: Cluster, given: str | None, operator_namespace: str) -> dict[str, Any]:
    """The agent's ClusterRoleBinding, the object with the options of its role, and the limits in its namespace."""
    binding = read_unless_forbidden(cluster, AGENT_BINDING_PATH)
    choice = f"/api/v1/namespaces/{operator_namespace}/configmaps/{AGENT_BINDING}"
    found = namespace_of_binding(binding)
    return {
        "binding": binding,
        # Without an agent, a ConfigMap has the options.
        "store": binding or read_unless_forbidden(cluster, choice),
        "limits": describe_limits(cluster, chosen_namespace(given, [found] if found else [])),
    }


def describe_limits(cluster: Cluster, namespace: str) -> dict[str, Any]:
    limits = read_agent_limits(cluster, namespace)
    return {
        "namespace": namespace,
        "agent_deployed": read_agent(cluster, namespace),
        "pools": sorted((limits or {}).get("data") or {}),
        "problems": problems_of_entries((limits or {}).get("data") or {}, namespace),
    }


def read_mirrors(cluster: Cluster) -> list[tuple[str, dict]]:
    return [(field, object_) for path, field in MIRRORS.items() for object_ in items(cluster, path)]


def read_details(cluster: Cluster, params: dict[str, Any], platform: str | None, nodes: list[dict]) -> dict[str, Any]:
    operator_namespace = params["operator_namespace"]
    readings: dict[str, Any] = {}
    unread: dict[str, str] = {}
    # Only OpenShift, which has a platform, serves them.
    of_openshift = {
        "machine_configs": lambda: read_machine_configs(cluster),
        "proxy": lambda: cluster.get(PROXY_PATH),
        "mirrors": lambda: read_mirrors(cluster),
        "operator_hub": lambda: cluster.get(OPERATOR_HUB_PATH),
        **({"aro": lambda: cluster.get(ARO_PATH)} if platform == "Azure" else {}),
    }
    reads: dict[str, Callable[[], Any]] = {
        "version": lambda: cluster.get("/version"),
        "groups": lambda: served_groups(cluster),
        "admission_apis": lambda: admission_apis(cluster),
        "runtime_class": lambda: cluster.get(RUNTIME_CLASS_PATH),
        "webhooks": lambda: list(cluster.list(MUTATING_WEBHOOKS_PATH)),
        "subscription": lambda: describe_subscription(read_subscription(cluster, operator_namespace)),
        "packages": lambda: read_package_manifests(cluster),
        "operator": lambda: read_operator_state(cluster, operator_namespace),
        "agent": lambda: read_agent_state(cluster, params["agent_namespace"], operator_namespace),
        "credentials": lambda: (
            read_credentials(cluster, platform, operator_namespace) if params["credentials"] else None
        ),
        "advertisers": lambda: read_advertisers(cluster, nodes),
        "service_ca": lambda: cluster.get(FACTS["service_ca"][0]),
        "api_server": lambda: cluster.get(API_SERVER_PATH),
        **(of_openshift if platform else {}),
    }
    with ThreadPoolExecutor(READS_AT_A_TIME) as pool:
        pending = {name: pool.submit(read) for name, read in reads.items()}
    for name, reading in pending.items():
        try:
            readings[name] = reading.result()
        except ClusterError as error:
            unread[name] = str(error)
    given = {"webhook": params["webhook_namespace"], "node_capacity": params["agent_namespace"]}
    return details(readings, unread, given)


def main() -> None:
    module = cluster_module(
        {
            "permissions_for": {"type": "str", "choices": sorted(PLAYBOOKS)},
            "tags": {"type": "list", "elements": "str", "default": ["all"]},
            "worker_selector": {"type": "str", "default": "node-role.kubernetes.io/worker"},
            "details": {"type": "bool", "default": False},
            "credentials": {"type": "bool", "default": True},
            "operator_namespace": {"type": "str", "default": NAMESPACE},
            "agent_namespace": {"type": "str"},
            "webhook_namespace": {"type": "str"},
        }
    )
    playbook = module.params["permissions_for"]
    try:
        cluster = Cluster(module)
        infrastructure = cluster.get(INFRASTRUCTURE_PATH)
        version = cluster.get(CLUSTER_VERSION_PATH) if infrastructure else None
        nodes = list(cluster.list(NODES_PATH, labelSelector=module.params["worker_selector"]))
        settings = read_adaptor_settings(cluster, module.params["operator_namespace"])
        review = cluster.create(ACCESS_REVIEWS_PATH, CLUSTER_ADMIN_REVIEW)
        facts = describe(infrastructure, version, nodes, settings, review)
        if playbook:
            facts["missing_permissions"] = (
                [] if facts["is_cluster_admin"] else missing_permissions(cluster, playbook, module.params["tags"])
            )
    except ClusterError as error:
        module.fail_json(msg=str(error))
    if module.params["details"]:
        facts["details"] = read_details(cluster, module.params, facts["platform"], nodes)
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
