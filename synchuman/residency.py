"""Which networks are on the device: all of them (resident), or only those whose step runs (staged)."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from synchuman.events import DeviceMemoryError

LOGGER = logging.getLogger(__name__)

Step = TypeVar("Step")
Result = TypeVar("Result")
GIB = 2**30


class Residency:
    """Moves networks to their device for the step that needs them, if memory is short.

    Weights never change, so their copy on the host stays (mapped from the file where it can be), and to leave
    the device is to forget the copy there.

    Args:
        device: Where networks run.
        staged: Whether they are there only while their step runs.
    """

    def __init__(self, device: torch.device | str, staged: bool = False) -> None:
        self.device = torch.device(device)
        self.staged = staged
        # Every network, and its weights on the host once it was taken off the device.
        self._networks: dict[nn.Module, list[Tensor]] = {}
        self._inside: list[nn.Module] = []

    @property
    def load_device(self) -> torch.device:
        """Where weights are to be loaded."""
        return torch.device("cpu") if self.staged else self.device

    def register(self, *networks: nn.Module) -> None:
        """Take charge of networks, which are where `load_device` says."""
        for network in networks:
            self._networks.setdefault(network, _weights(network) if self.staged else [])

    @contextmanager
    def using(self, *networks: nn.Module | None) -> Iterator[None]:
        """Have registered networks on the device inside the block."""
        wanted = [n for n in networks if n is not None and self.staged and n not in self._inside]
        try:
            with torch.inference_mode(False), torch.no_grad():
                for network in wanted:
                    self._inside.append(network)
                    network.to(self.device)
            yield
        finally:
            self._leave(wanted)

    def stage(self) -> None:
        """Go on staged: take all networks off the device."""
        self.staged = True
        self._inside.clear()
        with torch.inference_mode(False), torch.no_grad():
            for network in self._networks:
                self._networks[network] = _weights(network.to("cpu"))
        free_memory(self.device)

    def _leave(self, networks: list[nn.Module]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for network in networks:
                for holder, host in zip(_holders(network), self._networks[network], strict=True):
                    holder.data = host
                if network in self._inside:
                    self._inside.remove(network)
        if networks:
            free_memory(self.device)


def _holders(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _weights(network: nn.Module) -> list[Tensor]:
    return [tensor.data for tensor in _holders(network)]


def sample_guarded(start: Callable[[], Iterator[Step]], residency: Residency) -> Iterator[Step]:
    """Sample; when the device's memory runs out, free it and start again once, staged.

    Args:
        start: Starts the sampling; the same seed gives the same steps again.
        residency: Of the networks; all of them leave the device before the second try.

    Raises:
        DeviceMemoryError: It was staged already, or ran out again.
    """
    reason = None
    try:
        yield from start()
    except torch.OutOfMemoryError as error:
        reason = str(error)
    if reason is None:
        return
    # Outside of the handler, where the error would still hold what the first try had in memory.
    if residency.staged:
        free_memory(residency.device)
        raise DeviceMemoryError(_numbers(residency.device, reason))
    LOGGER.warning("%s ran out of memory; its networks are staged from now on (%s)", residency.device, reason)
    residency.stage()
    try:
        yield from start()
        return
    except torch.OutOfMemoryError as error:
        reason = str(error)
    free_memory(residency.device)
    raise DeviceMemoryError(_numbers(residency.device, reason))


def call_guarded(call: Callable[[], Result], residency: Residency) -> Result:
    """Call a function that uses the device; where its memory runs out, free it and try again once, staged.

    Args:
        call: Gives the same result again.
        residency: Of networks that are on the device, though the function needs none of them.

    Raises:
        DeviceMemoryError: See `sample_guarded`.
    """

    def once() -> Iterator[Result]:
        yield call()

    [result] = sample_guarded(once, residency)
    return result


def free_memory(device: torch.device) -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_of(device: torch.device) -> tuple[int, int] | None:
    """Return the free and all bytes of a device's memory; None where it does not tell."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info(device)


def _numbers(device: torch.device, reason: str) -> str:
    memory = memory_of(device)
    if memory is None:
        held = f"{device} ran out of memory"
    else:
        free, total = memory
        held = f"{device} ran out of memory: {free / GIB:.1f} of {total / GIB:.1f} GiB are free now"
    first = reason.split(". ")[0].strip()
    return (
        f"{held}, and only one network at a time was on it. {first}. End other programs that use the device, "
        "use a larger one, or put both stages on two devices with --stage2-device; --device cpu always fits."
    )
