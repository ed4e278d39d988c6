"""The parts of the service that are quicker to look at alone: turns, times, feeds, rates, the store's claims."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchuman.events import CutoutReady
from synchuman.serving.failures import explain
from synchuman.serving.feed import Feed
from synchuman.serving.jobs import PHOTO, Job, JobRequest, QueueFull, State
from synchuman.serving.options import DataFolderError, Places
from synchuman.serving.rates import Rate, TooMany, network_of
from synchuman.serving.runner import Runner
from synchuman.serving.store import JobStore, KeyTaken, StoreError
from synchuman.serving.turns import Estimator, InLine, in_turn
from synchuman.settings import Settings

REQUEST = JobRequest(settings=Settings())


def job(owner: str, created: float, **more: object) -> Job:
    return Job(owner, REQUEST, created, **more)  # type: ignore[arg-type]


def owners(jobs: Sequence[InLine]) -> str:
    return "".join(job.owner for job in jobs)


def test_turns_go_round() -> None:
    waiting = [job(owner, i) for i, owner in enumerate("aaaabbc")]
    assert owners(in_turn(waiting, {})) == "abcabaa"
    assert owners(in_turn(waiting, {"a": 9})) == "bcabaaa"
    assert owners(in_turn(waiting, {"a": 1, "b": 2, "c": 3})) == "abcabaa"


@given(
    st.lists(st.sampled_from("abcd"), max_size=40),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)),
)
def test_nobody_waits_for_two_of_another(line: list[str], turns: dict[str, int]) -> None:
    waiting = [job(owner, i) for i, owner in enumerate(line)]
    ordered = in_turn(waiting, turns)
    assert sorted(j.id for j in ordered) == sorted(j.id for j in waiting)
    for owner in set(line):
        mine = [j.created for j in ordered if j.owner == owner]
        assert mine == sorted(mine)
        # Between two jobs of somebody else there is one of mine, as long as I have any.
        last = max(i for i, j in enumerate(ordered) if j.owner == owner)
        for other in set(line) - {owner}:
            so_far = ordered[:last]
            runs = "".join(j.owner for j in so_far if j.owner in (owner, other))
            assert other * 3 not in runs


def test_the_store_keeps_turns_and_hands_every_job_out_once(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    for i, owner in enumerate("aaaaaaaabbbb"):
        store.add(job(owner, i), 100, None)
    expected = owners(store.queue())
    assert expected == "abababab" + "aaaa"
    claimed: list[Job] = []

    def claim() -> None:
        while (mine := store.claim()) is not None:
            claimed.append(mine)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({j.id for j in claimed}) == 12
    store.add(job("a", 50), 100, None)
    store.add(job("b", 51), 100, None)
    assert store.counts()[State.RUNNING] == 12 and len(store.queue()) == 2
    store.close()
    again = JobStore(tmp_path / "jobs.sqlite")
    assert {j.id for j in again.with_state(State.RUNNING)} == {j.id for j in claimed}


def test_the_store_refuses_what_is_too_much(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add(job("a", 1, idempotency_key="k"), 3, 2)
    with pytest.raises(KeyTaken):
        store.add(job("a", 2, idempotency_key="k"), 3, 2)
    store.add(job("b", 2, idempotency_key="k"), 3, 2)
    store.add(job("a", 3), 3, 2)
    with pytest.raises(QueueFull, match="3 jobs wait"):
        store.add(job("c", 4), 3, 2)
    with pytest.raises(QueueFull, match="2 of your jobs"):
        store.add(job("a", 4), 9, 2)


def test_a_store_of_another_version_is_not_touched(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "jobs.sqlite"
    JobStore(path).close()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        JobStore(path)


def test_settings_of_another_version_are_forgotten_not_fatal(tmp_path: Path) -> None:
    import sqlite3

    store = JobStore(tmp_path / "jobs.sqlite")
    old, new = job("a", 1), job("a", 2)
    for each in (old, new):
        store.add(each, 9, None)
    store.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as file:
        file.execute(
            "UPDATE jobs SET request = replace(request, 'faces', 'triangles') WHERE id = ?", [old.id]
        )
    again = JobStore(tmp_path / "jobs.sqlite")
    assert [j.id for j in again.queue()] == [new.id]


def test_times_are_learned_and_scale_with_steps() -> None:
    steps = REQUEST.settings.stage1_steps
    seconds = {"cut-out": 1.0, "stage 1": 2.0 * steps, "texture": 5.0}
    done = job("a", 0, state=State.DONE, result={"seconds": seconds})
    estimator = Estimator()
    assert estimator.expect(done) is None and estimator.schedule([0.0], [done]) == [None]
    estimator.learn(done)
    assert estimator.expect(done) == pytest.approx(6 + 2 * steps)
    twice = replace(done, request=JobRequest(settings=Settings(stage1_steps=2 * steps)))
    assert estimator.expect(twice) == pytest.approx(6 + 4 * steps)
    each = 6 + 2 * steps
    assert estimator.schedule([10.0], [done, done]) == pytest.approx([10 + each, 10 + 2 * each])
    assert estimator.schedule([10.0, 0.0], [done, done]) == pytest.approx([each, 10 + each])


def test_a_feed_tells_late_readers_what_still_matters() -> None:
    feed = Feed()
    for step in range(3):
        feed.tell("progress", {"step": step})
    feed.tell("cutout", {})

    async def read(after: int) -> list[tuple[int, str]]:
        return [(message.number, message.name) async for message in feed.follow(after)]

    async def scenario() -> None:
        late = asyncio.create_task(read(0))
        newest = asyncio.create_task(read(3))
        await asyncio.sleep(0.05)
        threading.Thread(target=lambda: (feed.tell("done", {}), feed.close())).start()
        assert await late == [(3, "progress"), (4, "cutout"), (5, "done")]
        assert await newest == [(4, "cutout"), (5, "done")]

    asyncio.run(scenario())
    assert [m and m.name for m in feed.follow_here(0.01)] == ["progress", "cutout", "done"]
    waiting = Feed().follow_here(0.01)
    assert next(waiting) is None


def test_rates_fill_up_again() -> None:
    rate = Rate(4, 0.4, "slow down")
    for _ in range(4):
        rate.take("a")
    with pytest.raises(TooMany) as refused:
        rate.take("a")
    assert 0 < refused.value.retry_after <= 0.1
    rate.take("b")
    time.sleep(0.12)
    rate.take("a")
    Rate(0, 60, "").take("a", 1e9)
    assert network_of("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"


def test_what_broke_a_run_is_said_plainly() -> None:
    for error, code in (
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("can't start new thread"), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_lost"),
        (OSError(28, "No space left on device"), "disk_full"),
        (OSError(13, "Permission denied"), "io_error"),
        (ValueError("Stage 2 found no surface."), "run_failed"),
        (KeyError("/home/somebody/secret"), "internal"),
    ):
        found, sentence = explain(error)
        assert found == code and sentence.endswith(".") and "somebody" not in sentence


def test_a_run_is_over_before_its_failure_is_told(tmp_path: Path) -> None:
    """The server removes the folder then; a run that ended later would write its record there once more."""
    told: list[str] = []

    class Pipeline:
        def run(self, *_: object) -> Iterator[CutoutReady]:
            try:
                yield CutoutReady(np.zeros((4, 4, 4), np.uint8))
            except GeneratorExit:
                told.append("run over")
                raise

    folder = tmp_path / "job"
    folder.mkdir()
    (folder / PHOTO).write_bytes(b"photo")
    (folder / "previews").write_bytes(b"no folder, so that no picture can be written")
    runner = Runner(Pipeline(), (), lambda what, **_: told.append(what))  # type: ignore[arg-type]
    runner.work(
        {"id": "a", "request": REQUEST.model_dump(mode="json"), "folder": str(folder)}, threading.Event()
    )
    assert told == ["run over", "failed"]


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass
    import os
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = tmp_path / f"synchuman-{getpass.getuser()}"
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataFolderError):
        Places.make(None)
    home.unlink()
    places = Places.make(None)
    assert places.root.stat().st_mode & 0o077 == 0 and places.secret() == places.secret()
    assert (places.root / "secret").stat().st_mode & 0o077 == 0
    if os.geteuid() == 0:
        os.chown(home, 12345, 12345)
        with pytest.raises(DataFolderError, match="another user"):
            Places.make(None)
