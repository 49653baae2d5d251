"""docs/architecture.md names the files that exist, and the unit tests of module_utils mirror it."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support import ROOT

# In these directories the document names every file, elsewhere only the top of a directory.
FULLY_LISTED = "plugins"
TOPS = ("benchmarks", "containers", "playbooks", "roles", "tests")


def documented() -> list[str]:
    """The paths in the tree under "Repository layout", files with their directories; those in lists, too."""
    text = (ROOT / "docs/architecture.md").read_text()
    (tree,) = re.findall(r"^## Repository layout\n\n```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    paths, parents = [], []
    for line in tree.splitlines():
        name, _gap, description = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        path = "".join(parents[: depth + 1])
        listed = re.fullmatch(r"(\w+\.yml, )+\w+\.yml", description.strip())
        paths += [path + file for file in description.strip().split(", ")] if listed else [path]
    return paths


def existing(directory: Path) -> list[str]:
    """What is in a directory, as the document names it; directories end in a slash."""
    return sorted(
        f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}"
        for path in directory.iterdir()
        if path.name not in ("__init__.py", "__pycache__") and not path.name.startswith(".")
    )


def everything(directory: Path) -> list[str]:
    paths = existing(directory)
    return paths + [deeper for path in paths if path.endswith("/") for deeper in everything(ROOT / path)]


PATHS = documented()


@pytest.mark.parametrize(
    "path", everything(ROOT / FULLY_LISTED) + [path for top in TOPS for path in existing(ROOT / top)]
)
def test_every_file_is_documented_once(path: str):
    assert sum(fnmatch(path, pattern) for pattern in PATHS) == 1


@pytest.mark.parametrize("pattern", PATHS)
def test_every_documented_file_exists(pattern: str):
    assert any((path.is_dir() or not pattern.endswith("/")) for path in ROOT.glob(pattern.rstrip("/")))


# Modules of module_utils that decide nothing, or whose decisions have one entry point; and the tests that cover them.
TESTED_THROUGH = {
    "_adaptor/apply": "integration/test_adaptor_config.py",
    "_aws/api": "integration/test_iam_token_role.py",
    "_aws/client": "integration/test_security_group_ports.py",
    "_aws/iam": "integration/test_iam_token_role.py",
    "_aws/simulation": "integration/test_iam_token_role.py",
    "_aws/import_client": "integration/test_podvm_import.py",
    "_azure/identity_reads": "integration/test_azure_token_identity.py",
    "_azure/worker_network": "integration/test_nsg_rules.py",
    "_azure/tags": "unit/module_utils/_azure/test_nat_gateway.py",
    "_kubernetes/client": "integration/test_kubernetes_faults.py",
    "_kubernetes/namespace_content": "integration/test_own_namespace.py",
    "_kubernetes/objects": "integration/test_k8s.py",
    "_operator/client": "integration/test_operator_install.py",
    "_operator/option_rows": "unit/module_utils/_operator/test_settings.py",
    "_operator/progress": "unit/module_utils/_operator/test_olm.py",
    "_peerpods/limit_reads": "integration/test_peerpod_limit_second.py",
    "_peerpods/names": "unit/module_utils/_peerpods/test_generation.py",
    "_preflight/cloud_findings": "unit/module_utils/_preflight/test_findings.py",
    "_preflight/cluster_findings": "unit/module_utils/_preflight/test_findings.py",
    "_preflight/features": "integration/test_cluster_features_info.py",
    "_preflight/finding": "unit/module_utils/_preflight/test_findings.py",
}


def test_unit_tests_mirror_module_utils():
    """A test file is named for the module that it tests, and every module has tests."""
    utils, tests = ROOT / "plugins/module_utils", ROOT / "tests/unit/module_utils"
    modules = {path.relative_to(utils).with_suffix("").as_posix() for path in utils.rglob("*.py")}
    tested = {
        (path.relative_to(tests).parent / path.stem.removeprefix("test_")).as_posix()
        for path in tests.rglob("test_*.py")
    }
    mirrored = {name if "/" in name else f"_{name}" for name in tested}
    with_code = {name for name in modules if not name.endswith("/__init__")}
    assert mirrored.isdisjoint(TESTED_THROUGH)
    assert mirrored | TESTED_THROUGH.keys() == with_code


@pytest.mark.parametrize("test", sorted(set(TESTED_THROUGH.values())))
def test_the_tests_of_the_other_modules_exist(test: str):
    assert (ROOT / "tests" / test).is_file()


def test_the_readme_lists_every_module():
    _, _, table = (ROOT / "README.md").read_text().partition("| Module | What it does |")
    rows, _, _ = table.partition("\n\n")
    listed = [name for row in rows.split("\n")[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
