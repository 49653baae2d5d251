"""Makes the webhook importable where it is not installed, and builds pods and reviews."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
