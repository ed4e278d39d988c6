"""A real server process for tests, with networks small enough that a run takes seconds."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from conftest import draw_person, encode

if TYPE_CHECKING:
    from synchuman.stage1.structure_decoder import StructureDecoder

ROOT = Path(__file__).resolve().parents[1]
COARSE = {"stage1_steps": 2, "guidance": 1, "faces": 1000, "texture_size": 256, "stage1_only": True}
QUICK = {**COARSE, "stage1_only": False, "stage2_steps": 1, "stage2_guidance": 1}
FINAL = ("done", "failed", "cancelled", "interrupted")
ROOMY = ("--min-free-gb", "0.01")


@functools.cache
def tiny_weights() -> Path:
    """Random weights of a real variant, as small as the configs allow; its structure is a `pillar`."""
    import torch
    from conftest import random_stage2

    from synchuman.stage1.config import (
        AutoencoderConfig,
        ImageEncoderConfig,
        JointNetworkConfig,
        Stage1Config,
        StructureDecoderConfig,
        StructureFlowConfig,
        SyncConfig,
    )
    from synchuman.stage1.networks import build_networks
    from synchuman.stage1.stage1 import Stage1
    from synchuman.stage2.config import (
        DecoderTrunkConfig,
        MeshDecoderConfig,
        SlatFlowConfig,
        Stage2Config,
        ViewTokensConfig,
    )
    from synchuman.stage2.networks import save_stage2

    config = Stage1Config(
        image_size=96,
        prompt_length=2,
        preview_interval=1,
        joint_network=JointNetworkConfig(
            latent_size=12,
            widths=(16, 16, 16),
            heads=(1, 1, 1),
            attention=(True, True, True),
            layers=1,
            norm_groups=4,
            prompt_width=16,
            class_width=None,
            structure=StructureFlowConfig(
                patch=4, width=16, heads=1, blocks=3, slices=(1, 2), mlp_ratio=1.0, condition_width=16
            ),
            sync=SyncConfig(
                heads=1, head_width=16, to_structure_after=0, to_views_after=1, kernel=1, mlp_ratio=1
            ),
        ),
        structure_decoder=StructureDecoderConfig(channels=(8,), res_blocks=1, res_blocks_middle=1),
        image_autoencoder=AutoencoderConfig(widths=(8, 8, 8, 8), layers=1, norm_groups=4),
        image_encoder=ImageEncoderConfig(width=16, depth=1, heads=1, image_size=28),
        clip=None,
    )
    torch.manual_seed(0)
    networks = build_networks(config)
    pillar(networks.structure_decoder)
    folder = Path(tempfile.mkdtemp(prefix="tiny-weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Stage1(networks, config).save(folder)
    fine = Stage2Config(
        flow=SlatFlowConfig(
            resolution=16, width=32, condition_width=16, heads=1, blocks=1, mlp_ratio=1.0, io_widths=(16,),
            io_blocks=1,
        ),
        views=ViewTokensConfig(view_size=96, image_size=28, encoder_width=16, layers=(0,)),
        mesh_decoder=MeshDecoderConfig(
            trunk=DecoderTrunkConfig(
                resolution=16, width=16, heads=1, blocks=1, mlp_ratio=1.0, view_width=8, view_hidden_ratio=1.0
            ),
            widths=(16,),
            norm_groups=4,
        ),
        gaussian_decoder=None,
    )  # fmt: skip
    save_stage2(random_stage2(fine), fine, folder)
    return folder


def pillar(decoder: StructureDecoder) -> None:
    """Have a structure decoder make a pillar as high as the cube and a third as wide, whatever its latent.

    Half of the channels say inside, the others the opposite. Every convolution takes a voxel away at the four
    sides, where the padding says neither.
    """
    import torch

    convolutions = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.Conv3d)]
    for layer in convolutions:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    half = decoder.config.channels[0] // 2
    signs = torch.tensor([1.0] * half + [-1.0] * half)
    convolutions[0].bias.data.copy_(signs)
    for layer in convolutions[1:]:
        # Norm and SiLU make 0.73 of a channel that says yes, and -0.27 of one that says no.
        out = signs if layer.out_channels > 1 else signs[:1]
        layer.weight.data[:, :half, :, :, 1] = out[:, None, None, None] / half
        layer.bias.data.copy_(-6.3 * out)


@functools.cache
def broken_weights() -> Path:
    """The same, with a Stage 2 that finds no surface."""
    from safetensors.torch import load_file, save_file

    folder = Path(tempfile.mkdtemp(prefix="broken-weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(tiny_weights(), folder, dirs_exist_ok=True)
    [decoder] = folder.glob("mesh_decoder*.safetensors")
    weights = load_file(decoder)
    [bias] = [name for name in weights if name.endswith("out_layer.bias")]
    weights[bias] += 100.0
    save_file(weights, decoder)
    return folder


@functools.cache
def person() -> bytes:
    """A cut-out person as a PNG."""
    return encode(draw_person(320))


class Server:
    """`python api_server.py` on a free port, and how to talk to it."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        locks: Path | None = None,
        weights: Path | None = None,
        command: Sequence[str] = (),
        works: bool = True,
    ) -> None:
        """Start it.

        Args:
            data: Its folder for data.
            *arguments: More of its command line.
            env: More of its environment.
            locks: Where devices are locked; None for in `data`, so that servers do not wait for each other.
            weights: Those of its worker; None for the tiny ones.
            works: Whether its worker gets ready some day; else jobs wait, and no time is spent on it.
            command: Arguments of Python that start it in place of all that, on any free port.
        """
        self.data = data
        data.mkdir(parents=True, exist_ok=True)
        temporary = locks or data / "tmpdir"
        temporary.mkdir(exist_ok=True)
        self.log = data.parent / f"{data.name}.log"
        usual = [str(ROOT / "api_server.py"), "--port", "0", "--data", str(data), "--device", "cpu", *ROOMY]
        weights = weights or (tiny_weights() if works else data)
        usual += ["--variant", str(weights), *arguments]
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", **(env or {})}
        if not works:
            path = [str(ROOT / "tests" / "idle_worker"), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(command or usual)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " is up: " in line, self.log.read_text()  # "The service", "The page"
        self.address = line.split()[-1]
        self.client = httpx.Client(base_url=self.address, timeout=60, trust_env=False)

    def ready(self, seconds: float = 240) -> Server:
        """Wait until the worker has its networks."""
        self.until(lambda: self.client.get("/ready").status_code == 200, seconds)
        return self

    def until(self, condition: Callable[[], Any], seconds: float = 40) -> Any:
        """Wait for a condition and return what it gave."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"not within {seconds} s\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return value

    def submit(
        self, expect: int = 202, headers: dict[str, str] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Start a quick job and return what is said of it."""
        photo = fields.pop("image", person())
        data = {name: str(value) for name, value in {**COARSE, "wait": "false", **fields}.items()}
        files = {} if photo is None else {"image": ("photo.png", photo)}
        answer = self.client.post("/generate", data=data, files=files, headers=headers)
        assert answer.status_code == expect, answer.text
        return answer.json()

    def job(self, job_id: str) -> dict[str, Any]:
        """Ask for a job."""
        return self.client.get(f"/jobs/{job_id}").raise_for_status().json()

    def end(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the end of a job."""
        return self.until(lambda: (job := self.job(job_id))["state"] in FINAL and job, seconds)

    def events(
        self, job_id: str, headers: dict[str, str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Follow a job."""
        with self.client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), answer.read()
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event:"):
                    name = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    yield name, json.loads(line.removeprefix("data:"))

    def until_event(self, job_id: str, wanted: str, stage: str | None = None) -> None:
        """Follow a job until something happens."""
        for name, data in self.events(job_id):
            if name == wanted and (stage is None or data["stage"] == stage):
                return
            assert name not in FINAL or name == wanted, f"{name} came before {wanted} {stage or ''}"

    def worker_pid(self) -> int:
        """The process that computes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        pids = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        assert len(pids) == 1, (pids, children)
        return pids[0]

    def kill(self) -> None:
        """End it without a warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def close(self) -> None:
        """End it if it still runs."""
        self.client.close()
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def serving(data: Path, *arguments: str, **more: Any) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(data, *arguments, **more)
    try:
        yield server
    finally:
        server.close()


@functools.cache
def shared_server() -> Server:
    """A server for all tests that leave it as it was: the networks take long to load."""
    place = Path(tempfile.mkdtemp(prefix="shared-server-"))
    server = Server(place / "data", "--max-queue", "6", "--page")
    # Run in reverse order: first it ends, then its files go.
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    atexit.register(server.close)
    return server.ready()
