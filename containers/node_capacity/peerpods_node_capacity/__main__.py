# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m peerpods_node_capacity`: configuration from the environment, logs, health, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from lightkube.core.exceptions import ConfigError

from .agent import Agent
from .kube import Kube

# Seconds that a client of the health endpoint has to send its request.
HEALTH_TIMEOUT = 5

log = logging.getLogger(__package__)


@dataclass(frozen=True)
class Settings:
    namespace: str
    resource: str
    bind_address: str
    health_port: int


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Raises ConfigError, a sentence, where a variable cannot be used."""
    port = environment.get("HEALTH_PORT", "8081")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"HEALTH_PORT is {port!r}. Set it to a port number, 1 to 65535.")
    return Settings(
        namespace=environment.get(
            "PEERPODCONFIG_NAMESPACE", "openshift-sandboxed-containers-operator"
        ),
        resource=environment.get("POD_VM_EXTENDED_RESOURCE", "kata.peerpods.io/vm"),
        bind_address=environment.get("BIND_ADDRESS", "0.0.0.0"),
        health_port=int(port),
    )


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and the record's `data` fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


async def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.current_task().cancel
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    kube = Kube()
    agent = Agent(kube, namespace=settings.namespace, resource=settings.resource)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP request of a kubelet's probe, answered from this very event loop: an agent that
        hangs does not answer."""
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(HEALTH_TIMEOUT):
                _method, path, *_rest = [*(await reader.readline()).split(), b"", b""]
                while (await reader.readline()).strip():
                    pass
                if path == b"/healthz" or (path == b"/readyz" and agent.ready):
                    status, body = "200 OK", "ok"
                elif path == b"/readyz":
                    status, body = "503 Service Unavailable", "the first full sync is not done yet"
                else:
                    status, body = "404 Not Found", "try /healthz or /readyz"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                await writer.drain()

    server = await asyncio.start_server(answer, settings.bind_address, settings.health_port)
    log.info(
        "Watching the PeerPodConfigs in %s at %s; health at %s:%d.",
        settings.namespace,
        kube.server,
        settings.bind_address,
        settings.health_port,
    )
    try:
        await agent.run()
    finally:
        server.close()
        await kube.close()


def main() -> int:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.INFO)
    try:
        asyncio.run(run(settings_from(os.environ)))
    except asyncio.CancelledError:
        log.info("Stopped.")
    except ConfigError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error(
            "The health endpoint cannot be opened: %s. Set HEALTH_PORT or BIND_ADDRESS.", error
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
