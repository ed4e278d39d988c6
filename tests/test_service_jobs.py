"""Jobs through a real server: from photo to files, turns, cancelling, repeated requests, clients that leave."""

from __future__ import annotations

import io
import socket
import threading
import time
import zipfile
from collections.abc import Iterator

import pytest
import trimesh
from conftest import draw_person
from PIL import Image
from service_server import COARSE, QUICK, Server, person, shared_server

SECRET_PLACE = b"48 deg 51 min"


@pytest.fixture(scope="module")
def server() -> Server:
    return shared_server()


@pytest.fixture(autouse=True)
def empty_queue(server: Server) -> Iterator[None]:
    yield
    for job in server.client.get("/jobs").json()["jobs"]:
        if job["state"] in ("queued", "running"):
            server.client.delete(f"/jobs/{job['id']}")
    server.until(lambda: all(j["state"] != "running" for j in server.client.get("/jobs").json()["jobs"]))


@pytest.fixture(scope="module")
def story(server: Server) -> list[tuple[str, dict]]:
    """The events of a job, from a photo with EXIF to a model."""
    exif = Image.Exif()
    exif[0x010E] = SECRET_PLACE.decode()
    exif[0x0112] = 6  # lying on its side
    buffer = io.BytesIO()
    Image.fromarray(draw_person(320)).rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    assert SECRET_PLACE in buffer.getvalue()
    job = server.submit(image=buffer.getvalue(), **{**QUICK, "seed": 5})
    return list(server.events(job["id"]))


@pytest.fixture(scope="module")
def done(story: list[tuple[str, dict]]) -> dict:
    """That job, finished."""
    return story[-1][1]


def test_photo_to_model_and_nothing_of_the_camera_is_kept(server: Server, done: dict) -> None:
    assert done["state"] == "done" and done["success"], done
    assert done["mode"] == "full" and done["fallback"] is None and "stage 2" in done["seconds"]
    assert done["settings"]["seed"] == 5 and done["seconds"]["texture"] > 0 and done["duration"] > 1
    model = server.client.get(done["outputs"]["glb"])
    assert model.headers["content-type"] == "model/gltf-binary"
    assert model.headers["content-disposition"].startswith("attachment")
    assert len(trimesh.load(io.BytesIO(model.content), "glb", force="mesh").faces) == done["faces"]
    folder = server.data / "jobs" / done["id"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == done["bytes"]
    assert not [path for path in files if SECRET_PLACE in path.read_bytes() or path.name == "photo.png"]
    height, width = Image.open(folder / "OneStage" / "input.png").size[::-1]
    assert height > width


def test_files_are_listed_and_fetched_whole(server: Server, done: dict) -> None:
    files = server.client.get(done["links"]["files"]).json()["files"]
    names = {file["name"] for file in files}
    assert {"SecondStage/output.glb", "OneStage/color_4.png", "run.json", "previews/colors_face.png"} <= names
    for file in files:
        assert len(server.client.get(file["url"]).content) == file["bytes"]
    archive = server.client.get(done["outputs"]["archive"]).content
    assert set(zipfile.ZipFile(io.BytesIO(archive)).namelist()) == names
    server.until(lambda: not list((server.data / "tmp").iterdir()))
    record = server.client.get(f"{done['links']['files']}/run.json").json()
    assert record["status"] == "done" and record["settings"]["seed"] == 5


def test_events_tell_the_whole_story(server: Server, story: list[tuple[str, dict]], done: dict) -> None:
    names = list(dict.fromkeys(name for name, _ in story))
    assert names == ["queued", "running", "progress", "cutout", "views", "coarse", "done"]
    progress = [data for name, data in story if name == "progress"]
    stages = list(dict.fromkeys(data["stage"] for data in progress))
    assert stages == progress[-1]["stages"][-len(stages) :] and stages[-5:] == [
        "preview", "stage 2", "surface", "atlas", "texture",
    ]  # fmt: skip
    views = [data for name, data in story if name == "views"][-1]
    assert views["final"] and len(views["colors"]) == len(views["normals"]) == 5
    front = Image.open(io.BytesIO(server.client.get(views["colors"][0]).content))
    assert front.size == (96, 96)
    assert server.job(done["id"]) == done
    # Who comes late gets the end at once.
    assert list(server.events(done["id"])) == [story[-1]]


def test_retexture_waits_and_answers_with_the_archive(server: Server, done: dict) -> None:
    answer = server.client.post(f"/jobs/{done['id']}/retexture", data={"faces": 1500, "download": "true"})
    assert answer.status_code == 200, answer.text
    assert "SecondStage/output.glb" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    job = server.job(answer.headers["x-job-id"])
    check_child(server, job, done, 1500)
    assert job["mode"] == "full" and "stage 2" not in job["seconds"]


def test_resume_goes_on_from_the_views(server: Server, done: dict) -> None:
    fields = {"skip_stage1": "true", "job": done["id"], "faces": "1200"}
    answer = server.client.post("/generate", data=fields)  # which waits
    job = answer.json()
    assert answer.status_code == 200 and answer.headers["location"] == f"/jobs/{job['id']}"
    assert job == server.job(job["id"])
    check_child(server, job, done, 1200)
    assert job["mode"] == "full" and "stage 2" in job["seconds"]
    for path, data in ((f"/jobs/{done['id']}/retexture", {}), ("/generate", fields)):
        wrong = server.client.post(path, data={**data, "guidance": "2"})
        assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "guidance"


def check_child(server: Server, job: dict, parent: dict, faces: int) -> None:
    assert job["state"] == "done" and job["parent"] == parent["id"] and "stage 1" not in job["seconds"]
    assert job["settings"]["faces"] == faces and 0 < job["faces"] <= faces and job["settings"]["seed"] == 5
    # The parent's views are this job's views, and its model is untouched.
    for name in ("OneStage/color_0.png", "OneStage/input.png"):
        mine, theirs = (server.client.get(f"/jobs/{i}/files/{name}") for i in (job["id"], parent["id"]))
        assert mine.content == theirs.content and mine.status_code == 200
    model = server.client.get(parent["outputs"]["glb"]).content
    assert len(trimesh.load(io.BytesIO(model), "glb", force="mesh").faces) == parent["faces"]


@pytest.mark.parametrize("stage", ["cut-out", "stage 1", "preview", "stage 2", "surface", "atlas", "texture"])
def test_cancel_takes_effect_in_every_stage(server: Server, done: dict, stage: str) -> None:
    """Asked for when a stage begins; what comes after it takes long enough that a later end would be seen."""
    steps = {"stage1_steps": 60} if stage in ("cut-out", "stage 1") else {"stage2_steps": 100}
    if stage in ("surface", "atlas", "texture"):
        fields = {"wait": "false", "faces": 5000, "texture_size": 4096}
        job = server.client.post(f"/jobs/{done['id']}/retexture", data=fields).json()
    else:
        job = server.submit(**{**QUICK, **steps})
    server.until_event(job["id"], "progress", stage)
    answer = server.client.post(f"/jobs/{job['id']}/cancel")
    assert answer.status_code == 202 and answer.json()["cancelling"]
    ended = server.end(job["id"], 10)
    assert ended["state"] == "cancelled" and ended["outputs"] == {}
    assert not (server.data / "jobs" / job["id"]).exists()
    assert server.client.post(f"/jobs/{job['id']}/cancel").status_code == 409


def test_a_waiting_job_is_cancelled_at_once_and_deleted(server: Server) -> None:
    running, waiting = server.submit(stage1_steps=60), server.submit()
    server.until_event(running["id"], "running")
    assert server.job(waiting["id"])["position"] == 1
    assert server.client.post(f"/jobs/{waiting['id']}/cancel").json()["state"] == "cancelled"
    assert server.client.delete(f"/jobs/{waiting['id']}").status_code == 204
    assert server.client.get(f"/jobs/{waiting['id']}").status_code == 404
    # A running one goes when it has stopped, and is gone for its user at once.
    assert server.client.delete(f"/jobs/{running['id']}").status_code == 202
    assert server.client.get(f"/jobs/{running['id']}").status_code == 404
    server.until(lambda: not (server.data / "jobs" / running["id"]).exists())


def test_health_answers_during_a_run_and_the_queue_has_an_end(server: Server, done: dict) -> None:
    jobs = [server.submit(stage1_steps=60)]
    server.until_event(jobs[0]["id"], "running")
    jobs += [server.submit() for _ in range(6)]
    refused = server.submit(expect=429)
    assert refused["code"] == "queue_full"
    ready = server.client.get("/ready")
    assert ready.status_code == 503 and not ready.json()["checks"]["queue"]["ok"]
    times = []
    for _ in range(40):
        began = time.perf_counter()
        assert server.client.get("/health").json() == {"status": "ok"}
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 1  # bench/service_load.py has the figures
    waiting = [server.job(job["id"]) for job in jobs[1:]]
    assert [job["position"] for job in waiting] == [1, 2, 3, 4, 5, 6]
    etas = [job["eta"] for job in waiting]
    assert etas == sorted(etas) and etas[0] > 1


def test_the_same_request_with_the_same_key_is_one_job(server: Server) -> None:
    server.submit(stage1_steps=60)
    key = {"Idempotency-Key": "order-7"}
    jobs: list[dict] = []
    threads = [
        threading.Thread(target=lambda: jobs.append(server.submit(headers=key, seed=3))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job["id"] for job in jobs}) == 1 and len(jobs) == 4
    assert server.submit(expect=422, headers=key, seed=4)["code"] == "idempotency_key_reused"


def test_a_client_that_leaves_stops_its_run(server: Server) -> None:
    boundary = b"edge"
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (name.encode(), str(value).encode())
        for name, value in {**COARSE, "stage1_steps": 90}.items()
    )
    body += b'--edge\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n' + person()
    body += b"\r\n--edge--\r\n"
    before = {job["id"] for job in server.client.get("/jobs").json()["jobs"]}
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=%s\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (boundary, len(body), body)
        )
        new = server.until(
            lambda: [
                job
                for job in server.client.get("/jobs").json()["jobs"]
                if job["id"] not in before and job["state"] == "running"
            ]
        )
    assert server.end(new[0]["id"], 15)["state"] == "cancelled"


def test_jobs_are_listed_in_pages(server: Server, done: dict) -> None:
    everything = server.client.get("/jobs?limit=200").json()
    assert everything["next"] is None
    ids, address = [], "/jobs?limit=3"
    while address:
        page = server.client.get(address).json()
        assert len(page["jobs"]) <= 3
        ids += [job["id"] for job in page["jobs"]]
        address = page["next"]
    assert ids == [job["id"] for job in everything["jobs"]] and done["id"] in ids
    only = server.client.get("/jobs?state=cancelled").json()["jobs"]
    assert only and {job["state"] for job in only} == {"cancelled"}


def test_metrics_count_what_happened(server: Server, done: dict) -> None:
    text = server.client.get("/metrics").text
    counted = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"
    }
    assert counted['synchuman_jobs_total{kind="generate",state="done"}'] >= 1
    assert counted['synchuman_worker_ready{device="cpu"}'] == 1
    assert counted['synchuman_worker_starts{device="cpu"}'] == 1
    route = 'synchuman_http_request_seconds_count{method="GET",route="/jobs/{job_id}",status="200"}'
    assert counted[route] > 0
    assert done["id"] not in text


def test_nothing_of_a_user_is_in_the_log(server: Server, done: dict) -> None:
    log = server.log.read_text()
    assert "Traceback" not in log and done["id"] in log
    for private in ("photo.png", "127.0.0.1 -", "GET /jobs/", SECRET_PLACE.decode()):
        assert private not in log
