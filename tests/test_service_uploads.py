"""Hostile uploads and bodies: each is refused with a sentence, and the server lives on."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest
from conftest import draw_person
from fuzzing import FUZZ
from guarded_server import ALICE, guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from service_server import COARSE, Server, person

from synchuman.serving.forms import GenerateForm


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(bytes(2**16)))
        + png_chunk(b"IEND", b"")
    )


def saved(kind: str, mode: str = "RGB", **more: object) -> bytes:
    image = Image.fromarray(draw_person(200)).convert("RGB")
    buffer = io.BytesIO()
    (image if mode == "RGB" else image.convert(mode)).save(buffer, kind, **more)
    return buffer.getvalue()


def hostile() -> dict[str, bytes]:
    photo = person()
    svg = (
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
    )
    return {
        "nothing": b"",
        "one byte": b"\x89",
        "svg": svg,
        "svg with a declaration": b'<?xml version="1.0"?>' + svg,
        "html": b"<!doctype html><script>alert(1)</script>",
        "script": b"#!/bin/sh\nrm -rf /\n",
        "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj",
        "gif": saved("GIF"),
        "tiff": saved("TIFF"),
        "bmp": saved("BMP"),
        "zip": b"PK\x03\x04" + bytes(100),
        "bomb of 2.5 gigapixels": bomb(50_000, 50_000),
        "bomb, 1 pixel high": bomb(2**31 - 1, 1),
        "no pixels at all": bomb(0, 10),
        "truncated png": photo[: len(photo) // 2],
        "truncated jpeg header": saved("JPEG")[:30],
        "broken checksum": photo[:60] + b"\xff\xff\xff\xff" + photo[64:],
        "webp that is none": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(50),
        "heic that is none": struct.pack(">I", 24) + b"ftypheic" + bytes(12) + b"mdat" + bytes(64),
        "png signature, then noise": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
        "too small": saved("PNG")[:0] + _tiny(),
    }


def _tiny() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", hostile())
def test_hostile_uploads_are_refused_with_a_sentence(server: Server, name: str) -> None:
    began = time.monotonic()
    answer = server.client.post(
        "/generate", data={**COARSE, "wait": "false"}, files={"image": ("../../x.png", hostile()[name])}
    )
    assert answer.status_code == 422, answer.text
    told = answer.json()
    assert told["code"] in ("bad_photo", "invalid") and told["errors"][0]["field"] == "image"
    assert len(told["detail"]) > 20 and "Traceback" not in told["detail"] and "/" not in told["detail"][:3]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "photo",
    [saved("JPEG", "CMYK"), saved("JPEG", "L"), saved("PNG", "I;16"), saved("PNG", "P"), saved("WEBP"),
     saved("JPEG") + b"<script>alert(1)</script>"],
    ids=["cmyk", "grey", "16 bit", "palette", "webp", "polyglot"],
)  # fmt: skip
def test_odd_but_honest_photos_are_taken_and_become_plain_pixels(server: Server, photo: bytes) -> None:
    job = server.submit(image=photo)
    kept = server.data / "jobs" / job["id"] / "photo.png"
    assert server.client.delete(f"/jobs/{job['id']}").status_code in (202, 204)
    assert not kept.exists() or b"<script>" not in kept.read_bytes()


def test_bounds_are_errors_that_name_the_bound(server: Server) -> None:
    for field, value, bound in (
        ("stage1_steps", 101, {"le": 100}), ("stage1_steps", 0, {"ge": 1}), ("guidance", 0.5, {"ge": 1.0}),
        ("seed", -1, {"ge": 0}), ("faces", 10, {"ge": 1000}), ("texture_size", 300, {"multiple_of": 256}),
        ("person", 0, {"ge": 1}), ("preset", "Worst", None), ("guidance", "nan", None), ("wait", "perhaps", None),
        ("stage1_steps", "12.5", None), ("no_such_thing", 1, None),
    ):  # fmt: skip
        told = server.submit(expect=422, **{field: value})
        [error] = told["errors"]
        assert error["field"] == field and (bound is None or error["bound"] == bound), told
    doubled = server.client.post("/generate?seed=1", data={"seed": 2}, files={"image": person()})
    assert doubled.status_code == 422 and "twice" in doubled.json()["detail"]
    assert server.client.post("/generate", json={"seed": 1}).status_code == 422


VALUES = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "", "null", "\0"]),
)


@settings(max_examples=60 * FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*GenerateForm.model_fields, "image", "x"]), VALUES, max_size=6))
def test_whatever_the_fields_hold_is_answered_plainly(server: Server, fields: dict[str, str]) -> None:
    """Without a photo nothing can be taken: every answer says what is wrong, and none is a crash."""
    answer = server.client.post("/generate", data=fields)
    assert answer.status_code in (404, 422) and answer.json()["status"] == answer.status_code, answer.text


@pytest.mark.parametrize("header", [
    b"Idempotency-Key: \xe9\xff", b"X-API-Key: \xff\xfe", b"Cookie: synchuman_session=\xff.1.2", b"Origin: http://[",
    b"Last-Event-ID: \xb2", b"Host: [", b"Content-Length: -1", b"Content-Type: multipart/form-data", b"Origin: \xff",
    b"Authorization: Bearer", b"Content-Type: multipart/form-data; boundary=" + b"x" * 300, b"Accept: \xff",
])  # fmt: skip
def test_headers_of_rubbish_are_no_crash(server: Server, header: bytes) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    for request in (b"POST /generate", b"GET /jobs?before=nan", b"GET /jobs/\xff%ff/events", b"POST /login"):
        lines = [
            request + b" HTTP/1.1",
            b"X-API-Key: " + ALICE.encode(),
            header,
            b"Connection: close",
            b"",
            b"",
        ]
        if not header.startswith(b"Host"):
            lines.insert(1, b"Host: localhost")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"\r\n".join(lines))
            status = connection.recv(100).split()[1]
        assert status[:1] in (b"2", b"3", b"4"), (request, status)


def test_large_and_slow_bodies_end(server: Server) -> None:
    large = server.client.post("/generate", files={"image": bytes(3 * 2**20)})
    assert large.status_code == 413 and "2 MiB" in large.json()["detail"]

    def endless() -> Iterator[bytes]:
        yield b'--e\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(100):
            yield bytes(2**16)

    chunked = {"Content-Type": "multipart/form-data; boundary=e"}
    try:
        answer = server.client.post("/generate", content=endless(), headers=chunked)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server hung up while we were still sending
    many = {f"field{i}": "x" for i in range(100)}
    assert server.client.post("/generate", data=many, files={"image": person()}).status_code in (400, 422)
    long_field = server.client.post("/generate", data={"preset": "x" * 10_000}, files={"image": person()})
    assert long_field.status_code in (400, 422)
    files = [("image", person()), ("image", person())]
    assert server.client.post("/generate", files=files).status_code in (400, 422)
    assert server.client.get("/health").status_code == 200
