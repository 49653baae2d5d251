"""The data with which clusters start, made once and kept in the cache.

An API server with an empty etcd writes its roles, priority classes and flow schemas, and then takes one
CustomResourceDefinition of OpenShift after the other. With the data of an API server that has done so, a cluster starts
as after a restart, in half the CPU time.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.environments import CACHE, locked


def seed(inputs: Iterable[bytes], grow: Callable[[Path], None]) -> Path:
    """The directory in the cache that `grow` has written for the same inputs; it is called if the cache has none."""
    key = hashlib.sha256()
    for content in inputs:
        key.update(b"%d:%b" % (len(content), content))
    directory = CACHE / "seeds" / key.hexdigest()[:16]
    if directory.exists():
        return directory
    with locked(directory.with_suffix(".lock")):
        if not directory.exists():
            growing = directory.with_suffix(".part")
            shutil.rmtree(growing, ignore_errors=True)
            grow(growing)
            growing.rename(directory)
    return directory


def copy(directory: Path, target: Path) -> None:
    """Copy a directory with sparse files: etcd allocates its write-ahead log in advance, and most of it is empty."""
    subprocess.run(["cp", "--recursive", "--sparse=always", str(directory), str(target)], check=True)
