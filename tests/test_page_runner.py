"""What stands behind the page: one run at a time, stopping, waiting, controls, sweeping, who is let in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synchuman.events import Cancelled, Done, Event, Progress
from synchuman.serving import cards, controls
from synchuman.serving.launch import Refused, ServeOptions, check
from synchuman.serving.runner import Busy, Runner, Waiting
from synchuman.serving.sweep import sweep
from synchuman.settings import PRESETS, Settings


class SlowSteps:
    """A pipeline of ten short steps that notices when two runs share it."""

    def __init__(self) -> None:
        self.active = 0
        self.most = 0
        self.steps = 0
        self.begun = threading.Event()

    def run(
        self, photo: bytes, settings: Settings, folder: Path, stop: threading.Event | None, person: int | None
    ) -> Iterator[Event]:
        self.active += 1
        self.most = max(self.most, self.active)
        self.begun.set()
        try:
            for step in range(10):
                assert stop is not None
                if stop.is_set():
                    raise Cancelled
                time.sleep(0.05)
                self.steps += 1
                yield Progress("stage 1", step + 1, 10)
            yield Done(folder, folder / "x.glb", {}, 0, 0)
        finally:
            time.sleep(0.2)  # freeing memory takes a moment, too
            self.active -= 1


@pytest.fixture
def slow() -> SlowSteps:
    return SlowSteps()


@pytest.fixture
def runner(slow: SlowSteps, tmp_path: Path) -> Runner:
    return Runner(lambda: slow, tmp_path)


def test_a_run_passes_its_events_on(runner: Runner) -> None:
    events = [event for event in runner.run("a", b"", Settings()) if isinstance(event, Progress | Done)]
    assert len(events) == 11 and isinstance(events[-1], Done)


def test_two_runs_never_overlap_even_after_cancelling(runner: Runner, slow: SlowSteps) -> None:
    first = runner.run("a", b"", Settings())
    assert isinstance(next(first), Progress)
    assert runner.cancel("a")
    done = [event for event in runner.run("b", b"", Settings()) if isinstance(event, Done)]
    assert len(done) == 1 and slow.most == 1
    with pytest.raises(Cancelled):
        list(first)


def test_cancel_stops_within_a_step(runner: Runner, slow: SlowSteps) -> None:
    events = runner.run("a", b"", Settings())
    next(events)
    runner.cancel("a")
    with pytest.raises(Cancelled):
        list(events)
    assert slow.steps <= 3
    assert not runner.cancel("a")


def test_a_reader_that_leaves_stops_its_run(runner: Runner, slow: SlowSteps) -> None:
    events = runner.run("a", b"", Settings())
    next(events)
    events.close()  # type: ignore[attr-defined]
    list(runner.run("b", b"", Settings()))
    assert slow.most == 1 and slow.steps < 20


def test_a_waiting_run_knows_how_many_are_ahead_and_can_leave(runner: Runner, slow: SlowSteps) -> None:
    slow_first = threading.Event()

    class Stuck(SlowSteps):
        def run(self, *arguments: object) -> Iterator[Event]:
            slow_first.wait(10)
            yield Progress("stage 1", 1, 1)

    runner = Runner(Stuck, runner.outputs)
    first = runner.run("a", b"", Settings())
    threading.Thread(target=next, args=(first,), daemon=True).start()
    time.sleep(0.1)
    second = runner.run("b", b"", Settings())
    assert next(second) == Waiting(1, False)
    runner.cancel("b")
    with pytest.raises(Cancelled):
        list(second)
    slow_first.set()


def test_too_many_waiting_runs_are_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synchuman.serving.runner.MAX_WAITING", 0)
    first = runner.run("a", b"", Settings())
    next(first)
    with pytest.raises(Busy):
        next(iter(runner.run("b", b"", Settings())))
    first.close()  # type: ignore[attr-defined]


def test_weights_that_do_not_load_are_an_error_of_the_run(tmp_path: Path) -> None:
    def load() -> SlowSteps:
        raise FileNotFoundError("no weights")

    with pytest.raises(FileNotFoundError, match="no weights"):
        list(Runner(load, tmp_path).run("a", b"", Settings()))


def test_every_setting_has_a_control_with_its_bounds() -> None:
    for name, field in Settings.model_fields.items():
        control = controls.control(name)
        assert control.label == field.title and control.info == field.description
        assert control.value == field.default
    slider = controls.control("texture_size")
    assert (slider.minimum, slider.maximum, slider.step) == (256, 4096, 256)


def test_controls_are_read_and_bounds_are_said() -> None:
    defaults = [float(v) if isinstance(v, int) else v for v in Settings().model_dump().values()]
    assert controls.read(defaults) == Settings()
    bad = dict(zip(controls.FIELDS, defaults)) | {"faces": 7}
    with pytest.raises(ValueError, match=r"Faces: .*1000"):
        controls.read(list(bad.values()))
    for values in PRESETS.values():
        assert Settings(**values)


def test_cards_escape_and_count() -> None:
    assert "<script>" not in cards.note("<script>", "error")
    card = cards.progress(Progress("stage 1", 8, 16, 12.4))
    assert "step 8 of 16" in card and "about 12 s left" in card
    assert "Fine surface" in card
    coarse = cards.progress(
        Progress("texture", 9, 9, 0.0, ("cut-out", "stage 1", "surface", "atlas", "texture"))
    )
    assert "Fine surface" not in coarse and 'aria-valuenow="100"' in coarse


def test_sweep_keeps_what_is_new(tmp_path: Path) -> None:
    for name, age in (("old", 5000), ("new", 0)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "photo.png"
        file.write_bytes(b"x")
        for path in (file, file.parent):
            os.utime(path, (time.time() - age,) * 2)
    assert sweep(tmp_path, 3600) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert sweep(tmp_path / "missing", 1) == 0


def test_strangers_are_kept_out() -> None:
    check(ServeOptions())
    check(ServeOptions(host="0.0.0.0", auth=(("u", "p"),)))
    check(ServeOptions(share=True, allow_public=True))
    for options in (ServeOptions(host="0.0.0.0"), ServeOptions(share=True)):
        with pytest.raises(Refused, match="--auth"):
            check(options)
