"""A proxy for an AWS API that records the calls and injects faults.

It can reject requests, close connections, drop or truncate responses, return shorter pages, or let another client act
between two requests of a run.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode

Answer = tuple[int, bytes]  # status and body
Fault = Callable[
    [Callable[[], Answer]], Answer | None
]  # called with a function that passes the request on; None closes the connection


class Ec2Proxy(ThreadingHTTPServer):
    """Passes an API of AWS on to `upstream`. Each request uses up one of the `faults` of its action.

    The action of a request to S3 is its method with the subresource, as in "PUT" and "PUT ?tagging".

    `page_size` replaces the MaxResults of clients: EC2 may also return smaller pages than requested.
    """

    daemon_threads = True
    # Each of many pods has a connection.
    request_queue_size = 128

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.page_size: int | None = None
        self.calls: list[str] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        # What happens to the requests without a fault of their own.
        self.weather: Iterator[Fault | None] = itertools.repeat(None)

    def take_calls(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@contextlib.contextmanager
def ec2_proxy(upstream: str) -> Iterator[Ec2Proxy]:
    """A running proxy for `upstream`."""
    with Ec2Proxy(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Ec2Proxy
    protocol_version = "HTTP/1.1"
    # The head and the body of a response are written separately; the second write must not wait for an ACK.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        # Service Quotas has its operations in a header.
        subresource = re.sub(r"[^?]*(\?[a-z]+)?.*", r" \1", self.path).rstrip()
        action = query.get("Action") or self.headers["X-Amz-Target"] or f"{self.command}{subresource}"
        self.server.calls.append(action)
        if self.server.page_size and "MaxResults" in query:
            body = urlencode({**query, "MaxResults": self.server.page_size}).encode()

        of_s3: dict[str, str] = {}

        def pass_on() -> Answer:
            own_headers = ("host", "connection", "content-length")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in own_headers}
            # Without a type, urllib sends that of a form.
            headers.setdefault("Content-Type", "application/xml")
            url = self.server.upstream + self.path.rstrip("/")
            request = urllib.request.Request(url, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    of_s3.update({k: v for k, v in answer.headers.items() if k.lower().startswith("x-amz-")})
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        faults = self.server.faults[action]
        fault = faults.pop(0) if faults else next(self.server.weather)
        answer = fault(pass_on) if fault else pass_on()
        if answer is None:
            self.close_connection = True
            return
        status, content = answer
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(content)))
        for name, value in of_s3.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_DELETE = do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


def refuse(status: int, code: str, message: str = "rejected by the test") -> Fault:
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        "</Errors><RequestID>1</RequestID></Response>"
    )
    return lambda pass_on: (status, body.encode())


def bad_weather(every: int) -> Iterator[Fault | None]:
    """For one of `every` requests a fault that passes: throttling, an error of EC2, or a lost connection."""
    passing = itertools.cycle(
        (
            lose_the_answer,
            refuse(503, "RequestLimitExceeded"),
            refuse(500, "InternalError"),
            hang_up,
            refuse(503, "Unavailable"),
        )
    )
    for count in itertools.count(1):
        yield next(passing) if count % every == 0 else None


def work(pass_on: Callable[[], Answer]) -> Answer:
    """Pass the request on, so that a later request fails."""
    return pass_on()


def hang_up(pass_on: Callable[[], Answer]) -> None:
    pass


def lose_the_answer(pass_on: Callable[[], Answer]) -> None:
    pass_on()


def cut_the_answer(pass_on: Callable[[], Answer]) -> Answer:
    status, content = pass_on()
    return status, content[: len(content) // 2]


def promise_another_page(pass_on: Callable[[], Answer]) -> Answer:
    status, content = pass_on()
    head, end, tail = content.rpartition(b"</")
    return status, head + b"<nextToken>page-2</nextToken>" + end + tail
