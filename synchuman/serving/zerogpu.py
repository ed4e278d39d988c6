"""A Space on ZeroGPU, where a card is lent to decorated functions for seconds: one function per stage.

The `spaces` package wants three things: to be imported before torch, networks that are put on the device
before the page opens, and what goes in and out of its functions to be picklable, as they run in a fork.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman
    from synchuman.stage1.stage1 import Stage1
    from synchuman.stage2.stage2 import Stage2

VARIABLE = "SPACES_ZERO_GPU"
# Asked for before anything was measured here. The published networks took 1.5 s for a guided step of Stage 1
# on an A40; a lent card is faster. Too long a time only counts against the visitor's quota beforehand.
FIRST_STEP_SECONDS = 2.0
SETUP_SECONDS = 20.0  # moving the networks to the card, encoding, decoding
MARGIN = 1.5  # over what was measured


def on_zerogpu() -> bool:
    """Tell whether this is a Space on ZeroGPU."""
    return os.environ.get(VARIABLE, "").lower() in {"1", "t", "true"}


def lend(pipeline: SyncHuman) -> SyncHuman:
    """Have both stages of a pipeline sample on a card that is lent for that; call it before the page opens.

    Everything else of a run (photo, surface, texture) stays in this process, on the CPU.
    """
    pipeline.stage1 = cast("Stage1", Lent(pipeline.stage1, Stopwatch()))
    if pipeline.stage2 is not None:
        pipeline.stage2 = cast("Stage2", Lent(pipeline.stage2, Stopwatch()))
    return pipeline


class Stopwatch:
    """Learns what a step takes, to ask for no more of a card than a run needs."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._step: float | None = None

    def seconds(self, steps: int, guidance: float) -> int:
        """Return for how many seconds a card is to be asked; guidance other than 1 computes twice."""
        step = FIRST_STEP_SECONDS if self._step is None else self._step * MARGIN
        return round(SETUP_SECONDS + steps * step * (1 if guidance != 1 else 0.5))

    def learn(self, steps: int, guidance: float, seconds: float) -> None:
        """Take note of what a run took on the card, all in all; the slowest of all counts."""
        guided = seconds / steps / (1 if guidance != 1 else 0.5)
        self._step = guided if self._step is None else max(self._step, guided)


class Lent:
    """A stage whose `sample` runs on a lent card; in all else it is the stage itself."""

    def __init__(self, stage: Any, stopwatch: Stopwatch) -> None:
        """Wrap a loaded stage whose `sample` has parameters called `steps` and `guidance`."""
        import inspect

        import spaces

        self._stage = stage
        self._stopwatch = stopwatch
        self._signature = inspect.signature(stage.sample)

        def sample(*arguments: Any) -> Iterator[Any]:
            for step in stage.sample(*arguments):
                yield on_host(step)

        decorate: Callable[[Any], Any] = spaces.GPU(duration=lambda *given: self._ask(given))
        self._lent = decorate(sample)

    def __getattr__(self, name: str) -> Any:
        """Return what the stage has."""
        return getattr(self._stage, name)

    def sample(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """Sample on a lent card; see the stage's own `sample`."""
        given = self._signature.bind(*arguments, **named)
        given.apply_defaults()
        began: float | None = None
        for step in self._plainly(given.args):
            # Waiting for a card is no work: the clock starts with the first step.
            began = time.monotonic() if began is None else began
            yield step
        if began is not None and given.arguments["steps"] > 1:
            took = time.monotonic() - began
            self._stopwatch.learn(given.arguments["steps"] - 1, given.arguments["guidance"], took)

    def _plainly(self, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """Sample; what `spaces` tells visitors (their time is used up) stays a sentence for them."""
        import gradio as gr

        try:
            yield from self._lent(*arguments)
        except gr.Error as error:
            raise ValueError(str(error.message)) from error

    def _ask(self, given: tuple[Any, ...]) -> int:
        named = self._signature.bind(*given).arguments
        return self._stopwatch.seconds(named["steps"], named["guidance"])


def on_host(value: Any) -> Any:
    """Return a dataclass, at any depth, with its tensors in host memory: those on a card stay in the fork."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.cpu()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: on_host(getattr(value, name)) for name in names})
    return value
