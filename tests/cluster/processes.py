"""Child processes that end with their parent: after Ctrl-C, after a crash, and after kill -9."""

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

# How long programs may take to start, several clusters at the same time on a busy machine.
START_SECONDS = 120


class StartError(Exception):
    """A program of the test cluster did not start. The message has its name and the end of its log."""


class Program(NamedTuple):
    """A running program, and the function that starts it again."""

    name: str
    start: Callable[[], subprocess.Popen]
    process: subprocess.Popen


class Processes:
    """The child processes of one cluster, stopped in the reverse order of their start.

    Start them from the main thread: the kernel ends a child with the thread that started it.
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
        death_signal: str = "KILL",
    ) -> subprocess.Popen:
        """Start `command`; its output goes to `<logs>/<name>.log`.

        `death_signal` is the signal that the kernel sends to it if this process ends without stopping it
        (PR_SET_PDEATHSIG, set with setpriv of util-linux).
        """

        def start() -> subprocess.Popen:
            with open(self._log(name), "ab") as log:
                return subprocess.Popen(
                    ["setpriv", "--pdeathsig", death_signal, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(environment or {})},
                    # Ctrl-C at a terminal signals the foreground process group. Only this process handles it.
                    process_group=0,
                )

        if name in self._ended:
            self._running = [program for program in self._running if program.name != name]
            self._ended.remove(name)
        process = start()
        self._running.append(Program(name, start, process))
        return process

    def restart(self, name: str, down_seconds: float = 0) -> subprocess.Popen:
        """Stop one program with SIGTERM, and start it again with the same arguments after a pause."""
        index, program = next((index, program) for index, program in enumerate(self._running) if program.name == name)
        _stop(program.process)
        time.sleep(down_seconds)
        self._running[index] = program._replace(process=program.start())
        self._ended.discard(name)
        return self._running[index].process

    def end(self, name: str) -> None:
        """Stop one program until it is started again; `check_alive` accepts that."""
        for program in self._running:
            if program.name == name:
                _stop(program.process)
        self._ended.add(name)

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Suspend one program in the context: its connections stay open, and it does not answer."""
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
            process.wait(timeout=60)
        if process.poll() is None:
            process.kill()
            process.wait()


def unwind_on_signals() -> None:
    """Turn SIGINT and SIGTERM into exceptions, so that every `with` block stops what it started.

    SIGINT as well: a shell without job control starts what it puts into the background
    with that signal ignored, and Python leaves it so.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


# Names in the kernel that reserve the ports of this process until it ends.
_reservations: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free on every address. No other process gets them here while this process runs.

    A program takes a second or more to listen on its port, and does not listen while it is restarted. Ephemeral ports
    are left out: a connection could take one before a program listens on it.
    """
    ports: list[int] = []
    while len(ports) < count:
        # The default generator may be seeded, and would choose the same ports in parallel processes.
        port = random.SystemRandom().randrange(20_000, 30_000)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            # An abstract address has no file, and belongs to the network namespace, as ports do.
            reservation.bind(f"\0osc.peerpods port {port}")
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        ports.append(port)
    return ports


def wait_for(subject: str, ready: Callable[[], T | None], *, seconds: float, every: float = 0.1) -> T:
    """Poll `ready()` until it returns a true value, and return that; StartError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise StartError(f"{subject} was not ready after {seconds:.0f} s.")
        time.sleep(every)
