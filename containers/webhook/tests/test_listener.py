"""Error handling of a listener, with an application that raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
from webhook_process import PACKAGE_ROOT

from tests.cluster.processes import free_ports

FAILING_APPLICATION = """
import asyncio, sys
from peerpods_webhook.listener import Listener, exit_immediately, listening_socket

async def application(scope, protocol):
    if scope.path == "/fails":
        await protocol()
        raise RuntimeError("a bug in the application")
    protocol.response_bytes(200, [], b"ok")

async def main():
    listener = Listener(application, listening_socket("127.0.0.1", int(sys.argv[1])))
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    listener.stop()
    await listener.stopped()
    exit_immediately()

asyncio.run(main())
"""


def test_an_exception_of_the_application_is_logged_and_the_next_request_is_served():
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-c", FAILING_APPLICATION, str(port)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "listening\n"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.post("/fails", content=b"x").status_code == 500
        assert client.get("/").text == "ok"
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    (line,) = map(json.loads, output.splitlines())
    assert line["level"] == "error"
    assert "RuntimeError: a bug in the application" in line["message"]
