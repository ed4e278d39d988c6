"""Lays weights out in memory as inference on a GPU reads them best; names, shapes and values stay."""

from __future__ import annotations

import torch
from torch import nn

from synchuman.nn.attention import Attention


@torch.inference_mode(False)
@torch.no_grad()
def arrange(network: nn.Module) -> None:
    """Lay out the weights of a network that is on a CUDA device; done again, it costs nothing.

    Convolutions get their channels last, which carries over to the maps between them: tensor cores take them
    so, and attention reads such maps as tokens. The projections of a self attention follow one another.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.weight.is_cuda:
            last = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
            module.weight.data = module.weight.data.contiguous(memory_format=last)
        elif isinstance(module, Attention) and module.to_q.weight.is_cuda:
            module.join()
