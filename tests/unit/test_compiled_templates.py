"""Templates whose code is kept render as others do."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible._internal._templating._jinja_bits import AnsibleEnvironment
from ansible.errors import AnsibleTemplateError
from ansible.template import Templar, trust_as_template

from tests.compiled_templates import keep_compiled_templates

TEMPLATES = (
    "{{ value }}",
    "text {{ value | upper }}",
    "{% for item in values %}{{ item }}-{% endfor %}",
    "{{ values | map('regex_replace', '^(.)$', '<\\1>') | list }}",
    "{{ 'a\\nb' }}",
    "#jinja2: trim_blocks:False\n{% if true %}\n{{ value }}{% endif %}",
    "{{ missing | default(omit) is defined }}",
    "{{ undefined_variable }}",
    "{{ values | no_such_filter }}",
    "{{ broken",
)
EXPRESSIONS = (
    "value == 'a'",
    "value",
    "values | length > 1",
    "'\\n' | length",
    "missing.attribute is defined",
    "value ==",
)


def rendered() -> list[str]:
    """What each template and expression results in, errors as well."""
    templar = Templar(variables={"value": "a", "values": ["b", "c"]})
    results = []
    for evaluate, sources in (
        (templar.template, TEMPLATES),
        (templar.evaluate_expression, EXPRESSIONS),
    ):
        for source in sources:
            try:
                results.append(repr(evaluate(trust_as_template(source))))
            except AnsibleTemplateError as error:
                results.append(str(error))
    return results


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("compile", "compile_expression"):
        monkeypatch.setattr(AnsibleEnvironment, method, getattr(AnsibleEnvironment, method))


def test_the_results_are_the_same(tmp_path: Path):
    expected = rendered()
    keep_compiled_templates(tmp_path)
    assert rendered() == expected
    kept = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    invalid = sum(
        source in ("{{ broken", "value ==", "{{ values | no_such_filter }}") for source in TEMPLATES + EXPRESSIONS
    )
    assert len(kept) == len(TEMPLATES) + len(EXPRESSIONS) - invalid
    assert rendered() == expected
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("damaged", [b"", b"\xe3", bytes(9)], ids=["empty", "truncated", "zeros"])
def test_a_damaged_file_is_written_again(tmp_path: Path, damaged: bytes):
    keep_compiled_templates(tmp_path)
    expected = rendered()
    kept = list(tmp_path.iterdir())
    for path in kept:
        path.write_bytes(damaged)
    assert rendered() == expected
    assert damaged not in [path.read_bytes() for path in kept]
