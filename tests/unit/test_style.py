"""The check of words: its findings follow only from the table in docs/style.md."""

from __future__ import annotations

import pytest

from tests.style import GUIDE, Finding, find_words, is_checked, read_rules
from tests.support import ROOT

TABLE = """
| `told` | reported | not here: `never` |
## Words that are not used

| Not used | Instead | Except |
|---|---|---|
| `told` | reported | |
| `is to be`, `at once` | must be | |
| `holds` | contains | `holds the` |
| `is no <word>` | is not a … | `there is no`, `is no longer` |
| `twin` | copy | `tests/twins/*` |

## Examples

| `never` | read | |
"""
RULES = read_rules(TABLE)


def findings_in(text: str, file: str = "roles/webhook/tasks/main.yml") -> list[tuple[int, str]]:
    return [(finding.line, finding.phrase) for finding in find_words(RULES, file, text)]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("The user is told.", ["told"]),
        ("Told twice", ["Told"]),
        ("_TOLD = is_told()", ["TOLD", "told"]),
        ("untold, toldo", []),
        ("It is to be seen at once.", ["is to be", "at once"]),
        ("The rule holds.", ["holds"]),
        ("whether it holds the Lease", []),
        ("limit is no number", ["is no number"]),
        ("There is no number; it is no longer needed.", []),
        ("never", []),
    ],
)
def test_a_phrase_is_found_as_a_word(text: str, phrases: list[str]) -> None:
    assert sorted(phrase for _, phrase in findings_in(text)) == sorted(phrases)


@pytest.mark.parametrize(
    "text",
    [
        "first\nit is to\nbe seen",
        "first\n# it is to\n# be seen",
        "first\n    > it is\n    > to be seen",
        'first\n"it is to "\n    f"be seen"',
    ],
)
def test_a_phrase_is_found_across_a_line_break(text: str) -> None:
    assert [line for line, _ in findings_in(text)] == [2]


def test_a_file_is_judged_by_its_name_as_well() -> None:
    assert findings_in("", file="roles/webhook/tasks/told.yml") == [(1, "told")]


def test_a_file_can_be_excepted() -> None:
    assert findings_in("twin", file="tests/twins/a.py") == []
    assert findings_in("twin", file="tests/a.py") == [(1, "twin")]


def test_a_finding_names_the_place_and_the_replacement() -> None:
    assert str(Finding("a.yml", 3, "told", "reported")) == 'a.yml:3: "told": write: reported'


@pytest.mark.parametrize(
    ("file", "checked"),
    [
        ("README.md", True),
        ("roles/report/templates/report.html.j2", True),
        ("docs/docsite/rst/guide_aws.rst", True),
        ("containers/webhook/Containerfile", True),
        ("docs/docsite/rst/quickstart_ko.rst", False),
        ("LICENSES/GPL-3.0-or-later.txt", False),
        ("tests/cluster/go.sum", False),
        (GUIDE, False),
    ],
)
def test_which_files_are_checked(file: str, checked: bool) -> None:
    assert is_checked(file) == checked


def test_the_guide_has_a_table_that_can_be_read() -> None:
    rules = read_rules((ROOT / GUIDE).read_text())
    assert len(rules) > 10
    assert all(rule.phrases and rule.instead for rule in rules)
