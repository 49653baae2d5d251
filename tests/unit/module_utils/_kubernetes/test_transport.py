"""The connection to a server that does not answer; tests/integration/test_kubernetes_faults.py has the answers."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes import transport


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
