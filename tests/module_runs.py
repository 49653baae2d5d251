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
from multiprocessing.connection import Connection
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
    context = server_of_modules()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, name, arguments, environment, directory))
    process.start()
    sender.close()
    output = receiver.recv()
    process.join()
    receiver.close()
    try:
        result = json.loads(output["stdout"])
    except ValueError:
        raise RuntimeError(f"{name} wrote no result: {output}") from None
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


def _run(sender: Connection, name: str, arguments: dict, environment: dict[str, str], directory: Path) -> None:
    # The server has initialized the loader of collections.
    from ansible_collections.osc.peerpods.plugins.plugin_utils._in_controller import imported, run_forked
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
    sender.send(run_forked(main, parameters))
