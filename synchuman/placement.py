"""Where the networks run: device, number type and placement by the names users give."""

from __future__ import annotations

import torch

from synchuman.needs import MAPS_AUTOENCODER, MAPS_DECODER, MAPS_JOINT, TYPICAL_VOXELS
from synchuman.residency import Residency, memory_of
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.layout import IMAGES_PER_GROUP
from synchuman.stage2.config import Stage2Config
from synchuman.views import NUM_BODY_VIEWS

PLACEMENTS = ("auto", "resident", "staged")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA when there is one, else the CPU.

    Raises:
        ValueError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}; use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device that torch can use; use --device cpu.")
    return device


def choose_devices(first: str, second: str | None = None) -> tuple[torch.device, torch.device]:
    """Return the devices of both stages by their names; Stage 2 is where Stage 1 is unless it has its own.

    Raises:
        ValueError: See `choose_device`.
    """
    one = choose_device(first)
    two = one if second is None else choose_device(second)
    # "cuda" and "cuda:0" are one.
    return one, (one if _is_first_gpu(one) and _is_first_gpu(two) else two)


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 gains time; CPUs without matrix units for it (AMX) are ten times slower in it."""
    return device.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number type called `name`.

    "auto" is float16 on CUDA and float32 elsewhere, but bfloat16 on CPUs with matrix units for it (AMX):
    there `mini` samples a third quicker, with views that differ by 0.2 grey levels on average.

    Raises:
        ValueError: The name is none of auto, float32, bfloat16, float16.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        quick = device.type == "cpu" and computes_bfloat16(device)
        return torch.bfloat16 if quick else torch.float32
    if name not in DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def choose_residency(name: str, device: torch.device, needed: int) -> Residency:
    """Return whether networks stay on a device: "auto" is resident where they fit into its free memory.

    Args:
        name: "auto", "resident" or "staged".
        device: Where they run.
        needed: Bytes that they and their work take when all of them stay.

    Raises:
        ValueError: The name is none of the three.
    """
    if name not in PLACEMENTS:
        raise ValueError(f"Unknown placement {name!r}; use {', '.join(PLACEMENTS)}.")
    memory = memory_of(device)
    short = memory is not None and memory[0] < needed
    return Residency(device, staged=name == "staged" or (name == "auto" and short))


def working_bytes(stage1: Stage1Config, stage2: Stage2Config | None, dtype: torch.dtype) -> int:
    """Estimate the memory of a run beside the weights: the largest step's feature maps.

    It only decides between resident and staged beforehand. Where it is wrong, a run starts again, staged.
    """
    size = dtype.itemsize
    joint, autoencoder = stage1.joint_network, stage1.image_autoencoder
    images = 2 * IMAGES_PER_GROUP  # with guidance
    steps = [
        joint.latent_size**2 * joint.widths[0] * images * size * MAPS_JOINT,
        stage1.image_size**2 * autoencoder.widths[0] * size * MAPS_AUTOENCODER,
    ]
    if stage2 is not None:
        decoder, views = stage2.mesh_decoder, stage2.views
        voxels = TYPICAL_VOXELS << 3 * len(decoder.widths)
        tokens = 2 * NUM_BODY_VIEWS * views.side**2 * views.channels * torch.float32.itemsize
        steps.append(voxels * decoder.widths[-1] * torch.float32.itemsize * MAPS_DECODER + tokens)
    return max(steps)


def _is_first_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and not device.index
