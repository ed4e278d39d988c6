"""Convert MediaPipe's person models (TFLite, float16) to the ONNX files in `assets/matting/`.

The models come out of two npm packages, both Apache-2.0:

    npm pack @mediapipe/selfie_segmentation@0.1.1675465747 @mediapipe/pose@0.5.1675469404
    pip install "onnx>=1.17" "tflite>=2.18"
    python scripts/convert_mediapipe.py mediapipe-*.tgz --out assets/matting

Activations become channels-first. Weights are stored as float16 (as published), or as 8-bit integers with one
scale per output channel, and are widened to float32 when the network is loaded.
"""

from __future__ import annotations

import argparse
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tflite_graph import Converter
from tflite_operators import OPERATORS

LOGGER = logging.getLogger("convert_mediapipe")


@dataclass(frozen=True)
class Source:
    """One network: where it lies in the packages, its name here, how its weights are stored."""

    member: str
    name: str
    storage: str
    outputs: dict[int, str]


# Outputs are named by their position in the TFLite graph; others are dropped with what feeds them.
SOURCES = (
    Source("package/selfie_segmentation.tflite", "selfie_segmentation", "float16", {0: "mask"}),
    Source(
        "package/pose_landmark_full.tflite", "pose_landmark", "int8", {0: "landmarks", 1: "score", 2: "mask"}
    ),
    Source("package/pose_solution_packed_assets.data", "pose_detection", "int8", {0: "boxes", 1: "scores"}),
)


def read_member(packages: list[Path], member: str) -> bytes:
    """Return a file out of the first package that has it."""
    for package in packages:
        with tarfile.open(package) as archive:
            if member in archive.getnames():
                file = archive.extractfile(member)
                assert file is not None
                return file.read()
    raise FileNotFoundError(f"No package given holds {member}; see the commands at the top of this script.")


def main() -> None:
    """Convert all models."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Convert MediaPipe's person models to ONNX.")
    parser.add_argument("packages", nargs="+", type=Path, help="the two npm packages (.tgz)")
    parser.add_argument("--out", type=Path, default=Path("assets/matting"), help="folder of the ONNX files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        converter = Converter(read_member(arguments.packages, source.member), source.storage, OPERATORS)
        model = converter.convert(source.name, source.outputs)
        path = arguments.out / f"{source.name}.onnx"
        path.write_bytes(model.SerializeToString())
        LOGGER.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    main()
