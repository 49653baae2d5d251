"""Makes the webhook and the helpers of its tests importable, and configures Hypothesis."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

# On a busy machine, any example can take longer than a deadline.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
