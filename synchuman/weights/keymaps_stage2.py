"""Published state-dict names of the Stage 2 networks and ours."""

from __future__ import annotations

from synchuman.weights.keymaps import TRANSFORMER, Renames

# The flow and both decoders.
STAGE2: Renames = (*TRANSFORMER, (r"\.conv\.(weight|bias)$", r".\1"))
