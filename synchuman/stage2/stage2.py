"""Stage 2: from views and occupied voxels to the features of a fine surface."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from synchuman.image_encoder import encode_photo
from synchuman.nn.flow import solver_of
from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.residency import Residency, sample_guarded
from synchuman.stage2.conditioning import view_tokens
from synchuman.stage2.config import Stage2Config
from synchuman.stage2.gaussian_decoder import Gaussians
from synchuman.stage2.networks import Stage2Networks, load_stage2, load_stage2_config, save_stage2
from synchuman.stage2.sampler import denormalise, sample_slat

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

# A person's shell has 5 to 15 thousand voxels at 64^3. Memory grows with them, and noise would fill the grid.
MAX_VOXELS = 40_000


@dataclass(frozen=True)
class Stage2Step:
    """A sampling step is done: `step`, from 1, of `total`."""

    step: int
    total: int


@dataclass(frozen=True)
class Stage2Result:
    """What Stage 2 hands on.

    Attributes:
        coords: [n, 4] int64 rows (0, x, y, z), voxels of the decoder's grid, on the device that sampled.
        feats: [n, 101] float32 features for `surface.flexicubes`, raw.
        resolution: Cells along each side of the decoder's grid.
        gaussians: Coloured gaussians, if the variant decodes them.
    """

    coords: torch.Tensor
    feats: torch.Tensor
    resolution: int
    gaussians: Gaussians | None


class Stage2:
    """The networks of one variant, ready to sample.

    Args:
        networks: All networks; moved to the device, their torsos to the dtype.
        config: Their sizes.
        image_encoder: Stage 1's; it stays as it is.
        device: Where to run; where the image encoder is.
        dtype: Of the torsos; latents stay in float32 between the steps.
        residency: Keeps networks on the device or brings them there; None keeps them.

    Raises:
        ValueError: The image encoder has another width than the networks were built for.
    """

    def __init__(
        self,
        networks: Stage2Networks,
        config: Stage2Config,
        image_encoder: Dinov2WithRegistersModel,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        residency: Residency | None = None,
    ) -> None:
        width = image_encoder.config.hidden_size
        for name, wanted in (("flow", config.flow.condition_width), ("views", config.views.encoder_width)):
            if width != wanted:
                raise ValueError(
                    f"Stage 2's {name} was built for an image encoder of width {wanted}, but Stage 1's is "
                    f"{width} wide: both stages of a variant must come from one training."
                )
        self.residency = residency or Residency(device)
        self.networks = networks.to(self.residency.load_device, dtype)
        self.residency.register(*networks.modules().values(), image_encoder)
        self.config = config
        self.image_encoder = image_encoder
        self.device = torch.device(device)

    @classmethod
    def load(
        cls,
        folder: Path,
        image_encoder: Dinov2WithRegistersModel,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        residency: Residency | None = None,
    ) -> Stage2 | None:
        """Load a variant from its folder, straight to where it is wanted; None when it has no Stage 2.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: Weights and sizes, or both stages, do not fit together.
        """
        config = load_stage2_config(folder)
        if config is None:
            return None
        residency = residency or Residency(device)
        networks = load_stage2(folder, config, residency.load_device, dtype)
        return cls(networks, config, image_encoder, device, dtype, residency)

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write Stage 2 into the variant's folder so that `load` reads it."""
        save_stage2(self.networks, self.config, folder, dtype)

    def sample(
        self,
        colors: np.ndarray,
        normals: np.ndarray,
        rgba: np.ndarray,
        occupied: np.ndarray,
        steps: int,
        guidance: float,
        seed: int,
        solver: str = "euler",
    ) -> Iterator[Stage2Step | Stage2Result]:
        """Sample structured latents at the occupied voxels and decode them.

        Where the device's memory runs out, it starts again, staged.

        Args:
            colors: [5, s, s, 3] uint8 stored views.
            normals: [5, s, s, 3] uint8 stored normal views.
            rgba: [h, w, 4] uint8 cut-out photo, straight alpha.
            occupied: [n, n, n] bool by (x, y, z), n being the flow's resolution.
            steps: Sampling steps, at least 1.
            guidance: Guidance scale; at 1 the unconditional passes are left out.
            seed: Of the starting noise.
            solver: Key of `nn.flow.SOLVERS`.

        Yields:
            A Stage2Step after every step, then one Stage2Result.

        Raises:
            ValueError: Views, voxels, steps or guidance are unusable; the message says what to do.
            PhotoError: The cut-out is empty.
            DeviceMemoryError: The device's memory is too small for one network at a time.
        """
        arguments = colors, normals, rgba, occupied, steps, guidance, seed, solver
        return sample_guarded(lambda: self._sample(*arguments), self.residency)

    @torch.inference_mode()
    def _sample(
        self,
        colors: np.ndarray,
        normals: np.ndarray,
        rgba: np.ndarray,
        occupied: np.ndarray,
        steps: int,
        guidance: float,
        seed: int,
        solver: str,
    ) -> Iterator[Stage2Step | Stage2Result]:
        if steps < 1 or guidance < 1:
            raise ValueError(f"Steps and guidance must be at least 1, not {steps} and {guidance}.")
        kind = solver_of(solver)
        voxels = self._voxels(occupied)
        using, networks = self.residency.using, self.networks
        with using(self.image_encoder):
            condition = encode_photo(self.image_encoder, rgba)
            views = view_tokens(colors, normals, self.config.views, self.image_encoder)
        settings = dataclasses.replace(self.config.sampler, steps=steps, guidance=guidance)
        with using(networks.slat_flow):
            for step in sample_slat(networks.slat_flow, voxels, condition, settings, seed, kind):
                yield Stage2Step(step.step, step.total)
        slat = SparseTensor(denormalise(step.state, self.config.normalisation), voxels)
        with using(networks.mesh_decoder):
            fine = networks.mesh_decoder(slat, views)
        gaussians = None
        if networks.gaussian_decoder is not None:
            with using(networks.gaussian_decoder):
                gaussians = networks.gaussian_decoder(slat, views)
        yield Stage2Result(fine.voxels.coords, fine.feats, self.config.mesh_decoder.resolution, gaussians)

    def _voxels(self, occupied: np.ndarray) -> Voxels:
        side = self.config.flow.resolution
        if occupied.shape != (side,) * 3 or occupied.dtype != np.bool_:
            raise ValueError(
                f"Stage 2 needs the occupied voxels of a grid of {side}, bool [{side}, {side}, {side}], "
                f"not {occupied.dtype} {list(occupied.shape)}."
            )
        rows = np.argwhere(occupied)
        if not len(rows):
            raise ValueError("No voxel is occupied: Stage 1 found nobody. Sample it again, with more steps.")
        if len(rows) > MAX_VOXELS:
            raise ValueError(
                f"{len(rows):,} voxels are occupied, more than the {MAX_VOXELS:,} that Stage 2 takes; a "
                "person has about ten thousand. Sample Stage 1 again, with more steps or another seed."
            )
        coords = torch.from_numpy(rows).to(self.device)
        return Voxels.of(torch.nn.functional.pad(coords, (1, 0)), batch=1)
