"""A server with keys and a login whose jobs wait: what the tests of safety knock at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from service_server import Server, serving

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789ab"
NOBODY = "0" * 32


@contextmanager
def guarded(folder: Path) -> Iterator[Server]:
    """With keys and a login; jobs wait."""
    keys = f"alice:{ALICE},bob:{BOB}"
    arguments = ["--auth", "carol:pass word:1", "--max-upload-mb", "2", "--allow-image-url"]
    arguments += ["--jobs-per-minute", "0", "--logins-per-minute", "60", "--max-active", "50"]
    env = {"SYNCHUMAN_API_KEYS": keys}
    with serving(folder / "data", *arguments, env=env, works=False) as server:
        server.client.headers["Authorization"] = f"Bearer {ALICE}"
        yield server


def stranger(server: Server, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=server.address, headers=headers, trust_env=False, verify=False)
