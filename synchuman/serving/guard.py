"""What every request passes before anything is done with it: host, origin, who calls, how much, how large."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synchuman.serving import problems
from synchuman.serving.auth import Doorkeeper, Forbidden, Identity, Unauthorized
from synchuman.serving.jobs import ServiceError
from synchuman.serving.metrics import Metrics
from synchuman.serving.options import HOUR, Limits, ServiceOptions
from synchuman.serving.rates import Rate, network_of

LOGGER = logging.getLogger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/health", "/login"})  # the only paths for those who have not said who they are
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", ""})
PROGRAM_TYPES = ("text/javascript", "application/javascript", "text/css", "font/")  # the page's own parts
MINUTE = 60.0
DRAIN_SECONDS = 5.0

API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors "
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
}


class TooLarge(ServiceError):
    """The body is larger than allowed."""

    status, code = 413, "too_large"


class TooSlow(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "too_slow"


class Front:
    """Outermost: security headers on every answer, an answer to every error, a count of every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, options: ServiceOptions) -> None:
        """Stand before an application."""
        self._app = app
        self._metrics = metrics
        self._page_policy = PAGE_POLICY + (" ".join(options.frame_ancestors) or "'none'")
        self._framed = bool(options.frame_ancestors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(MutableHeaders(scope=message), scope)
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.request(scope["method"], route, status, seconds)
                # The pattern, never the path: whoever knows a job's id can read the job.
                LOGGER.debug("%s %s %d %.3f s", scope["method"], route, status, seconds)
            await send(message)

        try:
            await self._app(scope, receive, dressed)
        except Exception as error:
            if status:
                raise
            told = (
                problems.from_error(error) if isinstance(error, ServiceError) else problems.unexpected(error)
            )
            await told(scope, receive, dressed)

    def _dress(self, headers: MutableHeaders, scope: Scope) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        page = headers.get("content-type", "").startswith("text/html")
        headers.setdefault("Content-Security-Policy", self._page_policy if page else API_POLICY)
        if not (page and self._framed):
            headers.setdefault("X-Frame-Options", "DENY")
        if not headers.get("content-type", "").startswith(PROGRAM_TYPES):
            headers.setdefault("Cache-Control", "no-store")
        if scope.get("scheme") == "https":
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")


class Guard:
    """Lets a request through to the application, with `state.identity` set, or answers why not."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, options: ServiceOptions) -> None:
        """Stand before an application."""
        self._app = app
        self._doorkeeper = doorkeeper
        self._limits: Limits = options.limits
        self._hosts = frozenset(host.lower() for host in options.hosts)
        self._public = options.public
        self._origins = frozenset(options.cors_origins)
        per_minute = options.limits.requests_per_minute
        self._requests = Rate(per_minute, MINUTE, "Too many requests; please wait a moment.")
        self._tries = Rate(options.limits.logins_per_minute, MINUTE, "Too many failed tries; please wait.")
        self._bytes = Rate(
            options.limits.upload_per_hour, HOUR, "You have sent very much; please wait a while."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            identity = self._admit(scope, headers)
        except ServiceError as error:
            await self._refuse(problems.from_error(error), scope, receive, send)
            return
        if identity is None and scope["path"] not in OPEN:
            await self._refuse(_ask(scope, headers), scope, receive, send)
            return
        client = identity.name if identity is not None and identity.known else _client(scope)
        scope.setdefault("state", {}).update(identity=identity, client=client)
        unlimited = identity is not None and identity.unlimited
        try:
            if not unlimited and scope["path"] != "/health":
                self._requests.take(client)
            length = headers.get("content-length", "")
            if length.isdigit() and int(length) > self._limits.max_upload:
                raise self._too_large()
        except ServiceError as error:
            await self._refuse(problems.from_error(error), scope, receive, send)
            return
        await self._app(scope, self._measured(receive, None if unlimited else client), send)

    def count_login(self, scope: Scope) -> None:
        """Count a try to log in, before anything is compared: the right guess must not get through, too.

        Raises:
            TooMany: There were too many of this address.
        """
        self._tries.take(_client(scope))

    def _admit(self, scope: Scope, headers: dict[str, str]) -> Identity | None:
        self._check_host(scope, headers)
        self._check_origin(scope, headers)
        try:
            return self._doorkeeper.recognise(headers, _client(scope))
        except Unauthorized:
            self._tries.take(_client(scope))
            raise

    def _check_host(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse names that are not ours: a page elsewhere may point its own name at this machine."""
        host = _hostname(headers.get("host", ""))
        known = host in self._hosts or host in LOOPBACK
        if not known and (self._hosts or not self._public) and scope["path"] != "/health":
            raise Forbidden(f"This server is not called {host[:100]!r}; allow the name with --hostname.")

    def _check_origin(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse changes that a page elsewhere asks for in its visitor's name (CSRF)."""
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            return
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
                return
        else:
            if origin in self._origins:
                return
            host = origin.partition("://")[2].lower()
            if host and (host == headers.get("host", "").lower() or _hostname(host) in self._hosts):
                return
        raise Forbidden("Requests from pages of other origins are refused; see --cors-origin.")

    def _measured(self, receive: Receive, client: str | None) -> Receive:
        """Wrap `receive` so that a body is neither too large nor too slow, and is counted."""
        left = self._limits.max_upload
        deadline = time.monotonic() + self._limits.max_upload_seconds
        complete = False

        async def measured() -> Message:
            nonlocal left, complete
            if complete:  # what follows is the news that the client is gone; that may take its time
                return await receive()
            try:
                with anyio.fail_after(max(deadline - time.monotonic(), 0.0)):
                    message = await receive()
            except TimeoutError:
                raise TooSlow("The upload took too long.") from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                left -= size
                if left < 0:
                    raise self._too_large()
                if client is not None and size:
                    self._bytes.take(client, size)
                complete = not message.get("more_body", False)
            return message

        return measured

    def _too_large(self) -> TooLarge:
        return TooLarge(f"Uploads may have at most {self._limits.max_upload // 2**20} MiB.")

    async def _refuse(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        # Clients that still send would see a broken connection instead of the answer.
        with anyio.move_on_after(DRAIN_SECONDS):
            left = self._limits.max_upload if response.status_code != TooLarge.status else 0
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


def _ask(scope: Scope, headers: dict[str, str]) -> Response:
    """Send people to the login, and tell programs that a key is missing."""
    wants_page = "text/html" in headers.get("accept", "") and scope.get("method") == "GET"
    if wants_page:
        return RedirectResponse(f"/login?next={quote(scope['path'], safe='/')}", 303)
    return problems.from_error(
        Unauthorized("Send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
    )


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    return network_of(client[0]) if client else "unknown"


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host
