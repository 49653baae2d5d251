"""The node-capacity agent as a process next to a test's cluster."""

from __future__ import annotations

import sys

from tests.cluster.launcher import Cluster
from tests.cluster.processes import free_ports
from tests.support import ROOT

AGENT = ROOT / "containers" / "node_capacity"
AGENT_NAMESPACE = "osc-peerpods"


def start_agent(cluster: Cluster, **settings: str) -> None:
    """Start the agent as the administrator, with `settings` in its environment. It ends with the cluster."""
    (port,) = free_ports(1)
    cluster.processes.start(
        "agent",
        [sys.executable, "-m", "peerpods_node_capacity"],
        environment={
            "PYTHONPATH": str(AGENT),
            "KUBECONFIG": str(cluster.kubeconfig),
            "NAMESPACE": AGENT_NAMESPACE,
            "BIND_ADDRESS": "127.0.0.1",
            "HEALTH_PORT": str(port),
            **settings,
        },
    )
