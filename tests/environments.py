"""The cache outside the repository, with virtual environments for programs that conflict with those of .venv."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "osc.peerpods"

# The first ansible-core that does not run on Python 3.11, and the first Python that it runs on.
NEEDS_NEWER_PYTHON = "2.20"
NEWER_PYTHON = (3, 12)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of the file: one of several test processes makes what is missing, and the others wait for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def own_environment(name: str, *requirements: str, python: str = sys.executable) -> Path:
    """The bin directory of a virtual environment in the cache, which is created if it does not exist.

    `requirements` are those of `uv pip install`; by default, `name` is the only one. For another Python or other
    requirements, also in a file that they name, the environment is created again.
    """
    directory = CACHE / name.replace("==", "-")
    installed = directory / "installed"
    made_of = _made_of(python, requirements)
    with locked(CACHE / f".{directory.name}.lock"):
        if not installed.exists() or installed.read_text() != made_of:
            print(f"Installing {name} from PyPI into {directory}", file=sys.stderr, flush=True)
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, directory], check=True)
            # Compiled now, as pip does: if Python may not write bytecode later, each run would compile.
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
            installed.write_text(made_of)
    return directory / "bin"


def _made_of(python: str, requirements: tuple[str, ...]) -> str:
    """What an environment is made of; the same in each clone of the repository."""
    made_of = [_read_from(python, "sys.base_prefix + ' ' + sys.version")]
    arguments = iter(requirements)
    for argument in arguments:
        made_of.append(Path(next(arguments)).read_text() if argument == "-r" else argument)
    return "\n".join(made_of)


def ansible_core(version: str) -> Path | None:
    """The bin directory of ansible-core `version`, such as 2.17, with what the collection requires and nothing else.

    None if all Pythons of this machine are too old for it.
    """
    new_enough = version < NEEDS_NEWER_PYTHON or sys.version_info >= NEWER_PYTHON
    python = sys.executable if new_enough else find_newer_python()
    if python is None:
        return None
    return own_environment(
        f"ansible-core-{version}-python{sys.version_info.minor}",
        f"ansible-core=={version}.*",
        "-r",
        str(ROOT / "requirements.txt"),
        python=python,
    )


def find_newer_python() -> str | None:
    """A Python that NEEDS_NEWER_PYTHON runs on: on the PATH, or installed next to one that is."""
    prefixes = {_prefix_of(Path(directory, "python3")) for directory in os.get_exec_path()}
    installed = sorted(Path(prefix).parent for prefix in prefixes if prefix)
    for minor in range(NEWER_PYTHON[1], NEWER_PYTHON[1] + 3):
        candidates = (
            shutil.which(f"python3.{minor}"),
            *(program for directory in installed for program in directory.glob(f"*3.{minor}.*/bin/python3")),
        )
        for program in candidates:
            if program and _prefix_of(Path(program)):
                return str(program)
    return None


def _prefix_of(python: Path) -> str | None:
    """The prefix of its installation; None for a placeholder of a version manager, and if it does not exist."""
    try:
        return _read_from(python, "sys.base_prefix")
    except (OSError, subprocess.CalledProcessError):
        return None


def _read_from(python: Path | str, expression: str) -> str:
    program = f"import sys; print({expression})"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
