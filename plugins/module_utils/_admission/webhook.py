# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One webhook among others in a MutatingWebhookConfiguration (no I/O here).

A configuration is shared: its other webhooks, labels and annotations are not changed. The desired webhook contains
every default of the API server, so that it equals the webhook that the API server returns.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    AdmissionError,
    Namespaces,
    stored_selector,
)

# The label of the configurations that this collection created.
LABELS = {"app.kubernetes.io/part-of": "osc.peerpods"}
_LABEL = "=".join(*LABELS.items())

# The annotations with which another controller manages the caBundle of all webhooks of a configuration: OpenShift's
# service CA operator (the value is "true"), and cert-manager (the value names the Certificate).
INJECT_CA_BUNDLE = "service.beta.openshift.io/inject-cabundle"
INJECT_CA_FROM = "cert-manager.io/inject-ca-from"
INJECTORS = (
    INJECT_CA_BUNDLE,
    INJECT_CA_FROM,
    "cert-manager.io/inject-ca-from-secret",
    "cert-manager.io/inject-apiserver-ca",
)

# The name of the match condition that excludes namespaces by the prefixes of their names, and a prefix in it.
EXCLUDED_PREFIXES = "not-in-excluded-namespaces"
_PREFIX = re.compile(r'startsWith\("([^"]+)"\)')


@dataclass(frozen=True)
class Plan:
    """The change of the configuration.

    `action` is None, "create", "replace" or "delete"; `configuration` is the whole object to create, replace or delete,
    with the resourceVersion it was read at; `before` and `after` are its parts for the diff.
    """

    action: str | None
    configuration: dict | None
    before: dict
    after: dict

    @property
    def diff(self) -> dict:
        return {"before": self.before, "after": self.after}


def webhook(
    *,
    name: str,
    client_config: dict,
    runtime_classes: list[str],
    excluded: Namespaces,
    object_selector: dict | None,
    operations: list[str],
    failure_policy: str,
    reinvocation_policy: str,
    timeout_seconds: int,
    match_conditions: bool,
) -> dict:
    """The webhook as the API server stores it; `match_conditions` is whether the API server serves them.

    A namespaceSelector does not match prefixes. Without match conditions, it lists the namespaces that match the
    prefixes of `excluded`.
    """
    entry: dict[str, Any] = {
        "name": name,
        "clientConfig": client_config,
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": operations,
                "resources": ["pods"],
                "scope": "*",
            }
        ],
        "namespaceSelector": _exclude(excluded.names),
        "objectSelector": stored_selector(object_selector),
        "failurePolicy": failure_policy,
        "reinvocationPolicy": reinvocation_policy,
        "timeoutSeconds": timeout_seconds,
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    if match_conditions:
        entry["matchConditions"] = [_only_runtime_classes(runtime_classes)]
        if prefixes := excluded.begin_with():
            entry["matchConditions"].append({"name": EXCLUDED_PREFIXES, "expression": f"!({prefixes})"})
    return entry


def service_client_config(namespace: str, name: str, path: str, port: int) -> dict:
    return {"service": {"namespace": namespace, "name": name, "path": path, "port": port}}


def encode_ca_bundle(bundle: str) -> str:
    """PEM certificates, plain or in base64, in base64 as in a caBundle."""
    pem = bundle.strip()
    if not pem.startswith("-----BEGIN"):
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            pem = base64.b64decode("".join(pem.split()), validate=True).decode().strip()
    if "PRIVATE KEY-----" in pem:
        raise AdmissionError(
            "The CA bundle contains a private key, which every user with permission to read the configuration could "
            "read. Remove the key from the CA bundle."
        )
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise AdmissionError(
            "The CA bundle contains no PEM certificate (-----BEGIN CERTIFICATE-----), neither as text nor in base64."
        )
    return base64.b64encode(f"{pem}\n".encode()).decode()


def bundle_of(kind: str, item: dict | None, namespace: str, name: str, key: str) -> str:
    """The text at `key` of a Secret or ConfigMap; `item` is None if the object does not exist."""
    if item is None:
        raise AdmissionError(f"There is no {kind} {namespace}/{name} for the CA bundle.")
    texts = item.get("data") or {}
    if key not in texts:
        keys = ", ".join(sorted(texts)) or "none"
        raise AdmissionError(f"The {kind} {namespace}/{name} has no key {key} for the CA bundle. Its keys: {keys}.")
    # The values of a Secret are in base64, which encode_ca_bundle handles.
    return texts[key]


def find(configuration: dict | None, name: str) -> dict | None:
    """The webhook called `name` in a configuration, or None."""
    webhooks = (configuration or {}).get("webhooks", [])
    return next((entry for entry in webhooks if entry["name"] == name), None)


def excludes(webhook: dict, namespace: str) -> bool:
    """Whether the registered webhook is never called for pods of the namespace, by the namespace's name."""
    expressions = (webhook.get("namespaceSelector") or {}).get("matchExpressions") or []
    conditions = [entry for entry in webhook.get("matchConditions") or [] if entry["name"] == EXCLUDED_PREFIXES]
    prefixes = [prefix for entry in conditions for prefix in _PREFIX.findall(entry["expression"])]
    return namespace.startswith(tuple(prefixes)) or any(
        (entry["key"], entry["operator"]) == ("kubernetes.io/metadata.name", "NotIn") and namespace in entry["values"]
        for entry in expressions
    )


def foreign_owner(configuration: dict | None, name: str, client_config: Mapping[str, Any] | None) -> str:
    """What the registered webhook called `name` calls if it is that of another owner; empty if it is ours or missing.

    Ours are those in a configuration that this collection created, and those that call what `client_config` has. The
    configurations of other owners have no mark of ours.
    """
    entry = find(configuration, name)
    if configuration is None or entry is None:
        return ""
    labels = configuration["metadata"].get("labels") or {}
    called = _called(entry["clientConfig"])
    if LABELS.items() <= labels.items() or (client_config and _called(client_config) == called):
        return ""
    return called


def _called(client_config: Mapping[str, Any]) -> str:
    if service := client_config.get("service"):
        return f"the Service {service['namespace']}/{service['name']}"
    return client_config.get("url") or "nothing"


def plan_present(
    current: dict | None,
    configuration_name: str,
    desired: dict,
    *,
    ca_bundle: str | None,
    injection: dict[str, str],
    annotations: Mapping[str, str],
) -> Plan:
    """Set `desired` in the configuration, with `ca_bundle` or else the existing caBundle.

    `injection` is the annotation with which another controller manages the caBundle, if any. `annotations` are further
    ones.
    """
    if owner := foreign_owner(current, desired["name"], desired["clientConfig"]):
        raise AdmissionError(
            f"The MutatingWebhookConfiguration {configuration_name} has a webhook {desired['name']} of another owner, "
            f"which calls {owner}: the configuration has no label {_LABEL}. Remove that webhook, or use another name."
        )
    old = find(current, desired["name"])
    # Further fields of a newer API server are kept.
    new = {**(old or {}), **copy.deepcopy(desired)}
    bundle = ca_bundle or (old or {}).get("clientConfig", {}).get("caBundle")
    if bundle:
        new["clientConfig"]["caBundle"] = bundle
    configuration = copy.deepcopy(current) or {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": configuration_name, "labels": dict(LABELS)},
    }
    webhooks = configuration.setdefault("webhooks", [])
    other_webhooks = [entry for entry in webhooks if entry["name"] != desired["name"]]
    if old:
        webhooks[webhooks.index(old)] = new
    else:
        webhooks.append(new)
    stored = configuration["metadata"].setdefault("annotations", {})
    if ca_bundle or injection:
        injectors = [name for name in INJECTORS if stored.get(name) not in (None, "false")]
        for name in set(injectors) - set(injection):
            if other_webhooks:
                raise AdmissionError(
                    f"The MutatingWebhookConfiguration {configuration_name} is annotated with {name}: another "
                    f"controller manages the CA bundle of all of its webhooks, including {other_webhooks[0]['name']}. "
                    "Set no CA bundle, or use a configuration of another name."
                )
            del stored[name]
    stored.update(annotations)
    stored.update(injection)

    before = _shown(current, old, annotations)
    after = _shown(configuration, new, annotations)
    if current is None:
        return Plan("create", configuration, before, after)
    return Plan(None if before == after else "replace", configuration, before, after)


def plan_absent(current: dict | None, name: str, client_config: Mapping[str, Any] | None = None) -> Plan:
    """Remove the webhook called `name`, and the configuration if it has no other webhook.

    That of another owner stays; see `foreign_owner`.
    """
    old = find(current, name)
    if current is None or old is None or foreign_owner(current, name, client_config):
        return Plan(None, current, {}, {})
    left = [entry for entry in current["webhooks"] if entry is not old]
    return Plan(
        "replace" if left else "delete",
        {**current, "webhooks": left},
        _shown(current, old),
        {},
    )


def has_ready_endpoint(endpoint_slices: Iterable[dict]) -> bool:
    return any(
        # Without the condition, readiness is unknown, which the API defines as ready.
        endpoint.get("conditions", {}).get("ready") is not False
        for endpoint_slice in endpoint_slices
        for endpoint in endpoint_slice.get("endpoints") or []
    )


def _exclude(names: tuple[str, ...]) -> dict:
    if not names:
        return {}
    return {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": list(names)}]}


def _only_runtime_classes(runtime_classes: list[str]) -> dict:
    # A JSON list of strings is a CEL list of strings.
    return {
        "name": "peer-pods-only",
        "expression": "has(object.spec.runtimeClassName) && "
        f"object.spec.runtimeClassName in {json.dumps(runtime_classes)}",
    }


def _shown(configuration: dict | None, entry: dict | None, names: Iterable[str] = ()) -> dict:
    """The webhook of this collection, with the CA bundle shortened to a fingerprint, and the annotations `names`."""
    if configuration is None:
        return {}
    annotations = configuration["metadata"].get("annotations", {})
    shown: dict = {}
    shown_annotations = {name: annotations[name] for name in (*INJECTORS, *names) if name in annotations}
    if shown_annotations:
        shown["annotations"] = shown_annotations
    if entry is not None:
        shown["webhook"] = entry
        bundle = entry["clientConfig"].get("caBundle")
        if bundle:
            fingerprint = hashlib.sha256(bundle.encode()).hexdigest()
            shown["webhook"] = {
                **entry,
                "clientConfig": {**entry["clientConfig"], "caBundle": f"sha256:{fingerprint}"},
            }
    return shown
