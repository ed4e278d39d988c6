"""The evaluation: both surfaces of a variant side by side, renders compared view by view."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import surface_person

import synchuman.training.evaluate
from synchuman.cli import main
from synchuman.exit_codes import BAD_INPUT, OK
from synchuman.pipeline import SyncHuman
from synchuman.settings import Settings
from synchuman.training.evaluate import Subject, measure_textured, measure_variant, render_body_views
from synchuman.training.metrics import psnr, sample_surface

QUICK = Settings(
    stage1_steps=1, guidance=1.0, stage2_steps=1, stage2_guidance=1.0, faces=4000, texture_size=512
)
SURFACE = {"chamfer_cm", "chamfer_aligned_cm", "p2s_cm", "normal_consistency", "iou_64", "render_psnr_db"}
VIEWS = {"view_psnr_db", "view_ssim", "structure_iou_64"}


def subject(size: int) -> Subject:
    person = surface_person.make(size)
    points, normals = sample_surface(person.vertices, person.faces, 20_000, np.random.default_rng(0))
    return Subject(
        photo=person.photo,
        colors=person.colors,
        occupancy=person.logits > 0,
        points=points,
        normals=normals,
        height=1.0,
        mask=(person.colors[0] < 250).any(-1),
    )


def test_renders_lie_where_the_views_are():
    built, truth = surface_person.built(), subject(192)
    renders = render_body_views(built, 192)
    own = np.array([[psnr(r, c) for c in truth.colors[:4]] for r in renders])
    assert own.diagonal().min() > 24
    # The drawn person's sides are alike, front and back are not.
    assert own[0, 0] > own[0, 2] + 3 and own[2, 2] > own[2, 0] + 3
    mirrored = [psnr(r[:, ::-1], c) for r, c in zip(renders, truth.colors)]
    assert mirrored[1] < own[1, 1] - 3 and mirrored[3] < own[3, 3] - 3
    figures = measure_textured(truth, built)
    assert set(figures) == SURFACE
    assert figures["chamfer_cm"] < 1 and figures["normal_consistency"] > 0.95 and figures["iou_64"] > 0.5


def test_both_surfaces_are_measured(pipeline: SyncHuman):
    size = pipeline.stage1.config.image_size
    rows = measure_variant(pipeline.stage1, pipeline.stage2, subject(size), QUICK)
    assert set(rows["variant_coarse"]) == SURFACE and set(rows["variant"]) == SURFACE | VIEWS
    assert rows["variant"]["chamfer_cm"] != rows["variant_coarse"]["chamfer_cm"]
    alone = measure_variant(pipeline.stage1, None, subject(size), QUICK)
    assert set(alone) == {"variant"}
    assert alone["variant"]["chamfer_cm"] == pytest.approx(rows["variant_coarse"]["chamfer_cm"])


def test_the_command_shows_the_figures_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"variant": {"chamfer_cm": 1.5, "view_ssim": 0.5}, "hull": {"chamfer_cm": 4.25}}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(synchuman.training.evaluate, "evaluate", lambda *_: figures)
    out = tmp_path / "figures.json"
    assert main(["evaluate", "--count", "1", "--out", str(out)]) == OK
    shown = capsys.readouterr().out
    assert "1.500" in shown and "4.250" in shown and "no Stage 2" in shown
    assert json.loads(out.read_text()) == figures
    assert main(["evaluate", "--json"]) == OK and json.loads(capsys.readouterr().out) == figures
    assert main(["evaluate", "--count", "0"]) == BAD_INPUT
    assert main(["evaluate", "--steps", "0"]) == BAD_INPUT
