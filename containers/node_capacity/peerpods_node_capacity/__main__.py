# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m peerpods_node_capacity`. README.md lists the environment variables."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import uuid
from datetime import UTC, datetime

from lightkube.core.exceptions import ConfigError
from prometheus_client import REGISTRY

from . import health
from .agent import Agent
from .kube import Kube
from .metrics import SlotsCollector
from .settings import Settings

log = logging.getLogger(__package__)


class JsonLines(logging.Formatter):
    """Formats each record as a line of JSON: time, level, message, and the fields of the record's `data`."""

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
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    kube = Kube()
    # Unique for each process: a container that restarts in the same pod is another replica.
    agent = Agent(kube, settings, f"{socket.gethostname()}_{uuid.uuid4()}")
    REGISTRY.register(SlotsCollector(agent.slots))
    address, port = settings.bind_address, settings.health_port
    server = await health.serve(address, port, agent.is_live, agent.is_ready)
    log.info(
        "Watching limits and cloud-api-adaptor pods in namespace %s of %s. Serving health and metrics at %s:%d.",
        settings.peerpodconfig_namespace,
        kube.server,
        address,
        port,
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
        asyncio.run(run(Settings.from_env(os.environ)))
    except asyncio.CancelledError:
        log.info("Stopped.")
    except (ConfigError, ValueError) as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("Opening the health port failed: %s. Set HEALTH_PORT or BIND_ADDRESS.", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
