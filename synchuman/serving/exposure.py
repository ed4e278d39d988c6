"""Who may reach a server: the addresses of this machine alone, and the refusal to open it by accident."""

from __future__ import annotations

LOCAL = ("127.0.0.1", "localhost", "::1")


class Refused(ValueError):
    """The options would open the machine in a way that nobody asked for; the message says what to do."""
