"""Stage 1: from a cut-out photo to five colour and five normal views and the 3D structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synchuman.image_encoder import encode_photo
from synchuman.nn.arrange import arrange
from synchuman.nn.cuda_graph import GraphedFunction
from synchuman.nn.flow import schedule, solver_of
from synchuman.photo.framing import frame_sharp, on_white, to_uint8
from synchuman.residency import Residency, sample_guarded
from synchuman.stage1 import conditioning, sampler
from synchuman.stage1.color_match import match_colors
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.image_autoencoder import decode_images, encode_images
from synchuman.stage1.layout import COLOR, DOMAINS, NORMAL
from synchuman.stage1.networks import Networks, build_networks, load_config, load_networks, save_networks
from synchuman.views import FACE, FRONT, NUM_BODY_VIEWS

__all__ = ["Networks", "Stage1", "Stage1Result", "Stage1Step", "build_networks"]


# Rows of the latents that a preview is decoded from, at most about twice as many.
PREVIEW_LATENTS = 48


@dataclass(frozen=True)
class Stage1Step:
    """A sampling step is done.

    Attributes:
        step: Steps done, from 1.
        total: Steps in all.
        preview: (colors, normals), uint8 [5, s, s, 3], where this step points, of `image_size` or
            smaller; None between previews.
    """

    step: int
    total: int
    preview: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Stage1Result:
    """What Stage 1 hands on.

    Attributes:
        colors: uint8 [5, s, s, 3]; the front is the photo itself on white.
        normals: uint8 [5, s, s, 3]; the face view is pasted into the front.
        structure_logits: float32 [n, n, n] by (x, y, z); above 0 is occupied. None without structure decoder.
    """

    colors: np.ndarray
    normals: np.ndarray
    structure_logits: np.ndarray | None


class Stage1:
    """The networks of one variant, ready to sample.

    Args:
        networks: All networks; moved to the device and dtype.
        config: Their sizes. The image autoencoder's own `scaling_factor` replaces the config's.
        device: Where to run.
        dtype: Of the networks; latents stay in float32 between the steps.
        residency: Keeps networks on the device or brings them there; None keeps them.
    """

    def __init__(
        self,
        networks: Networks,
        config: Stage1Config,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        residency: Residency | None = None,
    ) -> None:
        scaling = float(networks.image_autoencoder.config["scaling_factor"])
        autoencoder = dataclasses.replace(config.image_autoencoder, scaling=scaling)
        self.config = dataclasses.replace(config, image_autoencoder=autoencoder)
        self.residency = residency or Residency(device)
        self.networks = networks.to(self.residency.load_device, dtype)
        self.residency.register(*networks.modules().values())
        self.device = torch.device(device)
        self.dtype = dtype

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        residency: Residency | None = None,
    ) -> Stage1:
        """Load a variant from its folder, straight to where the residency wants it.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: Weights and sizes do not fit together.
        """
        config = load_config(folder)
        residency = residency or Residency(device)
        networks = load_networks(folder, config, residency.load_device, dtype)
        return cls(networks, config, device, dtype, residency)

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write the variant so that `load` reads it."""
        save_networks(self.networks, self.config, folder, dtype)

    def sample(
        self,
        rgba: np.ndarray,
        steps: int,
        guidance: float,
        seed: int,
        preview_every: int = 0,
        solver: str = "euler",
    ) -> Iterator[Stage1Step | Stage1Result]:
        """Sample views and structure; from the start again, staged, where the device's memory runs out.

        Args:
            rgba: uint8 [h, w, 4] cut-out person, straight alpha.
            steps: Sampling steps, at least 1.
            guidance: Guidance scale; at 1 the unconditional half is not computed.
            seed: Of the starting noise.
            preview_every: Steps between previews; 0 for none.
            solver: Key of `nn.flow.SOLVERS`.

        Yields:
            A Stage1Step after every step, then one Stage1Result.

        Raises:
            ValueError: The image is no RGBA image, steps or guidance are below 1, or there is no such solver.
            PhotoError: The cut-out is empty.
            DeviceMemoryError: The device's memory is too small for one network at a time.
        """
        return sample_guarded(
            lambda: self._sample(rgba, steps, guidance, seed, preview_every, solver), self.residency
        )

    @torch.inference_mode()
    def _sample(
        self, rgba: np.ndarray, steps: int, guidance: float, seed: int, preview_every: int, solver: str
    ) -> Iterator[Stage1Step | Stage1Result]:
        if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
            raise ValueError(f"Stage 1 needs an RGBA image, uint8 [h, w, 4], not {rgba.dtype} {rgba.shape}.")
        kind = solver_of(solver)
        if steps < 1 or guidance < 1:
            raise ValueError(f"Steps and guidance must be at least 1, not {steps} and {guidance}.")
        canvas, face = (on_white(image) for image in frame_sharp(rgba, self.config.image_size))
        inputs = self.inputs(canvas, face, rgba)
        if guidance != 1:
            inputs = sampler.guided(inputs)
        with self.residency.using(self.networks.joint_network):
            network = GraphedFunction(self.bind(inputs))
            noise, times = self._noise(seed), schedule(steps)
            start = network, noise, inputs.latents, times, guidance, kind
            try:
                for step in sampler.sample(*start, self.config.sampler.structure_guidance):
                    shown = preview_every > 0 and step.index % preview_every == 0 and step.index < steps
                    preview = self._preview(step.views_estimate, canvas) if shown else None
                    yield Stage1Step(step.index, step.total, preview)
            finally:
                network.release()
        colors, normals = self._views(step.views, canvas)
        yield Stage1Result(colors, normals, self._logits(step.structure))

    def inputs(self, canvas: np.ndarray, face: np.ndarray, rgba: np.ndarray) -> sampler.Inputs:
        """Encode the framed photo.

        Args:
            canvas: float32 [s, s, 3] in [0, 1], the person on white; every body view is told this.
            face: Like `canvas`, the face close-up; the face view is told this.
            rgba: uint8 [h, w, 4], the cut-out itself, for the image encoder.
        """
        networks = self.networks
        pair = np.stack([to_uint8(canvas), to_uint8(face)])
        each_view = [0] * NUM_BODY_VIEWS + [1]
        order = each_view * DOMAINS
        labels = None
        if networks.clip is not None and self.config.clip is not None:
            pixels = conditioning.normalise_clip_input(pair, self.config.clip.image_size)
            with self.residency.using(networks.clip):
                embeddings = networks.clip(pixel_values=self._move(pixels)).image_embeds
            labels = conditioning.class_labels(embeddings)[order]
        images = torch.from_numpy(pair).to(self.device)
        with self.residency.using(networks.image_autoencoder):
            arrange(networks.image_autoencoder)
            latents = encode_images(networks.image_autoencoder, images)[order]
        with self.residency.using(networks.image_encoder):
            tokens = encode_photo(networks.image_encoder, rgba)
        prompts = self._move(conditioning.select_prompts(networks.view_prompts))
        return sampler.Inputs(latents, prompts, labels, tokens)

    def bind(self, inputs: sampler.Inputs) -> sampler.Velocity:
        """Return the joint network under fixed conditions, projected once for all steps."""
        joint = self.networks.joint_network
        arrange(joint)
        conditions = joint.prepare(inputs.prompts, inputs.labels, inputs.tokens)

        def velocity(views: Tensor, time: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
            cast = views.to(self.dtype), time, structure.to(self.dtype), conditions
            views_velocity, structure_velocity = joint.step(*cast)
            return views_velocity.float(), structure_velocity.float()

        return velocity

    def _move(self, x: Tensor) -> Tensor:
        return x.to(device=self.device, dtype=self.dtype)

    def _noise(self, seed: int) -> sampler.Noise:
        joint, clip = self.config.joint_network, self.config.clip
        noise = sampler.draw_noise(
            seed,
            (joint.out_channels, joint.latent_size, joint.latent_size),
            (joint.structure.channels, *(joint.structure.resolution,) * 3),
            None if clip is None else clip.projection,
        )
        scale = self.config.sampler
        return sampler.Noise(
            views=scale.views_noise * noise.views.to(self.device),
            structure=scale.structure_noise * noise.structure.to(self.device),
        )

    def _preview(self, latents: Tensor, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_views`, smaller: what is looked at for a moment shall not cost as much as a step."""
        factor = max(latents.shape[-1] // PREVIEW_LATENTS, 1)
        side = len(canvas) // factor
        small = canvas.reshape(side, factor, side, factor, 3).mean(axis=(1, 3), dtype=np.float32)
        return self._views(F.avg_pool2d(latents, factor), small)

    def _views(self, latents: Tensor, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode [10, c, h, w] to uint8 (colors, normals), the photo in front and the face pasted in."""
        with self.residency.using(self.networks.image_autoencoder):
            arrange(self.networks.image_autoencoder)
            images = decode_images(self.networks.image_autoencoder, latents).cpu().numpy()
        domains = images.reshape(DOMAINS, -1, *images.shape[1:])
        colors, normals = domains[COLOR], domains[NORMAL]
        if self.config.match_colors:
            colors = match_colors(colors, canvas)
        colors[FRONT] = canvas
        third = len(canvas) // 3
        # A bilinear resize to a third reads exactly the middle pixel of every 3 x 3.
        normals[FRONT, :third, third : 2 * third] = normals[FACE, 1::3, 1::3]
        return _round(colors), _round(normals)

    def _logits(self, structure: Tensor) -> np.ndarray | None:
        """Decode [1, c, n, n, n] to float32 [m, m, m]; None without a decoder."""
        decoder = self.networks.structure_decoder
        if decoder is None:
            return None
        with self.residency.using(decoder):
            return decoder(structure.to(self.dtype))[0, 0].float().cpu().numpy()


def _round(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8, halves up."""
    return np.floor(image * 255 + 0.5).astype(np.uint8)
