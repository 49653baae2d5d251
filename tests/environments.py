"""The cache outside the tree, and in it environments for programs of PyPI that cannot live in ours."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "osc.peerpods"

# The first ansible-core that the oldest Python that we support is too old for.
NEEDS_NEWER_PYTHON = "2.20"


def own_environment(name: str, *requirements: str, python: str = sys.executable) -> Path:
    """The bin directory of a virtual environment in the cache, installed where it is missing.

    `requirements` are as `uv pip install` takes them; one that pins a version names itself.
    """
    directory = CACHE / name.replace("==", "-")
    CACHE.mkdir(parents=True, exist_ok=True)
    # Of several test processes one installs, and the others wait.
    with open(CACHE / f".{directory.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "installed").exists():
            print(f"Installing {name} from PyPI into {directory}", file=sys.stderr, flush=True)
            uv = [sys.executable, "-m", "uv"]
            subprocess.run(
                [*uv, "venv", "--quiet", "--clear", "--python", python, directory],
                check=True,
            )
            # Compiled now, as pip does it: where nothing may be written later, each run would.
            subprocess.run(
                [
                    *uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--compile-bytecode",
                    "--python",
                    directory,
                    *(requirements or [name]),
                ],
                check=True,
            )
            (directory / "installed").touch()
    return directory / "bin"


def ansible_core(version: str) -> Path | None:
    """The bin directory of ansible-core `version`, such as 2.17, with what the collection needs and
    nothing else; None where this machine's Pythons are too old for it."""
    python = sys.executable if version < NEEDS_NEWER_PYTHON else newer_python()
    return python and own_environment(
        f"ansible-core-{version}",
        f"ansible-core=={version}.*",
        "-r",
        str(ROOT / "requirements.txt"),
        python=python,
    )


def newer_python() -> str | None:
    """A Python newer than the oldest that we support (3.11): on the PATH, or beside the one we run."""
    beside = Path(sys.base_prefix).parent
    for minor in range(12, 15):
        found = (shutil.which(f"python3.{minor}"), *beside.glob(f"*3.{minor}.*/bin/python3"))
        for program in filter(None, found):
            # One that stands there may be another program's placeholder.
            if not subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode:
                return str(program)
    return None
