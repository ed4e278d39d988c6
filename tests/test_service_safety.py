"""What hostile callers try: routes without a key, paths, other people's jobs, other people's browsers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from all_routes import all_routes, filled
from guarded_server import ALICE, BOB, NOBODY, guarded, stranger
from service_server import COARSE, ROOT, Server, person, serving

from synchuman.serving.guard import OPEN


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


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


# Who comes too often, and doors left open.


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
