#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mutating_webhook
version_added: "0.1.0"
short_description: Let the API server call a webhook for peer pods
description:
  - >-
    Manages one webhook in a MutatingWebhookConfiguration, the one that turns the resources of peer pods into the
    extended resource C(kata.peerpods.io/vm). Other webhooks in the same configuration stay as they are.
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
  name:
    description:
      - The name of the MutatingWebhookConfiguration.
    type: str
    default: peerpods-webhook
  webhook_name:
    description:
      - The name of the webhook in it, a domain name with at least two dots.
    type: str
    default: mwebhook.peerpods.io
  state:
    description:
      - >-
        With V(absent) the webhook is removed from the configuration, and the configuration with it once no other webhook
        is left in it.
    type: str
    choices: [present, absent]
    default: present
  service:
    description:
      - The Service that leads to the webhook.
      - Either this or O(url) is required with O(state=present).
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
        Without O(ca_bundle) and O(ca_bundle_file) the CA bundle is left to whoever keeps it, and where there is none the
        API server trusts its system's CAs.
    type: str
  ca_bundle_file:
    description:
      - A file with the same, on the host that the module runs on.
    type: path
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
        The namespaces whose pods are never sent to the webhook. The default is the system namespaces of OpenShift 4.13
        to 4.19 and the operator's namespace. They go by name: a namespaceSelector knows no prefixes, and it is
        what protects system pods on API servers without match conditions.
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
      - A label selector as in C(objectSelector); only pods that it selects are sent to the webhook.
    type: dict
  operations:
    description:
      - The operations on pods that the webhook is called for. Resources cannot be changed after V(CREATE).
    type: list
    elements: str
    choices: [CREATE, UPDATE]
    default: [CREATE]
  failure_policy:
    description:
      - >-
        What becomes of a peer pod when the webhook does not answer. With V(Fail) it is refused, with V(Ignore) it is
        created unchanged and the scheduler does not account for it.
    type: str
    choices: [Fail, Ignore]
    default: Fail
  reinvocation_policy:
    description:
      - Whether the webhook is called again when another webhook changed the pod after it.
    type: str
    choices: [IfNeeded, Never]
    default: IfNeeded
  timeout_seconds:
    description:
      - How many seconds the API server waits for the webhook, 1 to 30.
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
        Prove that the webhook does its work: create a pod of each of O(target_runtime_classes) in a server-side dry run
        and see that it comes back with the extended resource. A change takes about a second to reach the API server, so
        this is tried again until O(wait_timeout).
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
      Shows the webhook before and after in diff mode, its CA bundle as a fingerprint.
    support: full
notes:
  - >-
    The configuration is replaced as it was read or not at all: when somebody else wrote in between, it is read again.
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
    extra_excluded_namespaces: [openshift-storage, openshift-cnv]

- name: Call a webhook outside of the cluster, and create peer pods unaccounted for rather than not at all
  osc.peerpods.mutating_webhook:
    url: https://webhook.example.com/mutate-v1-pod
    ca_bundle_file: /etc/pki/webhook/ca.crt
    failure_policy: Ignore

- name: Call no webhook any more
  osc.peerpods.mutating_webhook:
    state: absent
"""

RETURN = r"""
webhook:
  description: The webhook as it stands in the configuration, or would without check mode; null once it is absent.
  returned: success
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
          values: [kube-system, peerpods-webhook]
    objectSelector: {}
    matchConditions:
      - name: peer-pods-only
        expression: has(object.spec.runtimeClassName) && object.spec.runtimeClassName in ["kata-remote"]
    failurePolicy: Fail
    reinvocationPolicy: IfNeeded
    timeoutSeconds: 10
    matchPolicy: Equivalent
    sideEffects: None
    admissionReviewVersions: [v1]
verified:
  description: Whether O(verify) saw the webhook at work, null where it was not asked to.
  returned: success
  type: bool
  sample: true
"""

import time

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    cluster_module,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._mutating_webhook import (
    CONFIGURATIONS_PATH,
    RUNTIME_CLASSES_PATH,
    SYSTEM_NAMESPACES,
    WebhookError,
    encode_ca_bundle,
    find,
    has_ready_endpoint,
    plan_absent,
    plan_present,
    probe_pod,
    serves_match_conditions,
    service_client_config,
    webhook,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpodconfig import (
    EXTENDED_RESOURCE,
    is_accounted_for,
)

# How long to let the API server notice a change between two dry runs. Seconds.
PROBE_INTERVAL = 0.5


def ca_bundle(params):
    """The caBundle to set, or None where it is somebody else's."""
    text = params["ca_bundle"]
    if params["ca_bundle_file"]:
        try:
            with open(params["ca_bundle_file"], encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise WebhookError(
                f"ca_bundle_file cannot be read on the host that the module runs on: {error}."
            ) from error
    if text is None:
        return None
    if params["service_ca"]:
        raise WebhookError(
            "With service_ca OpenShift keeps the CA bundle: leave out ca_bundle and ca_bundle_file."
        )
    return encode_ca_bundle(text)


def excluded_namespaces(params):
    names = params["excluded_namespaces"]
    own = [params["service"]["namespace"]] if params["service"] else []
    return {
        *(SYSTEM_NAMESPACES if names is None else names),
        *params["extra_excluded_namespaces"],
        *own,
    }


def refuse_nonsense(params):
    if not 1 <= params["timeout_seconds"] <= 30:
        raise WebhookError(
            f"timeout_seconds must be from 1 to 30; got {params['timeout_seconds']}."
        )
    if not params["target_runtime_classes"]:
        raise WebhookError(
            "target_runtime_classes is empty: without one there are no peer pods to change."
        )
    if params["service_ca"] and params["url"]:
        raise WebhookError(
            "service_ca is for a service: OpenShift's service CA signs no certificate for a url."
        )
    if params["verify"] and params["verify_namespace"] in excluded_namespaces(params):
        raise WebhookError(
            f"verify_namespace {params['verify_namespace']} is excluded: the webhook never sees a pod there."
        )


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
    desired = webhook(
        name=name,
        client_config={"url": params["url"]}
        if params["url"]
        else service_client_config(**params["service"]),
        runtime_classes=params["target_runtime_classes"],
        excluded_namespaces=excluded_namespaces(params),
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
        ca_bundle=ca_bundle(params),
        service_ca=params["service_ca"],
    )


def wait_for_endpoint(cluster, service, seconds):
    slices = cluster.follow(
        f"/apis/discovery.k8s.io/v1/namespaces/{service['namespace']}/endpointslices",
        labelSelector=f"kubernetes.io/service-name={service['name']}",
    )
    if not slices.wait(has_ready_endpoint, seconds):
        raise WebhookError(
            f"The Service {service['namespace']}/{service['name']} has had no ready endpoint for {seconds} s. The "
            "configuration was not written: with failure_policy Fail it would have kept peer pods from being created. "
            "See why the webhook's pods are not ready."
        )


def apply(cluster, path, plan):
    if plan.action == "create":
        cluster.create(CONFIGURATIONS_PATH, plan.configuration)
    elif plan.action == "replace":
        cluster.replace(path, plan.configuration)
    elif plan.action == "delete":
        cluster.delete(path, plan.configuration["metadata"]["resourceVersion"])


def probe(cluster, params, runtime_class):
    """Whether a peer pod came back changed; False where there is no such RuntimeClass."""
    deadline = time.monotonic() + params["wait_timeout"]
    path = f"/api/v1/namespaces/{params['verify_namespace']}/pods"
    pod = probe_pod(runtime_class, params["object_selector"])
    while True:
        try:
            if is_accounted_for(cluster.create(path, pod, dryRun="All")):
                return True
            seen = f"the pod came back without {EXTENDED_RESOURCE}."
        except ClusterError as error:
            if (
                error.status == 403
                and cluster.get(f"{RUNTIME_CLASSES_PATH}/{runtime_class}") is None
            ):
                return False
            if error.status is None or error.status < 500:
                raise
            seen = str(error)  # What the API server answers where it cannot call the webhook.
        if time.monotonic() > deadline:
            raise WebhookError(
                f"The webhook is configured but after {params['wait_timeout']} s does not do its work in a dry run of "
                f"a pod with the RuntimeClass {runtime_class}: {seen}"
            )
        time.sleep(PROBE_INTERVAL)


def verify(module, cluster):
    params = module.params
    unproven = [
        name for name in params["target_runtime_classes"] if not probe(cluster, params, name)
    ]
    if unproven:
        module.warn(
            f"The webhook could not be verified: there is no RuntimeClass {', '.join(unproven)} yet. It comes with a "
            "KataConfig that enables peer pods."
        )
    return not unproven


def run(module):
    params = module.params
    refuse_nonsense(params)
    cluster = Cluster(module)
    path = f"{CONFIGURATIONS_PATH}/{params['name']}"

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
    result = {
        "changed": plan.action is not None,
        "webhook": find(plan.configuration, params["webhook_name"]),
        "verified": None,
        "diff": plan.diff,
    }
    if params["verify"] and params["state"] == "present" and not module.check_mode:
        try:
            result["verified"] = verify(module, cluster)
        except (ClusterError, WebhookError) as error:
            module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def main():
    module = cluster_module(
        {
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
        mutually_exclusive=[("service", "url"), ("ca_bundle", "ca_bundle_file")],
        required_if=[("state", "present", ("service", "url"), True)],
    )
    try:
        run(module)
    except (ClusterError, WebhookError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
