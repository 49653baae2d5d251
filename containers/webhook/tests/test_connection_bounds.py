"""Which connections are closed, and how the guard closes them without a file descriptor.

No test of this file starts a thread: one lowers the number of files that this process may open.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods_webhook import connections
from peerpods_webhook.connections import ALL, CLIENT, IDLE, Bounds, Connection, bounds, excess

# Few file descriptors, so that none is left soon.
FILES = 256


def connection(client: str, number: int, opened_at: float = 0) -> Connection:
    return Connection(9443, client, f"{client}:{number}", opened_at)


def closed(connections, requests, limits, now=100.0) -> dict[str, str]:
    return {connection.address: reason for connection, reason in excess(connections, requests, limits, now)}


def test_of_one_client_those_without_a_request_are_closed_first_and_then_the_least_recently_used():
    held = [connection("a", number, opened_at=number) for number in range(5)]
    requests = {"a:0": 90.0, "a:1": 80.0, "a:2": 95.0}
    limits = Bounds(total=100, per_client=5, idle_seconds=120)
    assert closed(held, requests, limits) == {}
    order = ["a:3", "a:4", "a:1", "a:0", "a:2"]
    for count in range(1, 6):
        assert closed(held, requests, limits._replace(per_client=5 - count)) == dict.fromkeys(order[:count], CLIENT)


def test_a_burst_of_one_client_stays_within_the_bound_of_all():
    held = [connection("a", number, opened_at=99) for number in range(6)] + [connection("a", 6, opened_at=50)]
    limits = Bounds(total=6, per_client=2, idle_seconds=120)
    assert closed(held, {}, limits) == {"a:6": ALL}
    assert closed(held, {}, limits._replace(total=7)) == {"a:6": CLIENT}
    assert closed(held, {}, limits, now=102) == dict.fromkeys(["a:0", "a:1", "a:2", "a:3"], CLIENT) | {"a:6": ALL}


def test_the_client_with_the_most_connections_loses_them():
    held = [connection(name, number) for name, count in (("a", 6), ("b", 3), ("c", 1)) for number in range(count)]
    limits = Bounds(total=8, per_client=6, idle_seconds=120)
    assert list(closed(held, {}, limits)) == ["a:0", "a:1"]
    # A new client always gets in.
    limits = limits._replace(total=3)
    assert Counter(address[0] for address in closed(held, {}, limits)) == {"a": 5, "b": 2}
    assert set(closed(held, {}, limits).values()) == {ALL}


def test_more_clients_than_connections_lose_those_without_a_request_first():
    held = [connection(str(number), 1, opened_at=number) for number in range(6)]
    limits = Bounds(total=4, per_client=4, idle_seconds=1000)
    requests = {"0:1": 50.0, "2:1": 40.0}
    assert closed(held, requests, limits) == {"1:1": ALL, "3:1": ALL}
    assert closed(held, requests, limits._replace(total=1)) == dict.fromkeys(["1:1", "2:1", "3:1", "4:1", "5:1"], ALL)


def test_connections_without_a_request_for_too_long_are_closed():
    limits = Bounds(total=100, per_client=100, idle_seconds=10)
    held = [connection("a", 1, 80), connection("a", 2, 80), connection("a", 3, 95)]
    assert closed(held, {"a:2": 91}, limits) == {"a:1": IDLE}


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 40), st.integers(1, 40))
def test_the_bounds_are_kept_and_no_client_loses_more_than_necessary(counts, total, per_client):
    held = [connection(str(name), number) for name, count in enumerate(counts) for number in range(count)]
    gone = closed(held, {}, Bounds(total, per_client, 1000))
    left = Counter(c.client for c in held if c.address not in gone)
    share = max(left.values(), default=0)
    assert share <= per_client
    assert sum(left.values()) <= total
    is_crowded = sum(count > 0 for count in counts) > total
    for name, count in enumerate(counts):
        assert left[str(name)] in ((0, 1) if is_crowded else (count, share))
    if gone and share < per_client:
        assert sum(left.values()) + len(counts) > total


@pytest.mark.parametrize(
    ("files", "total", "per_client"), [(8176, 1024, 512), (1008, 236, 118), (240, 44, 22), (60, 4, 2)]
)
def test_the_bounds_by_the_number_of_files(files, total, per_client):
    assert bounds(files, 120) == (total, per_client, 120)
    # Both ports, and as many connections again before the guard has closed the first ones.
    assert files < 100 or 4 * total + 64 <= files


def test_no_file_descriptor_is_left_before_the_first_pass():
    """As at a restart that many clients wait for."""
    with socket.create_server(("127.0.0.1", 0)) as listening, listening.dup() as granians:
        # More than this process has opened for other tests.
        files = granians.fileno() + FILES
        guard = connections.Guard([listening], {}, bounds(files, 120))
        address = listening.getsockname()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as held:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            with contextlib.suppress(OSError):
                while True:
                    held.enter_context(socket.socket())
            with pytest.raises(OSError, match="Too many open files"):
                socket.socket()
            with guard._exchanged(guard._empty):
                assert granians.getsockname() != address
            assert granians.getsockname() == address


@pytest.mark.parametrize("backlog", [1, 0], ids=["that can be longer", "that cannot be longer"])
def test_a_connection_arrives_at_a_full_queue(monkeypatch, backlog):
    """granian looks for the connections that wait only after an event, which epoll reports for an arrival."""
    monkeypatch.setattr(connections, "BACKLOG", backlog)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as listening,
        select.epoll() as events,
        contextlib.ExitStack() as held,
    ):
        listening.setblocking(False)
        events.register(listening, select.EPOLLIN | select.EPOLLET)
        while connections._arrives(last := held.enter_context(connections._non_blocking(listening.family)), listening):
            pass
        # It would try again.
        last.close()
        assert events.poll(0)
        assert not events.poll(0)
        connections._announce_waiting(listening, held.enter_context(connections._non_blocking(listening.family)))
        assert events.poll(0)
