"""`python -m benchmarks.webhook --peer URL`: compare the webhook with its floor and with a peer.

All servers receive the same reviews in turn: of 1.6, 8, 31 and 300 kB, over HTTP/1.1 and HTTP/2, of peer pods, of other
pods and of both together. The floor is an application on the same server that returns a constant (webhook_floor.py).
The program starts it and the webhook of the collection, unless `--webhook` names a running webhook. All servers run all
the time, and those that receive no load are idle; h2load shares the cores with them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import math
import os
import platform
import ssl
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.processes import Processes, unwind_on_signals, wait_for
from tests.cluster.webhook import start_webhook
from tests.support import ROOT

from .load import Stream, Window, listener, measure, resident_mb, version

BUILD = ROOT / "build" / "bench"
RUNTIME_CLASS = "kata-remote"
OTHER_CLASS = "kata"
CONCURRENCY = 16
KILOBYTES = (1.6, 8.0, 31.0, 300.0)
SHARES = (0.0, 0.5, 1.0)
HEADERS = ("content-type: application/json",)


# -- Reviews -----------------------------------------------------------------------------------


def review(kilobytes: float, peer_pod: bool) -> bytes:
    """The AdmissionReview that an API server sends for a pod of two containers.

    Environment variables bring it to its size. As in any real review, each occurs twice: in its
    container and in managedFields.
    """
    two, four = (len(_review(count, peer_pod)) for count in (2, 4))
    count = 2 + 2 * max(0, int((kilobytes * 1000 - two) / (four - two)))
    return _review(count, peer_pod)


def _review(variables: int, peer_pod: bool) -> bytes:
    names = [f"SETTING_{number:04}" for number in range(variables)]
    amounts = {
        "app": {
            "limits": {"cpu": "1", "memory": "512Mi"},
            "requests": {"cpu": "500m", "memory": "256Mi"},
        },
        "sidecar": {
            "limits": {"memory": "64Mi"},
            "requests": {"cpu": "100m", "memory": "64Mi"},
        },
    }
    variables_of = {"app": names[::2], "sidecar": names[1::2]}
    fields = {
        f'k:{{"name":"{container}"}}': {
            "f:env": {f'k:{{"name":"{name}"}}': {".": {}, "f:name": {}, "f:value": {}} for name in container_variables}
        }
        for container, container_variables in variables_of.items()
    }
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    pod = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": "benchmark-",
            "namespace": "default",
            "labels": {"app": "benchmark"},
            "managedFields": [
                {
                    "manager": "benchmark",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:containers": fields}},
                }
            ],
        },
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": f"registry.example.com/{container}:1",
                    "env": [{"name": name, "value": f"the value of {name}"} for name in container_variables],
                    "resources": amounts[container],
                    "imagePullPolicy": "IfNotPresent",
                }
                for container, container_variables in variables_of.items()
            ],
            "restartPolicy": "Always",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "runtimeClassName": RUNTIME_CLASS if peer_pod else OTHER_CLASS,
        },
        "status": {},
    }
    request = {
        "uid": "6889f507-11f2-458f-8e60-99fe423e8472",
        "kind": kind,
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": kind,
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    admission_review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(admission_review, separators=(",", ":")).encode()


# -- Servers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A webhook, and the directory of its process in /proc (None if that is not accessible)."""

    name: str
    url: str
    process: Path | None


@contextlib.contextmanager
def start(name: str, module: str = "peerpods_webhook") -> Iterator[tuple[Server, Path]]:
    """Start the webhook of the collection, or another module with its settings; yields the server and its CA file."""
    with tempfile.TemporaryDirectory(prefix="osc-peerpods-bench-") as scratch:
        processes = Processes(Path(scratch))
        try:
            url, ca = start_webhook(processes, Path(scratch), {"TARGET_RUNTIME_CLASS": RUNTIME_CLASS}, module)

            def listening() -> Path | None:
                processes.check_alive()
                return listener(url)

            yield Server(name, url, wait_for(name, listening, seconds=20)), ca
        finally:
            processes.stop()


def check(server: Server, sizes: Sequence[float]) -> None:
    """Raises RuntimeError unless the server mutates peer pods and no other pods."""
    context = ssl.create_default_context()
    # h2load does not verify certificates either.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = dict(header.split(": ") for header in HEADERS)
    for kilobytes in sizes:
        for peer_pod in (True, False):
            request = urllib.request.Request(server.url, review(kilobytes, peer_pod), headers)
            try:
                with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                    response = json.load(answer)["response"]
            except OSError as error:
                raise RuntimeError(
                    f"Sending a review of {kilobytes:g} kB to {server.url} failed: {error}. "
                    "Check that a webhook listens at this URL, path included."
                ) from error
            patch = json.loads(base64.b64decode(response.get("patch", "")) or b"[]")
            if not response["allowed"] or bool(patch) != peer_pod:
                raise RuntimeError(
                    f"{server.url} returned {response} with the patch {patch} for a review of "
                    f"{kilobytes:g} kB of a pod of RuntimeClass {RUNTIME_CLASS if peer_pod else OTHER_CLASS}. "
                    f"Start it with {RUNTIME_CLASS} as the RuntimeClass of peer pods."
                )


# -- Measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    kilobytes: float
    protocol: str
    peer_pods: float
    """The share of peer pods among the concurrent requests."""

    def streams(self, url: str) -> list[Stream]:
        peer_pod_requests = round(CONCURRENCY * self.peer_pods)
        return [
            Stream(url, review(self.kilobytes, peer_pod), count, self.protocol == "h2", HEADERS)
            for peer_pod, count in ((True, peer_pod_requests), (False, CONCURRENCY - peer_pod_requests))
            if count
        ]


@dataclass(frozen=True)
class Figures:
    """The measurements of a server: times in ms, its CPU time per answer in ms, its memory in MB."""

    requests_per_second: float
    p50: float
    p99: float
    p999: float
    cpu_ms: float | None
    rss_mb: float | None


METRICS = tuple(Figures.__dataclass_fields__)
Rounds = dict[Scenario, dict[str, list[Figures]]]


def figures(window: Window, server: Server) -> Figures:
    return Figures(
        window.per_second,
        window.p50,
        window.p99,
        window.p999,
        window.cpu_ms[0],
        resident_mb(server.process),
    )


def run_rounds(servers: list[Server], scenarios: list[Scenario], rounds: int, seconds: float) -> Rounds:
    """Measure each scenario once a round, on one server after the other, in alternating order."""
    measured: Rounds = {scenario: {server.name: [] for server in servers} for scenario in scenarios}
    for turn in range(rounds):
        load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
        print(f"Round {turn + 1} of {rounds}; load average {load}", file=sys.stderr, flush=True)
        for scenario in scenarios:
            for server in servers if turn % 2 == 0 else reversed(servers):
                window = measure(scenario.streams(server.url), [server.process], seconds)
                measured[scenario][server.name].append(figures(window, server))
    return measured


def median(values: list[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None


def medians(rounds: list[Figures]) -> Figures:
    return Figures(*(median([getattr(figures, metric) for figures in rounds]) for metric in METRICS))


def ratios(servers: dict[str, list[Figures]]) -> dict[str, Figures]:
    """For each other server, the medians of the ratios of the collection's webhook to it in each round."""

    def ratio(metric: str, own: Figures, peer: Figures) -> float | None:
        values = getattr(own, metric), getattr(peer, metric)
        return None if None in values else values[0] / values[1]

    return {
        name: Figures(
            *(median([ratio(metric, *pair) for pair in zip(servers["osc"], rounds, strict=True)]) for metric in METRICS)
        )
        for name, rounds in servers.items()
        if name != "osc"
    }


# -- Reporting ---------------------------------------------------------------------------------


def report(measured: Rounds) -> list[dict]:
    return [
        {
            **asdict(scenario),
            "bytes": len(review(scenario.kilobytes, True)),
            "servers": {
                name: {
                    "median": asdict(medians(rounds)),
                    "rounds": [asdict(figures) for figures in rounds],
                }
                for name, rounds in servers.items()
            },
            "ours_to": {name: asdict(figures) for name, figures in ratios(servers).items()},
        }
        for scenario, servers in measured.items()
    ]


def table(measured: Rounds) -> Iterator[str]:
    yield (f"{'':24}{'':10}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>9}{'CPU ms':>9}{'RSS MB':>9}")
    for scenario, servers in measured.items():
        title = f"{scenario.kilobytes:g} kB, {scenario.protocol}, {scenario.peer_pods:.0%} peer"
        rows = [(name, medians(rounds), (0, 2, 2, 2, 3, 0)) for name, rounds in servers.items()]
        rows += [(f"to {name}", figures, (2,) * len(METRICS)) for name, figures in ratios(servers).items()]
        for name, figures, digits in rows:
            cells = zip(asdict(figures).values(), digits, strict=True)
            yield f"{title:24}{name:10}" + "".join(
                f"{'' if value is None else format(value, f'.{places}f'):>9}" for value, places in cells
            )
            title = ""


def plot(measured: Rounds) -> str:
    """An SVG with a column for each metric and a row for each share of peer pods, both axes logarithmic."""
    titles = ("requests/s", "p50, ms", "p99, ms", "p99.9, ms", "CPU a request, ms", "RSS, MB")
    width, height, pitch_x, pitch_y, left, top = 130, 110, 190, 170, 60, 70
    shares = sorted({scenario.peer_pods for scenario in measured})
    sizes = sorted({scenario.kilobytes for scenario in measured})
    lines: dict[tuple[float, str, str], dict[float, Figures]] = {}
    for scenario, servers in measured.items():
        for name, rounds in servers.items():
            line = lines.setdefault((scenario.peer_pods, name, scenario.protocol), {})
            line[scenario.kilobytes] = medians(rounds)
    colors = {"osc": "#c00", "peer": "#666", "floor": "#69c"}
    legend = (
        "Red: the collection. Grey: the peer. Blue: the floor. Solid: HTTP/1.1. Dashed: HTTP/2. "
        "From left to right: the size of the review in kB."
    )
    parts = [f'<text x="{left}" y="20" class="bold">{legend}</text>']

    def scale(values: list[float], length: int) -> tuple[float, float]:
        """The minimum of log10, and the pixels per unit of it."""
        low, high = math.log10(min(values)), math.log10(max(values))
        return low, length / ((high - low) or 1)

    first_x, per_x = scale(sizes, width)
    for column, (metric, title) in enumerate(zip(METRICS, titles, strict=True)):
        values = [value for line in lines.values() for figures in line.values() if (value := getattr(figures, metric))]
        if not values:
            continue
        first_y, per_y = scale(values, height)
        x0 = left + column * pitch_x
        for row, share in enumerate(shares):
            y0 = top + row * pitch_y + height
            parts.append(
                f'<text x="{x0}" y="{y0 - height - 10}" class="bold">{title} '
                f"({share:.0%} peer pods)</text>"
                f'<rect x="{x0}" y="{y0 - height}" width="{width}" height="{height}" class="frame"/>'
            )
            parts += [
                f'<text x="{x0 - 4}" y="{y + 4}" class="scale" text-anchor="end">{value:.3g}</text>'
                for value, y in ((min(values), y0), (max(values), y0 - height))
            ]
            parts += [
                f'<text x="{x0 + (math.log10(size) - first_x) * per_x:.0f}" y="{y0 + 14}" '
                f'class="scale" text-anchor="middle">{size:g}</text>'
                for size in sizes
            ]
            for (line_share, name, protocol), line in lines.items():
                if line_share != share:
                    continue
                points = " ".join(
                    f"{x0 + (math.log10(size) - first_x) * per_x:.1f},{y0 - (math.log10(value) - first_y) * per_y:.1f}"
                    for size, figures in sorted(line.items())
                    if (value := getattr(figures, metric))
                )
                dashes = ' stroke-dasharray="5 3"' if protocol == "h2" else ""
                parts.append(
                    f'<polyline points="{points}" fill="none" stroke="{colors[name]}" stroke-width="1.5"{dashes}/>'
                )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(METRICS) * pitch_x}" '
        f'height="{top + len(shares) * pitch_y}">'
        "<style>text{font:11px sans-serif}.bold{font-weight:bold}.scale{font-size:9px}"
        ".frame{fill:none;stroke:#ccc}</style>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="https:// URL of a running webhook, path included")
    parser.add_argument("--webhook", help="the same for the webhook of the collection (default: start it here)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement (default: 3)")
    parser.add_argument(
        "--kilobytes",
        type=lambda text: tuple(float(size) for size in text.split(",")),
        default=KILOBYTES,
        help="sizes of a review, separated by commas (default: 1.6,8,31,300)",
    )
    arguments = parser.parse_args()
    unwind_on_signals()

    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average_at_start": os.getloadavg(),
        "python": platform.python_version(),
        "load_generator": version(),
        "concurrent_requests": CONCURRENCY,
        "seconds": arguments.seconds,
    }
    scenarios = [
        Scenario(kilobytes, protocol, share)
        for kilobytes in arguments.kilobytes
        for protocol in ("h1", "h2")
        for share in SHARES
    ]
    with contextlib.ExitStack() as stack:
        if arguments.webhook:
            servers = [Server("osc", arguments.webhook, listener(arguments.webhook))]
        else:
            servers = [stack.enter_context(start("osc"))[0]]
        if arguments.peer:
            servers.append(Server("peer", arguments.peer, listener(arguments.peer)))
        for server in servers:
            check(server, arguments.kilobytes)
        servers.append(stack.enter_context(start("floor", "benchmarks.webhook_floor"))[0])
        about["rss_mb_before"] = {server.name: resident_mb(server.process) for server in servers}
        measured = run_rounds(servers, scenarios, arguments.rounds, arguments.seconds)
    about["load_average_at_end"] = os.getloadavg()
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "webhook.json").write_text(json.dumps({**about, "scenarios": report(measured)}, indent=2) + "\n")
    (BUILD / "webhook.svg").write_text(plot(measured))
    print("\n".join(table(measured)))
    print(f"\n{', '.join(f'{key} {value}' for key, value in about.items())}")
    print(f"{BUILD.relative_to(ROOT)}/webhook.json has all rounds, webhook.svg the medians.")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
