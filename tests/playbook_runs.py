"""Runs ansible-playbook in forks of a process that has imported it, this collection and the libraries of the modules.

An `ansible-playbook` takes half a second of CPU time to import itself and these libraries, and compiles the Python
files of collections in each run. It forks a worker for each task, which takes 20 ms, mostly to copy the memory
that both use; here, the tasks run in the process of the play, one after another, as they do for a single host.

What users start is a process of its own with workers: in the tests of the installed collection, in those of the
documented commands, in runs that are killed (`Site.run_and_kill`), in `make demo`, and in molecule's scenarios.

`python -m tests.playbook_runs` is the process with the imports. It reads a run per line from its standard input, and
writes the exit code of each. It ends when its parent does.

The replaced worker is that of one release of ansible-core, which requirements.txt pins for Python 3.11. With another
release, each run is a process of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ansible.release import __version__

from tests.compiled_templates import keep_compiled_templates
from tests.support import ROOT

# What Ansible and the Kubernetes client read when they are imported. Runs with different values have different servers.
READ_BY_IMPORTS = ("ANSIBLE_", "KUBECONFIG", "HOME")

IMPORTS = ("ansible.cli.playbook", "boto3", "kubernetes.config", "kubernetes.dynamic", "tests.modules_imported")


CORE_OF_THE_WORKER = "2.19."


class Run(NamedTuple):
    command: list[str]
    environment: dict[str, str]
    directory: str
    stdout: str
    stderr: str


def run_playbook(
    command: Sequence[str], environment: dict[str, str], directory: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` returns for the command `ansible-playbook …`."""
    if not __version__.startswith(CORE_OF_THE_WORKER):
        return subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, check=False)
    settings = frozenset(item for item in environment.items() if item[0].startswith(READ_BY_IMPORTS))
    server = _server(settings)
    with tempfile.TemporaryDirectory() as outputs:
        stdout, stderr = Path(outputs, "stdout"), Path(outputs, "stderr")
        run = Run(list(command), environment, str(directory), str(stdout), str(stderr))
        print(json.dumps(run), file=server.stdin, flush=True)
        status = server.stdout.readline()
        if not status:
            raise RuntimeError(f"The server of playbook runs ended with status {server.wait()}.")
        return subprocess.CompletedProcess(command, int(status), stdout.read_text(), stderr.read_text())


@cache
def _server(settings: frozenset[tuple[str, str]]) -> subprocess.Popen[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(READ_BY_IMPORTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.playbook_runs"],
        env={**others, **dict(settings)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def serve() -> None:
    for library in IMPORTS:
        importlib.import_module(library)
    # The imports of the collection have initialized the loader that ansible-playbook would initialize.
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    _replace_workers()
    keep_compiled_templates()
    # The garbage collector of every fork would look at all of it, which also copies its memory.
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _play(Run(*json.loads(line)))
        _pid, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _replace_workers() -> None:
    """Run the tasks of plays in the process that starts the workers."""
    from ansible._internal import _task
    from ansible.executor.process import worker
    from ansible.executor.task_executor import TaskExecutor
    from ansible.plugins import strategy

    class TaskInProcess(worker.WorkerProcess):
        """What WorkerProcess does in the fork, without what only serves to part it from the parent."""

        exitcode = 0

        def start(self) -> None:
            worker.current_worker = self
            with _task.TaskContext(self._task):
                result = TaskExecutor(
                    self._host,
                    self._task,
                    self._task_vars,
                    self._play_context,
                    self._loader,
                    self._shared_loader_obj,
                    self._final_q,
                    self._variable_manager,
                ).run()
                fields = self._task.dump_attrs()
                self._final_q.send_task_result(
                    worker._RawTaskResult(host=self._host, task=self._task, return_data=result, task_fields=fields)
                )

        def is_alive(self) -> bool:
            return False

        def close(self) -> None:
            """There is no process."""

    strategy.WorkerProcess = TaskInProcess


def _play(run: Run) -> None:
    """Run ansible-playbook in the forked process. Never returns."""
    from ansible.cli import playbook

    code = 1
    # Handlers of the server, such as for its temporary directory, run when the server ends.
    atexit._clear()
    try:
        os.environ.clear()
        os.environ.update(run.environment)
        os.chdir(run.directory)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(run.stdout, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(run.stderr, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = run.command
        playbook.main()
    except SystemExit as end:
        code = end.code
    except Exception:  # noqa: BLE001 - whatever it is belongs to the output of the run.
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
