"""The published checkpoint's folder: which network is where in it, and what its names are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synchuman.weights import hub
from synchuman.weights.checkpoint import find_weights, read_json
from synchuman.weights.home import home
from synchuman.weights.keymaps import (
    AUTOENCODER,
    JOINT_NETWORK,
    STRUCTURE_DECODER,
    Renames,
    clip_names,
    encoder_names,
    renamed,
)
from synchuman.weights.keymaps_stage2 import STAGE2
from synchuman.weights.load import NetworkWeights
from synchuman.weights.prompts import PROMPTS_FILE

FIRST, SECOND = "OneStage", "SecondStage"
ENCODER = "dinov2-with-registers-large"

# Folder of every network of ours below that of the checkpoint, and its renames.
FOLDERS: dict[str, tuple[str, Renames]] = {
    "joint_network": (f"{FIRST}/SyncHuman_2D3DCrossSpaceDiffusion", JOINT_NETWORK),
    "structure_decoder": (f"{FIRST}/sparse_structure_decoder", STRUCTURE_DECODER),
    "image_autoencoder": (f"{FIRST}/vae", AUTOENCODER),
    "clip": (f"{FIRST}/image_encoder", ()),
    "slat_flow": (f"{SECOND}/ckpts/slat_flow", STAGE2),
    "mesh_decoder": (f"{SECOND}/ckpts/decoder_Mesh", STAGE2),
    "gaussian_decoder": (f"{SECOND}/ckpts/decoder_GS", STAGE2),
}
TEXT_ENCODER = f"{FIRST}/text_encoder"


@dataclass(frozen=True)
class PublishedFolder:
    """A folder in the published layout; `root` is the one that OneStage and SecondStage are in."""

    root: Path

    @classmethod
    def find(cls, folder: Path) -> PublishedFolder | None:
        """Return the checkpoint in a folder, or in its folder `ckpts`; None when there is none."""
        for root in (folder, folder / "ckpts"):
            if (root / FIRST).is_dir():
                return cls(root)
        return None

    @property
    def has_stage2(self) -> bool:
        """Whether Stage 2 is there."""
        return (self.root / SECOND).is_dir()

    @property
    def encoder(self) -> Path:
        """Folder of DINOv2, which the checkpoint itself lacks: beside it, else from the hub.

        Raises:
            FileNotFoundError: It is in neither place; the message says the cure.
        """
        for beside in (self.root, self.root.parent):
            if (beside / ENCODER).is_dir():
                return beside / ENCODER
        pulled = hub.pulled(hub.DINOV2)
        if pulled is None:
            raise FileNotFoundError(
                f"DINOv2 is missing: put config.json and model.safetensors of {hub.DINOV2.name} into "
                f"{self.root / ENCODER}, or run `python -m synchuman weights pull`."
            )
        return pulled

    @property
    def prompts(self) -> Path:
        """File of the view prompts, which the checkpoint itself lacks: in it, else our own.

        Raises:
            FileNotFoundError: They were not made yet; the message says how.
        """
        for path in (self.root / FIRST / PROMPTS_FILE, home() / PROMPTS_FILE):
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"The view prompts are missing ({home() / PROMPTS_FILE}): they are made once from the "
            f"checkpoint's text encoder. Run `python -m synchuman weights prompts --variant {self.root}`."
        )

    def folder(self, network: str) -> Path:
        """Return a network's folder."""
        return self.encoder if network == "image_encoder" else self.root / FOLDERS[network][0]

    def sizes(self, network: str) -> dict[str, Any]:
        """Return the constructor arguments of a network as published.

        Raises:
            FileNotFoundError: They are missing.
            WeightsError: They are damaged.
        """
        data = read_json(self.folder(network) / "config.json")
        return data["args"] if isinstance(data.get("args"), dict) else data

    def pipeline(self) -> dict[str, Any]:
        """Return what Stage 2 says about sampling."""
        data = read_json(self.root / SECOND / "pipeline.json")
        return data["args"] if isinstance(data.get("args"), dict) else data

    def weights(self, network: str) -> NetworkWeights:
        """Return where the weights of a network are.

        Raises:
            FileNotFoundError: They are missing.
        """
        path = find_weights(self.folder(network))
        if network == "image_encoder":
            return NetworkWeights(path, encoder_names)
        if network == "clip":
            return NetworkWeights(path, clip_names)
        return NetworkWeights(path, renamed(FOLDERS[network][1]))
