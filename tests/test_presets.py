"""Presets follow the weights in use: on the command line, in the service and by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from synchuman.commands import knobs
from synchuman.presets import MINI, NAMES, PUBLISHED, name_of, preset, presets_of
from synchuman.selfcheck_photo import PUBLISHED_SETTINGS
from synchuman.serving import forms
from synchuman.settings import Settings


def test_variants_and_folders_have_the_presets_of_their_size(tmp_path: Path) -> None:
    (tmp_path / "mine" / "ckpts" / "OneStage").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert presets_of("official") is presets_of(str(tmp_path / "mine")) is PUBLISHED
    assert presets_of("mini") is presets_of(str(tmp_path / "other")) is presets_of("nowhere") is MINI
    assert tuple(PUBLISHED) == tuple(MINI) == NAMES


def test_official_keeps_to_the_published_settings_unless_it_shall_be_fast() -> None:
    for name in ("Balanced", "Best"):
        values = preset(name, "official").model_dump()
        assert PUBLISHED_SETTINGS.items() <= values.items() and values["solver"] == "euler"
    fast = preset("Fast", "official")
    assert (fast.stage1_steps, fast.stage2_steps, fast.solver) == (20, 12, "multistep")
    assert (fast.guidance, fast.stage2_guidance) == (3.0, 6.0)


@pytest.mark.parametrize("variant", ["mini", "official"])
def test_a_preset_is_found_again_whatever_the_seed(variant: str) -> None:
    for name in NAMES:
        assert name_of(preset(name, variant, seed=5, matting="u2net_human_seg"), variant) == name
        assert name_of(preset(name, variant, faces=1234), variant) is None
    with pytest.raises(KeyError, match="Fast, Balanced, Best"):
        preset("Quick", variant)


def test_command_line_and_forms_start_from_the_presets_of_the_weights() -> None:
    parser = argparse.ArgumentParser()
    knobs.add_model(parser)
    knobs.add_settings(parser)
    options = parser.parse_args(["--variant", "official", "--preset", "Fast", "--stage2-steps", "7"])
    assert knobs.settings_of(options) == preset("Fast", "official", stage2_steps=7)
    assert knobs.settings_of(parser.parse_args([])) == preset("Balanced", "mini")
    form = forms.GenerateForm(stage1_steps=9)
    assert forms.settings_of(form, "official") == preset("Balanced", "official", stage1_steps=9)
    assert forms.settings_of(form, "mini") == preset("Balanced", "mini", stage1_steps=9)
    before = Settings(stage1_steps=3)
    assert forms.settings_of(form, "official", before) == Settings(stage1_steps=9)
    assert forms.GenerateForm(solver="multistep").solver == "multistep"
    with pytest.raises(ValueError, match="solver"):
        forms.GenerateForm(solver="heun")
