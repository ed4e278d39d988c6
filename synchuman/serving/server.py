"""Brings the service up: options from the command line and the environment, refusals, uvicorn."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from synchuman.serving.exposure import LOCAL, Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

    from synchuman.serving.hangup import HangUp
    from synchuman.serving.options import ServiceOptions
    from synchuman.serving.service import Service

LOGGER = logging.getLogger(__name__)

DEFAULT_PORT = 8000
KEYS_VARIABLE = "SYNCHUMAN_API_KEYS"
AUTH_VARIABLE = "SYNCHUMAN_AUTH"
STEP_SECONDS = 25  # that a stopping server gives the step of a run; then the job is interrupted all the same
REQUEST_SECONDS = 4  # that it gives uploads and downloads when nothing runs
LAST_WORDS = 0.5  # seconds for the last event of a run to reach those who follow it
BAD_CALL = 3
MIN_KEY = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return the exit code: 0 ended, 3 refused."""
    parser = argparse.ArgumentParser(prog="api_server.py", description="Serve SyncHuman over HTTP.")
    add_arguments(parser)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if chosen.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for chatty in ("httpx", "httpcore", "PIL", "filelock", "python_multipart", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from synchuman.serving.cluster import ClusterError
    from synchuman.serving.options import DataFolderError
    from synchuman.serving.store import StoreError

    try:
        options = read_options(chosen)
        check(options, chosen.allow_public)
        serve(options, chosen.host, chosen.port, _announce, _page() if chosen.page else None)
    except (Refused, DataFolderError, StoreError, ClusterError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return BAD_CALL
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the service understands."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=DEFAULT_PORT, help="0 for any free one")
    add("--page", action="store_true", help="show the page, too, at /")
    add("--data", type=Path, help="folder for jobs and results (default: a private temporary one)")
    add("--variant", default="mini", help="mini, official, or a folder of weights")
    add("--device", default="auto", help="auto, cpu, cuda, or several with commas: one worker on each")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="compute in this Ray cluster (docs/hosting.md)",
    )
    add("--ray-actors", type=int, help="workers in the cluster (default: one per GPU)")
    add("--placement", default="auto", help="resident, staged (networks on the device only while they work)")
    add("--stage2-device", help="another device for Stage 2, as cuda:1; with one --device")
    add("--keys", type=Path, help=f"file of API keys, a line name:key each (or {KEYS_VARIABLE}, with commas)")
    add("--auth", nargs="+", default=[], metavar="USER:PASSWORD", help=f"logins (or {AUTH_VARIABLE})")
    add("--allow-public", action="store_true", help="let other machines in without key or password")
    add("--allow-image-url", action="store_true", help="let callers name the address of a photo")
    add("--allow-webhooks", action="store_true", help="let callers name an address to be told at")
    add("--private-network", action="append", default=[], metavar="CIDR", help="those may be in here, too")
    add("--hostname", action="append", default=[], help="name under which this server is reached")
    add("--cors-origin", action="append", default=[], help="other page that may call, as https://name")
    add("--frame-ancestor", action="append", default=[], help="other page that may show this one in a frame")
    add("--proxy", action="append", default=[], help="address of a reverse proxy whose headers are believed")
    add("--max-queue", type=int, help="jobs that may wait")
    add("--max-active", type=int, help="jobs of one user that may wait or run")
    add("--max-upload-mb", type=float, help="largest upload")
    add("--requests-per-minute", type=int, help="of one client; 0 for any number")
    add("--jobs-per-minute", type=int, help="of one client; 0 for any number")
    add("--logins-per-minute", type=int, help="failed tries of one address; 0 for any number")
    add("--max-run-seconds", type=float, help="longest run")
    add("--keep-hours", type=float, help="then results are deleted")
    add("--max-kept-gb", type=float, help="all results together; beyond, the oldest are deleted")
    add("--min-free-gb", type=float, help="room on the disk without which no job is taken")
    add("--verbose", action="store_true", help="log more")


def read_options(chosen: argparse.Namespace) -> ServiceOptions:
    """Return the options that a command line and the environment ask for.

    Raises:
        ValueError: A key or password is missing or too short, or the file of keys cannot be read.
    """
    from synchuman.serving.options import GIB, HOUR, MIB, Limits, ServiceOptions

    given = {
        "max_queue": chosen.max_queue,
        "max_active_per_user": chosen.max_active,
        "max_upload": _times(chosen.max_upload_mb, MIB),
        "requests_per_minute": chosen.requests_per_minute,
        "jobs_per_minute": chosen.jobs_per_minute,
        "logins_per_minute": chosen.logins_per_minute,
        "max_run_seconds": chosen.max_run_seconds,
        "keep_seconds": _times(chosen.keep_hours, HOUR),
        "max_kept": _times(chosen.max_kept_gb, GIB),
        "min_free": _times(chosen.min_free_gb, GIB),
    }
    if chosen.stage2_device and "," in chosen.device:
        raise ValueError("--stage2-device goes with one --device: with several, one worker runs on each.")
    if chosen.ray is not None and "," in chosen.device:
        raise ValueError("--ray goes with one --device: the cluster's GPUs get a worker each by themselves.")
    keys = os.environ.get(KEYS_VARIABLE, "").split(",")
    if chosen.keys is not None:
        try:
            keys += chosen.keys.read_text().splitlines()
        except OSError as error:
            raise ValueError(f"{chosen.keys} cannot be read: {error.strerror}.") from None
    logins = os.environ.get(AUTH_VARIABLE, "").split(",")
    return ServiceOptions(
        data=chosen.data,
        variant=chosen.variant,
        devices=tuple(chosen.device.split(",")),
        dtype=chosen.dtype,
        ray=chosen.ray,
        ray_actors=chosen.ray_actors,
        placement=chosen.placement,
        stage2_device=chosen.stage2_device,
        limits=replace(Limits(), **{name: value for name, value in given.items() if value is not None}),
        keys={key: name for name, key in _pairs(keys, "API keys", MIN_KEY)},
        passwords=dict(_pairs([*logins, *chosen.auth], "Logins", 1)),
        public=chosen.host not in LOCAL,
        image_url=chosen.allow_image_url,
        webhooks=chosen.allow_webhooks,
        private_networks=tuple(chosen.private_network),
        hosts=tuple(chosen.hostname),
        cors_origins=tuple(chosen.cors_origin),
        frame_ancestors=tuple(chosen.frame_ancestor),
        proxies=tuple(chosen.proxy),
    )


def check(options: ServiceOptions, allow_public: bool) -> None:
    """Raise Refused when strangers could come in and nobody asked for that."""
    if options.public and not options.protected and not allow_public:
        raise Refused(
            "That host lets other machines in: give API keys with --keys or logins with --auth, "
            "or --allow-public if strangers are meant to come in."
        )


def serve(
    options: ServiceOptions,
    host: str,
    port: int,
    announce: Callable[[str], object],
    mount: Callable[[Service], Callable[[FastAPI], None]] | None = None,
) -> None:
    """Serve until a signal ends it.

    Args:
        options: How.
        host: Address to listen on.
        port: Port; 0 for any free one.
        announce: Called with the address once requests are answered.
        mount: Given the service, returns what adds the page to the application.
    """
    from synchuman.serving.hangup import HangUp
    from synchuman.serving.heap import keep_heap_small
    from synchuman.serving.rest import create_app
    from synchuman.serving.service import Service

    keep_heap_small()  # before there are threads, each of which would have an arena
    # Taken before anything slow, so that a port in use is said at once.
    listener = _listen(host, port)
    service = Service(options)
    try:
        # At once, so that networks are loaded while the page is put together.
        service.start()
        app = HangUp(create_app(service, None if mount is None else mount(service)))
        _run(app, service, options, host, listener, announce)
    finally:
        service.close()
        listener.close()
        # What is left ends with the process; looking through it for garbage once more takes seconds.
        gc.freeze()


def _run(
    app: HangUp,
    service: Service,
    options: ServiceOptions,
    host: str,
    listener: socket.socket,
    announce: Callable[[str], object],
) -> None:
    """Answer requests until a signal ends it."""
    import uvicorn

    def shut_down() -> None:
        service.begin_shutdown()
        service.wait_for_runs(STEP_SECONDS)
        time.sleep(LAST_WORDS)
        app.hang_up()

    class Server(uvicorn.Server):
        """Tells the service first: else uvicorn would wait for answers that wait for runs."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not here: a signal may come while this very thread holds a lock of the service.
            threading.Thread(target=shut_down, name="shutdown", daemon=True).start()
            if service.busy:
                self.config.timeout_graceful_shutdown = STEP_SECONDS
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                name = f"[{host}]" if ":" in host else host
                announce(f"http://{name}:{listener.getsockname()[1]}")

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # paths hold the ids of jobs
        server_header=False,
        proxy_headers=bool(options.proxies),
        forwarded_allow_ips=list(options.proxies) or None,
        timeout_graceful_shutdown=REQUEST_SECONDS,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
    )
    # uvicorn raises the signal that ended it once more, when all is closed; that is not to kill us.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)
    Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise Refused(
            f"{host} port {port} cannot be used: {error.strerror}. Choose another --port."
        ) from None
    return listener


def _pairs(lines: Sequence[str], what: str, shortest: int) -> list[tuple[str, str]]:
    pairs = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        name, _, secret = line.strip().partition(":")
        if not name or len(secret) < shortest:
            raise ValueError(
                f"{what} are given as name:secret, the secret at least {shortest} characters long."
            )
        pairs.append((name, secret))
    return pairs


def _times(value: float | None, unit: float) -> Any:
    return None if value is None else type(unit)(value * unit)


def _page() -> Callable[[Service], Callable[[FastAPI], None]]:
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise Refused("GRADIO_VIBE_MODE lets visitors run code on this machine; unset it.")
    from synchuman.serving.page.mount import mount_page

    return mount_page


def _announce(address: str) -> None:
    sys.stdout.write(f"The service is up: {address}\n")
    sys.stdout.flush()
