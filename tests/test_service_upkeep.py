"""What a service forgets and what it lets through, with its application in this process: no job runs here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_server import COARSE, person

from synchuman.serving.exposure import Refused
from synchuman.serving.jobs import Job, JobRequest, State
from synchuman.serving.options import Limits, ServiceOptions
from synchuman.serving.rest import create_app
from synchuman.serving.server import _page
from synchuman.serving.service import Service
from synchuman.settings import Settings

KIB = 1024
KEY = {"X-API-Key": "alice-key-0123456789"}
ALICE = {KEY["X-API-Key"]: "alice"}
OTHER = "https://studio.example"


@contextlib.contextmanager
def opened(data: Path, limits: Limits | None = None, **options: Any) -> Iterator[Service]:
    """A service that takes jobs and runs none."""
    limits = replace(limits or Limits(), min_free=KIB)
    service = Service(ServiceOptions(data=data, limits=limits, **options))
    try:
        yield service
    finally:
        service.close()


def asked(service: Service, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], **client: Any) -> None:
    """Talk to the application of a service."""

    async def talk() -> None:
        transport = httpx.ASGITransport(create_app(service), **client)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as here:
            await scenario(here)

    asyncio.run(talk())


def submit(service: Service, **more: Any) -> Job:
    return service.admission.submit("local", JobRequest(settings=Settings()), b"photo", **more)[0]


def finished(service: Service, kilobytes: int = 1) -> Job:
    """A job that is done, with a result of some size."""
    job = submit(service)
    assert service.store.change(job.id, state=State.RUNNING) is not None
    (service.folder(job) / "SecondStage").mkdir()
    (service.folder(job) / "SecondStage" / "output.glb").write_bytes(bytes(kilobytes * KIB))
    done = service.finish(job.id, State.DONE, {"glb": "SecondStage/output.glb"})
    assert done is not None and done.size >= kilobytes * KIB
    return done


def kept(service: Service) -> set[str]:
    """The jobs that are there, which must be those that have a folder."""
    jobs = {job.id for job in service.store.page(None, None, 100, None)}
    assert {path.name for path in service.places.jobs.iterdir()} == jobs
    return jobs


def test_results_go_when_their_time_is_over(tmp_path: Path) -> None:
    with opened(tmp_path, Limits(keep_seconds=0.3)) as service:
        old = finished(service)
        waiting = submit(service)
        assert old.expires == pytest.approx(time.time() + 0.3, abs=0.2)
        service.janitor.tidy()
        assert kept(service) == {old.id, waiting.id}
        time.sleep(0.35)
        young = finished(service)
        service.janitor.tidy()
        assert kept(service) == {young.id, waiting.id}


def test_the_oldest_results_go_when_all_are_too_large(tmp_path: Path) -> None:
    with opened(tmp_path, Limits(max_kept=100 * KIB)) as service:
        jobs = [finished(service, kilobytes=40) for _ in range(2)]
        failed = submit(service)
        service.finish(failed.id, State.FAILED)
        service.janitor.tidy()
        assert {job.id for job in jobs} <= kept_rows(service) and failed.id in kept_rows(service)
        jobs.append(finished(service, kilobytes=40))
        service.janitor.tidy()
        # What has no files makes no room: its words stay.
        assert kept_rows(service) == {jobs[1].id, jobs[2].id, failed.id}
        assert not service.folder(jobs[0]).exists() and service.store.total_size() <= 100 * KIB


def kept_rows(service: Service) -> set[str]:
    return {job.id for job in service.store.page(None, None, 100, None)}


def test_what_belongs_to_nobody_is_swept_but_not_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as service:
        orphan, half = service.places.jobs / ("0" * 32), service.places.temporary / "half.zip"
        orphan.mkdir()
        half.write_bytes(b"half")
        service.janitor.tidy()  # both may be somebody's who is just about to write them down
        assert orphan.exists() and half.exists()
    with opened(tmp_path) as service:  # a new process: nobody is
        assert not orphan.exists() and not half.exists()


def test_a_key_of_a_deleted_job_makes_a_new_one(tmp_path: Path) -> None:
    with opened(tmp_path) as service:
        repeat = {"key": "order-7", "fingerprint": "same"}
        running = submit(service, **repeat)
        assert submit(service, **repeat).id == running.id
        assert service.store.claim() is not None
        assert service.delete(running) is False  # it stops first
        again = submit(service, **repeat)
        assert again.id != running.id and service.get(again.id).state is State.QUEUED


def test_person_and_settings_reach_the_job(tmp_path: Path) -> None:
    with opened(tmp_path) as service:

        async def scenario(client: httpx.AsyncClient) -> None:
            data = {**{name: str(value) for name, value in COARSE.items()}, "wait": "false", "person": "2"}
            answer = await client.post("/generate", data=data, files={"image": person()})
            assert answer.status_code == 202, answer.text
            job = service.get(answer.json()["id"])
            assert job.request.person == 1 and job.request.stage1_only
            assert job.request.settings.faces == 1000 and job.owner == "local"

        asked(service, scenario)


def test_a_broken_stream_is_continued(tmp_path: Path) -> None:
    with opened(tmp_path) as service:
        job = submit(service)
        feed = service.follow(job)
        assert feed is not None
        for step in range(3):
            feed.tell("cutout", {"step": step})
        feed.close()

        async def scenario(client: httpx.AsyncClient) -> None:
            everything = (await client.get(f"/jobs/{job.id}/events")).text
            numbers = [int(line[4:]) for line in everything.splitlines() if line.startswith("id: ")]
            rest = await client.get(f"/jobs/{job.id}/events", headers={"Last-Event-ID": str(numbers[-2])})
            assert [line for line in rest.text.splitlines() if line.startswith("id: ")] == [
                f"id: {numbers[-1]}"
            ]

        asked(service, scenario)


def test_who_sends_very_much_has_to_wait(tmp_path: Path) -> None:
    limits = Limits(upload_per_hour=300 * KIB)
    with opened(tmp_path, limits, keys={**ALICE, "bob-key-0123456789ab": "bob"}) as service:

        async def scenario(client: httpx.AsyncClient) -> None:
            async def send(key: str) -> int:
                files = {"image": bytes(100 * KIB)}
                return (await client.post("/generate", files=files, headers={"X-API-Key": key})).status_code

            assert [await send(KEY["X-API-Key"]) for _ in range(3)] == [422, 422, 429]
            assert await send("bob-key-0123456789ab") == 422  # each client has a share of its own

        asked(service, scenario)


def test_one_other_page_may_call_when_it_is_named(tmp_path: Path) -> None:
    with opened(tmp_path, keys=ALICE, cors_origins=(OTHER,)) as service:

        async def scenario(client: httpx.AsyncClient) -> None:
            preflight = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-api-key",
            }
            allowed = await client.options("/generate", headers={"Origin": OTHER, **preflight})
            assert allowed.headers["access-control-allow-origin"] == OTHER
            assert "access-control-allow-credentials" not in allowed.headers
            posted = await client.post("/generate", headers={"Origin": OTHER, **KEY})
            assert posted.status_code == 422 and posted.headers["access-control-allow-origin"] == OTHER
            evil = {"Origin": "https://evil.example"}
            refused = await client.options("/generate", headers={**evil, **preflight})
            assert "access-control-allow-origin" not in refused.headers
            assert (await client.post("/generate", headers={**evil, **KEY})).status_code == 403

        asked(service, scenario)


def test_a_public_server_answers_to_its_names_alone(tmp_path: Path) -> None:
    with opened(tmp_path, keys=ALICE, public=True, hosts=("studio.example",)) as service:

        async def scenario(client: httpx.AsyncClient) -> None:
            for host, status in (("studio.example", 200), ("STUDIO.example:443", 200), ("evil.example", 403)):
                told = await client.get("https://localhost/info", headers={"Host": host, **KEY})
                assert told.status_code == status, host
                # Only on https: without it, browsers would be locked out.
                assert "strict-transport-security" in told.headers
            plain = await client.get("/info", headers={"Host": "studio.example", **KEY})
            assert "strict-transport-security" not in plain.headers

        asked(service, scenario)


def test_a_page_that_runs_visitors_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_VIBE_MODE", "1")
    with pytest.raises(Refused, match="GRADIO_VIBE_MODE"):
        _page()
