"""Runs a photo that ships with the app and checks what only trained weights get right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synchuman.events import Cancelled, Done, PhotoError, Progress
from synchuman.views import FRONT

if TYPE_CHECKING:
    from collections.abc import Callable

    from synchuman.loading import Loaded

EXAMPLE = Path(__file__).resolve().parents[1] / "assets" / "examples" / "person-1.jpg"
# What trained weights reach; random ones are far from all of them.
ROUND_TRIP_DB = 24.0  # of the photo through the image autoencoder
SILHOUETTE_IOU = 0.75  # of the occupied voxels, seen from the front, and the photo's person
PUBLISHED_SETTINGS = {"stage1_steps": 50, "guidance": 3.0, "stage2_steps": 25, "stage2_guidance": 6.0}
VOXELS = (2_000, 40_000)  # a person's shell has 5 to 15 thousand
WHITE_BORDER = 0.9  # part of the generated views' border that is white

Found = tuple[str, bool | None, str]


def check_photo(loaded: Loaded, variant: str, work: Path, report: Callable[[Progress], None]) -> list[Found]:
    """Run the photo with the settings of the published method and check its results.

    Args:
        loaded: The networks.
        variant: Their name.
        work: Folder of the run.
        report: Told how it goes.
    """
    from synchuman.photo import prepare
    from synchuman.pipeline import SyncHuman
    from synchuman.runfolder import RunFolder
    from synchuman.settings import Settings

    photo = EXAMPLE.read_bytes()
    found = [_round_trip(loaded, prepare(photo, "offline", None).cutout)]
    pipeline = SyncHuman(loaded.stage1, variant, loaded.device, loaded.dtype, loaded.stage2)
    settings = Settings(**PUBLISHED_SETTINGS, texture_size=1024)
    done: Done | None = None
    try:
        for event in pipeline.run(photo, settings, work):
            if isinstance(event, Progress):
                report(event)
            if isinstance(event, Done):
                done = event
    except (ValueError, PhotoError, Cancelled) as error:
        found.append(("photo", False, f"the run ended with: {error}"))
    files = _stage_one(RunFolder(work))
    if files is not None:
        found += [_voxels(files), _silhouette(files), _borders(files)]
    if done is not None:
        kind = "Stage 2's" if done.stage2 else "the coarse"
        seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in done.seconds.items())
        found.append(("photo", True, f"{kind} model with {done.faces:,} faces ({seconds})"))
    return found


def _stage_one(folder: Any) -> Any:
    from synchuman.runfolder import RunFolderError

    try:
        return folder.read_stage_one()
    except RunFolderError:
        return None


def _round_trip(loaded: Loaded, rgba: np.ndarray) -> Found:
    """Encode and decode the framed photo: only the right autoencoder gives it back."""
    import torch

    from synchuman.photo.framing import frame_sharp, on_white, to_uint8
    from synchuman.stage1.image_autoencoder import decode_images, encode_images

    stage1 = loaded.stage1
    canvas, _ = (on_white(image) for image in frame_sharp(rgba, stage1.config.image_size))
    autoencoder = stage1.networks.image_autoencoder
    with torch.inference_mode(), stage1.residency.using(autoencoder):
        image = torch.from_numpy(to_uint8(canvas))[None].to(stage1.device)
        back = decode_images(autoencoder, encode_images(autoencoder, image))[0].cpu().numpy()
    error = float(np.square(back - canvas).mean())
    decibels = -10 * np.log10(max(error, 1e-12))
    says = f"the photo comes back with {decibels:.1f} dB (at least {ROUND_TRIP_DB:.0f})"
    return "image autoencoder, photo", bool(decibels >= ROUND_TRIP_DB), says


def _voxels(files: Any) -> Found:
    count = int((files.logits > 0).sum())
    low, high = VOXELS
    return "structure", low <= count <= high, f"{count:,} voxels are occupied ({low:,} to {high:,})"


def _silhouette(files: Any) -> Found:
    """Compare the occupied voxels, seen from the front, with the front view's own silhouette."""
    seen = (files.logits > 0).any(axis=1).T[::-1]  # rows from the top, columns along x
    side = len(seen)
    mask = (files.colors[FRONT].min(axis=-1) < 245).astype(float)
    size = mask.shape[0] // side
    coarse = mask[: side * size, : side * size].reshape(side, size, side, size).mean((1, 3)) > 0.5
    union = (seen | coarse).sum()
    overlap = float((seen & coarse).sum() / union) if union else 0.0
    says = f"overlaps the photo's person by {overlap:.2f} (at least {SILHOUETTE_IOU})"
    return "structure, silhouette", overlap >= SILHOUETTE_IOU, says


def _borders(files: Any) -> Found:
    """Trained weights leave the corners of all body views white."""
    images = np.concatenate([files.colors[1:4], files.normals[:4]])
    edge = max(images.shape[1] // 48, 1)
    borders = np.concatenate([images[:, :, :edge].reshape(-1, 3), images[:, :, -edge:].reshape(-1, 3)])
    white = float((borders.min(axis=-1) > 230).mean())
    says = f"{white:.2f} of their side borders are white (at least {WHITE_BORDER})"
    return "views", white >= WHITE_BORDER, says
