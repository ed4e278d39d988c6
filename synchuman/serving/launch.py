"""Brings the page up: who may reach it, where files go, what is switched off."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from synchuman.pipeline import SyncHuman

LOGGER = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "::1")
MAX_UPLOAD = 32 * 2**20  # bytes; the photo room refuses larger ones with a sentence, this guards the disk
MAX_QUEUE = 64


@dataclass(frozen=True)
class ServeOptions:
    """How the page is served.

    Attributes:
        host: Address to listen on.
        port: Port; None for the first free one from 7860.
        share: Whether to open a public Gradio link.
        auth: ("user", "password") pairs; empty for none.
        allow_public: Whether it may be reached from other machines without auth.
        variant: Weights, see `SyncHuman.load`.
        device: See `SyncHuman.load`.
        dtype: See `SyncHuman.load`.
        placement: See `SyncHuman.load`.
        stage2_device: See `SyncHuman.load`.
        outputs: Folder for runs and uploads; None for one in the system's temporary folder.
        keep_hours: Hours after which runs and uploads are deleted.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    auth: tuple[tuple[str, str], ...] = ()
    allow_public: bool = False
    variant: str = "mini"
    device: str = "auto"
    dtype: str = "auto"
    placement: str = "auto"
    stage2_device: str | None = None
    outputs: Path | None = None
    keep_hours: float = 24.0


class Refused(ValueError):
    """The options would open the machine in a way that nobody asked for; the message says what to do."""


def check(options: ServeOptions) -> None:
    """Raise Refused when strangers could reach the page without a password and nobody asked for that."""
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise Refused("GRADIO_VIBE_MODE lets visitors run code on this machine; unset it.")
    public = options.share or options.host not in LOCAL
    if public and not options.auth and not options.allow_public:
        way = "--share" if options.share else f"--host {options.host}"
        raise Refused(
            f"{way} lets other machines in: add --auth user:password, or --allow-public if that is meant."
        )


def folders(options: ServeOptions) -> tuple[Path, Path]:
    """Return the folders for runs and for Gradio's copies, private to this user, and tell Gradio its own."""
    root = options.outputs or Path(tempfile.gettempdir()) / f"synchuman-{_user()}"
    runs, cache = root / "runs", root / "cache"
    for folder in (root, runs, cache):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return runs, cache


def make_page(options: ServeOptions) -> gr.Blocks:
    """Build the page; the weights are read in the background meanwhile."""
    from synchuman.serving.sweep import keep_swept
    from synchuman.serving.zerogpu import lend, on_zerogpu

    runs, cache = folders(options)
    keep_swept([runs, cache], options.keep_hours * 3600)

    from synchuman.serving.page import build_page
    from synchuman.serving.runner import Runner

    def load() -> SyncHuman:
        from synchuman.photo import warm_up
        from synchuman.pipeline import SyncHuman

        pipeline = SyncHuman.load(
            options.variant, options.device, options.dtype, options.placement, options.stage2_device
        )
        warm_up()
        return pipeline

    if on_zerogpu():
        # Networks are taken over from this thread, when the page opens.
        ready = lend(load())
        return build_page(Runner(lambda: ready, runs))
    return build_page(Runner(load, runs))


def serve(options: ServeOptions, announce: Callable[[str], object]) -> None:
    """Bring the page up and stay until it is interrupted.

    Args:
        options: How.
        announce: Called with each address under which the page is up.

    Raises:
        Refused: See `check`.
    """
    check(options)
    page = make_page(options)
    for address in open_page(page, options):
        announce(address)
    page.block_thread()


def open_page(page: gr.Blocks, options: ServeOptions) -> list[str]:
    """Serve a page in the background and return its addresses: the local one, then the shared one."""
    from synchuman.serving.page import CSS, EXAMPLES, theme

    page.queue(max_size=MAX_QUEUE)
    _, local, shared = page.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=list(options.auth) or None,
        theme=theme(),
        css_paths=CSS,
        allowed_paths=[str(EXAMPLES), *_outside(options)],
        max_file_size=MAX_UPLOAD,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        show_error=True,
        prevent_thread_lock=True,
        quiet=True,
    )
    return [address for address in (local, shared) if address]


def _outside(options: ServeOptions) -> list[str]:
    return [str(options.outputs / "runs")] if options.outputs else []


def _user() -> str:
    import getpass

    return getpass.getuser()
