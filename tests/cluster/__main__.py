"""`python -m tests.cluster`: start a bare cluster in a cloud, as an installer leaves it, until Ctrl-C.

The webhook and the agent, when they are installed, run as processes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from .clouds import CLOUDS, bare_cluster, exported, site_variables
from .processes import unwind_on_signals

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workers", type=int, default=3, help="how many worker nodes (default: 3)")
parser.add_argument("--cloud", choices=CLOUDS, default="aws")
parser.add_argument(
    "--ready",
    type=Path,
    metavar="FILE",
    help="write the access data to this file, as JSON, when the cluster runs",
)
arguments = parser.parse_args()

unwind_on_signals()
try:
    with bare_cluster(arguments.cloud, arguments.workers, "process") as (cluster, cloud):
        environment, variables = exported(cluster, cloud), site_variables("process")
        for name, value in environment.items():
            print(f"export {name}={value}")
        print(f"export PATH={cluster.bin}:$PATH")
        print(f"# ansible-playbook site.yml -e '{json.dumps(variables)}'")
        print("# Ctrl-C stops it.", flush=True)
        if arguments.ready:
            written = arguments.ready.with_suffix(".part")
            written.write_text(json.dumps({"environment": environment, "variables": variables}))
            written.rename(arguments.ready)
        signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
