"""Load by h2load on servers, and the CPU time and memory that they use.

h2load costs a few microseconds of CPU a request, while a client in Python costs more than the
measured servers: on shared cores, the share of h2load is small in every figure.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# Seconds before the measured window, for TLS handshakes and earlier work of the server.
WARM_UP = 1.0
# Seconds after the window, so that the load does not end within it.
TAIL = 0.3


@dataclass(frozen=True)
class Stream:
    """One body that is sent repeatedly: `concurrency` requests are always in progress.

    HTTP/1.1 takes a connection for each; HTTP/2 has them all on one.
    """

    url: str
    body: bytes
    concurrency: int
    http2: bool = False
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """Some seconds of steady load.

    Latencies in ms; `cpu_ms` is CPU time for each answer, a figure for each process in
    question, None if it is not accessible; `answers` are counted for each stream.
    """

    per_second: float
    p50: float
    p99: float
    p999: float
    cpu_ms: tuple[float | None, ...]
    answers: tuple[int, ...]


def measure(streams: Sequence[Stream], processes: Sequence[Path | None], seconds: float) -> Window:
    """Run all `streams` in parallel, and measure for `seconds` when all of them have started.

    Raises RuntimeError where h2load fails, or any answer's status is not 2xx.
    """
    with tempfile.TemporaryDirectory(prefix="osc-peerpods-load-") as scratch:
        logs = [Path(scratch, f"{index}.log") for index in range(len(streams))]
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(_h2load(stream, log, WARM_UP + seconds + TAIL))
                for stream, log in zip(streams, logs, strict=True)
            ]
            time.sleep(WARM_UP)
            began, before = time.time(), [cpu_seconds(process) for process in processes]
            time.sleep(seconds)
            ended, after = time.time(), [cpu_seconds(process) for process in processes]
            for process in running:
                output, _ = process.communicate()
                if process.returncode:
                    raise RuntimeError(f"h2load ended with {process.returncode}: {output}")
        latencies = [_latencies(log, began, ended) for log in logs]
    ordered = sorted(latency for client_latencies in latencies for latency in client_latencies)
    if not ordered:
        raise RuntimeError(f"{streams[0].url} answered nothing in {seconds} s: look at its log, or take longer.")
    return Window(
        per_second=len(ordered) / (ended - began),
        p50=_percentile(ordered, 0.5),
        p99=_percentile(ordered, 0.99),
        p999=_percentile(ordered, 0.999),
        cpu_ms=tuple(
            None if then is None or now is None else (now - then) / len(ordered) * 1000
            for then, now in zip(before, after, strict=True)
        ),
        answers=tuple(map(len, latencies)),
    )


@contextlib.contextmanager
def _h2load(stream: Stream, log: Path, seconds: float):
    body = log.with_suffix(".body")
    body.write_bytes(stream.body)
    how = (
        ["--clients=1", f"--max-concurrent-streams={stream.concurrency}"]
        if stream.http2
        else ["--h1", f"--clients={stream.concurrency}"]
    )
    process = subprocess.Popen(
        [
            "h2load",
            *how,
            f"--duration={seconds * 1000:.0f}ms",
            f"--data={body}",
            f"--log-file={log}",
            *(f"--header={header}" for header in stream.headers),
            stream.url,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()


def _latencies(log: Path, began: float, ended: float) -> list[float]:
    """Of the answers that were complete between the two times of day. ms."""
    latencies = []
    with log.open() as lines:
        for line in lines:
            started, status, took = map(int, line.split("\t"))
            if not 200 <= status < 300:
                raise RuntimeError(
                    f"A request came back with {status} (-1: without an answer), so that there is "
                    "nothing to compare: look at the server's log."
                )
            if began <= (started + took) / 1e6 < ended:
                latencies.append(took / 1000)
    return latencies


def _percentile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def version() -> str:
    return subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def listener(url: str) -> Path | None:
    """The /proc directory of the process that listens at a URL of this machine.

    None where the URL is another machine's, or the process another user's.
    """
    parts = urlsplit(url)
    if not ipaddress.ip_address(socket.gethostbyname(parts.hostname or "")).is_loopback:
        return None
    listening = "0A"
    sockets = set()
    for table in ("tcp", "tcp6"):
        for row in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *columns = row.split()
            if state == listening and int(local.rpartition(":")[2], 16) == (parts.port or 443):
                sockets.add(f"socket:[{columns[5]}]")
    for process in Path("/proc").glob("[0-9]*"):
        # Other users' processes cannot be read, and any process can end in the meantime.
        with contextlib.suppress(OSError):
            if any(os.readlink(descriptor) in sockets for descriptor in (process / "fd").iterdir()):
                return process
    return None


def cpu_seconds(process: Path | None) -> float | None:
    if process is None:
        return None
    user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: Path | None) -> float | None:
    if process is None:
        return None
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
