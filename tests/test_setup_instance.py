"""setup_instance.sh with stand-ins for what it would install and ask: nvidia-smi, apt-get, Python with pip."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = "bash basename cat chmod cksum cp curl cut date dirname env grep head hostname id kill ls mkdir mv nohup rm sed seq setsid sleep tail tee touch tr base64"

# Makes a venv whose Python writes down what it is asked, and serves /ready in place of the service.
PYTHON = """#!/usr/bin/env bash
echo "{name} $*" >> {log}
case "$1 $2" in
  "-c from synchuman.needs "*) cd {root} && exec {real} "$@" ;;
  "-c "*) [ -e {apt_done} ] || exit 1; exit 0 ;;
  "-m venv") mkdir -p "$3/bin"; sed 's/{name}/venv-python/' "$0" > "$3/bin/python"; chmod +x "$3/bin/python" ;;
  "api_server.py "*)
    echo "service HF_TOKEN=$HF_TOKEN AUTH=$SYNCHUMAN_AUTH KEYS=$SYNCHUMAN_API_KEYS" >> {log}
    exec {real} {server} "$@" ;;
esac
"""
SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@dataclass
class Box:
    """A machine that is not there: a checkout, a PATH of stand-ins, a home."""

    folder: Path

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def pid(self) -> int:
        return int((self.folder / "home/.local/state/synchuman/pid").read_text())

    def stand_in(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def gpu(self, name: str, driver: str, memory: int, capability: str) -> None:
        self.stand_in("nvidia-smi", f"#!/bin/sh\necho '{name}, {driver}, {memory}, {capability}'\n")

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.folder / "bin"), "HOME": str(self.folder / "home"), "READY_SECONDS": "20"}
        command = ["bash", str(self.folder / "checkout/setup_instance.sh"), *arguments]
        return subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    for name in ("bin", "home", "checkout"):
        (tmp_path / name).mkdir()
    files = "setup_instance.sh requirements.txt requirements.lock requirements-torch.lock pyproject.toml"
    for name in files.split():
        shutil.copy(ROOT / name, tmp_path / "checkout")
    for tool in TOOLS.split():
        found = shutil.which(tool)
        assert found is not None, f"{tool} is missing"
        (tmp_path / "bin" / tool).symlink_to(found)
    box = Box(tmp_path)
    (tmp_path / "server.py").write_text(SERVER)
    facts = {"log": tmp_path / "log", "apt_done": tmp_path / "apt-done"}
    text = PYTHON.format(
        name="python3", real=sys.executable, server=tmp_path / "server.py", root=ROOT, **facts
    )
    box.stand_in("python3", text)
    box.stand_in("sudo", '#!/bin/sh\nexec "$@"\n')
    apt = f'#!/bin/sh\necho "apt-get $*" >> {facts["log"]}\ncase "$*" in *gcc*) cp "$0" {tmp_path}/bin/gcc;; *install*) : > {facts["apt_done"]};; esac\n'
    box.stand_in("apt-get", apt)
    yield box
    state = tmp_path / "home/.local/state/synchuman/pid"
    if state.exists():
        _end(box.pid)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("gpu", "build", "said"),
    [
        (None, "cpu", "torch: cpu"),
        (("NVIDIA L40", "580.95.05", 46068, "8.9"), "pypi", "torch: pypi"),
        (("NVIDIA A40", "535.183.01", 46068, "8.6"), "cu126", "too old for CUDA 13"),
        (("NVIDIA GeForce RTX 5090", "575.57.08", 32607, "12.0"), "cu128", "too old for CUDA 13"),
        (("Tesla V100-SXM2-16GB", "580.95.05", 16384, "7.0"), "cu126", "is too old for CUDA 13"),
        (("NVIDIA A40", "470.82.01", 46068, "8.6"), "cpu", "update the driver"),
    ],
)
def test_torch_fits_the_driver(
    box: Box, gpu: tuple[str, str, int, str] | None, build: str, said: str
) -> None:
    if gpu is not None:
        box.gpu(*gpu)
    done = box.setup("--no-start", "--variant", "mini")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    index = f"--index-url https://download.pytorch.org/whl/{build} torch>="
    torch_lock = "--require-hashes -r requirements-torch.lock"
    assert (torch_lock in box.log) == (build == "pypi")
    assert (index in box.log) == (build != "pypi")
    assert "--no-deps --require-hashes -r requirements.lock" in box.log


def test_one_command_to_a_running_service_and_again(box: Box) -> None:
    box.gpu("NVIDIA L40", "580.95.05", 46068, "8.9")
    port = _free_port()
    first = box.setup("--port", port, HF_TOKEN="hf_secret", VAST_TCP_PORT_8000="40123")
    assert first.returncode == 0, first.stderr
    assert "apt-get install" in box.log and "Ready: http" in first.stderr
    assert "libc6-dev python3-dev" in box.log  # a card: Triton builds kernels
    assert "weights pull" in box.log and f"--port {port} --variant official" in box.log
    assert "service HF_TOKEN=hf_secret AUTH=me:" in box.log
    settings = box.folder / "home/.local/state/synchuman/service.env"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    login = re.findall(r"^SYNCHUMAN_AUTH=(.+)$", settings.read_text(), re.M)
    assert len(login[0]) > 20 and login[0] in first.stderr and "hf_secret" not in first.stderr

    before, pid = box.log, box.pid
    second = box.setup("--port", port)
    assert second.returncode == 0, second.stderr
    new = box.log.removeprefix(before)
    assert "pip install" not in new and "apt-get" not in new and "-m venv" not in new
    assert f"AUTH={login[0]}" in new and "HF_TOKEN=hf_secret" in new  # kept, not made anew
    assert not _alive(pid) and _alive(box.pid)


@pytest.mark.parametrize(("memory", "weights"), [(16 * 1024, "official"), (12 * 1024, "mini")])
def test_published_weights_go_where_they_fit(box: Box, memory: int, weights: str) -> None:
    box.gpu("NVIDIA card", "580.95.05", memory, "8.9")
    done = box.setup("--no-start")
    assert done.returncode == 0, done.stderr
    assert f"Weights: {weights} (NVIDIA card, {memory} MiB)" in done.stderr
    assert ("weights pull" in box.log) == (weights == "official")


def test_a_changed_lock_is_installed(box: Box) -> None:
    assert box.setup("--no-start").returncode == 0
    before = box.log
    with (box.folder / "checkout/requirements.lock").open("a") as lock:
        lock.write("# newer\n")
    assert box.setup("--no-start").returncode == 0
    assert "pip install" in box.log.removeprefix(before)


def test_password_reaches_the_service_as_it_is(box: Box) -> None:
    done = box.setup("--port", _free_port(), "--auth", "me:a $HOME'`id`\" b")
    assert done.returncode == 0, done.stderr
    assert "AUTH=me:a $HOME'`id`\" b KEYS" in box.log


# Keeps units in the box and runs what they say, at least as far as `ExecStart` goes.
SYSTEMCTL = """#!/usr/bin/env bash
echo "systemctl $*" >> {box}/log
unit={box}/synchuman.service
case "$1" in
  show) [ -e {box}/booted ] ;;
  is-active) [ -e {box}/active ] ;;
  is-failed) exit 1 ;;
  restart)
    : > {box}/active
    line=$(sed -n 's/^ExecStart=//p' "$unit")
    eval "exec setsid nohup ${{line//%%/%}}" </dev/null >/dev/null 2>&1 &
    echo $! > {box}/systemd-pid ;;
esac
"""
TEE = """#!/usr/bin/env bash
echo "tee $*" >> {box}/log
cat > {box}/synchuman.service
"""


@pytest.fixture
def booted(box: Box) -> Iterator[Box]:
    """A box whose systemd runs, with a state folder that units and shells could misread."""
    box.stand_in("systemctl", SYSTEMCTL.format(box=box.folder))
    (box.folder / "bin/tee").unlink()
    box.stand_in("tee", TEE.format(box=box.folder))
    (box.folder / "booted").touch()
    yield box
    pid = box.folder / "systemd-pid"
    if pid.exists():
        _end(int(pid.read_text()))


def test_as_a_systemd_unit(booted: Box) -> None:
    port, state = _free_port(), booted.folder / "home/100% state"
    login = "me:a $HOME'`id`\" \\ b"
    assert booted.setup("--port", port, XDG_STATE_HOME=str(state)).returncode == 0
    background = int((state / "synchuman/pid").read_text())
    done = booted.setup("--systemd", "--port", port, "--auth", login, XDG_STATE_HOME=str(state))
    assert done.returncode == 0, done.stderr
    assert f"AUTH={login} KEYS" in booted.log and not _alive(background)
    unit = (booted.folder / "synchuman.service").read_text()
    assert "/home/100%% state/" in unit and "Restart=on-failure" in unit and login not in unit
    assert "tee /etc/systemd/system/synchuman.service" in booted.log
    verbs = [line.split()[1] for line in booted.log.splitlines() if line.startswith("systemctl")]
    assert [verb for verb in verbs if not verb.startswith("is-")] == [
        "show",
        "daemon-reload",
        "enable",
        "restart",
    ]
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "verify", str(booted.folder / "synchuman.service")]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert "synchuman.service:" not in checked.stderr, checked.stderr
    refused = booted.setup("--port", port, XDG_STATE_HOME=str(state))
    assert refused.returncode == 1 and "give --systemd" in refused.stderr
    assert _alive(int((booted.folder / "systemd-pid").read_text()))


def test_systemd_that_does_not_run_is_said(booted: Box) -> None:
    (booted.folder / "booted").unlink()
    done = booted.setup("--systemd", "--port", _free_port())
    assert done.returncode == 1 and "leave --systemd out" in done.stderr
    assert "systemctl restart" not in booted.log


def test_a_service_that_ends_is_said_with_its_log(box: Box) -> None:
    (box.folder / "server.py").write_text("raise SystemExit('no such device')")
    began = time.monotonic()
    done = box.setup("--port", _free_port())
    assert done.returncode == 1 and time.monotonic() - began < 15
    assert "no such device" in done.stderr and "The service ended" in done.stderr


@pytest.mark.parametrize("wrong", [["--auth", "nopassword"], ["--torch", "rocm"], ["--wat"]])
def test_wrong_options_change_nothing(box: Box, wrong: list[str]) -> None:
    done = box.setup(*wrong)
    assert done.returncode == 1 and wrong[0] in done.stderr
    assert box.log == ""
