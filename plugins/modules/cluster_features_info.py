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
  - Reads what the roles C(webhook) and C(node_capacity) decide by before they deploy their containers.
  - >-
    Takes a request for O(namespace) and for each of O(facts), one for those that have the same answer in them (V(service_monitors) and
    V(prometheus_rules)), and for V(advertisers) one for each 500 nodes.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  facts:
    description:
      - What is to be told. Nothing else is read, and no right to read it is needed.
    type: list
    elements: str
    default: []
    choices:
      - advertisers
      - console_dashboards
      - grafana_dashboards
      - operator
      - operator_webhook
      - prometheus_rules
      - service_ca
      - service_monitors
      - tls_profile
  namespace:
    description:
      - A namespace to run containers in, to tell RV(namespace) of.
    type: str
  extended_resource:
    description:
      - Of which resource RV(advertisers) tells.
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
- name: See whether the operator's own webhook is there, and who advertises peer pods
  osc.peerpods.cluster_features_info:
    facts: [operator_webhook, advertisers]
  register: found

- name: Say it
  ansible.builtin.debug:
    msg: >-
      {{ 'The operator has a webhook' if found.operator_webhook else 'The operator has no webhook' }}; slots are advertised
      by {{ found.advertisers | map(attribute='manager') | join(', ') or 'nobody' }}.
"""

RETURN = r"""
namespace:
  description: What there is of O(namespace).
  returned: with O(namespace)
  type: dict
  contains:
    exists:
      description: Whether it is there.
      type: bool
      sample: true
    labels:
      description: Its labels.
      type: dict
      sample: {app.kubernetes.io/part-of: osc.peerpods}
operator:
  description:
    - The operator that is at work, null where the cluster has none. It decides where the limit of peer pods is stored and what
      advertises it. A release that this collection does not know is taken to behave as the newest that it knows.
  returned: when V(operator) is in O(facts)
  type: dict
  contains:
    version:
      description: Its version, null where it cannot be read; then what the operator has created decides.
      type: str
      sample: 1.13.0
    known:
      description: Whether this collection knows how that release behaves.
      type: bool
      sample: true
    limit_in:
      description: Where the limit is stored, V(PeerPodConfig) up to 1.8 and the ConfigMap V(peer-pods-cm) from 1.9 on.
      type: str
      sample: peer-pods-cm
    advertiser:
      description: What advertises the limit by itself, V(peerpodconfig-ctrl) up to 1.8 and V(cloud-api-adaptor) from 1.9 on.
      type: str
      sample: cloud-api-adaptor
operator_webhook:
  description: Whether the operator has registered its own webhook for peer pods.
  returned: when V(operator_webhook) is in O(facts)
  type: bool
  sample: false
service_ca:
  description: Whether OpenShift's service CA is there, which signs the certificates of Services.
  returned: when V(service_ca) is in O(facts)
  type: bool
  sample: true
tls_profile:
  description:
    - The type of the C(tlsSecurityProfile) of OpenShift's APIServer C(cluster); null where it names none, which means
      V(Intermediate), and where there is no such APIServer.
  returned: when V(tls_profile) is in O(facts)
  type: str
  sample: Modern
service_monitors:
  description: Whether the API server serves ServiceMonitors, so that there may be a Prometheus operator.
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
  description: Whether there is the namespace C(openshift-config-managed), in which OpenShift's console finds dashboards.
  returned: when V(console_dashboards) is in O(facts)
  type: bool
  sample: true
advertisers:
  description:
    - >-
      Who wrote O(extended_resource) last into the capacity of which nodes, by the nodes' C(managedFields) and by
      cloud-api-adaptor's annotation.
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
          Who that is: V(agent) is the agent of the role C(node_capacity), V(kubelet) the kubelet, which sets the
          resource to 0 when it starts, V(person) somebody with C(oc), C(kubectl), C(curl), a browser or a Kubernetes
          client library, and V(controller) whatever else.
      type: str
      sample: person
    nodes:
      description: The nodes' names.
      type: list
      elements: str
    summary:
      description: The same in words, with the names of the first ten nodes.
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
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.advertisers import advertisers
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import read_operator_summary
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE, NAMESPACE
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
            "extended_resource": {"type": "str", "default": EXTENDED_RESOURCE},
            "operator_namespace": {"type": "str", "default": NAMESPACE},
        }
    )
    wanted, namespace = module.params["facts"], module.params["namespace"]
    facts = {name: FACTS[name] for name in wanted if name in FACTS}
    result: dict[str, Any] = {}
    try:
        cluster = Cluster(module)
        found = {path: cluster.get(path) for path in {path for path, _says in facts.values()}}
        if namespace:
            path = f"{NAMESPACES_PATH}/{namespace}"
            result["namespace"] = describe_namespace(cluster.get(path))
        if "operator" in wanted:
            result["operator"] = read_operator_summary(cluster, module.params["operator_namespace"])
        if "advertisers" in wanted:
            nodes = cluster.list(NODES_PATH)
            result["advertisers"] = advertisers(nodes, module.params["extended_resource"])
    except ClusterError as error:
        module.fail_json(msg=str(error))
    result |= {name: says(found[path]) for name, (path, says) in facts.items()}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
