"""Levels of the multiview UNet: residual blocks of diffusers, each followed by a multiview transformer."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn import fused
from synchuman.nn.attention import KeyValue
from synchuman.stage1.multiview_transformer import MultiviewTransformer

# Projected prompts of the attention layers of one level, in their order.
LevelPrompts = tuple[KeyValue, ...]


class ResidualBlock(ResnetBlock2D):
    """diffusers' residual block with the small operations around its convolutions joined."""

    def forward(self, x: Tensor, time: Tensor, skip: Tensor | None = None) -> Tensor:
        """Transform maps [B, in channels, h, w], in one or two parts, with embedded times [B, time width]."""
        shift = self.time_emb_proj(F.silu(time)) + self.conv1.bias
        return self.shifted((x,) if skip is None else (x, skip), shift)

    def shifted(self, parts: tuple[Tensor, ...], shift: Tensor) -> Tensor:
        """Transform maps in one or more parts, with [B, channels] to add between the convolutions."""
        h = _convolve(fused.group_norm(parts, self.norm1, silu=True), self.conv1)
        h = _convolve(fused.group_norm(h, self.norm2, silu=True, shift=shift), self.conv2)
        return fused.add_maps(h, _mix(parts, self.conv_shortcut), self.conv2.bias)


def _convolve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Convolve without the bias, which what follows adds on its way."""
    return F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)


def _mix(parts: tuple[Tensor, ...], convolution: nn.Conv2d | None) -> Tensor:
    """Mix the channels of maps in one or more parts by a convolution of size 1, if there is one."""
    if convolution is None:
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    tokens = [part.movedim(1, -1) for part in parts]
    if torch.is_grad_enabled() or not all(part.is_contiguous() for part in tokens):
        return convolution(torch.cat(parts, dim=1))
    # Channels that are last are tokens: a product per part, which adds to what the first one gave.
    first, *more = convolution.weight.flatten(1).split([part.shape[-1] for part in tokens], dim=1)
    mixed = F.linear(tokens[0], first, convolution.bias)
    for part, weight in zip(tokens[1:], more, strict=True):
        mixed.flatten(0, -2).addmm_(part.flatten(0, -2), weight.t())
    return mixed.movedim(-1, 1)


class Doubling(Upsample2D):
    """diffusers' upsampling by two, nearest pixel, and convolution, without the pixels that repeat.

    A pixel of the doubled map sees, through 3 x 3 weights, only 2 x 2 pixels of the map before; which of the
    weights fall together depends on the parity of its row and column. Four small convolutions of the map
    before do what one large does after: 16 products per pixel instead of 36.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, use_conv=True)

    def fold(self) -> Tensor:
        """Return the weights that fall together, [4 width, width, 2, 2]; see `fused.spread_phases`."""
        weight = cast(nn.Conv2d, self.conv).weight
        # By parity and place before: which of the three weights fall there.
        together = torch.tensor(
            [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device
        ).float()
        folded = torch.einsum("oiyx,apy,bqx->aboipq", weight.float(), together, together)
        last = weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return folded.flatten(0, 2).to(weight.dtype).contiguous(memory_format=layout)

    def forward(self, x: Tensor, folded: Tensor | None = None) -> Tensor:
        """Transform maps [B, width, h, h] to [B, width, 2 h, 2 h]; with what `fold` returned, if at hand."""
        folded = self.fold() if folded is None else folded
        convolution = cast(nn.Conv2d, self.conv)
        assert convolution.bias is not None
        return fused.spread_phases(F.conv2d(x, folded, padding=1), convolution.bias)


class Level(nn.Module):
    """What all levels share: residual blocks, and transformers where `heads` is given.

    Args:
        resnet_channels: (in, out) channels of each residual block.
        transformers: Number of transformers; 0 for a level without attention.
        heads: Attention heads of the transformers.
        time_width: Width of the embedded time.
        prompt_width: Width of the prompts' tokens.
        norm_groups: Groups of the group norms.
    """

    def __init__(
        self,
        resnet_channels: list[tuple[int, int]],
        transformers: int,
        heads: int,
        time_width: int,
        prompt_width: int,
        norm_groups: int,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(
                in_channels=i, out_channels=o, temb_channels=time_width, groups=norm_groups, eps=1e-5
            )
            for i, o in resnet_channels
        )
        width = resnet_channels[0][1]
        self.attentions = nn.ModuleList(
            MultiviewTransformer(width, heads, prompt_width, norm_groups) for _ in range(transformers)
        )

    def project(self, prompts: Tensor) -> LevelPrompts:
        """Project prompts [B, tokens, prompt width] for every transformer of this level."""
        return tuple(cast(MultiviewTransformer, attention).project(prompts) for attention in self.attentions)

    def transform(self, x: Tensor, layer: int, prompts: LevelPrompts) -> Tensor:
        """Apply the transformer of a layer, if the level has transformers."""
        return self.attentions[layer](x, prompts[layer]) if self.attentions else x


class DownLevel(Level):
    """A level on the way down; its downsampling is last."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        layers: int,
        heads: int | None,
        downsample: bool,
        time_width: int,
        prompt_width: int,
        norm_groups: int,
    ) -> None:
        channels = [(in_channels if layer == 0 else width, width) for layer in range(layers)]
        transformers = layers if heads else 0
        super().__init__(channels, transformers, heads or 1, time_width, prompt_width, norm_groups)
        self.downsamplers = nn.ModuleList(
            [Downsample2D(width, use_conv=True, name="op")] if downsample else []
        )

    def forward(self, x: Tensor, time: Tensor, prompts: LevelPrompts) -> tuple[Tensor, list[Tensor]]:
        """Return the maps [B, width, h, w] and what the way up will need, in order."""
        skips = []
        for layer, resnet in enumerate(self.resnets):
            x = self.transform(resnet(x, time), layer, prompts)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MiddleLevel(Level):
    """The lowest level: residual block, transformer, residual block."""

    def __init__(self, width: int, heads: int, time_width: int, prompt_width: int, norm_groups: int) -> None:
        super().__init__([(width, width)] * 2, 1, heads, time_width, prompt_width, norm_groups)

    def forward(self, x: Tensor, time: Tensor, prompts: LevelPrompts) -> Tensor:
        """Transform maps [B, width, h, w]."""
        x = self.transform(self.resnets[0](x, time), 0, prompts)
        return self.resnets[1](x, time)


class UpLevel(Level):
    """A level on the way up; its upsampling is last.

    Args:
        in_channels: Channels of the maps from the level below.
        skip_channels: Channels of the skips, in the order in which they are used.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: list[int],
        width: int,
        heads: int | None,
        upsample: bool,
        time_width: int,
        prompt_width: int,
        norm_groups: int,
    ) -> None:
        channels = [
            ((in_channels if i == 0 else width) + skip, width) for i, skip in enumerate(skip_channels)
        ]
        transformers = len(skip_channels) if heads else 0
        super().__init__(channels, transformers, heads or 1, time_width, prompt_width, norm_groups)
        self.upsamplers = nn.ModuleList([Doubling(width)] if upsample else [])

    def fold(self) -> Tensor | None:
        """Return the folded weights of the upsampling, if there is one."""
        return cast(Doubling, self.upsamplers[0]).fold() if self.upsamplers else None

    def forward(
        self, x: Tensor, time: Tensor, prompts: LevelPrompts, skips: list[Tensor], folded: Tensor | None
    ) -> Tensor:
        """Transform maps [B, in channels, h, w], taking skips from the end of the list; see `fold`."""
        for layer, resnet in enumerate(self.resnets):
            x = self.transform(resnet(x, time, skips.pop()), layer, prompts)
        return x if folded is None else self.upsamplers[0](x, folded)
