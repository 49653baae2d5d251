"""What is known of the agent's alerts and its dashboard beside the files themselves."""

from __future__ import annotations

# What the agent tells Prometheus, with the labels that it gives (`le` is a histogram's own).
METRICS: dict[str, frozenset[str]] = {
    "peerpods_node_slots_desired": frozenset({"node"}),
    "peerpods_node_slots_advertised": frozenset({"node"}),
    "peerpods_node_slots_used": frozenset({"node"}),
    "peerpods_node_slots_bound_info": frozenset({"node", "bound"}),
    "peerpods_pods_pending": frozenset(),
    "peerpods_peerpodconfig_problem": frozenset({"peerpodconfig", "reason"}),
    "peerpods_cloud_slots": frozenset({"bound"}),
    "peerpods_node_capacity_leader": frozenset(),
    "peerpods_node_capacity_lag_seconds_bucket": frozenset({"le"}),
    "peerpods_node_capacity_requests_total": frozenset({"verb", "code"}),
}

# What Prometheus adds to them when it scrapes a pod.
SCRAPED = frozenset({"namespace", "pod"})
