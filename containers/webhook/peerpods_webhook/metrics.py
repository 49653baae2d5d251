# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Prometheus is told, besides what its library says of the process by itself."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

OUTCOMES = ("mutated", "unchanged", "refused", "malformed", "too_large", "too_slow", "busy")

_reviews = Counter(
    "peerpods_webhook_reviews",
    "Admission reviews by outcome (refused: the pod cannot become a peer pod).",
    ["outcome"],
)
# All of them from the start, so that the first of an outcome is a rise that can be alerted on.
REVIEWS = {outcome: _reviews.labels(outcome) for outcome in OUTCOMES}
REVIEW_SECONDS = Histogram(
    "peerpods_webhook_review_duration_seconds",
    "From the headers of an admission review to its answer.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1, 10),
)
CERTIFICATE_NOT_AFTER = Gauge(
    "peerpods_webhook_certificate_not_after_timestamp_seconds",
    "When the serving certificate expires.",
)
CERTIFICATE_RELOADS = Counter(
    "peerpods_webhook_certificate_reloads",
    "Renewed certificates by result: served, refused (the one before stays).",
    ["result"],
)
LOG_LINES_LOST = Counter(
    "peerpods_webhook_log_lines_lost",
    "Log lines that could not be written, because nobody read them.",
)
