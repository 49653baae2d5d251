# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option `nodes` of modules that speak to a cloud; module_utils/_kubernetes/worker_nodes.py reads it."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  nodes:
    description:
      - Read the workers from the cluster, by the C(spec.providerID) of its nodes. Takes one request to the API server
        for every 500 nodes.
      - The log-in to the cluster is that of M(kubernetes.core.k8s_info). It has options here of its own, since some
        of that module's options have the names of the cloud's; what is missing here goes by the environment
        variables of that module, such as E(K8S_AUTH_HOST), E(K8S_AUTH_API_KEY) and E(K8S_AUTH_VERIFY_SSL).
      - Where both come from the environment V({}) is enough.
      - Needs the Python package C(kubernetes), and the right to list nodes.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - The path of a kubeconfig, or its content as a dictionary. The default is E(K8S_AUTH_KUBECONFIG),
            E(KUBECONFIG) or C(~/.kube/config).
        type: raw
      context:
        description:
          - The context of the kubeconfig to use instead of its current one.
        type: str
      label_selector:
        description:
          - The labels of the nodes that are workers, as C(oc get nodes -l) takes it.
        type: str
        default: node-role.kubernetes.io/worker
"""
