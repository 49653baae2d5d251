"""`python -m benchmarks.agent`: thousands of nodes that advertise their slots.

Compares the agent with a controller built on client-go, with and without a request rate limit, and with a curl per
node, on the same nodes of one real API server: from the start until all nodes advertise, after a change of the limit,
after a tenth of the nodes has been reset, and without changes. Then a change of the limit in peerpods-limits, on the
second generation of the operator. Then the agent's mirror of nodes with those of libraries.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tests.cluster.processes import StartError, unwind_on_signals
from tests.support import ROOT

from ..load import version
from . import contenders
from .contenders import (
    BEATS,
    COLD,
    COLLECTION,
    CURL,
    LIMIT,
    LIMITED,
    QUIET,
    SECOND,
    STORM,
    UNLIMITED,
    Curl,
)
from .figures import Phase
from .libraries import FOLLOW, LIBRARIES, LIST, libraries
from .world import IMAGES, World

BUILD = ROOT / "build" / "bench"
AGENT = ROOT / "containers" / "node_capacity"

# Required programs that neither Python nor the test cluster has, with their Debian packages.
PROGRAMS = {"h2load": "nghttp2-client", "curl": "curl", "ss": "iproute2"}

WRITING, STEADY = (COLD, LIMIT, STORM, SECOND), (QUIET, BEATS)

# Points of a line in the plot, and of `progress` in the JSON.
POINTS = 100

# By contender and phase; one item for each round.
Rounds = dict[str, dict[str, list[Phase]]]


def run_rounds(world: World, agent: Path, rounds: int) -> Rounds:
    """Measure the contenders in alternating order; those with a rate limit and the steady states only once."""
    measured: Rounds = {}
    all_contenders = contenders.contenders(agent)
    for turn in range(rounds):
        measuring = [contender for contender in all_contenders if turn == 0 or contender.per_second is None]
        for contender in measuring if turn % 2 == 0 else reversed(measuring):
            log(f"Round {turn + 1} of {rounds}: {contender.name}; load {os.getloadavg()[0]:.1f}")
            for name, phase in contenders.phases(world, contender, steady=turn == 0):
                measured.setdefault(contender.name, {}).setdefault(name, []).append(phase)
    return measured


def median(rounds: list[Phase]) -> Phase:
    """Return the round with the median time."""
    return sorted(rounds, key=lambda phase: phase.seconds)[(len(rounds) - 1) // 2]


def ratios(measured: Rounds, by_curl: Curl, nodes: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the ratios of the agent to each contender, by phase: time, and CPU with and without the servers."""
    own = {name: median(rounds) for name, rounds in measured[COLLECTION].items()}
    compared = {
        contender: {
            name: {
                "seconds": own[name].seconds / peer.seconds,
                "cpu": own[name].cpu / peer.cpu if peer.cpu else None,
                "cpu_with_servers": total_cpu(own[name]) / total_cpu(peer),
            }
            for name in WRITING
            if name in own and name in measured[contender]
            for peer in [median(measured[contender][name])]
        }
        for contender in measured
        if contender != COLLECTION
    }
    scaled = by_curl.scaled(nodes)
    compared[CURL] = {
        name: {"seconds": own[name].seconds / scaled.seconds, "cpu": own[name].cpu / scaled.cpu}
        for name in (COLD, LIMIT)
    }
    return compared


def total_cpu(phase: Phase) -> float:
    return phase.cpu + sum(phase.servers_cpu.values())


# -- Output ------------------------------------------------------------------------------------


def table(measured: Rounds, by_curl: Curl, nodes: int) -> Iterator[str]:
    columns = ("seconds", "CPU s", "servers'", "requests", "kB out", "kB in", "MB", "peak")
    yield f"{'':42}" + "".join(f"{column:>10}" for column in columns)
    for name in (*WRITING, *STEADY):
        for contender, of_phases in measured.items():
            if name in of_phases:
                yield f"{name:22}{contender:20}" + "".join(f"{cell:>10}" for cell in cells(median(of_phases[name])))
    for title, curl in (("of these measured", by_curl), (COLD, by_curl.scaled(nodes))):
        yield (
            f"{title:22}{CURL:20}{curl.seconds:>10.2f}{curl.cpu:>10.2f}{'':10}{curl.nodes:>10,}"
            f"{curl.sent / 1000:>10,.0f}{curl.received / 1000:>10,.0f}"
        )


def cells(phase: Phase) -> Iterator[str]:
    yield f"{phase.seconds:.2f}"
    yield f"{phase.cpu:.2f}"
    yield f"{sum(phase.servers_cpu.values()):.2f}"
    yield f"{sum(phase.requests.values()):,}"
    yield f"{phase.sent / 1000:,.0f}"
    yield f"{phase.received / 1000:,.0f}"
    yield f"{phase.rss:.0f}"
    yield f"{phase.peak:.0f}"


def library_table(measured: dict[str, dict[str, Phase]]) -> Iterator[str]:
    columns = ("CPU s", "peak MB", "requests", "kB in", "follow: CPU s", "MB")
    yield f"{'':20}" + "".join(f"{column:>14}" for column in columns)
    for name, of_phases in measured.items():
        listed, followed = of_phases[LIST], of_phases[FOLLOW]
        figures = (
            f"{listed.cpu:.2f}",
            f"{listed.peak:.0f}",
            f"{sum(listed.requests.values())}",
            f"{listed.received / 1000:,.0f}",
            f"{followed.cpu:.2f}",
            f"{followed.rss:.0f}",
        )
        yield f"{name:20}" + "".join(f"{figure:>14}" for figure in figures)


def thinned(values: tuple[float, ...]) -> list[float]:
    """At most POINTS of the values, including the first and the last."""
    if len(values) <= POINTS:
        return [round(value, 3) for value in values]
    return [round(values[i * (len(values) - 1) // (POINTS - 1)], 3) for i in range(POINTS)]


def as_json(phase: Phase) -> dict:
    return {
        **asdict(replace(phase, progress=(), lags=())),
        "progress": thinned(phase.progress),
        "lags": thinned(phase.lags),
    }


COLORS = {COLLECTION: "#c00", UNLIMITED: "#36c", LIMITED: "#666"}


def plot(measured: Rounds, by_curl: Curl, nodes: int) -> str:
    """An SVG with the share of nodes that have been patched over time, for each phase and round."""
    width, height, left, top, pitch = 330, 200, 50, 60, 390
    lines = {
        name: [
            (contender, phase.progress)
            for contender, of_phases in measured.items()
            for phase in of_phases.get(name, [])
        ]
        for name in WRITING
    }
    lines = {name: drawn for name, drawn in lines.items() if drawn}
    per_node = by_curl.seconds / by_curl.nodes
    title = f"Share of nodes that advertise their slots over time, in seconds. {nodes:,} nodes."
    parts = [f'<text x="{left}" y="20" class="bold">{title}</text>']
    x = left
    for contender, color in {**COLORS, f"{CURL} (scaled)": "#999"}.items():
        parts.append(f'<text x="{x}" y="38" fill="{color}">{contender}</text>')
        x += 150
    for column, (name, drawn) in enumerate(lines.items()):
        x0, y0 = left + column * pitch, top + 20 + height
        shown = [(COLORS[contender], "", thinned(progress)) for contender, progress in drawn]
        if name in (COLD, LIMIT):
            ends = [per_node * nodes * i / POINTS for i in range(1, POINTS + 1)]
            shown.append(("#999", ' stroke-dasharray="4 3"', ends))
        longest = max(points[-1] for _, _, points in shown)
        parts.append(
            f'<text x="{x0}" y="{y0 - height - 8}" class="bold">{name}</text>'
            f'<rect x="{x0}" y="{y0 - height}" width="{width}" height="{height}" class="frame"/>'
            f'<text x="{x0 - 4}" y="{y0}" text-anchor="end">0</text>'
            f'<text x="{x0 - 4}" y="{y0 - height + 8}" text-anchor="end">all</text>'
            f'<text x="{x0 + width}" y="{y0 + 14}" text-anchor="end">{longest:.0f} s</text>'
        )
        for color, dashes, points in shown:
            path = " ".join(
                f"{x0 + at / longest * width:.1f},{y0 - (i + 1) / len(points) * height:.1f}"
                for i, at in enumerate(points)
            )
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(lines) * pitch}" '
        f'height="{top + height + 50}"><style>text{{font:11px sans-serif}}'
        ".bold{font-weight:bold}.frame{fill:none;stroke:#ccc}</style>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of the contenders without a rate limit (default: 3)"
    )
    parser.add_argument("--curls", type=int, default=200, help="nodes that curl patches (default: 200)")
    parser.add_argument(
        "--agent",
        type=Path,
        default=AGENT,
        help="the directory that has the agent's package, to measure another checkout's",
    )
    arguments = parser.parse_args()
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        parser.error(f"{', '.join(missing)} missing: install Debian's {', '.join(PROGRAMS.values())}")
    nodes, curls = arguments.nodes, min(arguments.curls, arguments.nodes)
    unwind_on_signals()

    began = time.monotonic()
    about = {
        "nodes": nodes,
        "images_a_node": IMAGES,
        "cores": os.cpu_count(),
        "load_average_at_start": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "lightkube": importlib.metadata.version("lightkube"),
        "writer": version(),
    }
    with World.started(nodes) as world:
        log(f"{nodes:,} nodes are ready.")
        measured = run_rounds(world, arguments.agent, arguments.rounds)
        by_curl = contenders.curl(world, curls)
        log(f"Libraries: {COLLECTION}, {', '.join(LIBRARIES)}")
        mirrored: dict[str, dict[str, Phase]] = {}
        for library, name, phase in libraries(world, arguments.agent):
            mirrored.setdefault(library, {})[name] = phase
    about["load_average_at_end"] = os.getloadavg()
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    compared = ratios(measured, by_curl, nodes)
    report = {
        **about,
        "contenders": {
            contender: {
                name: {"median": as_json(median(rounds)), "rounds": [as_json(phase) for phase in rounds]}
                for name, rounds in of_phases.items()
            }
            for contender, of_phases in measured.items()
        },
        "curl": {"measured": asdict(by_curl), "scaled": asdict(by_curl.scaled(nodes))},
        "ours_to": compared,
        "libraries": {
            library: {name: as_json(phase) for name, phase in of_phases.items()}
            for library, of_phases in mirrored.items()
        },
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "agent.json").write_text(json.dumps(report, indent=2) + "\n")
    (BUILD / "agent.svg").write_text(plot(measured, by_curl, nodes))
    print("\n".join(table(measured, by_curl, nodes)), end="\n\n")
    for contender, of_phases in compared.items():
        for name, shares in of_phases.items():
            print(f"The agent to {contender}, {name}: {shares['seconds']:.2f} of the time")
    lags = {name: median(phases[STORM]).lags for name, phases in measured.items()}
    for name, values in lags.items():
        print(
            f"From the reset of a node until its patch, {name}: p50 {statistics.median(values):.2f} s, "
            f"p99 {values[int(len(values) * 0.99)]:.2f} s"
        )
    print("", *library_table(mirrored), "", sep="\n")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{BUILD.relative_to(ROOT)}/agent.json and agent.svg have all rounds.")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, StartError) as error:
        sys.exit(str(error))
