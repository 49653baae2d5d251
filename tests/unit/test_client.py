"""The client of test clusters."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.cluster import client


def test_threads_parse_arguments_at_the_same_time():
    arguments = ("nodes", "a", "-n", "b", "c")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            parsers = [client._GET, client._DELETE, client._OPTIONS] * 100
            parsed = list(threads.map(lambda parser: client._parsed(parser, arguments), parsers))
    finally:
        sys.setswitchinterval(interval)
    assert {(each.kinds, *each.names, each.namespace) for each in parsed} == {("nodes", "a", "c", "b")}
