"""Fixtures shared by tests: a photo of a drawn person, weights (shipped, Stage 2 random before), a pipeline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman
    from synchuman.stage2.config import Stage2Config
    from synchuman.stage2.networks import Stage2Networks

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "mini"


def quiet(stage: str, step: int, total: int) -> None:
    """Take a checkpoint's reports and stop nothing."""


def draw_person(height: int = 640) -> np.ndarray:
    """Draw a figure from head to feet, [h, w, 4] uint8, transparent around it."""
    scale = 4
    h, w = height * scale, height * scale * 6 // 10
    image = Image.new("RGBA", (w, h), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)

    def at(*points: float) -> list[float]:
        return [p * (w if i % 2 == 0 else h) for i, p in enumerate(points)]

    skin, shirt, trousers, shoe = (
        (224, 178, 148, 255),
        (70, 110, 170, 255),
        (60, 60, 70, 255),
        (120, 70, 40, 255),
    )
    pen.rounded_rectangle(at(0.36, 0.50, 0.49, 0.93), w // 20, fill=trousers)
    pen.rounded_rectangle(at(0.51, 0.50, 0.64, 0.93), w // 20, fill=trousers)
    pen.rounded_rectangle(at(0.32, 0.92, 0.49, 0.965), w // 40, fill=shoe)
    pen.rounded_rectangle(at(0.51, 0.92, 0.68, 0.965), w // 40, fill=shoe)
    pen.rounded_rectangle(at(0.19, 0.20, 0.31, 0.55), w // 18, fill=skin)
    pen.rounded_rectangle(at(0.69, 0.20, 0.81, 0.55), w // 18, fill=skin)
    pen.rounded_rectangle(at(0.20, 0.185, 0.80, 0.33), w // 12, fill=shirt)
    pen.rounded_rectangle(at(0.31, 0.185, 0.69, 0.54), w // 20, fill=shirt)
    pen.rectangle(at(0.45, 0.14, 0.55, 0.20), fill=skin)
    pen.ellipse(at(0.39, 0.03, 0.61, 0.17), fill=skin)
    pen.pieslice(at(0.38, 0.02, 0.62, 0.16), 170, 370, fill=(70, 45, 30, 255))
    return np.asarray(image.resize((w // scale, h // scale), Image.Resampling.LANCZOS))


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    """Encode an image array."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def person_png() -> bytes:
    """A cut-out person as a PNG with alpha."""
    return encode(draw_person())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights; while they have no Stage 2, with a random one of mini's sizes beside them."""
    if "stage2" in json.loads((SHIPPED / "variant.json").read_text()):
        return SHIPPED
    from synchuman.stage2.networks import save_stage2
    from synchuman.stage2.variants import MINI

    folder = link_stage1(tmp_path_factory.mktemp("weights"))
    save_stage2(random_stage2(MINI), MINI, folder)
    return folder


@pytest.fixture(scope="session")
def stage1_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights of Stage 1 alone."""
    return link_stage1(tmp_path_factory.mktemp("stage1"))


def link_stage1(folder: Path) -> Path:
    """Lay the shipped Stage 1 out in a folder of its own."""
    for file in SHIPPED.glob("*.safetensors"):
        if file.name not in ("slat_flow.safetensors", "mesh_decoder.safetensors"):
            (folder / file.name).symlink_to(file.resolve())
    stages = json.loads((SHIPPED / "variant.json").read_text())
    (folder / "variant.json").write_text(json.dumps({"stage1": stages["stage1"]}))
    return folder


def random_stage2(config: Stage2Config, seed: int = 0) -> Stage2Networks:
    """Build Stage 2 with random weights whose surface is about that of its voxels: noise would be all surface."""
    import torch

    from synchuman.stage2.mesh_decoder import SDF
    from synchuman.stage2.networks import build_stage2

    networks = build_stage2(config, seed)
    with torch.no_grad():
        networks.mesh_decoder.out_layer.weight *= 0.05
        networks.mesh_decoder.out_layer.bias[SDF] = -0.3
    return networks


@pytest.fixture(scope="session")
def pipeline(weights: Path) -> SyncHuman:
    """The pipeline, loaded once."""
    from synchuman.pipeline import SyncHuman

    return SyncHuman.load(str(weights), device="cpu")
