"""Golden tensors of the reference: reading them, the weights and inputs they were made with, and comparing."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from synchuman.weights import keymaps

FIXTURES = Path(__file__).parent / "fixtures"


@cache
def manifest(network: str) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of `joint_network`, `structure_decoder` or `dinov2_vitl14_reg`."""
    data = json.loads(gzip.decompress((FIXTURES / "stage1_manifests.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in data[network].items()}


class Golden:
    """One golden file: tensors, metadata, and how the tensors were thinned."""

    def __init__(self, name: str) -> None:
        self.name = f"s1_{name}" if name != "dino_tiny" else name
        with safe_open(FIXTURES / f"stage1_{name}.safetensors", "pt") as file:
            self.meta: dict[str, Any] = json.loads(file.metadata()["golden"])
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def input(self, tensor: str, *shape: int) -> Tensor:
        """Regenerate an input; where its head is stored, check the generator with it."""
        value = torch.randn(shape, generator=_generator(f"input:{self.name}.{tensor}"))
        head = self.tensors.get(f"in.{tensor}.head")
        if head is not None:
            torch.testing.assert_close(value.flatten()[: len(head)], head, rtol=0, atol=1e-6)
        return value

    def error(self, key: str, actual: Tensor) -> float:
        """Largest difference over the reference tensor's largest magnitude."""
        stored = self.meta["stored"].get(key, {})
        actual = actual.detach()
        if "slice" in stored:
            actual = actual[tuple(slice(None, None, None if s == ":" else int(s)) for s in stored["slice"])]
        if "flat_step" in stored:
            actual = actual.reshape(-1)[:: stored["flat_step"]]
        expected = self.tensors[key]
        assert actual.shape == expected.shape, (key, actual.shape, expected.shape)
        scale = stored.get("absmax") or float(expected.abs().max())
        return float((actual.double() - expected.double()).abs().max()) / scale

    def check(self, tolerance: float, **actual: Tensor) -> None:
        """Compare tensors, `_` in a name standing for the dot after `out` or `tap`, all of them before failing."""
        self.check_all(tolerance, {name.replace("_", ".", 1): value for name, value in actual.items()})

    def check_all(self, tolerance: float, actual: dict[str, Tensor]) -> None:
        """Compare tensors by key; report every error, so that a failure shows where it begins."""
        errors = {key: self.error(key, value) for key, value in actual.items()}
        assert all(error <= tolerance for error in errors.values()), errors


def published_names(published_prefix: str, our_prefix: str, network: str = "joint_network") -> dict[str, str]:
    """Our name of each weight below a prefix, mapped to its published name, both without their prefix."""
    renames = keymaps.JOINT_NETWORK if network == "joint_network" else keymaps.STRUCTURE_DECODER
    names = {}
    for name in manifest(network):
        if name.startswith(published_prefix):
            ours = keymaps.rename(name, renames)
            assert ours.startswith(our_prefix), (name, ours)
            names[ours[len(our_prefix) :]] = name[len(published_prefix) :]
    return names


def fill(module: nn.Module, published: dict[str, str], check: dict[str, float], prefix: str = "") -> None:
    """Fill parameters by the goldens' rule under their published names and check the sums."""
    count, total, absolute = 0, 0.0, 0.0
    for name, parameter in module.named_parameters():
        weight = published_weight(prefix + published[name], parameter.shape)
        parameter.data.copy_(weight)
        weight = weight.double()
        count, total, absolute = (
            count + weight.numel(),
            total + float(weight.sum()),
            absolute + float(weight.abs().sum()),
        )
    assert count == check["filled"]
    assert math.isclose(absolute, check["abs_sum"], rel_tol=1e-6), (absolute, check)
    assert math.isclose(total, check["sum"], rel_tol=1e-4), (total, check)


def published_weight(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The weight that the goldens' rule gives a published name."""
    weight = torch.randn(tuple(shape), generator=_generator(name))
    if name.endswith("gamma"):
        return 1 + 0.1 * weight
    if name.endswith("bias"):
        return 0.1 * weight
    if weight.ndim >= 2:
        return weight / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * weight


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
