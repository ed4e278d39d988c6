"""Brings the page up, on the service: who may reach it, at which port, with a public link or without."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.serving.exposure import LOCAL, Refused

if TYPE_CHECKING:
    from synchuman.serving.options import ServiceOptions

LOGGER = logging.getLogger(__name__)

FIRST_PORT, PORTS = 7860, 100
HOUR = 3600.0


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
        outputs: Folder for jobs and uploads; None for a private one in the system's temporary folder.
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


def service_options(options: ServeOptions) -> ServiceOptions:
    """Return the options of the service that stands behind the page."""
    from synchuman.serving.options import Limits, ServiceOptions
    from synchuman.serving.space import in_space

    space = in_space(os.environ)
    return ServiceOptions(
        data=options.outputs,
        variant=options.variant,
        devices=tuple(options.device.split(",")),
        dtype=options.dtype,
        placement=options.placement,
        stage2_device=options.stage2_device,
        limits=replace(Limits(), keep_seconds=options.keep_hours * HOUR),
        passwords=dict(options.auth),
        public=options.share or options.host not in LOCAL,
        # A Space is shown in a frame, and reached through a proxy that alone knows who calls.
        frame_ancestors=("https://huggingface.co",) if space else (),
        proxies=("*",) if space else (),
    )


def serve(options: ServeOptions, announce: Callable[[str], object]) -> None:
    """Bring the page up, with the REST routes beside it, and stay until it is interrupted.

    Args:
        options: How.
        announce: Called with each address under which the page is up.

    Raises:
        Refused: See `check`; or the port cannot be used, or the folder of the runs cannot.
    """
    check(options)
    from synchuman.serving import server
    from synchuman.serving.options import DataFolderError
    from synchuman.serving.page.mount import mount_page
    from synchuman.serving.store import StoreError

    port = options.port if options.port is not None else free_port(options.host)

    def up(address: str) -> None:
        announce(address)
        if options.share:
            _share(options.host, int(address.rpartition(":")[2]), announce)

    try:
        server.serve(service_options(options), options.host, port, up, mount_page)
    except (DataFolderError, StoreError) as error:
        raise Refused(str(error)) from None


def free_port(host: str) -> int:
    """Return the first free port from 7860.

    Raises:
        Refused: A hundred of them are in use.
    """
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise Refused(f"The ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all in use; give another --port.")


def _share(host: str, port: int, announce: Callable[[str], object]) -> None:
    """Open a public Gradio link in the background and tell its address; without a network say so."""
    import threading

    def connect() -> None:
        from gradio.networking import setup_tunnel

        try:
            here = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            announce(setup_tunnel(here, port, secrets.token_urlsafe(32), None, None))
        # What a download, a tunnel and a name service can raise is not to be listed.
        except Exception as error:
            LOGGER.error("no public link: %s", error)
            announce("no public link: Gradio's share server cannot be reached; the local address works")

    threading.Thread(target=connect, name="share", daemon=True).start()
