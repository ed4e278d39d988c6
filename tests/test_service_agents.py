"""Named endpoints and MCP tools behind keys: who may call, what they may not reach; every route of the page."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path

import gradio_client
import httpx
import pytest
from all_routes import all_routes, filled
from gradio_client.exceptions import AppError
from PIL import Image
from service_server import COARSE, Server, person, serving

KEYS = {"alice": "alice-key-0123456789", "bob": "bob-key-0123456789ab"}
TOOLS = {"start_person", "start_retexture", "wait_for_job", "get_model", "cancel_job", "delete_job"}
MCP = "/gradio_api/mcp/"
SECRET_PLACE = "somewhere in the mountains"
PHOTO = "data:image/png;base64," + base64.b64encode(person()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Jobs wait, and are cancelled before they run."""
    env = {"SYNCHUMAN_API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items())}
    arguments = ("--page", "--logins-per-minute", "0", "--requests-per-minute", "0")
    with serving(tmp_path_factory.mktemp("agents") / "data", *arguments, env=env, works=False) as server:
        yield server


def client(server: Server, name: str) -> gradio_client.Client:
    return gradio_client.Client(server.address, headers={"X-API-Key": KEYS[name]}, verbose=False)


def test_every_route_of_the_page_asks_who_calls(server: Server) -> None:
    routes = all_routes(page=True)
    paths = {path for _, path in routes}
    # That the walk goes into what is mounted and included.
    assert {"/jobs/{job_id}", "/config", "/theme.css", "/gradio_api/upload", "/gradio_api/mcp/sse"} <= paths
    assert {"/gradio_api/heartbeat/{session_hash}", "/gradio_api/queue/join", "/monitoring/summary"} <= paths
    more = [("POST", MCP), ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/nothing")]
    nobody = httpx.Client(base_url=server.address, trust_env=False, verify=False)
    for headers, open_to_all in (
        ({}, {("GET", "/health"), ("GET", "/login")}),
        ({"X-API-Key": "wrong-key-0123456789"}, set()),
    ):
        told = {
            (method, path): nobody.request(method, filled(path), headers=headers).status_code
            for method, path in [*routes, *more]
        }
        assert {route for route, status in told.items() if status != 401} == open_to_all
        assert all(told[route] == 200 for route in open_to_all)


def test_callers_see_their_own_jobs_and_their_mistakes(server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "IMG_0042.png"
    photo.write_bytes(person())
    alice, bob = client(server, "alice"), client(server, "bob")
    # The page's own functions are none of them, and have nothing that MCP would have to warn of.
    named = set(alice.view_api(return_format="dict")["named_endpoints"])
    assert named == {f"/{name}" for name in (*TOOLS, "make_person")}
    assert "gr.State" not in server.log.read_text()
    job = alice.predict(gradio_client.handle_file(photo), **COARSE, api_name="/start_person")
    asked = server.client.get(f"/jobs/{job['id']}", headers={"X-API-Key": KEYS["alice"]}).json()
    assert asked["settings"] == job["settings"] and asked["stage1_only"]
    for endpoint in ("/wait_for_job", "/get_model", "/cancel_job", "/delete_job", "/start_retexture"):
        with pytest.raises(AppError, match="There is no such job"):
            bob.predict(job["id"], api_name=endpoint)
    with pytest.raises(AppError, match=r"queued|running"):
        alice.predict(job["id"], api_name="/get_model")
    assert alice.predict(job["id"], api_name="/delete_job") in (True, False)
    for mistake, word in (({"faces": 1}, "1000"), ({"preset": "Worst"}, "Balanced"), ({"seed": -1}, "seed")):
        with pytest.raises(AppError, match=word):
            alice.predict(gradio_client.handle_file(photo), **mistake, api_name="/start_person")
    photo.write_bytes(b"no photo")
    with pytest.raises(AppError, match="JPEG"):
        alice.predict(gradio_client.handle_file(photo), api_name="/start_person")
    with pytest.raises(AppError, match="either"):
        alice.predict(api_name="/start_person")
    # Uploads may say where they were taken: none of them is left, whatever became of the call.
    left = [file.name for file in (server.data / "cache").rglob("*") if "0042" in file.name]
    assert not left and "0042" not in server.log.read_text()


def with_a_place(kind: str, size: tuple[int, int] = (60, 90), turned: int = 6) -> bytes:
    """A photo that says where it was taken, lying on its side."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = turned, SECRET_PLACE
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind, exif=exif)
    assert SECRET_PLACE.encode() in buffer.getvalue()
    return buffer.getvalue()


def upload(server: Server, data: bytes, name: str) -> Path:
    """Send a file as the page does; return where Gradio keeps it."""
    headers = {"X-API-Key": KEYS["alice"]}
    sent = server.client.post("/gradio_api/upload", files={"files": (name, data)}, headers=headers)
    [path] = sent.raise_for_status().json()
    return Path(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_of_uploads_to_the_page_pixels_alone_are_kept(server: Server, kind: str) -> None:
    path = upload(server, with_a_place(kind), "photo." + kind.lower())
    assert SECRET_PLACE.encode() not in path.read_bytes()
    with Image.open(path) as image:
        assert image.size == (90, 60) and not image.getexif()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("data", "sentence"), [
    (with_a_place("TIFF"), "JPEG"), (b"", "empty"), (with_a_place("PNG", (3, 3)), "3 x 3"),
    (with_a_place("JPEG")[:300], "damaged"),
])  # fmt: skip
def test_of_a_refused_upload_the_reason_alone_is_kept(
    server: Server, tmp_path: Path, data: bytes, sentence: str
) -> None:
    path = upload(server, data, "photo.jpg")
    assert SECRET_PLACE.encode() not in path.read_bytes()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(data)
    with pytest.raises(AppError, match=sentence):
        client(server, "alice").predict(gradio_client.handle_file(photo), api_name="/start_person")


@pytest.mark.parametrize("address", ["https://93.184.216.34/x.png", "http://127.0.0.1:1/x.png"])
def test_no_address_is_fetched_in_the_place_of_a_file(server: Server, address: str) -> None:
    alice = client(server, "alice")
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    for endpoint in ("/start_person", "/make_person"):
        with pytest.raises(AppError, match="not fetched"):
            alice.predict(photo=file, api_name=endpoint)
    with pytest.raises(AppError, match="allow-image-url"):
        alice.predict(image_url=address, api_name="/start_person")


@pytest.mark.parametrize("path", ["/etc/passwd", "{data}/secret", "{data}/jobs.sqlite"])
def test_no_file_of_the_server_is_taken_for_an_upload(server: Server, path: str) -> None:
    file = {"path": path.format(data=server.data), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError) as refused:
        client(server, "alice").predict(photo=file, api_name="/start_person")
    assert "Something went wrong" not in str(refused.value)
    assert (server.data / "secret").exists()


def test_agents_have_our_tools_with_a_key_alone(server: Server) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def session() -> None:
        headers = {"X-API-Key": KEYS["alice"]}
        http = httpx.AsyncClient(headers=headers, timeout=60, trust_env=False)
        async with streamable_http_client(server.address + MCP, http_client=http) as (reading, writing, _):
            async with ClientSession(reading, writing) as agent:
                await agent.initialize()
                tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
                assert set(tools) == TOOLS
                described = tools["start_person"].inputSchema["properties"]
                assert "head to feet" in described["photo"]["description"] and "faces" in described
                quick = {**COARSE, "photo": PHOTO}
                job = ast.literal_eval((await agent.call_tool("start_person", quick)).content[0].text)
                assert job["state"] == "queued" and job["settings"]["stage1_steps"] == 2
                mine = server.client.get(f"/jobs/{job['id']}", headers=headers)
                assert mine.status_code == 200
                stopped = await agent.call_tool("cancel_job", {"job_id": job["id"]})
                assert not stopped.isError
                for bad in (
                    {"photo": "/etc/passwd"},
                    {"photo": "data:,x"},
                    {"photo": "https://93.184.216.34/x.png"},
                ):
                    refused = await agent.call_tool("start_person", bad)
                    said = refused.content[0].text
                    assert refused.isError and ("data:image" in said or "allow-image-url" in said), said

    asyncio.run(session())
