"""Which objects osc.peerpods.k8s does not replace or delete, and with which tasks the roles write and delete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.namespaces import namespace_policies
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import (
    refuse_changes,
    refuse_deletions,
)

from tests.support import ROOT, ansible_yaml

OURS = {"app.kubernetes.io/part-of": "osc.peerpods"}


def an_object(labels: dict | None = None, **metadata: object) -> dict:
    name = {"name": "a", "namespace": "osc-peerpods", "uid": "1"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**name, "labels": labels, **metadata}}


DEFINITION = an_object(OURS)
OF_HELM = an_object(
    {"app.kubernetes.io/managed-by": "Helm"},
    managedFields=[
        {"manager": "helm", "operation": "Update"},
        {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
        {"manager": "helm", "operation": "Apply"},
    ],
    ownerReferences=[{"kind": "Release", "name": "app"}],
)


@pytest.mark.parametrize(
    ("definition", "existing", "refused"),
    [
        (DEFINITION, an_object(OURS), False),
        (DEFINITION, an_object({**OURS, "team": "a"}), False),
        (DEFINITION, an_object(), True),
        (DEFINITION, an_object({"app.kubernetes.io/part-of": "other"}), True),
        # A user who removes the label keeps the object.
        (DEFINITION, an_object(managedFields=[{"manager": "osc.peerpods", "operation": "Apply"}]), True),
        (DEFINITION, OF_HELM, True),
        # A definition without the label, such as that for the KataConfig of a user.
        (an_object(), an_object(), False),
        (an_object({"app.kubernetes.io/part-of": None}), an_object(OURS), False),
    ],
)
def test_a_definition_of_the_collection_replaces_no_object_of_another_owner(definition, existing, refused):
    assert bool(refuse_changes([(definition, existing)])) == refused


@pytest.mark.parametrize(
    ("existing", "uid", "refused"),
    [
        (an_object(OURS), None, False),
        (an_object(), None, True),
        (an_object(), "1", False),
        (an_object(), "2", True),
        (OF_HELM, None, True),
    ],
)
def test_only_objects_of_the_collection_and_those_that_the_task_names_are_deleted(existing, uid, refused):
    assert bool(refuse_deletions([an_object(OURS), existing], uid)) == refused


def test_the_message_names_the_object_its_writers_and_what_to_do():
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "b", "namespace": "osc-peerpods"},
    }
    changes = [(DEFINITION, OF_HELM), ({**policy, "metadata": {"labels": OURS}}, policy)]
    assert refuse_changes(changes, "Set webhook_namespace to another namespace.") == (
        "ConfigMap a in osc-peerpods (written by helm, managed by Helm, owned by Release app), NetworkPolicy b in "
        "osc-peerpods already exist without the label app.kubernetes.io/part-of=osc.peerpods: another owner created "
        "them. This task changed nothing. Set webhook_namespace to another namespace. Or delete or rename them. Or let "
        "this collection take them over, replace the content, and delete them in a teardown: oc label "
        "configmap/a -n osc-peerpods app.kubernetes.io/part-of=osc.peerpods; oc label "
        "networkpolicy.networking.k8s.io/b -n osc-peerpods app.kubernetes.io/part-of=osc.peerpods"
    )
    of_other = an_object({"app.kubernetes.io/part-of": "other"})
    assert refuse_changes([(DEFINITION, of_other)]).endswith("app.kubernetes.io/part-of=osc.peerpods --overwrite")
    assert refuse_deletions([policy]) == (
        "NetworkPolicy b in osc-peerpods already exists without the label app.kubernetes.io/part-of=osc.peerpods: "
        "another owner created it. This task deleted nothing. To delete it: oc delete "
        "networkpolicy.networking.k8s.io/b -n osc-peerpods"
    )


# -- The definitions of the roles -------------------------------------------------------------------

# The label, the variables with the labels of a role, and the macro of a template.
LABELS = re.compile(
    r"part-of|\b(image_build|node_capacity|operator_install|own_namespace|webhook)_(\w+_)?labels\b|labels\("
)

TEMPLATES = [
    *ROOT.glob("roles/image_build/templates/*.yaml.j2"),
    *ROOT.glob("roles/node_capacity/templates/*.yaml.j2"),
    ROOT / "roles/operator_install/templates/operator.yaml.j2",
    ROOT / "roles/webhook/templates/webhook.yaml.j2",
]

# The tasks that write a definition without the label, with the reason.
WITHOUT_LABEL = {
    "Apply the policies": "the filter namespace_policies adds it",
    "Create a peer pod in a dry run where none is allowed": "nothing is stored",
    "Create the KataConfig again": "with the labels that it had",
    "Remove the annotation for the gallery from peer-pods-cm": "also of that of another owner, for a while",
    "Take the ID of the image out of peer-pods-cm": "also of that of another owner, for as long as it is deleted",
}


def written_definitions() -> Iterator[tuple[str, str]]:
    """The names of the tasks that write objects, and their definitions."""
    for path in sorted(ROOT.glob("roles/*/tasks/*.yml")):
        pending = list(ansible_yaml(path) or [])
        while pending:
            task = pending.pop()
            pending += [inner for block in ("block", "rescue", "always") for inner in task.get(block, [])]
            module = task.get("osc.peerpods.k8s", {"state": "absent"})
            if module.get("state") != "absent":
                yield task["name"], str(module["definition"])


# What the roles create. All of it has the label; what they change of other owners does not get it.
KINDS = {
    "BuildConfig",
    "Certificate",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CredentialsRequest",
    "Deployment",
    "GrafanaDashboard",
    "ImageStream",
    "KataConfig",
    "Namespace",
    "NetworkPolicy",
    "OperatorGroup",
    "Pod",
    "PodDisruptionBudget",
    "PrometheusRule",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "Subscription",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_kind_of_the_roles_is_replaced_or_deleted_without_the_label(kind):
    existing = {**an_object(), "kind": kind}
    assert refuse_changes([({**DEFINITION, "kind": kind}, existing)]).startswith(f"{kind} a in osc-peerpods already")
    assert refuse_deletions([existing]).startswith(f"{kind} a in osc-peerpods already")


def test_every_kind_of_the_roles_is_listed():
    in_templates = re.findall(r"^kind: (\w+)", "\n".join(path.read_text() for path in TEMPLATES), re.MULTILINE)
    in_tasks = re.findall(
        r"^{.*?'kind': '(\w+)'", "\n".join(text for _name, text in written_definitions()), re.MULTILINE
    )
    in_code = [each["definition"]["kind"] for each in namespace_policies(["kata-remote"])["objects"]]
    assert {*in_templates, *in_tasks, *in_code} == KINDS


@pytest.mark.parametrize(("name", "definition"), list(written_definitions()))
def test_each_task_of_a_role_writes_definitions_with_the_label(name, definition):
    has_label = LABELS.search(definition) is not None or "template" in definition
    assert has_label != (name in WITHOUT_LABEL)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_each_object_of_a_template_has_the_label(template: Path):
    documents = [text for text in re.split(r"^---", template.read_text(), flags=re.MULTILINE) if "\nkind:" in text]
    assert documents
    assert [text for text in documents if not LABELS.search(text)] == []


def test_the_policies_have_the_label():
    plan = namespace_policies(["kata-remote"])
    assert all(LABELS.search(str(each["definition"]["metadata"])) for each in plan["objects"])
