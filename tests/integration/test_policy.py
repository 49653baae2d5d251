"""The role policy on the real API server: the namespaces in which peer pods may be created, and the messages in other
namespaces.

The tests depend on their order: no policy, Deny, Warn, Audit, removal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import urllib3

from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.integration.apiserver import between
from tests.integration.site import NOTHING_CHANGED, RoleAlone, bad_weather, failure_message
from tests.support import ROOT, local_play

# A RuntimeClass of this file, so that the policy does not match peer pods of other tests.
RUNTIME_CLASS = "kata-policy-role"
LABEL = {"osc.peerpods.io/peer-pods": "allowed"}
LABELLED, NAMED, UNLISTED = (f"policy-role-{name}" for name in ("labelled", "named", "other"))
REJECTION = f"Peer pods may not be created in namespace {UNLISTED}: "
AUDITED = "validation.policy.admission.k8s.io/validation_failure"
KINDS = "validatingadmissionpolicies,validatingadmissionpolicybindings"


@dataclass
class Role(RoleAlone):
    def succeed(self, *arguments: str, **variables: object) -> str:
        """Run the role with `variables` and those of this test; returns its output."""
        completed = self.run("-e", json.dumps(variables), *arguments)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def fail(self, **variables: object) -> str:
        """Run the role with `variables` and those of this test; returns the message of its failure."""
        return failure_message(self.run("-e", json.dumps(variables)))

    def policy_objects(self) -> dict[str, dict]:
        """The policies and bindings of the collection, by kind and name."""
        items = self.cluster.get(KINDS, "-l", "app.kubernetes.io/part-of=osc.peerpods")["items"]
        return {f"{item['kind']} {item['metadata']['name']}": item for item in items}

    def create(self, namespace: str, body: dict, path: str = "api/v1") -> tuple[int, str, str]:
        """Create an object in a dry run; returns (status, message, warning)."""
        client = urllib3.PoolManager(
            ca_certs=str(self.cluster.directory / "ca.crt"),
            cert_file=str(self.cluster.directory / "admin.crt"),
            key_file=str(self.cluster.directory / "admin.key"),
        )
        answer = client.request(
            "POST",
            f"{self.cluster.server}/{path}/namespaces/{namespace}/{body['kind'].lower()}s?dryRun=All",
            json=body,
        )
        message = json.loads(answer.data).get("message", "")
        return answer.status, message, answer.headers.get("Warning", "")

    def create_pod(self, namespace: str, runtime_class: str | None = RUNTIME_CLASS):
        return self.create(namespace, {"kind": "Pod", "metadata": {"name": "probe"}, "spec": pod_spec(runtime_class)})


def pod_spec(runtime_class: str | None = RUNTIME_CLASS) -> dict:
    return {
        "runtimeClassName": runtime_class,
        "containers": [{"name": "app", "image": "never-pulled"}],
    }


def workload(kind: str, runtime_class: str | None = RUNTIME_CLASS) -> dict:
    labels = {"app": "policy-role"}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(runtime_class)}
    spec = {
        "Deployment": {"selector": {"matchLabels": labels}, "template": template},
        "CronJob": {
            "schedule": "0 0 1 1 *",
            "jobTemplate": {"spec": {"template": {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}}},
        },
    }[kind]
    group = {"Deployment": "apps/v1", "CronJob": "batch/v1"}[kind]
    return {"apiVersion": group, "kind": kind, "metadata": {"name": "policy-role"}, "spec": spec}


@pytest.fixture(scope="module")
def role(cluster: Cluster) -> Iterator[Role]:
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": LABEL if name == LABELLED else {}},
            }
            for name in (LABELLED, NAMED, UNLISTED)
        ),
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": RUNTIME_CLASS,
        },
    )
    variables = {"policy_runtime_classes": [RUNTIME_CLASS], "policy_namespaces": [NAMED]}
    yield Role(cluster, None, {}, list, variables, ROOT / "playbooks/policy.yml")
    cluster.delete(KINDS, "-l", "app.kubernetes.io/part-of=osc.peerpods")
    cluster.delete("runtimeclass", RUNTIME_CLASS)
    cluster.delete("namespace", "--wait=false", LABELLED, NAMED, UNLISTED)


class TestBefore:
    def test_a_dry_run_of_a_first_installation_writes_nothing(self, role: Role):
        with role.unchanged():
            role.succeed("--check", "--diff")
        assert role.policy_objects() == {}

    def test_invalid_settings_are_reported_together(self, role: Role):
        with role.unchanged():
            message = role.fail(
                policy_actions=["Deny", "Warn"], policy_namespace_selector={"matchLabels": {"peer-pods": True}}
            )
        assert "policy_actions has both Deny and Warn" in message
        assert "matchLabels has a value that is not a string. Values of labels are strings" in message

    def test_a_policy_of_another_owner_is_not_replaced(self, role: Role, cluster: Cluster):
        rules = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
        policy = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "osc-peerpods-namespaces"},
            "spec": {"matchConstraints": {"resourceRules": [rules]}, "validations": [{"expression": "true"}]},
        }
        cluster.apply(policy)
        try:
            with role.unchanged():
                message = role.fail()
        finally:
            cluster.delete("validatingadmissionpolicy", "osc-peerpods-namespaces")
        assert "ValidatingAdmissionPolicy osc-peerpods-namespaces (written by kubectl" in message
        assert "already exists without the label" in message

    def test_an_incomplete_label_requirement_is_rejected(self, role: Role):
        with role.unchanged():
            message = role.fail(policy_namespace_selector={"matchExpressions": [{"key": "a", "operator": "In"}]})
        assert "operator is In but all of the following are missing: values" in message

    def test_an_api_server_without_validating_policies_is_reported(self, role: Role, cluster: Cluster, tmp_path):
        """The response of an API server before Kubernetes 1.30."""
        group = "/apis/admissionregistration.k8s.io/v1"

        def hide_policies(_method: str, path: str):
            if path == group:
                return 200, b'{"kind": "APIResourceList", "resources": []}'
            return (404, b"{}") if path.startswith(f"{group}/validating") else None

        # kubernetes.core keeps there what it has discovered, by URL, which another API server may have had.
        old = {"K8S_AUTH_KUBECONFIG": None, "K8S_AUTH_API_KEY": "any", "TMPDIR": str(tmp_path)}
        with between(cluster, cluster.kubeconfig, hide_policies) as url, role.unchanged():
            completed = role.run(K8S_AUTH_HOST=url, **old)
            removal = role.run("-e", "policy_state=absent", K8S_AUTH_HOST=url, **old)
        assert "does not serve ValidatingAdmissionPolicy" in failure_message(completed)
        assert "OpenShift 4.17" in failure_message(completed)
        assert NOTHING_CHANGED.search(removal.stdout)


@pytest.fixture(scope="module")
def deny(role: Role, cluster: Cluster) -> Iterator[str]:
    """The output of the installation. A system namespace has the label as well."""
    cluster.label("namespace", "kube-public", "osc.peerpods.io/peer-pods=allowed")
    try:
        with bad_weather(role) as troubled:
            output = troubled.succeed()
        yield output
    finally:
        cluster.label("namespace", "kube-public", "osc.peerpods.io/peer-pods-")


@pytest.mark.usefixtures("deny")
class TestDeny:
    def test_the_allowed_namespaces_are_reported(self, deny: str):
        assert f"Peer pods may be created in {LABELLED}, {NAMED}. Action in other namespaces: Deny." in deny

    @pytest.mark.parametrize("namespace", [LABELLED, NAMED])
    def test_a_peer_pod_is_admitted_in_an_allowed_namespace(self, role: Role, namespace: str):
        assert role.create_pod(namespace) == (201, "", "")

    def test_a_peer_pod_elsewhere_is_rejected_with_the_reason(self, role: Role):
        status, message, _ = role.create_pod(UNLISTED)
        assert status == 403
        assert message.endswith(
            f"{REJECTION}RuntimeClass {RUNTIME_CLASS} is allowed in namespaces with the labels "
            "osc.peerpods.io/peer-pods=allowed that are not system namespaces and in the namespaces "
            f"{NAMED}. Ask a cluster administrator to allow it in this namespace."
        )

    def test_other_pods_are_never_rejected(self, role: Role):
        assert role.create_pod(UNLISTED, None) == (201, "", "")

    def test_no_label_opens_a_system_namespace(self, role: Role):
        assert role.create_pod("kube-public")[0] == 403

    def test_a_label_takes_effect_without_another_run(self, role: Role, cluster: Cluster):
        cluster.label("namespace", UNLISTED, "osc.peerpods.io/peer-pods=allowed")
        wait_for("the label", lambda: role.create_pod(UNLISTED)[0] == 201, seconds=30)
        cluster.label("namespace", UNLISTED, "osc.peerpods.io/peer-pods-")
        wait_for("the label to go", lambda: role.create_pod(UNLISTED)[0] == 403, seconds=30)

    def test_no_pod_becomes_a_peer_pod_later(self, role: Role, cluster: Cluster):
        """The API server rejects such updates itself, so the policy does not match updates."""
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "spec": pod_spec(None),
                "metadata": {"name": "ordinary", "namespace": NAMED},
            }
        )
        with pytest.raises(RuntimeError, match="Forbidden: pod updates may not change fields"):
            cluster.merge("pod/ordinary", {"spec": {"runtimeClassName": RUNTIME_CLASS}}, NAMED)

    def test_a_deployment_is_stored_with_a_warning_and_its_pods_are_rejected(self, role: Role, cluster: Cluster):
        """The user gets a warning, and the ReplicaSet an event."""
        body = workload("Deployment")
        # The role verifies the policy of pods only. The binding for workloads takes effect some time later.
        wait_for("a warning", lambda: role.create(UNLISTED, body, "apis/apps/v1")[2], seconds=30)
        status, _, warned = role.create(UNLISTED, body, "apis/apps/v1")
        assert status == 201
        assert REJECTION in warned
        assert "Pods of this workload will be rejected." in warned
        cluster.apply({**body, "metadata": {"name": "refused", "namespace": UNLISTED}})

        def is_rejected() -> bool:
            events = cluster.get("events", "-n", UNLISTED)["items"]
            return any(
                event["reason"] == "FailedCreate"
                and event["involvedObject"]["kind"] == "ReplicaSet"
                and REJECTION in event["message"]
                for event in events
            )

        wait_for("the ReplicaSet's event", is_rejected, seconds=30)

    def test_only_workloads_of_peer_pods_elsewhere_get_a_warning(self, role: Role):
        warned = role.create(UNLISTED, workload("CronJob"), "apis/batch/v1")[2]
        assert REJECTION in warned
        for namespace, runtime_class in ((UNLISTED, None), (NAMED, RUNTIME_CLASS)):
            for kind, path in (("Deployment", "apis/apps/v1"), ("CronJob", "apis/batch/v1")):
                created = role.create(namespace, workload(kind, runtime_class), path)
                assert created == (201, "", "")

    def test_the_api_server_reports_no_error_in_the_expressions(self, role: Role):
        def checked() -> bool:
            policies = [item for item in role.policy_objects().values() if "Binding" not in item["kind"]]
            return len(policies) == 2 and all(
                item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"] for item in policies
            )

        wait_for("the type checker", checked, seconds=30)
        type_checks = [item.get("status", {}).get("typeChecking") for item in role.policy_objects().values()]
        assert [warnings for warnings in type_checks if warnings] == []

    def test_a_second_run_changes_nothing_also_without_options(self, role: Role):
        """An option that is not set keeps its value: names, RuntimeClasses, actions."""
        bare = Role(role.cluster, None, {}, list, {}, role.playbook)
        output = bare.succeed()
        assert NOTHING_CHANGED.search(output)
        assert f"Peer pods may be created in {LABELLED}, {NAMED}. Action in other namespaces: Deny." in output

    def test_a_policy_that_does_not_take_effect_is_reported(self, role: Role):
        """The probe runs in an allowed namespace, as if the API server had not loaded the policy yet."""
        completed = role.run("-e", f"policy_probe_namespace={LABELLED} policy_timeout=1")
        assert "The policy exists, but after 1 s the API server does not reject" in failure_message(completed)

    def test_another_policy_that_rejects_the_pod_proves_nothing(self, role: Role, cluster: Cluster):
        metadata = {"name": "policy-role-other"}
        api, rules = (
            "admissionregistration.k8s.io/v1",
            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
        )
        spec = {
            "matchConstraints": {"resourceRules": [{**rules, "operations": ["CREATE"]}]},
            "matchConditions": [{"name": "here", "expression": f"request.namespace == '{LABELLED}'"}],
            "validations": [{"expression": "false", "message": "closed"}],
        }
        binding = {"policyName": metadata["name"], "validationActions": ["Deny"]}
        objects = [
            {"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": spec},
            {"apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding},
        ]
        cluster.apply(*objects)
        try:
            wait_for("the other policy", lambda: role.create_pod(LABELLED)[0] != 201, seconds=30)
            output = role.succeed("-e", f"policy_probe_namespace={LABELLED} policy_timeout=1")
        finally:
            cluster.delete(KINDS, metadata["name"])
        wait_for("the other policy to go", lambda: role.create_pod(LABELLED)[0] == 201, seconds=30)
        assert (
            "Action in other namespaces: Deny (not verified). Something else rejects the peer pod that verifies"
            in output
        )
        assert "ValidatingAdmissionPolicy policy-role-other" in output

    def test_label_requirements_have_the_meaning_of_kubernetes(self, role: Role, cluster: Cluster):
        requirements = [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "stage", "operator": "NotIn", "values": ["test"]},
            {"key": "team", "operator": "Exists"},
            {"key": "closed", "operator": "DoesNotExist"},
        ]
        selector = {"matchExpressions": requirements}
        output = role.succeed(policy_namespace_selector=selector, policy_namespaces=[])
        text = "tier in (a,b),stage notin (test),team,!closed"
        message = role.create_pod(UNLISTED)[1]
        assert f"with the labels {text} that are not system namespaces. Ask" in message
        assert "Peer pods may be created in no namespace." in output
        cases = [
            "tier=a team=x",
            "tier=c team=x",
            "team=x",
            "tier=b",
            "tier=b team= stage=prod",
            "tier=b team= stage=test",
            "tier=a team=x closed=yes",
        ]
        for labels in cases:
            cluster.label("namespace", UNLISTED, *labels.split())
            # The expected result is the evaluation by Kubernetes itself.
            chosen = [item["metadata"]["name"] for item in cluster.get("namespaces", f"--selector={text}")["items"]]
            expected = 201 if UNLISTED in chosen else 403
            wait_for(labels, lambda code=expected: role.create_pod(UNLISTED)[0] == code, seconds=30)
            cluster.label("namespace", UNLISTED, "tier-", "team-", "stage-", "closed-")

    def test_without_names_and_labels_no_namespace_is_allowed(self, role: Role):
        """The role verifies the policy with the first RuntimeClass, and reports that this one is missing."""
        classes = ["kata-of-tomorrow", RUNTIME_CLASS]
        output = role.succeed(policy_namespace_selector={}, policy_namespaces=[], policy_runtime_classes=classes)
        assert "may be created in no namespace. Action in other namespaces: Deny (not verified)." in output
        wait_for("the policy", lambda: "is allowed in no namespace. Ask" in role.create_pod(LABELLED)[1], seconds=30)


class TestWarnAndAudit:
    def test_warn_admits_with_a_warning(self, role: Role):
        output = role.succeed(policy_actions=["Warn", "Audit"], policy_failure_policy="Ignore")
        assert "Action in other namespaces: Warn, Audit (not verified)." in output
        wait_for("a warning", lambda: role.create_pod(UNLISTED)[0] == 201, seconds=30)
        assert REJECTION in role.create_pod(UNLISTED)[2]

        def warned_of_pods_that_go_in() -> bool:
            warned = role.create(UNLISTED, workload("Deployment"), "apis/apps/v1")[2]
            return REJECTION in warned and "will be rejected" not in warned

        wait_for("the other warning", warned_of_pods_that_go_in, seconds=30)
        policies = [item for item in role.policy_objects().values() if "Binding" not in item["kind"]]
        assert {item["spec"]["failurePolicy"] for item in policies} == {"Ignore"}

    def test_audit_admits_and_writes_to_the_audit_log_only(self, role: Role, cluster: Cluster):
        output = role.succeed(policy_actions=["Audit"], policy_namespaces="")
        assert "Action in other namespaces: Audit (not verified)." in output
        # Audit does not have the warnings for workloads of Deny and Warn.
        assert len(role.policy_objects()) == 2
        # A survey of AWX passes an answer that was left out as an empty text.
        policy = role.policy_objects()["ValidatingAdmissionPolicy osc-peerpods-namespaces"]
        options = json.loads(policy["metadata"]["annotations"]["osc.peerpods.io/options"])
        assert (options["namespaces"], options["failure_policy"]) == ([NAMED], "Ignore")

        def audited() -> bool:
            before = len(cluster.audit_log.read_text().splitlines())
            created = role.create_pod(UNLISTED)
            events = map(json.loads, cluster.audit_log.read_text().splitlines()[before:])
            failures = [
                failure for event in events for failure in json.loads(event.get("annotations", {}).get(AUDITED, "[]"))
            ]
            return created == (201, "", "") and any(
                REJECTION in failure["message"] and failure["validationActions"] == ["Audit"] for failure in failures
            )

        wait_for("an annotation in the audit log", audited, seconds=30)

    def test_a_damaged_annotation_is_reported(self, role: Role, cluster: Cluster):
        policy = ("validatingadmissionpolicy", "osc-peerpods-namespaces")
        stored = role.policy_objects()["ValidatingAdmissionPolicy osc-peerpods-namespaces"]["metadata"]["annotations"]
        cluster.annotate(*policy, "osc.peerpods.io/options=namespaces: []")
        try:
            message = role.fail()
        finally:
            cluster.annotate(*policy, f"osc.peerpods.io/options={stored['osc.peerpods.io/options']}")
        assert "of ValidatingAdmissionPolicy osc-peerpods-namespaces is not a JSON object: 'namespaces: []'." in message
        resource = "validatingadmissionpolicy.admissionregistration.k8s.io"
        assert f"oc annotate {resource}/osc-peerpods-namespaces osc.peerpods.io/options-" in message


class TestAfter:
    def test_a_dry_run_of_the_removal_writes_nothing(self, role: Role):
        with role.unchanged():
            role.succeed("--check", policy_state="absent")
        assert len(role.policy_objects()) == 2

    def test_the_removal_deletes_all_created_objects(self, role: Role, tmp_path):
        role_of_teardown = {"name": "osc.peerpods.policy", "tasks_from": "teardown"}
        play = local_play(tasks=[{"ansible.builtin.include_role": role_of_teardown}])
        (tmp_path / "teardown.yml").write_text(json.dumps(play))
        teardown = Role(role.cluster, None, {}, list, {}, tmp_path / "teardown.yml")
        teardown.succeed()
        assert role.policy_objects() == {}
        wait_for("its end", lambda: role.create_pod(UNLISTED)[0] == 201, seconds=30)
        with role.unchanged():
            assert NOTHING_CHANGED.search(role.succeed(policy_state="absent"))
