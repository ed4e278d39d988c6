"""Photos that come through the page: in Gradio's folder lie pixels alone, nothing that a camera wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.events import PhotoError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from synchuman.serving.routes_generate import Intake

ROUTE = "/upload"  # the end of the path of Gradio's own
REFUSED = b"refused: "


class CleanUploads:
    """Has Gradio's route for uploads answer only when the files that came are cleaned."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(ROUTE):
            await self.app(scope, receive, send)
            return
        intake: Intake = scope["app"].state.intake  # Gradio's application puts itself in this place
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        # Gradio moves some files only after its answer; when this call is back, all are where they stay.
        await self.app(scope, receive, hold)
        if held and held[0]["status"] == 200:
            body = b"".join(message.get("body", b"") for message in held)
            for name in json.loads(body):
                await clean(Path(name), intake)
        for message in held:
            await send(message)


async def clean(path: Path, intake: Intake) -> None:
    """Put the pixels of a photo in its place, or why it is none that can be used."""
    try:
        with path.open("rb") as file:
            try:
                pixels = await intake.clean(file)
            except PhotoError as error:
                pixels = REFUSED + str(error).encode()
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(pixels)
        os.replace(beside, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes:
    """Return a photo that was uploaded.

    Raises:
        PhotoError: It was refused, or is gone.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PhotoError("The photo is no longer here. Please choose it again.") from None
    if data.startswith(REFUSED):
        raise PhotoError(data.removeprefix(REFUSED).decode())
    return data
