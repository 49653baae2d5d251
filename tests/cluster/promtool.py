"""Prometheus' own checker of rules and expressions."""

from __future__ import annotations

from pathlib import Path

from .binaries import built

MODULE = Path(__file__).parents[1] / "tools"


def promtool() -> Path:
    """The program, built first where the cache has none."""
    # Without the service discoveries of all clouds, which rules do not need, it is half the work.
    return built(MODULE, ["promtool"], "-tags=remove_all_sd", "-ldflags=-s -w", minutes=2) / "promtool"
