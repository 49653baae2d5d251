"""Workflows and commit hooks run the commands of the Makefile, and the files that they name exist."""

from __future__ import annotations

import itertools
import re

import pytest
import yaml

from tests.support import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][\w.-]*):(?!=)", MAKEFILE, re.MULTILINE))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}

# The supported Pythons of each ansible-core, from its documentation.
PYTHONS = {
    "2.17": {"3.11", "3.12"},
    "2.18": {"3.11", "3.12", "3.13"},
    "2.19": {"3.11", "3.12", "3.13"},
    "2.20": {"3.12", "3.13"},
    "2.21": {"3.12", "3.13"},
}

# Some tests need root, and sudo keeps neither PATH nor HOME.
MAKE = re.compile(r'(?:sudo env PATH="\$PATH" XDG_CACHE_HOME="\$HOME/\.cache" )?make (\S+|\$\{\{.*?\}\})( [A-Z]+=.*)?')


def combinations(job: dict) -> list[dict]:
    matrix = dict(job.get("strategy", {}).get("matrix", {}))
    excluded = matrix.pop("exclude", [])
    rows = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    return [values for values in rows if not any(values.items() >= entry.items() for entry in excluded)]


def steps() -> list[tuple[str, dict, dict]]:
    return [
        (f"{file}: {name}: {number}", job, step)
        for file, workflow in WORKFLOWS.items()
        for name, job in workflow["jobs"].items()
        for number, step in enumerate(job["steps"])
    ]


def using(action: str) -> list[tuple[dict, dict]]:
    """The steps with the action, each with its job."""
    return [(job, step) for _, job, step in steps() if step.get("uses", "").startswith(f"{action}@")]


def expand(text: str, values: dict) -> str:
    return re.sub(r"\$\{\{ matrix\.([\w-]+) \}\}", lambda match: values[match[1]], text)


def test_the_workflows_that_are_expected() -> None:
    assert set(WORKFLOWS) == {"ci.yml", "docs.yml", "release.yml"}


@pytest.mark.parametrize(
    ("job", "step"),
    [pytest.param(job, step, id=name) for name, job, step in steps() if "run" in step],
)
def test_a_workflow_runs_a_target_of_the_makefile(job: dict, step: dict) -> None:
    for values in combinations(job):
        for line in expand(step["run"], values).strip().splitlines():
            match = MAKE.fullmatch(line)
            assert match, line
            assert match[1] in TARGETS


@pytest.mark.parametrize("job", [job for job, _ in using("actions/setup-python")])
def test_a_job_runs_with_the_python_that_it_sets_up(job: dict) -> None:
    """By default, make would create .venv with the Python of the distribution."""
    first = next(step["run"] for step in job["steps"] if "run" in step)
    assert "PYTHON=python3" in first.split()


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, _, step in steps() if "uses" in step])
def test_an_action_is_pinned_to_a_commit(step: dict) -> None:
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])


def test_the_version_of_a_pinned_action_is_named() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for line in path.read_text().splitlines():
            assert "uses:" not in line or re.search(r"  # v\d+\.\d+\.\d+$", line), f"{path.name}: {line}"


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, _, step in steps() if "with" in step])
def test_the_files_that_a_workflow_names_exist(step: dict) -> None:
    for value in map(str, step["with"].values()):
        for pattern in itertools.chain.from_iterable(
            re.findall(r"'(.+?)'", arguments) for arguments in re.findall(r"hashFiles\((.+?)\)", value)
        ):
            assert list(ROOT.glob(pattern)), pattern
    if not step["uses"].startswith("actions/cache@"):
        assert step["with"].get("path", "") in MAKEFILE


def test_the_cache_has_the_programs_that_are_built_and_nothing_else() -> None:
    """Clusters start with data that only root can read, and environments depend on other files than the key."""
    ((_, step),) = using("actions/cache")
    modules = {path.parent.name for path in ROOT.glob("tests/*/go.mod") if "\ntool " in path.read_text()}
    assert set(step["with"]["path"].split()) == {f"~/.cache/osc.peerpods/{module}" for module in modules}


def test_the_sanity_tests_run_on_every_combination_that_exists() -> None:
    (job,) = (workflow["jobs"]["sanity"] for workflow in WORKFLOWS.values() if "sanity" in workflow["jobs"])
    tested = {(values["ansible-core"], values["python"]) for values in combinations(job)}
    assert tested == {(core, python) for core, pythons in PYTHONS.items() for python in pythons}


def test_the_unit_tests_run_on_every_python() -> None:
    tested = {values["python"] for values in combinations(WORKFLOWS["ci.yml"]["jobs"]["unit"])}
    assert tested == set.union(*PYTHONS.values())


def test_the_commit_hooks_are_the_commands_of_make_lint() -> None:
    recipes = re.findall(r"^(?:style|lint):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    commands = {line.strip().partition(" || ")[0] for line in "".join(recipes).splitlines()}
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"].removeprefix("env ") for repo in configuration["repos"] for hook in repo["hooks"]}
    assert hooks == commands


def test_the_files_of_developers_are_not_released() -> None:
    ignored = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
    assert {".editorconfig", ".github", ".pre-commit-config.yaml", "renovate.json"} <= set(ignored)


def test_the_licence_that_headers_name_exists() -> None:
    named = {
        match[1]
        for folder in ("plugins", "containers")
        for path in (ROOT / folder).rglob("*.py")
        if (
            match := re.search(r"^# GNU General Public License v3\.0\+ \(see (\w+) or ", path.read_text(), re.MULTILINE)
        )
    }
    assert named
    for name in named:
        assert (ROOT / name).read_text().lstrip().startswith("GNU GENERAL PUBLIC LICENSE")


def test_the_targets_that_make_help_names_exist() -> None:
    named = {
        target
        for line in re.findall(r'^\t@echo "make (.+?)(?:  |")', MAKEFILE, re.MULTILINE)
        for target in re.findall(r"[a-z][\w.-]+", line)
    }
    assert len(named) > 15
    assert named <= TARGETS
