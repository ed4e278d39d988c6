"""How long fuzzing takes: some seconds, or with FUZZ=100 a hundred times as long."""

from __future__ import annotations

import os

FUZZ = int(os.environ.get("FUZZ", "1"))
