# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m peerpods_webhook`; the environment variables are in README.md."""

from __future__ import annotations

import os
import sys

import uvloop

from .mutate import Policy
from .server import Settings, check_certificate, serve


def main() -> int:
    try:
        policy = Policy.from_env(os.environ)
        settings = Settings.from_env(os.environ)
        check_certificate(settings)
        stopped_on_request = uvloop.run(serve(policy, settings))
    except (ValueError, OSError) as error:
        sys.exit(f"The webhook does not run: {error}")
    return 0 if stopped_on_request else 1


if __name__ == "__main__":
    sys.exit(main())
