"""The page on top of the service: same process, same port, same doors, same jobs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from synchuman.serving.service import Service

LOGGER = logging.getLogger(__name__)

MAX_QUEUE = 64  # clicks that may wait; runs have the service's own line


def mount_page(service: Service) -> Callable[[FastAPI], None]:
    """Return what adds the page to the service's application, at its root."""
    cache = service.places.root / "cache"
    cache.mkdir(exist_ok=True, mode=0o700)
    # Read by Gradio when it is imported.
    os.environ.update(GRADIO_TEMP_DIR=str(cache), GRADIO_ANALYTICS_ENABLED="False")

    def mount(app: FastAPI) -> None:
        import gradio as gr

        from synchuman.photo import warm_up
        from synchuman.serving.agents import Endpoints, keep_tools, refuse_addresses
        from synchuman.serving.page.layout import CSS, EXAMPLES, build_page, theme
        from synchuman.serving.page.runs import Runs
        from synchuman.serving.sweep import keep_swept
        from synchuman.serving.uploads import CleanUploads

        keep_swept([cache], service.limits.keep_seconds)
        # The cut-out is made here, while the workers compute.
        threading.Thread(target=warm_up, name="warm up", daemon=True).start()
        page, translations = build_page(Runs(service), cache)
        refuse_addresses()
        with page:
            Endpoints(service, app, cache).add()
        app.add_middleware(CleanUploads)
        page.queue(max_size=MAX_QUEUE)
        gr.mount_gradio_app(
            app,
            page,
            path="/",
            auth_dependency=_name,
            theme=theme(),
            css_paths=CSS,
            i18n=translations,
            allowed_paths=[str(EXAMPLES), str(service.places.jobs)],
            max_file_size=service.limits.max_upload,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api", "settings"],
            ssr_mode=False,
            show_error=True,
            mcp_server=True,
        )
        keep_tools(page)

    return mount


def _name(request: Request) -> str | None:
    """Return who the guard let in."""
    identity = request.scope.get("state", {}).get("identity")
    return None if identity is None else identity.name
