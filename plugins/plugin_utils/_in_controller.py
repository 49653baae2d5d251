# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs modules in the controller, if they would run on the same machine and with the same Python anyway.

A module usually starts a Python of its own and imports SDKs, which takes longer than the work of the module. The
strategy loads a task's action plugin before it forks the worker that runs the task, so an import in an action plugin
happens once for a whole run. The worker forks once more, and the module runs in that fork as usual: with its own
arguments and output.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from ansible import constants
from ansible.module_utils import basic
from ansible.plugins.action import ActionBase
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible.plugins.loader import filter_loader
from ansible.release import __version__

# This module uses methods of ActionBase that are not public. The tests run with each release of ansible-core up to this
# one; newer releases start modules as usual.
NEWEST_KNOWN = (2, 21)
CORE = tuple(int(part) for part in __version__.split(".")[:2])

# The serialization profile of arguments and results from ansible-core 2.19 on, for modules that do not choose one.
PROFILE = "legacy"
HAS_PROFILES = hasattr(basic, "_ANSIBLE_PROFILE")

# The seconds that a module has to end, for example if its task has timed out.
EXIT_SECONDS = 5


def preload(module: str, *aws_services: str) -> None:
    """Import the module, so that each fork has it, its SDK and the SDK's descriptions of the services that it uses.

    The module reports a failed import when it runs.
    """
    with contextlib.suppress(ImportError):
        imported(module)
        for service in aws_services:
            _botocores_loader().load_service_model(service, "service-2")
    # Ansible loads all filters of a collection if a template uses one of them: every fork would load them again.
    filter_loader.get("osc.peerpods.as_bool")
    # Otherwise the garbage collector of every fork would visit all imported objects, and so copy their memory.
    gc.freeze()


@functools.cache
def _botocores_loader() -> Any:
    """botocore's loader of descriptions, for all of its sessions. Each of them would have its own, which takes a tenth
    of a second for that of EC2. Raises ImportError.
    """
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    return botocore.session.Session().get_component("data_loader")


def renamed(task: Any, module: str) -> Any:
    """A copy of the task that runs the `module` of another collection."""
    original = copy.copy(task)
    original.action = module
    return original


def imported(module: str) -> Any:
    """The Python module of an Ansible module with a full name such as osc.peerpods.peerpod_info."""
    namespace, collection, name = module.split(".")
    return importlib.import_module(f"ansible_collections.{namespace}.{collection}.plugins.modules.{name}")


class InController(ActionBase):
    """An action that runs modules of collections in the controller if possible, and otherwise starts them as usual."""

    def _execute_module(
        self,
        module_name: str | None = None,
        module_args: dict[str, Any] | None = None,
        task_vars: dict[str, Any] | None = None,
        wrap_async: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        task_vars = task_vars or {}
        name = module_name or self._task.action
        arguments = self._task.args if module_args is None else module_args
        if wrap_async or self._task.async_val or not self._is_here(task_vars):
            return super()._execute_module(
                module_name=name,
                module_args=arguments,
                task_vars=task_vars,
                wrap_async=wrap_async,
                **kwargs,
            )
        arguments = dict(arguments)
        self._update_module_args(name, arguments, task_vars)
        ran = run_forked(functools.partial(self._run_here, name), _encoded(arguments))
        result = self._parse_returned_data(ran, *([PROFILE] if HAS_PROFILES else []))
        # From ansible-core 2.21 on, the result is an object.
        return result if isinstance(result, dict) else result.as_result_dict(for_round_trip=True)

    def _run_here(self, name: str) -> None:
        """Run the module in this process, which was forked for it."""
        imported(name).main()

    def _is_here(self, task_vars: Mapping[str, Any]) -> bool:
        """Whether the module would run on the controller, as its user, with its Python, and without files to keep."""
        if (
            CORE > NEWEST_KNOWN
            or constants.DEFAULT_KEEP_REMOTE_FILES
            or self._connection.transport != "local"
            or self._connection.become is not None
        ):
            return False
        # SDKs read some variables when they are imported, such as KUBECONFIG in kubernetes.config.
        environment: dict[str, Any] = {}
        self._compute_environment_string(environment)
        if environment:
            return False
        delegated = task_vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to)
        interpreter = (delegated or task_vars).get("ansible_python_interpreter")
        return self._templar.template(interpreter) == sys.executable


class ModuleInController(InController, NormalAction):
    """The action of a module: runs it once."""


def _encoded(arguments: Mapping[str, Any]) -> bytes:
    parameters = {"ANSIBLE_MODULE_ARGS": arguments}
    if HAS_PROFILES:
        from ansible.module_utils.common.json import Direction, get_module_encoder

        encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
        return json.dumps(parameters, cls=encoder).encode()
    from ansible.module_utils.common.json import AnsibleJSONEncoder

    return json.dumps(parameters, cls=AnsibleJSONEncoder, vault_to_text=True).encode()


def run_forked(main: Callable[[], None], parameters: bytes) -> dict[str, Any]:
    """Run the `main` of a module in a fork; returns a dict like that of a command which Ansible executes.

    `parameters` is the JSON object that Ansible passes to modules.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            run_module(main, parameters, stdout, stderr)
        status = None
        try:
            _pid, status = os.waitpid(child, 0)
        finally:
            # The timeout of the task, or the end of the run.
            if status is None:
                _end(child)
        return {
            "rc": os.waitstatus_to_exitcode(status),
            "stdout": _text(stdout),
            "stderr": _text(stderr),
        }


def _end(child: int) -> None:
    """End a module that runs, if possible after it has removed its files."""
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + EXIT_SECONDS
    while time.monotonic() < deadline:
        pid, _status = os.waitpid(child, os.WNOHANG)
        if pid:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="surrogateescape")


def run_module(main: Callable[[], None], parameters: bytes, stdout: IO[bytes], stderr: IO[bytes]) -> None:
    """Run the `main` of a module in a process that was forked for it. Never returns: no code of the parent may run in
    this process afterwards.
    """
    code = 1
    try:
        # The worker's handlers are not the module's: they would delete the temporary directory of the controller.
        atexit._clear()
        code = _status_of(main, parameters, stdout, stderr)
        _on_signals(signal.SIG_IGN)
        # Kubernetes' client writes the keys of a kubeconfig to files, and deletes them then.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _status_of(main: Callable[[], None], parameters: bytes, stdout: IO[bytes], stderr: IO[bytes]) -> int:
    """The exit status of the module, in the process that has been forked for it."""
    try:
        # Those of the worker would end this process without its handlers of the exit.
        _on_signals(lambda *_signal: sys.exit(1))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        basic._ANSIBLE_ARGS = parameters
        if HAS_PROFILES:
            from ansible.module_utils import _internal

            basic._ANSIBLE_PROFILE = PROFILE
            # The warnings of a module are part of its result; the controller would show them on its display.
            _internal.is_controller = False
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception:  # noqa: BLE001 - any exception is part of the module's output.
        traceback.print_exc()
    return 1


def _on_signals(handler: Callable[..., object] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
