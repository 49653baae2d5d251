"""`python -m tests.azure_arm`: start an Azure with the cloud side of a cluster, until Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.cluster.azure import create_cloud_side
from tests.cluster.processes import unwind_on_signals

from . import AzureArm

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workers", type=int, default=3, help="how many worker VMs (default: 3)")
arguments = parser.parse_args()

unwind_on_signals()
try:
    with (
        tempfile.TemporaryDirectory(prefix="osc-peerpods-azure-") as directory,
        AzureArm(Path(directory)) as arm,
    ):
        side = create_cloud_side(arm, arguments.workers)
        for name, value in arm.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"export AZURE_RESOURCE_GROUP={side.resource_group}")
        print("# Ctrl-C stops it.", flush=True)
        signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
