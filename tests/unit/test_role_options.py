"""Every place that reads an option of a role uses the value that Ansible validated.

Ansible validates `-e option=false` as a boolean and leaves the variable a string, which is true where nothing converts
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, nodes

from tests.support import ROOT, ansible_yaml, role_options

# Roles that other roles of the collection use, with dictionaries and lists of their own.
INTERNAL = ("image_build_", "own_namespace_")

JINJA = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])

# How a template converts an option of each type.
CONVERSIONS = {
    "bool": ["osc.peerpods.as_bool"],
    "dict": ["osc.peerpods.as_dict"],
    "int": ["int"],
    "list": ["osc.peerpods.as_list"],
}

# Keywords of a task that are expressions without braces, and those that Ansible converts to a number.
CONDITIONS = ("when", "that", "until", "failed_when", "changed_when")
NUMBERS = ("retries", "delay")


def playbook_options() -> dict[str, dict]:
    """The options that only a playbook has, by name."""
    templates = ansible_yaml(ROOT / "roles/awx/vars/main.yml")["awx_templates"]
    questions = [template["questions"] for template in templates if isinstance(template["questions"], list)]
    return {question["option"]: question["spec"] for each in questions for question in each if "spec" in question}


OPTIONS = role_options() | playbook_options()
TYPED = {
    name: option
    for name, option in OPTIONS.items()
    if option.get("type", "str") in CONVERSIONS
    and not (name.startswith(INTERNAL) and option["type"] in ("dict", "list"))
}


@cache
def module_options(module: str) -> dict[str, dict]:
    """The options of a module of this collection; empty for the modules of other collections."""
    if module == "osc.peerpods.k8s":
        # As kubernetes.core documents it.
        return {"wait_timeout": {"type": "int"}}
    path = ROOT / f"plugins/modules/{module.removeprefix('osc.peerpods.')}.py"
    if not path.exists():
        return {}
    (documentation,) = re.findall(r'^DOCUMENTATION = r"""\n(.*?)^"""', path.read_text(), re.MULTILINE | re.DOTALL)
    document = yaml.safe_load(documentation)
    fragments = document.get("extends_documentation_fragment", [])
    options = dict(document.get("options", {}))
    for fragment in fragments:
        if fragment.startswith("osc.peerpods."):
            source = (ROOT / f"plugins/doc_fragments/{fragment.rpartition('.')[2]}.py").read_text()
            (text,) = re.findall(r'DOCUMENTATION = r"""\n(.*?)^"""', source, re.MULTILINE | re.DOTALL)
            options |= yaml.safe_load(text).get("options", {})
    return options


@dataclass(frozen=True)
class Expression:
    """A template, and the type that its result must have."""

    file: str
    template: str
    # The type to which a module converts the result, or the type of the option that is set to it.
    received_as: str | None = None
    is_option: bool = False


@cache
def expressions() -> tuple[Expression, ...]:
    return tuple(_expressions())


def _expressions() -> Iterator[Expression]:
    files = [*ROOT.glob("roles/*/*/**/*.yml"), *ROOT.glob("playbooks/*.yml")]
    for path in sorted(path for path in files if path.parent.name != "meta" and not path.is_symlink()):
        yield from _in_value(str(path.relative_to(ROOT)), ansible_yaml(path))
    for path in sorted(ROOT.glob("roles/*/templates/*.j2")):
        yield Expression(str(path.relative_to(ROOT)), path.read_text())


def _in_value(
    file: str, value: object, received_as: str | None = None, is_option: bool = False
) -> Iterator[Expression]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in CONDITIONS:
                for condition in inner if isinstance(inner, list) else [inner]:
                    yield from _condition(file, condition)
            elif key in NUMBERS:
                yield from _in_value(file, inner, "int")
            elif isinstance(inner, dict) and isinstance(key, str) and key.startswith("osc.peerpods."):
                types = {name: option.get("type", "str") for name, option in module_options(key).items()}
                for name, argument in inner.items():
                    yield from _in_value(file, argument, types.get(name))
            else:
                # A variable that is an option as well is converted where the option is read.
                yield from _in_value(file, inner, OPTIONS.get(key, {}).get("type"), key in OPTIONS)
    elif isinstance(value, list):
        for inner in value:
            yield from _in_value(file, inner)
    elif isinstance(value, str):
        yield Expression(file, value, received_as, is_option)


def _condition(file: str, condition: object) -> Iterator[Expression]:
    if isinstance(condition, dict):
        yield from _in_value(file, condition)
    elif isinstance(condition, str):
        yield Expression(file, condition if "{{" in condition else f"{{{{ {condition} }}}}")


def readings(expression: Expression) -> Iterator[tuple[str, str | None]]:
    """(option, the problem with how it is read or None)."""
    tree = JINJA.parse(expression.template)
    parents = {child: node for node in tree.find_all(nodes.Node) for child in node.iter_child_nodes()}
    outputs = list(tree.find_all(nodes.Output))
    is_whole = len(outputs) == 1 and len(outputs[0].nodes) == 1 and tree.body == outputs
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name in TYPED:
            yield name.name, _problem(name, parents, expression, is_whole)


def _problem(name: nodes.Name, parents: dict, expression: Expression, is_whole: bool) -> str | None:
    kind, elements = TYPED[name.name]["type"], TYPED[name.name].get("elements")
    node: nodes.Node = name
    while isinstance(parents[node], nodes.Filter) and parents[node].name == "default" and parents[node].node is node:
        node = parents[node]
    parent = parents[node]
    if isinstance(parent, nodes.Test) and parent.name in ("defined", "undefined", "none"):
        return None
    if isinstance(parent, nodes.Filter) and parent.node is node:
        given = [parent.name, *(argument.value for argument in parent.args if isinstance(argument, nodes.Const))]
        if given in (CONVERSIONS[kind], [*CONVERSIONS[kind], elements]):
            return None
        # AWX passes an answer that was left out as an empty string.
        if given == ["string"]:
            return None
    while _is_result(node, parents[node]):
        node = parents[node]
    if isinstance(parents[node], nodes.Output):
        # A number has the same text.
        if kind == "int" and (not is_whole or expression.received_as in ("int", "str")):
            return None
        # A module splits a list at its commas, also one in JSON.
        if expression.received_as == kind and (kind != "list" or elements == "dict" or expression.is_option):
            return None
    return f"is read without a conversion to {kind}"


def _is_result(node: nodes.Node, parent: nodes.Node) -> bool:
    """Whether the value of the parent can be that of the node."""
    if isinstance(parent, nodes.Filter):
        return parent.name == "default"
    return isinstance(parent, nodes.CondExpr) and node is not parent.test


def test_every_option_is_read_as_its_type():
    problems = {
        f"{expression.file}: {option} {problem} in {' '.join(expression.template.split())[:150]}"
        for expression in expressions()
        if "{{" in expression.template or "{%" in expression.template
        for option, problem in readings(expression)
        if problem
    }
    assert not problems, "\n".join(sorted(problems))


# -- Options that more than one role or playbook reads ----------------------------------------------

# The option that decides, by what it names; all others with that value, and all modules that take it, follow that
# option.
OWNERS = {
    "openshift-sandboxed-containers-operator": {"operator_install_namespace"},
    "peerpods-cloud-capacity": {"node_capacity_cloud_capacity_configmap"},
    "kata-remote": {"webhook_target_runtime_classes", "operator_install_runtime_class"},
}
# The namespaces of containers that exist: the options name those of first installations.
PLACED = ("node_capacity_namespace", "webhook_namespace")
# What a role reads of the cluster about an option.
RESOLVED = {
    "node_capacity_namespace": "node_capacity_resolved_namespace",
    "webhook_target_runtime_classes": "webhook_decided",
}


@dataclass(frozen=True)
class Reads:
    """An option of a module that takes such a value, and whether a task with these arguments uses it."""

    module: str
    option: str
    owner: str
    is_used: Callable[[dict], bool] = lambda arguments: True


READERS = [
    Reads("adaptor_config", "namespace", "operator_install_namespace"),
    Reads("adaptor_config", "runtime_classes", "webhook_target_runtime_classes"),
    Reads("cluster_features_info", "operator_namespace", "operator_install_namespace", lambda a: "extended" in str(a)),
    Reads("cluster_info", "agent_namespace", "node_capacity_namespace", lambda a: "details" in a),
    # site.yml and teardown.yml use the VMs of peer-pods-cm.
    Reads("cluster_info", "operator_namespace", "operator_install_namespace", lambda a: "permissions_for" in a),
    Reads("mutating_webhook", "target_runtime_classes", "webhook_target_runtime_classes", lambda a: "state" not in a),
    Reads("mutation_info", "runtime_class", "webhook_target_runtime_classes"),
    Reads("operator_info", "namespace", "operator_install_namespace"),
    Reads(
        "operator_wait",
        "namespace",
        "operator_install_namespace",
        lambda a: a["wait_for"] in ("operator", "nodes", "removal"),
    ),
    Reads("operator_wait", "runtime_classes", "webhook_target_runtime_classes", lambda a: a["wait_for"] == "pods"),
    # Pods are those of all namespaces, pools those of the operator.
    Reads("peerpod_info", "namespace", "operator_install_namespace", lambda a: len(a) > 1),
    Reads("peerpod_info", "runtime_classes", "webhook_target_runtime_classes"),
    # Bounds of the cloud are those of pools.
    Reads("peerpod_info", "cloud_capacity.name", "node_capacity_cloud_capacity_configmap", lambda a: len(a) > 1),
    Reads("peerpod_info", "cloud_capacity.namespace", "node_capacity_namespace", lambda a: len(a) > 1),
    Reads("peerpod_limit", "agent_namespace", "node_capacity_namespace"),
    Reads("peerpod_limit", "cloud_capacity.name", "node_capacity_cloud_capacity_configmap", lambda a: "wait" in a),
    Reads("peerpod_limit", "namespace", "operator_install_namespace"),
    Reads("peerpod_limit", "runtime_classes", "webhook_target_runtime_classes", lambda a: "disruption" in a),
    Reads("verification_pods", "operator_namespace", "operator_install_namespace", lambda a: "nodes" in a),
    Reads("verification_pods", "runtime_class", "webhook_target_runtime_classes", lambda a: "nodes" in a),
]


def module_tasks(value: object) -> Iterator[tuple[str, dict]]:
    """(name of our module, its arguments) of every task."""
    if isinstance(value, list):
        for inner in value:
            yield from module_tasks(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and key.startswith("osc.peerpods."):
                yield key.removeprefix("osc.peerpods."), inner or {}
            else:
                yield from module_tasks(inner)


def definitions(path: Path) -> dict[str, object]:
    """The variables that the file sees: those of the playbook, or the defaults and variables of the role."""
    found: dict[str, object] = {}
    if path.parent.name == "playbooks":
        for play in ansible_yaml(path):
            found |= play.get("vars", {})
    else:
        for directory in ("defaults", "vars"):
            for file in sorted((ROOT / "roles" / path.parts[path.parts.index("roles") + 1] / directory).rglob("*.yml")):
                found |= ansible_yaml(file)
    return found


def names_in(value: object, known: dict[str, object]) -> set[str]:
    """The variables that a value depends on, also by other variables."""
    names: set[str] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, (dict, list)):
            pending += list(current.values()) if isinstance(current, dict) else current
        elif isinstance(current, str) and "{{" in current:
            for name in {node.name for node in JINJA.parse(current).find_all(nodes.Name)} - names:
                names.add(name)
                pending.append(known.get(name))
    return names


def argument(arguments: dict, option: str, known: dict[str, object]) -> object:
    """The value of an option, or None; `cloud_capacity.name` may be in a variable."""
    outer, dummy, inner = option.partition(".")
    value = arguments.get(outer)
    if not inner:
        return value
    if isinstance(value, str):
        value = known[value.strip("{} ")]
    if isinstance(value, dict):
        # The bounds may be given instead of the ConfigMap that has them.
        return value.get(inner, value.get("data"))
    return None


FILES_WITH_TASKS = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")])


@pytest.mark.parametrize("path", FILES_WITH_TASKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_shared_option_reaches_every_task_that_needs_it(path: Path):
    known = definitions(path)
    missing = [
        f"{reads.module}.{reads.option} does not follow {reads.owner}"
        for module, arguments in module_tasks(ansible_yaml(path))
        for reads in READERS
        if reads.module == module and reads.is_used(arguments)
        if not {reads.owner, RESOLVED.get(reads.owner)} & names_in(argument(arguments, reads.option, known), known)
        and "bounds" not in str(argument(arguments, reads.option, known))
    ]
    assert missing == []


def test_the_namespace_of_a_container_is_that_of_the_cluster():
    """A module resolves the option. The one that is given would be wrong where the container is in another."""
    wrong = {
        f"{expression.file}: {expression.template}"
        for expression in expressions()
        for name in PLACED
        if re.search(rf"\b{name}\b(?! \| default\((omit|'')| to another namespace)", expression.template)
    }
    assert wrong == set()
    literal = {path for path in FILES_WITH_TASKS if "osc-peerpods'" in path.read_text()}
    assert literal == set()


def kept_names(role: str) -> set[str]:
    """The options that a later run of the role keeps (tests/unit/module_utils/_peerpods/test_kept_options.py)."""
    return {f"{role}_{name}" for name in ansible_yaml(ROOT / f"roles/{role}/vars/main.yml")[f"{role}_kept_names"]}


@pytest.mark.parametrize("role", ["node_capacity", "webhook"])
def test_a_kept_option_is_read_after_it_was_decided(role: str):
    """Where the variable is read instead, it has the default although an earlier run has set it."""
    # An explicit `auto`, and no issuer, keep those of the registration.
    exempt = {"webhook_certificate", "webhook_cert_manager_issuer"}
    kept = kept_names(role)
    direct = {
        f"{expression.file}: {node.name}"
        for expression in expressions()
        if expression.file.startswith(f"roles/{role}/")
        for node in JINJA.parse(expression.template).find_all(nodes.Name)
        if node.name in kept - exempt
    }
    assert direct == set()
    assert not kept & ansible_yaml(ROOT / f"roles/{role}/defaults/main.yml").keys()


def test_every_reader_exists():
    for reads in READERS:
        assert reads.option.partition(".")[0] in module_options(f"osc.peerpods.{reads.module}"), reads


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_with_the_default_of_another_follows_it(name: str):
    default = OPTIONS[name].get("default")
    literal = default[0] if isinstance(default, list) and default else default
    owners = OWNERS.get(literal, set()) if isinstance(literal, str) else set()
    if not owners or name in owners:
        return
    role = next(path for path in ROOT.glob("roles/*") if name.startswith(f"{path.name}_"))
    known = definitions(role / "defaults" / "main.yml")
    assert owners & names_in(known[name], known)
