"""The published sizes with random weights, made on the device, and a drawn person to run them on."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import surface_person  # noqa: E402

from synchuman.nn.sparse_tensor import Voxels  # noqa: E402
from synchuman.stage1 import variants as variants1  # noqa: E402
from synchuman.stage1.config import Stage1Config  # noqa: E402
from synchuman.stage1.networks import Networks, build_networks  # noqa: E402
from synchuman.stage1.stage1 import Stage1, Stage1Result, Stage1Step  # noqa: E402
from synchuman.stage2 import variants as variants2  # noqa: E402
from synchuman.stage2.config import GaussianDecoderConfig, Stage2Config  # noqa: E402
from synchuman.stage2.networks import Stage2Networks, build_stage2  # noqa: E402
from synchuman.stage2.stage2 import Stage2, Stage2Result, Stage2Step  # noqa: E402

VOXELS = 7_723  # of the run that the reference was timed on


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured: sizes of the networks, steps and guidance of a run."""

    stage1: Stage1Config
    stage2: Stage2Config
    stage1_steps: int
    stage2_steps: int
    guidance: float = 3.0
    stage2_guidance: float = 6.0
    repeats: int = 10


def size(name: str) -> Size:
    """Return `published`, or `tiny`: thin networks that show on any machine that the bench itself works."""
    if name == "published":
        return Size(variants1.PUBLISHED, variants2.PUBLISHED, 50, 25)
    mini = variants1.MINI
    stage1 = dataclasses.replace(
        mini,
        joint_network=dataclasses.replace(mini.joint_network, widths=(32, 32, 32), heads=(1, 1, 1)),
        structure_decoder=variants1.MINI_STRUCTURE_DECODER,
        image_autoencoder=dataclasses.replace(mini.image_autoencoder, widths=(8, 8, 8, 8)),
    )
    second = variants2.MINI
    stage2 = dataclasses.replace(
        second,
        views=dataclasses.replace(second.views, image_size=112),
        gaussian_decoder=GaussianDecoderConfig(trunk=second.mesh_decoder.trunk, per_voxel=4),
    )
    return Size(stage1, stage2, 3, 3, repeats=2)


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Fill weights as the golden tensors' were: unit gain, gates open, biases a tenth."""
    for name, parameter in module.named_parameters():
        generator = torch.Generator(parameter.device).manual_seed(seed)
        seed += 1
        parameter.normal_(generator=generator)
        if name.endswith("bias"):
            parameter.mul_(0.1)
        elif parameter.ndim >= 2 and not name.endswith("gamma"):
            parameter.div_(math.sqrt(math.prod(parameter.shape[1:])))
        else:
            parameter.mul_(0.1).add_(1)


def networks(of: Size, device: torch.device) -> tuple[Networks, Stage2Networks]:
    """Build all networks in float32 on the device."""
    with torch.device(device):
        first, second = build_networks(of.stage1), build_stage2(of.stage2)
    for seed, module in enumerate([*first.modules().values(), *second.modules().values()]):
        randomise(module.eval().requires_grad_(False), 10_000 * seed)
    return first, second


def voxels(count: int, device: torch.device, side: int = 64) -> Voxels:
    """Return about as many voxels of a shell as a person has."""
    axes = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    scaled = (axes - (side - 1) / 2) / (side * np.array([0.28, 0.16, 0.47]))
    nearest = np.sort(np.argsort(np.abs(np.linalg.norm(scaled, axis=1) - 1), kind="stable")[:count])
    return Voxels.of(torch.from_numpy(np.pad(axes[nearest], ((0, 0), (1, 0)))).to(device), batch=1)


class PersonStage1(Stage1):
    """Stage 1 that computes everything, then hands on a drawn person: random weights give noise, no body."""

    def sample(self, *args: Any, **kwargs: Any) -> Iterator[Stage1Step | Stage1Result]:
        """As `Stage1.sample`."""
        person = surface_person.make(self.config.image_size)
        for event in super().sample(*args, **kwargs):
            if isinstance(event, Stage1Result):
                event = Stage1Result(person.colors.copy(), person.normals.copy(), person.logits.copy())
            yield event


class PersonStage2(Stage2):
    """Stage 2 that computes everything, then hands on the features of a drawn person."""

    def sample(self, *args: Any, **kwargs: Any) -> Iterator[Stage2Step | Stage2Result]:
        """As `Stage2.sample`."""
        for event in super().sample(*args, **kwargs):
            if isinstance(event, Stage2Result):
                coords, feats = surface_person.decoded(event.resolution)
                event = dataclasses.replace(
                    event, coords=coords.to(event.coords.device), feats=feats.to(event.feats.device)
                )
            yield event


def photo() -> np.ndarray:
    """Return the drawn person's photo, uint8 [h, w, 4]."""
    return surface_person.make().photo


def photo_bytes() -> bytes:
    """Return the photo as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "PNG")
    return buffer.getvalue()


def draw(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Draw normal numbers on a device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
