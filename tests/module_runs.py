"""Runs our modules as they are, each in a process of its own, without `ansible` around it.

`ansible localhost -m …` takes most of its time to start: itself, a worker, and a Python that imports what the module
imports. Here a server that has imported all that is forked for each run. What ansible adds (templates, connections,
`no_log` in its output) is tested where a playbook runs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ansible.module_utils import _internal, basic

MODULES = "ansible_collections.osc.peerpods.plugins.modules"


def run(name: str, arguments: dict[str, Any], environment: dict[str, str], directory: Path) -> dict:
    """What the module `name` returns; `arguments` include those of ansible's own, such as _ansible_check_mode.

    Raises RuntimeError with all that it wrote where that is no result.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.modules_imported"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_run, args=(sender, name, json.dumps(arguments), environment, str(directory))
    )
    process.start()
    sender.close()
    try:
        written, errors = receiver.recv()
    except EOFError:
        written, errors = "", "It ended without a word."
    finally:
        process.join()
        receiver.close()
    try:
        result = json.loads(written)
    except ValueError:
        raise RuntimeError(f"{name} wrote no result:\n{written}\n{errors}") from None
    if "warnings" in result:
        result["warnings"] = [warning["event"]["msg"] for warning in result["warnings"]]
    return result


def _run(
    sender: Connection, name: str, arguments: str, environment: dict[str, str], directory: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    # Importing the collection made this a controller, whose warnings are displayed and not in the result.
    _internal.is_controller = False
    basic._ANSIBLE_ARGS = f'{{"ANSIBLE_MODULE_ARGS": {arguments}}}'.encode()
    basic._ANSIBLE_PROFILE = "legacy"
    written, errors = io.StringIO(), ""
    with contextlib.redirect_stdout(written):
        try:
            importlib.import_module(f"{MODULES}.{name}").main()
        except SystemExit:
            pass
        except BaseException:  # noqa: BLE001
            errors = traceback.format_exc()
    sender.send((written.getvalue(), errors))
