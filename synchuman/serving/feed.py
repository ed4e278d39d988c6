"""What happens to one job, as it happens: written by a worker's thread, read by any thread or event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

# Of these only the newest is worth telling somebody who comes late.
REPLACED = frozenset({"queued", "progress", "views"})


@dataclass(frozen=True)
class Message:
    """One event of a job: a number that rises by one, a name, and JSON data."""

    number: int
    name: str
    data: dict[str, Any]


class Feed:
    """The events of one job. Readers that come late get what still matters of the past first."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._messages: list[Message] = []
        self._number = 0
        self._closed = False
        self._changed = threading.Condition()
        self._wakers: set[Callable[[], None]] = set()

    def tell(self, name: str, data: dict[str, Any]) -> None:
        """Add an event."""
        with self._changed:
            if self._closed:
                return
            self._number += 1
            if name in REPLACED:
                self._messages = [message for message in self._messages if message.name != name]
            self._messages.append(Message(self._number, name, data))
            self._wake()

    def close(self) -> None:
        """Say that nothing follows."""
        with self._changed:
            self._closed = True
            self._wake()

    def newest(self, name: str) -> dict[str, Any] | None:
        """Return the data of the newest event with this name."""
        with self._changed:
            found = [message.data for message in self._messages if message.name == name]
        return found[-1] if found else None

    async def follow(self, after: int = 0) -> AsyncIterator[Message]:
        """Yield the events with numbers above `after` until the feed is closed."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed: its reader is gone
                loop.call_soon_threadsafe(news.set)

        with self._changed:
            self._wakers.add(wake)
        try:
            while True:
                news.clear()
                messages, closed = self._since(after)
                for message in messages:
                    after = message.number
                    yield message
                if closed:
                    return
                await news.wait()
        finally:
            with self._changed:
                self._wakers.discard(wake)

    def follow_here(self, tick: float) -> Iterator[Message | None]:
        """Yield events in this thread until the feed is closed; None after `tick` seconds without one."""
        after = 0
        while True:
            messages, closed = self._since(after)
            for message in messages:
                after = message.number
                yield message
            if closed:
                return
            with self._changed:
                news = self._changed.wait_for(partial(self._has_news, after), tick)
            if not news:
                yield None

    def _since(self, after: int) -> tuple[list[Message], bool]:
        with self._changed:
            return [message for message in self._messages if message.number > after], self._closed

    def _has_news(self, after: int) -> bool:
        return self._closed or self._number > after

    def _wake(self) -> None:
        self._changed.notify_all()
        for waker in self._wakers:
            waker()
