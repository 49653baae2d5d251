"""`python -m benchmarks.modules`: calls and time of the modules, of their peers and of the documented commands.

All contenders run as a user runs them, in turns, against one API server and one
cloud; the result is checked afterwards. README.md explains the
figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

from .aws import AwsWorld
from .azure import AzureWorld, Import, imports
from .contenders import DOCUMENTED, FIRST, IDLE, OURS, Contender, Job, Run, World

BUILD = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Figure:
    """One run, or the medians of several and all of their outcomes."""

    job: str
    contender: str
    kind: str
    workers: int
    run: Run

    @property
    def calls(self) -> float:
        return self.run.cloud_calls + self.run.kubernetes_calls

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.job, self.contender, self.kind, self.workers


EMPTY = Job(IDLE, (Contender("ansible-playbook", [{"ansible.builtin.meta": "noop"}]),))


# -- Measuring ---------------------------------------------------------------------------------


def measure(world: World, job: Job, contender: Contender) -> Iterator[Figure]:
    """The contender's first run and, if it changes something, a second run."""
    if job.reset:
        job.reset()
    for kind in job.kinds:
        figure = Figure(job.name, contender.name, kind, len(world.workers), world.run(contender))
        if job.done and not job.done():
            sys.exit(f"{contender.name} did not {job.name}.")
        yield figure


def rounds(world: World, counts: list[int], runs: int) -> Iterator[Figure]:
    began = time.monotonic()
    for count in counts:
        say(f"{count} workers")
        world.grow(count)
        all_jobs = (*world.jobs(), EMPTY)
        if count == counts[0]:
            say("  once unmeasured, to compile and to discover the API")
            for job in all_jobs:
                for contender in job.contenders:
                    next(measure(world, job, contender))
        for number in range(runs):
            say(f"  round {number + 1} of {runs}, {time.monotonic() - began:.0f} s in")
            for job in all_jobs:
                # The order alternates, so no contender always runs after the same other contender.
                for contender in job.contenders[:: -1 if number % 2 else 1]:
                    yield from measure(world, job, contender)


def medians(figures: list[Figure]) -> list[Figure]:
    runs: dict[tuple, list[Figure]] = {}
    for figure in figures:
        runs.setdefault(figure.key, []).append(figure)
    return [dataclasses.replace(group[0], run=_median([figure.run for figure in group])) for group in runs.values()]


def _median(runs: list[Run]) -> Run:
    numbers = {
        field.name: round(statistics.median(getattr(run, field.name) for run in runs), 3)
        for field in dataclasses.fields(Run)
        if field.name != "outcome"
    }
    return Run(**numbers, outcome="/".join(sorted({run.outcome for run in runs})))


def ratios(figures: list[Figure]) -> list[dict]:
    """The ratios of the collection to each contender: calls, time and CPU time, also without those of an empty play."""
    by_key = {figure.key: figure for figure in figures}

    def shares(own: Figure, peer: Figure) -> Iterator[tuple[str, float]]:
        yield "calls", own.calls / peer.calls
        for metric in ("seconds", "cpu_seconds", "memory"):
            yield metric, getattr(own.run, metric) / getattr(peer.run, metric)
        if peer.contender != DOCUMENTED:
            empty = by_key[IDLE, EMPTY.contenders[0].name, FIRST, peer.workers]
            for metric in ("seconds", "cpu_seconds"):
                own_value, peer_value, idle = (getattr(figure.run, metric) for figure in (own, peer, empty))
                yield f"{metric}_above_empty", (own_value - idle) / (peer_value - idle)

    return [
        {
            "job": peer.job,
            "peer": peer.contender,
            "run": peer.kind,
            "workers": peer.workers,
            **{metric: round(share, 2) for metric, share in shares(own, peer)},
        }
        for peer in figures
        if peer.contender != OURS and (own := by_key.get((peer.job, OURS, peer.kind, peer.workers)))
    ]


# -- Reporting ---------------------------------------------------------------------------------


def table(figures: list[Figure], counts: list[int], api: str) -> Iterator[str]:
    by_key = {figure.key: figure for figure in figures}
    head = "".join(f"{f'{count} workers':>22}" for count in counts)
    yield f"{'':<42}{'':<11}{head}"
    yield f"{'':<42}{'':<11}" + f"{f'{api}  k8s  seconds':>22}" * len(counts)
    rows = dict.fromkeys((f.job, f.contender, f.kind) for f in figures)
    job_before = None
    for job, contender, kind in rows:
        if job != job_before:
            yield job
            job_before = job
        line = f"  {contender:<40}{kind:<11}"
        outcomes = set()
        for count in counts:
            run = by_key[job, contender, kind, count].run
            calls = f"{run.cloud_calls:.0f}  {run.kubernetes_calls:>3.0f}"
            line += f"{calls:>13}  {run.seconds:>7.2f}"
            outcomes.add(run.outcome)
        yield f"{line}  {', '.join(sorted(outcomes))}"


def compared(shares: list[dict], count: int) -> Iterator[str]:
    columns = ("calls", "seconds", "cpu_seconds", "memory", "seconds_above_empty", "cpu_seconds_above_empty")
    yield f"{'':<77}above an empty play"
    yield f"{f'Ratios at {count} workers':<50}calls   time    CPU    RSS   time    CPU"
    for share in shares:
        if share["workers"] == count:
            numbers = (f"{share[column]:>5.2f}" if column in share else f"{'':<5}" for column in columns)
            label = f"{share['job']}, {share['run']}"
            yield f"  {label:<48}{'  '.join(numbers)}  to {share['peer']}"


def import_table(imported: list[Import]) -> Iterator[str]:
    yield f"{'Importing what a module does':<50}seconds     MB"
    for import_ in imported:
        yield f"  {import_.name:<48}{import_.seconds:>7.2f}  {import_.memory:>5.0f}"


def bars(figures: list[Figure]) -> str:
    """An SVG: calls to the left, seconds to the right, a bar for each number of workers."""
    shown = [figure for figure in figures if figure.job != IDLE]
    largest = [max(figure.calls for figure in shown), max(figure.run.seconds for figure in shown)]
    parts, y = [], 34
    rows: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in shown:
        rows.setdefault((figure.job, figure.kind, figure.contender), []).append(figure)
    heading = None
    for (job, kind, contender), members in sorted(rows.items(), key=lambda row: row[0][:2]):
        if heading != (job, kind):
            heading = (job, kind)
            y += 26
            parts.append(f'<text x="10" y="{y - 6}" class="job">{job}, {kind}</text>')
        parts.append(f'<text x="20" y="{y + 4 + 4 * len(members)}">{contender}</text>')
        for figure in members:
            for x, value, top, text in (
                (230, figure.calls, largest[0], f"{figure.calls:.0f}"),
                (560, figure.run.seconds, largest[1], f"{figure.run.seconds:.1f}"),
            ):
                width = 280 * value / top
                color = "#c00" if figure.contender == OURS else "#888"
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{width:.1f}" height="7" fill="{color}"/>'
                    f'<text x="{x + width + 4:.1f}" y="{y + 7}" class="value">{text}</text>'
                )
            y += 9
        y += 4
    counts = ", ".join(str(count) for count in dict.fromkeys(f.workers for f in shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="880" height="{y + 10}">'
        "<style>text{font:11px sans-serif}.job{font-weight:bold}.value{font-size:8px}</style>"
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="18">Bars from top to bottom: {counts} workers</text>'
        '<text x="230" y="36" class="job">API calls</text>'
        f'<text x="560" y="36" class="job">seconds</text>{"".join(parts)}</svg>\n'
    )


def machine(packages: tuple[str, ...], cli: str) -> dict:
    model = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{
            package: importlib.metadata.version(package)
            for package in ("ansible-core", "ansible", "kubernetes", *packages)
        },
        "command line": cli,
    }


WORLDS: dict[str, type[World]] = {"aws": AwsWorld, "azure": AzureWorld}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cloud", choices=WORLDS, default="aws", help="whose (default: aws)")
    parser.add_argument(
        "--workers",
        type=lambda text: sorted({int(count) for count in text.split(",")}),
        default=[1, 10, 200],
        help="how many workers, separated by commas (default: 1,10,200)",
    )
    parser.add_argument("--runs", type=int, default=2, help="runs of each (default: 2)")
    arguments = parser.parse_args()

    # SIGTERM acts like Ctrl-C, so that every server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    cloud = WORLDS[arguments.cloud]
    about = machine(cloud.packages, cloud.cli)
    with (
        tempfile.TemporaryDirectory(prefix="osc-peerpods-bench-") as scratch,
        cloud.started(Path(scratch)) as world,
    ):
        figures = list(rounds(world, arguments.workers, arguments.runs))
    imported = list(imports(5)) if cloud is AzureWorld else []
    medians_ = medians(figures)
    shares = ratios(medians_)
    BUILD.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": about,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "runs": [flat(figure) for figure in figures],
        "medians": [flat(figure) for figure in medians_],
        "ratios": shares,
        "imports": [dataclasses.asdict(import_) for import_ in imported],
    }
    name = f"modules-{arguments.cloud}"
    (BUILD / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    (BUILD / f"{name}.svg").write_text(bars(medians_))
    print("\n".join(table(medians_, arguments.workers, world.api)), end="\n\n")
    print("\n".join(compared(shares, arguments.workers[-1])), end="\n\n")
    if imported:
        print("\n".join(import_table(imported)), end="\n\n")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{report['minutes']} minutes; {BUILD.relative_to(ROOT)}/{name}.json, {name}.svg")


def flat(figure: Figure) -> dict:
    return {
        **{key: value for key, value in dataclasses.asdict(figure).items() if key != "run"},
        **dataclasses.asdict(figure.run),
    }


if __name__ == "__main__":
    main()
