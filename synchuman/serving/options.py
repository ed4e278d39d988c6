"""How the service is run: where its data is, what it computes with, who may do how much."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from synchuman.device_turn import own_folder

MIB = 2**20
GIB = 2**30
HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """What one user, and all together, may take. Rates are per client: its name, else its address.

    Attributes:
        max_queue: Jobs that may wait in all.
        max_active_per_user: Jobs of one user that may wait or run.
        max_upload: Bytes of a request's body.
        max_upload_seconds: Time a body may take to arrive.
        requests_per_minute: Of one client; as many at once.
        jobs_per_minute: New jobs of one client; as many at once.
        upload_per_hour: Bytes of all bodies of one client.
        logins_per_minute: Tries to log in, and wrong keys, of one address.
        max_run_seconds: Longest run.
        keep_seconds: Time after which results are deleted.
        max_kept: Bytes of all results; beyond, the oldest go first.
        min_free: Bytes of the disk that stay free; without them no job is taken.
    """

    max_queue: int = 64
    max_active_per_user: int = 8
    max_upload: int = 33 * MIB
    max_upload_seconds: float = 60.0
    requests_per_minute: int = 600
    jobs_per_minute: int = 30
    upload_per_hour: int = GIB
    logins_per_minute: int = 10
    max_run_seconds: float = 1800.0
    keep_seconds: float = 24 * HOUR
    max_kept: int = 20 * GIB
    min_free: int = GIB


@dataclass(frozen=True)
class ServiceOptions:
    """Everything the service is started with.

    Attributes:
        data: Folder for jobs and their files; None for a private one in the system's temporary folder.
        variant: Weights, see `SyncHuman.load`.
        devices: One worker runs on each.
        dtype: See `SyncHuman.load`.
        ray: Address of a Ray cluster that computes instead of this machine ("auto": the one at hand, else
            one on this machine alone); None without Ray.
        ray_actors: Workers in the cluster; None for one per GPU, or per machine where there is no GPU.
        placement: See `SyncHuman.load`.
        stage2_device: See `SyncHuman.load`; for a service of one device.
        limits: Who may do how much.
        keys: Names by API key.
        passwords: Passwords by name, for the login.
        public: Whether other machines can reach the service.
        image_url: Whether photos may be given by address.
        webhooks: Whether jobs may name an address to be told at.
        private_networks: Networks that such addresses may be in although they are not public.
        hosts: Names under which the service may be addressed, beside this machine's own; empty for any.
        cors_origins: Web pages of other origins that may call the service.
        frame_ancestors: Web pages of other origins that may show the page in a frame.
        proxies: Addresses of reverse proxies whose word on the client's address counts.
    """

    data: Path | None = None
    variant: str = "mini"
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    ray: str | None = None
    ray_actors: int | None = None
    placement: str = "auto"
    stage2_device: str | None = None
    limits: Limits = field(default_factory=Limits)
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    public: bool = False
    image_url: bool = False
    webhooks: bool = False
    private_networks: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()

    @property
    def protected(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self.keys or self.passwords)


class DataFolderError(RuntimeError):
    """The folder for data cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Places:
    """Where things are in the folder for data.

    Attributes:
        root: The folder itself.
        jobs: One folder per job, named by its id.
        store: The store's file.
        temporary: Files that no restart needs.
        locks: Files that stand for devices; shared by all services of this user.
    """

    root: Path
    jobs: Path
    store: Path
    temporary: Path
    locks: Path

    @classmethod
    def make(cls, data: Path | None) -> Places:
        """Make the folders, readable by this user alone.

        Raises:
            DataFolderError: A folder belongs to somebody else, or cannot be made.
        """
        home = own_folder()
        root = (data or home).resolve()
        places = cls(root, root / "jobs", root / "jobs.sqlite", root / "tmp", home / "locks")
        try:
            for folder in (home, places.locks, root, places.jobs, places.temporary):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _require_own(home)
        except OSError as error:
            raise DataFolderError(f"{root} cannot be used: {error.strerror}. Give another folder.") from None
        return places

    def secret(self) -> bytes:
        """Return 32 bytes that only this service knows; made once, kept over restarts."""
        path = self.root / "secret"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return bytes.fromhex(path.read_text())
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        return bytes.fromhex(path.read_text())


def _require_own(folder: Path) -> None:
    """Refuse a folder in a place open to everybody that somebody else has made there before us."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise DataFolderError(f"{folder} is not a folder. Remove it.")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise DataFolderError(f"{folder} belongs to another user. Set TMPDIR to a folder of your own.")
