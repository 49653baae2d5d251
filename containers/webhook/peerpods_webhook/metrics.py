# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prometheus metrics, in addition to those that its library exports about the process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf
from threading import Lock

from prometheus_client import REGISTRY, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OUTCOMES = ("mutated", "unchanged", "rejected", "malformed", "too_large", "too_slow", "busy")
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1, 10, inf)


class ReviewMetrics(Collector):
    """Counts reviews by outcome and by duration.

    It takes one lock for each review, a sixth of the time of the library's Counter and Histogram
    together. Every outcome is exported from the start, so that an alert sees the first increase.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._reviews = dict.fromkeys(OUTCOMES, 0)
        self._durations = [0] * len(BUCKETS)
        self._seconds = 0.0

    def record(self, outcome: str, seconds: float) -> None:
        bucket = bisect_left(BUCKETS, seconds)
        with self._lock:
            self._reviews[outcome] += 1
            self._durations[bucket] += 1
            self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        reviews = CounterMetricFamily(
            "peerpods_webhook_reviews",
            "Admission reviews by outcome (rejected: the pod cannot become a peer pod).",
            labels=["outcome"],
        )
        durations = HistogramMetricFamily(
            "peerpods_webhook_review_duration_seconds",
            "Time from the headers of an admission review to its response.",
        )
        with self._lock:
            for outcome, count in self._reviews.items():
                reviews.add_metric([outcome], count)
            buckets = zip(map(floatToGoString, BUCKETS), accumulate(self._durations), strict=True)
            durations.add_metric([], list(buckets), self._seconds)
        yield reviews
        yield durations


REVIEWS = ReviewMetrics()
REGISTRY.register(REVIEWS)

CERTIFICATE_NOT_AFTER = Gauge(
    "peerpods_webhook_certificate_not_after_timestamp_seconds",
    "Expiry time of the serving certificate.",
)
CERTIFICATE_RELOADS = Counter(
    "peerpods_webhook_certificate_reloads",
    "Reloads of a renewed certificate by result (failure: the previous certificate stays in use).",
    ["result"],
)
LOG_LINES_LOST = Counter(
    "peerpods_webhook_log_lines_lost",
    "Log lines that could not be written because the reader of the log was too slow.",
)
CONNECTIONS = Gauge("peerpods_webhook_connections", "Open connections of clients by port.", ["port"])
CONNECTIONS_CLOSED = Counter(
    "peerpods_webhook_connections_closed",
    "Connections that were closed by reason (client: more than a client may have; all: more than all may have; idle: "
    "no request for too long; files: beyond that of all clients, when no file descriptor was left).",
    ["reason"],
)
for reason in ("client", "all", "idle", "files"):
    # Exported from the start, so that an alert sees the first increase.
    CONNECTIONS_CLOSED.labels(reason)
