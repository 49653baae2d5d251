"""The metrics that the agent's alerts and its dashboard may use."""

from __future__ import annotations

# The agent's metrics with the labels that it sets (`le` is that of a histogram).
METRICS: dict[str, frozenset[str]] = {
    "peerpods_node_slots_desired": frozenset({"node"}),
    "peerpods_node_slots_advertised": frozenset({"node"}),
    "peerpods_node_slots_used": frozenset({"node"}),
    "peerpods_node_slots_bound_info": frozenset({"node", "bound"}),
    "peerpods_pods_pending": frozenset(),
    "peerpods_node_adaptor_ready": frozenset({"node"}),
    "peerpods_pool_problem": frozenset({"pool", "reason"}),
    "peerpods_pool_limit": frozenset({"pool", "source"}),
    "peerpods_limits_found": frozenset(),
    "peerpods_operator_generation": frozenset(),
    "peerpods_cloud_slots": frozenset({"bound"}),
    "peerpods_node_capacity_leader": frozenset(),
    "peerpods_node_capacity_lag_seconds_bucket": frozenset({"le"}),
    "peerpods_node_capacity_requests_total": frozenset({"verb", "code"}),
}

# The labels that Prometheus adds when it scrapes a pod.
SCRAPED = frozenset({"namespace", "pod"})
