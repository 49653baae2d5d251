#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mutating_webhook
version_added: "0.1.0"
short_description: Manage the mutating webhook of peer pods
description:
  - >-
    A peer pod uses CPU and memory in the cloud. On its node it uses one unit of the extended resource
    C(kata.peerpods.io/vm). This module registers a webhook that the API server calls to mutate peer pods accordingly
    when they are created.
  - >-
    Manages one webhook in a MutatingWebhookConfiguration. Other webhooks in the same configuration are not changed. A
    configuration that the module creates has the label C(app.kubernetes.io/part-of=osc.peerpods). In one without this
    label, only a webhook with the same O(service) or O(url) is changed or removed; with another one, the module fails,
    and with O(state=absent) it warns, and the webhook stays.
  - >-
    M(osc.peerpods.mutating_policy) does the same without a webhook. Neither module changes the objects of the other. If
    both are in place, the result is the same as with one of them. To switch without a gap in which pods are not
    mutated, set up the new one with O(verify=true), then remove the old one with O(state=absent).
  - >-
    The API server calls the webhook only for pods with a RuntimeClass from O(target_runtime_classes), by a CEL match
    condition. API servers before Kubernetes 1.28 (OpenShift 4.15) do not have match conditions. There, the API server
    calls the webhook for every pod outside of the excluded namespaces, a prefix in O(excluded_namespaces) is replaced
    by the names of the namespaces that exist, and the module warns. Run it again when further namespaces are created.
  - >-
    With O(failure_policy=Fail) the configuration is written only when the webhook's Service has a ready endpoint,
    because the API server would reject the pods until then.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - osc.peerpods.mutation
options:
  name:
    description:
      - The name of the MutatingWebhookConfiguration.
    type: str
    default: peerpods-webhook
  webhook_name:
    description:
      - The name of the webhook in the configuration, a domain name with at least two dots.
    type: str
    default: mwebhook.peerpods.io
  state:
    description:
      - >-
        With V(absent) the webhook is removed from the configuration, and the configuration is deleted if no other
        webhook is left in it.
      - >-
        With V(absent) and O(verify=true), the module first verifies that another webhook or a policy mutates peer pods,
        and fails without a change if none does. It creates the pods in a namespace that only the webhook that is
        removed excludes by its name or prefix: the namespace of its Service, or else another one, or
        O(verify_namespace).
    type: str
    choices: [present, absent]
    default: present
  service:
    description:
      - The Service of the webhook.
      - Required if O(state=present), unless O(url) is set. Mutually exclusive with O(url).
    type: dict
    suboptions:
      namespace:
        description:
          - >-
            The namespace of the Service. It is always excluded, because the webhook's own pods could not start without
            the webhook otherwise.
        type: str
        required: true
      name:
        description:
          - The name of the Service.
        type: str
        required: true
      path:
        description:
          - The URL path of the webhook.
        type: str
        default: /mutate-v1-pod
      port:
        description:
          - The port of the Service.
        type: int
        default: 443
  url:
    description:
      - The C(https://) URL of a webhook outside of the cluster, including the path. Mutually exclusive with O(service).
    type: str
  ca_bundle:
    description:
      - The CA certificates that verify the certificate of the webhook, as PEM text or as base64 of it.
      - >-
        If none of O(ca_bundle), O(ca_bundle_file), O(ca_bundle_secret) and O(ca_bundle_config_map) is set, an existing
        CA bundle is kept. Without a CA bundle the API server trusts the CAs of its system.
    type: str
  ca_bundle_file:
    description:
      - The path of a file with these CA certificates, on the host that runs the module.
    type: path
  ca_bundle_secret:
    description:
      - >-
        A Secret in the cluster with these CA certificates. It is read only when the module runs; later changes are not
        followed.
    type: dict
    suboptions: &reference
      namespace:
        description:
          - The namespace of the object.
        type: str
        required: true
      name:
        description:
          - The name of the object.
        type: str
        required: true
      key:
        description:
          - The key of the data.
        type: str
        default: ca.crt
  ca_bundle_config_map:
    description:
      - >-
        A ConfigMap in the cluster with these CA certificates. It is read only when the module runs; later changes are
        not followed.
    type: dict
    suboptions: *reference
  cert_manager:
    description:
      - >-
        Let cert-manager manage the CA bundle, by an annotation of the configuration with the Certificate of the
        webhook.
      - >-
        cert-manager before 1.12 removes C(matchConditions) when it writes the CA bundle. O(verify) then fails. API
        servers without C(matchConditions), before OpenShift 4.15, are not affected.
      - The annotation applies to all webhooks in the configuration.
    type: dict
    suboptions:
      namespace:
        description:
          - The namespace of the Certificate.
        type: str
        required: true
      certificate:
        description:
          - The name of the Certificate.
        type: str
        required: true
  service_ca:
    description:
      - Let OpenShift's service CA operator manage the CA bundle, by an annotation of the configuration.
      - The annotation applies to all webhooks in the configuration.
    type: bool
    default: false
  annotations:
    description:
      - Annotations to set on the configuration. Others are not changed.
      - An annotation with which a controller manages the CA bundle is set by O(service_ca) or O(cert_manager).
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
        What happens to a peer pod when the webhook does not answer. With V(Fail) the API server rejects it. With
        V(Ignore) it is created unchanged, and the scheduler does not account for it.
    type: str
    choices: [Fail, Ignore]
    default: Fail
  timeout_seconds:
    description:
      - How many seconds the API server waits for the webhook, 1 to 30.
    type: int
    default: 10
  wait:
    description:
      - >-
        With O(failure_policy=Fail) and a O(service), wait for a ready endpoint of the Service before the configuration
        is written. If no endpoint becomes ready in time, the module fails and writes nothing. Check mode does not wait.
    type: bool
    default: true
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
    description: Can run in check mode, where it only reads. It creates no pods, not even in dry runs.
    support: full
  diff_mode:
    description: >-
      Shows the webhook before and after in diff mode, its CA bundle as a fingerprint.
    support: full
notes:
  - >-
    If a webhook was registered before, O(verify) starts after two seconds, because the API server may call the previous
    webhook until then.
  - >-
    If a policy of M(osc.peerpods.mutating_policy) is in place, O(verify) only verifies that the webhook accepts the
    pods: the API server evaluates the policy first, which leaves nothing to change for the webhook.
  - >-
    The configuration is replaced only if it has not changed since it was read. If another client has changed it, the
    module reads it again.
seealso:
  - module: osc.peerpods.mutating_policy
  - module: osc.peerpods.peerpod_limit
"""

EXAMPLES = r"""
- name: Register the webhook of a Service with OpenShift's service CA, and verify it
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    service_ca: true
    verify: true

- name: Exclude the namespaces of two other operators
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    service_ca: true
    extra_excluded_namespaces: [cert-manager, rook-*]

- name: Register a webhook outside of the cluster, and create peer pods unchanged if it does not answer
  osc.peerpods.mutating_webhook:
    url: https://webhook.example.com/mutate-v1-pod
    ca_bundle_file: /etc/pki/webhook/ca.crt
    failure_policy: Ignore

- name: Take the CA certificates from a Secret
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    ca_bundle_secret:
      namespace: peerpods-webhook
      name: peerpods-webhook-tls

- name: Let cert-manager manage the CA bundle
  osc.peerpods.mutating_webhook:
    service:
      namespace: peerpods-webhook
      name: peerpods-webhook
    cert_manager:
      namespace: peerpods-webhook
      certificate: peerpods-webhook

- name: Remove the webhook
  osc.peerpods.mutating_webhook:
    state: absent
"""

RETURN = r"""
webhook:
  description: The webhook in the configuration, in check mode as it would be; null if O(state=absent).
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
verified:
  description: >-
    Whether O(verify) found that the webhook mutates pods, or with O(state=absent) that another one does. False if no
    pod could be created in a dry run; null if O(verify) is false.
  returned: success
  type: bool
  sample: true
"""

import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    MUTATION_OPTIONS,
    AdmissionError,
    Namespaces,
    excluded_namespaces,
    validate_mutation,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import (
    Mutator,
    candidates,
    candidates_without,
    is_excluded_by_all,
    registered,
    verify,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook import (
    INJECT_CA_BUNDLE,
    INJECT_CA_FROM,
    INJECTORS,
    Plan,
    bundle_of,
    encode_ca_bundle,
    excludes,
    find,
    foreign_owner,
    has_ready_endpoint,
    plan_absent,
    plan_present,
    service_client_config,
    webhook,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    MUTATING_WEBHOOKS_PATH,
    NAMESPACES_PATH,
    serves_match_conditions,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    cluster_module,
    reporting_writes,
    retry_conflicts,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# For how many seconds after the replacement of a registration the API server may still call the previous webhook.
REPLACEMENT_SECONDS = 2.0

# Where the CA bundle may come from.
CA_BUNDLES = ("ca_bundle", "ca_bundle_file", "ca_bundle_secret", "ca_bundle_config_map")


def ca_bundle(cluster: Cluster, params: dict[str, Any]) -> str | None:
    """The caBundle to set, or None if this module does not manage it."""
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


def injection(params: dict[str, Any]) -> dict[str, str]:
    """The annotation with which another controller manages the CA bundle."""
    if params["service_ca"]:
        return {INJECT_CA_BUNDLE: "true"}
    if certificate := params["cert_manager"]:
        return {INJECT_CA_FROM: f"{certificate['namespace']}/{certificate['certificate']}"}
    return {}


def excluded(params: dict[str, Any]) -> Namespaces:
    """The excluded namespaces, the webhook's own among them: its pods could not start without it."""
    return excluded_namespaces(params, [params["service"]["namespace"]] if params["service"] else [])


def client_config_of(params: dict[str, Any]) -> dict | None:
    """What the API server calls; None where it is not given, which only state=absent permits."""
    if params["url"]:
        return {"url": params["url"]}
    return service_client_config(**params["service"]) if params["service"] else None


def validate(params: dict[str, Any]) -> None:
    if not 1 <= params["timeout_seconds"] <= 30:
        raise AdmissionError(f"timeout_seconds must be from 1 to 30; got {params['timeout_seconds']}.")
    bundles = [name for name in CA_BUNDLES if params[name] is not None]
    if params["service_ca"] and (bundles or params["cert_manager"]):
        raise AdmissionError(
            f"With service_ca, OpenShift manages the CA bundle. Do not set {', '.join(bundles) or 'cert_manager'}."
        )
    if params["service_ca"] and params["url"]:
        raise AdmissionError("service_ca is for a service: OpenShift's service CA signs no certificate for a url.")
    if injectors := sorted(set(INJECTORS) & set(params["annotations"] or {})):
        raise AdmissionError(
            f"annotations has {injectors[0]}, with which another controller manages the CA bundle. Set service_ca or "
            "cert_manager instead."
        )
    validate_mutation(params, excluded(params))


def plan_state(module: AnsibleModule, cluster: Cluster, current: dict | None) -> Plan:
    params = module.params
    name = params["webhook_name"]
    client_config = client_config_of(params)
    if params["state"] == "absent" or client_config is None:
        if owner := foreign_owner(current, name, client_config):
            module.warn(
                f"The webhook {name} of the MutatingWebhookConfiguration {params['name']} stays: it calls {owner}, and "
                "this collection did not create it."
            )
        return plan_absent(current, name, client_config)
    # Stored match conditions prove that they are served. Only without them is the version requested.
    match_conditions = bool((find(current, name) or {}).get("matchConditions")) or (
        serves_match_conditions(cluster.get("/version") or {})
    )
    if not match_conditions:
        module.warn(
            "This API server has no matchConditions (they came with Kubernetes 1.28, OpenShift 4.15): it calls the "
            "webhook for every pod outside of the excluded namespaces."
        )
    namespaces = excluded(params)
    if namespaces.prefixes and not match_conditions:
        existing = cluster.list(NAMESPACES_PATH)
        namespaces = namespaces.spelled_out(item["metadata"]["name"] for item in existing)
    desired = webhook(
        name=name,
        client_config=client_config,
        runtime_classes=params["target_runtime_classes"],
        excluded=namespaces,
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
        annotations={name: str(value) for name, value in (params["annotations"] or {}).items()},
    )


def wait_for_endpoint(cluster: Cluster, service: dict[str, Any], seconds: float) -> None:
    slices = cluster.follow(
        f"/apis/discovery.k8s.io/v1/namespaces/{service['namespace']}/endpointslices",
        labelSelector=f"kubernetes.io/service-name={service['name']}",
    )
    if not slices.wait(has_ready_endpoint, seconds):
        raise AdmissionError(
            f"The Service {service['namespace']}/{service['name']} has had no ready endpoint for {seconds} s. The "
            "configuration was not written: with failure_policy=Fail the API server would reject all peer pods. "
            "Check why the pods of the webhook are not ready."
        )


def apply(cluster: Cluster, path: str, plan: Plan) -> None:
    if plan.configuration is None:
        return
    if plan.action == "create":
        cluster.create(MUTATING_WEBHOOKS_PATH, plan.configuration)
    elif plan.action == "replace":
        cluster.replace(path, plan.configuration)
    elif plan.action == "delete":
        cluster.delete(path, plan.configuration["metadata"]["resourceVersion"])


def manage(module: AnsibleModule, cluster: Cluster) -> dict[str, Any]:
    """Bring the webhook into the desired state; returns the result of the run."""
    params = module.params
    path = f"{MUTATING_WEBHOOKS_PATH}/{params['name']}"

    def attempt() -> Plan:
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
        # Until the API server uses the new registration, a dry run would verify the previous one.
        time.sleep(REPLACEMENT_SECONDS)
    return {
        # After a conflict, the last plan does not have what an earlier attempt wrote.
        "changed": plan.action is not None or bool(cluster.writes),
        "webhook": find(plan.configuration, params["webhook_name"]),
        "diff": plan.diff,
    }


def refuse_losses(cluster: Cluster, params: dict[str, Any], written: dict) -> None:
    """Raise AdmissionError if the webhook has lost fields since it was `written`.

    A controller that injects the CA bundle and was built for an older Kubernetes writes the whole registration, without
    fields of newer versions.
    """
    path = f"{MUTATING_WEBHOOKS_PATH}/{params['name']}"
    lost = written.keys() - (find(cluster.get(path), params["webhook_name"]) or {}).keys()
    if lost:
        raise AdmissionError(
            f"MutatingWebhookConfiguration {params['name']} lost {', '.join(sorted(lost))} when its CA bundle was "
            "injected: the webhook works, but is called for more pods than configured. cert-manager before 1.12 "
            "removes matchConditions: update it, or use another CA. Until then, state=absent ends the calls."
        )


def require_replacement(module: AnsibleModule, cluster: Cluster) -> bool | None:
    """Whether peer pods are mutated without this webhook, before it is removed; None if it is not registered, or stays.

    The pods of the dry run are in a namespace for which the API server does not call it. Also in check mode.
    """
    params = module.params
    configuration = cluster.get(f"{MUTATING_WEBHOOKS_PATH}/{params['name']}")
    registration = find(configuration, params["webhook_name"])
    if registration is None or foreign_owner(configuration, params["webhook_name"], client_config_of(params)):
        return None

    def others() -> list[Mutator]:
        own = f"MutatingWebhookConfiguration {params['name']}"
        return [mutator for mutator in registered(cluster) if mutator.name != own]

    chosen = params["verify_namespace"]
    if chosen and not excludes(registration, chosen):
        raise AdmissionError(
            f"The webhook that would be removed mutates the pods of namespace {chosen} itself. Set verify_namespace to "
            "a namespace that it excludes by name, or do not set it."
        )
    if chosen and is_excluded_by_all(excluding := others(), chosen):
        raise AdmissionError(
            f"{join_names([mutator.name for mutator in excluding])} excludes namespace {chosen} as well, so that no "
            "pod is mutated there. Set verify_namespace to a namespace that only the webhook that would be removed "
            "excludes, or do not set it."
        )
    try:
        verified = verify(
            module,
            cluster,
            "other webhook",
            params["webhook_name"],
            # The other one may be registered meanwhile.
            lambda: candidates_without(cluster, chosen, registration, others()),
            is_new=True,
        )
    except AdmissionError as error:
        raise AdmissionError(f"{error} The webhook {params['name']} was not removed.") from error
    if not verified:
        raise AdmissionError(
            "Whether another webhook mutates peer pods could not be verified, for the reason in the warning. The "
            f"webhook {params['name']} was not removed. If the reason is a namespace, create one that this webhook "
            "excludes (extra_excluded_namespaces) and the other one does not, and set verify_namespace to it."
        )
    return verified


def run(module: AnsibleModule, cluster: Cluster) -> None:
    params = module.params
    validate(params)
    replaced = require_replacement(module, cluster) if params["verify"] and params["state"] == "absent" else None
    result = {**manage(module, cluster), "verified": replaced}
    if params["verify"] and params["state"] == "present" and not module.check_mode:
        try:
            find_namespaces = partial(candidates, cluster, params["verify_namespace"], excluded(params).__contains__)
            result["verified"] = verify(
                module, cluster, "webhook", params["webhook_name"], find_namespaces, is_new=result["changed"]
            )
            if result["changed"] and injection(params):
                refuse_losses(cluster, params, result["webhook"])
        except (ClusterError, AdmissionError) as error:
            raise TaskError(str(error), result) from error
    module.exit_json(**result)


def main() -> None:
    reference = {
        "namespace": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "key": {"type": "str", "default": "ca.crt", "no_log": False},
    }
    module = cluster_module(
        {
            **MUTATION_OPTIONS,
            "name": {"type": "str", "default": "peerpods-webhook"},
            "webhook_name": {"type": "str", "default": "mwebhook.peerpods.io"},
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
            "annotations": {"type": "dict"},
            "operations": {
                "type": "list",
                "elements": "str",
                "choices": ["CREATE", "UPDATE"],
                "default": ["CREATE"],
            },
            "timeout_seconds": {"type": "int", "default": 10},
            "wait": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("service", "url"), (*CA_BUNDLES, "cert_manager")],
        required_if=[("state", "present", ("service", "url"), True)],
    )
    with reporting_writes(module, AdmissionError) as cluster:
        run(module, cluster)


if __name__ == "__main__":
    main()
