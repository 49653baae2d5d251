from __future__ import annotations

import sys
from pathlib import Path

# The package is what the image has, not something that is installed where tests run.
PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT))
