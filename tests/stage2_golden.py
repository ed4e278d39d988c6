"""Golden tensors of Stage 2, read and compared as those of Stage 1 are."""

from __future__ import annotations

import gzip
import json
from functools import cache
from typing import Any

import stage1_golden
from safetensors import safe_open
from torch import Tensor, nn

from synchuman.weights import keymaps
from synchuman.weights.keymaps_stage2 import STAGE2

FIXTURES = stage1_golden.FIXTURES


class Golden(stage1_golden.Golden):
    """One golden file of Stage 2."""

    def __init__(self, name: str) -> None:
        self.name = f"s2_{name}"
        with safe_open(FIXTURES / f"stage2_{name}.safetensors", "pt") as file:
            self.meta: dict[str, Any] = json.loads(file.metadata()["golden"])
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@cache
def manifest(network: str) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of `slat_flow`, `slat_decoder_mesh` or `slat_decoder_gs`."""
    data = json.loads(gzip.decompress((FIXTURES / "stage2_manifests.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in data[network].items()}


def fill(module: nn.Module, network: str, check: dict[str, float]) -> None:
    """Fill a network by the goldens' rule under its published names."""
    published = {keymaps.rename(name, STAGE2): name for name in manifest(network)}
    stage1_golden.fill(module, published, check)


def record(module: nn.Module, taps: dict[str, str], results: dict[str, Tensor]) -> None:
    """Keep the outputs of submodules, `taps` mapping the golden's key to the submodule's name."""
    for key, name in taps.items():

        def keep(_module: nn.Module, _inputs: Any, output: Any, key: str = key) -> None:
            results[key] = getattr(output, "feats", output)

        module.get_submodule(name).register_forward_hook(keep)
