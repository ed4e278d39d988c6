"""A newcomer's walk through README.md: every command in it, in its order, is run as it stands there.

Weights are tiny and settings quick, by arguments appended; a command that this file does not know fails.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw_person
from PIL import Image
from service_server import Server, serving, shared_server, tiny_weights

from synchuman import cli
from synchuman.surface.formats import turntable

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
QUICK = "--preset Fast --stage1-steps 1 --guidance 1 --stage2-steps 1 --stage2-guidance 1 --faces 1000"
QUICK += " --texture-size 256 --device cpu"


def commands() -> list[str]:
    """The lines of all blocks for a shell, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
    lines = [line.partition("  #")[0].strip() for line in "".join(blocks).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the commands name, and the current one meanwhile."""
    work = tmp_path_factory.mktemp("newcomer")
    photo = Image.fromarray(draw_person(320))
    white = Image.new("RGB", photo.size, "white")
    white.paste(photo, mask=photo.getchannel("A"))
    (work / "photos").mkdir()
    for name in ("photo.jpg", "photos/first.jpg"):
        white.save(work / name, quality=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        yield work


def install(command: str, work: Path) -> None:
    """What the tests themselves are installed with, but for the extra."""
    script = (ROOT / "tests/run.sh").read_text()
    make, _, put = command.partition(" && ")
    assert make in script and put.removesuffix(" .") in script.replace(
        "python -m pip install -q", "pip install"
    )


def run_tests(command: str, work: Path) -> None:
    """Runs this very test."""
    assert command in (ROOT / ".ci/run").read_text() and (ROOT / command.split()[1]).is_file()


def open_page(command: str, work: Path) -> None:
    python, script = command.split()
    assert python == ".venv/bin/python"
    more = [
        "--port",
        "0",
        "--outputs",
        str(work / "page"),
        "--variant",
        str(tiny_weights()),
        "--device",
        "cpu",
    ]
    with serving(work / "page", command=[str(ROOT / script), *more]) as server:
        assert "SyncHuman Studio" in server.client.get("/").text
        assert server.stop() == 0


def use_command_line(command: str, work: Path) -> None:
    assert cli.main(shlex.split(command)[3:]) == 0


def sample(command: str, work: Path) -> None:
    use_command_line(f"{command} --variant {tiny_weights()} {QUICK}", work)


def texture(command: str, work: Path) -> None:
    model = work / "out/SecondStage/output.glb"
    before = model.stat().st_mtime_ns
    use_command_line(f"{command} --faces 1200 --texture-size 256", work)
    assert model.stat().st_mtime_ns > before


def export(command: str, work: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turntable.to_mp4, "__defaults__", (8, 128))  # a film of few small pictures
        use_command_line(command, work)
    made = {path.suffix for path in (work / "out").rglob("*")}
    assert {".usdz", ".3mf", ".mp4"} <= made


def batch(command: str, work: Path) -> None:
    sample(command, work)
    assert (work / "models/first/SecondStage/output.glb").read_bytes()[:4] == b"glTF"


def show_help(command: str, work: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        use_command_line(command, work)
    assert ended.value.code == 0


def serve(command: str, work: Path) -> None:
    assert isinstance(shared_server(), Server) and command == "python api_server.py"


def ask(command: str, work: Path) -> None:
    assert shutil.which("curl"), "the example uses curl: apt-get install curl"
    small = " -F stage1_steps=2 -F guidance=1 -F stage2_steps=1 -F faces=1000 -F texture_size=256 -sf"
    here = command.replace("http://127.0.0.1:8000", shared_server().address) + small
    assert here.count(shared_server().address) == 1
    subprocess.run(shlex.split(here), check=True, cwd=work)
    assert "SecondStage/output.glb" in zipfile.ZipFile(work / "person.zip").namelist()


def set_up(command: str, work: Path) -> None:
    """As in test_setup_instance.py, which runs it whole with stand-ins for the system."""
    done = subprocess.run([*command.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--systemd" in done.stdout


WAYS = {
    "python3 -m venv": install,
    "bash tests/run.sh": run_tests,
    ".venv/bin/python app.py": open_page,
    "python -m synchuman run --image": sample,
    "python -m synchuman run --workdir": texture,
    "python -m synchuman export": export,
    "python -m synchuman batch": batch,
    "python -m synchuman doctor": use_command_line,
    "python -m synchuman --help": show_help,
    "python api_server.py": serve,
    "curl": ask,
    "bash setup_instance.sh": set_up,
}


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command.split()[:5]))
def test_command(command: str, work: Path) -> None:
    ways = [way for start, way in WAYS.items() if command.startswith(start)]
    assert ways, f"README.md has a command that nothing here runs: {command}"
    ways[0](command, work)


def test_the_example_for_python_works(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/how-it-works.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    small = block.replace('load("mini")', f'load({str(tiny_weights())!r}, "cpu")')
    small = small.replace("seed=7", "seed=7, stage1_steps=1, stage2_steps=1, faces=1000, texture_size=256")
    assert small.count("tiny-weights") == 1 and "stage1_steps" in small
    exec(small, {})
    assert "Done(" in capsys.readouterr().out and (work / "out/SecondStage/output.glb").is_file()


def test_modes_are_those_of_the_code() -> None:
    from synchuman.needs import GIB, OFFICIAL_RESIDENT, OFFICIAL_STAGED
    from synchuman.placement import PLACEMENTS

    cards = (ROOT / "docs/gpus.md").read_text()
    for placement, needed in (("resident", OFFICIAL_RESIDENT), ("staged", OFFICIAL_STAGED)):
        assert placement in PLACEMENTS
        for text in (README, cards):
            row = next(
                line for line in text.splitlines() if line.startswith("|") and f"`{placement}`" in line
            )
            assert f"{needed / GIB:g} GiB" in row, "docs name another figure than synchuman/needs.py"


def test_the_page_is_ready_where_the_readme_says() -> None:
    shown = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    from synchuman.serving.launch import FIRST_PORT

    assert f"http://127.0.0.1:{FIRST_PORT}" in README and str(FIRST_PORT) in shown.stdout
