#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_features_info
version_added: "0.1.0"
short_description: Gather the features of a cluster that the webhook and the agent use
description:
  - Reads the features of a cluster that decide how the roles C(webhook) and C(node_capacity) deploy their containers.
  - >-
    Takes one request for O(namespace), four for O(role), and one for each of O(facts). V(service_monitors) and
    V(prometheus_rules) share a request; V(advertisers) takes one for each 500 nodes, and one for each 500 pods if
    cloud-api-adaptor has annotated a node.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  facts:
    description:
      - The facts to return. Nothing else is read, and no other permissions are needed.
    type: list
    elements: str
    default: []
    choices:
      - advertisers
      - cert_manager
      - console_dashboards
      - grafana_dashboards
      - host_network_namespace
      - operator
      - operator_webhook
      - prometheus_rules
      - service_ca
      - service_monitors
      - tls_profile
  namespace:
    description:
      - The name of the namespace to describe in RV(namespace).
      - With O(role), only for a first installation. An existing container stays in its namespace.
    type: str
  role:
    description:
      - >-
        The role with whose container RV(namespace) is. It is found by its labels in all namespaces, and by the service
        account or the Service that an object of the cluster names.
    type: str
    choices: [node_capacity, webhook]
  extended_resource:
    description:
      - The extended resource for RV(advertisers).
    type: str
    default: kata.peerpods.io/vm
  operator_namespace:
    description:
      - The namespace of the operator that RV(operator) describes.
    type: str
    default: openshift-sandboxed-containers-operator
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: osc.peerpods.cluster_info
  - module: osc.peerpods.mutating_policy
  - module: osc.peerpods.mutating_webhook
"""

EXAMPLES = r"""
- name: Check whether the operator has a webhook, and which programs advertise peer pods
  osc.peerpods.cluster_features_info:
    facts: [operator_webhook, advertisers]
  register: features

- name: Show the result
  ansible.builtin.debug:
    msg: >-
      {{ 'The operator has a webhook' if features.operator_webhook else 'The operator has no webhook' }}; slots are
      advertised by {{ features.advertisers | map(attribute='manager') | join(', ') or 'no program' }}.
"""

RETURN = r"""
namespace:
  description: The namespace O(namespace), or that of the container of O(role).
  returned: with O(namespace) or O(role)
  type: dict
  contains:
    name:
      description: The name of the namespace. Without a container and without O(namespace), V(osc-peerpods).
      type: str
      sample: osc-peerpods
    exists:
      description: Whether the namespace exists.
      type: bool
      sample: true
    labels:
      description: The labels of the namespace.
      type: dict
      sample: {app.kubernetes.io/part-of: osc.peerpods}
    found:
      description: With O(role), all namespaces with its container. The first one is in use.
      type: list
      elements: str
      sample: [osc-peerpods]
    problem:
      description: With O(role), a sentence if O(namespace) is not that of the existing container, else null.
      type: str
      sample: null
operator:
  description:
    - >-
      The installed operator, null if it is not installed. It decides where the limit of peer pods is stored and which
      program advertises it. An unknown release is treated as the newest known release.
  returned: when V(operator) is in O(facts)
  type: dict
  contains:
    version:
      description: >-
        The version of the operator, null if it cannot be read. The generation is then detected from the operator's
        objects.
      type: str
      sample: 1.13.0
    known:
      description: Whether this collection was tested with this release.
      type: bool
      sample: true
    limit_in:
      description: Where the limit is stored, V(PeerPodConfig) up to 1.8 and the ConfigMap V(peer-pods-cm) from 1.9 on.
      type: str
      sample: peer-pods-cm
    advertiser:
      description: >-
        The program of the product that advertises the limit, V(peerpodconfig-ctrl) up to 1.8 and V(cloud-api-adaptor)
        from 1.9 on.
      type: str
      sample: cloud-api-adaptor
operator_webhook:
  description: Whether the operator has registered its own webhook for peer pods.
  returned: when V(operator_webhook) is in O(facts)
  type: bool
  sample: false
service_ca:
  description: Whether the cluster has OpenShift's service CA, which signs certificates for Services.
  returned: when V(service_ca) is in O(facts)
  type: bool
  sample: true
cert_manager:
  description: Whether the API server serves the Certificates of cert-manager.
  returned: when V(cert_manager) is in O(facts)
  type: bool
  sample: true
host_network_namespace:
  description: >-
    Whether the namespace C(openshift-host-network) exists. With OpenShift's network plugins, a NetworkPolicy that
    selects it selects the host network of nodes.
  returned: when V(host_network_namespace) is in O(facts)
  type: bool
  sample: true
tls_profile:
  description:
    - The type of the C(tlsSecurityProfile) of OpenShift's APIServer C(cluster). Null if it is not set, which means
      V(Intermediate), or if the APIServer does not exist.
  returned: when V(tls_profile) is in O(facts)
  type: str
  sample: Modern
service_monitors:
  description: Whether the API server serves ServiceMonitors of the Prometheus operator.
  returned: when V(service_monitors) is in O(facts)
  type: bool
  sample: true
prometheus_rules:
  description: Whether the API server serves PrometheusRules.
  returned: when V(prometheus_rules) is in O(facts)
  type: bool
  sample: true
grafana_dashboards:
  description: Whether the API server serves the Grafana operator's GrafanaDashboards.
  returned: when V(grafana_dashboards) is in O(facts)
  type: bool
  sample: false
console_dashboards:
  description: >-
    Whether the namespace C(openshift-config-managed) exists, from which the OpenShift console reads dashboards.
  returned: when V(console_dashboards) is in O(facts)
  type: bool
  sample: true
advertisers:
  description:
    - >-
      The field managers that last wrote O(extended_resource) to the capacity of nodes, from the nodes' C(managedFields)
      and cloud-api-adaptor's annotation. An annotation of a pod that does not run any more does not count.
  returned: when V(advertisers) is in O(facts)
  type: list
  elements: dict
  contains:
    manager:
      description: The field manager.
      type: str
      sample: kubectl-patch
    kind:
      description:
        - >-
          The kind of the field manager. V(agent) is the agent of the role C(node_capacity). V(kubelet) is the kubelet,
          which sets the resource to 0 when it starts. V(person) is a user with C(oc), C(kubectl), C(curl), a browser or
          a Kubernetes client library. V(controller) is any other program.
      type: str
      sample: person
    nodes:
      description: The names of the nodes.
      type: list
      elements: str
    summary:
      description: A description with the names of the first ten nodes.
      type: str
      sample: kubectl-patch on ip-10-0-1-23.eu-central-1.compute.internal
"""

from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NAMESPACES_PATH, NODES_PATH
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    cluster_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import read_advertisers
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import read_operator_summary
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE, NAMESPACE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import (
    CONTAINERS,
    chosen_namespace,
    placement_problem,
    read_found,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.features import FACTS, describe_namespace


def main() -> None:
    module = cluster_module(
        {
            "facts": {
                "type": "list",
                "elements": "str",
                "default": [],
                "choices": sorted([*FACTS, "advertisers", "operator"]),
            },
            "namespace": {"type": "str"},
            "role": {"type": "str", "choices": sorted(CONTAINERS)},
            "extended_resource": {"type": "str", "default": EXTENDED_RESOURCE},
            "operator_namespace": {"type": "str", "default": NAMESPACE},
        }
    )
    requested, namespace, role = (module.params[name] for name in ("facts", "namespace", "role"))
    facts = {name: FACTS[name] for name in requested if name in FACTS}
    result: dict[str, Any] = {}
    try:
        cluster = Cluster(module)
        objects = {path: cluster.get(path) for path in {path for path, _fact_of in facts.values()}}
        placed = {}
        if role:
            found = read_found(cluster, role, namespace)
            placed = {"found": found, "problem": placement_problem(role, namespace, found)}
            namespace = chosen_namespace(namespace, found)
        if namespace:
            described = describe_namespace(cluster.get(f"{NAMESPACES_PATH}/{namespace}"))
            result["namespace"] = {"name": namespace, **described, **placed}
        if "operator" in requested:
            result["operator"] = read_operator_summary(cluster, module.params["operator_namespace"])
        if "advertisers" in requested:
            nodes = cluster.list(NODES_PATH)
            result["advertisers"] = read_advertisers(cluster, nodes, module.params["extended_resource"])
    except ClusterError as error:
        module.fail_json(msg=str(error))
    result |= {name: fact_of(objects[path]) for name, (path, fact_of) in facts.items()}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
