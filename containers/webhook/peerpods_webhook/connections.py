# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bounds on the connections of clients, so that a new client always gets an answer.

granian accepts every connection, bounds only the sum of those that have completed their TLS handshake, and keeps a
connection over HTTP/2 open for as long as its client answers pings. This module looks at the sockets of the process,
and shuts down those beyond the bounds: granian then finds that the client has disconnected.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .listener import BACKLOG
from .log import log
from .metrics import CONNECTIONS, CONNECTIONS_CLOSED

# The bounds for one port, with enough file descriptors.
TOTAL, PER_CLIENT = 1024, 512

# Connections that were opened or used within so many seconds do not count as those of one client: an API server opens a
# connection for each concurrent review, and keeps 25 of them.
BURST_SECONDS = 2.0

# File descriptors that are used for other purposes, and those of them that only `Guard` may use.
OTHER_FILES, SPARE_FILES = 64, 16

# More than the bounds, because a client opens thousands of connections between two passes of the guard, and not more
# than the memory of the container permits.
WANTED_FILES = 8192

# Seconds between two passes of the guard: with, and without new connections.
BUSY_SECONDS, QUIET_SECONDS = 0.02, 1.0

# How long granian may take to close connections that were shut down, and how often that is checked, in seconds.
CLOSE_SECONDS, CLOSE_INTERVAL = 1.0, 0.002

# The shortest interval between two log lines about closed connections, in seconds.
LOG_SECONDS = 10.0

# Why a connection is closed.
CLIENT, ALL, IDLE, FILES = "client", "all", "idle", "files"

# The time of the last request, by the address of the client as in `Scope.client`.
Requests = dict[str, float]


class Bounds(NamedTuple):
    """The maximum number of connections of one port, those of one client, and the time without a request."""

    total: int
    per_client: int
    idle_seconds: float


class Connection(NamedTuple):
    """A connection of a client to a port of this process. `address` is that of the client, with its port."""

    port: int
    client: str
    address: str
    opened_at: float


def bounds(files: int, idle_seconds: float) -> Bounds:
    """The bounds for a process that may open so many files.

    Each of two ports takes a quarter. The rest is for connections that are opened before the guard's next pass.
    """
    total = max(4, min(TOTAL, (files - OTHER_FILES) // 4))
    return Bounds(total, min(PER_CLIENT, total // 2), idle_seconds)


def excess(
    connections: Iterable[Connection], requests: Mapping[str, float], limits: Bounds, now: float
) -> Iterator[tuple[Connection, str]]:
    """The connections of one port to close, each with the reason.

    Of a client, those without any request are closed first, then those whose last request is the longest ago. If all
    clients together have too many, the clients with the most connections lose them, also in a burst. If there are more
    clients than that, those without any request lose theirs first.
    """
    by_client: dict[str, list[tuple[bool, float, Connection]]] = defaultdict(list)
    for connection in connections:
        last_request = requests.get(connection.address)
        used_at = connection.opened_at if last_request is None else last_request
        if now - used_at > limits.idle_seconds:
            yield connection, IDLE
        else:
            by_client[connection.client].append((last_request is not None, used_at, connection))
    share = _fair_share(map(len, by_client.values()), limits.total)
    remaining = []
    for held in by_client.values():
        held.sort()
        for position, (_has_requests, used_at, connection) in enumerate(held):
            left = len(held) - position
            if left > share:
                yield connection, ALL
            elif left > limits.per_client and now - used_at > BURST_SECONDS:
                yield connection, CLIENT
            else:
                remaining.append(held[position])
    # One connection of each client is left.
    for _has_requests, _used_at, connection in sorted(remaining)[: max(0, len(remaining) - limits.total)]:
        yield connection, ALL


def _fair_share(counts: Iterable[int], total: int) -> int:
    """The highest number of connections per client with which all clients together have at most `total`."""
    ascending = sorted(counts)
    left = total
    for position, count in enumerate(ascending):
        share = left // (len(ascending) - position)
        if count > share:
            return max(1, share)
        left -= count
    return total


def set_file_limit() -> int:
    """Set the soft limit of open files to WANTED_FILES, or to what is permitted. Returns it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = (WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)) - SPARE_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


class Guard:
    """Keeps the connections to the listening sockets within bounds, in a thread of its own.

    `requests` is filled by the applications.
    """

    def __init__(self, listening: Iterable[socket.socket], requests: Requests, limits: Bounds):
        self._listening = {sock.getsockname()[1]: sock for sock in listening}
        for sock in self._listening.values():
            sock.setblocking(False)
        self._requests = requests
        self._limits = limits
        # A listening socket without an address that a client could know.
        self._empty = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._empty.bind("")
        self._empty.listen(1)
        # By the name of a socket (socket:[inode]); None for other sockets, and for those that have been shut down.
        self._known: dict[str, Connection | None] = {}
        self._closed: Counter[tuple[str, str]] = Counter()
        self._logged_at = -LOG_SECONDS

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        arrivals = select.epoll()
        for listening in self._listening.values():
            # Edge-triggered: one event for each arrival, no matter when granian accepts it.
            arrivals.register(listening, select.EPOLLIN | select.EPOLLET)
        while True:
            arrivals.poll(QUIET_SECONDS)
            time.sleep(BUSY_SECONDS)
            # What fails, such as for want of memory, is tried again in the next pass.
            with contextlib.suppress(OSError):
                try:
                    self._enforce()
                except OSError as error:
                    if error.errno == errno.EMFILE:
                        self._free_files()
            self._log()

    def _enforce(self, instead_of_all: str = ALL) -> set[str]:
        """Shut down what is beyond the bounds, with the reason `instead_of_all` for ALL. Returns the names of the
        sockets that are shut down and not closed yet."""
        now = time.monotonic()
        files = dict(_open_sockets(_open_files()))
        self._forget(files.keys(), now)
        for name in files.keys() - self._known.keys():
            self._known[name] = self._connection(files[name], now)
        by_port: dict[int, list[Connection]] = {port: [] for port in self._listening}
        names, shut_down = {}, set()
        for name, connection in self._known.items():
            if connection:
                by_port[connection.port].append(connection)
                names[connection] = name
        for port, connections in by_port.items():
            CONNECTIONS.labels(port).set(len(connections))
            for connection, bound in excess(connections, self._requests, self._limits, now):
                name, reason = names[connection], instead_of_all if bound == ALL else bound
                if _shut_down(files[name], name):
                    self._known[name] = None
                    shut_down.add(name)
                    CONNECTIONS_CLOSED.labels(reason).inc()
                    self._closed[reason, connection.client] += 1
        return shut_down

    def _forget(self, names: Iterable[str], now: float) -> None:
        for name in self._known.keys() - names:
            del self._known[name]
        open_addresses = {connection.address for connection in self._known.values() if connection}
        for address in list(self._requests):
            # A newer one may be of a connection that was opened since.
            if address not in open_addresses and self._requests[address] < now - QUIET_SECONDS:
                del self._requests[address]

    def _connection(self, file: int, now: float) -> Connection | None:
        """The connection of a client behind a file descriptor."""
        try:
            with socket.socket(fileno=os.dup(file)) as sock:
                if sock.family not in (socket.AF_INET, socket.AF_INET6):
                    return None
                port: int = sock.getsockname()[1]
                if port not in self._listening:
                    return None
                client, client_port, *more = sock.getpeername()
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            # Not connected: a listening socket, or a client that has disconnected.
            return None
        if not more:
            return Connection(port, client, f"{client}:{client_port}", now)
        # In the form of Rust's SocketAddrV6.
        client = client.partition("%")[0] + (f"%{more[1]}" if more[1] else "")
        return Connection(port, client, f"[{client}]:{client_port}", now)

    def _free_files(self) -> None:
        """Recover when no file descriptor is left.

        granian tries to accept the next connection until that succeeds, and does nothing else in the meantime. While it
        gets a socket without any connection instead of the listening one, it continues and closes what was shut down,
        and the guard has the spare file descriptors for itself. Connections that wait to be accepted keep waiting: one
        of them may be that of an API server.
        """
        with contextlib.ExitStack() as arrivals:
            # The limit is lowered before granian can use the spare file descriptors.
            with self._exchanged(self._empty), _more_files(SPARE_FILES):
                shut_down = self._enforce(FILES)
                deadline = time.monotonic() + CLOSE_SECONDS
                while shut_down and time.monotonic() < deadline:
                    time.sleep(CLOSE_INTERVAL)
                    shut_down &= dict(_open_sockets(_open_files())).keys()
                clients = [
                    (listening, arrivals.enter_context(_non_blocking(listening.family)))
                    for listening in self._listening.values()
                ]
            for listening, client in clients:
                _announce_waiting(listening, client)

    @contextlib.contextmanager
    def _exchanged(self, empty: socket.socket) -> Iterator[None]:
        """Exchange the sockets on which granian listens for an empty one during the block."""
        listening_by_name = {_name(listening.fileno()): listening for listening in self._listening.values()}
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        exchanged = []
        # All possible file descriptors: none is left for the list of the open ones.
        for name, file in _open_sockets(range(soft)):
            listening = listening_by_name.get(name)
            if listening and file != listening.fileno():
                os.dup2(empty.fileno(), file, inheritable=False)
                exchanged.append((file, listening))
        try:
            yield
        finally:
            for file, listening in exchanged:
                if _name(file) == _name(empty.fileno()):
                    os.dup2(listening.fileno(), file, inheritable=False)

    def _log(self) -> None:
        if time.monotonic() - self._logged_at < LOG_SECONDS:
            return
        by_reason: dict[str, Counter[str]] = defaultdict(Counter)
        for (reason, client), count in self._closed.items():
            by_reason[reason][client] += count
        self._closed.clear()
        for reason, clients in by_reason.items():
            # HTTP/2 has no other way to end an idle connection.
            if reason != IDLE:
                self._logged_at = time.monotonic()
                event = {"reason": reason, "closed": clients.total(), "clients": dict(clients.most_common(3))}
                log({"level": "warning", "message": "Connections beyond a bound were closed.", **event})


def _open_files() -> Iterator[int]:
    """The open file descriptors of this process. Needs one more, unlike `_open_sockets`."""
    return map(int, os.listdir("/proc/self/fd"))


def _open_sockets(files: Iterable[int]) -> Iterator[tuple[str, int]]:
    """The name and the file descriptor of each open socket among `files`."""
    for file in files:
        name = _name(file)
        if name.startswith("socket:"):
            yield name, file


def _name(file: int) -> str:
    """The name of an open file; empty if it is closed. Needs no file descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return ""


def _shut_down(file: int, name: str) -> bool:
    """Shut down a socket, if the file descriptor is still that of the socket."""
    try:
        # A duplicate stays the same socket, even if granian closes its own meanwhile.
        with socket.socket(fileno=os.dup(file)) as sock:
            if _name(sock.fileno()) == name:
                sock.shutdown(socket.SHUT_RDWR)
                return True
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
    return False


def _non_blocking(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _announce_waiting(listening: socket.socket, client: socket.socket) -> None:
    """Make granian accept the connections that wait: it looks for them only after a further one has arrived, that of
    `client`."""
    # Room for one more, also if the queue is full.
    listening.listen(BACKLOG + 1)
    if not _arrives(client, listening):
        # The system does not permit a longer queue.
        listening.accept()[0].close()
        with _non_blocking(listening.family) as another:
            _arrives(another, listening)
    listening.listen(BACKLOG)


def _arrives(client: socket.socket, listening: socket.socket) -> bool:
    """Whether the queue of the listening socket has room for the connection of `client`."""
    address, *more = listening.getsockname()
    client.connect_ex(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), *more))
    try:
        client.getpeername()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _more_files(count: int) -> Iterator[None]:
    """Raise the soft limit of open files during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft + count
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough if hard == resource.RLIM_INFINITY else min(enough, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
