"""Replays a function of tensors as a CUDA graph: a sampling step without its thousands of launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TensorFunction = Callable[..., tuple[Tensor, ...]]


class GraphedFunction:
    """Calls a function of tensors; on CUDA, from the second call on, by replaying one recording of it.

    The first call runs as it is, on the very tensors that the recording will read: that builds kernels and
    plans, which a recording must not. The function must not wait for the device, and what it uses besides its
    inputs (weights, projected conditions) must stay where it is in memory. A recording keeps its memory until
    `release`.

    Args:
        function: From tensors to a tuple of tensors; always called with the same shapes and types.
        pool: Memory, from `shared_pool`, that recordings share which are never replayed at the same time;
            their results may overwrite each other, so use each before the next call.
    """

    def __init__(self, function: TensorFunction, pool: Any = None) -> None:
        self._function = function
        self._pool = pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the function's results; the next call overwrites them."""
        if not inputs[0].is_cuda:
            return self._function(*inputs)
        # Kernels and recordings go to the current device, which need not be the tensors'.
        with torch.cuda.device(inputs[0].device):
            if not self._inputs:
                # What ran before left blocks of other sizes, which would lie beside this function's.
                torch.cuda.empty_cache()
                self._inputs = tuple(x.clone() for x in inputs)
                return self._function(*self._inputs)
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given)
            if self._graph is None:
                self._graph = self._record()
            self._graph.replay()
            return self._outputs

    def release(self) -> None:
        """Wait for the last replay, then give the recording's memory back: nothing else could use it."""
        recorded = self._graph is not None
        if recorded:
            # Expandable segments are unmapped when the stream that recorded is done, whoever replays.
            torch.cuda.synchronize(self._inputs[0].device)
        self._graph, self._inputs, self._outputs = None, (), ()
        if recorded:
            torch.cuda.empty_cache()

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Threads that texture a surface or answer requests may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._outputs = self._function(*self._inputs)
        return graph


def shared_pool(device: torch.device) -> Any:
    """Return memory for recordings that share it; None where there are no recordings."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None
