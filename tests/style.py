"""`python -m tests.style [FILE ...]`: find the words that docs/style.md does not use.

Without FILE, every file that git tracks or would add is read.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

GUIDE = "docs/style.md"
HEADING = "## Words that are not used"

# The guide and the unit test of this check quote the words; released changelogs are history; the Korean quick start is
# not English; the definitions are published by other projects.
EXCLUDED = (
    GUIDE,
    "LICENSES/*",
    "CHANGELOG.rst",
    "changelogs/changelog.yaml",
    "docs/docsite/rst/quickstart_ko.rst",
    "tests/cluster/crds/*",
    "tests/unit/test_style.py",
)

SUFFIXES = (".j2", ".md", ".py", ".rst", ".yaml", ".yml")
NAMES = ("Makefile", "Containerfile")

# Between two words of a phrase: spaces, or a line break with what continues a comment, a quote or a Python string.
GAP = r"""(?:[ \t]+|[ \t]*["'\\]?[ \t]*\n[ \t]*[#>]*[ \t]*f?["']?)"""


class Phrase(NamedTuple):
    # Only a text with this word, in lower case, can have the phrase: to look for a word takes far less time.
    word: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Rule:
    """One row of the guide's table."""

    phrases: tuple[Phrase, ...]
    instead: str
    allowed_phrases: tuple[re.Pattern[str], ...]
    allowed_files: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    file: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line}: "{self.phrase}": write: {self.instead}'


def read_rules(guide: str) -> list[Rule]:
    """The rules in the table below HEADING."""
    section = guide.partition(HEADING)[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [_parse_row(row) for row in rows]


def find_words(rules: Iterable[Rule], file: str, text: str) -> Iterator[Finding]:
    """The findings in `text`, which is that of `file`, and in the name of the file (as line 1)."""
    lower_case = f"{file}\n{text}".lower()
    for rule in rules:
        phrases = [phrase.pattern for phrase in rule.phrases if phrase.word in lower_case]
        if not phrases or any(fnmatch(file, pattern) for pattern in rule.allowed_files):
            continue
        for content, is_name in ((file, True), (text, False)):
            allowed = [match.span() for phrase in rule.allowed_phrases for match in phrase.finditer(content)]
            for phrase in phrases:
                for match in phrase.finditer(content):
                    if any(start < match.end() and match.start() < end for start, end in allowed):
                        continue
                    line = 1 if is_name else content.count("\n", 0, match.start()) + 1
                    yield Finding(file, line, " ".join(match.group().split()), rule.instead)


def list_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [file for file in listed.stdout.splitlines() if is_checked(file) and (ROOT / file).is_file()]


def is_checked(file: str) -> bool:
    path = Path(file)
    return (path.suffix in SUFFIXES or path.name in NAMES) and not any(fnmatch(file, pattern) for pattern in EXCLUDED)


def _parse_row(row: str) -> Rule:
    phrases, instead, exceptions = (cell.strip() for cell in row.strip().strip("|").split("|"))
    allowed = _code(exceptions)
    return Rule(
        tuple(_phrase(phrase) for phrase in _code(phrases)),
        instead,
        tuple(_pattern(phrase) for phrase in allowed if "/" not in phrase),
        tuple(file for file in allowed if "/" in file),
    )


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _phrase(phrase: str) -> Phrase:
    words = (word for word in phrase.lower().split() if word != "<word>")
    return Phrase(max(words, key=len), _pattern(phrase))


def _pattern(phrase: str) -> re.Pattern[str]:
    words = [r"[A-Za-z]+" if word == "<word>" else re.escape(word) for word in phrase.split()]
    return re.compile(rf"(?<![A-Za-z]){GAP.join(words)}(?![A-Za-z])", re.IGNORECASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="relative to the root of the repository")
    files = parser.parse_args().files
    rules = read_rules((ROOT / GUIDE).read_text())
    checked = [file for file in files if is_checked(file)] if files else list_files()
    findings = sorted(
        (finding for file in checked for finding in find_words(rules, file, (ROOT / file).read_text())),
        key=lambda finding: (finding.file, finding.line),
    )
    for finding in findings:
        print(finding)
    if findings:
        sys.exit(f"{len(findings)} words that {GUIDE} does not use.")


if __name__ == "__main__":
    main()
