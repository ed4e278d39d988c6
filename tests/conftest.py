"""Fixtures shared by tests: a photo of a drawn person, weights (shipped, or random of the same sizes), a pipeline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "mini"


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
    """The shipped weights; before they are there, random ones of the same sizes, with a full cube as structure."""
    if (SHIPPED / "variant.json").is_file():
        return SHIPPED
    import torch

    from synchuman.stage1.networks import build_networks
    from synchuman.stage1.stage1 import Stage1
    from synchuman.stage1.variants import MINI

    folder = tmp_path_factory.mktemp("weights")
    networks = build_networks(MINI)
    # Noise has a surface everywhere: a cube is quick to mesh.
    last = [layer for layer in networks.structure_decoder.modules() if isinstance(layer, torch.nn.Conv3d)][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.ones_(last.bias)
    Stage1(networks, MINI).save(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(weights: Path) -> SyncHuman:
    """The pipeline, loaded once."""
    from synchuman.pipeline import SyncHuman

    return SyncHuman.load(str(weights), device="cpu")
