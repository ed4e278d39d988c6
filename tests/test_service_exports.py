"""Other files of a job's model through a real server: made once, in their own process, refused with a reason."""

from __future__ import annotations

import io

import pytest
import trimesh
from service_server import COARSE, Server, shared_server

from synchuman.exports import FORMATS


@pytest.fixture(scope="module")
def server() -> Server:
    return shared_server()


@pytest.fixture(scope="module")
def done(server: Server) -> dict:
    return server.end(server.submit(**COARSE)["id"])


def listed(server: Server, job: dict) -> dict[str, dict]:
    told = server.client.get(f"/jobs/{job['id']}/exports").json()["exports"]
    return {offer["format"]: offer for offer in told}


def test_a_file_is_made_once_and_belongs_to_the_job(server: Server, done: dict) -> None:
    offers = listed(server, done)
    assert list(offers) == list(FORMATS) and not offers["stl"]["ready"]
    answer = server.client.get(offers["stl"]["url"], params={"height": 0.18})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "model/stl"
    assert 'filename="person-180mm.stl"' in answer.headers["content-disposition"]
    assert "sandbox" in answer.headers["content-security-policy"]
    model = trimesh.load(io.BytesIO(answer.content), file_type="stl")
    assert model.is_watertight and model.bounds[1][2] == pytest.approx(180, abs=1e-2)
    now = server.job(done["id"])
    assert now["bytes"] == done["bytes"] + len(answer.content)
    path = server.data / "jobs" / done["id"] / "exports" / "person-180mm.stl"
    stamp = path.stat().st_mtime_ns
    again = server.client.get(offers["stl"]["url"], params={"height": 0.18})
    assert again.content == answer.content and path.stat().st_mtime_ns == stamp
    names = [file["name"] for file in server.client.get(done["links"]["files"]).json()["files"]]
    assert "exports/person-180mm.stl" in names


def test_the_default_shows_as_ready(server: Server, done: dict) -> None:
    glb = server.client.get(f"/jobs/{done['id']}/exports/glb")
    assert glb.headers["content-type"] == "model/gltf-binary" and glb.content[:4] == b"glTF"
    assert listed(server, done)["glb"]["ready"]


@pytest.mark.parametrize(
    ("wanted", "code", "part"),
    [
        ("fbx", "invalid", "format"),
        ("glb?texture=gif", "invalid", "texture"),
        ("glb?height=99", "invalid", "height"),
        ("stl?texture=png", "export_refused", "no texture"),
        ("mp4?height=1", "export_refused", "height"),
        ("gaussians", "export_refused", "no gaussians"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(
    server: Server, done: dict, wanted: str, code: str, part: str
) -> None:
    answer = server.client.get(f"/jobs/{done['id']}/exports/{wanted}")
    assert answer.status_code == 422
    told = answer.json()
    assert told["code"] == code and part in told["detail"]
    assert str(server.data) not in answer.text


def test_a_broken_model_names_no_place(server: Server, done: dict) -> None:
    job = server.end(
        server.client.post(f"/jobs/{done['id']}/retexture?wait=false", data={"faces": 1100}).json()["id"]
    )
    (server.data / "jobs" / job["id"] / "SecondStage" / "output.glb").write_bytes(b"glTF")
    told = server.client.get(f"/jobs/{job['id']}/exports/ply").json()
    assert told["code"] == "export_refused" and "the run/SecondStage/output.glb" in told["detail"]
    assert str(server.data) not in told["detail"]


def test_only_finished_jobs_have_files_to_give(server: Server) -> None:
    job = server.submit(**{**COARSE, "stage1_steps": 50})
    for path in ("exports", "exports/glb"):
        answer = server.client.get(f"/jobs/{job['id']}/{path}")
        assert answer.status_code == 409 and answer.json()["code"] == "conflict"
    server.client.delete(f"/jobs/{job['id']}")


def test_openapi_tells_the_formats(server: Server) -> None:
    route = server.client.get("/openapi.json").json()["paths"]["/jobs/{job_id}/exports/{format}"]["get"]
    by_name = {parameter["name"]: parameter["schema"] for parameter in route["parameters"]}
    assert by_name["format"]["enum"] == list(FORMATS)
    assert set(route["responses"]["200"]["content"]) >= {
        "model/gltf-binary",
        "video/mp4",
        "model/vnd.usdz+zip",
    }
