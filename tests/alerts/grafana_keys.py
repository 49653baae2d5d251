"""Print the keys of a dashboard that Grafana's models do not have, one per line.

Runs in its own environment with grafana-foundation-sdk. Its models are generated from Grafana's schemas and drop
unknown keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(written: Any, kept: Any, place: str) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            yield from lost(value, kept.get(key), f"{place}.{key}")
    elif isinstance(written, list) and isinstance(kept, list) and len(written) == len(kept):
        for index, (value, other) in enumerate(zip(written, kept, strict=True)):
            yield from lost(value, other, f"{place}[{index}]")
    elif written != kept:
        yield place


register_default_plugins()
dashboard = json.load(sys.stdin)
kept = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
print("\n".join(lost(dashboard, kept, "dashboard")))
