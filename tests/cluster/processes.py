"""Child processes that never outlive us: not after Ctrl-C, not after a crash, not after kill -9."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class StartError(Exception):
    """A program of the test cluster did not come up; says which and shows its last words."""


class Program(NamedTuple):
    """One of them, and how to start it again."""

    name: str
    start: Callable[[], subprocess.Popen]
    process: subprocess.Popen


class Processes:
    """The children of one cluster, stopped in the reverse of the order they were started in.

    Start them from the main thread: the kernel ends a child with the *thread* that made it.
    """

    def __init__(self, logs: Path):
        self._logs = logs
        self._running: list[Program] = []
        self._ended: set[str] = set()

    def start(
        self,
        name: str,
        command: list[str],
        *,
        environment: dict[str, str] | None = None,
        on_our_death: str = "KILL",
    ) -> subprocess.Popen:
        """Start `command`; its output goes to `<logs>/<name>.log`.

        `on_our_death` is the signal the kernel sends it when we die without having
        stopped it (PR_SET_PDEATHSIG, by util-linux' setpriv).
        """

        def start() -> subprocess.Popen:
            with open(self._log(name), "ab") as log:
                return subprocess.Popen(
                    ["setpriv", "--pdeathsig", on_our_death, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(environment or {})},
                    # Ctrl-C at a terminal reaches the foreground group: ours to handle, not theirs.
                    process_group=0,
                )

        if name in self._ended:
            self._running = [program for program in self._running if program.name != name]
            self._ended.remove(name)
        process = start()
        self._running.append(Program(name, start, process))
        return process

    def restart(self, name: str, down_seconds: float = 0) -> subprocess.Popen:
        """Stop one program with SIGTERM, and start it anew with the same arguments, after a while."""
        index, program = next((index, program) for index, program in enumerate(self._running) if program.name == name)
        _stop(program.process)
        time.sleep(down_seconds)
        self._running[index] = program._replace(process=program.start())
        self._ended.discard(name)
        return self._running[index].process

    def end(self, name: str) -> None:
        """Stop one program, which `check_alive` then accepts, until it is started again."""
        for program in self._running:
            if program.name == name:
                _stop(program.process)
        self._ended.add(name)

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """One program hangs meanwhile: its connections stay open, and it does nothing."""
        process = next(program.process for program in self._running if program.name == name)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def failure(self, name: str, why: str) -> StartError:
        tail = self._log(name).read_text(errors="replace").splitlines()[-15:]
        return StartError("\n  ".join([f"{name} {why}; its log ends with:", *tail]))

    def check_alive(self) -> None:
        for name, _, process in self._running:
            if name not in self._ended and process.poll() is not None:
                raise self.failure(name, f"ended with status {process.returncode}")

    def stop(self) -> None:
        for program in reversed(self._running):
            _stop(program.process)
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        if process.poll() is None:
            process.kill()
            process.wait()


def unwind_on_signals() -> None:
    """Make SIGINT and SIGTERM exceptions, so that every `with` on the way out stops what it started.

    SIGINT as well: a shell without job control starts what it puts into the background
    with that signal ignored, and Python leaves it so.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free at this moment on every address.

    None of those that the kernel gives to connections, which could take it before it is listened at.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            # Whoever seeds the other generator gets the same ports as the process beside it.
            port = random.SystemRandom().randrange(20_000, 30_000)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("", port))
                ports.append(port)
    return ports


def wait_for(what: str, ready: Callable[[], T | None], *, seconds: float, every: float = 0.1) -> T:
    """Poll `ready()` until it is truthy and return that; StartError when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise StartError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(every)
