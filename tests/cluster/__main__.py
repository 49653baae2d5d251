"""`python -m tests.cluster`: a cluster that looks like OpenShift on AWS or Azure, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys

from . import openshift
from .launcher import Cluster
from .processes import unwind_on_signals

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workers", type=int, default=3, help="how many worker nodes (default: 3)")
parser.add_argument("--cloud", choices=openshift.IMAGINED_REGION, default="aws")
arguments = parser.parse_args()

workers = openshift.imagined_workers(arguments.workers, arguments.cloud)
region = openshift.IMAGINED_REGION[arguments.cloud]
azure = openshift.azure_status(f"{openshift.INFRASTRUCTURE_NAME}-rg")

unwind_on_signals()
try:
    with Cluster() as cluster:
        openshift.fill(cluster, workers, region, azure if arguments.cloud == "azure" else None)
        print(f"export KUBECONFIG={cluster.kubeconfig}")
        print(f"export PATH={cluster.bin}:$PATH")
        print("# Ctrl-C stops it.", flush=True)
        signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
