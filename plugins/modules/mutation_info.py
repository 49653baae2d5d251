#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mutation_info
version_added: "0.1.0"
short_description: Gather whether the API server mutates peer pods
description:
  - >-
    Creates a peer pod in a server-side dry run, which stores nothing, and checks that it is returned with the extended
    resource C(kata.peerpods.io/vm). The scheduler counts only such peer pods against the limit of their node.
  - >-
    A namespace may reject the pod for another reason, such as a ResourceQuota, a policy or another webhook. Then the
    module tries other namespaces, and distinguishes such a rejection from a pod that is not mutated.
  - The policies of the role P(osc.peerpods.policy#role) do not reject this pod.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.info_module
options:
  runtime_class:
    description:
      - The RuntimeClass of the pod.
    type: str
    default: kata-remote
  namespace:
    description:
      - The namespace of the pod.
      - >-
        By default, C(default), and if it does not admit or mutate the pod, up to 20 other namespaces that are not
        system namespaces.
    type: str
seealso:
  - module: osc.peerpods.mutating_webhook
  - module: osc.peerpods.mutating_policy
"""

EXAMPLES = r"""
- name: Gather whether the API server mutates peer pods
  osc.peerpods.mutation_info:
  register: mutation

- name: Require that peer pods are counted
  ansible.builtin.assert:
    that: mutation.state == 'mutated'
    fail_msg: "{{ mutation.message }}"
"""

RETURN = r"""
state:
  description:
    - V(mutated) if the pod got the extended resource.
    - >-
      V(not_mutated) if a namespace admitted it without the extended resource, or if the API server could not call the
      webhook C(mwebhook.peerpods.io).
    - >-
      V(rejected) if every namespace that was tried rejected it for another reason, or if the webhook or policy excludes
      all namespaces that are not system namespaces.
    - V(no_runtime_class) if the RuntimeClass does not exist.
  returned: success
  type: str
  sample: mutated
namespace:
  description: The namespace with this result; null if RV(state) is V(rejected) or V(no_runtime_class).
  returned: success
  type: str
  sample: default
message:
  description: The result as sentences, with the reason and what to do.
  returned: success
  type: str
  sample: >-
    Peer pods are counted: the API server added kata.peerpods.io/vm to a peer pod in a dry run (namespace default).
"""

from dataclasses import replace

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import SYSTEM_NAMESPACES, namespaces
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import (
    NOT_MUTATED,
    WEBHOOK,
    Mutator,
    Proof,
    candidates,
    describe_proof,
    is_excluded_by_all,
    probe_pod,
    prove,
    registered,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    cluster_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# What mutates peer pods: the webhook of this collection and the operator's, which have the same name, and the policy.
MUTATORS = (WEBHOOK, "peerpods-mutating-policy")


def gather(cluster: Cluster, runtime_class: str, namespace: str | None) -> Proof:
    pod = probe_pod(runtime_class, None)
    system = namespaces(SYSTEM_NAMESPACES)

    def prove_except(mutators: list[Mutator]) -> Proof:
        def is_left_out(name: str) -> bool:
            return name in system or is_excluded_by_all(mutators, name)

        tried = candidates(cluster, namespace, is_left_out)
        return prove(cluster, pod, tried, MUTATORS, looks_everywhere=True)

    proof = prove_except([])
    if proof.state != NOT_MUTATED:
        return proof
    # A namespace that every webhook and policy excludes proves nothing.
    mutators = registered(cluster)
    if not namespace:
        return prove_except(mutators) if mutators else proof
    if is_excluded_by_all(mutators, namespace):
        names = join_names([mutator.name for mutator in mutators])
        return replace(proof, reasons=(*proof.reasons, f"{names} excludes this namespace."))
    return proof


def main() -> None:
    module = cluster_module(
        {"runtime_class": {"type": "str", "default": "kata-remote"}, "namespace": {"type": "str"}},
    )
    runtime_class = module.params["runtime_class"]
    try:
        proof = gather(Cluster(module), runtime_class, module.params["namespace"])
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False, state=proof.state, namespace=proof.namespace, message=describe_proof(runtime_class, proof)
    )


if __name__ == "__main__":
    main()
