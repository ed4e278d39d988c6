"""Networks on the device only while they work, and what happens when its memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synchuman import doctor
from synchuman import residency as module
from synchuman.doctor import Gpu, official_verdict
from synchuman.events import DeviceMemoryError
from synchuman.needs import GIB, OFFICIAL_RESIDENT, OFFICIAL_STAGED
from synchuman.pipeline import SyncHuman
from synchuman.placement import choose_residency, working_bytes
from synchuman.residency import Residency, call_guarded, sample_guarded
from synchuman.serving.failures import explain
from synchuman.stage1.networks import blank_networks
from synchuman.stage1.variants import MINI, PUBLISHED
from synchuman.stage2.networks import blank_stage2
from synchuman.stage2.variants import PUBLISHED as STAGE2
from synchuman.weights.load import count_bytes

CPU = torch.device("cpu")


class Watched(nn.Linear):
    """Tells where it is sent."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.sent: list[str] = []

    def to(self, *arguments: object, **options: object) -> Watched:
        self.sent.append(str(arguments[0]))
        # A copy, as on a device of its own.
        for parameter in self.parameters():
            parameter.data = parameter.data.clone()
        return self


def test_staged_networks_come_and_leave_their_host_copy_alone() -> None:
    first, second = Watched(), Watched()
    staged = Residency(CPU, staged=True)
    staged.register(first, second)
    host = first.weight.data_ptr()
    with staged.using(first, None):
        assert first.sent == ["cpu"] and second.sent == [] and first.weight.data_ptr() != host
        with staged.using(first):
            assert first.sent == ["cpu"], "it is there already"
        assert first.weight.data_ptr() != host, "the outer block still works with it"
    assert first.weight.data_ptr() == host
    with pytest.raises(RuntimeError, match="no luck"), staged.using(second):
        raise RuntimeError("no luck")
    assert second.sent == ["cpu"] and first(torch.ones(1, 3)).shape == (1, 3)


def test_resident_networks_stay() -> None:
    network = Watched()
    resident = Residency(CPU)
    resident.register(network)
    with resident.using(network):
        pass
    assert network.sent == []


class Sampler:
    """Steps to 3; runs out of memory at step 2 while resident, or always."""

    def __init__(self, residency: Residency, always: bool = False) -> None:
        self.residency, self.always, self.starts = residency, always, 0

    def start(self) -> Iterator[int]:
        self.starts += 1
        yield 1
        if self.always or not self.residency.staged:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has more to say"
            )
        yield from (2, 3)


def test_out_of_memory_starts_again_once_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    network, resident = Watched(), Residency(CPU)
    resident.register(network)
    freed: list[str] = []
    monkeypatch.setattr(module, "free_memory", lambda device: freed.append(str(device)))
    sampler = Sampler(resident)
    assert list(sample_guarded(sampler.start, resident)) == [1, 1, 2, 3]
    assert sampler.starts == 2 and resident.staged and network.sent == ["cpu"] and freed
    with resident.using(network):
        assert network.sent == ["cpu", "cpu"], "later steps are staged, too"


@pytest.mark.parametrize("staged", [False, True])
def test_out_of_memory_again_is_an_error_with_numbers(staged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "memory_of", lambda device: (3 * GIB, 8 * GIB))
    residency = Residency(CPU, staged)
    sampler = Sampler(residency, always=True)
    with pytest.raises(DeviceMemoryError) as raised:
        list(sample_guarded(sampler.start, residency))
    assert sampler.starts == (1 if staged else 2)
    text = str(raised.value)
    assert "3.0 of 8.0 GiB" in text and "CUDA out of memory" in text and "--stage2-device" in text
    assert explain(raised.value) == ("out_of_memory", text)


def test_a_surface_that_does_not_fit_is_extracted_again_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "memory_of", lambda device: (3 * GIB, 8 * GIB))
    network, resident = Watched(), Residency(CPU)
    resident.register(network)
    tries: list[bool] = []

    def extract() -> str:
        tries.append(resident.staged)
        if not resident.staged:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return "mesh"

    assert call_guarded(extract, resident) == "mesh"
    assert tries == [False, True] and network.sent == ["cpu"]
    resident.staged = False
    monkeypatch.setattr(resident, "stage", lambda: None)
    with pytest.raises(DeviceMemoryError, match=r"3\.0 of 8\.0 GiB"):
        call_guarded(extract, resident)
    assert len(tries) == 4


def test_the_pipeline_guards_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = Residency(CPU)
    config = SimpleNamespace(follow_normals=False)
    stage2 = SimpleNamespace(residency=resident, device=CPU, config=config)
    pipeline = SyncHuman(SimpleNamespace(), "mini", CPU, torch.float32, stage2)
    decoded = SimpleNamespace(coords=1, feats=2, resolution=3)

    def quiet(*_given: object) -> Iterator[None]:
        return decoded
        yield

    def extract(*given: object) -> str:
        if not resident.staged:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return f"surface of {given[:3]}"

    found: list[object] = []

    def texture(work: Callable[[object], object], *_given: object) -> Iterator[None]:
        found.append(work(None))
        return
        yield

    for name, stand_in in (("preview", quiet), ("refine", quiet), ("texture", texture)):
        monkeypatch.setattr(f"synchuman.steps.{name}", stand_in)
    monkeypatch.setattr("synchuman.surface.fine.fine_surface", extract)
    files = SimpleNamespace(rgba=None, colors=None, normals=None)
    assert list(pipeline._build(files, None, SimpleNamespace(stage2=True), None)) == []
    assert found == ["surface of (1, 2, 3)"] and resident.staged


def test_placement_is_chosen_from_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synchuman.placement.memory_of", lambda device: (8 * GIB, 16 * GIB))
    assert choose_residency("auto", CPU, 9 * GIB).staged
    assert not choose_residency("auto", CPU, 7 * GIB).staged
    assert not choose_residency("resident", CPU, 9 * GIB).staged
    assert choose_residency("staged", CPU, 1).staged
    with pytest.raises(ValueError, match="auto, resident, staged"):
        choose_residency("elsewhere", CPU, 1)
    published = working_bytes(PUBLISHED, STAGE2, torch.float16)
    assert 2 * GIB < published < 6 * GIB and working_bytes(MINI, None, torch.float32) < published / 20


def test_what_is_said_of_the_published_weights_fits_the_estimate_of_their_run() -> None:
    half = torch.float16
    networks = [
        *blank_networks(PUBLISHED, half).modules().values(),
        *blank_stage2(STAGE2, half).modules().values(),
    ]
    weights, working = [count_bytes(network) for network in networks], working_bytes(PUBLISHED, STAGE2, half)
    for said, estimate in ((OFFICIAL_RESIDENT, sum(weights)), (OFFICIAL_STAGED, max(weights))):
        assert 0 <= said - (estimate + working) < 2 * GIB


def gpu(free: float) -> tuple[Gpu, ...]:
    return (Gpu("Card", "8.6", 24 * GIB, int(free * GIB), ("float32", "float16")),)


@pytest.mark.parametrize(
    ("here", "gpus", "memory", "disk", "runs", "words"),
    [
        (True, gpu(20), 8, 1, True, "resident"),
        (True, gpu(9), 8, 1, True, "staged"),
        (True, gpu(3), 8, 1, False, "Card has 3.0 GiB free"),
        (False, gpu(20), 8, 50, True, "weights pull"),
        (False, gpu(20), 8, 2, False, "of the disk"),
        (True, (), 8, 50, False, "no GPU"),
        (True, (), 64, 50, True, "hours"),
    ],
)
def test_doctor_says_what_will_run_and_why_not(
    here: bool, gpus: tuple[Gpu, ...], memory: int, disk: int, runs: bool, words: str
) -> None:
    verdict = official_verdict(here, gpus, {"memory_free": memory * GIB}, disk * GIB)
    assert verdict.runs is runs and words in verdict.why


def test_doctor_says_what_the_kernels_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    card = (Gpu("Card", "8.6", 24 * GIB, 24 * GIB, ("float32", "float16")),)
    monkeypatch.setattr(doctor, "_lacking_for_kernels", lambda: "a C compiler is")
    [hint] = doctor._hints(card)
    assert "slower" in hint and "a C compiler is missing" in hint
    assert doctor._hints(()) == ()
    monkeypatch.undo()
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor._lacking_for_kernels() == "Triton itself is"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert doctor._lacking_for_kernels() == "a C compiler is"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_staged_networks_leave_the_gpu() -> None:
    network = nn.Linear(1024, 1024)
    staged = Residency("cuda", staged=True)
    staged.register(network)
    with torch.inference_mode():
        nn.functional.linear(torch.ones(1, 1024, device="cuda"), torch.ones(1024, 1024, device="cuda"))
    # Only now: the first product keeps a work space.
    before = torch.cuda.memory_allocated()
    with staged.using(network), torch.inference_mode():
        assert network.weight.is_cuda and torch.cuda.memory_allocated() > before
        network(torch.ones(1, 1024, device="cuda"))
    assert not network.weight.is_cuda and torch.cuda.memory_allocated() == before
