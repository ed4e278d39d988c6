"""Which of a page's streams is shown: several may run at once, and what is seen is always one run's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MOST = 4096  # sessions remembered; of older ones every stream is shown
PATIENCE = 10.0  # seconds that one stream waits for the words of another to be sent


@dataclass(eq=False)
class Turn:
    """A stream's right to be shown.

    Attributes:
        asked: When the browser asked for it, by the browser's clock in milliseconds.
        word: Held while something is on its way to the page; of all turns of a session the same.
    """

    asked: float
    word: threading.Lock = field(default_factory=threading.Lock)


class Shown:
    """Per session, the turn that was asked for last."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._last: OrderedDict[str, Turn] = OrderedDict()
        self._guard = threading.Lock()

    def take(self, session: str, asked: float | None = None) -> Turn:
        """Return a new turn; the one before is over.

        Args:
            session: Whose page.
            asked: See `Turn`. Requests overtake each other: one that was asked for before the last one is
                over from the start. None is the newest.
        """
        with self._guard:
            last = self._last.get(session) or Turn(0.0)
            turn = Turn(last.asked if asked is None else asked, last.word)
            if turn.asked >= last.asked:
                self._last[session] = turn
                self._last.move_to_end(session)
                if len(self._last) > MOST:
                    self._last.popitem(last=False)
        return turn

    def holds(self, session: str, turn: Turn) -> bool:
        """Whether the turn is not over."""
        return self._last.get(session, turn) is turn

    @contextmanager
    def speaking(self, session: str, turn: Turn) -> Iterator[bool]:
        """Have the word inside the block, which yields to the page; False when the turn is over.

        A stream is resumed when Gradio has sent what it yielded. Without this, what two streams yield at the
        same time may arrive in any order.
        """
        taken = turn.word.acquire(timeout=PATIENCE)
        try:
            yield self.holds(session, turn)
        finally:
            if taken:
                turn.word.release()
