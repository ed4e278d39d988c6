"""Train the joint 2D-3D flow with its view prompts, on the tokens of the trained image encoder.

python -m synchuman.training.train_joint --people training-data/people --out checkpoints --minutes 60
"""

from __future__ import annotations

import logging

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from synchuman.nn.transformer import ModulatedBlock
from synchuman.stage1.joint_network import JointNetwork
from synchuman.stage1.multiview_transformer import MultiviewTransformer
from synchuman.stage1.sync import SyncToStructure, SyncToViews
from synchuman.stage1.variants import MINI
from synchuman.training.command import Leg, run_leg
from synchuman.training.image_tokens import ImageTokens, augment_tokens
from synchuman.training.latents import load_latents
from synchuman.training.loop import train
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.views import FACE, NUM_BODY_VIEWS, NUM_VIEWS, VIEWS

LOGGER = logging.getLogger(__name__)
# Repeated in the network, each quick to compile; the whole network is not.
BLOCKS = (ResnetBlock2D, MultiviewTransformer, ModulatedBlock, SyncToStructure, SyncToViews)
FOLDER = "joint"
DROP_CONDITION = 0.1
STRUCTURE_WEIGHT = 1.0


class JointTraining(nn.Module):
    """What the flow loss trains, joint network and view prompts, and the frozen encoder of the photo.

    Args:
        encoder: Trained image encoder; Stage 2 reads the same one, so it stays as it is.
    """

    def __init__(self, encoder: ImageTokens) -> None:
        super().__init__()
        self.network = JointNetwork(MINI.joint_network)
        shape = (2, 7, MINI.prompt_length, MINI.joint_network.prompt_width)
        self.prompts = nn.Parameter(0.5 * torch.randn(shape))
        self.encoder = encoder.requires_grad_(False)


def sample_times(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw t in (0, 1): logit-normal, shifted to the noisy end that decides the whole (Esser et al. 2024)."""
    normal = torch.randn(count, generator=generator, device=device)
    return torch.sigmoid(0.7 + 1.1 * normal)


def velocities(
    module: JointTraining, views: Tensor, structure: Tensor, t: Tensor, condition: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the joint network on people.

    Args:
        module: Network and prompts.
        views: [2 domains, b, 5, c, s, s] noisy views.
        structure: [b, 8, n, n, n] noisy structure latents.
        t: [b] in 0 to 1.
        condition: [b, 2, c, s, s] latents of canvas and face.
        tokens: [b, tokens, width] of the photo.

    Returns:
        Both velocities, float32, shaped as views and structure.
    """
    people = len(structure)
    stack = torch.cat([condition[:, :1].expand(-1, NUM_BODY_VIEWS, -1, -1, -1), condition[:, 1:]], dim=1)
    sample = torch.cat([views, stack[None].expand(2, -1, -1, -1, -1, -1)], dim=3)
    order = [view.prompt for view in VIEWS]
    prompts = module.prompts[:, None, order].expand(-1, people, -1, -1, -1).flatten(0, 2)
    dtype = module.prompts.dtype  # of the network; autocast turns float32 into what it computes in
    sample, structure, tokens = sample.flatten(0, 2).to(dtype), structure.to(dtype), tokens.to(dtype)
    of_views, of_structure = module.network(sample, 1000 * t, prompts, None, structure, tokens)
    return of_views.float().unflatten(0, (2, people, NUM_VIEWS)), of_structure.float()


def joint_loss(module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Flow-matching loss of both branches (Lipman et al. 2023): v = noise - data on the straight path."""
    assert isinstance(module, JointTraining)
    device = batch["views"].device
    people = len(batch["views"])

    def noise_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=device)

    t = sample_times(people, generator, device)
    views = batch["views"].float().unflatten(1, (2, NUM_VIEWS)).transpose(0, 1)  # [domain, person, view, ...]
    structure = batch["structure"].float()
    keep = (torch.rand(people, generator=generator, device=device) >= DROP_CONDITION).float()

    noise_2d, noise_3d = noise_like(views), noise_like(structure)
    t_2d, t_3d = t.view(1, -1, 1, 1, 1, 1), t.view(-1, 1, 1, 1, 1)
    noisy_2d = (1 - t_2d) * views + t_2d * noise_2d
    noisy_3d = (1 - t_3d) * structure + t_3d * noise_3d

    with torch.no_grad():
        tokens = module.encoder(augment_tokens(batch["token"], generator)) * keep.view(-1, 1, 1)
    condition = batch["condition"].float() * keep.view(-1, 1, 1, 1, 1)
    velocity_2d, velocity_3d = velocities(module, noisy_2d, noisy_3d, t, condition, tokens)
    error_2d = (velocity_2d - (noise_2d - views)) ** 2
    error_3d = ((velocity_3d - (noise_3d - structure)) ** 2).mean()
    return {
        "loss": error_2d.mean() + STRUCTURE_WEIGHT * error_3d,
        "normals": error_2d[0, :, :NUM_BODY_VIEWS].mean(),
        "colors": error_2d[1, :, :NUM_BODY_VIEWS].mean(),
        "face": error_2d[:, :, FACE].mean(),
        "structure": error_3d,
    }


def compile_blocks(module: JointTraining) -> None:
    """Compile the network's blocks one by one, each for its own shapes."""
    torch._dynamo.config.cache_size_limit = 64  # a class of blocks has a dozen shapes
    for block in module.network.modules():
        if isinstance(block, BLOCKS):
            block.compile(dynamic=False)


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    module = JointTraining(load_image_encoder(leg))
    if leg.loop.compile:
        compile_blocks(module)
    latents = load_latents(leg)
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    LOGGER.info("%d people, %.1f M parameters", len(latents), count / 1e6)
    batches = latents.batches(leg.batch or 16, leg.loop.seed)
    train(module, batches, joint_loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
