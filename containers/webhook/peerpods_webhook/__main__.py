# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m peerpods_webhook`. README.md lists the environment variables."""

from __future__ import annotations

import asyncio
import os
import sys

from .connections import bounds, set_file_limit
from .listener import exit_immediately
from .log import never_block
from .mutate import Policy
from .server import Webhook
from .settings import Settings


async def run() -> None:
    policy, settings = Policy.from_env(os.environ), Settings.from_env(os.environ)
    await Webhook(policy, settings, bounds(set_file_limit(), settings.idle_seconds)).run()


def main() -> None:
    never_block()
    try:
        asyncio.run(run())
    except (ValueError, OSError) as error:
        sys.exit(f"The webhook cannot start: {error}")
    exit_immediately()


if __name__ == "__main__":
    main()
