"""Times of the published sizes: a Stage 1 step in several ways, both stages, decoders, surface, all."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from published import PersonStage1, PersonStage2, Size, draw, photo, photo_bytes, surface_person, voxels
from timing import free, milliseconds, peak_memory, seconds, synchronize
from torch import Tensor

from synchuman.nn import fused
from synchuman.nn.cuda_graph import GraphedFunction
from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.photo.framing import frame_sharp, on_white
from synchuman.pipeline import SyncHuman
from synchuman.settings import Settings
from synchuman.stage1 import sampler as sampler1
from synchuman.stage1.stage1 import Stage1
from synchuman.stage2 import sampler as sampler2
from synchuman.stage2.conditioning import view_tokens
from synchuman.stage2.stage2 import Stage2
from synchuman.stage2.view_tokens import ViewTokens

Row = dict[str, float]
# Batch, heads, tokens of queries, of keys; heads are 64 wide.
ATTENTIONS = {
    "colour with normal, 96 rows": (10, 5, 18_432, 18_432),
    "colour with normal, 48 rows": (10, 10, 4_608, 4_608),
    "colour with normal, 24 rows": (10, 20, 1_152, 1_152),
    "row-wise, 96 rows": (384, 5, 384, 384),
    "row-wise, 48 rows": (192, 10, 192, 192),
    "prompt, 96 rows": (20, 5, 9_216, 77),
    "prompt, 48 rows": (20, 10, 2_304, 77),
    "structure": (2, 16, 4_096, 4_096),
    "structure, photo": (2, 16, 4_096, 1_374),
    "slat": (1, 16, 2_113, 2_113),
    "slat, photo": (1, 16, 2_113, 1_374),
}


class AsItIs:
    """Stands for `GraphedFunction` and records nothing."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], pool: Any = None) -> None:
        self.function = function

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function."""
        return self.function(*inputs)

    def release(self) -> None:
        """Nothing is kept."""


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN try its convolutions on the first call of each shape."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@torch.inference_mode()
def attention(device: torch.device, dtype: torch.dtype, repeats: int) -> Iterator[tuple[str, Row]]:
    """Milliseconds of each backend per shape, and of the one that torch takes by itself."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as product

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    shapes = ATTENTIONS if device.type == "cuda" else {"small": (1, 2, 64, 64)}
    for name, (batch, heads, queries, keys) in shapes.items():
        q = draw(batch, queries, heads, 64, device=device, dtype=dtype).transpose(1, 2)
        k, v = (
            draw(batch, keys, heads, 64, device=device, dtype=dtype, seed=s).transpose(1, 2) for s in (1, 2)
        )
        row = {"default": milliseconds(lambda q=q, k=k, v=v: product(q, k, v), device, repeats)}
        for backend, kind in backends.items() if device.type == "cuda" else ():
            with sdpa_kernel(kind), suppress(RuntimeError):  # a backend that does not serve this shape
                row[backend] = milliseconds(lambda q=q, k=k, v=v: product(q, k, v), device, repeats)
        yield name, row


class StepBench:
    """One guided Stage 1 step on fixed inputs."""

    def __init__(self, stage1: Stage1, size: Size) -> None:
        self.stage1, self.size, self.device = stage1, size, stage1.device
        rgba = photo()
        canvas, face = (on_white(image) for image in frame_sharp(rgba, stage1.config.image_size))
        self.inputs = sampler1.guided(stage1.inputs(canvas, face, rgba))
        joint = stage1.config.joint_network
        latent, flow = joint.latent_size, joint.structure
        self.sample = draw(20, joint.in_channels, latent, latent, device=self.device)
        self.structure = draw(2, flow.channels, *(flow.resolution,) * 3, device=self.device, seed=1)
        self.time = torch.tensor(700.0, device=self.device)

    def time_of(self, velocity: Callable[..., Any]) -> float:
        """Milliseconds of a step."""
        arguments = self.sample, self.time, self.structure
        return milliseconds(lambda: velocity(*arguments), self.device, self.size.repeats)

    def unarranged(self) -> Callable[..., Any]:
        """The network with its weights as they were loaded."""
        joint, dtype = self.stage1.networks.joint_network, self.stage1.dtype
        with torch.inference_mode(False), torch.no_grad():
            for weight in joint.parameters():
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        conditions = joint.prepare(self.inputs.prompts, self.inputs.labels, self.inputs.tokens)
        return lambda x, t, s: joint.step(x.to(dtype), t, s.to(dtype), conditions)


@torch.inference_mode()
def stage1_step(stage1: Stage1, size: Size) -> Iterator[tuple[str, Row]]:
    """Milliseconds of a step: as torch does it, then with one change after the other."""
    bench = StepBench(stage1, size)
    with fused.plain_torch():
        yield "weights as loaded, plain torch", {"ms": bench.time_of(bench.unarranged())}
    yield "weights as loaded, kernels", {"ms": bench.time_of(bench.unarranged())}
    velocity = stage1.bind(bench.inputs)
    with fused.plain_torch():
        yield "weights arranged, plain torch", {"ms": bench.time_of(velocity)}
    yield "weights arranged, kernels", {"ms": bench.time_of(velocity)}
    free(bench.device)
    graph = GraphedFunction(velocity)
    yield "the same as a CUDA graph (what runs)", {"ms": bench.time_of(graph)}
    graph.release()
    free(bench.device)
    with tuned_convolutions():
        graph = GraphedFunction(velocity)
        yield "the graph with cuDNN's own choice of convolutions", {"ms": bench.time_of(graph)}
        graph.release()
    if bench.device.type == "cuda":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            free(bench.device)
            with sdpa_kernel([backend, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
                graph = GraphedFunction(velocity)
                yield f"the graph with {backend.name.lower()}", {"ms": bench.time_of(graph)}
                graph.release()


@torch.inference_mode()
def equality(stage1: Stage1, stage2: Stage2, size: Size) -> Iterator[tuple[str, Row]]:
    """Relative L2 differences on inputs that change: layout, kernels, then graphs, which must be equal."""
    bench = StepBench(stage1, size)
    turns = [
        (bench.sample * (1 - 0.2 * turn), bench.time - 250 * turn, bench.structure.roll(turn, 2))
        for turn in range(3)
    ]
    with fused.plain_torch():
        plain = bench.unarranged()
        expected = [join(plain(*turn)) for turn in turns]
    velocity = stage1.bind(bench.inputs)
    graph = GraphedFunction(velocity)
    for index, turn in enumerate(turns):
        with fused.plain_torch():
            layout = join(velocity(*turn))
        eager, replayed = join(velocity(*turn)), join(graph(*turn)).clone()
        yield (
            f"Stage 1 step {index}",
            {
                "layout": difference(expected[index], layout),
                "kernels": difference(expected[index], eager),
                "graph": difference(eager, replayed),
            },
        )
    graph.release()
    flow, occupied = stage2.networks.slat_flow, voxels(7_723, stage2.device)
    tokens = draw(1, 1374, flow.config.condition_width, device=stage2.device)
    run = sampler2._bind(flow, occupied, tokens)
    graph = GraphedFunction(run)
    for turn in range(3):
        state = draw(len(occupied), flow.config.channels, device=stage2.device, seed=turn)
        when = torch.tensor([900.0 - 300 * turn], device=stage2.device)
        with fused.plain_torch():
            plainly = run(state, when)[0]
        eager, replayed = run(state, when)[0], graph(state, when)[0].clone()
        yield f"Stage 2 flow {turn}", {
            "kernels": difference(plainly, eager), "graph": difference(eager, replayed)
        }  # fmt: skip


def join(tensors: tuple[Tensor, ...]) -> Tensor:
    """Lay tensors out as one list of numbers."""
    return torch.cat([x.float().flatten() for x in tensors])


def difference(expected: Tensor, found: Tensor) -> float:
    """Relative L2 difference."""
    return float((found - expected).double().norm() / expected.double().norm())


@torch.inference_mode()
def stage1_parts(stage1: Stage1, size: Size) -> Iterator[tuple[str, Row]]:
    """Seconds of what surrounds the steps, and of all of it with the steps."""
    device, rgba = stage1.device, photo()
    canvas, face = (on_white(image) for image in frame_sharp(rgba, stage1.config.image_size))
    yield "framing", {"s": seconds(lambda: frame_sharp(rgba, stage1.config.image_size), device)}
    for name in ("encoders, first time", "encoders"):
        yield name, {"s": seconds(lambda: stage1.inputs(canvas, face, rgba), device)}
    noise = stage1._noise(43)
    for name in ("decoding ten views, first time", "decoding ten views"):
        with peak_memory(device) as memory:
            took = seconds(lambda: stage1._views(noise.views, canvas), device)
        yield name, {"s": took, **memory}

    def run(previews: int) -> None:
        for _ in stage1.sample(rgba, size.stage1_steps, size.guidance, 43, previews):
            pass

    # What the first run takes more: building kernels and plans in step 1, recording in step 2.
    began, events = time.perf_counter(), stage1.sample(rgba, 3, size.guidance, 43)
    for name in ("encoders and step 1", "step 2, recorded", "step 3", "decoding"):
        next(events)
        synchronize(device)
        yield f"first run: {name}", {"s": time.perf_counter() - began}
        began = time.perf_counter()
    events.close()

    every = stage1.config.preview_interval
    for name, previews in ((f"{size.stage1_steps} steps", 0),
                           (f"{size.stage1_steps} steps, previews every {every}", every)):  # fmt: skip
        with peak_memory(device) as memory:
            took = seconds(lambda previews=previews: run(previews), device)
        yield name, {"s": took, **memory}


@torch.inference_mode()
def stage2_parts(stage2: Stage2, size: Size) -> Iterator[tuple[str, Row]]:
    """Seconds of the flow with and without a graph, of the decoders, and of the view tokens."""
    device, config = stage2.device, stage2.config
    occupied = voxels(7_723, device)
    person = surface_person.make(size.stage1.image_size)
    tokens = (size.stage1.image_encoder.image_size // 14) ** 2 + 5
    condition = draw(1, tokens, config.flow.condition_width, device=device)
    sampler = dataclasses.replace(config.sampler, steps=size.stage2_steps, guidance=size.stage2_guidance)

    def run(fresh: Voxels) -> None:
        for _ in sampler2.sample_slat(stage2.networks.slat_flow, fresh, condition, sampler, 43):
            pass

    ways = {"without a graph": mock.patch.object(sampler2, "GraphedFunction", AsItIs), "": nullcontext()}
    for way, context in ways.items():
        with context:
            for turn in (", first time", ""):
                fresh = Voxels.of(occupied.coords, batch=1)
                with peak_memory(device) as memory:
                    took = seconds(lambda fresh=fresh: run(fresh), device)
                yield f"flow, {size.stage2_steps} steps, {way or 'as it runs'}{turn}", {"s": took, **memory}
    for turn in (", first time", ""):
        took = seconds(
            lambda: view_tokens(person.colors, person.normals, config.views, stage2.image_encoder), device
        )
        yield f"view tokens{turn}", {"s": took}
    views = view_tokens(person.colors, person.normals, config.views, stage2.image_encoder)
    slat = draw(len(occupied), config.flow.channels, device=device)
    for name, decoder in (("mesh decoder", stage2.networks.mesh_decoder),
                          ("gaussian decoder", stage2.networks.gaussian_decoder)):  # fmt: skip
        if decoder is not None:
            yield from _decode(name, decoder, slat, occupied, views)


def _decode(
    name: str, decoder: Any, slat: Tensor, occupied: Voxels, views: ViewTokens
) -> Iterator[tuple[str, Row]]:
    for turn in (", first time", ""):
        fresh = Voxels.of(occupied.coords, batch=1)
        with peak_memory(slat.device) as memory:
            took = seconds(lambda fresh=fresh: decoder(SparseTensor(slat, fresh), views), slat.device)
        yield f"{name}{turn}", {"s": took, **memory}


def surface(device: torch.device, settings: Settings, grid: int) -> Iterator[tuple[str, Row]]:
    """Seconds of FlexiCubes, of the closed surface, and of decimation, atlas and texture together."""
    from synchuman.surface.build import image_sources, texture_mesh
    from synchuman.surface.fine import fine_surface
    from synchuman.surface.flexicubes import extract_field
    from synchuman.surface.voxel_field import average_field

    def go_on(*_progress: object) -> None:
        """Never stops."""

    person = surface_person.make(768)
    coords, feats = (x.to(device) for x in surface_person.decoded(grid))
    with torch.inference_mode():
        for turn in (", first time", ""):
            took = seconds(lambda: extract_field(average_field(coords, feats, grid)), device)
            yield f"FlexiCubes, {len(coords):,} voxels{turn}", {"s": took}
    found = {}

    def extract() -> None:
        found["mesh"] = fine_surface(coords, feats, grid, go_on)

    yield "closed surface, FlexiCubes included", {"s": seconds(extract, device)}
    sources = image_sources(person.colors, person.normals, person.photo)
    for turn in (", first time", ""):
        took = seconds(
            lambda: texture_mesh(
                found["mesh"], sources, settings.faces, settings.texture_size, go_on, device
            ),
            device,
        )
        yield f"decimation, atlas, texture{turn}", {"s": took}


def settings_of(size: Size) -> Settings:
    """The published steps and guidance."""
    return Settings(
        stage1_steps=size.stage1_steps,
        guidance=size.guidance,
        stage2_steps=size.stage2_steps,
        stage2_guidance=size.stage2_guidance,
    )


def whole_run(
    stage1: PersonStage1, stage2: PersonStage2, settings: Settings, way: str
) -> Iterator[tuple[str, Row]]:
    """Seconds and peak memory from the photo to the GLB, and where they went."""
    pipeline = SyncHuman(stage1, "published", stage1.device, stage1.dtype, stage2)
    with tempfile.TemporaryDirectory() as folder:

        def run() -> None:
            for _ in pipeline.run(photo_bytes(), settings, Path(folder)):
                pass

        with peak_memory(stage1.device) as memory:
            took = seconds(run, stage1.device)
        record = json.loads((Path(folder) / "run.json").read_text())
    yield f"photo to GLB, {way}", {"s": took, **memory}
    for name, part in record["seconds"].items():
        yield f"  {name}, {way}", {"s": float(part)}
