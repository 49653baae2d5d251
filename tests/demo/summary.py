"""What the demo saw, for people: a few lines at the terminal."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {"aws": "AWS", "azure": "Azure"}


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was seen of it."""

    name: str
    holds: bool
    seen: str


def render(report: dict, checks: list[Check]) -> str:
    seconds = report["seconds"]
    width = max(len(check.name) for check in checks)
    lines = [
        "",
        (
            f"osc.peerpods on {NAMES[report['cloud']]} with operator {report['operator']}: "
            f"{report['nodes']} worker nodes, {report['limit']} peer pods each"
        ),
        "",
        *(f"  {'✔' if c.holds else '✘'} {c.name:<{width}}  {c.seen}" for c in checks),
        "",
        f"  webhook: {report['webhook_pods_ready']} pods by {report['webhook_runtime']}; {_advertiser(report)}",
        "  seconds: " + ", ".join(f"{name} {value}" for name, value in seconds.items()),
        "",
        "All of it held." if all(c.holds for c in checks) else "Not all of it held: see ✘.",
    ]
    return "\n".join(lines)


def _advertiser(report: dict) -> str:
    if report["advertiser"] == "agent":
        return f"agent: {report['agent_pods_ready']} by {report['agent_runtime']}"
    return "limits: advertised by the operator"
