"""What hostile callers try: uploads, addresses, paths, other people's jobs, other people's browsers."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from all_routes import all_routes, filled
from conftest import draw_person
from fuzzing import FUZZ
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from service_server import COARSE, ROOT, Server, person, serving

from synchuman.serving.forms import GenerateForm
from synchuman.serving.guard import OPEN
from synchuman.serving.outbound import AddressRefused, Outbound, is_public

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789ab"
NOBODY = "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys and a login; jobs wait."""
    keys = f"alice:{ALICE},bob:{BOB}"
    arguments = ["--auth", "carol:pass word:1", "--max-upload-mb", "2", "--allow-image-url"]
    arguments += ["--jobs-per-minute", "0", "--logins-per-minute", "60", "--max-active", "50"]
    env = {"SYNCHUMAN_API_KEYS": keys}
    with serving(tmp_path_factory.mktemp("safety") / "data", *arguments, env=env, works=False) as server:
        server.client.headers["Authorization"] = f"Bearer {ALICE}"
        yield server


def stranger(server: Server, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=server.address, headers=headers, trust_env=False, verify=False)


@pytest.fixture(scope="module")
def job(server: Server) -> dict:
    return server.submit()


# Auth: every route there is.


def test_every_route_is_documented_or_has_a_reason_not_to_be(server: Server) -> None:
    schema = server.client.get("/openapi.json").json()
    documented = {(method.upper(), path) for path, ways in schema["paths"].items() for method in ways}
    for_browsers = {("GET", "/"), ("GET", "/login"), ("POST", "/login"), ("POST", "/logout")}
    itself = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}
    found = {(method, path.replace(":path}", "}")) for method, path in all_routes()}
    assert found == documented | for_browsers | itself


@pytest.mark.parametrize(("method", "path"), all_routes())
def test_every_route_asks_who_calls(server: Server, job: dict, method: str, path: str) -> None:
    address = filled(path, job_id=job["id"], name="run.json", format="obj")
    with stranger(server) as nobody, stranger(server, **{"X-API-Key": "wrong-key-000000"}) as liar:
        answer = nobody.request(method, address)
        if path in OPEN:
            assert answer.status_code == (401 if method == "POST" else 200)
        else:
            assert answer.status_code == 401
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"
        refused = liar.request(method, address)
        assert refused.status_code in (401, 429), refused.text
    # With a key it is served: whatever it says, it is not "who are you".
    if (method, path) not in (
        ("POST", "/login"),
        ("DELETE", "/jobs/{job_id}"),
        ("GET", "/jobs/{job_id}/events"),
    ):
        known = server.client.request(method, address, follow_redirects=False)
        assert path == "/ready" or (known.status_code != 401 and known.status_code < 500)


def test_docs_of_other_peoples_servers_are_not_there(server: Server) -> None:
    for path in ("/docs", "/redoc"):
        assert server.client.get(path).status_code == 404


def test_two_users_do_not_see_each_other(server: Server) -> None:
    job = server.submit()
    with stranger(server, **{"X-API-Key": BOB}) as bob:
        here = f"/jobs/{job['id']}"
        for method, path in (
            ("GET", here), ("GET", f"{here}/events"), ("GET", f"{here}/files"), ("GET", f"{here}/archive"),
            ("GET", f"{here}/files/run.json"), ("POST", f"{here}/cancel"), ("DELETE", here),
            ("POST", f"{here}/retexture"),
        ):  # fmt: skip
            answer = bob.request(method, path)
            assert answer.status_code == 404 and answer.json()["detail"] == "There is no such job.", path
        taken = {"skip_stage1": "true", "job": job["id"]}
        assert bob.post("/generate", data=taken).status_code == 404
        assert bob.get("/jobs").json()["jobs"] == []
        assert bob.get("/webhooks/secret").json() != server.client.get("/webhooks/secret").json()
    assert server.job(job["id"])["state"] in ("queued", "running", "done")
    assert [j["id"] for j in server.client.get("/jobs").json()["jobs"]].count(job["id"]) == 1


def test_people_log_in_with_a_cookie(server: Server) -> None:
    with stranger(server, Accept="text/html") as carol:
        sent = carol.get("/jobs?state=done")
        assert sent.status_code == 303 and sent.headers["location"].startswith("/login?next=/jobs")
        assert carol.post("/login", data={"username": "carol", "password": "no"}).status_code == 401
        for target in ("//evil.example", "https://evil.example", "/\\evil.example", "\t//evil.example"):
            form = {"username": "carol", "password": "pass word:1", "next": target}
            assert carol.post("/login", data=form).headers["location"] == "/"
        cookie = carol.cookies["synchuman_session"]
        assert carol.get("/info").json()["you"] == "carol"
        carol.cookies.clear()
        name, expires, signature = cookie.split(".")
        for forged in (
            f"{name}.{int(expires) + 9}.{signature}",
            "YWxpY2U=." + expires + "." + signature,
            "a.b.c",
        ):
            answer = carol.get("/info", headers={"Cookie": f"synchuman_session={forged}", "Accept": "*/*"})
            assert answer.status_code == 401
        set_cookie = carol.post("/login", data=form).headers["set-cookie"].lower()
        assert "httponly" in set_cookie and "samesite=lax" in set_cookie


# Hostile uploads.


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


# Paths.

TRAVERSALS = (
    "../secret", "..%2fsecret", "%2e%2e/secret", "....//secret", "..%5csecret", "%00", "run.json%00.png",
    "../../jobs.sqlite", "/etc/passwd", "//etc/passwd", "file:///etc/passwd", "OneStage/../../../secret",
    "..%252fsecret", "photo.png", ".", "",
)  # fmt: skip


@pytest.mark.parametrize("attempt", TRAVERSALS)
def test_no_path_leads_out(server: Server, job: dict, attempt: str) -> None:
    secret = (server.data / "secret").read_bytes()
    host, port = server.address.removeprefix("http://").split(":")
    for path in (f"/jobs/{attempt}", f"/jobs/{attempt}/files", f"/jobs/{job['id']}/files/{attempt}"):
        # By hand: clients tidy up such paths before they send them.
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            lines = (
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ALICE}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(lines.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert status in (307, 400, 404) or (
            status == 200 and path.rstrip("./").endswith(("files", "jobs"))
        ), path
        assert secret not in answer and b"root:" not in answer and b"SQLite" not in answer


# Other people's browsers.


def test_pages_of_other_origins_cannot_act(server: Server) -> None:
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Origin": server.address.replace("127.0.0.1", "127.0.0.1.evil.example")},
    ):  # fmt: skip
        answer = server.client.post("/generate", headers=headers, files={"image": person()})
        assert answer.status_code == 403, headers
    own = server.client.post("/generate", headers={"Origin": server.address}, data={"seed": "x"})
    assert own.status_code == 422
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in server.client.options("/generate", headers=preflight).headers
    # A name of theirs that points at this machine (DNS rebinding) is not ours.
    assert server.client.get("/info", headers={"Host": "evil.example"}).status_code == 403
    assert server.client.get("/health", headers={"Host": "evil.example"}).status_code == 200


def test_every_answer_has_the_headers(server: Server) -> None:
    for path in ("/health", "/info", "/jobs", "/nothing", "/", "/login", "/metrics", f"/jobs/{NOBODY}"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "same-origin"
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_pages_fetch_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/login"):
        assert "//" not in server.client.get(path).text.replace("<!doctype", "")


# How much.


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


def test_rates_are_per_client_and_behind_a_proxy_by_its_word(tmp_path: Path) -> None:
    arguments = (
        "--host",
        "0.0.0.0",
        "--allow-public",
        "--requests-per-minute",
        "20",
        "--jobs-per-minute",
        "2",
    )
    with serving(tmp_path / "data", *arguments, "--proxy", "127.0.0.1", works=False) as server:
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")

        def ask(address: str, path: str = "/info", **more: object) -> httpx.Response:
            with stranger(server, **{"X-Forwarded-For": address}) as client:
                return client.request("POST" if more else "GET", path, **more)  # type: ignore[arg-type]

        answers = [ask("203.0.113.7") for _ in range(25)]
        assert [answer.status_code for answer in answers].count(200) in (20, 21)
        assert answers[-1].status_code == 429 and 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert ask("203.0.113.8").status_code == 200
        # One IPv6 customer has a whole /64 and is one client.
        assert [ask(f"2001:db8::{i:x}").status_code for i in range(25)].count(429) >= 4
        assert ask("2001:db8:0:1::1").status_code == 200
        photo = {"data": {**COARSE, "wait": "false"}, "files": {"image": person()}}
        started = [ask("203.0.113.9", "/generate", **photo) for _ in range(3)]
        assert [answer.status_code for answer in started] == [202, 202, 429]
        # Strangers reach a job by its id alone, and nobody lists anybody's.
        assert ask("203.0.113.10", started[0].headers["location"]).status_code == 200
        assert ask("203.0.113.9", "/jobs").status_code == 403
        # /health is never counted: who watches over us asks often.
        assert {ask("203.0.113.7", "/health").status_code for _ in range(10)} == {200}


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--auth", "carol:"],
                                       ["--keys", "/does/not/exist"]])  # fmt: skip
def test_an_open_door_is_refused(arguments: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "api_server.py"),
        "--data",
        str(tmp_path),
        "--port",
        "0",
        *arguments,
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 3 and refused.stderr.count("\n") == 1, refused.stderr


# Addresses that users name.


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1", "192.0.2.1", "64:ff9b:1::1",
])  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", [
    "http://93.184.216.34/", "file:///etc/passwd", "ftp://93.184.216.34/x", "gopher://127.0.0.1/", "//127.0.0.1/",
    "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest/meta-data/", "https://0x7f.1/",
    "https://2130706433/", "https://127.1/", "https://localhost/", "https://user:pw@93.184.216.34/",
    "https://93.184.216.34:22/", "https://[::ffff:7f00:1]/", "https:///x", "https://", "x" * 3000,
    "https://\u2460\u2461\u2466.0.0.1/", "https://exa mple/", "https://no-such-name.invalid/", "https://127.0.0.1\\@x/",
])  # fmt: skip
def test_addresses_that_are_not_asked(server: Server, url: str) -> None:
    told = server.submit(expect=422, image=None, image_url=url)
    assert told["code"] in ("address_refused", "invalid"), told


def test_addresses_are_off_by_default(tmp_path: Path) -> None:
    with serving(tmp_path / "data", works=False) as server:
        told = server.submit(expect=422, image=None, image_url="https://93.184.216.34/x.png")
        assert "--allow-image-url" in told["detail"]
        assert "--allow-webhooks" in server.submit(expect=422, webhook_url="https://93.184.216.34/")["detail"]


def test_a_name_server_that_changes_its_mind_gains_nothing() -> None:
    """The name is resolved once; an answer that has one private address among public ones is refused."""
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    asked = []

    async def fickle(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async def mixed(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "10.0.0.1"]

    async def scenario() -> None:
        reached: list[str] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.append(writer.get_extra_info("sockname")[0])
            writer.close()

        inner = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = inner.sockets[0].getsockname()[1]
        outer = await asyncio.start_server(listen, "127.0.0.2", port)
        async with inner, outer:
            fetcher = Outbound(("127.0.0.2/32",), 5, fickle)
            with pytest.raises(AddressRefused):
                await fetcher.fetch(f"https://photos.example:{port}/x.png", 1000)
        assert reached == ["127.0.0.2"] and asked == ["photos.example"]
        with pytest.raises(AddressRefused, match="public"):
            await Outbound(resolve=mixed).fetch("https://photos.example/x.png", 1000)

    asyncio.run(scenario())


def test_guessing_passwords_ends_also_for_the_right_guess(server: Server) -> None:
    """Last but one, because this address cannot log in for a while afterwards."""
    with stranger(server) as guesser:
        tries = [guesser.post("/login", data={"username": "carol", "password": str(i)}) for i in range(70)]
        assert {answer.status_code for answer in tries[:5]} == {401}
        right = guesser.post("/login", data={"username": "carol", "password": "pass word:1"})
        assert tries[-1].status_code == right.status_code == 429 and "set-cookie" not in right.headers
    assert server.client.get("/info").json()["you"] == "alice"


def test_json_of_problems_is_rfc_9457(server: Server) -> None:
    answer = server.client.get(f"/jobs/{NOBODY}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.text) == {
        "type": "about:blank", "title": "Not Found", "status": 404, "code": "not_found",
        "detail": "There is no such job.",
    }  # fmt: skip
