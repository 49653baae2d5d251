# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option `nodes` of modules for a cloud; module_utils/_kubernetes/worker_nodes.py reads it."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  nodes:
    description:
      - Reads the workers from the cluster, by the C(spec.providerID) of its nodes. Takes one request to the API server
        for every 500 nodes.
      - >-
        The login to the cluster is that of M(kubernetes.core.k8s_info). Suboptions that do not exist here are set by
        the environment variables of that module, such as E(K8S_AUTH_HOST), E(K8S_AUTH_API_KEY) and
        E(K8S_AUTH_VERIFY_SSL).
      - V({}) is enough if the kubeconfig is set in the environment or is C(~/.kube/config).
      - Needs the Python package C(kubernetes), and the permission to list nodes.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - The path of a kubeconfig, or its content as a dictionary. Defaults to E(K8S_AUTH_KUBECONFIG),
            E(KUBECONFIG) or C(~/.kube/config).
        type: raw
      context:
        description:
          - The context of the kubeconfig to use instead of its current one.
        type: str
      label_selector:
        description:
          - The label selector of the worker nodes, as in C(oc get nodes -l).
        type: str
        default: node-role.kubernetes.io/worker
"""
