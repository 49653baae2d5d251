"""Connections that get no answer of an API server; tests/integration/test_kubernetes_faults.py has the answers."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import transport

from tests.cluster.processes import free_ports


def test_a_server_that_never_answers_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.1)
    monkeypatch.setattr(transport, "RETRY_PAUSES", (0.0,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        module = SimpleNamespace(params={"host": host, "api_key": "any"}, requires=print, server_side_dry_run=False)
        with pytest.raises(transport.ClusterError, match=f"at {host} cannot be reached: .*Read timed out") as failed:
            transport.connect(module)
    assert failed.value.transient
    assert failed.value.outcome_unknown


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
        (None, "Connection refused"),
    ],
)
def test_a_proxy_that_refuses_the_connection_is_named(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, reason: str
):
    monkeypatch.setattr(transport, "RETRY_PAUSES", ())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        params = {"host": "https://api.example.com:6443", "api_key": "any", "proxy": proxy}
        module = SimpleNamespace(params=params, requires=print, server_side_dry_run=False)

        def refuse(answer: bytes) -> None:
            connection, _address = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        if answer is None:
            params["proxy"] = f"http://127.0.0.1:{free_ports(1)[0]}"
        else:
            threading.Thread(target=refuse, args=(answer,), daemon=True).start()
        with pytest.raises(transport.ClusterError) as failed:
            transport.connect(module)
    assert "https://api.example.com:6443 cannot be reached through the proxy: " in str(failed.value)
    assert reason in str(failed.value)
    assert "Check the proxy: " in str(failed.value)
    # The request was not sent.
    assert not failed.value.outcome_unknown


@pytest.mark.parametrize("status", [404, 409])
def test_a_conflict_with_what_may_be_an_earlier_attempt_is_not_reported_as_a_rejection(
    monkeypatch: pytest.MonkeyPatch, status: int
):
    """The response was lost, and the object is not as it was sent: a webhook has changed it, or another writer."""
    monkeypatch.setattr(transport, "RETRY_PAUSES", (0.0,))
    lost = transport.ClusterError("The connection broke.", transient=True)
    rejected = transport.ClusterError("It exists.", status)
    answers = iter([lost, rejected])

    def attempt() -> transport.Response:
        raise next(answers)

    with pytest.raises(transport.LostWriteError, match="It is not known whether the change was made") as failed:
        transport._persist_write(attempt, lambda: None)
    # A module reads the object again after a conflict.
    assert failed.value.status == status
