"""Downloads from a hub of our own: resumed, checked, recorded, refused with words that help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serving_hub
from official_checkpoint import write_small

from synchuman.cli import main
from synchuman.events import Cancelled
from synchuman.loading import load_variant
from synchuman.weights import hub
from synchuman.weights.checkpoint import WeightsError
from synchuman.weights.home import read_lock
from synchuman.weights.variants import find_variant, official_folder
from synchuman.weights.verify import verify

LARGEST = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = write_small(tmp_path_factory.mktemp("hub"))
    encoder = root / "dinov2"
    shutil.move(root / "ckpts" / "dinov2-with-registers-large", encoder)
    synchuman = root / "synchuman"
    synchuman.mkdir()
    shutil.move(root / "ckpts", synchuman / "ckpts")
    (synchuman / "README.md").write_text("not wanted")
    return {hub.SYNCHUMAN.name: synchuman, hub.DINOV2.name: encoder}


@pytest.fixture
def server(repositories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNCHUMAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving_hub(repositories) as (served, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield served


def test_the_official_variant_comes_by_itself_and_stays(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    assert find_variant("official") is None
    loaded = load_variant("official", device="cpu", report=events.append)
    assert loaded.stage2 is not None and loaded.folder == official_folder()
    download = [event for event in events if event.stage == "download"]
    assert download[-1].step == download[-1].total > 20
    assert [event.step for event in download] == sorted(event.step for event in download)
    assert events[-1].stage == "weights" and server.tokens == {"Bearer hf_secret"}
    lock = read_lock()[hub.SYNCHUMAN.name]
    assert lock["revision"] == server.revision and "README.md" not in lock["files"]
    assert all(len(file["sha256"]) == 64 for file in lock["files"].values())
    assert not any(file.problem for file in verify("official"))

    sent = server.sent
    hub.pull()
    assert server.sent == sent, "what is there is not fetched again"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.pull()[0] == loaded.folder and find_variant("official") == loaded.folder


def test_a_stopped_download_goes_on_where_it_was(server: Hub, repositories: dict[str, Path]) -> None:
    total = sum(
        p.stat().st_size for p in (repositories[hub.SYNCHUMAN.name] / "ckpts").rglob("*") if p.is_file()
    )

    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        hub.pull((hub.SYNCHUMAN,), stop)
    assert hub.pulled(hub.SYNCHUMAN) is None, "half a download is none"
    assert server.sent > 0
    hub.pull((hub.SYNCHUMAN,))
    # A file that was broken off in the middle goes on from what had come, give or take a buffer.
    assert server.sent < total + 2 * 11 * 2**20


def test_a_file_changed_since_its_first_download_is_refused(server: Hub) -> None:
    hub.pull((hub.DINOV2,))
    folder = hub.pulled(hub.DINOV2)
    assert folder is not None
    blob = (folder / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(WeightsError, match=r"recorded at the first download.*--update"):
        hub.pull((hub.DINOV2,))


def test_a_file_that_is_not_what_the_hub_promises_is_refused(server: Hub) -> None:
    server.lie["model.safetensors"] = "0" * 64
    with pytest.raises(WeightsError, match="the hub promises"):
        hub.pull((hub.DINOV2,))
    assert read_lock() == {}


def test_a_small_disk_is_told_before_anything_comes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(hub.DiskSpaceError, match=r"GB free.*HF_HOME"):
        hub.pull()
    assert server.sent == 0


class Usage:
    free = 5_000_000


def test_no_network_and_no_repository_say_what_to_do(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(hub.HubError, match="HF_TOKEN"):
        hub.pull((hub.Repository("nobody/nothing", ("*",)),))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE forbids"):
        hub.pull()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hub.HubError, match=r"127\.0\.0\.1:9.*mirror"):
        hub.pull()


def test_the_commands_speak_json_and_have_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNCHUMAN_HOME", str(tmp_path))

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, where = call("weights", "where")
    assert code == 0 and where["official"] is None and where["mini"].endswith("mini")
    code, mini = call("weights", "verify", "--variant", "mini")
    assert code == 0 and mini["ok"] and len(mini["files"][0]["sha256"]) == 64
    code, lacking = call("weights", "verify")
    assert code == 3 and "weights pull" in lacking["error"]
    assert call("weights", "verify", "--variant", "nowhere")[0] == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["weights", "pull"]) == 1
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    code, report = call("doctor")
    assert code == 0 and report["healthy"] and report["variants"]["official"] is None
    assert {verdict["what"]: verdict["runs"] for verdict in report["verdicts"]}["mini"] is True
