"""`python -m tests.sanity [VERSION ...]`: run ansible-test's sanity tests on the released collection.

VERSION is a version of ansible-core, such as 2.17. The default is that of this environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.environments import CACHE, ansible_core
from tests.support import ansible_environment, build_collection

# The namespaces of the collections that the modules import and refer to.
DEPENDENCIES = ("amazon", "ansible", "azure", "community", "kubernetes")

# The collection has no files for pslint and shellcheck. pylint runs separately.
SKIPPED = ("pslint", "pylint", "shellcheck")

# ansible-test downloads the installer of pip. Python includes one.
GET_PIP = "import ensurepip\nensurepip.bootstrap()\n"


def unpacked(directory: Path) -> Path:
    """The released collection in `directory`, next to its dependencies, as ansible-test requires."""
    tarball = build_collection(directory)
    collections = directory / "ansible_collections"
    checkout = collections / "osc" / "peerpods"
    shutil.unpack_archive(tarball, checkout)
    installed = Path(sysconfig.get_path("purelib")) / "ansible_collections"
    for namespace in DEPENDENCIES:
        (collections / namespace).symlink_to(installed / namespace)
    return checkout


def sanity(programs: Path, checkout: Path, home: Path) -> bool:
    """Run all sanity tests, pylint only on plugins. Returns whether all passed."""
    python = programs / "python"
    provide_pip(python, home)
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = ansible_environment({"HOME": str(home)})
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    common: list[str | Path] = [python, programs / "ansible-test", "sanity", "--python", version, "--requirements"]
    skipped = [argument for test in SKIPPED for argument in ("--skip-test", test)]
    exit_codes = [
        subprocess.run([*common, *arguments], cwd=checkout, env=environment, check=False).returncode
        for arguments in (skipped, ["--test", "pylint", "plugins/"])
    ]
    return not any(exit_codes)


def provide_pip(python: Path, home: Path) -> None:
    """Write the installer of pip to the cache of ansible-test."""
    script = "import ansible_test, os; print(os.path.dirname(ansible_test.__file__))"
    package = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    text = (Path(package.stdout.strip()) / "_internal" / "python_requirements.py").read_text()
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for pip_version in re.findall(r"pip='([\d.]+)'", text):
        (cache / f"get_pip_{pip_version.replace('.', '_')}.py").write_text(GET_PIP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    versions = parser.parse_args().versions or [None]
    with tempfile.TemporaryDirectory(prefix="osc-peerpods-sanity-") as directory:
        checkout = unpacked(Path(directory))
        content = []
        for version in versions:
            programs = ansible_core(version) if version else Path(sys.executable).parent
            if programs is None:
                sys.exit(f"ansible-core {version} requires a newer Python than this machine has.")
            content.append(sanity(programs, checkout, CACHE / "ansible-test"))
    sys.exit(not all(content))


if __name__ == "__main__":
    main()
