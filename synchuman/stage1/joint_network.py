"""The joint network: five colour and five normal views and the 3D structure, denoised together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from synchuman.nn import fused
from synchuman.nn.attention import KeyValue
from synchuman.nn.embeddings import sinusoid
from synchuman.stage1.config import JointNetworkConfig
from synchuman.stage1.layout import count_groups, per_image
from synchuman.stage1.structure_flow import StructureFlow
from synchuman.stage1.sync import SyncToStructure, SyncToViews
from synchuman.stage1.unet_blocks import DownLevel, LevelPrompts, MiddleLevel, UpLevel


@dataclass(frozen=True)
class Conditions:
    """What does not change over the steps, projected once.

    Attributes:
        prompts: Keys and values of the view prompts per UNet level: down, middle, up.
        label: [B, time width] embedded class labels, or None.
        structure: Keys and values of the image encoder's tokens per structure block.
        upsampling: Folded weights per level of the way up; None for one without upsampling.
    """

    prompts: tuple[LevelPrompts, ...]
    label: Tensor | None
    structure: tuple[KeyValue, ...]
    upsampling: tuple[Tensor | None, ...]


class JointNetwork(nn.Module):
    """Multiview UNet and structure transformer that exchange features twice in each pass."""

    def __init__(self, config: JointNetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.widths, config.levels
        heads = [h if has else None for h, has in zip(config.heads, config.attention, strict=True)]
        time_width = 4 * widths[0]
        common = (time_width, config.prompt_width, config.norm_groups)

        self.time_embedding = TimestepEmbedding(widths[0], time_width)
        self.class_embedding = (
            None if config.class_width is None else TimestepEmbedding(config.class_width, time_width)
        )
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for level, width in enumerate(widths):
            last = level == levels - 1
            below = widths[max(level - 1, 0)]
            self.down_blocks.append(DownLevel(below, width, config.layers, heads[level], not last, *common))
            skips += [width] * (config.layers + (not last))
        self.mid_block = MiddleLevel(widths[-1], config.heads[-1], *common)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(levels)):
            below = widths[min(level + 1, levels - 1)]
            used = [skips.pop() for _ in range(config.layers + 1)]
            self.up_blocks.append(UpLevel(below, used, widths[level], heads[level], level > 0, *common))
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

        self.structure = StructureFlow(config.structure)
        sync = config.sync
        rest = (
            config.structure.width,
            config.structure.grid,
            sync.heads,
            sync.head_width,
            config.norm_groups,
            sync.kernel,
            sync.mlp_ratio,
        )
        # On the way up, a map enters the level of its size with the width of the level below.
        self.to_structure = nn.ModuleList(
            SyncToStructure(widths[min(level, levels - 1)], *rest)
            for level in (sync.to_structure_after, sync.to_structure_after + 2)
        )
        self.to_views = nn.ModuleList(
            SyncToViews(widths[min(level, levels - 1)], *rest)
            for level in (sync.to_views_after, sync.to_views_after + 2)
        )

    def prepare(self, prompts: Tensor, labels: Tensor | None, tokens: Tensor) -> Conditions:
        """Project all conditions once for all steps.

        Args:
            prompts: [B, tokens, prompt width] view prompts, B = 10 * groups laid out as in `layout`.
            labels: [B, class width], or None for a network without class labels.
            tokens: [groups, tokens, condition width] of the image encoder; zeros for an unconditional group.

        Raises:
            ValueError: Labels are given to a network without them, or missing.
        """
        if (labels is None) != (self.class_embedding is None):
            raise ValueError("Class labels must be given exactly when the config has a class_width.")
        levels = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return Conditions(
            prompts=tuple(level.project(prompts) for level in levels),
            label=None if self.class_embedding is None else self.class_embedding(labels),
            structure=self.structure.project(tokens),
            upsampling=tuple(cast(UpLevel, level).fold() for level in self.up_blocks),
        )

    def forward(
        self,
        sample: Tensor,
        times: Tensor,
        prompts: Tensor,
        labels: Tensor | None,
        structure: Tensor,
        tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return both velocities; arguments as `prepare` and `step`."""
        return self.step(sample, times, structure, self.prepare(prompts, labels, tokens))

    def step(
        self, sample: Tensor, times: Tensor, structure: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Return both velocities.

        Args:
            sample: [B, in channels, h, w] noisy, then condition latents; B = 10 * groups as in `layout`.
            times: [] or [groups] times from 0 to 1000.
            structure: [groups, channels, n, n, n] noisy structure latents.
            conditions: What `prepare` returned for the same groups.

        Returns:
            [B, out channels, h, w] and [groups, channels, n, n, n].

        Raises:
            ValueError: Sizes differ from the config, or the batches do not belong together.
        """
        self._check(sample, times, structure)
        groups = structure.shape[0]
        sync, slices = self.config.sync, self.config.structure.slices
        down_prompts = conditions.prompts[: self.config.levels]
        middle_prompts = conditions.prompts[self.config.levels]
        up_prompts = conditions.prompts[self.config.levels + 1 :]

        times = times.reshape(-1)
        dtype = self.conv_in.weight.dtype
        time = per_image(self.time_embedding(sinusoid(times, self.config.widths[0]).to(dtype)), groups)
        if conditions.label is not None:
            time = time + conditions.label
        time3d = self.structure.t_embedder(times)

        tokens = self.structure.embed(structure)
        tokens = self.structure.run(tokens, time3d, conditions.structure, 0, slices[0])
        x = self.conv_in(sample)
        skips = [x]
        for level, block in enumerate(self.down_blocks):
            x, more = block(x, time, down_prompts[level])
            skips += more
            if level == sync.to_structure_after:
                tokens = self.to_structure[0](x, tokens)
            if level == sync.to_views_after:
                x = self.to_views[0](x, tokens)
        x = self.mid_block(x, time, middle_prompts)

        tokens = self.structure.run(tokens, time3d, conditions.structure, *slices)
        for index, block in enumerate(self.up_blocks):
            # The level whose maps had this size on the way down, after its downsampling.
            mirrored = self.config.levels - 2 - index
            if mirrored == sync.to_views_after:
                x = self.to_views[1](x, tokens)
            if mirrored == sync.to_structure_after:
                tokens = self.to_structure[1](x, tokens)
            x = block(x, time, up_prompts[index], skips, conditions.upsampling[index])
        tokens = self.structure.run(tokens, time3d, conditions.structure, slices[1], None)

        velocity = self.conv_out(fused.group_norm(x, self.conv_norm_out, silu=True))
        return velocity, self.structure.unembed(tokens)

    def _check(self, sample: Tensor, times: Tensor, structure: Tensor) -> None:
        size, flow = self.config.latent_size, self.config.structure
        if tuple(sample.shape[1:]) != (self.config.in_channels, size, size):
            raise ValueError(
                f"sample must be [B, {self.config.in_channels}, {size}, {size}], not {sample.shape}."
            )
        if tuple(structure.shape[1:]) != (flow.channels, *(flow.resolution,) * 3):
            raise ValueError(f"structure must be [groups, {flow.channels}, {flow.resolution} x 3].")
        groups = count_groups(sample.shape[0])
        if structure.shape[0] != groups:
            raise ValueError(f"{groups} groups of images, but {structure.shape[0]} structures.")
        if times.numel() not in (1, groups):
            raise ValueError(f"times must be one value or {groups} values, not {times.numel()}.")


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of trainable values of a network."""
    return sum(parameter.numel() for parameter in module.parameters())
