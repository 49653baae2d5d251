#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mutating_policy
version_added: "0.1.0"
short_description: Manage the mutating admission policy of peer pods
description:
  - >-
    A peer pod uses CPU and memory in the cloud. On its node it uses one unit of the extended resource
    C(kata.peerpods.io/vm). This module manages a MutatingAdmissionPolicy and its MutatingAdmissionPolicyBinding, with
    which the API server mutates peer pods accordingly when they are created. It calls no webhook.
  - The API server must serve MutatingAdmissionPolicies. It does so by default since Kubernetes 1.36.
  - >-
    The objects that the module creates have the label C(app.kubernetes.io/part-of=osc.peerpods). If an object with
    O(name) exists without this label, another owner created it: the module fails and neither changes nor deletes
    anything.
  - >-
    M(osc.peerpods.mutating_webhook) does the same with a webhook. Neither module changes the objects of the other. If
    both are in place, the result is the same as with one of them. To switch without a gap in which pods are not
    mutated, set up the new one with O(verify=true), then remove the old one with O(state=absent).
  - >-
    The policy differs from the webhook of this collection in three details. It leaves a pod with a negative amount to
    the API server, which rejects it whatever the resource is. It rejects a pod whose cpu, memory or nvidia.com/gpu add
    up to more than 9 * 10^15 (8 PiB), or with O(failure_policy=Ignore) leaves it unchanged. If a pod has the annotation
    C(osc.peerpods.io/mutated-by), it sets the annotation to the fingerprint of the policy.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.mutation
options:
  name:
    description:
      - The name of the MutatingAdmissionPolicy and of the MutatingAdmissionPolicyBinding.
    type: str
    default: peerpods-mutating-policy
  state:
    description:
      - With V(absent) both the binding and the policy are removed.
    type: str
    choices: [present, absent]
    default: present
  failure_policy:
    description:
      - >-
        What happens to a peer pod when an expression of the policy fails. With V(Fail) the API server rejects it. With
        V(Ignore) it is created unchanged, and the scheduler does not account for it.
    type: str
    choices: [Fail, Ignore]
    default: Fail
  wait_timeout:
    description:
      - How many seconds O(verify) may take.
    type: int
    default: 120
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it only reads. It creates no pods, not even in dry runs.
    support: full
  diff_mode:
    description: Shows the specs of the policy and of its binding before and after in diff mode.
    support: full
notes:
  - >-
    The pods that O(verify) creates have the annotation C(osc.peerpods.io/mutated-by). The result therefore applies to
    the current policy, even if a webhook mutates the pods in the same way.
  - >-
    The policy and its binding are replaced only if they have not changed since they were read. If another client has
    changed them, the module reads them again.
seealso:
  - module: osc.peerpods.mutating_webhook
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Mutate peer pods in the API server, and verify it
  osc.peerpods.mutating_policy:
    verify: true

- name: Exclude the namespaces of two other operators
  osc.peerpods.mutating_policy:
    extra_excluded_namespaces: [cert-manager, rook-*]

- name: Remove the webhook that the policy replaces
  osc.peerpods.mutating_webhook:
    state: absent

- name: Remove the policy
  osc.peerpods.mutating_policy:
    state: absent
"""

RETURN = r"""
policy:
  description: >-
    The spec of the MutatingAdmissionPolicy, in check mode as it would be; null if O(state=absent). The expressions of
    the sample are shortened.
  returned: success
  type: dict
  sample:
    failurePolicy: Fail
    reinvocationPolicy: IfNeeded
    matchConstraints:
      matchPolicy: Equivalent
      namespaceSelector: {}
      objectSelector: {}
      resourceRules:
        - apiGroups: [""]
          apiVersions: [v1]
          operations: [CREATE]
          resources: [pods]
          scope: "*"
    matchConditions:
      - name: peer-pods-that-are-not-yet-changed
        expression: has(object.spec.runtimeClassName) && object.spec.runtimeClassName in ["kata-remote"] && …
    variables:
      - name: mark
        expression: '"3e14ff2e54a23632"'
    mutations:
      - patchType: JSONPatch
        jsonPatch:
          expression: 'variables.negative ? [] : …'
binding:
  description: The spec of the MutatingAdmissionPolicyBinding, likewise.
  returned: success
  type: dict
  sample:
    policyName: peerpods-mutating-policy
verified:
  description: >-
    Whether O(verify) found that the policy mutates pods. False if no pod could be created in a dry run; null if
    O(verify) is false.
  returned: success
  type: bool
  sample: true
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    MUTATION_OPTIONS,
    AdmissionError,
    excluded_namespaces,
    stored_selector,
    validate_mutation,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import (
    Plan,
    binding_path,
    fingerprint,
    not_served,
    plan_no_policy,
    plan_policy,
    policy_path,
    policy_spec,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import candidates, verify
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    ADMISSION_PATH,
    MUTATING_POLICY_VERSIONS,
    serves_mutating_policies,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    cluster_module,
    reporting_writes,
    retry_conflicts,
)


def served_version(cluster: Cluster) -> str | None:
    """The newest version of the API that has MutatingAdmissionPolicies, or None."""
    for version in MUTATING_POLICY_VERSIONS:
        if serves_mutating_policies(cluster.get(f"{ADMISSION_PATH}/{version}")):
            return version
    return None


def read_policy(cluster: Cluster, name: str) -> tuple[str | None, dict | None, dict | None]:
    """(version, policy, binding); the version is None if policies are not served."""
    policy = cluster.get(policy_path(MUTATING_POLICY_VERSIONS[0], name))
    # An existing policy proves that its version is served. Only without a policy does the served version need requests.
    version = MUTATING_POLICY_VERSIONS[0] if policy else served_version(cluster)
    if version is None:
        return None, None, None
    if version != MUTATING_POLICY_VERSIONS[0]:
        policy = cluster.get(policy_path(version, name))
    return version, policy, cluster.get(binding_path(version, name))


def plan_state(cluster: Cluster, params: dict[str, Any]) -> Plan:
    version, policy, binding = read_policy(cluster, params["name"])
    if params["state"] == "absent":
        # Without a version there is neither a policy nor a binding.
        return plan_no_policy(params["name"], version or MUTATING_POLICY_VERSIONS[0], policy, binding)
    if version is None:
        raise AdmissionError(not_served((cluster.get("/version") or {}).get("gitVersion", "an unknown version")))
    spec = policy_spec(
        runtime_classes=params["target_runtime_classes"],
        excluded=excluded_namespaces(params),
        object_selector=stored_selector(params["object_selector"]),
        failure_policy=params["failure_policy"],
        reinvocation_policy=params["reinvocation_policy"],
    )
    return plan_policy(params["name"], version, spec, policy, binding)


def apply(cluster: Cluster, plan: Plan) -> None:
    for change in plan.changes:
        if change.action == "create":
            cluster.create(change.path, change.body)
        elif change.action == "replace":
            cluster.replace(change.path, change.body)
        else:
            cluster.delete(change.path, change.body["metadata"]["resourceVersion"])


def manage(module: AnsibleModule, cluster: Cluster) -> dict[str, Any]:
    """Bring the policy and its binding into the desired state; returns the result of the run."""

    def attempt() -> Plan:
        plan = plan_state(cluster, module.params)
        if not module.check_mode:
            apply(cluster, plan)
        return plan

    plan = retry_conflicts(attempt)
    return {
        # After a conflict, the last plan does not have what an earlier attempt wrote.
        "changed": bool(plan.changes or cluster.writes),
        "policy": plan.after.get("policy"),
        "binding": plan.after.get("binding"),
        "diff": plan.diff,
    }


def run(module: AnsibleModule, cluster: Cluster) -> None:
    params = module.params
    excluded = excluded_namespaces(params)
    validate_mutation(params, excluded)
    result = {**manage(module, cluster), "verified": None}
    if params["verify"] and params["state"] == "present" and not module.check_mode:
        try:
            result["verified"] = verify(
                module,
                cluster,
                "policy",
                params["name"],
                partial(candidates, cluster, params["verify_namespace"], excluded.__contains__),
                fingerprint(result["policy"]),
                is_new=result["changed"],
            )
        except (ClusterError, AdmissionError) as error:
            raise TaskError(str(error), result) from error
    module.exit_json(**result)


def main() -> None:
    module = cluster_module({**MUTATION_OPTIONS, "name": {"type": "str", "default": "peerpods-mutating-policy"}})
    with reporting_writes(module, AdmissionError) as cluster:
        run(module, cluster)


if __name__ == "__main__":
    main()
