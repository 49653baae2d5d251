"""Runs the modules unchanged, each in its own process, without `ansible`.

`ansible localhost -m …` takes most of its time to start itself, a worker, and a Python with the imports of the module.
Here, a server with these imports is forked for each run. What ansible adds (templates, connections, `no_log` in its
output) is tested with playbooks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from functools import cache, partial
from multiprocessing.context import ForkServerContext
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

# It has no code of its own.
OF_KUBERNETES_CORE = ("k8s_info",)


def run(name: str, arguments: dict[str, Any], environment: dict[str, str], directory: Path) -> dict:
    """The result of the module `name`; `arguments` may include ansible's own, such as _ansible_check_mode.

    Raises RuntimeError with the output if it is not a result.
    """
    with tempfile.TemporaryDirectory() as outputs:
        process = server_of_modules().Process(target=_run, args=(outputs, name, arguments, environment, directory))
        process.start()
        process.join()
        stdout, stderr = (path.read_text() if path.exists() else "" for path in _output_files(outputs))
    try:
        result = json.loads(stdout)
    except ValueError:
        ended = f"status {process.exitcode}, output {stdout!r}, errors {stderr!r}"
        raise RuntimeError(f"{name} wrote no result: {ended}") from None
    if "warnings" in result:
        result["warnings"] = [warning["event"]["msg"] for warning in result["warnings"]]
    return result


@cache
def server_of_modules() -> ForkServerContext:
    """Forks the processes that run modules. It listens on a Unix socket in multiprocessing's directory."""
    # The path of the socket has 107 bytes at most (unix(7)), which TMPDIR may exceed. Python 3.14 leaves it out then.
    before = tempfile.tempdir
    tempfile.tempdir = "/tmp"
    get_temp_dir()
    tempfile.tempdir = before
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.modules_imported"])
    return context


def _output_files(directory: str) -> tuple[Path, Path]:
    return Path(directory, "stdout"), Path(directory, "stderr")


def _run(outputs: str, name: str, arguments: dict, environment: dict[str, str], directory: Path) -> None:
    # The server has initialized the loader of collections.
    from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import imported, run_module
    from ansible_collections.osc.peerpods.plugins.plugin_utils._kubernetes_core import run_persistently

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    parameters = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    main = (
        imported(f"osc.peerpods.{name}").main
        if name not in OF_KUBERNETES_CORE
        else partial(run_persistently, f"kubernetes.core.{name}")
    )
    stdout, stderr = _output_files(outputs)
    with stdout.open("wb") as to_stdout, stderr.open("wb") as to_stderr:
        run_module(main, parameters, to_stdout, to_stderr)
