#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mutating_webhook
version_added: "0.1.0"
short_description: Have the API server turn the resources of peer pods into the extended resource
description:
  - >-
    A peer pod's CPU and memory are in the cloud; on the node it takes one of the extended resource
    C(kata.peerpods.io/vm). This module has the API server change peer pods accordingly when they are created, either
    by calling a webhook (O(mode=webhook)) or by itself (O(mode=policy)).
  - >-
    With O(mode=webhook) it manages one webhook in a MutatingWebhookConfiguration. Other webhooks in the same
    configuration stay as they are.
  - >-
    With O(mode=policy) it manages a MutatingAdmissionPolicy and its binding, which make of a pod what the webhook of
    this collection makes of it, in the API server and without calling anybody. The API server must serve them, which it
    does by default from Kubernetes 1.36 on.
  - >-
    Each mode leaves what the other one manages alone. Where both are in place the result is the same as with one. To
    switch without a pod that goes unchanged, set up the new one with O(verify=true), then remove the old one with
    O(state=absent); see the examples.
  - >-
    Only pods with a RuntimeClass from O(target_runtime_classes) ever leave the API server, by a CEL match condition.
    API servers before Kubernetes 1.28 (OpenShift 4.15) have no match conditions; there the webhook is called for every
    pod outside of the excluded namespaces, and the module warns.
  - >-
    With O(failure_policy=Fail) the configuration is written only once the webhook's Service has a ready endpoint, since
    until then the API server would refuse the pods.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  mode:
    description:
      - What changes the pods, a V(webhook) or a V(policy) in the API server.
      - >-
        The policy differs from the webhook of this collection in three details. A pod with a negative amount it leaves
        to the API server, which refuses it whatever the resource is. A pod whose cpu, memory or nvidia.com/gpu add up to
        more than 9 * 10^15 (8 PiB) is not sized but refused, or with O(failure_policy=Ignore) created unchanged. And a
        pod with the annotation C(osc.peerpods.io/mutated-by) gets the fingerprint of the policy as its value.
    type: str
    choices: [webhook, policy]
    default: webhook
  name:
    description:
      - >-
        The name of the MutatingWebhookConfiguration, or with O(mode=policy) of the MutatingAdmissionPolicy and of the
        MutatingAdmissionPolicyBinding.
    type: str
    default: peerpods-webhook
  webhook_name:
    description:
      - The name of the webhook in it, a domain name with at least two dots. For O(mode=webhook).
    type: str
    default: mwebhook.peerpods.io
  state:
    description:
      - >-
        With V(absent) the webhook is removed from the configuration, and the configuration with it once no other webhook
        is left in it. With O(mode=policy) both the binding and the policy are removed.
    type: str
    choices: [present, absent]
    default: present
  service:
    description:
      - The Service that leads to the webhook.
      - Either this or O(url) is required with O(state=present) and O(mode=webhook), and neither is for O(mode=policy).
    type: dict
    suboptions:
      namespace:
        description:
          - >-
            The Service's namespace. It is always excluded, or the webhook's own pods could not start without the webhook.
        type: str
        required: true
      name:
        description:
          - The Service's name.
        type: str
        required: true
      path:
        description:
          - The path that the webhook answers.
        type: str
        default: /mutate-v1-pod
      port:
        description:
          - The Service's port.
        type: int
        default: 443
  url:
    description:
      - The C(https://) URL of a webhook that no Service leads to, path included.
    type: str
  ca_bundle:
    description:
      - The CA certificates that the webhook's certificate is verified by, as PEM text or that in base64.
      - >-
        Where none of O(ca_bundle), O(ca_bundle_file), O(ca_bundle_secret) and O(ca_bundle_config_map) is given, the CA
        bundle is left to whoever keeps it, and where there is none the API server trusts its system's CAs.
    type: str
  ca_bundle_file:
    description:
      - A file with the same, on the host that the module runs on.
    type: path
  ca_bundle_secret:
    description:
      - A Secret in the cluster with the same. It is read on every run of the module, not followed.
    type: dict
    suboptions: &reference
      namespace:
        description:
          - Its namespace.
        type: str
        required: true
      name:
        description:
          - Its name.
        type: str
        required: true
      key:
        description:
          - The key in it.
        type: str
        default: ca.crt
  ca_bundle_config_map:
    description:
      - A ConfigMap in the cluster with the same. It is read on every run of the module, not followed.
    type: dict
    suboptions: *reference
  cert_manager:
    description:
      - Have cert-manager keep the CA bundle, by annotating the configuration with the Certificate of the webhook.
      - >-
        Versions before 1.12 do not know C(matchConditions), and take them away as they write the bundle: O(verify) fails where they
        did. An API server without C(matchConditions), before OpenShift 4.15, has nothing to lose.
      - The annotation is for all webhooks in the configuration.
    type: dict
    suboptions:
      namespace:
        description:
          - The Certificate's namespace.
        type: str
        required: true
      certificate:
        description:
          - The Certificate's name.
        type: str
        required: true
  service_ca:
    description:
      - Have OpenShift's service CA operator keep the CA bundle, by annotating the configuration.
      - The annotation is for all webhooks in the configuration.
    type: bool
    default: false
  target_runtime_classes:
    description:
      - The RuntimeClasses whose pods are peer pods.
    type: list
    elements: str
    default: [kata-remote]
  excluded_namespaces:
    description:
      - >-
        The namespaces whose pods are never changed, each by its name or by what names begin with and a C(*).
        The default is what Kubernetes and OpenShift keep for themselves, C(kube-*), C(openshift) and
        C(openshift-*), of this cluster and whenever they come to be.
      - >-
        A namespaceSelector knows no prefixes: they become a match condition. Where the API server has none, the
        namespaces that there are now are named one by one; run it again when there are more.
    type: list
    elements: str
  extra_excluded_namespaces:
    description:
      - Namespaces to exclude besides O(excluded_namespaces), such as those of further operators.
    type: list
    elements: str
    default: []
  object_selector:
    description:
      - A label selector as in C(objectSelector); only pods that it selects are changed.
    type: dict
  operations:
    description:
      - The operations on pods that the webhook is called for. Resources cannot be changed after V(CREATE).
      - With O(mode=policy) it is V(CREATE) and nothing else.
    type: list
    elements: str
    choices: [CREATE, UPDATE]
    default: [CREATE]
  failure_policy:
    description:
      - >-
        What becomes of a peer pod when the webhook does not answer. With V(Fail) it is refused, with V(Ignore) it is
        created unchanged and the scheduler does not account for it. With O(mode=policy) this is about an
        expression of the policy that fails.
    type: str
    choices: [Fail, Ignore]
    default: Fail
  reinvocation_policy:
    description:
      - Whether the webhook or the policy is called again when another one changed the pod after it.
    type: str
    choices: [IfNeeded, Never]
    default: IfNeeded
  timeout_seconds:
    description:
      - How many seconds the API server waits for the webhook, 1 to 30. For O(mode=webhook).
    type: int
    default: 10
  wait:
    description:
      - >-
        With O(failure_policy=Fail) and a O(service), wait for a ready endpoint of the Service before the configuration
        is written, and write nothing if there is none in time. Check mode does not wait.
    type: bool
    default: true
  verify:
    description:
      - >-
        Prove that it works: create a pod of each of O(target_runtime_classes) in a server-side dry run and see that it
        comes back with the extended resource. A change takes a second or two to reach the API server, so this is tried
        again until O(wait_timeout), and with O(mode=webhook) not before two seconds where a webhook was registered
        already: until then the API server may call that one.
      - >-
        With O(mode=policy) the pod asks for the fingerprint of what changed it, so that this proves the policy as it is
        now, whatever webhook there is besides. With O(mode=webhook) and a policy in place it only proves that the
        webhook lets the pod pass, since the policy comes first and leaves nothing to do.
      - >-
        Where a RuntimeClass does not exist (yet), no pod of it can be created; then the module warns and
        RV(verified) is false. Check mode does not verify.
    type: bool
    default: false
  verify_namespace:
    description:
      - The namespace of that pod. It must not be an excluded one.
    type: str
    default: default
  wait_timeout:
    description:
      - How many seconds O(wait) may take, and O(verify) after it.
    type: int
    default: 120
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
attributes:
  check_mode:
    description: Can run in check mode, where it sends nothing but reads, no dry runs either.
    support: full
  diff_mode:
    description: >-
      Shows the webhook before and after in diff mode, its CA bundle as a fingerprint, or the specs of the policy and of
      its binding.
    support: full
notes:
  - >-
    What there is already is replaced as it was read or not at all: when somebody else wrote in between, it is read again.
seealso:
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Call the webhook behind a Service, with the CA of OpenShift's service certificates, and prove that it works
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    service_ca: true
    verify: true

- name: Keep the pods of two more operators away from it
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    service_ca: true
    extra_excluded_namespaces: [cert-manager, rook-*]

- name: Call a webhook outside of the cluster, and create peer pods unaccounted for rather than not at all
  osc.peerpods.mutating_webhook:
    url: https://webhook.example.com/mutate-v1-pod
    ca_bundle_file: /etc/pki/webhook/ca.crt
    failure_policy: Ignore

- name: Trust the CA in a Secret
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    ca_bundle_secret:
      namespace: peerpods-webhook
      name: peerpods-webhook-tls

- name: Have cert-manager keep the CA bundle
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    cert_manager:
      namespace: peerpods-webhook
      certificate: peerpods-webhook

- name: Call no webhook any more
  osc.peerpods.mutating_webhook:
    state: absent

- name: Switch to the policy, the new one first
  osc.peerpods.mutating_webhook:
    mode: policy
    verify: true

- name: Switch to the policy, then the old one
  osc.peerpods.mutating_webhook:
    mode: webhook
    state: absent
"""

RETURN = r"""
webhook:
  description: The webhook as it stands in the configuration, or would without check mode; null once it is absent.
  returned: success with O(mode=webhook)
  type: dict
  sample:
    name: mwebhook.peerpods.io
    clientConfig:
      service:
        namespace: peerpods-webhook
        name: peerpods-webhook
        path: /mutate-v1-pod
        port: 443
    rules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [pods]
        scope: "*"
    namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values: [openshift, peerpods-webhook]
    objectSelector: {}
    matchConditions:
      - name: peer-pods-only
        expression: has(object.spec.runtimeClassName) && object.spec.runtimeClassName in ["kata-remote"]
      - name: not-in-excluded-namespaces
        expression: '!(request.namespace.startsWith("kube-") || request.namespace.startsWith("openshift-"))'
    failurePolicy: Fail
    reinvocationPolicy: IfNeeded
    timeoutSeconds: 10
    matchPolicy: Equivalent
    sideEffects: None
    admissionReviewVersions: [v1]
policy:
  description: >-
    The spec of the MutatingAdmissionPolicy as it stands, or would without check mode; null once it is absent. It is
    written in full here but for its expressions.
  returned: success with O(mode=policy)
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
  returned: success with O(mode=policy)
  type: dict
  sample:
    policyName: peerpods-webhook
verified:
  description: Whether O(verify) saw the webhook or the policy at work, null where it was not asked to.
  returned: success
  type: bool
  sample: true
"""

import time

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    SYSTEM_NAMESPACES,
    AdmissionError,
    namespaces,
    stored_selector,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import (
    MUTATED_BY,
    binding_path,
    fingerprint,
    not_served,
    plan_no_policy,
    plan_policy,
    policy_path,
    policy_spec,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.probe import probe_pod
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook import (
    INJECT_CA_BUNDLE,
    INJECT_CA_FROM,
    bundle_of,
    encode_ca_bundle,
    find,
    has_ready_endpoint,
    plan_absent,
    plan_present,
    service_client_config,
    webhook,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    ADMISSION_PATH,
    MUTATING_POLICY_VERSIONS,
    MUTATING_WEBHOOKS_PATH,
    NAMESPACES_PATH,
    RUNTIME_CLASSES_PATH,
    serves_match_conditions,
    serves_mutating_policies,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    cluster_module,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import is_accounted_for

# How long to let the API server notice a change between two dry runs. Seconds.
PROBE_INTERVAL = 0.5

# How long the API server may go on calling a webhook as it was before its registration was replaced. Seconds.
REPLACEMENT_SECONDS = 2.0


# Where the CA bundle may come from.
CA_BUNDLES = ("ca_bundle", "ca_bundle_file", "ca_bundle_secret", "ca_bundle_config_map")


def ca_bundle(cluster, params):
    """The caBundle to set, or None where it is somebody else's."""
    text = params["ca_bundle"]
    if params["ca_bundle_file"]:
        try:
            with open(params["ca_bundle_file"], encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise AdmissionError(
                f"ca_bundle_file cannot be read on the host that the module runs on: {error}."
            ) from error
    for option, kind in (("ca_bundle_secret", "Secret"), ("ca_bundle_config_map", "ConfigMap")):
        if source := params[option]:
            path = f"/api/v1/namespaces/{source['namespace']}/{kind.lower()}s/{source['name']}"
            text = bundle_of(kind, cluster.get(path), **source)
    return None if text is None else encode_ca_bundle(text)


def injection(params):
    """The annotation by which somebody else is to keep the CA bundle."""
    if params["service_ca"]:
        return {INJECT_CA_BUNDLE: "true"}
    if certificate := params["cert_manager"]:
        return {INJECT_CA_FROM: f"{certificate['namespace']}/{certificate['certificate']}"}
    return {}


def excluded_namespaces(params):
    patterns = params["excluded_namespaces"]
    own = [params["service"]["namespace"]] if params["service"] else []
    return namespaces(
        [
            *(SYSTEM_NAMESPACES if patterns is None else patterns),
            *params["extra_excluded_namespaces"],
            *own,
        ]
    )


def refuse_nonsense(params):
    if params["mode"] == "policy":
        refuse_webhook_options(params)
    elif params["state"] == "present" and not (params["service"] or params["url"]):
        raise AdmissionError("With mode webhook and state present one of service, url is required.")
    if not 1 <= params["timeout_seconds"] <= 30:
        raise AdmissionError(f"timeout_seconds must be from 1 to 30; got {params['timeout_seconds']}.")
    if not params["target_runtime_classes"]:
        raise AdmissionError("target_runtime_classes is empty: without one there are no peer pods to change.")
    given = [name for name in CA_BUNDLES if params[name] is not None]
    if params["service_ca"] and (given or params["cert_manager"]):
        raise AdmissionError(
            f"With service_ca OpenShift keeps the CA bundle: leave out {', '.join(given) or 'cert_manager'}."
        )
    if params["service_ca"] and params["url"]:
        raise AdmissionError("service_ca is for a service: OpenShift's service CA signs no certificate for a url.")
    if params["verify"] and params["verify_namespace"] in excluded_namespaces(params):
        raise AdmissionError(f"verify_namespace {params['verify_namespace']} is excluded: no pod is changed there.")


def refuse_webhook_options(params):
    names = ("service", "url", *CA_BUNDLES, "cert_manager")
    given = [name for name in names if params[name] is not None] + ["service_ca"] * params["service_ca"]
    if given:
        raise AdmissionError(f"With mode policy the API server calls nobody: leave out {', '.join(given)}.")
    if params["operations"] != ["CREATE"]:
        raise AdmissionError("With mode policy operations must be [CREATE]: resources cannot be changed later.")


def plan_state(module, cluster, current):
    params = module.params
    name = params["webhook_name"]
    if params["state"] == "absent":
        return plan_absent(current, name)
    # Where they were stored they are served; the version has to be asked for only once.
    match_conditions = bool((find(current, name) or {}).get("matchConditions")) or (
        serves_match_conditions(cluster.get("/version"))
    )
    if not match_conditions:
        module.warn(
            "This API server has no matchConditions (they came with Kubernetes 1.28, OpenShift 4.15): it calls the "
            "webhook for every pod outside of the excluded namespaces."
        )
    excluded = excluded_namespaces(params)
    if excluded.prefixes and not match_conditions:
        existing = cluster.list(NAMESPACES_PATH)
        excluded = excluded.spelled_out(item["metadata"]["name"] for item in existing)
    desired = webhook(
        name=name,
        client_config={"url": params["url"]} if params["url"] else service_client_config(**params["service"]),
        runtime_classes=params["target_runtime_classes"],
        excluded=excluded,
        object_selector=params["object_selector"],
        operations=params["operations"],
        failure_policy=params["failure_policy"],
        reinvocation_policy=params["reinvocation_policy"],
        timeout_seconds=params["timeout_seconds"],
        match_conditions=match_conditions,
    )
    return plan_present(
        current,
        params["name"],
        desired,
        ca_bundle=ca_bundle(cluster, params),
        injection=injection(params),
    )


def wait_for_endpoint(cluster, service, seconds):
    slices = cluster.follow(
        f"/apis/discovery.k8s.io/v1/namespaces/{service['namespace']}/endpointslices",
        labelSelector=f"kubernetes.io/service-name={service['name']}",
    )
    if not slices.wait(has_ready_endpoint, seconds):
        raise AdmissionError(
            f"The Service {service['namespace']}/{service['name']} has had no ready endpoint for {seconds} s. The "
            "configuration was not written: with failure_policy Fail it would have kept peer pods from being created. "
            "See why the webhook's pods are not ready."
        )


def apply(cluster, path, plan):
    if plan.action == "create":
        cluster.create(MUTATING_WEBHOOKS_PATH, plan.configuration)
    elif plan.action == "replace":
        cluster.replace(path, plan.configuration)
    elif plan.action == "delete":
        cluster.delete(path, plan.configuration["metadata"]["resourceVersion"])


def served_version(cluster):
    """The newest version of the API that has MutatingAdmissionPolicies, or None."""
    for version in MUTATING_POLICY_VERSIONS:
        if serves_mutating_policies(cluster.get(f"{ADMISSION_PATH}/{version}")):
            return version
    return None


def read_policy(cluster, name):
    """(version, policy, binding), the version None where policies are not served."""
    policy = cluster.get(policy_path(MUTATING_POLICY_VERSIONS[0], name))
    # What is there is served; the API server has to be asked what it serves only where nothing is.
    version = MUTATING_POLICY_VERSIONS[0] if policy else served_version(cluster)
    if version is None:
        return None, None, None
    if version != MUTATING_POLICY_VERSIONS[0]:
        policy = cluster.get(policy_path(version, name))
    return version, policy, cluster.get(binding_path(version, name))


def plan_policy_state(cluster, params):
    version, policy, binding = read_policy(cluster, params["name"])
    if params["state"] == "absent":
        return plan_no_policy(params["name"], version, policy, binding)
    if version is None:
        raise AdmissionError(not_served(cluster.get("/version")["gitVersion"]))
    spec = policy_spec(
        runtime_classes=params["target_runtime_classes"],
        excluded=excluded_namespaces(params),
        object_selector=stored_selector(params["object_selector"]),
        failure_policy=params["failure_policy"],
        reinvocation_policy=params["reinvocation_policy"],
    )
    return plan_policy(params["name"], version, spec, policy, binding)


def apply_policy(cluster, plan):
    for change in plan.changes:
        if change.action == "create":
            cluster.create(change.path, change.body)
        elif change.action == "replace":
            cluster.replace(change.path, change.body)
        else:
            cluster.delete(change.path, change.body["metadata"]["resourceVersion"])


def probe(cluster, params, runtime_class, mark):
    """Whether a peer pod came back changed; False where there is no such RuntimeClass.

    With `mark`, changed by the policy with that fingerprint.
    """
    deadline = time.monotonic() + params["wait_timeout"]
    path = f"/api/v1/namespaces/{params['verify_namespace']}/pods"
    pod = probe_pod(runtime_class, params["object_selector"], {MUTATED_BY: ""} if mark else None)
    while True:
        try:
            created = cluster.create(path, pod, dryRun="All")
            if not is_accounted_for(created):
                seen = f"the pod came back without {EXTENDED_RESOURCE}."
            elif mark and created["metadata"]["annotations"].get(MUTATED_BY) != mark:
                seen = "the pod was changed, but not by the policy as it is now."
            else:
                return True
        except ClusterError as error:
            if error.status == 403 and cluster.get(f"{RUNTIME_CLASSES_PATH}/{runtime_class}") is None:
                return False
            if error.status is None or error.status < 500:
                raise
            seen = str(error)  # What the API server answers where it cannot call the webhook.
        if time.monotonic() > deadline:
            raise AdmissionError(
                f"The {params['mode']} is configured but after {params['wait_timeout']} s does not do its work in a dry "
                f"run of a pod with the RuntimeClass {runtime_class}: {seen}"
            )
        time.sleep(PROBE_INTERVAL)


def verify(module, cluster, mark=None):
    params = module.params
    unproven = [name for name in params["target_runtime_classes"] if not probe(cluster, params, name, mark)]
    if unproven:
        module.warn(
            f"The {params['mode']} could not be verified: there is no RuntimeClass {', '.join(unproven)} yet. It comes "
            "with a KataConfig that enables peer pods."
        )
    return not unproven


def manage_webhook(module, cluster):
    """The result of the run, and the mark that a pod gets from what is configured (none)."""
    params = module.params
    path = f"{MUTATING_WEBHOOKS_PATH}/{params['name']}"

    def attempt():
        plan = plan_state(module, cluster, cluster.get(path))
        if plan.action and not module.check_mode:
            if (
                params["state"] == "present"
                and params["service"]
                and params["failure_policy"] == "Fail"
                and params["wait"]
            ):
                wait_for_endpoint(cluster, params["service"], params["wait_timeout"])
            apply(cluster, path, plan)
        return plan

    plan = retry_conflicts(attempt)
    if plan.action == "replace" and params["verify"] and not module.check_mode:
        # What was registered before may work, and would be proved instead.
        time.sleep(REPLACEMENT_SECONDS)
    result = {
        "changed": plan.action is not None,
        "webhook": find(plan.configuration, params["webhook_name"]),
        "diff": plan.diff,
    }
    return result, None


def refuse_losses(cluster, params, written):
    """Raises AdmissionError where the webhook that was `written` has lost fields since.

    Who injects the CA bundle and was built for an older Kubernetes writes the registration whole, but without the
    fields that it does not know.
    """
    path = f"{MUTATING_WEBHOOKS_PATH}/{params['name']}"
    lost = written.keys() - (find(cluster.get(path), params["webhook_name"]) or {}).keys()
    if lost:
        raise AdmissionError(
            f"MutatingWebhookConfiguration {params['name']} does its work, but lost {', '.join(sorted(lost))} as its CA "
            "bundle was injected: the webhook is called for more pods than it should be. A cert-manager before 1.12 does "
            "not know matchConditions: update it, or use another CA. Until then, state absent ends the calls."
        )


def manage_policy(module, cluster):
    """The result of the run, and the mark that a pod gets from the policy."""

    def attempt():
        plan = plan_policy_state(cluster, module.params)
        if not module.check_mode:
            apply_policy(cluster, plan)
        return plan

    plan = retry_conflicts(attempt)
    policy = plan.after.get("policy")
    result = {
        "changed": bool(plan.changes),
        "policy": policy,
        "binding": plan.after.get("binding"),
        "diff": plan.diff,
    }
    return result, policy and fingerprint(policy)


def run(module):
    params = module.params
    refuse_nonsense(params)
    cluster = Cluster(module)
    manage = manage_policy if params["mode"] == "policy" else manage_webhook
    result, mark = manage(module, cluster)
    result["verified"] = None
    if params["verify"] and params["state"] == "present" and not module.check_mode:
        try:
            result["verified"] = verify(module, cluster, mark)
            if result["changed"] and injection(params):
                refuse_losses(cluster, params, result["webhook"])
        except (ClusterError, AdmissionError) as error:
            module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def main():
    reference = {
        "namespace": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "key": {"type": "str", "default": "ca.crt", "no_log": False},
    }
    module = cluster_module(
        {
            "mode": {"type": "str", "choices": ["webhook", "policy"], "default": "webhook"},
            "name": {"type": "str", "default": "peerpods-webhook"},
            "webhook_name": {"type": "str", "default": "mwebhook.peerpods.io"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "service": {
                "type": "dict",
                "options": {
                    "namespace": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "path": {"type": "str", "default": "/mutate-v1-pod"},
                    "port": {"type": "int", "default": 443},
                },
            },
            "url": {"type": "str"},
            "ca_bundle": {"type": "str"},
            "ca_bundle_file": {"type": "path"},
            "ca_bundle_secret": {"type": "dict", "options": reference, "no_log": False},
            "ca_bundle_config_map": {"type": "dict", "options": reference},
            "cert_manager": {
                "type": "dict",
                "options": {
                    "namespace": {"type": "str", "required": True},
                    "certificate": {"type": "str", "required": True},
                },
            },
            "service_ca": {"type": "bool", "default": False},
            "target_runtime_classes": {
                "type": "list",
                "elements": "str",
                "default": ["kata-remote"],
            },
            "excluded_namespaces": {"type": "list", "elements": "str"},
            "extra_excluded_namespaces": {"type": "list", "elements": "str", "default": []},
            "object_selector": {"type": "dict"},
            "operations": {
                "type": "list",
                "elements": "str",
                "choices": ["CREATE", "UPDATE"],
                "default": ["CREATE"],
            },
            "failure_policy": {"type": "str", "choices": ["Fail", "Ignore"], "default": "Fail"},
            "reinvocation_policy": {
                "type": "str",
                "choices": ["IfNeeded", "Never"],
                "default": "IfNeeded",
            },
            "timeout_seconds": {"type": "int", "default": 10},
            "wait": {"type": "bool", "default": True},
            "verify": {"type": "bool", "default": False},
            "verify_namespace": {"type": "str", "default": "default"},
            "wait_timeout": {"type": "int", "default": 120},
        },
        mutually_exclusive=[("service", "url"), (*CA_BUNDLES, "cert_manager")],
    )
    try:
        run(module)
    except (ClusterError, AdmissionError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
