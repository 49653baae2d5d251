"""The summary of the demo on the terminal."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {"aws": "AWS", "azure": "Azure"}


@dataclass(frozen=True)
class Check:
    """A condition, whether it is met, and the observed value."""

    name: str
    passed: bool
    seen: str


def render(report: dict, checks: list[Check]) -> str:
    seconds = report["seconds"]
    tokens = " and tokens instead of keys" if report["credentials"] == "token" else ""
    width = max(len(check.name) for check in checks)
    lines = [
        "",
        (
            f"osc.peerpods on {NAMES[report['cloud']]} with operator {report['operator']}{tokens}: "
            f"{report['nodes']} worker nodes, {report['limit']} peer pods each"
        ),
        "",
        *(f"  {'✔' if c.passed else '✘'} {c.name:<{width}}  {c.seen}" for c in checks),
        "",
        f"  webhook of {report['webhook']['of']}: {_pods(report['webhook'])}",
        f"  limits advertised by {_advertiser(report['agent'])}",
        "  seconds: " + ", ".join(f"{name} {value}" for name, value in seconds.items()),
        "",
        "All checks passed." if all(c.passed for c in checks) else "Some checks failed: see ✘.",
        f"The report page: {report['report_page']}",
    ]
    return "\n".join(lines)


def _advertiser(agent: dict | None) -> str:
    return f"the agent: {_pods(agent)}" if agent else "the operator"


def _pods(deployment: dict) -> str:
    pods = "1 pod" if deployment["ready"] == 1 else f"{deployment['ready']} pods"
    return f"{pods} in {deployment['runtime']}"
