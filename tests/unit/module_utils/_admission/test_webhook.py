from __future__ import annotations

import base64
import copy

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    SYSTEM_NAMESPACES,
    AdmissionError,
    Namespaces,
    namespaces,
)
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook import (
    INJECT_CA_BUNDLE,
    INJECT_CA_FROM,
    LABELS,
    bundle_of,
    encode_ca_bundle,
    foreign_owner,
    has_ready_endpoint,
    plan_absent,
    plan_present,
    service_client_config,
    webhook,
)

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
BUNDLE = base64.b64encode(PEM.encode()).decode()


def desired_webhook(**changes) -> dict:
    return webhook(
        **{
            "name": "ours.peerpods.io",
            "client_config": service_client_config("ns", "svc", "/mutate-v1-pod", 443),
            "runtime_classes": ["kata-remote"],
            "excluded": namespaces(["b", "a", "b"]),
            "object_selector": None,
            "operations": ["CREATE"],
            "failure_policy": "Fail",
            "reinvocation_policy": "IfNeeded",
            "timeout_seconds": 10,
            "match_conditions": True,
            **changes,
        }
    )


def configuration(*webhooks: dict, **annotations: str) -> dict:
    return {
        "metadata": {"name": "c", "resourceVersion": "7", "annotations": annotations, "labels": dict(LABELS)},
        "webhooks": copy.deepcopy(list(webhooks)),
    }


def present(current, desired=None, ca_bundle=None, injection=None, annotations=None):
    return plan_present(
        current,
        "c",
        desired or desired_webhook(),
        ca_bundle=ca_bundle,
        injection=injection or {},
        annotations=annotations or {},
    )


FOREIGN = {
    "name": "others.example.com",
    "clientConfig": {"url": "https://x/", "caBundle": "b3RoZXI="},
}


def test_the_condition_names_every_runtime_class():
    (condition,) = desired_webhook(runtime_classes=["kata-remote", "kata-cc"])["matchConditions"]
    assert condition["expression"] == (
        'has(object.spec.runtimeClassName) && object.spec.runtimeClassName in ["kata-remote", "kata-cc"]'
    )
    assert "matchConditions" not in desired_webhook(match_conditions=False)


def test_excluded_namespaces_are_sorted_and_none_excludes_none():
    selector = desired_webhook()["namespaceSelector"]
    assert selector["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["a", "b"]}
    ]
    assert desired_webhook(excluded=namespaces([]))["namespaceSelector"] == {}


def test_prefixes_of_namespaces_are_a_condition():
    excluded = namespaces(["kube-*", "a", "openshift-*"])
    _peer_pods, condition = desired_webhook(excluded=excluded)["matchConditions"]
    assert condition["expression"] == (
        '!(request.namespace.startsWith("kube-") || request.namespace.startsWith("openshift-"))'
    )
    (names,) = desired_webhook(excluded=excluded)["namespaceSelector"]["matchExpressions"]
    assert names["values"] == ["a"]


def test_without_conditions_the_existing_namespaces_are_listed():
    existing = ["default", "openshift", "openshift-etcd", "kube-system", "kubernetes-is-fun"]
    assert namespaces([*SYSTEM_NAMESPACES, "later"]).spelled_out(existing) == Namespaces(
        ("kube-system", "later", "openshift", "openshift-etcd")
    )


def test_the_desired_state_is_unchanged():
    plan = present(configuration(FOREIGN, desired_webhook()))
    assert plan.action is None
    assert plan.before == plan.after


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_policy": "Ignore"},
        {"timeout_seconds": 3},
        {"excluded": namespaces(["a"])},
        {"excluded": namespaces(["a", "b", "c-*"])},
        {"runtime_classes": ["kata"]},
        {"client_config": {"url": "https://elsewhere/"}},
        {"object_selector": {"matchLabels": {"a": "b"}}},
        {"reinvocation_policy": "Never"},
        {"operations": ["CREATE", "UPDATE"]},
    ],
)
def test_every_difference_changes_only_the_collections_webhook(changes):
    current = configuration(FOREIGN, desired_webhook(), {**FOREIGN, "name": "more.example.com"})
    plan = present(current, desired_webhook(**changes))
    assert plan.action == "replace"
    assert plan.configuration["metadata"]["resourceVersion"] == "7"
    assert plan.configuration["webhooks"][1] == desired_webhook(**changes)
    assert plan.configuration["webhooks"][::2] == current["webhooks"][::2]
    assert present(plan.configuration, desired_webhook(**changes)).action is None


def test_a_field_of_a_newer_api_server_stays():
    newer = {**desired_webhook(), "somethingNew": "Default"}
    assert present(configuration(newer)).action is None
    plan = present(configuration(newer), desired_webhook(timeout_seconds=3))
    assert plan.configuration["webhooks"][0]["somethingNew"] == "Default"


def test_a_missing_configuration_is_created():
    plan = present(None, ca_bundle=BUNDLE)
    assert plan.action == "create"
    assert plan.before == {}
    assert plan.configuration["metadata"]["labels"] == LABELS
    (created,) = plan.configuration["webhooks"]
    assert created["clientConfig"]["caBundle"] == BUNDLE
    shown_bundle = plan.after["webhook"]["clientConfig"]["caBundle"]
    assert shown_bundle.startswith("sha256:")


def test_the_ca_bundle_is_managed_only_if_it_is_set():
    injected = desired_webhook()
    injected["clientConfig"]["caBundle"] = "aW5qZWN0ZWQ="
    assert present(configuration(injected)).action is None
    plan = present(configuration(injected), ca_bundle=BUNDLE)
    assert plan.action == "replace"
    assert plan.configuration["webhooks"][0]["clientConfig"]["caBundle"] == BUNDLE
    assert plan.before["webhook"] != plan.after["webhook"], "a fingerprint tells bundles apart"


INJECTIONS = [{INJECT_CA_BUNDLE: "true"}, {INJECT_CA_FROM: "ns/webhook"}]


@pytest.mark.parametrize("injection", INJECTIONS)
def test_an_injected_bundle_is_requested_with_an_annotation(injection):
    plan = present(configuration(desired_webhook()), injection=injection)
    assert plan.action == "replace"
    assert plan.configuration["metadata"]["annotations"] == injection
    assert plan.after["annotations"] == injection
    assert present(plan.configuration, injection=injection).action is None
    assert present(plan.configuration).action is None, "another controller maintains the bundle"


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_bundle_ends_an_injection_unless_other_webhooks_use_it(injection):
    plan = present(configuration(desired_webhook(), **injection, team="a"), ca_bundle=BUNDLE)
    assert plan.configuration["metadata"]["annotations"] == {"team": "a"}
    shared = configuration(desired_webhook(), FOREIGN, **injection)
    with pytest.raises(AdmissionError, match=r"including others\.example\.com"):
        present(shared, ca_bundle=BUNDLE)


@pytest.mark.parametrize(("before", "after"), [INJECTIONS, INJECTIONS[::-1]])
def test_one_injection_replaces_the_other(before, after):
    plan = present(configuration(desired_webhook(), **before), injection=after)
    assert plan.configuration["metadata"]["annotations"] == after
    assert plan.before["annotations"] == before
    with pytest.raises(AdmissionError, match=f"annotated with {next(iter(before))}"):
        present(configuration(desired_webhook(), FOREIGN, **before), injection=after)


def test_annotations_are_set_besides_others():
    current = configuration(desired_webhook(), FOREIGN, team="a", options="old")
    plan = present(current, annotations={"options": "new"})
    assert plan.action == "replace"
    assert plan.configuration["metadata"]["annotations"] == {"team": "a", "options": "new"}
    assert (plan.before["annotations"], plan.after["annotations"]) == ({"options": "old"}, {"options": "new"})
    assert present(plan.configuration, annotations={"options": "new"}).action is None
    assert present(plan.configuration).action is None
    injected = present(current, ca_bundle=BUNDLE, annotations={"options": "new"})
    assert injected.configuration["metadata"]["annotations"] == {"team": "a", "options": "new"}


def test_a_disabled_injection_is_not_an_injection():
    current = configuration(desired_webhook(), FOREIGN, **{INJECT_CA_BUNDLE: "false"})
    plan = present(current, ca_bundle=BUNDLE)
    assert plan.configuration["metadata"]["annotations"] == {INJECT_CA_BUNDLE: "false"}


@pytest.mark.parametrize(
    ("current", "action", "remaining"),
    [
        (None, None, None),
        (configuration(FOREIGN), None, [FOREIGN]),
        (configuration(), None, []),
        (configuration(desired_webhook()), "delete", []),
        (configuration(desired_webhook(), FOREIGN), "replace", [FOREIGN]),
    ],
)
def test_absent_removes_the_webhook_and_a_configuration_that_becomes_empty(current, action, remaining):
    plan = plan_absent(current, "ours.peerpods.io")
    assert plan.action == action
    assert (plan.configuration or {}).get("webhooks") == remaining
    assert plan.after == {}
    assert bool(plan.before) == bool(action)


SERVICE = service_client_config("ns", "svc", "/mutate-v1-pod", 443)


@pytest.mark.parametrize("labels", [{}, {"app": "others"}, None])
@pytest.mark.parametrize(
    ("registered", "given", "owner"),
    [
        (SERVICE, {**SERVICE, "service": {**SERVICE["service"], "path": "/"}}, ""),
        (SERVICE, service_client_config("other", "svc", "/mutate-v1-pod", 443), "the Service ns/svc"),
        (SERVICE, {"url": "https://x/"}, "the Service ns/svc"),
        (SERVICE, None, "the Service ns/svc"),
        ({"url": "https://x/"}, {"url": "https://x/"}, ""),
        ({"url": "https://x/"}, {"url": "https://y/"}, "https://x/"),
    ],
)
def test_a_webhook_of_another_owner_stays(labels, registered, given, owner):
    """A configuration of another owner has no label of ours. What calls our own Service is ours all the same."""
    current = configuration(desired_webhook(client_config=registered))
    current["metadata"]["labels"] = labels
    absent = plan_absent(current, "ours.peerpods.io", given)
    assert foreign_owner(current, "ours.peerpods.io", given) == owner
    assert absent.action == (None if owner else "delete")
    if owner and given:
        with pytest.raises(AdmissionError, match=f"of another owner, which calls {owner}"):
            present(current, desired_webhook(client_config=given))
    elif given:
        assert present(current, desired_webhook(client_config=given)).configuration["metadata"]["labels"] == labels


@pytest.mark.parametrize("bundle", [PEM, f"\n{PEM}\n\n", BUNDLE, f"{BUNDLE[:20]}\n{BUNDLE[20:]}\n"])
def test_a_ca_bundle_is_pem_or_its_base64(bundle):
    assert encode_ca_bundle(bundle) == BUNDLE


@pytest.mark.parametrize(
    "bundle",
    [
        "",
        "hello",
        base64.b64encode(b"hello").decode(),
        base64.b64encode(b"\xff\xfe").decode(),
        PEM.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
    ],
)
def test_an_invalid_ca_bundle_is_rejected(bundle):
    with pytest.raises(AdmissionError, match="no PEM certificate"):
        encode_ca_bundle(bundle)


@pytest.mark.parametrize(
    ("endpoints", "ready"),
    [
        ([], False),
        (None, False),
        ([{"conditions": {"ready": False}}], False),
        ([{"conditions": {"ready": False}}, {"conditions": {"ready": True}}], True),
        ([{"conditions": {}}], True),
        ([{}], True),
    ],
)
def test_an_endpoint_is_ready_unless_its_condition_is_false(endpoints, ready):
    assert has_ready_endpoint([{"endpoints": endpoints}]) is ready


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "There is no Secret ns/tls"),
        ({"data": {"tls.crt": "", "tls.key": ""}}, "no key ca.crt .* keys: tls.crt, tls.key"),
        ({}, "no key ca.crt .* keys: none"),
    ],
)
def test_a_missing_bundle_is_reported(item, message):
    with pytest.raises(AdmissionError, match=message):
        bundle_of("Secret", item, "ns", "tls", "ca.crt")


def test_a_private_key_is_never_written_to_a_configuration():
    certificate_and_key = PEM + PEM.replace("CERTIFICATE", "PRIVATE KEY")
    with pytest.raises(AdmissionError, match="contains a private key"):
        encode_ca_bundle(base64.b64encode(certificate_and_key.encode()).decode())
