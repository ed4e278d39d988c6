"""Tells users' servers how their jobs ended, signed as standardwebhooks.com describes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from synchuman.serving.jobs import ServiceError
from synchuman.serving.outbound import Outbound

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore

LOGGER = logging.getLogger(__name__)

PAUSES = (5.0, 30.0, 300.0, 1800.0)  # seconds before the second, third … try
SECONDS = 10.0  # for one try
SOON, LONG = 0.1, 3600.0


def secret_for(service_secret: bytes, owner: str) -> bytes:
    """Return the key with which one user's calls are signed; users cannot sign for each other."""
    return hmac.new(service_secret, f"webhook:{owner}".encode(), hashlib.sha256).digest()


def spell(secret: bytes) -> str:
    """Return a key the way Standard Webhooks libraries take it."""
    return "whsec_" + base64.b64encode(secret).decode()


def sign(secret: bytes, message: str, timestamp: int, body: str) -> str:
    """Return the `webhook-signature` of a call: version 1, HMAC-SHA256 of "id.timestamp.body"."""
    digest = hmac.new(secret, f"{message}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Caller:
    """Sends what the store says is due; what fails is tried again, also after a restart."""

    def __init__(self, service: ServiceCore) -> None:
        """Send for a service."""
        self._service = service
        self._outbound = Outbound(service.options.private_networks, SECONDS)

    def send_due(self) -> float:
        """Send all that is due, at once; return in how many seconds more may be."""
        store = self._service.store
        if calls := store.due_calls():
            anyio.run(self._send_all, calls)
        due = store.next_call()
        return LONG if due is None else max(due - time.time(), SOON)

    async def _send_all(self, calls: list[Any]) -> None:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(self._send, call)

    async def _send(self, call: Any) -> None:
        now = int(time.time())
        secret = secret_for(self._service.secret, call.owner)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": call.job,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(secret, call.job, now, call.body),
        }
        try:
            status = await self._outbound.post(call.url, call.body.encode(), headers)
            problem = None if 200 <= status < 300 else f"status {status}"
        except (ServiceError, OSError, httpx.HTTPError) as error:
            problem = type(error).__name__
        last = call.tries >= len(PAUSES)
        if problem is not None:
            LOGGER.info("webhook of job %s: %s%s", call.job, problem, ", given up" if last else "")
        due = None if problem is None or last else time.time() + PAUSES[call.tries]
        self._service.metrics.webhook(problem is None)
        await anyio.to_thread.run_sync(partial(self._service.store.settle_call, call.job, due))
