"""Write the trained parts as the variant that ships: float16 safetensors and variant.json.

python -m synchuman.training.export --people training-data/people --out checkpoints --variant assets/mini
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from synchuman.stage1.stage1 import Networks, Stage1
from synchuman.stage1.variants import MINI
from synchuman.stage2.config import Stage2Config
from synchuman.stage2.networks import Stage2Networks, save_stage2
from synchuman.stage2.variants import MINI as STAGE2
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg
from synchuman.training.loop import LoopConfig
from synchuman.training.shipped import save_training_halves
from synchuman.training.train_image_autoencoder import load_image_autoencoder
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.train_joint import FOLDER as JOINT
from synchuman.training.train_joint import JointTraining
from synchuman.training.train_slat_autoencoder import load_slat_autoencoder
from synchuman.training.train_slat_flow import load_slat_flow
from synchuman.training.train_structure_decoder import load_structure_decoder


def trained_stage1(leg: Leg) -> Stage1:
    """Assemble Stage 1 from the averaged weights of all legs."""
    joint = JointTraining(load_image_encoder(leg))
    load_average(joint, leg.out / JOINT)
    networks = Networks(
        joint_network=joint.network,
        structure_decoder=load_structure_decoder(leg),
        image_autoencoder=load_image_autoencoder(leg),
        image_encoder=joint.encoder.model,
        view_prompts=joint.prompts.detach(),
    )
    return Stage1(networks, MINI)


def trained_stage2(leg: Leg, config: Stage2Config = STAGE2) -> tuple[Stage2Networks, Stage2Config]:
    """Assemble Stage 2 from the averaged weights of its legs; the sizes get the latents' normalisation."""
    flow, normalisation = load_slat_flow(leg, config)
    networks = Stage2Networks(flow, load_slat_autoencoder(leg, config).decoder)
    return networks, dataclasses.replace(config, normalisation=normalisation)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=Path, default=Path("training-data/people"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--variant", type=Path, default=Path("assets/mini"))
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    options = parser.parse_args()
    leg = Leg(options.people, options.out, torch.device("cpu"), None, None, LoopConfig())
    if 1 in options.stages:
        trained_stage1(leg).save(options.variant, dtype=torch.float16)
    if 2 in options.stages:
        save_stage2(*trained_stage2(leg), options.variant, dtype=torch.float16)
    save_training_halves(leg, options.variant)


if __name__ == "__main__":
    main()
