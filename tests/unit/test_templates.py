"""Expressions in roles and playbooks are simple: more than four filters belong in a module or in a filter plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import jinja2
import pytest
import yaml
from jinja2 import nodes

from tests.support import ROOT

MOST_FILTERS = 4

# Filters that only convert a value do not count.
CONVERSIONS = {"bool", "int", "string", "osc.peerpods.as_bool", "osc.peerpods.as_dict", "osc.peerpods.as_list"}

# The keys whose values are expressions without braces.
CONDITIONS = ("changed_when", "failed_when", "that", "until", "when")

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for directory in ("roles", "playbooks")
    for path in (ROOT / directory).rglob("*")
    if path.suffix in (".j2", ".yml")
)


class Loader(yaml.SafeLoader):
    """Reads YAML as Ansible does; `!unsafe` marks a string that is not a template."""


Loader.add_constructor("!unsafe", lambda loader, node: None)


def templates(value: object, key: str = "") -> Iterator[str]:
    """The strings of a YAML document as templates."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from templates(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from templates(item, key)
    elif isinstance(value, str):
        yield "{{ " + value + " }}" if key in CONDITIONS and "{{" not in value else value


def templates_of(file: str) -> Iterable[str]:
    text = (ROOT / file).read_text()
    return [text] if Path(file).suffix == ".j2" else templates(yaml.load(text, Loader))


def expressions(template: str) -> Iterator[nodes.Expr]:
    for node in jinja2.Environment().parse(template).find_all((nodes.Output, nodes.Stmt)):
        for child in node.iter_child_nodes():
            if isinstance(child, nodes.Expr) and not isinstance(child, nodes.TemplateData):
                yield child


def count_filters(expression: nodes.Expr) -> int:
    filters = [*expression.find_all(nodes.Filter), *([expression] if isinstance(expression, nodes.Filter) else [])]
    return sum(node.name not in CONVERSIONS for node in filters)


@pytest.mark.parametrize(
    ("template", "filters"),
    [
        ("text | text", []),
        ("{{ a | b(c | d) | e }} {{ f }}", [3, 0]),
        ("{{ {'a': b | c, 'd': e | f} }}", [2]),
        ("{{ a | int | b | osc.peerpods.as_bool }}", [1]),
        ("{% if a | b %}{{ c | d | e }}{% endif %}", [1, 2]),
        ("{% for a in b | c | d %}{% endfor %}", [0, 2]),
    ],
)
def test_filters_are_counted_by_expression(template: str, filters: list[int]) -> None:
    counted = [count_filters(expression) for expression in expressions(template)]
    assert sorted(counted) == sorted(filters)


@pytest.mark.parametrize("file", FILES)
def test_an_expression_has_four_filters_at_most(file: str) -> None:
    complex_ones = [
        template
        for template in templates_of(file)
        for expression in expressions(template)
        if count_filters(expression) > MOST_FILTERS
    ]
    assert complex_ones == []


# Ansible's filters for sets, whose results have another order in each run. Use reject('in', …), select('in', …), and
# unique, which keep it.
FOR_SETS = {"difference", "intersect", "symmetric_difference", "union"}


@pytest.mark.parametrize("file", FILES)
def test_lists_keep_their_order(file: str) -> None:
    filters = {
        node.name
        for template in templates_of(file)
        for node in jinja2.Environment().parse(template).find_all(nodes.Filter)
    }
    assert not filters & FOR_SETS


def fallbacks(template: str) -> Iterator[tuple[str, object]]:
    """(variable, value) of each `variable | default(value)`."""
    for node in jinja2.Environment().parse(template).find_all(nodes.Filter):
        if node.name == "default" and isinstance(node.node, nodes.Name) and node.args:
            with contextlib.suppress(nodes.Impossible):
                yield node.node.name, node.args[0].as_const()


DEFAULTS = {
    name: value
    for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))
    for name, value in yaml.load(path.read_text(), Loader).items()
    if "{{" not in str(value)
}


@pytest.mark.parametrize("file", FILES)
def test_a_fallback_for_an_option_is_its_default(file: str) -> None:
    """A role that reads an option of another role works without that role, as if it had its default."""
    different = [
        (name, value, DEFAULTS[name])
        for template in templates_of(file)
        for name, value in fallbacks(template)
        if value and name in DEFAULTS and value != DEFAULTS[name]
    ]
    assert different == []
