"""Training that goes on from the weights that ship: the variant's folder keeps what only training needs, too.

    python -m synchuman.training.shipped --variant assets/mini --out checkpoints

turns a variant into the checkpoints of every leg that it holds; `synchuman.training.export` writes it back.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from synchuman.stage1.networks import load_config, load_networks
from synchuman.stage2.networks import load_stage2, load_stage2_config
from synchuman.training import (
    train_image_autoencoder,
    train_image_encoder,
    train_joint,
    train_slat_autoencoder,
    train_slat_flow,
    train_structure_autoencoder,
    train_structure_decoder,
)
from synchuman.training.command import Leg
from synchuman.weights.files import write_weights

FOLDER = "training"  # in the variant's folder
STRUCTURE_ENCODER = "structure_encoder.safetensors"
SLAT_ENCODER = "slat_encoder.safetensors"
STATES = "legs.json"  # steps and seconds of every leg
UNKNOWN = {"step": 1000, "seconds": 0.0}  # of a leg of which that was not kept


def save_training_halves(leg: Leg, variant: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the encoders whose latents the flows learned, and how long every leg was trained."""
    folder = variant / FOLDER
    structure = train_structure_autoencoder.load_structure_autoencoder(leg)
    write_weights(structure.encoder.state_dict(), folder / STRUCTURE_ENCODER, dtype)
    if (leg.out / train_slat_autoencoder.FOLDER).exists():
        slat = train_slat_autoencoder.load_slat_autoencoder(leg)
        write_weights(slat.encoder.state_dict(), folder / SLAT_ENCODER, dtype)
    states = {path.parent.name: json.loads(path.read_text()) for path in sorted(leg.out.glob("*/state.json"))}
    kept = {name: {key: state[key] for key in UNKNOWN} for name, state in states.items()}
    (folder / STATES).write_text(json.dumps(kept, indent=1) + "\n")


def start_from(variant: Path, out: Path) -> list[str]:
    """Write the checkpoints of all legs that a variant holds; those that exist are left alone.

    Args:
        variant: Folder of a variant, with or without what `save_training_halves` wrote.
        out: Folder of all checkpoints.

    Returns:
        The legs written.
    """
    config = load_config(variant)
    networks = load_networks(variant, config)
    halves = variant / FOLDER
    joint = {f"network.{k}": v for k, v in networks.joint_network.state_dict().items()}
    trained = dict(networks.joint_network.named_parameters())
    joint = {k: v for k, v in joint.items() if k.removeprefix("network.") in trained}
    legs: dict[str, dict[str, Tensor]] = {
        train_image_autoencoder.FOLDER: dict(networks.image_autoencoder.state_dict()),
        train_image_encoder.FOLDER: {
            f"encoder.model.{k}": v for k, v in networks.image_encoder.state_dict().items()
        },
        train_joint.FOLDER: {**joint, "prompts": networks.view_prompts},
    }
    if networks.structure_decoder is not None:
        decoder = networks.structure_decoder.state_dict()
        legs[train_structure_decoder.FOLDER] = dict(decoder)
        if (halves / STRUCTURE_ENCODER).exists():
            legs[train_structure_autoencoder.FOLDER] = _pair(load_file(halves / STRUCTURE_ENCODER), decoder)
    stage2 = load_stage2_config(variant)
    if stage2 is not None and (halves / SLAT_ENCODER).exists():
        fine = load_stage2(variant, stage2)
        encoder = load_file(halves / SLAT_ENCODER)
        legs[train_slat_autoencoder.FOLDER] = _pair(encoder, fine.mesh_decoder.state_dict())
        legs[train_slat_flow.FOLDER] = dict(fine.slat_flow.state_dict())
    states = json.loads((halves / STATES).read_text()) if (halves / STATES).exists() else {}
    written = [name for name in legs if not (out / name / "state.json").exists()]
    for name in written:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.detach().float().contiguous() for k, v in legs[name].items()},
            folder / "average.safetensors",
        )
        if name == train_image_autoencoder.FOLDER:
            scaling = networks.image_autoencoder.config["scaling_factor"]
            (folder / train_image_autoencoder.SCALING).write_text(json.dumps(scaling))
        if name == train_slat_flow.FOLDER and stage2 is not None:
            normalisation = json.dumps(asdict(stage2.normalisation))
            (folder / train_slat_flow.NORMALISATION).write_text(normalisation)
        (folder / "state.json").write_text(json.dumps(states.get(name, UNKNOWN)))
    return written


def _pair(encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    both = {f"encoder.{k}": v for k, v in encoder.items()}
    return {**both, **{f"decoder.{k}": v for k, v in decoder.items()}}


def main() -> None:
    """Parse the command line and write the checkpoints."""
    import sys

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", type=Path, default=Path("assets/mini"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    options = parser.parse_args()
    sys.stdout.write("".join(f"{name}\n" for name in start_from(options.variant, options.out)))


if __name__ == "__main__":
    main()
