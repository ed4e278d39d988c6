"""Ends event streams when the server stops: a page's stay open for as long as its window does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STREAM = "text/event-stream"


class HangUp:
    """Outermost application; once it hangs up, those inside hear that the clients of streams are gone."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app
        self._calls: set[_Call] = set()
        self._guard = threading.Lock()
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(receive, send)
        with self._guard:
            self._calls.add(call)
            if self._over:
                call.over.set()
        try:
            await self._app(scope, call.receive, call.send)
            await call.complete()
        finally:
            with self._guard:
                self._calls.discard(call)

    def hang_up(self) -> None:
        """End all event streams, also those that begin from now on. May be called from any thread."""
        with self._guard:
            self._over = True
            for call in self._calls:
                call.hang_up()


class _Call:
    """One request and its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.over = asyncio.Event()
        self._receive, self._send = receive, send
        self._loop = asyncio.get_running_loop()
        self._streams = self._complete = False

    def hang_up(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self.over.set)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._streams = Headers(raw=message["headers"]).get("content-type", "").startswith(STREAM)
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def receive(self) -> Message:
        if not self.over.is_set():
            message, over = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self.over.wait())
            try:
                await asyncio.wait((message, over), return_when=asyncio.FIRST_COMPLETED)
                if message.done():
                    return message.result()
            finally:
                message.cancel()
                over.cancel()
        # Other answers are short, and are given: only a stream has no end of its own.
        return {"type": "http.disconnect"} if self._streams else await self._receive()

    async def complete(self) -> None:
        """End a stream that was cut off as its client expects it, not with a broken connection."""
        if self._streams and self.over.is_set() and not self._complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
