"""Addresses that users name, against real TLS servers on loopback: photos fetched, webhooks told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from service_server import Server, person, serving

from synchuman.serving.outbound import AddressRefused, Outbound

PNG = {"Content-Type": "image/png"}


class Site:
    """An https server on 127.0.0.1 with a certificate for `localhost`, and what it was asked."""

    def __init__(self) -> None:
        site = self
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                getattr(site, self.path.strip("/").replace("-", "_"))(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                site.calls.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(site.answers.pop(0) if site.answers else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.address = f"https://localhost:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, handler: Any, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client has seen enough
            handler.wfile.write(body)

    def photo(self, handler: Any) -> None:
        self.reply(handler, 200, PNG, person())

    def moved(self, handler: Any) -> None:
        self.reply(handler, 302, {"Location": "/photo"})

    def loop(self, handler: Any) -> None:
        self.reply(handler, 301, {"Location": "/loop"})

    def to_http(self, handler: Any) -> None:
        self.reply(handler, 302, {"Location": "http://localhost/photo"})

    def to_inside(self, handler: Any) -> None:
        self.reply(handler, 302, {"Location": f"https://127.0.0.2:{self.port}/photo"})

    def to_metadata(self, handler: Any) -> None:
        self.reply(handler, 307, {"Location": "https://169.254.169.254/latest/"})

    def to_file(self, handler: Any) -> None:
        self.reply(handler, 302, {"Location": "file:///etc/passwd"})

    def page(self, handler: Any) -> None:
        self.reply(handler, 200, {"Content-Type": "text/html"}, b"<html>")

    def missing(self, handler: Any) -> None:
        self.reply(handler, 404, PNG)

    def lie(self, handler: Any) -> None:
        self.reply(handler, 200, PNG, b"<svg onload=alert(1)>")

    def large(self, handler: Any) -> None:
        self.reply(handler, 200, PNG | {"Content-Length": str(10**12)})

    def endless(self, handler: Any) -> None:
        self.reply(handler, 200, PNG, bytes(4 * 2**20))

    def packed(self, handler: Any) -> None:
        self.reply(handler, 200, PNG | {"Content-Encoding": "gzip"}, b"\x1f\x8b")

    def slow(self, handler: Any) -> None:
        handler.send_response(200)
        for i in range(60):
            handler.send_header(f"X-{i}", "still here")
            with contextlib.suppress(OSError):
                handler.flush_headers()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()


@pytest.fixture(scope="module")
def settings(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    certificate = tmp_path_factory.mktemp("ca") / "ca.pem"
    site.authority.cert_pem.write_to_path(str(certificate))
    arguments = ["--allow-image-url", "--allow-webhooks", "--max-upload-mb", "2"]
    return [*arguments, "--private-network", "127.0.0.1/32"], {"SSL_CERT_FILE": str(certificate)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outbound") / "data"


@pytest.fixture(scope="module")
def server(place: Path, settings: tuple[list[str], dict[str, str]]) -> Iterator[Server]:
    with serving(place, *settings[0], env=settings[1], works=False) as server:
        yield server


@pytest.mark.parametrize("path", ["photo", "moved"])
def test_a_photo_is_fetched(server: Server, site: Site, path: str) -> None:
    job = server.submit(image=None, image_url=f"{site.address}/{path}")
    assert (server.data / "jobs" / job["id"] / "photo.png").read_bytes()[:4] == b"\x89PNG"
    server.client.delete(f"/jobs/{job['id']}")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("loop", "redirects"), ("to-http", "https"), ("to-inside", "public"), ("to-metadata", "public"),
        ("to-file", "https"), ("page", "not an image"), ("missing", "404"), ("large", "2 MiB"),
        ("endless", "2 MiB"), ("packed", "compressed"), ("lie", "not a photo"),
    ],
)  # fmt: skip
def test_what_is_no_photo_is_refused(server: Server, site: Site, path: str, reason: str) -> None:
    told = server.submit(expect=422, image=None, image_url=f"{site.address}/{path}")
    assert reason in told["detail"]


def test_a_certificate_of_another_name_is_refused(server: Server, site: Site) -> None:
    told = server.submit(expect=422, image=None, image_url=f"https://127.0.0.1:{site.port}/photo")
    assert "failed" in told["detail"]


def test_a_slow_server_is_left(
    site: Site, settings: tuple[list[str], dict[str, str]], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", settings[1]["SSL_CERT_FILE"])
    began = time.monotonic()
    with pytest.raises(AddressRefused, match="within 1 s"):
        asyncio.run(Outbound(("127.0.0.1/32",), 1.0).fetch(f"{site.address}/slow", 1000))
    assert time.monotonic() - began < 3


def test_a_webhook_is_signed_tried_again_and_outlives_a_kill(
    place: Path, settings: tuple[list[str], dict[str, str]], site: Site
) -> None:
    site.answers = [503]
    data = place.with_name("killed")
    first = Server(data, *settings[0], env=settings[1], works=False)
    job = first.submit(webhook_url=f"{site.address}/told")
    secret = first.client.get("/webhooks/secret").json()["secret"]
    first.client.post(f"/jobs/{job['id']}/cancel")
    first.until(lambda: site.calls)
    time.sleep(0.3)  # the answer is written down
    first.kill()
    first.close()
    with serving(data, *settings[0], env=settings[1], works=False) as second:
        second.until(lambda: len(site.calls) == 2, 20)
        time.sleep(0.3)
    assert len(site.calls) == 2
    for headers, body in site.calls:
        told = json.loads(body)
        assert told["type"] == "job.cancelled" and told["job"]["id"] == job["id"] == headers["webhook-id"]
        # As standardwebhooks.com says, written anew.
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_webhooks_go_to_allowed_addresses_only(server: Server) -> None:
    for url in ("https://127.0.0.2/", "http://localhost/", "https://169.254.169.254/"):
        told = server.submit(expect=422, webhook_url=url)
        assert told["errors"][0]["field"] == "webhook_url"
