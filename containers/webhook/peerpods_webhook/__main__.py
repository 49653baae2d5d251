# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m peerpods_webhook`; the environment variables are in README.md."""

from __future__ import annotations

import asyncio
import os
import sys

from .listener import end_at_once
from .log import never_wait_for_readers
from .mutate import Policy
from .server import Webhook
from .settings import Settings


async def run() -> None:
    await Webhook(Policy.from_env(os.environ), Settings.from_env(os.environ)).run()


def main() -> None:
    never_wait_for_readers()
    try:
        asyncio.run(run())
    except (ValueError, OSError) as error:
        sys.exit(f"The webhook does not run: {error}")
    end_at_once()


if __name__ == "__main__":
    main()
