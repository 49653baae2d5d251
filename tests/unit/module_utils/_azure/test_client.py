"""Answers of a proxy in place of Azure; tests/integration/test_nsg_rules.py has the answers of Azure."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._azure import client

PAGE = "<html>Log in to the network</html>"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], client.Arm]]:
    """A connection to a server that gives one answer to each request."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def connect(answer: str) -> client.Arm:
            def serve() -> None:
                while True:
                    try:
                        connection, _address = listening.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(2**16)
                        connection.sendall(answer.encode())

            threading.Thread(target=serve, daemon=True).start()
            arm = client.Arm.__new__(client.Arm)
            arm._host = f"http://127.0.0.1:{listening.getsockname()[1]}"
            arm._client = client._client(arm._host, verify=True)
            return arm

        yield connect


def answer(status: int, body: str, *headers: str) -> str:
    lines = [f"HTTP/1.1 {status} OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body])


CALLS = {
    "GET": lambda arm: arm.get("/x", "1"),
    "PUT": lambda arm: arm.put("/x", "1", {}, None, 5),
    "DELETE": lambda arm: arm.delete("/x", "1", None, 5),
}


@pytest.mark.parametrize(
    ("method", "response"),
    [
        *((method, answer(200, PAGE, "Content-Type: text/html")) for method in CALLS),
        *((method, answer(200, PAGE, "Content-Type: application/json")) for method in CALLS),
        ("PUT", answer(200, "")),
        ("PUT", answer(202, PAGE)),
        ("PUT", answer(200, "[]", "Content-Type: application/json")),
        # Not a resource that does not exist.
        ("GET", answer(404, PAGE, "Content-Type: text/html")),
    ],
)
def test_an_answer_of_a_proxy_is_no_result(connect, method: str, response: str):
    with pytest.raises(client.ArmError) as failed:
        CALLS[method](connect(response))
    assert f"{method} /x" in str(failed.value)


def test_a_missing_resource_is_none(connect):
    error = '{"error": {"code": "ResourceNotFound", "message": "Not found."}}'
    assert connect(answer(404, error)).get("/x", "1") is None


@pytest.mark.parametrize("status", [200, 204])
def test_a_deletion_has_no_body(connect, status: int):
    connect(answer(status, "")).delete("/x", "1", None, 5)
