"""promtool, which checks rules and expressions of Prometheus."""

from __future__ import annotations

from pathlib import Path

from .binaries import built

MODULE = Path(__file__).parents[1] / "tools"


def promtool() -> Path:
    """The program, which is built if the cache does not have it."""
    # Rules do not need the service discovery of all clouds; the build takes half the time without it.
    return built(MODULE, ["promtool"], "-tags=remove_all_sd", "-ldflags=-s -w", minutes=2) / "promtool"
