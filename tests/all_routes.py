"""Every route that the application answers, read from the application itself, so that none is forgotten."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from starlette.routing import BaseRoute, Mount

from synchuman.serving.options import ServiceOptions
from synchuman.serving.rest import create_app
from synchuman.serving.service import Service

ALL = ("GET", "POST", "PUT", "DELETE")  # asked of what is mounted and does not tell its routes


def all_routes(page: bool = False) -> list[tuple[str, str]]:
    """Return (method, path pattern) of every route of the service, with those of the page or without."""
    # The page tells Gradio its folder through the environment.
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        service = Service(ServiceOptions(data=Path(folder)))
        try:
            app: Any = create_app(service, _mounted(service) if page else None)
            while not hasattr(app, "routes"):  # what stands before it
                app = app._app
            return sorted(set(_walk(app.routes, "")))
        finally:
            service.close()


def filled(pattern: str, **values: str) -> str:
    """Return an address of a route; parameters without a value are "x"."""
    return re.sub(r"{(\w+)(?::\w+)?}", lambda found: values.get(found[1], "x"), pattern)


def _mounted(service: Service) -> Any:
    from synchuman.serving.page.mount import mount_page

    return mount_page(service)


def _walk(routes: Iterable[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)  # newer FastAPI keeps routers whole
        for found in [route] if included is None else included():
            real = getattr(found, "starlette_route", None) or found
            path, inner = prefix + real.path, getattr(getattr(real, "app", None), "routes", None)
            if isinstance(real, Mount):
                yield from ((method, path or "/") for method in ALL)
                yield from _walk(inner or (), path)
            else:
                yield from ((method, path) for method in real.methods or ALL)
