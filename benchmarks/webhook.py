"""`python -m benchmarks.webhook --peer URL`: our webhook beside another, review by review.

Two servers get the same reviews by turns: of 1.6, 8, 31 and 300 kB, over HTTP/1.1 and HTTP/2,
of peer pods, of other pods and of both at once. Ours is started here unless `--ours` names
one. Both run all the time, and whichever is not asked does nothing; h2load and they share
this machine's cores.
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
    """What an API server sends for a pod of two containers.

    It grows by environment variables, each of which is there twice as in any real review: in its
    container and in managedFields.
    """
    empty, one = (len(_review(count, peer_pod)) for count in (2, 4))
    count = 2 + 2 * max(0, int((kilobytes * 1000 - empty) / (one - empty)))
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
    of_container = {"app": names[::2], "sidecar": names[1::2]}
    fields = {
        f'k:{{"name":"{container}"}}': {
            "f:env": {f'k:{{"name":"{name}"}}': {".": {}, "f:name": {}, "f:value": {}} for name in mine}
        }
        for container, mine in of_container.items()
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
                    "env": [{"name": name, "value": f"the value of {name}"} for name in mine],
                    "resources": amounts[container],
                    "imagePullPolicy": "IfNotPresent",
                }
                for container, mine in of_container.items()
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
    whole = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(whole, separators=(",", ":")).encode()


# -- Servers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A webhook, and where the kernel tells about its process (None where that is not to be seen)."""

    name: str
    url: str
    process: Path | None


@contextlib.contextmanager
def ours(scratch: Path) -> Iterator[tuple[Server, Path]]:
    """Our webhook, run as its container runs it, and the certificate to trust it by."""
    processes = Processes(scratch)
    try:
        url, ca = start_webhook(processes, scratch, {"TARGET_RUNTIME_CLASS": RUNTIME_CLASS})

        def listening() -> Path | None:
            processes.check_alive()
            return listener(url)

        yield Server("ours", url, wait_for("our webhook", listening, seconds=20)), ca
    finally:
        processes.stop()


def check(server: Server, sizes: Sequence[float]) -> None:
    """Raises RuntimeError unless the server changes peer pods, and none but those."""
    context = ssl.create_default_context()
    # h2load asks for no trusted certificate either.
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
                    f"{server.url} was sent a review of {kilobytes:g} kB; instead of an answer: "
                    f"{error}. See that a webhook listens there, path included."
                ) from error
            patch = json.loads(base64.b64decode(response.get("patch", "")) or b"[]")
            if not response["allowed"] or bool(patch) != peer_pod:
                raise RuntimeError(
                    f"{server.url} was sent a review of {kilobytes:g} kB of a pod of RuntimeClass "
                    f"{RUNTIME_CLASS if peer_pod else OTHER_CLASS} and came back with {response}, "
                    f"the patch being {patch}: start it with {RUNTIME_CLASS} as the RuntimeClass "
                    "of peer pods."
                )


# -- Measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    kilobytes: float
    protocol: str
    peer_pods: float
    """The share of the requests under way that are of peer pods."""

    def streams(self, url: str) -> list[Stream]:
        of_peer_pods = round(CONCURRENCY * self.peer_pods)
        return [
            Stream(url, review(self.kilobytes, peer_pod), count, self.protocol == "h2", HEADERS)
            for peer_pod, count in ((True, of_peer_pods), (False, CONCURRENCY - of_peer_pods))
            if count
        ]


@dataclass(frozen=True)
class Figures:
    """What one server did; times in ms, CPU of the server for each answer, memory in MB."""

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
    """Each scenario once a round, the servers one right after the other, each first by turns."""
    measured: Rounds = {scenario: {server.name: [] for server in servers} for scenario in scenarios}
    for turn in range(rounds):
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"Round {turn + 1} of {rounds}; load average {load}", file=sys.stderr, flush=True)
        for scenario in scenarios:
            for server in servers if turn % 2 == 0 else reversed(servers):
                window = measure(scenario.streams(server.url), [server.process], seconds)
                measured[scenario][server.name].append(figures(window, server))
    return measured


def median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def medians(rounds: list[Figures]) -> Figures:
    return Figures(*(median([getattr(one, metric) for one in rounds]) for metric in METRICS))


def ratios(mine: list[Figures], theirs: list[Figures]) -> Figures:
    """Ours to theirs, round by round; of these the medians."""

    def ratio(metric: str, one: Figures, other: Figures) -> float | None:
        values = getattr(one, metric), getattr(other, metric)
        return None if None in values else values[0] / values[1]

    return Figures(*(median([ratio(metric, *pair) for pair in zip(mine, theirs, strict=True)]) for metric in METRICS))


# -- Telling -----------------------------------------------------------------------------------


def report(measured: Rounds) -> list[dict]:
    return [
        {
            **asdict(scenario),
            "bytes": len(review(scenario.kilobytes, True)),
            "servers": {
                name: {
                    "median": asdict(medians(rounds)),
                    "rounds": [asdict(one) for one in rounds],
                }
                for name, rounds in of_servers.items()
            },
            "ours_to_peer": asdict(ratios(of_servers["ours"], of_servers["peer"])) if "peer" in of_servers else None,
        }
        for scenario, of_servers in measured.items()
    ]


def table(measured: Rounds) -> Iterator[str]:
    yield (f"{'':24}{'':7}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>9}{'CPU ms':>9}{'RSS MB':>9}")
    for scenario, of_servers in measured.items():
        rows = {name: medians(rounds) for name, rounds in of_servers.items()}
        title = f"{scenario.kilobytes:g} kB, {scenario.protocol}, {scenario.peer_pods:.0%} peer"
        for name, row in rows.items():
            cells = zip(asdict(row).values(), (0, 2, 2, 2, 3, 0), strict=True)
            yield f"{title:24}{name:7}" + "".join(
                f"{'' if value is None else format(value, f'.{digits}f'):>9}" for value, digits in cells
            )
            title = ""
        if "peer" in rows:
            shares = asdict(ratios(of_servers["ours"], of_servers["peer"])).values()
            yield f"{'':24}{'ratio':7}" + "".join(
                f"{'' if value is None else format(value, '.2f'):>9}" for value in shares
            )


def plot(measured: Rounds) -> str:
    """An SVG: a column for each metric, a row for each share of peer pods; both axes logarithmic."""
    titles = ("requests/s", "p50, ms", "p99, ms", "p99.9, ms", "CPU a request, ms", "RSS, MB")
    width, height, pitch_x, pitch_y, left, top = 130, 110, 190, 170, 60, 70
    shares = sorted({scenario.peer_pods for scenario in measured})
    sizes = sorted({scenario.kilobytes for scenario in measured})
    lines: dict[tuple[float, str, str], dict[float, Figures]] = {}
    for scenario, of_servers in measured.items():
        for name, rounds in of_servers.items():
            line = lines.setdefault((scenario.peer_pods, name, scenario.protocol), {})
            line[scenario.kilobytes] = medians(rounds)
    legend = "Red: ours. Grey: the peer. Solid: HTTP/1.1. Dashed: HTTP/2. From left to right: the review's size in kB."
    parts = [f'<text x="{left}" y="20" class="bold">{legend}</text>']

    def scale(values: list[float], length: int) -> tuple[float, float]:
        """Where log10 begins, and pixels for each unit of it."""
        low, high = math.log10(min(values)), math.log10(max(values))
        return low, length / ((high - low) or 1)

    first_x, per_x = scale(sizes, width)
    for column, (metric, title) in enumerate(zip(METRICS, titles, strict=True)):
        values = [value for line in lines.values() for one in line.values() if (value := getattr(one, metric))]
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
            for (of_share, name, protocol), line in lines.items():
                if of_share != share:
                    continue
                points = " ".join(
                    f"{x0 + (math.log10(size) - first_x) * per_x:.1f},{y0 - (math.log10(value) - first_y) * per_y:.1f}"
                    for size, one in sorted(line.items())
                    if (value := getattr(one, metric))
                )
                dashes = ' stroke-dasharray="5 3"' if protocol == "h2" else ""
                color = "#c00" if name == "ours" else "#666"
                parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(METRICS) * pitch_x}" '
        f'height="{top + len(shares) * pitch_y}">'
        "<style>text{font:11px sans-serif}.bold{font-weight:bold}.scale{font-size:9px}"
        ".frame{fill:none;stroke:#ccc}</style>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="https:// URL, path included, of a running webhook")
    parser.add_argument("--ours", help="the same of ours (default: it is started here)")
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
        "requests_under_way": CONCURRENCY,
        "seconds": arguments.seconds,
    }
    scenarios = [
        Scenario(kilobytes, protocol, share)
        for kilobytes in arguments.kilobytes
        for protocol in ("h1", "h2")
        for share in SHARES
    ]
    with contextlib.ExitStack() as stack:
        if arguments.ours:
            servers = [Server("ours", arguments.ours, listener(arguments.ours))]
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="osc-peerpods-bench-"))
            servers = [stack.enter_context(ours(Path(scratch)))[0]]
        if arguments.peer:
            servers.append(Server("peer", arguments.peer, listener(arguments.peer)))
        for server in servers:
            check(server, arguments.kilobytes)
        about["rss_mb_before"] = {server.name: resident_mb(server.process) for server in servers}
        measured = run_rounds(servers, scenarios, arguments.rounds, arguments.seconds)
    about["load_average_at_end"] = os.getloadavg()
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "webhook.json").write_text(json.dumps({**about, "scenarios": report(measured)}, indent=2) + "\n")
    (BUILD / "webhook.svg").write_text(plot(measured))
    print("\n".join(table(measured)))
    print(f"\n{', '.join(f'{key} {value}' for key, value in about.items())}")
    print(f"{BUILD.relative_to(ROOT)}/webhook.json has all rounds, webhook.svg shows them.")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
