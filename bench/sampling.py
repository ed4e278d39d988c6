"""How guidance and the strength of the starting noise bear on people that training never saw.

    python bench/sampling.py --prepare 32 --cases runs/cases.npz              # once, on CPUs; needs the body
    python bench/sampling.py --cases runs/cases.npz --device cuda --out runs/sampling.json

All people are sampled as one batch per setting. Prints the mean over people and seeds of: Chamfer distance of
the occupied voxels' centres to the true ones in cm at 1.7 m, and its worst; IoU at 64^3; PSNR of the colour
views that are not the photo.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from synchuman.nn.flow import advance, guide, schedule  # noqa: E402
from synchuman.photo.framing import frame_sharp, on_white  # noqa: E402
from synchuman.stage1 import conditioning, sampler  # noqa: E402
from synchuman.stage1.image_autoencoder import decode_images  # noqa: E402
from synchuman.stage1.stage1 import Stage1  # noqa: E402
from synchuman.training.metrics import BODY_HEIGHT_CM, intersection_over_union, psnr  # noqa: E402
from synchuman.views import NUM_BODY_VIEWS, NUM_VIEWS  # noqa: E402

COLOR, DOMAINS = 1, 2


class Way(NamedTuple):
    """A setting: both starting noises are scaled, and guidance may differ between the branches."""

    structure_noise: float
    views_noise: float
    structure_guidance: float
    views_guidance: float
    steps: int


@torch.inference_mode()
def prepare(variant: Path, count: int, cases: Path) -> None:
    """Write what Stage 1 is told of held-out people, and what is true of them."""
    from synchuman.training.evaluate import make_subject
    from synchuman.training.people.person import FIRST_EVALUATION_SEED

    stage1 = Stage1.load(variant)
    rows: dict[str, list[np.ndarray]] = {}
    for number in range(count):
        subject = make_subject(FIRST_EVALUATION_SEED + number, stage1.config.image_size)
        framed = frame_sharp(subject.photo, stage1.config.image_size)
        given = stage1.inputs(*(on_white(image) for image in framed), subject.photo)
        found = {
            "latents": given.latents[:NUM_VIEWS].numpy().astype(np.float16),
            "tokens": given.tokens[0].numpy().astype(np.float16),
            "occupancy": np.packbits(subject.occupancy),
            "colors": subject.colors[:NUM_BODY_VIEWS],
            "height": np.float32(subject.height),
        }
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
        print(number, flush=True)
    cases.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(cases, **{key: np.stack(values) for key, values in rows.items()})


class People:
    """All held-out people as one batch."""

    def __init__(self, variant: Path, cases: Path, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.stage1 = Stage1.load(variant, device, dtype)
        self.device, self.dtype = device, dtype
        with np.load(cases) as kept:
            self.colors, self.heights = kept["colors"], kept["height"]
            side = 64
            bits = np.unpackbits(kept["occupancy"], axis=1)
            self.occupancy = bits.reshape(-1, side, side, side).astype(bool)
            latents = torch.from_numpy(kept["latents"]).to(device, dtype)  # [b, 5, c, s, s]
            tokens = torch.from_numpy(kept["tokens"]).to(device, dtype)
        self.count = len(latents)
        prompts = conditioning.select_prompts(self.stage1.networks.view_prompts).to(device, dtype)
        prompts = (
            prompts.unflatten(0, (DOMAINS, 1, NUM_VIEWS)).expand(-1, self.count, -1, -1, -1).flatten(0, 2)
        )
        joint = self.stage1.networks.joint_network
        stacked = latents[None].expand(DOMAINS, -1, -1, -1, -1, -1)
        self.told = [
            (stacked, joint.prepare(prompts, None, tokens)),
            (torch.zeros_like(stacked), joint.prepare(prompts, None, torch.zeros_like(tokens))),
        ]

    def noise(self, seed: int) -> tuple[Tensor, Tensor]:
        """The noise that each person's own run would start from, if its seed were `seed` plus its number."""
        config = self.stage1.config.joint_network
        size = config.out_channels, config.latent_size, config.latent_size
        volume = config.structure.channels, *(config.structure.resolution,) * 3
        drawn = [sampler.draw_noise(seed + number, size, volume, None) for number in range(self.count)]
        views = torch.stack([noise.views.unflatten(0, (DOMAINS, NUM_VIEWS)) for noise in drawn], dim=1)
        return views.to(self.device), torch.cat([noise.structure for noise in drawn]).to(self.device)

    @torch.inference_mode()
    def sample(self, way: Way, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return occupied voxels [b, 64, 64, 64] and colour views uint8 [b, 4, s, s, 3]."""
        views, structure = self.noise(seed)
        views, structure = views * way.views_noise, structure * way.structure_noise
        for now, after in pairwise(schedule(way.steps)):
            (of_views, of_structure), *rest = (
                self.velocity(views, structure, now, *told)
                for told in (
                    self.told if max(way.structure_guidance, way.views_guidance) != 1 else self.told[:1]
                )
            )
            for blind_views, blind_structure in rest:
                of_views = guide(blind_views, of_views, way.views_guidance)
                of_structure = guide(blind_structure, of_structure, way.structure_guidance)
            views = advance(views, of_views, now, after)
            structure = advance(structure, of_structure, now, after)
        networks = self.stage1.networks
        assert networks.structure_decoder is not None
        parts = structure.to(self.dtype).split(8)
        occupied = torch.cat([networks.structure_decoder(part)[:, 0] > 0 for part in parts]).cpu().numpy()
        colors = views[COLOR, :, :NUM_BODY_VIEWS].flatten(0, 1)
        decoded = decode_images(networks.image_autoencoder, colors).float().cpu().numpy()
        return occupied, np.round(decoded * 255).astype(np.uint8).reshape(self.colors.shape)

    def velocity(
        self, views: Tensor, structure: Tensor, time: float, latents: Tensor, conditions: object
    ) -> tuple[Tensor, Tensor]:
        """Velocities of both branches for all people."""
        batch = torch.cat([views.to(self.dtype), latents], dim=3).flatten(0, 2)
        clock = torch.tensor(1000 * time, device=self.device)
        joint = self.stage1.networks.joint_network
        of_views, of_structure = joint.step(batch, clock, structure.to(self.dtype), conditions)
        return of_views.float().unflatten(0, (DOMAINS, self.count, NUM_VIEWS)), of_structure.float()

    def measure(self, way: Way, seeds: list[int]) -> dict[str, float]:
        """Mean figures over people and seeds."""
        found = []
        for seed in seeds:
            occupied, colors = self.sample(way, seed)
            with ThreadPoolExecutor() as pool:
                found += pool.map(self._figures, range(self.count), occupied, colors)
        columns = list(zip(*found))
        return {
            "chamfer cm": float(np.mean(columns[0])),
            "median": float(np.median(columns[0])),
            "worst": float(np.max(columns[0])),
            "IoU": float(np.mean(columns[1])),
            "dB": float(np.mean(columns[2])),
        }

    def _figures(self, number: int, occupied: np.ndarray, colors: np.ndarray) -> tuple[float, float, float]:
        truth = self.occupancy[number]
        guess, true = np.argwhere(occupied), np.argwhere(truth)
        if len(guess):
            both = cKDTree(true).query(guess)[0].mean() + cKDTree(guess).query(true)[0].mean()
        else:
            both = 2.0 * len(truth)
        chamfer = both / 2 / len(truth) / float(self.heights[number]) * BODY_HEIGHT_CM
        fits = np.mean([psnr(a, b) for a, b in zip(colors[1:], self.colors[number][1:])])
        return chamfer, intersection_over_union(occupied, truth), float(fits)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variant", type=Path, default=ROOT / "assets/mini")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--prepare", type=int, default=0, help="make the cases of so many people")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--structure-noise", type=float, nargs="*", default=[1.0, 0.8, 0.6, 0.4, 0.0])
    parser.add_argument("--views-noise", type=float, nargs="*", default=[1.0])
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 3.0], help="of the views")
    parser.add_argument("--structure-guidance", type=float, nargs="*", help="default: as the views")
    parser.add_argument("--steps", type=int, nargs="*", default=[16])
    parser.add_argument("--seeds", type=int, nargs="*", default=[43, 1043])
    parser.add_argument("--out", type=Path, help="JSON file")
    chosen = parser.parse_args()
    if chosen.prepare:
        prepare(chosen.variant, chosen.prepare, chosen.cases)
        return
    people = People(chosen.variant, chosen.cases, torch.device(chosen.device))
    results = {}
    for noise, views_noise, guidance, steps in product(
        chosen.structure_noise, chosen.views_noise, chosen.guidance, chosen.steps
    ):
        for own in chosen.structure_guidance or [guidance]:
            way = Way(noise, views_noise, own, guidance, steps)
            results[str(tuple(way))] = row = people.measure(way, chosen.seeds)
            shown = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(
                f"noise {noise:g}/{views_noise:g} guidance {own:g}/{guidance:g} steps {steps}: {shown}",
                flush=True,
            )
            if chosen.out:
                chosen.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
