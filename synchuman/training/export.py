"""Write the trained parts as the variant that ships: float16 safetensors and variant.json.

python -m synchuman.training.export --people training-data/people --out checkpoints --variant assets/mini
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from synchuman.stage1.stage1 import Networks, Stage1
from synchuman.stage1.variants import MINI
from synchuman.training.command import Leg
from synchuman.training.loop import LoopConfig, load_average
from synchuman.training.train_image_autoencoder import load_image_autoencoder
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.train_joint import JointTraining
from synchuman.training.train_structure_autoencoder import load_structure_autoencoder


def trained_stage1(leg: Leg) -> Stage1:
    """Assemble Stage 1 from the averaged weights of all legs."""
    joint = JointTraining(load_image_encoder(leg))
    load_average(joint, leg.out / "joint")
    networks = Networks(
        joint_network=joint.network,
        structure_decoder=load_structure_autoencoder(leg).decoder,
        image_autoencoder=load_image_autoencoder(leg),
        image_encoder=joint.encoder.model,
        view_prompts=joint.prompts.detach(),
    )
    return Stage1(networks, MINI)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=Path, default=Path("training-data/people"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--variant", type=Path, default=Path("assets/mini"))
    options = parser.parse_args()
    leg = Leg(options.people, options.out, torch.device("cpu"), None, None, LoopConfig())
    trained_stage1(leg).save(options.variant, dtype=torch.float16)


if __name__ == "__main__":
    main()
