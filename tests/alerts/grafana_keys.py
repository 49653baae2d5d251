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


def lost(written: Any, decoded: Any, path: str) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(decoded, dict):
        for key, written_item in written.items():
            yield from lost(written_item, decoded.get(key), f"{path}.{key}")
    elif isinstance(written, list) and isinstance(decoded, list) and len(written) == len(decoded):
        for index, (written_item, decoded_item) in enumerate(zip(written, decoded, strict=True)):
            yield from lost(written_item, decoded_item, f"{path}[{index}]")
    elif written != decoded:
        yield path


register_default_plugins()
dashboard = json.load(sys.stdin)
decoded_dashboard = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
print("\n".join(lost(dashboard, decoded_dashboard, "dashboard")))
