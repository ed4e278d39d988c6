"""A hub of our own: serves folders as repositories the way huggingface_hub expects it, and counts bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 1000  # bytes from which on a file counts as large and the hub tells its sha256


@cache
def digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Hub:
    """Repositories by name; `break_after` ends the transfer of a file after so many bytes, once."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.revision = "a" * 40
        self.sent = 0
        self.tokens: set[str | None] = set()
        self.break_after: dict[str, int] = {}
        self.lie: dict[str, str] = {}

    def info(self, repository: str) -> dict[str, object]:
        folder = self.repositories[repository]
        files = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size = path.stat().st_size
                name = path.relative_to(folder).as_posix()
                entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": "b" * 40}
                if size >= LARGE:
                    entry["lfs"] = {"sha256": self.sha(path), "size": size, "pointerSize": 100}
                files.append(entry)
        return {"id": repository, "sha": self.revision, "siblings": files}

    def sha(self, path: Path) -> str:
        return self.lie.get(path.name) or digest(path, path.stat().st_mtime_ns)


@contextlib.contextmanager
def serving_hub(repositories: dict[str, Path]) -> Iterator[tuple[Hub, str]]:
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                name = "/".join(path.split("/")[3:5])
                if name not in hub.repositories:
                    self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)
                    return
                self.answer(json.dumps(hub.info(name)).encode(), {"Content-Type": "application/json"})
                return
            parts = path.strip("/").split("/")
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            source = hub.repositories[name] / file
            content = source.read_bytes()
            headers = {
                "X-Repo-Commit": hub.revision,
                "ETag": f'"{hub.sha(source)}"',
                "Accept-Ranges": "bytes",
            }
            start = 0
            if (wanted := self.headers.get("Range")) is not None:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body, status = content[start:], 206 if start else 200
            cut = hub.break_after.pop(source.name, None) if self.command == "GET" else None
            if self.command == "GET":
                hub.sent += len(body) if cut is None else cut
            if cut is not None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut])
                self.close_connection = True
                return
            self.answer(body, headers, status)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
