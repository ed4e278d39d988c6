"""Train the image encoder that both stages read, on two tasks at once.

From a photo its tokens must tell the structure and the four body views; from a cut-out of one view (colour
or normals, at the scale of Stage 2) the colours and normals of that part. The decoder on top is thrown away.

    python -m synchuman.training.train_image_encoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from synchuman.image_encoder import ImageEncoderConfig
from synchuman.stage1.variants import MINI
from synchuman.stage2.variants import MINI as MINI_STAGE2
from synchuman.training.command import Leg, run_leg
from synchuman.training.image_tokens import ImageTokens, augment_tokens
from synchuman.training.loop import train
from synchuman.training.people_data import People, unpack_structure
from synchuman.views import NUM_BODY_VIEWS, NUM_VIEWS

KEYS = ("colors", "normals", "structure", "token")
FOLDER = "image-encoder"
STRUCTURE_SIDE, STRUCTURE_GRID = 32, 8  # voxels and tokens per axis of the regressed structure
VIEW_SIDE, VIEW_GRID = 48, 12  # pixels and tokens per axis of the regressed images
OCCUPIED_WEIGHT = 3.0
VIEWS_SHARE = 2  # one cut-out of a view for so many photos


class TokensToPerson(nn.Module):
    """The encoder and a transformer decoder that regresses everything at once from its tokens.

    Args:
        layers: Decoder layers.
    """

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.encoder = ImageTokens(MINI.image_encoder)
        width = self.encoder.width

        def queries(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(1, count, width) * 0.02)

        self.structure_queries = queries(STRUCTURE_GRID**3)
        self.view_queries = queries(NUM_BODY_VIEWS * VIEW_GRID**2)
        self.part_queries = queries(VIEW_GRID**2)
        layer = nn.TransformerDecoderLayer(
            width, width // 32, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.to_structure = nn.Linear(width, (STRUCTURE_SIDE // STRUCTURE_GRID) ** 3)
        self.to_pixels = nn.Linear(width, 6 * (VIEW_SIDE // VIEW_GRID) ** 2)

    def person(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [b, h, w, 3] to structure logits [b, T, voxels] and body views [b, 4 T', pixels]."""
        tokens = self.encoder(photos)
        queries = torch.cat([self.structure_queries, self.view_queries], dim=1)
        decoded = self.decoder(queries.expand(len(tokens), -1, -1), tokens)
        structure, views = decoded.split([STRUCTURE_GRID**3, NUM_BODY_VIEWS * VIEW_GRID**2], dim=1)
        return self.to_structure(structure), self.to_pixels(views)

    def part(self, images: Tensor) -> Tensor:
        """uint8 [b, h, w, 3] to the pixels of the part that they show [b, T', pixels]."""
        tokens = self.encoder(images)
        return self.to_pixels(self.decoder(self.part_queries.expand(len(tokens), -1, -1), tokens))


def cut_volume(volume: Tensor, grid: int) -> Tensor:
    """Cut [b, n, n, n] into tokens [b, grid^3, (n / grid)^3]."""
    b, n = volume.shape[:2]
    p = n // grid
    cut = volume.reshape(b, grid, p, grid, p, grid, p).permute(0, 1, 3, 5, 2, 4, 6)
    return cut.reshape(b, grid**3, p**3)


def cut_images(images: Tensor, grid: int) -> Tensor:
    """Cut [b, v, s, s, c] into tokens [b, v grid^2, (s / grid)^2 c]."""
    b, v, s, _, c = images.shape
    p = s // grid
    cut = images.reshape(b, v, grid, p, grid, p, c).permute(0, 1, 2, 4, 3, 5, 6)
    return cut.reshape(b, v * grid**2, p * p * c)


def shrink(images: Tensor, side: int) -> Tensor:
    """Average float images [b, v, s, s, c] to [b, v, side, side, c]."""
    b, v, s, _, c = images.shape
    p = s // side
    return images.reshape(b, v, side, p, side, p, c).mean((3, 5))


def cut_outs(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Take a random half-sized part of one random view of each person.

    Args:
        images: [b, 10, s, s, 3] uint8, colour views, then normal views.
        generator: Random source.

    Returns:
        The part of either the colour or the normal view as the encoder will see it in Stage 2, uint8
        [b, h, h, 3], and its colours and normals, float [b, 1, s / 2, s / 2, 6] in [-1, 1].
    """
    b, size, device = len(images), images.shape[2], images.device
    half = size // 2
    view = torch.randint(0, NUM_VIEWS, (b,), generator=generator, device=device)
    kind = torch.randint(0, 2, (b,), generator=generator, device=device)
    top, left = torch.randint(0, half + 1, (2, b, 1), generator=generator, device=device)
    person = torch.arange(b, device=device)
    rows, columns = (start + torch.arange(half, device=device) for start in (top, left))
    domains = [
        images[
            person[:, None, None], (view + NUM_VIEWS * d)[:, None, None], rows[:, :, None], columns[:, None]
        ]
        for d in range(2)
    ]
    shown = torch.where(kind[:, None, None, None] == 0, domains[0], domains[1]).movedim(-1, 1).float()
    side = MINI_STAGE2.views.image_size // 2
    seen = F.interpolate(shown, size=(side, side), mode="bilinear").movedim(1, -1).round().to(torch.uint8)
    return seen, torch.cat(domains, dim=-1)[:, None].float() / 127.5 - 1


def encoder_loss(
    module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Cross entropy of the structure and absolute errors of pixels."""
    assert isinstance(module, TokensToPerson)
    structure, views = module.person(augment_tokens(batch["token"], generator))
    occupancy = F.max_pool3d(unpack_structure(batch["structure"]), 64 // STRUCTURE_SIDE)[:, 0]
    structure_error = F.binary_cross_entropy_with_logits(
        structure.float(),
        cut_volume(occupancy, STRUCTURE_GRID),
        pos_weight=torch.tensor(OCCUPIED_WEIGHT, device=occupancy.device),
    )
    images = torch.cat([batch["colors"], batch["normals"]], dim=1)
    body = torch.cat([batch[key][:, :NUM_BODY_VIEWS] for key in ("colors", "normals")], dim=-1)
    wanted = shrink(body.float() / 127.5 - 1, VIEW_SIDE)
    view_error = (views.float() - cut_images(wanted, VIEW_GRID)).abs().mean()
    seen, shown = cut_outs(images[: max(1, len(images) // VIEWS_SHARE)], generator)
    part_error = (module.part(seen).float() - cut_images(shrink(shown, VIEW_SIDE), VIEW_GRID)).abs().mean()
    loss = 5 * structure_error + view_error + 0.5 * part_error
    return {"loss": loss, "structure": structure_error, "views": view_error, "part": part_error}


def load_image_encoder(leg: Leg, config: ImageEncoderConfig = MINI.image_encoder) -> ImageTokens:
    """Load the trained encoder, frozen, in evaluation mode.

    Raises:
        FileNotFoundError: The leg was never run.
    """
    path = leg.out / FOLDER / "average.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run synchuman.training.train_image_encoder first.")
    prefix = "encoder."
    weights = {k[len(prefix) :]: v for k, v in load_file(path).items() if k.startswith(prefix)}
    encoder = ImageTokens(config)
    encoder.load_state_dict(weights, strict=True)
    return encoder.requires_grad_(False).eval()


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    people = People(leg.people, leg.limit, KEYS, leg.device)
    batches = people.batches(leg.batch or 16, leg.loop.seed)
    train(TokensToPerson(), batches, encoder_loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
