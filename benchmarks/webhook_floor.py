"""`python -m benchmarks.webhook_floor`: the least that a webhook on this server can do.

It takes the webhook's environment variables, reads the body of each request and returns a constant.
"""

from __future__ import annotations

import asyncio
import os

from granian.rsgi import HTTPProtocol, Scope

from peerpods_webhook.certificate import read
from peerpods_webhook.listener import Listener, listening_socket
from peerpods_webhook.settings import Settings

HEADERS = [("content-type", "application/json")]
REPLY = b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"","allowed":true}}'


async def application(_scope: Scope, protocol: HTTPProtocol) -> None:
    await protocol()
    protocol.response_bytes(200, HEADERS, REPLY)


async def main() -> None:
    settings = Settings.from_env(os.environ)
    listening = listening_socket(settings.address, settings.port)
    await Listener(application, listening, read(settings), tls_min_version=settings.tls_min_version).stopped()


if __name__ == "__main__":
    asyncio.run(main())
