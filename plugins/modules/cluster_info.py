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
    stores nothing.
  - On a Kubernetes cluster that is not OpenShift the OpenShift facts are null.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  worker_selector:
    description:
      - The label selector of the nodes to return, as C(oc get nodes -l) takes it.
    type: str
    default: node-role.kubernetes.io/worker
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it does the same since it changes nothing.
    support: full
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
      zone: eu-central-1a
      ready: true
"""

from ansible_collections.osc.peerpods.plugins.module_utils._cluster_info import (
    ACCESS_REVIEWS_PATH,
    CLUSTER_ADMIN_REVIEW,
    CLUSTER_VERSION_PATH,
    INFRASTRUCTURE_PATH,
    NODES_PATH,
    describe,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    cluster_module,
)


def main():
    module = cluster_module(
        {"worker_selector": {"type": "str", "default": "node-role.kubernetes.io/worker"}}
    )
    try:
        cluster = Cluster(module)
        infrastructure = cluster.get(INFRASTRUCTURE_PATH)
        version = cluster.get(CLUSTER_VERSION_PATH) if infrastructure else None
        nodes = cluster.list(NODES_PATH, labelSelector=module.params["worker_selector"])
        review = cluster.create(ACCESS_REVIEWS_PATH, CLUSTER_ADMIN_REVIEW)
        facts = describe(infrastructure, version, list(nodes), review)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
