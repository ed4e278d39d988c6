"""The REST application: routes, and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from synchuman import __version__
from synchuman.serving import (
    problems,
    routes_about,
    routes_exports,
    routes_generate,
    routes_jobs,
    routes_pages,
)
from synchuman.serving.auth import Doorkeeper
from synchuman.serving.guard import Front, Guard
from synchuman.serving.routes_generate import Intake
from synchuman.serving.service import Service

DESCRIPTION = """
One photo of a person in, a textured 3D human (GLB) out.

Every photo becomes a *job* with a random id. `POST /generate` waits for its end, or answers at once with
`wait=false`; then follow `/jobs/{id}/events` or ask `/jobs/{id}`. Errors are RFC 9457 problem details.
"""


def create_app(service: Service, mount: Callable[[FastAPI], None] | None = None) -> ASGIApp:
    """Return the application of a service; it closes the service at its end.

    Args:
        service: Started before or after.
        mount: Adds the page; what it adds is behind the same doors as the routes.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(service.close)

    app = FastAPI(
        title="SyncHuman Studio",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Both load scripts from other people's servers.
        docs_url=None,
        redoc_url=None,
    )
    doorkeeper = Doorkeeper(service.options, service.secret)
    problems.install(app)
    for routes in (routes_jobs, routes_exports, routes_generate, routes_about):
        app.include_router(routes.router)
    app.include_router(routes_pages.router)
    if mount is None:
        app.include_router(routes_pages.without_page)
    else:
        mount(app)
    guard = Guard(app, doorkeeper, service.options)
    app.state.service = service
    app.state.intake = Intake(service)
    app.state.exports = anyio.CapacityLimiter(routes_exports.AT_ONCE)
    app.state.doorkeeper = doorkeeper
    app.state.guard = guard
    inside: ASGIApp = guard
    if service.options.cors_origins:
        inside = CORSMiddleware(
            guard,
            allow_origins=list(service.options.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Idempotency-Key", "Last-Event-ID", "Content-Type"],
            expose_headers=["Location", "Retry-After", "X-Job-Id", "Idempotent-Replayed"],
        )
    return Front(inside, service.metrics, service.options)
