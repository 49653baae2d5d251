"""`python -m tests.cluster`: a cluster that looks like OpenShift on AWS, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys

from . import openshift
from .launcher import Cluster
from .processes import unwind_on_signals

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workers", type=int, default=3, help="how many worker nodes (default: 3)")
arguments = parser.parse_args()

unwind_on_signals()
try:
    with Cluster() as cluster:
        openshift.fill(cluster, openshift.imagined_workers(arguments.workers), "eu-central-1")
        print(f"export KUBECONFIG={cluster.kubeconfig}")
        print(f"export PATH={cluster.bin}:$PATH")
        print("# Ctrl-C stops it.", flush=True)
        signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
