# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that mutate peer pods; module_utils/_admission/options.py has their types."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  target_runtime_classes:
    description:
      - The RuntimeClasses whose pods are peer pods.
    type: list
    elements: str
    default: [kata-remote]
  excluded_namespaces:
    description:
      - >-
        The namespaces whose pods are never mutated. Each is a name, or a prefix of names followed by C(*).
      - >-
        The default is the namespaces that Kubernetes and OpenShift reserve, C(kube-*), C(openshift) and C(openshift-*),
        also those that are created later.
    type: list
    elements: str
  extra_excluded_namespaces:
    description:
      - Namespaces to exclude in addition to O(excluded_namespaces), such as those of other operators.
    type: list
    elements: str
    default: []
  object_selector:
    description:
      - A label selector as in C(objectSelector). Only pods that it selects are mutated.
    type: dict
  reinvocation_policy:
    description:
      - Whether a pod is mutated again when another mutation changed it afterwards.
    type: str
    choices: [IfNeeded, Never]
    default: IfNeeded
  verify:
    description:
      - >-
        Create a pod of each of O(target_runtime_classes) in a server-side dry run, and check that it is returned with
        the extended resource. A change takes a second or two to reach the API server, so this is repeated until
        O(wait_timeout).
      - >-
        If a RuntimeClass does not exist yet, no pod of it can be created. The module then issues a warning, and
        RV(verified) is false. Check mode does not verify with O(state=present).
      - >-
        A namespace may reject the pod for another reason, such as a ResourceQuota, a policy or another webhook. This
        proves nothing, and other namespaces are tried. If all of them reject it, the module issues a warning with the
        reason, and RV(verified) is false. After a change, it first tries again for ten seconds, because a namespace may
        reject only pods that are not mutated.
    type: bool
    default: false
  verify_namespace:
    description:
      - >-
        The namespace of the pods that O(verify) creates in a dry run. Must not be an excluded namespace, and must admit
        the pods.
      - By default, C(default), and if it is excluded or rejects a pod, up to 20 other namespaces that are not excluded.
    type: str
"""
